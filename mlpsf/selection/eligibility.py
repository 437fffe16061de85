"""Flags for sources that cannot be PSF stars, set before their images are judged."""

from __future__ import annotations

import numpy as np
from astropy.table import Table

from mlpsf.errors import InputError
from mlpsf.flags import Flag
from mlpsf.frames.cutouts import PSF_MARGIN, psf_size, reaches_over
from mlpsf.frames.frame import Frame

__all__ = ["SNR_MIN", "check_snr_min", "flag_ineligible"]

SNR_MIN = 50.0
"""Lowest S/N of a PSF star. The ML-PSF study used 200, on deep frames with many stars."""


def check_snr_min(snr_min: float) -> None:
    """Raise `InputError` unless `snr_min` is 0 or more."""
    if not snr_min >= 0:
        raise InputError(f"The 'snr_min' parameter must be 0 or more. Got {snr_min}.")


def flag_ineligible(frame: Frame, sources: Table, *, snr_min: float = SNR_MIN) -> None:
    """Flag sources that are too faint or too near the edge, in place.

    Parameters
    ----------
    frame : Frame
    sources : Table
        Sources as returned by `mlpsf.find_sources`.
    snr_min : float
        Lowest signal-to-noise ratio of a PSF star.
    """
    flags = np.array(sources["flags"])
    flags[~(sources["snr"] >= snr_min)] |= Flag.FAINT
    # The PSF must fit on the frame. One pixel more, because its FWHM is measured differently.
    margin = psf_size(sources.meta["fwhm"]) // 2 + PSF_MARGIN + 1
    at = np.rint(sources["x"]), np.rint(sources["y"])
    flags[reaches_over(*at, margin, frame.shape)] |= Flag.NEAR_EDGE
    sources["flags"] = flags
