"""The page of a night: all its frames in a table, those that stand out on top."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from astropy.table import Table

from mlpsf.files import whole_file
from mlpsf.frames.frame import Frame
from mlpsf.pictures import jpeg, png, shrunk, sky, wings
from mlpsf.report.page import check_page_path, rendered
from mlpsf.report.themed import data_uri
from mlpsf.version import __version__

__all__ = ["MOST_PICTURED", "kinds_of_warnings", "outstanding", "thumbnails", "write_night"]

MOST_PICTURED = 300
"""So many frames have pictures on the page, those that stand out before the others."""

_SIDE = 110  # pixels of a small picture
_APART = 5.0  # median deviations from which a frame stands out
_LEAST = 0.2  # of the median: less is no news
_FINE = ("", "good", "varying")  # verdicts that are no reason to look
_FEWEST = 5  # frames that a median is of
_COLUMNS = {
    "fwhm": "FWHM",
    "ellipticity": "ellipticity",
    "n_found": "number of sources",
    "n_chosen": "number of stars",
    "quality": "light left by the PSF",
}
_LESS_IS_BETTER = ("ellipticity", "quality")  # of these only more is a reason to look


class _Row(NamedTuple):
    name: str
    link: str
    pictures: list[str]
    values: list[tuple[str, str]]  # to sort by, to read
    notes: list[str]
    warned: list[str]
    failed: bool


def thumbnails(frame: Frame | None = None, psf: Any = None) -> list[str]:
    """Return small pictures of a frame and its PSF, as addresses that hold them."""
    pictures = []
    if frame is not None:
        small = shrunk(frame.good_pixels, _SIDE)
        pictures.append(data_uri(jpeg(sky(small), 60), "image/jpeg"))
    if psf is not None:
        pictures.append(data_uri(png(wings(psf.image(), softening=1e-3)), "image/png"))
    return pictures


def outstanding(table: Table) -> list[list[str]]:
    """Return, of each frame of a night, what is unlike the others.

    Parameters
    ----------
    table : Table
        The summary of `mlpsf.run_frames`.

    Returns
    -------
    list of list of str
        The error of a frame that failed, a verdict that most of the others do not share, then each
        figure that is far from the night's median.

    Examples
    --------
    >>> night = Table({"done": [True] * 6, "error": [""] * 6, "fwhm": [4, 4.1, 3.9, 4, 4, 8]})
    >>> outstanding(night)[5]
    ['FWHM 8, the median is 4']
    """
    notes: list[list[str]] = [[] if row["done"] else [str(row["error"])] for row in table]
    if "verdict" in table.colnames:
        told = (*_FINE, *_shared_verdicts(table))
        for note, verdict in zip(notes, table["verdict"], strict=True):
            if verdict not in told:
                note.append(f"verdict: {verdict}")
    done = np.asarray(table["done"], dtype=bool)
    for column, name in _COLUMNS.items():
        if column not in table.colnames:
            continue
        values = np.asarray(np.ma.filled(table[column], np.nan), dtype=np.float64)
        known = done & np.isfinite(values) & (values >= 0)
        if known.sum() < _FEWEST:
            continue
        middle = np.median(values[known])
        spread = 1.4826 * np.median(np.abs(values[known] - middle))
        limit = max(_APART * spread, _LEAST * abs(middle))
        apart = values - middle if column in _LESS_IS_BETTER else np.abs(values - middle)
        for k in np.flatnonzero(known & (apart > limit)):
            notes[k].append(f"{name} {values[k]:.3g}, the median is {middle:.3g}")
    return notes


def write_night(
    path: str | os.PathLike[str],
    table: Table,
    *,
    pages: Sequence[str | None] | None = None,
    pictures: Mapping[int, Sequence[str]] | None = None,
) -> Path:
    """Write the page of a night, which replaces the one before.

    Parameters
    ----------
    path : path-like
        Ends in ``.html``.
    table : Table
        The summary of `mlpsf.run_frames`.
    pages : sequence of str or None, optional
        File names of the frames' reports, beside the page.
    pictures : mapping of int to sequence of str, optional
        `thumbnails` of rows of the table.

    Returns
    -------
    Path

    Raises
    ------
    OutputError
        If the page cannot be written.
    """
    path = check_page_path(path)
    notes = outstanding(table)
    order = sorted(range(len(table)), key=lambda k: (bool(table["done"][k]), -len(notes[k]), k))
    # What is said of most frames tells none from the others, and is said once.
    shared = [one for one in kinds_of_warnings(table) if one[0] > max(1, len(table) // 2)]
    everywhere = {_kind(text) for _, text in shared}
    rows = []
    for place, k in enumerate(order):
        row = table[k]
        page = pages[k] if pages is not None else None
        shown = (pictures or {}).get(k, ()) if place < MOST_PICTURED else ()
        rows.append(
            _Row(
                name=str(row["name"]),
                link="" if page is None else quote(page),
                # Anything but a picture's own data would be fetched.
                pictures=[p for p in shown if p.startswith("data:image/")],
                values=[
                    _value(row[c], d) if c != "quality" else _left(row) for c, d in _SHOWN.items()
                ],
                notes=notes[k],
                warned=[text for text in _said(row) if _kind(text) not in everywhere],
                failed=not row["done"],
            )
        )
    n_failed = int((~np.asarray(table["done"], dtype=bool)).sum())
    text = rendered(
        "night.html",
        version=__version__,
        rows=rows,
        n_frames=len(table),
        n_failed=n_failed,
        everywhere=shared,
        shared=[(n, verdict) for verdict, n in _shared_verdicts(table).items()],
        n_outstanding=sum(bool(n) for n in notes) - n_failed,
        columns=list(_SHOWN_NAMES),
    )
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


_SHOWN = {"fwhm": 2, "ellipticity": 3, "n_found": 0, "n_chosen": 0, "quality": 4, "seconds": 1}
_SHOWN_NAMES = ("FWHM (px)", "Ellipticity", "Sources", "Stars", "Left by the PSF", "Seconds")


def _shared_verdicts(table: Table) -> dict[str, int]:
    """Return the verdict that most frames share, if it is a reason to look, and their number."""
    if "verdict" not in table.colnames:
        return {}
    counts = Counter(str(verdict) for verdict in table["verdict"])
    return {v: n for v, n in counts.items() if v not in _FINE and n > len(table) // 2}


def _said(row: Any) -> list[str]:
    """Return the warnings of a frame."""
    return [text for text in str(row["warnings"]).split(" | ") if text]


def kinds_of_warnings(table: Table) -> list[tuple[int, str]]:
    """Return of each kind of warning how many frames have it, and its first; the most first.

    Examples
    --------
    >>> kinds_of_warnings(Table({"warnings": ["a.fits: gain 2.5", "b.fits: gain 3 | no WCS"]}))
    [(2, 'a.fits: gain 2.5'), (1, 'no WCS')]
    """
    said = [{_kind(text): text for text in _said(row)} for row in table]
    first = {kind: text for one in reversed(said) for kind, text in one.items()}
    return [(n, first[kind]) for kind, n in Counter(k for one in said for k in one).most_common()]


def _kind(warning: str) -> str:
    """Return a warning without numbers and files, which differ from frame to frame."""
    return re.sub(r"\S+\.fi?ts?\b\S*|\d+(\.\d+)?", "\N{HORIZONTAL ELLIPSIS}", warning)


def _left(row: Any) -> tuple[str, str]:
    """Return the share of light that a PSF leaves, and of which stars, to sort by and to read."""
    value, text = _value(row["quality"], 5)
    if not value:
        return value, text
    share = "noise alone" if float(value) == 0 else f"{float(value):.2%}"
    by = str(row["judged_by"]) if "judged_by" in row.colnames else ""
    return value, f"{share}, {by} stars" if by else share


def _value(value: Any, digits: int) -> tuple[str, str]:
    """Return a number to sort by and to read; an unknown one comes last."""
    number = float(value)
    if not np.isfinite(number) or number < 0:
        return "", "\N{EM DASH}"
    return f"{number:.6g}", f"{number:.{digits}f}"
