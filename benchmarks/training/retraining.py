"""The shipped network, taught further on one's own telescope: ``python -m benchmarks retraining``.

A simulated telescope far from most that the network has seen: FWHM 1.6 pixels, ellipticity 0.25,
gain 9. Twenty of its frames are labelled, by the truth and by the residual rule; the network that
ships is trained further on them, and one from nothing beside it. All are judged by the truth on
frames held out.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path

import numpy as np
from astropy.table import Table, vstack

from benchmarks.common.results import record
from benchmarks.common.scores import score
from benchmarks.common.stamps import OUTPUT
from mlpsf.flags import NEVER_A_PSF_STAR
from mlpsf.selectors import PSFStarSelector
from mlpsf.simulation import simulate_frame
from mlpsf.training.frame_labels import label_frames
from mlpsf.training.sets import CutoutSet
from mlpsf.training.train import train_on_set


def draw(folder: Path, number: int) -> Path:
    """Write one frame of the telescope."""
    rng = np.random.default_rng([79, number])
    angle = rng.normal(0.6, 0.1)
    sim = simulate_frame(
        shape=(1024, 1024),
        fwhm=float(rng.normal(1.6, 0.05)),
        psf="moffat",
        beta=2.6,
        e1=0.25 * np.cos(angle),
        e2=0.25 * np.sin(angle),
        gain=9.0,
        read_noise=12.0,
        sky=float(rng.uniform(60, 200)),
        saturation=30000.0,
        pixel_scale=1.2,
        n_stars=int(rng.uniform(800, 2500)),
        n_galaxies=int(rng.uniform(300, 1200)),
        cosmic_rays=60,
        hot_pixels=150,
        seed=np.random.SeedSequence([79, number]),
    )
    path = folder / f"frame{number:03d}.fits"
    sim.write(path)
    return path


def figures(selector: PSFStarSelector, held: Path, name: str) -> Table:
    """Score a selector by the truth on the frames held out."""
    with CutoutSet(held) as data:
        rows = np.flatnonzero((data.label >= 0) & (data.flags & NEVER_A_PSF_STAR == 0))
        p = selector.predict_proba(data[rows])[:, 1]
        table = score(data.label[rows], p, data.frame[rows])
    table["network"] = name
    return table


def main() -> None:
    """Draw, label, train further, score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=20, help="to learn from")
    parser.add_argument("--held", type=int, default=15, help="to judge by")
    parser.add_argument("--epochs", type=int, default=12)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    shipped = PSFStarSelector.from_pretrained()
    further = shipped.get_params() | {
        "learning_rate": 3e-4,
        "epochs": arguments.epochs,
        "early_stopping": True,
        "validation_fraction": 0.2,
        "random_state": 1,
        "verbose": 0,
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = [draw(folder, i) for i in range(arguments.frames + arguments.held)]
        held = folder / "held.h5"
        label_frames(paths[arguments.frames :], held, rule="truth")
        tables = [figures(shipped, held, "as shipped")]
        for rule in ("truth", "residual"):
            learn = folder / f"{rule}.h5"
            label_frames(paths[: arguments.frames], learn, rule=rule)
            start = PSFStarSelector.from_pretrained().set_params(**further)
            tables.append(figures(train_on_set(learn, start), held, f"further, by {rule}"))
        start = PSFStarSelector(**further | {"learning_rate": 1e-3, "epochs": 30})
        tables.append(figures(train_on_set(folder / "truth.h5", start), held, "from nothing"))
    table = vstack(tables)["network", "score", "value", "low", "high"]
    record("On frames of that telescope held out", table)
    table.write(OUTPUT / "retraining.ecsv", overwrite=True)
