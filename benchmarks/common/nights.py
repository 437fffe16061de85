"""Two simulated nights of a survey camera, labelled as the ML-PSF study labelled its own.

Frames of 2048 x 4176 pixels at 0.168 arcsec, with the star and galaxy counts of fields far from
the Milky Way. Night 1 is for design, night 2 for judgement: other seeing, fields and sky. Every
source of S/N > 200 that can be cut out is kept with the study's label (the residual rule), the
truth, and the pixels that the networks take. One file a frame: an interrupted run goes on.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from astropy.table import Table
from scipy.spatial import cKDTree
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from benchmarks.common.stamps import OUTPUT, truth_of
from mlpsf.detection.sources import find_sources
from mlpsf.errors import MlpsfError
from mlpsf.files import whole_file
from mlpsf.frames.cutouts import PUBLISHED_SIZE, extract_cutouts
from mlpsf.labelling import balance
from mlpsf.selectors import ResidualSelector
from mlpsf.simulation import SimulatedFrame, detector, simulate_frame
from mlpsf.stamps.common_star import common_star
from mlpsf.stamps.standard import STAMP_SIZE, standardise

FOLDER = OUTPUT / "nights"
SNR_MIN = 200.0
"""Least S/N of a source, as in the study."""

_KEPT_SIZE = 51  # of the resampled stamps; their middle is used
_SEED = 2022  # first word of all seeds here; those of benchmarks.common.stamps are 1, 2 and 3
_SATURATION, _GAIN, _READ_NOISE = 60000.0, 3.0, 4.5
_FAINTEST = 25.0  # times the noise of a point source: three magnitudes under S/N 200


class Night(NamedTuple):
    """What a night's frames are drawn from: ranges, and how often the seeing is bad."""

    seeing: tuple[float, float]  # of the beta distribution between a FWHM of 3 and 10 pixels
    n_stars: tuple[int, int]
    n_galaxies: tuple[int, int]
    sky: tuple[float, float]


NIGHTS = {
    1: Night((1.5, 3.0), (330, 480), (1200, 1600), (150.0, 250.0)),
    2: Night((2.0, 2.5), (280, 600), (1000, 1900), (220.0, 400.0)),
}


def night_parameters(night: int, rng: np.random.Generator) -> dict[str, Any]:
    """Draw the parameters of one frame.

    Fields far from the Milky Way: star counts go as F**-0.5 (0.2 dex a magnitude), galaxy counts
    as F**-0.85, about as many of each at i = 21, where the S/N is 200.
    """
    given = NIGHTS[night]
    fwhm = 3.0 + 7.0 * rng.beta(*given.seeing)
    sky = rng.uniform(*given.sky)
    e, angle = min(rng.exponential(0.03), 0.1), rng.uniform(0, 2 * np.pi)
    noise = np.sqrt(sky / _GAIN + (_READ_NOISE / _GAIN) ** 2)
    faintest = _FAINTEST * noise * np.sqrt(4 * np.pi) * fwhm / 2.3548
    saturating = _SATURATION * fwhm**2 / 0.7
    return {
        "fwhm": float(fwhm),
        "psf": str(rng.choice(["moffat", "kolmogorov"])),
        "beta": float(rng.uniform(2.5, 4.5)),
        "e1": float(e * np.cos(angle)),
        "e2": float(e * np.sin(angle)),
        "psf_variation": float(rng.uniform(0, 0.05)),
        "n_stars": int(rng.uniform(*given.n_stars)),
        "n_galaxies": int(rng.uniform(*given.n_galaxies)),
        "flux_range": (float(faintest), float(5 * saturating)),
        "star_slope": 0.5,
        "galaxy_flux_range": (float(faintest), float(0.3 * saturating)),
        "galaxy_slope": 0.85,
        "sky": float(sky),
        "sky_gradient": float(rng.exponential(0.03)),
        "gain": _GAIN,
        "read_noise": _READ_NOISE,
        "saturation": _SATURATION,
        "cosmic_rays": int(rng.uniform(50, 400)),
        "bad_columns": int(rng.poisson(2)),
        "hot_pixels": int(rng.uniform(0, 200)),
    }


def draw_night(night: int, number: int, noise: int = 0) -> SimulatedFrame:
    """Draw a frame of a night; `noise` above 0 changes the photons and the read noise alone."""
    seed = np.random.SeedSequence([_SEED, night, number])
    parameters = night_parameters(night, np.random.default_rng(seed))
    with _other_noise(noise):
        return simulate_frame(**parameters, seed=seed.spawn(1)[0])


@contextmanager
def _other_noise(realisation: int) -> Iterator[None]:
    """Let the simulation draw its noise, and nothing else, from other random numbers."""
    original = detector.add_noise

    def add_noise(image: Any, read_noise: float, resampling: float, rng: Any) -> None:
        other = np.random.default_rng([realisation, int(rng.integers(2**62))])
        original(image, read_noise, resampling, other)

    if realisation == 0:
        yield
    else:
        with mock.patch.object(detector, "add_noise", add_noise):
            yield


class Labelled(NamedTuple):
    """The sources of a frame that the study would have used, their cutouts, the rule's verdict."""

    sources: Table
    rows: np.ndarray
    cutouts: np.ndarray
    rule: ResidualSelector
    rule_cpu: float


def label_frame(sim: SimulatedFrame) -> Labelled:
    """Find, cut out and label as the study did: S/N > 200, 111 pixels, none over the edge."""
    sources = find_sources(sim.frame)
    rows = np.flatnonzero(np.asarray(sources["snr"]) > SNR_MIN)
    x, y = np.asarray(sources["x"])[rows], np.asarray(sources["y"])[rows]
    start = time.process_time()
    cut = extract_cutouts(sim.frame, x, y, PUBLISHED_SIZE, background=sim.frame.background.level)
    whole = ~cut.near_edge
    data = cut.data[whole]
    rule = ResidualSelector().fit(data)  # the study's brightness range is its default
    seconds = time.process_time() - start
    return Labelled(sources, rows[whole], data, rule, seconds)


def content_of(night: int, number: int) -> dict[str, Any]:
    """All that the study needs of a frame."""
    sim = draw_night(night, number)
    made = label_frame(sim)
    sources, rows = made.sources, made.rows
    fwhm = float(sources.meta["fwhm"])
    columns = {key: np.asarray(sources[key])[rows] for key in ("x", "y", "snr", "fwhm", "flags")}
    start = time.process_time()
    stamps = extract_cutouts(
        sim.frame,
        columns["x"],
        columns["y"],
        _KEPT_SIZE,
        fwhm=fwhm,
        background=sim.frame.background.level,
    ).data
    stamp_cpu = time.process_time() - start
    truth, contamination = truth_of(sim, sources)
    return columns | {
        # Half precision holds 1 part in 2048: less than the noise of any pixel.
        "cutouts": made.cutouts.astype(np.float16),
        "stamps": np.clip(stamps, -6e4, 6e4).astype(np.float16),
        "rule": made.rule.labels_.astype(np.int8),
        "distance": made.rule.distance_,
        "truth": truth[rows].astype(np.int8),
        "contamination": contamination[rows],
        "frame_fwhm": np.float64(fwhm),
        "rule_cpu": np.float64(made.rule_cpu),
        "stamp_cpu": np.float64(stamp_cpu),
    }


def rerun_of(night: int, number: int, n_noise: int) -> dict[str, Any]:
    """Label a frame under other noise: rule's labels, shape (1 + n_noise, n), -1 if not found."""
    labels: list[np.ndarray] = []
    at = np.zeros((0, 2))
    for noise in range(1 + n_noise):
        made = label_frame(draw_night(night, number, noise))
        here = np.column_stack([np.asarray(made.sources[key])[made.rows] for key in ("x", "y")])
        if noise == 0:
            at = here
        distance, nearest = cKDTree(here).query(at)
        labels.append(np.where(distance < 2.0, made.rule.labels_[nearest], -1))
    return {"labels": np.array(labels, dtype=np.int8)}


def _make(path: Path, night: int, number: int, n_noise: int) -> None:
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")
        try:
            content = rerun_of(night, number, n_noise) if n_noise else content_of(night, number)
        except MlpsfError as error:  # a frame without usable sources gives none
            content = {"failed": np.array(str(error))}
    with whole_file(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **content)


def make_nights(
    frames: dict[int, int],
    reruns: int = 0,
    n_noise: int = 5,
    workers: int = 2,
    folder: Path = FOLDER,
) -> None:
    """Make what is missing: `frames` of each night, and `reruns` of night 2 under other noise."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [(night, i, 0) for night, n in frames.items() for i in range(n)]
    wanted += [(2, i, n_noise) for i in range(reruns)]
    tasks = [(_path(folder, *task), *task) for task in wanted]
    tasks = [task for task in tasks if not task[0].exists()]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with ProcessPoolExecutor(workers) as pool:
        jobs = [pool.submit(_make, *task) for task in tasks]
        for job in tqdm(as_completed(jobs), total=len(jobs), desc="frames", disable=None):
            job.result()


def _path(folder: Path, night: int, number: int, n_noise: int = 0) -> Path:
    kind = f"noise{n_noise}" if n_noise else "night"
    return folder / f"{kind}-{night}-{number:04d}.npz"


def load_night(
    night: int, numbers: Any, pixels: tuple[str, ...] = (), folder: Path = FOLDER
) -> dict[str, np.ndarray]:
    """Read frames of a night without their pixels, or with those named; ``frame`` numbers them."""
    parts: dict[str, list[np.ndarray]] = {}
    for number in numbers:
        with np.load(_path(folder, night, number)) as file:
            if "failed" in file:
                continue
            n = len(file["rule"])
            for name in file.files:
                if name in ("cutouts", "stamps") and name not in pixels:
                    continue
                value = file[name]
                parts.setdefault(name, []).append(np.full(n, value) if value.ndim == 0 else value)
            parts.setdefault("frame", []).append(np.full(n, number))
            parts.setdefault("row", []).append(np.arange(n))
    return {name: np.concatenate(values) for name, values in parts.items()}


def load_pixels(
    night: int, data: dict[str, np.ndarray], rows: np.ndarray, what: str, folder: Path = FOLDER
) -> np.ndarray:
    """Read the ``"cutouts"`` or ``"stamps"`` of some rows of what `load_night` returned.

    Stamps are standardised here, by the star that all sources of their frame give.
    """
    out: np.ndarray | None = None
    frame, row = data["frame"][rows], data["row"][rows]
    for number in np.unique(frame):
        here = np.flatnonzero(frame == number)
        with np.load(_path(folder, night, number)) as file:
            pixels = file[what]
            if what == "stamps":
                edge = (pixels.shape[-1] - STAMP_SIZE) // 2
                pixels = pixels[:, edge : edge + STAMP_SIZE, edge : edge + STAMP_SIZE]
                pixels = pixels.astype(np.float32)
                x, y = file["x"], file["y"]
                star = common_star(pixels, file["snr"], file["flags"], x, y)
                pixels = standardise(pixels, star, x, y)
            pixels = pixels[row[here]]
        if out is None:
            out = np.empty((len(rows), *pixels.shape[1:]), dtype=np.float32)
        out[here] = pixels
    return np.zeros((0, 1, 1), np.float32) if out is None else out


def load_reruns(number: int, n_noise: int = 5, folder: Path = FOLDER) -> np.ndarray | None:
    """Read the rule's labels of a frame of night 2 under other noise, None if it has none."""
    with np.load(_path(folder, 2, number, n_noise)) as file:
        return None if "failed" in file else file["labels"]


class Sample(NamedTuple):
    """Some sources of a night, good and bad of equal weight in each frame, by one kind of label."""

    night: int
    data: dict[str, np.ndarray]
    rows: np.ndarray
    y: np.ndarray
    weight: np.ndarray

    @classmethod
    def balanced(
        cls, night: int, data: dict[str, np.ndarray], label: str, among: np.ndarray | None = None
    ) -> Sample:
        """Leave the ambiguous out, and bad ones at random until there are as many as good."""
        rows = _labelled(data, label, among)
        rows = rows[balance(data[label][rows], groups=data["frame"][rows], random_state=0)]
        return cls(night, data, rows, data[label][rows].astype(int), np.ones(len(rows)))

    @classmethod
    def weighted(
        cls, night: int, data: dict[str, np.ndarray], label: str, among: np.ndarray | None = None
    ) -> Sample:
        """Leave the ambiguous out alone, and let the bad of a frame weigh as much as its good."""
        rows = _labelled(data, label, among)
        y, frame = data[label][rows].astype(int), data["frame"][rows]
        weight = np.ones(len(rows))
        for number in np.unique(frame):
            here = frame == number
            weight[here & (y == 0)] = y[here].sum() / max((y[here] == 0).sum(), 1)
        return cls(night, data, rows, y, weight)

    def part(self, which: np.ndarray) -> Sample:
        """Return some of its sources."""
        rows, y, weight = self.rows[which], self.y[which], self.weight[which]
        return self._replace(rows=rows, y=y, weight=weight)

    @property
    def frame(self) -> np.ndarray:
        """Which frame each is from."""
        return self.data["frame"][self.rows]

    def pixels(self, size: int) -> np.ndarray:
        """Cutouts of a side: 111 of the frame's own pixels, or standardised stamps of 41."""
        native = size == PUBLISHED_SIZE
        return load_pixels(self.night, self.data, self.rows, "cutouts" if native else "stamps")


def _labelled(data: dict[str, np.ndarray], label: str, among: np.ndarray | None) -> np.ndarray:
    """Rows that are good or bad, in frames that have both."""
    rows = np.arange(len(data["frame"])) if among is None else among
    rows = rows[data[label][rows] >= 0]
    both = np.array(
        [
            len(np.unique(data[label][rows[data["frame"][rows] == f]]))
            for f in np.unique(data["frame"])
        ]
    )
    return rows[np.isin(data["frame"][rows], np.unique(data["frame"])[both == 2])]
