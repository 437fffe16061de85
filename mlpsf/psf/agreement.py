"""Whether a PSF agrees with its stars and their frame; where it does not, by how much."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy.special import chdtrc

from mlpsf.psf.model import PSFModel
from mlpsf.psf.solver.polynomial import order_for
from mlpsf.psf.solver.stars import Stars
from mlpsf.psf.solver.variation import PSFVariation

__all__ = ["disagreements"]

FloatArray = NDArray[np.float64]

_OFF = 0.08  # relative; a PSF of a few stars has an error of 0.01, one of narrow stars of 0.03
_ELSEWHERE = 1.25  # times the range of the FWHM where stars are taken: what is not followed
_GROWTH = 0.1  # of dT/T from the faintest to the brightest star: more than brighter-fatter makes
_SURE = 5.0  # standard deviations
_FEWEST = 8  # stars that show whether their size grows
_ALIKE = 0.01  # scatter of dT/T, and of the FWHM, of few good stars of one PSF
_CHANCE = 1e-3  # probability that such stars scatter as much
_FAR = 0.1  # of the frame's diagonal: a place farther from all stars is beyond them


def disagreements(
    psf: PSFModel,
    hand: Stars,
    flux: FloatArray,
    found: PSFVariation,
    stars: Any,
    place: tuple[float, float] | None,
) -> Iterator[str]:
    """Yield what a user has to know of a PSF that does not agree with its stars or their frame.

    Parameters
    ----------
    psf : PSFModel
    hand : Stars
        The stars that it was made of.
    flux : ndarray, shape (n,)
        Their fluxes.
    found : PSFVariation
        Their sizes.
    stars : Table or array_like
        As given to `mlpsf.build_psf`; the table of `mlpsf.select_stars` knows the frame's FWHM.
    place : (float, float) or None
        Place that the PSF was asked for.
    """
    if (local := _local_fwhm(hand, stars)) is not None:
        expected = float(np.median(local))
        off = psf.fwhm / expected - 1
        if abs(off) > _OFF * max(1.0, 2 / expected):
            yield (
                f"the PSF has a FWHM of {psf.fwhm:.2f} pixels, the stars of the frame near them "
                f"{expected:.2f}: {off:+.0%}. Look at the stars (plot), or choose others"
            )
        low, high = np.nanquantile(np.asarray(stars["local_fwhm"], dtype=np.float64), [0.05, 0.95])
        if stars.meta.get("jumps", False):
            yield (
                f"the FWHM of the frame's stars jumps between {low:.2f} and {high:.2f} pixels, "
                "which no smooth PSF follows: make one of each part (stars)"
            )
        least, most = np.quantile(local, [0.1, 0.9])  # one star of its size is none to go by
        elsewhere = low < least / _ELSEWHERE or high > most * _ELSEWHERE
        if place is None and elsewhere:
            yield (
                f"the stars of the frame have a FWHM from {low:.2f} to {high:.2f} pixels, those of "
                f"the PSF from {least:.2f} to {most:.2f}: where it is beyond "
                "these, the PSF is extrapolated. Add stars from there (a lower threshold, "
                "--threshold)"
            )
        elif place is None and not psf.varies and most > least * _ELSEWHERE:
            yield (
                f"the frame's stars have a FWHM from {least:.2f} to {most:.2f} pixels where those "
                f"of the PSF are, and the PSF has one everywhere, {psf.fwhm:.2f}: they are too "
                "few, or too noisy, to follow it. Add stars (a lower threshold, --threshold)"
            )
    if place is None and not psf.varies and (spread := _spread(found)) is not None:
        yield (
            f"the {found.used.sum()} stars differ by {spread:.1%} in FWHM (rms), which their noise "
            "does not explain: some are no single stars, or the PSF varies and they are too few to "
            "follow it. This is their mean; away from them it may be off by several times as much. "
            "Look at the stars (plot), or add some (a lower threshold, --threshold)"
        )
    if (growth := _growth(flux, found)) is not None:
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


def _local_fwhm(hand: Stars, stars: Any) -> FloatArray | None:
    """Return the FWHM that the frame's stars have where each of the PSF's is, shape (n,)."""
    if not isinstance(stars, Table) or "local_fwhm" not in stars.colnames:
        return None
    at = np.column_stack([np.asarray(stars[k], dtype=np.float64) for k in "xy"])  # of a QTable, too
    mine = np.column_stack([hand.x, hand.y])
    finite = np.isfinite(at).all(axis=1)
    if not finite.any() or not len(mine):
        return None
    nearest = np.argmin(np.hypot(*(mine[:, None] - at[finite][None]).transpose(2, 0, 1)), axis=1)
    local = np.asarray(stars["local_fwhm"], dtype=np.float64)[finite][nearest]
    return local if np.isfinite(local).all() else None


def _spread(found: PSFVariation) -> float | None:
    """Return the rms by which few stars differ in FWHM, if it surely is more than their noise."""
    used = found.used & np.isfinite(found.errors[:, 0])
    size, error = found.values[used, 0], found.errors[used, 0]
    if found.significant or len(size) < 3 or order_for(len(size)) > 1:
        return None
    weight = 1 / (error**2 + _ALIKE**2)
    off = size - (weight * size).sum() / weight.sum()
    if chdtrc(len(size) - 1, (weight * off**2).sum()) > _CHANCE:
        return None
    spread = 0.5 * float(np.sqrt(max(float((off**2 - error**2).mean()), 0.0)))
    return spread if spread > _ALIKE else None


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
