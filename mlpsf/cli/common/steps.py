"""What the commands of one frame do one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlpsf.cli.common.groups import Choosing, Lists, Reading
from mlpsf.cli.common.progress import Progress
from mlpsf.errors import TooFewStarsError

__all__ = ["STEPS", "choose", "inputs", "set_options"]

STEPS = (
    "reading",
    "finding sources",
    "judging sources",
    "looking again",
    "making the PSF",
    "drawing",
)
"""The steps of ``mlpsf psf --report``; other commands take the first of them."""


def inputs(frame: Path, choosing: Choosing, lists: Lists, reading: Reading) -> list[Path | None]:
    """Return the files that a command reads, none of which it may replace."""
    own = [choosing.catalogue, choosing.model, reading.mask]
    return [frame, *own, lists.stars, lists.keep, lists.veto]


def set_options(choosing: Choosing, reading: Reading) -> dict[str, Any]:
    """Return the arguments of `mlpsf.select_cutouts`."""
    options = choosing.arguments()
    del options["catalogue"]
    return options | {"gain": reading.gain, "saturation": reading.saturation}


def choose(
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
