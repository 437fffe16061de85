"""Header keywords of gain, saturation and read noise, and how to read them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from astropy.io import fits

__all__ = [
    "ELECTRON_UNITS",
    "GAINS",
    "GAIN_KEYWORDS",
    "READ_NOISE_KEYWORDS",
    "SATURATION_KEYWORDS",
    "WELL_KEYWORDS",
    "header_nonsense",
    "header_number",
]

# In order of trust. EGAIN comes before GAIN because camera software writes the electrons per ADU to
# EGAIN and a unitless setting to GAIN. ESO's CONAD is e-/ADU; its GAIN is the inverse and not used.
GAIN_KEYWORDS = (
    "EGAIN",
    "GAINEFF",
    "GAIN",
    "CCDGAIN",
    "ATODGAIN",
    "ATODGNA",
    "ARCGAIN",
    "ESO DET OUT1 CONAD",
    "ESO DET OUT2 CONAD",
    "GAINA",
    "ARAWGAIN",
    "GTGAIN11",
    "T_GAIN1",
    "EPERADU",
    "CCD_GAIN",
    "CELL.GAIN",
)
"""Keywords in electrons per ADU."""

GAINS = (0.0, 1e6)
"""No detector's gain lies outside."""

SATURATION_KEYWORDS = (
    "SATURATE",
    "SATLEVEL",
    "SATURAT",
    "SATURATA",
    "SATURATN",
    "SATUR_LEVEL",
    "MAXLIN",
    "LINLIMIT",
    "NONLINEA",
    "ESO DET SATURATION",
    "CELL.SATURATION",
)
"""Keywords in ADU. DATAMAX is none of them: it is the brightest pixel, often of another file."""

WELL_KEYWORDS = ("FULLWELL", "WELLDEPT", "FULL_WELL")
"""Keywords in electrons."""

READ_NOISE_KEYWORDS = (
    "RDNOISE",
    "READNOIS",
    "READNOISE",
    "READNOI",
    "RDNOISEA",
    "READNSEA",
    "RON",
    "RNOISE",
    "ENOISE",
    "ESO DET OUT1 RON",
    "ESO DET OUT2 RON",
    "GTRON11",
    "CELL.READNOISE",
)
"""Keywords in electrons."""

ELECTRON_UNITS = frozenset({"e", "e-", "e-s", "elec", "electron", "electrons"})


def header_number(
    headers: Iterable[fits.Header], keywords: Sequence[str], low: float, high: float
) -> tuple[float, str] | None:
    """Return the first keyword with a plausible number.

    Parameters
    ----------
    headers : iterable of astropy.io.fits.Header
        Searched in this order: header of the image, then the primary header.
    keywords : sequence of str
        In order of trust.
    low, high : float
        Values outside the open interval, and those that are not numbers, are ignored.

    Returns
    -------
    tuple of (float, str) or None
        The value and its keyword.

    Examples
    --------
    >>> from astropy.io import fits
    >>> header_number([fits.Header({"GAIN": 0.0}), fits.Header({"GAIN": 1.9})], ["GAIN"], 0, 1e6)
    (1.9, 'GAIN')
    """
    for keyword, value in _values(headers, keywords):
        with contextlib.suppress(ValueError, TypeError):
            if not isinstance(value, bool) and low < float(value) < high:
                return float(value), keyword
    return None


def header_nonsense(
    headers: Sequence[fits.Header], keywords: Sequence[str], low: float, high: float
) -> str:
    """Return what the first of the keywords says, if none says a plausible number.

    Examples
    --------
    >>> header_nonsense([fits.Header({"GAIN": -2.0})], ["GAIN"], 0, 1e6)
    'header GAIN = -2.0'
    """
    if header_number(headers, keywords, low, high) is not None:
        return ""
    keyword, value = next(_values(headers, keywords), ("", ""))
    return f"header {keyword} = {str(value)[:40]}" if keyword else ""


def _values(headers: Iterable[fits.Header], keywords: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yield the keywords that say something, and what."""
    for header in headers:
        for keyword in keywords:
            # A malformed card raises only when its value is read.
            with contextlib.suppress(KeyError, ValueError, TypeError, fits.VerifyError):
                value = header[keyword]
                if value is not None and str(value).strip():
                    yield keyword, value
