"""The polynomial over the frame by which the PSF changes, and what stars tell of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlpsf.errors import InputError

__all__ = ["order_for", "polynomial"]

FloatArray = NDArray[np.float64]


def polynomial(x: ArrayLike, y: ArrayLike, frame_shape: tuple[int, int], order: int) -> FloatArray:
    """Evaluate the terms of a polynomial over the frame; all but the first have a mean of 0.

    Parameters
    ----------
    x, y : (n,) arrays
        Positions on the frame, 0-based pixels.
    frame_shape : (int, int)
        Rows and columns.
    order : {0, 1, 2, 3}

    Returns
    -------
    (n, 1, 3, 6 or 10) array

    Examples
    --------
    >>> polynomial([49.5], [99.5], (200, 100), 1)
    array([[1., 0., 0.]])
    """
    if order not in range(4):
        raise InputError(f"the order of the polynomial must be 0, 1, 2 or 3; got {order}")
    ny, nx = frame_shape
    u = 2 * (np.atleast_1d(np.asarray(x, dtype=np.float64)) + 0.5) / nx - 1
    v = 2 * (np.atleast_1d(np.asarray(y, dtype=np.float64)) + 0.5) / ny - 1
    one, u2, v2 = np.ones_like(u), u * u - 1 / 3, v * v - 1 / 3
    # The cubic ones are Legendre's, as the rest are but for a factor.
    cubic = [(u2 - 4 / 15) * u, u2 * v, u * v2, (v2 - 4 / 15) * v]
    return np.column_stack([one, u, v, u2, u * v, v2, *cubic][: (1, 3, 6, 10)[order]])


def order_for(n_stars: int) -> int:
    """Return the order of the polynomial over the frame that a number of stars can constrain.

    Examples
    --------
    >>> [order_for(n) for n in (3, 5, 12)]
    [0, 1, 2]
    """
    return 2 if n_stars >= 12 else 1 if n_stars >= 5 else 0
