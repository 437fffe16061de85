"""Make the model that ships, from nothing: ``python -m benchmarks train_pretrained [--score]``.

Frames are drawn (resumable: what is there is kept), the compact network is trained on the truth,
its probabilities are calibrated on frames apart, and it is tested on frames apart from both. The
model and its card go to ``mlpsf/selectors/pretrained``; ``calibrate_pretrained`` then calibrates it
as it is used. With ``--score`` the model stays as it is, and the card gets the figures that it has
with the stamps of today.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table

import mlpsf
from benchmarks.common.conditions import by_condition
from benchmarks.common.results import record
from benchmarks.common.scores import score
from benchmarks.common.stamps import (
    OUTPUT,
    SNR_MIN,
    Plan,
    load_parameters,
    load_stamps,
    make_stamps,
)
from benchmarks.training.training import (
    REFERENCE_SNR,
    further,
    in_use,
    judged,
    rows_of,
    teach,
)
from mlpsf.files import whole_file
from mlpsf.frames.cutouts import REFERENCE_FWHM
from mlpsf.selectors import PSFStarSelector
from mlpsf.selectors.storage import file_hash
from mlpsf.stamps.homogenizer import PSFHomogenizer
from mlpsf.stamps.standard import STAMP_SIZE

TESTED = {"random": 80, "survey": 30, "comatic": 30}
SPECIAL = {
    "space": (60, 30),
    "drizzled": (50, 30),
    "varying": (50, 30),
    "plate": (16, 10),
    "moved": (26, 20),
    "crowded": (130, 40),
}
"""Frames of special telescopes for training and test; probabilities are calibrated on others."""

FIRST = tuple(("train", kind) for kind in ("random", "quarter", "comatic", *SPECIAL))
"""What the first stage learns from; the second adds bright stars."""

FIGURES = ("thresholds", "scores", "scores with ambiguous sources counted as bad", "conditions")
"""What a card says of the model on frames that it never saw."""

HOME = Path(mlpsf.__file__).parent / "selectors" / "pretrained"


def main() -> None:
    """Draw, train, calibrate, test, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--random", type=int, default=520, help="frames of random telescopes")
    parser.add_argument("--quarter", type=int, default=200, help="quarter frames of a survey")
    parser.add_argument("--bright", type=int, default=100, help="quarters of bright stars")
    parser.add_argument("--comatic", type=int, default=130, help="telescopes out of alignment")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--further", type=int, default=4, help="epochs on bright sources alone")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--name", default="compact")
    parser.add_argument("--score", action="store_true", help="no training: the card's figures")
    parser.add_argument("--out", type=Path, default=HOME)
    arguments = parser.parse_args()
    folder = OUTPUT / "stamps"
    model, described = (arguments.out / f"{arguments.name}.{end}" for end in ("keras", "json"))
    plan: Plan = {("test", kind): n for kind, n in TESTED.items()}
    plan |= {("test", kind): tested for kind, (_, tested) in SPECIAL.items()}
    if arguments.score:
        state = state_of_code()
        folder = OUTPUT / f"stamps-{state}"
        make_stamps(plan, folder, arguments.workers)
        card: dict[str, Any] = json.loads(described.read_text())
        if card["sha256"] != file_hash(model):
            parser.error(f"{described} is the card of another model than {model}")
        card["scored with"] = f"{mlpsf.__version__}, code {state}"
        scored(PSFStarSelector.load(model), folder, plan, card, described)
        return
    plan |= {
        ("train", "random"): arguments.random,
        ("train", "quarter"): arguments.quarter,
        ("train", "bright"): arguments.bright,
        ("train", "comatic"): arguments.comatic,
        ("validation", "random"): 44,
        ("validation", "quarter"): 36,
    }
    plan |= {("train", kind): taught for kind, (taught, _) in SPECIAL.items()}
    make_stamps(plan, folder, arguments.workers)
    # Special frames are as many as this in training alone, not in the world: none calibrates.
    held = load_stamps(folder, "validation", plan=plan)
    selector, seconds = first_stage(arguments, plan, held)
    train = load_stamps(folder, "train", plan=plan)
    start = time.monotonic()
    selector = further(
        selector, train, held, epochs=arguments.further, seed=arguments.seed, verbose=2
    )
    seconds += time.monotonic() - start
    arguments.out.mkdir(parents=True, exist_ok=True)
    selector.homogenizer_ = PSFHomogenizer(size=STAMP_SIZE)  # what ships takes raw cutouts, too
    card = {
        "name": arguments.name,
        "sha256": file_hash(selector.save(model)),
        "mlpsf": mlpsf.__version__,
        "made by": "python -m benchmarks train_pretrained",
        "input": f"{STAMP_SIZE} x {STAMP_SIZE} stamps at a FWHM of {REFERENCE_FWHM:g} pixels in "
        "which the frame's PSF is replaced by a standard star (mlpsf.stamps.standard); without "
        "sky, peak one, arcsinh; and their differences from themselves turned by half a circle and "
        "from the standard star",
        "label": "mlpsf.labelling.truth_labels of simulated frames; ambiguous sources count as "
        "part good, part not; weighted by S/N up to 200",
        "calibration": "Platt's scaling on frames apart, of random telescopes and of a survey",
        "frames": {f"{split} {kind}": n for (split, kind), n in plan.items()},
        "stamps": len(train["label"]),
        "snr_min": SNR_MIN,
        "epochs": arguments.epochs,
        "epochs on S/N over 80": arguments.further,
        "seed": arguments.seed,
        "parameters": int(selector.model_.count_params()),
        "training_seconds": round(seconds),
    }
    scored(selector, folder, plan, card, described)


def scored(
    selector: PSFStarSelector, folder: Path, plan: Plan, card: dict[str, Any], path: Path
) -> None:
    """Complete a card with the figures of a model, and write it."""
    card |= {name: {} for name in FIGURES}
    for kind in ("survey", "random", "comatic", *SPECIAL):
        test(selector, folder, kind, plan, card)
    write_card(card, path)


def write_card(card: dict[str, Any], path: Path) -> None:
    """Write a card, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(card, indent=1) + "\n")


def state_of_code() -> str:
    """Return a hash of the package's code: stamps that another state made are not today's."""
    content = hashlib.sha256()
    for path in sorted(Path(mlpsf.__file__).parent.rglob("*.py")):
        content.update(path.read_bytes())
    return content.hexdigest()[:12]


def _rounded(figures: Table) -> dict[str, list[float]]:
    """Return scores with their intervals, for the card."""
    columns = ("value", "low", "high")
    return {row["score"]: [round(float(row[c]), 4) for c in columns] for row in figures}


def first_stage(
    arguments: argparse.Namespace, plan: Plan, held: dict[str, np.ndarray]
) -> tuple[PSFStarSelector, float]:
    """Train on sources of every brightness, or find what such a training made; and its seconds."""
    part = {key: n for key, n in plan.items() if key in FIRST}
    train = load_stamps(OUTPUT / "stamps", "train", plan=part)
    made_of = [sorted(map(str, part.items())), arguments.epochs, arguments.seed]
    content = hashlib.sha256(json.dumps(made_of).encode())
    content.update(train["stamps"][::50].tobytes() + train["label"].tobytes())
    name = f"{arguments.name}-{content.hexdigest()[:12]}"
    home = OUTPUT / "training"
    path, clock = home / f"{name}.keras", home / f"{name}.json"
    if not path.exists():
        print(f"{len(train['label'])} stamps of {part}", flush=True)
        start = time.monotonic()
        selector = teach(
            train,
            held,
            epochs=arguments.epochs,
            seed=arguments.seed,
            callbacks=[going_on(home / name)],
            verbose=2,
        )
        clock.write_text(json.dumps({"seconds": round(time.monotonic() - start)}))
        selector.save(path)
    return PSFStarSelector.load(path, engine="keras"), json.loads(clock.read_text())["seconds"]


def going_on(folder: Path) -> Any:
    """Let an interrupted training go on at the epoch where it stopped."""
    import keras

    folder.mkdir(parents=True, exist_ok=True)
    return keras.callbacks.BackupAndRestore(folder)


def test(
    selector: PSFStarSelector, folder: Path, kind: str, plan: Plan, card: dict[str, Any]
) -> None:
    """Score unseen frames: detections of S/N > 200 in an aperture of 10 pixels.

    Ambiguous sources are left out, then counted as bad.
    """
    data = load_stamps(folder, "test", kind, plan)
    every = judged(data, ambiguous_as_bad=True)
    figures = score(every["label"], in_use(selector, every), every["frame"])
    card["scores with ambiguous sources counted as bad"][kind] = _rounded(figures)
    faint = judged(data, snr=50.0)
    p_faint = in_use(selector, faint)
    bright = faint["aperture_snr"] > REFERENCE_SNR
    asked, p = rows_of(faint, bright), p_faint[bright]
    table = score(asked["label"], p, asked["frame"])
    card["scores"][kind] = _rounded(table)
    record(f"{kind} frames, never seen, S/N > 200", table)
    record(f"{kind}: ambiguous sources counted as bad", figures)
    card["thresholds"][kind] = {
        f"{t:g}": {
            "precision": round(float(asked["label"][p >= t].mean()), 4),
            "recall": round(float((p[asked["label"] == 1] >= t).mean()), 4),
        }
        for t in (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
        if (p >= t).any()
    }
    conditions = by_condition(faint, p_faint, load_parameters(folder, "test", kind, plan))
    record(f"{kind} frames by condition", conditions)
    card["conditions"][kind] = [
        dict(zip(conditions.colnames, row, strict=True)) for row in conditions.as_array().tolist()
    ]
