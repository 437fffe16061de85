"""Probabilities of sources: cutouts in the form that a selector takes, and its predictions."""

from __future__ import annotations

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from math import isqrt
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from mlpsf.errors import InputError, NoSourcesError
from mlpsf.flags import OVEREXPOSED, Flag
from mlpsf.frames.cutouts import PUBLISHED_SIZE, REFERENCE_FWHM, Cutouts, extract_cutouts
from mlpsf.frames.frame import Frame
from mlpsf.frames.tiles import SMALLEST, WIDEST
from mlpsf.neighbours.taken import light_taken
from mlpsf.selection.unseen import with_unseen
from mlpsf.selectors.judge import Judge
from mlpsf.stamps.standard import extract_stamps, frame_star, fwhm_of_stars

__all__ = ["judge_sources", "own_cutout_size"]

_MANY = 10  # sources of which some are no stars
_BLOCK = 256  # sources cut out and judged at once


def judge_sources(
    frame: Frame,
    sources: Table,
    estimator: Any,
    *,
    cutout_size: int | None = None,
    alike: Table | None = None,
    unit: float = 1.0,
) -> tuple[Table, NDArray[np.float64]]:
    """Cut out the sources in the form that the selector takes, and return its probabilities.

    Parameters
    ----------
    frame : Frame
    sources : Table
        Sources as returned by `find_sources`.
    estimator : estimator
    cutout_size : int, optional
        As in `select_stars`.
    alike : Table, optional
        Sources whose FWHM and common star are used as the PSF of the frame. Default: `sources`.
    unit : float
        Cutouts of a selector that learns from them are divided by it, see `frame_selector`.

    Returns
    -------
    sources : Table
        A copy with `Flag.NEAR_EDGE` set where the cutout extends beyond the edge.
    probability : ndarray, shape (n,)
        NaN where the source could not be judged. Of an estimator with a ``correction_``, the
        network that ships, with what stamps do not show: see `mlpsf.selection.unseen`.
    """
    if cutout_size is not None:
        cutout_size = _checked_size(cutout_size)
    alike = sources if alike is None else alike
    fwhm = float(alike.meta["fwhm"])
    reference, size, homogenizes = _wanted_cutouts(estimator)
    own = _learns_from_frame(estimator)
    if size is None:
        size = cutout_size or own_cutout_size(fwhm)
    flags = np.array(sources["flags"])
    rows = np.arange(len(sources))
    if own:  # it compares the sources of a frame, and faint ones would dominate
        rows = np.flatnonzero(flags & (Flag.FAINT | OVEREXPOSED | Flag.TOO_NARROW) == 0)
    probability = np.full(len(sources), np.nan)
    x, y = np.asarray(sources["x"]), np.asarray(sources["y"])
    if reference is not None and reference != REFERENCE_FWHM:
        raise InputError(
            f"The selector takes stamps at a FWHM of {reference:g} pixels; mlpsf cuts them at "
            f"{REFERENCE_FWHM:g}. Train it on stamps of extract_stamps."
        )
    star = frame_star(frame, alike, size) if reference is not None else None
    widths = fwhm_of_stars(alike, sources)

    def cut_out(block: NDArray[np.intp]) -> Cutouts:
        at = x[block], y[block]
        if reference is None:
            cut = extract_cutouts(frame, *at, size, background=frame.background.level)
            return replace(cut, data=cut.data / np.float32(unit)) if own and unit != 1 else cut
        width = widths if isinstance(widths, float) else widths[block]
        return extract_stamps(frame, *at, size, fwhm=width, star=star)

    def ask(block: NDArray[np.intp]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        cut = cut_out(block)
        # Stamps as such, so that no step of the estimator homogenizes them again.
        pixels = cut if homogenizes else cut.data
        return cut.near_edge, estimator.predict_proba(pixels)[:, 1]

    if own:
        cut = cut_out(rows)
        flags[rows[cut.near_edge]] |= Flag.NEAR_EDGE
        whole = ~cut.near_edge
        if whole.sum() < 5:
            raise NoSourcesError(
                f"Only {int(whole.sum())} sources of {frame.name} are bright, unsaturated and "
                f"{size // 2} pixels from the edge; a selector that learns from them needs "
                "5 at least. Try a lower snr_min (--snr-min), or the selector cnn (--selector cnn)."
            )
        from sklearn.base import clone

        fitted = clone(estimator).fit(cut.data[whole])
        good = fitted.predict_proba(cut.data[whole])[:, 1]
        probability[rows[whole]] = good
        flags[rows[whole][good == 0]] |= Flag.REJECTED
    else:
        blocks = [rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK)]
        with ThreadPoolExecutor(_threads()) as pool:
            # Estimators other than Judge may not be thread-safe.
            each = pool.map if isinstance(estimator, Judge) and _threads() > 1 else map
            for block, (near_edge, good) in zip(blocks, each(ask, blocks), strict=True):
                flags[block[near_edge]] |= Flag.NEAR_EDGE
                probability[block] = good
    _warn_if_all_alike(probability)
    if (correction := getattr(estimator, "correction_", None)) is not None:
        taken = light_taken(frame, x, y, fwhm)
        probability = with_unseen(probability, sources["snr"], taken, correction)
    out = sources.copy()
    out["flags"] = flags
    return out, probability


def _warn_if_all_alike(probability: NDArray[np.float64]) -> None:
    """Warn of a selector that says the same of all sources."""
    judged = probability[np.isfinite(probability)]
    if len(judged) >= _MANY and np.ptp(judged) == 0:
        warnings.warn(
            f"The selector gives all {len(judged)} sources the probability {judged[0]:.3g}: it "
            "tells stars from others no better than chance. Is it a trained one?",
            stacklevel=3,
        )


def _threads() -> int:
    """Return the number of threads: 1 in a worker process, where every core has its own frame."""
    return 1 if os.environ.get("OMP_NUM_THREADS") == "1" else min(2, os.cpu_count() or 1)


def _checked_size(size: Any) -> int:
    """Return the side of cutouts; raise `InputError` unless it is one that holds a star."""
    if not isinstance(size, int | np.integer) or size % 2 == 0 or not SMALLEST <= size <= WIDEST:
        raise InputError(
            f"The 'cutout_size' must be an odd number of pixels from {SMALLEST} to {WIDEST}. Got "
            f"{size!r}."
        )
    return int(size)


def own_cutout_size(fwhm: float) -> int:
    """Return the cutout size for comparing sources of a frame: 12 FWHM, at most 111 pixels."""
    return int(np.clip(2 * round(6 * fwhm) + 1, 31, PUBLISHED_SIZE))


def _wanted_cutouts(estimator: Any) -> tuple[float | None, int | None, bool]:
    """Return FWHM and size of the cutouts that a selector, possibly wrapped, was fitted to.

    And whether a step of it homogenizes raw cutouts.
    """
    inner = estimator
    while not hasattr(inner, "cutout_size_"):
        steps = getattr(inner, "steps", None)
        for _, step in steps or []:
            if getattr(step, "replaces_psf", False):
                return REFERENCE_FWHM, step.size, True
        parts = [steps[-1][1]] if steps else []
        # Fitted ones first: "estimator" is the original, which may not be fitted.
        parts += [getattr(inner, name, None) for name in ("best_estimator_", "estimator_")]
        for name in ("calibrated_classifiers_", "estimators_"):
            parts += list(getattr(inner, name, None) or [])[:1]
        parts.append(getattr(inner, "estimator", None))
        following = next((p for p in parts if hasattr(p, "predict_proba")), None)
        if following is None:
            pixels = getattr(estimator, "n_features_in_", None)
            return None, None if pixels is None else isqrt(pixels), False
        inner = following
    homogenizes = getattr(inner, "homogenizer_", None) is not None
    return inner.reference_fwhm_, inner.cutout_size_, homogenizes


def _learns_from_frame(estimator: Any) -> bool:
    """Return whether a selector is to be fitted to the frame's own cutouts, without labels."""
    if isinstance(estimator, Judge):
        return False
    from sklearn.exceptions import NotFittedError
    from sklearn.utils import get_tags
    from sklearn.utils.validation import check_is_fitted

    try:
        if get_tags(estimator).target_tags.required:
            return False
    except (AttributeError, TypeError):  # no estimator of scikit-learn, and taken to be fitted
        return False
    try:
        check_is_fitted(estimator)
    except NotFittedError:
        return True
    return False
