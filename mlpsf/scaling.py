"""The pixel values of cutouts: their sky and noise, and bringing them to what a network likes."""

from __future__ import annotations

from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin, _fit_context
from sklearn.utils._param_validation import Interval, InvalidParameterError, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data

from mlpsf.errors import InputError

__all__ = ["CutoutEstimator", "CutoutScaler", "ParameterError", "as_cutouts", "sky_and_noise"]


def as_cutouts(X: NDArray[Any]) -> NDArray[Any]:
    """View (n, size * size) as (n, size, size); 3-D input is returned as it is.

    Raises
    ------
    InputError
        The rows are no squares.

    Examples
    --------
    >>> as_cutouts(np.zeros((2, 225))).shape
    (2, 15, 15)
    """
    if X.ndim == 3:
        if X.shape[1] != X.shape[2]:
            raise InputError(f"Cutouts must be square. Got {X.shape[1]} x {X.shape[2]} pixels.")
        return X
    size = round(float(X.shape[1]) ** 0.5)
    if size * size != X.shape[1]:
        raise InputError(
            f"Flattened cutouts must have a square number of pixels. Got {X.shape[1]}; "
            "pass cutouts of shape (n, size, size), or each one ravelled."
        )
    return X.reshape(len(X), size, size)


def sky_and_noise(
    cutouts: NDArray[np.floating],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Estimate each cutout's sky level and noise from its border.

    Parameters
    ----------
    cutouts : ndarray, shape (n, size, size)
        NaN marks pixels without data.

    Returns
    -------
    sky, noise : ndarray of float32, shape (n,)
        Median, and 1.4826 times the median absolute deviation, of the outermost tenth (2 pixels
        at least), each after pixels over 3 such deviations above the median are left out. Where a
        border has no pixel at all, both are 0.

    Examples
    --------
    >>> sky, noise = sky_and_noise(np.full((1, 15, 15), 7.0))
    >>> float(sky[0]), float(noise[0])
    (7.0, 0.0)
    """
    size = cutouts.shape[-1]
    rim = max(2, size // 10)
    border = np.ones((size, size), dtype=bool)
    border[rim:-rim, rim:-rim] = False
    # Half of a large border is plenty for a median and takes half the time.
    picks = np.flatnonzero(border.ravel())[:: 1 if size < 60 else 3]
    values = cutouts.reshape(len(cutouts), size * size)[:, picks].astype(np.float32)
    values[~np.isfinite(values)] = np.nan
    for _ in range(2):
        sky, noise = _median_and_mad(values)
        values[values > (sky + 3.0 * noise + 1e-30)[:, None]] = np.nan
    sky, noise = _median_and_mad(values)
    return sky, noise


def _median_and_mad(
    values: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Row-wise median and scaled MAD of values with NaN, 0 for rows without any value."""
    sky = _row_median(values)
    return sky, np.float32(1.4826) * _row_median(np.abs(values - sky[:, None]))


def _row_median(values: NDArray[np.float32]) -> NDArray[np.float32]:
    ordered = np.sort(values, axis=1)  # NaN goes last
    count = np.isfinite(values).sum(axis=1)
    rows = np.arange(len(values))
    middle = 0.5 * (
        ordered[rows, np.maximum(count - 1, 0) // 2]
        + ordered[rows, np.minimum(count // 2, np.maximum(count - 1, 0))]
    )
    return np.where(count > 0, middle, np.float32(0.0)).astype(np.float32)


class ParameterError(InputError, InvalidParameterError):  # type: ignore[misc]
    """A parameter of an estimator is not what it takes; scikit-learn's error of that kind too."""


class CutoutEstimator(BaseEstimator):  # type: ignore[misc]
    """What the estimators of cutouts share: parameters checked, cutouts in either form.

    Subclasses say what their parameters may be in ``_parameter_constraints``, as scikit-learn's
    own do, and put ``_fit_context`` on ``fit``.
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {}

    def _validate_params(self) -> None:
        try:
            super()._validate_params()
        except InvalidParameterError as error:
            raise ParameterError(str(error)) from None

    def _validate_pixels(self, X: Any, y: Any = "no_validation", *, reset: bool) -> Any:
        """Return cutouts as native float32, shape (n, pixels), and y where it was given.

        Features are counted in pixels whichever form came, so that one can be fitted and the
        other asked for.
        """
        if isinstance(X, list | tuple) or not hasattr(X, "ndim"):  # Cutouts, too
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
    """Bring the pixel values of cutouts to what a network likes.

    Parameters
    ----------
    method : {"star", "standard"}
        ``"star"``: each cutout by itself. Its sky (median of its border) is subtracted, it is
        divided by its peak (the highest of the central 3 x 3 pixels) and stretched:
        ``arcsinh(value / softening) / arcsinh(1 / softening)``, so that a star of any brightness
        peaks at 1 and a neighbour of one per cent can still be seen. ``"standard"``: one mean and
        one standard deviation of all the training pixels, as in the ML-PSF study.
    softening : float
        Fraction of the peak at which the stretch turns from linear to logarithmic.

    Attributes
    ----------
    mean_, scale_ : float
        What ``"standard"`` subtracts and divides by (0 and 1 for ``"star"``).
    n_features_in_ : int
        Pixels of a cutout.

    Notes
    -----
    NaN pixels become 0 in the output: the sky, or the mean.

    ``set_output(transform="pandas")`` is for flattened cutouts: a table has two axes.

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

    def __init__(self, *, method: str = "star", softening: float = 0.003) -> None:
        self.method = method
        self.softening = softening

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(self, X: ArrayLike, y: Any = None) -> Self:  # noqa: ARG002 - scikit-learn's signature
        """Learn the mean and standard deviation (``"standard"``), or nothing.

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
            No NaN.
        """
        check_is_fitted(self)
        X = np.asarray(X) if isinstance(X, list | tuple) else X
        pixels = self._validate_pixels(X, reset=False)
        if self.method == "standard":
            out = (pixels - np.float32(self.mean_)) / np.float32(self.scale_)
        else:
            out = self._star(as_cutouts(pixels))
        out = out.reshape(getattr(X, "shape", pixels.shape))
        filled: NDArray[np.float32] = np.nan_to_num(
            out, copy=False, nan=0.0, posinf=0.0, neginf=0.0
        )
        return filled

    def _star(self, cutouts: NDArray[np.float32]) -> NDArray[np.float32]:
        sky, noise = sky_and_noise(cutouts)
        out: NDArray[np.float32] = cutouts - sky[:, None, None]
        c = cutouts.shape[-1] // 2
        core = np.nan_to_num(out[:, c - 1 : c + 2, c - 1 : c + 2], nan=-np.inf)
        peak = core.reshape(len(out), -1).max(axis=1)
        # Without a peak above the noise there is no star to scale by.
        peak = np.where(np.isfinite(peak) & (peak > noise), peak, np.maximum(noise, 1e-20))
        out /= (peak * np.float32(self.softening))[:, None, None]
        np.arcsinh(out, out=out)
        out /= np.float32(np.arcsinh(1.0 / self.softening))
        return out

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags
