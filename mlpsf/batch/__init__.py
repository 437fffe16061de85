"""Processing of many frames on all cores or on a cluster; a run can be resumed.

Input: files. Output: a star table and a PSF for each frame, and a summary of the night. May import
everything except `mlpsf.training` and `mlpsf.cli`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlpsf.lazy import lazy_names

if TYPE_CHECKING:
    from mlpsf.batch.inputs import Settings as Settings
    from mlpsf.batch.run import Night as Night
    from mlpsf.batch.run import run_frames as run_frames
    from mlpsf.batch.run import summarise as summarise

__all__ = ["Night", "Settings", "run_frames", "summarise"]

__getattr__ = lazy_names(
    __name__,
    {"Night": "run", "Settings": "inputs", "run_frames": "run", "summarise": "run"},
)
