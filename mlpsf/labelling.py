"""Which sources are good PSF stars: the residual rule, a simulation's truth, balancing, splits.

Pure functions on arrays: nothing here reads a frame, fits a PSF or keeps state.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree
from sklearn.utils import check_random_state

from mlpsf.errors import InputError

__all__ = [
    "BRIGHTNESS_RANGE",
    "N_BEST",
    "balance",
    "best_labels",
    "in_range",
    "residual_distance",
    "split_frames",
    "truth_labels",
]

N_BEST = 25
"""Candidates that the residual rule takes of a frame, as in the ML-PSF study."""

BRIGHTNESS_RANGE = (-200.0, 32768.0)
"""No pixel of a good source's cutout may lie outside, in ADU above the sky (ML-PSF study)."""

AMBIGUOUS = -1
"""Label of sources that are neither clearly good nor clearly not."""


def residual_distance(
    variance: ArrayLike, peak: ArrayLike, *, clip: float = 5.0
) -> NDArray[np.float64]:
    """Combine both residual figures of one frame's sources into the distance they are ranked by.

    Parameters
    ----------
    variance, peak : array_like, shape (n,)
        As `mlpsf.stacks.fitting.residual_figures` returns; not finite means no fit.
    clip : float
        Sources whose `variance` lies more than so many standard deviations above the median are
        dropped. The deviation is 1.4826 times the median absolute one: a plain one is moved by
        orders of magnitude by one diverged fit.

    Returns
    -------
    ndarray of float64, shape (n,)
        ``hypot(variance / deviation, peak)``; inf for dropped sources and those without a fit.

    Notes
    -----
    In any company a source that is no worse than another in both figures is no further: at equal
    variance the order is that of the peaks, at equal peaks that of the variances. Between others
    the deviation decides, and it is the frame's: one source more, however bad, moves it a little,
    can turn the order of two of which one has the smaller variance and the other the smaller
    peak, and can bring one under the clip. A source without a fit moves nothing.

    The variances' unit does not matter, as long as they are not 0 for more than half the sources.
    Pixels in another unit do matter, a little: see `mlpsf.stacks.fitting.residual_figures`, whose
    weights turn from equal ones to those of photon noise where the model is 1 ADU.

    Examples
    --------
    >>> residual_distance([1.0, 2.0, 3.0, 900.0], [0.1, 0.1, 0.2, 0.1]).round(2).tolist()
    [0.68, 1.35, 2.03, inf]
    """
    variance = np.asarray(variance, dtype=np.float64)
    peak = np.asarray(peak, dtype=np.float64)
    distance = np.full(variance.shape, np.inf)
    fitted = np.isfinite(variance) & np.isfinite(peak)
    if not fitted.any():
        return distance
    centre, deviation = _centre_and_deviation(variance[fitted])
    kept = fitted & (variance <= centre + clip * deviation)
    distance[kept] = np.hypot(variance[kept] / deviation, peak[kept])
    return distance


def _centre_and_deviation(values: NDArray[np.float64]) -> tuple[float, float]:
    centre = float(np.median(values))
    deviation = 1.4826 * float(np.median(np.abs(values - centre)))
    if deviation <= 0:  # all alike: any unit serves
        deviation = abs(centre) or 1.0
    return centre, deviation


def in_range(
    cutouts: NDArray[np.floating], limits: tuple[float, float] = BRIGHTNESS_RANGE
) -> NDArray[np.bool_]:
    """Say which cutouts have all their pixels within a brightness range.

    Parameters
    ----------
    cutouts : ndarray, shape (n, size, size)
        Sky-subtracted, ADU; NaN pixels are not judged.
    limits : (float, float)
        Lowest and highest value allowed.

    Returns
    -------
    ndarray of bool, shape (n,)

    Examples
    --------
    >>> in_range(np.array([[[0.0, 10.0]], [[-300.0, 10.0]]])).tolist()
    [True, False]
    """
    low, high = limits
    if not low < high:
        raise InputError(f"A brightness range must rise. Got {limits}.")
    flat = cutouts.reshape(len(cutouts), -1)
    out = (flat < low) | (flat > high)  # NaN compares false
    return np.asarray(~out.any(axis=1))


def best_labels(
    distance: ArrayLike, eligible: ArrayLike | None = None, n_best: int = N_BEST
) -> NDArray[np.int_]:
    """Label the best sources of one frame 1 and all others 0.

    The `n_best` nearest are the candidates; those of them that are not eligible (outside the
    brightness range) are struck without being replaced, as the ML-PSF study did.

    Parameters
    ----------
    distance : array_like, shape (n,)
        The smaller the better; inf or NaN is never good.
    eligible : array_like of bool, shape (n,), optional
        Sources that may be good; all unless given.
    n_best : int
        Number of candidates.

    Returns
    -------
    ndarray of int, shape (n,)
        A tie that reaches over the last place gets none: labels never depend on the order of the
        sources, and never more than `n_best` are good. One source more makes no bad one good, and
        one that is further than all good ones makes none of them bad.

    Examples
    --------
    >>> best_labels([0.3, 0.1, 0.2, 0.2], n_best=2).tolist()
    [0, 1, 0, 0]
    """
    distance = np.asarray(distance, dtype=np.float64)
    finite = np.isfinite(distance)
    labels = np.zeros(distance.shape, dtype=int)
    if n_best < 1 or not finite.any():
        return labels
    ordered = np.sort(distance[finite])
    good = finite.copy()
    if ordered.size > n_best:
        first_out = ordered[n_best]
        good &= distance < first_out
    if eligible is not None:
        good &= np.asarray(eligible, dtype=bool)
    labels[good] = 1
    return labels


def balance(
    y: ArrayLike, *, groups: ArrayLike | None = None, random_state: Any = None
) -> NDArray[np.intp]:
    """Choose as many sources of every class as the rarest has, at random.

    Parameters
    ----------
    y : array_like, shape (n,)
        Labels.
    groups : array_like, shape (n,), optional
        Frames: balanced within each, so that none speaks louder for one class. A frame with one
        class only gives nothing.
    random_state : int, RandomState or None

    Returns
    -------
    ndarray of int
        Indices into `y`, sorted, none twice.

    Examples
    --------
    >>> y = np.array([1, 0, 0, 0, 1])
    >>> y[balance(y, random_state=0)].tolist().count(1)
    2
    """
    y = np.asarray(y)
    random = check_random_state(random_state)
    frames = np.zeros(len(y), dtype=int) if groups is None else np.asarray(groups)
    if len(frames) != len(y):
        raise InputError(f"y and groups must have one length. Got {len(y)} and {len(frames)}.")
    classes = np.unique(y)
    taken: list[NDArray[np.intp]] = []
    for frame in np.unique(frames):
        members = [np.flatnonzero((frames == frame) & (y == c)) for c in classes]
        fewest = min(len(m) for m in members)
        taken += [random.choice(m, fewest, replace=False) for m in members]
    return np.sort(np.concatenate(taken)) if taken else np.zeros(0, dtype=np.intp)


def split_frames(
    groups: ArrayLike,
    fractions: tuple[float, ...] = (0.7, 0.2, 0.1),
    *,
    random_state: Any = None,
) -> list[NDArray[np.intp]]:
    """Split sources by frame, so that no frame is on two sides.

    Parameters
    ----------
    groups : array_like, shape (n,)
        The frame of each source.
    fractions : tuple of float
        Shares of the frames; they sum to 1. Each part gets at least one frame when there are
        enough.
    random_state : int, RandomState or None

    Returns
    -------
    list of ndarray of int
        Indices of the sources of each part.

    Examples
    --------
    >>> parts = split_frames(["a", "a", "b", "c"], (0.5, 0.5), random_state=0)
    >>> sorted(len(p) for p in parts) in ([1, 3], [2, 2])
    True
    """
    if min(fractions) <= 0 or abs(sum(fractions) - 1.0) > 1e-9:
        raise InputError(f"Fractions must be positive and sum to 1. Got {fractions}.")
    groups = np.asarray(groups)
    frames = check_random_state(random_state).permutation(np.unique(groups))
    if len(frames) < len(fractions):
        raise InputError(f"{len(fractions)} parts need as many frames. Got {len(frames)}.")
    ends = np.rint(np.cumsum(fractions) * len(frames)).astype(int)
    # Every part keeps one frame at least, from either side.
    for i in range(len(ends)):
        ends[i] = max(ends[i], (ends[i - 1] if i else 0) + 1)
    for i in range(len(ends) - 1, -1, -1):
        ends[i] = min(ends[i], len(frames) - (len(ends) - 1 - i))
    starts = np.concatenate([[0], ends[:-1]])
    return [np.flatnonzero(np.isin(groups, frames[a:b])) for a, b in zip(starts, ends, strict=True)]


def truth_labels(
    x: ArrayLike,
    y: ArrayLike,
    true_x: ArrayLike,
    true_y: ArrayLike,
    true_flux: ArrayLike,
    is_star: ArrayLike,
    *,
    fwhm: float,
    defects: NDArray[Any] | None = None,
    clean: float = 0.005,
    spoiled: float = 0.02,
) -> tuple[NDArray[np.int_], NDArray[np.float64]]:
    """Label detections by what is known of a simulated frame.

    Good is a star, with no saturated or defective pixel within 1.5 FWHM, in whose surroundings
    all other objects' flux, those within 4 FWHM in full and those from 4 to 6 FWHM at 15 %, is
    under `clean` of its own.

    Parameters
    ----------
    x, y : array_like, shape (n,)
        Detections, 0-based pixels.
    true_x, true_y, true_flux : array_like, shape (m,)
        Objects of the simulation.
    is_star : array_like of bool, shape (m,)
        Which of them are stars.
    fwhm : float
        Of the frame, in pixels.
    defects : ndarray, shape (ny, nx), optional
        Not 0 where a pixel is saturated, struck or bad.
    clean, spoiled : float
        Contamination under which a star is good (1) and from which it is not (0); between them it
        is ambiguous (-1).

    Returns
    -------
    labels : ndarray of int, shape (n,)
    contamination : ndarray of float64, shape (n,)
        Others' flux over its own; inf where no object lies within a FWHM.

    Examples
    --------
    >>> labels, dirt = truth_labels(
    ...     [10, 50, 90], [10, 10, 10], [10, 50, 55, 90], [10, 10, 10, 10],
    ...     [100, 100, 1, 100], [True, True, True, False], fwhm=4)
    >>> labels.tolist(), dirt.tolist()
    ([1, -1, 0], [0.0, 0.01, 0.0])
    """
    at = np.column_stack([np.asarray(x, dtype=float), np.asarray(y, dtype=float)])
    true = np.column_stack([np.asarray(true_x, dtype=float), np.asarray(true_y, dtype=float)])
    flux, is_star = np.asarray(true_flux, dtype=float), np.asarray(is_star, dtype=bool)
    n = len(at)
    contamination = np.full(n, np.inf)
    star = np.zeros(n, dtype=bool)
    if len(true):
        tree = cKDTree(true)
        for i, members in enumerate(tree.query_ball_point(at, 6.0 * fwhm)):
            rows = np.asarray(members, dtype=int)
            distance = np.hypot(*(true[rows] - at[i]).T)
            own = rows[distance <= max(fwhm, 1.5)]
            if own.size == 0:
                continue
            own_row = own[np.argmax(flux[own])]  # the brightest there is what was detected
            weight = np.where(distance <= 4.0 * fwhm, 1.0, 0.15) * (rows != own_row)
            contamination[i] = float((weight * flux[rows]).sum() / flux[own_row])
            star[i] = is_star[own_row]
    labels = np.full(n, AMBIGUOUS)
    labels[contamination < clean] = 1
    labels[(contamination >= spoiled) | ~star] = 0
    if defects is not None:
        labels[_any_bad(defects != 0, at, 1.5 * fwhm)] = 0
    return labels, contamination


def _any_bad(bad: NDArray[np.bool_], at: NDArray[np.float64], radius: float) -> NDArray[np.bool_]:
    """Whether a bad pixel's centre lies within a radius of each position."""
    rows, columns = np.nonzero(bad)
    if rows.size == 0:
        return np.zeros(len(at), dtype=bool)
    distance, _ = cKDTree(np.column_stack([columns, rows])).query(at)
    near: NDArray[np.bool_] = distance <= radius
    return near
