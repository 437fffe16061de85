"""Sets of labelled cutouts that may be larger than memory: reading, shuffling, writing.

The file format is described in `mlpsf.training.set_format`.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state

from mlpsf.errors import InputError, OutputError
from mlpsf.files import input_file, whole_file
from mlpsf.training.set_format import (
    COLUMNS,
    FORMAT,
    SIDES,
    VERSION,
    CutoutWriter,
    attributes_of,
    chunk_rows,
    lay_out,
    problem_of,
)

__all__ = ["Batch", "CutoutSet", "CutoutWriter"]

_LIBRARY = ("v110", "latest")  # with checksums of the file's own structure

MEMORY = 64 * 2**20
"""Default number of bytes of cutouts held in memory for shuffling."""


class Batch(NamedTuple):
    """Cutouts of a set: their rows, shape (n,), and their pixels, shape (n, size, size)."""

    rows: NDArray[np.intp]
    cutouts: NDArray[np.float32]


class CutoutSet:
    """A file of labelled cutouts, opened for reading; cutouts are read from disk when needed.

    Parameters
    ----------
    path : path-like
        File written by `CutoutSet.create` or ``mlpsf label``.

    Attributes
    ----------
    path : Path
    size : int
        Side of the cutouts in pixels.
    reference_fwhm : float or None
        FWHM in pixels to which the cutouts are resampled; None for the frames' own scale.
    label_source : str
        Origin of the labels.
    parameters : dict
        Parameters with which the set was made.
    frames : list of str
        Names of the frames.
    label, frame, x, y, fwhm, snr, flags, probability, distance : ndarray, shape (n,)
        See `mlpsf.training.set_format`.

    Raises
    ------
    InputError
        The file does not exist, does not hold a set, or is damaged.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "set.h5"
    >>> with CutoutSet.create(path, size=15) as writer:
    ...     writer.append("a.fits", np.ones((4, 15, 15)), label=[1, 0, 0, -1], x=5.0, y=6.0)
    >>> with CutoutSet(path) as data:
    ...     print(len(data), data.frames, data.label.tolist(), data[1:3].shape)
    ...     print([len(batch.rows) for batch in data.batches(3, shuffle=True, random_state=1)])
    4 ['a.fits'] [1, 0, 0, -1] (2, 15, 15)
    [3, 1]
    """

    label: NDArray[np.int8]
    frame: NDArray[np.int32]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    fwhm: NDArray[np.float32]
    snr: NDArray[np.float32]
    flags: NDArray[np.int32]
    probability: NDArray[np.float32]
    distance: NDArray[np.float32]

    def __init__(self, path: str | os.PathLike[str]) -> None:
        # Closing waits for a running read, because training reads ahead in another thread.
        self._lock = threading.Lock()
        self.path = input_file(path, InputError, "a set of cutouts (.h5)")
        try:
            self._file = h5py.File(self.path, "r")
        except Exception as error:  # a damaged file can make HDF5 raise anything
            raise InputError(
                f"{self.path.name} is no set of cutouts: it is no whole HDF5 file ({error}). "
                "Make one with 'mlpsf label' or CutoutSet.create."
            ) from error
        try:
            self._read_all_but_cutouts()
        except InputError:
            self._file.close()
            raise
        except Exception as error:  # a damaged file can make HDF5 raise anything
            self._file.close()
            raise InputError(f"The set {self.path.name} is damaged: {error}.") from error

    def _read_all_but_cutouts(self) -> None:
        meta, name = attributes_of(self._file), self.path.name
        if meta.get("format") != FORMAT:
            raise InputError(
                f"{name} is an HDF5 file but no set of cutouts, or one of an earlier mlpsf. "
                "Make one with 'mlpsf label' or CutoutSet.create."
            )
        if meta.get("format_version") != VERSION:
            raise InputError(
                f"{name} is a set of format version {meta.get('format_version')}; this mlpsf "
                f"reads version {VERSION}. Label the frames again."
            )
        problem = problem_of(self._file, self.path.stat().st_size)
        if problem:
            raise InputError(f"The set {name} is damaged: {problem}.")
        self.size = int(meta["size"])
        self.reference_fwhm = float(meta.get("reference_fwhm", 0.0)) or None
        self.label_source = str(meta.get("label_source", ""))
        self.parameters: dict[str, Any] = json.loads(meta.get("parameters", "{}"))
        self._cutouts = self._file["cutouts"]
        self.frames: list[str] = [text.decode() for text in self._file["frame_name"][:].tolist()]
        for key in COLUMNS:
            setattr(self, key, self._file[key][:])
        n = len(self.label)
        if not np.isin(self.label, (-1, 0, 1)).all():
            raise InputError(f"The set {name} is damaged: it has labels other than 1, 0 and -1.")
        if not 0 <= (self.reference_fwhm or 0.0) <= 100:
            raise InputError(f"The set {name} is damaged: a FWHM of {self.reference_fwhm} pixels.")
        if n and not 0 <= self.frame.min() <= self.frame.max() < len(self.frames):
            raise InputError(f"The set {name} is damaged: cutouts of frames that it does not name.")
        self._chunk = self._cutouts.chunks[0] if self._cutouts.chunks else chunk_rows(self.size)

    @classmethod
    @contextmanager
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        size: int,
        reference_fwhm: float | None = None,
        label_source: str = "",
        parameters: Mapping[str, Any] | None = None,
    ) -> Iterator[CutoutWriter]:
        """Write a set frame by frame; the file appears, complete, when the block succeeds.

        Parameters
        ----------
        path : path-like
            An existing file is replaced.
        size : int
            Side of the cutouts in pixels, odd.
        reference_fwhm : float, optional
            FWHM in pixels to which they are resampled. Default: the frames' own scale.
        label_source : str
            Origin of the labels, as text.
        parameters : mapping, optional
            Parameters with which the set is made; must be representable as JSON.

        Yields
        ------
        CutoutWriter

        Raises
        ------
        InputError
            The size is even, or less than 3.
        OutputError
            The file cannot be written.
        """
        if size not in SIDES:
            raise InputError(
                f"The 'size' of cutouts must be odd, from {SIDES[0]} to {SIDES[-1]}. Got {size}."
            )
        with whole_file(path) as temporary, _opened(temporary, "w") as file:
            lay_out(file, size, reference_fwhm, label_source, parameters or {})
            yield CutoutWriter(file)

    @classmethod
    @contextmanager
    def extend(cls, path: str | os.PathLike[str]) -> Iterator[CutoutWriter]:
        """Add frames to a set; the file is unchanged unless the block succeeds.

        Parameters
        ----------
        path : path-like
            An existing set. The disk needs space for a copy of it.

        Yields
        ------
        CutoutWriter

        Raises
        ------
        InputError
            The set does not exist.
        OutputError
            The file cannot be written.
        """
        cls(path).close()  # raises if it is not a set
        with whole_file(path) as temporary:
            shutil.copyfile(path, temporary)
            with _opened(temporary, "r+") as file:
                yield CutoutWriter(file)

    def __len__(self) -> int:
        return len(self.label)

    def __repr__(self) -> str:
        scale = "native scale" if self.reference_fwhm is None else f"FWHM {self.reference_fwhm:g}"
        return (
            f"<CutoutSet {self.path.name}: {len(self)} cutouts of {self.size} x {self.size} "
            f"pixels at {scale}, {len(self.frames)} frames, {int((self.label == 1).sum())} good>"
        )

    def __getitem__(self, rows: slice | ArrayLike) -> NDArray[np.float32]:
        """Read cutouts by a slice or by indices in any order, shape (n, size, size)."""
        index = np.arange(len(self))[rows if isinstance(rows, slice) else np.asarray(rows)]
        order = np.argsort(np.atleast_1d(index), kind="stable")
        out = np.empty((order.size, self.size, self.size), dtype=np.float32)
        self._read_into(out, np.atleast_1d(index)[order])
        back = np.empty_like(order)
        back[order] = np.arange(order.size)
        return out[back]

    def batches(
        self,
        batch_size: int = 256,
        *,
        rows: ArrayLike | None = None,
        shuffle: bool = False,
        random_state: Any = None,
        memory: int = MEMORY,
    ) -> Iterator[Batch]:
        """Iterate over the set once, batch by batch, in bounded memory.

        Parameters
        ----------
        batch_size : int
            Number of cutouts per batch; the last batch may be smaller.
        rows : array_like of int, optional
            Rows to use, each once. Default: all.
        shuffle : bool
            Whether to shuffle: first the chunks of the file, then the rows of as many chunks as
            fit in `memory`. Otherwise rows are in the order of the file.
        random_state : int, RandomState or None
        memory : int
            Number of bytes of cutouts read at once.

        Yields
        ------
        Batch
        """
        if batch_size < 1:
            raise InputError(f"The 'batch_size' must be 1 or more. Got {batch_size}.")
        chosen = np.arange(len(self)) if rows is None else np.unique(np.asarray(rows, dtype=int))
        random = check_random_state(random_state)
        cuts = np.flatnonzero(np.diff(chosen // self._chunk)) + 1
        chunks = np.split(chosen, cuts) if chosen.size else []
        if shuffle:
            chunks = [chunks[i] for i in random.permutation(len(chunks))]
        at_once = max(1, memory // (self._chunk * self.size**2 * 4))
        left = Batch(np.zeros(0, dtype=int), np.zeros((0, self.size, self.size), np.float32))
        for start in range(0, len(chunks), at_once):
            new = np.sort(np.concatenate(chunks[start : start + at_once]))
            held = np.concatenate([left.rows, new])
            pixels = np.empty((held.size, self.size, self.size), dtype=np.float32)
            pixels[: left.rows.size] = left.cutouts
            self._read_into(pixels[left.rows.size :], new)
            order = random.permutation(held.size) if shuffle else np.arange(held.size)
            whole = held.size - held.size % batch_size
            for i in range(0, whole, batch_size):
                some = order[i : i + batch_size]
                yield Batch(held[some], pixels[some])
            left = Batch(held[order[whole:]], pixels[order[whole:]])
            del pixels
        if left.rows.size:
            yield left

    def labels_with_light(self, rows: ArrayLike) -> set[int]:
        """Return the labels of those rows whose pixels are not all 0 or NaN.

        Rows are read until all of their labels are found.
        """
        found: set[int] = set()
        wanted = set(np.unique(self.label[np.asarray(rows, dtype=int)]).tolist())
        for batch in self.batches(rows=rows):
            lit = (np.nan_to_num(batch.cutouts) != 0).any(axis=(1, 2))
            found |= set(self.label[batch.rows[lit]].tolist())
            if found == wanted:
                break
        return found

    def _read_into(self, out: NDArray[np.float32], rows: NDArray[np.intp]) -> None:
        """Read ascending rows chunk by chunk, because HDF5 is slow at reading single rows."""
        ends = np.append(np.flatnonzero(np.diff(rows // self._chunk)) + 1, rows.size)
        start = 0
        for end in ends if rows.size else []:
            first, last = rows[start], rows[end - 1]
            with self._lock:
                if not self._file:
                    raise InputError(f"The set {self.path.name} is closed.")
                try:
                    block = self._cutouts[first : last + 1]
                except (OSError, RuntimeError) as error:
                    raise InputError(f"The set {self.path.name} is damaged: {error}.") from error
            out[start:end] = block[rows[start:end] - first]
            if np.isinf(out[start:end]).any():
                raise InputError(
                    f"The set {self.path.name} is damaged: it has infinite pixels. Those without "
                    "data are NaN."
                )
            start = end

    def close(self) -> None:
        """Close the file; labels and the other columns stay available."""
        with self._lock:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def _opened(path: Path, mode: str) -> Iterator[Any]:
    """Open an HDF5 file to write; where the disk is full, raise one error and let go of the file.

    HDF5 cannot close a file whose last parts it cannot write: it tries again at the end of the
    process, which then crashes. So what is left goes to a file in memory that is thrown away.
    """
    file = h5py.File(path, mode, libver=_LIBRARY)
    try:
        yield file
        file.flush()
    except BaseException as error:
        if isinstance(error, OSError | RuntimeError) and hasattr(os, "memfd_create"):
            handle = os.memfd_create("mlpsf")
            os.dup2(handle, int(file.id.get_vfd_handle()))
            os.close(handle)
        with suppress(OSError, RuntimeError):
            file.flush()
        with suppress(OSError, RuntimeError):
            file.close()
        if isinstance(error, RuntimeError) and "errno" in str(error):  # some of HDF5's
            raise OutputError(f"Cannot write a set of cutouts: {error}.") from error
        raise
    file.close()
