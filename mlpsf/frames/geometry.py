"""Positions on an image: checked, and compared with its edges."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlpsf.errors import InputError

__all__ = ["check_positions", "pixel_scale", "reaches_over"]


def check_positions(x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return positions as two 1-D arrays; raise `InputError` unless they have equal length."""
    x = np.atleast_1d(np.asarray(x, dtype=np.float64))
    y = np.atleast_1d(np.asarray(y, dtype=np.float64))
    if x.shape != y.shape or x.ndim != 1:
        raise InputError(f"x and y must be two lists of one length. Got {x.shape} and {y.shape}.")
    wrong = np.flatnonzero(~(np.isfinite(x) & np.isfinite(y)))
    if wrong.size:
        raise InputError(
            f"Positions must be finite. {wrong.size} are not, the first is number {wrong[0]}."
        )
    return x, y


def reaches_over(
    x0: NDArray[np.floating],
    y0: NDArray[np.floating],
    reach: float | NDArray[np.float64],
    shape: tuple[int, ...],
) -> NDArray[np.bool_]:
    """Return which cutouts have outermost pixel centres off the frame."""
    ny, nx = shape
    return (x0 < reach) | (y0 < reach) | (x0 > nx - 1 - reach) | (y0 > ny - 1 - reach)


_DEGREE = 3599.0  # arcsec


def pixel_scale(wcs: Any) -> float | None:
    """Return the side of a pixel in arcsec, the mean of both axes; None without a scale."""
    if wcs is None or not wcs.has_celestial:
        return None
    from astropy.wcs.utils import proj_plane_pixel_scales

    scale = 3600 * float(np.mean(proj_plane_pixel_scales(wcs.celestial)))
    # A header without a scale stands for a degree.
    return scale if 0 < scale < _DEGREE else None
