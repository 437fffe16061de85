"""Command ``report``, and ``--report`` of ``psf``."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from mlpsf.cli.common.groups import Choosing, General, Lists, Reading, grouped
from mlpsf.cli.common.options import FrameArgument, HduOption, OverwriteOption, check_outputs
from mlpsf.cli.common.progress import Progress
from mlpsf.cli.common.steps import STEPS, inputs
from mlpsf.cli.common.telling import figures
from mlpsf.errors import MlpsfError, TooFewStarsError

__all__ = ["ReportOption", "report", "spoken_warnings", "words_of", "write_page"]

ReportOption = Annotated[
    Path | None,
    typer.Option(
        help="Write also a page that shows the stars and the PSF (.html); see mlpsf report.",
        show_default=False,
    ),
]


def words_of(frame: Path, hdu: str | None, reading: Reading) -> list[str]:
    """Return the frame and how it was read, as words of a command."""
    from mlpsf.report.advice import reading_words

    given = {"gain": reading.gain, "saturation": reading.saturation, "mask": reading.mask}
    return reading_words(frame, hdu=hdu, **given)


@contextmanager
def spoken_warnings() -> Iterator[list[str]]:
    """Collect the texts of warnings, which are still shown."""
    texts: list[str] = []
    show = warnings.showwarning

    def collect(message: Warning | str, *where: Any, **more: Any) -> None:
        texts.append(" ".join(str(message).split()))
        show(message, *where, **more)

    with warnings.catch_warnings():
        warnings.showwarning = collect
        yield texts


@grouped
def report(
    frame: FrameArgument,
    out: Annotated[Path, typer.Option(help="The page (.html).")] = Path("report.html"),
    hdu: HduOption = None,
    *,
    choosing: Choosing,
    lists: Lists,
    reading: Reading,
    overwrite: OverwriteOption = False,
    general: General,
) -> None:
    """Show the stars of FRAME and its PSF on one page, to look at before they are used.

    The page needs no network. It shows the verdict, the chosen stars and the best of the others
    with their reasons, where they are, their sizes and profiles, the PSF and what it leaves. A
    click on a star vetoes it or adds it; the page saves the list and shows the command that makes
    the PSF of it. mlpsf psf FRAME --report writes the same page beside the PSF.

    With too few stars for a PSF the page shows what there is; exit code 3.

    Examples:

        mlpsf report frame.fits --out report.html

        mlpsf psf frame.fits --stars list.ecsv        (the list that the page saved)
    """  # noqa: D406, D407, D412 - the help of a command, not numpydoc
    from mlpsf.pipeline import select_stars
    from mlpsf.psf import build_psf
    from mlpsf.report.page import check_page_path

    check_page_path(out)
    check_outputs([(out, "report")], inputs(frame, choosing, lists, reading), overwrite=overwrite)
    with Progress(general, STEPS) as progress, spoken_warnings() as warned:
        options = choosing.arguments() | lists.arguments()
        progress("reading")
        image = reading.frame(frame, hdu)
        words = words_of(frame, hdu, reading)
        psf, failure = None, None
        try:
            stars = select_stars(image, progress=progress, **options)
            progress("making the PSF")
            psf = build_psf(image, stars)
        except TooFewStarsError as error:
            if error.table is None:
                raise
            stars, failure = error.table, error
        write_page(out, words, image, stars, psf, warned, progress, failure)
        if failure is not None:
            raise failure
        found = figures(stars, out, psf)
        del found["stars"], found["psf"]
        progress.result(**found, report=out)


def write_page(
    path: Path,
    words: list[str],
    image: Any,
    stars: Any,
    psf: Any,
    warned: list[str],
    progress: Progress,
    failure: MlpsfError | None = None,
) -> None:
    """Write the page of a frame whose stars and PSF are known, or why there is no PSF."""
    from mlpsf.report.page import write_report

    progress("drawing")
    try:
        write_report(
            path,
            image,
            stars,
            psf,
            words=words,
            warnings=warned,
            error="" if failure is None else str(failure),
            overwrite=True,
        )
    except MlpsfError as error:
        raise type(error)(f"The report was not written: {error}") from error
    progress.note(f"Report in {path}.")
