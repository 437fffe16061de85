"""Header keywords of gain, saturation and read noise, and how to read them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence

from astropy.io import fits

__all__ = [
    "ELECTRON_UNITS",
    "GAIN_KEYWORDS",
    "READ_NOISE_KEYWORDS",
    "SATURATION_KEYWORDS",
    "WELL_KEYWORDS",
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
    for header in headers:
        for keyword in keywords:
            # A malformed card raises only when its value is read.
            with contextlib.suppress(KeyError, ValueError, TypeError, fits.VerifyError):
                value = header[keyword]
                if not isinstance(value, bool) and low < float(value) < high:
                    return float(value), keyword
    return None
