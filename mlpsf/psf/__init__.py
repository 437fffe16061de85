"""The point spread function: built with TRIPPy, rendered, subtracted, stored, judged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlpsf.psf.build import build_psf
from mlpsf.psf.model import PSFModel
from mlpsf.psf.variation import PSFVariation, measure_variation

if TYPE_CHECKING:
    from mlpsf.psf.quality import PSFQuality, against_truth, psf_quality

__all__ = [
    "PSFModel",
    "PSFQuality",
    "PSFVariation",
    "against_truth",
    "build_psf",
    "measure_variation",
    "psf_quality",
]


def __getattr__(name: str) -> Any:
    # `quality` uses `detection`, which uses `psf.effective`: imported here, it would go round.
    if name in ("PSFQuality", "against_truth", "psf_quality"):
        from mlpsf.psf import quality

        return getattr(quality, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
