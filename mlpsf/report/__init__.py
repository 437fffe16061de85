"""Pages to look at: the report of a frame, and the index of a night.

Input: a `Frame`, its star table and its PSF; the summary of a night. Output: one HTML file that
needs no network. May import everything but `mlpsf.training`, `mlpsf.batch` and `mlpsf.cli`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlpsf.lazy import lazy_names

if TYPE_CHECKING:
    from mlpsf.report.night import write_night as write_night
    from mlpsf.report.page import render_report as render_report
    from mlpsf.report.page import write_report as write_report

__all__ = ["render_report", "write_night", "write_report"]

__getattr__ = lazy_names(
    __name__, {"render_report": "page", "write_night": "night", "write_report": "page"}
)
