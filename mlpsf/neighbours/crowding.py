"""Whether the sources of a frame stand so close that their neighbours must be taken away."""

from __future__ import annotations

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from mlpsf.detection.second_image import second_image
from mlpsf.flags import OVEREXPOSED, Flag
from mlpsf.frames.near import pairs_within
from mlpsf.labelling import FAR, FAR_SHARE, NEAR

__all__ = ["NEVER_SUBTRACTED", "is_crowded", "light_of_neighbours"]

SPOILED = 0.02
"""Light of neighbours, relative to a star's own, that harms its PSF; as for the labels."""

NEVER_SUBTRACTED = OVEREXPOSED | Flag.TOO_NARROW
"""Flags of sources that are fitted with no star: overexposed ones and cosmic rays."""

_FEW = 5  # stars with neighbours that are not worth the work
_SNR = 50.0  # of a star worth its cleaning
_ALIKE = 0.4  # logarithm of the size of a star, with the light of its neighbours, over the usual


def light_of_neighbours(
    x: NDArray[np.float64], y: NDArray[np.float64], flux: NDArray[np.float64], fwhm: float
) -> NDArray[np.float64]:
    """Return the light of the sources about each, relative to its own, shape (n,).

    Those within 4 FWHM count in full, those to 6 FWHM at 15 %, as in `truth_labels`.
    """
    flux = np.maximum(np.nan_to_num(flux), 0.0)
    total = np.zeros(len(x))
    place = np.column_stack([x, y])
    for radius, share in ((NEAR, 1.0 - FAR_SHARE), (FAR, FAR_SHARE)):
        pairs = pairs_within(place, radius * fwhm)
        for own, other in (pairs.T, pairs.T[::-1]):
            total += share * np.bincount(own, flux[other], len(x))
    return total / np.maximum(flux, 1e-30)


def is_crowded(sources: Table) -> bool:
    """Return whether the neighbours of a frame's stars must be taken away.

    That is so where most bright stars have neighbours that can be: point sources below saturation,
    and no second images of themselves.

    Parameters
    ----------
    sources : Table
        From `find_sources`.
    """
    fwhm = float(sources.meta["fwhm"])
    x, y, flux, snr = (np.asarray(sources[c], dtype=np.float64) for c in ("x", "y", "flux", "snr"))
    never = NEVER_SUBTRACTED | Flag.MASKED | Flag.NEAR_EDGE
    star = (snr > _SNR) & (np.asarray(sources["flags"]) & never == 0)
    size = np.log(np.asarray(sources["fwhm"]) / np.asarray(sources["local_fwhm"]))
    star &= np.abs(np.nan_to_num(size, nan=np.inf)) < _ALIKE
    taken = np.where(np.asarray(sources["flags"]) & NEVER_SUBTRACTED == 0, flux, 0.0)
    spoiled = light_of_neighbours(x, y, taken, fwhm)[star] > SPOILED
    alone = int((~spoiled).sum())
    others = int(spoiled.sum())
    return others > max(alone, _FEW) and second_image(sources, np.column_stack([x, y])) is None
