"""Command ``render``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlpsf.cli.common.groups import General, grouped
from mlpsf.cli.common.options import OverwriteOption, check_outputs
from mlpsf.cli.common.progress import Progress
from mlpsf.errors import OutputError

__all__ = ["render"]


@grouped
def render(
    psf: Annotated[
        Path, typer.Argument(metavar="PSF", help="PSF of mlpsf or TRIPPy.", show_default=False)
    ],
    x: Annotated[float, typer.Argument(metavar="X", help="Column, from 0.", show_default=False)],
    y: Annotated[float, typer.Argument(metavar="Y", help="Row, from 0.", show_default=False)],
    out: Annotated[Path, typer.Option(help="FITS image.")] = Path("stamp.fits"),
    oversampling: Annotated[int, typer.Option(min=1, help="Cells per pixel of the frame.")] = 1,
    size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Side in pixels of the frame, odd. Default: that of the PSF.",
            show_default=False,
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    *,
    general: General,
) -> None:
    """Draw the PSF of a place on the frame, in the middle of a FITS image.

    Each cell of the image is the light that falls on it, of a star whose light in the PSF's box
    is 1. With one cell a pixel it is a star as the frame shows it.

    Examples:

        mlpsf render psf.fits 310.2 1470.5 --out stamp.fits

        mlpsf render psf.fits 310.2 1470.5 --oversampling 5 --size 41 --out fine.fits
    """  # noqa: D406, D407, D412 - the help of a command, not numpydoc
    from astropy.io import fits

    from mlpsf.files import check_folder, whole_file
    from mlpsf.psf import PSFModel
    from mlpsf.version import __version__

    if check_folder(out).suffix.lower() not in (".fits", ".fit"):
        raise OutputError(f"A stamp goes into a FITS file: {out.name!r} must end in .fits.")
    check_outputs([(out, None)], [psf], overwrite=overwrite)
    with Progress(general) as progress:
        model = PSFModel.load(psf)
        here = model.at(x, y)
        hdu = fits.PrimaryHDU(here.image(size=size, oversampling=oversampling))
        cards = {
            "ATX": (x, "place on the frame, 0-based pixels"),
            "ATY": (y, "place on the frame, 0-based pixels"),
            "OVERSAMP": (oversampling, "cells per pixel of the frame"),
            "FWHM": (here.fwhm, "of a star's image, pixels of the frame"),
            "ELLIP": (here.ellipticity, "1 - b/a"),
            "POSANG": (here.position_angle, "of the long axis, degrees from +x to +y"),
            "ATORDER": (model.order, "order of the polynomial over the frame"),
            "MLPSFVER": (__version__, "version of mlpsf"),
        }
        hdu.header.update(cards)
        with whole_file(out) as temporary, temporary.open("wb") as stream:
            hdu.writeto(stream)
        n = hdu.data.shape[0]
        mean = "" if model.varies else ", the same everywhere"
        progress.note(
            f"PSF at ({x:g}, {y:g}) of FWHM {here.fwhm:.2f} pixels{mean}: {n} x {n} cells in {out}."
        )
        progress.result(stamp=out, x=x, y=y, fwhm=here.fwhm, ellipticity=here.ellipticity, size=n)
