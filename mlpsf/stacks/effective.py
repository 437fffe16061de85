"""The effective PSF: what fraction of a star's light falls into a pixel at any offset from it.

The pixel's response is part of it, so evaluating it at pixel centres gives a star's image without
any integration (Anderson & King 2000, PASP 112, 1360). It is held on a grid of ten points a pixel
with its first and second derivatives; a star anywhere is then one look-up of the nearest grid
points and a Taylor step of at most 0.05 pixel, the same arithmetic for all stars at once.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from mlpsf.errors import InputError, PSFError

__all__ = ["OVERSAMPLING", "EffectivePSF", "stack_stars"]

OVERSAMPLING = 10
"""Grid points a pixel, TRIPPy's own."""


class EffectivePSF:
    """An effective PSF on a grid of ten points a pixel.

    Parameters
    ----------
    grid : ndarray, shape (10 * 2 * half + 1,) * 2
        ``grid[c + 10 * j, c + 10 * i]``, c the centre index, is the fraction of the light in the
        pixel whose centre lies i columns and j rows from the star.

    Attributes
    ----------
    grid : ndarray of float64
        Read-only.
    half : int
        The PSF reaches this many pixels to each side, and is 0 beyond.
    """

    def __init__(self, grid: NDArray[np.floating]) -> None:
        grid = np.array(grid, dtype=np.float64)
        n = grid.shape[0]
        if grid.ndim != 2 or grid.shape != (n, n) or (n - 1) % (2 * OVERSAMPLING):
            raise InputError(
                "The grid of an effective PSF must be square, with a side of "
                f"{2 * OVERSAMPLING} * half + 1 points. Got shape {grid.shape}."
            )
        if not np.isfinite(grid).all():
            raise PSFError("The effective PSF holds values that are not finite.")
        grid.setflags(write=False)
        self.grid = grid
        self.half = (n - 1) // (2 * OVERSAMPLING)

    @cached_property
    def _padded(self) -> NDArray[np.float32]:
        """The grid, its slopes and curvatures a pixel, with an empty rim; shape (6, m, m)."""
        rim = _RIM * OVERSAMPLING
        step = np.float32(1.0 / OVERSAMPLING)
        p = np.pad(self.grid.astype(np.float32), rim)
        py, px = np.gradient(p, step)
        pyy, pyx = np.gradient(py, step)
        return np.stack([p, px, py, np.gradient(px, step, axis=1), pyx, pyy])

    def stamps(
        self, dx: NDArray[np.floating], dy: NDArray[np.floating], size: int
    ) -> NDArray[np.float32]:
        """Draw stars of flux 1.

        Parameters
        ----------
        dx, dy : ndarray, shape (n,)
            Offset of each star from the centre of the stamp's centre pixel, in pixels, at most
            4 either way.
        size : int
            Side of the stamps, odd.

        Returns
        -------
        ndarray of float32, shape (n, size, size)

        Examples
        --------
        >>> import numpy as np
        >>> u = np.arange(-60, 61) / 10
        >>> psf = EffectivePSF(np.exp(-0.5 * (u**2 + u[:, None] ** 2)) / (2 * np.pi))
        >>> star = psf.stamps(np.array([0.25]), np.array([0.0]), 11)[0]
        >>> round(float(star.sum()), 3), round(float((star.sum(0) * np.arange(-5, 6)).sum()), 3)
        (1.0, 0.25)
        """
        stamps: NDArray[np.float32] = self._evaluate(dx, dy, size, gradients=False)[0]
        return stamps

    def stamps_and_gradients(
        self, dx: NDArray[np.floating], dy: NDArray[np.floating], size: int
    ) -> NDArray[np.float32]:
        """Draw stars of flux 1 and the derivatives of their pixels by dx and by dy.

        Parameters and shapes are those of `stamps`; returns shape (3, n, size, size).
        """
        return self._evaluate(dx, dy, size, gradients=True)

    def _evaluate(
        self,
        dx: NDArray[np.floating],
        dy: NDArray[np.floating],
        size: int,
        *,
        gradients: bool,
    ) -> NDArray[np.float32]:
        dx, dy = np.asarray(dx, dtype=np.float64), np.asarray(dy, dtype=np.float64)
        half = size // 2
        inner = min(half, self.half + _MAX_SHIFT)  # beyond, there is nothing to draw
        kx, ky = np.rint(-dx * OVERSAMPLING), np.rint(-dy * OVERSAMPLING)
        tx = (-dx - kx / OVERSAMPLING).astype(np.float32)[:, None, None]
        ty = (-dy - ky / OVERSAMPLING).astype(np.float32)[:, None, None]
        fields = self._padded
        centre = (self.half + _RIM) * OVERSAMPLING
        col = centre + kx.astype(int) - inner * OVERSAMPLING
        row = centre + ky.astype(int) - inner * OVERSAMPLING
        span = 2 * inner * OVERSAMPLING + 1
        windows = sliding_window_view(fields, (span, span), axis=(1, 2))
        p, px, py, pxx, pxy, pyy = windows[:, row, col, ::OVERSAMPLING, ::OVERSAMPLING]
        shape = (3 if gradients else 1, len(dx), size, size)
        out = np.zeros(shape, dtype=np.float32) if inner < half else np.empty(shape, np.float32)
        mid = slice(half - inner, half + inner + 1)
        gx, gy = px + tx * pxx + ty * pxy, py + tx * pxy + ty * pyy
        out[0, :, mid, mid] = p + np.float32(0.5) * (tx * (px + gx) + ty * (py + gy))
        if gradients:
            # A star moving to the right moves the PSF's argument to the left.
            out[1, :, mid, mid], out[2, :, mid, mid] = -gx, -gy
        return out

    @classmethod
    def from_table(cls, full: NDArray[np.floating]) -> EffectivePSF:
        """Make it from TRIPPy's full PSF, light on tenths of pixels, shape (10 * size,) * 2.

        Its sum becomes 1.
        """
        full = np.asarray(full, dtype=np.float64)
        light = np.cumsum(np.cumsum(np.pad(full / full.sum(), ((1, 0), (1, 0))), 0), 1)
        k = OVERSAMPLING
        box = light[k:, k:] - light[:-k, k:] - light[k:, :-k] + light[:-k, :-k]
        return cls(box)

    def to_table(self, n_iter: int = 6) -> NDArray[np.float64]:
        """Return light on tenths of pixels, shape (10 * (2 * half + 1),) * 2, as TRIPPy holds it.

        The pixel is taken out again by Van Cittert's iteration, so that
        ``from_table(to_table())`` gives the PSF back.
        """
        wanted = np.pad(self.grid, OVERSAMPLING // 2)
        # The grid's points lie on the edges of the tenths: half a tenth to either side.
        light = _between(wanted)
        for _ in range(n_iter):
            light = light + _between(wanted - _box(light))
        return np.asarray(light / light.sum())


_MAX_SHIFT = 4  # pixels that a star may lie off the stamp's centre
_IN_CACHE = 100_000  # values at work at once
_RIM = 2 * _MAX_SHIFT + 1  # a stamp wide enough for a shifted star, shifted once more


def _between(grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of four neighbouring grid points: shape (m - 1, m - 1)."""
    return 0.25 * (grid[1:, 1:] + grid[:-1, 1:] + grid[1:, :-1] + grid[:-1, :-1])


def _box(light: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average over a pixel around every edge of tenths: shape (m + 1, m + 1)."""
    from scipy.ndimage import uniform_filter1d

    out = np.pad(light, ((0, 1), (0, 1)))
    for axis in (0, 1):
        # An even window of scipy reaches one more to the left: centred on an edge, as wanted.
        out = uniform_filter1d(out, OVERSAMPLING, axis=axis, mode="constant")
    return out


def stack_stars(
    cutouts: NDArray[np.floating],
    dx: NDArray[np.floating],
    dy: NDArray[np.floating],
    flux: NDArray[np.floating],
    half: int,
    *,
    n_iter: int = 3,
    clip: float = 3.0,
) -> EffectivePSF:
    """Make an effective PSF from stars.

    Each star, divided by its flux, is interpolated onto the grid around its own centre; the
    clipped mean of all is the PSF. Interpolation blurs, so what the PSF leaves of the stars
    when it is subtracted is stacked in the same way and added, `n_iter` times in all.

    Parameters
    ----------
    cutouts : ndarray, shape (n, size, size)
        Sky-subtracted; NaN marks pixels without data.
    dx, dy : ndarray, shape (n,)
        Offset of each star from the centre of its centre pixel.
    flux : ndarray, shape (n,)
        Flux of each star, positive; its weight grows with it, ever less beyond four times the
        median.
    half : int
        How far the PSF is to reach, in pixels.
    n_iter : int
        Rounds of stacking.
    clip : float
        Points further than this many standard deviations from the stars' median are left out.

    Returns
    -------
    EffectivePSF
        Normalised to a sum of 1 over pixels.

    Raises
    ------
    PSFError
        There is no star, or no light in them.
    """
    if len(cutouts) == 0:
        raise PSFError("No star to make a PSF of.")
    size = cutouts.shape[-1]
    half = min(half, size // 2)
    normalised = (cutouts / flux[:, None, None]).astype(np.float32)
    grid = np.zeros((2 * half * OVERSAMPLING + 1,) * 2)
    wx, wy = _to_grid(dx, half, size), _to_grid(dy, half, size)
    # A transposed view would keep numpy from handing the product to BLAS.
    wx = np.ascontiguousarray(np.swapaxes(wx, 1, 2))
    for _ in range(n_iter):
        residual = normalised - EffectivePSF(grid).stamps(dx, dy, size)
        missing = ~np.isfinite(residual)
        stars = wy @ (np.where(missing, np.float32(0), residual) @ wx)
        lost = np.zeros(stars.shape, dtype=bool)
        some = missing.any(axis=(1, 2))
        if some.any():
            share = np.abs(wy[some]) @ missing[some].astype(np.float32)
            lost[some] = share @ np.abs(wx[some]) > 0.1
        grid = grid + _clipped_mean(stars.astype(np.float32, copy=False), lost, flux, clip)
    total = grid[::OVERSAMPLING, ::OVERSAMPLING].sum()
    if not (np.isfinite(total) and total > 0):
        raise PSFError("The stars hold no light to make a PSF of: is the sky subtracted?")
    return EffectivePSF(grid / total)


def _to_grid(shift: NDArray[np.floating], half: int, size: int) -> NDArray[np.float32]:
    """Cubic-convolution weights of a cutout's pixels in each grid point, (n, points, size)."""
    points = np.arange(-half * OVERSAMPLING, half * OVERSAMPLING + 1) / OVERSAMPLING
    u = np.abs(np.arange(size) - size // 2 - (shift[:, None] + points)[:, :, None])
    near, far = u < 1, (u >= 1) & (u < 2)
    weight = np.where(near, (1.5 * u - 2.5) * u * u + 1.0, 0.0)
    weight += np.where(far, ((-0.5 * u + 2.5) * u - 4.0) * u + 2.0, 0.0)
    return weight.astype(np.float32)


def _clipped_mean(
    stars: NDArray[np.float32],
    lost: NDArray[np.bool_],
    flux: NDArray[np.floating],
    clip: float,
) -> NDArray[np.float64]:
    """Weighted mean over stars of each grid point, outliers and lost points left out."""
    # One star far brighter than the rest must not be the whole PSF: it knows one phase only.
    share = (flux / (flux + 4 * np.median(flux))).astype(np.float32)
    n, ny, nx = stars.shape
    mean = np.empty((ny, nx))
    step = max(_IN_CACHE // (n * nx), 1)
    for start in range(0, ny, step):
        part = slice(start, start + step)
        # Points by stars: what is sorted and added up lies together in memory.
        values = np.ascontiguousarray(stars[:, part].reshape(n, -1).T)
        keep = ~lost[:, part].reshape(n, -1).T
        if n >= 4:
            off = np.abs(values - _median(values)[:, None])
            keep &= off <= (clip * np.float32(1.4826) * _median(off) + np.float32(1e-7))[:, None]
        weight = keep * share
        total = weight.sum(axis=1)
        weight *= values
        mean[part] = (weight.sum(axis=1) / np.where(total > 0, total, 1.0)).reshape(-1, nx)
    return mean


def _median(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Median of each row: sorting short rows is several times faster than np.median."""
    ordered = np.sort(values, axis=1)
    n = values.shape[1]
    middle: NDArray[np.float32] = np.float32(0.5) * (ordered[:, (n - 1) // 2] + ordered[:, n // 2])
    return middle
