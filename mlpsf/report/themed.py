"""Pictures inside a page: displays as SVG that follows the page's colours, images as data."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

__all__ = ["data_uri", "themed_svg"]

_INK = "#010203"  # stands for the colour of text in what matplotlib draws
_SVG = "http://www.w3.org/2000/svg"
_STYLE = (
    ":root{color:#1c2733}@media(prefers-color-scheme:dark){:root{color:#e6ebf0}}"
    "text{font-family:system-ui,sans-serif}"
)
_PARAMETERS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mlpsf",
    "font.size": 9,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "savefig.dpi": 110,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK
    ),
}


def data_uri(content: bytes, kind: str) -> str:
    """Return a file as an address that holds it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def themed_svg(draw: Callable[[], Any]) -> str:
    """Draw a display as SVG in the colours of the page, light or dark, and return its address.

    Parameters
    ----------
    draw : callable
        Returns a display with its ``figure_``.
    """
    from matplotlib import rc_context

    file = io.BytesIO()
    with rc_context(_PARAMETERS):
        draw().figure_.savefig(file, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(file.getvalue())
    for element in root.iter():
        style = element.get("style")
        if style and _INK in style:
            element.set("style", style.replace(_INK, "currentColor"))
    for old in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(old)
    rules = ElementTree.Element(f"{{{_SVG}}}style")
    rules.text = _STYLE
    root.insert(0, rules)
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    return data_uri(ElementTree.tostring(root), "image/svg+xml")
