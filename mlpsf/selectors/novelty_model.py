"""Model of the stars' cluster: a scikit-learn model fitted to the most star-like sources."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

from mlpsf.errors import NoSourcesError

__all__ = ["FEATURES", "METHODS", "NoveltyModel"]

FEATURES = {"shape": [0], "residual": [1, 2], "shape+residual": [0, 1, 2], "embedding": []}
"""Columns of the figures used by each choice of features."""

METHODS = ("gaussian_mixture", "kmeans", "isolation_forest", "one_class_svm")

# Mixture of two components, stars and others, that fits the figures of the validation frames'
# sources. It separates the clusters where a frame has too few sources.
_WEIGHTS = np.array([0.55, 0.45])
_MEANS = np.array([[-0.352, -0.498, -0.611], [1.665, 1.009, 0.901]])
_COVARIANCES = np.array(
    [
        [[0.234, 0.103, 0.139], [0.103, 0.379, 0.345], [0.139, 0.345, 0.453]],
        [[1.871, -0.451, -0.375], [-0.451, 0.871, 0.787], [-0.375, 0.787, 0.779]],
    ]
)
_CROWD, _MOST = 0.3, 5000  # fraction and largest number of sources in a one-class model


class NoveltyModel:
    """Score how well sources fit the stars' cluster; parameters as in `NoveltySelector`."""

    def __init__(self, method: str, features: str, n_anchors: int, random_state: Any) -> None:
        self.method = method
        self.features = features
        self.n_anchors = n_anchors
        self.random_state = random_state

    def fit(self, values: NDArray[np.float64], figures: NDArray[np.float64]) -> Self:
        """Find the clusters; `figures`, shape (n, 3), identify the one of the stars."""
        learnt = self.features == "embedding"
        rows = np.flatnonzero(np.isfinite(figures).all(axis=1))
        figures = figures[rows]
        self._columns = columns = FEATURES[self.features]
        if learnt and rows.size:
            n = min(4, *values[rows].shape)
            self._spread = make_pipeline(StandardScaler(), PCA(n, random_state=0))
            z, level = self._spread.fit_transform(values[rows]), figures.sum(axis=1)
        else:
            z = np.vstack([figures, _anchors(self.n_anchors)])[:, columns]
            level = z.sum(axis=1)
        if len(z) < 2:
            raise NoSourcesError(f"Only {rows.size} cutouts can be measured; expected 2 or more.")
        if self.method in ("gaussian_mixture", "kmeans"):
            self._fit_clusters(z, level, learnt)
        else:
            self._fit_class(z, level, learnt)
        return self

    def score(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the score of each source, shape (n,): higher is more star-like, -inf unknown."""
        out = np.full(len(values), -np.inf)
        known = np.isfinite(values).all(axis=1)
        if known.any():
            z = values[known]
            learnt = self.features == "embedding"
            out[known] = self._score(self._spread.transform(z) if learnt else z[:, self._columns])
        return out

    def _fit_clusters(
        self, z: NDArray[np.float64], level: NDArray[np.float64], learnt: bool
    ) -> None:
        mixture = self.method == "gaussian_mixture"
        k = min(3 if learnt or not mixture else 2, len(np.unique(z, axis=0)))
        if mixture:
            start: dict[str, Any] = {"n_init": 2, "random_state": self.random_state}
            if not learnt and k == 2:
                c = self._columns
                start = {
                    "init_params": "random_from_data",  # not used; avoids a needless k-means
                    "weights_init": _WEIGHTS,
                    "means_init": _MEANS[:, c],
                    "precisions_init": np.linalg.inv(_COVARIANCES[:, c][:, :, c]),
                }
            model = GaussianMixture(k, reg_covar=1e-2, max_iter=300, **start).fit(z)
        else:
            init: Any = "k-means++"
            if not learnt and k == 3:
                init = np.repeat([[-1.5], [0.0], [1.5]], z.shape[1], axis=1)
            model = KMeans(
                k,
                init=init,
                n_init=3 if isinstance(init, str) else 1,
                random_state=self.random_state,
            ).fit(z)
        self.estimator_: Any = model
        cluster = model.predict(z)
        # A cluster without members cannot be that of the stars.
        mean = [level[cluster == i].mean() if (cluster == i).any() else np.inf for i in range(k)]
        self._star = int(np.argmin(mean))

    def _fit_class(self, z: NDArray[np.float64], level: NDArray[np.float64], learnt: bool) -> None:
        crowd = np.flatnonzero(level <= np.quantile(level, _CROWD))
        crowd = crowd[:: -(-len(crowd) // _MOST)]
        # A smaller residual than that of a typical star is not a novelty.
        self._floor: Any = -np.inf if learnt else np.median(z[crowd], axis=0)
        if self.method == "isolation_forest":
            model = IsolationForest(random_state=self.random_state)
        else:
            model = OneClassSVM(nu=0.2, gamma=0.1)
        self.estimator_ = model.fit(np.maximum(z[crowd], self._floor))

    def _score(self, z: NDArray[np.float64]) -> NDArray[np.float64]:
        model = self.estimator_
        if self.method == "isolation_forest":
            score = model.score_samples(np.maximum(z, self._floor))
        elif self.method == "one_class_svm":
            # The mean kernel, whose scale does not depend on the number of sources.
            score = model.score_samples(np.maximum(z, self._floor)) / model.dual_coef_.sum()
        elif self.method == "kmeans":
            score = _lead(-model.transform(z), self._star)
        else:
            step = np.einsum("nki,kij->nkj", z[:, None] - model.means_, model.precisions_cholesky_)
            norm = np.log(np.einsum("kii->ki", model.precisions_cholesky_)).sum(axis=1)
            score = _lead(np.log(model.weights_) + norm - 0.5 * (step**2).sum(axis=2), self._star)
        return np.asarray(score, dtype=np.float64)


def _lead(merit: NDArray[np.float64], star: int) -> NDArray[np.float64]:
    """Return the merit of the stars' cluster minus that of the best other, shape (n,)."""
    others = np.delete(merit, star, axis=1)
    lead: NDArray[np.float64] = merit[:, star] - (others.max(axis=1) if others.size else 0.0)
    return lead


def _anchors(n: int) -> NDArray[np.float64]:
    """Draw the figures of n simulated sources, shape (n, 3); always the same."""
    rng = np.random.default_rng(0)
    kind = (rng.random(n) > _WEIGHTS[0]).astype(int)
    root = np.linalg.cholesky(_COVARIANCES)
    drawn: NDArray[np.float64] = _MEANS[kind] + np.einsum(
        "nij,nj->ni", root[kind], rng.standard_normal((n, 3))
    )
    return drawn
