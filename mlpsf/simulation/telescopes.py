"""Random telescopes, skies and fields, for varied training frames."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mlpsf.errors import InputError

__all__ = ["TELESCOPES", "random_parameters"]

TELESCOPES = ("common", "space", "drizzled", "varying", "plate", "moved")
"""Kinds of telescopes: see `random_parameters`."""


def random_parameters(
    rng: np.random.Generator, shape: tuple[int, int] = (1024, 1024), kind: str = "common"
) -> dict[str, Any]:
    """Draw the parameters of a frame from a random telescope.

    Parameters
    ----------
    rng : numpy.random.Generator
    shape : (int, int)
        Rows and columns of the frame.
    kind : {"common", "space", "drizzled", "varying", "plate", "moved"}
        A telescope on the ground with its detector; one in space, of round or segmented mirrors,
        whose images are rings and spikes of 1.35 to 2.6 pixels; a stack of resampled or drizzled
        exposures; optics that change the FWHM over the frame by a factor of 1.3 to 3; a scanned
        photographic plate; a telescope that moved, trailed, or is out of focus.

    Returns
    -------
    dict
        Parameters of :func:`~mlpsf.simulation.simulate_frame`, with `shape` but without `seed`.

    Raises
    ------
    InputError
        If there is no such kind.

    Examples
    --------
    >>> parameters = random_parameters(np.random.default_rng(5), shape=(128, 128))
    >>> 1.5 <= parameters["fwhm"] <= 12
    True
    """
    if kind not in TELESCOPES:
        raise InputError(f"kind must be one of {', '.join(TELESCOPES)}. Got {kind!r} instead.")
    parameters: dict[str, Any] = {"shape": shape}
    parameters |= _psf(rng)
    parameters |= _detector(rng)
    parameters |= _defects(rng, shape)
    special = _SPECIAL.get(kind)
    if special is not None:
        parameters |= special(rng, parameters)
    parameters |= _field(rng, shape, parameters["fwhm"], parameters["pixel_scale"])
    if kind != "common":  # frames that have stars enough to learn from
        few = 150 * math.sqrt(shape[0] * shape[1] / 1024**2)
        parameters["n_stars"] = max(parameters["n_stars"], int(_log_uniform(rng, few, 3 * few)))
        parameters["star_slope"] = float(rng.uniform(0.25, 0.6))
    if kind == "space":  # galaxies are resolved, and there are more of them than of stars
        parameters["n_stars"] = min(parameters["n_stars"], 1500)
        parameters["n_galaxies"] = int(_log_uniform(rng, 50, 1500))
        parameters["galaxy_radius"] = _log_uniform(rng, 0.4, 3) * parameters["fwhm"]
    return parameters


def _space(rng: np.random.Generator, parameters: dict[str, Any]) -> dict[str, Any]:
    """Draw a telescope in space: diffraction, jitter, few electrons of sky, few rays left."""
    fwhm = _log_uniform(rng, 1.35, 2.6)
    waves = rng.normal(0, _log_uniform(rng, 0.005, 0.04), 7)
    names = ("defocus", "astig1", "astig2", "coma1", "coma2", "trefoil1", "spher")
    optics = {
        "diffraction": 1.0,
        "seeing": float(rng.uniform(0.1, 0.6)),
        "obscuration": float(rng.uniform(0.1, 0.4)),
        "nstruts": int(rng.choice([3, 4])),
        "strut_thick": float(rng.uniform(0.008, 0.04)),
        "strut_angle": float(rng.uniform(0, 90)),
        "segments": int(rng.choice([0, 1, 2], p=[0.5, 0.1, 0.4])),
        **dict(zip(names, waves.tolist(), strict=True)),
    }
    e, angle = min(rng.exponential(0.02), 0.1), rng.uniform(0, 2 * np.pi)
    sky = _log_uniform(rng, 2, 300)
    drizzled = rng.random() < 0.5
    return {
        "psf": "optical",
        "fwhm": fwhm,
        "optics": optics,
        "e1": float(e * np.cos(angle)),
        "e2": float(e * np.sin(angle)),
        "trail": 0.0,
        "psf_variation": _sometimes(rng, 0.5, min(float(rng.exponential(0.05)), 0.2)),
        "pixel_scale": _log_uniform(rng, 0.03, 0.1),
        "sky": sky,
        "sky_gradient": _sometimes(rng, 0.3, float(rng.exponential(0.03))),
        "sky_step": 0.0,
        "vignetting": 0.0,
        "saturation": max(parameters["saturation"], 4 * sky),
        "bleeding": bool(rng.random() < 0.3),
        "subtract_sky": bool(rng.random() < 0.6),
        "resampling": 0.0,
        "cosmic_rays": parameters["cosmic_rays"] // 4,
        "integer": False,
        **(_drizzle(rng, fwhm) if drizzled else {}),
    }


def _drizzled(rng: np.random.Generator, parameters: dict[str, Any]) -> dict[str, Any]:
    """Draw a stack of resampled exposures."""
    fwhm = _log_uniform(rng, 2.2, 8)
    return {
        "fwhm": fwhm,
        "trail": 0.0,
        "psf_variation": min(parameters["psf_variation"], math.log(fwhm / 2)),
        "subtract_sky": bool(rng.random() < 0.7),
        "resampling": 0.0,
        "integer": False,
        **_drizzle(rng, fwhm),
    }


def _drizzle(rng: np.random.Generator, fwhm: float) -> dict[str, Any]:
    """Draw the detector's pixels and drops; they must be narrower than the FWHM."""
    side = min(_log_uniform(rng, 1, 3), 0.5 * fwhm)
    return {"drizzle": side if side >= 1 else 0.0, "drop": float(rng.uniform(0.4, 1))}


def _varying(rng: np.random.Generator, _: dict[str, Any]) -> dict[str, Any]:
    """Draw optics whose images are much wider on one side than on the other."""
    variation = float(rng.uniform(math.log(1.3), math.log(3)))
    return {
        "psf": str(rng.choice(["moffat", "kolmogorov", "optical"], p=[0.5, 0.3, 0.2])),
        "fwhm": _log_uniform(rng, 1.4 * math.exp(0.8 * variation), 8),
        "trail": 0.0,
        "psf_variation": variation,
    }


def _plate(rng: np.random.Generator, parameters: dict[str, Any]) -> dict[str, Any]:
    """Draw a scanned plate: grain, dust, and a response that saturates slowly."""
    sky = _log_uniform(rng, 300, 3000)
    gain = _log_uniform(rng, 0.3, 3)
    return {
        "psf": str(rng.choice(["moffat", "gaussian"])),
        "fwhm": _log_uniform(rng, 2.5, 8),
        "plate": _log_uniform(rng, 1e4, 1e5),
        "sky": sky,
        "gain": gain,
        "read_noise": float(rng.uniform(0.2, 0.8) * math.sqrt(sky * gain)),
        "saturation": 65535.0,
        "brighter_fatter": 0.0,
        "trail": _sometimes(rng, 0.3, parameters["trail"]),
        "psf_variation": min(parameters["psf_variation"], 0.2),
        "sky_step": 0.0,
        "cosmic_rays": 0,
        "bleeding": False,
        "subtract_sky": bool(rng.random() < 0.3),
        "integer": bool(rng.random() < 0.7),
    }


def _moved(rng: np.random.Generator, parameters: dict[str, Any]) -> dict[str, Any]:
    """Draw a telescope that moved, once or all the time, or that is out of focus."""
    fwhm = _log_uniform(rng, 3, 8)
    calm = {"fwhm": fwhm, "psf_variation": min(parameters["psf_variation"], 0.1), "trail": 0.0}
    what = rng.choice(["doubled", "trailed", "defocused"])
    if what == "trailed":
        return calm | {"psf": "moffat", "trail": float(rng.uniform(0.8, 1.5) * fwhm)}
    if what == "defocused":
        optics = {
            "diffraction": float(rng.uniform(0.5, 1)),
            "seeing": float(rng.uniform(0.3, 0.8)),
            "obscuration": float(rng.uniform(0.2, 0.45)),
            "nstruts": int(rng.choice([0, 3, 4])),
            "defocus": float(rng.choice([-1, 1]) * rng.uniform(0.2, 0.6)),
            "astig1": float(rng.normal(0, 0.05)),
            "coma1": float(rng.normal(0, 0.05)),
        }
        return calm | {"psf": "optical", "optics": optics}
    apart = _log_uniform(rng, 0.4, 5) * fwhm
    angle = rng.uniform(0, 2 * np.pi)
    share = float(rng.uniform(0.1, 1))
    return calm | {"double": (apart * math.cos(angle), apart * math.sin(angle), share)}


_SPECIAL = {
    "space": _space,
    "drizzled": _drizzled,
    "varying": _varying,
    "plate": _plate,
    "moved": _moved,
}


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(math.log(low), math.log(high))))


def _sometimes(rng: np.random.Generator, chance: float, value: float) -> float:
    """Return the value with the given probability, else 0; uses one random number either way."""
    return value if rng.random() < chance else 0.0


def _psf(rng: np.random.Generator) -> dict[str, Any]:
    """Draw seeing, optics and guiding."""
    kind = str(rng.choice(["moffat", "kolmogorov", "gaussian", "optical"], p=[0.4, 0.2, 0.1, 0.3]))
    fwhm = _log_uniform(rng, 1.5, 12)
    # Half of the telescopes have an ellipticity of a few percent, some up to 0.3.
    e = min(rng.exponential(0.04), 0.3) if rng.random() < 0.7 else rng.uniform(0, 0.3)
    angle = rng.uniform(0, 2 * np.pi)
    trail = rng.uniform(0.2, 0.8) * fwhm
    parameters: dict[str, Any] = {
        "psf": kind,
        "fwhm": fwhm,
        "beta": float(rng.uniform(2, 5)),
        "e1": float(e * np.cos(angle)),
        "e2": float(e * np.sin(angle)),
        # Pixel and trail must be narrower than the FWHM.
        "trail": _sometimes(rng, 0.15, float(trail)) if fwhm > 2 else 0.0,
        "trail_angle": float(rng.uniform(0, 180)),
        # The FWHM must be at least 1.3 pixels everywhere, since the pixel has a width too.
        "psf_variation": _sometimes(
            rng, 0.6, min(float(rng.exponential(0.08)), 0.3, fwhm / 1.35 - 1)
        ),
    }
    if kind == "optical":
        waves = rng.normal(0, _log_uniform(rng, 0.01, 0.07), 7)
        names = ("defocus", "astig1", "astig2", "coma1", "coma2", "trefoil1", "spher")
        parameters["optics"] = {
            "diffraction": _log_uniform(rng, 0.1, 0.8),
            "obscuration": float(rng.uniform(0, 0.45)),
            "nstruts": int(rng.choice([0, 3, 4])),
            "strut_thick": float(rng.uniform(0.01, 0.05)),
            "strut_angle": float(rng.uniform(0, 90)),
            **dict(zip(names, waves.tolist(), strict=True)),
        }
    return parameters


def _detector(rng: np.random.Generator) -> dict[str, Any]:
    """Draw camera and sky."""
    gain = _log_uniform(rng, 0.5, 10)
    sky = _log_uniform(rng, 20, 5000)
    full_well = _log_uniform(rng, 4e4, 3e5)
    return {
        "pixel_scale": _log_uniform(rng, 0.1, 4),
        "gain": gain,
        "read_noise": float(rng.uniform(1.5, 15)),
        "sky": sky,
        "saturation": float(max(min(full_well / gain, 65535.0), 4 * sky)),
        "bleeding": bool(rng.random() < 0.6),
        "sky_gradient": _sometimes(rng, 0.7, float(rng.exponential(0.08))),
        "sky_step": _sometimes(rng, 0.2, float(rng.uniform(0.1, 1.5) * math.sqrt(sky / gain))),
        "vignetting": _sometimes(rng, 0.3, float(rng.uniform(0.02, 0.25))),
        "subtract_sky": bool(rng.random() < 0.35),
        "brighter_fatter": _sometimes(rng, 0.5, _log_uniform(rng, 2e-8, 3e-7)),
        "resampling": _sometimes(rng, 0.3, float(rng.uniform(0.1, 0.5))),
        "integer": bool(rng.random() < 0.3),
    }


def _defects(rng: np.random.Generator, shape: tuple[int, int]) -> dict[str, Any]:
    """Draw numbers of defects, in proportion to the area of the frame."""
    area = shape[0] * shape[1] / 1024**2
    return {
        "cosmic_rays": int(rng.poisson(_sometimes(rng, 0.7, _log_uniform(rng, 2, 300)) * area)),
        "cosmic_ray_length": _log_uniform(rng, 2, 30),
        "hot_pixels": int(rng.poisson(_sometimes(rng, 0.6, _log_uniform(rng, 3, 500)) * area)),
        "bad_columns": int(rng.poisson(_sometimes(rng, 0.4, 4.0) * shape[1] / 1024)),
        "ghosts": int(_sometimes(rng, 0.2, float(rng.integers(1, 4)))),
        "edge": int(_sometimes(rng, 0.25, float(rng.integers(1, max(2, min(shape) // 20))))),
        "holes": int(_sometimes(rng, 0.2, float(rng.integers(1, 6)))),
    }


def _field(
    rng: np.random.Generator, shape: tuple[int, int], fwhm: float, pixel_scale: float
) -> dict[str, Any]:
    """Draw the field: from few stars to a globular cluster, from few to many galaxies."""
    # Density is per area of FWHM**2, since crowding depends on the width of the stars.
    beams = shape[0] * shape[1] / fwhm**2
    few = 40 * math.sqrt(shape[0] * shape[1] / 1024**2)
    n_stars = int(np.clip(_log_uniform(rng, 5e-4, 2e-2) * beams, few, 6000))
    n_galaxies = int(min(_log_uniform(rng, 2e-5, 1e-2) * beams, 3000))
    # Frames with large pixels are shallow, so their visible galaxies are larger in arcseconds. The
    # lower limit keeps galaxies from being points.
    radius = max(0.35 * max(pixel_scale / 0.17, 1) ** 0.3 / pixel_scale, 0.25 * fwhm)
    return {
        "n_stars": n_stars,
        "n_galaxies": n_galaxies,
        "n_pairs": n_stars // int(rng.integers(10, 80)),
        "star_slope": float(rng.uniform(0.3, 0.9)),
        "galaxy_slope": float(rng.uniform(0.7, 1.4)),
        "galaxy_radius": float(np.clip(radius * rng.lognormal(0, 0.3), 0.3, 2 * fwhm)),
        "clustering": _sometimes(rng, 0.2, float(rng.uniform(0.3, 0.95))),
        "cluster_radius": float(rng.uniform(0.05, 0.3) * min(shape)),
    }
