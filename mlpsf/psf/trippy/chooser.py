"""The Moffat fits that TRIPPy's star chooser makes, in its units and its order.

The choice itself belongs to a later stage: `mlpsf.star_chooser`.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlpsf.psf.trippy.importing import load_trippy

__all__ = ["fit_as_chooser", "has_room"]

FloatArray = NDArray[np.float64]


def has_room(x: FloatArray, y: FloatArray, width: int, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return which stars have the room that TRIPPy's chooser asks for.

    Parameters
    ----------
    x, y : (n,) arrays
        Positions as TRIPPy has them, counted from 1.
    width : int
        Half-width of the fitted box in pixels.
    shape : (int, int)
        Rows and columns of the image.
    """
    ny, nx = shape
    reach = width + 1
    inside = (x - 1 - reach >= 0) & (x - 1 + reach < nx)
    return np.asarray(inside & (y - 1 - reach >= 0) & (y - 1 + reach < ny))


def fit_as_chooser(
    data: ArrayLike,
    x: FloatArray,
    y: FloatArray,
    *,
    width: int,
    alpha: float,
    beta: float,
    rep_fact: int,
    box: tuple[int, int],
    bg_radius: float,
    ftol: float,
    quick: bool,
    verbose: bool = False,
) -> FloatArray:
    """Fit a Moffat profile to each star with TRIPPy's release, as its chooser does.

    Parameters
    ----------
    data : (ny, nx) array
        Image, with its background.
    x, y : (n,) arrays
        Positions as TRIPPy has them, counted from 1.
    width : int
        Half-width of the fitted box in pixels.
    alpha, beta : float
        Where each fit starts.
    rep_fact : {3, 5, 10}
        Sub-pixels per pixel.
    box : (int, int)
        Sides of the PSF object in x and y.
    bg_radius : float
        Radius outside which TRIPPy takes the background.
    ftol : float
        Tolerance of the fit.
    quick : bool
        TRIPPy's ``quickFit``.
    verbose : bool
        TRIPPy's ``verbose``: it prints the fits.

    Returns
    -------
    (n, 7) array
        FWHM, chi, alpha, beta, x, y, background; NaN where a fit failed.
    """
    image = np.array(data, dtype=np.float64)
    bad = ~np.isfinite(image)
    if bad.any():
        # One such pixel would make every figure of its star NaN.
        image[bad] = np.median(image[~bad])
    trippy = load_trippy().psf
    out = np.full((len(x), 7), np.nan)
    for row, (a, b) in enumerate(zip(x, y, strict=True)):
        fit: Any = trippy.modelPSF(
            np.arange(box[0]), np.arange(box[1]), alpha=alpha, beta=beta, repFact=rep_fact
        )
        with np.errstate(all="ignore"), warnings.catch_warnings():
            # leastsq tries negative widths, for which TRIPPy returns infinity as intended.
            warnings.simplefilter("ignore")
            try:
                fit.fitMoffat(
                    image,
                    float(a),
                    float(b),
                    boxSize=width,
                    verbose=verbose,
                    bgRadius=bg_radius,
                    ftol=ftol,
                    quickFit=quick,
                )
                fwhm = fit.FWHM(fromMoffatProfile=True)
            except (ValueError, TypeError, IndexError):
                continue
        if fwhm is not None and np.isfinite([fit.alpha, fit.beta]).all():
            out[row] = fwhm, fit.chi, fit.alpha, fit.beta, a, b, fit.bg
    return out
