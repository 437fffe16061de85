"""Find gain, saturation level and read noise of a frame from its header or its pixels.

A header value is used if it is plausible. The value is measured on the pixels if the header has
none, or if the pixels contradict it:

gain
    Photon noise gives ``variance = (sky - pedestal) / gain + (read_noise / gain) ** 2``. An unknown
    bias pedestal makes ``sky / variance`` too large. Crowding, flat-field errors and read noise
    make it too small. So a difference alone does not contradict a header. A header gain is
    rejected in two cases only:

    - *too small*: the sky is three times less noisy than predicted **and** the extra noise on the
      light of sources, which a pedestal does not affect, is also too small (`gain_lower_bound`);
    - *too large*: the sky is ten times noisier than predicted and the excess would need a read
      noise above 50 electrons, which no imager has (a camera's unitless "gain setting").

saturation
    Near its peak every smooth profile covers the same area per unit of log brightness, so the
    histogram of log brightness only falls towards bright pixels. A rise there is the full well
    (`find_pile_up`). A header value above such a pile-up is replaced by it. A header value that
    ten or more sources exceed threefold is ignored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from mlpsf.frames.estimation import (
    SkyNoise,
    count_sources_above,
    find_pile_up,
    gain_from_variance,
    gain_lower_bound,
)
from mlpsf.frames.keywords import (
    ELECTRON_UNITS,
    GAIN_KEYWORDS,
    READ_NOISE_KEYWORDS,
    SATURATION_KEYWORDS,
    WELL_KEYWORDS,
    header_number,
)

__all__ = ["find_gain", "find_read_noise", "find_saturation"]


def find_gain(
    data: NDArray[np.float32],
    mask: NDArray[np.bool_],
    headers: Sequence[fits.Header],
    noise: SkyNoise | None,
    *,
    read_noise: float = 0.0,
    variance: NDArray[np.float32] | None = None,
    unit: str | None = None,
) -> tuple[float, str]:
    """Find the gain by the rules in the module docstring.

    Parameters
    ----------
    data : ndarray of float32, shape (ny, nx)
        In ADU.
    mask : ndarray of bool, shape (ny, nx)
    headers : sequence of astropy.io.fits.Header
        Header of the image, then the primary header.
    noise : SkyNoise or None
    read_noise : float, optional
        In electrons.
    variance : ndarray of float32, shape (ny, nx), optional
    unit : str, optional
        Unit of the pixels; the header's ``BUNIT`` by default.

    Returns
    -------
    gain : float
        Electrons per ADU.
    origin : str
        Description of where the value is from.
    """
    if unit is None:
        unit = next((str(h["BUNIT"]) for h in headers if "BUNIT" in h), "")
    if unit.strip().lower() in ELECTRON_UNITS:
        return 1.0, "the pixels are in electrons"
    declared = header_number(headers, GAIN_KEYWORDS, 0.0, 1e6)
    has_sky = noise is not None and noise.sky > 3 * noise.sigma
    if declared is not None:
        value, keyword = declared
        if noise is None or not has_sky:
            return value, f"header {keyword}"
        if noise.sky / noise.variance > 3 * value:
            bound = gain_lower_bound(data, mask, noise)
            if bound is None or bound < 1.5 * value:
                return value, f"header {keyword}"
        elif not (
            value > 10 * noise.sky / noise.fine_variance
            and value * math.sqrt(noise.fine_variance) > 50
        ):
            return value, f"header {keyword}"
        refuted = f"; header {keyword} = {value:g} contradicts the noise"
    else:
        refuted = ""
    if variance is not None and noise is not None:
        from_plane = gain_from_variance(data, mask, variance, noise)
        if from_plane is not None:
            return from_plane, "slope of the variance plane against the image" + refuted
    if noise is None or not has_sky:
        return 1.0, "unknown, taken as 1"
    # The positive root of variance * gain**2 - sky * gain - read_noise**2 = 0.
    root = math.sqrt(noise.sky**2 + 4 * noise.variance * read_noise**2)
    gain = (noise.sky + root) / (2 * noise.variance)
    return gain, "photon noise of the sky, taking the bias as 0" + refuted


def find_read_noise(headers: Sequence[fits.Header]) -> tuple[float, str]:
    """Find the read noise.

    Parameters
    ----------
    headers : sequence of astropy.io.fits.Header

    Returns
    -------
    read_noise : float
        In electrons; 0 when unknown.
    origin : str
        Description of where the value is from.
    """
    declared = header_number(headers, READ_NOISE_KEYWORDS, 0.0, 1000.0)
    return (
        (0.0, "unknown, taken as 0") if declared is None else (declared[0], f"header {declared[1]}")
    )


def find_saturation(
    data: NDArray[np.float32],
    mask: NDArray[np.bool_],
    headers: Sequence[fits.Header],
    noise: SkyNoise | None,
    *,
    gain: float,
    dtype: np.dtype[np.generic],
) -> tuple[float, str]:
    """Find the saturation level by the rules in the module docstring.

    Parameters
    ----------
    data : ndarray of float32, shape (ny, nx)
        In ADU.
    mask : ndarray of bool, shape (ny, nx)
    headers : sequence of astropy.io.fits.Header
        Header of the image, then the primary header.
    noise : SkyNoise or None
    gain : float
        Electrons per ADU, for keywords that are in electrons.
    dtype : numpy.dtype
        Type of the pixels before conversion to float32.

    Returns
    -------
    saturation : float
        In ADU; infinite if there is no limit.
    origin : str
        Description of where the value is from.
    """
    highest = float(data.max())
    # A level within the noise of the sky is not a saturation level.
    lowest = 0.0 if noise is None else max(0.0, noise.sky + 10 * noise.sigma)
    declared = header_number(headers, SATURATION_KEYWORDS, lowest, 1e12)
    pile = None if noise is None else find_pile_up(data, mask, noise)
    # DATAMAX in the FITS standard is only the brightest pixel of the file.
    if declared and declared[1] == "DATAMAX" and math.isclose(declared[0], highest, rel_tol=1e-3):
        declared = None
    if declared is None:
        well = header_number(headers, WELL_KEYWORDS, lowest * gain, 1e12)
        declared = well and (well[0] / gain, well[1])
    refuted = ""
    if declared is not None:
        value, keyword = declared
        if pile is not None and value > 1.01 * pile:
            refuted = f"; header {keyword} = {value:g} is above it"
        elif highest > 3 * value and count_sources_above(data, mask, 3 * value) >= 10:
            refuted = f"; header {keyword} = {value:g} is far below many sources"
        else:
            return value, f"header {keyword}"
    if pile is not None:
        return pile, "pile-up of the histogram" + refuted
    if dtype.kind in "iu":
        return float(np.iinfo(dtype.str).max), f"largest value of {dtype.name} pixels" + refuted
    return math.inf, "nothing limits it" + refuted
