"""DAOPHOT in IRAF: its PSF image, and lists of stars as ``.coo`` and ``.pst`` files."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.utils.exceptions import AstropyUserWarning
from numpy.typing import NDArray
from scipy.special import erf

from mlpsf.export.places import (
    centred,
    effective,
    fit_over_frame,
    frame_size,
    hdu_bytes,
    order_of,
    sign,
)
from mlpsf.export.tables import psf_rows
from mlpsf.frames.frame import Frame
from mlpsf.version import __version__

__all__ = ["daophot_lists", "daophot_psf"]

FloatArray = NDArray[np.float64]

ZERO_POINT = 25.0
"""Magnitude of 1 ADU, as in DAOPHOT's ``phot`` with an exposure of 1 s."""

_FLUX = 1e5  # of the star whose pixels the PSF image holds
_SIGMA = 1 / math.sqrt(2 * math.log(2))  # of a Gaussian, in half widths at half maximum


def daophot_psf(psf: Any, *, frame_shape: tuple[int, int] | None = None) -> bytes:
    """Return a PSF image of IRAF's DAOPHOT, for ``allstar``, ``nstar``, ``peak`` and ``seepsf``.

    Parameters
    ----------
    psf : PSFModel
        One that varies is written with DAOPHOT's linear or quadratic variation, its highest.
    frame_shape : (int, int), optional
        Rows and columns of the frame.

    Returns
    -------
    bytes
        A FITS image, whose magnitudes are those of fluxes at a zero point of 25. DAOPHOT adds a
        table in steps of half a pixel to an analytic function; here a round Gaussian of the PSF's
        FWHM takes most of the light off the table, which holds all the rest, so nothing is lost
        but what lies between half pixels.

    Warns
    -----
    AstropyUserWarning
        If the PSF varies by a higher order.

    Examples
    --------
    >>> from mlpsf.psf import PSFModel
    >>> daophot_psf(PSFModel(np.zeros((210, 210)), 3.0, 3.0))[:6]
    b'SIMPLE'
    """
    shape = ny, nx = frame_size(psf, frame_shape)
    degree = min(order_of(psf), 2)
    if order_of(psf) > degree:
        warnings.warn(
            f"DAOPHOT's PSFs vary up to second order: this one, of order {order_of(psf)}, is "
            "written as the nearest of them",
            AstropyUserWarning,
            stacklevel=2,
        )
    radius = psf.size // 2
    half = 2 * radius + 1
    width = psf.fwhm / 2
    gaussian = _gaussian(np.arange(-half, half + 1) / 2, width)
    height = _FLUX * float(psf.stamps(0.0, 0.0, 1)[0, 0, 0]) / gaussian[half] ** 2
    analytic = height * np.outer(gaussian, gaussian)
    table = fit_over_frame(
        psf,
        lambda here: _FLUX * effective(here, 0.5, half),
        lambda x, y: _variation(*centred(x, y, shape), degree),
        shape,
    )
    table[0] -= analytic
    image = fits.PrimaryHDU((table if degree else table[0]).astype(np.float32))
    header = image.header
    for key, value in {
        "SCALE": 1.0,
        "PSFRAD": float(radius),
        "FITRAD": float(psf.fwhm),
        "FUNCTION": "gauss",
        # The middle of the frame, half a pixel off as DAOPHOT has it.
        "PSFX": (nx - 1) / 2,
        "PSFY": (ny - 1) / 2,
        "PSFHEIGH": height,
        "PSFMAG": ZERO_POINT - 2.5 * math.log10(_FLUX),
        "NPARS": 2,
        "PAR1": width,
        "PAR2": width,
        "VARORDER": degree,
        "FEXPAND": False,
    }.items():
        header[key] = value
    # DAOPHOT reads the last star of the list to see that the header is whole.
    stars = [star for star in psf.stars if np.isfinite(star[2]) and star[2] > 0][:1000]
    stars = stars or [((nx - 1) / 2, (ny - 1) / 2, _FLUX)]
    header["NPSFSTAR"] = len(stars)
    for k, (x, y, flux) in enumerate(stars, 1):
        header[f"ID{k}"] = k
        header[f"X{k}"], header[f"Y{k}"] = x + 1, y + 1
        header[f"MAG{k}"] = _magnitude(flux)
    sign(header, psf.meta, len(psf.stars))
    return hdu_bytes(image)


def _gaussian(x: FloatArray, width: float) -> FloatArray:
    """Return DAOPHOT's Gaussian along one axis: the mean over a pixel, over the half width."""
    sigma = width * _SIGMA * math.sqrt(2)
    area = 0.5 * (erf((x + 0.5) / sigma) - erf((x - 0.5) / sigma)) * math.sqrt(math.pi) * sigma
    return np.asarray(area / width)


def _variation(u: FloatArray, v: FloatArray, degree: int) -> FloatArray:
    """Return the terms of DAOPHOT's variation over the frame."""
    terms = [np.ones_like(u), u, v, 1.5 * u**2 - 0.5, u * v, 1.5 * v**2 - 0.5]
    return np.column_stack(terms[: (1, 3, 6)[degree]])


def _magnitude(flux: float) -> float:
    return ZERO_POINT - 2.5 * math.log10(flux) if flux > 0 else 99.999


def daophot_lists(stars: Table, frame: Frame | None = None) -> tuple[bytes, bytes]:
    """Return the chosen stars as DAOPHOT's list of PSF stars and as its list of coordinates.

    Parameters
    ----------
    stars : Table
        Star table; its selected rows that are not reserved are written.
    frame : Frame, optional
        Gives each star's sky; 0 without.

    Returns
    -------
    pst, coo : bytes
        ``.pst`` for ``psf`` (together with the ``.mag`` file that ``phot`` makes of ``.coo``), and
        ``.coo`` for ``phot``. Positions count from 1. Stars are numbered from 1 in both, in the
        order of the table.
    """
    chosen = psf_rows(stars)
    x, y = (np.asarray(chosen[name], dtype=np.float64) for name in "xy")
    flux = np.asarray(chosen["flux"], dtype=np.float64) if "flux" in chosen.colnames else x * 0
    sky = np.zeros(len(x))
    if frame is not None:
        ny, nx = frame.shape
        at = np.clip(np.rint(y), 0, ny - 1).astype(int), np.clip(np.rint(x), 0, nx - 1).astype(int)
        sky = np.asarray(frame.background.level, dtype=np.float64)[at]
    # Numbered in order, as `phot` does whatever the numbers in its list are.
    numbers = range(1, len(x) + 1)
    rows = list(zip(numbers, x + 1, y + 1, map(_magnitude, flux), sky, strict=True))
    head = [
        f"#K {'CREATOR':<10} = {'mlpsf ' + __version__:<23} {'version':<10} %-23s",
        f"#K {'IMAGE':<10} = {str(stars.meta.get('frame', 'unknown'))[:23]:<23} {'imagename':<10} "
        "%-23s",
        f"#K {'SCALE':<10} = {'1.':<23} {'units':<10} %-23.7g",
        "#",
    ]
    pst = [
        *head,
        "#N ID    XCENTER   YCENTER   MAG         MSKY                                  \\",
        "#U ##    pixels    pixels    magnitudes  counts                                \\",
        "#F %-9d  %-10.3f   %-10.3f   %-12.3f     %-15.7g                                ",
        "#",
        *(f"{i:<9d}{a:<10.3f}{b:<10.3f}{m:<12.3f}{s:<15.7g}" for i, a, b, m, s in rows),
    ]
    coo = [
        *head,
        "#N XCENTER   YCENTER   MAG      ID         \\",
        "#U pixels    pixels    #        #          \\",
        "#F %-13.3f   %-10.3f   %-9.3f   %-6d       ",
        "#",
        *(f"   {a:<10.3f}{b:<10.3f}{m:<9.3f}{i:<6d}" for i, a, b, m, _ in rows),
    ]
    return _lines(pst), _lines(coo)


def _lines(lines: list[str]) -> bytes:
    return ("\n".join(lines) + "\n").encode("ascii", "replace")
