"""Command-line application: the commands, exit codes and error messages."""

from __future__ import annotations

import json
import os
import sys
import warnings
from contextlib import suppress
from functools import partial
from typing import Annotated, Any

import typer

from mlpsf.cli import export, frames, looking, night, rendering, reporting, simulation, training
from mlpsf.cli.common.configuration import configured
from mlpsf.cli.common.progress import Progress
from mlpsf.cli.common.telling import tell
from mlpsf.errors import MlpsfError, TooFewStarsError
from mlpsf.version import __version__

__all__ = ["app", "console", "main"]

# Set before numpy is loaded. The matrices here are small, so a second thread mostly waits, and in
# `mlpsf run` every core has its own frame.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

EXIT_ERROR = 1
EXIT_TOO_FEW = 3

app = typer.Typer(
    name="mlpsf",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help=(
        "Choose the stars of an astronomical image that make the best point spread function, "
        "and make it.\n\n"
        "    mlpsf simulate --out frame.fits            a frame to try it on\n\n"
        "    mlpsf tutorial                             a notebook to learn from\n\n"
        "    mlpsf select frame.fits --out stars.ecsv   its PSF stars\n\n"
        "    mlpsf psf frame.fits --out psf.fits        its PSF, through TRIPPy\n\n"
        "    mlpsf report frame.fits --out report.html  a page to look at both\n\n"
        "    mlpsf render psf.fits 300 200 --out a.fits its PSF at a place\n\n"
        "    mlpsf export psf.fits --to psfex --out frame.psf   for other tools\n\n"
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


for _command in (
    frames.select,
    frames.psf,
    reporting.report,
    looking.plot,
    looking.info,
    rendering.render,
    export.export,
    simulation.simulate,
    simulation.tutorial,
    night.run,
    training.label,
    training.train,
):
    # A negative place is no option.
    _settings = {"ignore_unknown_options": True} if _command is rendering.render else None
    app.command(cls=configured(_command), context_settings=_settings)(_command)


def main() -> None:
    """Run the command line; mlpsf errors give one line and an exit code, not a traceback."""
    warnings.showwarning = partial(_one_line, set())
    try:
        app()
    except TooFewStarsError as error:
        _fail(error, EXIT_TOO_FEW)
    except MlpsfError as error:
        _fail(error, EXIT_ERROR)
    except OSError as error:  # of the terminal: those of files are told where they happen
        _fail(MlpsfError(f"{error}."), EXIT_ERROR)
    except MemoryError as error:
        _fail(
            MlpsfError(f"There is not enough memory: {error}. Try a part of the frame."), EXIT_ERROR
        )
    except KeyboardInterrupt as stop:
        tell(f"mlpsf: stopped{f': {stop}' if str(stop) else ''}")
        sys.exit(130)


def console() -> None:
    """Run the command line as a stand-alone program."""
    code: Any = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code or 0
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    # All files are written. A normal exit, which frees numpy, astropy and the frame piece by piece,
    # would take a tenth of the whole command.
    os._exit(code if isinstance(code, int) else 1)


def _fail(error: MlpsfError, code: int) -> None:
    text = " ".join(str(error).split())
    tell(f"mlpsf: {text}")
    if "--json" in sys.argv[1:] or Progress.asked_for_json:
        with suppress(OSError):  # which may be the error
            typer.echo(json.dumps({"error": text}))
    sys.exit(code)


def _one_line(
    said: set[str],
    message: Warning | str,
    category: type[Warning],  # noqa: ARG001 - the signature of warnings.showwarning
    filename: str,  # noqa: ARG001
    lineno: int,  # noqa: ARG001
    file: Any = None,  # noqa: ARG001
    line: str | None = None,  # noqa: ARG001
) -> None:
    """Say a warning, once a command: a file may be opened several times."""
    text = " ".join(str(message).split())
    if text not in said:
        said.add(text)
        tell(f"mlpsf: warning: {text}")
