"""Bit flags that say why a source was not chosen.

>>> from mlpsf.flags import Flag, describe
>>> describe(Flag.SATURATED | Flag.NEAR_EDGE)
'saturated; near the edge'
>>> describe(0)
''
"""

from __future__ import annotations

from enum import IntFlag
from functools import cache

__all__ = ["NEVER_A_PSF_STAR", "OVEREXPOSED", "UNUSABLE", "Flag", "describe"]


class Flag(IntFlag):
    """Bits of the ``flags`` column of a star table."""

    SATURATED = 1, "saturated", "a pixel of its core is at or above the saturation level"
    NEAR_EDGE = 2, "near the edge", "its cutout would reach over the edge of the frame"
    MASKED = 4, "masked pixels", "its core holds masked, bad or non-finite pixels"
    FAINT = 8, "faint", "its signal-to-noise ratio is under the limit for PSF stars"
    BLENDED = 16, "blended", "its light was split from that of an overlapping source"
    TOO_NARROW = (
        32,
        "narrower than a star",
        "far narrower than the frame's stars, or of no measurable size",
    )
    REJECTED = 64, "rejected by the residual rule", "out of range, no PSF fit, or far from the rest"
    BELOW_THRESHOLD = 128, "below the threshold", "its probability is under the threshold"
    BEYOND_N_MAX = (
        256,
        "beyond n_max",
        "good, but enough were taken: the best, spread over the frame",
    )
    RESERVED = 512, "reserved", "chosen, and kept out of the PSF so that it can judge it"
    RELAXED = 1024, "taken by relaxing", "under the threshold, taken for want of better ones"
    VETOED = 2048, "vetoed", "left out by the user"
    NOT_JUDGED = 4096, "not judged", "the selector gave it no probability"
    OUTLIER = (
        8192,
        "unlike the frame's PSF",
        "the PSF that the best stars share leaves light of it that is no noise",
    )
    OUTLIER_KEPT = (
        16384,
        "unlike the frame's PSF, kept for want of others",
        "as above, but without it fewer stars than wanted would be left",
    )
    STRUCK = (
        32768,
        "struck",
        "a pixel of its core is sharper than the optics allow: cosmic ray, hot pixel or bad column",
    )
    UNEVEN_SKY = (
        65536,
        "on an uneven sky",
        "the sky differs from one side of it to the other: a galaxy's light, an amplifier's edge",
    )
    NOT_LISTED = 1048576, "not in the list", "the stars were given as a list that it is not in"
    KEPT = 2097152, "kept by the user", "taken because it is in a list of the user, whatever it is"

    OTHER_SIZE = (
        131072,
        "not of the PSF's size",
        "wider or narrower than the stars near it by more than the error of its width",
    )

    COPY = 524288, "a copy", "the same pixels are in the set once before"

    NOT_LINEAR = (
        4194304,
        "too bright for a linear response",
        "its peak is over the level from which stars are wider the brighter they are",
    )

    NO_STARS = (
        262144,
        "on a frame without PSF stars",
        "the verdict on the frame is that it has none, or that each is there twice",
    )

    short: str
    meaning: str

    def __new__(cls, value: int, short: str = "", meaning: str = "") -> Flag:
        """Create a flag with its short and long description."""
        member = int.__new__(cls, value)
        member._value_ = value
        member.short = short
        member.meaning = meaning
        return member


OVEREXPOSED = Flag.SATURATED | Flag.NOT_LINEAR
"""Sources whose core is not as bright as the star that it is of."""

NEVER_A_PSF_STAR = (
    OVEREXPOSED
    | Flag.NEAR_EDGE
    | Flag.MASKED
    | Flag.FAINT
    | Flag.TOO_NARROW
    | Flag.REJECTED
    | Flag.VETOED
    | Flag.OUTLIER
    | Flag.STRUCK
    | Flag.UNEVEN_SKY
    | Flag.OTHER_SIZE
    | Flag.COPY
    | Flag.NOT_LISTED
    | Flag.NO_STARS
)
"""Sources with any of these flags are never chosen, even with a high probability."""

UNUSABLE = Flag.SATURATED | Flag.NEAR_EDGE | Flag.MASKED | Flag.VETOED | Flag.COPY
"""Sources with any of these flags are not chosen even if the user's list keeps them."""


@cache
def describe(flags: int) -> str:
    """Describe in words why a source was not chosen, or that it was reserved or relaxed.

    Parameters
    ----------
    flags : int
        Value of the ``flags`` column.

    Returns
    -------
    str
        Descriptions of the bits that are set, joined by ``"; "``; empty for 0.
    """
    return "; ".join(flag.short for flag in Flag if flag & int(flags))
