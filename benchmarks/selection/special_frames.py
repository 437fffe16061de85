"""Frames of special telescopes, never trained on: ``python -m benchmarks special_frames``.

Of space telescopes, drizzled stacks and strongly varying PSFs: how pure the chosen stars are, how
they cover the frame, what PSF they make at 5 x 5 places, and whether the probabilities are
calibrated. And of good frames: how many verdicts are false.
"""

from __future__ import annotations

import argparse
import warnings
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from benchmarks.common.results import record
from benchmarks.common.scores import calibration_error
from benchmarks.common.stamps import OUTPUT, draw_frame, truth_of
from mlpsf.errors import MlpsfError, TooFewStarsError
from mlpsf.flags import NEVER_A_PSF_STAR
from mlpsf.neighbours.subtract import without_neighbours
from mlpsf.pipeline import select_stars
from mlpsf.psf import build_psf
from mlpsf.simulation import SimulatedFrame, random_parameters, simulate_frame

KINDS = ("space", "drizzled", "varying")
_AFTER = 1000  # numbers of frames that neither training nor tests of the network draw
_GRID = 5


def main() -> None:
    """Choose, compare with the truth, tabulate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=30, help="frames a kind")
    parser.add_argument("--good", type=int, default=200, help="good frames")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    OUTPUT.mkdir(parents=True, exist_ok=True)
    summary = []
    for kind in KINDS:
        frames = [row_of(*draw_frame(kind, "test", _AFTER + n)) for n in range(arguments.frames)]
        rows = Table([{k: v for k, v in f.items() if k not in ("y", "p")} for f in frames])
        rows.write(OUTPUT / f"special_{kind}.ecsv", overwrite=True)
        y, p = (np.concatenate([f[key] for f in frames]) for key in ("y", "p"))
        built = np.isfinite(rows["FWHM error"])
        clean = rows["clean"].sum()
        summary.append(
            {
                "kind": kind,
                "frames": len(rows),
                "with a PSF": int(built.sum()),
                "chosen": int(rows["chosen"].sum()),
                # Ambiguous ones are left out, as from all figures of accuracy; then counted as bad.
                "purity": round(purity(rows), 4),
                "purity, 95 %": interval(rows),
                "ambiguous bad": round(clean / max(rows["chosen"].sum(), 1), 4),
                "coverage": round(float(np.nanmedian(rows["coverage"])), 2),
                "worst coverage": round(float(np.nanmax(rows["coverage"])), 2),
                "FWHM error": round(float(np.nanmedian(rows["FWHM error"])), 4),
                "residual": round(float(np.nanmedian(rows["residual"])), 4),
                "calibration error": round(calibration_error(y, p), 4),
                "by chance": round(by_chance(p), 4),  # so much has a perfect calibration
            }
        )
        print(summary[-1], flush=True)
    record("Special telescopes, frames never trained on (medians)", Table(summary))
    if arguments.good:
        false_verdicts(arguments.good)


def purity(rows: Table) -> float:
    """Return the share of clean stars among those chosen that are clearly clean or bad."""
    return float(rows["clean"].sum() / max((rows["clean"] + rows["bad"]).sum(), 1))


def interval(rows: Table, n_boot: int = 300) -> str:
    """Return the central 95 % of the purity, of resamplings of whole frames."""
    rng = np.random.default_rng(0)
    drawn = [purity(rows[rng.integers(0, len(rows), len(rows))]) for _ in range(n_boot)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"{low:.3f} to {high:.3f}"


def by_chance(p: NDArray, n_draws: int = 100) -> float:
    """Return the mean calibration error that probabilities would have if they were right."""
    rng = np.random.default_rng(0)
    draws = [calibration_error((rng.random(len(p)) < p).astype(int), p) for _ in range(n_draws)]
    return float(np.mean(draws))


def row_of(sim: SimulatedFrame, parameters: dict[str, Any]) -> dict[str, object]:
    """Choose the stars of a frame, make its PSF, and compare both with the truth."""
    row: dict[str, object] = {
        "chosen": 0,
        "clean": 0,
        "bad": 0,
        "coverage": np.nan,
        "FWHM error": np.nan,
        "residual": np.nan,
        "verdict": "",
        "y": np.zeros(0, int),
        "p": np.zeros(0),
    }
    try:
        stars = select_stars(sim.frame)
    except TooFewStarsError as error:
        stars = error.table
    except MlpsfError:
        return row
    # Labels know what is left of neighbours that were taken away.
    alone = without_neighbours(sim.frame)
    label, _ = truth_of(sim, stars, alone, parameters.get("unit", 1.0))
    chosen = np.asarray(stars["selected"])
    row |= {"chosen": int(chosen.sum())}
    row |= {"clean": int((label[chosen] == 1).sum()), "bad": int((label[chosen] == 0).sum())}
    row["verdict"] = stars.meta["verdict"]
    own = NEVER_A_PSF_STAR
    asked = (np.asarray(stars["flags"]) & own == 0) & (label >= 0) & (stars["snr"] > 100)
    asked &= np.isfinite(stars["probability"])
    row |= {"y": label[asked], "p": np.asarray(stars["probability"])[asked]}
    # As many clean ones as a user would have to spread by hand.
    clean = (label == 1) & (np.asarray(stars["snr"]) > 50)
    at = np.column_stack([stars["x"], stars["y"]])
    if chosen.sum() >= 5:
        mine, best = (largest_gap(at[rows], sim.frame.shape) for rows in (chosen, clean | chosen))
        row["coverage"] = mine / best
        row |= psf_errors(sim, stars)
    return row


def largest_gap(at: NDArray, shape: tuple[int, int]) -> float:
    """Return the radius of the largest circle about a place of the frame that holds no star."""
    from scipy.spatial import cKDTree

    y, x = np.mgrid[: shape[0] : 64j, : shape[1] : 64j]
    return float(cKDTree(at).query(np.column_stack([x.ravel(), y.ravel()]))[0].max())


def psf_errors(sim: SimulatedFrame, stars: Table) -> dict[str, float]:
    """Return median error of the FWHM, and largest residual over the peak, at 5 x 5 places."""
    psf = build_psf(sim.frame, stars)
    size = 2 * int(2.5 * psf.fwhm) + 1
    edges = [np.linspace(0.1, 0.9, _GRID) * n for n in sim.frame.shape]
    width, worst = [], []
    for y in edges[0]:
        for x in edges[1]:
            try:
                here = psf.at(x, y) if psf.terms is not None else psf
                fwhm = here.fwhm
            except MlpsfError:  # far from all stars a polynomial may be no star
                width.append(np.inf)
                worst.append(np.inf)
                continue
            true = sim.psf.stamp(x, y, size=size)
            made = np.asarray(
                here.render([size // 2], [size // 2], [1.0], (size, size)), dtype=float
            )
            made *= true.sum() / made.sum()
            worst.append(np.abs(made - true).max() / true.max())
            width.append(abs(fwhm / float(sim.psf.shape_at(x, y)[0]) - 1))
    return {"FWHM error": float(np.median(width)), "residual": float(np.median(worst))}


def false_verdicts(count: int) -> None:
    """Count the good frames of which something else is said."""
    found: dict[str, int] = {}
    for n in range(count):
        rng = np.random.default_rng([77, n])
        parameters = random_parameters(rng, (800, 800))
        # Round, sharp, steady, and neither empty nor crowded: as a user would call it good.
        shear = min(np.hypot(parameters["e1"], parameters["e2"]), 0.05)
        parameters |= {
            "psf": "moffat",
            "fwhm": float(rng.uniform(2.2, 7)),
            "e1": shear,
            "e2": 0.0,
            "trail": 0.0,
            "psf_variation": min(parameters["psf_variation"], 0.1),
            "n_stars": int(rng.uniform(80, 400)),
            "clustering": 0.0,
        }
        sim = simulate_frame(**parameters, seed=n)
        try:
            stars = select_stars(sim.frame)
        except TooFewStarsError as error:
            stars = error.table
        except MlpsfError:
            continue
        verdict = stars.meta["verdict"]
        found[verdict] = found.get(verdict, 0) + 1
        if verdict != "good":
            print(n, verdict, stars.meta["verdict_reason"], flush=True)
    verdicts = Table({"verdict": list(found), "frames": list(found.values())})
    record("Verdicts on good frames", verdicts)


if __name__ == "__main__":
    main()
