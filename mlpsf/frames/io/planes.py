"""The noise planes of an image: variances, errors and weights, in its file or beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from mlpsf.frames.io.packing import ENDINGS as FITS_ENDINGS

__all__ = ["ENDINGS", "MASKS", "as_variance", "beside", "mask_bits", "named_mask", "named_planes"]

ERRORS = ("ERR", "ERROR", "SIGMA", "RMS", "UNCERT", "UNC")
VARIANCES = ("VAR", "VARIANCE")
WEIGHTS = ("WHT", "WEIGHT", "WGT", "IVAR", "INVVAR")

ENDINGS = {
    **dict.fromkeys(ERRORS, "error"),
    **dict.fromkeys(VARIANCES, "variance"),
    **dict.fromkeys(WEIGHTS, "weight"),
}
"""Names of planes and what they hold: an error, a variance, or a weight."""

_IMAGES = ("SCI", "IMAGE", "IMG", "PRIMARY", "")  # names of images that planes belong to


def kind_of(name: str) -> str | None:
    """Return what a plane of this name holds; None if it is no noise plane."""
    return ENDINGS.get(name.strip().upper())


def named_planes(hdus: fits.HDUList, number: int) -> Iterator[tuple[int, str]]:
    """Yield numbers and kinds of the noise planes that belong to an image, the best first.

    A plane belongs to the image if it has its shape, a name of `ENDINGS` and its version. In the
    files of HST, JWST and DES every image has its own.

    Examples
    --------
    >>> image = fits.ImageHDU(np.zeros((4, 5)), name="SCI")
    >>> error = fits.ImageHDU(np.ones((4, 5)), name="ERR")
    >>> list(named_planes(fits.HDUList([fits.PrimaryHDU(), image, error]), 1))
    [(2, 'error')]
    """
    image = hdus[number]
    if image.name.strip().upper() not in _IMAGES:
        return
    found = [
        (n, kind)
        for n, hdu in enumerate(hdus)
        if n != number
        and isinstance(hdu, (fits.ImageHDU, fits.CompImageHDU))
        and (kind := kind_of(hdu.name)) is not None
        and tuple(hdu.shape or ()) == tuple(image.shape or ())
        and hdu.ver == image.ver
    ]
    yield from sorted(found, key=lambda item: list(ENDINGS).index(hdus[item[0]].name.upper()))


MASKS = ("DQ", "MSK", "MASK")
_HST = (0b11_0010_1011_1111, 256 | 2048)  # without warm pixels (64) and charge traps (1024)
_JWST = (1, 2)  # DO_NOT_USE, SATURATED
_DES = (0b0100_0111_1101_1111, 2)  # without stars, fixed, suspect, and near the edge


def mask_bits(name: str, header: fits.Header) -> tuple[int, int]:
    """Return which bits of a mask mean that a pixel is bad, and which that it is saturated.

    Parameters
    ----------
    name : str
        Name of the mask's HDU.
    header : astropy.io.fits.Header
        Primary header of the file.

    Returns
    -------
    bad, saturated : int
        Those of HST's and JWST's ``DQ`` and of DES's ``MSK``; of other masks every bit is bad.

    Examples
    --------
    >>> mask_bits("DQ", fits.Header({"TELESCOP": "JWST"}))
    (1, 2)
    """
    telescope = str(header.get("TELESCOP", "")).strip().upper()
    if name == "DQ" and telescope in ("HST", "JWST"):
        return _HST if telescope == "HST" else _JWST
    if name == "MSK":
        return _DES
    return ~0, 0


def named_mask(hdus: fits.HDUList, number: int) -> int | None:
    """Return the number of the HDU with the mask of an image: ``DQ``, ``MSK`` or ``MASK``."""
    image = hdus[number]
    if image.name.strip().upper() not in _IMAGES:
        return None
    for n, hdu in enumerate(hdus):
        if (
            n != number
            and isinstance(hdu, (fits.ImageHDU, fits.CompImageHDU))
            and hdu.name.strip().upper() in MASKS
            and tuple(hdu.shape or ()) == tuple(image.shape or ())
            and hdu.ver == image.ver
        ):
            return n
    return None


def beside(path: Path) -> Iterator[tuple[Path, str]]:
    """Yield files beside an image that hold its noise by their names, and what they hold.

    SExtractor and SWarp write ``image.weight.fits``, HST's drizzle ``image_wht.fits`` beside
    ``image_sci.fits``, the Legacy Surveys ``x-invvar-r.fits`` beside ``x-image-r.fits``.
    """
    stem, tail = path.name, ""
    for ending in FITS_ENDINGS:
        if stem.lower().endswith(ending):
            stem, tail = stem[: -len(ending)], stem[-len(ending) :] + tail
    folder = {p.name: p for p in path.parent.iterdir()} if path.parent.is_dir() else {}
    for word, kind in ENDINGS.items():
        for name in (word.lower(), word):
            for wanted in (
                f"{stem}.{name}",
                f"{stem}_{name}",
                f"{stem}-{name}",
                stem.removesuffix("_sci") + f"_{name}",
                stem.replace("-image-", f"-{name}-"),
            ):
                for end in dict.fromkeys((tail, ".fits", ".fits.gz", ".fits.fz")):
                    if wanted != stem and wanted + end in folder:
                        yield folder[wanted + end], kind


def as_variance(
    plane: NDArray[np.generic], kind: str, sky_variance: float | None
) -> NDArray[np.float32] | None:
    """Return the variance of an image from a plane of its noise; None if that says nothing.

    Weights may be inverse variances, exposure times or relative. Only their ratios are used: where
    the weight is the median one, the variance is that of the sky as measured on the pixels.

    Parameters
    ----------
    plane : array_like, shape (ny, nx)
    kind : {"error", "variance", "weight"}
    sky_variance : float or None
        Variance of the sky as measured on the pixels; None if it could not be.

    Returns
    -------
    ndarray of float32, shape (ny, nx), or None
        NaN where the plane says that a pixel holds nothing.

    Examples
    --------
    >>> weight = np.array([[1.0, 2.0, 2.0, 2.0, 0.0]])
    >>> as_variance(weight, "weight", 9.0).tolist()
    [[18.0, 9.0, 9.0, 9.0, nan]]
    """
    values = plane.astype(np.float64)
    good = np.isfinite(values) & (values > 0)
    if not good.any() or (kind == "weight" and sky_variance is None):
        return None
    with np.errstate(over="ignore"):
        if kind == "error":
            values = values**2
        elif kind == "weight":
            values = (sky_variance or 0.0) * np.median(values[good]) / np.where(good, values, 1.0)
        return np.where(good, values, np.nan).astype(np.float32)
