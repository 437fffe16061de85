"""Objects as HTML, for notebooks.

>>> card("a <b>", [("size", "3 x 4")])
'<div><strong>a &lt;b&gt;</strong><table><tr><th>size</th><td>3 x 4</td></tr></table></div>'
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable
from html import escape

__all__ = ["card", "known"]


def known(value: float, unit: str = "", digits: int = 5) -> str:
    """Return a value with its unit; an infinite one, which no one knows, in words.

    >>> known(2.5, "e/ADU"), known(float("inf"), "ADU")
    ('2.5 e/ADU', 'not known')
    """
    return f"{value:.{digits}g} {unit}".rstrip() if math.isfinite(value) else "not known"


def card(title: str, rows: Iterable[tuple[str, str]], picture: bytes | None = None) -> str:
    """Return a title, a table of two columns and a PNG as HTML; all text is escaped."""
    cells = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in rows)
    image = ""
    if picture is not None:
        data = base64.b64encode(picture).decode("ascii")
        image = (
            f'<img alt="{escape(title)}" src="data:image/png;base64,{data}" '
            'style="max-width:24em;image-rendering:pixelated">'
        )
    return f"<div><strong>{escape(title)}</strong>{image}<table>{cells}</table></div>"
