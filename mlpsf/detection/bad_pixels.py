"""Fill lone bad pixels, so that a few of them do not rule out a star.

A PSF is built without bad pixels. But a detection, a width or a stamp needs a value there. A pixel
whose neighbours are good is predicted from them to second order; larger defects stay.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mlpsf.frames.frame import Frame

__all__ = ["fill_lone_pixels"]

AnyFrame = TypeVar("AnyFrame", bound=Frame)

_ACROSS = ((0, 1), (0, -1), (1, 0), (-1, 0))
_DIAGONAL = ((1, 1), (1, -1), (-1, 1), (-1, -1))


def fill_lone_pixels(frame: AnyFrame) -> AnyFrame:
    """Return a frame in which lone bad pixels are filled and no longer masked.

    Parameters
    ----------
    frame : Frame

    Returns
    -------
    Frame
        The same frame if there are none.

    Examples
    --------
    >>> y, x = np.mgrid[:9, :9] - 4.0
    >>> star = np.exp(-(x**2 + y**2) / 8).astype(np.float32)
    >>> mask = np.zeros(star.shape, dtype=bool)
    >>> mask[4, 4] = True
    >>> filled = fill_lone_pixels(Frame(data=np.where(mask, 0, star), mask=mask))
    >>> bool(abs(filled.data[4, 4] - 1) < 0.03), bool(filled.mask.any())
    (True, False)
    """
    if not frame.mask.any():
        return frame
    unusable = frame.mask | frame.saturated
    bad = (frame.mask & ~frame.saturated)[2:-2, 2:-2]
    # Whole masked regions may be most of a mosaic: they are left out before anything is looked up.
    good = ~unusable
    bad &= (good[2:-2, 1:-3] & good[2:-2, 3:-1]) | (good[1:-3, 2:-2] & good[3:-1, 2:-2])
    row, column = (at + 2 for at in np.nonzero(bad))
    data, mask = frame.data, frame.mask

    def around(steps: tuple[tuple[int, int], ...]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        at = [(row + dy, column + dx) for dy, dx in steps]
        values = np.array([data[place] for place in at], dtype=np.float64)
        return values, ~np.array([unusable[place] for place in at], dtype=bool)

    value, found = np.zeros(len(row)), np.zeros(len(row), dtype=bool)
    # Twice the mean of the four nearest minus that of the diagonals is exact to second order.
    (near, near_good), (far, far_good) = around(_ACROSS), around(_DIAGONAL)
    whole = near_good.all(axis=0) & far_good.all(axis=0)
    value[whole], found[whole] = (2 * near.mean(axis=0) - far.mean(axis=0))[whole], True
    for dy, dx in ((0, 1), (1, 0)):  # else the cubic through four pixels of a row or column
        line, good = around(((-2 * dy, -2 * dx), (-dy, -dx), (dy, dx), (2 * dy, 2 * dx)))
        usable = good.all(axis=0) & ~found
        value[usable] = (np.array([-1, 4, 4, -1]) @ line / 6)[usable]
        found |= usable
    if not found.any():
        return frame
    data, mask = data.copy(), mask.copy()
    data[row[found], column[found]] = value[found]
    mask[row[found], column[found]] = False
    return replace(frame, data=data, mask=mask)
