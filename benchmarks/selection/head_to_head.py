"""All selectors under one cross-validation, with one X: ``python -m benchmarks head_to_head``.

Raw cutouts of 111 pixels from a simulated night (`benchmarks.common.nights`), the frame of
each as ``groups``; every selector in a plain ``Pipeline``, fitted anew in every fold and judged on
frames that it never saw. The labels are the truth's, or those of the residual rule. Then a
``GridSearchCV`` over the parameters of `mlpsf.PSFHomogenizer` and of a network behind it.

Each row is kept when it is done, that of the shipped model by the model's content: run again, only
what is missing is measured, and after a training only its row. ``--again WORD`` measures rows anew.
"""

from __future__ import annotations

import argparse
import re
import time
import warnings
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import numpy as np
import sklearn
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_validate
from sklearn.pipeline import Pipeline

from benchmarks.common.nights import load_night, load_pixels, make_nights
from benchmarks.common.results import record
from benchmarks.common.scores import SCORES, score
from benchmarks.common.stamps import OUTPUT
from benchmarks.selection.study import FIGURES, LONGER, STOP
from mlpsf import NoveltySelector, PSFHomogenizer, PSFStarSelector, ResidualSelector
from mlpsf.files import whole_file
from mlpsf.labelling import balance
from mlpsf.selectors.storage import pretrained_path

HOME = OUTPUT / "head_to_head"
SHIPPED, SLOW = "network, as shipped", "residual rule, TRIPPy's fitter"
SEARCHED = (
    "param_psf__replace",
    "param_psf__size",
    "param_network__learning_rate",
    "mean_test_roc_auc",
    "std_test_roc_auc",
    "mean_test_neg_brier_score",
)


class ShippedSelector(PSFStarSelector):
    """The model that ships as an estimator that a search may fit: nothing is learned."""

    def fit(  # type: ignore[override]
        self,
        X: ArrayLike,  # noqa: ARG002 - scikit-learn's signature
        y: ArrayLike | None = None,  # noqa: ARG002
        groups: ArrayLike | None = None,  # noqa: ARG002
    ) -> Self:
        """Load the model."""
        self.__dict__.update(PSFStarSelector.from_pretrained().__dict__)
        return self


def selectors() -> dict[str, Any]:
    """Return all that are compared, by name."""
    common = {"validation_fraction": 2 / 9, "class_weight": "balanced", "random_state": 1}
    return {
        SHIPPED: ShippedSelector(),
        "default network, taught here": PSFStarSelector(homogenize=True, **STOP, **common),
        "the study's network, taught here": PSFStarSelector(**LONGER, **common),
        "novelty, no labels": NoveltySelector(random_state=1),
        "residual rule, vectorised": ResidualSelector(),
        SLOW: ResidualSelector(fitter="trippy", n_iter=0),
    }


def pipeline(selector: Any) -> Pipeline:
    """Put a selector into a pipeline that hands it the frame of each cutout."""
    selector = selector.set_fit_request(groups=True)
    for method in ("predict_proba", "predict", "decision_function", "score"):
        getattr(selector, f"set_{method}_request")(groups=True)
    return Pipeline([("selector", selector)])


def one_x(n_frames: int, label: str, workers: int) -> tuple[NDArray, NDArray, NDArray]:
    """Return raw cutouts, labels and frames of a night; ambiguous sources are left out."""
    make_nights({1: n_frames}, workers=workers)
    data = load_night(1, range(n_frames))
    y = data[label].astype(int)
    both = [f for f in np.unique(data["frame"]) if {0, 1} <= set(y[data["frame"] == f])]
    rows = np.flatnonzero((y >= 0) & np.isin(data["frame"], both))
    return load_pixels(1, data, rows, "cutouts"), y[rows], data["frame"][rows]


def kept_row(path: Path, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what was measured before; measure and keep it where that was not done yet."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary, temporary.open("wb") as stream:
            np.savez(stream, **measure())
    with np.load(path) as file:
        return dict(file)


def file_of(name: str, label: str, n_frames: int) -> Path:
    """Return where a row is kept; the shipped model's goes by its content."""
    words = re.sub(r"[^a-z]+", "-", name.lower())
    model = f"-{sha256(pretrained_path().read_bytes()).hexdigest()[:8]}" if name == SHIPPED else ""
    return HOME / f"{label}-{n_frames}-{words}{model}.npz"


def cross_validated(selector: Any, X: NDArray, y: NDArray, groups: NDArray) -> dict[str, Any]:
    """Return the probabilities of every cutout by a pipeline fitted to other frames."""
    found = cross_validate(
        pipeline(selector),
        X,
        y,
        params={"groups": groups},
        cv=GroupKFold(3, shuffle=True, random_state=0),
        return_estimator=True,
        return_indices=True,
        error_score="raise",
    )
    p, seconds = np.empty(len(y)), 0.0
    for fitted, test in zip(found["estimator"], found["indices"]["test"], strict=True):
        start = time.process_time()
        p[test] = fitted.predict_proba(X[test], groups=groups[test])[:, 1]
        seconds += time.process_time() - start
    score_ = float(np.mean(found["test_score"]))
    return {"p": p, "y": y, "frame": groups, "score": score_, "seconds": seconds}


def compare(X: NDArray, y: NDArray, groups: NDArray, label: str, trippy: int) -> Table:
    """Cross-validate every selector on the same folds of the same X."""
    lines, n_frames = [], len(np.unique(groups))
    kinds = ["U40", *["U30"] * len(SCORES), float]
    told = Table(names=["selector", *SCORES, "CPU s a frame"], dtype=kinds)
    for name, selector in selectors().items():
        few = np.ones(len(y), bool)
        if name == SLOW:
            few = groups <= np.unique(groups)[min(trippy, n_frames) - 1]
        path = file_of(name, label, len(np.unique(groups[few])))
        run = partial(cross_validated, selector, X[few], y[few], groups[few])
        found = kept_row(path, run)
        frame = found["frame"]
        counted = balance(found["y"], groups=frame, random_state=0)
        figures = score(found["y"][counted], found["p"][counted], frame[counted])
        line: dict[str, Any] = {"selector": name, "labels": label, "frames": len(np.unique(frame))}
        for figure in figures:
            line |= {str(figure["score"]): float(figure["value"])}
            line |= {f"{figure['score']} {end}": float(figure[end]) for end in ("low", "high")}
        line["accuracy of score()"] = float(found["score"])
        line["CPU s a frame"] = float(found["seconds"]) / line["frames"]
        lines.append(line)
        words = [f"{f['value']:.3f} ({f['low']:.3f}-{f['high']:.3f})" for f in figures]
        told.add_row([name, *words, round(line["CPU s a frame"], 2)])
        print(name, *words, flush=True)
    record(
        f"One cross_validate over {n_frames} frames, three folds, labelled by the {label}: "
        f"{len(y)} raw cutouts, as many good as bad judged; 95 % intervals over frames",
        told,
    )
    return Table(lines)


def searched(X: NDArray, y: NDArray, groups: NDArray) -> dict[str, Any]:
    """Search the parameters of the homogenizer and of a network behind it."""
    network = PSFStarSelector(epochs=8, batch_size=64, class_weight="balanced", random_state=1)
    network.set_fit_request(groups=True)  # its held-out frames are whole ones
    for method in ("predict_proba", "predict", "decision_function", "score"):
        getattr(network, f"set_{method}_request")(groups=False)  # what it gets are stamps
    pipe = Pipeline(
        [("psf", PSFHomogenizer().set_transform_request(groups=True)), ("network", network)]
    )
    found = GridSearchCV(
        pipe,
        {
            "psf__replace": [True, False],
            "psf__size": [31, 41],
            "network__learning_rate": [1e-3, 3e-3],
        },
        cv=GroupKFold(3),
        scoring=["roc_auc", "neg_brier_score"],
        refit=False,
        error_score="raise",
    ).fit(X, y, groups=groups)
    results = found.cv_results_
    return {name: np.asarray(results[name]) for name in SEARCHED}


def search(X: NDArray, y: NDArray, groups: NDArray, label: str) -> None:
    """Print the figures of every combination, the best first."""
    path = HOME / f"{label}-{len(np.unique(groups))}-search.npz"
    found = kept_row(path, partial(searched, X, y, groups))
    table = Table({name: found[name].astype(float) for name in SEARCHED})
    table.sort("mean_test_roc_auc", reverse=True)
    table["param_psf__replace"] = table["param_psf__replace"] > 0
    for column in table.colnames[3:]:
        table[column] = table[column].round(4)
    record("GridSearchCV over the homogenizer and a network of 8 epochs behind it", table)


def draw_reliability(table: Table) -> None:
    """Draw the figures of every selector side by side."""
    from mlpsf.plots._figure import new_figure

    FIGURES.mkdir(parents=True, exist_ok=True)
    figure = new_figure(10, 4)
    names = ("ROC AUC", "precision at 0.9", "recall at 0.9", "calibration error")
    for ax, name in zip(figure.subplots(1, len(names)), names, strict=True):
        places = np.arange(len(table))
        ax.barh(places, table[name], color="tab:blue")
        ax.set_yticks(places, table["selector"] if name == names[0] else [""] * len(table))
        ax.invert_yaxis()
        ax.set_title(name, fontsize="small")
    figure.savefig(FIGURES / "head_to_head.png", dpi=80, bbox_inches="tight")


def main() -> None:
    """Compare, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=18)
    parser.add_argument("--labels", nargs="+", default=["truth"], choices=["truth", "rule"])
    parser.add_argument("--trippy", type=int, default=3, help="frames judged with TRIPPy's fitter")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--again", metavar="WORD", help="measure rows with this word anew")
    arguments = parser.parse_args()
    if arguments.again:
        for path in HOME.glob(f"*{arguments.again}*.npz"):
            path.unlink()
    warnings.simplefilter("ignore")
    with sklearn.config_context(enable_metadata_routing=True):
        for label in arguments.labels:
            X, y, groups = one_x(arguments.frames, label, arguments.workers)
            table = compare(X, y, groups, label, arguments.trippy)
            table.write(OUTPUT / f"head_to_head-{label}.ecsv", overwrite=True)
            search(X, y, groups, label)
            if label == "truth":
                draw_reliability(table)
