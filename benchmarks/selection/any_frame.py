"""What is said of frames of every kind: ``python -m benchmarks any_frame [--real FOLDER]``.

One row a kind: frames in other units, frames whose stars do not agree, frames of moved, defocused
or empty exposures. Beside it what mlpsf said of such a frame before these kinds were mended.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, shift

from benchmarks.common.results import record
from benchmarks.common.stamps import OUTPUT
from mlpsf.errors import MlpsfError, TooFewStarsError
from mlpsf.frames.frame import Frame
from mlpsf.frames.io.reading import list_images, read_frame
from mlpsf.pipeline import select_stars
from mlpsf.simulation import simulate_frame

COMMON = {
    "shape": (600, 600),
    "n_stars": 120,
    "n_galaxies": 40,
    "fwhm": 4.0,
    "cosmic_rays": 8,
    "hot_pixels": 8,
    "bad_columns": 0,
    "flux_range": (3000, 4e5),
    "star_slope": 0.5,
    "seed": 3,
}


def main() -> None:
    """Choose, and tabulate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", type=Path, help="a folder of FITS files to add")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = [row(kind, make(), was) for kind, (make, was) in KINDS.items()]
    for path in sorted(arguments.real.glob("*.fits")) if arguments.real else ():
        for number, _, shape in list_images(path)[:1]:
            if min(shape) > 64:
                rows.append(row(path.name, read_frame(path, hdu=number), ""))
    table = Table(rows)
    record("What is said of each kind of frame", table)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    table.write(OUTPUT / "any_frame.ecsv", overwrite=True)


def row(kind: str, frame: Frame, was: str) -> dict[str, str | int | float]:
    """Choose the stars of a frame and describe what came of it."""
    try:
        stars = select_stars(frame)
    except TooFewStarsError as error:
        stars = error.table
    except MlpsfError as error:
        empty = {"chosen": 0, "FWHM": float("nan"), "local FWHM": ""}
        return {"kind": kind, "was": was, **empty, "verdict": str(error)[:60], "reason": ""}
    chosen = stars[stars["selected"]]
    local = ""
    if len(chosen):
        local = f"{min(chosen['local_fwhm']):.1f} to {max(chosen['local_fwhm']):.1f}"
    return {
        "kind": kind,
        "was": was,
        "chosen": len(chosen),
        "FWHM": round(stars.meta["fwhm"], 2),
        "local FWHM": local,
        "verdict": stars.meta["verdict"],
        "reason": stars.meta["verdict_reason"][:90],
    }


def common(**changes: object) -> Frame:
    """Draw the frame of which the others are made."""
    return simulate_frame(**COMMON | changes).frame  # type: ignore[arg-type]


def of(pixels: NDArray) -> Frame:
    """Make a frame of pixels as a user would: as an array, without a header."""
    return read_frame(pixels.astype(np.float32))


def scaled(factor: float, sky: float) -> Frame:
    """Give the common frame in another unit."""
    return of((common().data.astype(float) + sky) * factor)


def halves() -> Frame:
    """Join the left half of one frame and the right half of another, of FWHM 3 and 6."""
    left, right = (common(fwhm=w, n_stars=300) for w in (3.0, 6.0))
    return of(np.hstack([left.data[:, :300], right.data[:, 300:]]))


def ramp() -> Frame:
    """Blend frames of FWHM 3 to 9 from left to right."""
    steps = 13
    drawn = np.stack([common(fwhm=w, n_stars=300).data for w in np.linspace(3, 9, steps)])
    place = np.linspace(0, steps - 1.001, drawn.shape[-1])
    low, column = place.astype(int), np.arange(drawn.shape[-1])
    share = (place - low)[:, None]
    return of((drawn[low, :, column] * (1 - share) + drawn[low + 1, :, column] * share).T)


def doubled(distance: float) -> Frame:
    """Add a second image of everything."""
    light = common().data - 200
    return of(light + shift(light, (3, distance), order=1) + 200)


def donuts(size: float) -> Frame:
    """Draw discs with a hole."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:600, :600]
    light = np.full((600, 600), 200.0)
    for _ in range(40):
        r = np.hypot(x - rng.uniform(40, 560), y - rng.uniform(40, 560))
        disc = 1 / (1 + np.exp(r - size / 2)) / (1 + np.exp(size / 5 - r))
        light += rng.uniform(20, 400) * disc
    return of(rng.poisson(gaussian_filter(light, 1.5) * 3) / 3)


def warm_pixels() -> Frame:
    """Draw a dark frame with clusters of warm pixels."""
    rng = np.random.default_rng(5)
    pixels = rng.normal(200, 5, (600, 600))
    for y, x, bright in zip(
        *rng.integers(5, 595, (2, 200)), 10 ** rng.uniform(2, 4, 200), strict=True
    ):
        pixels[y, x] += bright
        for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            pixels[y + dy, x + dx] += bright / 4
    return of(pixels)


def spectrum() -> Frame:
    """Draw a trace."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:600, :600]
    light = 200 + 400 * np.exp(-((y - 300.3) ** 2) / 20) * (1 + 0.3 * np.sin(x / 20))
    return of(rng.poisson(light * 3) / 3)


def mosaic() -> Frame:
    """Give the pixels of a colour mosaic their own sensitivities."""
    pixels = common().data.copy()
    pixels[::2, ::2] *= 0.6
    pixels[1::2, 1::2] *= 0.4
    return of(pixels)


def holes() -> Frame:
    """Lose one pixel in fifty."""
    frame = common()
    lost = np.random.default_rng(5).random(frame.shape) < 0.02
    return replace(frame, data=np.where(lost, 0, frame.data), mask=frame.mask | lost)


def plate() -> Frame:
    """Let the response saturate slowly, as a photographic plate's."""
    light = np.maximum(common(n_stars=200).data - 200, -100)
    return of(4000 * (1 - np.exp(-light / 4000)) + 200)


KINDS: dict[str, tuple[Callable[[], Frame], str]] = {
    "a common frame": (common, "good"),
    "times 0.005, sky off": (lambda: scaled(0.005, -200), "one star left"),
    "over 65,535, sky off": (lambda: scaled(1 / 65535, -200), "one star left"),
    "2 % of the pixels NaN": (holes, "15 stars become 2"),
    "FWHM 3 left, 6 right": (halves, "25 stars, all from the left"),
    "FWHM 3 to 9 across": (ramp, "14 stars, all at x < 143"),
    "a plate": (plate, "PSF of the saturated stars, no word"),
    "doubled, 16 pixels": (lambda: doubled(16), "25 stars, the companion cut off"),
    "doubled, 8 pixels": (lambda: doubled(8), "no word"),
    "trailed": (lambda: common(fwhm=5.0, e1=0.4), "no word"),
    "donuts of 21 pixels": (lambda: donuts(21), "a PSF of 5.8"),
    "donuts of 35 pixels": (lambda: donuts(35), "a PSF of 4.0"),
    "dark, warm pixels": (warm_pixels, "25 stars of FWHM 1.43"),
    "spectrum": (spectrum, "no word"),
    "colour mosaic": (mosaic, "no word"),
    "FWHM 1.5": (lambda: common(fwhm=1.5), "FWHM 1.79"),
    "star-poor, cosmic rays": (
        lambda: simulate_frame(shape=(300, 300), n_stars=25, n_galaxies=0, fwhm=3, seed=2).frame,
        "FWHM 1.11, of the rays",
    ),
    "8 bits": (lambda: of(np.clip(np.rint(common().data / 40), 0, 255)), "noise taken for stars"),
}


if __name__ == "__main__":
    main()
