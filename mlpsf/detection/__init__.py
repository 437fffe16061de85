"""The sources of a frame: found, measured, and flagged where something spoils them.

Comes in: a `Frame`, or a catalogue of its sources. Goes out: the table of sources, with the FWHM of
the frame's stars. May import: the ground, `mlpsf.stacks` and `mlpsf.frames`. Knows no selector.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlpsf.lazy import lazy_names

if TYPE_CHECKING:
    from mlpsf.detection.sources import find_sources as find_sources
    from mlpsf.frames.background import Background as Background
    from mlpsf.frames.background import measure_background as measure_background

__all__ = ["Background", "find_sources", "measure_background"]

__getattr__ = lazy_names(
    "mlpsf",
    {
        "Background": "frames.background",
        "find_sources": "detection.sources",
        "measure_background": "frames.background",
    },
)
