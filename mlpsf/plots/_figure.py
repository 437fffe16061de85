"""Figures of our own."""

from __future__ import annotations

from typing import Any


def _new_figure(width: float, height: float) -> Any:
    """Make a figure that no window and no global state knows of."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
