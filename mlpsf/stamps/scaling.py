"""Base class of the estimators of cutouts, and the one that scales pixel values for a network."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from numbers import Real
from typing import Any, ClassVar, Self, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin, _fit_context
from sklearn.utils._param_validation import Interval, InvalidParameterError, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data

from mlpsf.errors import InputError
from mlpsf.stacks.values import SOFTENING, as_cutouts, real_array, scaled

__all__ = ["CutoutEstimator", "CutoutScaler", "ParameterError", "learns_at_once"]


class ParameterError(InputError, InvalidParameterError):  # type: ignore[misc]
    """Raised if a parameter of an estimator is invalid; also scikit-learn's error for that."""


Method = TypeVar("Method", bound=Callable[..., Any])


def learns_at_once(method: Method) -> Method:
    """Set what a method learns at once, when it succeeds; otherwise the estimator is unchanged.

    For ``fit`` and other methods that set attributes and return the estimator.
    """

    @wraps(method)
    def learn(self: Any, *arguments: Any, **keywords: Any) -> Any:
        learner = object.__new__(type(self))
        learner.__dict__.update(self.__dict__)
        method(learner, *arguments, **keywords)
        self.__dict__ = learner.__dict__
        return self

    return cast("Method", learn)


class CutoutEstimator(BaseEstimator):  # type: ignore[misc]
    """Base class of estimators of cutouts: checks parameters, accepts 2-D and 3-D cutouts.

    Subclasses define the allowed parameters in ``_parameter_constraints``, as in scikit-learn, and
    decorate ``fit`` with ``_fit_context``.
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {}

    def _validate_params(self) -> None:
        try:
            super()._validate_params()
        except InvalidParameterError as error:
            raise ParameterError(str(error)) from None

    def _validate_pixels(self, X: Any, y: Any = "no_validation", *, reset: bool) -> Any:
        """Return cutouts as native float32, shape (n, pixels), and y if it was given.

        The number of features is that of the pixels for both shapes, so that an estimator can be
        fitted with one shape and used with the other.
        """
        if isinstance(X, np.ma.MaskedArray):
            X = real_array(X, "Cutouts", np.float32)
        if isinstance(X, list | tuple) or not hasattr(X, "ndim"):  # also Cutouts
            X = np.asarray(X)
        if getattr(X, "ndim", 0) == 3:
            X = as_cutouts(np.asarray(X)).reshape(len(X), X.shape[1] * X.shape[2])
        return validate_data(
            self, X, y, reset=reset, dtype=np.float32, ensure_all_finite="allow-nan"
        )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.three_d_array = True
        return tags


class CutoutScaler(OneToOneFeatureMixin, TransformerMixin, CutoutEstimator):  # type: ignore[misc]
    """Scale the pixel values of cutouts for a network.

    Parameters
    ----------
    method : {"star", "standard"}
        ``"star"``: scale each cutout separately. The sky (median of the border) is subtracted. The
        cutout is divided by its peak (the highest of the central 3 x 3 pixels) and stretched:
        ``arcsinh(value / softening) / arcsinh(1 / softening)``. A star of any brightness then has
        a peak of 1, and a neighbour of one per cent is still visible. ``"standard"``: use the mean
        and standard deviation of all training pixels, as in the ML-PSF study.
    softening : float
        Fraction of the peak at which the stretch changes from linear to logarithmic.

    Attributes
    ----------
    mean_, scale_ : float
        Value that ``"standard"`` subtracts, and that it divides by (0 and 1 for ``"star"``).
    n_features_in_ : int
        Number of pixels of a cutout.

    Notes
    -----
    NaN pixels become 0 in the output: the sky, or the mean.

    ``set_output(transform="pandas")`` needs flattened cutouts, because a table has two axes.

    Examples
    --------
    >>> star = np.zeros((1, 15, 15))
    >>> star[0, 7, 7] = 500.0
    >>> CutoutScaler().fit_transform(star)[0, 7, 7]
    np.float32(1.0)
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "method": [StrOptions({"star", "standard"})],
        "softening": [Interval(Real, 0, None, closed="neither")],
    }

    def __init__(self, *, method: str = "star", softening: float = SOFTENING) -> None:
        self.method = method
        self.softening = softening

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    @learns_at_once
    def fit(self, X: ArrayLike, y: Any = None) -> Self:  # noqa: ARG002 - scikit-learn's signature
        """Compute the mean and standard deviation for ``"standard"``.

        Parameters
        ----------
        X : array_like, shape (n, size, size) or (n, size * size)
            Cutouts; NaN marks pixels without data.
        y : None
            Ignored.
        """
        pixels = self._validate_pixels(X, reset=True)
        self.mean_, self.scale_ = 0.0, 1.0
        if self.method == "standard":
            finite = pixels[np.isfinite(pixels)].astype(np.float64)
            self.mean_ = float(finite.mean()) if finite.size else 0.0
            self.scale_ = float(finite.std()) if finite.size and finite.std() > 0 else 1.0
        return self

    def transform(self, X: ArrayLike) -> NDArray[np.float32]:
        """Scale cutouts; the output has the shape of the input.

        Parameters
        ----------
        X : array_like, shape (n, size, size) or (n, size * size)
            Cutouts; NaN marks pixels without data.

        Returns
        -------
        ndarray of float32
            Scaled cutouts without NaN.
        """
        check_is_fitted(self)
        X = np.asarray(X) if isinstance(X, list | tuple) else X
        pixels = self._validate_pixels(X, reset=False)
        shape = getattr(X, "shape", pixels.shape)
        if self.method == "star":
            pixels = as_cutouts(pixels)
        out = scaled(
            pixels,
            method=self.method,
            softening=self.softening,
            mean=self.mean_,
            scale=self.scale_,
        )
        return out.reshape(shape)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags
