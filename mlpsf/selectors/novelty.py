"""NoveltySelector: finds the stars without labels, as the tight cluster among the sources."""

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

from mlpsf.detection.common_size import stellar_size
from mlpsf.errors import NoSourcesError, PSFError
from mlpsf.frames.cutouts import REFERENCE_FWHM
from mlpsf.selectors.base import MIN_SIDE, FrameClassifier
from mlpsf.selectors.first_psf import Verdict, judge, judge_frame
from mlpsf.selectors.novelty_model import FEATURES, METHODS, NoveltyModel
from mlpsf.selectors.residual import _gaussian_psf
from mlpsf.stacks.effective import EffectivePSF
from mlpsf.stacks.fitting import FIT_HALF_WIDTH
from mlpsf.stacks.moments import gaussian_moments
from mlpsf.stacks.values import check_frames, sky_and_noise
from mlpsf.stamps.scaling import learns_at_once

__all__ = ["FEATURES", "METHODS", "NoveltySelector"]

# Median and scatter of the figures of unflagged sources of S/N > 30, without use of labels, in
# the validation frames of benchmarks.common.stamps (60 of random telescopes, 30 of a survey).
_CENTRE = np.array([0.0172, -1.578, -2.841])
_SCALE = np.array([0.911, 1.605, 2.915])
_REACH = 8.0  # limit in units of _SCALE; a diverged fit counts as a bad one

_CALIBRATION = {
    ("gaussian_mixture", "shape"): (-0.92, 0.28),
    ("kmeans", "shape"): (-0.74, 0.912),
    ("isolation_forest", "shape"): (2.27, 4.95),
    ("one_class_svm", "shape"): (-11.52, 11.7),
    ("gaussian_mixture", "residual"): (-0.76, 0.425),
    ("kmeans", "residual"): (-0.61, 1.11),
    ("isolation_forest", "residual"): (5.61, 9.7),
    ("one_class_svm", "residual"): (-7.20, 7.49),
    ("gaussian_mixture", "shape+residual"): (-1.13, 0.299),
    ("kmeans", "shape+residual"): (-1.23, 0.739),
    ("isolation_forest", "shape+residual"): (5.33, 9.37),
    ("one_class_svm", "shape+residual"): (-6.34, 7.15),
    ("gaussian_mixture", "embedding"): (0.61, 0.118),
    ("kmeans", "embedding"): (0.90, 0.473),
    ("isolation_forest", "embedding"): (2.44, 6.42),
    ("one_class_svm", "embedding"): (-4.55, 17.9),
}
"""Intercept and slope of the log-odds as a function of the score, measured by
``python -m benchmarks novelty``.
"""

_FEWEST = 5  # fewest sources of a frame from which a PSF is made
_POOL = 1000  # sources for the common PSF of several frames
_BRIGHT = 600  # brightest sources used to find the size of the stars
_SURE = 500.0  # limit of the log-odds; sources that cannot be judged get -2 * _SURE


class NoveltySelector(FrameClassifier):
    """Separate stars from other sources without labels, by novelty detection.

    The stars of a frame share a size and a shape, and subtracting the PSF leaves little of them.
    Galaxies, blends and artefacts differ from the stars and from one another. Three figures
    measure how much a source differs from the stars: its distance in size and shape from the
    bright sources of the frame, and the variance and the second-highest pixel of its residual
    after PSF subtraction. All are logarithms. A scikit-learn model finds the tight cluster in
    them.

    Parameters
    ----------
    method : {"gaussian_mixture", "kmeans", "isolation_forest", "one_class_svm"}
        The first two take the cluster with the smallest figures as the stars. The last two learn
        the most star-like 30 % as their only class, and measure how far a source is outside it.
    features : {"shape+residual", "shape", "residual", "embedding"}
        ``"embedding"``: the first four principal components of the pretrained network's last
        hidden layer, for stamps of its size and FWHM; best with ``"kmeans"`` and many frames. It
        is much better, but not free of labels: the network was trained on labelled simulations.
    n_anchors : int
        Number of simulated sources whose figures are added to the fit. They are drawn from the
        mixture that fits 10,000 simulated sources. Without them, the clusters of a frame with a
        dozen stars would be down to chance. Not used with ``"embedding"``.
    n_best : int
        Number of sources that make a frame's PSF.
    half_width : int
        Half-width in pixels of the fit window.
    pad : bool
        Whether to accept tables of any width. Rows whose length is not an odd square are centred
        in zeros and padded to the next odd square of 15 pixels a side or more.
    random_state : int, RandomState or None
        Used by the isolation forest and by clusters in the embedding.

    Attributes
    ----------
    classes_ : ndarray, shape (2,)
        Labels: other, good.
    model_ : NoveltyModel
        The fitted model; its ``estimator_`` is scikit-learn's.
    psf_ : EffectivePSF
        PSF of the fitted cutouts; a common one for several frames.
    labels_ : ndarray, shape (n,)
        Predicted labels of the fitted cutouts.
    intercept_, slope_ : float
        The log-odds of good are ``intercept_ + slope_ * score``; the slope is positive.
    n_features_in_ : int

    Notes
    -----
    Pass the frame of each cutout as ``groups``, to ``fit`` and later methods, to compare every
    source with the stars of its own frame. The clusters are always of all frames. Without
    ``groups``, ``fit`` takes all cutouts as one frame, and later cutouts are compared with its
    stars.

    The defaults are the best choices that need no labels, on simulated frames
    (``python -m benchmarks novelty``).
    Without labels in ``fit``, probabilities follow a calibration on those frames.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> u = np.arange(-15, 16)
    >>> star = np.exp(-0.5 * (u**2 + u[:, None] ** 2) / 4)
    >>> X = 1000 * star + rng.normal(0, 1, (30, 31, 31))
    >>> X[0] += 900 * np.roll(star, 4)  # a close pair
    >>> selector = NoveltySelector().fit(X)
    >>> int(selector.labels_[0]), int(selector.labels_.sum())
    (0, 29)
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "method": [StrOptions(set(METHODS))],
        "features": [StrOptions(set(FEATURES))],
        "n_anchors": [Interval(Integral, 0, None, closed="left")],
        "n_best": [Interval(Integral, 3, None, closed="left")],
        "half_width": [Interval(Integral, 1, None, closed="left")],
        "pad": ["boolean"],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        *,
        method: str = "gaussian_mixture",
        features: str = "shape+residual",
        n_anchors: int = 300,
        n_best: int = 25,
        half_width: int = FIT_HALF_WIDTH,
        pad: bool = False,
        random_state: Any = None,
    ) -> None:
        self.method = method
        self.features = features
        self.n_anchors = n_anchors
        self.n_best = n_best
        self.half_width = half_width
        self.pad = pad
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    @learns_at_once
    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Find the cluster of the stars.

        Parameters
        ----------
        X : array_like, shape (n, size, size) or (n, size * size)
            Cutouts, NaN where masked. The unit and a constant sky level do not matter.
        y : array_like, shape (n,), optional
            Labels, used only to calibrate the probabilities.
        groups : array_like, shape (n,), optional
            Frame of each cutout. Default: all are of one frame.
        sample_weight : array_like, shape (n,), optional
            Weights of the labels in the calibration. A cutout of weight 0 is ignored.

        Returns
        -------
        self

        Raises
        ------
        NoSourcesError
            No cutout looks like a star.
        """
        cutouts = self._validate_cutouts(X, reset=True)
        n = len(cutouts)
        labels = None if y is None else self._validate_labels(y, n)
        weight = self._validate_weight(sample_weight, cutouts)
        used = np.flatnonzero(weight)
        frames = None if groups is None else check_frames(groups, n)[used]
        if labels is None:
            self.classes_ = np.array([0, 1])
        else:
            encoded = self._encode(labels[used])
        figures = self._learn_figures(cutouts[used], frames)
        values = self._embed(cutouts[used], frames) if self.features == "embedding" else figures
        self.model_ = NoveltyModel(self.method, self.features, self.n_anchors, self.random_state)
        score = np.full(n, -np.inf)
        score[used] = self.model_.fit(values, figures).score(values)
        self.intercept_, self.slope_ = _CALIBRATION[self.method, self.features]
        if labels is not None:
            self._calibrate(score[used], encoded, weight[used])
        self.labels_ = self._labels_of(self._to_log_odds(score))
        return self

    def decision_function(
        self, X: ArrayLike, groups: ArrayLike | None = None
    ) -> NDArray[np.float64]:
        """Return the log-odds of being good.

        Parameters
        ----------
        X : array_like, shape (n, size, size) or (n, size * size)
        groups : array_like, shape (n,), optional
            Frame of each cutout. If given, each is compared with the stars of its own frame.

        Returns
        -------
        ndarray of float64, shape (n,)
            -1000 where the source cannot be measured.
        """
        check_is_fitted(self)
        cutouts = self._validate_cutouts(X, reset=False)
        if self.features == "embedding":
            return self._to_log_odds(self.model_.score(self._embed(cutouts, groups)))
        return self._to_log_odds(self.model_.score(self._figures(cutouts, groups)))

    def _learn_figures(
        self, cutouts: NDArray[np.float32], groups: ArrayLike | None
    ) -> NDArray[np.float64]:
        """Learn the stars that later sources are compared with, and return the figures."""
        n = len(cutouts)
        # All cutouts of a single frame; of several frames, enough for a common PSF.
        several = groups is not None and len(np.unique(np.asarray(groups))) > 1
        sample = np.arange(n)[:: -(-n // _POOL) if several else 1]
        sources = Sources.of(cutouts[sample])
        self._stars, verdict = self._learn_stars(sources)
        self.psf_ = self._stars.psf
        if groups is None:
            return _figures(sources, self._stars, verdict)
        return self._figures(cutouts, groups)

    def _figures(
        self, cutouts: NDArray[np.float32], groups: ArrayLike | None
    ) -> NDArray[np.float64]:
        """Return the figures of each source, shape (n, 3); NaN where it cannot be judged."""
        n = len(cutouts)
        sources = Sources.of(cutouts)
        out = np.full((n, 3), np.nan)
        left = np.ones(n, dtype=bool)
        if groups is not None:
            frames = check_frames(groups, n)
            for frame in np.unique(frames):
                rows = np.flatnonzero(frames == frame)
                own = sources[rows]
                if own.usable.sum() < _FEWEST:
                    continue
                try:
                    out[rows] = _figures(own, *self._learn_stars(own))
                except (NoSourcesError, PSFError):
                    continue
                left[rows] = False
        if left.any():
            rest = sources[left]
            out[left] = _figures(rest, self._stars, judge(rest.data, self.psf_, self.half_width))
        return out

    def _learn_stars(self, sources: Sources) -> tuple[Stars, Verdict]:
        try:
            verdict = judge_frame(
                sources.data, sources.usable, half_width=self.half_width, n_best=self.n_best
            )
            return Stars.of(sources, verdict.psf), verdict
        except (NoSourcesError, PSFError):
            if not self.pad:
                raise
        # A table is not an image, so any star will do.
        psf = _gaussian_psf(min(MIN_SIDE, sources.data.shape[-1]) // 2)
        return Stars(psf, REFERENCE_FWHM, 0.0, 0.0), judge(sources.data, psf, self.half_width)

    def _embed(self, cutouts: NDArray[np.float32], groups: ArrayLike | None) -> NDArray[np.float64]:
        from mlpsf.selectors.cnn import PSFStarSelector

        network = PSFStarSelector.from_pretrained()
        return network.embed(cutouts, groups).astype(np.float64)

    def _calibrate(
        self, score: NDArray[np.float64], good: NDArray[np.int_], weight: NDArray[np.float64]
    ) -> None:
        """Calibrate the score by Platt scaling."""
        judged = np.isfinite(score)
        if len(np.unique(good[judged])) == 2:
            # Extreme scores are certain in any case and must not set the slope.
            feature = np.clip(score[judged], -30, 30)[:, None]
            model = LogisticRegression(C=1e3)
            model.fit(feature, good[judged], sample_weight=weight[judged])
            self.intercept_ = float(model.intercept_[0])
            self.slope_ = max(float(model.coef_[0, 0]), 1e-3)

    def _to_log_odds(self, score: NDArray[np.float64]) -> NDArray[np.float64]:
        log_odds = np.clip(self.intercept_ + self.slope_ * score, -_SURE, _SURE)
        return np.where(np.isfinite(score), log_odds, -2 * _SURE)


@dataclass(frozen=True, eq=False)
class Sources:
    """Sky-subtracted cutouts of peak 1, their noise, and whether they show any light."""

    data: NDArray[np.float32]
    noise: NDArray[np.float32]
    usable: NDArray[np.bool_]

    @classmethod
    def of(cls, cutouts: NDArray[np.float32]) -> Sources:
        sky, noise = sky_and_noise(cutouts)
        data = cutouts - sky[:, None, None]
        c = data.shape[-1] // 2
        core = np.nan_to_num(data[:, c - 1 : c + 2, c - 1 : c + 2], nan=-np.inf)
        peak: NDArray[np.float32] = core.reshape(len(data), -1).max(axis=1)
        usable = np.isfinite(peak) & (peak > noise) & (peak > 0)
        peak = np.where(usable, peak, 1).astype(np.float32)
        return cls(data / peak[:, None, None], noise / peak, usable)

    def __getitem__(self, rows: Any) -> Sources:
        return Sources(self.data[rows], self.noise[rows], self.usable[rows])


@dataclass(frozen=True, eq=False)
class Stars:
    """Common properties of a frame's stars: PSF, and size and shape from moments."""

    psf: EffectivePSF
    fwhm: float
    e1: float
    e2: float

    @classmethod
    def of(cls, sources: Sources, psf: EffectivePSF) -> Stars:
        m = gaussian_moments(sources.data)
        rows = np.flatnonzero(m.ok & sources.usable)
        if rows.size == 0:
            raise NoSourcesError(
                f"None of the {len(m.ok)} cutouts holds a source whose size can be measured."
            )
        # All peaks are 1, so lower noise means brighter.
        bright = rows[np.argsort(sources.noise[rows], kind="stable")]
        bright = bright[: min(max(50, len(rows) // 2), _BRIGHT)]
        size = stellar_size(m.fwhm[bright], m.e1[bright], m.e2[bright])
        near = bright[np.abs(m.fwhm[bright] / size - 1) < 0.1]
        near = near if near.size else bright
        return cls(psf, *(float(np.median(v[near])) for v in (m.fwhm, m.e1, m.e2)))


def _figures(sources: Sources, stars: Stars, verdict: Verdict) -> NDArray[np.float64]:
    """Return the scaled logarithms of each source's distance from the stars, shape (n, 3)."""
    m = gaussian_moments(sources.data)
    # Errors of the moments at S/N 30 and their change over a frame, as in `detection.common_size`.
    apart = np.hypot(
        np.log(m.fwhm / stars.fwhm) / 0.035, np.hypot(m.e1 - stars.e1, m.e2 - stars.e2) / 0.08
    )
    with np.errstate(divide="ignore"):
        raw = np.column_stack(
            [
                np.log(apart + 0.3),  # ignores differences below a third of the error
                np.log(np.maximum(verdict.peak, 1e-3)),
                np.log(np.maximum(verdict.variance, 1e-6)),
            ]
        )
    raw[~(np.isfinite(raw).all(axis=1) & sources.usable)] = np.nan
    scaled: NDArray[np.float64] = np.clip((raw - _CENTRE) / _SCALE, -_REACH, _REACH)
    return scaled
