"""The steps in a row: from a frame to its stars, nothing else."""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from math import isqrt
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

import mlpsf
from mlpsf.catalogue import read_catalogue
from mlpsf.cutouts import PUBLISHED_SIZE, REFERENCE_FWHM, extract_cutouts
from mlpsf.detection import Background, find_sources, measure_background
from mlpsf.errors import InputError, NoSourcesError, PSFError
from mlpsf.flags import Flag
from mlpsf.frame import Frame, FrameSource, read_frame
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
from mlpsf.standard import extract_stamps, frame_star

__all__ = ["SNR_MIN", "frame_selector", "judge_sources", "own_cutout_size", "select_stars"]

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
        rows = rows[np.argsort(-probability[rows], kind="stable")]  # the surest make the PSF
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


def judge_sources(
    frame: Frame,
    background: Background,
    sources: Table,
    estimator: Any,
    *,
    cutout_size: int | None = None,
    alike: Table | None = None,
) -> tuple[Table, NDArray[np.float64]]:
    """Cut out the sources as the selector wants them and ask it for probabilities.

    Parameters
    ----------
    frame : Frame
    background : Background
    sources : Table
        As `find_sources` returns.
    estimator : estimator
    cutout_size : int, optional
        As in `select_stars`.
    alike : Table, optional
        Sources of the frame whose FWHM and common star are taken for its PSF; `sources` unless
        given.

    Returns
    -------
    sources : Table
        A copy with `Flag.NEAR_EDGE` set where the cutout reaches over the edge.
    probability : ndarray, shape (n,)
        NaN where the source could not be judged.
    """
    alike = sources if alike is None else alike
    fwhm = float(alike.meta["fwhm"])
    reference, size = _wanted_cutouts(estimator)
    own = _learns_from_frame(estimator)
    if size is None:
        size = cutout_size or own_cutout_size(fwhm)
    flags = np.array(sources["flags"])
    rows = np.arange(len(sources))
    if own:  # it compares the sources of a frame: faint ones would set its scale
        rows = np.flatnonzero(flags & (Flag.FAINT | Flag.SATURATED | Flag.TOO_NARROW) == 0)
    probability = np.full(len(sources), np.nan)
    x, y = np.asarray(sources["x"]), np.asarray(sources["y"])
    star = None
    if reference is not None:
        if reference != REFERENCE_FWHM:
            raise InputError(
                f"The selector takes stamps at a FWHM of {reference:g} pixels; mlpsf cuts them at "
                f"{REFERENCE_FWHM:g}. Train it on stamps of extract_stamps."
            )
        star = frame_star(frame, background, alike, size)
    step = len(rows) if own else 1024
    for start in range(0, len(rows), max(step, 1)):
        block = rows[start : start + step]
        at, level = (x[block], y[block]), background.level
        if reference is None:
            cut = extract_cutouts(frame, *at, size, background=level)
        else:
            cut = extract_stamps(frame, *at, size, fwhm=fwhm, background=level, star=star)
        flags[block[cut.near_edge]] |= Flag.NEAR_EDGE
        if own:
            whole = ~cut.near_edge
            if whole.sum() < 5:
                raise NoSourcesError(
                    f"Only {int(whole.sum())} sources of {frame.name} are bright, unsaturated and "
                    f"{size // 2} pixels from the edge; a selector that learns from them needs "
                    "5 at least. Try a lower snr_min, a smaller cutout_size, or the cnn selector."
                )
            from sklearn.base import clone

            fitted = clone(estimator).fit(cut.data[whole])
            good = fitted.predict_proba(cut.data[whole])[:, 1]
            probability[block[whole]] = good
            flags[block[whole][good == 0]] |= Flag.REJECTED
        else:
            probability[block] = estimator.predict_proba(cut.data)[:, 1]
    out = sources.copy()
    out["flags"] = flags
    return out, probability


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


def own_cutout_size(fwhm: float) -> int:
    """Side of the cutouts by which a frame's sources are compared: 12 FWHM, at most 111 pixels."""
    return int(np.clip(2 * round(6 * fwhm) + 1, 31, PUBLISHED_SIZE))


def _wanted_cutouts(estimator: Any) -> tuple[float | None, int | None]:
    """Return FWHM and size of the cutouts that a selector, however wrapped, was fitted to."""
    inner = estimator
    while not hasattr(inner, "cutout_size_"):
        steps = getattr(inner, "steps", None)
        parts = [steps[-1][1]] if steps else []
        # Fitted ones first: "estimator" is what was given, and may never have been fitted.
        parts += [getattr(inner, name, None) for name in ("best_estimator_", "estimator_")]
        for name in ("calibrated_classifiers_", "estimators_"):
            parts += list(getattr(inner, name, None) or [])[:1]
        parts.append(getattr(inner, "estimator", None))
        following = next((p for p in parts if hasattr(p, "predict_proba")), None)
        if following is None:
            pixels = getattr(estimator, "n_features_in_", None)
            return None, None if pixels is None else isqrt(pixels)
        inner = following
    return inner.reference_fwhm_, inner.cutout_size_


def _learns_from_frame(estimator: Any) -> bool:
    """Whether a selector needs no labels, and is to be fitted to the frame's own cutouts."""
    if isinstance(estimator, Judge):
        return False
    from sklearn.exceptions import NotFittedError
    from sklearn.utils import get_tags
    from sklearn.utils.validation import check_is_fitted

    if get_tags(estimator).target_tags.required:
        return False
    try:
        check_is_fitted(estimator)
    except NotFittedError:
        return True
    return False


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
    runtime = "onnxruntime" if isinstance(estimator, Judge) else "scikit-learn"
    packages = ("numpy", "astropy", "sep", runtime)
    out.update({f"{p}_version": version(p) for p in packages})
    return out


def _silent(step: str) -> None:
    """Say nothing."""
