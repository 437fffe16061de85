"""The metadata of a star table, by whatever it was read.

>>> metadata_of(Table({"x": [1.0]}, meta={"MLPSF N SUBTRACTED": 7, "EXTNAME": "stars"}))
{'n_subtracted': 7}
>>> metadata_of(Table({"x": [1.0]}, meta={"comments": ["n_subtracted: 7", "frame: a.fits"]}))
{'n_subtracted': 7, 'frame': 'a.fits'}
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from astropy.table import Table

__all__ = ["by_its_own_names", "metadata_of", "of_comments"]

_PREFIX = "MLPSF "  # of the keywords in a FITS header


def metadata_of(stars: Any) -> dict[str, Any]:
    """Return what a star table says of itself, by its own names.

    Parameters
    ----------
    stars : Table or other
        Of a FITS file that ``Table.read`` read, the keywords of its header are taken; of a CSV
        file, the comments.

    Returns
    -------
    dict
        Empty of what is no table.
    """
    meta = dict(getattr(stars, "meta", None) or {})
    if any(str(key).startswith(_PREFIX) for key in meta):
        return {
            key.removeprefix(_PREFIX).lower().replace(" ", "_"): value
            for key, value in meta.items()
            if key.startswith(_PREFIX)
        }
    if isinstance(stars, Table) and "comments" in meta:
        return of_comments(meta["comments"])
    return meta


def by_its_own_names(stars: Table) -> Table:
    """Return a star table whose metadata have mlpsf's own names, however it was read."""
    meta = metadata_of(stars)
    if meta == dict(stars.meta):
        return stars
    out = stars.copy()
    out.meta = meta
    return out


def of_comments(lines: Iterable[str]) -> dict[str, Any]:
    """Return the metadata in the comments of a CSV file; numbers as numbers."""
    meta: dict[str, Any] = {}
    for line in lines:
        key, _, text = str(line).partition(": ")
        try:
            meta[key] = float(text) if "." in text or text in ("inf", "nan") else int(text)
        except ValueError:
            meta[key] = {"True": True, "False": False}.get(text, text)
    return meta
