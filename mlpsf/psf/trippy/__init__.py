"""All code that imports TRIPPy, and the arithmetic of its lookup tables.

Only this folder uses coordinates with an origin of 1 or half a pixel.
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
