"""Draw stars with a PSF that may change over the frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlpsf.psf.trippy.tables import cumulative, pixel_integrals

__all__ = ["Light", "add_stars"]

FloatArray = NDArray[np.float64]

_AT_ONCE = 1000  # stars that are drawn together: limits memory


class Light(NamedTuple):
    """Light of a PSF and of its changes, summed up for drawing.

    Attributes
    ----------
    total : (n + 1, n + 1) array
        `cumulative` of the mean PSF, which sums to 1.
    changes : list of (n + 1, n + 1) arrays
        The same of the changes.
    oversampling : float
        Sub-pixels per pixel.
    """

    total: FloatArray
    changes: list[FloatArray]
    oversampling: float

    @classmethod
    def of(cls, table: FloatArray, changes: list[FloatArray], oversampling: int) -> Light:
        """Sum up the tables of a PSF and of its changes."""
        return cls(cumulative(table), [cumulative(change) for change in changes], oversampling)

    def finer(self, cells: int) -> Light:
        """Return the same light for drawing on cells, of which so many are a pixel."""
        return self._replace(oversampling=self.oversampling / cells)

    def stamps(
        self, x: FloatArray, y: FloatArray, size: int, amounts: FloatArray | None = None
    ) -> FloatArray:
        """Draw stars of flux 1 in stamps.

        Parameters
        ----------
        x, y : (k,) arrays
            Positions from the centre of the stamp's lower left pixel.
        size : int
        amounts : (k, n_changes) array, optional
            How much of each change there is; by default none.

        Returns
        -------
        (k, size, size) array
        """
        out = pixel_integrals(self.total, self.oversampling, x, y, size)
        if amounts is None or not self.changes:
            return out
        light = np.ones(len(x))
        for amount, change in zip(amounts.T, self.changes, strict=True):
            drawn = pixel_integrals(change, self.oversampling, x, y, size)
            out += amount[:, None, None] * drawn
            light += amount * change[-1, -1]
        return np.asarray(out / light[:, None, None])


def add_stars(
    image: FloatArray,
    draw: Callable[..., FloatArray],
    x: FloatArray,
    y: FloatArray,
    flux: FloatArray,
    size: int,
    at: tuple[FloatArray, FloatArray],
) -> None:
    """Add stars to an image, in place.

    Parameters
    ----------
    image : (ny, nx) array
    draw : callable
        Takes positions of stars in their stamps, the stamps' size and places on the frame.
    x, y, flux : (n,) arrays
    size : int
        Side of the PSF's box in pixels.
    at : (n,) arrays
        Places of the stars on the frame.
    """
    ny, nx = image.shape
    # A box at a fractional position overlaps one pixel more than its size.
    half, side = size // 2, size + 1
    near = (x > -side) & (x < nx + side) & (y > -side) & (y < ny + side)
    x, y, flux, px, py = (v[near] for v in (x, y, flux, *at))
    x0, y0 = (np.floor(v - half).astype(int) for v in (x, y))
    for start in range(0, x.size, _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        drawn = draw(x[part] - x0[part], y[part] - y0[part], side, px[part], py[part])
        for stamp, f, i, j in zip(drawn, flux[part], x0[part], y0[part], strict=True):
            a, b, c, d = max(j, 0), min(j + side, ny), max(i, 0), min(i + side, nx)
            if a < b and c < d:
                image[a:b, c:d] += f * stamp[a - j : b - j, c - i : d - i]
