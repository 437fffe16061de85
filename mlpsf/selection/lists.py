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
from scipy.spatial import cKDTree

from mlpsf.errors import CatalogueError, InputError
from mlpsf.flags import UNUSABLE, Flag, describe
from mlpsf.frames.frame import Frame
from mlpsf.frames.io.catalogue import read_catalogue, read_table
from mlpsf.selection.choice import Rules

__all__ = ["StarList", "flag_listed", "match_list"]

StarList: TypeAlias = Table | str | os.PathLike[str] | Sequence[int]
"""A table or its path, or values of ``id``."""


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
            sources.meta[f"{name}_from"] = _name(listed)
            chosen.append(rows)
    if stars is not None:
        flags[flags & Flag.KEPT == 0] |= Flag.NOT_LISTED
    if veto is not None:
        flags[match_list(veto, frame, sources, name="veto")] |= Flag.VETOED
        sources.meta["veto_from"] = _name(veto)
    sources["flags"] = flags
    if not chosen:
        return rules
    rows = np.unique(np.concatenate(chosen))
    _warn_of_unusable(flags[rows])
    if stars is None:
        return rules
    n = max(int((flags[rows] & int(UNUSABLE) == 0).sum()), 1)
    return replace(rules, n_max=max(rules.n_max, n), n_min=min(rules.n_min, n))


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
        ids = np.asarray(listed, dtype=np.int64)
        unknown = sorted(set(ids.tolist()) - set(sources["id"].tolist()))
        if unknown:
            raise InputError(f"No source has the id to {name}: {unknown[:5]}.")
        return np.flatnonzero(np.isin(sources["id"], ids))
    table = listed if isinstance(listed, Table) else read_table(listed)
    if "selected" in table.colnames:
        # CSV files hold the words.
        use = np.char.lower(np.asarray(table["selected"]).astype(str)) == "true"
        table = table[use] if use.any() else table
    places = read_catalogue(table, frame, name=_name(listed))
    reach = max(float(sources.meta["fwhm"]), 1.0)
    tree = cKDTree(np.column_stack([sources["x"], sources["y"]]))
    distance, row = tree.query(np.column_stack([places["x"], places["y"]]))
    found = distance <= reach
    if not found.any():
        raise CatalogueError(
            f"None of the {len(places)} positions of {_name(listed)} is a source of {frame.name}: "
            f"the nearest is {distance.min():.1f} pixels off, {reach:.1f} (a FWHM) are allowed. Is "
            "it the list of another frame, or its origin another?"
        )
    if not found.all():
        first = places[~found][0]
        warnings.warn(
            f"{int((~found).sum())} of {len(places)} positions of {_name(listed)} are no source of "
            f"{frame.name}, the first at ({first['x']:.1f}, {first['y']:.1f}).",
            stacklevel=2,
        )
    return np.unique(row[found])


def _name(listed: StarList) -> str:
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
