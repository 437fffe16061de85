"""Any unit, any sky: ``python -m benchmarks units [--frames 1000] [--first 0] [--workers 1]``.

A frame times any factor from 1e-6 to 1e6, with any sky added, shows the same stars. Random frames
of all telescopes, each with both selectors, with and without a gain and a saturation level that
are given: are the same sources detected and the same stars chosen, and how far do probabilities
move? Pixels are float32: their last digits, and what hangs on them, may change.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from typing import Any, NamedTuple

import numpy as np
from astropy.table import Table
from tqdm import tqdm

from benchmarks.common.results import record
from mlpsf.errors import InputError, MlpsfError, TooFewStarsError
from mlpsf.frames.frame import Frame
from mlpsf.frames.io.reading import read_frame
from mlpsf.pipeline import select_stars
from mlpsf.simulation import TELESCOPES, random_parameters, simulate_frame

SHAPE = (300, 400)
BRIGHT = 20.0  # S/N of the sources that are compared: fainter ones are no PSF stars
MOST_SKY = 300.0  # times the noise of the sky; more would cost digits of float32


class Outcome(NamedTuple):
    """What another unit changed of the stars of a frame; `off` is of probabilities, at most."""

    seed: int
    kind: str
    selector: str
    given: bool
    factor: float
    n_sources: int
    same_sources: bool
    changed: int  # stars that only one of both has
    off: float
    errors: str  # empty, or what only one of both says


def main() -> None:
    """Draw, choose twice, compare, tabulate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--tolerance", type=float, default=1e-3, help="of probabilities")
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    seeds = range(arguments.first, arguments.first + arguments.frames)
    with ProcessPoolExecutor(arguments.workers, get_context("spawn")) as pool:
        frames = pool.map(try_frame, seeds, chunksize=2)
        found = [one for part in tqdm(frames, total=len(seeds), disable=None) for one in part]
    rows = []
    for selector in ("cnn", "residual"):
        for given in (True, False):
            part = [o for o in found if (o.selector, o.given) == (selector, given)]
            off = np.array([o.off for o in part if o.same_sources and not o.errors])
            rows.append(
                {
                    "selector": selector,
                    "gain": "given" if given else "found",
                    "frames": len(part),
                    "other sources": sum(not o.same_sources for o in part),
                    "other errors": sum(bool(o.errors) for o in part),
                    "other stars": sum(o.changed > 0 for o in part),
                    f"over {arguments.tolerance:g}": int((off > arguments.tolerance).sum()),
                    "99 %": float(np.quantile(off, 0.99)),
                    "most": float(off.max()),
                }
            )
    record("Frames in another unit, with another sky", Table(rows))
    missed = [o for o in found if wrong(o, arguments.tolerance)]
    for one in missed:
        print(one)
    print(f"{len(missed)} of {len(found)} are not as they were.")
    sys.exit(bool(missed))


def wrong(one: Outcome, tolerance: float) -> bool:
    """Return whether a frame's stars or probabilities are others."""
    return not one.same_sources or bool(one.errors) or one.changed > 0 or one.off > tolerance


def try_frame(seed: int) -> list[Outcome]:
    """Choose the stars of a frame, and of the same in another unit with another sky."""
    rng = np.random.default_rng([91, seed])
    kind = TELESCOPES[seed % len(TELESCOPES)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frame = draw(rng, kind, seed)
        factor = float(10 ** rng.uniform(-6, 6))
        sky = float(rng.uniform(-1, 1)) * MOST_SKY * frame.background.noise
        other = (frame.data.astype(np.float64) + sky) * factor
        pictures = [np.where(frame.mask, np.nan, pixels) for pixels in (frame.data, other)]
        gains = {"gain": frame.gain, "saturation": frame.saturation}
        theirs = {"gain": frame.gain / factor, "saturation": (frame.saturation + sky) * factor}
        found = []
        for selector in ("cnn", "residual"):
            for given in (True, False):
                options = (gains, theirs) if given else ({}, {})
                before, after = (
                    choose(pixels, selector, known)
                    for pixels, known in zip(pictures, options, strict=True)
                )
                found.append(Outcome(seed, kind, selector, given, factor, *compare(before, after)))
    return found


def draw(rng: np.random.Generator, kind: str, seed: int) -> Frame:
    """Draw a frame; again where a trail is longer than the FWHM that was drawn."""
    while True:
        with suppress(InputError):
            return simulate_frame(**random_parameters(rng, SHAPE, kind), seed=seed).frame


def choose(pixels: np.ndarray, selector: str, known: dict[str, Any]) -> Table | str:
    """Return the stars of a frame, or the name of the error where there is no list."""
    try:
        frame = read_frame(pixels.astype(np.float32), **known)
        return select_stars(frame, selector=selector, n_min=1)
    except TooFewStarsError as error:
        return type(error).__name__ if error.table is None else error.table
    except MlpsfError as error:
        return type(error).__name__


def compare(before: Table | str, after: Table | str) -> tuple[int, bool, int, float, str]:
    """Return the rest of an `Outcome`."""
    if isinstance(before, str) or isinstance(after, str):
        names = [one if isinstance(one, str) else "" for one in (before, after)]
        return 0, True, 0, 0.0, "" if names[0] == names[1] else " / ".join(names)
    # Fainter sources hang on the last digits of the pixels at the threshold of detection.
    before, after = (one[one["snr"] > BRIGHT] for one in (before, after))
    places = [np.column_stack([one["x"], one["y"]]) for one in (before, after)]
    if len(before) != len(after) or not np.allclose(*places, atol=0.05):
        return len(before), False, 0, 0.0, ""
    changed = int((before["selected"] != after["selected"]).sum())
    off = np.abs(np.asarray(before["probability"]) - np.asarray(after["probability"]))
    most = float(np.nan_to_num(off).max(initial=0.0))
    return len(before), True, changed, most, ""
