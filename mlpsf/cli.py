"""The command line: every command calls one public function and writes what it returns."""

from __future__ import annotations

import os
import sys
import time
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from mlpsf import __version__, cli_batch, cli_training
from mlpsf.cli_options import (
    AtOption,
    CatalogueOption,
    FrameArgument,
    GainOption,
    HduOption,
    MaskOption,
    ModelOption,
    NMaxOption,
    NMinOption,
    OverwriteOption,
    ProfileName,
    QuietOption,
    RelaxOption,
    ReserveOption,
    SaturationOption,
    SecondLookOption,
    SelectorName,
    SelectorOption,
    SnrOption,
    ThresholdOption,
    check_outputs,
    hdu_number,
)
from mlpsf.errors import InputError, MlpsfError, OutputError, TooFewStarsError

__all__ = ["app", "console", "main"]

# Before numpy is loaded. The matrices here are small: a second thread for each waits more than it
# works, and every core has a frame of its own in `mlpsf run`.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

EXIT_ERROR = 1
EXIT_TOO_FEW = 3

app = typer.Typer(
    name="mlpsf",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help=(
        "Choose the stars of an astronomical image that make the best point spread function, "
        "and make it.\n\n"
        "    mlpsf simulate --out frame.fits            a frame to try it on\n\n"
        "    mlpsf select frame.fits --out stars.ecsv   its PSF stars\n\n"
        "    mlpsf psf frame.fits --out psf.fits        its PSF, through TRIPPy\n\n"
        "    mlpsf label *.fits --out set.h5            a set to train on\n\n"
        "    mlpsf train set.h5 --out model.keras       a model of your own\n\n"
        "A file that exists is replaced with --overwrite only, but for star tables and PSFs of "
        "mlpsf; an input never.\n\n"
        "Exit codes: 0 done; 1 something is wrong with an input or an output, said in one line; "
        "2 the command was mistyped; 3 too few stars (the star table is written all the same); "
        "4 some of several frames failed (what the others gave is written)."
    ),
)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"mlpsf {__version__}")
        raise typer.Exit


@app.command()
def select(
    frame: FrameArgument,
    out: Annotated[
        Path, typer.Option(help="Star table: .ecsv, .fits, .csv or .reg (DS9), by its ending.")
    ] = Path("stars.ecsv"),
    hdu: HduOption = None,
    selector: SelectorOption = SelectorName.cnn,
    model: ModelOption = None,
    catalogue: CatalogueOption = None,
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
    """Choose the PSF stars of FRAME and write the table of all its sources.

    Every source is in the table, with its probability of being a good PSF star, whether it was
    selected or reserved, and the reason if it was not.

    Examples:

        mlpsf select frame.fits --out stars.ecsv

        mlpsf select mosaic.fits --hdu 3 --out stars.reg --n-min 5 --relax

        mlpsf select frame.fits --selector residual --catalogue sextractor.cat
    """  # noqa: D406, D407, D412 - the help of a command, not numpydoc
    from mlpsf.export import check_star_path

    check_star_path(out)
    check_outputs([(out, "stars")], [frame, catalogue, mask, model], overwrite=overwrite)
    with _Progress(quiet) as progress:
        options = _selection(selector, model, catalogue, threshold, n_max, n_min, reserve, relax)
        options |= {"snr_min": snr_min, "second_look": second_look}
        progress("reading")
        image = _read(frame, hdu, mask, gain, saturation)
        table = _choose(image, options, out, progress)
        progress.note(_summary(table, out))


@app.command()
def psf(
    frame: FrameArgument,
    out: Annotated[Path, typer.Option(help="PSF, as TRIPPy's FITS file.")] = Path("psf.fits"),
    stars: Annotated[
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
    pixels, with the stars and what made it in the header. Where the PSF varies over the frame by
    more than its error, a warning says so: --at makes it for the place of your target.

    Examples:

        mlpsf psf frame.fits --out psf.fits

        mlpsf psf mosaic.fits --hdu SCI,2 --out amp2.fits --n-max 40

        mlpsf psf frame.fits --at 310.2 1470.5 --out target.fits
    """  # noqa: D406, D407, D412 - the help of a command, not numpydoc
    from mlpsf.export import check_star_path
    from mlpsf.files import check_folder
    from mlpsf.psf import build_psf, psf_quality
    from mlpsf.psf.build import check_place
    from mlpsf.selection import FEWEST_RESERVED

    if check_folder(out).suffix.lower() not in (".fits", ".fit"):
        raise OutputError(f"A PSF goes into a FITS file: {out.name!r} must end in .fits.")
    table_path = check_star_path(stars or out.with_name(f"{out.stem}_stars.ecsv"))
    inputs = [frame, catalogue, mask, model]
    check_outputs([(out, "psf"), (table_path, "stars")], inputs, overwrite=overwrite)
    with _Progress(quiet) as progress:
        options = _selection(selector, model, catalogue, threshold, n_max, n_min, reserve, relax)
        options |= {"snr_min": snr_min, "second_look": second_look}
        progress("reading")
        image = _read(frame, hdu, mask, gain, saturation)
        if at is not None:
            check_place(at, image.shape)
        table = _choose(image, options, table_path, progress, psf=out)
        progress("making the PSF")
        made = build_psf(image, table, at=at)
        made.save(out, overwrite=True)
        progress.note(_summary(table, table_path))
        place = "" if at is None else f" at ({at[0]:g}, {at[1]:g})"
        progress.note(
            f"PSF{place} of FWHM {made.fwhm:.2f} pixels and ellipticity {made.ellipticity:.3f} "
            f"in {out}."
        )
        if table.meta["n_reserved"] >= FEWEST_RESERVED:
            progress("judging the PSF")
            progress.note(_judgement(psf_quality(image, made, table)))


@app.command()
def simulate(
    out: Annotated[Path, typer.Option(help="FITS file; the truth goes into its extensions.")] = (
        Path("frame.fits")
    ),
    nx: Annotated[int, typer.Option(min=64, help="Width in pixels.")] = 1536,
    ny: Annotated[int, typer.Option(min=64, help="Height in pixels.")] = 1536,
    fwhm: Annotated[float, typer.Option(help="FWHM of the stars in pixels.")] = 4.0,
    stars: Annotated[int, typer.Option(min=0, help="Number of stars.")] = 1500,
    galaxies: Annotated[int, typer.Option(min=0, help="Number of galaxies.")] = 800,
    profile: Annotated[ProfileName, typer.Option(help="What the PSF is.")] = ProfileName.moffat,
    e1: Annotated[float, typer.Option(help="Shear of the PSF along x.")] = 0.02,
    e2: Annotated[float, typer.Option(help="Shear of the PSF along the diagonal.")] = 0.0,
    variation: Annotated[float, typer.Option(help="Change of the PSF over the frame.")] = 0.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same frame.")] = 1,
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
) -> None:
    """Draw a frame whose stars, galaxies and PSF are known, with GalSim.

    The image is in the primary HDU; the truth table and the map of defects follow it. Needs
    the extra: pip install 'mlpsf[simulation]'.

    Example:

        mlpsf simulate --out frame.fits --fwhm 5 --stars 1000 --seed 7
    """
    from mlpsf.simulation import simulate_frame

    check_outputs([(out, None)], overwrite=overwrite)
    with _Progress(quiet) as progress:
        progress("drawing")
        drawn = simulate_frame(
            shape=(ny, nx),
            fwhm=fwhm,
            n_stars=stars,
            n_galaxies=galaxies,
            psf=profile.value,
            e1=e1,
            e2=e2,
            psf_variation=variation,
            seed=seed,
        )
        drawn.write(out)
        progress.note(
            f"{nx} x {ny} pixels with {stars} stars and {galaxies} galaxies of FWHM {fwhm:g} "
            f"in {out}."
        )


app.command()(cli_batch.run)
app.command()(cli_training.label)
app.command()(cli_training.train)


def main() -> None:
    """Run the command line; errors of mlpsf end in one line and an exit code, not a traceback."""
    warnings.showwarning = _one_line
    try:
        app()
    except TooFewStarsError as error:
        _fail(error, EXIT_TOO_FEW)
    except MlpsfError as error:
        _fail(error, EXIT_ERROR)
    except KeyboardInterrupt:
        print("mlpsf: stopped", file=sys.stderr)  # noqa: T201
        sys.exit(130)


def console() -> None:
    """Run the command line as a program of its own."""
    code: Any = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code or 0
    sys.stdout.flush()
    sys.stderr.flush()
    # All is written. To take numpy, astropy and a frame apart piece by piece, only for the system
    # to take the memory back, would cost a tenth of the whole command.
    os._exit(code if isinstance(code, int) else 1)


def _fail(error: MlpsfError, code: int) -> None:
    typer.echo(f"mlpsf: {' '.join(str(error).split())}", err=True)
    sys.exit(code)


def _one_line(
    message: Warning | str,
    category: type[Warning],  # noqa: ARG001 - the signature of warnings.showwarning
    filename: str,  # noqa: ARG001
    lineno: int,  # noqa: ARG001
    file: Any = None,  # noqa: ARG001
    line: str | None = None,  # noqa: ARG001
) -> None:
    typer.echo(f"mlpsf: warning: {' '.join(str(message).split())}", err=True)


def _read(
    path: Path, hdu: str | None, mask: Path | None, gain: float | None, saturation: float | None
) -> Any:
    from mlpsf.frame import read_frame

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
    from mlpsf.selection import N_MIN

    estimator: Any = selector.value
    if model is not None:
        if selector is SelectorName.residual:
            raise InputError("--model and --selector residual exclude each other: give one.")
        from mlpsf.selectors.storage import load_judge

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
    progress: _Progress,
    psf: Path | None = None,
) -> Any:
    """Choose the stars and write their table, also when they are too few.

    A PSF that an earlier command left goes with the table that it was made of.
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


def _judgement(quality: Any) -> str:
    """Say what reserve stars say of a PSF."""
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
    return (
        f"{meta['frame']}: {meta['n_selected']} of {meta['n_sources']} sources "
        f"selected{relaxed}{reserved}; "
        f"FWHM {meta['fwhm']:.2f} pixels; table in {path}."
    )


class _Progress:
    """Say on a terminal which step is at work; say results unless quiet; nothing on stdout."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.live = not quiet and sys.stderr.isatty()
        self.start = time.monotonic()

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()

    def __call__(self, step: str) -> None:
        if self.live:
            self._clear()
            seconds = time.monotonic() - self.start
            typer.echo(f"[{seconds:4.1f} s] {step} ...", err=True, nl=False)

    def note(self, text: str) -> None:
        """Print a line of result on stderr."""
        if not self.quiet:
            self._clear()
            typer.echo(text, err=True)

    def _clear(self) -> None:
        if self.live:
            typer.echo("\r\x1b[K", err=True, nl=False)


if __name__ == "__main__":
    console()
