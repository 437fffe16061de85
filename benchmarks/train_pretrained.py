"""Make the model that ships, from nothing: ``python -m benchmarks.train_pretrained``.

Frames are drawn (resumable: what is there is kept), the compact network is trained on the truth,
its probabilities are calibrated on frames apart, and it is tested on frames apart from both. The
model and its card go to ``mlpsf/selectors/pretrained``.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
from astropy.table import Table

import mlpsf
from benchmarks.scores import score
from benchmarks.stamps import OUTPUT, SNR_MIN, STAMP_SIZE, load_stamps, make_stamps
from mlpsf.cutouts import REFERENCE_FWHM
from mlpsf.files import whole_file
from mlpsf.flags import NEVER_A_PSF_STAR
from mlpsf.selectors import PSFStarSelector
from mlpsf.selectors.storage import file_hash

HOME = Path(mlpsf.__file__).parent / "selectors" / "pretrained"


def usable(data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Keep what is clearly good or clearly not."""
    keep = data["label"] >= 0
    return {name: values[keep] for name, values in data.items()}


def cosine(epochs: int, top: float) -> object:
    """Learning rate that falls to nothing as half a cosine, after one epoch of warming up."""
    import keras

    def rate(epoch: int, _: float) -> float:
        return top * min(1.0, (epoch + 1) / 2) * 0.5 * (1 + math.cos(math.pi * epoch / epochs))

    return keras.callbacks.LearningRateScheduler(rate)


def main() -> None:
    """Draw, train, calibrate, test, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--random", type=int, default=500, help="frames of random telescopes")
    parser.add_argument("--quarter", type=int, default=160, help="quarter frames of a survey")
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--name", default="compact")
    parser.add_argument("--out", type=Path, default=HOME)
    arguments = parser.parse_args()
    folder = OUTPUT / "stamps"
    plan = {
        ("train", "random"): arguments.random,
        ("train", "quarter"): arguments.quarter,
        ("validation", "random"): 60,
        ("validation", "quarter"): 30,
        ("test", "random"): 60,
        ("test", "survey"): 16,
    }
    make_stamps(plan, folder, arguments.workers)
    train, held = (usable(load_stamps(folder, split)) for split in ("train", "validation"))
    print(f"{len(train['label'])} stamps to train on, {train['label'].mean():.1%} good")
    start = time.monotonic()
    selector = PSFStarSelector(
        epochs=arguments.epochs,
        batch_size=256,
        callbacks=[cosine(arguments.epochs, 2e-3)],
        random_state=arguments.seed,
        verbose=2,
    )
    selector.fit(train["stamps"], train["label"])
    seconds = time.monotonic() - start
    # In use, sources that no selector could save are flagged: calibrate on the others.
    judged = held["flags"] & NEVER_A_PSF_STAR == 0
    selector.calibrate(held["stamps"][judged], held["label"][judged])
    selector.callbacks = None
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = selector.save(arguments.out / f"{arguments.name}.keras")
    card = {
        "name": arguments.name,
        "sha256": file_hash(path),
        "mlpsf": mlpsf.__version__,
        "input": f"{STAMP_SIZE} x {STAMP_SIZE} stamps at a FWHM of {REFERENCE_FWHM:g} pixels",
        "label": "mlpsf.labelling.truth_labels of simulated frames",
        "frames": {f"{split} {kind}": n for (split, kind), n in plan.items()},
        "stamps": len(train["label"]),
        "snr_min": SNR_MIN,
        "epochs": arguments.epochs,
        "seed": arguments.seed,
        "parameters": int(selector.model_.count_params()),
        "training_seconds": round(seconds),
        "scores": {},
    }
    for kind in ("survey", "random"):
        table = test(selector, folder, kind)
        card["scores"][kind] = {
            row["score"]: [round(float(row[c]), 4) for c in ("value", "low", "high")]
            for row in table
        }
        print(f"\n{kind} frames, never seen:")
        table.pprint_all()
    with whole_file(arguments.out / f"{arguments.name}.json") as temporary:
        temporary.write_text(json.dumps(card, indent=1) + "\n")


def test(selector: PSFStarSelector, folder: Path, kind: str) -> Table:
    """Score unseen frames: detections of S/N > 200 in an aperture of 10 pixels, ambiguous out."""
    data = usable(load_stamps(folder, "test", kind))
    judged = (data["aperture_snr"] > 200) & (data["flags"] & NEVER_A_PSF_STAR == 0)
    p = selector.predict_proba(data["stamps"][judged])[:, 1]
    return score(data["label"][judged], p, data["frame"][judged])


if __name__ == "__main__":
    main()
