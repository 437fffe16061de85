"""Any unit, any sky: ``python -m benchmarks units [--frames 1000] [--first 0] [--workers 1]``.

A frame times any factor from 1e-6 to 1e6, with any sky added, shows the same stars. Random frames
of all telescopes, each with both selectors, with and without a gain and a saturation level that
are given: are the same stars chosen, how far do their probabilities move, and how many of all
bright sources are judged otherwise? Pixels are float32: their last digits, and what hangs on them,
change. In crowds some does: which of the faintest hidden sources are found.
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
from mlpsf.frames.near import nearest
from mlpsf.pipeline import select_stars
from mlpsf.simulation import TELESCOPES, random_parameters, simulate_frame

SHAPE = (300, 400)
BRIGHT = 20.0  # S/N of the sources that are compared: fainter ones are no PSF stars
TOLERANCE = 1e-3  # of probabilities
APART = 1.0  # pixels: sources nearer to each other are the same
MOST_SKY = 300.0  # times the noise of the sky; more would cost digits of float32


class Outcome(NamedTuple):
    """What another unit changed of a frame; `off` is the most of the chosen stars."""

    seed: int
    kind: str
    selector: str
    given: bool
    factor: float
    crowd: bool
    n_sources: int
    others: int  # sources without a partner, or whose probability moved
    changed: int  # stars that are chosen in only one of both
    off: float
    errors: str  # empty, or what only one of both says


def main() -> None:
    """Draw, choose twice, compare, tabulate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    seeds = range(arguments.first, arguments.first + arguments.frames)
    with ProcessPoolExecutor(arguments.workers, get_context("spawn")) as pool:
        frames = pool.map(try_frame, seeds, chunksize=2)
        found = [one for part in tqdm(frames, total=len(seeds), disable=None) for one in part]
    rows = []
    for selector in ("cnn", "residual"):
        for given in (True, False):
            for crowd in (False, True):
                of = selector, given, crowd
                part = [o for o in found if (o.selector, o.given, o.crowd) == of]
                if not part:
                    continue
                off = np.array([o.off for o in part if not o.errors])
                rows.append(
                    {
                        "selector": selector,
                        "gain": "given" if given else "found",
                        "crowds": "yes" if crowd else "no",
                        "frames": len(part),
                        "other errors": sum(bool(o.errors) for o in part),
                        "other stars": sum(o.changed > 0 for o in part),
                        f"stars over {TOLERANCE:g}": int((off > TOLERANCE).sum()),
                        "most": float(off.max(initial=0.0)),
                        "other sources": sum(o.others for o in part)
                        / max(sum(o.n_sources for o in part), 1),
                    }
                )
    record("Frames in another unit, with another sky", Table(rows))
    missed = [o for o in found if o.errors or o.changed or o.off > TOLERANCE]
    for one in missed:
        print(one)
    print(f"{len(missed)} of {len(found)} are not as they were.")
    sys.exit(bool(missed))


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


def compare(before: Table | str, after: Table | str) -> tuple[bool, int, int, int, float, str]:
    """Return the rest of an `Outcome`."""
    if isinstance(before, str) or isinstance(after, str):
        names = [one if isinstance(one, str) else "" for one in (before, after)]
        return False, 0, 0, 0, 0.0, "" if names[0] == names[1] else " / ".join(names)
    crowd = "n_subtracted" in before.meta
    mine = before[before["snr"] > BRIGHT]
    if not len(mine):
        return crowd, 0, 0, int(after["selected"].sum()), 0.0, ""
    places = [np.column_stack([one["x"], one["y"]]) for one in (after, mine)]
    apart, row = nearest(*places)
    partner = apart < APART
    theirs = after[row]
    moved = np.abs(np.asarray(mine["probability"]) - np.asarray(theirs["probability"]))
    moved = np.where(partner, np.nan_to_num(moved), 1.0)
    chosen = np.asarray(mine["selected"])
    both = chosen & partner & np.asarray(theirs["selected"])
    changed = int(chosen.sum() + after["selected"].sum() - 2 * both.sum())
    others = int((moved > TOLERANCE).sum())
    return crowd, len(mine), others, changed, float(moved[both].max(initial=0.0)), ""
