"""The report of a frame: its stars, its PSF, and what to do about both."""

from __future__ import annotations

import base64
import hashlib
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.table import Table

from mlpsf.errors import InputError, OutputError, PSFError
from mlpsf.files import check_folder, check_replaceable, whole_file
from mlpsf.frames.frame import Frame
from mlpsf.frames.metadata import by_its_own_names
from mlpsf.pictures import jpeg, shrunk, sky
from mlpsf.report.advice import Command, advice_on
from mlpsf.report.cards import cards_of, marked_rows, sheet_of, shown_rows
from mlpsf.report.listing import list_parts
from mlpsf.report.themed import data_uri, themed_svg
from mlpsf.report.words import facts, meanings, verdict_of
from mlpsf.version import __version__

if TYPE_CHECKING:
    from mlpsf.psf import PSFModel

__all__ = ["check_page_path", "render_report", "rendered", "write_report"]

BEST_REJECTED = 24
"""So many of the others are shown at once; the rest of the cutouts are in a fold."""

_HEADER = {
    "OBJECT": "Object",
    "FILTER": "Filter",
    "EXPTIME": "Exposure (s)",
    "DATE-OBS": "Date",
    "TELESCOP": "Telescope",
    "INSTRUME": "Instrument",
}

_MAP_SIDE = 900  # pixels of the map's longer side


def write_report(
    path: str | os.PathLike[str],
    frame: Frame,
    stars: Table,
    psf: PSFModel | None = None,
    *,
    overwrite: bool | None = None,
    **options: Any,
) -> Path:
    """Write the report of a frame as one HTML file.

    Parameters
    ----------
    path : path-like
        Ends in ``.html``.
    frame : Frame
    stars : Table
        Star table from `mlpsf.select_stars`.
    psf : PSFModel, optional
        Without it the page is of the stars alone.
    overwrite : bool, optional
        Whether to replace a file that exists. By default only a report of mlpsf is replaced.
    **options
        As for `render_report`.

    Returns
    -------
    Path

    Raises
    ------
    OutputError
        If the file cannot be written, or must not be replaced.

    Examples
    --------
    >>> import tempfile
    >>> from mlpsf import build_psf, select_stars, simulate_frame
    >>> frame = simulate_frame(shape=(400, 400), n_stars=60, n_galaxies=0, fwhm=4.0, seed=2).frame
    >>> stars = select_stars(frame, n_min=3, relax=True)
    >>> path = Path(tempfile.mkdtemp()) / "report.html"
    >>> write_report(path, frame, stars, build_psf(frame, stars)).name
    'report.html'
    """
    path = check_page_path(path)
    check_replaceable(path, "report", overwrite)
    text = render_report(frame, stars, psf, **options)
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def check_page_path(path: str | os.PathLike[str]) -> Path:
    """Return the path; raise `OutputError` if a page cannot be written there."""
    path = check_folder(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise OutputError(f"A report is a page: {path.name!r} must end in .html.")
    return path


def render_report(
    frame: Frame,
    stars: Table,
    psf: PSFModel | None = None,
    *,
    words: Sequence[str] | None = None,
    warnings: Sequence[str] = (),
    error: str = "",
) -> str:
    """Return the report of a frame as the text of an HTML page.

    Parameters
    ----------
    frame : Frame
    stars : Table
        Star table from `mlpsf.select_stars`.
    psf : PSFModel, optional
    words : sequence of str, optional
        What follows ``mlpsf psf`` in the commands that the page shows: the frame's path and how
        it is read. By default its name.
    warnings : sequence of str
        What was warned of, said on the page.
    error : str
        Why there is no PSF.

    Raises
    ------
    InputError
        The metadata of the table do not hold the frame's FWHM.
    """
    stars = by_its_own_names(stars)
    if "fwhm" not in stars.meta:
        raise InputError("The table of stars does not say the frame's FWHM: read it as read_stars.")
    command = Command(words or [frame.name])
    chosen, reserved, others = shown_rows(stars)
    rows = np.concatenate([chosen, reserved, others]).astype(np.intp)
    sheet = sheet_of(frame, stars, rows)
    n_profiles = len(chosen) + len(reserved) + min(BEST_REJECTED, len(others))
    quality, profiles = _judged(frame, stars, psf, rows[:n_profiles])
    cards = cards_of(stars, rows, sheet, profiles, n_profiles if profiles is not None else 0)
    marked = marked_rows(stars)
    head, lines = list_parts(stars, marked)
    marks = cards_of(stars, marked, sheet)
    picture, blocks = _map(frame)
    return rendered(
        "report.html",
        title=frame.name,
        version=__version__,
        verdict=verdict_of(stars, psf, quality, error),
        facts=facts(frame, stars, psf),
        about=_about(frame),
        advice=advice_on(
            stars,
            command,
            psf=psf,
            quality=quality,
            cards=cards,
            warnings=warnings,
            error=error,
        ),
        sheet=sheet,
        chosen=[c for c in cards if c.kind == "chosen"],
        reserved=[c for c in cards if c.kind == "reserved"],
        rejected=[c for c in cards if c.kind == "other"][:BEST_REJECTED],
        rest=[c for c in cards if c.kind == "other"][BEST_REJECTED:],
        marks=marks,
        n_sources=len(stars),
        n_subtracted=stars.meta.get("n_subtracted", 0),
        reasons=_reasons(stars),
        picture=picture,
        blocks=blocks,
        nx=frame.shape[1],
        ny=frame.shape[0],
        charts=_charts(frame, stars, psf, quality, profiles, len(chosen) + len(reserved)),
        quality=quality,
        meanings=() if quality is None else meanings(quality),
        data={
            "head": head,
            "sources": [
                {"id": c.id, "kind": c.kind, "usable": c.usable, "text": c.text, "at": c.at}
                | {"line": lines[c.id]}
                for c in marks
            ],
        },
        command=command("--stars", "list.ecsv"),
        made=sorted((str(k), str(v)) for k, v in stars.meta.items()),
    )


def rendered(template: str, **values: Any) -> str:
    """Fill a template; every value is escaped, and only the template's own script can run."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    source = loader.get_source(environment, template.replace(".html", ".js"))[0]
    digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
    return environment.get_template(template).render(
        script=source, script_hash=f"sha256-{digest}", **values
    )


def _number(value: float, digits: int = 2) -> str:
    return "\N{EM DASH}" if not math.isfinite(value) else f"{value:.{digits}f}"


def _judged(frame: Frame, stars: Table, psf: Any, rows: Any) -> tuple[Any, Any]:
    """Return the quality of a PSF and the profiles of some sources, None where there is none."""
    if psf is None:
        return None, None
    from mlpsf.psf import psf_quality
    from mlpsf.psf.quality.profiles import star_profiles

    quality = profiles = None
    with suppress(PSFError):
        quality = psf_quality(frame, psf, stars)
    with suppress(PSFError):
        profiles = star_profiles(frame, psf, stars[rows])
    return quality, profiles


def _about(frame: Frame) -> list[tuple[str, str]]:
    """Return what the header says of the frame, as text."""
    said = []
    for key, name in _HEADER.items():
        with suppress(Exception):  # a header may hold cards that cannot be read
            value = str(frame.header.get(key, "")).strip()
            if value:
                said.append((name, value[:80]))
    return said


def _reasons(stars: Table) -> list[tuple[str, int]]:
    """Return how often each reason was given, the most frequent first."""
    from mlpsf.flags import Flag

    others = ~(np.asarray(stars["selected"], bool) | np.asarray(stars["reserved"], bool))
    flags = np.asarray(stars["flags"])[others]
    counts = {flag: int((flags & int(flag) != 0).sum()) for flag in Flag}
    told = [(f"{flag.short}: {flag.meaning}", n) for flag, n in counts.items() if n]
    return sorted(told, key=lambda pair: -pair[1])


def _map(frame: Frame) -> tuple[str, tuple[int, int]]:
    """Return the picture of the frame, and how many of its pixels it covers, (nx, ny)."""
    step = max(-(-max(frame.shape) // _MAP_SIDE), 1)
    small = shrunk(frame.good_pixels, _MAP_SIDE)
    covered = (small.shape[1] * step, small.shape[0] * step)
    return data_uri(jpeg(sky(small), 75), "image/jpeg"), covered


def _charts(
    frame: Frame, stars: Table, psf: Any, quality: Any, profiles: Any, n_taken: int
) -> dict[str, str]:
    """Return the charts of the page by name, those that can be drawn."""
    from mlpsf.plots import (
        ProfilesDisplay,
        PSFDisplay,
        ResidualsDisplay,
        SizeMagnitudeDisplay,
        VariationDisplay,
    )

    draw: dict[str, Any] = {"sizes": lambda: SizeMagnitudeDisplay.from_stars(stars)}
    if psf is not None:
        draw |= {
            "variation": lambda: VariationDisplay.from_model(psf, frame.shape, stars),
            "psf": lambda: PSFDisplay.from_model(psf),
        }
    if profiles is not None and n_taken:
        taken = profiles.first(n_taken)
        draw["profiles"] = lambda: ProfilesDisplay(profiles=taken).plot()
    if quality is not None:
        draw["residuals"] = lambda: ResidualsDisplay(quality=quality).plot()
    return {name: themed_svg(make) for name, make in draw.items()}
