"""Commands for one frame: ``select`` and ``psf``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mlpsf.cli import cutouts
from mlpsf.cli.options import (
    AtOption,
    CatalogueOption,
    FrameArgument,
    GainOption,
    HduOption,
    KeepOption,
    MaskOption,
    ModelOption,
    NMaxOption,
    NMinOption,
    OverwriteOption,
    QuietOption,
    RelaxOption,
    ReserveOption,
    SaturationOption,
    SaveCutoutsOption,
    SecondLookOption,
    SelectorName,
    SelectorOption,
    SnrOption,
    StarsOption,
    ThresholdOption,
    VetoOption,
    check_outputs,
    hdu_number,
)
from mlpsf.cli.progress import Progress
from mlpsf.errors import InputError, OutputError, TooFewStarsError

__all__ = ["psf", "select"]


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
    selector: SelectorOption = SelectorName.cnn,
    model: ModelOption = None,
    catalogue: CatalogueOption = None,
    stars: StarsOption = None,
    keep: KeepOption = None,
    veto: VetoOption = None,
    threshold: ThresholdOption = None,
    n_max: NMaxOption = 25,
    n_min: NMinOption = None,
    reserve: ReserveOption = 0.0,
    relax: RelaxOption = False,
    snr_min: SnrOption = 50.0,
    second_look: SecondLookOption = True,
    gain: GainOption = None,
    saturation: SaturationOption = None,
    mask: MaskOption = None,
    save_cutouts: SaveCutoutsOption = None,
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
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
        lists = {"stars": stars, "keep": keep, "veto": veto}
        cutouts.refuse(hdu=hdu, catalogue=catalogue, mask=mask, save_cutouts=save_cutouts, **lists)
        cutouts.check_set_output(frame, out)
        check_outputs([(out, "stars")], [frame, model], overwrite=overwrite)
        with Progress(quiet) as progress:
            options = _selection(selector, model, None, threshold, n_max, n_min, reserve, relax)
            del options["catalogue"]
            options |= {"snr_min": snr_min, "second_look": second_look}
            options |= {"gain": gain, "saturation": saturation}
            _, table = cutouts.choose_from_set(frame, out, options, progress)
            progress.note(_summary(table, out))
        return
    from mlpsf.export import check_star_path

    check_star_path(out)
    inputs = [frame, catalogue, mask, model, stars, keep, veto]
    outputs = [(out, "stars"), *([] if save_cutouts is None else [(save_cutouts, None)])]
    check_outputs(outputs, inputs, overwrite=overwrite)
    with Progress(quiet) as progress:
        options = _selection(selector, model, catalogue, threshold, n_max, n_min, reserve, relax)
        options |= {"snr_min": snr_min, "second_look": second_look}
        options |= {"stars": stars, "keep": keep, "veto": veto}
        progress("reading")
        image = _read(frame, hdu, mask, gain, saturation)
        table = _choose(image, options, out, progress)
        progress.note(_summary(table, out))
        if save_cutouts is not None:
            cutouts.save_chosen(image, table, save_cutouts)
            progress.note(f"{table.meta['n_selected']} cutouts in {save_cutouts}.")


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
    selector: SelectorOption = SelectorName.cnn,
    model: ModelOption = None,
    catalogue: CatalogueOption = None,
    stars: StarsOption = None,
    keep: KeepOption = None,
    veto: VetoOption = None,
    threshold: ThresholdOption = None,
    n_max: NMaxOption = 25,
    n_min: NMinOption = None,
    reserve: ReserveOption = 0.0,
    relax: RelaxOption = False,
    snr_min: SnrOption = 50.0,
    second_look: SecondLookOption = True,
    gain: GainOption = None,
    saturation: SaturationOption = None,
    mask: MaskOption = None,
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
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
        lists = {"stars": stars, "keep": keep, "veto": veto}
        cutouts.refuse(hdu=hdu, catalogue=catalogue, mask=mask, **lists)
    inputs = [frame, catalogue, mask, model, stars, keep, veto]
    check_outputs([(out, "psf"), (table_path, "stars")], inputs, overwrite=overwrite)
    with Progress(quiet) as progress:
        options = _selection(selector, model, catalogue, threshold, n_max, n_min, reserve, relax)
        options |= {"snr_min": snr_min, "second_look": second_look}
        image: Any
        if is_set:
            del options["catalogue"]
            options |= {"gain": gain, "saturation": saturation}
            found, chosen = cutouts.choose_from_set(frame, table_path, options, progress, out)
            image = cutouts.one_frame(found)
        else:
            options |= {"stars": stars, "keep": keep, "veto": veto}
            progress("reading")
            image = _read(frame, hdu, mask, gain, saturation)
            if at is not None:
                check_place(at, image.shape)
            chosen = _choose(image, options, table_path, progress, psf=out)
        progress("making the PSF")
        made = build_psf(image, chosen, at=at)
        made.save(out, overwrite=True)
        progress.note(_summary(chosen, table_path))
        place = "" if at is None else f" at ({at[0]:g}, {at[1]:g})"
        progress.note(
            f"PSF{place} of FWHM {made.fwhm:.2f} pixels and ellipticity {made.ellipticity:.3f} "
            f"in {out}{_order(made)}."
        )
        if chosen.meta["n_reserved"] >= FEWEST_RESERVED and not is_set:
            progress("judging the PSF")
            progress.note(_judgement(psf_quality(image, made, chosen)))


def _read(
    path: Path, hdu: str | None, mask: Path | None, gain: float | None, saturation: float | None
) -> Any:
    from mlpsf.frames.io.reading import read_frame

    return read_frame(path, hdu=hdu_number(hdu), mask=mask, gain=gain, saturation=saturation)


def _selection(
    selector: SelectorName,
    model: Path | None,
    catalogue: Path | None,
    threshold: float | None,
    n_max: int,
    n_min: int | None,
    reserve: float,
    relax: bool,
) -> dict[str, Any]:
    from mlpsf.selection.choice import N_MIN

    estimator: Any = selector.value
    if model is not None:
        if selector is SelectorName.residual:
            raise InputError("--model and --selector residual exclude each other: give one.")
        from mlpsf.selectors.loading import load_judge

        estimator = load_judge(model)
    return {
        "selector": estimator,
        "catalogue": catalogue,
        "threshold": threshold,
        "n_max": n_max,
        "n_min": min(N_MIN, n_max) if n_min is None else n_min,
        "reserve": reserve,
        "relax": relax,
    }


def _choose(
    image: Any,
    options: dict[str, Any],
    path: Path,
    progress: Progress,
    psf: Path | None = None,
) -> Any:
    """Choose the stars and write their table, even if there are too few.

    Replacing the table also removes the PSF at `psf`, which was made from the old table.
    """
    from mlpsf.export import write_stars
    from mlpsf.pipeline import select_stars

    def keep(table: Any) -> None:
        if psf is not None:
            psf.unlink(missing_ok=True)
        write_stars(table, path, overwrite=True)

    try:
        table = select_stars(image, progress=progress, **options)
    except TooFewStarsError as error:
        if error.table is not None:
            keep(error.table)
            progress.note(f"The table of all {len(error.table)} sources is in {path}.")
        raise
    keep(table)
    return table


def _order(psf: Any) -> str:
    """Return the order of a PSF's variation in words, with its reason, if both are known."""
    if "order_reason" not in psf.meta:
        return ""
    order = ("constant", "linear", "quadratic", "cubic")[psf.meta["order"]]
    return f"; {order} over the frame: {psf.meta['order_reason']}"


def _judgement(quality: Any) -> str:
    """Return a line on the quality of a PSF from reserve stars."""
    return (
        f"{quality.n_stars} reserve stars: dT/T {quality.size_residual:+.4f} +- "
        f"{quality.size_error:.4f}, ellipticity off by {quality.ellipticity_residual:.4f} +- "
        f"{quality.e_error:.4f}, chi-square {quality.chi_square:.2f}; score {quality.score:.1f} "
        "(1 just meets what weak lensing asks)."
    )


def _summary(table: Any, path: Path) -> str:
    meta = table.meta
    relaxed = ""
    if meta["relaxed"]:
        least = min(table["probability"][table["selected"]], default=float("nan"))
        relaxed = f" (relaxed: the least probable is one by {least:.2g})"
    reserved = f", {meta['n_reserved']} reserved" if meta["n_reserved"] else ""
    verdict = (
        f"\nVerdict: {meta['verdict']}: {meta['verdict_reason']}." if "verdict" in meta else ""
    )
    return (
        f"{meta['frame']}: {meta['n_selected']} of {meta['n_sources']} sources "
        f"selected{relaxed}{reserved}; "
        f"FWHM {meta['fwhm']:.2f} pixels; table in {path}.{_guesses(meta)}{verdict}"
    )


def _guesses(meta: Any) -> str:
    """Say where gain, saturation and unit are from if neither header nor user gave them."""
    unit = meta["unit"] or "ADU"
    texts = {
        "gain": f"gain {meta['gain']:.3g} e/{unit} ({meta['gain_from']})",
        "saturation": f"saturation {meta['saturation']:.6g} {unit} ({meta['saturation_from']})",
        "unit": "unit ADU",
    }
    guessed = [text for key, text in texts.items() if key in meta["guessed"].split(", ")]
    return f" Guessed: {'; '.join(guessed)}." if guessed else ""
