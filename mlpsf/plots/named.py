"""Plots by one word: what each shows, and what it is made of."""

from __future__ import annotations

from typing import Any

from mlpsf.errors import InputError
from mlpsf.plots.frames import CutoutSheetDisplay, StarMapDisplay
from mlpsf.plots.psfs import PSFDisplay
from mlpsf.plots.stars import ProfilesDisplay, ResidualsDisplay, SizeMagnitudeDisplay
from mlpsf.plots.variation import VariationDisplay

__all__ = ["NEEDS", "draw"]

NEEDS: dict[str, tuple[str, ...]] = {
    "stars": ("frame", "stars"),
    "map": ("frame", "stars"),
    "sizes": ("stars",),
    "psf": ("psf",),
    "profiles": ("frame", "stars", "psf"),
    "variation": ("frame", "psf"),
    "residuals": ("frame", "stars", "psf"),
}
"""What each plot is made of."""


def draw(
    what: str,
    *,
    frame: Any = None,
    stars: Any = None,
    psf: Any = None,
    title: str = "",
    **how: Any,
) -> Any:
    """Draw one of the plots of a frame, its stars and its PSF.

    Parameters
    ----------
    what : {"stars", "map", "sizes", "psf", "profiles", "variation", "residuals"}
    frame : mlpsf.Frame, optional
    stars : Table, optional
        Star table from `mlpsf.select_stars`.
    psf : mlpsf.PSFModel, optional
    title : str
        Said above the plot, as it is.
    **how
        Passed to the sheet of stars: ``stretch``, ``columns``.

    Returns
    -------
    display
        With ``figure_`` and ``axes_``.

    Raises
    ------
    InputError
        If there is no such plot, or something that it is made of is missing.

    Examples
    --------
    >>> import numpy as np
    >>> from mlpsf import PSFModel
    >>> draw("psf", psf=PSFModel(np.zeros((210, 210)), 3.0, 3.0)).figure_
    <Figure size 740x340 with 2 Axes>
    """
    if what not in NEEDS:
        raise InputError(f"Plots are {', '.join(NEEDS)}. Got {what!r}.")
    given = {"frame": frame, "stars": stars, "psf": psf}
    missing = [name for name in NEEDS[what] if given[name] is None]
    if missing:
        raise InputError(f"The plot {what!r} needs also: {', '.join(missing)}.")
    display: Any
    match what:
        case "stars":
            display = CutoutSheetDisplay.from_stars(frame, stars, **how)
        case "map":
            display = StarMapDisplay.from_stars(frame, stars)
        case "sizes":
            display = SizeMagnitudeDisplay.from_stars(stars)
        case "psf":
            display = PSFDisplay.from_model(psf)
        case "profiles":
            display = ProfilesDisplay.from_stars(frame, stars, psf)
        case "variation":
            display = VariationDisplay.from_model(psf, frame.shape, stars)
        case _:
            display = ResidualsDisplay.from_stars(frame, stars, psf)
    if title:
        # A dollar sign in the name of a file is no formula.
        display.figure_.suptitle(title, fontsize="medium", parse_math=False)
    return display
