"""PSFs of crowded fields: ``python -m benchmarks crowded [--frames N] [--builders NAME ...]``.

Simulated frames of 1,500 to 15,000 stars a megapixel and FWHM 2.5 to 6 pixels, one in four with a
globular cluster: our stars and PSF, PSFEx's and photutils' own, and DAOPHOT's by the recipe of its
user's guide (Davis 1994, A Reference Guide to the IRAF/DAOPHOT Package): the neighbours of its PSF
stars subtracted, twice. Errors against the truth are those of the command ``psf_error``.

``--builders`` takes ours without one of its parts, too. Each builder of each frame is one small
file; what is there is not made again.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

import galsim
import numpy as np
from astropy.table import Table

from benchmarks.common.results import record
from benchmarks.common.stamps import OUTPUT
from benchmarks.peers import Extraction, PeerPSF, build_photutils, build_psfex, cpu_clock
from benchmarks.peers.daophot import build_daophot
from benchmarks.psf.psf_error import SIDE, errors_of
from mlpsf.errors import MlpsfError
from mlpsf.files import whole_file
from mlpsf.frames.frame import Frame
from mlpsf.neighbours.subtract import remember, subtract_neighbours
from mlpsf.pipeline import select_stars
from mlpsf.psf import build_psf
from mlpsf.simulation import SimulatedFrame, simulate_frame

FOLDER = OUTPUT / "crowded"
FIGURES = ("dT/T", "de", "flux", "residual")
SHAPE = (1500, 1500)


def parameters_of(number: int) -> dict[str, Any]:
    """Draw the parameters of frame `number`."""
    rng = np.random.default_rng([16, number])
    density = float(np.exp(rng.uniform(np.log(1500), np.log(15000))))
    e, angle = rng.uniform(0, 0.08), rng.uniform(0, 2 * np.pi)
    cluster = number % 4 == 3
    return {
        "shape": SHAPE,
        "fwhm": float(rng.uniform(2.5, 6.0)),
        "psf": ("moffat", "kolmogorov")[number % 2],
        "beta": float(rng.uniform(2.5, 4.5)),
        "e1": e * np.cos(angle),
        "e2": e * np.sin(angle),
        "n_stars": int(density * SHAPE[0] * SHAPE[1] / 1e6),
        "n_galaxies": 300,
        "clustering": 0.7 if cluster else 0.0,
        "cluster_radius": 300.0,
        "sky": float(rng.uniform(50, 600)),
        "seed": number,
    }


def crowd(number: int) -> SimulatedFrame:
    """Draw frame `number`."""
    return simulate_frame(**parameters_of(number))


def build_ours(
    extraction: Extraction, rounds: int | None = None, *, judged: bool = True, built: bool = True
) -> PeerPSF:
    """Choose and build with mlpsf.

    With a number of rounds of subtraction; without the neighbours taken away where stars are
    judged, or where the PSF is built of them.
    """
    frame = extraction.frame

    def taken_away(frame: Frame, sources: Table) -> Frame:
        if not judged:
            return frame
        return subtract_neighbours(frame, sources, **({} if rounds is None else {"rounds": rounds}))

    with cpu_clock() as clock, patch("mlpsf.pipeline.subtract_neighbours", taken_away):
        stars = select_stars(frame)
        if not (judged and built):
            remember(frame, frame)
        psf = build_psf(frame, stars)
        seconds = clock()
    used = stars[stars["selected"] & ~stars["reserved"]]
    return PeerPSF(psf.stamps, used["x", "y"], seconds)


BUILDERS: dict[str, Callable[[Extraction], PeerPSF]] = {
    "mlpsf": build_ours,
    "PSFEx": build_psfex,
    "photutils": build_photutils,
    "DAOPHOT": build_daophot,
}

PARTS: dict[str, Callable[[Extraction], PeerPSF]] = {
    "nothing subtracted": partial(build_ours, judged=False),
    "neighbours masked": partial(build_ours, built=False),
    "one round": partial(build_ours, rounds=1),
    "two rounds": partial(build_ours, rounds=2),
}
"""Ours without one of its parts."""


def measure(number: int, names: list[str]) -> list[dict[str, Any]]:
    """Build what is missing of a frame, and return all figures."""
    rows = []
    sim = None
    for name in names:
        path = FOLDER / f"{number:03d}-{name}.json"
        if not path.exists():
            sim = sim or crowd(number)
            FOLDER.mkdir(parents=True, exist_ok=True)
            row: dict[str, Any] = {"frame": number, "builder": name}
            with warnings.catch_warnings(), Extraction(sim.frame, sim.psf.fwhm) as extraction:
                warnings.simplefilter("ignore")
                try:
                    found = (BUILDERS | PARTS)[name](extraction)
                    got = found.stamps([0.0], [0.0], SIDE)[0]
                    ny, nx = sim.frame.shape
                    true = sim.psf.stamp(nx / 2, ny / 2, SIDE)
                    row |= {"stars": len(found.stars), "seconds": found.seconds}
                    row |= errors_of(got, true, sim.psf.fwhm)
                except MlpsfError as error:
                    row["failed"] = str(error)
                except galsim.GalSimHSMError:  # some builders' PSF of a crowd is no star
                    row["failed"] = "a PSF without moments"
            with whole_file(path) as temporary:
                temporary.write_text(json.dumps(row))
        rows.append(json.loads(path.read_text()))
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = [*BUILDERS, *PARTS]
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--builders", nargs="+", default=list(BUILDERS), choices=names)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for number in range(arguments.first, arguments.first + arguments.frames):
        drawn = parameters_of(number)
        density = drawn["n_stars"] / np.prod(drawn["shape"]) * 1e6
        print(f"{number}: {density:.0f} stars a megapixel, FWHM {drawn['fwhm']:.2f}", flush=True)
        for row in measure(number, arguments.builders):
            rows.append(row)
            if "failed" in row:
                print(f"  {row['builder']:10s} {row['failed'][:90]}", flush=True)
                continue
            figures = " ".join(f"{key} {row[key]:+.4f}" for key in FIGURES)
            print(
                f"  {row['builder']:10s} {row['stars']:4d} stars {row['seconds']:6.1f} s {figures}",
                flush=True,
            )
    table = Table(
        names=[
            *("builder", "frames", "stars", "CPU s"),
            *(f"{k} {w}" for k in FIGURES for w in ("median", "worst")),
        ],
        dtype=["U20", int, int, float] + [float] * 2 * len(FIGURES),
    )
    for name in arguments.builders:
        own = [row for row in rows if row["builder"] == name and "failed" not in row]
        if own:
            values = [np.abs([row[key] for row in own]) for key in FIGURES]
            table.add_row(
                [
                    *(name, len(own), min(row["stars"] for row in own)),
                    round(float(np.median([row["seconds"] for row in own])), 1),
                    *(round(f(v), 4) for v in values for f in (np.median, np.max)),
                ]
            )
    record("PSFs of crowded fields against the truth (fewest stars; medians, worst).", table)


if __name__ == "__main__":
    main()
