"""Many frames: on every core or on a cluster, resumable.

Comes in: files. Goes out: a star table and a PSF each, and a summary of the night. May import:
everything but `mlpsf.training` and `mlpsf.cli`.
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
