"""Star tables and PSFs in files, for mlpsf itself and for other tools.

Input: a star table, or a `PSFModel`. Output: files whose headers say what made them, and objects of
GalSim, photutils and Piff. Imports the stages up to ``psf``; the other tools' packages are imported
when their objects are asked for.

``tables`` holds the star tables that mlpsf reads again, ``doors`` the formats by name; each other
module is a family of formats. ``places`` is all that they know of a PSF.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlpsf.export.tables import FORMATS, as_qtable, check_star_path, read_stars, write_stars
from mlpsf.lazy import lazy_names

if TYPE_CHECKING:
    from mlpsf.export.doors import PSF_FORMATS as PSF_FORMATS
    from mlpsf.export.doors import STAR_FORMATS as STAR_FORMATS
    from mlpsf.export.doors import export_psf as export_psf
    from mlpsf.export.doors import export_stars as export_stars
    from mlpsf.export.doors import star_companion as star_companion
    from mlpsf.export.images import as_interpolated_image as as_interpolated_image
    from mlpsf.export.images import psf_image as psf_image
    from mlpsf.export.photutils_models import as_gridded_psf as as_gridded_psf
    from mlpsf.export.photutils_models import as_image_psf as as_image_psf
    from mlpsf.export.photutils_models import extract_input as extract_input
    from mlpsf.export.piff_files import as_piff as as_piff

__all__ = [
    "FORMATS",
    "PSF_FORMATS",
    "STAR_FORMATS",
    "as_gridded_psf",
    "as_image_psf",
    "as_interpolated_image",
    "as_piff",
    "as_qtable",
    "check_star_path",
    "export_psf",
    "export_stars",
    "extract_input",
    "psf_image",
    "read_stars",
    "star_companion",
    "write_stars",
]

# Writing a star table is part of every run, and needs none of these.
__getattr__ = lazy_names(
    __name__,
    {
        "PSF_FORMATS": "doors",
        "STAR_FORMATS": "doors",
        "as_gridded_psf": "photutils_models",
        "as_image_psf": "photutils_models",
        "as_interpolated_image": "images",
        "as_piff": "piff_files",
        "export_psf": "doors",
        "export_stars": "doors",
        "extract_input": "photutils_models",
        "psf_image": "images",
        "star_companion": "doors",
    },
)
