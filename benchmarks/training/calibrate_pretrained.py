"""Calibrate the model that ships as it is used: ``python -m benchmarks calibrate_pretrained``.

Stars are chosen on validation frames of every kind, and the labels of all sources that could have
been chosen are compared with their probabilities. Five values go into the model, whose network
stays as it is: slope and intercept of its log-odds, and the correction for what stamps do not show.
Then ``train_pretrained --score`` makes the figures of the card.
"""

from __future__ import annotations

import argparse
import json
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from astropy.table import Table
from scipy.optimize import minimize
from tqdm import tqdm

import mlpsf
from benchmarks.common.results import CARD, record
from benchmarks.common.scores import calibration_error
from benchmarks.common.stamps import OUTPUT, draw_frame, truth_of
from benchmarks.training.train_pretrained import state_of_code, write_card
from mlpsf.errors import MlpsfError, TooFewStarsError
from mlpsf.files import whole_file
from mlpsf.flags import NEVER_A_PSF_STAR
from mlpsf.neighbours.subtract import without_neighbours
from mlpsf.neighbours.taken import light_taken
from mlpsf.pipeline import select_stars
from mlpsf.selection.unseen import with_unseen
from mlpsf.selectors import PSFStarSelector
from mlpsf.selectors.judge import as_probabilities
from mlpsf.selectors.storage import file_hash

KINDS = {
    "random": 90,
    "quarter": 70,
    "comatic": 30,
    "space": 60,
    "drizzled": 60,
    "varying": 60,
    "moved": 30,
    "plate": 15,
    "crowded": 60,
}
"""Frames of each kind: were some left out, their probabilities would be too sure."""

_A_FRAME = 50.0  # sources that a frame counts for at most: they share its fate
_LEAST = 1e-9  # probability of what happened
_START = (1.0, 0.0, 0.3, 0.5, 1.0)


class Asked(NamedTuple):
    """Sources that could be chosen, arrays of shape (n,): what is known of each, and its label."""

    log_odds: np.ndarray
    snr: np.ndarray
    taken: np.ndarray
    good: np.ndarray
    weight: np.ndarray


class Calibration(NamedTuple):
    """Slope and intercept of the network's log-odds, and the correction of `with_unseen`."""

    slope: float
    intercept: float
    correction: tuple[float, float, float]

    @classmethod
    def of(cls, selector: PSFStarSelector) -> Calibration:
        """Return that of a selector."""
        return cls(*selector.calibration_, selector.correction_ or (0.0, 0.0, 0.0))

    def probability(self, log_odds: np.ndarray, snr: np.ndarray, taken: np.ndarray) -> np.ndarray:
        """Return the probabilities of good."""
        stamp = as_probabilities(self.slope * log_odds + self.intercept)[:, 1]
        return with_unseen(stamp, snr, taken, self.correction)

    def log_odds(self, p: np.ndarray, snr: np.ndarray, taken: np.ndarray) -> np.ndarray:
        """Return the network's log-odds that gave such probabilities."""
        low, high = -20.0 * np.ones(len(p)), 20.0 * np.ones(len(p))
        for _ in range(60):
            middle = (low + high) / 2
            below = self.probability(middle, snr, taken) < p
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return np.asarray((low + high) / 2)


def main() -> None:
    """Choose, fit, tabulate, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--share", type=float, default=1.0, help="of the frames")
    parser.add_argument("--try", dest="trial", action="store_true", help="leave the model")
    arguments = parser.parse_args()
    model = CARD.with_suffix(".keras")
    selector = PSFStarSelector.load(model)
    now, state = Calibration.of(selector), state_of_code()
    folder = OUTPUT / f"calibration-{file_hash(model)[:12]}-{state}"
    folder.mkdir(parents=True, exist_ok=True)
    numbers = {kind: range(round(n * arguments.share)) for kind, n in KINDS.items()}
    jobs = [(kind, number, folder) for kind in KINDS for number in numbers[kind]]
    with ProcessPoolExecutor(arguments.workers) as pool:
        tables = list(tqdm(pool.map(_asked, jobs), total=len(jobs), disable=None))
    parts: dict[str, list[Asked]] = {kind: [] for kind in KINDS}
    for (kind, _, _), rows in zip(jobs, tables, strict=True):
        p, snr, taken, good = rows
        weight = np.full(len(p), min(1.0, _A_FRAME / max(len(p), 1)))
        parts[kind].append(Asked(now.log_odds(p, snr, taken), snr, taken, good, weight))
    of_kind = {kind: _joined(several) for kind, several in parts.items()}
    found = fit(_joined(list(of_kind.values())))
    record("Calibration error, before and after", Table(list(_errors(of_kind, now, found))))
    print(f"\n{found}")
    if arguments.trial:
        return
    selector.calibration_ = (found.slope, found.intercept)
    selector.correction_ = found.correction
    card = json.loads(CARD.read_text()) | {
        "calibration": "of what is asked in use, on frames apart of every kind (python -m "
        f"benchmarks calibrate_pretrained; mlpsf {mlpsf.__version__}, code {state})",
        "calibration frames": {f"validation {kind}": len(n) for kind, n in numbers.items()},
        **found._asdict(),
        "sha256": file_hash(selector.save(model)),
    }
    write_card(card, CARD)


def fit(asked: Asked) -> Calibration:
    """Find the likeliest calibration.

    All values are fitted together: a slope that also had to serve faint sources and crowds would be
    too flat for all others.
    """

    def of(values: Any) -> Calibration:
        slope, intercept, less, harm, hidden = map(float, values)
        return Calibration(slope, intercept, (abs(less), abs(harm), abs(hidden)))

    def surprise(values: Any) -> float:
        p = of(values).probability(*asked[:3])
        right = np.maximum(np.where(asked.good == 1, p, 1 - p), _LEAST)
        return float(-(asked.weight * np.log(right)).sum() / asked.weight.sum())

    options = {"maxfev": 8000, "adaptive": True, "xatol": 1e-3, "fatol": 1e-7}
    found = minimize(surprise, _START, method="Nelder-Mead", options=options)
    if not found.success:
        raise RuntimeError(f"no calibration was found: {found.message}")
    return of(np.round(found.x, 3))


def _asked(job: tuple[str, int, Path]) -> np.ndarray:
    """Return probability, S/N, light taken away and label of what could be chosen: (4, n)."""
    kind, number, folder = job
    path = folder / f"{kind}-{number:04d}.npy"
    if path.exists():
        return np.asarray(np.load(path))
    stars: Any = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            sim, parameters = draw_frame(kind, "validation", number)
            stars = select_stars(sim.frame)
        except TooFewStarsError as error:
            stars = error.table
        except MlpsfError:  # no stars, or a frame that cannot be drawn
            pass
    rows = np.zeros((4, 0))
    if stars is not None:
        frame = without_neighbours(sim.frame)
        label, _ = truth_of(sim, stars, frame, parameters.get("unit", 1.0))
        p = np.asarray(stars["probability"])
        asked = np.isfinite(p) & (np.asarray(stars["flags"]) & NEVER_A_PSF_STAR == 0) & (label >= 0)
        part = stars[asked]
        taken = light_taken(frame, part["x"], part["y"], float(stars.meta["fwhm"]))
        rows = np.array([p[asked], part["snr"], taken, label[asked]], dtype=np.float64)
    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.save(file, rows)
    return rows


def _joined(parts: list[Asked]) -> Asked:
    return Asked(*map(np.concatenate, zip(*parts, strict=True)))


def _errors(
    of_kind: dict[str, Asked], before: Calibration, after: Calibration
) -> list[dict[str, Any]]:
    """Return the errors of each kind, of sources of S/N over 100 as `special_frames` asks."""
    out = []
    for kind, asked in of_kind.items():
        row: dict[str, Any] = {"kind": kind, "sources": len(asked.good)}
        bright = asked.snr > 100
        for name, calibration in (("before", before), ("after", after)):
            p = calibration.probability(*asked[:3])
            sure = p >= 0.9
            row |= {
                name: round(calibration_error(asked.good[bright], p[bright]), 4),
                f"{name}: at 0.9": int(sure.sum()),
                f"{name}: bad": round(float(1 - asked.good[sure].mean()), 4),
            }
        out.append(row)
    return out


if __name__ == "__main__":
    main()
