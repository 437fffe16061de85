"""Packed FITS files: whole ones (.gz, .bz2, .xz, .zip), and images in compressed tiles (.fz)."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from astropy.io import fits

__all__ = ["DAMAGE", "ENDINGS", "H_COMPRESS", "is_packed", "tiles_problem", "unpacking"]

H_COMPRESS = "HCOMPRESS_1"

ENDINGS = (".gz", ".bz2", ".xz", ".zip", ".fz", ".fits", ".fit", ".fts")
"""How the names of FITS files end, packed or not; several may follow each other."""

DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
)
"""What reading a packed file can raise if it is damaged."""


def _only_member(path: Path, _: str) -> IO[bytes]:
    with zipfile.ZipFile(path) as archive:
        names = [
            name  # not what macOS adds
            for name in archive.namelist()
            if not name.endswith("/") and not name.startswith("__MACOSX/")
        ]
        if len(names) != 1:
            raise OSError(f"an archive of {len(names)} files, not of one")
        return archive.open(names[0])


_WAYS: dict[bytes, Any] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
    b"PK\x03\x04": _only_member,
}


def _way(path: Path) -> Any:
    """Return what opens a packed file; None for a plain one."""
    with path.open("rb") as file:
        start = file.read(6)
    return next((way for magic, way in _WAYS.items() if start.startswith(magic)), None)


def is_packed(path: Path) -> bool:
    """Return whether a whole file is packed."""
    return _way(path) is not None


def unpacking(path: Path) -> IO[bytes]:
    """Open a file, packed or not, to read its content."""
    file: IO[bytes] = (_way(path) or Path.open)(path, "rb")
    return file


def tiles_problem(content: Path | io.BytesIO) -> str:
    """Return what is wrong with an image's tiles; empty if nothing is.

    A tile packed by H-compress says its own size (White 1992), and what unpacks it writes so many
    pixels wherever they belong to.
    """
    with fits.open(content, disable_image_compression=True) as hdus:
        for number, hdu in enumerate(hdus):
            if hdu.header.get("ZCMPTYPE") != H_COMPRESS or len(hdu.data) == 0:
                continue
            axes = range(hdu.header["ZNAXIS"], 0, -1)
            shape = np.array([hdu.header[f"ZNAXIS{k}"] for k in axes])
            tile = np.array([hdu.header.get(f"ZTILE{k}", hdu.header[f"ZNAXIS{k}"]) for k in axes])
            grid = -(-shape // tile)
            for row, packed in enumerate(hdu.data["COMPRESSED_DATA"]):
                if len(packed) == 0:  # stored in another way
                    continue
                first = np.array(np.unravel_index(row, grid)) * tile
                sides = sorted(n for n in np.minimum(tile, shape - first).tolist() if n > 1)
                told = np.frombuffer(packed.tobytes()[2:10], ">i4").tolist()
                if sorted(n for n in told if n != 1) != sides:
                    return f"tile {row} of HDU {number} has {told[0]} x {told[1]} pixels"
    return ""
