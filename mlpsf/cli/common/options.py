"""Arguments and options shared by the commands, and checks of the output files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mlpsf.errors import InputError, OutputError
from mlpsf.files import check_folder, check_replaceable, input_file

__all__ = [
    "AtOption",
    "CatalogueOption",
    "FrameArgument",
    "GainOption",
    "HduOption",
    "KeepOption",
    "MaskOption",
    "ModelOption",
    "NMaxOption",
    "NMinOption",
    "OverwriteOption",
    "ProfileName",
    "RelaxOption",
    "ReserveOption",
    "SaturationOption",
    "SaveCutoutsOption",
    "SecondLookOption",
    "SelectorName",
    "SelectorOption",
    "SnrOption",
    "StarsOption",
    "ThresholdOption",
    "VetoOption",
    "check_outputs",
    "hdu_number",
]


class ProfileName(StrEnum):
    """Profiles that the simulator draws."""

    moffat = "moffat"
    kolmogorov = "kolmogorov"
    gaussian = "gaussian"
    optical = "optical"


class SelectorName(StrEnum):
    """Names of selectors on the command line."""

    cnn = "cnn"
    residual = "residual"


FrameArgument = Annotated[
    Path,
    typer.Argument(metavar="FRAME", help="FITS file; .fz, .gz and others too.", show_default=False),
]
HduOption = Annotated[
    str | None,
    typer.Option(
        help="HDU of the image: its number, or NAME, or NAME,VERSION. Default: the first image.",
        show_default=False,
    ),
]
SelectorOption = Annotated[
    SelectorName,
    typer.Option(help="cnn: the network that ships. residual: the classical rule."),
]
ModelOption = Annotated[
    Path | None,
    typer.Option(help="A model of your own (.keras), instead of the one that ships."),
]
CatalogueOption = Annotated[
    Path | None,
    typer.Option(
        help="Judge these sources instead of detecting: a table with x, y (from 0), X_IMAGE, "
        "Y_IMAGE (from 1) or ra, dec; SExtractor's LDAC too."
    ),
]
StarsOption = Annotated[
    Path | None,
    typer.Option(
        help="Make the PSF of these stars, chosen before: the selected rows of a star table, or "
        "any table of positions (as for --catalogue). Of another frame: matched on the sky.",
        show_default=False,
    ),
]
KeepOption = Annotated[
    Path | None,
    typer.Option(help="Take these stars first, as in --stars.", show_default=False),
]
VetoOption = Annotated[
    Path | None,
    typer.Option(help="Never take these, read as in --stars.", show_default=False),
]
ThresholdOption = Annotated[
    float | None,
    typer.Option(
        help="Least probability of a chosen star. Default: 0.9 (cnn), or 0: the best (residual).",
        show_default=False,
        min=0.0,
        max=1.0,
    ),
]
NMaxOption = Annotated[int, typer.Option(min=1, help="At most so many stars for the PSF.")]
NMinOption = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Fewer is an error (exit code 3). Default: 7, or --n-max where that is less.",
        show_default=False,
    ),
]
ReserveOption = Annotated[
    float,
    typer.Option(
        min=0.0,
        max=0.9,
        help="Share of good stars kept to judge the PSF. --n-min stars are always left to make "
        "it; a warning says when fewer than 3 are kept, which is too few to judge.",
    ),
]
RelaxOption = Annotated[
    bool, typer.Option("--relax", help="Too few: take the best there are, and say so.")
]
SnrOption = Annotated[float, typer.Option(help="Least signal-to-noise ratio of a chosen star.")]
SecondLookOption = Annotated[
    bool,
    typer.Option(
        "--second-look/--no-second-look",
        help="Strike stars that the PSF of the best does not explain; the next take their place.",
    ),
]
GainOption = Annotated[
    float | None,
    typer.Option(help="Electrons per ADU. Default: from header or noise.", show_default=False),
]
AtOption = Annotated[
    tuple[float, float] | None,
    typer.Option(
        metavar="X Y",
        help="Write the PSF of this place only, for a PSF that varies over the frame: pixels from "
        "0, the centre of the first is 0 0. Default: the whole frame's.",
        show_default=False,
    ),
]
SaturationOption = Annotated[
    float | None,
    typer.Option(
        help="Saturation level in ADU; inf: none. Default: from header or histogram.",
        show_default=False,
    ),
]
MaskOption = Annotated[
    Path | None,
    typer.Option(help="FITS image of the frame's shape, not 0 where a pixel is bad."),
]
SaveCutoutsOption = Annotated[
    Path | None,
    typer.Option(
        help="Write the cutouts of the chosen stars, 12 FWHM wide, with x and y: .npz or .fits.",
        show_default=False,
    ),
]
OverwriteOption = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace a file that exists. Without it, only star tables and PSFs of mlpsf are.",
    ),
]


def hdu_number(text: str | None) -> int | str | None:
    """Return an HDU as a number if it is one, otherwise as a name."""
    return int(text) if text is not None and text.removeprefix("-").isdecimal() else text


def check_outputs(
    outputs: Iterable[tuple[Path, str | None]],
    inputs: Iterable[Path | None] = (),
    *,
    overwrite: bool,
) -> None:
    """Raise an error if an input is not there, or an output would replace what it must not.

    An input or another output is never replaced. An existing file is replaced only with
    `overwrite`, except that star tables and PSFs always replace those made by mlpsf, since they
    are made quickly and often.

    Parameters
    ----------
    outputs : iterable of (Path, {"stars", "psf", None})
        Paths with their kind; see `mlpsf.files.product_kind`.
    inputs : iterable of Path or None
    overwrite : bool

    Raises
    ------
    InputError
        An input is missing; said before anything is read, which may take long.
    OutputError
        An output must not be written.
    """
    given = [path for path in inputs if path is not None]
    for path in given:
        if not os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises for impossible names
            input_file(path, InputError, "a file to read")
    taken = {path.resolve() for path in given}
    for out, kind in outputs:
        if out.resolve() in taken:
            raise OutputError(f"{out} would replace an input, or another output, of this command.")
        taken.add(out.resolve())
        check_replaceable(check_folder(out), kind, overwrite or None, how="--overwrite")
