"""Commands that show: ``plot`` and ``info``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from mlpsf.cli.common.groups import Choosing, General, Reading, grouped
from mlpsf.cli.common.options import (
    FrameArgument,
    HduOption,
    OverwriteOption,
    check_outputs,
    hdu_number,
)
from mlpsf.cli.common.progress import Progress, plain
from mlpsf.cli.common.steps import STEPS
from mlpsf.errors import InputError, OutputError, printable
from mlpsf.files import product_kind

__all__ = ["info", "plot"]


class Plot(StrEnum):
    """Plots by name."""

    stars = "stars"
    map = "map"
    sizes = "sizes"
    psf = "psf"
    profiles = "profiles"
    variation = "variation"
    residuals = "residuals"


class Stretch(StrEnum):
    """How the sheet of stars is drawn."""

    arcsinh = "arcsinh"
    linear = "linear"
    zscale = "zscale"


@grouped
def plot(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="A frame, a star table of mlpsf select, or a PSF of mlpsf psf.",
            show_default=False,
        ),
    ],
    what: Annotated[
        Plot | None,
        typer.Option(
            help="stars: cutouts of those chosen. map: where they are. sizes: FWHM against "
            "magnitude. psf: the PSF and its wings. profiles: each star on the PSF. variation: "
            "FWHM and ellipticity over the frame. residuals: what the PSF leaves. Default: stars, "
            "or psf of a PSF.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Image or drawing, by its ending: .png, .pdf, .svg.")
    ] = Path("plot.png"),
    frame: Annotated[
        Path | None,
        typer.Option(
            help="The frame of a star table or PSF. Default: the one that it names, beside it.",
            show_default=False,
        ),
    ] = None,
    stretch: Annotated[
        Stretch,
        typer.Option(help="Of stars: arcsinh shows wings, linear cores and saturated pixels."),
    ] = Stretch.arcsinh,
    dpi: Annotated[int, typer.Option(min=30, max=1200, help="Dots an inch of an image.")] = 150,
    hdu: HduOption = None,
    *,
    choosing: Choosing,
    reading: Reading,
    overwrite: OverwriteOption = False,
    general: General,
) -> None:
    """Draw the stars or the PSF of FILE, by one word.

    What FILE does not hold is made of it: of a frame, its stars and its PSF; of a star table, the
    PSF of its stars.

    Examples:

        mlpsf plot frame.fits --what map --out map.png

        mlpsf plot psf.fits --out psf.pdf

        mlpsf plot psf_stars.ecsv --what stars --stretch linear --out cores.png
    """  # noqa: D406, D407, D412 - the help of a command, not numpydoc
    from mlpsf.files import check_folder, whole_file
    from mlpsf.plots.named import NEEDS, draw

    if check_folder(out).suffix.lower() not in (".png", ".pdf", ".svg"):
        raise OutputError(f"A plot ends in .png, .pdf or .svg. Got {out.name!r}.")
    check_outputs([(out, None)], [source, frame], overwrite=overwrite)
    kind = product_kind(source) or "frame"
    name = (what or (Plot.psf if kind == "psf" else Plot.stars)).value
    with Progress(general, STEPS) as progress:
        parts = _parts(source, kind, frame, hdu, NEEDS[name], choosing, reading, progress)
        progress("drawing")
        how = {"stretch": stretch.value} if name == "stars" else {}
        display = draw(name, title=parts.pop("title"), **parts, **how)
        with whole_file(out) as temporary:
            display.figure_.savefig(temporary, format=out.suffix[1:].lower(), dpi=dpi)
        progress.note(f"{name} of {source.name} in {out}.")
        progress.result(what=name, plot=out)


def _parts(
    source: Path,
    kind: str,
    frame: Path | None,
    hdu: str | None,
    needed: tuple[str, ...],
    choosing: Choosing,
    reading: Reading,
    progress: Progress,
) -> dict[str, Any]:
    """Return frame, stars and PSF, as far as a plot needs them, and its title."""
    from mlpsf.export import read_stars
    from mlpsf.pipeline import select_stars
    from mlpsf.psf import PSFModel, build_psf

    stars = psf = image = None
    made_of = str(source.name)
    if kind == "stars":
        stars = read_stars(source)
        made_of = str(stars.meta.get("frame", ""))
    elif kind == "psf":
        psf = PSFModel.load(source)
        made_of = str(psf.meta.get("frame", ""))
    if kind == "frame" or "frame" in needed or (kind == "stars" and "psf" in needed):
        progress("reading")
        path = source if kind == "frame" else frame or _beside(source, made_of)
        image = reading.frame(path, hdu if kind == "frame" or frame else hdu or _hdu_of(made_of))
    if stars is None and kind == "psf" and "stars" in needed and psf is not None:
        stars = _stars_of(source, psf)
    elif stars is None and kind == "frame":
        stars = select_stars(image, progress=progress, **choosing.arguments())
    if psf is None and "psf" in needed:
        progress("making the PSF")
        psf = build_psf(image, stars)
    return {"frame": image, "stars": stars, "psf": psf, "title": made_of}


def _beside(source: Path, name: str) -> Path:
    """Return the frame that a product names, if it lies beside it or here."""
    plain_name = Path(name.partition("[")[0]).name
    for folder in (source.parent, Path()):
        if plain_name and (folder / plain_name).is_file():
            return folder / plain_name
    raise InputError(
        f"{source.name} was made of {plain_name or 'a frame without a name'}, which does not lie "
        "beside it: give --frame."
    )


def _hdu_of(name: str) -> str | None:
    """Return the HDU in the name of a frame, as in ``lco.fits[3]``."""
    _, bracket, number = name.rpartition("[")
    return number.rstrip("]") if bracket else None


def _stars_of(source: Path, psf: Any) -> Any:
    """Return the star table beside a PSF if it is of its stars, else the stars that it lists."""
    import numpy as np
    from astropy.table import Table

    from mlpsf.export import read_stars

    table = source.with_name(f"{source.stem}_stars.ecsv")
    if table.is_file() and product_kind(table) == "stars":
        beside = read_stars(table)
        taken = beside[np.asarray(beside["selected"], bool) & ~np.asarray(beside["reserved"], bool)]
        own = np.column_stack([taken["x"], taken["y"]])
        if all(np.hypot(*(own - star[:2]).T).min(initial=np.inf) < 1 for star in psf.stars):
            return beside
    if len(psf.stars) == 0:
        raise InputError("The PSF lists no stars: give the star table or the frame instead.")
    x, y, flux = psf.stars.T
    n = len(x)
    none, every = np.full(n, np.nan), np.ones(n, dtype=bool)
    return Table(
        {"id": np.arange(1, n + 1), "x": x, "y": y, "flux": flux, "snr": none, "fwhm": none}
        | {"probability": none, "selected": every, "reserved": ~every},
        meta={"fwhm": psf.fwhm, "n_subtracted": psf.meta.get("n_subtracted", 0)},
    )


@grouped
def info(
    frame: FrameArgument, hdu: HduOption = None, *, reading: Reading, general: General
) -> None:
    """Say what is in FRAME and what mlpsf makes of it: the first thing to try on any file.

    The HDUs; size, unit, gain and saturation of the image and where they are from; coordinates;
    sky and noise; FWHM; how many PSF stars there are at most, and the verdict on the frame.

    Examples:

        mlpsf info frame.fits

        mlpsf info mosaic.fits --hdu 3 --json
    """  # noqa: D406, D407, D412 - the help of a command, not numpydoc
    from mlpsf.report.first_look import as_text, first_look

    given = {"gain": reading.gain, "saturation": reading.saturation, "mask": reading.mask}
    with Progress(general, ("reading",)) as progress:
        progress("reading")
        look = first_look(frame, hdu_number(hdu), **given)
    if general.as_json:
        progress.result(**{name: plain(value) for name, value in look.items()})
    else:
        typer.echo(printable(as_text(look)))
