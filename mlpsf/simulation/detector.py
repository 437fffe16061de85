"""Sky, noise and the effects of a camera on an image, one function per effect.

Functions that change an image do so in place and in electrons, unless noted otherwise. Functions
that cause defects mark them in a plane of :class:`Defect` bits.
"""

from __future__ import annotations

from enum import IntFlag

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import convolve1d, maximum_filter

__all__ = [
    "Defect",
    "add_bad_columns",
    "add_cosmic_rays",
    "add_ghosts",
    "add_hot_pixels",
    "add_noise",
    "bleed",
    "brighter_fatter",
    "cut_out",
    "drizzle",
    "expose_plate",
    "sky_level",
    "vignetting_map",
]

Image = NDArray[np.float32]
Plane = NDArray[np.uint8]


_LOST = 0.06  # of the response of a plate, from which a pixel counts as saturated


class Defect(IntFlag):
    """Defects of a pixel in a simulated frame."""

    SATURATED = 1
    COSMIC_RAY = 2
    BAD_COLUMN = 4
    HOT_PIXEL = 8
    BLEED = 16
    GHOST = 32
    NO_DATA = 64


def vignetting_map(shape: tuple[int, int], loss: float) -> Image:
    """Return the fraction of light that reaches each pixel.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns.
    loss : float
        Fraction lost in the corners. The loss grows with the square of the distance from the
        centre.

    Returns
    -------
    ndarray of float32, shape (ny, nx)
    """
    v, u = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape)
    return np.asarray(1 - np.float32(loss / 2) * (u**2 + v[:, None] ** 2), np.float32)


def sky_level(
    shape: tuple[int, int],
    sky: float,
    gradient: float,
    step: float,
    rng: np.random.Generator,
) -> Image:
    """Return the sky: a level, a tilt in a random direction, and steps between four amplifiers.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns.
    sky : float
        Level at the centre, ADU.
    gradient : float
        Change over the diagonal of the frame, as a fraction of the level.
    step : float
        Standard deviation of the amplifiers' offsets, ADU.
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of float32, shape (ny, nx)
        Sky in ADU, never negative.
    """
    angle, offsets = rng.uniform(0, 2 * np.pi), rng.normal(size=4) * step
    v, u = (np.linspace(-0.5, 0.5, n, dtype=np.float32) for n in shape)
    tilt = np.cos(angle) * u + (np.sin(angle) * v)[:, None]
    image: Image = (sky * (1 + gradient * tilt)).astype(np.float32)
    for strip, offset in zip(np.array_split(np.arange(shape[1]), 4), offsets, strict=True):
        image[:, strip] += np.float32(offset)
    np.maximum(image, 0, out=image)
    return image


def add_ghosts(
    image: Image,
    defects: Plane,
    stars: NDArray[np.float64],
    radius: float,
    level: float,
    noticed: float,
) -> None:
    """Add ghosts: out-of-focus images of the pupil, reflected from bright stars.

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx)
        Image in any unit of light.
    defects : ndarray of uint8, shape (ny, nx)
    stars : ndarray, shape (n, 3)
        x, y and flux of the stars that have a ghost.
    radius : float
        Radius of the ghost in pixels.
    level : float
        Fraction of the star's light in its ghost.
    noticed : float
        Light per pixel above which a ghost is marked.
    """
    ny, nx = image.shape
    rows, columns = np.ogrid[:ny, :nx]
    for x, y, flux in stars:
        # The reflection is through the centre of the frame, slightly off.
        dx, dy = columns - (nx - 1 - 0.95 * x), rows - (ny - 1 - 0.95 * y)
        r2 = dx**2 + dy**2
        ring = (r2 < radius**2) & (r2 > (0.35 * radius) ** 2)
        brightness = flux * level / (np.pi * radius**2 * (1 - 0.35**2))
        image[ring] += np.float32(brightness)
        if brightness > noticed:
            defects[ring] |= np.uint8(Defect.GHOST)


def brighter_fatter(image: Image, strength: float, full_well: float) -> None:
    """Apply the brighter-fatter effect: charge deflects later charge into neighbouring pixels.

    This is the simplest form of Antilogus et al. (2014, JINST 9, C03048). The boundary between
    two pixels moves in proportion to the difference of their charges, and transfers their mean.

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx)
        Expected electrons.
    strength : float
        Boundary shift per electron of difference, as a fraction of a pixel's area; about 1e-7.
    full_well : float
        Electrons above which the effect does not grow further.
    """
    half_square = np.minimum(image, np.float32(full_well)) ** 2 * np.float32(strength / 2)
    for axis in (0, 1):
        flow = np.diff(half_square, axis=axis)
        lower = (slice(None, -1), slice(None)) if axis == 0 else (slice(None), slice(None, -1))
        upper = (slice(1, None), slice(None)) if axis == 0 else (slice(None), slice(1, None))
        image[lower] += flow
        image[upper] -= flow


def add_noise(image: Image, read_noise: float, resampling: float, rng: np.random.Generator) -> None:
    """Add photon noise and read noise, optionally correlated as in a stack.

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx)
        Expected electrons.
    read_noise : float
        Read noise in electrons.
    resampling : float
        Shift in pixels, 0 to 0.5, of a bilinear resampling of the noise. The light is not
        resampled, so its PSF is unchanged.
    rng : numpy.random.Generator
    """
    # In bands, because numpy draws Poisson numbers as 64-bit integers, twice the image size.
    expected = image.copy() if resampling else image
    for top in range(0, len(image), 256):
        band = image[top : top + 256]
        noisy = rng.poisson(np.maximum(band, 0)).astype(np.float32)
        noisy += np.float32(read_noise) * rng.standard_normal(band.shape, np.float32)
        band[:] = noisy
    if resampling:
        noise = image - expected
        for axis in (0, 1):
            noise = convolve1d(noise, [resampling, 1 - resampling], axis=axis, mode="wrap")
        image[:] = expected + noise


def expose_plate(image: Image, sky: Image, defects: Plane, level: float) -> None:
    """Let the response to light above the sky saturate slowly, as a photographic plate's.

    Parameters
    ----------
    image, sky : ndarray of float32, shape (ny, nx)
        Light and its sky in one unit.
    defects : ndarray of uint8, shape (ny, nx)
        Pixels that lost more than 6 percent are marked as saturated.
    level : float
        Light at which 63 percent of the response is lost.
    """
    light = (image - sky) / np.float32(level)
    response = -np.expm1(-light)
    lost = (light > 0) & (response < np.float32(1 - _LOST) * light)
    defects[lost] |= np.uint8(Defect.SATURATED)
    np.add(sky, np.float32(level) * response, out=image)


def drizzle(
    image: Image, expected: Image, defects: Plane, side: float, drop: float, full_well: float
) -> None:
    """Spread noise and defects over the drops of a drizzled frame.

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx)
    expected : ndarray of float32, shape (ny, nx)
        The image before noise and defects; its PSF holds drops and pixels already.
    defects : ndarray of uint8, shape (ny, nx)
        Defects grow by the drops.
    side, drop : float
        Side of the detector's pixels in pixels of the frame, and of a drop relative to that.
    full_well : float
        Level of the saturated pixels.
    """
    # Part of a drop that falls on each pixel around its own.
    half = int(np.ceil((side * drop - 1) / 2))
    k = np.arange(-half, half + 1)
    taps = np.minimum(k + 0.5, side * drop / 2) - np.maximum(k - 0.5, -side * drop / 2)
    taps /= taps.sum()
    clipped = image >= np.float32(full_well)
    defects[clipped] |= np.uint8(Defect.SATURATED)
    image -= expected
    for axis in (0, 1):
        image[:] = convolve1d(image, taps, axis=axis, mode="nearest")
    image += expected
    image[clipped] = full_well
    for bit in Defect:
        if bit != Defect.GHOST and (defects & np.uint8(bit)).any():
            defects |= maximum_filter(defects & np.uint8(bit), size=2 * half + 1)


def add_cosmic_rays(
    image: Image, defects: Plane, n: int, length: float, rng: np.random.Generator
) -> None:
    """Add tracks of cosmic rays: most short, some long, a few curved like slow electrons.

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx)
    defects : ndarray of uint8, shape (ny, nx)
    n : int
        Number to add.
    length : float
        Mean length in pixels; lengths are exponentially distributed.
    rng : numpy.random.Generator
    """
    ny, nx = image.shape
    for _ in range(n):
        track = min(rng.exponential(length), max(ny, nx))
        steps = max(int(track * 5), 3)
        angle = np.full(steps, rng.uniform(0, 2 * np.pi))
        if rng.random() < 0.15:
            angle += np.cumsum(rng.normal(0, 0.12, steps))
        # Charge diffuses by about a third of a pixel.
        x = rng.uniform(0, nx) + np.cumsum(np.cos(angle)) / 5 + rng.normal(0, 0.3, steps)
        y = rng.uniform(0, ny) + np.cumsum(np.sin(angle)) / 5 + rng.normal(0, 0.3, steps)
        charge = rng.lognormal(np.log(1500), 0.8) / 5 * rng.gamma(2, 0.5, steps)
        row, column = np.rint(y).astype(int), np.rint(x).astype(int)
        on = (row >= 0) & (row < ny) & (column >= 0) & (column < nx)
        np.add.at(image, (row[on], column[on]), charge[on].astype(np.float32))
        defects[row[on], column[on]] |= np.uint8(Defect.COSMIC_RAY)


def add_hot_pixels(
    image: Image, defects: Plane, n: int, full_well: float, rng: np.random.Generator
) -> None:
    """Add hot pixels with a charge up to the full well.

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx)
    defects : ndarray of uint8, shape (ny, nx)
    n : int
        Number to add.
    full_well : float
        Full well of a pixel in electrons.
    rng : numpy.random.Generator
    """
    row, column = (rng.integers(0, size, n) for size in image.shape)
    np.add.at(image, (row, column), (full_well * rng.uniform(0.05, 1, n) ** 3).astype(np.float32))
    defects[row, column] |= np.uint8(Defect.HOT_PIXEL)


def add_bad_columns(image: Image, defects: Plane, n: int, rng: np.random.Generator) -> None:
    """Add bad columns from a random row on: half of them dead or dim, half bright.

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx)
    defects : ndarray of uint8, shape (ny, nx)
    n : int
        Number to add.
    rng : numpy.random.Generator
    """
    ny, nx = image.shape
    for _ in range(n):
        column, first = int(rng.integers(nx)), int(rng.integers(-ny // 2, ny // 2 + 1))
        rows = slice(max(first, 0), None)
        if rng.random() < 0.5:
            image[rows, column] *= np.float32(rng.uniform(0, 0.7))
        else:
            image[rows, column] += np.float32(rng.lognormal(np.log(800), 1))
        defects[rows, column] |= np.uint8(Defect.BAD_COLUMN)


def bleed(image: Image, defects: Plane, full_well: float) -> None:
    """Spill the charge above the full well along its column, half in each direction.

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx)
    defects : ndarray of uint8, shape (ny, nx)
        Pixels that receive charge are marked.
    full_well : float
        Full well of a pixel in electrons.
    """
    for column in np.flatnonzero((image > full_well).any(axis=0)):
        pixels = image[:, column].astype(float)
        marks = defects[:, column]
        over = np.concatenate([[False], pixels > full_well, [False]])
        for start, stop in np.flatnonzero(over[1:] != over[:-1]).reshape(-1, 2):
            spilt = (pixels[start:stop] - full_well).sum()
            pixels[start:stop] = full_well
            _fill(pixels[stop:], marks[stop:], spilt / 2, full_well)
            _fill(pixels[:start][::-1], marks[:start][::-1], spilt / 2, full_well)
        image[:, column] = pixels


def _fill(pixels: NDArray[np.float64], marks: Plane, charge: float, full_well: float) -> None:
    """Fill pixels up to the full well, one after another, until the charge is used up."""
    room = np.maximum(full_well - pixels, 0)
    used = np.minimum(np.cumsum(room), charge)
    put = np.diff(used, prepend=0.0)
    # Pixels above the full well are treated later and left unchanged here.
    pixels += put
    marks[put > 0] |= np.uint8(Defect.BLEED)


def cut_out(defects: Plane, edge: int, holes: int, rng: np.random.Generator) -> None:
    """Mark pixels without data: a border, and discs like those of masked stars.

    Parameters
    ----------
    defects : ndarray of uint8, shape (ny, nx)
    edge : int
        Width of the border in pixels.
    holes : int
        Number of discs.
    rng : numpy.random.Generator
    """
    ny, nx = defects.shape
    blank = np.zeros(defects.shape, bool)
    if edge:
        blank[:edge] = blank[-edge:] = True
        blank[:, :edge] = blank[:, -edge:] = True
    rows, columns = np.ogrid[:ny, :nx]
    for _ in range(holes):
        radius = rng.uniform(0.01, 0.04) * min(ny, nx)
        x, y = rng.uniform(0, nx), rng.uniform(0, ny)
        blank |= (columns - x) ** 2 + (rows - y) ** 2 < radius**2
    defects[blank] |= np.uint8(Defect.NO_DATA)
