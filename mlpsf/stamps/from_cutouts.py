"""Stamps from cutouts alone: their FWHM and common star are measured from the set itself."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray

from mlpsf.detection.bad_pixels import fill_lone_pixels
from mlpsf.detection.sources import find_sources
from mlpsf.errors import InputError
from mlpsf.flags import Flag
from mlpsf.frames.cutouts import REFERENCE_FWHM, Cutouts
from mlpsf.frames.tiles import TiledFrame, squares, tile_cutouts
from mlpsf.stamps.common_star import CommonStar, brightest
from mlpsf.stamps.standard import (
    STAMP_SIZE,
    extract_stamps,
    frame_star,
    fwhm_of_stars,
    standard_star,
)

__all__ = [
    "FEWEST_CUTOUTS",
    "CutoutSources",
    "copies_of",
    "cutouts_alike",
    "homogenize",
    "measure_cutouts",
    "places_of_cutouts",
    "with_copies",
]

FEWEST_CUTOUTS = 5
"""Fewest cutouts of a frame from which its common star is taken."""

NARROWEST_CUTOUT = 4.0
"""Least side of a cutout in FWHM: in a smaller one a star cannot be told from its neighbours."""

NARROW_CUTOUT = 8.0
"""Side in FWHM under which neighbours that spoil a star can be beyond the cutout."""

# Of stamps that are homogenized already.
_ALIKE = (0.02, 0.01)  # how far their FWHM (relative) and pixels (of the peak) may be off
_FARTHEST = 1e12  # pixels: positions that int64 and double precision hold
_CENTRED = 0.1  # pixels; half of the stars at least are nearer to the centre


class CutoutSources(NamedTuple):
    """Cutouts laid out as a frame, and the table of the sources in them, a row a cutout."""

    frame: TiledFrame
    sources: Table


def measure_cutouts(
    cutouts: ArrayLike,
    x: ArrayLike | None = None,
    y: ArrayLike | None = None,
    *,
    gain: float | None = None,
    saturation: float | None = None,
    defects: bool = True,
    name: str = "cutouts",
    stacklevel: int = 3,
) -> CutoutSources:
    """Measure the sources of one frame from their cutouts.

    Parameters
    ----------
    cutouts, x, y, gain, saturation, name
        As for `mlpsf.frames.tiles.tile_cutouts`.
    defects : bool
        As for `mlpsf.find_sources`.

    Returns
    -------
    CutoutSources
        Positions in the table are those on the frame of tiles.

    Raises
    ------
    InputError
        Cutouts are of a wrong shape, or smaller than 4 FWHM.
    NoSourcesError
        None of them could be an unsaturated star.

    Warns
    -----
    UserWarning
        The cutouts are smaller than 8 FWHM.
    """
    cutouts = squares(cutouts)
    frame = tile_cutouts(cutouts, x, y, gain=gain, saturation=saturation, name=name)
    frame = fill_lone_pixels(frame)
    n = len(frame.tile_x)
    places = Table({"id": np.arange(1, n + 1), "x": frame.tile_x, "y": frame.tile_y})
    sources = find_sources(frame, places, defects=defects)
    fwhm, size = float(sources.meta["fwhm"]), cutouts.shape[-1]
    if size < NARROWEST_CUTOUT * fwhm:
        raise InputError(
            f"The cutouts of {name} are {size} pixels wide and their stars have a FWHM of "
            f"{fwhm:.1f}: expected at least {NARROWEST_CUTOUT:g} FWHM, better 10. Cut them wider."
        )
    if size < NARROW_CUTOUT * fwhm:
        warnings.warn(
            f"The cutouts of {name} are {size / fwhm:.1f} FWHM wide: a neighbour beyond "
            f"{size / fwhm / 2:.1f} FWHM is not seen unless it has a cutout of its own. Where the "
            "field is crowded, probabilities are too high. 10 FWHM are enough.",
            stacklevel=stacklevel,
        )
    return CutoutSources(frame, sources)


def cutouts_alike(found: CutoutSources, *, stacklevel: int = 2) -> Table:
    """Return the sources that the common star is taken from: none of too few; this is warned of."""
    n = len(found.sources)
    if n >= FEWEST_CUTOUTS:
        return found.sources
    warnings.warn(
        f"{found.frame.name}: {n} cutouts are too few to find the PSF that they share. They are "
        "only resampled, and probabilities are less certain. Give all sources of the frame.",
        stacklevel=stacklevel + 1,
    )
    return found.sources[:0]


def places_of_cutouts(x: ArrayLike | None, y: ArrayLike | None, n: int) -> NDArray[np.float64]:
    """Return positions as an array (2, n), one a cutout.

    Raises
    ------
    InputError
        They are not one x and one y a cutout, in pixels.
    """
    if x is None or y is None:
        raise InputError("Positions are x and y. Got one of them.")
    for unit in (getattr(values, "unit", None) for values in (x, y)):
        if str(unit or "pix") not in ("pix", "pixel"):
            raise InputError(f"Positions are in pixels of the frame. Got {unit}.")
    try:
        at = [np.ma.filled(np.ma.asarray(v, dtype=np.float64), np.nan) for v in (x, y)]
    except (TypeError, ValueError) as error:
        raise InputError("x and y must be numbers, pixels of the frame.") from error
    if any(v.shape != (n,) for v in at):
        raise InputError(
            f"There must be one x and one y a cutout: {n}. Got {[v.size for v in at]}."
        )
    out = np.stack(at)
    if (np.abs(out[np.isfinite(out)]) > _FARTHEST).any():
        raise InputError(f"Positions are pixels of a frame, of up to {_FARTHEST:g}. Got more.")
    return out


def copies_of(cutouts: NDArray[Any]) -> NDArray[np.intp]:
    """Return, of each cutout, the first of the set that has the same pixels.

    Parameters
    ----------
    cutouts : ndarray, shape (n, size, size)

    Returns
    -------
    ndarray of int, shape (n,)

    Examples
    --------
    >>> cutouts = np.zeros((3, 15, 15))
    >>> cutouts[1] = 1
    >>> copies_of(cutouts).tolist()
    [0, 1, 0]
    """
    c = cutouts.shape[-1] // 2
    core = np.ma.getdata(cutouts)[:, c - 2 : c + 3, c - 2 : c + 3].reshape(len(cutouts), -1)
    key = np.frombuffer(core.tobytes(), dtype=f"V{core.shape[1] * core.itemsize}")
    _, first, group = np.unique(key, return_index=True, return_inverse=True)
    before = first[group]
    # Those with the same core are mostly of blank pixels.
    for row in np.flatnonzero(before != np.arange(len(cutouts))):
        one, other = cutouts[row], cutouts[before[row]]
        same = np.array_equal(np.ma.getdata(one), np.ma.getdata(other), equal_nan=True)
        if not same or (np.ma.getmaskarray(one) != np.ma.getmaskarray(other)).any():
            before[row] = row
    return before


def with_copies(
    table: Table, ids: NDArray[np.intp], first: NDArray[np.intp], *, name: str, stacklevel: int
) -> Table:
    """Return a star table with rows for the cutouts that are copies of others; this is warned of.

    Parameters
    ----------
    table : Table
        A row for each cutout that is none, in order.
    ids : ndarray of int, shape (n,)
        Numbers of all cutouts.
    first : ndarray of int, shape (n,)
        From `copies_of`.
    name : str
        Of the set.
    stacklevel : int
        Of the warning.

    Returns
    -------
    Table
        Of n rows. Those of copies say what the others say, but are never chosen.
    """
    once = np.flatnonzero(first == np.arange(len(ids)))
    whole = table[np.searchsorted(once, first)]
    copy = first != np.arange(len(ids))
    whole["id"] = ids
    whole["selected"][copy] = whole["reserved"][copy] = False
    whole["flags"][copy] |= Flag.COPY
    words = [str(text) for text in whole["reason"]]
    whole["reason"] = [Flag.COPY.short if c else w for c, w in zip(copy, words, strict=True)]
    one = int(np.argmax(copy))
    warnings.warn(
        f"{name}: {copy.sum()} of {len(ids)} cutouts are copies of others, the first is number "
        f"{ids[one]}, of number {ids[first[one]]}. Each is used once.",
        stacklevel=stacklevel + 1,
    )
    return whole


def homogenize(
    cutouts: ArrayLike | Cutouts,
    x: ArrayLike | None = None,
    y: ArrayLike | None = None,
    *,
    size: int = STAMP_SIZE,
    replace: bool = True,
    name: str = "cutouts",
) -> NDArray[np.float32]:
    """Make stamps of the cutouts of one frame; see `mlpsf.PSFHomogenizer`.

    Stamps that are homogenized already are returned as they are.

    Returns
    -------
    ndarray of float32, shape (n, size, size)
    """
    if isinstance(cutouts, Cutouts):
        if cutouts.homogenized and cutouts.data.shape[-1] == size:
            return cutouts.data
        x, y = cutouts.positions if x is None else (x, y)
        cutouts = cutouts.data
    found = measure_cutouts(cutouts, x, y, defects=False, name=name, stacklevel=5)
    frame, sources = found
    alike = cutouts_alike(found, stacklevel=4) if replace else sources[:0]
    star = frame_star(frame, alike, size)
    given = np.asarray(cutouts, dtype=np.float32).reshape(len(sources), -1)
    same_size = given.shape[1] == size * size
    if star is not None and same_size and _is_standard(star, found, size):
        return given.reshape(-1, size, size)
    fwhm = fwhm_of_stars(alike, sources)
    return extract_stamps(frame, sources["x"], sources["y"], size, fwhm=fwhm, star=star).data


def _is_standard(star: CommonStar, found: CutoutSources, size: int) -> bool:
    """Whether stars are centred and look like the standard star, as they do in stamps."""
    frame, sources = found
    bright = brightest(sources["snr"], sources["flags"])
    off = np.hypot(sources["x"] - frame.tile_x, sources["y"] - frame.tile_y)[bright]
    wrong_size = abs(sources.meta["fwhm"] / REFERENCE_FWHM - 1) > _ALIKE[0]
    if wrong_size or np.median(off) > _CENTRED:
        return False
    drawn = star.psf.stamps(np.zeros(1), np.zeros(1), size)[0]
    wanted = standard_star(size)
    return bool(np.abs(drawn / drawn.max() - wanted).max() < _ALIKE[1])
