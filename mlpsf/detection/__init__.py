"""Detect and measure the sources of a frame, and flag unsuitable ones.

Input: a `Frame`, or a catalogue of its sources. Output: the table of sources, with the FWHM of the
frame's stars. Imports only base modules, `mlpsf.stacks` and `mlpsf.frames`. Does not use selectors.
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
