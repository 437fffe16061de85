"""All selectors under one cross-validation: ``python -m benchmarks head_to_head``.

Frames of two simulated nights (`benchmarks.common.nights`), split by frame; each selector is fitted
anew in every fold, to the labels of the residual rule and to the truth, and judged on frames it
never saw, with as many good sources as bad. The network that ships and the rule need no training:
they are judged on the same sources. TRIPPy's own fitter takes minutes a frame: it judges fewer
frames, and the vectorised rule those same ones beside it. By the labels of the residual rule, the
rule is judged by itself.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any, Self

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.model_selection import GroupKFold, cross_validate

from benchmarks.common.nights import Sample, load_night, make_nights
from benchmarks.common.scores import SCORES, score
from benchmarks.common.stamps import OUTPUT
from benchmarks.selection.study import FIGURES, LETTER, LONGER, STOP
from mlpsf.frames.cutouts import PUBLISHED_SIZE
from mlpsf.labelling import balance
from mlpsf.selectors import NoveltySelector, PSFStarSelector, ResidualSelector

_BEYOND = 10**6  # set the frames of night 2 apart from those of night 1 by so much


class Pool:
    """The sources of both nights, by number: what cross-validation hands about."""

    def __init__(self, frames: dict[int, int]) -> None:
        self.parts = [(night, load_night(night, range(n))) for night, n in frames.items()]
        self.ends = np.cumsum([len(data["frame"]) for _, data in self.parts])

    def __deepcopy__(self, _: Any) -> Pool:
        """Cloning an estimator must not copy both nights."""
        return self

    def column(self, name: str) -> NDArray:
        """One column of all sources."""
        return np.concatenate([data[name] for _, data in self.parts])

    def frame(self) -> NDArray:
        """Which frame each source is from."""
        return np.concatenate([data["frame"] + _BEYOND * night for night, data in self.parts])

    def pixels(self, rows: NDArray, size: int) -> NDArray[np.float32]:
        """Cutouts of some sources, of the side that a selector takes."""
        out = np.empty((len(rows), size, size), np.float32)
        start = 0
        for (night, data), end in zip(self.parts, self.ends, strict=True):
            here = (rows >= start) & (rows < end)
            local = rows[here] - start
            empty = np.zeros(len(local))
            if len(local):
                out[here] = Sample(night, data, local, empty, empty).pixels(size)
            start = int(end)
        return out


class Fed(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A selector that is told the numbers of sources, and looks up the cutouts it takes.

    So all selectors, of cutouts of different kinds, can be given to one `cross_validate`.

    Parameters
    ----------
    selector : estimator or "shipped"
    size : int
        Side of the cutouts it takes.
    pool : Pool
    learns : {"labels", "all", "nothing"}
        From as many good as bad sources with their labels; from all without them; not at all.
    as_published : bool
        Whether probabilities are the network's own, not calibrated.
    """

    def __init__(
        self,
        selector: Any,
        size: int,
        pool: Pool,
        learns: str = "labels",
        as_published: bool = False,
    ) -> None:
        self.selector = selector
        self.size = size
        self.pool = pool
        self.learns = learns
        self.as_published = as_published

    def fit(self, X: NDArray, y: NDArray) -> Self:
        """Fit the selector to what it learns from; ambiguous sources (-1) have no label."""
        self.classes_ = np.array([0, 1])
        if self.selector == "shipped":
            self.selector_ = PSFStarSelector.from_pretrained()
            return self
        self.selector_ = clone(self.selector)
        if self.learns == "labels":
            rows, y = X[y >= 0, 0], y[y >= 0]
            frames = self.pool.frame()[rows]
            used = balance(y, groups=frames, random_state=0)
            pixels = self.pool.pixels(rows[used], self.size)
            self.selector_.fit(pixels, y[used], groups=frames[used])
        elif self.learns == "all":
            rows = X[:, 0]
            self.selector_.fit(self.pool.pixels(rows, self.size), groups=self.pool.frame()[rows])
        if self.as_published:
            self.selector_.calibration_ = (1.0, 0.0)
        return self

    def predict_proba(self, X: NDArray) -> NDArray[np.float64]:
        """Probabilities, frame by frame as in use; keeps the CPU seconds of each."""
        rows, frames = X[:, 0], self.pool.frame()[X[:, 0]]
        out = np.empty((len(rows), 2))
        self.seconds_ = []
        for frame in np.unique(frames):
            here = np.flatnonzero(frames == frame)
            pixels = self.pool.pixels(rows[here], self.size)
            start = time.process_time()
            if isinstance(self.selector_, ResidualSelector):
                fitted = clone(self.selector_).fit(pixels)  # it learns from each frame's own
                out[here] = fitted.predict_proba(pixels)
            else:
                out[here] = self.selector_.predict_proba(pixels)
            self.seconds_.append(time.process_time() - start)
        return out


class Judge:
    """What `cross_validate` calls: scores of a balanced choice of the sources held out.

    Selectors see all sources of a frame, as in use; the ambiguous have no label and do not count.
    Keeps labels, probabilities and frames of all folds for intervals and reliability.
    """

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.kept: list[tuple[NDArray, NDArray, NDArray]] = []

    def __call__(self, fed: Fed, X: NDArray, y: NDArray) -> dict[str, float]:
        """Judge one fold."""
        p = fed.predict_proba(X)[:, 1]
        frames = self.pool.frame()[X[:, 0]]
        certain = np.flatnonzero(y >= 0)
        counted = certain[balance(y[certain], groups=frames[certain], random_state=0)]
        y, p, frames = y[counted], p[counted], frames[counted]
        self.kept.append((y, p, frames))
        seconds = float(np.median(fed.seconds_))
        return {name: f(y, p) for name, f in SCORES.items()} | {"CPU s a frame": seconds}


def selectors(pool: Pool, epochs: int) -> dict[str, Fed]:
    """Return all that are compared, by name."""
    common = {"validation_fraction": 2 / 9, "random_state": 1}
    published = PSFStarSelector(**LETTER, **common, epochs=epochs)
    side = PSFStarSelector.from_pretrained().cutout_size_
    native = PUBLISHED_SIZE
    return {
        "original network, as published": Fed(published, native, pool, as_published=True),
        "original network, until it stops": Fed(PSFStarSelector(**LONGER, **common), native, pool),
        "default network, taught here": Fed(PSFStarSelector(**STOP, **common), side, pool),
        "default network, as shipped": Fed("shipped", side, pool, "nothing"),
        "residual rule": Fed(ResidualSelector(), native, pool, "nothing"),
        "novelty": Fed(NoveltySelector(random_state=1), side, pool, "all"),
    }


def compare(
    feds: dict[str, Fed], pool: Pool, label: str, rows: NDArray, n_splits: int
) -> tuple[Table, dict[str, Judge]]:
    """Cross-validate every selector on the same folds."""
    y, frames = pool.column(label)[rows].astype(int), pool.frame()[rows]
    lines, judges = [], {}
    for name, fed in feds.items():
        judge = judges[name] = Judge(pool)
        found = cross_validate(
            fed,
            rows[:, None],
            y,
            groups=frames,
            cv=GroupKFold(n_splits, shuffle=True, random_state=0),
            scoring=judge,
            error_score="raise",
        )
        together = score(*(np.concatenate(part) for part in zip(*judge.kept, strict=True)))
        line: dict[str, Any] = {"selector": name, "labels": label, "frames": len(np.unique(frames))}
        for figure in together:
            line |= {
                str(figure["score"]): float(figure["value"]),
                f"{figure['score']} low": float(figure["low"]),
                f"{figure['score']} high": float(figure["high"]),
            }
        line["CPU s a frame"] = float(np.median(found["test_CPU s a frame"]))
        line["fit s a fold"] = float(np.median(found["fit_time"]))
        lines.append(line)
        print(
            f"{label:6s}{name:36s}"
            + " ".join(
                f"{f['score']} {f['value']:.3f} ({f['low']:.3f}-{f['high']:.3f});" for f in together
            )
            + f" CPU {line['CPU s a frame']:.3f} s a frame, fit {line['fit s a fold']:.0f} s",
            flush=True,
        )
    return Table(lines), judges


def draw_reliability(judges: dict[str, dict[str, Judge]]) -> None:
    """Draw how far each selector's probabilities can be believed, by either label."""
    from sklearn.calibration import CalibrationDisplay

    from mlpsf.plots._figure import new_figure

    FIGURES.mkdir(parents=True, exist_ok=True)
    figure = new_figure(5.2 * len(judges), 5)
    for ax, (label, of) in zip(
        np.atleast_1d(figure.subplots(1, len(judges))), judges.items(), strict=True
    ):
        for name, judge in of.items():
            y, p = (np.concatenate([part[i] for part in judge.kept]) for i in (0, 1))
            CalibrationDisplay.from_predictions(y, p, n_bins=8, ax=ax, name=name)
        ax.set_title(f"labels: {label}", fontsize="small")
        ax.legend(fontsize=6)
        ax.set(xlabel="mean probability", ylabel="share of good")
    figure.savefig(FIGURES / "reliability.png", dpi=80)


def main() -> None:
    """Compare, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=60, help="frames of night 1")
    parser.add_argument("--judged", type=int, default=20, help="frames of night 2")
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=60, help="of the network as published")
    parser.add_argument("--only", help="part of the names of the selectors wanted")
    parser.add_argument("--labels", nargs="+", default=["truth", "rule"])
    parser.add_argument("--trippy", type=int, default=3, help="frames judged with TRIPPy's fitter")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    frames = {1: arguments.frames, 2: arguments.judged}
    make_nights(frames, workers=arguments.workers)
    pool = Pool(frames)
    feds = {
        name: fed
        for name, fed in selectors(pool, arguments.epochs).items()
        if not arguments.only or arguments.only in name
    }
    tables, judges = [], {}
    for label in arguments.labels:
        values, frame = pool.column(label), pool.frame()
        both = [f for f in np.unique(frame) if {0, 1} <= set(values[frame == f].tolist())]
        rows = np.flatnonzero(np.isin(frame, both))
        table, judges[label] = compare(feds, pool, label, rows, arguments.splits)
        tables.append(table)
        if label == "truth" and arguments.trippy >= 2 and not arguments.only:
            few = np.flatnonzero(np.isin(frame, both[: arguments.trippy]))
            rules = {
                f"rule in one pass, {arguments.trippy} frames": ResidualSelector(n_iter=0),
                f"the same, TRIPPy's fitter, {arguments.trippy} frames": ResidualSelector(
                    n_iter=0, fitter="trippy"
                ),
            }
            slow = {k: Fed(rule, PUBLISHED_SIZE, pool, "nothing") for k, rule in rules.items()}
            tables.append(compare(slow, pool, label, few, arguments.trippy)[0])
    draw_reliability(judges)
    for i, table in enumerate(tables):
        table.write(OUTPUT / f"head_to_head-{i}.ecsv", overwrite=True)
