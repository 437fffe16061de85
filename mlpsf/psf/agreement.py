"""Whether a PSF agrees with its stars and their frame; where it does not, by how much."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy.special import chdtrc

from mlpsf.flags import Flag
from mlpsf.frames.near import nearest
from mlpsf.psf.model import PSFModel
from mlpsf.psf.over_frame import fwhm_over
from mlpsf.psf.solver.polynomial import order_for
from mlpsf.psf.solver.solve import NO_PSF
from mlpsf.psf.solver.stars import Stars
from mlpsf.psf.solver.variation import CHANCE, PSFVariation

__all__ = ["disagreements"]

FloatArray = NDArray[np.float64]

_OFF = 0.08  # relative; a PSF of a few stars has an error of 0.01, one of narrow stars of 0.03
_NOISE = 0.04  # of the local FWHM of the stars, that is followed over the frame
_BRIGHT, _STAR = 30.0, 0.1  # S/N, and difference from the local FWHM, of sources that are stars
_FEW, _PLACES = 3, 60  # stars, at least; places, at most, at which the PSF is compared with them
_TODO = (
    "Look at the stars (plot), choose more or others (--n-max, --threshold), or make the PSF of a "
    "part of the frame (stars)"
)
_GROWTH = 0.1  # of dT/T from the faintest to the brightest star: more than brighter-fatter makes
_SURE = 5.0  # standard deviations
_FEWEST = 8  # stars that show whether their size grows
_ALIKE = 0.01  # scatter of dT/T of good stars of one PSF, besides their noise
_MATTERS = 0.01  # of the FWHM
_FAR = 0.1  # of the frame's diagonal: a place farther from all stars is beyond them


def disagreements(
    psf: PSFModel,
    hand: Stars,
    found: PSFVariation,
    misfit: float,
    stars: Any,
    place: tuple[float, float] | None,
) -> Iterator[str]:
    """Yield what a user has to know of a PSF that does not agree with its stars or their frame.

    Parameters
    ----------
    psf : PSFModel
    hand : Stars
        The stars that it was made of.
    found : PSFVariation
        Sizes of these stars.
    misfit : float
        What the PSF leaves of them, over their noise.
    stars : Table or array_like
        As given to `mlpsf.build_psf`; the table of `mlpsf.select_stars` knows the frame's FWHM.
    place : (float, float) or None
        Place that the PSF was asked for.
    """
    if (off := _off(psf, hand, stars, place)) is not None:
        yield off
    elif place is None and not psf.varies and (spread := _spread(found)) is not None:
        yield (
            f"the {found.used.sum()} stars differ by {spread:.1%} in FWHM (rms), which their noise "
            "does not explain: some are no single stars, or the PSF varies. This is their mean; "
            "away from them it may be off by several times as much. Look at the stars (plot), or "
            "add some (a lower threshold, --threshold)"
        )
    elif misfit > NO_PSF:
        yield (
            f"the stars differ from the PSF by {misfit:.1f} times their noise: they are not alike, "
            "or not single, or their images change over the frame in a way that it does not "
            "follow. Look at them (plot); more stars (n_max, --n-max) may show it; or make the PSF "
            "of a part of the frame (stars)"
        )
    if _jumps(psf, stars):
        yield (
            "the FWHM of the frame's stars jumps, as between chips, which no smooth PSF follows: "
            "make one of each part (stars)"
        )
    if (growth := _growth(psf.stars[:, 2], found)) is not None:
        yield (
            f"the stars grow with their brightness: the brightest are {growth / 2:.0%} wider than "
            "the faintest. They are saturated, or the detector is not linear: leave the brightest "
            "out (a lower saturation, --saturation)"
        )
    if place is not None and (far := _beyond(hand, place)) is not None:
        yield (
            f"({place[0]:g}, {place[1]:g}) is beyond all stars, {far:.0f} pixels from the nearest: "
            "the PSF there is extrapolated"
        )


def _jumps(psf: PSFModel, stars: Any) -> bool:
    """Return whether the frame's FWHM jumps, and the PSF's stars are on both sides of it."""
    if not isinstance(stars, Table) or not stars.meta.get("jumps", False):
        return False
    if "local_fwhm" not in stars.colnames:
        return True
    at = np.column_stack([stars["x"], stars["y"]])
    local = np.asarray(stars["local_fwhm"], dtype=np.float64)[nearest(at, psf.stars[:, :2])[1]]
    local = local[local > 0]
    return bool(len(local) and local.max() > (1 + _OFF) * local.min())


def _off(psf: PSFModel, hand: Stars, stars: Any, place: tuple[float, float] | None) -> str | None:
    """Say how far the PSF's FWHM is from that of the frame's stars, where these are, if it is."""
    if not isinstance(stars, Table) or "local_fwhm" not in stars.colnames:
        return None

    def column(name: str) -> FloatArray:
        return np.asarray(stars[name], dtype=np.float64)  # of a QTable, too

    x, y, local = column("x"), column("y"), column("local_fwhm")
    (ny, nx), (x0, y0) = hand.frame_shape, hand.first
    star = (np.abs(x - x0 - (nx - 1) / 2) < nx / 2) & (np.abs(y - y0 - (ny - 1) / 2) < ny / 2)
    star &= local > 0
    if "flags" in stars.colnames:  # of a list, the PSF is that of its part of the frame
        star &= np.asarray(stars["flags"]) & Flag.NOT_LISTED == 0
    if {"snr", "fwhm"} <= set(stars.colnames):
        with np.errstate(all="ignore"):  # of sources that could not be measured
            star &= (column("snr") > _BRIGHT) & (np.abs(np.log(column("fwhm") / local)) < _STAR)
    rows = np.flatnonzero(star)
    if len(rows) < _FEW:
        return None
    if place is not None:
        rows = rows[[np.hypot(x[rows] - place[0], y[rows] - place[1]).argmin()]]
    rows = rows[:: -(-len(rows) // _PLACES)]
    here = fwhm_over(psf, x[rows], y[rows])
    if (lost := np.isnan(here)).any():
        at = rows[np.argmax(lost)]
        return (
            f"the PSF is no star at ({x[at]:.0f}, {y[at]:.0f}), where the frame has stars. {_TODO}"
        )
    off = np.log(here / local[rows])
    low, middle, high = np.expm1(np.quantile(off, [0.05, 0.5, 0.95]))
    allowed = _OFF * max(1.0, 2 / float(np.median(local[rows])))
    if max(abs(middle), -low - _NOISE, high - _NOISE) <= allowed:
        return None
    worst = int(np.argmax(np.abs(off)))
    at = rows[worst]
    return (
        f"the PSF's FWHM is off that of the frame's stars by {low:+.0%} to {high:+.0%} "
        f"({middle:+.0%} in the median): at ({x[at]:.0f}, {y[at]:.0f}) it is {here[worst]:.2f} "
        f"pixels, and {local[at]:.2f} of the stars. {_TODO}"
    )


def _spread(found: PSFVariation) -> float | None:
    """Return the rms by which few stars differ in FWHM, if it surely is more than their noise."""
    size, error = found.values[found.used, 0], found.errors[found.used, 0]
    if found.significant or len(size) < 3 or order_for(len(size)) > 1:
        return None
    weight = 1 / (error**2 + _ALIKE**2)
    off = size - np.average(size, weights=weight)
    if chdtrc(len(size) - 1, (weight * off**2).sum()) > CHANCE:
        return None
    excess = max(float(np.average(off**2 - error**2, weights=weight)), 0.0)
    spread = 0.5 * np.sqrt(excess)  # dT/T is twice the change of the FWHM
    return float(spread) if spread > _MATTERS else None


def _growth(flux: FloatArray, found: PSFVariation) -> float | None:
    """Return by how much dT/T grows from the faintest to the brightest star, if it surely does."""
    size, error = found.values[:, 0], found.errors[:, 0]
    used = np.isfinite(error) & (flux > 0)
    if used.sum() < _FEWEST:
        return None
    # Sizes that change over the frame are no growth.
    size = size - (found.at(found.x, found.y)[:, 0] if found.significant else 0.0)
    light = np.log(flux[used])
    light -= light.mean()
    weight = 1 / (error[used] ** 2 + 0.01**2)
    terms = np.column_stack([np.ones_like(light), light])
    normal = np.linalg.pinv((terms * weight[:, None]).T @ terms)
    fit = normal @ (terms.T @ (weight * size[used]))
    left = size[used] - terms @ fit
    scale = max(1.0, float((weight * left**2).sum()) / max(len(light) - 2, 1))
    growth = fit[1] * float(np.ptp(light))
    sure = fit[1] > _SURE * np.sqrt(normal[1, 1] * scale)
    return float(growth) if sure and growth > _GROWTH else None


def _beyond(hand: Stars, place: tuple[float, float]) -> float | None:
    """Return the distance to the nearest star of a place beyond all of them, else None."""
    at = np.column_stack([hand.x, hand.y])
    nearest = float(np.hypot(*(at - np.asarray(place)).T).min())
    if nearest < _FAR * float(np.hypot(*hand.frame_shape)):
        return None
    from scipy.spatial import Delaunay, QhullError  # takes half a second

    try:
        inside = len(at) > 3 and bool(Delaunay(at).find_simplex(np.asarray(place)) >= 0)
    except QhullError:  # all on a line
        inside = False
    return None if inside else nearest
