"""Figures of merit of probabilities, each with a confidence interval over frames."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

THRESHOLD = 0.9


def calibration_error(y: NDArray, p: NDArray, n_bins: int = 10) -> float:
    """Return the mean of |share of good - mean probability| over equal bins."""
    bins = np.minimum((p * n_bins).astype(int), n_bins - 1)
    total = 0.0
    for b in range(n_bins):
        inside = bins == b
        if inside.any():
            total += inside.mean() * abs(y[inside].mean() - p[inside].mean())
    return float(total)


SCORES: dict[str, Callable[[NDArray, NDArray], float]] = {
    "ROC AUC": roc_auc_score,
    "average precision": average_precision_score,
    "balanced accuracy": lambda y, p: balanced_accuracy_score(y, p >= 0.5),
    "precision at 0.9": lambda y, p: precision_score(y, p >= THRESHOLD, zero_division=np.nan),
    "recall at 0.9": lambda y, p: recall_score(y, p >= THRESHOLD),
    "calibration error": calibration_error,
}

STUDY_RECALL = 0.7123
"""Recall of the ML-PSF study at its threshold of 0.9."""


def _precision(y: NDArray, p: NDArray, threshold: float) -> float:
    """Return the share of good ones among those at or above a threshold, NaN if there are none."""
    taken = y[p >= threshold]
    return float(taken.mean()) if taken.size else np.nan


# In plain numpy: a bootstrap asks for them thousands of times.
STUDY_SCORES: dict[str, Callable[[NDArray, NDArray], float]] = {
    "accuracy": lambda y, p: float(np.mean((p >= 0.5) == (y == 1))),
    "bad kept out": lambda y, p: float(np.mean(p[y == 0] < 0.5)),
    "good taken": lambda y, p: float(np.mean(p[y == 1] >= 0.5)),
    "precision at 0.9": lambda y, p: _precision(y, p, THRESHOLD),
    "recall at 0.9": lambda y, p: float(np.mean(p[y == 1] >= THRESHOLD)),
    "false positives at 0.9": lambda y, p: float(np.mean(p[y == 0] >= THRESHOLD)),
    "precision at its recall": lambda y, p: _precision(
        y, p, float(np.quantile(p[y == 1], 1 - STUDY_RECALL, method="lower"))
    ),
}
"""What the ML-PSF study published, of a set with as many good sources as bad; at its recall too."""


def score(
    y: NDArray,
    p: NDArray,
    frame: NDArray,
    n_boot: int = 200,
    seed: int = 0,
    scores: dict[str, Callable[[NDArray, NDArray], float]] = SCORES,
) -> Table:
    """Score probabilities; the interval is the central 95 % of resamplings of whole frames."""
    rng = np.random.default_rng(seed)
    rows_of = [np.flatnonzero(frame == f) for f in np.unique(frame)]
    draws: dict[str, list[float]] = {name: [] for name in scores}
    for _ in range(n_boot):
        rows = np.concatenate([rows_of[i] for i in rng.integers(0, len(rows_of), len(rows_of))])
        if 0 < y[rows].mean() < 1:
            for name, function in scores.items():
                draws[name].append(function(y[rows], p[rows]))
    out = Table(names=("score", "value", "low", "high"), dtype=(str, float, float, float))
    for name, function in scores.items():
        low, high = np.nanpercentile(draws[name], [2.5, 97.5])
        out.add_row((name, function(y, p), low, high))
    for column in ("value", "low", "high"):
        out[column].format = ".4f"
    return out
