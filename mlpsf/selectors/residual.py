"""ResidualSelector: the classical method, which keeps what a subtracted PSF leaves least of."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.utils.validation import check_is_fitted

from mlpsf.cutouts import sky_and_noise
from mlpsf.errors import InputError
from mlpsf.labelling import BRIGHTNESS_RANGE, N_BEST, best_labels, in_range, residual_distance
from mlpsf.psf.effective import EffectivePSF
from mlpsf.psf.first import Verdict, judge, judge_frame
from mlpsf.psf.fitting import FIT_HALF_WIDTH
from mlpsf.selectors.base import CutoutClassifier

__all__ = ["ResidualSelector"]

EXCLUSION_RANGE = (-2000.0, 130000.0)
"""A cutout with a pixel outside is no use at all, in ADU above the sky (ML-PSF study)."""


class ResidualSelector(CutoutClassifier):
    """Rank the sources of a frame by what is left when its PSF is subtracted from them.

    The labelling rule of the ML-PSF study (Ferreira, Fraser & Kavelaars 2022) as an estimator: a
    PSF is fitted to every cutout and subtracted; two figures of the residual, each source's
    variance over the frame's scatter of it and the second-highest pixel over the peak, are added
    in quadrature; the 25 sources nearest zero, less those outside the brightness range, are good.

    Nothing but the cutouts is needed: the first PSF is made from the most star-like of them, and
    made anew from the best ranked.

    Parameters
    ----------
    n_best : int
        How many candidates a frame has.
    brightness_range : (float, float)
        No pixel of a good source's cutout lies outside, in ADU above its sky.
    exclusion_range : (float, float)
        A cutout with a pixel outside takes no part at all.
    half_width : int
        Half-width in pixels of the window in which the PSF is fitted.
    n_iter : int
        How often the PSF is made anew from the best.
    fitter : {"vectorized", "trippy"}
        ``"trippy"`` fits source by source with TRIPPy's ``LSfitter``, as the study did: the same
        result in a hundred times the time.

    Attributes
    ----------
    classes_ : ndarray, shape (2,)
        Labels: other, good.
    psf_ : EffectivePSF
        Of the cutouts fitted (of the last frame, when ``groups`` were given).
    labels_ : ndarray, shape (n,)
        What the rule itself says of the cutouts fitted.
    variance_, peak_, distance_ : ndarray, shape (n,)
        Both figures and their combination.
    intercept_, slope_ : float
        Probability of good is ``expit(intercept_ - slope_ * log10(distance))``.
    n_features_in_ : int

    Notes
    -----
    ``predict_proba(X)`` judges by the PSF and the scatter that ``fit`` found. Give the frame of
    each cutout as ``groups`` to have every frame judged by its own.

    Without labels in ``fit``, probabilities follow a calibration on simulated frames.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> u = np.arange(-15, 16)
    >>> star = np.exp(-0.5 * (u**2 + u[:, None] ** 2) / 4)
    >>> X = 1000 * star + rng.normal(0, 1, (30, 31, 31))
    >>> X[0] += 900 * np.roll(star, 4)  # a close pair
    >>> selector = ResidualSelector(n_best=10).fit(X)
    >>> int(selector.labels_[0]), int(selector.labels_.sum())
    (0, 10)
    """

    def __init__(
        self,
        *,
        n_best: int = N_BEST,
        brightness_range: tuple[float, float] = BRIGHTNESS_RANGE,
        exclusion_range: tuple[float, float] = EXCLUSION_RANGE,
        half_width: int = FIT_HALF_WIDTH,
        n_iter: int = 2,
        fitter: str = "vectorized",
    ) -> None:
        self.n_best = n_best
        self.brightness_range = brightness_range
        self.exclusion_range = exclusion_range
        self.half_width = half_width
        self.n_iter = n_iter
        self.fitter = fitter

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Make the frame's PSF and judge its sources.

        Parameters
        ----------
        X : array_like, shape (n, size, size) or (n, size * size)
            Cutouts in ADU, NaN where masked; a constant sky does not matter.
        y : array_like, shape (n,), optional
            Labels: they calibrate the probabilities, and change nothing else.
        groups : array_like, shape (n,), optional
            The frame of each cutout; one frame unless given.
        sample_weight : array_like, shape (n,), optional
            Weights of the labels in the calibration.

        Returns
        -------
        self
        """
        if self.fitter not in ("vectorized", "trippy"):
            raise InputError(
                "The 'fitter' parameter of ResidualSelector must be 'vectorized' or 'trippy'. "
                f"Got {self.fitter!r} instead."
            )
        cutouts = self._validate_cutouts(X, reset=True)
        n = len(cutouts)
        encoded = None if y is None else self._encode(y, n)
        if y is None:
            self.classes_ = np.array([0, 1])
        self.variance_, self.peak_, self.distance_ = np.full((3, n), np.inf)
        good = np.zeros(n, dtype=int)
        for rows in _frames(groups, n):
            data, eligible, included = self._prepare(cutouts[rows])
            verdict = self._judge_frame(data, eligible, included)
            self.variance_[rows], self.peak_[rows] = verdict.variance, verdict.peak
            distance = residual_distance(verdict.variance, verdict.peak)
            self.distance_[rows] = distance
            good[rows] = best_labels(distance, eligible, self.n_best)
        self.psf_: EffectivePSF = verdict.psf
        self._learn_scatter(verdict.variance)
        self.labels_ = self.classes_[good]
        self.intercept_, self.slope_ = _DEFAULT_CALIBRATION
        if encoded is not None:
            self._calibrate(encoded, sample_weight)
        return self

    def predict_proba(self, X: ArrayLike, groups: ArrayLike | None = None) -> NDArray[np.float64]:
        """Probability of each class.

        Parameters
        ----------
        X : array_like, shape (n, size, size) or (n, size * size)
        groups : array_like, shape (n,), optional
            The frame of each cutout: each is then judged by a PSF of its own cutouts.

        Returns
        -------
        ndarray of float64, shape (n, 2)
            Columns in the order of ``classes_``: other, good.
        """
        good = self._to_probability(self.distances(X, groups))
        return np.column_stack([1.0 - good, good])

    def decision_function(
        self, X: ArrayLike, groups: ArrayLike | None = None
    ) -> NDArray[np.float64]:
        """Log-odds of being good, shape (n,)."""
        distance = np.clip(self.distances(X, groups), 1e-6, 1e6)
        score: NDArray[np.float64] = self.intercept_ - self.slope_ * np.log10(distance)
        return score

    def predict(self, X: ArrayLike, groups: ArrayLike | None = None) -> NDArray[Any]:
        """Label of each cutout: the more probable class, shape (n,)."""
        label: NDArray[Any] = self.classes_[np.argmax(self.predict_proba(X, groups), axis=1)]
        return label

    def distances(self, X: ArrayLike, groups: ArrayLike | None = None) -> NDArray[np.float64]:
        """Distance by which sources are ranked, shape (n,): the smaller the better."""
        check_is_fitted(self)
        cutouts = self._validate_cutouts(X, reset=False)
        out = np.full(len(cutouts), np.inf)
        if groups is not None:
            for rows in _frames(groups, len(cutouts)):
                data, eligible, included = self._prepare(cutouts[rows])
                v = self._judge_frame(data, eligible, included)
                out[rows] = residual_distance(v.variance, v.peak)
                out[rows[~eligible]] = np.inf
            return out
        data, eligible, _ = self._prepare(cutouts)
        v = judge(data, self.psf_, self.half_width, self.fitter)  # type: ignore[arg-type]
        kept = eligible & (v.variance <= self._variance_limit)
        out[kept] = np.hypot(v.variance[kept] / self._variance_unit, v.peak[kept])
        return out

    def _prepare(
        self, cutouts: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
        """Subtract the sky; say which may be good, and which take part at all."""
        sky, _ = sky_and_noise(cutouts)
        data = cutouts - sky[:, None, None]
        included = in_range(data, self.exclusion_range)
        return data, included & in_range(data, self.brightness_range), included

    def _judge_frame(
        self,
        data: NDArray[np.float32],
        eligible: NDArray[np.bool_],
        included: NDArray[np.bool_],
    ) -> Verdict:
        verdict = judge_frame(
            data,
            eligible,
            half_width=self.half_width,
            n_best=self.n_best,
            n_iter=self.n_iter,
            fitter=self.fitter,  # type: ignore[arg-type]
        )
        verdict.variance[~included] = verdict.peak[~included] = np.inf
        return verdict

    def _learn_scatter(self, variance: NDArray[np.float64]) -> None:
        """Keep what `residual_distance` scaled and cut the last frame's variances by."""
        finite = variance[np.isfinite(variance)]
        centre = float(np.median(finite)) if finite.size else 1.0
        unit = 1.4826 * float(np.median(np.abs(finite - centre))) if finite.size else 1.0
        self._variance_unit = unit if unit > 0 else (abs(centre) or 1.0)
        self._variance_limit = centre + 5.0 * self._variance_unit

    def _calibrate(self, y: NDArray[np.int_], sample_weight: ArrayLike | None) -> None:
        """Platt's scaling on the logarithm of the distance."""
        feature = np.log10(np.clip(self.distance_, 1e-6, 1e6))[:, None]
        model = LogisticRegression(C=1e3).fit(feature, y, sample_weight=sample_weight)
        self.intercept_ = float(model.intercept_[0])
        self.slope_ = max(-float(model.coef_[0, 0]), 0.0)

    def _to_probability(self, distance: NDArray[np.float64]) -> NDArray[np.float64]:
        logit = self.intercept_ - self.slope_ * np.log10(np.clip(distance, 1e-6, 1e6))
        probability: NDArray[np.float64] = np.where(np.isfinite(distance), expit(logit), 0.0)
        return probability


_DEFAULT_CALIBRATION = (0.0, 4.0)


def _frames(groups: ArrayLike | None, n: int) -> list[NDArray[np.intp]]:
    """Rows of each frame."""
    if groups is None:
        return [np.arange(n)]
    groups = np.asarray(groups)
    if groups.shape != (n,):
        raise InputError(f"groups must name one frame a cutout: shape ({n},). Got {groups.shape}.")
    return [np.flatnonzero(groups == g) for g in np.unique(groups)]
