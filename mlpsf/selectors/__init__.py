"""The selectors: scikit-learn classifiers of cutouts, with one contract.

Comes in: cutouts, labels, the frame of each as ``groups``. Goes out: probabilities. May import: the
ground, `mlpsf.stacks`, `mlpsf.stamps`, and of `mlpsf.psf` TRIPPy's fitter, the published baseline.
Knows no FITS file.
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
