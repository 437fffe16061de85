"""What each part of the shipped network's making bought: ``python -m benchmarks.ablation``.

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
from typing import Any
from unittest import mock

import numpy as np
from astropy.table import Table

from benchmarks.scores import score
from benchmarks.stamps import OUTPUT, load_stamps
from benchmarks.training import judged, probabilities, rows_of, teach

Data = dict[str, np.ndarray]
SCORES = ("ROC AUC", "balanced accuracy", "precision at 0.9", "recall at 0.9", "calibration error")


def some_frames(data: Data, n: int) -> Data:
    """Keep n frames, spread evenly over all."""
    frames = np.unique(data["frame"])
    kept = frames[np.linspace(0, len(frames) - 1, min(n, len(frames))).round().astype(int)]
    return rows_of(data, np.isin(data["frame"], kept))


def variants(train: Data, n_frames: int, epochs: int) -> dict[str, tuple[Data, dict[str, Any]]]:
    """Name each training: its data and what is different about it."""
    base = some_frames(train, n_frames)
    random, survey = (load_stamps(OUTPUT / "stamps", "train", k) for k in ("random", "quarter"))
    return {
        "as shipped, in small": (base, {}),
        "inputs: not compared with themselves turned round": (base, {"blind": True}),
        "inputs: linear, one scale for all": (base, {"scaling": "standard"}),
        "inputs: 51 pixels a side": (base, {"size": 51}),
        "inputs: 31 pixels a side": (base, {"size": 31}),
        "labels: ambiguous left out": (base, {"ambiguous": False}),
        "labels: all of one weight": (base, {"weighted": False}),
        "variety: random telescopes only": (some_frames(random, n_frames), {}),
        "variety: one survey only": (some_frames(survey, n_frames), {}),
        "network: half as wide": (base, {"filters": (8, 12, 16, 16)}),
        "network: twice as wide": (base, {"filters": (32, 48, 64, 64)}),
        "set: a quarter of the frames, as many steps": (
            some_frames(train, n_frames // 4),
            {"epochs": 4 * epochs},
        ),
    }


@contextmanager
def without_asymmetry() -> Iterator[None]:
    """Build networks whose second channel is empty."""
    from mlpsf.selectors import networks

    with mock.patch.object(networks, "Asymmetry", partial(networks.Asymmetry, gain=0.0)):
        yield


def main() -> None:
    """Train and score them all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=240)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--only", help="part of the names of those to train")
    arguments = parser.parse_args()
    folder = OUTPUT / "stamps"
    train = load_stamps(folder, "train", "[rq]*")
    tests, halves = {}, []
    for kind, name in (("quarter", "survey"), ("random", "random")):
        data = load_stamps(folder, "validation", kind)
        odd = data["frame"] % 2 == 1
        tests[name] = judged(rows_of(data, odd))
        halves.append(rows_of(data, ~odd))
    held = {key: np.concatenate([half[key] for half in halves]) for key in halves[0]}
    rows = []
    for name, (data, options) in variants(train, arguments.frames, arguments.epochs).items():
        if arguments.only and arguments.only not in name:
            continue
        start = time.process_time()
        with without_asymmetry() if options.pop("blind", False) else nullcontext():
            selector = teach(data, held, **{"epochs": arguments.epochs} | options)
        row: dict[str, Any] = {
            "variant": name,
            "stamps": len(data["label"]),
            "CPU s": round(time.process_time() - start),
        }
        for kind, test in tests.items():
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
    table.pprint_all()


if __name__ == "__main__":
    main()
