"""The point spread function: built with TRIPPy, rendered, subtracted, stored."""

from mlpsf.psf.model import PSFModel, build_psf

__all__ = ["PSFModel", "build_psf"]
