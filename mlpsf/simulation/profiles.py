"""Light of a point source as GalSim profiles: creation, measurement and scaling to a FWHM."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates, spline_filter

from mlpsf.errors import InputError, MissingPackageError

__all__ = [
    "PSF_KINDS",
    "base_profile",
    "centre_of",
    "diffracts",
    "draw",
    "half_maximum_shape",
    "load_galsim",
    "match_fwhm",
    "tabulated",
]

PSF_KINDS = ("moffat", "kolmogorov", "gaussian", "optical")

OPTICS = {
    "diffraction": 0.5,  # lambda / D as a fraction of the seeing FWHM
    "obscuration": 0.3,
    "nstruts": 4,
    "strut_thick": 0.03,
    "strut_angle": 0.0,  # degrees
    "defocus": 0.0,  # this and the rest in waves
    "astig1": 0.0,
    "astig2": 0.0,
    "coma1": 0.0,
    "coma2": 0.0,
    "trefoil1": 0.0,
    "trefoil2": 0.0,
    "spher": 0.0,
    "seeing": 0.8,  # FWHM, in the same unit as diffraction
    "segments": 0,  # rings of hexagonal mirrors; 0 for a round one
}
"""Allowed keys of `optics`, with their defaults."""


def load_galsim() -> Any:
    """Import GalSim, or raise an error that explains how to install it.

    Raises
    ------
    MissingPackageError
        GalSim is not installed.
    """
    try:
        import galsim
    except ImportError as error:
        raise MissingPackageError(
            "simulating frames needs GalSim, which is not installed: "
            "try pip install 'mlpsf[simulation]'"
        ) from error
    return galsim


def base_profile(galsim: Any, kind: str, beta: float, optics: Mapping[str, float] | None) -> Any:
    """Return the profile before trail and pixel, with a FWHM of about one."""
    if kind == "gaussian":
        return galsim.Gaussian(fwhm=1.0)
    if kind == "moffat":
        return galsim.Moffat(beta=beta, fwhm=1.0)
    if kind == "kolmogorov":
        return galsim.Kolmogorov(fwhm=1.0)
    given = dict(optics or {})
    if unknown := sorted(set(given) - set(OPTICS)):
        raise InputError(f"optics may hold {', '.join(OPTICS)}. Got {', '.join(unknown)} as well.")
    words = OPTICS | given
    diffraction, angle = words.pop("diffraction"), words.pop("strut_angle")
    seeing, rings = words.pop("seeing"), int(words.pop("segments"))
    words["nstruts"] = int(words["nstruts"])
    pupil: dict[str, Any] = {"strut_angle": angle * galsim.degrees}
    if rings:
        thick, n_struts = words.pop("strut_thick"), int(words.pop("nstruts"))
        words.pop("obscuration")
        pupil = {"pupil_plane_im": segmented_pupil(rings, n_struts, thick, angle)}
    telescope = galsim.OpticalPSF(lam_over_diam=diffraction, **pupil, **words)
    if not seeing:
        return telescope
    # The jitter of a telescope in space is Gaussian; turbulence is not.
    blur = galsim.Gaussian if diffracts(optics) else galsim.Kolmogorov
    return galsim.Convolve([telescope, blur(fwhm=seeing)])


def diffracts(optics: Mapping[str, float] | None) -> bool:
    """Return whether diffraction, and not the seeing, makes the image of a star."""
    words = OPTICS | dict(optics or {})
    return words["seeing"] < words["diffraction"]


def segmented_pupil(rings: int, n_struts: int, thick: float, angle: float) -> NDArray[np.float64]:
    """Draw the pupil of a mirror of hexagons, without gaps, around one that is missing.

    Parameters
    ----------
    rings : int
        Rings of hexagons.
    n_struts : int
        Struts of the secondary mirror.
    thick : float
        Thickness of a strut, relative to the diameter.
    angle : float
        Of the first strut from +x, degrees.

    Returns
    -------
    ndarray of float64, shape (n, n)
        1 where light passes, else 0; half of the side is dark rim.
    """
    n = 512
    u = (np.arange(n) - (n - 1) / 2) / (n / 4)  # the aperture's radius is 1
    x, y = u[None, :], u[:, None]
    pitch = 1.0 / (rings + 0.5) / 1.08  # the corners of the outer ring reach a little further
    open_ = np.zeros((n, n), bool)
    for i in range(-rings, rings + 1):
        for j in range(-rings, rings + 1):
            if (i, j) == (0, 0) or abs(i + j) > rings:
                continue
            dx, dy = x - pitch * (i + j / 2), y - pitch * math.sqrt(0.75) * j
            across = [np.abs(dx * math.cos(a) + dy * math.sin(a)) for a in np.pi / 3 * np.arange(3)]
            open_ |= np.maximum.reduce(across) <= pitch / 2 + 1 / n
    for k in range(n_struts):
        a = math.radians(angle) + 2 * math.pi * k / n_struts
        along, across_ = x * math.cos(a) + y * math.sin(a), y * math.cos(a) - x * math.sin(a)
        open_ &= ~((along > 0) & (np.abs(across_) < thick))
    return open_.astype(np.float64)


def tabulated(galsim: Any, light: Any) -> Any:
    """Return a profile of FWHM one as a table out to 20 FWHM.

    The table is ten times as fast to draw as a pupil, and equal to 1e-6 of the peak.
    """
    image = light.drawImage(nx=321, ny=321, scale=1 / 8, method="no_pixel", dtype=float)
    return galsim.InterpolatedImage(image, scale=1 / 8)


def draw(light: Any, side: int, scale: float) -> NDArray[np.float32]:
    """Draw a profile that already includes the pixel response."""
    image = light.drawImage(nx=side, ny=side, scale=scale, method="no_pixel", dtype=np.float32)
    return np.asarray(image.array, np.float32)


def half_maximum_shape(image: NDArray[Any]) -> tuple[float, float, float]:
    """Measure FWHM and ellipticity of a well-sampled PSF from its contour at half maximum.

    Parameters
    ----------
    image : ndarray, shape (n, n)
        The PSF, with ten or more samples per FWHM and its peak near the middle.

    Returns
    -------
    fwhm : float
        FWHM in samples: ``2 * sqrt(area / pi)`` of the contour.
    e1, e2 : float
        Reduced shear from the second moments of the area inside the contour.
    """
    grid = spline_filter(np.asarray(image, float), order=3)
    peak_row, peak_column = np.unravel_index(np.argmax(image), image.shape)
    fine = np.linspace(-1, 1, 21)
    rows, columns = np.meshgrid(peak_row + fine, peak_column + fine, indexing="ij")
    near = map_coordinates(grid, [rows, columns], order=3, prefilter=False)
    at = np.unravel_index(np.argmax(near), near.shape)
    angle = np.arange(64) * (2 * np.pi / 64)
    r = np.arange(0, min(image.shape) / 2, 0.25)
    profile = map_coordinates(
        grid,
        [
            rows[at] + np.outer(np.sin(angle), r),
            columns[at] + np.outer(np.cos(angle), r),
        ],
        order=3,
        prefilter=False,
    )
    half = near[at] / 2
    outside = np.maximum(np.argmax(profile < half, axis=1), 1)
    ray = np.arange(len(angle))
    inner, outer = profile[ray, outside - 1], profile[ray, outside]
    radius = r[outside - 1] + 0.25 * (inner - half) / (inner - outer)
    area = 0.5 * np.mean(radius**2) * 2 * np.pi
    # Second moments of the region about its centroid, in polar coordinates.
    cx, cy = (np.mean(radius**3 * f(angle)) / 3 * 2 * np.pi / area for f in (np.cos, np.sin))
    m4 = radius**4 / 4 * 2 * np.pi / area
    qxx = np.mean(m4 * np.cos(angle) ** 2) - cx**2
    qyy = np.mean(m4 * np.sin(angle) ** 2) - cy**2
    qxy = np.mean(m4 * np.cos(angle) * np.sin(angle)) - cx * cy
    norm = qxx + qyy + 2 * np.sqrt(qxx * qyy - qxy**2)
    return 2 * math.sqrt(area / np.pi), float((qxx - qyy) / norm), float(2 * qxy / norm)


def match_fwhm(
    profile: Callable[[float], Any], fwhm: float, scale: float
) -> tuple[float, tuple[float, float, float]]:
    """Find the scale at which the image of a profile in the pixels has the requested FWHM."""
    step = fwhm / 12
    square, last = scale**2, None
    for _ in range(25):
        in_samples, e1, e2 = half_maximum_shape(draw(profile(math.sqrt(square)), 73, step))
        measured = (in_samples * step) ** 2
        if abs(measured / fwhm**2 - 1) < 3e-4:
            return math.sqrt(square), (in_samples * step, e1, e2)
        # Widths of pixel and trail add about in quadrature, so the secant is in squares.
        slope = max(measured - 1, 0.1 * measured) / square
        if last is not None and (measured - last[1]) * (square - last[0]) > 0:
            slope = (measured - last[1]) / (square - last[0])
        last = square, measured
        square = float(np.clip(square + (fwhm**2 - measured) / slope, 0.1 * square, 10 * square))
        if square < (0.1 * fwhm) ** 2:
            break
    raise InputError(
        f"no profile has a FWHM of {fwhm:.2f} pixels in the pixels: pixel and trail alone are as "
        "wide. Try a larger fwhm or a shorter trail."
    )


def centre_of(light: Any, fwhm: float) -> tuple[float, float]:
    """Return the shift that moves the Gaussian-weighted centroid to the origin.

    This is the centroid that a star finder measures.
    """
    step = fwhm / 12
    image = draw(light, 97, step)
    offset = (np.arange(97) - 48) * step
    x = y = 0.0
    sigma = fwhm / 2.3548
    for _ in range(30):
        wx, wy = (np.exp(-0.5 * ((offset - c) / sigma) ** 2) for c in (x, y))
        total = wy @ image @ wx
        dx, dy = (
            (wy @ image @ (wx * (offset - x))) / total,
            ((wy * (offset - y)) @ image @ wx) / total,
        )
        # Twice, because the window moves the centroid half of the way back.
        x, y = x + 2 * dx, y + 2 * dy
        if max(abs(dx), abs(dy)) < 1e-5:
            break
    return -float(x), -float(y)
