"""What each part of the shipped network's making bought: ``python -m benchmarks ablation``.

One small training each, alike but for the one thing named: the inputs, the labels, the variety of
frames, the size of the network and of the set. Calibrated on one half of the validation frames,
scored on the other: what is chosen by these figures has not been chosen by the test frames.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from astropy.table import Table

from benchmarks.common.results import record
from benchmarks.common.scores import score
from benchmarks.common.stamps import OUTPUT, Plan, load_stamps, make_stamps
from benchmarks.training.training import judged, probabilities, rows_of, teach

Data = dict[str, np.ndarray]
PLAN: Plan = {
    ("train", "random"): 350,
    ("train", "quarter"): 130,
    ("train", "comatic"): 110,
    ("validation", "random"): 80,
    ("validation", "quarter"): 60,
    ("validation", "comatic"): 30,
}
SCORES = ("ROC AUC", "balanced accuracy", "precision at 0.9", "recall at 0.9", "calibration error")


def some_frames(data: Data, n: int) -> Data:
    """Keep n frames, spread evenly over all."""
    frames = np.unique(data["frame"])
    kept = frames[np.linspace(0, len(frames) - 1, min(n, len(frames))).round().astype(int)]
    return rows_of(data, np.isin(data["frame"], kept))


def cropped(data: Data, size: int) -> Data:
    """Keep the middle of every stamp."""
    edge = (data["stamps"].shape[-1] - size) // 2
    return data | {"stamps": data["stamps"][:, edge : edge + size, edge : edge + size]}


class Frames(NamedTuple):
    """What a network is trained on, calibrated on, and scored on."""

    train: Data
    held: Data
    tests: dict[str, Data]

    @classmethod
    def of(cls, folder: Path, n_frames: int) -> Frames:
        """Read them: calibrated on one half of the validation frames, scored on the other."""
        tests, halves = {}, []
        for kind, name in (("quarter", "survey"), ("random", "random"), ("comatic", "comatic")):
            data = load_stamps(folder, "validation", kind)
            odd = data["frame"] % 2 == 1
            tests[name] = judged(rows_of(data, odd))
            halves.append(rows_of(data, ~odd))
        held = {key: np.concatenate([half[key] for half in halves]) for key in halves[0]}
        return cls(some_frames(load_stamps(folder, "train"), n_frames), held, tests)

    def cropped(self, size: int) -> Frames:
        """Return the middles of all stamps."""
        tests = {name: cropped(data, size) for name, data in self.tests.items()}
        return Frames(cropped(self.train, size), cropped(self.held, size), tests)


def variants(n_frames: int, epochs: int) -> Iterator[tuple[str, Frames, dict[str, Any]]]:
    """Name each training: its data and what is different about it."""
    folder = OUTPUT / "stamps"
    base = Frames.of(folder, n_frames)
    random, survey = (load_stamps(folder, "train", k) for k in ("random", "quarter"))
    yield "as shipped, in small", base, {}
    yield "inputs: the frame's PSF left in", Frames.of(OUTPUT / "stamps-plain", n_frames), {}
    yield "inputs: no differences shown", base, {"blind": True}
    yield "inputs: linear, one scale for all", base, {"scaling": "standard"}
    yield "inputs: 31 pixels a side", base.cropped(31), {}
    yield "labels: ambiguous left out", base, {"ambiguous": False}
    yield "labels: all of one weight", base, {"weighted": False}
    yield "variety: random telescopes only", base._replace(train=some_frames(random, n_frames)), {}
    yield "variety: one survey only", base._replace(train=some_frames(survey, n_frames)), {}
    yield "network: half as wide", base, {"filters": (8, 12, 16, 16)}
    yield "network: twice as wide", base, {"filters": (32, 48, 64, 64)}
    quarter = base._replace(train=some_frames(base.train, n_frames // 4))
    yield "set: a quarter of the frames, as many steps", quarter, {"epochs": 4 * epochs}


@contextmanager
def without_differences() -> Iterator[None]:
    """Build networks whose second and third channels are empty."""
    from mlpsf.selectors import networks

    with mock.patch.object(networks, "Departures", partial(networks.Departures, gain=0.0)):
        yield


def main() -> None:
    """Train and score them all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--only", help="part of the names of those to train")
    arguments = parser.parse_args()
    make_stamps(PLAN, OUTPUT / "stamps")
    make_stamps(PLAN, OUTPUT / "stamps-plain", standard=False)
    rows = []
    for name, frames, options in variants(arguments.frames, arguments.epochs):
        if arguments.only and arguments.only not in name:
            continue
        start = time.process_time()
        with without_differences() if options.pop("blind", False) else nullcontext():
            settings = {"epochs": arguments.epochs} | options
            selector = teach(frames.train, frames.held, **settings)
        row: dict[str, Any] = {
            "variant": name,
            "stamps": len(frames.train["label"]),
            "CPU s": round(time.process_time() - start),
        }
        for kind, test in frames.tests.items():
            figures = score(test["label"], probabilities(selector, test), test["frame"])
            for figure in figures:
                if figure["score"] in SCORES:
                    row[f"{kind} {figure['score']}"] = round(float(figure["value"]), 4)
            row[f"{kind} AUC low"], row[f"{kind} AUC high"] = (
                round(float(figures[0][end]), 4) for end in ("low", "high")
            )
        rows.append(row)
        print(row, flush=True)
        table = Table(rows)
        table.write(OUTPUT / "ablation.ecsv", overwrite=True)
    record("Small trainings alike but for one thing; validation frames", table)
