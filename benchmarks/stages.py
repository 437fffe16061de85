"""Time and memory of every stage on a 2048 x 4176 frame: ``python -m benchmarks.stages``.

Cold: a new process, from its start to the file written. Warm: each stage in one process, the
least of three. Beside them TRIPPy's own chooser, given the same detections, in the same run.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table

from benchmarks.stamps import OUTPUT
from mlpsf.cutouts import extract_cutouts
from mlpsf.detection import find_sources, measure_background
from mlpsf.frame import read_frame
from mlpsf.pipeline import judge_sources, select_stars
from mlpsf.psf import build_psf
from mlpsf.psf.trippy import load_trippy, release_downsample
from mlpsf.selectors import PSFStarSelector, ResidualSelector
from mlpsf.simulation import simulate_frame
from mlpsf.standard import extract_stamps, frame_star


def timed(function: Any, repeat: int = 3) -> tuple[float, float, Any]:
    """Return least wall and CPU seconds and the last result."""
    walls, cpus, result = [], [], None
    for _ in range(repeat):
        wall, cpu = time.perf_counter(), time.process_time()
        result = function()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return min(walls), min(cpus), result


def cold(*arguments: str) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak memory (MB) of a command in a new process."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "mlpsf.cli", *arguments], stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{arguments} failed with status {status}")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def chooser(frame: Any, sources: Table) -> int:
    """Let TRIPPy 1.1.1's starChooser choose by its automatic trim; return how many it takes."""
    load_trippy()
    from matplotlib import pyplot
    from trippy import psfStarChooser

    pyplot.switch_backend("Agg")
    bright = sources[sources["snr"] > 200]
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chosen = psfStarChooser.starChooser(
            frame.data.astype(np.float64),
            np.asarray(bright["x"]) + 1,
            np.asarray(bright["y"]) + 1,
            np.asarray(bright["flux"]),
            np.asarray(bright["flux"] / bright["snr"]),
        )(30, 200, autoTrim=True, noVisualSelection=True)
    return len(chosen[0])


def main() -> None:
    """Print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fwhm", type=float, default=4.0)
    parser.add_argument("--no-chooser", action="store_true", help="leave TRIPPy's chooser out")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []

    def add(stage: str, wall: float, cpu: float, megabytes: float = np.nan) -> None:
        rows.append({"stage": stage, "wall (s)": wall, "cpu (s)": cpu, "peak MB": megabytes})
        print(f"{stage:45s} {wall:8.3f} {cpu:8.3f} {megabytes:8.0f}", flush=True)

    wall, cpu, sim = timed(
        lambda: simulate_frame(fwhm=arguments.fwhm, n_stars=1500, n_galaxies=4500, seed=5), 1
    )
    add("simulate 6,000 objects", wall, cpu)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frame.fits"
        sim.write(path)
        out = str(Path(folder) / "out")
        for name in ("cnn", "residual"):
            add(
                f"mlpsf select --selector {name}, cold",
                *cold("select", str(path), "--selector", name, "--out", out + ".ecsv"),
            )
        add("mlpsf psf, cold", *cold("psf", str(path), "--out", out + ".fits"))
        wall, cpu, frame = timed(lambda: read_frame(path))
        add("read", wall, cpu)
    wall, cpu, background = timed(lambda: measure_background(frame))
    add("background", wall, cpu)
    wall, cpu, sources = timed(lambda: find_sources(frame, background=background))
    add(f"find and measure {len(sources)} sources", wall, cpu)
    x, y = np.asarray(sources["x"]), np.asarray(sources["y"])
    sky, fwhm = background.level, sources.meta["fwhm"]
    wall, cpu, star = timed(lambda: frame_star(frame, background, sources))
    add("the frame's common star", wall, cpu)
    wall, cpu, _ = timed(lambda: extract_stamps(frame, x, y, fwhm=fwhm, background=sky, star=star))
    add("stamps of all, resampled and standardised", wall, cpu)
    bright = np.asarray(sources["snr"]) > 200
    wall, cpu, _ = timed(lambda: extract_cutouts(frame, x[bright], y[bright], 111, background=sky))
    add(f"cutouts of {bright.sum()}, 111 x 111", wall, cpu)
    cnn = PSFStarSelector.from_pretrained()
    wall, cpu, _ = timed(lambda: judge_sources(frame, background, sources, cnn))
    add("judge all, cnn (stamps included)", wall, cpu)
    wall, cpu, _ = timed(lambda: judge_sources(frame, background, sources, ResidualSelector()))
    add("judge bright, residual (cutouts included)", wall, cpu)
    wall, cpu, stars = timed(lambda: select_stars(frame, selector=cnn))
    add("select_stars, cnn, warm", wall, cpu)
    wall, cpu, _ = timed(lambda: build_psf(frame, stars))
    add(f"PSF from {stars.meta['n_selected']} stars", wall, cpu)
    if not arguments.no_chooser:
        wall, cpu, n = timed(lambda: chooser(frame, sources), 1)
        add(f"TRIPPy's chooser, its sum reshaped ({n} taken)", wall, cpu)
        with release_downsample():
            wall, cpu, n = timed(lambda: chooser(frame, sources), 1)
        add(f"TRIPPy's chooser as released ({n} taken)", wall, cpu)
    (OUTPUT / "stages").mkdir(parents=True, exist_ok=True)
    Table(rows).write(OUTPUT / "stages" / "stages.ecsv", overwrite=True)


if __name__ == "__main__":
    main()
