"""Look for a second image of each star, as of a telescope that moved during the exposure."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from mlpsf.flags import OVEREXPOSED, Flag
from mlpsf.frames.near import pairs_within

__all__ = ["SecondImage", "second_image"]

_SNR = 10.0  # of sources that are compared
_MOST, _PAIRS = 400, 10_000  # of them, and of their pairs, the brightest
_FAINTEST = 0.1  # light of a second image, over the first; what optics scatter is fainter
_NEAR, _FAR = 1.0, 12.0  # FWHM between both: nearer ones are one image of another shape
_PLACE, _LIGHT = 0.25, 0.25  # FWHM, and in the logarithm of the light: pairs that are alike
_SHARE, _LEAST = 0.15, 8  # of the stars, and number of them, that have one
_ALONE = 2  # times as many as have any other displacement


class SecondImage(NamedTuple):
    """Where the second image of each star is.

    Attributes
    ----------
    gap : (float, float)
        Distance in x and y from the brighter to the fainter image, pixels.
    ratio : float
        Light of the fainter over that of the brighter.
    n_double, n_stars : int
        Stars of which both are found, and of which both would be seen.
    """

    gap: tuple[float, float]
    ratio: float
    n_double: int
    n_stars: int


def second_image(sources: Table, place: NDArray[np.float64]) -> SecondImage | None:
    """Look for one displacement, and one ratio of light, that many pairs of sources share.

    Parameters
    ----------
    sources : Table
        From `mlpsf.find_sources`.
    place : ndarray, shape (n, 2)
        Their x and y on the sky's image, pixels.

    Returns
    -------
    SecondImage or None

    Examples
    --------
    >>> from mlpsf import find_sources, simulate_frame
    >>> sim = simulate_frame(
    ...     shape=(400, 400), n_stars=60, flux_range=(3e3, 1e5), fwhm=3, double=(9, 4, 0.5), seed=2)
    >>> sources = find_sources(sim.frame)
    >>> found = second_image(sources, np.column_stack([sources["x"], sources["y"]]))
    >>> [round(float(v)) for v in found.gap], round(float(found.ratio), 1)
    ([9, 4], 0.5)
    """
    fwhm = float(sources.meta["fwhm"])
    # By their peaks: of two images near each other, the flux of each holds the other's.
    peak = np.nan_to_num(np.asarray(sources["peak"], dtype=np.float64))
    bright = np.nan_to_num(np.asarray(sources["snr"], dtype=np.float64)) > _SNR
    whole = np.asarray(sources["flags"]) & (OVEREXPOSED | Flag.TOO_NARROW) == 0
    rows = np.flatnonzero(bright & whole & (peak > 0) & np.isfinite(place).all(axis=1))
    rows = rows[np.argsort(-peak[rows], kind="stable")][:_MOST]
    if len(rows) < _LEAST:
        return None
    peak, place = peak[rows], place[rows]
    if not np.ptp(place):
        return None  # cutouts without places
    # From the brighter to the fainter of a pair, which the second image of all stars is.
    pairs = np.sort(pairs_within(place, _FAR * fwhm))
    pairs = pairs[np.argsort(pairs[:, 1], kind="stable")]
    ratio = peak[pairs[:, 1]] / peak[pairs[:, 0]]
    gap = place[pairs[:, 1]] - place[pairs[:, 0]]
    apart = np.flatnonzero((ratio > _FAINTEST) & (np.hypot(*gap.T) > _NEAR * fwhm))[:_PAIRS]
    pairs, ratio, gap = pairs[apart], ratio[apart], gap[apart]
    if not len(pairs):
        return None
    unit = max(_PLACE * fwhm, 0.5)
    kind = np.column_stack([gap / unit, np.log(ratio) / _LIGHT])
    near = pairs_within(kind, 1.0)
    count = 1 + np.bincount(near.ravel(), minlength=len(kind))
    best = int(np.argmax(count))
    alike = np.unique(np.append(near[(near == best).any(axis=1)], best))
    first, second = pairs[alike].T
    # Stars of which a second image would be seen, but for those that are second images.
    able = peak * ratio[best] > peak[pairs[:, 1].max()]
    able[second] = False
    n_stars = max(int(able.sum()), len(alike))
    # Chance, clusters, grids, and the pieces of a ring have many displacements, and chains.
    aside = [np.hypot(*(gap - sign * gap[best]).T) > 2 * unit for sign in (1, -1)]
    others = int(count[np.all(aside, axis=0)].max(initial=0))
    if len(alike) < max(_LEAST, _SHARE * n_stars, _ALONE * others):
        return None
    if np.isin(second, first).sum() > 0.5 * len(alike):
        return None
    x, y = np.median(gap[alike], axis=0)
    light = float(np.median(ratio[alike]))
    return SecondImage((float(x), float(y)), light, len(alike), n_stars)
