"""The point spread function: built with TRIPPy, rendered, subtracted, stored."""

from mlpsf.psf.build import build_psf
from mlpsf.psf.model import PSFModel

__all__ = ["PSFModel", "build_psf"]
