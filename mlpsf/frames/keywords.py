"""What headers say: the keywords of gain, saturation and read noise, and how they are read."""

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

# In order of trust. EGAIN before GAIN: camera software writes the electrons per ADU into EGAIN and
# a unitless setting into GAIN. ESO's CONAD is e-/ADU, its GAIN the inverse, hence left out.
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
"""Electrons per ADU."""

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
    "DATAMAX",
)
"""ADU."""

WELL_KEYWORDS = ("FULLWELL", "WELLDEPT", "FULL_WELL")
"""Electrons."""

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
"""Electrons."""

ELECTRON_UNITS = frozenset({"e", "e-", "e-s", "elec", "electron", "electrons"})


def header_number(
    headers: Iterable[fits.Header], keywords: Sequence[str], low: float, high: float
) -> tuple[float, str] | None:
    """Find the first keyword with a believable number.

    Parameters
    ----------
    headers : iterable of astropy.io.fits.Header
        Searched in this order: the image's own, then the primary one.
    keywords : sequence of str
        In order of trust.
    low, high : float
        A value outside the open interval is ignored, as is one that is no number.

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
            # A malformed card fails only when its value is asked for.
            with contextlib.suppress(KeyError, ValueError, TypeError, fits.VerifyError):
                value = header[keyword]
                if not isinstance(value, bool) and low < float(value) < high:
                    return float(value), keyword
    return None
