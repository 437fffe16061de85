"""What all selectors share: how cutouts and labels come in, and what they say of themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from mlpsf.cutouts import as_cutouts
from mlpsf.errors import InputError

__all__ = ["CutoutClassifier"]


class CutoutClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A binary classifier of cutouts, shape (n, size, size) or (n, size * size).

    Subclasses implement ``fit`` and ``_probability_of_good``.
    """

    classes_: NDArray[Any]

    def _validate_cutouts(self, X: ArrayLike, *, reset: bool) -> NDArray[np.float32]:
        """Return cutouts as native float32, shape (n, size, size)."""
        pixels: NDArray[np.float32] = validate_data(
            self, X, reset=reset, dtype=np.float32, allow_nd=True, ensure_all_finite="allow-nan"
        )
        cutouts: NDArray[np.float32] = as_cutouts(pixels)
        size = cutouts.shape[-1]
        if size % 2 == 0:
            raise InputError(
                f"Cutouts must have an odd number of pixels a side, the source on the middle one. "
                f"Got {size} x {size}."
            )
        return cutouts

    def _encode(self, y: ArrayLike, n: int) -> NDArray[np.int_]:
        """Learn ``classes_`` from the labels and return 0 and 1; the larger label is good."""
        y = np.asarray(y)
        if y.ndim == 2 and y.shape[1] == 1:
            y = y[:, 0]
        check_classification_targets(y)
        if y.shape != (n,):
            raise InputError(f"y must have one label a cutout: shape ({n},). Got {y.shape}.")
        self.classes_, encoded = np.unique(y, return_inverse=True)
        if len(self.classes_) != 2:
            raise InputError(
                "Labels must be of two classes, good and other sources. "
                f"Got {len(self.classes_)} class(es): {self.classes_[:5].tolist()}."
            )
        return encoded.astype(int)

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Probability of each class.

        Parameters
        ----------
        X : array_like, shape (n, size, size) or (n, size * size)
            Cutouts as in ``fit``.

        Returns
        -------
        ndarray of float64, shape (n, 2)
            Columns in the order of ``classes_``: other, good. Rows sum to one.
        """
        check_is_fitted(self)
        good = self._probability_of_good(self._validate_cutouts(X, reset=False))
        return np.column_stack([1.0 - good, good])

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Label of each cutout: the more probable class.

        Parameters
        ----------
        X : array_like, shape (n, size, size) or (n, size * size)

        Returns
        -------
        ndarray, shape (n,)
        """
        label: NDArray[Any] = self.classes_[np.argmax(self.predict_proba(X), axis=1)]
        return label

    def _probability_of_good(self, cutouts: NDArray[np.float32]) -> NDArray[np.float64]:
        raise NotImplementedError

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.classifier_tags.multi_class = False
        return tags
