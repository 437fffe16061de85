"""The size of a frame's stars as it changes over the frame.

The common size of all stars of a frame is that of the part where the images are sharpest, if they
are not equally sharp everywhere. Here the common size is found among neighbours, and followed
over the frame. Nothing is assumed of how it changes: it may jump between the chips of a mosaic.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mlpsf.frames.near import nearest
from mlpsf.stacks.values import row_median

__all__ = ["SizeMap", "size_map", "zones"]

_FEWEST = 24  # sources; with fewer, one size is taken for the frame
_NEIGHBOURS = (12, 40)  # sources among which the local size is found, at least and at most
_MEMBER = 0.12  # largest difference of a star from the local size, in the logarithm
_MEDIAN_OF = 7  # nearest stars that give the size at a place
_ROUNDS = 8  # steps by which the stars of one size reach the others
_VARIES = 0.2  # smallest range of the local size, in the logarithm, that is followed
_AMONG = 0.5  # of the common share of stars of one size: less of them are near those of another
_GAIN = 1.2  # times the stars, at least, that one size for the frame would find
_STEP = np.log(1.25)  # range of sizes in one zone
_ZONE = 12  # fewest stars of a zone

Mode = Callable[
    [NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]
]


class SizeMap:
    """The size of the stars at any place of a frame: the median of the nearest stars.

    Attributes
    ----------
    stars : ndarray, shape (n, 3)
        x, y and size of the stars.
    varies : bool
        Whether one size would miss many of the stars.
    scatter : float
        Standard deviation of single stars about the map, in the logarithm of the size.
    """

    def __init__(self, stars: NDArray[np.float64], *, varies: bool) -> None:
        self.stars = stars
        self.varies = varies
        off = np.log(stars[:, 2] / self(stars[:, 0], stars[:, 1]))
        self.scatter = float(1.4826 * np.median(np.abs(off)))

    def __call__(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the size at each position, shape (n,)."""
        k = min(_MEDIAN_OF, len(self.stars))
        _, rows = nearest(self.stars[:, :2], np.column_stack([x, y]), k)
        return row_median(self.stars[:, 2][rows].reshape(len(x), k))


def size_map(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    size: NDArray[np.float64],
    e1: NDArray[np.float64],
    e2: NDArray[np.float64],
    common: float,
    mode: Mode,
) -> SizeMap:
    """Follow the size of the stars over a frame.

    Parameters
    ----------
    x, y, size, e1, e2 : ndarray, shape (n,)
        Positions, sizes and shapes of the bright sources.
    common : float
        Size that most of the smallest sources share, taken for the frame if one size does.
    mode : callable
        Returns the common size of each group of sources, shape (m,), from their size, e1 and e2,
        shape (m, k).

    Returns
    -------
    SizeMap

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> x, y = rng.uniform(0, 1000, (2, 80))
    >>> size = np.where(x < 500, 3.0, 6.0)
    >>> found = size_map(x, y, size, 0 * x, 0 * x, 3.0, lambda s, *_: np.median(s, axis=1))
    >>> found.varies, found(np.array([100.0, 900.0]), np.array([500.0, 500.0])).tolist()
    (True, [3.0, 6.0])
    """
    place = np.column_stack([x, y])
    log_size = np.log(size)
    off = np.abs(log_size - np.log(common))
    alike = off < max(_MEMBER, float(off.min()) * 1.001)
    if len(x) < _FEWEST:
        return SizeMap(np.column_stack([place, size])[alike], varies=False)
    one_size = alike
    alike = _grown(place, log_size, alike)
    k = int(np.clip(len(x) // 6, *_NEIGHBOURS))
    _, near = nearest(place, place, k)
    found = np.log(mode(size[near], e1[near], e2[near]))
    members = np.abs(log_size - row_median(found[near])) < _MEMBER
    members = _grown(place, log_size, members) if members.sum() >= _MEDIAN_OF else members
    if members.sum() >= _GAIN * alike.sum() + 3:
        alike = members
    sizes = SizeMap(np.column_stack([place, size])[alike], varies=False)
    low, high = np.quantile(np.log(sizes(x[alike], y[alike])), [0.05, 0.95])
    # Where stars of one size are among the others everywhere, the others are galaxies.
    others = alike & ~one_size
    if high - low > _VARIES and others.sum() >= _MEDIAN_OF:
        k = int(np.clip(alike.sum() // 6, 2, 5)) + 1
        _, near = nearest(place[alike], place[others], k)
        share = one_size[alike][near[:, 1:]].mean(axis=1)
        if np.median(share) < _AMONG * one_size[alike].mean():
            sizes.varies = True
            return sizes
    return SizeMap(np.column_stack([place, size])[one_size], varies=False)


def _grown(
    place: NDArray[np.float64], log_size: NDArray[np.float64], alike: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Let the stars of one size find those of nearly that size near them, and these the next."""
    for _ in range(_ROUNDS):
        k = min(_MEDIAN_OF, int(alike.sum()))
        _, near = nearest(place[alike], place, k)
        local = row_median(log_size[alike][near].reshape(len(place), k))
        now = np.abs(log_size - local) < _MEMBER
        if not now.any() or (now == alike).all():
            break
        alike = now
    return alike


def zones(
    local: NDArray[np.float64], star: NDArray[np.bool_]
) -> list[tuple[NDArray[np.intp], float]]:
    """Divide sources into parts of the frame in which the stars are of about one size.

    Parameters
    ----------
    local : ndarray, shape (n,)
        FWHM of the stars at each source.
    star : ndarray of bool, shape (n,)
        Whether a source may be a star; every part has a dozen of them, if there are as many.

    Returns
    -------
    list of (ndarray of int, float)
        Rows of each part and the median FWHM there; one part if the size does not vary.
    """
    if len(local) == 0 or local.max() == local.min():
        return [(np.arange(len(local)), float(local[0]) if len(local) else 1.0)]
    log_size = np.log(local)
    count = max(1, round((log_size.max() - log_size.min()) / _STEP))
    edges = np.linspace(log_size.min(), log_size.max(), count + 1)[1:-1]
    place = np.digitize(log_size, edges)
    parts = [np.flatnonzero(place == k) for k in range(count)]
    k = 0
    while len(parts) > 1 and k < len(parts):
        if star[parts[k]].sum() >= _ZONE:
            k += 1
            continue
        other = k - 1 if k else 1
        first = min(k, other)
        parts[first : first + 2] = [np.concatenate(parts[first : first + 2])]
        k = first
    return [(np.sort(rows), float(np.median(local[rows]))) for rows in parts]
