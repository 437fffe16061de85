"""The size of a frame's stars as it changes over the frame.

If the images are not equally sharp everywhere, the common size of a frame's stars is that of a part
of them. Here it is followed over the frame: by a smooth surface on which most of the bright sources
lie, as optics make it; or, if more of them have the size of their neighbours, from star to star: it
may jump between the chips of a mosaic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlpsf.detection.locus import WIDTHS, Locus, evidence, fitted, powers_of, surface
from mlpsf.frames.near import nearest
from mlpsf.stacks.values import row_median

__all__ = ["SizeMap", "size_map", "zones"]

_FEWEST = 8  # sources; with fewer, one size is taken for the frame
_MEMBER = 0.12  # largest difference of a star from the local size, in the logarithm
_SOME = 3  # stars that tell their size from that of galaxies of nearly their size
_MEDIAN_OF = 7  # nearest stars that give the size at a place
_ROUNDS = 8  # steps by which the stars of one size reach the others
_VARIES = 0.2  # smallest range of the local size, in the logarithm, that is followed
_LEAST = 0.2  # share of the sources that are stars, at least
_NEIGHBOURS = 12  # sources among which a local size is found
_NEAR, _AT_ONCE = 0.02, 0.85  # share of the stars that are near; of the change, that is a jump
_SURE_OF_STAR = 0.75  # of the log-likelihood that each further star gains, where the size jumps
_SURE = 0.4  # of the log-likelihood a star, at least, that a size that varies gains
_GAIN = 8.0  # and of all: the sizes of a few faint or blended stars rise to one side by chance
_STEPS = 10  # of the fit of a locus of known place
_STEP = np.log(1.25)  # range of sizes in one zone
_ZONE = 12  # fewest stars of a zone

Mode = Callable[
    [NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]
]


@dataclass(frozen=True, eq=False)
class SizeMap:
    """The size of the stars at any place of a frame.

    Attributes
    ----------
    stars : ndarray, shape (n, 3)
        x, y and size of the stars.
    at : callable
        Returns the size at each position, from x and y, all of shape (n,).
    varies : bool
        Whether one size would miss many of the stars.
    jumps : bool
        Whether it is followed from star to star, as no smooth surface would be as likely.
    """

    stars: NDArray[np.float64]
    at: Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]
    varies: bool
    jumps: bool = False

    def __call__(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the size at each position, shape (n,)."""
        return self.at(x, y)

    @property
    def scatter(self) -> float:
        """Standard deviation of single stars about the map, in the logarithm of the size."""
        off = np.log(self.stars[:, 2] / self(self.stars[:, 0], self.stars[:, 1]))
        return float(1.4826 * np.median(np.abs(off)))


def _of_neighbours(stars: NDArray[np.float64], *, varies: bool) -> SizeMap:
    """Make a map of the median of the nearest stars, which may jump."""

    def at(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        k = min(_MEDIAN_OF, len(stars))
        _, rows = nearest(stars[:, :2], np.column_stack([x, y]), k)
        return row_median(stars[:, 2][rows].reshape(len(x), k))

    return SizeMap(stars, at, varies, jumps=varies and _changes_at_once(stars, at))


def _changes_at_once(
    stars: NDArray[np.float64],
    at: Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]],
) -> bool:
    """Return whether most of the change is between near stars, as at the edge of a chip."""
    log_size = np.log(at(stars[:, 0], stars[:, 1]))
    near = min(max(_MEDIAN_OF - 1, round(_NEAR * len(stars))), len(stars))
    beside = log_size[nearest(stars[:, :2], stars[:, :2], near)[1]]
    low, high = np.quantile(log_size, [0.05, 0.95])
    return bool(np.quantile(np.ptp(beside, axis=1), 0.98) > _AT_ONCE * (high - low))


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
        Size that most of the stars share, taken for the frame if one size does.
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
    >>> found.varies, found(np.array([100.0, 900.0]), np.array([500.0, 500.0])).round(6).tolist()
    (True, [3.0, 6.0])
    """
    place = np.column_stack([x, y])
    values = np.column_stack([np.log(size), e1, e2])
    off = np.abs(values[:, 0] - np.log(common))
    alike = off < max(_MEMBER, float(off.min()) * 1.001)
    if len(x) < _FEWEST:
        return _of_neighbours(np.column_stack([place, size])[alike], varies=False)
    one_size = np.full(len(x), np.log(common))
    _, steady = fitted(powers_of(place, place, 1), powers_of(place, place, 3), values, one_size, [])
    stars = alike & (steady.is_star > 0.5)
    stars = stars if stars.sum() >= _SOME else alike
    steady_map = _of_neighbours(np.column_stack([place, size])[stars], varies=False)
    if steady.share > 0.9 and steady.width < 0.5 * WIDTHS[-1]:
        return steady_map  # nearly all are of one size, which saves the time
    _, near = nearest(place, place, min(_NEIGHBOURS, len(x)))
    found = np.log(mode(size[near], e1[near], e2[near]))
    # Of a surface, terms are paid for; of neighbours, each star is expected from the others.
    smooth = _smoothly(place, values, [one_size, found], steady)
    jumping = _by_neighbours(place, values, row_median(found[near]), steady)
    likeliest = max((smooth, jumping), key=lambda each: each[0])
    return likeliest[1] or steady_map


def _smoothly(
    place: NDArray[np.float64],
    values: NDArray[np.float64],
    starts: list[NDArray[np.float64]],
    steady: Locus,
) -> tuple[float, SizeMap | None]:
    """Follow the size by a surface; return its evidence and the map, None if there is none."""
    n = len(place)
    # A first order that gains half of what the fewest stars must is worth others.
    worth = steady.log_likelihood + 0.5 * _SURE * _LEAST * n
    if (fit := surface(place, values, starts, worth)) is None:
        return -np.inf, None
    terms, locus = fit
    found = evidence(locus, len(terms))
    # Galaxies gain nothing, however many they are.
    gain = found - steady.log_likelihood
    if gain < max(_SURE * locus.share * n, _GAIN) or locus.share < _LEAST:
        return -np.inf, None
    # Between its stars a polynomial may go anywhere.
    members = locus.is_star > 0.5
    followed = powers_of(place[members], place, len(terms)) @ terms
    narrowest, widest = followed.min(), followed.max()

    def at(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        log_size = powers_of(np.column_stack([x, y]), place, len(terms)) @ terms
        return np.asarray(np.exp(np.clip(log_size, narrowest, widest)))

    stars = np.column_stack([place, np.exp(values[:, 0])])[members]
    return found, SizeMap(stars, at, varies=_ranges(followed))


def _by_neighbours(
    place: NDArray[np.float64],
    values: NDArray[np.float64],
    usual: NDArray[np.float64],
    steady: Locus,
) -> tuple[float, SizeMap | None]:
    """Follow the size from star to star; return its evidence and the map, None if there is none.

    Of each star the evidence is by the others near it.
    """
    log_size = values[:, 0]
    members = np.abs(log_size - usual) < _MEMBER
    members = _grown(place, log_size, members) if members.sum() >= _MEDIAN_OF else members
    if members.sum() <= _MEDIAN_OF:
        return -np.inf, None
    apart, rows = nearest(place[members], place, _MEDIAN_OF + 1)
    itself = apart == 0
    itself[itself.all(axis=1)] = False  # of cutouts whose places are not known
    expected = np.nanmedian(np.where(itself, np.nan, log_size[members][rows]), axis=1)
    off = np.column_stack([log_size - expected, steady.off[:, 1:]])
    locus = steady
    for _ in range(_STEPS):
        locus = locus.updated(off, WIDTHS[-1])
    more = int((locus.is_star > 0.5).sum()) - int((steady.is_star > 0.5).sum())
    gain = locus.log_likelihood - steady.log_likelihood
    if more < _MEDIAN_OF or gain < _SURE_OF_STAR * more or locus.share < _LEAST:
        return -np.inf, None
    stars = np.column_stack([place, np.exp(log_size)])[members]
    return locus.log_likelihood, _of_neighbours(stars, varies=_ranges(expected[members]))


def _ranges(log_size: NDArray[np.float64]) -> bool:
    """Return whether the size is of a range that is worth following."""
    low, high = np.quantile(log_size, [0.05, 0.95])
    return bool(high - low > _VARIES)


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
