"""The noise planes of an image: variances, errors and weights, in its file or beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

__all__ = ["ENDINGS", "as_variance", "beside", "named_planes"]

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


def beside(path: Path) -> Iterator[tuple[Path, str]]:
    """Yield files beside an image that hold its noise by their names, and what they hold.

    SExtractor and SWarp write ``image.weight.fits``, HST's drizzle ``image_wht.fits`` beside
    ``image_sci.fits``, the Legacy Surveys ``x-invvar-r.fits`` beside ``x-image-r.fits``.
    """
    stem, tail = path.name, ""
    for ending in (".gz", ".fz", ".fits", ".fit", ".fts"):
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
