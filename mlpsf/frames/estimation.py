"""Measure the noise of the sky, bounds on the gain, and the full well from pixels.

:mod:`mlpsf.frames.calibration` compares these with the header.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlpsf.stacks.values import row_median, row_quantiles

__all__ = [
    "SkyNoise",
    "count_sources_above",
    "find_pile_up",
    "gain_from_variance",
    "gain_lower_bound",
    "measure_sky_noise",
    "noise_correlation",
]

_BLOCK = 32  # pixels on a side: many times a star's width, with a flat sky and enough pixels
_MAX_BLOCKS = 400
_LAG = 3  # pixels; beyond the noise correlation of a resampled frame
_HIGHEST = 4.5  # standard deviations; of a block's 1,024 pixels of noise hardly one is higher
_QUIET = 6  # fewest blocks without a source
_TOP, _ALIKE = 24, 3  # highest pixels; of these, of one value, where single pixels are clipped
_BIN = 0.002  # of the natural logarithm of brightness


@dataclass(frozen=True)
class SkyNoise:
    """Sky level and noise of the quiet parts of a frame.

    Attributes
    ----------
    sky : float
        Median, in ADU.
    variance : float
        Noise variance per pixel from differences of pixels a few apart, in ADU².
    fine_variance : float
        Noise variance from a Laplacian, in ADU². It is less affected by crowding, but too small
        if resampling has correlated neighbouring pixels.
    """

    sky: float
    variance: float
    fine_variance: float

    @property
    def sigma(self) -> float:
        """Noise per pixel in ADU."""
        return math.sqrt(self.variance)


def _laplacian(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Filter the last two axes: planes become 0, and white noise keeps its variance.

    The kernel is that of Immerkaer (1996, Comput. Vis. Image Underst. 64, 300).
    """
    with np.errstate(over="ignore", invalid="ignore"):  # of pixels near float32's largest
        rows = image[..., 2:, :] - 2 * image[..., 1:-1, :] + image[..., :-2, :]
        laplacian: NDArray[np.float32] = (
            rows[..., 2:] - 2 * rows[..., 1:-1] + rows[..., :-2]
        ) / np.float32(6)
    return laplacian


def _clipped_variance(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the mean square of each row, ignoring outliers and NaN."""
    size = np.abs(values)
    # The median of integer pixels changes in whole units, so a higher quantile is used as well.
    middle, upper = row_quantiles(size, 0.5, 0.9)
    keep = size <= 4 * np.maximum(middle / 0.6745, upper / 1.6449)[:, None]
    # Squares of float32 may be more than it holds.
    total = np.square(np.where(keep, size, np.float32(0)), dtype=np.float64).sum(axis=1)
    variance: NDArray[np.float64] = total / np.maximum(np.count_nonzero(keep, axis=1), 1)
    return variance


def measure_sky_noise(data: NDArray[np.float32], mask: NDArray[np.bool_]) -> SkyNoise | None:
    """Measure the sky and its noise in blocks spread over the frame.

    Parameters
    ----------
    data : ndarray of float32, shape (ny, nx)
    mask : ndarray of bool, shape (ny, nx)
        True where a pixel is bad.

    Returns
    -------
    SkyNoise or None
        None if no block has enough good pixels, or there is no noise.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> image = rng.poisson(400.0, (256, 256)).astype(np.float32)
    >>> noise = measure_sky_noise(image, np.zeros(image.shape, dtype=bool))
    >>> round(noise.sky, -1), round(noise.sigma)
    (400.0, 20)
    """
    ny, nx = data.shape
    block = min(_BLOCK, ny, nx)
    if block < 2 * _LAG:
        return None
    # Equal spacing along both axes, for any shape of the frame.
    step = max(1.0, math.sqrt((ny // block) * (nx // block) / _MAX_BLOCKS))
    row = np.arange(0, ny // block, step).astype(int) * block
    column = np.arange(0, nx // block, step).astype(int) * block
    offset = np.arange(block)
    rows = (row[:, None] + offset)[:, None, :, None]
    columns = (column[:, None] + offset)[None, :, None, :]
    pixels = data[rows, columns].reshape(-1, block, block)
    bad = mask[rows, columns].reshape(pixels.shape)
    enough = bad.mean(axis=(1, 2)) < 0.5
    pixels = np.where(bad, np.float32(np.nan), pixels)[enough]
    if not len(pixels):
        return None
    flat = pixels.reshape(len(pixels), -1)
    level = np.nanmedian(flat, axis=1) if bad.any() else row_median(flat)
    apart = (pixels[:, :, _LAG:] - pixels[:, :, :-_LAG]).reshape(len(pixels), -1)
    fine = _laplacian(pixels).reshape(len(pixels), -1)
    usable = np.isfinite(apart).any(axis=1) & np.isfinite(fine).any(axis=1)
    if not usable.any():
        return None
    level = level[usable]
    variance = _clipped_variance(apart[usable]) / 2
    fine_variance = _clipped_variance(fine[usable])
    quiet = variance <= np.median(variance)
    # Below the median, because sources in some blocks add variance.
    noise = float(np.quantile(variance, 0.4))
    if not noise > 0:
        return None
    return SkyNoise(float(np.median(level[quiet])), noise, float(np.quantile(fine_variance, 0.4)))


def gain_lower_bound(
    data: NDArray[np.float32], mask: NDArray[np.bool_], noise: SkyNoise
) -> float | None:
    """Compute a lower bound of the gain from the noise on the light of sources.

    A signal S above the sky adds the photon variance S / gain for any bias pedestal. Structure of
    the sources can only add variance, so the largest S / variance of all brightness levels is a
    lower bound.

    Parameters
    ----------
    data : ndarray of float32, shape (ny, nx)
    mask : ndarray of bool, shape (ny, nx)
    noise : SkyNoise

    Returns
    -------
    float or None
        Electrons per ADU; None if too few pixels hold light.
    """
    ny, nx = data.shape
    height = 64
    strips = max(1, min(ny // height, 1_000_000 // (height * nx)))
    best = 0.0
    signals, residuals = [], []
    for start in np.linspace(0, max(ny - height, 0), strips).astype(int):
        part = np.s_[start : start + height]
        image = np.where(mask[part], np.float32(np.nan), data[part])
        residuals.append(np.abs(_laplacian(image)).ravel())
        # The mean of 3 x 3 pixels is independent of the noise in the Laplacian.
        rows = image[2:] + image[1:-1] + image[:-2]
        signals.append(((rows[:, 2:] + rows[:, 1:-1] + rows[:, :-2]) / 9 - noise.sky).ravel())
    signal, residual = np.concatenate(signals), np.concatenate(residuals)
    correlation = max(noise.variance / max(noise.fine_variance, 1e-30), 1.0)
    for power in range(2, 14):
        low = noise.sigma * 2.0**power
        here = (signal > low) & (signal <= 2 * low)
        if np.count_nonzero(here) < 300:
            continue
        excess = (np.median(residual[here]) / 0.6745) ** 2 - noise.fine_variance
        if excess > 0.3 * noise.fine_variance:
            best = max(best, float(np.mean(signal[here]) / (excess * correlation)))
    return best or None


def gain_from_variance(
    data: NDArray[np.float32],
    mask: NDArray[np.bool_],
    variance: NDArray[np.float32],
    noise: SkyNoise,
) -> float | None:
    """Return the gain from the rise of a variance plane with the signal; None if unclear."""
    bright = (data > noise.sky + 20 * noise.sigma) & ~mask
    if np.count_nonzero(bright) < 50:
        return None
    faint = (np.abs(data - noise.sky) < noise.sigma) & ~mask
    slope = (variance[bright] - np.median(variance[faint])) / (data[bright] - noise.sky)
    low, middle, high = np.quantile(slope, [0.25, 0.5, 0.75])
    return float(1 / middle) if low > 0 and high < 1.5 * low else None


def _is_extended(data: NDArray[np.float32], index: NDArray[np.intp], level: float) -> bool:
    """Return whether some of these pixels have four or more neighbours at the level.

    Stars of equal brightness and sub-pixel position pile up too, but in groups of at most four
    pixels. A cosmic ray or a hot pixel has few equally bright neighbours.
    """
    ny, nx = data.shape
    y, x = np.divmod(index[:: max(1, len(index) // 20_000)], nx)
    inside = (y > 0) & (y < ny - 1) & (x > 0) & (x < nx - 1)
    y, x = y[inside], x[inside]
    shifts = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]
    neighbours = sum(
        ((data[y + dy, x + dx] >= level).astype(int) for dy, dx in shifts), np.zeros(len(y), int)
    )
    return len(y) > 0 and float(np.mean(neighbours >= 4)) > 0.05  # more than a few blends


def find_pile_up(
    data: NDArray[np.float32], mask: NDArray[np.bool_] | None, noise: SkyNoise
) -> float | None:
    """Find the full well: the level at which bright pixels pile up.

    Parameters
    ----------
    data : ndarray of float32, shape (ny, nx)
    mask : ndarray of bool, shape (ny, nx), or None
        None: NaN marks the pixels without data.
    noise : SkyNoise

    Returns
    -------
    float or None
        Lower edge of the pile-up, in ADU; None if there is none.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> y, x = np.mgrid[:99, :99] - 49
    >>> star = 3e5 * np.exp(-(x**2 + y**2) / 20)
    >>> image = np.minimum(rng.poisson(star + 100), 60000).astype(np.float32)
    >>> good = np.zeros(image.shape, dtype=bool)
    >>> find_pile_up(image, good, measure_sky_noise(image, good))
    60000.0
    """
    threshold = noise.sky + 30 * noise.sigma
    bright = data > threshold
    if mask is not None:
        bright &= ~mask
    index = np.flatnonzero(bright)
    values = data.ravel()[index]
    most = 2_000_000
    if len(values) > most:
        top = values >= np.partition(values[::16], -most // 16)[-most // 16]
        index, values = index[top], values[top]
    if len(values) < 6:
        return None
    brightness = np.log(values.astype(np.float64) - noise.sky)
    first = brightness.min()
    place = ((brightness - first) / _BIN).astype(np.intp)
    counts = np.bincount(place)
    cumulative = np.concatenate([[0], np.cumsum(counts)])
    start = np.arange(len(counts))
    reach = 175  # bins, 0.35 in the logarithm: range that gives the expected number
    below = np.minimum(start, reach)
    under = cumulative[start] - cumulative[start - below]
    # Wide windows first: they contain all of a pile-up that flat-fielding has spread.
    for width in (40, 20, 5, 1):
        end = np.minimum(start + width, len(counts))
        inside = cumulative[end] - cumulative[start]
        above = len(values) - cumulative[end]
        expected = under * width / np.maximum(below, 1)
        piled = (below >= 50) & (inside >= np.where(above > 0, 10, 6))
        piled &= (inside >= 4 * expected) & (inside - expected >= 5) & (above <= inside / 2)
        if not piled.any():
            continue
        score = np.where(piled, (inside - expected) / np.sqrt(expected + 1), -np.inf)
        best = int(np.argmax(score))
        chosen = (place >= best) & (place < best + width)
        level, number = np.unique(values[chosen], return_counts=True)
        if 2 * number.max() >= number.sum():
            edge = float(level[np.argmax(number)])  # clipped by the A/D converter: a single value
        else:
            stray = min(expected[best] / inside[best] + 0.02, 0.5)
            edge = float(np.quantile(values[chosen], stray, method="lower"))
        if _is_extended(data, index[chosen], edge):
            return edge
    # Cutouts may share a star, or have been divided by their peaks.
    return None if mask is None else _shared_by_peaks(values)


def _shared_by_peaks(values: NDArray[np.float32]) -> float | None:
    """Return the value of the highest pixels, if several have it and those below are all different.

    Undersampled stars are clipped in a pixel each.
    """
    n = min(_TOP, len(values))
    top = np.sort(np.partition(values, -n)[-n:])[::-1]
    clipped = int((top == top[0]).sum())
    below = top[clipped:]
    distinct = len(below) >= _TOP // 2 and len(np.unique(below)) >= 0.9 * len(below)
    return float(top[0]) if clipped >= _ALIKE and distinct else None


def noise_correlation(noise: NDArray[np.floating], mask: NDArray[np.bool_]) -> float:
    """Return how much noisier a sum over many pixels is than that of independent pixels.

    Resampling and drizzling spread the noise of a pixel over its neighbours. A pixel then looks
    quiet, but an aperture is as noisy as before. The correlations of pixels up to two apart are
    measured against the noise of pixels four apart, in the quietest blocks of the frame.

    Parameters
    ----------
    noise : ndarray, shape (ny, nx)
        Pixels above the sky.
    mask : ndarray of bool, shape (ny, nx)

    Returns
    -------
    float
        Factor on the error of a sum, from 1 to 4; 1 for white noise.

    Examples
    --------
    >>> white = np.random.default_rng(0).normal(size=(1024, 1024))
    >>> good = np.zeros(white.shape, dtype=bool)
    >>> round(noise_correlation(white, good), 1)
    1.0
    >>> round(noise_correlation((white + np.roll(white, 1, 1)) / 2, good), 1)
    1.4
    """
    ny, nx = noise.shape
    block = _BLOCK
    if min(ny, nx) < block:
        return 1.0
    step = max(1, round(math.sqrt((ny // block) * (nx // block) / _MAX_BLOCKS)))
    row = np.arange(0, ny // block, step)[:, None, None, None] * block
    column = np.arange(0, nx // block, step)[None, :, None, None] * block
    offset = np.arange(block)
    index = row + offset[:, None], column + offset
    pixels = noise[index].reshape(-1, block, block).astype(np.float32)
    whole = ~mask[index].reshape(pixels.shape).any(axis=(1, 2))
    pixels = pixels[whole]
    if not len(pixels):
        return 1.0
    flat = pixels.reshape(len(pixels), -1)
    middle = row_median(flat)
    spread = 1.4826 * row_median(np.abs(flat - middle[:, None]))
    # A source in a block is light and no noise, and crowded frames have no block without one.
    tiny = np.finfo(np.float32).tiny
    with np.errstate(over="ignore"):  # a block without noise, or nearly, is not quiet
        height = (flat.max(axis=1) - middle) / np.maximum(spread, tiny)
        depth = (middle - flat.min(axis=1)) / np.maximum(spread, tiny)
    quiet = np.flatnonzero((spread > 0) & (height < _HIGHEST) & (depth < _HIGHEST))
    quiet = quiet[np.argsort(height[quiet], kind="stable")[: max(_QUIET, len(pixels) // 5)]]
    if len(quiet) < _QUIET:
        return 1.0
    pixels = (pixels[quiet] - middle[quiet, None, None]) / spread[quiet, None, None]
    if not np.isfinite(pixels).all():
        return 1.0

    def difference(dy: int, dx: int) -> float:
        """Return half of the mean square of differences of pixels that far apart."""
        first = pixels[:, dy:, max(dx, 0) : block + min(dx, 0)]
        second = pixels[:, : block - dy, max(-dx, 0) : block - max(dx, 0)]
        return float(np.mean((first - second) ** 2)) / 2

    far, farther = (0.5 * (difference(k, 0) + difference(0, k)) for k in (4, 8))
    near, next_ = (0.5 * (difference(k, 0) + difference(0, k)) for k in (1, 2))
    # Light of crowded sources and patterns of the detector reach farther than resampling.
    if far < 0.85 * farther or 1 - next_ / far > 0.6 * (1 - near / far):
        return 1.0
    # Of two opposite lags one is measured. Lags along x first, then those of the rows below.
    lags = [(0, 1), (0, 2), *((dy, dx) for dy in (1, 2) for dx in range(-2, 3))]
    total = 1 + 2 * sum(1 - difference(dy, dx) / far for dy, dx in lags)
    return float(np.clip(math.sqrt(max(total, 1.0)), 1.0, 4.0))


def count_sources_above(data: NDArray[np.float32], mask: NDArray[np.bool_], level: float) -> int:
    """Count the groups of at least five touching pixels above a level."""
    above = (data > level) & ~mask
    if np.count_nonzero(above) < 50:
        return 0
    from scipy import ndimage  # rarely needed; takes 0.2 s to import

    labels, number = ndimage.label(above)
    return int(np.count_nonzero(np.bincount(labels[above], minlength=number + 1) >= 5))
