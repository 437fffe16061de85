"""Sizes, shapes and curves of growth of stars, and their medians and trends over many stars."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, cast

import numpy as np
import sep
from numpy.typing import ArrayLike, NDArray

from mlpsf.errors import PSFError

__all__ = [
    "DrawnPSF",
    "adaptive_moments",
    "drawn_at",
    "fit_surface",
    "growth_of",
    "median_and_error",
    "own_moments",
]

FloatArray = NDArray[np.float64]

_MEDIAN = 1.2533 * 1.4826  # error of a median, in units of MAD / sqrt(n)


class DrawnPSF(Protocol):
    """A PSF that can be judged: a `PSFModel`, or an object with the same `stamps` method."""

    @property
    def stamps(self) -> Any:
        """Function of x_offset, y_offset (n,) and size that returns (n, size, size)."""


def drawn_at(psf: DrawnPSF, x: FloatArray, y: FloatArray) -> Callable[..., Any]:
    """Return the `stamps` of a PSF, of the places (x, y) of n stars if it varies over the frame."""
    if not getattr(psf, "varies", False):
        return cast("Callable[..., Any]", psf.stamps)
    return partial(psf.stamps, at=(x, y))


def adaptive_moments(images: ArrayLike, sigma: float) -> FloatArray:
    """Measure many images by adaptive moments.

    Parameters
    ----------
    images : array_like, shape (n, size, size)
        Sky-subtracted and finite, each with a source within a few pixels of its middle.
    sigma : float
        Initial width of the sources in pixels.

    Returns
    -------
    ndarray, shape (n, 5)
        x and y from the middle, T = Mxx + Myy (pixels squared), e1 = (Mxx - Myy) / T and
        e2 = 2 Mxy / T; NaN where there is no source.

    Examples
    --------
    >>> y, x = np.mgrid[-12:13, -12:13]
    >>> star = np.exp(-0.5 * ((x - 0.3) ** 2 / 4.4 + y**2 / 3.6))
    >>> adaptive_moments(star[None], 2.0)[0].round(3) + 0.0
    array([0.3, 0. , 8. , 0.1, 0. ])
    """
    pixels = np.asarray(images, dtype=np.float64)
    n, size = len(pixels), pixels.shape[-1]
    grid = np.arange(size) - (size - 1) / 2
    cx, cy, xy = np.zeros(n), np.zeros(n), np.zeros(n)
    xx, yy = np.full(n, sigma**2), np.full(n, sigma**2)
    ok = np.ones(n, dtype=bool)
    for _ in range(200):
        dx = grid[None, None, :] - cx[:, None, None]
        dy = grid[None, :, None] - cy[:, None, None]
        det = xx * yy - xy**2
        a, b, c = ((v / det)[:, None, None] for v in (yy, xx, xy))
        light = pixels * np.exp(-0.5 * (a * dx**2 + b * dy**2 - 2 * c * dx * dy))
        total = light.sum(axis=(1, 2))
        ok &= total > 0
        total = np.where(ok, total, 1.0)
        mx, my = ((light * v).sum(axis=(1, 2)) / total for v in (dx, dy))
        # A Gaussian weighted by itself has half the variance.
        new = [2 * (light * v).sum(axis=(1, 2)) / total for v in (dx**2, dy**2, dx * dy)]
        ok &= (new[0] > 0) & (new[1] > 0) & (new[0] * new[1] > new[2] ** 2)
        ok &= (np.hypot(cx, cy) < size / 4) & (new[0] + new[1] < size**2)
        moved = np.abs(new[0] - xx) + np.abs(new[1] - yy) + np.abs(new[2] - xy)
        moved = np.where(ok, moved / (xx + yy) + np.abs(mx) + np.abs(my), 0.0)
        xx, yy, xy = (np.where(ok, v, old) for v, old in zip(new, (xx, yy, xy), strict=True))
        cx, cy = cx + 2 * np.where(ok, mx, 0.0), cy + 2 * np.where(ok, my, 0.0)
        if moved.max(initial=0.0) < 1e-7:
            break
    out = np.column_stack([cx, cy, xx + yy, (xx - yy) / (xx + yy), 2 * xy / (xx + yy)])
    out[~ok] = np.nan
    return out


def own_moments(psf: DrawnPSF) -> tuple[float, FloatArray]:
    """Return the FWHM of a Gaussian of the PSF's size, and its moments, at a pixel's centre."""
    size = int(getattr(psf, "size", 51))
    moments = adaptive_moments(np.asarray(psf.stamps([0.0], [0.0], size)), size / 16)[0]
    if not np.isfinite(moments).all():
        raise PSFError("The PSF has no moments: is there light at its centre?")
    t, e1, e2 = moments[2:]
    sigma = np.sqrt(t / 2) * (1 - e1**2 - e2**2) ** 0.25
    return float(getattr(psf, "fwhm", 2.3548 * sigma)), moments


def growth_of(images: FloatArray, x: FloatArray, y: FloatArray, radii: FloatArray) -> FloatArray:
    """Return the light of each image within each radius, with exact partial pixels; (n, m)."""
    middle = images.shape[-1] // 2
    return np.array(
        [
            sep.sum_circle(np.ascontiguousarray(image), a, b, radii, subpix=0)[0]
            for image, a, b in zip(
                images,
                (np.full(len(radii), middle + v) for v in x),
                (np.full(len(radii), middle + v) for v in y),
                strict=True,
            )
        ]
    ).reshape(len(images), len(radii))


def median_and_error(values: FloatArray, expected: FloatArray) -> tuple[float, float]:
    """Return the median and its error, from the scatter or, below 5 values, the expected noise."""
    middle, n = float(np.median(values)), len(values)
    if n < 5:
        return middle, float(1.2533 * np.sqrt(np.mean(expected**2) / n))
    return middle, float(_MEDIAN * np.median(np.abs(values - middle)) / np.sqrt(n))


def fit_surface(
    x: FloatArray, y: FloatArray, value: FloatArray, at: tuple[FloatArray, FloatArray]
) -> FloatArray:
    """Fit a clipped least-squares surface to n values; return it at the points of a grid."""
    order = 0 if len(x) < 6 else 1 if len(x) < 15 else 2
    powers = [(i, j) for i in range(order + 1) for j in range(order + 1 - i)]
    here = np.column_stack([x**i * y**j for i, j in powers])
    keep = np.ones(len(x), dtype=bool)
    for _ in range(4):
        solved = np.linalg.lstsq(here[keep], value[keep], rcond=None)[0]
        off = np.abs(value - here @ solved)
        keep = off <= 4 * 1.4826 * np.median(off) + 1e-12
    return np.asarray(
        sum(c * at[0] ** i * at[1] ** j for c, (i, j) in zip(solved, powers, strict=True))
    )
