"""Helpers for the figures and their input."""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import numpy as np
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray

from mlpsf.errors import InputError


class Style(NamedTuple):
    """How a kind of source is drawn: by colour and by marker, for the colour-blind and in print."""

    name: str
    colour: str
    marker: str
    size: float
    filled: bool


# Of Okabe and Ito's colours, which the colour-blind tell apart; dark and light enough for both a
# white and a black page.
CHOSEN = Style("selected", "#0f86c9", "o", 30, False)
RESERVED = Style("reserved", "#d55e00", "s", 30, False)
OTHER = Style("not taken", "#8a8a8a", ".", 8, True)


class Display:
    """What is drawn shows itself in a notebook."""

    figure_: Any

    def _repr_png_(self) -> bytes | None:
        """Return the figure as a PNG, unless pyplot shows it anyway, or nothing is drawn yet."""
        figure: Any = getattr(self, "figure_", None)
        if getattr(figure, "canvas", None) is None or figure.canvas.manager is not None:
            return None
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=100)
        return file.getvalue()


def needed(table: Table, *names: str) -> None:
    """Raise `InputError` if a star table lacks a column."""
    missing = [name for name in names if name not in table.colnames]
    if missing:
        raise InputError(f"The table of stars has no column {', '.join(missing)}.")


def new_figure(width: float, height: float, *, apart: float = 0.02) -> Any:
    """Create a figure without a window and without pyplot's global state.

    `apart` is the space between columns of axes, as a share of their width, beyond their labels.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(wspace=apart))
    FigureCanvasAgg(figure)
    return figure


def legend_above(ax: Any, handles: list[Any], title: str | None = None) -> None:
    """Put the legend above the axes, where it covers no data."""
    ax.legend(
        handles=handles,
        title=title,
        title_fontsize="small",
        fontsize="small",
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=min(len(handles), 3) if len(handles) != 4 else 2,
        frameon=False,
    )


def as_numbers(name: str, values: ArrayLike, ndim: int, *, square: bool = False) -> NDArray[Any]:
    """Return an image or a stack of square images; raise `InputError` if it cannot be drawn.

    A `square` image must be finite, because it is also measured.
    """
    try:
        array = np.asarray(values)
    except ValueError:  # rows of different lengths
        raise InputError(f"{name} must be of numbers, in rows of one length.") from None
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name} must be of numbers. Got {array.dtype}.")
    shape = "(n, size, size)" if ndim == 3 else "(size, size)" if square else "(ny, nx)"
    lopsided = (ndim == 3 or square) and len(set(array.shape[-2:])) > 1
    if array.ndim != ndim or 0 in array.shape[-2:] or lopsided:
        raise InputError(f"{name} must have shape {shape}. Got {array.shape}.")
    if square and not np.isfinite(array).all():
        raise InputError(f"{name} must be finite. Got {int((~np.isfinite(array)).sum())} NaN.")
    return array


def check_count(name: str, value: int) -> None:
    """Raise `InputError` if a count is invalid."""
    given = np.asarray(value)
    if given.ndim or given.dtype.kind not in "iu" or given < 1:
        raise InputError(f"{name} must be 1 or more, an integer. Got {value!r}.")


def check_softening(softening: float) -> None:
    """Raise `InputError` if the softening of a stretch is invalid."""
    if not 0 < softening < np.inf:
        raise InputError(f"softening must be positive. Got {softening}.")
