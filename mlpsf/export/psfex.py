"""PSFEx's ``.psf`` file: for SExtractor, GalSim's DES_PSFEx, ngmix, ShapePipe and LSST."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from astropy.io import fits

from mlpsf.export.places import (
    centred,
    effective,
    fit_over_frame,
    frame_size,
    half_cells,
    hdu_bytes,
    monomials,
    order_of,
    sign,
)

__all__ = ["psfex_psf", "sampling_step"]

_SHARPEST = 1.6  # pixels, FWHM below which samples are not nearer to each other
_SAMPLES = 48.0  # per FWHM, of a reader that interpolates with Lanczos-3


def sampling_step(psf: Any, samples: float = 16.0) -> float:
    """Return the distance of the samples in pixels: a whole part of a pixel.

    A star on the centre of a pixel is then drawn from samples alone. Between samples the reader
    interpolates.

    Parameters
    ----------
    psf : PSFModel
    samples : float
        Per FWHM, at least, down to a FWHM of 1.6 pixels.
    """
    return 1.0 / max(math.ceil(samples / max(float(psf.fwhm), _SHARPEST)), 1)


def psfex_psf(psf: Any, *, frame_shape: tuple[int, int] | None = None) -> bytes:
    """Return the content of a ``.psf`` file in PSFEx's layout.

    Lanczos-3, as in GalSim's ``DES_PSFEx``, misplaces light by up to a fiftieth of a step, along x
    and along y, however smooth it is. With 48 samples per FWHM that is 0.1 % of the peak at most.
    (PSFEx itself takes about 4.7, which makes its files smaller by a factor of 100.)

    Parameters
    ----------
    psf : PSFModel
        One that varies is written with a polynomial of its order.
    frame_shape : (int, int), optional
        Rows and columns of the frame, over which the polynomial runs.

    Returns
    -------
    bytes
        A FITS file whose table ``PSF_DATA`` holds one cube: the effective PSF (pixel response
        included, so never to be integrated over pixels again) for each term of the polynomial in
        ``X_IMAGE`` and ``Y_IMAGE``, which count from 1.

    Examples
    --------
    >>> from mlpsf.psf import PSFModel
    >>> psfex_psf(PSFModel(np.zeros((210, 210)), 3.0, 3.0))[:6]
    b'SIMPLE'
    """
    shape = ny, nx = frame_size(psf, frame_shape)
    degree, step = order_of(psf), sampling_step(psf, _SAMPLES)
    half = half_cells(psf, step)
    cube = fit_over_frame(
        psf,
        lambda here: effective(here, step, half),
        lambda x, y: monomials(*centred(x, y, shape), degree),
        shape,
    )
    n_terms, side, _ = cube.shape
    column = fits.Column(
        "PSF_MASK",
        f"{cube.size}E",
        dim=f"({side}, {side}, {n_terms})",
        array=cube.astype(np.float32)[None],
    )
    table = fits.BinTableHDU.from_columns([column], name="PSF_DATA")
    header = table.header
    n_stars = len(psf.stars)
    header["LOADED"] = (n_stars, "Number of loaded sources")
    header["ACCEPTED"] = (n_stars, "Number of accepted sources")
    header["CHI2"] = (1.0, "Not measured here")
    header["POLNAXIS"] = (2, "Number of context parameters")
    for axis, name, n in ((1, "X_IMAGE", nx), (2, "Y_IMAGE", ny)):
        header[f"POLGRP{axis}"] = (1, "Polynom group for this context parameter")
        header[f"POLNAME{axis}"] = (name, "Name of this context parameter")
        header[f"POLZERO{axis}"] = ((n + 1) / 2, "Offset value for this context parameter")
        header[f"POLSCAL{axis}"] = ((n - 1) / 2, "Scale value for this context parameter")
    header["POLNGRP"] = (1, "Number of context groups")
    header["POLDEG1"] = (degree, "Polynom degree for this context group")
    header["PSF_FWHM"] = (psf.fwhm, "PSF FWHM in image pixels")
    header["PSF_SAMP"] = (step, "Sampling step of the PSF data in image pixels")
    header["PSFNAXIS"] = (3, "Dimensionality of the PSF data")
    for axis, n in ((1, side), (2, side), (3, n_terms)):
        header[f"PSFAXIS{axis}"] = (n, "Number of elements along this axis")
    sign(header, psf.meta, n_stars)
    return hdu_bytes(fits.PrimaryHDU(), table)
