"""Parameters of a simulated frame: limits of their values, and the seed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from mlpsf.errors import InputError
from mlpsf.simulation.profiles import PSF_KINDS
from mlpsf.simulation.psf_making import MOST_SHEAR

__all__ = ["Seed", "check_parameters", "root_of", "seed_words"]

Seed: TypeAlias = int | np.random.SeedSequence | np.random.Generator | None

_LIMITS: dict[str, tuple[float, float]] = {
    "fwhm": (1.2, 60.0),
    "beta": (1.5, 100.0),
    "e1": (-0.6, 0.6),
    "e2": (-0.6, 0.6),
    "trail": (0.0, 100.0),
    "trail_angle": (-360.0, 360.0),
    "psf_variation": (0.0, 1.2),
    "pixel_scale": (1e-4, 1e3),
    "n_stars": (0, 10**7),
    "n_galaxies": (0, 10**7),
    "n_pairs": (0, 10**7),
    "star_slope": (0.05, 5.0),
    "galaxy_slope": (0.05, 5.0),
    "galaxy_radius": (0.05, 200.0),
    "clustering": (0.0, 1.0),
    "cluster_radius": (1.0, 1e6),
    "sky": (0.0, 1e7),
    "sky_gradient": (0.0, 2.0),
    "sky_step": (0.0, 1e6),
    "vignetting": (0.0, 0.95),
    "gain": (1e-3, 1e4),
    "read_noise": (0.0, 1e4),
    "saturation": (1.0, 1e9),
    "brighter_fatter": (0.0, 1e-5),
    "resampling": (0.0, 0.5),
    "drizzle": (0.0, 5.0),
    "drop": (0.1, 1.0),
    "plate": (0.0, 1e7),
    "cosmic_rays": (0, 10**6),
    "cosmic_ray_length": (0.0, 1e4),
    "bad_columns": (0, 10**5),
    "hot_pixels": (0, 10**7),
    "ghosts": (0, 1000),
    "edge": (0, 10**4),
    "holes": (0, 1000),
}
"""Lowest and highest value of every numerical parameter; integer if the limits are."""

_OPTIONS = {
    "n_stars": "--stars",
    "n_galaxies": "--galaxies",
    "psf_variation": "--variation",
}
"""Options of the command line that are not named like the parameter."""


def check_parameters(given: Mapping[str, Any]) -> None:
    """Raise `InputError` if a parameter is invalid."""
    shape = given["shape"]
    if not (len(shape) == 2 and all(isinstance(n, int | np.integer) and n >= 16 for n in shape)):
        raise InputError(f"shape must be two whole numbers >= 16 (rows, columns). Got {shape!r}.")
    if given["psf"] not in PSF_KINDS:
        raise InputError(
            f"psf must be one of {', '.join(PSF_KINDS)}. Got {given['psf']!r} instead."
        )
    for name, (low, high) in _LIMITS.items():
        value = given[name]
        if value is None and name == "n_pairs":
            continue
        whole = isinstance(low, int)
        kind = (int, np.integer) if whole else (int, float, np.integer, np.floating)
        if not isinstance(value, kind) or isinstance(value, bool) or not low <= value <= high:
            what = "a whole number" if whole else "a number"
            option = f" ({_OPTIONS[name]})" if name in _OPTIONS else ""
            raise InputError(
                f"{name}{option} must be {what} from {low} to {high}. Got {value!r} instead."
            )
    shear = math.hypot(given["e1"], given["e2"]) + min(given["psf_variation"], 2 * MOST_SHEAR)
    if shear > 0.8:
        raise InputError(
            "e1, e2 and psf_variation (--variation) together give no usable PSF: try smaller ones."
        )
    centre = np.asarray(given["centre"], float)
    if centre.shape != (2,) or not np.isfinite(centre).all() or abs(centre[1]) > 90:
        raise InputError(
            "centre must be right ascension and declination in degrees. "
            f"Got {given['centre']!r} instead."
        )
    if 0 < given["drizzle"] < 1:
        raise InputError(
            "drizzle must be 0, or 1 and more: the side of the detector's pixels in pixels of the "
            f"frame. Got {given['drizzle']!r} instead."
        )
    double = given["double"]
    if double is not None and not (
        len(double) == 3 and np.isfinite(double).all() and 0 < double[2] <= 1
    ):
        raise InputError(
            "double must be (dx, dy, fraction), of a second image with 0 < fraction <= 1. "
            f"Got {double!r} instead."
        )
    for name in ("flux_range", "galaxy_flux_range"):
        limits = given[name]
        if limits is not None and not (len(limits) == 2 and 0 < limits[0] < limits[1] < math.inf):
            raise InputError(f"{name} must be (low, high), 0 < low < high. Got {limits!r} instead.")
    if (given["n_pairs"] or 0) > given["n_stars"]:
        raise InputError(
            f"n_pairs must be at most n_stars, {given['n_stars']}. Got {given['n_pairs']} instead."
        )
    if 2 * given["edge"] >= min(shape):
        raise InputError(f"edge must leave pixels in a frame of {shape}. Got {given['edge']}.")
    if given["saturation"] <= given["sky"]:
        raise InputError(
            f"saturation must be above the sky, {given['sky']} ADU. Got {given['saturation']}."
        )


def root_of(seed: Seed) -> np.random.SeedSequence:
    """Return the root of all random numbers; a copy, so that the caller's seed is unchanged."""
    if isinstance(seed, np.random.Generator):
        return np.random.SeedSequence(seed.integers(2**32, size=4).tolist())
    if isinstance(seed, np.random.SeedSequence):
        return np.random.SeedSequence(seed.entropy, spawn_key=seed.spawn_key)
    if seed is not None and (not isinstance(seed, int | np.integer) or seed < 0):
        raise InputError(
            "seed must be a whole number >= 0, a SeedSequence or a Generator. "
            f"Got {seed!r} instead."
        )
    return np.random.SeedSequence(seed)


def seed_words(seed: Seed, root: np.random.SeedSequence) -> str:
    """Return text from which the random numbers can be reproduced."""
    if isinstance(seed, int | np.integer):
        return str(int(seed))
    return f"SeedSequence({root.entropy!r}, spawn_key={root.spawn_key!r})"
