"""Sets of cutouts where the commands of one frame take a frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlpsf.cli.common.progress import Progress
from mlpsf.errors import InputError, OutputError, TooFewStarsError

__all__ = [
    "SET_ENDINGS",
    "check_set_output",
    "choose_from_set",
    "is_set",
    "one_frame",
    "read_set",
    "refuse",
    "save_chosen",
]

SET_ENDINGS = (".cat", ".ldac")
"""Endings of a catalogue that the chosen rows of a catalogue are written to."""


def is_set(path: Path) -> bool:
    """Return whether a file holds cutouts and not an image; a missing one, by its name."""
    if path.suffix.lower() in (".h5", ".hdf5", ".npz", *SET_ENDINGS):
        return True
    from mlpsf.frames.io.cutout_files import holds_cutouts

    return holds_cutouts(path)


def check_set_output(path: Path, out: Path) -> None:
    """Raise `OutputError` unless the chosen rows of the input can be written there."""
    from mlpsf.export import check_star_path
    from mlpsf.frames.io.cutout_files import is_ldac

    if out.suffix.lower() not in SET_ENDINGS:
        check_star_path(out)
    elif path.is_file() and not is_ldac(path):
        raise OutputError(
            f"{out.name} would hold rows of a FITS_LDAC catalogue, and {path.name} is none. Give a "
            "star table: .ecsv, .fits, .csv or .reg."
        )


def refuse(**options: Any) -> None:
    """Raise `InputError` for options that go with frames only."""
    for name, value in options.items():
        if value is not None:
            name = name.replace("_", "-")
            raise InputError(f"--{name} is for a frame; this is a set of cutouts. Leave it out.")


def read_set(path: Path) -> Any:
    """Read a set of cutouts of any kind."""
    from mlpsf.frames.io.cutout_files import CutoutTable, read_cutouts

    if path.suffix.lower() not in (".h5", ".hdf5"):
        return read_cutouts(path)
    from mlpsf.training.sets import CutoutSet

    with CutoutSet(path) as found:
        if found.reference_fwhm is not None:
            raise InputError(
                f"{path.name} holds stamps in which the PSF was replaced, or resampled ones. "
                "Expected the frame's own pixels."
            )
        several = len(found.frames) > 1
        return CutoutTable(found[:], found.x, found.y, found.frame if several else None)


def one_frame(found: Any) -> Any:
    """Return the cutouts of a set; raise `InputError` if they are of several frames."""
    if found.groups is not None and len(set(found.groups.tolist())) > 1:
        raise InputError(
            f"The set holds cutouts of {len(set(found.groups.tolist()))} frames, and a PSF is that "
            "of one. 'mlpsf select' chooses the stars of all; give one frame's cutouts to 'psf'."
        )
    return found.cutouts


def save_chosen(frame: Any, table: Any, path: Path) -> None:
    """Write the cutouts of the chosen stars of a frame, as they were judged."""
    from mlpsf.frames.cutouts import extract_cutouts
    from mlpsf.frames.io.cutout_files import write_cutouts
    from mlpsf.neighbours.subtract import as_judged
    from mlpsf.selection.judging import own_cutout_size

    stars = table[table["selected"]]
    size = own_cutout_size(table.meta["fwhm"])
    cut = extract_cutouts(as_judged(frame, table), stars["x"], stars["y"], size)
    write_cutouts(path, cut.data, cut.x, cut.y)


def choose_from_set(
    path: Path,
    out: Path,
    options: dict[str, Any],
    progress: Progress,
    psf: Path | None = None,
) -> tuple[Any, Any]:
    """Choose the stars of a set, write them, and return set and table.

    With `psf` the set must be of one frame, and the PSF there, of the old table, is removed.

    A catalogue of SExtractor gives its chosen rows back, byte for byte, where `out` is one too.
    """
    from mlpsf.export import write_stars
    from mlpsf.files import whole_file
    from mlpsf.frames.io.cutout_files import kept_rows
    from mlpsf.pipeline import select_cutouts

    progress("reading")
    found = read_set(path)
    if psf is not None:
        one_frame(found)

    def keep(table: Any) -> None:
        if psf is not None:
            psf.unlink(missing_ok=True)
        if out.suffix.lower() in SET_ENDINGS:
            content = kept_rows(path, table["selected"])
            with whole_file(out) as temporary:
                temporary.write_bytes(content)
        else:
            write_stars(table, out, overwrite=True)

    try:
        table = select_cutouts(
            found.cutouts, found.x, found.y, groups=found.groups, progress=progress, **options
        )
    except TooFewStarsError as error:
        if error.table is not None:
            keep(error.table)
            what = f"The table of all {len(error.table)} sources is in {out}."
            if out.suffix.lower() in SET_ENDINGS:
                what = (
                    f"The {int(error.table['selected'].sum())} that were chosen are in {out}; "
                    f"--out {out.stem}.ecsv gives the table of all."
                )
            progress.note(what)
        raise
    table.meta["frame"] = path.name
    keep(table)
    return found, table
