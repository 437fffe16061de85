"""Base classes of the selectors: validation of cutouts and labels, and scikit-learn tags."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils import assert_all_finite, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from mlpsf.errors import InputError
from mlpsf.selectors.judge import as_probabilities
from mlpsf.stacks.values import as_cutouts, padded
from mlpsf.stamps.scaling import CutoutEstimator

__all__ = ["MIN_SIDE", "CutoutClassifier", "FrameClassifier"]

MIN_SIDE = 15
"""Side in pixels of the smallest cutouts in which a star differs from other sources."""


class CutoutClassifier(ClassifierMixin, CutoutEstimator):  # type: ignore[misc]
    """A binary classifier of cutouts, shape (n, size, size) or (n, size * size).

    Subclasses implement ``fit`` and ``_log_odds_of_good`` and have a parameter ``pad``.
    """

    classes_: NDArray[Any]
    pad: bool

    def _validate_cutouts(self, X: ArrayLike, *, reset: bool) -> NDArray[np.float32]:
        """Return cutouts as native float32, shape (n, size, size), size odd."""
        pixels: NDArray[np.float32] = self._validate_pixels(X, reset=reset)
        cutouts: NDArray[np.float32] = as_cutouts(padded(pixels, MIN_SIDE) if self.pad else pixels)
        size = cutouts.shape[-1]
        if size % 2 == 0:
            raise InputError(
                f"Cutouts must have an odd number of pixels a side, the source on the middle one. "
                f"Got {size} x {size}."
            )
        return cutouts

    def _validate_labels(self, y: ArrayLike | None, n: int) -> NDArray[Any]:
        """Return the n class labels, shape (n,)."""
        if y is None:
            raise InputError(
                f"This {type(self).__name__} estimator requires y to be passed, "
                "but the target y is None."
            )
        labels: NDArray[Any] = column_or_1d(y, warn=True)
        if labels.shape != (n,):
            raise InputError(f"y must have one label a cutout: shape ({n},). Got {labels.shape}.")
        if labels.dtype.kind == "f":
            assert_all_finite(labels, input_name="y")
        check_classification_targets(labels)
        return labels

    def _validate_weight(
        self, sample_weight: ArrayLike | None, cutouts: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        weight: NDArray[np.float64] = _check_sample_weight(
            sample_weight, cutouts, dtype=np.float64, ensure_non_negative=True
        )
        if not weight.any():
            raise InputError("Sample weights must contain at least one non-zero number.")
        return weight

    def _encode(self, labels: NDArray[Any]) -> NDArray[np.int_]:
        """Set ``classes_`` and return the labels as 0 and 1; the larger label means good."""
        self.classes_, encoded = np.unique(labels, return_inverse=True)
        if len(self.classes_) != 2:
            raise InputError(
                "Only binary classification is supported. Labels must be of two classes, good and "
                f"other sources. Got {len(self.classes_)} class(es): {self.classes_[:5].tolist()}."
            )
        return encoded.astype(int)

    def decision_function(
        self, X: ArrayLike, groups: ArrayLike | None = None
    ) -> NDArray[np.float64]:
        """Return the log-odds of being good.

        Parameters
        ----------
        X : array_like, shape (n, size, size) or (n, size * size)
            Cutouts, in either form, regardless of the form used in ``fit``.
        groups : array_like, shape (n,), optional
            Frame of each cutout, for selectors that compare the sources of a frame.

        Returns
        -------
        ndarray of float64, shape (n,)
        """
        check_is_fitted(self)
        return self._log_odds_of_good(self._prepared(X, groups))

    def predict_proba(self, X: ArrayLike, groups: ArrayLike | None = None) -> NDArray[np.float64]:
        """Return the probability of each class.

        Parameters
        ----------
        X : array_like, shape (n, size, size) or (n, size * size)
        groups : array_like, shape (n,), optional
            Frame of each cutout, for selectors that compare the sources of a frame.

        Returns
        -------
        ndarray of float64, shape (n, 2)
            Columns in the order of ``classes_``: other, good. Rows sum to one.
        """
        return as_probabilities(self.decision_function(X, groups))

    def predict(self, X: ArrayLike, groups: ArrayLike | None = None) -> NDArray[Any]:
        """Return the label of each cutout, the more probable class, shape (n,)."""
        return self._labels_of(self.decision_function(X, groups))

    def score(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        groups: ArrayLike | None = None,
    ) -> float:
        """Return the fraction of correct labels; `groups` as in `predict_proba`."""
        return float(accuracy_score(y, self.predict(X, groups), sample_weight=sample_weight))

    def _prepared(
        self,
        X: ArrayLike,
        groups: ArrayLike | None,  # noqa: ARG002 - for subclasses
    ) -> NDArray[np.float32]:
        """Return what the classifier judges of the cutouts."""
        return self._validate_cutouts(X, reset=False)

    def _labels_of(self, log_odds: NDArray[np.float64]) -> NDArray[Any]:
        labels: NDArray[Any] = self.classes_[(log_odds > 0).astype(int)]
        return labels

    def _log_odds_of_good(self, cutouts: NDArray[np.float32]) -> NDArray[np.float64]:
        raise NotImplementedError

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags


class FrameClassifier(CutoutClassifier):
    """A classifier that needs no labels and can judge each frame by its own sources.

    Subclasses implement ``fit`` and ``decision_function(X, groups)``.
    """

    def decision_function(
        self, X: ArrayLike, groups: ArrayLike | None = None
    ) -> NDArray[np.float64]:
        """Return the log-odds of being good, shape (n,)."""
        raise NotImplementedError

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = False
        tags.classifier_tags.poor_score = True  # it models stars, not arbitrary classes
        return tags
