"""Read a user's catalogue of sources, used instead of detection."""

from __future__ import annotations

import os
import re
import warnings
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy import units
from astropy.io import fits
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray

from mlpsf.errors import CatalogueError, InputError
from mlpsf.files import input_file
from mlpsf.frames.frame import Frame
from mlpsf.frames.io.fits_sizes import FREE, check_fits, lost_hdus, warn_of_loss
from mlpsf.frames.io.packing import is_packed
from mlpsf.frames.io.regions import read_regions
from mlpsf.frames.metadata import metadata_of
from mlpsf.frames.near import pairs_within
from mlpsf.stacks.values import real_array

if TYPE_CHECKING:
    from astropy.coordinates import SkyCoord

__all__ = ["positions_of", "read_catalogue", "read_table", "repeated_rows"]

_PIXEL_COLUMNS: tuple[tuple[str, str, float], ...] = (
    # names of x and y, and the coordinate of the first pixel's centre
    ("x", "y", 0.0),
    ("xcentroid", "ycentroid", 0.0),  # photutils
    ("x_centroid", "y_centroid", 0.0),
    ("x_fit", "y_fit", 0.0),
    ("xwin_image", "ywin_image", 1.0),  # SExtractor
    ("x_image", "y_image", 1.0),
    ("xpsf_image", "ypsf_image", 1.0),
    ("col1", "col2", 0.0),  # astropy's names of columns without any
)
_DECIMAL_COMMA = re.compile(r"(?<=\d),(?=\d)")  # where semicolons are between the columns
_QUOTED = re.compile(r'"[^"]*"')
_SAYS_NOTHING = re.compile(r"\s*(#|$|sep=)")  # a comment, an empty line, Excel's own first one
_BEGINNING = 100_000  # bytes in which the first row of a list is
_SAME = 0.5  # pixels between two rows of one source
_SKY_COLUMNS = (
    ("ra", "dec"),
    ("ra_icrs", "de_icrs"),
    ("raj2000", "dej2000"),
    ("alphawin_j2000", "deltawin_j2000"),
    ("alpha_j2000", "delta_j2000"),
)


def read_catalogue(
    source: Table | str | os.PathLike[str], frame: Frame, *, name: str | None = None
) -> Table:
    """Read source positions and convert them to pixels of a frame.

    Parameters
    ----------
    source : Table or path
        Any table that astropy reads (FITS, ECSV, CSV, VOTable ...), a SExtractor LDAC file, or
        regions of DS9 (``.reg``).
        Position columns are searched in this order: ``x``, ``y`` and photutils' names (0-based);
        SExtractor's ``X_IMAGE`` and similar (1-based); the first two columns of a list without
        names (0-based); ``ra``, ``dec`` and common variants in
        degrees (or their own unit), or a column of ``SkyCoord``, converted with the frame's WCS.
        Names are not case-sensitive. A star table that mlpsf made of another frame is placed by
        its sky positions: its pixels are those of that frame.
    frame : Frame
        Frame on which the sources are.
    name : str, optional
        What the catalogue is called in messages; by default the file's name.

    Returns
    -------
    Table
        One row per source on the frame, with columns ``id`` (the catalogue's ``id`` or ``NUMBER``
        if they are unique integers, else 1, 2, ...), ``x`` and ``y`` (0-based pixels).

    Raises
    ------
    CatalogueError
        If the catalogue cannot be read, is empty, or has no positions on the frame.

    Warns
    -----
    UserWarning
        If positions are left out because they are not finite, off the frame, or repeated.

    Examples
    --------
    >>> from mlpsf import read_frame
    >>> frame = read_frame(np.random.default_rng(0).normal(100, 1, (50, 60)))
    >>> read_catalogue(Table({"X_IMAGE": [11.0], "Y_IMAGE": [21.0]}), frame)["x"].tolist()
    [10.0]
    """
    if name is None:
        name = "the catalogue" if isinstance(source, Table) else Path(source).name
    table = source if isinstance(source, Table) else read_table(source)
    if len(table) == 0:
        raise CatalogueError(f"{name} has no rows: expected one a source.")
    x, y = positions_of(table, frame, name)
    ny, nx = frame.shape
    on = np.isfinite(x) & np.isfinite(y)
    on &= (x > -0.5) & (x < nx - 0.5) & (y > -0.5) & (y < ny - 0.5)
    if not on.any():
        finite = np.isfinite(x) & np.isfinite(y)
        where = (
            f"x from {x[finite].min():.1f} to {x[finite].max():.1f}, "
            f"y from {y[finite].min():.1f} to {y[finite].max():.1f}"
            if finite.any()
            else "none of them finite"
        )
        raise CatalogueError(
            f"None of the {len(x)} positions of {name} lies on {frame.name}, {nx} pixels wide and "
            f"{ny} high ({where}). Is it the catalogue of another frame or HDU?"
        )
    if not on.all():
        warnings.warn(
            f"{int((~on).sum())} of {len(x)} positions of {name} lie off the frame or are not "
            "finite, and are left out.",
            stacklevel=2,
        )
    found = Table({"id": _ids(table)[on], "x": x[on], "y": y[on]})
    again = repeated_rows(found["x"], found["y"])
    if len(again):
        warnings.warn(
            f"{len(again)} of {len(x)} positions of {name} are within {_SAME:g} pixels of an "
            "earlier one, the same source in two rows, and are left out.",
            stacklevel=2,
        )
        found.remove_rows(again)
    return found


def repeated_rows(x: ArrayLike, y: ArrayLike) -> NDArray[np.intp]:
    """Return the rows of positions that are those of an earlier one, to half a pixel.

    Examples
    --------
    >>> repeated_rows([10.0, 30.0, 10.2], [10.0, 5.0, 10.1]).tolist()
    [2]
    """
    return np.unique(pairs_within(np.column_stack([x, y]), _SAME).max(axis=1))


def read_table(path: str | os.PathLike[str]) -> Table:
    """Read a table of any kind that `read_catalogue` takes.

    Raises
    ------
    CatalogueError
        If the file does not exist or is no table.
    """
    path = input_file(path, CatalogueError, "a table of sources")
    content = check_fits(path, CatalogueError)
    if (text := _unpacked_text(path, content)) is not None:
        with TemporaryDirectory() as folder:
            plain = Path(folder, path.stem if content is not path else path.name)
            plain.write_bytes(text)
            if is_packed(plain):
                raise CatalogueError(f"{path.name} is packed more than once: unpack it first.")
            return read_table(plain)
    if path.suffix.lower() == ".reg":
        return read_regions(path)
    table = _parsed(path, content)
    warn_of_loss(path)
    return table


def _parsed(path: Path, content: Path | BytesIO) -> Table:
    """Read a table by the parser that fits it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ignore warnings about units and comments
        lines = None if content is not path else _semicolon_lines(path)
        try:
            hdu = _ldac_hdu(content)
            if hdu is not None or content is not path:
                return Table.read(content, format="fits", hdu=hdu)
            if lines is not None:
                # A "#" may begin a name.
                words = {"delimiter": ";", "guess": False, "comment": None}
                return _named(partial(Table.read, lines, format="ascii.basic", **words))
            return _named(partial(Table.read, path))
        except Exception as first:  # many parsers, each with its own errors
            try:
                if lines is not None or _begins_with(path, b"SIMPLE"):
                    raise
                return Table.read(path, format="ascii")
            except Exception:
                if path.stat().st_size == 0:
                    raise CatalogueError(
                        f"{path.name} is empty: expected a table, a row a source."
                    ) from None
                said = str(first) or type(first).__name__
                if "\n" in said:  # astropy lists all that it has tried
                    said = "no format fits it"
                raise CatalogueError(
                    f"{path.name} cannot be read as a table ({lost_hdus(path) or said}). "
                    "Expected ECSV, CSV, FITS, VOTable, plain columns, or SExtractor's LDAC."
                ) from first


def _unpacked_text(path: Path, content: Path | BytesIO) -> bytes | None:
    """Return the text of a packed table, or of one that begins with a mark of its encoding.

    None where the file can be read as it is.
    """
    if isinstance(content, BytesIO):
        text = content.getvalue()
        if text.startswith(b"SIMPLE"):
            return None
        if len(text) >= FREE:
            raise CatalogueError(f"{path.name} unpacks to {FREE:,} bytes or more: it is no list.")
        return text.removeprefix(BOM_UTF8)
    if _begins_with(path, BOM_UTF8):
        return path.read_bytes().removeprefix(BOM_UTF8)
    if _begins_with(path, BOM_UTF16_LE, BOM_UTF16_BE):
        try:
            return path.read_text("utf-16").encode()
        except UnicodeError as error:
            raise CatalogueError(f"{path.name} is no readable text ({error}).") from error
    return None


def _named(read: Callable[..., Table]) -> Table:
    """Return what is read, where a first row that holds numbers names no columns."""
    table = read()
    if all(_is_number(name) for name in table.colnames):
        return read(format="ascii.no_header")
    return table


def _begins_with(path: Path, *beginnings: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(max(map(len, beginnings))).startswith(beginnings)


def _semicolon_lines(path: Path) -> list[str] | None:
    """Return the lines of a list whose columns semicolons part, its names first; None of others."""
    if _begins_with(path, b"SIMPLE", b"<", b"# %ECSV"):
        return None
    with path.open("rb") as file:
        start = file.read(_BEGINNING).decode("latin-1").splitlines()
    at = next((k for k, line in enumerate(start) if not _SAYS_NOTHING.match(line)), None)
    if at is None:
        return None
    first = _DECIMAL_COMMA.sub(".", _QUOTED.sub("", start[at]))
    if first.count(";") <= first.count(","):
        return None
    # Of an older encoding, names lose their accents; numbers are the same.
    lines = path.read_text("utf-8", errors="replace").splitlines()
    above = lines[at - 1].strip().lstrip("# ") if at else ""
    names = [above] if above.count(";") == first.count(";") else []
    return [_DECIMAL_COMMA.sub(".", line) for line in [*names, *lines[at:]]]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _ldac_hdu(content: Path | BytesIO) -> int | None:
    """Return the number of the first LDAC_OBJECTS table in a FITS file."""
    # Of a copy: what is closed here is read again.
    stream = BytesIO(content.getvalue()) if isinstance(content, BytesIO) else content
    try:
        with fits.open(stream) as hdus:
            for number, hdu in enumerate(hdus):
                if hdu.name.upper() == "LDAC_OBJECTS":
                    return number
    except Exception:  # it is no whole FITS file
        return None
    return None


def positions_of(table: Table, frame: Frame, name: str) -> tuple[Any, Any]:
    """Return x and y of a table's rows in 0-based pixels, wherever they are; NaN where missing.

    Parameters
    ----------
    table : Table
        As for `read_catalogue`.
    frame : Frame
        Its WCS places sky coordinates.
    name : str
        What the table is called in messages.
    """
    columns = {column.lower(): column for column in table.colnames}
    sky = _sky(table, columns, name)
    if sky is not None and frame.wcs is not None and _is_of_another(table, frame):
        return _on_frame(sky, frame)
    for x_name, y_name, first in _PIXEL_COLUMNS:
        if x_name in columns and y_name in columns:
            x, y = _numbers(table, columns[x_name], name), _numbers(table, columns[y_name], name)
            return x - first, y - first
    if sky is not None:
        if frame.wcs is None:
            raise CatalogueError(
                f"{name} has sky coordinates only, and {frame.name} has no WCS to place them "
                "by. Give columns x and y in pixels, counted from 0."
            )
        return _on_frame(sky, frame)
    raise CatalogueError(
        f"{name} has no columns of positions. Expected x and y (from 0), X_IMAGE and Y_IMAGE "
        f"(from 1), or ra and dec. Got: {', '.join(table.colnames[:12])}."
    )


def _sky(table: Table, columns: dict[str, str], name: str) -> SkyCoord | None:
    """Return the sky positions of a table, if it has any."""
    from astropy.coordinates import SkyCoord

    for column in table.colnames:
        if isinstance(table[column], SkyCoord):
            return table[column]
    for ra_name, dec_name in _SKY_COLUMNS:
        if ra_name in columns and dec_name in columns:
            ra, dec = (_degrees(table, columns[c], name) for c in (ra_name, dec_name))
            if (np.abs(dec) > 90).any():
                raise CatalogueError(
                    f"Column {columns[dec_name]} of {name} has declinations of up to "
                    f"{np.nanmax(np.abs(dec)):.6g} degrees. Expected -90 to 90, in degrees."
                )
            return SkyCoord(ra, dec, unit="deg")
    return None


def _degrees(table: Table, column: str, name: str) -> Any:
    """Return an angle in degrees; without a unit it is taken to be in degrees."""
    unit = getattr(table[column], "unit", None)
    values = _numbers(table, column, name)
    if unit is None or not unit.is_equivalent(units.deg):
        return values
    return (values * unit).to_value(units.deg)


def _on_frame(sky: SkyCoord, frame: Frame) -> tuple[Any, Any]:
    x, y = frame.wcs.world_to_pixel(sky)  # type: ignore[union-attr]
    return np.asarray(x, dtype=float), np.asarray(y, dtype=float)


def _is_of_another(table: Table, frame: Frame) -> bool:
    """Return whether a table says that it was made of other pixels than the frame's."""
    made_of = metadata_of(table).get("frame_sha256")
    return made_of is not None and made_of != frame.sha256


def _numbers(table: Table, column: str, name: str) -> Any:
    given = getattr(table[column], "value", table[column])
    try:
        values = real_array(given, "They")
    except InputError as error:
        rows = ((row, str(text)) for row, text in enumerate(given, start=1))
        wrong = next(
            (f"row {row} is {text!r}" for row, text in rows if not _is_number(text)), error
        )
        raise CatalogueError(
            f"Column {column} of {name} does not hold numbers: {wrong}. Mend the row, or leave it "
            "out."
        ) from error
    if values.ndim != 1:
        raise CatalogueError(
            f"Column {column} of {name} holds arrays of shape {values.shape[1:]}, not numbers."
        )
    return values


def _ids(table: Table) -> Any:
    for column in table.colnames:
        if column.lower() in ("id", "number"):
            values = np.asarray(table[column])
            if values.dtype.kind in "iu" and len(np.unique(values)) == len(values):
                return values.astype(np.int64)
    return np.arange(1, len(table) + 1)
