"""The basis functions in the pixels of many stars, and products with them.

Most functions are 0 in most pixels: a pixel sees four to eight of the radial splines. So the pixels
of a cutout are sorted into rings that see the same splines. The rings are the same for all stars,
and all products are matrix products of all stars at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from mlpsf.psf.solver.basis import PolarBasis, Quadrature

__all__ = ["Design", "blocks"]

FloatArray = NDArray[np.float64]

_RING = 2  # splines by which the first of a ring's pixels differ
_NUMBERS = 16_000_000  # limit on a block of stars: 128 MB


@dataclass(frozen=True, eq=False)
class _Ring:
    """Pixels (m,) of a cutout, their coefficients (q,), and the functions, (n, m, q)."""

    pixels: NDArray[np.intp]
    columns: NDArray[np.intp]
    values: FloatArray


class Design:
    """The functions of a basis, integrated over the pixels of n stars.

    Parameters
    ----------
    basis : PolarBasis
    quadrature : Quadrature
    x, y : (n, n_pixels) arrays
        Pixels from the star.
    """

    def __init__(
        self, basis: PolarBasis, quadrature: Quadrature, x: FloatArray, y: FloatArray
    ) -> None:
        self.shape, self.n_columns = x.shape, basis.unit().size
        first, last = basis.splines_of_pixels(x, y)
        low, high = np.maximum(first.min(axis=0), 0), np.minimum(last.max(axis=0), basis.n_radial)
        middle = basis.first_spline(x.mean(axis=0), y.mean(axis=0)) // _RING
        rows = np.arange(basis.shape[0])[:, None] * basis.n_radial
        self.rings = []
        for number in np.unique(middle):
            pixels = np.flatnonzero(middle == number)
            span = (int(low[pixels].min()), int(high[pixels].max()))
            values = quadrature.sum(
                partial(basis.design, columns=span),
                x[:, pixels].ravel(),
                y[:, pixels].ravel(),
            )
            columns = (rows + np.arange(*span)).ravel()
            self.rings.append(
                _Ring(pixels, columns, values.reshape(len(x), len(pixels), len(columns)))
            )

    def images(self, c: FloatArray) -> FloatArray:
        """Return the pixels of stars of flux 1.

        Parameters
        ----------
        c : (n, k) or (n, k, r) array
            Coefficients at each star, of one or of r functions; n may be 1 for all.

        Returns
        -------
        (n, n_pixels) or (n, n_pixels, r) array
        """
        flat = c.ndim == 2
        c = c[:, :, None] if flat else c
        out = np.empty((*self.shape, c.shape[2]))
        for ring in self.rings:
            out[:, ring.pixels] = ring.values @ c[:, ring.columns]
        return out[:, :, 0] if flat else out

    def products(self, vectors: FloatArray) -> FloatArray:
        """Return the sums over pixels of the functions times vectors.

        Parameters
        ----------
        vectors : (n, n_pixels, r) array

        Returns
        -------
        (n, k, r) array
        """
        out = np.zeros((self.shape[0], self.n_columns, vectors.shape[2]))
        for ring in self.rings:
            out[:, ring.columns] += ring.values.swapaxes(1, 2) @ vectors[:, ring.pixels]
        return out

    def normal(self, weight: FloatArray, pairs: FloatArray | None = None) -> FloatArray:
        """Return the sums over stars and pixels of the functions' products with each other.

        Parameters
        ----------
        weight : (n, n_pixels) array
            Square roots of the weights.
        pairs : (q, n) array, optional
            Weights of the stars, for q sums. By default one sum with weights of 1.

        Returns
        -------
        (q, k, k) array
        """
        n_sums = 1 if pairs is None else len(pairs)
        out = np.zeros((n_sums, self.n_columns, self.n_columns))
        for ring in self.rings:
            some = ring.values * weight[:, ring.pixels, None]
            q = len(ring.columns)
            if pairs is None:
                flat = some.reshape(-1, q)
                part = (flat.T @ flat)[None]
            else:
                each = (some.swapaxes(1, 2) @ some).reshape(len(some), -1)
                part = (pairs @ each).reshape(n_sums, q, q)
            out[:, ring.columns[:, None], ring.columns] += part
        return out


def blocks(n_stars: int, n_pixels: int) -> list[slice]:
    """Return slices of the stars whose designs fit in memory, one after the other."""
    step = max(1, _NUMBERS // (n_pixels * 70))
    return [slice(start, start + step) for start in range(0, n_stars, step)]
