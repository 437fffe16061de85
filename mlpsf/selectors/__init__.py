"""Selectors: scikit-learn classifiers of cutouts with a common interface.

Input: cutouts, labels, and the frame of each cutout as ``groups``. Output: probabilities. May
import the top-level modules, `mlpsf.stacks`, `mlpsf.stamps`, and from `mlpsf.psf` only TRIPPy's
fitter, the published baseline. Does not read FITS files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlpsf.lazy import lazy_names

if TYPE_CHECKING:
    from mlpsf.selectors.cnn import PSFStarSelector as PSFStarSelector
    from mlpsf.selectors.novelty import NoveltySelector as NoveltySelector
    from mlpsf.selectors.residual import ResidualSelector as ResidualSelector

__all__ = ["NoveltySelector", "PSFStarSelector", "ResidualSelector"]

__getattr__ = lazy_names(
    __name__,
    {
        "NoveltySelector": "novelty",
        "PSFStarSelector": "cnn",
        "ResidualSelector": "residual",
    },
)
