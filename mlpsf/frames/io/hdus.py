"""What the HDUs of a file are: images of the sky, and planes that describe another image."""

from __future__ import annotations

from typing import Any

from astropy.io import fits

from mlpsf.frames.io.planes import ENDINGS, MASKS, named_mask, named_planes

__all__ = ["AUXILIARY", "IMAGE_HDUS", "image_shape", "planes_behind", "planes_of", "sky_images"]

IMAGE_HDUS = (fits.PrimaryHDU, fits.ImageHDU, fits.CompImageHDU)

# fmt: off
AUXILIARY = frozenset((
    *ENDINGS, *MASKS, "BPM", "BADPIX", "FLAG", "FLAGS", "FLG", "DEFECTS", "OBJMASK", "VAR_POISSON",
    "VAR_RNOISE", "VAR_FLAT", "EXP", "CTX", "CON", "AREA", "SKY", "BKG", "BACKGROUND", "SAMP",
    "TIME",
))
# fmt: on
"""Names of image HDUs that describe another image."""


def image_shape(hdu: Any) -> tuple[int, int] | None:
    """Return the shape of the 2-D image in an HDU without reading it; None if there is none."""
    if not isinstance(hdu, IMAGE_HDUS):
        return None
    shape = tuple(hdu.shape or ())
    if not all(isinstance(n, int) for n in shape):  # a damaged header may give text
        return None
    while len(shape) > 2 and shape[0] == 1:
        shape = shape[1:]
    return (shape[0], shape[1]) if len(shape) == 2 and min(shape) > 0 else None


def planes_behind(hdus: fits.HDUList, number: int) -> list[int]:
    """Return the numbers of the mask and variance HDUs that follow an LSST or HSC image."""
    shape = image_shape(hdus[number])
    behind = [
        n for n in (number + 1, number + 2) if n < len(hdus) and image_shape(hdus[n]) == shape
    ]
    if shape and behind and any(key.startswith("MP_") for key in hdus[behind[0]].header):
        return behind
    return []


def planes_of(hdus: fits.HDUList) -> set[int]:
    """Return the numbers of the HDUs that are masks or variances of other images in a file."""
    images = [n for n, hdu in enumerate(hdus) if image_shape(hdu)]
    behind = {plane for n in images for plane in planes_behind(hdus, n)}
    named = {plane for n in images for plane, _ in named_planes(hdus, n)}
    masks = {plane for n in images if (plane := named_mask(hdus, n)) is not None}
    return behind | named | masks


def sky_images(hdus: fits.HDUList) -> list[int]:
    """Return the numbers of the 2-D images of a file that do not describe another one.

    Examples
    --------
    >>> import numpy as np
    >>> chips = [fits.ImageHDU(np.ones((4, 5)), name=name) for name in ("CCD1", "CCD2", "BPM")]
    >>> sky_images(fits.HDUList([fits.PrimaryHDU(), *chips]))
    [1, 2]
    """
    planes = planes_of(hdus)
    return [
        n
        for n, hdu in enumerate(hdus)
        if image_shape(hdu) and n not in planes and hdu.name.strip().upper() not in AUXILIARY
    ]
