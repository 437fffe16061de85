"""Plots of selected stars, PSFs, training and timing, as Display objects.

As in scikit-learn, a display stores the data to show. A class method computes the data and plots
them; ``plot()`` draws them and sets ``figure_`` and ``axes_``. Displays do not change matplotlib's
global state. ``display.figure_.savefig("name.png")`` saves the figure.

`draw` gives the plots of a frame, its stars and its PSF by one word, as ``mlpsf plot`` does.

Plots of scikit-learn are not repeated here: `ConfusionMatrixDisplay`, `RocCurveDisplay`,
`PrecisionRecallDisplay` (`sklearn.metrics`) and `CalibrationDisplay` (`sklearn.calibration`) work
with the selectors and their cutouts, shape (n, size, size) or flattened::

    RocCurveDisplay.from_estimator(selector, cutouts, labels, ax=ax)

Without ``ax`` these open a pyplot window.
"""

from mlpsf.plots.frames import CutoutSheetDisplay, StarMapDisplay
from mlpsf.plots.named import draw
from mlpsf.plots.psfs import PSFComparisonDisplay, PSFDisplay
from mlpsf.plots.runs import TimesDisplay, TrainingHistoryDisplay
from mlpsf.plots.scores import ConfidenceDisplay, SizeHistogramDisplay
from mlpsf.plots.stars import ProfilesDisplay, ResidualsDisplay, SizeMagnitudeDisplay
from mlpsf.plots.variation import VariationDisplay

__all__ = [
    "ConfidenceDisplay",
    "CutoutSheetDisplay",
    "PSFComparisonDisplay",
    "PSFDisplay",
    "ProfilesDisplay",
    "ResidualsDisplay",
    "SizeHistogramDisplay",
    "SizeMagnitudeDisplay",
    "StarMapDisplay",
    "TimesDisplay",
    "TrainingHistoryDisplay",
    "VariationDisplay",
    "draw",
]
