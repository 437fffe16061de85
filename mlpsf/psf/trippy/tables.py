"""Arithmetic on oversampled PSF tables: pixel integrals, trails, shape and size.

A table is a square array of sub-pixels, `oversampling` per pixel along each axis, with the star in
the middle. Each sub-pixel is a small square of uniform brightness, so the light in a detector pixel
is an exact sum of overlaps, without interpolation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from mlpsf.errors import PSFError

__all__ = [
    "Shape",
    "as_lookup_table",
    "centre_on_pixel",
    "cumulative",
    "line_kernel",
    "measure_shape",
    "pixel_integrals",
    "profile",
    "wrapped",
]

FloatArray = NDArray[np.float64]

#: Floats in one block of stamps: limits memory to about 100 MB.
_BLOCK = 2_000_000

_RING = 1.2  # brightest light over that of the middle, from which a star is a disc with a hole


@dataclass(frozen=True)
class Shape:
    """Size and shape of the image of a PSF on the detector, pixel included.

    Attributes
    ----------
    fwhm : float
        Geometric mean of the full widths at half maximum of the long and short axes, in pixels; of
        a disc with a hole the diameter of a circle of the area above half of the maximum.
    ellipticity : float
        1 - b/a.
    position_angle : float
        Position angle of the long axis in degrees from +x towards +y, in (-90, 90].
    e1, e2 : float
        Distortion, (Mxx - Myy) / (Mxx + Myy) and 2 Mxy / (Mxx + Myy).
    sigma : float
        det(M) ** 1/4 of the adaptive moments in pixels; the size used by shear surveys.
    x, y : float
        Centroid from the middle of the table in pixels.
    """

    fwhm: float
    ellipticity: float
    position_angle: float
    e1: float
    e2: float
    sigma: float
    x: float
    y: float


def profile(
    alpha: float, beta: float, table: FloatArray, rep_fact: int, margin: int = 0
) -> FloatArray:
    """Combine Moffat profile and lookup table exactly as ``plant`` does.

    ``plant`` puts the star at the lower left corner of the middle pixel of the table. It evaluates
    the Moffat profile at the lower left corner of each sub-pixel, and the table wraps around.
    TRIPPy's ``fullPSF`` is not used: it has an offset of half a pixel between the two and is 4 %
    too bright.

    Parameters
    ----------
    alpha, beta : float
        Parameters of the Moffat profile; alpha in pixels.
    table : (size * rep_fact, size * rep_fact) array
        Lookup table.
    rep_fact : int
        Sub-pixels per pixel.
    margin : int
        Margin in pixels on each side, with the Moffat profile only.

    Returns
    -------
    (n, n) array
        n = (size + 1 + 2 * margin) * rep_fact. The star is exactly in the middle. The mean over a
        pixel is the light of the pixel for an amplitude of 1.

    Examples
    --------
    >>> profile(3.0, 3.0, np.zeros((210, 210)), 10).shape
    (220, 220)
    """
    half = (table.shape[0] // rep_fact + 1) // 2 + margin
    square = (np.arange(-half * rep_fact, half * rep_fact) / rep_fact) ** 2
    norm = (beta - 1) * np.pi * alpha**2
    light = (1.0 + (square[:, None] + square[None, :]) / alpha**2) ** -beta * norm
    inner = slice(margin * rep_fact, light.shape[0] - margin * rep_fact)
    light[inner, inner] += wrapped(table, rep_fact)
    return np.asarray(light, dtype=np.float64)


def wrapped(table: FloatArray, rep_fact: int) -> FloatArray:
    """Return the light of a lookup table where ``plant`` puts it, as in :func:`profile`."""
    full = np.pad(table, ((rep_fact, 0), (rep_fact, 0)), "wrap")
    return np.asarray(full * rep_fact**2, dtype=np.float64)


def as_lookup_table(lack: FloatArray, rep_fact: int) -> FloatArray:
    """Lay light, beyond that of the Moffat profile, into a lookup table, as `profile` reads it."""
    lack = lack / rep_fact**2
    # The table starts one pixel inside. The light before it is in the wrapped end of the table.
    # Half of that is in the box, in place of the light after the box.
    table, half = lack[rep_fact:, rep_fact:].copy(), rep_fact // 2
    before = slice(rep_fact - half, rep_fact)
    table[-half:] = lack[before, rep_fact:]
    table[:, -half:] = lack[rep_fact:, before]
    table[-half:, -half:] = lack[before, before]
    return np.asarray(table)


def centre_on_pixel(light: FloatArray, rep_fact: int) -> tuple[FloatArray, int]:
    """Cut a profile to the box that has the star at the centre of its middle pixel.

    If the number of sub-pixels per pixel is odd, each is split in two first, so that a cut at half
    a pixel is possible.

    Parameters
    ----------
    light : (n, n) array
        From :func:`profile`.
    rep_fact : int
        Sub-pixels per pixel of `light`.

    Returns
    -------
    table : (n - oversampling, n - oversampling) array
        Table with the star in the middle.
    oversampling : int
        `rep_fact` if that is even, else twice as many.

    Examples
    --------
    >>> table, oversampling = centre_on_pixel(np.ones((66, 66)), 3)
    >>> table.shape, oversampling
    ((126, 126), 6)
    """
    if rep_fact % 2:
        light, rep_fact = np.repeat(np.repeat(light, 2, axis=0), 2, axis=1), 2 * rep_fact
    half = rep_fact // 2
    return light[half:-half, half:-half], rep_fact


def cumulative(table: FloatArray) -> FloatArray:
    """Sum a table from its lower left corner to each sub-pixel corner.

    Parameters
    ----------
    table : (n, n) array
        Oversampled table.

    Returns
    -------
    (n + 1, n + 1) array
        Element [i, j] is the sum of ``table[:i, :j]``.

    Examples
    --------
    >>> cumulative(np.ones((2, 2)))[-1, -1]
    np.float64(4.0)
    """
    total = np.zeros((table.shape[0] + 1, table.shape[1] + 1))
    np.cumsum(np.cumsum(table, axis=0), axis=1, out=total[1:, 1:])
    return total


def pixel_integrals(
    total: FloatArray, oversampling: float, x: FloatArray, y: FloatArray, size: int
) -> FloatArray:
    """Return the light in each pixel of square stamps, for stars at any position in them.

    The weight of a sub-pixel is the fraction of it inside the pixel, along each axis:
    ``W_y @ table @ W_x.T``. On the cumulative sum of the table that product is a linear
    interpolation at the pixel edges: (size + 1)^2 look-ups per star and no matrix.

    Parameters
    ----------
    total : (n + 1, n + 1) array
        :func:`cumulative` of the table.
    oversampling : float
        Sub-pixels per pixel.
    x, y : (k,) arrays
        Position of the star in pixels from the centre of the stamp's lower left pixel.
    size : int
        Side of a stamp in pixels.

    Returns
    -------
    (k, size, size) array
        Rows are y. Pixels outside the table are 0.

    Examples
    --------
    >>> table = np.full((10, 10), 0.01)  # one pixel of even light
    >>> pixel_integrals(cumulative(table), 10, np.array([1.5]), np.array([1.0]), 3)[0, 1].round(12)
    array([0. , 0.5, 0.5])
    """
    n = total.shape[0] - 1
    out = np.empty((x.size, size, size))
    edges = np.arange(size + 1) - 0.5
    step = max(1, _BLOCK // (size + 1) ** 2)
    for start in range(0, x.size, step):
        part = slice(start, start + step)
        index, weight = [], []
        for centre in (y[part], x[part]):
            place = np.clip((edges - centre[:, None]) * oversampling + n / 2, 0.0, n)
            low = np.minimum(place.astype(np.intp), n - 1)
            index.append(low)
            weight.append(place - low)
        (iy, ix), (wy, wx) = index, weight
        iy, wy = iy[:, :, None], wy[:, :, None]
        ix, wx = ix[:, None, :], wx[:, None, :]
        lower = total[iy, ix] * (1 - wx) + total[iy, ix + 1] * wx
        upper = total[iy + 1, ix] * (1 - wx) + total[iy + 1, ix + 1] * wx
        corner = lower * (1 - wy) + upper * wy
        out[part] = np.diff(np.diff(corner, axis=1), axis=2)
    return out


def line_kernel(length: float, angle: float) -> FloatArray:
    """Draw a line of uniform brightness on a grid, centred on the middle cell.

    The line is sampled at points a quarter of a cell apart. Each point is shared between the four
    cells around it, so that there are no gaps or steps at any angle, and length and centre are
    preserved.

    Parameters
    ----------
    length : float
        Length in cells.
    angle : float
        Angle in degrees from +x towards +y.

    Returns
    -------
    (ny, nx) array
        Kernel with odd sides and a sum of 1.

    Examples
    --------
    >>> line_kernel(4.0, 90.0).sum(axis=1).round(3)
    array([0.   , 0.125, 0.25 , 0.25 , 0.25 , 0.125, 0.   ])
    """
    n = max(1, int(np.ceil(4 * length)))
    along = ((np.arange(n) + 0.5) / n - 0.5) * length
    dx, dy = along * np.cos(np.deg2rad(angle)), along * np.sin(np.deg2rad(angle))
    half_x, half_y = (int(np.ceil(np.abs(d).max())) + 1 for d in (dx, dy))
    kernel = np.zeros((2 * half_y + 1, 2 * half_x + 1))
    ix, iy = np.floor(dx).astype(int), np.floor(dy).astype(int)
    fx, fy = dx - ix, dy - iy
    for oy, wy in ((0, 1 - fy), (1, fy)):
        for ox, wx in ((0, 1 - fx), (1, fx)):
            np.add.at(kernel, (iy + half_y + oy, ix + half_x + ox), wy * wx / n)
    return kernel


def _adaptive_moments(
    image: FloatArray, grid: FloatArray, sigma: float
) -> tuple[FloatArray, FloatArray]:
    """Return centroid (x, y) and 2 x 2 moments that match their elliptical Gaussian weight.

    Bernstein & Jarvis (2002, AJ 123, 583), section 3.1. The weight is iterated until it has the
    shape of the source.
    """
    centre, moments = np.zeros(2), np.eye(2) * sigma**2
    for step in range(300):
        inverse = np.linalg.inv(moments)
        dx, dy = grid - centre[0], grid - centre[1]
        square = np.outer(2 * inverse[0, 1] * dy, dx)
        square += inverse[0, 0] * dx**2
        square += (inverse[1, 1] * dy**2)[:, None]
        square *= -0.5
        light = np.exp(square, out=square)
        light *= image
        # Sums of the light times powers of dy (rows) and dx.
        sums = np.stack([np.ones_like(dy), dy, dy**2]) @ light @ np.vander(dx, 3, increasing=True)
        total = sums[0, 0]
        shift = np.array([sums[0, 1], sums[1, 0]]) / total
        second = np.array([[sums[0, 2], sums[1, 1]], [sums[1, 1], sums[2, 0]]]) / total
        # A Gaussian weighted by itself has half the variance.
        target = 2 * second
        if not (total > 0 and np.linalg.eigvalsh(target)[0] > 0):
            return centre, moments
        change = np.abs(target - moments).max() / moments.trace()
        centre = centre + 2 * shift
        moments = _next(second, moments) if step < _QUICK else target
        if change < 1e-8:
            break
    return centre, moments


_QUICK = 30  # steps; what has not come to rest by then is left to smaller ones


def _next(second: FloatArray, weight: FloatArray) -> FloatArray:
    """Return the next weight's moments: those of a Gaussian that has these second moments.

    Of that it is found in one step, of other profiles in few. Where it would be far from the last
    weight the step is that of Bernstein & Jarvis, half as long.
    """
    change = np.linalg.eigvals(np.linalg.solve(weight, 2 * second)).real
    if not 0.7 < change.min() <= change.max() < 1.4:
        return 2 * second
    return np.asarray(np.linalg.inv(np.linalg.inv(second) - np.linalg.inv(weight)))


def measure_shape(table: FloatArray, oversampling: int) -> Shape:
    """Measure the image of a star: the table convolved with a square pixel.

    The ellipse is from adaptive Gaussian-weighted moments. The FWHM is where the profile falls to
    half of the central value, along radii scaled by that ellipse with constant area. No profile
    shape is assumed.

    Parameters
    ----------
    table : (n, n) array
        Oversampled PSF with the star in the middle, in any normalisation.
    oversampling : int
        Sub-pixels per pixel.

    Returns
    -------
    Shape

    Raises
    ------
    PSFError
        If the table holds no image of a star: no positive peak, or one whose size is not within
        the table.

    Examples
    --------
    >>> r = (np.arange(210) + 0.5) / 10 - 10.5
    >>> table = np.exp(-0.5 * (r[None, :] ** 2 + r[:, None] ** 2) / 4)
    >>> round(measure_shape(table, 10).fwhm, 2)  # sigma 2 widened by the pixel
    4.76
    """
    try:
        with np.errstate(all="ignore"):
            shape = _measured(table, oversampling)
    except (ValueError, TypeError, np.linalg.LinAlgError) as error:
        raise PSFError(
            "the PSF has no half maximum about its centre: its stars are out of focus, not of one "
            "kind, or no stars; look at them, and give others"
        ) from error
    side = table.shape[0] / oversampling
    if not (0 < shape.fwhm < side and 0 <= shape.ellipticity < 1):
        raise PSFError(
            f"the PSF is no image of a star: of FWHM {shape.fwhm:.3g} and ellipticity "
            f"{shape.ellipticity:.3g} in a box of {side:.0f} pixels"
        )
    return shape


def _measured(table: FloatArray, oversampling: int) -> Shape:
    """Measure the image of a star; what comes of noise is checked by the caller."""
    n = table.shape[0]
    image = uniform_filter(table, oversampling, mode="constant")
    # uniform_filter with an even width is off by half a sub-pixel; the grid corrects for it.
    shift = 0.0 if oversampling % 2 else 0.5
    grid = (np.arange(n) + 0.5 - shift - n / 2) / oversampling
    peak = float(image.max())
    if not peak > 0:
        raise ValueError("the PSF table has no positive peak")
    high = np.nonzero(image > peak / 2)
    start = np.sqrt(len(high[0]) / np.pi) / oversampling / 1.17741
    # What is farther out than this has no weight.
    near = np.abs(grid) < 5 * max(np.abs(grid[at]).max() for at in high) + 1
    image, grid = image[np.ix_(near, near)], grid[near]
    centre, moments = _adaptive_moments(image, grid, float(start))
    values, vectors = np.linalg.eigh(moments)
    # Coordinates are scaled to the ellipse with constant area. The radius of the half-maximum
    # "circle" is then the geometric mean of the two half-widths.
    sigma = float(np.prod(values) ** 0.25)
    inverse = np.linalg.inv(moments) * sigma**2
    dx, dy = grid[None, :] - centre[0], grid[:, None] - centre[1]
    square = inverse[0, 0] * dx**2 + 2 * inverse[0, 1] * dx * dy + inverse[1, 1] * dy**2
    core = square < (0.35 * sigma) ** 2
    # Fit a parabola to the top of the PSF for the central value; a single cell is noisy.
    highest, peak = peak, float(np.polynomial.Polynomial.fit(square[core], image[core], 1)(0.0))
    if highest > _RING * max(peak, 0.0):  # a disc with a hole
        fwhm = 2 * np.sqrt((image > highest / 2).sum() / np.pi) / oversampling
    else:
        ring = (image > 0.3 * peak) & (image < 0.72 * peak) & (square < (4 * sigma) ** 2)
        level = np.polynomial.Polynomial.fit(np.log(image[ring] / peak), np.sqrt(square[ring]), 3)
        fwhm = 2 * level(np.log(0.5))
    trace = float(values.sum())
    angle = float(np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1])))
    angle = (angle + 90.0) % 180.0 - 90.0
    return Shape(
        fwhm=float(fwhm),
        ellipticity=float(1 - np.sqrt(values[0] / values[1])),
        position_angle=90.0 if angle == -90.0 else angle,
        e1=float((moments[0, 0] - moments[1, 1]) / trace),
        e2=float(2 * moments[0, 1] / trace),
        sigma=sigma,
        x=float(centre[0]),
        y=float(centre[1]),
    )
