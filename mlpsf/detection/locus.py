"""Tell a frame's stars from its other sources by the size and shape that they share.

The stars' size is a polynomial of the place, and so is their shape. Other sources are of any size
and shape, spread more widely than stars: in a cluster of galaxies most sources are round and of
about one size, but none as narrow as the few stars, and no two of them as alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["TERMS", "WIDTHS", "Locus", "evidence", "fitted", "powers_of", "surface"]

TERMS = (1, 3, 6, 10)
"""Terms of polynomials in x and y of order 0 to 3."""

WIDTHS = (0.3, 0.15, 0.08, 0.05)
"""Widths in log size that a fit begins with; the last is the widest that stars may scatter."""

_NARROWEST = 0.008  # of stars, in log size
_SHAPES = 1.6  # most scatter of stars in e1 and e2, over that in log size: as their errors are
_KERNEL = 0.12  # of the others' density in log size
_SMOOTHER = 2.4  # times as wide is that kernel, at least, as stars may scatter: no cluster of stars
_STEP, _RANGE = 0.02, 2.0  # of the log sizes at which that density is found
_ANY_SIZE = 0.3  # density in log size of a source of which nothing is known
_ANY_SCALE = 0.2  # scale of the ellipticity of such a source
_MOST_SCALE = 0.25  # of that of the others
_NARROWER = 0.1  # than stars, in log size
_FEW_NARROWER = 2.0  # their number n is as likely as (1 + n) to this negative power
_SHARE = 0.6  # of stars among the sources, with which a fit begins
_SHARES = 0.02, 0.97  # least and most
_A_TERM = 2.0  # stars for each term, at least: any three lie on a plane
_RIDGE = 1e-3  # sources' worth of zero in each term, where there are too few for it


class Locus(NamedTuple):
    """The stars among the sources: of about the expected size and shape.

    The others are galaxies and blends, of a density that is smooth on the scale on which stars are
    alike, and few that are narrower, since nothing that came through the optics is narrower than a
    star. For mixtures that tell outliers see Hogg, Bovy & Lang 2010, arXiv:1008.4686, section 3;
    for their fit Dempster, Laird & Rubin 1977, J. R. Stat. Soc. B 39, 1.

    Attributes
    ----------
    off : ndarray, shape (n, 3)
        Differences of the sources from what is expected of a star, in log size, e1 and e2.
    width, spread : float
        Standard deviation of stars in log size, and in e1 and e2.
    share : float
        Of the stars among the sources.
    others : ndarray, shape (n,)
        Density, at each source, of what is no star.
    """

    off: NDArray[np.float64]
    width: float
    spread: float
    share: float
    others: NDArray[np.float64]

    @classmethod
    def begun(cls, off: NDArray[np.float64], width: float, share: float) -> Locus:
        """Return a locus of a width, when nothing is known yet of which sources are stars."""
        return cls(off, width, _SHAPES * width, share, _density(off, np.ones(len(off)), width))

    @property
    def of_stars(self) -> NDArray[np.float64]:
        """Density of the stars at each source, of all sources."""
        size, shape = self.off[:, 0] / self.width, self.off[:, 1:] / self.spread
        peak = self.share / (self.width * self.spread**2 * (2 * np.pi) ** 1.5)
        return np.asarray(peak * np.exp(-0.5 * (size**2 + (shape**2).sum(axis=1))))

    @property
    def of_others(self) -> NDArray[np.float64]:
        """Density of the others at each source, of all sources."""
        return (1 - self.share) * self.others

    @property
    def is_star(self) -> NDArray[np.float64]:
        """Probability that each source is one of the stars."""
        stars = self.of_stars
        return stars / (stars + self.of_others)

    @property
    def log_likelihood(self) -> float:
        """Log-likelihood of all sources, and of how many are narrower than stars."""
        each = np.log(self.of_stars + self.of_others)
        narrower = (1 - self.is_star)[self.off[:, 0] < -_NARROWER].sum()
        return float(each.sum() - _FEW_NARROWER * np.log1p(narrower))

    def updated(self, off: NDArray[np.float64], widest: float) -> Locus:
        """Return the locus of what are stars at other differences.

        Which are, is told with the density of the others as it was at these; the next update has
        that of the new differences. So the likelihood may fall in a step, but not where it settles.

        Parameters
        ----------
        off : ndarray, shape (n, 3)
        widest : float
            Largest standard deviation in log size that stars may have.
        """
        weight = self._replace(off=off).is_star
        n = max(float(weight.sum()), 1e-9)
        width, *spread = np.sqrt((weight[:, None] * off**2).sum(axis=0) / n)
        return Locus(
            off,
            float(np.clip(width, _NARROWEST, widest)),
            float(np.clip(np.hypot(*spread) / np.sqrt(2), _SHAPES * _NARROWEST, _SHAPES * widest)),
            float(np.clip(weight.mean(), *_SHARES)),
            _density(off, 1 - weight, widest),
        )


def _density(
    off: NDArray[np.float64], weight: NDArray[np.float64], widest: float
) -> NDArray[np.float64]:
    """Return the density at each source of sources that count by a weight, shape (n,).

    It is smooth in log size and falls exponentially with the ellipticity, as that of galaxies.
    """
    n = weight.sum()
    place = np.clip((off[:, 0] + _RANGE) / _STEP, 0, 2 * _RANGE / _STEP - 1e-6)
    below = place.astype(np.intp)
    part = place - below
    count = round(2 * _RANGE / _STEP) + 1
    sizes = np.bincount(below, weight * (1 - part), count)
    sizes += np.bincount(below + 1, weight * part, count)
    kernel = max(_KERNEL, _SMOOTHER * widest) / _STEP
    reach = np.arange(-int(4 * kernel), int(4 * kernel) + 1)
    gauss = np.exp(-0.5 * (reach / kernel) ** 2) / (_STEP * kernel * np.sqrt(2 * np.pi))
    smooth = np.convolve(np.pad(sizes, len(reach) // 2), gauss, "valid")
    in_size = (smooth[below] * (1 - part) + smooth[below + 1] * part + _ANY_SIZE) / (n + 1)
    ellipticity = np.hypot(off[:, 1], off[:, 2])
    mean = ((weight * ellipticity).sum() + 2 * _ANY_SCALE) / (n + 1)
    scale = max(min(0.5 * mean, _MOST_SCALE), _SHAPES * widest)  # wider than stars may scatter
    return np.asarray(in_size * np.exp(-ellipticity / scale) / (2 * np.pi * scale**2))


def evidence(locus: Locus, n_terms: int) -> float:
    """Return the log-likelihood less what terms gain by chance (Schwarz 1978, Ann. Stat. 6, 461).

    Parameters
    ----------
    locus : Locus
    n_terms : int
        Of the polynomial of the log size. Those of the shape are as many in all fits.
    """
    return locus.log_likelihood - 0.5 * (n_terms - 1) * float(np.log(len(locus.off)))


def powers_of(
    place: NDArray[np.float64], among: NDArray[np.float64], count: int
) -> NDArray[np.float64]:
    """Return the first powers of x and y; places beyond the range of `among` move to its border.

    Parameters
    ----------
    place : ndarray, shape (n, 2)
        Positions in pixels.
    among : ndarray, shape (m, 2)
        Positions whose wider range is scaled to -1 to 1.
    count : int
        One of `TERMS`.

    Returns
    -------
    ndarray, shape (n, count)
    """
    low, high = among.min(axis=0), among.max(axis=0)
    # One scale for both axes: of sources in a row, what is across it is not told.
    scale = max(float((high - low).max()), 1.0) / 2
    x, y = ((np.clip(place, low, high) - (low + high) / 2) / scale).T
    powers = [np.ones_like(x), x, y, x * x, x * y, y * y, x**3, x * x * y, x * y * y, y**3]
    return np.column_stack(powers[:count])


def surface(
    place: NDArray[np.float64],
    values: NDArray[np.float64],
    starts: list[NDArray[np.float64]],
    least: float,
) -> tuple[NDArray[np.float64], Locus] | None:
    """Fit the stars' log size as a polynomial of the place, of the order that is most likely.

    Parameters
    ----------
    place : ndarray, shape (n, 2)
        Positions of the sources in pixels.
    values : ndarray, shape (n, 3)
        Their log size, e1 and e2.
    starts : list of ndarray, shape (n,)
        Log sizes that stars may have at each source, with which fits begin.
    least : float
        Of a fit of less evidence no other order is tried.

    Returns
    -------
    terms : ndarray
        Of `powers_of` the places among themselves.
    locus : Locus
        None instead of both, if there are too few stars for a plane.
    """
    shape = powers_of(place, place, TERMS[1])
    fits: list[tuple[NDArray[np.float64], Locus]] = []
    for count in (TERMS[2], TERMS[1], TERMS[3]):  # the second order is the most usual
        if len(place) < _A_TERM * count:
            continue
        powers = powers_of(place, place, count)
        begin = [*starts, *(powers_of(place, place, len(t)) @ t for t, _ in fits[-1:])]
        tries = [fitted(powers, shape, values, start, WIDTHS) for start in begin]
        fit = max(tries, key=lambda fit: fit[1].log_likelihood)
        if round(fit[1].share * len(place)) < _A_TERM * count:
            continue
        fits.append(fit)
        if evidence(fits[0][1], len(fits[0][0])) < least:
            break
    return max(fits, key=lambda fit: evidence(fit[1], len(fit[0])), default=None)


def fitted(
    powers: NDArray[np.float64],
    shape: NDArray[np.float64],
    values: NDArray[np.float64],
    start: NDArray[np.float64],
    widths: Sequence[float],
) -> tuple[NDArray[np.float64], Locus]:
    """Fit polynomials to the stars' log size, e1 and e2, and tell stars from others by them.

    The fit begins at a log size, with a locus as wide as the first of the widths, and narrows.

    Parameters
    ----------
    powers, shape : ndarray, shape (n, k) and (n, m)
        Terms of the log size, and of e1 and e2, at each source.
    values : ndarray, shape (n, 3)
        Log size, e1 and e2.
    start : ndarray, shape (n,)
    widths : sequence of float
        One for each step; three more are of the last of `WIDTHS`.

    Returns
    -------
    terms : ndarray, shape (k,)
    locus : Locus
    """
    off = values - np.column_stack(
        [start, *np.tile(np.median(values[:, 1:], axis=0), (len(start), 1)).T]
    )
    widths = [*widths, *3 * [WIDTHS[-1]]]
    locus = Locus.begun(off, widths[0], _SHARE)
    terms = np.zeros(powers.shape[1])
    for widest in widths:
        locus = locus.updated(locus.off, widest)
        for _ in range(2):
            weight = locus.is_star[:, None]
            terms = _least_squares(powers, values[:, :1], weight)
            expected = np.hstack(
                [powers @ terms, shape @ _least_squares(shape, values[:, 1:], weight)]
            )
            locus = locus.updated(values - expected, widest)
    return terms[:, 0], locus


def _least_squares(
    powers: NDArray[np.float64], values: NDArray[np.float64], weight: NDArray[np.float64]
) -> NDArray[np.float64]:
    weighted = powers * weight
    normal = powers.T @ weighted + _RIDGE * np.eye(powers.shape[1])
    return np.asarray(np.linalg.solve(normal, weighted.T @ values))
