"""Which points are near each other, without the half second that SciPy's trees take to import.

The sources of most frames are so few that all distances cost less than that import.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["nearest", "pairs_within", "sums_across"]

_MOST = 4_000_000  # distances; of more, SciPy's tree takes less time than they do, import included
_BLOCK = 200_000  # distances at once: they fit in the cache


def nearest(
    points: NDArray[np.floating], at: NDArray[np.floating], k: int = 1
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Return distance and row of the k points nearest to each position, the nearest first.

    Parameters
    ----------
    points : ndarray, shape (n, d)
        n must be k or more.
    at : ndarray, shape (m, d)
    k : int

    Returns
    -------
    distance : ndarray of float64, shape (m, k); (m,) if k is 1
    row : ndarray of int, of the same shape

    Examples
    --------
    >>> distance, row = nearest(np.array([[0.0, 0.0], [3.0, 4.0]]), np.array([[0.0, 1.0]]), k=2)
    >>> row.tolist(), distance.round(1).tolist()
    ([[0, 1]], [[1.0, 4.2]])
    """
    n, m = len(points), len(at)
    if n * m > _MOST:
        from scipy.spatial import cKDTree

        found: tuple[NDArray[np.float64], NDArray[np.intp]] = cKDTree(points).query(at, k=k)
        return found
    row = np.empty((m, k), dtype=np.intp)
    square = np.empty((m, k))
    step = max(_BLOCK // max(n, 1), 1)
    for start in range(0, m, step):
        part = slice(start, start + step)
        apart = sum((a[part, None] - p) ** 2 for a, p in zip(at.T, points.T, strict=True))
        some = np.argpartition(apart, k - 1, axis=1)[:, :k] if k < n else np.indices((n,))
        some = np.broadcast_to(some, (len(apart), k))
        order = np.argsort(np.take_along_axis(apart, some, 1), axis=1, kind="stable")
        row[part] = np.take_along_axis(some, order, 1)
        square[part] = np.take_along_axis(apart, row[part], 1)
    distance = np.sqrt(square)
    return (distance[:, 0], row[:, 0]) if k == 1 else (distance, row)


def pairs_within(points: NDArray[np.floating], radius: float) -> NDArray[np.intp]:
    """Return the rows of all pairs of points that are not farther apart than a radius.

    Parameters
    ----------
    points : ndarray, shape (n, d)
    radius : float

    Returns
    -------
    ndarray of int, shape (number of pairs, 2)
        Each pair once.

    Examples
    --------
    >>> pairs_within(np.array([[0.0, 0.0], [9.0, 9.0], [0.0, 2.0]]), 3.0).tolist()
    [[0, 2]]
    """
    # Along the longest side, few are between a point and the farthest that it could pair with.
    axis = int(np.argmax(np.ptp(points, axis=0))) if len(points) else 0
    order = np.argsort(points[:, axis], kind="stable")
    sorted_ = points[order]
    along = sorted_[:, axis]
    others = np.searchsorted(along, along + radius, side="right") - np.arange(len(along)) - 1
    found = [np.zeros((0, 2), dtype=np.intp)]
    full = np.searchsorted(np.cumsum(others), np.arange(_BLOCK, others.sum(), _BLOCK))
    for first, last in pairwise([0, *full, len(along)]):
        count = others[first:last]
        one = np.repeat(np.arange(first, last), count)
        end = np.cumsum(count)
        other = one + 1 + np.arange(len(one)) - np.repeat(end - count, count)
        near = ((sorted_[one] - sorted_[other]) ** 2).sum(axis=1) <= radius**2
        found.append(order[np.stack([one[near], other[near]], axis=1)])
    return np.concatenate(found)


def sums_across(
    place: NDArray[np.float64], rows: NDArray[np.intp], values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Sum values of points that are across the origin from each, more than a right angle off.

    Parameters
    ----------
    place : (n, 2) array
    rows : (k,) array of int
        Of `place`, the points that have values.
    values : (k, m) array

    Returns
    -------
    (n, m) array
        A point in the origin is across from none, and all others are from it.

    Examples
    --------
    >>> place = np.array([[1.0, 0.0], [-1.0, 0.5], [0.0, 0.0]])
    >>> sums_across(place, np.arange(3), np.array([[1.0], [2.0], [4.0]])).ravel().tolist()
    [2.0, 1.0, 3.0]
    """
    values = values * (place[rows] != 0).any(axis=1, keepdims=True)
    angle = np.arctan2(place[:, 1], place[:, 0]) % (2 * np.pi)
    order = np.argsort(angle[rows])
    turn = angle[rows][order]
    twice = np.concatenate([turn, turn + 2 * np.pi])
    nothing = np.zeros((1, values.shape[1]))
    sums = np.cumsum(np.vstack([nothing, values[order], values[order]]), axis=0)
    # A right angle is not more than one, whatever the last digit says.
    ends = np.pi / 2 + 1e-9, 3 * np.pi / 2 - 1e-9
    first, last = (np.searchsorted(twice, angle + end) for end in ends)
    centre = np.flatnonzero(~place.any(axis=1))
    first[centre], last[centre] = 0, len(rows)
    return np.asarray(sums[last] - sums[first])
