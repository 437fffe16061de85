"""Write star tables as ECSV, FITS, CSV or DS9 regions, by the file's extension."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import QTable, Table

from mlpsf.errors import CatalogueError, InputError, OutputError
from mlpsf.files import check_folder, check_replaceable, input_file, whole_file
from mlpsf.frames.io.fits_sizes import check_fits
from mlpsf.frames.metadata import metadata_of, of_comments
from mlpsf.selection.star_table import StarTable

__all__ = [
    "FORMATS",
    "as_qtable",
    "check_star_path",
    "psf_rows",
    "read_stars",
    "region_file",
    "table_with_ucds",
    "write_stars",
]


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


def read_stars(path: str | os.PathLike[str]) -> Table:
    """Read a star table that `write_stars` wrote as ECSV, FITS or CSV, with its metadata.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    Table
        Empty strings and NaN are given back as they were, not masked. A FITS or CSV file gives
        its metadata with names in lower case, and as text where it was written so.

    Raises
    ------
    CatalogueError
        If the file cannot be read as a star table.

    Examples
    --------
    >>> import tempfile
    >>> stars = Table({"id": [1], "x": [3.5], "y": [2.0]}, meta={"fwhm": 4.1})
    >>> path = write_stars(stars, Path(tempfile.mkdtemp()) / "stars.fits")
    >>> read_stars(path).meta["fwhm"]
    4.1
    """
    path = input_file(path, CatalogueError, "a star table")
    try:
        return _read(path)
    except CatalogueError:
        raise
    except Exception as error:  # a damaged file can make its parsers raise anything
        raise CatalogueError(f"{path.name} cannot be read as a star table: {error}.") from error


def _read(path: Path) -> StarTable:
    ending = path.suffix.lower()
    if ending == ".ecsv":
        table = Table.read(path, format="ascii.ecsv")
    elif ending == ".fits":
        table = Table.read(check_fits(path, CatalogueError), format="fits", hdu=1)
        table.meta = metadata_of(table)
    elif ending == ".csv":
        table = Table.read(path, format="ascii.csv", comment="#")
        table.meta = _comments(path)
    else:
        raise CatalogueError(f"Star tables are read from .ecsv, .fits and .csv. Got {path.name!r}.")
    if not {"x", "y"} <= set(table.colnames):
        raise CatalogueError(f"{path.name} has no columns x and y, so it is no star table.")
    table.convert_bytestring_to_unicode()
    for name in table.colnames:
        column = table[name]
        if column.dtype.kind in "SU" and set(np.ma.filled(column, "")) <= {"True", "False"}:
            table[name] = np.asarray(column) == "True"
        elif hasattr(column, "filled"):
            table[name] = column.filled("" if column.dtype.kind in "SU" else np.nan)
    return StarTable(table, copy=False)


def _comments(path: Path) -> dict[str, Any]:
    """Return the metadata of a CSV file."""
    lines = takewhile(lambda line: line.startswith("#"), path.read_text().splitlines())
    return of_comments(line.removeprefix("# ") for line in lines)


def psf_rows(stars: Table) -> Table:
    """Return the rows of a star table that make the PSF: selected and not reserved.

    Parameters
    ----------
    stars : Table
        Without the columns ``selected`` and ``reserved`` all rows are taken.

    Raises
    ------
    InputError
        If there are none.
    """
    use = np.ones(len(stars), dtype=bool)
    if "selected" in stars.colnames:
        use &= np.asarray(stars["selected"], dtype=bool)
    if "reserved" in stars.colnames:
        use &= ~np.asarray(stars["reserved"], dtype=bool)
    if not use.any():
        raise InputError(f"None of the {len(stars)} rows of the star table makes the PSF.")
    return stars[use]


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


def as_qtable(stars: Table) -> QTable:
    """Return a star table as a QTable: quantities with units, and positions as a ``SkyCoord``.

    Parameters
    ----------
    stars : Table
        Star table.

    Returns
    -------
    QTable
        Its columns and metadata, with ``sky`` (`astropy.coordinates.SkyCoord`, ICRS) in place of
        ``ra`` and ``dec``.

    Examples
    --------
    >>> stars = Table({"x": [3.5], "ra": [10.0], "dec": [-5.0]}, meta={"fwhm": 4.1})
    >>> table = as_qtable(stars)
    >>> table["sky"][0].dec.deg, table.meta["fwhm"]
    (np.float64(-5.0), 4.1)
    """
    out = QTable(stars)
    if {"ra", "dec"} <= set(out.colnames):
        from astropy.coordinates import SkyCoord

        at = out.colnames.index("ra")
        ra, dec = (np.asarray(stars[name], dtype=np.float64) for name in ("ra", "dec"))
        out.remove_columns(["ra", "dec"])
        out.add_column(SkyCoord(ra, dec, unit="deg"), index=at, name="sky")
    out.meta.update(stars.meta)
    return out


_UCDS = {
    "id": ("", "meta.id;meta.main", "number of the source"),
    "x": ("pix", "pos.cartesian.x;instr.det", "from 0 at the centre of the first pixel"),
    "y": ("pix", "pos.cartesian.y;instr.det", "from 0 at the centre of the first pixel"),
    "ra": ("deg", "pos.eq.ra;meta.main", "right ascension, ICRS"),
    "dec": ("deg", "pos.eq.dec;meta.main", "declination, ICRS"),
    "flux": ("adu", "phot.count;em.opt", "above the sky, Kron aperture"),
    "snr": ("", "stat.snr", "signal to noise"),
    "peak": ("adu", "phot.count;stat.max", "highest pixel above the sky"),
    "fwhm": ("pix", "phys.angSize;instr.det.psf", "full width at half maximum"),
    "local_fwhm": ("pix", "phys.angSize;instr.det.psf", "that of the stars around it"),
    "ellipticity": ("", "src.ellipticity", "1 - b/a"),
    "probability": ("", "stat.probability", "of being a good PSF star"),
    "selected": ("", "meta.code", "whether it makes the PSF"),
    "reserved": ("", "meta.code", "whether it is kept to judge the PSF"),
    "flags": ("", "meta.code.qual", "bits of mlpsf.Flag"),
    "reason": ("", "meta.note", "why it was not taken"),
}


def table_with_ucds(stars: Table) -> bytes:
    """Return a FITS table with the unit, UCD and description of each column, for TOPCAT."""
    with fits.open(io.BytesIO(_fits(stars))) as hdus:
        header = hdus[1].header
        for k, name in enumerate(stars.colnames, 1):
            unit, ucd, text = _UCDS.get(name, ("", "", ""))
            for key, value in (("TUNIT", unit), ("TUCD", ucd), ("TCOMM", text)):
                # The unit of the pixels is the frame's; a table that has it knows better.
                if value and f"{key}{k}" not in header:
                    header[f"{key}{k}"] = value
        file = io.BytesIO()
        hdus.writeto(file)
    return file.getvalue()


def region_file(table: Table) -> bytes:
    """Return DS9 regions: chosen stars green, reserved ones cyan, others red with the reason."""
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
    ".reg": region_file,
}
"""Writer of each file extension."""
