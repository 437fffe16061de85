"""Sky, noise, and everything that a camera does to an image: one function an effect.

Functions that change an image do so in place and work in electrons, unless they say otherwise;
those that leave a defect behind mark it in a plane of :class:`Defect` bits.
"""

from __future__ import annotations

from enum import IntFlag

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import convolve1d

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
    "sky_level",
    "vignetting_map",
]

Image = NDArray[np.float32]
Plane = NDArray[np.uint8]


class Defect(IntFlag):
    """What is wrong with a pixel of a simulated frame."""

    SATURATED = 1
    COSMIC_RAY = 2
    BAD_COLUMN = 4
    HOT_PIXEL = 8
    BLEED = 16
    GHOST = 32
    NO_DATA = 64


def vignetting_map(shape: tuple[int, int], loss: float) -> Image:
    """Give the share of light that reaches each pixel.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns.
    loss : float
        Share that is lost in the corners; it falls with the square of the distance.

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
    """Make the sky: a level, a tilt in a random direction, and steps between four amplifiers.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns.
    sky : float
        The level at the centre, ADU.
    gradient : float
        Change over the diagonal of the frame, as a share of the level.
    step : float
        Standard deviation of the amplifiers' offsets, ADU.
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of float32, shape (ny, nx)
        In ADU, nowhere below zero.
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
    """Add the out-of-focus image of the pupil that a bright star throws across the frame.

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx)
        In any unit of light.
    defects : ndarray of uint8, shape (ny, nx)
    stars : ndarray, shape (n, 3)
        x, y and flux of the stars that have a ghost.
    radius : float
        Of the ghost, in pixels.
    level : float
        Share of the star's light in its ghost.
    noticed : float
        Light per pixel from which a ghost is marked.
    """
    ny, nx = image.shape
    rows, columns = np.ogrid[:ny, :nx]
    for x, y, flux in stars:
        # The reflection is through the centre of the frame, a little off.
        dx, dy = columns - (nx - 1 - 0.95 * x), rows - (ny - 1 - 0.95 * y)
        r2 = dx**2 + dy**2
        ring = (r2 < radius**2) & (r2 > (0.35 * radius) ** 2)
        brightness = flux * level / (np.pi * radius**2 * (1 - 0.35**2))
        image[ring] += np.float32(brightness)
        if brightness > noticed:
            defects[ring] |= np.uint8(Defect.GHOST)


def brighter_fatter(image: Image, strength: float, full_well: float) -> None:
    """Let charge push later charge into the neighbouring pixels.

    The simplest form of Antilogus et al. (2014, JINST 9, C03048): a boundary between two pixels
    moves in proportion to the difference of their charge, and takes along the mean of it.

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx)
        Expected electrons.
    strength : float
        Share of a pixel's area that a boundary moves by per electron of difference, about 1e-7.
    full_well : float
        Electrons above which nothing more is pushed.
    """
    half_square = np.minimum(image, np.float32(full_well)) ** 2 * np.float32(strength / 2)
    for axis in (0, 1):
        flow = np.diff(half_square, axis=axis)
        lower = (slice(None, -1), slice(None)) if axis == 0 else (slice(None), slice(None, -1))
        upper = (slice(1, None), slice(None)) if axis == 0 else (slice(None), slice(1, None))
        image[lower] += flow
        image[upper] -= flow


def add_noise(image: Image, read_noise: float, resampling: float, rng: np.random.Generator) -> None:
    """Make photon noise and read noise, correlated as in a stack if asked.

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx)
        Expected electrons.
    read_noise : float
        Electrons.
    resampling : float
        Shift in pixels, 0 to 0.5, of the bilinear resampling that the noise has been through.
        The light has not: its PSF stays as it was drawn.
    rng : numpy.random.Generator
    """
    # In bands: numpy draws Poisson numbers as 64-bit integers, twice the size of the image.
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


def add_cosmic_rays(
    image: Image, defects: Plane, n: int, length: float, rng: np.random.Generator
) -> None:
    """Add tracks of charge: most short, some long, a few that wander as slow electrons do.

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx)
    defects : ndarray of uint8, shape (ny, nx)
    n : int
        How many.
    length : float
        Mean length in pixels; lengths are exponential.
    rng : numpy.random.Generator
    """
    ny, nx = image.shape
    for _ in range(n):
        track = min(rng.exponential(length), max(ny, nx))
        steps = max(int(track * 5), 3)
        angle = np.full(steps, rng.uniform(0, 2 * np.pi))
        if rng.random() < 0.15:
            angle += np.cumsum(rng.normal(0, 0.12, steps))
        # Charge diffuses by about a third of a pixel on its way.
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
    """Add pixels with a dark current of their own, up to the full well.

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx)
    defects : ndarray of uint8, shape (ny, nx)
    n : int
        How many.
    full_well : float
        Electrons that a pixel holds.
    rng : numpy.random.Generator
    """
    row, column = (rng.integers(0, size, n) for size in image.shape)
    np.add.at(image, (row, column), (full_well * rng.uniform(0.05, 1, n) ** 3).astype(np.float32))
    defects[row, column] |= np.uint8(Defect.HOT_PIXEL)


def add_bad_columns(image: Image, defects: Plane, n: int, rng: np.random.Generator) -> None:
    """Spoil columns from some row on: half of them dead or dim, half of them bright.

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx)
    defects : ndarray of uint8, shape (ny, nx)
    n : int
        How many.
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
    """Spill the charge above the full well up and down its column, half each way.

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx)
    defects : ndarray of uint8, shape (ny, nx)
        Pixels that charge was spilt into are marked.
    full_well : float
        Electrons that a pixel holds.
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
    """Fill pixels up one after another until the charge is used up."""
    room = np.maximum(full_well - pixels, 0)
    used = np.minimum(np.cumsum(room), charge)
    put = np.diff(used, prepend=0.0)
    # What is over the full well itself has its turn later and is left alone here.
    pixels += put
    marks[put > 0] |= np.uint8(Defect.BLEED)


def cut_out(defects: Plane, edge: int, holes: int, rng: np.random.Generator) -> None:
    """Mark where a frame has no data: a border, and discs as of masked satellites and stars.

    Parameters
    ----------
    defects : ndarray of uint8, shape (ny, nx)
    edge : int
        Width in pixels of the border.
    holes : int
        How many discs.
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
