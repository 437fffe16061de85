"""What the peers of `benchmarks.peers` share: the PSF that each gives, its clock, its stars."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

FloatArray = NDArray[np.float64]
SIDE = 51
"""Side in pixels of the box that every PSF is to cover."""

_MATCH = 2.0  # pixels between a star of a list and the same one in a catalogue


@dataclass(frozen=True, eq=False)
class PeerPSF:
    """A PSF that another package built.

    Attributes
    ----------
    stamps : callable
        As `mlpsf.psf.PSFModel.stamps`: offsets of n stars and a size give (n, size, size).
    stars : Table
        x and y, 0-based, of the stars that made it.
    seconds : float
        CPU time, that of child processes included.
    at : callable, optional
        Takes a place x, y (0-based) and a size; gives the stamp of a star centred on a pixel there.
        Some take offsets from the pixel, too.
    """

    stamps: Callable[[ArrayLike, ArrayLike, int], FloatArray]
    stars: Table
    seconds: float
    at: Callable[..., FloatArray] | None = None


@dataclass(frozen=True)
class Following:
    """A PSF that another package built, drawn as `mlpsf.psf.psf_quality` has one that varies."""

    psf: PeerPSF
    varies: bool = True

    def stamps(self, dx: ArrayLike, dy: ArrayLike, size: int, at: Any = None) -> FloatArray:
        """Draw stars off the middles of their pixels, of their places."""
        if at is None:
            return self.psf.stamps(dx, dy, size)
        assert self.psf.at is not None
        rows = zip(*np.broadcast_arrays(*at, dx, dy), strict=True)
        return np.array([self.psf.at(x, y, size, u, v) for x, y, u, v in rows])


@contextlib.contextmanager
def cpu_clock() -> Iterator[Callable[[], float]]:
    """Give a function that tells the CPU seconds of this process and its children until now."""

    def now() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.process_time() + children.ru_utime + children.ru_stime

    start = now()
    yield lambda: now() - start


def place_table(stars: Any) -> Table:
    """Return x and y of the chosen rows that are not reserved of a star table."""
    use = np.ones(len(stars), dtype=bool)
    if "selected" in stars.colnames:
        use &= np.asarray(stars["selected"], dtype=bool)
    if "reserved" in stars.colnames:
        use &= ~np.asarray(stars["reserved"], dtype=bool)
    return Table({c: np.asarray(stars[c], dtype=float)[use] for c in "xy"})


def match_rows(x: ArrayLike, y: ArrayLike, stars: Table) -> NDArray[np.intp]:
    """Return the rows of a catalogue that are the stars of a list, each at most once."""
    distance, row = cKDTree(np.column_stack([x, y])).query(
        np.column_stack([stars["x"], stars["y"]])
    )
    return np.unique(row[distance <= _MATCH])
