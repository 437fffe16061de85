"""Command ``run`` for a whole night: many frames on all cores, or on a cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from mlpsf.batch.pool import TIME_LIMIT
from mlpsf.cli.common.groups import Choosing, General, Reading, grouped
from mlpsf.cli.common.options import OverwriteOption
from mlpsf.cli.common.progress import plain
from mlpsf.cli.common.telling import tell
from mlpsf.cli.training import EXIT_SOME_FAILED
from mlpsf.errors import MlpsfError

__all__ = ["run"]

EXIT_STOPPED = 130  # as in a shell: 128 plus the number of SIGINT
_MOST_REASONS = 5  # reasons, and kinds of warnings, that are printed; the summary has all


@grouped
def run(
    frames: Annotated[
        list[str],
        typer.Argument(
            metavar="FRAME...",
            help="FITS files (.fz, .gz, ... too); globs in quotes ('night/**/*.fits'); @list.txt, "
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
            "space, memory, time or permission, or of a disk that was away, always is.",
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
    report: Annotated[
        bool,
        typer.Option("--report", help="Write also a page of each frame, NAME_report.html."),
    ] = False,
    *,
    choosing: Choosing,
    reading: Reading,
    overwrite: OverwriteOption = False,
    general: General,
) -> None:
    """Choose the stars and make the PSF of every FRAME: a night, on every core.

    Of each frame, the folder gets NAME_stars.ecsv and NAME_psf.fits (NAME_3_... of HDU 3), the
    files that mlpsf psf makes. night.ecsv, and night.parquet where pyarrow is installed (pip
    install 'mlpsf[parquet]'), have a row a frame: FWHM, ellipticity, stars found and chosen,
    quality (share of the stars' light that the PSF leaves beyond noise, 0 where that is all;
    judged_by: --reserve 0.2 has it judged by stars that the PSF has not seen), seconds, warnings,
    and the reason of one that failed. night.html shows the same, those that stand out first, with
    small pictures of each frame and its PSF.

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
    from mlpsf.report.night import kinds_of_warnings

    choice = choosing.settings()
    for name in ("model", "catalogue"):
        choice[name] = None if choice[name] is None else str(choice[name])
    settings = Settings(
        **choice,
        gain=reading.gain,
        saturation=reading.saturation,
        mask=None if reading.mask is None else str(reading.mask),
        report=report,
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
            progress=not general.quiet,
        )
    except KeyboardInterrupt as stop:
        how_far = f": {stop}" if str(stop) else ""
        tell(f"mlpsf: stopped{how_far}. The same command goes on from there.")
        raise typer.Exit(EXIT_STOPPED) from None
    table = night.table
    if general.as_json:
        for row in table:
            typer.echo(json.dumps({name: plain(row[name]) for name in table.colnames}))
    bad = table[~table["done"]]
    where = " and ".join(map(str, night.files))
    if not general.quiet:
        for n, text in kinds_of_warnings(table)[:_MOST_REASONS]:
            frames_ = "1 frame" if n == 1 else f"{n} frames alike, the first"
            tell(f"mlpsf: warning: {frames_}: {text}")
    if len(bad) == len(table):
        raise MlpsfError(
            f"None of {len(table)} frames succeeded; summary in {where}. The first, "
            f"{bad['name'][0]}: {bad['error'][0]}"
        )
    if not general.quiet:
        for row in bad[:_MOST_REASONS]:
            tell(f"{row['name']}: {row['error']}")
        if len(bad) > _MOST_REASONS:
            tell(f"... and {len(bad) - _MOST_REASONS} more failed.")
        kept = f" ({night.n_kept} known from before)" if night.n_kept else ""
        failures = f", {len(bad)} failed" if len(bad) else ""
        n_warned = int((table["warnings"] != "").sum())
        warned = f", {n_warned} with warnings" if n_warned else ""
        tell(
            f"{len(table) - len(bad)} of {len(table)} frames done{failures}{warned}{kept}; "
            f"summary in {where}."
        )
    if len(bad):
        raise typer.Exit(EXIT_SOME_FAILED)
