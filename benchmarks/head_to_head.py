"""All selectors under one cross-validation: ``python -m benchmarks.head_to_head``.

Frames of two simulated nights (`benchmarks.nights`), split by frame; each selector is fitted anew
in every fold, to the labels of the residual rule and to the truth, and judged on frames it never
saw, with as many good sources as bad. The network that ships and the rule need no training: they
are judged on the same sources. TRIPPy's own fitter takes minutes a frame: it judges fewer frames,
and the vectorised rule those same ones beside it.
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
from sklearn.metrics import log_loss
from sklearn.model_selection import GroupKFold, cross_validate

from benchmarks.nights import Sample, load_night, make_nights
from benchmarks.scores import SCORES, score
from benchmarks.stamps import OUTPUT
from benchmarks.study import FIGURES, LETTER, LONGER, STOP
from mlpsf.cutouts import PUBLISHED_SIZE
from mlpsf.labelling import balance
from mlpsf.selectors import NoveltySelector, PSFStarSelector, ResidualSelector

_BEYOND = 10**6  # set the frames of night 2 apart from those of night 1 by so much


class Pool:
    """The sources of both nights, by number: what cross-validation hands about."""

    def __init__(self, frames: dict[int, int]) -> None:
        self.parts = [(night, load_night(night, range(n))) for night, n in frames.items()]
        self.ends = np.cumsum([len(data["frame"]) for _, data in self.parts])

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
    """

    def __init__(self, selector: Any, size: int, pool: Pool, taught: bool = True) -> None:
        self.selector = selector
        self.size = size
        self.pool = pool
        self.taught = taught

    def fit(self, X: NDArray, y: NDArray) -> Self:
        """Fit the selector to as many good as bad sources, if it learns from labels at all."""
        self.classes_ = np.array([0, 1])
        rows, frames = X[:, 0], self.pool.frame()[X[:, 0]]
        self.selector_ = self.selector
        if self.taught:
            used = balance(y, groups=frames, random_state=0)
            self.selector_ = clone(self.selector)
            pixels = self.pool.pixels(rows[used], self.size)
            self.selector_.fit(pixels, y[used], groups=frames[used])
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

    Keeps labels, probabilities and frames of all folds for intervals and reliability.
    """

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.kept: list[tuple[NDArray, NDArray, NDArray]] = []

    def __call__(self, fed: Fed, X: NDArray, y: NDArray) -> dict[str, float]:
        """Judge one fold. All sources of a frame are given, as in use; a balanced part counts."""
        p = fed.predict_proba(X)[:, 1]
        frames = self.pool.frame()[X[:, 0]]
        counted = balance(y, groups=frames, random_state=0)
        y, p, frames = y[counted], p[counted], frames[counted]
        self.kept.append((y, p, frames))
        seconds = float(np.median(fed.seconds_))
        figures = {name: function(y, p) for name, function in SCORES.items()}
        return figures | {"log loss": log_loss(y, p), "CPU s a frame": seconds}


def selectors(pool: Pool, epochs: int) -> dict[str, Fed]:
    """Return all that are compared, by name."""
    published = PSFStarSelector(**LETTER, epochs=epochs, validation_fraction=2 / 9, random_state=1)
    longer = PSFStarSelector(**LONGER, validation_fraction=2 / 9, random_state=1)
    compact = PSFStarSelector(**STOP, validation_fraction=2 / 9, random_state=1)
    shipped = PSFStarSelector.from_pretrained()
    side = shipped.cutout_size_
    return {
        "original network, as published": Fed(published, PUBLISHED_SIZE, pool),
        "original network, until it stops": Fed(longer, PUBLISHED_SIZE, pool),
        "default network, taught here": Fed(compact, side, pool),
        "default network, as shipped": Fed(shipped, side, pool, taught=False),
        "residual rule": Fed(ResidualSelector(), PUBLISHED_SIZE, pool, taught=False),
        "novelty": Fed(NoveltySelector(random_state=1), side, pool),
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

    from mlpsf.plots._figure import _new_figure

    FIGURES.mkdir(parents=True, exist_ok=True)
    figure = _new_figure(5.2 * len(judges), 5)
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
    parser.add_argument("--labels", nargs="+", default=["rule", "truth"])
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
        rows = np.flatnonzero(values >= 0)
        both = [f for f in np.unique(frame) if len(np.unique(values[rows][frame[rows] == f])) == 2]
        rows = rows[np.isin(frame[rows], both)]
        table, judges[label] = compare(feds, pool, label, rows, arguments.splits)
        tables.append(table)
        if arguments.trippy >= 2 and not arguments.only:
            few = rows[np.isin(frame[rows], both[:: max(1, len(both) // arguments.trippy)])]
            few = few[np.isin(frame[few], np.unique(frame[few])[: arguments.trippy])]
            rules = {
                f"residual rule, {arguments.trippy} frames": ResidualSelector(),
                f"the same with TRIPPy's fitter, {arguments.trippy} frames": ResidualSelector(
                    fitter="trippy"
                ),
            }
            slow = {k: Fed(rule, PUBLISHED_SIZE, pool, taught=False) for k, rule in rules.items()}
            tables.append(compare(slow, pool, label, few, arguments.trippy)[0])
    draw_reliability(judges)
    for i, table in enumerate(tables):
        table.write(OUTPUT / f"head_to_head-{i}.ecsv", overwrite=True)


if __name__ == "__main__":
    main()
