"""Command ``export``: PSFs and star tables for other tools."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from mlpsf.cli.common.groups import General, grouped
from mlpsf.cli.common.options import HduOption, OverwriteOption, check_outputs, hdu_number
from mlpsf.cli.common.progress import Progress
from mlpsf.errors import InputError

__all__ = ["export"]


@grouped
def export(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT",
            help="A PSF of mlpsf psf, or a star table of mlpsf select.",
            show_default=False,
        ),
    ],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help="A PSF: psfex, photutils, galsim, piff, daophot, image, trippy. "
            "Stars: ldac, piff, photutils, daophot, lsst, ds9, table.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="File to write. The stars for piff and daophot are two: the catalogue (.fits), or "
            "the coordinates (.coo), lies beside it.",
            show_default=False,
        ),
    ],
    frame: Annotated[
        Path | None,
        typer.Option(
            help="The frame: the stars' pixels and sky (ldac, piff and, better with it, daophot), "
            "or the field that a varying PSF is written for."
        ),
    ] = None,
    hdu: HduOption = None,
    place: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="X Y",
            help="Where on the frame, for galsim, image and trippy: pixels from 0. Default: the "
            "mean.",
            show_default=False,
        ),
    ] = None,
    grid: Annotated[
        int | None,
        typer.Option(min=2, help="Places along each axis, for photutils' PSF.", show_default=False),
    ] = None,
    oversampling: Annotated[
        int, typer.Option(min=1, help="Pixels of an image per pixel of the frame.")
    ] = 1,
    overwrite: OverwriteOption = False,
    *,
    general: General,
) -> None:
    """Write a PSF or a star table in the format of another tool.

    Examples:

        mlpsf export psf.fits --to psfex --out frame.psf

        mlpsf export psf.fits --to image --place 310.2 1470.5 --out galfit_psf.fits

        mlpsf export stars.ecsv --to ldac --frame frame.fits --out stars.cat
    """  # noqa: D406, D407, D412 - the help of a command, not numpydoc
    from mlpsf.export import PSF_FORMATS, STAR_FORMATS
    from mlpsf.files import product_kind

    kind = product_kind(source)
    formats = {"psf": PSF_FORMATS, "stars": STAR_FORMATS}.get(kind or "", {})
    if kind is None:
        raise InputError(
            f"{source} is neither a PSF nor a star table of mlpsf: give the file that mlpsf psf or "
            "mlpsf select wrote, unpacked."
            if source.is_file()
            else f"There is no file {source}."
        )
    if to not in formats:
        what = "a PSF" if kind == "psf" else "star tables"
        raise InputError(f"{source} holds {what}, of formats {', '.join(formats)}. Got {to!r}.")
    check_outputs([(out, None)], [source, frame], overwrite=overwrite)
    with Progress(general) as progress:
        progress("writing")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if kind == "psf":
                paths = [_psf(source, out, to, frame, hdu, place, grid, oversampling, overwrite)]
            else:
                paths = _stars(source, out, to, frame, hdu, place, grid, oversampling, overwrite)
        # A PSF is drawn at many places: of each kind of warning the first says enough.
        kinds = {re.sub(r"\d+", "", str(one.message)): one.message for one in reversed(caught)}
        for message in kinds.values():
            warnings.warn(message, stacklevel=1)
        progress.note(f"{source} for {to} in {', '.join(map(str, paths))}.")
        progress.result(source=source, to=to, files=paths)


def _psf(
    source: Path,
    out: Path,
    to: str,
    frame: Path | None,
    hdu: str | None,
    place: tuple[float, float] | None,
    grid: int | None,
    oversampling: int,
    overwrite: bool,
) -> Path:
    from mlpsf.export import export_psf
    from mlpsf.frames.io.reading import read_frame
    from mlpsf.psf import PSFModel

    shape = None if frame is None else read_frame(frame, hdu=hdu_number(hdu)).shape
    return export_psf(
        PSFModel.load(source),
        out,
        to,
        at=place,
        frame_shape=shape,
        grid=grid,
        oversampling=oversampling,
        overwrite=overwrite,
        how="--overwrite",
    )


def _stars(
    source: Path,
    out: Path,
    to: str,
    frame: Path | None,
    hdu: str | None,
    place: Any,
    grid: Any,
    oversampling: int,
    overwrite: bool,
) -> list[Path]:
    from mlpsf.export import export_stars, read_stars, star_companion

    if place is not None or grid is not None or oversampling != 1:
        raise InputError("--place, --grid and --oversampling are for PSFs, not for star tables.")
    check_outputs(
        [(p, None) for p in star_companion(out, to)], [source, frame], overwrite=overwrite
    )
    return export_stars(
        read_stars(source),
        out,
        to,
        frame=frame,
        hdu=hdu_number(hdu),
        overwrite=overwrite,
        how="--overwrite",
    )
