"""Labelled stamps of simulated frames: what the shipped model is trained and tested on.

A frame is drawn, its sources are found and measured exactly as in use, and every source is
labelled by the truth. One small file a frame, so that an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import json
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import sep
from tqdm import tqdm

from mlpsf.detection.bad_pixels import fill_lone_pixels
from mlpsf.detection.sources import find_sources
from mlpsf.errors import MlpsfError
from mlpsf.files import whole_file
from mlpsf.frames.frame import Frame
from mlpsf.labelling import truth_labels
from mlpsf.neighbours.subtract import measure_again, subtract_neighbours
from mlpsf.neighbours.taken import light_taken
from mlpsf.neighbours.truth import light_left
from mlpsf.selection.eligibility import flag_other_sizes
from mlpsf.simulation import TELESCOPES, SimulatedFrame, random_parameters, simulate_frame
from mlpsf.stamps.standard import STAMP_SIZE, extract_stamps, frame_star, fwhm_of_stars

OUTPUT = Path(__file__).parents[1] / "output"
SPLITS = {"train": 1, "validation": 2, "test": 3}
"""First word of each split's seeds: no test frame's seed is ever trained on."""

SNR_MIN = 30.0
Plan = dict[tuple[str, str], int]
"""How many frames of every (split, kind)."""

_SMALL = (800, 800)  # of the frames of special telescopes, whose PSFs take longer to draw
PER_FRAME = 400  # sources kept of a frame: a globular cluster must not be half of the set


def survey_parameters(rng: np.random.Generator, shape: tuple[int, int]) -> dict[str, Any]:
    """Draw a frame like those of the ML-PSF study: deep, many galaxies, FWHM 3 to 9 pixels."""
    share = shape[0] * shape[1] / (4176 * 2048)
    e, angle = min(rng.exponential(0.03), 0.15), rng.uniform(0, 2 * np.pi)
    return {
        "shape": shape,
        "fwhm": float(rng.uniform(3, 9)),
        "psf": str(rng.choice(["moffat", "kolmogorov"])),
        "beta": float(rng.uniform(2.5, 4.5)),
        "e1": float(e * np.cos(angle)),
        "e2": float(e * np.sin(angle)),
        "psf_variation": float(rng.uniform(0, 0.05)),
        "n_stars": int(rng.uniform(300, 2500) * share),
        "n_galaxies": int(rng.uniform(1500, 6000) * share),
        "cosmic_rays": int(rng.uniform(50, 400) * share),
        "bad_columns": int(rng.poisson(2)),
        "hot_pixels": int(rng.uniform(0, 200) * share),
        "sky_gradient": float(rng.exponential(0.03)),
    }


def comatic_parameters(rng: np.random.Generator) -> dict[str, Any]:
    """Draw optics of strong aberrations, coma above all, and many bright stars."""
    waves = rng.normal(0, rng.uniform(0.03, 0.15), 6).tolist()
    coma = rng.normal(0, rng.uniform(0.05, 0.25), 2).tolist()
    names = ("defocus", "astig1", "astig2", "trefoil1", "trefoil2", "spher", "coma1", "coma2")
    optics = {"diffraction": float(rng.uniform(0.2, 0.8)), "obscuration": rng.uniform(0, 0.45)}
    return {
        "psf": "optical",
        "optics": optics | dict(zip(names, waves + coma, strict=True)),
        "star_slope": float(rng.uniform(0.25, 0.6)),
    }


def crowded_parameters(rng: np.random.Generator) -> dict[str, Any]:
    """Draw a crowded sky: 300 to 20,000 stars a megapixel at FWHM 2 to 8, some with a cluster.

    Where stars are more than one in three squares of a FWHM, none can be seen alone.
    """
    density, fwhm = np.inf, 8.0
    while density * fwhm**2 > 3.3e5:
        density = float(np.exp(rng.uniform(np.log(300), np.log(20_000))))
        fwhm = float(np.exp(rng.uniform(np.log(2), np.log(8))))
    parameters = random_parameters(rng, shape=_SMALL)
    area = _SMALL[0] * _SMALL[1] / 1e6
    return parameters | {
        "fwhm": fwhm,
        "trail": 0.0,
        "psf_variation": min(parameters["psf_variation"], fwhm / 1.35 - 1),
        "n_stars": int(density * area),
        "n_galaxies": int(rng.uniform(0, 600) * area),
        "star_slope": float(rng.uniform(0.35, 0.9)),
        "clustering": float(rng.choice([0.0, rng.uniform(0.3, 0.9)], p=[0.7, 0.3])),
        "cluster_radius": float(rng.uniform(60, 250)),
    }


def draw_frame(kind: str, split: str, number: int) -> tuple[SimulatedFrame, dict[str, Any]]:
    """Draw frame `number` of a split.

    ``"random"`` telescopes; a ``"survey"``; a ``"quarter"`` of its frames, and ``"bright"`` ones:
    quarters with more bright stars than the sky has; ``"comatic"`` telescopes out of alignment,
    whose stars are not their own images turned by half a circle; and the kinds of `TELESCOPES`,
    half of them in a unit of which no gain is known; and ``"crowded"`` skies.
    """
    seed = np.random.SeedSequence([SPLITS[split], sum(map(ord, kind)), number])
    rng = np.random.default_rng(seed)
    if kind in TELESCOPES:
        parameters = random_parameters(rng, shape=_SMALL, kind=kind)
        sim = simulate_frame(**parameters, seed=seed.spawn(1)[0])
        if rng.random() < 0.5:
            parameters["unit"] = float(10 ** rng.uniform(-9, 3))
            sim = replace(sim, frame=in_other_unit(sim.frame, parameters["unit"]))
        return sim, parameters
    if kind == "crowded":
        parameters = crowded_parameters(rng)
    elif kind in ("random", "comatic"):
        parameters = random_parameters(rng, shape=(1024, 1024))
        if kind == "comatic":
            parameters |= comatic_parameters(rng)
    else:
        shape = (4176, 2048) if kind == "survey" else (2088, 1024)
        parameters = survey_parameters(rng, shape)
        if kind == "bright":
            parameters["star_slope"] = 0.3
    return simulate_frame(**parameters, seed=seed.spawn(1)[0]), parameters


def in_other_unit(frame: Frame, factor: float) -> Frame:
    """Give a frame in a unit of which neither gain nor saturation are known."""
    return replace(
        frame,
        data=frame.data * np.float32(factor),
        gain=np.inf,
        saturation=frame.saturation * factor,
        guessed=frozenset({"gain", "saturation", "unit"}),
    )


def truth_of(
    sim: SimulatedFrame, sources: Any, frame: Frame | None = None, unit: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Label detections of a simulated frame by its truth; see `truth_labels`.

    Those of a frame without neighbours, in a unit of the truth's, by what their subtraction left.
    """
    truth = sim.truth
    left = None
    if frame is not None and frame.scene is not None:
        places = (truth["x"], truth["y"], truth["flux"] * unit)
        left = light_left(frame, sources["x"], sources["y"], *places)
    # The truth knows its own FWHM, whatever was measured.
    return truth_labels(
        sources["x"],
        sources["y"],
        truth["x"],
        truth["y"],
        truth["flux"],
        truth["kind"] == "star",
        fwhm=sim.psf.shape_at(sources["x"], sources["y"])[0],
        defects=sim.defects,
        left=left,
    )


def stamps_of(kind: str, split: str, number: int, standard: bool = True) -> dict[str, Any]:
    """Make the labelled stamps of one frame, standardised or with its own PSF left in."""
    sim, parameters = draw_frame(kind, split, number)
    frame = fill_lone_pixels(sim.frame)
    sources = find_sources(frame)
    frame = subtract_neighbours(frame, sources)
    sources, sky = measure_again(frame, sources), frame.background
    flag_other_sizes(sources)
    x, y = np.asarray(sources["x"]), np.asarray(sources["y"])
    unit = float(np.median(sky.rms))  # single precision cannot hold squares of any unit
    pixels, rms = (frame.data - sky.level) / unit, sky.rms / unit
    gain = frame.known_gain * unit if np.isfinite(frame.known_gain) else None
    aperture, error, _ = sep.sum_circle(pixels, x, y, 10.0, err=rms, gain=gain)
    if frame.scene is not None:  # the aperture holds its neighbours; its own light is known
        aperture = np.asarray(sources["flux"]) / unit
        error = np.sqrt(
            100 * np.pi * np.median(rms) ** 2 + np.maximum(aperture, 0) / (gain or np.inf)
        )
    rows = np.flatnonzero(np.asarray(sources["snr"]) >= SNR_MIN)
    rng = np.random.default_rng([SPLITS[split], number])
    if split == "train" and len(rows) > PER_FRAME:
        rows = np.sort(rng.choice(rows, PER_FRAME, replace=False))
    unit_of_truth = parameters.get("unit", 1.0)
    labels, contamination = truth_of(sim, sources[rows], frame, unit_of_truth)
    star = frame_star(frame, sources) if standard else None
    width = fwhm_of_stars(sources, sources[rows])
    cut = extract_stamps(frame, x[rows], y[rows], fwhm=width, star=star).data
    fwhm, has_star = np.broadcast_to(width, len(rows)), np.full(len(rows), star is not None)
    c = STAMP_SIZE // 2
    peak = np.nan_to_num(cut[:, c - 1 : c + 2, c - 1 : c + 2], nan=0).max(axis=(1, 2))
    cut /= np.maximum(peak, 1e-6)[:, None, None]  # float16 holds shapes, not counts
    return {
        "stamps": np.clip(cut, -6e4, 6e4).astype(np.float16),
        "label": labels.astype(np.int8),
        "contamination": contamination.astype(np.float32),
        "snr": np.asarray(sources["snr"])[rows].astype(np.float32),
        "taken": light_taken(frame, x[rows], y[rows], float(sources.meta["fwhm"])).astype(
            np.float32
        ),
        "aperture_snr": (aperture / error)[rows].astype(np.float32),
        "flags": np.asarray(sources["flags"])[rows],
        "x": x[rows],
        "y": y[rows],
        "fwhm": fwhm,
        "standard": has_star,
        "true_fwhm": sim.psf.shape_at(x[rows], y[rows])[0],
        "parameters": np.array(json.dumps(parameters)),
    }


def _make(task: tuple[str, str, int, str, bool]) -> str | None:
    kind, split, number, folder, standard = task
    path = Path(folder) / f"{split}-{kind}-{number:05d}.npz"
    if path.exists():
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            content = stamps_of(kind, split, number, standard)
        except MlpsfError as error:  # a frame without usable sources is a frame without stamps
            content = {"failed": np.array(str(error))}
    with whole_file(path) as temporary:
        np.savez_compressed(temporary, **content)
    return str(content["failed"]) if "failed" in content else None


def make_stamps(plan: Plan, folder: Path, workers: int = 2, standard: bool = True) -> None:
    """Make what is missing of a plan ``{(split, kind): number of frames}``; see `stamps_of`."""
    folder.mkdir(parents=True, exist_ok=True)
    tasks = [
        (kind, split, number, str(folder), standard)
        for (split, kind), n in plan.items()
        for number in range(n)
        if not (folder / f"{split}-{kind}-{number:05d}.npz").exists()
    ]
    with ProcessPoolExecutor(workers) as pool:
        jobs = [pool.submit(_make, task) for task in tasks]
        for job in tqdm(as_completed(jobs), total=len(jobs), desc="frames", disable=None):
            failure = job.result()
            if failure:
                tqdm.write(f"no stamps: {failure}")


def stamp_files(folder: Path, split: str, kind: str = "*", plan: Plan | None = None) -> list[Path]:
    """Files of a split in order; only those of a plan, where one is given."""
    found = sorted(folder.glob(f"{split}-{kind}-*.npz"))
    if plan is None:
        return found
    wanted = {(f"{s}-{k}", n) for (s, k), count in plan.items() for n in range(count)}
    return [p for p in found if (p.stem.rpartition("-")[0], int(p.stem[-5:])) in wanted]


def load_stamps(
    folder: Path, split: str, kind: str = "*", plan: Plan | None = None
) -> dict[str, np.ndarray]:
    """Read all frames of a split; ``frame`` numbers them, per-frame values are repeated."""
    parts: dict[str, list[np.ndarray]] = {}
    for frame, path in enumerate(stamp_files(folder, split, kind, plan)):
        with np.load(path) as file:
            if "failed" in file:
                continue
            n = len(file["label"])
            for name in set(file.files) - {"parameters"}:
                value = file[name]
                parts.setdefault(name, []).append(np.full(n, value) if value.ndim == 0 else value)
            parts.setdefault("frame", []).append(np.full(n, frame))
    return {name: np.concatenate(values) for name, values in parts.items()}


def load_parameters(
    folder: Path, split: str, kind: str = "*", plan: Plan | None = None
) -> dict[int, dict[str, Any]]:
    """Read what the frames of a split were drawn from, by the number `load_stamps` gives them."""
    out = {}
    for frame, path in enumerate(stamp_files(folder, split, kind, plan)):
        with np.load(path) as file:
            if "failed" not in file:
                out[frame] = json.loads(str(file["parameters"]))
    return out
