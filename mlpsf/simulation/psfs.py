"""The effective PSF of a simulated frame: drawing, sampling, and variation over the frame.

The *effective* PSF is the profile convolved with the square pixel. Its value at an offset is the
fraction of a star's light in a pixel centred there. It is stored on an oversampled grid as the
coefficients of a quintic spline. A star at any sub-pixel position is then a weighted sum of six
rows and six columns, accurate to 1e-4 of the peak. The wings, which change little within a pixel or
over the frame, are stored on a second grid of whole pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import BSpline
from scipy.ndimage import map_coordinates

from mlpsf.errors import InputError

__all__ = ["Node", "TruePSF", "blend"]

_QUINTIC = BSpline.basis_element(np.arange(-3.0, 4.0), extrapolate=False)
_TAPS = np.arange(-2, 4)


@dataclass(frozen=True)
class Node:
    """Core of the PSF at one position of the frame."""

    samples: NDArray[np.float32]
    coefficients: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class TruePSF:
    """The PSF with which a simulated frame was drawn, including the pixel response.

    The PSF is interpolated linearly between the nodes of a grid over the frame. This is not an
    approximation, because the stars were drawn with the interpolated PSF.

    Attributes
    ----------
    fwhm : float
        FWHM in pixels at the centre of the frame: the diameter of the circle with the same area
        as the contour at half maximum. For an ellipse, this is the geometric mean of its axes.
    e1, e2 : float
        Ellipticity of that contour at the centre of the frame, as the reduced shear
        (a - b) / (a + b) along x and along the diagonal (GalSim's g1 and g2).
    """

    fwhm: float = field(init=False)
    e1: float = field(init=False)
    e2: float = field(init=False)
    _frame_shape: tuple[int, int]
    _oversampling: int
    _core_radius: int
    _nodes: tuple[Node, ...]
    _shapes: NDArray[np.float64]
    _wing: NDArray[np.float32]
    _envelope: NDArray[np.float64]

    def __post_init__(self) -> None:
        ny, nx = self._frame_shape
        shape = self.shape_at((nx - 1) / 2, (ny - 1) / 2)
        for name, value in zip(("fwhm", "e1", "e2"), shape, strict=True):
            object.__setattr__(self, name, float(value))

    @property
    def peak(self) -> float:
        """Fraction of a star's light in the pixel that it is centred on, at the frame's centre."""
        ny, nx = self._frame_shape
        return float(self.stamp((nx - 1) / 2, (ny - 1) / 2, size=1)[0, 0])

    @property
    def oversampling(self) -> int:
        """Samples per pixel of the grid of the core."""
        return self._oversampling

    @property
    def n_nodes(self) -> int:
        """Number of positions at which the PSF was drawn: 1, or a square number."""
        return len(self._nodes)

    @property
    def max_radius(self) -> int:
        """Radius in pixels out to which the wings are known."""
        return max(self._core_radius, len(self._wing) // 2 - 4)

    def shape_at(
        self, x: ArrayLike, y: ArrayLike
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return FWHM (pixels), e1 and e2 at positions on the frame.

        Parameters
        ----------
        x, y : array_like
            Pixel positions, 0-based.

        Returns
        -------
        fwhm, e1, e2 : ndarray
            Arrays with the shape of `x` and `y`.
        """
        x, y = np.broadcast_arrays(np.asarray(x, float), np.asarray(y, float))
        indices, weights = blend(self._frame_shape, len(self._shapes), x, y)
        # The middle of a blend of images is linear in them, and goes as the inverse of their area.
        shapes = self._shapes[indices] ** np.array([-2, 1, 1])
        density, e1, e2 = np.moveaxis((weights[..., None] * shapes).sum(axis=-2), -1, 0)
        return density**-0.5, e1, e2

    def stamp(
        self,
        x: float,
        y: float,
        size: int = 51,
        oversample: int = 1,
        offset: tuple[float, float] = (0.0, 0.0),
    ) -> NDArray[np.float64]:
        """Draw the effective PSF of a star at (x, y), centred on the middle of the stamp.

        Parameters
        ----------
        x, y : float
            Position on the frame in pixels, 0-based. It determines only the PSF, not the
            sub-pixel position of the star, which is set by `offset`.
        size : int
            Side of the stamp in (oversampled) pixels, odd.
        oversample : int
            Samples per pixel. The pixel response is always that of the frame's pixels.
        offset : (float, float)
            Position (dx, dy) of the star relative to the centre of the middle pixel, in frame
            pixels.

        Returns
        -------
        ndarray of float64, shape (size, size)
            PSF of a star of unit flux out to infinity, divided by ``oversample**2``. The sum is
            the fraction of the light within the stamp, for any oversampling.
        """
        if size < 1 or size % 2 == 0:
            raise InputError(f"size must be odd and positive. Got {size!r} instead.")
        if oversample < 1 or oversample != int(oversample):
            raise InputError(f"oversample must be a whole number >= 1. Got {oversample!r} instead.")
        step = (np.arange(size) - size // 2) / oversample
        at = np.array(np.meshgrid(step - offset[1], step - offset[0], indexing="ij"))
        image = np.zeros((size, size))
        for index, weight in self.blend(x, y):
            grid = self._nodes[index].coefficients
            where = at * self._oversampling + len(grid) // 2
            image += weight * map_coordinates(grid, where, order=5, prefilter=False)
        if self._wing.size:
            image += map_coordinates(
                self._wing, at + len(self._wing) // 2, order=5, prefilter=False
            )
        return image / oversample**2

    def draw(self, x: float, y: float, radius: int) -> tuple[NDArray[np.float32], int, int]:
        """Draw a star of unit flux on the pixels of the frame.

        Parameters
        ----------
        x, y : float
            Centre of the star.
        radius : int
            Half-width of the stamp; limited to `max_radius`.

        Returns
        -------
        stamp : ndarray of float32, shape (2 * radius + 1, 2 * radius + 1)
        row, column : int
            Frame pixel of the stamp's first pixel.
        """
        radius = min(radius, self.max_radius)
        column, row = round(x), round(y)
        dx, dy = x - column, y - row
        inner = min(radius, self._core_radius)
        core = np.zeros((2 * inner + 1, 2 * inner + 1), np.float32)
        for index, weight in self.blend(x, y):
            grid = self._nodes[index].coefficients
            core += np.float32(weight) * _sample(grid, self._oversampling, dx, dy, inner)
        if radius <= 0.7 * self._core_radius or not self._wing.size:
            return core, row - inner, column - inner
        image = _sample(self._wing, 1, dx, dy, radius)
        middle = slice(radius - inner, radius + inner + 1)
        image[middle, middle] += core
        return image, row - radius, column - radius

    def radius_for(self, contrast: ArrayLike) -> NDArray[np.int64]:
        """Return the radius beyond which a star of unit flux stays below a level.

        Parameters
        ----------
        contrast : array_like
            Light per pixel, as a fraction of the star's.

        Returns
        -------
        ndarray of int
            Radius in pixels, at most `max_radius`.
        """
        # The envelope decreases, so its reverse is sorted.
        rank = np.searchsorted(self._envelope[::-1], np.asarray(contrast, float))
        radius = len(self._envelope) - rank + 1
        return np.clip(radius, 3, self.max_radius).astype(np.int64)

    def transform(self, size: int, node: int) -> NDArray[np.complex64]:
        """Return the Fourier transform of one node's PSF on a stamp, scaled to unit flux.

        Parameters
        ----------
        size : int
            Side of the stamp in frame pixels.
        node : int
            Index of the node.

        Returns
        -------
        ndarray of complex64, shape (size * s, size * s // 2 + 1)
            s is the oversampling; the order is that of ``numpy.fft.rfft2``.
        """
        samples = self._nodes[node].samples
        side, middle = size * self._oversampling, len(samples) // 2
        half = min(middle, (side - 1) // 2)
        cut = samples[middle - half : middle + half + 1, middle - half : middle + half + 1]
        stamp = np.zeros((side, side), np.float32)
        stamp[: 2 * half + 1, : 2 * half + 1] = cut * (self._oversampling**2 / cut.sum())
        return np.fft.rfft2(np.roll(stamp, (-half, -half), (0, 1))).astype(np.complex64)

    def blend(self, x: float, y: float) -> list[tuple[int, float]]:
        """Return the nodes that make the PSF at one position, with their weights."""
        nodes = blend(self._frame_shape, len(self._nodes), np.asarray(x), np.asarray(y))
        indices, weights = (each.tolist() for each in nodes)
        return [(i, w) for i, w in zip(indices, weights, strict=True) if w]


def blend(
    frame_shape: tuple[int, int], n_nodes: int, x: NDArray[Any], y: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the four nodes of a square grid over a frame around each position, and their weights.

    Parameters
    ----------
    frame_shape : (int, int)
        Rows and columns.
    n_nodes : int
        Nodes of the grid, a square number; the outer ones lie on the frame's edges.
    x, y : ndarray
        Pixel positions, 0-based.

    Returns
    -------
    indices, weights : ndarray, shape (*x.shape, 4)
        One node of weight 1 where the grid has but one.
    """
    n = math.isqrt(n_nodes)
    if n == 1:
        return np.zeros((*x.shape, 1), np.int64), np.ones((*x.shape, 1))
    ny, nx = frame_shape
    u = np.clip((x + 0.5) / nx, 0, 1) * (n - 1)
    v = np.clip((y + 0.5) / ny, 0, 1) * (n - 1)
    i, j = np.minimum(u.astype(int), n - 2), np.minimum(v.astype(int), n - 2)
    u, v = u - i, v - j
    first = j * n + i
    indices = np.stack([first, first + 1, first + n, first + n + 1], axis=-1)
    weights = np.stack([(1 - u) * (1 - v), u * (1 - v), (1 - u) * v, u * v], axis=-1)
    return indices, weights


def _sample(
    grid: NDArray[np.float32], oversampling: int, dx: float, dy: float, radius: int
) -> NDArray[np.float32]:
    """Evaluate the spline at every pixel of a stamp; all share one sub-pixel phase."""
    middle, s = len(grid) // 2, oversampling

    def taps(shift: float) -> tuple[int, NDArray[np.float32]]:
        start = middle - (radius + shift) * s
        first = math.floor(start)
        return first, np.nan_to_num(_QUINTIC(start - first - _TAPS)).astype(np.float32)

    length = 2 * radius * s + 1
    (row, row_weights), (column, column_weights) = taps(dy), taps(dx)
    strip = grid[:, column - 2 : column + 3 + length]
    lines = np.zeros((2 * radius + 1, strip.shape[1]), np.float32)
    for tap, weight in zip(_TAPS, row_weights, strict=True):
        lines += weight * strip[row + tap : row + tap + length : s]
    stamp = np.zeros((2 * radius + 1, 2 * radius + 1), np.float32)
    for first, weight in enumerate(column_weights):
        stamp += weight * lines[:, first : first + length : s]
    return stamp
