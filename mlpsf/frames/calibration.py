"""Find gain, saturation level and read noise of a frame from its header or its pixels.

A header value is used if it is plausible. The value is measured on the pixels if the header has
none, or if the pixels contradict it:

gain
    A header's gain counts only in the unit of the pixels (`mlpsf.frames.units`). Photon noise gives
    ``variance = (sky - pedestal) / gain + (read_noise / gain) ** 2``. An unknown
    bias pedestal makes ``sky / variance`` too large. Crowding, flat-field errors and read noise
    make it too small. So a difference alone does not contradict a header. A header gain is
    rejected in three cases only:

    - *of another unit*: the noise of a pixel would be below a third of an electron, less than any
      detector's;
    - *too small*: the sky is not three times noisier than predicted, **and** the extra noise on the
      light of sources, which a pedestal does not affect, is far too small (`gain_lower_bound`);
    - *too large*: the sky is ten times noisier than predicted and the excess would need a read
      noise above 50 electrons, which no imager has (a camera's unitless "gain setting").

    A gain from the noise of the sky is a guess, because a pedestal, or a sky that was taken off,
    makes it wrong. It is marked as one, and the choice of stars does not depend on it.

saturation
    Near its peak every smooth profile covers the same area per unit of log brightness, so the
    histogram of log brightness only falls towards bright pixels. A rise there is the full well
    (`find_pile_up`). A header value above such a pile-up is replaced by it. A header value that
    ten or more sources exceed threefold is ignored, and so is one in counts if the pixels are not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

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
    GAINS,
    READ_NOISE_KEYWORDS,
    SATURATION_KEYWORDS,
    WELL_KEYWORDS,
    header_nonsense,
    header_number,
)
from mlpsf.frames.units import header_gain, is_calibrated, pixel_unit

__all__ = ["Found", "find_gain", "find_read_noise", "find_saturation"]

_QUIETEST = 0.3  # electrons per pixel; no detector has less noise
_CLIPPED = (0.6, 1.0001)  # of a level in the unit of the pixels: the brightest of them


class Found(NamedTuple):
    """A value, a description of where it is from, and whether it is a guess.

    `nonsense` is what the header has in the place of a number that could be one.
    """

    value: float
    origin: str
    guessed: bool
    nonsense: str = ""


def find_gain(
    data: NDArray[np.float32],
    mask: NDArray[np.bool_],
    headers: Sequence[fits.Header],
    noise: SkyNoise | None,
    *,
    read_noise: float = 0.0,
    variance: NDArray[np.float32] | None = None,
    unit: str | None = None,
) -> Found:
    """Find the gain by the rules in the module docstring.

    Parameters
    ----------
    data : ndarray of float32, shape (ny, nx)
    mask : ndarray of bool, shape (ny, nx)
    headers : sequence of astropy.io.fits.Header
        Header of the image, then the primary header.
    noise : SkyNoise or None
    read_noise : float, optional
        In electrons.
    variance : ndarray of float32, shape (ny, nx), optional
        Variance of the pixels, with the photon noise of the sources in it.
    unit : str, optional
        Unit of the pixels; the header's ``BUNIT`` by default.

    Returns
    -------
    Found
        Electrons per unit of the pixels; infinite if unknown.
    """
    of = pixel_unit(headers, unit)
    declared = header_gain(headers, of)
    # Of other pixels than counts a header's gain says nothing, whatever it is.
    counts = not is_calibrated(of) and of.base not in ELECTRON_UNITS
    nonsense = header_nonsense(headers, GAIN_KEYWORDS, *GAINS) if counts else ""
    has_sky = noise is not None and noise.sky > 3 * noise.sigma
    refuted = ""
    if declared is not None:
        value, origin = declared
        if noise is None or not origin.startswith("header"):
            return Found(value, origin, guessed=False)
        if not _contradicted(data, mask, noise, value, has_sky=has_sky):
            return Found(value, origin, guessed=False)
        refuted = f"; {origin} = {value:g} contradicts the noise"
    if variance is not None and noise is not None:
        from_plane = gain_from_variance(data, mask, variance, noise)
        if from_plane is not None:
            origin = "slope of the variance plane against the image"
            return Found(from_plane, origin + refuted, guessed=False, nonsense=nonsense)
    if noise is None or not has_sky:
        origin = "unknown, the noise of the sky alone"
        return Found(math.inf, origin + refuted, guessed=True, nonsense=nonsense)
    # The positive root of variance * gain**2 - sky * gain - read_noise**2 = 0.
    root = math.sqrt(noise.sky**2 + 4 * noise.variance * read_noise**2)
    gain = (noise.sky + root) / (2 * noise.variance)
    origin = "photon noise of the sky, taking the bias as 0"
    return Found(gain, origin + refuted, guessed=True, nonsense=nonsense)


def _contradicted(
    data: NDArray[np.float32],
    mask: NDArray[np.bool_],
    noise: SkyNoise,
    gain: float,
    *,
    has_sky: bool,
) -> bool:
    """Return whether the pixels contradict a header's gain."""
    if gain * noise.sigma < _QUIETEST:
        return True
    if has_sky and noise.sky / noise.variance <= 3 * gain:
        too_large = gain > 10 * noise.sky / noise.fine_variance
        return too_large and gain * math.sqrt(noise.fine_variance) > 50
    bound = gain_lower_bound(data, mask, noise)
    return bound is not None and bound >= (1.5 if has_sky else 3.0) * gain


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
    unit: str | None = None,
) -> Found:
    """Find the saturation level by the rules in the module docstring.

    Parameters
    ----------
    data : ndarray of float32, shape (ny, nx)
    mask : ndarray of bool, shape (ny, nx)
    headers : sequence of astropy.io.fits.Header
        Header of the image, then the primary header.
    noise : SkyNoise or None
    gain : float
        Electrons per ADU, for keywords that are in electrons.
    dtype : numpy.dtype
        Type of the pixels before conversion to float32.
    unit : str, optional
        Unit of the pixels; the header's ``BUNIT`` by default.

    Returns
    -------
    Found
        In the unit of the pixels; infinite if there is no limit.
    """
    highest = float(data.max())
    # A level within the noise of the sky is not a saturation level.
    lowest = 0.0 if noise is None else max(0.0, noise.sky + 10 * noise.sigma)
    pile = None if noise is None else find_pile_up(data, mask, noise)
    counts = not is_calibrated(pixel_unit(headers, unit))
    declared = header_number(headers, SATURATION_KEYWORDS, lowest, 1e12)
    # Calibration leaves the keyword in ADU, but for some that write it anew.
    if declared is not None and not (counts or _CLIPPED[0] < highest / declared[0] < _CLIPPED[1]):
        declared = None
    nonsense = header_nonsense(headers, SATURATION_KEYWORDS, lowest, 1e12) if counts else ""
    if declared is None and counts and math.isfinite(gain):
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
            return Found(value, f"header {keyword}", guessed=False)
    found = Found(math.inf, "nothing limits it", guessed=True, nonsense=nonsense)
    if pile is not None:
        found = found._replace(value=pile, origin="pile-up of the histogram")
    elif dtype.kind in "iu":
        largest = float(np.iinfo(dtype.str).max)
        found = found._replace(value=largest, origin=f"largest value of {dtype.name} pixels")
    return found._replace(origin=found.origin + refuted)
