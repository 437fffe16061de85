"""Files of cutouts: SExtractor's catalogues with VIGNET, cubes with a table, NumPy archives."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

from mlpsf.errors import CatalogueError
from mlpsf.files import input_file, whole_file
from mlpsf.frames.io.fits_sizes import FREE, MOST, check_fits, lost_hdus, warn_of_loss
from mlpsf.frames.tiles import LARGEST, SMALLEST

__all__ = ["CutoutTable", "holds_cutouts", "is_ldac", "kept_rows", "read_cutouts", "write_cutouts"]

_OBJECTS = "LDAC_OBJECTS"
_POSITIONS = (("X_IMAGE", "Y_IMAGE", 1.0), ("XWIN_IMAGE", "YWIN_IMAGE", 1.0), ("X", "Y", 0.0))
_BLOCK = 2880  # bytes of a FITS block
_ARCHIVE = (".npz",)


class CutoutTable(NamedTuple):
    """Cutouts as a file holds them.

    Attributes
    ----------
    cutouts : ndarray, shape (n, size, size)
    x, y : ndarray of float64, shape (n,), or None
        0-based pixels of the frames that they are from.
    groups : ndarray, shape (n,), or None
        The frame of each, where there are several.
    """

    cutouts: NDArray[Any]
    x: NDArray[np.float64] | None
    y: NDArray[np.float64] | None
    groups: NDArray[Any] | None


def holds_cutouts(path: str | os.PathLike[str]) -> bool:
    """Return whether a file holds cutouts and not an image.

    True for a NumPy archive, a FITS file with a table that has a column VIGNET, and one whose
    first image is a cube.
    """
    path = Path(path)
    try:
        if path.suffix.lower() in _ARCHIVE or not path.is_file():
            return path.suffix.lower() in _ARCHIVE
        content = check_fits(path, CatalogueError)
    except (OSError, ValueError, CatalogueError):
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is wrong with the file, its reader says
        try:
            with fits.open(content) as hdus:
                return _are_cutouts(hdus)
        except Exception:
            return False


def is_ldac(path: str | os.PathLike[str]) -> bool:
    """Return whether a file holds SExtractor's tables whose rows `kept_rows` can copy."""
    try:
        content = check_fits(Path(path), CatalogueError)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with fits.open(content) as hdus:
                return any(_has_objects(hdu) for hdu in hdus)
    except Exception:  # what is wrong with the file, its reader says
        return False


def _has_objects(hdu: Any) -> bool:
    """Return whether an HDU is SExtractor's table of an image's objects, with their cutouts."""
    return (
        isinstance(hdu, fits.BinTableHDU)
        and hdu.name.upper() == _OBJECTS
        and "VIGNET" in (name.upper() for name in hdu.columns.names)
    )


def _are_cutouts(hdus: fits.HDUList) -> bool:
    """Return whether a VIGNET or a cube comes before any image."""
    for hdu in hdus:
        if isinstance(hdu, fits.BinTableHDU) and not isinstance(hdu, fits.CompImageHDU):
            if "VIGNET" in (name.upper() for name in hdu.columns.names):
                return True
        elif hdu.is_image and hdu.header.get("NAXIS", 0) > 0:
            shape = [hdu.header[f"NAXIS{k}"] for k in range(1, hdu.header["NAXIS"] + 1)]
            square = len(shape) == 3 and shape[0] == shape[1] and shape[0] % 2 == 1
            return square and shape[2] > 1 and SMALLEST <= shape[0] <= LARGEST
    return False


def read_cutouts(path: str | os.PathLike[str]) -> CutoutTable:
    """Read a file of cutouts.

    Parameters
    ----------
    path : path-like
        SExtractor's FITS_LDAC (or FITS_1.0) catalogue with a column ``VIGNET`` of a square, each
        of several tables a group of its own; a FITS cube (n, size, size), its positions in a table
        with columns ``x``, ``y`` (from 0) or ``X_IMAGE``, ``Y_IMAGE`` (from 1) and, where there are
        several frames, ``group``; or an ``.npz`` file with ``cutouts`` and, optionally, ``x``,
        ``y`` and ``groups``.

    Returns
    -------
    CutoutTable

    Raises
    ------
    CatalogueError
        There is no such file, or no cutouts in it.
    """
    path = input_file(path, CatalogueError, "a file of cutouts")
    archive = path.suffix.lower() in _ARCHIVE
    content = path if archive else check_fits(path, CatalogueError)
    try:
        found = _read_archive(path) if archive else _read_fits(content)
    except Exception as error:  # a damaged file can make its parsers raise anything
        raise CatalogueError(f"{path.name} cannot be read as cutouts: {error}.") from error
    if not archive:
        warn_of_loss(path)
    cutouts = found.cutouts
    if cutouts.ndim != 3 or cutouts.shape[1] != cutouts.shape[2] or not len(cutouts):
        raise CatalogueError(
            f"{path.name} holds an array of shape {cutouts.shape}. Expected square cutouts, "
            "(n, size, size): with SExtractor, VIGNET(55,55)."
        )
    for name in ("x", "y", "groups"):
        values = getattr(found, name)
        if values is not None and values.shape != (len(cutouts),):
            raise CatalogueError(
                f"{path.name} has {len(cutouts)} cutouts and {name} of shape {values.shape}."
            )
    return found


def _read_archive(path: Path) -> CutoutTable:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it holds one array, and no archive of them")
        unpacked = sum(entry.file_size for entry in (archive.zip.infolist() if archive.zip else ()))
        if unpacked > max(MOST * path.stat().st_size, FREE):
            raise ValueError(f"it would unpack to {unpacked:,} bytes, over {MOST} times its size")
        names = {name.lower(): name for name in archive.files}
        if "cutouts" not in names:
            raise ValueError(f"it has no array 'cutouts', only {sorted(names)}")
        x, y = (
            np.asarray(archive[names[k]], dtype=np.float64) if k in names else None for k in "xy"
        )
        groups = next((archive[names[k]] for k in ("groups", "group") if k in names), None)
        return CutoutTable(archive[names["cutouts"]], x, y, groups)


def _read_fits(content: Path | BytesIO) -> CutoutTable:
    with fits.open(content, memmap=False) as hdus, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # units of foreign tables
        tables = [h for h in hdus if isinstance(h, fits.BinTableHDU) and len(h.columns)]
        vignets = [h for h in tables if "VIGNET" in (n.upper() for n in h.columns.names)]
        if vignets:
            parts = [_columns(Table(h.data)) for h in vignets]
            cutouts = [np.asarray(h.data["VIGNET"]) for h in vignets]
        else:
            cubes = [h.data for h in hdus if h.is_image and h.data is not None and h.data.ndim == 3]
            if not cubes:
                raise ValueError("it has neither a column VIGNET nor a cube")
            cutouts = [np.asarray(cubes[0])]
            rows = [Table(h.data) for h in tables if len(h.data) == len(cubes[0])]
            if tables and not rows:
                raise ValueError(
                    f"the cube has {len(cubes[0])} cutouts and its table {len(tables[0].data)} rows"
                )
            parts = [_columns(rows[0]) if rows else (None, None, None)]
    if len(parts) == 1:
        return CutoutTable(cutouts[0], *parts[0])
    x, y = (
        None if any(p[k] is None for p in parts) else np.concatenate([p[k] for p in parts])
        for k in (0, 1)
    )
    groups = np.repeat(np.arange(1, len(parts) + 1), [len(c) for c in cutouts])
    return CutoutTable(np.concatenate(cutouts), x, y, groups)


def _columns(table: Table) -> tuple[Any, Any, Any]:
    """Return x, y and group of the rows of a table, None where it has no such columns."""
    names = {name.upper(): name for name in table.colnames}
    groups = np.asarray(table[names["GROUP"]]) if "GROUP" in names else None
    for x_name, y_name, first in _POSITIONS:
        if x_name in names and y_name in names:
            x, y = (np.asarray(table[names[k]], dtype=np.float64) for k in (x_name, y_name))
            return x - first, y - first, groups
    return None, None, groups


def write_cutouts(
    path: str | os.PathLike[str],
    cutouts: NDArray[np.floating],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
) -> Path:
    """Write cutouts with their positions, as `read_cutouts` reads them.

    Parameters
    ----------
    path : path-like
        Ends in ``.npz`` or ``.fits``; what is there is replaced.
    cutouts : ndarray, shape (n, size, size)
    x, y : ndarray, shape (n,)
        0-based pixels.

    Returns
    -------
    Path

    Raises
    ------
    OutputError
        It cannot be written there.
    """
    path = Path(path)
    with whole_file(path) as temporary, temporary.open("wb") as stream:
        if path.suffix.lower() in _ARCHIVE:
            np.savez_compressed(stream, cutouts=cutouts, x=x, y=y)
        else:
            table = fits.table_to_hdu(Table({"x": x, "y": y}))
            fits.HDUList([fits.PrimaryHDU(np.asarray(cutouts, np.float32)), table]).writeto(stream)
    return path


def kept_rows(path: str | os.PathLike[str], selected: Sequence[bool] | NDArray[np.bool_]) -> bytes:
    """Return an LDAC catalogue with some of its rows: every other byte is as it was.

    Parameters
    ----------
    path : path-like
        SExtractor's FITS_LDAC catalogue with VIGNET. A packed one is unpacked.
    selected : sequence of bool
        Of the rows that `read_cutouts` gives.

    Returns
    -------
    bytes
        The content of the new file.

    Raises
    ------
    CatalogueError
        It is no such catalogue, or has another number of rows.
    """
    path = Path(path)
    content = check_fits(path, CatalogueError)
    if lost := lost_hdus(path):
        raise CatalogueError(
            f"{path.name} is damaged: {lost}. What is written of it would lack that, too: copy it "
            "again."
        )
    raw = content.read_bytes() if isinstance(content, Path) else content.getvalue()
    try:
        return _with_rows_only(raw, np.asarray(selected, dtype=bool))
    except CatalogueError as error:
        raise CatalogueError(f"{path.name}: {error}") from error
    except Exception as error:  # a damaged file can make its parsers raise anything
        raise CatalogueError(f"{path.name} cannot be read as a catalogue: {error}.") from error


def _with_rows_only(raw: bytes, keep: NDArray[np.bool_]) -> bytes:
    parts, start = [], 0
    with fits.open(BytesIO(raw)) as hdus:
        for hdu in hdus:
            info = hdu.fileinfo()
            head = raw[info["hdrLoc"] : info["datLoc"]]
            data = raw[info["datLoc"] : info["datLoc"] + info["datSpan"]]
            if _has_objects(hdu):
                n, width = hdu.header["NAXIS2"], hdu.header["NAXIS1"]
                if hdu.header.get("PCOUNT", 0):
                    raise CatalogueError("it has columns of variable length.")
                rows = np.frombuffer(data[: n * width], dtype=np.uint8).reshape(n, width)
                mine = keep[start : start + n]
                if len(mine) != n:
                    raise CatalogueError("it has more rows than were judged.")
                start += n
                body = rows[mine].tobytes()
                data = body + bytes(-len(body) % _BLOCK)
                head = _with_rows(head, int(mine.sum()))
            parts += [head, data]
    if start != len(keep):
        raise CatalogueError(
            f"it has {start} rows in tables {_OBJECTS} with VIGNET; {len(keep)} were judged."
        )
    return b"".join(parts)


def _with_rows(head: bytes, n: int) -> bytes:
    """Return a FITS header with another number of rows."""
    at = next(i for i in range(0, len(head), 80) if head[i : i + 9] == b"NAXIS2  =")
    return head[: at + 10] + f"{n:>20d}".encode() + head[at + 30 :]
