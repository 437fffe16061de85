"""Size, shape and centre of many sources at once, from Gaussian-weighted moments.

The weight is a round Gaussian matched to each source. It factors into a row and a column vector,
so all moments of all cutouts are two batched matrix products. The bias of the weight is corrected,
exactly for a Gaussian source: if ``M`` is the weighted second moment matrix and ``W`` that of the
weight, the matrix of the source is ``(M^-1 - W^-1)^-1`` (Bernstein & Jarvis 2002, AJ 123, 583,
section 3, for the adaptive-moment idea).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["FWHM_PER_SIGMA", "Moments", "gaussian_moments"]

FWHM_PER_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))
"""Ratio of FWHM to standard deviation of a Gaussian, 2.3548."""

_MIN_SIGMA = 0.45  # pixels; no image formed by the optics is narrower
_NOTHING = 1e-25  # smallest weight that counts
_MIN_WEIGHT = 1.2  # pixels; a narrower weight is itself undersampled and aliases


class Moments(NamedTuple):
    """Moments of n sources, each an array of shape (n,), lengths in pixels.

    `fwhm` is that of the Gaussian with the source's ``det(C)``. `e1` and `e2` are
    ``(Cxx - Cyy) / (Cxx + Cyy)`` and ``2 Cxy / (Cxx + Cyy)``. `flux` is that of the matched
    Gaussian. `ok` is False where the iteration found no source; the other values are then NaN.
    """

    dx: NDArray[np.float64]
    dy: NDArray[np.float64]
    fwhm: NDArray[np.float64]
    e1: NDArray[np.float64]
    e2: NDArray[np.float64]
    flux: NDArray[np.float64]
    ok: NDArray[np.bool_]

    @property
    def ellipticity(self) -> NDArray[np.float64]:
        """Return ``1 - b / a`` of each source, shape (n,)."""
        e = np.minimum(np.hypot(self.e1, self.e2), 0.999)
        return 1.0 - np.sqrt((1.0 - e) / (1.0 + e))


def gaussian_moments(
    cutouts: NDArray[np.floating],
    fwhm: float | NDArray[np.floating] = 4.0,
    *,
    n_iter: int = 25,
    tolerance: float = 1e-4,
    recentre: bool = True,
) -> Moments:
    """Measure background-subtracted cutouts, shape (n, size, size), size odd.

    Parameters
    ----------
    cutouts : ndarray, shape (n, size, size)
        Background-subtracted pixels, source near the centre; NaN counts as 0.
    fwhm : float or ndarray of shape (n,)
        Initial FWHM in pixels.
    n_iter : int
        Maximum number of iterations of matching the weight.
    tolerance : float
        A source has converged when its width changes by less than this fraction.
    recentre : bool
        Whether the weight follows the centroid.

    Returns
    -------
    Moments

    Examples
    --------
    >>> import numpy as np
    >>> y, x = np.mgrid[-12:13, -12:13]
    >>> star = np.exp(-0.5 * ((x - 0.3) ** 2 + y**2) / 2.0**2)
    >>> m = gaussian_moments(star[None])
    >>> [round(float(v[0]), 3) for v in (m.dx, m.fwhm, m.ellipticity)]
    [0.3, 4.71, 0.0]
    """
    pixels = np.nan_to_num(np.asarray(cutouts, dtype=np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    n, size = pixels.shape[0], pixels.shape[-1]
    half = (size - 1) / 2.0
    grid = np.arange(size) - half
    sigma = np.broadcast_to(np.asarray(fwhm, dtype=np.float64) / FWHM_PER_SIGMA, (n,)).copy()
    sigma = np.clip(sigma, 2.0 * _MIN_SIGMA, half / 2.0)
    last = sigma.copy()
    dx, dy, e1, e2 = (np.zeros(n) for _ in range(4))
    flux, det = np.full(n, np.nan), sigma**4
    ok = np.ones(n, dtype=bool)
    todo = np.arange(n)
    for _ in range(n_iter):
        if todo.size == 0:
            break
        s = np.maximum(sigma[todo], _MIN_WEIGHT)
        wx = _weighted_powers(grid, dx[todo], s)
        wy = _weighted_powers(grid, dy[todo], s)
        # m[:, j, i] is the sum of light * weight * y**j * x**i
        with np.errstate(over="ignore", invalid="ignore"):  # more than float32 holds
            m = np.ascontiguousarray(np.swapaxes(wy, 1, 2)) @ (pixels[todo] @ wx)
        m = m.astype(np.float64)
        held = np.isfinite(m).all(axis=(1, 2))
        m[~held] = 0.0
        light = m[:, 0, 0]
        good = light > 0
        light = np.where(good, light, 1.0)
        cx, cy = m[:, 0, 1] / light, m[:, 1, 0] / light
        mxx = m[:, 0, 2] / light - cx**2
        myy = m[:, 2, 0] / light - cy**2
        mxy = m[:, 1, 1] / light - cx * cy
        det_m = mxx * myy - mxy**2
        good &= (det_m > 0) & (mxx > 0)
        det_m = np.where(good, det_m, 1.0)
        # Remove the weight: subtract the inverse matrices.
        ixx, iyy, ixy = myy / det_m - 1 / s**2, mxx / det_m - 1 / s**2, -mxy / det_m
        det_i = ixx * iyy - ixy**2
        # The result can be negative if the weight is too narrow: widen it and retry.
        wide = good & ((det_i <= 0) | (ixx <= 0))
        det_i = np.where(wide | ~good, 1.0, det_i)
        det_c = np.where(wide, (1.5 * s) ** 4, 1.0 / det_i)
        new = np.clip(det_c**0.25, _MIN_SIGMA, half / 1.5)
        # Widths that go to and fro would end at one that rounding errors choose.
        turned = (new - sigma[todo]) * (sigma[todo] - last[todo]) < 0
        new = np.where(turned, np.sqrt(new * sigma[todo]), new)
        det_c = np.where(turned, new**4, det_c)
        last[todo] = sigma[todo]
        trace = np.where(ixx + iyy > 0, ixx + iyy, 1.0)
        e1[todo] = np.where(wide, 0.0, (iyy - ixx) / trace)
        e2[todo] = np.where(wide, 0.0, -2.0 * ixy / trace)
        # The weight reduces the centroid's shift by a factor of 1 + C / W for a Gaussian.
        if recentre:
            step = 1.0 + new**2 / s**2
            dx[todo] = np.clip(dx[todo] + np.clip(step * cx, -1, 1), -half / 2, half / 2)
            dy[todo] = np.clip(dy[todo] + np.clip(step * cy, -1, 1), -half / 2, half / 2)
        # The integral of a Gaussian C under a weight s is 1 / sqrt(det(1 + C / s^2)).
        flux[todo] = light * np.sqrt(1.0 + trace * det_c / s**2 + det_c / s**4)
        det[todo] = new**4
        ok[todo] = good & ~wide
        moved = (
            np.abs(new / sigma[todo] - 1) + recentre * (np.abs(cx) + np.abs(cy)) / s > tolerance
        ) & good
        sigma[todo] = new
        todo = todo[moved]
    at_bound = (sigma <= _MIN_SIGMA * 1.001) | (sigma >= half / 1.5 * 0.999)
    ok &= ~at_bound
    out = np.array([dx, dy, FWHM_PER_SIGMA * det**0.25, e1, e2, flux])
    out[:, ~ok] = np.nan
    return Moments._make([*out, ok])


def _weighted_powers(
    grid: NDArray[np.float64], centre: NDArray[np.float64], sigma: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return ``weight * (1, u, u**2)`` of u = grid - centre, shape (n, size, 3)."""
    u = grid[None, :] - centre[:, None]
    weight = np.exp(-0.5 * (u / sigma[:, None]) ** 2)
    # Products of subnormal numbers take a hundred times as long, and add nothing.
    weight[weight < _NOTHING] = 0.0
    return np.stack([weight, weight * u, weight * u * u], axis=2).astype(np.float32)
