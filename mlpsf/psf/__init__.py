"""Build, draw, subtract, trail, store and judge point spread functions.

Input: a `Frame` and the positions of its stars. Output: a `PSFModel` and its quality. Imports only
base modules, `mlpsf.stacks` and `mlpsf.frames`. Does not use selectors or choose stars.

``solver`` solves for the PSF, ``trippy`` contains all code that uses TRIPPy, and ``quality`` judges
PSFs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlpsf.lazy import lazy_names

if TYPE_CHECKING:
    from mlpsf.psf.build import build_psf as build_psf
    from mlpsf.psf.model import PSFModel as PSFModel
    from mlpsf.psf.quality import PSFQuality as PSFQuality
    from mlpsf.psf.quality import against_truth as against_truth
    from mlpsf.psf.quality import psf_quality as psf_quality
    from mlpsf.psf.solver.variation import PSFVariation as PSFVariation
    from mlpsf.psf.solver.variation import measure_variation as measure_variation
    from mlpsf.psf.terms import PSFTerms as PSFTerms

__all__ = [
    "PSFModel",
    "PSFQuality",
    "PSFTerms",
    "PSFVariation",
    "against_truth",
    "build_psf",
    "measure_variation",
    "psf_quality",
]

# Star selection does not need TRIPPy.
__getattr__ = lazy_names(
    __name__,
    {
        "PSFModel": "model",
        "PSFQuality": "quality",
        "PSFTerms": "terms",
        "PSFVariation": "solver.variation",
        "against_truth": "quality",
        "build_psf": "build",
        "measure_variation": "solver.variation",
        "psf_quality": "quality",
    },
)
