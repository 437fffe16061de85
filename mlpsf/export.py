"""Write star tables as ECSV, FITS, CSV or DS9 regions, by the file's extension."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table

from mlpsf.errors import OutputError
from mlpsf.files import check_folder, check_replaceable, whole_file

__all__ = ["FORMATS", "check_star_path", "write_stars"]


def write_stars(
    table: Table, path: str | os.PathLike[str], *, overwrite: bool | None = None
) -> Path:
    """Write a star table with its metadata, completely or not at all.

    Parameters
    ----------
    table : Table
        Star table from `mlpsf.select_stars`.
    path : path-like
        The extension gives the format: ``.ecsv``, ``.fits``, ``.csv`` (metadata as lines that
        start with ``#``), ``.reg`` (DS9: chosen stars green, reserved ones cyan, others red with
        the reason).
    overwrite : bool, optional
        Whether to replace an existing file. By default only a star table of mlpsf is replaced.

    Returns
    -------
    Path

    Raises
    ------
    OutputError
        If the extension is unknown, the folder does not exist or is not writable, or the file
        may not be replaced.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "stars.ecsv"
    >>> write_stars(Table({"id": [1], "x": [3.5]}), path).name
    'stars.ecsv'
    """
    path = check_star_path(path)
    check_replaceable(path, "stars", overwrite)
    content = FORMATS[path.suffix.lower()](table)
    with whole_file(path) as temporary:
        temporary.write_bytes(content)
    return path


def check_star_path(path: str | os.PathLike[str]) -> Path:
    """Return the path; raise `OutputError` if `write_stars` cannot write there."""
    path = check_folder(path)
    if path.suffix.lower() not in FORMATS:
        raise OutputError(
            f"The ending of {path.name!r} gives no format. Expected one of {', '.join(FORMATS)}."
        )
    return path


def _ecsv(table: Table) -> bytes:
    text = io.StringIO()
    table.write(text, format="ascii.ecsv")
    return text.getvalue().encode()


def _csv(table: Table) -> bytes:
    text = io.StringIO()
    for key, value in table.meta.items():
        text.write(f"# {key}: {value}\n")
    table.write(text, format="ascii.csv")
    return text.getvalue().encode()


def _fits(table: Table) -> bytes:
    plain = table.copy()
    plain.meta.clear()
    hdu = fits.table_to_hdu(plain)
    hdu.name = "STARS"
    for key, value in table.meta.items():
        hdu.header[f"HIERARCH MLPSF {key.upper().replace('_', ' ')}"] = _card(value)
    file = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(file)
    return file.getvalue()


def _card(value: Any) -> Any:
    """Convert a value to one that a FITS card can hold."""
    if isinstance(value, bool | int):
        return value
    if isinstance(value, float) and np.isfinite(value):
        return value
    return str(value).encode("ascii", "replace").decode()


def _reg(table: Table) -> bytes:
    lines = ["# Region file format: DS9 version 4.1"]
    lines += [f"# {key}: {value}" for key, value in table.meta.items()]
    lines += ["global width=1", "image"]
    radius = max(2.5 * float(table.meta.get("fwhm", 4.0)), 3.0)
    for row in table:
        if row["selected"]:
            colour = "green"
        elif row["reserved"]:
            colour = "cyan"
        else:
            colour = "red"
        text = f"{row['id']}"
        if np.isfinite(row["probability"]):
            text += f" {row['probability']:.2f}"
        if row["reason"]:
            text += f" {row['reason']}"
        # DS9 counts pixels from 1.
        lines.append(
            f"circle({row['x'] + 1:.3f},{row['y'] + 1:.3f},{radius:.2f}) "
            f"# color={colour} text={{{text}}}"
        )
    return ("\n".join(lines) + "\n").encode()


FORMATS: dict[str, Callable[[Table], bytes]] = {
    ".ecsv": _ecsv,
    ".fits": _fits,
    ".csv": _csv,
    ".reg": _reg,
}
"""Writer of each file extension."""
