"""Frames of any kind: ``python -m benchmarks any_input [--frames 1000] [--first 0] [--workers 1]``.

Random frames (shapes, types, skies, stars, gaps, constants, saturation, nonsense), each with both
selectors: it must give an error of mlpsf, or a valid table and a valid PSF. What does not is listed
with the number of its frame, which ``--first N --frames 1`` draws again.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any, NamedTuple

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from benchmarks.common.results import record
from mlpsf.errors import MlpsfError, TooFewStarsError
from mlpsf.pipeline import select_stars
from mlpsf.psf import build_psf
from tests.bad_inputs import check_psf

TYPES = ["f4", "f4", "f4", "f8", ">f4", ">f8", "f2", "i2", ">i2", "u2", "i4", "i8", "u1", "?"]


class Outcome(NamedTuple):
    """What came of a frame with a selector; `failure` is empty, or where it failed."""

    seed: int
    selector: str
    what: str
    failure: str
    seconds: float


def main() -> None:
    """Draw, choose, build, and tabulate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    seeds = range(arguments.first, arguments.first + arguments.frames)
    with ProcessPoolExecutor(arguments.workers, get_context("spawn")) as pool:
        found = [one for pair in pool.map(try_frame, seeds, chunksize=4) for one in pair]
    counts = Counter((one.selector, one.what) for one in found)
    rows = [
        {"selector": selector, "what it gets": what, "frames": n}
        for (selector, what), n in sorted(counts.items())
    ]
    record(f"What {arguments.frames} frames of any kind get", Table(rows))
    slowest = max(found, key=lambda one: one.seconds)
    print(f"The slowest, {slowest.seed} with {slowest.selector}, took {slowest.seconds:.1f} s.")
    failures = [one for one in found if one.failure]
    for one in failures:
        print(f"{one.seed} with {one.selector}: {one.failure}")
    print(f"{len(failures)} of {len(found)} got neither a documented error nor a valid result.")
    sys.exit(bool(failures))


def try_frame(seed: int) -> list[Outcome]:
    """Give one frame to both selectors."""
    rng = np.random.default_rng(seed)
    image = draw(rng)
    options = {
        "relax": bool(rng.random() < 0.7),
        "n_min": int(rng.choice([1, 1, 5, 10])),
        "n_max": int(rng.choice([10, 25, 60])),
        "reserve": float(rng.choice([0, 0, 0.2])),
        "second_look": bool(rng.random() < 0.8),
    }
    outcomes = []
    for selector in ("cnn", "residual"):
        start, failure = time.process_time(), ""
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                what = choose_and_build(image, partial(select_stars, selector=selector, **options))
            except Exception as error:
                what, failure = "a failure", f"{type(error).__name__}: {error}; {_place(error)}"
        numeric = [w for w in warned if issubclass(w.category, RuntimeWarning)]
        if numeric and not failure:
            w = numeric[0]
            what, failure = "a failure", f"RuntimeWarning: {w.message}; {w.filename}:{w.lineno}"
        took = time.process_time() - start
        outcomes.append(Outcome(seed, selector, what, " ".join(failure.split()), took))
    return outcomes


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "mlpsf" in f.filename or "bad_inputs" in f.filename]
    return " < ".join(f"{f.filename.rpartition('/')[2]}:{f.lineno}" for f in reversed(ours[-3:]))


def choose_and_build(image: Any, choose: Any) -> str:
    """Return what a frame gets, in a word; raise if that is no documented result."""
    try:
        stars = choose(image)
    except MlpsfError as error:
        check_words(error)
        if isinstance(error, TooFewStarsError) and error.table is not None:
            check_table(error.table, image.shape)
        return type(error).__name__
    check_table(stars, image.shape)
    assert int(stars["selected"].sum()) == stars.meta["n_selected"]
    try:
        psf = build_psf(image, stars)
    except MlpsfError as error:
        check_words(error)
        return f"stars, and {type(error).__name__}"
    check_psf(psf)
    return "stars and a PSF"


def check_words(error: MlpsfError) -> None:
    """Insist on an error that says something."""
    assert len(str(error)) > 20, repr(error)


def check_table(table: Table, shape: tuple[int, ...]) -> None:
    """Insist on a valid star table."""
    x, y, p = (np.asarray(table[key], dtype=np.float64) for key in ("x", "y", "probability"))
    assert np.isfinite(x).all(), "x"
    assert np.isfinite(y).all(), "y"
    assert ((x > -1) & (x < shape[1]) & (y > -1) & (y < shape[0])).all(), "off the frame"
    assert (np.isnan(p) | ((p >= 0) & (p <= 1))).all(), "probability"
    assert len(set(table["id"])) == len(table), "ids"
    chosen = table[np.asarray(table["selected"])]
    for key in ("fwhm", "snr", "flux"):
        values = np.asarray(chosen[key], dtype=np.float64)
        assert (np.isfinite(values) & (values > 0)).all(), f"{key} of a chosen star"


def draw(rng: np.random.Generator) -> Any:
    """Draw a frame of any kind."""
    low = 4 if rng.random() < 0.1 else 50
    ny, nx = (int(v) for v in np.exp(rng.uniform(np.log(low), np.log(400), 2)))
    image = np.full((ny, nx), rng.choice([0.0, 100.0, 1e4, -50.0]))
    noise = float(rng.choice([0.0, 1.0, 10.0, 10.0, 100.0]))
    image += rng.normal(0, noise, (ny, nx)) if noise else 0
    fwhm = float(np.exp(rng.uniform(np.log(0.5), np.log(14))))
    brightest = float(np.exp(rng.uniform(np.log(1e2), np.log(1e7))))
    elongation, slope = float(rng.choice([1, 1, 1.3, 4])), float(rng.choice([0, 0, 3, 2.5]))
    for _ in range(int(rng.choice([0, 1, 3, 12, 30, 30, 80, 250]))):
        x, y = rng.uniform(-5, nx + 5), rng.uniform(-5, ny + 5)
        add_star(image, x, y, brightest * rng.random() ** 3, fwhm, elongation, slope)
    for spoil in SPOILS:
        if rng.random() < 0.12:
            with np.errstate(all="ignore"):
                image = spoil(image, rng)
    return typed(image, rng)


def add_star(
    image: NDArray[np.float64],
    x: float,
    y: float,
    flux: float,
    fwhm: float,
    elongation: float,
    slope: float,
) -> None:
    """Add a Gaussian star, or Moffat's of a slope, to an image."""
    reach = int(4 * fwhm * elongation) + 2
    rows = slice(max(int(y) - reach, 0), max(int(y) + reach, 0))
    columns = slice(max(int(x) - reach, 0), max(int(x) + reach, 0))
    part = image[rows, columns]
    v, u = np.indices(part.shape, dtype=np.float64)
    u, v = u + columns.start - x, v + rows.start - y
    square = (u / elongation) ** 2 + v**2
    if slope:
        width = fwhm / 2 / np.sqrt(2 ** (1 / slope) - 1)
        part += flux / fwhm**2 * (1 + square / width**2) ** -slope
    else:
        part += flux / fwhm**2 * np.exp(-4 * np.log(2) * square / fwhm**2)


def _block(image: Any, rng: Any) -> tuple[slice, slice]:
    """Return a part of an image, of any size."""
    edges = [sorted(rng.integers(0, n + 1, 2)) for n in image.shape]
    return slice(*edges[0]), slice(*edges[1])


def _with(image: Any, where: Any, value: Any) -> Any:
    image[where] = value
    return image


SPOILS = (
    lambda image, rng: _with(image, _block(image, rng), np.nan),
    lambda image, rng: _with(image, rng.random(image.shape) < rng.choice([0.01, 0.3]), np.nan),
    lambda image, rng: _with(image, rng.random(image.shape) < 0.001, np.inf),
    lambda image, rng: _with(image, _block(image, rng), rng.choice([0.0, 65535.0, -999.0])),
    lambda image, rng: _with(image, (slice(None), rng.random(image.shape[1]) < 0.02), 0.0),
    lambda image, rng: np.minimum(image, np.nanpercentile(image, rng.choice([50, 99, 99.9]))),
    lambda image, rng: np.where(rng.random(image.shape) < 0.002, 3e4, image),
    lambda image, rng: image + np.arange(image.shape[1]) * rng.choice([0.1, 100]),
    lambda image, _: image + 500 * (np.arange(image.shape[0]) > image.shape[0] // 2)[:, None],
    lambda image, rng: image * rng.choice([1e-30, 1e-12, 1e-3, 1e12, 1e30]),
    lambda image, _: -image,
    lambda image, _: np.round(image / 50) * 50,
    lambda image, _: image - np.nanmean(image),
    lambda image, rng: rng.permutation(image.ravel()).reshape(image.shape),
    lambda image, _: np.repeat(np.repeat(image, 3, 0), 3, 1)[: image.shape[0], : image.shape[1]],
)


def typed(image: NDArray[np.float64], rng: np.random.Generator) -> Any:
    """Return an image as an array of any type and layout."""
    kind = np.dtype(str(rng.choice(TYPES)))
    with np.errstate(all="ignore"):
        if kind.kind in "iu":
            limits = np.iinfo(kind)
            whole = np.nan_to_num(image, nan=0.0, posinf=1e300, neginf=-1e300)
            # The largest float64 that is no larger than the largest integer.
            image = np.clip(whole, limits.min, np.nextafter(float(limits.max), 0))
        out = image.astype(kind)
    layout = rng.integers(6)
    if layout == 0:
        return np.asfortranarray(out)
    if layout == 1:
        return out[::-1, ::-1]
    if layout == 2:
        return np.ma.masked_array(out, rng.random(out.shape) < 0.02)
    if layout == 3:
        out.flags.writeable = False
    return out
