"""All code that imports TRIPPy, and the arithmetic of its lookup tables.

Only this folder uses coordinates with an origin of 1 or half a pixel.

``starChooser``, the drop-in for TRIPPy's own, is found here because TRIPPy's users look here. It
chooses stars, so its home is a later stage, `mlpsf.star_chooser`, which is imported when it is
asked for; nothing in this stage uses it.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from mlpsf.psf.trippy.border import (
    REP_FACTS,
    build_table,
    fit_moffat,
    fit_one_by_one,
    load_trippy,
    lsfit,
    new_psf,
    plant,
    release_downsample,
)

__all__ = [
    "REP_FACTS",
    "build_table",
    "fit_moffat",
    "fit_one_by_one",
    "load_trippy",
    "lsfit",
    "new_psf",
    "plant",
    "release_downsample",
]


def __getattr__(name: str) -> Any:
    """Give ``starChooser`` from its home when it is first used."""
    if name == "starChooser":
        return import_module("mlpsf.star_chooser").starChooser
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
