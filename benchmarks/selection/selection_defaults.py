"""How many stars, how bright, how sure: ``python -m benchmarks selection_defaults``.

The defaults of `mlpsf.select_stars`, one changed at a time, judged by the error of the PSF that
results. Simulated 2048 x 4176 frames of FWHM 3 to 9, sparse to crowded, every third with a PSF
that varies by 3 % over the frame. A frame's sources are found and judged once; only choosing and
building are repeated. The truth is the frame's mean PSF.
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from astropy.table import Table, vstack
from numpy.typing import NDArray

from benchmarks.common.results import record
from benchmarks.common.stamps import OUTPUT, truth_of
from benchmarks.psf.psf_error import SIDE, errors_of
from mlpsf.detection.sources import find_sources
from mlpsf.errors import MlpsfError
from mlpsf.flags import Flag
from mlpsf.psf import build_psf
from mlpsf.selection.choice import N_MAX, THRESHOLD, candidates
from mlpsf.selection.eligibility import SNR_MIN
from mlpsf.selection.judging import judge_sources
from mlpsf.selection.second_look import second_look
from mlpsf.selectors import PSFStarSelector
from mlpsf.simulation import SimulatedFrame, simulate_frame

N_MIN = 5
"""With fewer good stars than this the best of the others are taken, as ``relax`` does."""

FEWEST = 10
"""Stars that `Setting.enough` takes whatever their noise: a PSF needs all sub-pixel phases."""

CELLS = 3
"""Rows and columns of cells over which stars are spread."""


@dataclass(frozen=True)
class Setting:
    """One way to choose.

    `judged` False takes every unflagged source for a good star; `enough` stops where a further
    star of the ranking would add more noise to the mean than it takes away.
    """

    n_max: int = N_MAX
    snr_min: float = SNR_MIN
    threshold: float = THRESHOLD
    rank_by: str = "snr"
    spread: bool = False
    second_look: bool = True
    judged: bool = True
    enough: bool = False


DEFAULT = Setting()


def settings() -> dict[str, Setting]:
    """Return the settings by name, the default first."""
    out = {"default": DEFAULT}
    changes: dict[str, tuple[Any, ...]] = {
        "n_max": (5, 10, 15, 25, 40, 64),
        "snr_min": (50.0, 100.0, 200.0, 400.0),
        "threshold": (0.5, 0.8, 0.9, 0.95),
        "rank_by": ("probability",),
        "spread": (True,),
        "second_look": (False,),
    }
    for name, values in changes.items():
        for value in values:
            setting = replace(DEFAULT, **{name: value})
            if setting != DEFAULT:
                out[f"{name} {value}"] = setting
    for threshold in (0.1, 0.2, 0.3, 0.5, 0.8):  # what a second look makes possible
        for look in (True, False):
            loose = replace(DEFAULT, threshold=threshold, second_look=look)
            name = f"threshold {threshold:g}" + ("" if look else ", second_look False")
            out[name] = loose
    middle = replace(DEFAULT, threshold=0.5)
    for n_max in (10, 15, 40):
        out[f"threshold 0.5, n_max {n_max}"] = replace(middle, n_max=n_max)
    for snr_min in (100.0, 200.0, 400.0):
        out[f"threshold 0.5, snr_min {snr_min:g}"] = replace(middle, snr_min=snr_min)
    out["enough"] = replace(DEFAULT, enough=True)
    out["threshold 0.5, enough"] = replace(middle, enough=True)
    out["threshold 0.5, enough, n_max 40"] = replace(middle, enough=True, n_max=40)
    unjudged = replace(DEFAULT, judged=False)
    return {
        **out,
        "brightest": replace(unjudged, second_look=False),
        "brightest, second_look": unjudged,
    }


def draw(number: int) -> SimulatedFrame:
    """Frame `number`, from 500 to 7000 stars."""
    rng = np.random.default_rng([78, number])
    e, angle = rng.uniform(0, 0.1), rng.uniform(0, 2 * np.pi)
    crowding = (number * 0.38197 + 0.1) % 1
    return simulate_frame(
        fwhm=3 + 6 * ((number * 0.618 + 0.3) % 1),
        psf=("moffat", "kolmogorov")[number % 2],
        beta=rng.uniform(2.8, 4.5),
        e1=e * np.cos(angle),
        e2=e * np.sin(angle),
        psf_variation=0.03 if number % 3 == 2 else 0.0,
        n_stars=int(500 * 14**crowding),
        n_galaxies=int(rng.uniform(1500, 6000)),
        cosmic_rays=150,
        bad_columns=2,
        sky_gradient=0.03,
        seed=np.random.SeedSequence([78, number]),
    )


def mean_psf(sim: SimulatedFrame) -> NDArray[np.float64]:
    """Mean over the frame of the true PSF, shape (SIDE, SIDE)."""
    ny, nx = sim.frame.shape
    share = (np.arange(5) + 0.5) / 5
    places = [(nx * u, ny * v) for u in share for v in share]
    return np.asarray(np.mean([sim.psf.stamp(*at, size=SIDE) for at in places], axis=0))


def spread_out(rows: NDArray[np.intp], sources: Table, shape: tuple[int, int]) -> NDArray[np.intp]:
    """Reorder ranked rows: the best of each cell of the frame, then the second best of each."""
    column = (np.asarray(sources["x"])[rows] / shape[1] * CELLS).astype(int)
    row = (np.asarray(sources["y"])[rows] / shape[0] * CELLS).astype(int)
    cell = row * CELLS + column
    turn = np.array([(cell[:k] == c).sum() for k, c in enumerate(cell)], dtype=int)
    return rows[np.argsort(turn, kind="stable")]


def chosen(
    sim: SimulatedFrame,
    sources: Table,
    probability: NDArray[np.float64],
    setting: Setting,
) -> NDArray[np.intp]:
    """Return the rows that a setting chooses."""
    p = probability if setting.judged else np.ones(len(sources))
    table = sources[["x", "y", "snr"]]
    flags = np.array(sources["flags"])
    flags[~(np.asarray(sources["snr"]) >= setting.snr_min)] |= Flag.FAINT
    if not setting.judged:  # what a user without a selector leaves out
        flags[(flags & Flag.BLENDED) != 0] |= Flag.VETOED
    table["flags"] = flags
    rows = candidates(
        table, p, threshold=setting.threshold, rank_by=setting.rank_by, needed=setting.n_max
    )
    if setting.second_look and len(rows) > N_MIN:
        looked_at = rows[: 2 * setting.n_max]
        look = second_look(
            sim.frame,
            np.asarray(sources["x"])[looked_at],
            np.asarray(sources["y"])[looked_at],
            sources.meta["fwhm"],
        )
        struck = looked_at[look.worst_first()[: len(rows) - N_MIN]]
        rows = rows[~np.isin(rows, struck)]
    if len(rows) < N_MIN:
        rows = candidates(table, p)[:N_MIN]
    if setting.spread:
        rows = spread_out(rows, sources, sim.frame.shape)
    rows = rows[: setting.n_max]
    if setting.enough and len(rows) > FEWEST:
        noise = (
            np.cumsum(1.0 / np.asarray(sources["snr"])[rows] ** 2)
            / np.arange(1, len(rows) + 1) ** 2
        )
        rows = rows[: max(FEWEST, int(np.argmin(noise)) + 1)]
    return rows


def measure(number: int) -> list[dict[str, Any]]:
    """Try all settings on one frame."""
    sim = draw(number)
    sources = find_sources(sim.frame)
    sources, probability = judge_sources(sim.frame, sources, PSFStarSelector.from_pretrained())
    labels, _ = truth_of(sim, sources)
    true = mean_psf(sim)
    known: dict[tuple[int, ...], dict[str, float]] = {}
    rows = []
    for name, setting in settings().items():
        picks = chosen(sim, sources, probability, setting)
        key = tuple(sorted(picks.tolist()))
        try:
            if key not in known:
                model = build_psf(sim.frame, sources[list(key)], size=SIDE)
                image = model.render(SIDE // 2, SIDE // 2, shape=(SIDE, SIDE))
                known[key] = errors_of(image, true, sim.psf.fwhm)
        except MlpsfError as error:
            print(number, name, error)
            continue
        row: dict[str, Any] = {"frame": number, "fwhm": sim.psf.fwhm, "setting": name}
        row |= {"n": len(picks), "spoiled": int((labels[picks] == 0).sum()), **known[key]}
        row["snr"] = float(np.median(np.asarray(sources["snr"])[picks]))
        rows.append(row)
    return rows


def summarise(table: Table) -> Table:
    """Return median and worst errors of each setting, and in how many frames it beats default."""
    default = {r["frame"]: r["residual"] for r in table if r["setting"] == "default"}
    parts = []
    for name in settings():
        part = table[table["setting"] == name]
        if len(part) == 0:
            continue
        line: dict[str, Any] = {"setting": name, "n": float(np.median(part["n"]))}
        line["spoiled"] = float(np.mean(part["spoiled"]))
        for key in ("dT/T", "de", "flux", "residual"):
            values = np.abs(part[key])
            line |= {key: float(np.median(values)), f"{key} worst": float(values.max())}
        ratio = np.array([r["residual"] / default[r["frame"]] for r in part])
        line["better"], line["worse"] = int((ratio < 0.98).sum()), int((ratio > 1.02).sum())
        line["ratio"] = float(np.exp(np.log(ratio).mean()))
        parts.append(Table([line]))
    summary = vstack(parts)
    for column in summary.colnames[3:]:
        if column not in ("better", "worse"):
            summary[column].format = ".4f"
    summary["ratio"].format = ".2f"
    return summary


def main() -> None:
    """Measure frame by frame; print and write both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=10)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    folder = OUTPUT / "selection_defaults"
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for number in range(arguments.frames):
        rows += measure(number)
        print(f"frame {number} done", flush=True)
    table = Table(rows)
    table.write(folder / "frames.ecsv", overwrite=True)
    summary = summarise(table)
    record("Errors of the PSF, by how its stars were chosen", summary)
    summary.write(folder / "summary.ecsv", overwrite=True)
