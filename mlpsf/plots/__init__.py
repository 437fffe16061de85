"""Pictures of what was chosen, made, taught and measured, as Display objects.

In scikit-learn's manner: a display holds what is to be shown, a class method computes it and plots
it, ``plot()`` draws it and keeps ``figure_`` and ``axes_``. None of them touches matplotlib's
global state; ``display.figure_.savefig("name.png")`` writes what was drawn.

What scikit-learn draws itself is not drawn here again: `ConfusionMatrixDisplay`, `RocCurveDisplay`,
`PrecisionRecallDisplay` (`sklearn.metrics`) and `CalibrationDisplay` (`sklearn.calibration`) take
the selectors and their cutouts, shape (n, size, size) or flattened, as they are::

    RocCurveDisplay.from_estimator(selector, cutouts, labels, ax=ax)

Without ``ax`` these open a window of pyplot's.
"""

from mlpsf.plots.frames import CutoutSheetDisplay, StarMapDisplay
from mlpsf.plots.psfs import PSFComparisonDisplay, PSFDisplay
from mlpsf.plots.runs import TimesDisplay, TrainingHistoryDisplay
from mlpsf.plots.scores import ConfidenceDisplay, SizeHistogramDisplay

__all__ = [
    "ConfidenceDisplay",
    "CutoutSheetDisplay",
    "PSFComparisonDisplay",
    "PSFDisplay",
    "SizeHistogramDisplay",
    "StarMapDisplay",
    "TimesDisplay",
    "TrainingHistoryDisplay",
]
