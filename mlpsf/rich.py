"""Objects as HTML, for notebooks.

>>> card("a <b>", [("size", "3 x 4")])
'<div><strong>a &lt;b&gt;</strong><table><tr><th>size</th><td>3 x 4</td></tr></table></div>'
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from html import escape

__all__ = ["card"]


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
