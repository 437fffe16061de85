"""The effective PSF: the fraction of a star's light in a pixel at any offset from the star.

It includes the pixel response, so evaluating it at pixel centres gives a star's image without
integration (Anderson & King 2000, PASP 112, 1360). It is stored on a grid of ten points per pixel
with its first and second derivatives. A star is drawn by looking up the nearest grid points and a
Taylor step of at most 0.05 pixel, for all stars at once.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from mlpsf.errors import InputError, PSFError

__all__ = ["OVERSAMPLING", "EffectivePSF", "stack_stars"]

OVERSAMPLING = 10
"""Grid points per pixel, as in TRIPPy."""


class EffectivePSF:
    """An effective PSF on a grid of ten points per pixel.

    Parameters
    ----------
    grid : ndarray, shape (10 * 2 * half + 1,) * 2
        ``grid[c + 10 * j, c + 10 * i]``, with c the centre index, is the fraction of the light in
        the pixel whose centre is i columns and j rows from the star.

    Attributes
    ----------
    grid : ndarray of float64
        Read-only.
    half : int
        The PSF extends this many pixels to each side and is 0 beyond.
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
        """Return the grid, its slopes and curvatures per pixel, padded by 0.

        Shape (6, 10, 10, m, m): for each tenth of a pixel in y and x its points, a pixel apart, so
        that the values of a stamp are beside each other.
        """
        step = np.float32(1.0 / OVERSAMPLING)
        # A pixel of 0 around the grid holds all of its slopes and curvatures.
        p = np.pad(self.grid.astype(np.float32), ((OVERSAMPLING, 2 * OVERSAMPLING - 1),) * 2)
        py, px = np.gradient(p, step)
        pyy, pyx = np.gradient(py, step)
        n, m = len(p) // OVERSAMPLING, 2 * (self.half + _RIM) + 1
        out = np.zeros((6, OVERSAMPLING, OVERSAMPLING, m, m), dtype=np.float32)
        inner = slice(_RIM - 1, _RIM - 1 + n)
        for field, values in zip(
            out, (p, px, py, np.gradient(px, step, axis=1), pyx, pyy), strict=True
        ):
            tenths = values.reshape(n, OVERSAMPLING, n, OVERSAMPLING)
            field[:, :, inner, inner] = tenths.transpose(1, 3, 0, 2)
        return out

    def stamps(
        self, dx: NDArray[np.floating], dy: NDArray[np.floating], size: int
    ) -> NDArray[np.float32]:
        """Draw stars of flux 1.

        Parameters
        ----------
        dx, dy : ndarray, shape (n,)
            Offset of each star from the centre of the stamp's centre pixel, in pixels. A star so
            far off that none of its light is in the stamp gives 0.
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
        """Draw stars of flux 1 and the derivatives of their pixels with respect to dx and dy.

        Parameters are those of `stamps`. Returns an array of shape (3, n, size, size).
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
        far = max(np.abs(dx).max(initial=0.0), np.abs(dy).max(initial=0.0))
        if not far <= _MAX_SHIFT:
            return self._evaluate_far(dx, dy, size, gradients=gradients)
        inner = min(half, self.half + _MAX_SHIFT)  # the PSF is 0 beyond
        kx, ky = np.rint(-dx * OVERSAMPLING), np.rint(-dy * OVERSAMPLING)
        tx = (-dx - kx / OVERSAMPLING).astype(np.float32)[:, None, None]
        ty = (-dy - ky / OVERSAMPLING).astype(np.float32)[:, None, None]
        fields = self._padded
        centre = (self.half + _RIM) * OVERSAMPLING
        col, x_tenth = np.divmod(centre + kx.astype(int), OVERSAMPLING)
        row, y_tenth = np.divmod(centre + ky.astype(int), OVERSAMPLING)
        windows = sliding_window_view(fields, (2 * inner + 1,) * 2, axis=(3, 4))
        p, px, py, gx, gy, pyy = windows[:, y_tenth, x_tenth, row - inner, col - inner]
        shape = (3 if gradients else 1, len(dx), size, size)
        out = np.zeros(shape, dtype=np.float32) if inner < half else np.empty(shape, np.float32)
        mid = slice(half - inner, half + inner + 1)
        # In place: gx and gy are the curvatures xx and xy first, and the slopes there at the end.
        gx *= tx
        gx += px
        gx += ty * gy
        gy *= tx
        gy += py
        pyy *= ty
        gy += pyy
        # p + (tx (px + gx) + ty (py + gy)) / 2
        px += gx
        px *= tx
        py += gy
        py *= ty
        px += py
        px *= np.float32(0.5)
        np.add(p, px, out=out[0, :, mid, mid])
        if gradients:
            # A star moving to the right moves the PSF's argument to the left.
            np.negative(gx, out=out[1, :, mid, mid])
            np.negative(gy, out=out[2, :, mid, mid])
        return out

    def _evaluate_far(
        self,
        dx: NDArray[np.floating],
        dy: NDArray[np.floating],
        size: int,
        *,
        gradients: bool,
    ) -> NDArray[np.float32]:
        """Draw stars beyond the padding of the grid: by whole pixels from a larger stamp."""
        steps = np.rint(dx), np.rint(dy)
        out = np.zeros((3 if gradients else 1, len(dx), size, size), dtype=np.float32)
        span = 2 * (self.half + 1) + 1  # holds all the light
        for i, (sx, sy) in enumerate(zip(*steps, strict=True)):
            reach = size // 2 + span // 2
            if not (abs(sx) <= reach and abs(sy) <= reach):
                continue
            x, y = (np.array([v[i] - s]) for v, s in zip((dx, dy), (sx, sy), strict=True))
            star = self._evaluate(x, y, span, gradients=gradients)[:, 0]
            (to_x, from_x), (to_y, from_y) = (_overlap(size, span, int(s)) for s in (sx, sy))
            out[:, i, to_y, to_x] = star[:, from_y, from_x]
        return out

    @classmethod
    def from_table(cls, full: NDArray[np.floating]) -> EffectivePSF:
        """Create from TRIPPy's full PSF: light on tenths of pixels, shape (10 * size,) * 2.

        The sum is normalised to 1.
        """
        full = np.asarray(full, dtype=np.float64)
        light = np.cumsum(np.cumsum(np.pad(full / full.sum(), ((1, 0), (1, 0))), 0), 1)
        k = OVERSAMPLING
        box = light[k:, k:] - light[:-k, k:] - light[k:, :-k] + light[:-k, :-k]
        return cls(box)

    def to_table(self, n_iter: int = 6) -> NDArray[np.float64]:
        """Return light on tenths of pixels, shape (10 * (2 * half + 1),) * 2, as in TRIPPy.

        The pixel response is removed by Van Cittert's iteration, so that
        ``from_table(to_table())`` returns the same PSF.
        """
        wanted = np.pad(self.grid, OVERSAMPLING // 2)
        # Grid points are on the edges of the tenths of pixels, not at their centres.
        light = _between(wanted)
        for _ in range(n_iter):
            light = light + _between(wanted - _box(light))
        return np.asarray(light / light.sum())


_MAX_SHIFT = 4  # pixels, largest offset of a star from the stamp's centre
_IN_CACHE = 100_000  # values processed at once
_AGREE = np.float32(2e-3)  # of the light: smaller differences are no reason to clip
_SOFT = np.float32(3.0)  # the limit of clipping over the range in which weights fall
_TRACE = np.float32(1e-3)  # weight of the median, beside that of the star that counts most
_FEWEST_CLIPPED = 4  # stars
_RIM = 2 * _MAX_SHIFT + 1  # padding: twice the largest offset and one pixel


def _overlap(size: int, span: int, step: int) -> tuple[slice, slice]:
    """Return the common part of two rows of odd length, the second moved by whole pixels."""
    start = size // 2 + step - span // 2
    low, high = max(start, 0), max(min(start + span, size), max(start, 0))
    return slice(low, high), slice(low - start, high - start)


def _between(grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of four neighbouring grid points, shape (m - 1, m - 1)."""
    return 0.25 * (grid[1:, 1:] + grid[:-1, 1:] + grid[1:, :-1] + grid[:-1, :-1])


def _box(light: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average over a pixel around each edge of the tenths, shape (m + 1, m + 1)."""
    from scipy.ndimage import uniform_filter1d

    out = np.pad(light, ((0, 1), (0, 1)))
    for axis in (0, 1):
        # SciPy extends an even window by one more to the left, which centres it on an edge.
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
    weight: NDArray[np.floating] | None = None,
) -> EffectivePSF:
    """Build an effective PSF from stars.

    Each star is divided by its flux and interpolated onto the grid around its centre. The PSF is
    the clipped mean of all stars. Interpolation blurs, so the residuals after subtracting the PSF
    are stacked in the same way and added; there are `n_iter` rounds in all.

    Parameters
    ----------
    cutouts : ndarray, shape (n, size, size)
        Sky-subtracted; NaN marks pixels without data.
    dx, dy : ndarray, shape (n,)
        Offset of each star from the centre of its centre pixel.
    flux : ndarray, shape (n,)
        Flux of each star, positive. The weight of a star grows with its flux, more slowly beyond
        four times the median.
    half : int
        Half-width of the PSF in pixels.
    n_iter : int
        Number of rounds of stacking.
    clip : float
        Values more than about this many standard deviations from the stars' median are left out.
    weight : ndarray, shape (n,), optional
        Factors on the weights of the stars.

    Returns
    -------
    EffectivePSF
        Normalised to a sum of 1 over its pixels.

    Raises
    ------
    PSFError
        If there are no stars, or no light in them.
    """
    # A star without light would be divided by 0, and one beside its cutout shows nothing.
    far = np.maximum(np.abs(dx), np.abs(dy)) > cutouts.shape[-1] // 2
    use = np.isfinite(flux) & (flux > 0) & np.isfinite(dx) & np.isfinite(dy) & ~far
    if not use.any():
        raise PSFError("No star to make a PSF of.")
    weight = np.ones(len(flux)) if weight is None else np.asarray(weight)
    if not use.all():
        cutouts, dx, dy, flux, weight = (v[use] for v in (cutouts, dx, dy, flux, weight))
    # A single very bright star must not dominate the PSF: it samples only one sub-pixel phase.
    weight = weight * flux / (flux + 4 * np.median(flux))
    size = cutouts.shape[-1]
    half = min(half, size // 2)
    normalised = (cutouts / flux[:, None, None]).astype(np.float32)
    grid = np.zeros((2 * half * OVERSAMPLING + 1,) * 2)
    wx, wy = _to_grid(dx, half, size), _to_grid(dy, half, size)
    # With a transposed view NumPy would not use BLAS for the product.
    wx = np.ascontiguousarray(np.swapaxes(wx, 1, 2))
    for k in range(n_iter):
        residual = normalised
        if k:
            residual = normalised - EffectivePSF(grid).stamps(dx, dy, size)
        missing = ~np.isfinite(residual)
        stars = wy @ (np.where(missing, np.float32(0), residual) @ wx)
        lost = np.zeros(stars.shape, dtype=bool)
        some = missing.any(axis=(1, 2))
        if some.any():
            share = np.abs(wy[some]) @ missing[some].astype(np.float32)
            lost[some] = share @ np.abs(wx[some]) > 0.1
        grid = grid + _clipped_mean(stars.astype(np.float32, copy=False), lost, weight, clip)
    total = grid[::OVERSAMPLING, ::OVERSAMPLING].sum()
    if not (np.isfinite(total) and total > 0):
        raise PSFError("The stars hold no light to make a PSF of: is the sky subtracted?")
    return EffectivePSF(grid / total)


def _to_grid(shift: NDArray[np.floating], half: int, size: int) -> NDArray[np.float32]:
    """Return cubic-convolution weights of pixels for each grid point, (n, points, size)."""
    points = np.arange(-half * OVERSAMPLING, half * OVERSAMPLING + 1) / OVERSAMPLING
    u = np.abs(np.arange(size) - size // 2 - (shift[:, None] + points)[:, :, None])
    near, far = u < 1, (u >= 1) & (u < 2)
    weight = np.where(near, (1.5 * u - 2.5) * u * u + 1.0, 0.0)
    weight += np.where(far, ((-0.5 * u + 2.5) * u - 4.0) * u + 2.0, 0.0)
    return weight.astype(np.float32)


def _clipped_mean(
    stars: NDArray[np.float32],
    lost: NDArray[np.bool_],
    share: NDArray[np.floating],
    clip: float,
) -> NDArray[np.float64]:
    """Return the mean of each grid point, weighted with the stars' shares, without outliers."""
    share = share.astype(np.float32)
    n, ny, nx = stars.shape
    step = max(_IN_CACHE // (n * nx), 1)
    parts = [slice(start, start + step) for start in range(0, ny, step)]
    middle, deviation = np.zeros((2, ny, nx), dtype=np.float32)
    if n >= _FEWEST_CLIPPED:
        for part in parts:
            middle[part], deviation[part] = _median_and_deviation(stars[:, part])
    limit = np.asarray(clip * 1.4826 * _around(deviation), dtype=np.float32)
    limit += _AGREE * np.abs(middle) + _AGREE**2
    mean, some_lost = np.empty((ny, nx)), lost.any()
    for part in parts:
        values = stars[:, part]
        weight = share[:, None, None]
        if n >= _FEWEST_CLIPPED:
            # Weights fall from 1 to 0 around the limit. A sharp one would let a rounding error
            # take a star in or out of a point of the stack.
            inside = np.abs(values - middle[part])
            inside *= -_SOFT / limit[part]
            inside += _SOFT + np.float32(0.5)
            weight = np.clip(inside, 0, 1, out=inside) * weight
        if some_lost:
            weight = weight * ~lost[:, part]
        total = np.broadcast_to(weight, values.shape).sum(axis=0)
        light = (weight * values).sum(axis=0)
        if n >= _FEWEST_CLIPPED:  # where nearly all are outliers, the median, not a few or none
            trace = _TRACE * share.max() * ~lost[:, part].all(axis=0)
            total += trace
            light += trace * middle[part]
        mean[part] = light / np.where(total > 0, total, 1)
    return mean


def _around(deviation: NDArray[np.float32]) -> NDArray[np.float32]:
    """Average within half a pixel of each grid point: at a single one stars agree by chance."""
    half = OVERSAMPLING // 2
    mean: NDArray[np.float64] = np.pad(deviation.astype(np.float64), half, mode="edge")
    for _ in "yx":
        total = np.cumsum(np.pad(mean, ((1, 0), (0, 0))), axis=0)
        mean = ((total[2 * half + 1 :] - total[: -2 * half - 1]) / (2 * half + 1)).T
    return mean.astype(np.float32)


def _median_and_deviation(
    values: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the median of each column, and that of the absolute deviations from it."""
    ordered = np.sort(values, axis=0)
    n, half = len(values), np.float32(0.5)
    middle = half * (ordered[(n - 1) // 2] + ordered[n // 2])

    def nearest(k: int) -> NDArray[np.float32]:
        # The k values nearest to the median are a run of the sorted ones.
        least: NDArray[np.float32] = np.maximum(
            middle - ordered[: n - k + 1], ordered[k - 1 :] - middle
        ).min(axis=0)
        return least

    deviation = nearest((n - 1) // 2 + 1)
    if n % 2 == 0:
        deviation = half * (deviation + nearest(n // 2 + 1))
    return middle, deviation
