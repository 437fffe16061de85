"""Images of a PSF: for galfit and imfit in whole pixels, for GalSim oversampled; TRIPPy's file."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from mlpsf.errors import InputError, MissingPackageError
from mlpsf.export.places import Place, effective, hdu_bytes, psf_at, sign
from mlpsf.export.psfex import sampling_step

__all__ = ["as_interpolated_image", "galsim_psf", "image_psf", "psf_image", "trippy_psf"]


def psf_image(
    psf: Any, at: Place | None = None, *, oversampling: int = 1, size: int | None = None
) -> NDArray[np.float64]:
    """Return an image of a star, centred on the middle pixel of an odd box, with a sum of 1.

    Parameters
    ----------
    psf : PSFModel
    at : (float, float), optional
        Place on the frame, 0-based pixels; by default the mean.
    oversampling : int
        Image pixels per pixel of the frame, as galfit's "PSF fine sampling factor". Each holds
        what a whole pixel of the frame takes when centred there.
    size : int, optional
        Side of the image, odd; by default the box of the PSF.

    Returns
    -------
    (size, size) array

    Raises
    ------
    InputError
        If `size` is not odd or `oversampling` not positive.

    Examples
    --------
    >>> from mlpsf.psf import PSFModel
    >>> image = psf_image(PSFModel(np.zeros((210, 210)), 3.0, 3.0))
    >>> image.shape, float(image.sum().round(12))
    ((21, 21), 1.0)
    """
    here = psf_at(psf, at)
    side = here.size * oversampling | 1 if size is None else size
    if oversampling < 1 or side < 1 or side % 2 == 0:
        raise InputError(
            f"a PSF image needs an odd size and an oversampling of 1 or more; got {side}, "
            f"{oversampling}"
        )
    image = effective(here, 1 / oversampling, side // 2)
    return np.asarray(image / image.sum())


def image_psf(
    psf: Any, *, at: Place | None = None, oversampling: int = 1, size: int | None = None
) -> bytes:
    """Return a FITS image of `psf_image`, for galfit, imfit and others."""
    image = fits.PrimaryHDU(psf_image(psf, at, oversampling=oversampling, size=size))
    header = image.header
    header["OVERSAMP"] = (oversampling, "image pixels per pixel of the frame")
    if at is not None:
        # Pixels of headers count from 1.
        header["PSFX"], header["PSFY"] = at[0] + 1, at[1] + 1
    header["FWHM"] = (psf_at(psf, at).fwhm, "of a star's image, pixels of the frame")
    sign(header, psf.meta, len(psf.stars))
    return hdu_bytes(image)


def as_interpolated_image(psf: Any, at: Place | None = None) -> Any:
    """Return the PSF of a place as a GalSim ``InterpolatedImage``, in pixels of the frame.

    Parameters
    ----------
    psf : PSFModel
    at : (float, float), optional
        Place on the frame, 0-based pixels; by default the mean.

    Returns
    -------
    galsim.InterpolatedImage
        Of flux 1. The pixel is in it: draw it with ``method="no_pixel"`` and ``scale=1``.

    Raises
    ------
    MissingPackageError
        If GalSim is not installed.

    Examples
    --------
    >>> from mlpsf.psf import PSFModel
    >>> star = as_interpolated_image(PSFModel(np.zeros((210, 210)), 3.0, 3.0))
    >>> star.drawImage(nx=21, ny=21, scale=1.0, method="no_pixel").array.shape
    (21, 21)
    """
    try:
        import galsim
    except ImportError as error:
        raise MissingPackageError(
            "GalSim's objects need GalSim: pip install 'mlpsf[export]'"
        ) from error
    here = psf_at(psf, at)
    step = sampling_step(here)
    image = galsim.Image(np.ascontiguousarray(effective(here, step)), scale=step)
    return galsim.InterpolatedImage(image, flux=1.0)


def galsim_psf(psf: Any, *, at: Place | None = None) -> bytes:
    """Return a FITS image that ``galsim.InterpolatedImage(path)`` takes.

    Its sum is 1, and its header holds GalSim's pixel scale. As with `as_interpolated_image`, the
    pixel of the frame is in it. GalSim need not be installed.
    """
    here = psf_at(psf, at)
    step = sampling_step(here)
    values = effective(here, step)
    image = fits.PrimaryHDU(values / values.sum())
    header = image.header
    header["GS_SCALE"] = (step, "GalSim image scale: pixels of the frame")
    header["GS_WCS"] = ("PixelScale", "GalSim WCS name")
    header["GS_XMIN"], header["GS_YMIN"] = 1, 1
    if at is not None:
        header["PSFX"], header["PSFY"] = at[0] + 1, at[1] + 1
    sign(header, psf.meta, len(psf.stars))
    return hdu_bytes(image)


def trippy_psf(psf: Any, *, at: Place | None = None) -> bytes:
    """Return TRIPPy's file (version 2) of the PSF of a place."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "psf.fits"
        psf_at(psf, at).save(path)
        return path.read_bytes()
