"""The full star selection: from a frame to its PSF stars."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Unpack

from astropy.table import Table

from mlpsf.detection.bad_pixels import fill_lone_pixels
from mlpsf.detection.sources import find_sources
from mlpsf.errors import NoSourcesError
from mlpsf.frames.catalogue import read_catalogue
from mlpsf.frames.frame import Frame
from mlpsf.frames.reading import FrameSource, read_frame
from mlpsf.selection.choice import ChoiceOptions, choose_by, warn_of_few_reserved
from mlpsf.selection.eligibility import (
    SNR_MIN,
    check_snr_min,
    flag_ineligible,
    flag_other_sizes,
)
from mlpsf.selection.judging import judge_sources
from mlpsf.selection.named import count_of, frame_selector, provenance, rules_for
from mlpsf.selection.second_look import strike_outliers
from mlpsf.selection.verdict import flag_verdict, judge_frame

__all__ = ["select_stars"]

Progress = Callable[[str], None]


def select_stars(
    frame: FrameSource,
    *,
    selector: Any = "cnn",
    catalogue: Table | str | os.PathLike[str] | None = None,
    veto: list[int] | None = None,
    snr_min: float = SNR_MIN,
    second_look: bool = True,
    cutout_size: int | None = None,
    progress: Progress | None = None,
    **choice: Unpack[ChoiceOptions],
) -> Table:
    """Choose the PSF stars of a frame.

    Parameters
    ----------
    frame : Frame or anything that `read_frame` takes
    selector : {"cnn", "residual"} or an estimator
        ``"cnn"`` is the network shipped with mlpsf. ``"residual"`` is the classical rule; its
        brightness range is set by the frame's noise and half of its saturation level. A fitted
        estimator with ``predict_proba`` is used as it is. An unfitted one that needs no labels is
        fitted to the frame's cutouts.
    catalogue : Table or path, optional
        Sources to judge instead of detected ones; see `mlpsf.frames.catalogue.read_catalogue`.
    veto : list of int, optional
        Values of ``id`` that must not be chosen.
    snr_min : float
        Minimum signal-to-noise ratio of a chosen star.
    second_look : bool
        Whether to compare the best stars, twice as many as needed, with their common PSF. Stars
        that it does not explain are removed, and the next in rank replace them. At least `n_min`
        stars are left: further outliers, and outliers taken by `relax`, are kept with the flag
        ``OUTLIER_KEPT``. The metadata give the numbers: ``n_looked_at`` (0 if there are too few
        to compare), ``n_outliers``, ``n_outliers_kept``. See `mlpsf.selection.second_look`.
    cutout_size : int, optional
        Side of the residual selector's cutouts in pixels. By default 111, as published, or
        12 FWHM if that is less.
    progress : callable, optional
        Called with the name of each step before it starts.
    threshold : float, optional
        Minimum probability of a chosen star, 0.9 by default. For the residual selector the default
        is 0: it ranks a frame's sources, and its probabilities do not reach 0.9.
    rank_by : {"probability", "snr"}, optional
        As in `mlpsf.choose`. By default the brightest of the stars that reach the threshold are
        taken, because TRIPPy weights all stars equally and faint ones add noise. For the residual
        selector the default is the most probable.
    n_max, n_min, reserve, relax
        As in `mlpsf.choose`.

    Returns
    -------
    Table
        All sources, with the columns ``id x y [ra dec] flux snr peak fwhm ellipticity
        local_fwhm probability selected reserved flags reason``. The metadata hold the frame,
        selector, parameters and versions, and a ``verdict`` on the frame with its
        ``verdict_reason`` (`mlpsf.selection.verdict`).

    Raises
    ------
    TooFewStarsError
        If there are fewer than `n_min` good stars. Its ``table`` is the full table.
    NoSourcesError, FrameError, CatalogueError, InputError

    Warns
    -----
    UserWarning
        If too few stars are reserved to judge a PSF (`mlpsf.selection.choice.FEWEST_RESERVED`).

    Examples
    --------
    >>> from mlpsf import simulate_frame
    >>> sim = simulate_frame(shape=(400, 400), n_stars=60, n_galaxies=20, fwhm=4.0, seed=2)
    >>> stars = select_stars(sim.frame, selector="residual", threshold=0.3, n_min=1)
    >>> "probability" in stars.colnames and stars.meta["n_selected"] >= 1
    True
    """
    say = progress or _silent
    check_snr_min(snr_min)
    rules = rules_for(selector, **choice)
    if not isinstance(frame, Frame):
        say("reading")
        frame = read_frame(frame)
    listed = None if catalogue is None else read_catalogue(catalogue, frame)
    say("finding sources")
    frame = fill_lone_pixels(frame)
    estimator, name = frame_selector(selector, frame)
    sources = find_sources(frame, listed)
    flag_ineligible(frame, sources, snr_min=snr_min, veto=veto)
    say("judging sources")
    alike = sources if listed is None else _own_sources(frame, sources)
    sources, probability = judge_sources(
        frame,
        sources,
        estimator,
        cutout_size=cutout_size,
        alike=alike,
        unit=count_of(selector, frame),
    )
    flag_other_sizes(sources)
    sources.meta.update(provenance(estimator, name))
    sources.meta.update(snr_min=float(snr_min), second_look=bool(second_look))
    if second_look:
        say("looking again")
        strike_outliers(frame, sources, probability, rules)
    flag_verdict(sources, judge_frame(frame, alike))
    stars = choose_by(rules, sources, probability)
    warn_of_few_reserved(stars)
    return stars


def _own_sources(frame: Frame, listed: Table) -> Table:
    """Detect the sources of a frame; the listed ones may be few or not stars."""
    with suppress(NoSourcesError):
        return find_sources(frame)
    return listed


def _silent(step: str) -> None:
    """Report no progress."""
