"""Stars of a PSF from cutouts: laid out as a frame, with their places on that frame."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from mlpsf.errors import InputError
from mlpsf.frames.cutouts import Cutouts
from mlpsf.frames.tiles import TiledFrame, clean_cutouts, tile_cutouts

__all__ = ["TiledStars", "are_cutouts", "tile_stars"]


class TiledStars(NamedTuple):
    """A frame of tiles, the stars on it, and the side in pixels of the largest PSF it can give."""

    frame: TiledFrame
    stars: Table
    largest: int


def are_cutouts(frame: Any) -> bool:
    """Return whether cutouts were given where a frame can be."""
    return isinstance(frame, Cutouts) or (isinstance(frame, np.ndarray) and frame.ndim == 3)


def tile_stars(cutouts: Any, stars: Any) -> TiledStars:
    """Lay out the cutouts of chosen stars as a frame.

    Parameters
    ----------
    cutouts : ndarray, shape (n, size, size), or Cutouts
        Of the frame's own pixels.
    stars : Table or (n, 2) array
        A row a cutout: x and y on the frame, 0-based, or NaN where they are not known; and what
        `mlpsf.select_cutouts` returns besides.

    Returns
    -------
    TiledStars

    Raises
    ------
    InputError
        There are more or fewer rows than cutouts, or the cutouts are of a wrong shape.
    """
    pixels = clean_cutouts(cutouts.data if isinstance(cutouts, Cutouts) else cutouts)
    names = getattr(stars, "colnames", None)
    table = stars.copy() if names is not None else Table(np.asarray(stars, float), names=("x", "y"))
    if len(table) != len(pixels):
        raise InputError(
            f"There must be one row of stars a cutout: {len(pixels)}. Got {len(table)}."
        )
    x, y = (_column(table, name) for name in "xy")
    known = bool(np.isfinite(x).all() and np.isfinite(y).all())
    # Only those that are used: the others would set the tiles' size and take memory.
    used = np.ones(len(table), dtype=bool)
    for name, wanted in (("selected", True), ("reserved", False)):
        if name in table.colnames:
            used &= np.asarray(table[name], dtype=bool) == wanted
    if not used.any():
        raise InputError(f"None of the {len(table)} stars is selected.")
    at = (x[used], y[used]) if known else (None, None)
    frame = tile_cutouts(pixels[used], *at, name=str(table.meta.get("frame", "cutouts")))
    table = table[used]
    # A cutout's centre pixel is the one nearest to its source.
    table["x"] = frame.tile_x + (x[used] - np.rint(x[used]) if known else 0.0)
    table["y"] = frame.tile_y + (y[used] - np.rint(y[used]) if known else 0.0)
    table.meta.pop("frame_sha256", None)
    return TiledStars(frame, table, 2 * frame.half + 1)


def _column(table: Table, name: str) -> NDArray[np.float64]:
    if name not in table.colnames:
        return np.full(len(table), np.nan)
    return np.asarray(np.ma.filled(table[name], np.nan), dtype=np.float64)
