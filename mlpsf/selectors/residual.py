"""ResidualSelector: the classical method, which ranks sources by PSF-subtraction residuals."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import _fit_context
from sklearn.linear_model import LogisticRegression
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from mlpsf.errors import NoSourcesError, PSFError
from mlpsf.frames.cutouts import REFERENCE_FWHM
from mlpsf.labelling import BRIGHTNESS_RANGE, N_BEST, best_labels, in_range, residual_distance
from mlpsf.selectors.base import MIN_SIDE, FrameClassifier
from mlpsf.selectors.first_psf import Verdict, judge, judge_frame
from mlpsf.stacks.effective import OVERSAMPLING, EffectivePSF, stack_stars
from mlpsf.stacks.fitting import FIT_HALF_WIDTH
from mlpsf.stacks.moments import FWHM_PER_SIGMA
from mlpsf.stacks.values import check_frames, sky_and_noise
from mlpsf.stamps.scaling import learns_at_once

__all__ = ["ResidualSelector"]

EXCLUSION_RANGE = (-2000.0, 130000.0)
"""Cutouts with a pixel outside this range are excluded, in ADU above the sky (ML-PSF study)."""

_FEWEST = 5  # fewest sources of a frame from which a PSF is made
_COMMON_STARS = 50  # stars in the common PSF of several frames
_SURE = 500.0  # limit of the log-odds; sources that are never good get -2 * _SURE: probability 0


class ResidualSelector(FrameClassifier):
    """Rank the sources of a frame by their residuals after PSF subtraction.

    This is the labelling rule of the ML-PSF study (Ferreira, Fraser & Kavelaars 2022) as an
    estimator. A PSF is fitted to every cutout and subtracted. Two figures of the residual are
    added in quadrature: its variance divided by the scatter of the variances in the frame, and
    its second-highest pixel divided by the peak. The 25 sources nearest zero are good, except
    those outside the brightness range.

    Only the cutouts are needed. The first PSF is made from the most star-like cutouts and then
    rebuilt from the best-ranked ones.

    Parameters
    ----------
    n_best : int
        Number of candidates per frame.
    brightness_range : (float, float)
        Range of all pixels in the cutout of a good source, in ADU above its sky.
    exclusion_range : (float, float)
        A cutout with a pixel outside this range is not used.
    half_width : int
        Half-width in pixels of the fit window.
    n_iter : int
        Number of times the PSF is rebuilt from the best sources.
    fitter : {"vectorized", "trippy"}
        ``"trippy"`` fits source by source with TRIPPy's ``LSfitter``, as the study did. The
        result is the same, but it takes a hundred times as long.
    pad : bool
        Whether to accept any table. Rows whose length is not an odd square are centred in zeros
        and padded to the next odd square of 15 pixels a side or more. If none looks like a star,
        the PSF is a Gaussian.

    Attributes
    ----------
    classes_ : ndarray, shape (2,)
        Labels: other, good.
    psf_ : EffectivePSF
        PSF of the fitted cutouts; with ``groups``, of the best stars of all frames.
    labels_ : ndarray, shape (n,)
        Labels of the fitted cutouts by the rule.
    variance_, peak_, distance_ : ndarray, shape (n,)
        Both figures and their combination.
    intercept_, slope_ : float
        The probability of good is ``expit(intercept_ - slope_ * log10(distance))``.
    n_features_in_ : int

    Notes
    -----
    ``predict_proba(X)`` uses the PSF and the scatter found by ``fit``. Pass the frame of each
    cutout as ``groups`` to judge every frame by its own PSF. Frames with fewer than five sources
    are judged by the results of ``fit``, because their PSF would be made of the few sources that
    it judges.

    After a fit to several frames, without ``groups``, sources are judged by a PSF common to the
    frames. The more the frames differ, the worse it fits and the lower the probabilities are.

    Without labels in ``fit``, probabilities follow a calibration on simulated frames.

    A cutout of weight 0 is ignored. Other weights are used in the calibration only.

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

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "n_best": [Interval(Integral, 1, None, closed="left")],
        "brightness_range": ["array-like"],
        "exclusion_range": ["array-like"],
        "half_width": [Interval(Integral, 1, None, closed="left")],
        "n_iter": [Interval(Integral, 0, None, closed="left")],
        "fitter": [StrOptions({"vectorized", "trippy"})],
        "pad": ["boolean"],
    }

    def __init__(
        self,
        *,
        n_best: int = N_BEST,
        brightness_range: tuple[float, float] = BRIGHTNESS_RANGE,
        exclusion_range: tuple[float, float] = EXCLUSION_RANGE,
        half_width: int = FIT_HALF_WIDTH,
        n_iter: int = 2,
        fitter: str = "vectorized",
        pad: bool = False,
    ) -> None:
        self.n_best = n_best
        self.brightness_range = brightness_range
        self.exclusion_range = exclusion_range
        self.half_width = half_width
        self.n_iter = n_iter
        self.fitter = fitter
        self.pad = pad

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    @learns_at_once
    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Make each frame's PSF and judge its sources.

        Parameters
        ----------
        X : array_like, shape (n, size, size) or (n, size * size)
            Cutouts in ADU, NaN where masked. A constant sky level does not matter.
        y : array_like, shape (n,), optional
            Labels, used only to calibrate the probabilities.
        groups : array_like, shape (n,), optional
            Frame of each cutout. Default: all are of one frame.
        sample_weight : array_like, shape (n,), optional
            Weights of the labels in the calibration.

        Returns
        -------
        self
        """
        cutouts = self._validate_cutouts(X, reset=True)
        n = len(cutouts)
        labels = None if y is None else self._validate_labels(y, n)
        weight = self._validate_weight(sample_weight, cutouts)
        frames = np.zeros(n) if groups is None else check_frames(groups, n)
        used = np.flatnonzero(weight)
        encoded = None
        if labels is None:
            self.classes_ = np.array([0, 1])
        else:
            encoded = self._encode(labels[used])
        self.variance_, self.peak_, self.distance_ = np.full((3, n), np.inf)
        good = np.zeros(n, dtype=int)
        figures = self._learn_frames(_Sources.of(self, cutouts[used]), frames[used])
        self.variance_[used], self.peak_[used], self.distance_[used], good[used] = figures
        self.labels_ = self.classes_[good]
        self.intercept_, self.slope_ = _DEFAULT_CALIBRATION
        if encoded is not None:
            self._calibrate(self.distance_[used], encoded, weight[used])
        return self

    def decision_function(
        self, X: ArrayLike, groups: ArrayLike | None = None
    ) -> NDArray[np.float64]:
        """Return the log-odds of being good.

        Parameters
        ----------
        X : array_like, shape (n, size, size) or (n, size * size)
        groups : array_like, shape (n,), optional
            Frame of each cutout. If given, each frame is judged by a PSF of its own cutouts.

        Returns
        -------
        ndarray of float64, shape (n,)
            -1000 where the fit failed.
        """
        distance = self.distances(X, groups)
        score = self.intercept_ - self.slope_ * np.log10(np.clip(distance, 1e-6, 1e6))
        return np.where(np.isfinite(distance), np.clip(score, -_SURE, _SURE), -2 * _SURE)

    def distances(self, X: ArrayLike, groups: ArrayLike | None = None) -> NDArray[np.float64]:
        """Return the distance used for ranking, shape (n,); smaller is better."""
        check_is_fitted(self)
        sources = _Sources.of(self, self._validate_cutouts(X, reset=False))
        n = len(sources.data)
        out = np.full(n, np.inf)
        left = np.ones(n, dtype=bool)
        if groups is not None:
            for rows in _rows_of(check_frames(groups, n)):
                verdict = self._judge_frame(sources[rows])
                if verdict is not None:
                    out[rows] = residual_distance(verdict.variance, verdict.peak)
                    left[rows] = False
        if left.any():
            verdict = self._judge(sources[left], self.psf_)
            out[left] = self._distance(verdict)
        out[~sources.eligible] = np.inf
        return out

    def _learn_frames(
        self, sources: _Sources, frames: NDArray[Any]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.int_]]:
        """Judge each frame by its own PSF, learn the common PSF, and return the figures."""
        n = len(frames)
        variance, peak, distance = np.full((3, n), np.inf)
        good = np.zeros(n, dtype=int)
        judged = [
            (rows, verdict)
            for rows in _rows_of(frames)
            if (verdict := self._judge_frame(sources[rows])) is not None
        ]
        if not judged:  # no frame has enough sources: use all together
            judged = [(np.arange(n), self._judge_frame_or_raise(sources))]
        for rows, verdict in judged:
            variance[rows], peak[rows] = verdict.variance, verdict.peak
            distance[rows] = residual_distance(verdict.variance, verdict.peak)
            good[rows] = best_labels(distance[rows], sources.eligible[rows], self.n_best)
        if len(judged[0][0]) == n:
            self.psf_ = judged[0][1].psf
            self._learn_scatter(variance)
            return variance, peak, distance, good
        self.psf_ = self._common_psf(sources, judged, distance)
        common = self._judge(sources, self.psf_)
        self._learn_scatter(common.variance)
        left = np.ones(n, dtype=bool)
        left[np.concatenate([rows for rows, _ in judged])] = False
        variance[left], peak[left] = common.variance[left], common.peak[left]
        distance[left] = self._distance(common)[left]
        return variance, peak, distance, good

    def _common_psf(
        self,
        sources: _Sources,
        judged: list[tuple[NDArray[np.intp], Verdict]],
        distance: NDArray[np.float64],
    ) -> EffectivePSF:
        """Stack the best stars of all frames, the same number of each."""
        if len(judged) == 1:
            return judged[0][1].psf
        share = max(_COMMON_STARS // len(judged), 1)
        best, fits = [], []
        for rows, verdict in judged:
            ranked = np.argsort(np.where(sources.eligible[rows], distance[rows], np.inf))[:share]
            ranked = ranked[np.isfinite(distance[rows[ranked]])]
            best.append(rows[ranked])
            fits.append(np.array(verdict.fit[:3])[:, ranked])
        stars, (dx, dy, flux) = np.concatenate(best), np.concatenate(fits, axis=1)
        # With more frames than stars needed, keep the best stars.
        kept = np.argsort(distance[stars], kind="stable")[:_COMMON_STARS]
        half = max(verdict.psf.half for _, verdict in judged)
        return stack_stars(sources.data[stars[kept]], dx[kept], dy[kept], flux[kept], half)

    def _judge_frame(self, sources: _Sources) -> Verdict | None:
        """Judge a frame by its own PSF; None if it has too few sources to make one."""
        if sources.eligible.sum() < _FEWEST:
            return None
        try:
            return self._judge_frame_or_raise(sources)
        except (NoSourcesError, PSFError):
            return None

    def _judge_frame_or_raise(self, sources: _Sources) -> Verdict:
        try:
            verdict = judge_frame(
                sources.data,
                sources.eligible,
                half_width=self.half_width,
                n_best=self.n_best,
                n_iter=self.n_iter,
                fitter=self.fitter,  # type: ignore[arg-type]
            )
        except (NoSourcesError, PSFError):
            if not self.pad:
                raise
            return self._judge(sources, _gaussian_psf(min(MIN_SIDE, sources.data.shape[-1]) // 2))
        verdict.variance[~sources.included] = verdict.peak[~sources.included] = np.inf
        return verdict

    def _judge(self, sources: _Sources, psf: EffectivePSF) -> Verdict:
        verdict = judge(sources.data, psf, self.half_width, self.fitter)  # type: ignore[arg-type]
        verdict.variance[~sources.included] = verdict.peak[~sources.included] = np.inf
        return verdict

    def _learn_scatter(self, variance: NDArray[np.float64]) -> None:
        """Store the unit and the limit that `residual_distance` would use for these variances."""
        finite = variance[np.isfinite(variance)]
        centre = float(np.median(finite)) if finite.size else 1.0
        unit = 1.4826 * float(np.median(np.abs(finite - centre))) if finite.size else 1.0
        self._variance_unit = unit if unit > 0 else (abs(centre) or 1.0)
        self._variance_limit = centre + 5.0 * self._variance_unit

    def _distance(self, verdict: Verdict) -> NDArray[np.float64]:
        """Return the distance in units of the learnt scatter."""
        distance = np.hypot(verdict.variance / self._variance_unit, verdict.peak)
        return np.where(verdict.variance <= self._variance_limit, distance, np.inf)

    def _calibrate(
        self, distance: NDArray[np.float64], y: NDArray[np.int_], weight: NDArray[np.float64]
    ) -> None:
        """Calibrate by Platt scaling on the logarithm of the distance."""
        # Sources without a fit are never good, so they are not used here.
        fitted = np.isfinite(distance)
        if len(np.unique(y[fitted])) < 2:
            return
        feature = np.log10(np.clip(distance[fitted], 1e-6, 1e6))[:, None]
        model = LogisticRegression(C=1e3).fit(feature, y[fitted], sample_weight=weight[fitted])
        self.intercept_ = float(model.intercept_[0])
        self.slope_ = max(-float(model.coef_[0, 0]), 0.0)


# From python -m benchmarks calibrate_residual, 20 simulated frames. At no distance is the rule
# certain of a star.
_DEFAULT_CALIBRATION = (-1.24, 1.42)


@dataclass(frozen=True, eq=False)
class _Sources:
    """Sky-subtracted cutouts, whether each may be good, and whether it is used at all."""

    data: NDArray[np.float32]
    eligible: NDArray[np.bool_]
    included: NDArray[np.bool_]

    @classmethod
    def of(cls, selector: ResidualSelector, cutouts: NDArray[np.float32]) -> _Sources:
        sky, _ = sky_and_noise(cutouts)
        data = cutouts - sky[:, None, None]
        included = in_range(data, selector.exclusion_range)
        return cls(data, included & in_range(data, selector.brightness_range), included)

    def __getitem__(self, rows: Any) -> _Sources:
        return _Sources(self.data[rows], self.eligible[rows], self.included[rows])


def _gaussian_psf(half: int) -> EffectivePSF:
    """Return a Gaussian PSF with the reference FWHM."""
    u = np.arange(-half * OVERSAMPLING, half * OVERSAMPLING + 1) / OVERSAMPLING
    width = 2 * (REFERENCE_FWHM / FWHM_PER_SIGMA) ** 2
    grid = np.exp(-(u**2 + u[:, None] ** 2) / width)
    return EffectivePSF(grid / (np.pi * width))


def _rows_of(frames: NDArray[Any]) -> list[NDArray[np.intp]]:
    """Return the rows of each frame."""
    return [np.flatnonzero(frames == frame) for frame in np.unique(frames)]
