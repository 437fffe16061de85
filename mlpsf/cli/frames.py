"""Commands for one frame: ``select`` and ``psf``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mlpsf.cli import cutouts
from mlpsf.cli.common.groups import Choosing, General, Lists, Reading, grouped
from mlpsf.cli.common.options import (
    AtOption,
    FrameArgument,
    HduOption,
    OverwriteOption,
    SaveCutoutsOption,
    check_outputs,
)
from mlpsf.cli.common.progress import Progress
from mlpsf.cli.common.steps import STEPS, choose, inputs, set_options
from mlpsf.cli.common.telling import figures, judgement, order_of, summary
from mlpsf.cli.reporting import ReportOption, spoken_warnings, words_of, write_page
from mlpsf.errors import OutputError, TooFewStarsError

__all__ = ["psf", "select"]


@grouped
def select(
    frame: FrameArgument,
    out: Annotated[
        Path,
        typer.Option(
            help="Star table: .ecsv, .fits, .csv or .reg (DS9), by its ending. Of a SExtractor "
            "catalogue also .cat: its chosen rows, for PSFEx."
        ),
    ] = Path("stars.ecsv"),
    hdu: HduOption = None,
    *,
    choosing: Choosing,
    lists: Lists,
    reading: Reading,
    save_cutouts: SaveCutoutsOption = None,
    overwrite: OverwriteOption = False,
    general: General,
) -> None:
    """Choose the PSF stars of FRAME and write the table of all its sources.

    Every source is in the table, with its probability of being a good PSF star, whether it was
    selected or reserved, and the reason if it was not.

    Examples:

        mlpsf select frame.fits --out stars.ecsv

        mlpsf select mosaic.fits --hdu 3 --out stars.reg --n-min 5 --relax

        mlpsf select frame.fits --selector residual --catalogue sextractor.cat

    FRAME may be a set of cutouts of a frame's sources instead: a SExtractor catalogue (FITS_LDAC)
    with VIGNET, a FITS cube with a table of positions, an .npz or .h5 file. The chosen rows of a
    catalogue go straight to PSFEx:

        source-extractor frame.fits -CATALOG_TYPE FITS_LDAC ...

        mlpsf select frame.cat --out stars.cat

        psfex stars.cat
    """  # noqa: D406, D407, D412 - the help of a command, not numpydoc
    if cutouts.is_set(frame):
        cutouts.refuse(
            hdu=hdu,
            catalogue=choosing.catalogue,
            mask=reading.mask,
            save_cutouts=save_cutouts,
        )
        cutouts.check_set_output(frame, out)
        given = inputs(frame, choosing, lists, reading)
        check_outputs([(out, "stars")], given, overwrite=overwrite)
        with Progress(general) as progress:
            options = set_options(choosing, reading) | lists.arguments()
            _, table = cutouts.choose_from_set(frame, out, options, progress)
            progress.note(*summary(table, out))
            progress.result(**figures(table, out))
        return
    from mlpsf.export import check_star_path

    check_star_path(out)
    outputs = [(out, "stars"), *([] if save_cutouts is None else [(save_cutouts, None)])]
    check_outputs(outputs, inputs(frame, choosing, lists, reading), overwrite=overwrite)
    with Progress(general, STEPS[:4]) as progress:
        options = choosing.arguments() | lists.arguments()
        progress("reading")
        image = reading.frame(frame, hdu)
        table = choose(image, options, out, progress)
        progress.note(*summary(table, out))
        if save_cutouts is not None:
            cutouts.save_chosen(image, table, save_cutouts)
            progress.note(f"{table.meta['n_selected']} cutouts in {save_cutouts}.")
        progress.result(**figures(table, out))


@grouped
def psf(
    frame: FrameArgument,
    out: Annotated[Path, typer.Option(help="PSF, as TRIPPy's FITS file.")] = Path("psf.fits"),
    table: Annotated[
        Path | None,
        typer.Option(
            help="Where the star table goes. Default: beside the PSF, ending in _stars.ecsv.",
            show_default=False,
        ),
    ] = None,
    at: AtOption = None,
    hdu: HduOption = None,
    report: ReportOption = None,
    *,
    choosing: Choosing,
    lists: Lists,
    reading: Reading,
    overwrite: OverwriteOption = False,
    general: General,
) -> None:
    """Choose the PSF stars of FRAME, make its PSF with TRIPPy, and write both.

    The file is the one that TRIPPy writes and reads (version 2): a look-up table on tenths of
    pixels, with the stars and what made it in the header. Where the PSF varies over the frame, the
    file knows how, in two more extensions, and `mlpsf render` draws any place; TRIPPy reads the
    mean. --at writes a file of one place, for TRIPPy.

    Examples:

        mlpsf psf frame.fits --out psf.fits

        mlpsf psf mosaic.fits --hdu SCI,2 --out amp2.fits --n-max 40

        mlpsf psf frame.fits --at 310.2 1470.5 --out target.fits

        mlpsf psf frame2.fits --stars psf_stars.ecsv --out psf2.fits

        mlpsf psf frame.cat --out psf.fits            (cutouts: SExtractor's VIGNET)
    """  # noqa: D406, D407, D412 - the help of a command, not numpydoc
    from mlpsf.export import check_star_path
    from mlpsf.files import check_folder
    from mlpsf.psf import build_psf, psf_quality
    from mlpsf.psf.trippy.inputs import check_place
    from mlpsf.selection.choice import FEWEST_RESERVED

    if check_folder(out).suffix.lower() not in (".fits", ".fit"):
        raise OutputError(f"A PSF goes into a FITS file: {out.name!r} must end in .fits.")
    table_path = check_star_path(table or out.with_name(f"{out.stem}_stars.ecsv"))
    is_set = cutouts.is_set(frame)
    if is_set:
        cutouts.refuse(
            hdu=hdu,
            catalogue=choosing.catalogue,
            mask=reading.mask,
            report=report,
        )
    outputs: list[tuple[Path, str | None]] = [(out, "psf"), (table_path, "stars")]
    if report is not None:
        from mlpsf.report.page import check_page_path

        outputs.append((check_page_path(report), "report"))
    check_outputs(outputs, inputs(frame, choosing, lists, reading), overwrite=overwrite)
    steps = STEPS if report is not None else STEPS[:-1]
    with Progress(general, steps) as progress, spoken_warnings() as warned:
        image: Any
        if is_set:
            options = set_options(choosing, reading) | lists.arguments()
            found, chosen = cutouts.choose_from_set(frame, table_path, options, progress, out)
            image = cutouts.one_frame(found)
        else:
            options = choosing.arguments() | lists.arguments()
            progress("reading")
            image = reading.frame(frame, hdu)
            if at is not None:
                check_place(at, image.shape)
            try:
                chosen = choose(image, options, table_path, progress, psf=out)
            except TooFewStarsError as error:
                if report is not None and error.table is not None:
                    words = words_of(frame, hdu, reading)
                    write_page(report, words, image, error.table, None, warned, progress, error)
                raise
        progress("making the PSF")
        made = build_psf(image, chosen, at=at)
        made.save(out, overwrite=True)
        progress.note(*summary(chosen, table_path))
        place = "" if at is None else f" at ({at[0]:g}, {at[1]:g})"
        progress.note(
            f"PSF{place} of FWHM {made.fwhm:.2f} pixels and ellipticity {made.ellipticity:.3f} "
            f"in {out}{order_of(made)}."
        )
        quality = None
        if chosen.meta["n_reserved"] >= FEWEST_RESERVED and not is_set:
            progress("judging the PSF")
            quality = psf_quality(image, made, chosen)
            progress.note(judgement(quality))
        if report is not None:
            words = words_of(frame, hdu, reading)
            write_page(report, words, image, chosen, made, warned, progress)
        progress.result(**figures(chosen, table_path, made, out, quality))
