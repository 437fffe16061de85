"""How near the truth the PSF comes, by who chose its stars: ``python -m benchmarks psf_error``.

Simulated 2048 x 4176 frames of FWHM 3 to 9; the same TRIPPy build from each list of stars: 25
known to be clean, the shipped network's, the published network's (where the command ``study`` has
trained one), the residual and the novelty selector's, the 25 brightest unflagged. Sizes and shapes
are adaptive moments (GalSim's HSM) of 51 x 51 stamps normalised to one.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable

import numpy as np
from astropy.table import Table, vstack

from benchmarks.common.results import record
from benchmarks.common.stamps import OUTPUT, truth_of
from mlpsf.detection.sources import find_sources
from mlpsf.errors import MlpsfError
from mlpsf.flags import NEVER_A_PSF_STAR, Flag
from mlpsf.pipeline import select_stars
from mlpsf.psf import build_psf
from mlpsf.selectors import NoveltySelector, PSFStarSelector
from mlpsf.simulation import SimulatedFrame, simulate_frame

SIDE = 51


def shape_of(stamp: np.ndarray) -> tuple[float, float, float]:
    """Size squared and both distortions by adaptive moments."""
    import galsim

    found = galsim.hsm.FindAdaptiveMom(galsim.Image(stamp.astype(float), scale=1.0))
    e = found.observed_shape
    # The determinant's root times two over the distortion: HSM's sigma is det^(1/4).
    size = 2 * found.moments_sigma**2 / np.sqrt(1 - e.e**2)
    return size, e.e1, e.e2


def errors_of(got: np.ndarray, true: np.ndarray, fwhm: float) -> dict[str, float]:
    """Compare two stamps of one shape, both normalised here to a sum of one."""
    got, true = got / got.sum(), true / true.sum()
    size, e1, e2 = shape_of(got)
    true_size, true_e1, true_e2 = shape_of(true)
    u = np.arange(SIDE) - SIDE // 2
    inner = np.hypot(u, u[:, None]) <= 1.5 * fwhm
    return {
        "dT/T": size / true_size - 1,
        "de": float(np.hypot(e1 - true_e1, e2 - true_e2)),
        "flux": got[inner].sum() / true[inner].sum() - 1,
        "residual": float(np.abs(got - true).max() / true.max()),
    }


def draw(number: int) -> SimulatedFrame:
    """Frame `number`: seeing, profile, shape, crowding all vary; the PSF is constant."""
    rng = np.random.default_rng([77, number])
    e, angle = rng.uniform(0, 0.1), rng.uniform(0, 2 * np.pi)
    return simulate_frame(
        fwhm=3 + 6 * ((number * 0.618) % 1),
        psf=("moffat", "kolmogorov")[number % 2],
        beta=rng.uniform(2.8, 4.5),
        e1=e * np.cos(angle),
        e2=e * np.sin(angle),
        n_stars=int(rng.uniform(300, 2500)),
        n_galaxies=int(rng.uniform(1500, 6000)),
        cosmic_rays=150,
        bad_columns=2,
        sky_gradient=0.03,
        seed=np.random.SeedSequence([77, number]),
    )


def clean_stars(sim: SimulatedFrame, n: int = 25) -> Table:
    """Return the n brightest detections that the truth says are clean."""
    sources = find_sources(sim.frame)
    labels, _ = truth_of(sim, sources)
    ny, nx = sim.frame.shape
    edge = 5 * sim.psf.fwhm + 2
    inside = (sources["x"] > edge) & (sources["x"] < nx - edge)
    inside &= (sources["y"] > edge) & (sources["y"] < ny - edge)
    good = np.flatnonzero((labels == 1) & inside & (np.asarray(sources["flags"]) == 0))
    return sources[good[np.argsort(-sources["snr"][good])][:n]]


def brightest(sim: SimulatedFrame, n: int = 25) -> Table:
    """Return the n brightest detections without a flag: what a user without a selector takes."""
    sources = find_sources(sim.frame)
    ok = np.flatnonzero(np.asarray(sources["flags"]) & (NEVER_A_PSF_STAR | Flag.BLENDED) == 0)
    return sources[ok[np.argsort(-sources["snr"][ok])][:n]]


def lists(extra: dict[str, Callable] | None = None) -> dict[str, Callable]:
    """Return the ways to choose stars, by name."""
    cnn = PSFStarSelector.from_pretrained()
    return {
        "known clean": clean_stars,
        "cnn": lambda sim: select_stars(sim.frame, selector=cnn, n_min=5, relax=True),
        "residual": lambda sim: select_stars(
            sim.frame, selector="residual", threshold=0.0, n_min=5, relax=True
        ),
        "novelty": lambda sim: select_stars(
            sim.frame, selector=NoveltySelector(), n_min=5, relax=True
        ),
        "brightest": brightest,
        **published_network(),
        **(extra or {}),
    }


def published_network() -> dict[str, Callable]:
    """Return the way of the published network, the newest that the study has trained; or none."""
    kept = (OUTPUT / "study").glob("published-until-it-stops-*.keras")
    newest = max(kept, key=lambda path: path.stat().st_mtime, default=None)
    if newest is None:
        print("no published network: benchmarks.selection.study trains it")
        return {}
    network = PSFStarSelector.load(newest)
    return {"published": lambda sim: select_stars(sim.frame, selector=network, n_min=5, relax=True)}


def purity(table: Table, sim: SimulatedFrame) -> float:
    """Share of a list that the truth calls clean (ambiguous ones count as half)."""
    rows = table[table["selected"]] if "selected" in table.colnames else table
    labels, _ = truth_of(sim, rows)
    return float(np.where(labels < 0, 0.5, labels).mean())


def main() -> None:
    """Build and compare, frame by frame."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=12)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    ways = lists()
    for number in range(arguments.frames):
        sim = draw(number)
        ny, nx = sim.frame.shape
        true = sim.psf.stamp(nx / 2, ny / 2, size=SIDE)
        for name, choose in ways.items():
            try:
                stars = choose(sim)
                model = build_psf(sim.frame, stars, size=SIDE)
                row = errors_of(
                    model.render(SIDE // 2, SIDE // 2, shape=(SIDE, SIDE)), true, sim.psf.fwhm
                )
                n = int(stars["selected"].sum()) if "selected" in stars.colnames else len(stars)
                row |= {"n": n, "pure": purity(stars, sim)}
            except MlpsfError as error:
                print(number, name, error)
                continue
            rows.append({"frame": number, "fwhm": sim.psf.fwhm, "list": name, **row})
            print(
                "{frame:3d} {fwhm:5.2f} {list:12s} n {n:2d} pure {pure:.2f} dT/T {dT/T:+.4f} "
                "de {de:.4f} flux {flux:+.4f} residual {residual:.4f}".format(**rows[-1]),
                flush=True,
            )
    table = Table(rows)
    (OUTPUT / "psf_error").mkdir(parents=True, exist_ok=True)
    table.write(OUTPUT / "psf_error" / "frames.ecsv", overwrite=True)
    parts = []
    for name in ways:
        part = table[table["list"] == name]
        line = {"list": name, "frames": len(part), "pure": float(part["pure"].mean())}
        for key in ("dT/T", "de", "flux", "residual"):
            values = np.abs(part[key])
            line |= {f"|{key}| median": float(np.median(values)), "worst": float(values.max())}
            line[f"|{key}| worst"] = line.pop("worst")
        parts.append(Table([line]))
    summary = vstack(parts)
    for column in summary.colnames[2:]:
        summary[column].format = ".4f"
    record("Errors of the PSF against the truth, by who chose its stars", summary)
    summary.write(OUTPUT / "psf_error" / "summary.ecsv", overwrite=True)
