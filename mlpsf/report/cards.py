"""The sources of a frame as a page shows them: cutouts, profiles, and what is said of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from mlpsf.flags import UNUSABLE, Flag, describe
from mlpsf.frames.cutouts import extract_cutouts
from mlpsf.frames.frame import Frame
from mlpsf.neighbours.subtract import as_judged
from mlpsf.pictures import core, png, shrunk, wings
from mlpsf.report.themed import data_uri

__all__ = ["Card", "Sheet", "cards_of", "marked_rows", "sheet_of", "shown_rows"]

MOST_CARDS = 400
"""So many sources have a cutout on the page."""
MOST_MARKS = 1500
"""So many sources are marked on the map."""

_REACH = 4.0  # FWHM, half the width of a cutout
_WIDEST = 61  # pixels of a cutout; wider ones are shrunk
_COLUMNS = 20
_DECADES = 3.0  # of the peak that a small profile shows


@dataclass(frozen=True)
class Card:
    """A source on the page."""

    id: int
    kind: str  # chosen, reserved or other
    usable: bool
    x: float
    y: float
    text: str
    reason: str
    snr: float
    fwhm: float
    probability: float
    chi_square: float = float("nan")
    at: int | None = None  # place on the sheet
    star_line: str = ""
    psf_line: str = ""


@dataclass(frozen=True)
class Sheet:
    """All cutouts in one picture, in two stretches, and where each is.

    Where neighbours were subtracted, ``given`` is the picture with them.
    """

    wings: str
    cores: str
    given: str
    columns: int
    rows: int
    places: dict[int, int] = field(default_factory=dict)  # row of the table: place


def shown_rows(stars: Table) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows of the chosen stars, of the reserved ones, and of the others, best first.

    The others are the most probable of those that are bright enough, then of the faint ones; as
    many as a page holds.
    """
    selected, reserved = (np.asarray(stars[c], dtype=bool) for c in ("selected", "reserved"))
    selected = selected & ~reserved
    probability = np.nan_to_num(np.asarray(stars["probability"], dtype=np.float64), nan=-1.0)
    snr = np.nan_to_num(np.asarray(stars["snr"], dtype=np.float64))
    order = np.lexsort((-snr, -probability))
    taken, kept = order[selected[order]], order[reserved[order]]
    rest = order[~(selected | reserved)[order]]
    faint = np.asarray(stars["flags"])[rest] & int(Flag.FAINT) != 0
    rest = rest[np.argsort(faint, kind="stable")]
    return taken, kept, rest[: max(MOST_CARDS - len(taken) - len(kept), 0)]


def marked_rows(stars: Table) -> NDArray[np.intp]:
    """Return the rows that are marked on the map: all with a cutout, then the brightest."""
    first = np.concatenate(shown_rows(stars))
    rest = np.setdiff1d(np.arange(len(stars)), first)
    rest = rest[np.argsort(-np.nan_to_num(np.asarray(stars["snr"], float))[rest], kind="stable")]
    return np.concatenate([first, rest])[:MOST_MARKS].astype(np.intp)


def sheet_of(frame: Frame, stars: Table, rows: NDArray[np.intp]) -> Sheet:
    """Cut out sources, as they were judged, and lay them out in one picture, drawn twice."""
    size = 2 * int(np.ceil(_REACH * float(stars.meta["fwhm"]))) + 1
    x, y = (np.asarray(stars[c], dtype=np.float64)[rows] for c in "xy")

    def cutouts(pixels: Any, sky: Any = 0.0) -> NDArray[np.floating]:
        cut = extract_cutouts(pixels, x, y, size, background=sky).data
        if size <= _WIDEST or not len(cut):
            return cut
        return np.array([shrunk(image, _WIDEST) for image in cut])

    seen = as_judged(frame, stars)
    cut = cutouts(seen, seen.background.level)
    full = cutouts(frame.saturated.astype(np.float32)) > 0
    sheets = [wings(cut), core(cut, full)]
    if seen is not frame:
        sheets.append(wings(cutouts(frame, seen.background.level)))
    columns = min(_COLUMNS, max(len(rows), 1))
    n_rows = -(-max(len(rows), 1) // columns)
    pages = []
    for levels in sheets:
        side = levels.shape[-1]
        page = np.zeros((n_rows * columns, side, side), dtype=np.uint8)
        page[: len(rows)] = levels
        # The first row of a picture is at its bottom, that of the sheet at its top.
        page = page.reshape(n_rows, columns, side, side)[::-1].swapaxes(1, 2)
        pages.append(data_uri(png(page.reshape(n_rows * side, columns * side)), "image/png"))
    places = {int(row): k for k, row in enumerate(rows)}
    return Sheet(pages[0], pages[1], "".join(pages[2:]), columns, n_rows, places)


def cards_of(
    stars: Table, rows: NDArray[np.intp], sheet: Sheet, profiles: Any = None, n_profiles: int = 0
) -> list[Card]:
    """Return the cards of some sources; the first `n_profiles` have a profile."""
    cards = []
    for k, row in enumerate(rows):
        s = stars[int(row)]
        flags = int(s["flags"])
        kind = "reserved" if s["reserved"] else "chosen" if s["selected"] else "other"
        values: dict[str, Any] = {
            name: float(s[name]) for name in ("x", "y", "snr", "fwhm", "probability")
        }
        chi = float(profiles.chi_square[k]) if profiles is not None and k < n_profiles else np.nan
        said = {"chosen": "chosen", "reserved": "reserved to judge the PSF"}.get(kind, "not chosen")
        reason = str(s["reason"]) if kind == "other" else describe(flags & int(_TOLD))
        text = f"Source {int(s['id'])}, {said}"
        if reason:
            text += f": {reason}"
        text += f". Probability {values['probability']:.2f}, S/N {values['snr']:.0f}, "
        text += f"FWHM {values['fwhm']:.2f} pixels, at {values['x']:.1f}, {values['y']:.1f}"
        lines: dict[str, Any] = {}
        if profiles is not None and k < n_profiles:
            lines = {
                "star_line": _line(profiles.radii, profiles.stars[k]),
                "psf_line": _line(profiles.radii, profiles.psf[k]),
            }
        cards.append(
            Card(
                id=int(s["id"]),
                kind=kind,
                usable=not flags & int(UNUSABLE & ~Flag.VETOED),
                text=text.replace("Probability nan", "Not judged"),
                reason=reason,
                chi_square=chi,
                at=sheet.places.get(int(row)),
                **values,
                **lines,
            )
        )
    return cards


_TOLD = Flag.OUTLIER_KEPT | Flag.RELAXED | Flag.KEPT | Flag.BLENDED
"""Flags of chosen stars that are said on the page."""


def _line(radii: Any, values: Any) -> str:
    """Return the points of a small profile on a field of 100 by 40, logarithmic."""
    ok = np.isfinite(values)
    if not ok.any():
        return ""
    height = np.clip(-np.log10(np.maximum(values[ok], 1e-9)) / _DECADES, 0, 1) * 38 + 1
    across = radii[ok] / radii[-1] * 100
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(across, height, strict=True))
