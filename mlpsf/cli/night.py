"""Command ``run`` for a whole night: many frames on all cores, or on a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlpsf.batch.pool import TIME_LIMIT
from mlpsf.cli.options import (
    CatalogueOption,
    GainOption,
    MaskOption,
    ModelOption,
    NMaxOption,
    NMinOption,
    OverwriteOption,
    QuietOption,
    RelaxOption,
    ReserveOption,
    SaturationOption,
    SecondLookOption,
    SelectorName,
    SelectorOption,
    SnrOption,
    ThresholdOption,
)
from mlpsf.cli.training import EXIT_SOME_FAILED
from mlpsf.errors import InputError, MlpsfError

__all__ = ["run"]

EXIT_STOPPED = 130  # as in a shell: 128 plus the number of SIGINT
_MOST_REASONS = 5  # number of reasons printed; the summary has all


def run(
    frames: Annotated[
        list[str],
        typer.Argument(
            metavar="FRAME...",
            help="FITS files, plain, .gz or .fz; globs in quotes ('night/**/*.fits'); @list.txt, "
            "a file with one of these a line.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(help="Folder of the results, made if need be; not that of the frames."),
    ],
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes on this machine, one core and some 500 MB each. Default: all cores.",
            show_default=False,
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Use the workers of this Dask scheduler instead: tcp://host:8786, or its "
            "scheduler file (.json). They need mlpsf and the same paths.",
            show_default=False,
        ),
    ] = None,
    hdu: Annotated[
        list[str] | None,
        typer.Option(
            metavar="all|N|NAME|NAME,VERSION",
            help="Images of each file; may be given several times, and NAME may hold * and ?. "
            "all: every image but masks, weights and their like. Default: the first image.",
            show_default=False,
        ),
    ] = None,
    retry_failed: Annotated[
        bool,
        typer.Option(
            "--retry-failed",
            help="Try again also what failed for a reason in the frame. What failed for lack of "
            "space, memory or time is always tried again.",
        ),
    ] = False,
    time_limit: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0.01,
            help="A frame that takes longer has failed, and its worker is killed and replaced; "
            "inf: no limit. On Dask it is given to three more workers first.",
        ),
    ] = TIME_LIMIT,
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
    """Choose the stars and make the PSF of every FRAME: a night, on every core.

    Of each frame, the folder gets NAME_stars.ecsv and NAME_psf.fits (NAME_3_... of HDU 3), the
    files that mlpsf psf makes. night.ecsv, and night.parquet where pyarrow is installed (pip
    install 'mlpsf[parquet]'), have a row a frame: FWHM, ellipticity, stars found and chosen,
    quality (share of the stars' light that the PSF leaves beyond noise; --reserve 0.2 has it
    judged by stars that the PSF has not seen), seconds, warnings, and the reason of one that
    failed.

    Stopped, or killed, at any moment: give the same command again. It does what is missing, and
    what was made with other settings, and ends with the same files. A frame that fails is a row
    with its reason. A worker that dies is replaced and its frame done again; one that two
    workers died of has failed.

    Exit codes: 0 every frame succeeded; 4 some failed; 1 none succeeded, or the run could not be
    done; 130 stopped by Ctrl-C.

    Examples:

        mlpsf run night/*.fits --out results

        mlpsf run mosaic.fits.fz --hdu all --out results --workers 8

        mlpsf run @night.txt --out results --n-max 40 --reserve 0.2

        mlpsf run @night.txt --out results --scheduler tcp://head:8786
    """  # noqa: D406, D407, D412 - the help of a command, not numpydoc
    from mlpsf.batch.inputs import Settings
    from mlpsf.batch.run import run_frames
    from mlpsf.selection.choice import N_MIN

    if model is not None and selector is SelectorName.residual:
        raise InputError("--model and --selector residual exclude each other: give one.")
    settings = Settings(
        selector=selector.value,
        model=None if model is None else str(model),
        catalogue=None if catalogue is None else str(catalogue),
        threshold=threshold,
        n_max=n_max,
        n_min=min(N_MIN, n_max) if n_min is None else n_min,
        reserve=reserve,
        relax=relax,
        snr_min=snr_min,
        second_look=second_look,
        gain=gain,
        saturation=saturation,
        mask=None if mask is None else str(mask),
    )
    try:
        night = run_frames(
            frames,
            out,
            settings=settings,
            hdu=hdu,
            workers=workers,
            scheduler=scheduler,
            retry_failed=retry_failed,
            time_limit=time_limit,
            overwrite=overwrite,
            progress=not quiet,
        )
    except KeyboardInterrupt as stop:
        how_far = f": {stop}" if str(stop) else ""
        typer.echo(f"mlpsf: stopped{how_far}. The same command goes on from there.", err=True)
        raise typer.Exit(EXIT_STOPPED) from None
    table = night.table
    bad = table[~table["done"]]
    where = " and ".join(map(str, night.files))
    if len(bad) == len(table):
        raise MlpsfError(
            f"None of {len(table)} frames succeeded; summary in {where}. The first, "
            f"{bad['name'][0]}: {bad['error'][0]}"
        )
    if not quiet:
        for row in bad[:_MOST_REASONS]:
            typer.echo(f"{row['name']}: {row['error']}", err=True)
        if len(bad) > _MOST_REASONS:
            typer.echo(f"... and {len(bad) - _MOST_REASONS} more failed.", err=True)
        kept = f" ({night.n_kept} known from before)" if night.n_kept else ""
        failures = f", {len(bad)} failed" if len(bad) else ""
        n_warned = int((table["warnings"] != "").sum())
        warned = f", {n_warned} with warnings" if n_warned else ""
        typer.echo(
            f"{len(table) - len(bad)} of {len(table)} frames done{failures}{warned}{kept}; "
            f"summary in {where}.",
            err=True,
        )
    if len(bad):
        raise typer.Exit(EXIT_SOME_FAILED)
