"""Flags for sources that cannot be PSF stars, set before their images are judged."""

from __future__ import annotations

import numpy as np
from astropy.table import Table

from mlpsf.errors import InputError
from mlpsf.flags import Flag
from mlpsf.frames.cutouts import PSF_MARGIN, psf_size
from mlpsf.frames.frame import Frame

__all__ = ["SNR_MIN", "check_snr_min", "flag_ineligible", "flag_other_sizes"]

SNR_MIN = 50.0
"""Lowest S/N of a PSF star. The ML-PSF study used 200, on deep frames with many stars."""


_SIGMAS = 5.0  # standard deviations by which a star's width may be off
_WIDTH_ERROR = 1.2  # relative error of a width, times the S/N
_LEAST_SCATTER = 0.02  # relative scatter of the widths of stars that no map of them follows


def check_snr_min(snr_min: float) -> None:
    """Raise `InputError` unless `snr_min` is 0 or more."""
    if not isinstance(snr_min, int | float | np.number) or not snr_min >= 0:
        raise InputError(f"The 'snr_min' parameter (--snr-min) must be 0 or more. Got {snr_min}.")


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
    flags[frame.cut_off(sources["x"], sources["y"], margin)] |= Flag.NEAR_EDGE
    sources["flags"] = flags


def flag_other_sizes(sources: Table) -> None:
    """Flag sources that are wider or narrower than the stars near them, in place.

    This holds whatever a selector says: a round galaxy is as smooth and single as a star. The width
    may be off by five standard deviations: of the noise, of the map of the stars' widths, and of
    the stars about it.

    Parameters
    ----------
    sources : Table
        Sources as returned by `mlpsf.find_sources`.
    """
    off = np.log(np.asarray(sources["fwhm"]) / np.asarray(sources["local_fwhm"]))
    scatter = np.clip(sources.meta["fwhm_scatter"], _LEAST_SCATTER, 2 * _LEAST_SCATTER)
    error = np.hypot(scatter, _WIDTH_ERROR / np.maximum(np.asarray(sources["snr"]), 1.0))
    flags = np.array(sources["flags"])
    flags[~(np.abs(off) <= _SIGMAS * error)] |= Flag.OTHER_SIZE
    sources["flags"] = flags
