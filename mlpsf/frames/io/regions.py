"""Read DS9 regions as a table of positions."""

from __future__ import annotations

import re
from pathlib import Path

from astropy.table import Table

from mlpsf.errors import CatalogueError

__all__ = ["read_regions"]

_SHAPE = re.compile(r"^[+-]?\s*(circle|point|ellipse|box|annulus)\s*\(?\s*([^),]+),([^),]+)")
_COLOUR = re.compile(r"color\s*=\s*(\w+)")
_PIXELS = ("image", "physical")
_SKY = ("fk5", "icrs", "j2000")
_OTHERS = ("fk4", "b1950", "galactic", "ecliptic", "linear", "amplifier", "detector", "wcs")


def read_regions(path: Path) -> Table:
    """Read the centres of the regions that DS9 saved.

    Parameters
    ----------
    path : Path
        In image (or physical, if that is the same) or in FK5 or ICRS coordinates, in degrees or
        sexagesimal.

    Returns
    -------
    Table
        Columns ``x`` and ``y``, 0-based pixels, or ``ra`` and ``dec``, degrees. If some of the
        regions are green and some are not, as in the files of mlpsf, also ``selected``.

    Raises
    ------
    CatalogueError
        If there are no regions, or they are in other coordinates.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "bad.reg"
    >>> _ = path.write_text("image; circle(11.0,21.5,8)")
    >>> read_regions(path)["x"].tolist()
    [10.0]
    """
    system, default = "", ""
    found: list[tuple[str, str, str]] = []
    systems = set()
    for line in path.read_text(errors="replace").splitlines():
        # A system may stand alone or before the first region of its line.
        for part in line.split("#")[0].split(";"):
            text = part.strip().lower()
            if text.startswith("global"):
                match = _COLOUR.search(line)
                default = match[1] if match else default
            elif text in (*_PIXELS, *_SKY, *_OTHERS):
                system = text
            elif shape := _SHAPE.match(text):
                match = _COLOUR.search(line)
                found.append((shape[2], shape[3], match[1] if match else default))
                systems.add(system or "physical")
    if not found:
        raise CatalogueError(f"{path.name} holds no circle, point, ellipse, box or annulus.")
    if not (systems <= set(_PIXELS) or systems <= set(_SKY)):
        raise CatalogueError(
            f"{path.name} is in the coordinates {', '.join(sorted(systems))}. Expected image, or "
            "fk5 or icrs: save it so from DS9."
        )
    try:
        if systems <= set(_PIXELS):
            # DS9 counts pixels from 1.
            table = Table({"x": [float(f[0]) - 1 for f in found]})
            table["y"] = [float(f[1]) - 1 for f in found]
        else:
            hours = ":" in found[0][0] or "h" in found[0][0]
            table = Table({"ra": [_degrees(f[0], hours) for f in found]})
            table["dec"] = [_degrees(f[1], False) for f in found]
    except ValueError as error:
        raise CatalogueError(f"{path.name} has a region at no position: {error}.") from error
    green = [colour == "green" for _, _, colour in found]
    if any(green) and not all(green):
        table["selected"] = green
    return table


def _degrees(text: str, hours: bool) -> float:
    """Return an angle in degrees, of degrees (``d`` may follow) or sexagesimal."""
    from astropy.coordinates import Angle

    return float(Angle(text.strip(), unit="hourangle" if hours else "deg").deg)
