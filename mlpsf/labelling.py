"""Label good PSF stars by the residual rule or a simulation's truth; balance and split labels.

Pure functions on arrays: nothing here reads a frame or fits a PSF.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlpsf.errors import InputError

__all__ = [
    "BRIGHTNESS_RANGE",
    "FAR",
    "FAR_SHARE",
    "NEAR",
    "N_BEST",
    "balance",
    "best_labels",
    "in_range",
    "neighbour_weight",
    "residual_distance",
    "split_frames",
    "truth_labels",
]

N_BEST = 25
"""Number of candidates that the residual rule takes per frame, as in the ML-PSF study."""

BRIGHTNESS_RANGE = (-200.0, 32768.0)
"""Range of all pixels in a good source's cutout, in ADU above the sky (ML-PSF study)."""

NEAR, FAR = 4.0, 6.0
"""Distances in FWHM: light of neighbours to the first counts in full, to the second in part."""

FAR_SHARE = 0.15
"""Share of the light of neighbours between `NEAR` and `FAR` that counts."""

AMBIGUOUS = -1
"""Label of sources that are neither clearly good nor clearly bad."""


def residual_distance(
    variance: ArrayLike, peak: ArrayLike, *, clip: float = 5.0
) -> NDArray[np.float64]:
    """Combine the two residual figures of a frame's sources into a distance for ranking.

    Parameters
    ----------
    variance, peak : array_like, shape (n,)
        From `mlpsf.stacks.fitting.residual_figures`; a non-finite value means no fit.
    clip : float
        Sources whose `variance` is more than this many standard deviations above the median are
        dropped. The deviation is 1.4826 times the median absolute deviation: one diverged fit
        would change the plain standard deviation by orders of magnitude.

    Returns
    -------
    ndarray of float64, shape (n,)
        ``hypot(variance / deviation, peak)``; inf for dropped sources and those without a fit.

    Notes
    -----
    A source that is not worse than another in both figures never has the larger distance. Between
    a source with the smaller variance and one with the smaller peak, the frame's deviation decides.
    Adding a source, even a bad one, changes the deviation a little. That can reverse the order of
    such a pair or bring a source under the clip. A source without a fit changes nothing.

    The unit of the variances does not matter unless more than half of them are 0. The unit of the
    pixels matters a little: the weights of `mlpsf.stacks.fitting.residual_figures` change from
    equal ones to those of photon noise where the model is 1 ADU.

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
    if deviation <= 0:  # all equal: any unit will do
        deviation = abs(centre) or 1.0
    return centre, deviation


def in_range(
    cutouts: NDArray[np.floating], limits: tuple[float, float] = BRIGHTNESS_RANGE
) -> NDArray[np.bool_]:
    """Return which cutouts have all their pixels within a brightness range.

    Parameters
    ----------
    cutouts : ndarray, shape (n, size, size)
        Sky-subtracted, in ADU; NaN pixels are ignored.
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

    The `n_best` sources with the smallest distance are the candidates. Candidates that are not
    eligible (outside the brightness range) are dropped and not replaced, as in the ML-PSF study.

    Parameters
    ----------
    distance : array_like, shape (n,)
        Smaller is better; inf or NaN is never good.
    eligible : array_like of bool, shape (n,), optional
        Sources that may be good; all by default.
    n_best : int
        Number of candidates.

    Returns
    -------
    ndarray of int, shape (n,)
        Sources tied for the last place are all 0 if not all of them fit. So labels do not depend
        on the order of the sources, and at most `n_best` are good. Adding a source never makes a
        bad one good. Adding one with a larger distance than all good ones makes none of them bad.

    Examples
    --------
    >>> best_labels([0.3, 0.1, 0.2, 0.2], n_best=2).tolist()
    [0, 1, 0, 0]
    """
    distance = np.asarray(distance, dtype=np.float64)
    finite = np.isfinite(distance)
    labels = np.zeros(distance.shape, dtype=int)
    if n_best < 1:
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
    """Choose the same number of sources of each class at random: that of the rarest class.

    Parameters
    ----------
    y : array_like, shape (n,)
        Labels.
    groups : array_like, shape (n,), optional
        Frame of each source. Classes are balanced within each frame. A frame with only one class
        contributes nothing.
    random_state : int, RandomState or None

    Returns
    -------
    ndarray of int
        Sorted unique indices into `y`.

    Examples
    --------
    >>> y = np.array([1, 0, 0, 0, 1])
    >>> y[balance(y, random_state=0)].tolist().count(1)
    2
    """
    from sklearn.utils import check_random_state

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
    """Split sources by frame, so that no frame is in two parts.

    Parameters
    ----------
    groups : array_like, shape (n,)
        Frame of each source.
    fractions : tuple of float
        Fraction of the frames in each part; the sum is 1. Each part gets at least one frame.
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
    from sklearn.utils import check_random_state

    frames = check_random_state(random_state).permutation(np.unique(groups))
    if len(frames) < len(fractions):
        raise InputError(f"{len(fractions)} parts need as many frames. Got {len(frames)}.")
    ends = np.rint(np.cumsum(fractions) * len(frames)).astype(int)
    # Each part keeps at least one frame: once from the start, once from the end.
    for i in range(len(ends)):
        ends[i] = max(ends[i], (ends[i - 1] if i else 0) + 1)
    for i in range(len(ends) - 1, -1, -1):
        ends[i] = min(ends[i], len(frames) - (len(ends) - 1 - i))
    starts = np.concatenate([[0], ends[:-1]])
    return [np.flatnonzero(np.isin(groups, frames[a:b])) for a, b in zip(starts, ends, strict=True)]


def neighbour_weight(distance: ArrayLike) -> NDArray[np.float64]:
    """Return how much of a neighbour's light counts against a star, by its distance in FWHM.

    Examples
    --------
    >>> neighbour_weight([1.0, 5.0, 7.0]).tolist()
    [1.0, 0.15, 0.0]
    """
    distance = np.asarray(distance)
    return np.where(distance <= NEAR, 1.0, np.where(distance <= FAR, FAR_SHARE, 0.0))


def truth_labels(
    x: ArrayLike,
    y: ArrayLike,
    true_x: ArrayLike,
    true_y: ArrayLike,
    true_flux: ArrayLike,
    is_star: ArrayLike,
    *,
    fwhm: ArrayLike,
    defects: NDArray[Any] | None = None,
    clean: float = 0.005,
    spoiled: float = 0.02,
    left: ArrayLike | None = None,
) -> tuple[NDArray[np.int_], NDArray[np.float64]]:
    """Label detections from the truth of a simulated frame.

    A good source is a star without a saturated or defective pixel within 1.5 FWHM and with a
    contamination below `clean`. The contamination is the flux of other objects over its own:
    those within 4 FWHM count in full, those from 4 to 6 FWHM at 15 %.

    Parameters
    ----------
    x, y : array_like, shape (n,)
        Positions of the detections, 0-based pixels.
    true_x, true_y, true_flux : array_like, shape (m,)
        Positions and fluxes of the simulated objects.
    is_star : array_like of bool, shape (m,)
        Which of the objects are stars.
    fwhm : float or array_like, shape (n,)
        FWHM of the frame's stars in pixels, at each detection where it varies.
    defects : ndarray, shape (ny, nx), optional
        Nonzero where a pixel is saturated, struck or bad.
    clean, spoiled : float
        A star is good (1) below the contamination `clean`, bad (0) from `spoiled` on, and
        ambiguous (-1) in between.
    left : array_like, shape (n,), optional
        Contamination of each detection after its neighbours were subtracted, which then counts
        instead: `mlpsf.neighbours.truth.light_left`.

    Returns
    -------
    labels : ndarray of int, shape (n,)
    contamination : ndarray of float64, shape (n,)
        Flux of other objects over its own; inf if no object is within one FWHM.

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
    width = np.broadcast_to(np.asarray(fwhm, dtype=float), (n,))
    contamination = np.full(n, np.inf)
    star = np.zeros(n, dtype=bool)
    if len(true):
        from scipy.spatial import cKDTree  # who only chooses stars needs no labels

        tree = cKDTree(true)
        for i, members in enumerate(tree.query_ball_point(at, FAR * width)):
            rows = np.asarray(members, dtype=int)
            distance = np.hypot(*(true[rows] - at[i]).T)
            own = rows[distance <= max(width[i], 1.5)]
            if own.size == 0:
                continue
            own_row = own[np.argmax(flux[own])]  # the brightest is the detected one
            weight = neighbour_weight(distance / width[i]) * (rows != own_row)
            contamination[i] = float((weight * flux[rows]).sum() / flux[own_row])
            star[i] = is_star[own_row]
    if left is not None:
        contamination = np.where(np.isfinite(contamination), left, contamination)
    labels = np.full(n, AMBIGUOUS)
    labels[contamination < clean] = 1
    labels[(contamination >= spoiled) | ~star] = 0
    if defects is not None:
        labels[_any_bad(defects != 0, at, 1.5 * width)] = 0
    return labels, contamination


def _any_bad(
    bad: NDArray[np.bool_], at: NDArray[np.float64], radius: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Whether the centre of a bad pixel is within a radius of each position."""
    rows, columns = np.nonzero(bad)
    from scipy.spatial import cKDTree

    distance, _ = cKDTree(np.column_stack([columns, rows])).query(at)
    near: NDArray[np.bool_] = distance <= radius
    return near
