"""TRIPPy's side: the one part that imports TRIPPy, and the arithmetic of its lookup tables.

Coordinates that count from 1, or from half a pixel, exist in here only.
"""

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
