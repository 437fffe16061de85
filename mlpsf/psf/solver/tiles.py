"""Stars of a PSF from cutouts: laid out as a frame, with their places on that frame."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from mlpsf.errors import InputError
from mlpsf.frames.cutouts import Cutouts
from mlpsf.frames.tiles import (
    LARGEST,
    SMALLEST,
    TiledFrame,
    first_pixel,
    squares,
    tile_cutouts,
)

__all__ = ["TiledStars", "are_cutouts", "tile_stars", "truth"]


class TiledStars(NamedTuple):
    """A frame of tiles, the stars on it, the side in pixels of the largest PSF that it can give.

    And of the frame that the sources are from: the rows and columns that they span, and x and y of
    its first pixel.
    """

    frame: TiledFrame
    stars: Table
    largest: int
    extent: tuple[int, int]
    first: tuple[int, int]


def are_cutouts(frame: Any, stars: Any) -> bool:
    """Return whether cutouts were given where a frame can be.

    Flattened ones look like an image. They are told by their stars: a table of
    `mlpsf.select_cutouts` has their size, and others a row each, with positions off such an image.
    """
    if isinstance(frame, Cutouts):
        return True
    try:
        shape = np.shape(frame) if isinstance(frame, np.ndarray | list | tuple) else ()
    except ValueError as error:
        raise InputError(f"Pixels must be rows of one length: {error}") from error
    if len(shape) != 2:
        return len(shape) == 3
    side = math.isqrt(shape[1])
    if side**2 != shape[1] or side % 2 == 0 or not SMALLEST <= side <= LARGEST:
        return False
    if "cutout_size" in (getattr(stars, "meta", None) or {}):
        return bool(stars.meta["cutout_size"] == side)
    if len(stars) != shape[0]:
        return False
    x, y = (_column(_as_table(stars), name) for name in "xy")
    return not bool(((x >= -0.5) & (y >= -0.5) & (x < shape[1]) & (y < shape[0])).all())


def _as_table(stars: Any) -> Table:
    if getattr(stars, "colnames", None) is not None:
        return stars.copy()
    places = np.asarray(stars, float)
    if places.ndim != 2 or places.shape[1] != 2:
        raise InputError(f"stars must be a table or an (n, 2) array; got {places.shape}")
    return Table(places, names=("x", "y"))


def _cutout_of(table: Table, n: int) -> NDArray[np.intp]:
    """Return which of n cutouts each row of a star table is of, shape (len(table),).

    Tables of `mlpsf.select_cutouts` number the cutouts as ``id``, so that they may be sorted and
    filtered. Rows that are in order and as many as the cutouts are theirs, whatever the numbers.

    Raises
    ------
    InputError
        Rows and cutouts cannot be matched.
    """
    rows = np.arange(len(table))
    ids = None
    if {"id", "selected", "probability"} <= set(table.colnames):
        ids = np.asarray(table["id"])
    if len(table) == n and (ids is None or (np.diff(ids) > 0).all()):
        return rows
    if ids is None:
        raise InputError(f"There must be one row of stars a cutout: {n}. Got {len(table)}.")
    if len(np.unique(ids)) == len(ids) and ids.min() >= 1 and ids.max() <= n:
        return np.asarray(ids - 1, dtype=np.intp)
    raise InputError(
        f"{len(table)} rows of stars, with ids from {ids.min()} to {ids.max()}, do not tell which "
        f"of {n} cutouts they are of. Give all the cutouts that select_cutouts was given, or those "
        "of the rows, in the order of the ids."
    )


def tile_stars(cutouts: Any, stars: Any) -> TiledStars:
    """Lay out the cutouts of chosen stars as a frame.

    Parameters
    ----------
    cutouts : array_like, shape (n, size, size) or (n, size * size), or Cutouts
        Of the frame's own pixels.
    stars : Table or (n, 2) array
        x and y on the frame, or NaN where they are not known, a row a cutout. A table of
        `mlpsf.select_cutouts` may be sorted, or have some of the rows: ``id`` tells the cutout.

    Returns
    -------
    TiledStars

    Raises
    ------
    InputError
        Rows and cutouts cannot be matched, or the cutouts are of a wrong shape.
    """
    pixels = squares(cutouts.data if isinstance(cutouts, Cutouts) else cutouts)
    table = _as_table(stars)
    if not len(table):
        raise InputError(f"There is no star: the table for {len(pixels)} cutouts has no rows.")
    cutout = _cutout_of(table, len(pixels))
    if "group" in table.colnames and len(set(table["group"].tolist())) > 1:
        raise InputError(
            f"The cutouts are of {len(set(table['group'].tolist()))} frames, and a PSF is that of "
            "one. Give the rows and cutouts of one group."
        )
    x, y = (_column(table, name) for name in "xy")
    # Only those that are used: the others would set the tiles' size and take memory.
    used = np.ones(len(table), dtype=bool)
    for name, wanted in (("selected", True), ("reserved", False)):
        if name in table.colnames:
            used &= truth(table[name]) == wanted
    if not used.any():
        raise InputError(f"None of the {len(table)} stars is selected.")
    known = bool(np.isfinite(x[used]).all() and np.isfinite(y[used]).all())
    at = (x[used], y[used]) if known else (None, None)
    # Of all sources, also those that are not used.
    inside = np.isfinite(x) & np.isfinite(y)
    first = first_pixel(x[inside], y[inside])
    gain = table.meta.get("gain")
    frame = tile_cutouts(
        pixels[cutout[used]],
        *at,
        first=first,
        gain=gain if gain is not None and np.isfinite(gain) else None,
        name=str(table.meta.get("frame", "cutouts")),
    )
    extent = frame.extent
    if known:
        ny, nx = (int(np.ceil(v[inside].max())) + 1 for v in (y, x))
        extent = ny - first[1], nx - first[0]
    table = table[used]
    # A cutout's centre pixel is the one nearest to its source.
    table["x"] = frame.tile_x + (x[used] - np.rint(x[used]) if known else 0.0)
    table["y"] = frame.tile_y + (y[used] - np.rint(y[used]) if known else 0.0)
    table.meta.pop("frame_sha256", None)
    return TiledStars(frame, table, 2 * frame.half + 1, extent, frame.first)


def truth(column: Any) -> NDArray[np.bool_]:
    """Convert a column to bool, also text as read from a CSV file."""
    values = np.asarray(np.ma.filled(column, False))
    if values.dtype.kind in "US":
        text = np.char.lower(values.astype(str))
        if not np.isin(text, ("true", "false", "")).all():
            raise InputError("the columns 'selected' and 'reserved' of stars hold True or False")
        return np.asarray(text == "true")
    return values.astype(bool)


def _column(table: Table, name: str) -> NDArray[np.float64]:
    if name not in table.colnames:
        return np.full(len(table), np.nan)
    return np.asarray(np.ma.filled(table[name], np.nan), dtype=np.float64)
