"""File format of labelled cutouts of many frames: one HDF5 file, possibly larger than memory.

The datasets of a file with n cutouts of m frames, for reading it without mlpsf:

=================  ==================  ===========================================================
``cutouts``        float32 (n, s, s)   ADU above the sky, the source at the centre, NaN: no data
``label``          int8 (n,)           1: good PSF star, 0: other source, -1: ambiguous
``frame``          int32 (n,)          row of ``frame_name``
``x``, ``y``       float64 (n,)        position on the frame, 0-based pixels
``fwhm``           float32 (n,)        FWHM of the source, pixels
``snr``            float32 (n,)        signal-to-noise ratio
``flags``          int32 (n,)          bits of `mlpsf.Flag`
``probability``    float32 (n,)        of being good, from the labelling; NaN: unknown
``distance``       float32 (n,)        residual distance used for ranking; NaN: unknown
``frame_name``     text (m,)           names of the frames, UTF-8
=================  ==================  ===========================================================

Attributes of the file: ``format`` ("mlpsf cutouts"), ``format_version``, ``size`` (s),
``reference_fwhm`` (pixels; 0 for cutouts at the frames' own scale), ``label_source``,
``parameters`` (JSON), ``mlpsf_version``.

Texts have a fixed length. HDF5 keeps those of any length in a heap without checksums, and goes
round for ever where that is damaged; so none is written, and none is read.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlpsf.errors import InputError, OutputError
from mlpsf.version import __version__

__all__ = [
    "COLUMNS",
    "FORMAT",
    "SIDES",
    "VERSION",
    "CutoutWriter",
    "attributes_of",
    "chunk_rows",
    "lay_out",
    "problem_of",
]

FORMAT = "mlpsf cutouts"
VERSION = 3

SIDES = range(3, 1002, 2)
"""Sides of cutouts in pixels that a set may have."""

_CHUNK_BYTES = 2**20  # one disk read; small enough that shuffled chunks mix well

COLUMNS: dict[str, tuple[str, Any]] = {
    "label": ("i1", None),
    "frame": ("i4", 0),  # set by the writer
    "x": ("f8", None),
    "y": ("f8", None),
    "fwhm": ("f4", np.nan),
    "snr": ("f4", np.nan),
    "flags": ("i4", 0),
    "probability": ("f4", np.nan),
    "distance": ("f4", np.nan),
}
"""Columns with one value per cutout: dtype and fill value; None: the column is required."""


def chunk_rows(size: int) -> int:
    """Return the number of cutouts stored, compressed and read as one chunk."""
    return max(1, _CHUNK_BYTES // (size * size * 4))


def lay_out(
    file: Any,
    size: int,
    reference_fwhm: float | None,
    label_source: str,
    parameters: Mapping[str, Any],
) -> None:
    """Create the datasets and attributes of an empty set in a new HDF5 file."""
    file.attrs.update(
        {
            "format": _text(FORMAT),
            "format_version": VERSION,
            "size": size,
            "reference_fwhm": float(reference_fwhm or 0.0),
            "label_source": _text(label_source),
            "parameters": _text(json.dumps(dict(parameters), default=str)),
            "mlpsf_version": _text(__version__),
        }
    )
    file.create_dataset(
        "cutouts",
        (0, size, size),
        "f4",
        maxshape=(None, size, size),
        chunks=(chunk_rows(size), size, size),
        compression="gzip",  # available in every HDF5 library
        compression_opts=1,
        shuffle=True,
        fletcher32=True,  # a flipped bit is an error, not another cutout
    )
    for key, (dtype, _) in COLUMNS.items():
        file.create_dataset(key, (0,), dtype, maxshape=(None,), chunks=(8192,), fletcher32=True)
    file.create_dataset(
        "frame_name",
        (0,),
        h5py.string_dtype(length=LONGEST_NAME),
        maxshape=(None,),
        chunks=(256,),
        compression="gzip",
        fletcher32=True,
    )


def _text(value: str) -> np.ndarray:
    content = value.encode() or b"\0"  # HDF5 has no text of length 0
    return np.array(content, h5py.string_dtype(length=len(content)))


def attributes_of(file: Any) -> dict[str, Any]:
    """Return the attributes of a set, without those that are texts of any length.

    Parameters
    ----------
    file : h5py.File
    """
    attributes = {}
    for key in ("format", "format_version", "size", "reference_fwhm", "label_source", "parameters"):
        if key in file.attrs and file.attrs.get_id(key).dtype.kind != "O":
            value = file.attrs[key]
            attributes[key] = value.decode() if isinstance(value, bytes) else value
    return attributes


def problem_of(file: Any, size_on_disk: int) -> str:
    """Return what in a set is not as the format says; empty if nothing is.

    Nothing is read but shapes and types: a file can promise any number of rows.

    Parameters
    ----------
    file : h5py.File
    size_on_disk : int
        Bytes of the file.
    """
    size = attributes_of(file).get("size")
    if not isinstance(size, int | np.integer) or int(size) not in SIDES:
        return f"the size of its cutouts is {str(size)[:40]}"
    expected = {"cutouts": "f", "frame_name": "S"} | {
        key: np.dtype(dtype).kind for key, (dtype, _) in COLUMNS.items()
    }
    for key, kind in expected.items():
        # Links can go round in a circle, or to another file.
        if not isinstance(file.get(key, getlink=True), h5py.HardLink):
            return f"it has no dataset {key} of its own"
        data = file[key]
        if not isinstance(data, h5py.Dataset) or data.is_virtual or data.external:
            return f"its {key} is no dataset of its own"
        if data.dtype.kind not in {"i": "iu", "f": "fiu", "S": "S"}[kind]:
            return f"its {key} is of type {data.dtype}"
        if data.nbytes > max(_MOST * size_on_disk, _FREE):
            return f"its {key} would take {data.nbytes:,} bytes, the file has {size_on_disk:,}"
        if data.chunks and np.prod(data.chunks, dtype=float) * data.dtype.itemsize > _FREE:
            return f"its {key} is in pieces of {data.chunks}"
    n = file["cutouts"].shape[:1]
    shapes = {key: file[key].shape for key in COLUMNS}
    if file["cutouts"].shape != (*n, size, size) or set(shapes.values()) != {n}:
        return f"{file['cutouts'].shape} cutouts, columns {shapes}"
    return ""


_MOST, _FREE = 200, 256 * 2**20  # bytes in memory: of each on the disk, and for all
LONGEST_NAME = 1024
"""Longest name of a frame, in bytes."""

_ROOM = 2**22  # bytes that HDF5 may write beside the cutouts


class CutoutWriter:
    """Writer of a set, as returned by `CutoutSet.create` and `CutoutSet.extend`."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __len__(self) -> int:
        return int(self._file["label"].shape[0])

    def append(self, name: str, cutouts: ArrayLike, **columns: ArrayLike) -> None:
        """Add the cutouts of one frame.

        Parameters
        ----------
        name : str
            Name of the frame.
        cutouts : array_like, shape (n, size, size)
            ADU above the sky; NaN marks pixels without data.
        **columns : array_like, shape (n,) or ()
            ``label``, ``x``, ``y``, and if known ``fwhm``, ``snr``, ``flags``, ``probability``,
            ``distance``.

        Raises
        ------
        InputError
            Shapes do not match, a column is missing or unknown, a label is not -1, 0 or 1, or the
            name is longer than `LONGEST_NAME`.
        OutputError
            The disk has no room for them.
        """
        pixels = np.asarray(cutouts, dtype=np.float32)
        size = int(self._file.attrs["size"])
        if pixels.ndim != 3 or pixels.shape[1:] != (size, size):
            raise InputError(
                f"Cutouts of this set have shape (n, {size}, {size}). Got {pixels.shape}."
            )
        if np.isinf(pixels).any():
            raise InputError(
                "Cutouts of a set have no infinite pixels: NaN marks those without data."
            )
        unknown = sorted({"frame"} & set(columns) | set(columns) - set(COLUMNS))
        missing = [k for k, (_, fill) in COLUMNS.items() if fill is None and k not in columns]
        if unknown or missing:
            raise InputError(
                f"Columns of a set are {', '.join(k for k in COLUMNS if k != 'frame')}. "
                f"Unknown: {unknown}; missing: {missing}."
            )
        if len(name.encode()) > LONGEST_NAME:
            raise InputError(
                f"The name of a frame may have {LONGEST_NAME} bytes. Got {len(name.encode())}: "
                f"{name[:80]}..."
            )
        n = len(pixels)
        values: dict[str, NDArray[Any]] = {}
        for key, (dtype, fill) in COLUMNS.items():
            given = np.asarray(columns.get(key, fill))
            if given.shape not in ((), (n,)):
                raise InputError(f"Column {key!r} needs {n} values. Got shape {given.shape}.")
            values[key] = np.broadcast_to(given, n).astype(dtype)
        if not np.isin(values["label"], (-1, 0, 1)).all():
            raise InputError("Labels of a set are 1 (good), 0 (other) or -1 (ambiguous).")
        # HDF5 does not survive a full disk, so the room is made sure of first.
        free, needed = shutil.disk_usage(Path(self._file.filename).parent).free, pixels.nbytes
        if free < needed + _ROOM:
            raise OutputError(
                f"Cannot write a set of cutouts: {free / 1e6:.0f} MB are free on its disk, "
                f"{(needed + _ROOM) / 1e6:.0f} MB are needed. Make room, or give another folder."
            )
        names = self._file["frame_name"]
        values["frame"][:] = len(names)
        names.resize(len(names) + 1, axis=0)
        names[-1] = name
        for key, value in {"cutouts": pixels, **values}.items():
            data = self._file[key]
            start = data.shape[0]
            data.resize(start + n, axis=0)
            if n:
                data[start:] = value
