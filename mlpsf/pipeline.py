"""The steps in a row: from a frame to its stars, nothing else."""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from typing import Any

import astropy
import numpy as np
import sep
from astropy.table import Table
from numpy.typing import NDArray

import mlpsf
from mlpsf.catalogue import read_catalogue
from mlpsf.cutouts import (
    PSF_MARGIN,
    psf_size,
    reaches_over,
)
from mlpsf.detection import Background, find_sources, measure_background
from mlpsf.errors import InputError, NoSourcesError, PSFError
from mlpsf.flags import Flag
from mlpsf.frame import Frame, FrameSource, read_frame
from mlpsf.judging import judge_sources
from mlpsf.second_look import second_look as look_again
from mlpsf.selection import (
    FEWEST_RESERVED,
    N_MAX,
    N_MIN,
    THRESHOLD,
    candidates,
    check_selection,
    choose,
)
from mlpsf.selectors.judge import Judge
from mlpsf.selectors.storage import load_judge, pretrained_path

__all__ = ["SNR_MIN", "frame_selector", "select_stars"]

SNR_MIN = 50.0
"""Least S/N of a PSF star. The ML-PSF study took 200, on deep frames full of stars."""

Progress = Callable[[str], None]


def select_stars(
    frame: FrameSource,
    *,
    selector: Any = "cnn",
    catalogue: Table | str | os.PathLike[str] | None = None,
    threshold: float | None = None,
    n_max: int = N_MAX,
    n_min: int = N_MIN,
    reserve: float = 0.0,
    relax: bool = False,
    rank_by: str | None = None,
    snr_min: float = SNR_MIN,
    second_look: bool = True,
    cutout_size: int | None = None,
    veto: list[int] | None = None,
    progress: Progress | None = None,
) -> Table:
    """Choose the PSF stars of a frame.

    Parameters
    ----------
    frame : Frame or anything that `read_frame` takes
    selector : {"cnn", "residual"} or an estimator
        ``"cnn"`` is the network that ships; ``"residual"`` the classical rule, its brightness
        range set by the frame's noise and half of its saturation level. An estimator with
        ``predict_proba`` is used as it is when fitted, and fitted to the frame's own cutouts when
        it needs no labels and is not.
    catalogue : Table or path, optional
        Sources to judge, taken instead of detection; see `mlpsf.catalogue.read_catalogue`.
    threshold : float, optional
        Least probability of a chosen star. Unless given, 0.9; with the residual selector 0: it
        takes the best of a frame, whatever they are, and is never as sure as that.
    n_max, n_min, reserve, relax
        As in `mlpsf.choose`.
    rank_by : {"probability", "snr"}, optional
        As in `mlpsf.choose`. Unless given, the brightest of the stars that reach the threshold
        are taken, because TRIPPy gives all one weight and faint ones add their noise; with the
        residual selector, whose order is its verdict, the most probable.
    snr_min : float
        Least signal-to-noise ratio of a chosen star.
    second_look : bool
        Whether the best, twice as many as are wanted, are compared with the PSF that they share,
        and those that it does not explain are struck; the next in rank take their place. Never so
        many are struck that fewer than `n_min` are left: the others, and stars taken by `relax`,
        keep their place and get the flag ``OUTLIER_KEPT``. Metadata count them: ``n_looked_at``
        (0 where there are too few to compare), ``n_outliers``, ``n_outliers_kept``. See
        `mlpsf.second_look`.
    cutout_size : int, optional
        Side of the residual selector's cutouts in pixels; 111, as published, or 12 FWHM where
        that is less, unless given.
    veto : list of int, optional
        Values of ``id`` that must not be chosen.
    progress : callable, optional
        Called with the name of each step before it starts.

    Returns
    -------
    Table
        Every source, with the columns ``id x y [ra dec] flux snr peak fwhm ellipticity
        probability selected reserved flags reason``; metadata say frame, selector, parameters,
        versions.

    Raises
    ------
    TooFewStarsError
        Fewer than `n_min` good stars; the whole table is its ``table``.
    NoSourcesError, FrameError, CatalogueError, InputError

    Warns
    -----
    UserWarning
        Fewer stars are reserved than can judge a PSF (`mlpsf.selection.FEWEST_RESERVED`).

    Examples
    --------
    >>> from mlpsf import simulate_frame
    >>> sim = simulate_frame(shape=(400, 400), n_stars=60, n_galaxies=20, fwhm=4.0, seed=2)
    >>> stars = select_stars(sim.frame, selector="residual", threshold=0.3, n_min=1)
    >>> "probability" in stars.colnames and stars.meta["n_selected"] >= 1
    True
    """
    say = progress or _silent
    # Before the work, not after.
    if not snr_min >= 0:
        raise InputError(f"The 'snr_min' parameter must be 0 or more. Got {snr_min}.")
    check_selection(threshold or 0.0, n_max, n_min, reserve, rank_by or "snr")
    if not isinstance(frame, Frame):
        say("reading")
        frame = read_frame(frame)
    listed = None if catalogue is None else read_catalogue(catalogue, frame)
    say("finding sources")
    background = measure_background(frame)
    estimator, name = frame_selector(selector, frame, background)
    sources = find_sources(frame, listed, background=background)
    flags = np.array(sources["flags"])
    flags[~(sources["snr"] >= snr_min)] |= Flag.FAINT
    # A star must have room for the PSF on the frame; one pixel more, its FWHM is another measure.
    margin = psf_size(sources.meta["fwhm"]) // 2 + PSF_MARGIN + 1
    at = np.rint(sources["x"]), np.rint(sources["y"])
    flags[reaches_over(*at, margin, frame.shape)] |= Flag.NEAR_EDGE
    if veto is not None:
        unknown = sorted(set(veto) - set(sources["id"].tolist()))
        if unknown:
            raise InputError(f"No source has the id to veto: {unknown[:5]}.")
        flags[np.isin(sources["id"], veto)] |= Flag.VETOED
    sources["flags"] = flags
    say("judging sources")
    alike = sources
    if listed is not None:  # the listed may be few, or no stars: the frame's PSF is in all of it
        with suppress(NoSourcesError):
            alike = find_sources(frame, background=background)
    sources, probability = judge_sources(
        frame, background, sources, estimator, cutout_size=cutout_size, alike=alike
    )
    sources.meta.update(_provenance(estimator, name))
    sources.meta["snr_min"] = float(snr_min)
    classical = _is_classical(estimator)
    if threshold is None:
        threshold = 0.0 if classical else THRESHOLD
    if rank_by is None:
        rank_by = "probability" if classical else "snr"
    sources.meta["second_look"] = bool(second_look)
    if second_look:
        say("looking again")
        ranked = candidates(sources, probability, threshold=threshold, rank_by=rank_by)
        if relax and len(ranked) < n_min:
            ranked = candidates(sources, probability)[:n_min]
        rows = ranked[: int(np.ceil(2 * n_max / (1.0 - reserve)))]
        surest = candidates(sources, probability)
        rows = surest[np.isin(surest, rows)]  # the surest make the PSF
        outliers, n_looked_at = _outliers(frame, background, sources, rows)
        n_struck = min(len(outliers), max(len(ranked) - n_min, 0))
        flags = np.array(sources["flags"])
        flags[outliers[:n_struck]] |= Flag.OUTLIER
        flags[outliers[n_struck:]] |= Flag.OUTLIER_KEPT
        sources["flags"] = flags
        sources.meta["n_looked_at"] = n_looked_at
        sources.meta["n_outliers"] = n_struck
        sources.meta["n_outliers_kept"] = len(outliers) - n_struck
    stars = choose(
        sources,
        probability,
        threshold=threshold,
        n_max=n_max,
        n_min=n_min,
        reserve=reserve,
        relax=relax,
        rank_by=rank_by,
    )
    if reserve > 0 and stars.meta["n_reserved"] < FEWEST_RESERVED:
        warnings.warn(
            f"Of {stars.meta['n_above_threshold']} good stars, reserve = {reserve:g} keeps back "
            f"{stars.meta['n_reserved']}, with n_min = {n_min} left at least: too few to judge "
            f"the PSF, which takes {FEWEST_RESERVED}. A lower n_min (--n-min), or a larger "
            "reserve (--reserve), keeps more.",
            stacklevel=2,
        )
    return stars


def _outliers(
    frame: Frame, background: Background, sources: Table, rows: NDArray[np.intp]
) -> tuple[NDArray[np.intp], int]:
    """Find those of the rows that their common PSF does not explain.

    Returns
    -------
    outliers : ndarray
        The worst first.
    n_looked_at : int
        Rows compared; 0 where no PSF could be made of them.
    """
    try:
        look = look_again(
            frame,
            background,
            np.asarray(sources["x"])[rows],
            np.asarray(sources["y"])[rows],
            float(sources.meta["fwhm"]),
        )
    except PSFError:
        return rows[:0], 0
    compared = look.outlier | np.isfinite(look.significance)
    return rows[look.worst_first()], int(compared.sum())


def _is_classical(estimator: Any) -> bool:
    if isinstance(estimator, Judge):
        return False
    from mlpsf.selectors.residual import ResidualSelector

    return isinstance(estimator, ResidualSelector)


def frame_selector(selector: Any, frame: Frame, background: Background) -> tuple[Any, str]:
    """Return the estimator that a name stands for on a frame, and what to call it."""
    if not isinstance(selector, str):
        if not hasattr(selector, "predict_proba"):
            raise InputError(
                "A selector is 'cnn', 'residual', or an estimator with predict_proba. "
                f"Got a {type(selector).__name__}."
            )
        # A judge is what is left of the selector that was saved.
        kind = "PSFStarSelector" if isinstance(selector, Judge) else type(selector).__name__
        return selector, kind
    if selector == "cnn":
        return _shipped(), "cnn"
    if selector == "residual":
        from mlpsf.selectors.residual import ResidualSelector

        # The study's limits in ADU are those of one camera: half of its full well, and far below
        # its noise. Here they are this frame's own.
        noise = float(np.median(background.rms))
        full_well = float(frame.saturation - np.median(background.level))
        limits = (-20.0 * noise, 0.5 * full_well)
        return (
            ResidualSelector(
                brightness_range=limits, exclusion_range=(-200 * noise, 2 * full_well)
            ),
            "residual",
        )
    raise InputError(f"A selector is 'cnn', 'residual' or an estimator. Got {selector!r}.")


@cache
def _shipped() -> Any:
    """Read the network that ships, once for all frames."""
    return load_judge(pretrained_path())


def _provenance(estimator: Any, name: str) -> dict[str, Any]:
    """Return what made a table: selector, versions."""
    out: dict[str, Any] = {"selector": name, "mlpsf_version": mlpsf.__version__}
    for key in ("model_name_", "model_sha256_"):
        if hasattr(estimator, key):
            out[key.strip("_")] = getattr(estimator, key)
    if name == "residual":  # its settings, where a file can hold them
        for key, value in estimator.get_params(deep=False).items():
            if isinstance(value, str | int | float | tuple):
                out[f"residual_{key}"] = str(value) if isinstance(value, tuple) else value
    out["python_version"] = platform.python_version()
    modules = {"numpy": np, "astropy": astropy, "sep": sep}
    out |= {f"{name}_version": module.__version__ for name, module in modules.items()}
    runtime = "onnxruntime" if isinstance(estimator, Judge) else "scikit-learn"
    out[f"{runtime}_version"] = version(runtime)
    return out


def _silent(step: str) -> None:
    """Say nothing."""
