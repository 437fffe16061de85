"""TRIPPy's lookup table, as made by its release."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpsf.errors import PSFError
from mlpsf.psf.solver.solve import StarPixels
from mlpsf.psf.trippy import border as border
from mlpsf.psf.trippy.tables import centre_on_pixel, cumulative, pixel_integrals, profile

__all__ = ["trippy_table"]

FloatArray = NDArray[np.float64]


def trippy_table(
    stars: StarPixels, size: int, rep_fact: int
) -> tuple[FloatArray, float, float, FloatArray]:
    """Build the lookup table with TRIPPy's genLookupTable (Fraser et al. 2016, AJ 151, 158).

    A Moffat profile is fitted to each star with TRIPPy's fitMoffat, always from the same start, and
    the medians are used. The background is that of the cutouts, not TRIPPy's estimate at each star.
    TRIPPy has no masks, so masked pixels are filled with the Moffat profile.

    Parameters
    ----------
    stars : StarPixels
        With a margin of 3 pixels around the PSF's box.
    size, rep_fact : int
        Side of the box in pixels; sub-pixels per pixel.

    Returns
    -------
    table : (size * rep_fact, size * rep_fact) array
    alpha, beta : float
    amplitude : (n,) array
        TRIPPy's amplitude of each star; NaN if the star was not used because it is not positive.

    Raises
    ------
    PSFError
        If no star can be fitted.
    """
    cutouts = stars.data.copy()
    fwhm = stars.fwhm

    def fit(images: FloatArray, xs: FloatArray, ys: FloatArray) -> Any:
        # Wider stars need fewer sub-pixels.
        coarse = 10 if fwhm < 3 else 5 if fwhm < 6 else 3
        radius = min(size // 2, max(8, round(3 * fwhm)))
        return border.fit_moffat(images, xs, ys, radius=radius, rep_fact=coarse)

    alpha, beta = _fill_masked(cutouts, stars.bad, stars.x, stars.y, fit)
    table, amplitude = border.build_table(
        cutouts, stars.x, stars.y, alpha=alpha, beta=beta, size=size, rep_fact=rep_fact
    )
    return table, alpha, beta, amplitude


def _fill_masked(
    cutouts: FloatArray, bad: NDArray[np.bool_], x: FloatArray, y: FloatArray, fit: Any
) -> tuple[float, float]:
    """Fill masked pixels in place with a Moffat profile; return its alpha and beta.

    The profile is fitted to the stars without masked pixels. If all have some, these are first
    filled with the opposite pixel.
    """
    clean: NDArray[np.bool_] = np.asarray(~bad.any(axis=(1, 2)))
    if not clean.any():
        opposite = np.where(bad, 0.0, cutouts)[:, ::-1, ::-1]
        cutouts[bad] = opposite[bad]
        clean[:] = True
    alphas, betas, _ = fit(cutouts[clean], x[clean], y[clean])
    if not np.isfinite(alphas).any():
        raise PSFError(
            f"TRIPPy can fit a Moffat profile to none of {clean.sum()} stars; are x and y 0-based, "
            "and the stars unsaturated?"
        )
    alpha, beta = float(np.nanmedian(alphas)), float(np.nanmedian(betas))
    some = bad.any(axis=(1, 2))
    if some.any():
        side = cutouts.shape[1]
        light = profile(alpha, beta, np.zeros(((side + 2) * 10,) * 2), 10)
        table = centre_on_pixel(light, 10)[0]
        moffat = pixel_integrals(cumulative(table), 10, x[some], y[some], side)
        image, hole = cutouts[some], bad[some]
        seen = np.where(hole, 0.0, moffat)
        scale = (seen * image).sum(axis=(1, 2)) / (seen * seen).sum(axis=(1, 2))
        cutouts[some] = np.where(hole, scale[:, None, None] * moffat, image)
    return alpha, beta
