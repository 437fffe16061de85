"""The point sources of a frame as a model: positions, fluxes, and the star that they share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpsf.stacks.effective import OVERSAMPLING
from mlpsf.stamps.common_star import FARTHEST, STEP, CommonStar

__all__ = ["Scene"]

FloatArray = NDArray[np.float64]

_BLOCK = 1024  # sources drawn at once: limits memory
_SAME = 0.5  # FWHM, or a pixel: a source nearer to a position is the one that was asked for
_UNSEEN = 0.1  # of the noise of a pixel: light of a source below it is not drawn


@dataclass(frozen=True, eq=False)
class Scene:
    """Point sources of a frame.

    Attributes
    ----------
    star : CommonStar
        Their common image, on the frame's pixels.
    x, y : ndarray, shape (n,)
        0-based pixels.
    flux, error : ndarray, shape (n,)
        Flux and its standard deviation in the unit of the frame. The flux is 0 for a source that is
        no star.
    rest : ndarray of float32, shape (ny, nx)
        The frame, sky included, without the light of these sources.
    noise : float
        Noise of a pixel of the sky.
    sizes : callable, optional
        Returns the FWHM over that of `star` at each position, from x and y, all of shape (n,).
        Unless given, it is 1.
    """

    star: CommonStar
    x: FloatArray
    y: FloatArray
    flux: FloatArray
    error: FloatArray
    rest: NDArray[np.float32]
    noise: float
    sizes: Callable[[FloatArray, FloatArray], FloatArray] | None = None

    @cached_property
    def size(self) -> FloatArray:
        """FWHM of each source over that of the common star, shape (n,)."""
        if self.sizes is None:
            return np.ones(len(self.x))
        return self.sizes(self.x, self.y)

    @property
    def fwhm(self) -> FloatArray:
        """FWHM of each source in pixels, shape (n,)."""
        return self.star.fwhm * self.size

    @cached_property
    def step(self) -> NDArray[np.intp]:
        """The size of each source in steps, see `CommonStar.of_size`, shape (n,)."""
        return np.rint(np.log(self.size) / STEP).astype(np.intp)

    def by_size(self, rows: NDArray[np.intp]) -> Iterator[tuple[CommonStar, NDArray[np.intp]]]:
        """Yield the stars of about the size of some sources, and which of these they are for."""
        if self.sizes is None:
            yield self.star, np.arange(len(rows))
            return
        for step in np.unique(self.step[rows]):
            yield self.star.of_size(int(step)), np.flatnonzero(self.step[rows] == step)

    @property
    def half(self) -> int:
        """Half-width of the largest stars that are subtracted, in pixels."""
        return max((star.psf.half for star, _ in self.by_size(np.arange(len(self.x)))), default=1)

    @cached_property
    def _tree(self) -> Any:
        from scipy.spatial import cKDTree  # few frames are crowded

        return cKDTree(np.column_stack([self.x, self.y]))

    def rows_at(self, x: FloatArray, y: FloatArray) -> NDArray[np.intp]:
        """Return which source is at each position, shape (m,); n where there is none."""
        radius = float(np.clip(_SAME * self.star.fwhm, 1.0, FARTHEST))
        rows: NDArray[np.intp] = self._tree.query(
            np.column_stack([x, y]), distance_upper_bound=radius
        )[1]
        return rows

    def own_light(self, x: FloatArray, y: FloatArray, half: int) -> NDArray[np.float32]:
        """Draw the source that is at each position, alone.

        Parameters
        ----------
        x, y : ndarray, shape (m,)
            Positions, 0-based pixels.
        half : int

        Returns
        -------
        ndarray of float32, shape (m, 2 half + 1, 2 half + 1)
            Around the pixel nearest to each position; 0 where there is no source.
        """
        out = np.zeros((len(x), 2 * half + 1, 2 * half + 1), dtype=np.float32)
        rows = self.rows_at(x, y)
        found = np.flatnonzero(rows < len(self.x))
        found = found[self.flux[rows[found]] > 0]
        for start in range(0, len(found), _BLOCK):
            part = found[start : start + _BLOCK]
            own = rows[part]
            out[part] = self.draw(own, np.rint(x[part]), np.rint(y[part]), half)
        return out

    def draw(
        self, rows: NDArray[np.intp], column: FloatArray, row: FloatArray, half: int
    ) -> NDArray[np.float32]:
        """Draw sources around given pixels, shape (m, 2 half + 1, 2 half + 1)."""
        x, y = self.x[rows], self.y[rows]
        side = 2 * half + 1
        drawn = np.empty((len(rows), side, side), dtype=np.float32)
        for star, part in self.by_size(rows):
            at, of = (x[part] - column[part], y[part] - row[part]), rows[part]
            if self._shows_variation[of].any():
                rest = self.size[of] * self.star.fwhm / star.fwhm - 1
                drawn[part] = star.stamps(*at, x[part], y[part], side, rest)
            else:
                drawn[part] = star.psf.stamps(*at, side)
        drawn *= self.flux[rows].astype(np.float32)[:, None, None]
        return drawn

    @cached_property
    def _shows_variation(self) -> NDArray[np.bool_]:
        """Whether the variation of the PSF changes the light of each source by more than noise."""
        change = float(np.sum(self.star.most)) + (0.0 if self.sizes is None else STEP / 2)
        peak = self.star.psf.grid.max() / self.size**2
        return np.asarray(np.abs(self.flux) * peak * change > _UNSEEN * self.noise)

    def halves(self) -> NDArray[np.intp]:
        """Return the half-width at which the light of each source is lost in the noise."""
        # Not too many different sizes, so that sources of one are drawn together.
        steps = np.unique(np.ceil(self.half * np.array([0.2, 0.3, 0.45, 0.7, 1.0])).astype(int))
        limit = _UNSEEN * self.noise / np.maximum(np.abs(self.flux), 1e-30)
        wanted = np.empty(len(self.x), dtype=np.intp)
        for star, rows in self.by_size(np.arange(len(self.x))):
            middle = star.psf.half * OVERSAMPLING
            profile = star.psf.grid[middle, middle::OVERSAMPLING]
            fall = np.maximum.accumulate(np.abs(profile)[::-1])[::-1]
            wanted[rows] = np.searchsorted(-fall, -limit[rows])
        return np.asarray(steps[np.minimum(np.searchsorted(steps, wanted), len(steps) - 1)])

    def light(self, shape: tuple[int, int]) -> NDArray[np.float32]:
        """Draw all sources on an image of a frame's shape."""
        half, (ny, nx) = self.half, shape
        rim = 2 * half  # stars beyond the edge have light on the frame, too
        canvas = np.zeros((ny + 2 * rim, nx + 2 * rim), dtype=np.float32)
        column, row = np.rint(self.x), np.rint(self.y)
        at_i, at_j = column.astype(int) + rim, row.astype(int) + rim
        sizes = self.halves()
        lit = (self.flux != 0) & (np.abs(column - (nx - 1) / 2) <= (nx - 1) / 2 + half)
        lit &= np.abs(row - (ny - 1) / 2) <= (ny - 1) / 2 + half
        kinds = np.stack([sizes, self._shows_variation])
        for size, varies in np.unique(kinds[:, lit], axis=1).T:
            rows = np.flatnonzero(lit & (sizes == size) & (self._shows_variation == varies))
            for start in range(0, len(rows), _BLOCK):
                part = rows[start : start + _BLOCK]
                drawn = self.draw(part, column[part], row[part], int(size))
                for stamp, i, j in zip(drawn, at_i[part], at_j[part], strict=True):
                    canvas[j - size : j + size + 1, i - size : i + size + 1] += stamp
        return canvas[rim : rim + ny, rim : rim + nx]

    def without(self, data: NDArray[np.float32]) -> Scene:
        """Return the scene whose rest is what it leaves of a frame's pixels."""
        ny, nx = data.shape
        return replace(self, rest=data - self.light((ny, nx)))
