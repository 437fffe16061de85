"""Pixels of the stars that a PSF is solved from, and its initial profile."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, uniform_filter
from scipy.optimize import least_squares

from mlpsf.errors import PSFError
from mlpsf.psf.solver.basis import Moffat, Quadrature

__all__ = ["StarPixels", "first_profile", "median_of", "struck_pixels"]

FloatArray = NDArray[np.float64]

# The rings of a diffraction pattern are no wings: a profile with wings so bright would be a cusp.
# Nor is its core without wings: of a profile that has none, no factor makes any.
_LEAST_BETA, _MOST_BETA = 2.5, 5.0

_OUTLIER, _NEIGHBOUR = 4.5, 4.0  # sigma: of one pixel, and of the light in a square of one FWHM


@dataclass(frozen=True, eq=False)
class StarPixels:
    """Cutouts of n stars.

    Attributes
    ----------
    data : (n, side, side) array
        Background-subtracted pixels.
    bad : (n, side, side) array of bool
        Pixels without data.
    x, y : (n,) arrays
        Centres, from the centre of the lower left pixel.
    noise : (n,) array
        Noise of a sky pixel.
    gain : float
        Electrons per unit of data; infinite if unknown.
    fwhm : float
        Approximate FWHM in pixels.
    """

    data: FloatArray
    bad: NDArray[np.bool_]
    x: FloatArray
    y: FloatArray
    noise: FloatArray
    gain: float
    fwhm: float

    def __len__(self) -> int:
        return len(self.data)

    def offsets(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the pixels' x and y from positions in the cutouts, each (n, side, side)."""
        offset = np.arange(self.data.shape[1])
        u, v = (offset - x[:, None])[:, None, :], (offset - y[:, None])[:, :, None]
        both = np.broadcast_arrays(u, v)
        return np.ascontiguousarray(both[0]), np.ascontiguousarray(both[1])


def first_profile(stars: StarPixels) -> Moffat:
    """Fit one elliptical Moffat profile to the cores of all stars at once, robustly.

    Raises
    ------
    PSFError
        If no star has light.
    """
    u, v = stars.offsets(stars.x, stars.y)
    square = u**2 + v**2
    inner = (square < (1.5 * stars.fwhm) ** 2) & ~stars.bad
    flux = np.where(inner, stars.data, 0.0).sum(axis=(1, 2))
    near = (square < (2.5 * stars.fwhm) ** 2) & ~stars.bad & (flux > 0)[:, None, None]
    if not near.any():
        raise PSFError("no star has light above the background at its position")
    light = stars.data[near] / np.broadcast_to(flux[:, None, None], near.shape)[near]
    u, v = u[near], v[near]
    if len(u) > 4000:  # enough for five parameters
        some = np.random.default_rng(0).choice(len(u), 4000, replace=False)
        u, v, light = u[some], v[some], light[some]
    top = float(np.percentile(light, 99.8))
    quadrature = Quadrature(((3 if stars.fwhm < 3 else 2, np.inf),))

    def profile(p: FloatArray) -> Moffat:
        return Moffat(float(np.exp(p[1])), float(1 + np.exp(p[2])), float(p[3]), float(p[4]))

    def miss(p: FloatArray) -> FloatArray:
        return np.asarray((p[0] * quadrature.sum(profile(p), u, v) - light) / top)

    fit = least_squares(
        miss,
        [1.1, np.log(stars.fwhm), np.log(2.0), 0.0, 0.0],
        loss="soft_l1",
        f_scale=0.01,
        x_scale=[0.1, 0.1, 0.1, 0.02, 0.02],
        bounds=(
            [0.3, np.log(0.2), np.log(_LEAST_BETA - 1), -0.65, -0.65],
            [5, np.log(99), np.log(_MOST_BETA - 1), 0.65, 0.65],
        ),
    )
    return profile(fit.x)


def median_of(images: FloatArray) -> FloatArray:
    """Return the median of finite values over the first axis; 0 where there are none."""
    ordered = np.sort(np.moveaxis(images, 0, -1), axis=-1)  # NaN sorts last
    count = np.isfinite(ordered).sum(axis=-1, keepdims=True)
    low, high = np.maximum(count - 1, 0) // 2, np.minimum(count // 2, ordered.shape[-1] - 1)
    middle = 0.5 * (
        np.take_along_axis(ordered, low, -1)
        + np.take_along_axis(ordered, np.minimum(high, np.maximum(count - 1, 0)), -1)
    )
    return np.where(count > 0, middle, 0.0)[..., 0]


def struck_pixels(ratio: FloatArray, fwhm: float) -> NDArray[np.bool_]:
    """Return which pixels hold light of other sources, or none of any source.

    Parameters
    ----------
    ratio : (n, side, side) array
        What the PSF leaves of each star, over its error.
    fwhm : float

    Returns
    -------
    (n, side, side) array of bool
    """
    width = max(3, round(fwhm) | 1)
    grow = max(1, round(0.5 * fwhm))
    cross = np.array([[[0, 1, 0], [1, 1, 1], [0, 1, 0]]], dtype=bool)
    near = uniform_filter(ratio, (1, width, width)) * width > _NEIGHBOUR
    return np.asarray(binary_dilation(near, cross, iterations=grow) | (np.abs(ratio) > _OUTLIER))
