"""The list of stars that a page saves: its header, and a line a source, both made here."""

from __future__ import annotations

import io

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

__all__ = ["list_parts"]


def list_parts(stars: Table, rows: NDArray[np.intp]) -> tuple[str, dict[int, str]]:
    """Return the header of a list in ECSV, and the line of each source by its id.

    The page puts header and lines together: `mlpsf.select_stars` reads that as ``stars=``.

    Examples
    --------
    >>> table = Table({"id": [7], "x": [3.25], "y": [2.0], "snr": [90.0]}, meta={"frame": "a"})
    >>> head, lines = list_parts(table, np.array([0]))
    >>> Table.read(head + lines[7], format="ascii.ecsv")["x"].tolist()
    [3.25]
    """
    names = [c for c in ("id", "x", "y", "ra", "dec", "snr", "probability") if c in stars.colnames]
    short = Table(stars[names][rows], copy=True)
    # Not the metadata of a star table: a command would replace this one unasked.
    short.meta = {"made_by": "mlpsf report", "list_of": str(stars.meta.get("frame", ""))}
    for name in short.colnames:
        column = short[name]
        if column.dtype.kind == "f":
            short[name] = np.round(np.ma.filled(column, np.nan), 7 if name in ("ra", "dec") else 4)
    file = io.StringIO()
    short.write(file, format="ascii.ecsv")
    text = file.getvalue().splitlines(keepends=True)
    n_head = len(text) - len(short)
    ids = [int(i) for i in short["id"]]
    return "".join(text[:n_head]), dict(zip(ids, text[n_head:], strict=True))
