"""Judge a PSF by stars of the frame or by the truth of a simulation."""

from mlpsf.psf.quality.figures import ELLIPTICITY_LIMIT, SIZE_LIMIT, PSFQuality
from mlpsf.psf.quality.judge import against_truth, psf_quality
from mlpsf.psf.quality.star_shapes import DrawnPSF, adaptive_moments

__all__ = [
    "ELLIPTICITY_LIMIT",
    "SIZE_LIMIT",
    "DrawnPSF",
    "PSFQuality",
    "adaptive_moments",
    "against_truth",
    "psf_quality",
]
