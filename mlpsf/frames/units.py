"""The unit of a frame's pixels, and how many electrons one of it is by the header.

A gain in a header is in electrons per count. It is a frame's gain only if the pixels are counts.
Pixels of another unit have been multiplied by a factor. Where the header gives that factor, the
gain follows from it. Where it does not, a ``GAIN`` says nothing about these pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from astropy.io import fits

from mlpsf.frames.keywords import ELECTRON_UNITS, GAIN_KEYWORDS, GAINS, header_number

__all__ = ["EXPOSURE_KEYWORDS", "PixelUnit", "header_gain", "is_calibrated", "pixel_unit"]

EXPOSURE_KEYWORDS = ("EXPTIME", "EXPOSURE", "TEXPTIME", "XPOSURE", "EFFEXPTM", "EXP_TIME")
"""Keywords of the exposure time in seconds."""

COUNT_UNITS = frozenset(
    {"adu", "adus", "dn", "count", "counts", "ct", "cts", "data number", "digital number", ""}
)

# (keyword, its meaning): value of one count per second, or of one count, in the frame's unit.
_PER_COUNT_RATE = ("PHOTMJSR", "PHOTFNU")
_PER_COUNT = ("NMGY",)
_SECONDS = ("/s", "/sec", "/second", " s-1", " s^-1", ".s-1", " s**-1", "*s**-1")


class PixelUnit(NamedTuple):
    """Unit of pixels: `text` as written, `base` without the time, `rate` if it is per second."""

    text: str
    base: str
    rate: bool


def pixel_unit(headers: Sequence[fits.Header], given: str | None = None) -> PixelUnit:
    """Return the unit of the pixels, from the caller or from ``BUNIT``; empty if unknown.

    Examples
    --------
    >>> pixel_unit([fits.Header({"BUNIT": "ELECTRONS/S"})])
    PixelUnit(text='ELECTRONS/S', base='electrons', rate=True)
    """
    text = given
    if text is None:
        text = next((str(h["BUNIT"]) for h in headers if "BUNIT" in h), "")
    text = text.strip()
    base, rate = text.lower(), False
    for ending in _SECONDS:
        if base.endswith(ending):
            base, rate = base.removesuffix(ending).strip(), True
    return PixelUnit(text, base, rate or base == "cps")


def is_calibrated(unit: PixelUnit) -> bool:
    """Return whether the pixels are neither counts nor electrons, nor a rate of these."""
    return unit.base not in ELECTRON_UNITS | COUNT_UNITS | {"cps"}


def header_gain(headers: Sequence[fits.Header], unit: PixelUnit) -> tuple[float, str] | None:
    """Return the electrons per unit of the pixels by the header, and which keywords say so.

    Parameters
    ----------
    headers : sequence of astropy.io.fits.Header
        Header of the image, then the primary header.
    unit : PixelUnit

    Returns
    -------
    tuple of (float, str) or None
        None if the header does not give it in this unit.

    Examples
    --------
    >>> header = fits.Header({"BUNIT": "DN/s", "GAIN": 2.0, "EXPTIME": 100.0})
    >>> header_gain([header], pixel_unit([header]))
    (200.0, 'header GAIN x EXPTIME')
    >>> header["BUNIT"] = "MJy/sr"
    >>> header_gain([header], pixel_unit([header])) is None
    True
    """
    gain: tuple[float, str] | None = header_number(headers, GAIN_KEYWORDS, *GAINS)
    seconds = header_number(headers, EXPOSURE_KEYWORDS, 0.0, 1e9)
    if unit.base in ELECTRON_UNITS:
        gain = (1.0, "")
    words = [gain[1]] if gain and gain[1] else []
    if gain is None:
        return None
    value, rate = gain[0], unit.rate
    if is_calibrated(unit):
        per_rate = header_number(headers, _PER_COUNT_RATE, 0.0, float("inf"))
        factor = per_rate or header_number(headers, _PER_COUNT, 0.0, float("inf"))
        if factor is None:
            return None
        value, rate = value / factor[0], per_rate is not None
        words.append(f"/ {factor[1]}")
    if rate:
        if seconds is None:
            return None
        value *= seconds[0]
        words.append(f"x {seconds[1]}" if words else seconds[1])
    if not words:
        return value, "the pixels are in electrons"
    return value, "header " + " ".join(words)
