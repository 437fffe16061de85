"""The vectorised PSF fit against TRIPPy's LSfitter: ``python -m benchmarks fitters``.

The same sources of a simulated frame, the same PSF, the same window: do both rank them alike,
choose the same 25, and what does each cost? TRIPPy runs as released, its slow sum included, and
once more with that sum as one numpy reshape.
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
from scipy.stats import spearmanr

from mlpsf.detection.sources import find_sources
from mlpsf.flags import Flag
from mlpsf.frames.cutouts import extract_cutouts
from mlpsf.labelling import best_labels, in_range, residual_distance
from mlpsf.psf.trippy.border import fit_one_by_one, release_downsample
from mlpsf.selectors.first_psf import judge, judge_frame
from mlpsf.simulation import simulate_frame
from mlpsf.stacks.fitting import FIT_HALF_WIDTH, fit_psf
from mlpsf.stacks.values import sky_and_noise


def cpu(function, *arguments, repeat=1):
    """Return the result and the CPU seconds of a call, the least of `repeat`."""
    seconds = []
    for _ in range(repeat):
        start = time.process_time()
        result = function(*arguments)
        seconds.append(time.process_time() - start)
    return result, min(seconds)


def compare(fwhm: float, n_sources: int, size: int, seed: int, released: bool) -> None:
    """Run both fitters on one frame and print what they agree on."""
    sim = simulate_frame(
        fwhm=fwhm, n_stars=2500, n_galaxies=3000, star_slope=0.4, e1=0.03, seed=seed
    )
    sources = find_sources(sim.frame)
    unusable = Flag.SATURATED | Flag.TOO_NARROW | Flag.MASKED
    rows = np.flatnonzero((sources["snr"] > 200) & (np.asarray(sources["flags"]) & unusable == 0))
    cut = extract_cutouts(
        sim.frame,
        sources["x"][rows],
        sources["y"][rows],
        size,
        background=sim.frame.background.level,
    )
    data = cut.data[~cut.near_edge][:n_sources]
    data = data - sky_and_noise(data)[0][:, None, None]
    eligible = in_range(data)
    psf = judge_frame(data, eligible, half_width=FIT_HALF_WIDTH, n_best=25).psf
    _, fast = cpu(lambda: fit_psf(data, psf, half_width=FIT_HALF_WIDTH), repeat=5)
    ours = judge(data, psf, FIT_HALF_WIDTH)
    _, figures = cpu(judge, data, psf, FIT_HALF_WIDTH, repeat=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, slow = cpu(fit_one_by_one, data, psf, FIT_HALF_WIDTH)
        theirs = judge(data, psf, FIT_HALF_WIDTH, "trippy")
        print(f"\nFWHM {fwhm:g}, {len(data)} sources, cutouts of {size} pixels")
        if released:
            with release_downsample():
                _, release = cpu(fit_one_by_one, data, psf, FIT_HALF_WIDTH)
            print(f"  LSfitter as released   {release:9.3f} CPU s   {release / fast:6.0f} x")
    both = np.isfinite(ours.variance) & np.isfinite(theirs.variance)
    print(f"  LSfitter, sum reshaped {slow:9.3f} CPU s   {slow / fast:6.0f} x")
    print(
        f"  vectorised fit         {fast:9.3f} CPU s        1 x  (with both figures {figures:.3f})"
    )
    for name in ("variance", "peak"):
        a, b = getattr(ours, name)[both], getattr(theirs, name)[both]
        print(f"  rank correlation of {name:9s} {spearmanr(a, b).statistic:.4f}")
    labels = [best_labels(residual_distance(v.variance, v.peak), eligible) for v in (ours, theirs)]
    best = [best_labels(residual_distance(v.variance, v.peak)) for v in (ours, theirs)]
    same = int((labels[0] & labels[1]).sum())
    print(f"  the 25 best by rank: {int((best[0] & best[1]).sum())} are the same")
    print(f"  of those in the brightness range: {same} of {labels[0].sum()} and {labels[1].sum()}")
    print(f"  fits without result: {(~ours.fit.ok).sum()} and {(~theirs.fit.ok).sum()}")


def main() -> None:
    """Compare at several seeings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sources", type=int, default=200)
    parser.add_argument("--size", type=int, default=111)
    parser.add_argument("--fwhm", type=float, nargs="+", default=[4.0, 7.0])
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--released", action="store_true", help="time the release's own sum too")
    arguments = parser.parse_args()
    for fwhm in arguments.fwhm:
        compare(fwhm, arguments.sources, arguments.size, arguments.seed, arguments.released)
