"""Compare what can be done without labels: ``python -m benchmarks novelty [--split test]``.

Every method of `mlpsf.NoveltySelector` on every choice of features, on the labelled stamps of
simulated frames, fitted three ways: ``frame``, each frame by itself as the classical rule works;
``groups``, sources compared with their own frame's stars and one model of all frames; ``pooled``,
all sources taken for one frame's. No label is used but to score, and to find the constants of the
default calibration, which are printed.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks.common.scores import calibration_error
from benchmarks.common.stamps import OUTPUT, load_stamps
from mlpsf.errors import MlpsfError
from mlpsf.files import whole_file
from mlpsf.flags import NEVER_A_PSF_STAR
from mlpsf.labelling import residual_distance
from mlpsf.selectors.first_psf import judge_frame
from mlpsf.selectors.novelty import FEATURES, METHODS, NoveltySelector, Sources
from mlpsf.selectors.novelty_model import NoveltyModel

N_BEST = 25
N_BOOT = 200
MODES = ("frame", "groups", "pooled")


def of_each_frame(frame: NDArray) -> list[NDArray]:
    """Rows of each frame that has five sources at least."""
    rows = [np.flatnonzero(frame == f) for f in np.unique(frame)]
    return [r for r in rows if len(r) >= 5]


def cached_inputs(data: dict[str, NDArray], path: Path) -> dict[str, NDArray]:
    """Measure the sources once: figures against own frame and all frames, embedding, rule."""
    if path.exists():
        with np.load(path) as file:
            return dict(file)
    stamps, frame = data["stamps"].astype(np.float32), data["frame"]
    selector = NoveltySelector()
    out = {
        "own": selector._learn_figures(stamps, frame),
        "common": selector._learn_figures(stamps, None),
        "rule": np.full(len(stamps), np.inf),
    }
    for rows in of_each_frame(frame):
        sources = Sources.of(stamps[rows])
        try:
            verdict = judge_frame(sources.data, sources.usable, half_width=7, n_best=N_BEST)
        except MlpsfError:
            continue
        out["rule"][rows] = residual_distance(verdict.variance, verdict.peak)
    try:
        out["embedding"] = selector._embed(stamps)
        from mlpsf.selectors import PSFStarSelector

        out["network"] = PSFStarSelector.from_pretrained().predict_proba(stamps)[:, 1]
    except MlpsfError as error:
        print(f"no embedding: {error}")
    with whole_file(path) as temporary:
        np.savez(temporary, **out)
    return out


def scores_of(
    method: str,
    features: str,
    mode: str,
    inputs: dict[str, NDArray],
    frame: NDArray,
    n_anchors: int = 300,
) -> NDArray:
    """Score all sources, fitted in one of the modes."""
    figures = inputs["common" if mode == "pooled" else "own"]
    values = inputs["embedding"] if features == "embedding" else figures
    score = np.full(len(frame), -np.inf)
    for rows in of_each_frame(frame) if mode == "frame" else [np.arange(len(frame))]:
        model = NoveltyModel(method, features, n_anchors, 0)
        try:
            score[rows] = model.fit(values[rows], figures[rows]).score(values[rows])
        except MlpsfError:
            continue
    return score


def judge(score: NDArray, label: NDArray, frame: NDArray) -> dict[str, tuple[float, float, float]]:
    """ROC AUC and average precision of all, purity of the best of each frame; 95 % over frames.

    A frame with fewer good stars than 25 is asked for as many as it has.
    """
    score = np.nan_to_num(score, neginf=-1e9, posinf=1e9)
    rows_of = [np.flatnonzero(frame == f) for f in np.unique(frame)]
    purity = np.full(len(rows_of), np.nan)
    for i, rows in enumerate(rows_of):
        n = min(N_BEST, int(label[rows].sum()))
        if 0 < n < len(rows):
            purity[i] = label[rows[np.argsort(-score[rows], kind="stable")[:n]]].mean()

    def figures(frames: NDArray) -> list[float]:
        rows = np.concatenate([rows_of[i] for i in frames])
        y, s = label[rows], score[rows]
        return [
            roc_auc_score(y, s),
            average_precision_score(y, s),
            float(np.nanmean(purity[frames])),
        ]

    rng = np.random.default_rng(0)
    n = len(rows_of)
    value = figures(np.arange(n))
    draws = np.array([figures(rng.integers(0, n, n)) for _ in range(N_BOOT)])
    low, high = np.percentile(draws, [2.5, 97.5], axis=0)
    names = ("ROC AUC", "average precision", f"purity of {N_BEST}")
    return {name: (value[i], low[i], high[i]) for i, name in enumerate(names)}


def calibration(score: NDArray, label: NDArray) -> tuple[float, float]:
    """Intercept and slope of the log-odds on the score."""
    known = np.isfinite(score)
    feature = np.clip(score[known], -30, 30)[:, None]
    model = LogisticRegression(C=1e3).fit(feature, label[known])
    return float(model.intercept_[0]), float(model.coef_[0, 0])


def main() -> None:
    """Measure, print the table and the calibration, write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", default="validation", choices=["validation", "test"])
    split = parser.parse_args().split
    warnings.simplefilter("ignore")
    data = load_stamps(OUTPUT / "stamps", split)
    candidate = data["flags"] & int(NEVER_A_PSF_STAR) == 0
    data = {name: values[candidate] for name, values in data.items()}
    inputs = cached_inputs(data, OUTPUT / f"novelty-{split}.npz")
    frame, label = data["frame"], data["label"]
    judged = label >= 0
    y = (label[judged] == 1).astype(int)
    print(f"{len(label)} sources, {judged.sum()} judged, {y.mean():.1%} good")
    table = Table(
        names=("method", "features", "fit", "score", "value", "low", "high"),
        dtype=(str, str, str, str, float, float, float),
    )

    def add(method: str, features: str, mode: str, score: NDArray) -> None:
        words = []
        for name, row in judge(score[judged], y, frame[judged]).items():
            table.add_row((method, features, mode, name, *row))
            words.append(f"{row[0]:.3f} [{row[1]:.3f}, {row[2]:.3f}]")
        print(f"{method:17} {features:15} {mode:7}", *words, flush=True)

    print(f"{'':41} ROC AUC, average precision, purity of {N_BEST}")
    add("classical rule", "residual", "frame", -inputs["rule"])
    if "network" in inputs:
        add("network", "with labels", "", inputs["network"])
    constants = {}
    for features in FEATURES:
        if features == "embedding" and "embedding" not in inputs:
            continue
        for method in METHODS:
            for mode in MODES:
                score = scores_of(method, features, mode, inputs, frame)
                add(method, features, mode, score)
                if mode == "frame":
                    constants[method, features] = calibration(score[judged], y)
                    a, b = constants[method, features]
                    p = 1 / (1 + np.exp(-np.clip(a + b * score[judged], -500, 500)))
                    error = calibration_error(y, p)
                    print(
                        f"    ({method!r}, {features!r}): ({a:.2f}, {b:.3g}),  # error {error:.3f}"
                    )
    for n in (0, 100, 1000):
        score = scores_of(METHODS[0], "shape+residual", "frame", inputs, frame, n)
        add(f"mixture, {n} anchors", "shape+residual", "frame", score)
    for column in ("value", "low", "high"):
        table[column].format = ".4f"
    table.write(OUTPUT / f"novelty-{split}.ecsv", overwrite=True)
