"""Fit the residual selector's default calibration: ``python -m benchmarks calibrate_residual``.

Validation frames of the survey and of random telescopes; every source that the rule judges, against
the truth. Prints the two constants of `mlpsf.selectors.residual` and what they are worth.
"""

from __future__ import annotations

import argparse

import numpy as np
from sklearn.linear_model import LogisticRegression
from tqdm import tqdm

from benchmarks.common.scores import score
from benchmarks.common.stamps import draw_frame, truth_of
from mlpsf.errors import MlpsfError
from mlpsf.pipeline import select_stars
from mlpsf.selectors.residual import _DEFAULT_CALIBRATION


def main() -> None:
    """Judge, fit, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=20, help="of each kind")
    arguments = parser.parse_args()
    intercept, slope = _DEFAULT_CALIBRATION
    logs, labels, frames = [], [], []
    jobs = [(kind, i) for kind in ("quarter", "random") for i in range(arguments.frames)]
    for number, (kind, i) in enumerate(tqdm(jobs, disable=None)):
        try:
            sim, _ = draw_frame(kind, "validation", i)
            table = select_stars(sim.frame, selector="residual", threshold=0, n_min=0)
        except MlpsfError as error:
            tqdm.write(f"{kind} {i}: {error}")
            continue
        p = np.asarray(table["probability"])
        judged = np.isfinite(p) & (p > 0)
        label, _ = truth_of(sim, table)
        rows = np.flatnonzero(judged & (label >= 0))
        logit = np.log(p[rows] / np.maximum(1 - p[rows], 1e-15))
        logs.append((intercept - logit) / slope)
        labels.append(label[rows])
        frames.append(np.full(len(rows), number))
    x, y, frame = map(np.concatenate, (logs, labels, frames))
    model = LogisticRegression(C=1e3).fit(x[:, None], y)
    print(f"intercept {model.intercept_[0]:.3f}, slope {-model.coef_[0, 0]:.3f}, {len(y)} sources")
    score(y, model.predict_proba(x[:, None])[:, 1], frame).pprint_all()
