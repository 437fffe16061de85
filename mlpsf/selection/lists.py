"""Lists of stars that the user brings: chosen before, to be kept, or vetoed."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from mlpsf.errors import CatalogueError, InputError
from mlpsf.flags import UNUSABLE, Flag, describe
from mlpsf.frames.frame import Frame
from mlpsf.frames.io.catalogue import positions_of, read_catalogue, read_table
from mlpsf.frames.near import nearest
from mlpsf.selection.choice import Rules

__all__ = [
    "StarList",
    "flag_listed",
    "list_name",
    "match_list",
    "read_list",
    "rows_of_cutouts",
    "warn_of_origin",
]

StarList: TypeAlias = Table | str | os.PathLike[str] | Sequence[int]
"""A table or its path, or values of ``id``."""

_FEWEST = 5  # positions that tell whether a catalogue counts from 1
_OFF = 0.7  # pixels, median distance from which positions are off


def warn_of_origin(listed: Table, found: Table) -> None:
    """Warn if a catalogue's positions are all off the sources of the frame by the same amount.

    Parameters
    ----------
    listed : Table
        Positions as `read_catalogue` returns them.
    found : Table
        Sources that were detected.
    """
    place, bright = (np.column_stack([t["x"], t["y"]]).astype(float) for t in (listed, found))
    distance, row = nearest(bright, place)
    near = distance < max(3.0, float(found.meta["fwhm"]))
    if near.sum() < _FEWEST:
        return
    off = (place - bright[row])[near]
    middle = np.median(off, axis=0)
    spread = 1.4826 * np.median(np.abs(off - middle), axis=0)
    if np.hypot(*middle) < _OFF or not (spread < 0.5 * np.hypot(*middle)).all():
        return
    one = " They seem to count from 1: subtract it, or name the columns X_IMAGE and Y_IMAGE."
    warnings.warn(
        f"The positions of the catalogue are ({middle[0]:+.2f}, {middle[1]:+.2f}) pixels off the "
        f"sources, the median of {int(near.sum())}."
        + (one if np.abs(middle - 1).max() < _OFF / 2 else " Are they of this frame?"),
        stacklevel=3,
    )


def flag_listed(
    frame: Frame,
    sources: Table,
    rules: Rules,
    *,
    stars: StarList | None = None,
    keep: StarList | None = None,
    veto: StarList | None = None,
) -> Rules:
    """Flag the sources of the user's lists, in place, and fit the rules to them.

    Parameters
    ----------
    frame : Frame
    sources : Table
        Sources as returned by `mlpsf.find_sources`, with the flags of
        `mlpsf.selection.eligibility.flag_ineligible`.
    rules : Rules
    stars, keep, veto : Table, path or sequence of int, optional
        As in `mlpsf.select_stars`.

    Returns
    -------
    Rules
        With `stars`, their number is allowed and enough.

    Raises
    ------
    CatalogueError
        A list cannot be read, or none of it is a source of the frame.
    InputError
        An id does not belong to any source.

    Warns
    -----
    UserWarning
        If stars of a list are not found, or cannot be used.
    """
    flags = np.array(sources["flags"])
    chosen: list[NDArray[np.intp]] = []
    for name, listed in (("stars", stars), ("keep", keep)):
        if listed is not None:
            rows = match_list(listed, frame, sources, name=name)
            flags[rows] |= Flag.KEPT
            sources.meta[f"{name}_from"] = list_name(listed)
            chosen.append(rows)
    if stars is not None:
        flags[flags & Flag.KEPT == 0] |= Flag.NOT_LISTED
    if veto is not None:
        rows = match_list(veto, frame, sources, name="veto")
        flags[rows] = flags[rows] & ~int(Flag.KEPT) | int(Flag.VETOED)
        sources.meta["veto_from"] = list_name(veto)
    sources["flags"] = flags
    if not chosen:
        return rules
    rows = np.unique(np.concatenate(chosen))
    _warn_of_unusable(flags[rows])
    if stars is None:
        return rules
    n = max(int((flags[rows] & int(UNUSABLE) == 0).sum()), 1)
    return replace(rules, n_max=max(rules.n_max, n), n_min=min(rules.n_min, n))


def read_list(listed: StarList, n: int, name: str, *, several: bool) -> Table | list[int]:
    """Return a list for a set of n cutouts: its table, read once, or its numbers, checked.

    A set of several frames needs to know of which each row is.

    Raises
    ------
    CatalogueError
        It cannot be read, or does not tell the frames.
    InputError
        A number is none of a cutout.
    """
    if isinstance(listed, Table | str | os.PathLike):
        table = listed if isinstance(listed, Table) else read_table(listed)
        if several and not {"group", "id"} & set(table.colnames):
            raise CatalogueError(
                f"{list_name(listed)} has no column group, and the cutouts are of several frames. "
                "Give the frame of each row as group, or numbers of cutouts as id."
            )
        return table
    numbers = np.asarray(listed).ravel()
    if not len(numbers):
        return []
    wrong = ~np.isin(numbers, np.arange(1, n + 1))
    if wrong.any():
        raise InputError(
            f"ids to {name} are row numbers from 1 to {n}. Got {numbers[wrong][:5].tolist()}."
        )
    return [int(number) for number in numbers]


def rows_of_cutouts(
    listed: StarList,
    sources: Table,
    frame: Frame,
    *,
    group: object = None,
) -> list[int]:
    """Return the numbers of the cutouts that a list names.

    Parameters
    ----------
    listed : Table, path or sequence of int
        Of a table the rows of this `group`, where it has such a column: by position, matched as by
        `match_list`, or by ``id`` where the cutouts have no positions.
    sources : Table
        The cutouts of one frame: ``id``, and x and y as they were given, NaN where not known; in
        the metadata ``fwhm``.
    frame : Frame
        For messages, and its WCS.
    group : object
        The frame's name, where there are several.

    Returns
    -------
    list of int
        Values of ``id``; empty where none of the list is of this frame.

    Raises
    ------
    CatalogueError
        A table names neither positions nor ids of cutouts, or none that is there.

    Examples
    --------
    >>> from mlpsf import read_frame
    >>> frame = read_frame(np.random.default_rng(0).normal(100, 1, (60, 60)))
    >>> sources = Table({"id": [1, 2], "x": [9010.0, 9030.0], "y": [20.0, 40.0]}, meta={"fwhm": 4})
    >>> rows_of_cutouts(Table({"x": [9030.7], "y": [39.5]}), sources, frame)
    [2]
    """
    ids = np.asarray(sources["id"])
    if not isinstance(listed, Table | str | os.PathLike):
        return [int(number) for number in listed if number in ids]
    table = _taken(listed)
    if group is not None and "group" in table.colnames:
        table = table[np.asarray(table["group"]).astype(str) == str(group)]
    if not len(table):
        return []
    called = list_name(listed)
    near = np.column_stack([np.asarray(sources[axis], dtype=np.float64) for axis in "xy"])
    if (group is not None and "group" not in table.colnames) or not np.isfinite(near).all():
        if "id" not in table.colnames:
            raise CatalogueError(
                f"The cutouts of {frame.name} have no positions, and {called} no column id: "
                "give numbers of cutouts, counted from 1, as id."
            )
        return [int(number) for number in table["id"] if number in ids]
    at = np.column_stack(positions_of(table, frame, called))
    at = at[np.isfinite(at).all(axis=1)]
    return [int(number) for number in ids[_nearest(at, near, sources, listed, frame)]]


def match_list(
    listed: StarList,
    frame: Frame,
    sources: Table,
    *,
    name: str = "list",
) -> NDArray[np.intp]:
    """Return the rows of sources that a list names.

    Parameters
    ----------
    listed : Table, path or sequence of int
        Positions as in `mlpsf.frames.io.catalogue.read_catalogue`, each matched with the nearest
        source within a FWHM; or values of ``id``. Of a table with a column ``selected`` that is
        true of any row, the selected rows.
    frame : Frame
    sources : Table
        With ``id``, ``x``, ``y`` and, in the metadata, ``fwhm``.
    name : str
        What the list is called in messages.

    Returns
    -------
    ndarray of int
        Each row once, in increasing order.

    Examples
    --------
    >>> from mlpsf import read_frame
    >>> frame = read_frame(np.random.default_rng(0).normal(100, 1, (60, 60)))
    >>> sources = Table({"id": [4, 9], "x": [10.0, 30.0], "y": [20.0, 40.0]}, meta={"fwhm": 4.0})
    >>> match_list(Table({"x": [30.7], "y": [39.5]}), frame, sources).tolist()
    [1]
    """
    if not isinstance(listed, Table | str | os.PathLike):
        try:
            ids = np.asarray(listed, dtype=np.int64)
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f"ids to {name} are whole numbers: {error}.") from error
        unknown = sorted(set(ids.tolist()) - set(sources["id"].tolist()))
        if unknown:
            raise InputError(f"No source has the id to {name}: {unknown[:5]}.")
        return np.flatnonzero(np.isin(sources["id"], ids))
    places = read_catalogue(_taken(listed), frame, name=list_name(listed))
    at, near = (np.column_stack([table["x"], table["y"]]) for table in (places, sources))
    return _nearest(at, near, sources, listed, frame)


def _taken(listed: Table | str | os.PathLike[str]) -> Table:
    """Return the rows of a list, or its selected ones, where it says so of any."""
    table = listed if isinstance(listed, Table) else read_table(listed)
    if "selected" in table.colnames:
        # CSV files hold the words.
        use = np.char.lower(np.asarray(table["selected"]).astype(str)) == "true"
        table = table[use] if use.any() else table
    return table


def _nearest(
    places: NDArray[np.float64],
    near: NDArray[np.float64],
    sources: Table,
    listed: StarList,
    frame: Frame,
) -> NDArray[np.intp]:
    """Return the rows of sources within a FWHM of places, shape (n, 2)."""
    reach = max(float(sources.meta["fwhm"]), 1.0)
    called = list_name(listed)
    distance, row = nearest(near, places)
    found = distance <= reach
    if not found.any():
        raise CatalogueError(
            f"None of the {len(places)} positions of {called} is a source of {frame.name}: "
            f"the nearest is {distance.min():.1f} pixels off, {reach:.1f} (a FWHM) are allowed. Is "
            "it the list of another frame, or its origin another?"
        )
    if not found.all():
        x, y = places[~found][0]
        warnings.warn(
            f"{int((~found).sum())} of {len(places)} positions of {called} are no source of "
            f"{frame.name}, the first at ({x:.1f}, {y:.1f}).",
            stacklevel=3,
        )
    return np.unique(row[found])


def list_name(listed: StarList) -> str:
    """Return what a list is called in metadata and messages."""
    if isinstance(listed, str | os.PathLike):
        return Path(listed).name
    return "the table" if isinstance(listed, Table) else "numbers"


def _warn_of_unusable(flags: NDArray[np.int32]) -> None:
    # A veto is the user's own wish, and nothing to be told of.
    bad = flags & int(UNUSABLE & ~Flag.VETOED)
    bad = bad[bad != 0]
    if len(bad):
        kinds, counts = np.unique(bad, return_counts=True)
        said = ", ".join(f"{n} {describe(f)}" for f, n in zip(kinds, counts, strict=True))
        warnings.warn(
            f"{len(bad)} of {len(flags)} listed stars cannot make a PSF: {said}.", stacklevel=3
        )
