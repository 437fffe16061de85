"""The star table: an astropy table that a notebook shows with what was chosen."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np
from astropy.table import Table

__all__ = ["StarTable"]


class StarTable(Table):  # type: ignore[misc]
    """A star table; in a notebook, the chosen stars come first, under what is said of the frame.

    Examples
    --------
    >>> table = StarTable({"x": [1.0, 2.0], "selected": [False, True]}, meta={"frame": "a<b.fits"})
    >>> table._repr_html_()[:67]
    '<p><strong>a&lt;b.fits</strong>: 1 of 2 sources selected.</p><div><'
    """

    def _repr_html_(self) -> Any:
        plain = Table(self, copy=False)
        if "selected" not in self.colnames:
            return plain._repr_html_()
        chosen = np.asarray(self["selected"], dtype=bool)
        said = f"{int(chosen.sum())} of {len(self)} sources selected"
        if "reserved" in self.colnames and (n := int(np.asarray(self["reserved"], bool).sum())):
            said += f", {n} reserved"
        if "fwhm" in self.meta:
            said += f"; FWHM {float(self.meta['fwhm']):.2f} pixels"
        if "verdict" in self.meta:
            said += f"; {self.meta['verdict']}: {self.meta.get('verdict_reason', '')}"
        frame = escape(str(self.meta.get("frame", "")))
        table = plain[np.argsort(~chosen, kind="stable")]._repr_html_()
        return f"<p><strong>{frame}</strong>: {escape(said)}.</p>{table}"
