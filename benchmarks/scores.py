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


def score(y: NDArray, p: NDArray, frame: NDArray, n_boot: int = 200, seed: int = 0) -> Table:
    """Score probabilities; the interval is the central 95 % of resamplings of whole frames."""
    rng = np.random.default_rng(seed)
    rows_of = [np.flatnonzero(frame == f) for f in np.unique(frame)]
    draws: dict[str, list[float]] = {name: [] for name in SCORES}
    for _ in range(n_boot):
        rows = np.concatenate([rows_of[i] for i in rng.integers(0, len(rows_of), len(rows_of))])
        if 0 < y[rows].mean() < 1:
            for name, function in SCORES.items():
                draws[name].append(function(y[rows], p[rows]))
    out = Table(names=("score", "value", "low", "high"), dtype=(str, float, float, float))
    for name, function in SCORES.items():
        low, high = np.nanpercentile(draws[name], [2.5, 97.5])
        out.add_row((name, function(y, p), low, high))
    for column in ("value", "low", "high"):
        out[column].format = ".4f"
    return out
