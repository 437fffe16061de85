"""Which sources can be a PSF star at all, before anyone judges their image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from astropy.table import Table

from mlpsf.errors import InputError
from mlpsf.flags import Flag
from mlpsf.frames.cutouts import PSF_MARGIN, psf_size, reaches_over
from mlpsf.frames.frame import Frame

__all__ = ["SNR_MIN", "check_snr_min", "flag_ineligible"]

SNR_MIN = 50.0
"""Least S/N of a PSF star. The ML-PSF study took 200, on deep frames full of stars."""


def check_snr_min(snr_min: float) -> None:
    """Raise `InputError` unless the least S/N is a number of 0 or more."""
    if not snr_min >= 0:
        raise InputError(f"The 'snr_min' parameter must be 0 or more. Got {snr_min}.")


def flag_ineligible(
    frame: Frame, sources: Table, *, snr_min: float = SNR_MIN, veto: Sequence[int] | None = None
) -> None:
    """Set the flags of sources that are too faint, too near the edge, or vetoed; in place.

    Parameters
    ----------
    frame : Frame
    sources : Table
        As `mlpsf.find_sources` returns.
    snr_min : float
        Least signal-to-noise ratio of a PSF star.
    veto : sequence of int, optional
        Values of ``id`` that must not be chosen.

    Raises
    ------
    InputError
        No source has one of the ids to veto.
    """
    flags = np.array(sources["flags"])
    flags[~(sources["snr"] >= snr_min)] |= Flag.FAINT
    # A star must have room for the PSF on the frame; one pixel more, its FWHM is another measure.
    margin = psf_size(sources.meta["fwhm"]) // 2 + PSF_MARGIN + 1
    at = np.rint(sources["x"]), np.rint(sources["y"])
    flags[reaches_over(*at, margin, frame.shape)] |= Flag.NEAR_EDGE
    if veto is not None:
        unknown = sorted(set(veto) - set(sources["id"].tolist()))
        if unknown:
            raise InputError(f"No source has the id to veto: {unknown[:5]}.")
        flags[np.isin(sources["id"], veto)] |= Flag.VETOED
    sources["flags"] = flags
