"""TRIPPy's lookup table: as made by its release, and corrected for its blur."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpsf.errors import PSFError
from mlpsf.psf.model import PSFModel
from mlpsf.psf.solver.solve import StarPixels
from mlpsf.psf.trippy import border as border
from mlpsf.psf.trippy.tables import centre_on_pixel, cumulative, pixel_integrals, profile
from mlpsf.stacks.effective import stack_stars
from mlpsf.stacks.values import sky_and_noise

__all__ = ["corrected_psf", "trippy_table"]

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
    return _table(stars.data.copy(), stars, size, rep_fact, strike=False)


def _table(
    cutouts: FloatArray, stars: StarPixels, size: int, rep_fact: int, *, strike: bool
) -> tuple[FloatArray, float, float, FloatArray]:
    fwhm = stars.fwhm

    def fit(images: FloatArray, xs: FloatArray, ys: FloatArray) -> Any:
        # Wider stars need fewer sub-pixels.
        coarse = 10 if fwhm < 3 else 5 if fwhm < 6 else 3
        radius = min(size // 2, max(8, round(3 * fwhm)))
        return border.fit_moffat(images, xs, ys, radius=radius, rep_fact=coarse)

    alpha, beta = _fill_masked(cutouts, stars.bad, stars.x, stars.y, fit)
    if strike:
        _strike_outliers(cutouts, stars.x, stars.y, fwhm)
    table, amplitude = border.build_table(
        cutouts, stars.x, stars.y, alpha=alpha, beta=beta, size=size, rep_fact=rep_fact
    )
    return table, alpha, beta, amplitude


def corrected_psf(
    stars: StarPixels, x: FloatArray, y: FloatArray, size: int, rep_fact: int
) -> PSFModel:
    """Build a PSF of any shape: TRIPPy's table corrected for its blur.

    It is noisier and rounder than a smooth PSF from the solver, but makes no assumption about the
    light. It is for misaligned telescopes, whose stars no smooth function describes.

    Parameters
    ----------
    stars : StarPixels
        With a margin of 3 pixels around the PSF's box.
    x, y : (n,) arrays
        Positions on the frame, to be listed in the PSF.
    size, rep_fact : int
        Side of the box in pixels; sub-pixels per pixel.
    """
    cutouts = stars.data.copy()
    table, alpha, beta, amplitude = _table(cutouts, stars, size, rep_fact, strike=True)
    good = amplitude > 0
    psf = PSFModel(table, alpha, beta, rep_fact)
    flux = amplitude[good] * psf.flux_per_amplitude
    psf = replace(psf, stars=np.column_stack([x[good], y[good], flux]))
    for _ in range(2 if psf.fwhm < 2.5 else 1):
        psf = _refine(psf, cutouts[good], stars.bad[good], stars.x[good], stars.y[good])
    return psf


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


def _strike_outliers(cutouts: FloatArray, x: FloatArray, y: FloatArray, fwhm: float) -> None:
    """Replace struck pixels, and those under a neighbour, by the light of the other stars there.

    Works in place. A pixel is replaced if it is at least one FWHM from its star and differs from
    the stars' clipped mean by over 5 standard deviations of the sky and 5 % of its light. TRIPPy
    cuts at 3 standard deviations that include the outlier, which never rejects one of ten stars.
    """
    if len(cutouts) < 4:
        return
    side = cutouts.shape[1]
    centre = side // 2
    dx, dy = x - centre, y - centre
    offset = np.arange(side) - centre
    square = (offset - dx[:, None])[:, None, :] ** 2 + (offset - dy[:, None])[:, :, None] ** 2
    flux = np.where(square < (1.5 * fwhm) ** 2, cutouts, 0.0).sum(axis=(1, 2))
    lit = flux > 0
    if lit.sum() < 4:
        return
    reach = min(centre, 45)
    mean = stack_stars(cutouts[lit], dx[lit], dy[lit], flux[lit], reach, n_iter=1)
    light = mean.stamps(dx, dy, side)
    inner = square < (2.0 * fwhm) ** 2
    scale = np.where(inner, cutouts, 0.0).sum(axis=(1, 2))
    scale /= np.maximum(np.where(inner, light, 0.0).sum(axis=(1, 2)), 1e-12)
    # In the corners outside the stack the light changes so slowly that no shift is needed.
    beyond = square >= (reach - 1.0) ** 2
    wings = np.median(cutouts[lit] / np.maximum(scale[lit], 1e-12)[:, None, None], axis=0)
    model = scale[:, None, None] * np.where(beyond, wings, light)
    noise = sky_and_noise(cutouts)[1].astype(np.float64)[:, None, None]
    struck = np.abs(cutouts - model) > 5.0 * noise + 0.05 * np.abs(model)
    struck &= (square > fwhm**2) & lit[:, None, None] & (noise > 0)
    cutouts[struck] = model[struck]


def _refine(
    psf: PSFModel, cutouts: FloatArray, bad: NDArray[np.bool_], x: FloatArray, y: FloatArray
) -> PSFModel:
    """Add the residuals of the stars to the lookup table, spread as in TRIPPy.

    TRIPPy repeats each pixel over its sub-pixels, which blurs and rounds the table by a pixel. The
    residuals contain what the blurred table lacks (van Cittert's iteration). Brighter stars have
    more weight. Masked pixels, and those three standard deviations from the stars' median, have
    none.
    """
    rep, box, side = psf.rep_fact, psf.size // 2, cutouts.shape[1]
    middle = side // 2
    models = psf.stamps(x - middle, y - middle, side)
    offset = np.arange(side) - middle
    near = offset[:, None] ** 2 + offset**2 <= min(2 * psf.fwhm, box) ** 2
    use = near & ~bad
    flux = (cutouts * models * use).sum(axis=(1, 2)) / (models**2 * use).sum(axis=(1, 2))
    scale = np.maximum(flux, 1e-300) / psf.flux_per_amplitude
    residuals = (cutouts - flux[:, None, None] * models) / scale[:, None, None]
    residuals[bad] = np.nan
    span = psf.size * rep
    spread = np.empty((x.size, span, span), dtype=np.float32)
    for i, residual in enumerate(residuals):
        fine = np.repeat(np.repeat(residual / rep**2, rep, axis=0), rep, axis=1)
        column, row = (round((v[i] + 0.5) * rep) - rep * box for v in (x, y))
        spread[i] = fine[row : row + span, column : column + span]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # sub-pixels without any star
        far = np.abs(spread - np.nanmedian(spread, axis=0)) > 3 * np.nanstd(spread, axis=0)
    lost = far | np.isnan(spread)
    weight = np.where(lost, 0.0, np.maximum(flux, 0.0)[:, None, None].astype(np.float32))
    total = weight.sum(axis=0)
    change = (weight * np.where(lost, 0.0, spread)).sum(axis=0) / np.where(total > 0, total, 1.0)
    stars = np.column_stack([psf.stars[:, :2], flux])
    return replace(psf, lookup_table=psf.lookup_table + change, stars=stars)
