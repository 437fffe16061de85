"""Find the level from which a frame's stars grow with their brightness.

Photographic plates, films and many fast cameras lose response long before they clip: a star's core
is pressed down, and the star looks wider. No header tells that level; the stars do.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["linear_limit"]

GROWTH = 0.02
"""Growth of a star's width, relative, from which it is no image of the PSF.

A star that grew so has lost 4 to 7 per cent of its peak, if the response is a plate's.
"""

_FEWEST = 20  # stars
_NEAR = 0.25  # largest logarithm of a star's width over that at its place, to be looked at
_SURE = 6.0  # standard deviations of the slope; of 56 simulated linear frames none had 4
_STEEP = 0.06  # growth up to the brightest stars; the brighter-fatter effect of CCDs is 0.02
_BRIGHTEST = 0.98  # quantile of the peaks
_CLIP = 4.0  # standard deviations, for Tukey's weights
_EXACT = 0.005  # smallest scatter of the widths that is believed
_STEPS = 15


def linear_limit(peak: NDArray[np.float64], growth: NDArray[np.float64]) -> float:
    """Return the peak above which stars are wider than the fainter ones.

    A line is fitted to width against peak, with less weight for what is no star.

    Parameters
    ----------
    peak : ndarray, shape (n,)
        Highest pixel of each source above the sky, positive.
    growth : ndarray, shape (n,)
        Logarithm of the width of each over that of the stars at its place.

    Returns
    -------
    float
        In the unit of `peak`; infinite where the stars do not grow, or are too few to tell.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> peak = rng.uniform(100, 1e4, 60)
    >>> off = rng.normal(0, 0.01, 60)
    >>> linear_limit(peak, off)
    inf
    >>> round(linear_limit(peak, off + 2e-5 * peak), -2)
    1000.0
    """
    near = np.abs(growth) < _NEAR
    if near.sum() < _FEWEST:
        return np.inf
    top = float(np.quantile(peak[near], _BRIGHTEST))
    terms = np.column_stack([np.ones(near.sum()), peak[near] / top])
    width = growth[near]
    line = np.array([np.median(width), 0.0])
    for _ in range(_STEPS):
        off = width - terms @ line
        scatter = max(1.4826 * float(np.median(np.abs(off))), _EXACT)
        weight = np.clip(1 - (off / (_CLIP * scatter)) ** 2, 0, None) ** 2
        normal = terms.T @ (terms * weight[:, None]) + 1e-9 * np.eye(2)
        line = np.linalg.solve(normal, terms.T @ (weight * width))
    slope, error = line[1], scatter * np.sqrt(np.linalg.inv(normal)[1, 1])
    if slope < _STEEP or slope < _SURE * error:
        return np.inf
    return float(top * GROWTH / slope)
