"""Find struck pixels: pixels in the cores of stars that are sharper than the optics allow.

When a well sampled star is resampled to few pixels, a cosmic ray, a hot pixel or a bad column in it
almost disappears, but it still spoils the PSF. No PSF is needed to find it. Light that passed
through the optics (a star, its neighbour, a galaxy) is as smooth as a star, so each pixel can be
predicted from those around it. A pixel that cannot be predicted is a defect. The best prediction
is kriging (Matheron 1963, Economic Geology 58, 1246), with fixed weights for a given FWHM. Finding
cosmic rays by their sharp edges follows van Dokkum (2001, PASP 113, 1420).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from mlpsf.errors import InputError
from mlpsf.frames.cutouts import extract_cutouts, nearest_pixels
from mlpsf.frames.frame import Frame
from mlpsf.frames.geometry import check_positions
from mlpsf.stacks.moments import FWHM_PER_SIGMA

__all__ = ["NARROWEST", "RADIUS", "StruckPixels", "struck_pixels"]

NARROWEST = 3.2
"""Minimum FWHM in pixels. Narrower stars are about as sharp as a defect and are not searched."""

RADIUS = 1.5
"""Radius around a source that is searched, in FWHM; the same as in the labels."""

SIGNIFICANCE = 5.5
"""Minimum significance of a struck pixel, in standard deviations."""

_REACH = 2  # pixels to each side used by a prediction
_SHARPEST = 0.6  # of the FWHM: width of the sharpest light that the predictions follow
_CONTRAST = 1e4  # variance of the light over that of the noise, assumed by the predictions
_FLAT_ERROR = 0.01  # of the surrounding light: error of flat fields and pixel sizes
_BRIGHTEST = (5, 10, 30)  # numbers of sources that measure how sharp the frame's stars are
_TOLERANCE = 1.5  # allowance for real stars, over a round Moffat star
_MARGIN = 2.0  # largest excess of a star over the median one
_RINGING = 1.2  # effect of a track of some pixels on adjacent ones, over a weight
_CEILING = 5.0  # limit of sharpness over that expected from the FWHM: beyond it, most are defects
_BLOCK = 200_000  # pixels processed at once: about 40 MB


class StruckPixels(NamedTuple):
    """Which of n sources are struck, and the m struck pixels.

    `struck`: bool, shape (n,). `significance`: shape (n,), that of the most significant pixel of
    each source, in standard deviations; -inf if no pixel could be judged. `rows`, `columns`:
    integers, shape (m,), each pixel once, in the frame's order. Pixels next to a strong defect may
    be included.
    """

    struck: NDArray[np.bool_]
    significance: NDArray[np.float64]
    rows: NDArray[np.intp]
    columns: NDArray[np.intp]


def struck_pixels(frame: Frame, x: ArrayLike, y: ArrayLike, fwhm: float) -> StruckPixels:
    """Find the pixels near sources that are too sharp to be light from the sky.

    Each pixel within 1.5 FWHM is compared with five predictions from the pixels around it: without
    the pixel itself, and without its row, its column or either diagonal. The last four are needed
    because a track or bad column predicts itself. Masked and saturated pixels, and those next to
    them, are not judged.

    Parameters
    ----------
    frame : Frame
    x, y : array_like, shape (n,)
        Positions of the sources, 0-based pixels.
    fwhm : float
        FWHM of the frame's stars in pixels. Below 3.2 nothing is found.

    Returns
    -------
    StruckPixels

    Raises
    ------
    InputError
        If `fwhm` is not positive and finite, or a position is not finite.

    Examples
    --------
    >>> from mlpsf import simulate_frame
    >>> sim = simulate_frame(
    ...     shape=(100, 200), fwhm=6, stars=[(50, 50, 1e5), (150, 50, 1e5)], n_galaxies=0,
    ...     cosmic_rays=0, bad_columns=0, hot_pixels=0, seed=1)
    >>> sim.frame.data[52, 49] += 400
    >>> found = struck_pixels(
    ...     sim.frame, [50, 150], [50, 50], fwhm=6.0)
    >>> found.struck.tolist(), found.rows.tolist(), found.columns.tolist()
    ([True, False], [52], [49])
    """
    if not 0 < fwhm < np.inf:
        raise InputError(f"The 'fwhm' parameter must be positive and finite. Got {fwhm}.")
    x, y = check_positions(x, y)
    n = len(x)
    significance = np.full(n, -np.inf)
    pixels = [np.zeros((2, 0), dtype=np.intp)]
    if n == 0 or fwhm < NARROWEST:
        return StruckPixels(np.zeros(n, dtype=bool), significance, *pixels[0])
    kernels = _kernels(fwhm)
    expected = _TOLERANCE * _sharpness(fwhm, kernels)
    seen = _look(frame, x, y, _brightest(frame, x, y), fwhm, kernels)
    column, row = np.rint(x).astype(int), np.rint(y).astype(int)
    own = np.minimum(_own_sharpness(seen, fwhm), _CEILING * expected)
    allowed = np.maximum(expected, own) + np.float32(_FLAT_ERROR)
    weights = np.delete(np.abs(kernels), kernels.shape[1] // 2, axis=1)
    ringing = np.minimum(_RINGING * weights.max(axis=1), 1.0)
    block = max(1, _BLOCK // (2 * _half(fwhm) + 1) ** 2)
    for start in range(0, n, block):
        rows = np.arange(start, min(start + block, n))
        seen = _look(frame, x, y, rows, fwhm, kernels)
        excess = np.abs(seen.off) - allowed[:, None, None, None] * seen.light
        sigma = np.nan_to_num(excess / seen.noise, nan=-np.inf, posinf=-np.inf)
        near = seen.distance <= RADIUS * fwhm
        significance[rows] = np.where(near, sigma, -np.inf).max(axis=(0, 2, 3))
        hit = np.flatnonzero(significance[rows] > SIGNIFICANCE)
        # A struck pixel, even outside the radius, spoils the predictions of adjacent pixels.
        for k, part in enumerate(np.nan_to_num(excess[:, hit], nan=0.0)):
            sigma[k, hit] = np.where(
                part >= ringing[k] * _highest_around(part), sigma[k, hit], -np.inf
            )
        high = np.where(near[hit], sigma[:, hit].max(axis=0), -np.inf)
        significance[rows[hit]] = high.max(axis=(1, 2), initial=-np.inf)
        which, j, i = np.nonzero(high > SIGNIFICANCE)
        whose = rows[hit][which]
        half = _half(fwhm)
        pixels.append(np.array([row[whose] + j - half, column[whose] + i - half]))
    found = np.unique(np.concatenate(pixels, axis=1), axis=1)
    return StruckPixels(significance > SIGNIFICANCE, significance, found[0], found[1])


class _Look(NamedTuple):
    """Squares of pixels around n sources."""

    off: NDArray[np.float32]  # pixels minus predictions, shape (5, n, side, side)
    noise: NDArray[np.float32]  # standard deviation of `off`
    light: NDArray[np.float32]  # brightest pixel within _REACH, shape (n, side, side)
    distance: NDArray[np.float64]  # from the source


def _half(fwhm: float) -> int:
    return int(np.ceil(RADIUS * fwhm)) + _REACH


def _look(
    frame: Frame,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    rows: NDArray[np.intp],
    fwhm: float,
    kernels: NDArray[np.float32],
) -> _Look:
    half = _half(fwhm)
    size = 2 * (half + _REACH) + 1
    inner = slice(_REACH, -_REACH)
    cut = extract_cutouts(frame, x[rows], y[rows], size)
    data = cut.data
    data[data >= frame.full] = np.nan
    if frame.saturated_plane is not None:
        data[extract_cutouts(frame.saturated_plane, x[rows], y[rows], size).data > 0] = np.nan
    row, column = nearest_pixels(cut.x, cut.y, frame.shape)
    # The sky cancels in the predictions; for the light, one level per cutout is enough.
    data -= frame.background.level[row, column, None, None]
    # In units of the noise: squares of other units may be beyond single precision.
    own_rms = frame.background.rms[row, column]
    unit = np.median(own_rms) if len(own_rms) else np.float32(1)
    data /= unit
    off = _off(data, kernels)
    if frame.variance is not None:  # it includes the photon noise of the stars
        rms = extract_cutouts(frame.background.rms, x[rows], y[rows], size).data[:, inner, inner]
        variance = (rms / unit) ** 2
    else:
        per_light = 1.0 / (frame.known_gain * float(unit))
        predicted = np.maximum(data[:, inner, inner] - off[0], 0)
        variance = predicted * np.float32(per_light)
        variance += (own_rms[:, None, None] / unit) ** 2
    gained = np.sqrt((kernels**2).sum(axis=1))
    noise = np.sqrt(variance) * gained[:, None, None, None]
    u = np.arange(-half, half + 1)
    dx, dy = x[rows] - cut.x0, y[rows] - cut.y0
    distance = np.hypot(u - dx[:, None, None], u[:, None] - dy[:, None, None])
    return _Look(off, noise, np.maximum(_highest_around(data)[:, inner, inner], 0), distance)


def _kernels(fwhm: float) -> NDArray[np.float32]:
    """Return weights that give a pixel minus its prediction from those around it, shape (5, 25)."""
    u = np.arange(-_REACH, _REACH + 1)
    j, i = (v.ravel() for v in np.meshgrid(u, u, indexing="ij"))
    apart = (i[:, None] - i) ** 2 + (j[:, None] - j) ** 2
    sigma = _SHARPEST * fwhm / FWHM_PER_SIGMA
    covariance = _CONTRAST * np.exp(-apart / (4 * sigma**2))
    centre = len(i) // 2
    own = (i == 0) & (j == 0)
    kernels = np.zeros((5, len(i)))
    for kernel, left_out in zip(kernels, (own, i == 0, j == 0, i == j, i == -j), strict=True):
        used = np.flatnonzero(~left_out)
        # The Lagrange multiplier makes the weights sum to 1, so that the sky cancels.
        system = np.ones((len(used) + 1,) * 2)
        system[:-1, :-1] = covariance[np.ix_(used, used)] + np.eye(len(used))
        system[-1, -1] = 0.0
        kernel[used] = -np.linalg.solve(system, np.append(covariance[used, centre], 1.0))[:-1]
        kernel[centre] = 1.0
    return kernels.astype(np.float32)


def _off(data: NDArray[np.float32], kernels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return pixels minus predictions, shape (5, n, side, side); NaN next to NaN."""
    side = 2 * _REACH + 1
    windows = sliding_window_view(data, (side, side), axis=(1, 2))
    flat = windows.reshape(-1, side * side)
    off = kernels @ flat.T
    return np.asarray(off.reshape(len(kernels), *windows.shape[:3]))


def _highest_around(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the maximum within _REACH of each pixel, shape (n, side, side); NaN next to NaN."""
    for axis in (1, 2):
        length = values.shape[axis]
        pad = [(_REACH, _REACH) if k == axis else (0, 0) for k in range(3)]
        padded = np.pad(values, pad, constant_values=-np.inf)
        parts = [padded.take(range(k, k + length), axis) for k in range(2 * _REACH + 1)]
        values = np.maximum.reduce(parts)
    return values


def _sharpness(fwhm: float, kernels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the largest difference of a star from its predictions, over the light, shape (5,).

    The star is a Moffat profile of exponent 2.5; no other common profile has a sharper core.
    """
    half = _half(fwhm) + _REACH
    u = np.arange(-half, half + 1)
    dx, dy = (v.reshape(-1, 1, 1) for v in np.meshgrid(np.arange(4) / 8, np.arange(4) / 8))
    r2 = (u - dx) ** 2 + (u[:, None] - dy) ** 2
    star = ((1 + r2 * (2**0.4 - 1) * 4 / fwhm**2) ** -2.5).astype(np.float32)
    inner = slice(_REACH, -_REACH)
    share = np.abs(_off(star, kernels)) / _highest_around(star)[:, inner, inner]
    near = r2[:, inner, inner] <= (RADIUS * fwhm) ** 2
    return np.asarray(np.where(near, share, 0).max(axis=(1, 2, 3)))


def _brightest(frame: Frame, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.intp]:
    cut = extract_cutouts(frame, x, y, 3, background=frame.background.level).data
    # The median, because a cosmic ray would have the highest maximum.
    core = np.median(np.nan_to_num(cut, nan=-np.inf).reshape(len(x), 9), axis=1)
    return np.argsort(-core, kind="stable")[: _BRIGHTEST[-1]]


def _own_sharpness(seen: _Look, fwhm: float) -> NDArray[np.float32]:
    """Measure the same on the frame's brightest sources, as a median for each pixel."""
    near = (seen.distance <= RADIUS * fwhm) & (seen.light > 0)
    excess = (np.abs(seen.off) - 3 * seen.noise) / np.where(near, seen.light, np.inf)
    excess = np.nan_to_num(excess, nan=0.0)
    # Sometimes only the few brightest sources have enough signal.
    usual = [np.median(excess[:, :n], axis=1) for n in _BRIGHTEST]
    return np.asarray(_MARGIN * np.max(usual, axis=(0, 2, 3), initial=0.0))
