"""Stars of a PSF from cutouts: laid out as a frame, with their places on that frame."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
from astropy.table import Table
from astropy.utils.exceptions import AstropyUserWarning
from numpy.typing import NDArray

from mlpsf.errors import InputError
from mlpsf.frames.cutouts import Cutouts
from mlpsf.frames.tiles import TiledFrame, clean_cutouts, tile_cutouts

__all__ = ["TiledStars", "are_cutouts", "tile_stars", "truth"]


class TiledStars(NamedTuple):
    """A frame of tiles, the stars on it, the side in pixels of the largest PSF that it can give.

    And the rows and columns that the sources span on the frame that they are from.
    """

    frame: TiledFrame
    stars: Table
    largest: int
    extent: tuple[int, int]


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
    if known and _elsewhere(x[used], y[used]):
        warnings.warn(
            f"The positions of the stars, x {x[used].min():.0f} to {x[used].max():.0f} and y "
            f"{y[used].min():.0f} to {y[used].max():.0f}, are not those of a frame, which counts "
            "from 0: the PSF is the same everywhere. Give x and y on the frame for one that varies",
            AstropyUserWarning,
            stacklevel=4,
        )
        known = False
    at = (x[used], y[used]) if known else (None, None)
    gain = table.meta.get("gain")
    frame = tile_cutouts(
        pixels[used],
        *at,
        gain=gain if gain is not None and np.isfinite(gain) else None,
        name=str(table.meta.get("frame", "cutouts")),
    )
    inside = np.isfinite(x) & np.isfinite(y)
    extent = frame.extent
    if known:  # of all sources, also those that are not used
        extent = int(np.ceil(y[inside].max())) + 1, int(np.ceil(x[inside].max())) + 1
    table = table[used]
    # A cutout's centre pixel is the one nearest to its source.
    table["x"] = frame.tile_x + (x[used] - np.rint(x[used]) if known else 0.0)
    table["y"] = frame.tile_y + (y[used] - np.rint(y[used]) if known else 0.0)
    table.meta.pop("frame_sha256", None)
    return TiledStars(frame, table, 2 * frame.half + 1, extent)


def truth(column: Any) -> NDArray[np.bool_]:
    """Convert a column to bool, also text as read from a CSV file."""
    values = np.asarray(np.ma.filled(column, False))
    if values.dtype.kind in "US":
        text = np.char.lower(values.astype(str))
        if not np.isin(text, ("true", "false", "")).all():
            raise InputError("the columns 'selected' and 'reserved' of stars hold True or False")
        return np.asarray(text == "true")
    return values.astype(bool)


def _elsewhere(x: NDArray[np.float64], y: NDArray[np.float64]) -> bool:
    """Return whether places start below 0, or further off than they reach."""
    return any(v.min() < -0.5 or v.min() > np.ptp(v) + 100 for v in (x, y))


def _column(table: Table, name: str) -> NDArray[np.float64]:
    if name not in table.colnames:
        return np.full(len(table), np.nan)
    return np.asarray(np.ma.filled(table[name], np.nan), dtype=np.float64)
