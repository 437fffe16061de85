"""Cutouts alone beside the frame that they are from: ``python -m benchmarks cutouts``.

Unseen survey frames and random telescopes, a cutout of every detection (S/N over 10): how well the
shipped network judges them from cutouts of 111 and of 55 pixels and their positions, from sets of
few cutouts, and what it costs. With ``--psfex``: PSFEx's error with SExtractor's catalogue as it
is, and with the rows that ``mlpsf select`` leaves of it.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import sep
from astropy.io import fits
from astropy.table import Table
from tqdm import tqdm

from benchmarks.common.results import record
from benchmarks.common.scores import SCORES, score
from benchmarks.common.stamps import OUTPUT, draw_frame, truth_of
from benchmarks.peers.astromatic import Extraction, build_psfex, read_psfex, run_psfex
from benchmarks.psf.psf_error import SIDE, draw, errors_of
from mlpsf.detection.sources import find_sources
from mlpsf.errors import MlpsfError
from mlpsf.files import whole_file
from mlpsf.flags import NEVER_A_PSF_STAR
from mlpsf.frames.cutouts import extract_cutouts
from mlpsf.frames.io.cutout_files import kept_rows, read_cutouts
from mlpsf.frames.io.reading import read_frame
from mlpsf.pipeline import select_cutouts
from mlpsf.selectors import ResidualSelector
from mlpsf.selectors.loading import load_judge
from mlpsf.selectors.storage import pretrained_path
from mlpsf.stamps.from_cutouts import homogenize
from mlpsf.stamps.standard import extract_stamps, frame_star

HOME = OUTPUT / "cutouts"
SIZES = (111, 55)
FEW = (200, 50, 20, 5)
MOST_STARS = (25, 200)  # for PSFEx: mlpsf's default, and as many as PSFEx would like
MOST = 1500  # cutouts of a frame: 74 MB of 111 pixels
FRAMES = {"survey": 30, "random": 80}


def measure(kind: str, number: int) -> dict[str, Any]:
    """Probabilities of the bright sources of one frame, by what was given of it."""
    judge = load_judge(pretrained_path())
    sim, _ = draw_frame(kind, "test", number)
    sources, sky = find_sources(sim.frame), sim.frame.background
    labels, _ = truth_of(sim, sources)
    x, y = (np.asarray(sources[name]) for name in "xy")
    flux, error, _ = sep.sum_circle(
        sim.frame.data - sky.level, x, y, 10.0, err=sky.rms, gain=sim.frame.gain
    )
    rows = np.flatnonzero(sources["snr"] > 10)
    rows = rows[np.argsort(-np.asarray(sources["snr"])[rows], kind="stable")][:MOST]
    asked = (flux / error > 200) & (labels >= 0)
    asked &= np.asarray(sources["flags"]) & NEVER_A_PSF_STAR == 0
    wanted = np.flatnonzero(asked[rows])
    out: dict[str, Any] = {"label": labels[rows][wanted], "fwhm": sources.meta["fwhm"]}
    star = frame_star(sim.frame, sources)
    at = x[rows], y[rows]
    stamps = extract_stamps(
        sim.frame, *(v[wanted] for v in at), fwhm=sources.meta["fwhm"], star=star
    )
    out["frame"] = judge.predict_proba(stamps.data)[:, 1]
    rng = np.random.default_rng(number)
    for size in SIZES:
        cut = extract_cutouts(sim.frame, *at, size).data
        out[f"{size}"] = _judged(judge, cut, *at)[wanted]
        out[f"{size}, no positions"] = _judged(judge, cut)[wanted]
        if size != SIZES[-1]:
            continue
        for few in FEW:
            # Sets of so many cutouts each, until all that are asked about were in one.
            order = rng.permutation(len(rows))
            p = np.full(len(rows), np.nan)
            for start in range(0, len(rows), few):
                part = order[start : start + few]
                if not np.isin(part, wanted).any():
                    continue
                p[part] = _judged(judge, cut[part], *(v[part] for v in at))
            out[f"{size}, sets of {few}"] = p[wanted]
    return out


def _judged(judge: Any, cutouts: Any, *at: Any) -> Any:
    """Return the probabilities of a set; those of one that is refused are zero."""
    try:
        return judge.predict_proba(homogenize(cutouts, *at))[:, 1]
    except MlpsfError:
        return np.zeros(len(cutouts))


def load(kind: str, number: int) -> dict[str, Any]:
    """Return what was measured of a frame, measuring it where that was not done yet."""
    path = HOME / f"{kind}-{number:03d}.npz"
    HOME.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        with warnings.catch_warnings(), whole_file(path) as temporary:
            warnings.simplefilter("ignore")
            np.savez(temporary, **measure(kind, number))
    with np.load(path) as file:
        return dict(file)


def alone(frames: dict[str, int]) -> None:
    """Print how cutouts alone do beside the frame."""
    for kind, n in frames.items():
        parts = [load(kind, number) for number in tqdm(range(n), desc=kind, disable=None)]
        label = np.concatenate([p["label"] for p in parts])
        frame = np.repeat(np.arange(n), [len(p["label"]) for p in parts])
        table = Table(names=["from", *SCORES], dtype=["U40", *["U30"] * len(SCORES)])
        for way in [k for k in parts[0] if k not in ("label", "fwhm")]:
            found = score(label, np.concatenate([p[way] for p in parts]), frame)
            words = [f"{r['value']:.4f} ({r['low']:.3f}-{r['high']:.3f})" for r in found]
            table.add_row([way, *words])
        record(f"{kind}: {n} frames, {len(label)} sources of S/N > 200, {label.sum()} good", table)


def timed(repeats: int = 5) -> None:
    """Print what 1,000 cutouts of 111 pixels cost, beside the rule."""
    sim, _ = draw_frame("survey", "test", 0)
    sources = find_sources(sim.frame)
    rows = np.argsort(-np.asarray(sources["snr"]), kind="stable")[:1000]
    at = [np.asarray(sources[name])[rows] for name in "xy"]
    cut = extract_cutouts(sim.frame, *at, 111).data
    judge = load_judge(pretrained_path())
    few = cut[:50]
    ways: dict[str, tuple[int, Any]] = {
        "homogenize and judge": (len(cut), lambda: judge.predict_proba(homogenize(cut, *at))),
        "select_cutouts": (len(cut), lambda: select_cutouts(cut, *at)),
        "residual rule, vectorised": (len(cut), lambda: ResidualSelector().fit(cut)),
        "residual rule, TRIPPy's fitter": (
            len(few),
            lambda: ResidualSelector(fitter="trippy", n_iter=0).fit(few),
        ),
    }
    table = Table(names=["1,000 cutouts", "CPU s"], dtype=["U40", float])
    for name, (n, call) in ways.items():
        seconds = []
        for _ in range(repeats if n == len(cut) else 1):
            start = time.process_time()
            call()
            seconds.append(time.process_time() - start)
        table.add_row([name, round(float(np.median(seconds)) * 1000 / n, 2)])
    record("CPU seconds for 1,000 cutouts of 111 x 111 pixels, on one thread", table)


def before_psfex(n_frames: int, real: Path | None) -> None:
    """Print PSFEx's error with SExtractor's catalogue as it is, and after ``mlpsf select``."""
    rows = []
    for number in tqdm(range(n_frames), disable=None):
        sim = draw(number)
        with Extraction(sim.frame) as extraction:
            ny, nx = sim.frame.shape
            true, fwhm = sim.psf.stamp(nx / 2, ny / 2, size=SIDE), sim.psf.fwhm
            stamps = {"as it is": build_psfex(extraction).stamps}
            for n_max in MOST_STARS:
                chosen = chosen_catalogue(extraction, n_max)
                stamps[_after(n_max)] = read_psfex(run_psfex(extraction, chosen))[0]
            for way, drawn in stamps.items():
                errors = errors_of(drawn([0.0], [0.0], SIDE)[0], true, fwhm)
                rows.append({"frame": number, "way": way, **errors})
    errors = Table(rows)
    names = ("dT/T", "de", "flux", "residual")
    table = Table(names=["catalogue", *names], dtype=["U40", *["U20"] * len(names)])
    for way in dict.fromkeys(errors["way"]):
        figures = [np.abs(errors[name][errors["way"] == way]) for name in names]
        table.add_row([way, *(f"{np.median(v):.4f} {v.max():.4f}" for v in figures)])
    record(
        f"PSFEx on SExtractor's catalogue of {n_frames} frames: median and worst error, of the "
        "truth",
        table,
    )
    if real is None:
        return
    table = Table(names=["frame", "catalogue", "rows", "PSFEx"], dtype=["U40", "U40", int, "U80"])
    for path in sorted(real.glob("*.fits")):
        with Extraction(read_frame(path)) as extraction:
            n = len(extraction.table())
            table.add_row([path.name, "as it is", n, _chi(extraction, extraction.catalogue)])
            for n_max in MOST_STARS:
                try:
                    chosen = chosen_catalogue(extraction, n_max)
                except MlpsfError as error:
                    table.add_row([path.name, _after(n_max), 0, str(error).partition(":")[0]])
                    continue
                with fits.open(chosen) as hdus:
                    left = len(hdus["LDAC_OBJECTS"].data)
                table.add_row([path.name, _after(n_max), left, _chi(extraction, chosen)])
    record("The same on real frames", table)


def _after(n_max: int) -> str:
    return f"after mlpsf select --n-max {n_max}"


def chosen_catalogue(extraction: Extraction, n_max: int) -> Path:
    """Leave of SExtractor's catalogue the rows that mlpsf chooses from its cutouts alone."""
    found = read_cutouts(extraction.catalogue)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = select_cutouts(
            found.cutouts, found.x, found.y, groups=found.groups, n_min=1, n_max=n_max
        )
    path = extraction.folder / "chosen_by_mlpsf.cat"
    path.write_bytes(kept_rows(extraction.catalogue, table["selected"]))
    return path


def _chi(extraction: Extraction, catalogue: Path) -> str:
    with fits.open(run_psfex(extraction, catalogue)) as hdus:
        header = hdus["PSF_DATA"].header
        stars = f"{header['ACCEPTED']} stars, FWHM {header['PSF_FWHM']:.2f}"
        return f"chi2/dof {header['CHI2']:.2f} ({stars})"


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--survey", type=int, default=FRAMES["survey"])
    parser.add_argument("--random", type=int, default=FRAMES["random"])
    parser.add_argument("--psfex", type=int, default=0, help="frames of PSFEx's error")
    parser.add_argument("--real", type=Path, help="folder of real frames for PSFEx")
    arguments = parser.parse_args()
    kinds = {"survey": arguments.survey, "random": arguments.random}
    alone({kind: n for kind, n in kinds.items() if n})
    timed()
    if arguments.psfex:
        before_psfex(arguments.psfex, arguments.real)
