"""The point spread function: built with TRIPPy, rendered, subtracted, stored, judged."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlpsf.psf.build import build_psf
    from mlpsf.psf.model import PSFModel
    from mlpsf.psf.quality import PSFQuality, against_truth, psf_quality
    from mlpsf.psf.variation import PSFVariation, measure_variation

_HOME = {
    "PSFModel": "model",
    "PSFQuality": "quality",
    "PSFVariation": "variation",
    "against_truth": "quality",
    "build_psf": "build",
    "measure_variation": "variation",
    "psf_quality": "quality",
}

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
    """Import a public name when it is first asked for: choosing stars needs none of TRIPPy."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"mlpsf.psf.{_HOME[name]}"), name)
