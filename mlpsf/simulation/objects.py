"""Stars and galaxies of a field, and how they are drawn.

Stars are images of the PSF. Galaxies are one Sersic profile, or a bulge and a disc, multiplied by
the PSF in Fourier space, so that they have exactly the PSF at their position.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from astropy.table import Table, vstack
from numpy.typing import ArrayLike, NDArray
from scipy.fft import irfft2
from scipy.special import gamma, gammainc, gammaincinv

from mlpsf.errors import InputError
from mlpsf.simulation.profiles import load_galsim
from mlpsf.simulation.psfs import TruePSF

__all__ = [
    "add_pairs",
    "draw_galaxies",
    "draw_stars",
    "place_galaxies",
    "place_stars",
    "stars_from",
]

SERSIC_INDICES = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0)
_BULGE_SIZE = 0.4  # half-light radius of a bulge, relative to its disc
_STAMPS = np.array([24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512])
_MAX_GRID = 1024  # samples per side of the largest Fourier transform


def power_law(
    rng: np.random.Generator, n: int, limits: tuple[float, float], slope: float
) -> NDArray[np.float64]:
    """Draw fluxes from a power law: counts above F go as F**-slope.

    Parameters
    ----------
    rng : numpy.random.Generator
    n : int
        Number of fluxes.
    limits : (float, float)
        Lowest and highest flux.
    slope : float
        Slope of the counts; 0.6 * 2.5 = 1.5 for a uniform Euclidean space.

    Returns
    -------
    ndarray of float64, shape (n,)
    """
    low, high = limits
    top = (low / high) ** slope
    return np.asarray(low * (1 - rng.random(n) * (1 - top)) ** (-1 / slope))


def place_stars(
    rng: np.random.Generator,
    shape: tuple[int, int],
    n: int,
    limits: tuple[float, float],
    slope: float,
    clustering: float,
    cluster_radius: float,
) -> Table:
    """Draw the stars of a field, a fraction of them in one Plummer cluster.

    Parameters
    ----------
    rng : numpy.random.Generator
    shape : (int, int)
        Rows and columns of the frame.
    n : int
        Number of stars.
    limits, slope
        Of their fluxes, as for :func:`power_law`.
    clustering : float
        Fraction of the stars that belong to the cluster.
    cluster_radius : float
        Plummer radius in pixels; half of the cluster's stars are within it, in projection.

    Returns
    -------
    Table
        Columns of the truth.
    """
    ny, nx = shape
    x, y = rng.uniform(-0.5, nx - 0.5, n), rng.uniform(-0.5, ny - 0.5, n)
    centre = rng.uniform(0.25, 0.75, 2) * (nx, ny)
    inside = rng.random(n) < clustering
    u, angle = rng.random(n), rng.uniform(0, 2 * np.pi, n)
    r = cluster_radius * np.sqrt(u / (1 - u))
    member_x, member_y = centre[0] + r * np.cos(angle), centre[1] + r * np.sin(angle)
    # A member that would be off the frame keeps its position in the field.
    inside &= (np.abs(member_x - (nx - 1) / 2) < nx / 2) & (
        np.abs(member_y - (ny - 1) / 2) < ny / 2
    )
    x, y = np.where(inside, member_x, x), np.where(inside, member_y, y)
    return _table(x, y, power_law(rng, n, limits, slope), "star")


def stars_from(stars: ArrayLike) -> Table:
    """Make a table of stars from rows of x, y, flux.

    Parameters
    ----------
    stars : array_like, shape (n, 3)

    Returns
    -------
    Table
        Columns of the truth.

    Raises
    ------
    InputError
        The array does not have this shape, or has invalid values.
    """
    rows = np.asarray(stars, float)
    if rows.size == 0:
        rows = rows.reshape(0, 3)
    if rows.ndim != 2 or rows.shape[1] != 3 or not np.isfinite(rows).all():
        raise InputError(
            f"stars must be finite rows of x, y, flux: shape (n, 3). Got {rows.shape} instead."
        )
    if (rows[:, 2] <= 0).any():
        raise InputError(f"stars must have flux > 0. Got {rows[:, 2].min()} instead.")
    return _table(rows[:, 0], rows[:, 1], rows[:, 2], "star")


def add_pairs(rng: np.random.Generator, stars: Table, n: int, psf: TruePSF) -> Table:
    """Add companions to `n` of the stars, 0.5 to 2.5 FWHM away and 0.05 to 1 times as bright.

    Parameters
    ----------
    rng : numpy.random.Generator
    stars : Table
        The stars.
    n : int
        Number of companions.
    psf : TruePSF
        PSF whose FWHM is used.

    Returns
    -------
    Table
        The stars and their companions. Both members of a pair have the same ``pair_id``.
    """
    if n == 0:
        return stars
    chosen = rng.choice(len(stars), n, replace=False)
    apart = rng.uniform(0.5, 2.5, n) * psf.fwhm
    angle = rng.uniform(0, 2 * np.pi, n)
    companions = _table(
        np.asarray(stars["x"])[chosen] + apart * np.cos(angle),
        np.asarray(stars["y"])[chosen] + apart * np.sin(angle),
        np.asarray(stars["flux"])[chosen] * 10 ** rng.uniform(-1.3, 0, n),
        "star",
    )
    stars["pair_id"][chosen] = companions["pair_id"] = np.arange(n)
    return vstack([stars, companions], metadata_conflicts="silent")


def place_galaxies(
    rng: np.random.Generator,
    shape: tuple[int, int],
    n: int,
    limits: tuple[float, float],
    slope: float,
    radius: float,
) -> Table:
    """Draw the galaxies of a field.

    Half-light radii grow as flux**0.15 with a log-normal scatter of 0.35, similar to deep surveys
    in a fixed band. A third of the galaxies have a bulge and a disc.

    Parameters
    ----------
    rng : numpy.random.Generator
    shape : (int, int)
        Rows and columns of the frame.
    n : int
        Number of galaxies.
    limits, slope
        Of their fluxes, as for :func:`power_law`.
    radius : float
        Median half-light radius in pixels of the faintest galaxies.

    Returns
    -------
    Table
        Columns of the truth, and the parameters for drawing: g1, g2, sersic, bulge.
    """
    ny, nx = shape
    flux = power_law(rng, n, limits, slope)
    galaxies = _table(
        rng.uniform(-0.5, nx - 0.5, n), rng.uniform(-0.5, ny - 0.5, n), flux, "galaxy"
    )
    size = radius * (flux / limits[0]) ** 0.15 * np.exp(0.35 * rng.normal(size=n))
    galaxies["half_light_radius"] = np.clip(size, 0.05, min(shape) / 8)
    g = np.minimum(0.22 * np.hypot(*rng.normal(size=(2, n))), 0.7)
    angle = rng.uniform(0, 2 * np.pi, n)
    galaxies["g1"], galaxies["g2"] = g * np.cos(angle), g * np.sin(angle)
    bulge = np.where(rng.random(n) < 1 / 3, rng.uniform(0.1, 0.6, n), 0.0)
    galaxies["bulge"] = bulge
    galaxies["sersic"] = np.where(bulge > 0, 1.0, rng.choice(SERSIC_INDICES, n))
    return galaxies


def draw_stars(image: NDArray[np.float32], stars: Table, psf: TruePSF, level: float) -> None:
    """Add stars to an image.

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx)
        Changed in place.
    stars : Table
        Stars with x, y and the flux to draw.
    psf : TruePSF
    level : float
        Light per pixel below which a star may be cut off.
    """
    radii = psf.radius_for(level / np.maximum(np.asarray(stars["flux"]), 1e-30))
    columns = (stars["x"].tolist(), stars["y"].tolist(), stars["flux"].tolist(), radii.tolist())
    for x, y, flux, radius in zip(*columns, strict=True):
        stamp, row, column = psf.draw(x, y, radius)
        _paste(image, stamp * np.float32(flux), row, column)


def draw_galaxies(image: NDArray[np.float32], galaxies: Table, psf: TruePSF, level: float) -> None:
    """Add galaxies to an image.

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx)
        Changed in place.
    galaxies : Table
        Table from :func:`place_galaxies`.
    psf : TruePSF
    level : float
        Light per pixel below which a galaxy may be cut off.
    """
    if not len(galaxies):
        return
    s = psf.oversampling
    sizes = _stamp_sizes(galaxies, psf, level)
    # By size and then by row, so that the PSF is transformed only once per size.
    for size in np.unique(sizes):
        n = int(size)
        transforms = [psf.transform(n, node) for node in range(psf.n_nodes)]
        kx = (2 * np.pi * np.fft.rfftfreq(n * s, 1 / s)).astype(np.float32)
        ky = (2 * np.pi * np.fft.fftfreq(n * s, 1 / s)).astype(np.float32)[:, None]
        for galaxy in galaxies[sizes == size]:
            x, y = float(galaxy["x"]), float(galaxy["y"])
            column, row = round(x) - n // 2, round(y) - n // 2
            light = _galaxy_transform(galaxy, kx, ky)
            blend = [np.float32(weight) * transforms[i] for i, weight in psf.blend(x, y)]
            shift = np.exp(-1j * kx * (x - column)) * np.exp(-1j * ky * (y - row))
            stamp = irfft2(light * sum(blend) * shift, s=(n * s, n * s))[::s, ::s]
            _paste(image, stamp * np.float32(galaxy["flux"]), row, column)


def _table(
    x: NDArray[np.float64], y: NDArray[np.float64], flux: NDArray[np.float64], kind: str
) -> Table:
    """Make rows of the truth, without the columns known only after drawing."""
    n = len(x)
    return Table(
        {
            "x": x,
            "y": y,
            "flux": flux,
            "kind": np.full(n, kind, "U6"),
            "half_light_radius": np.zeros(n),
            "pair_id": np.full(n, -1),
        }
    )


def _paste(image: NDArray[np.float32], stamp: NDArray[np.float32], row: int, column: int) -> None:
    """Add the part of a stamp that is on the image to the image."""
    ny, nx = image.shape
    height, width = stamp.shape
    top, bottom = max(row, 0), min(row + height, ny)
    left, right = max(column, 0), min(column + width, nx)
    if top < bottom and left < right:
        image[top:bottom, left:right] += stamp[
            top - row : bottom - row, left - column : right - column
        ]


def _stamp_sizes(galaxies: Table, psf: TruePSF, level: float) -> NDArray[np.int64]:
    """Return stamp sizes outside which a galaxy's surface brightness is below the level."""
    flux, re = np.asarray(galaxies["flux"]), np.asarray(galaxies["half_light_radius"])
    reach = np.zeros(len(galaxies))
    bulge = np.asarray(galaxies["bulge"])
    for share, n in ((1 - bulge, np.asarray(galaxies["sersic"])), (bulge, 4.0)):
        # Graham & Driver (2005), eq. 4: total light of a Sersic profile, solved for its level.
        b = gammaincinv(2 * n, 0.5)
        at_re = flux * share / (2 * np.pi * n * re**2 * np.exp(b) * b ** (-2 * n) * gamma(2 * n))
        steps = np.log(np.maximum(at_re / level, 1e-30)) / b
        reach = np.maximum(reach, re * np.maximum(1 + steps, 0) ** n)
    g = np.hypot(galaxies["g1"], galaxies["g2"])
    reach *= np.sqrt((1 + g) / (1 - g))
    star = np.minimum(psf.radius_for(level / flux), 4 * psf.fwhm)
    wanted = 2 * np.maximum(np.hypot(reach, star), 2.5 * psf.fwhm) + 2
    largest = _STAMPS[_STAMPS * psf.oversampling <= _MAX_GRID][-1]
    index = np.searchsorted(_STAMPS, np.minimum(wanted, largest))
    return np.asarray(_STAMPS[index])


def _galaxy_transform(
    galaxy: Table.Row, kx: NDArray[np.float32], ky: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the Fourier transform of a galaxy of unit flux; real, by symmetry."""
    g1, g2, bulge = float(galaxy["g1"]), float(galaxy["g2"]), float(galaxy["bulge"])
    norm = 1 / math.sqrt(1 - g1 * g1 - g2 * g2)
    k = np.hypot((1 + g1) * kx + g2 * ky, g2 * kx + (1 - g1) * ky) * np.float32(norm)
    radius = float(galaxy["half_light_radius"])
    if bulge == 0:
        return _sersic(k * radius, float(galaxy["sersic"]))
    disc = radius / _half_light_in_discs(bulge)
    return (1 - bulge) * _sersic(k * disc, 1.0) + bulge * _sersic(k * (disc * _BULGE_SIZE), 4.0)


def _sersic(k: NDArray[np.float32], n: float) -> NDArray[np.float32]:
    """Return the transform of a Sersic profile; k is in units of 1 / half-light radius."""
    if n == 1:
        # Analytic transform of an exponential disc: (1 + k**2 h**2)**-1.5.
        return np.asarray((1 + (k / 1.6783469900166605) ** 2) ** -1.5, np.float32)
    grid, values = _sersic_table(n)
    return np.interp(k, grid, values).astype(np.float32)


@cache
def _sersic_table(n: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Tabulate GalSim's transform of a Sersic profile with a half-light radius of one."""
    profile = load_galsim().Sersic(n, half_light_radius=1.0)
    k = np.concatenate([[0.0], np.geomspace(1e-3, 3e3, 700)])
    return k, np.array([profile.kValue(float(q), 0.0).real for q in k])


@cache
def _half_light_table() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Tabulate the half-light radius of bulge plus disc, relative to that of the disc."""
    shares, r = np.linspace(0, 1, 51), np.geomspace(0.02, 20, 400)
    disc = gammainc(2, gammaincinv(2, 0.5) * r)
    bulge = gammainc(8, gammaincinv(8, 0.5) * (r / _BULGE_SIZE) ** 0.25)
    return shares, np.array([np.interp(0.5, (1 - b) * disc + b * bulge, r) for b in shares])


def _half_light_in_discs(bulge: float) -> float:
    return float(np.interp(bulge, *_half_light_table()))
