"""What crowded frames cost, by their number of stars: ``python -m benchmarks crowds``.

Frames of one density and growing size, each chosen on in a process of its own, on one thread: CPU
seconds and the largest memory of `select_stars`, beside those without subtraction of neighbours.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
import warnings
from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import numpy as np
from astropy.table import Table
from threadpoolctl import threadpool_limits

from benchmarks.common.results import record
from mlpsf.frames.frame import Frame
from mlpsf.pipeline import select_stars
from mlpsf.simulation import simulate_frame

DENSITY = 6000  # stars a megapixel: the faintest are not found
FWHM = 3.5
SOURCES = (1000, 3000, 10_000, 30_000, 100_000)


def crowd(n_stars: int) -> Frame:
    """Draw a crowded frame of so many stars."""
    side = int(np.sqrt(n_stars / DENSITY * 1e6))
    return simulate_frame(
        shape=(side, side), n_stars=n_stars, n_galaxies=n_stars // 50, fwhm=FWHM, seed=n_stars
    ).frame


def cost(n_stars: int, alone: bool) -> dict[str, Any]:
    """Choose on one frame, with or without subtraction; what it took."""
    warnings.simplefilter("ignore")
    select_stars(crowd(1000), relax=True)  # what is loaded once is not counted
    frame = crowd(n_stars)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    left = patch("mlpsf.pipeline.subtract_neighbours", _not_at_all) if alone else nullcontext()
    with threadpool_limits(1), left:
        start = time.process_time()
        stars = select_stars(frame, relax=True)
        seconds = time.process_time() - start
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "stars": n_stars,
        "megapixels": round(frame.data.size / 1e6, 2),
        "detected": len(stars),
        "fitted": int(stars.meta.get("n_subtracted", 0)),
        "CPU s": round(seconds, 2),
        "memory, MB": after // 1024,
        "of it before": before // 1024,
    }


def _not_at_all(frame: Frame, _: Table) -> Frame:
    return frame


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stars", type=int, nargs="+", default=list(SOURCES))
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    rows = []
    for n_stars in arguments.stars:
        for alone in (False, True):
            with context.Pool(1) as pool:
                row = pool.apply(cost, (n_stars, alone))
            rows.append({"neighbours": "left" if alone else "taken away"} | row)
            print(rows[-1], flush=True)
    record(f"Frames of {DENSITY} stars a megapixel, FWHM {FWHM} pixels, one thread", Table(rows))


if __name__ == "__main__":
    main()
