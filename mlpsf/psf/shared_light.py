"""Light that most stars have and no smooth PSF describes: a second image, spikes, a ring's edge.

What a PSF leaves of its stars is noise, light of neighbours, and its own error. The last is what
they have in common. It is fitted to the pixels of all stars at once, as a sum of cubic B-splines on
a grid, each integrated over the pixels. A spline is wanted only where the stars' residuals are more
than noise, and most stars have the same, none counted more than the median one; how large it may
be, their mean says (empirical Bayes).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline
from scipy.ndimage import maximum_filter, shift
from scipy.sparse.linalg import LinearOperator, cg
from threadpoolctl import threadpool_limits

from mlpsf.psf.model import PSFModel
from mlpsf.psf.quality.star_fits import FitScale, fit_stars, inside
from mlpsf.psf.quality.star_shapes import drawn_at
from mlpsf.psf.solver.fit import EXCESS, MODEL_ERROR
from mlpsf.psf.solver.pixels import StarPixels, median_of, struck_pixels
from mlpsf.psf.solver.stars import Stars
from mlpsf.psf.trippy.tables import as_lookup_table, profile, wrapped

__all__ = ["FEWEST", "fit_own_stars", "with_shared_light"]

FloatArray = NDArray[np.float64]

FEWEST = 5
"""Stars, at least: of fewer, neighbours at one place may be most."""

_GRID = 5.0  # splines per FWHM, no nearer than half a pixel
_SURE = 5.0  # standard deviations of a spline's light: there are a thousand of them
_AGREE = 0.75  # of the stars, by their weight, that have what all of them would have
_DIFFERENT = 0.02  # of the light, by which a star may differ from the PSF
_CORE = 1.5  # FWHM, radius in which stars are fitted
_ROUNDS = 4
_INTEGRAL = BSpline.basis_element(np.arange(-2.0, 3.0), extrapolate=False).antiderivative()


def with_shared_light(psf: PSFModel, hand: Stars) -> PSFModel:
    """Add to a PSF the light that most of its stars have beyond it.

    Parameters
    ----------
    psf : PSFModel
    hand : Stars
        That it was made of.

    Returns
    -------
    PSFModel
        Its stars have the fluxes of the whole. It is as it was, if they have nothing in common
        beyond it, or are too few.
    """
    stars = hand.pixels
    if len(stars) < FEWEST:
        return psf
    fwhm, side = psf.fwhm, stars.data.shape[1]
    step = float(np.clip(fwhm / _GRID, 0.5, 1.0))
    knots = step * np.arange(-(psf.size / 2 // step), psf.size / 2 // step + 1)
    # As in the solver: threads would wait for each other.
    with threadpool_limits(1):
        for _ in range(_ROUNDS):
            (x, y, flux), star, model, variance = fit_own_stars(psf, hand)
            lit = np.maximum(flux, 0.0)[:, None, None]
            left = np.divide(star - model, lit, out=np.zeros_like(star), where=lit > 0)
            error = np.sqrt(variance + (_DIFFERENT * model) ** 2)
            weight = _trust(lit * left, lit, error, stars) * lit**2
            weight /= variance + (MODEL_ERROR * model) ** 2
            # One bright star with a warm pixel does not tell what all have.
            weight = np.minimum(weight, np.median(weight, axis=0))
            offset = np.arange(side) - side // 2
            across, along = (_in_pixels(offset - v[:, None], knots, step, 1.0) for v in (x, y))
            psf = replace(psf, stars=np.column_stack([hand.places, flux]))
            found = _shared_by(left, weight, across, along)
            if not found.any():
                break
            rep = psf.rep_fact
            n = (psf.size + 1) * rep
            edge = (np.arange(n) + 0.5 - n / 2) / rep
            fine = _in_pixels(edge, knots, step, 1 / rep) * rep
            light = fine @ found @ fine.T * psf.flux_per_amplitude
            table = psf.lookup_table + as_lookup_table(light, rep)
            psf = _centred(replace(psf, lookup_table=table), stars.fwhm)
    return psf


def fit_own_stars(
    psf: PSFModel, hand: Stars
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Fit a PSF to the cores of the stars that it is made of; returns are those of `fit_stars`."""
    stars = hand.pixels
    data, noise = np.where(stars.bad, 0.0, stars.data), stars.noise[:, None, None]
    scale = FitScale(_CORE * stars.fwhm, stars.gain)
    return fit_stars(drawn_at(psf, *hand.places.T), data, ~stars.bad, noise, scale)


def _trust(left: FloatArray, flux: FloatArray, error: FloatArray, stars: StarPixels) -> FloatArray:
    """Return the weight of the pixels of stars, from 0 to 1, all (n, side, side).

    Light of other sources has none: neither what the stars share is such light, nor what would be
    struck from most of them. Stars whose cores are unlike the others' have less.
    """
    alone = np.where(stars.bad, np.nan, left)
    shared = flux * median_of(alone / np.maximum(flux, 1e-30))
    off, raw = (np.nan_to_num((alone - part) / error) for part in (shared, 0.0))
    struck = [struck_pixels(ratio, stars.fwhm) for ratio in (off, raw)]
    # Of few stars with neighbours, more than half have one at some place by chance.
    most = (struck[1] | stars.bad).mean(axis=0) > 0.5 + 1 / np.sqrt(len(stars))
    side, middle = left.shape[-1], np.zeros(1)
    near, core = (inside(side, middle, middle, r * stars.fwhm) & ~stars.bad for r in (1.0, _CORE))
    count = np.maximum(core.sum(axis=(1, 2)), 1)
    misfit = np.sqrt(np.where(core, off**2, 0.0).sum(axis=(1, 2)) / count)
    usual = max(1.0, float(np.median(misfit)))
    alike = np.minimum(1.0, EXCESS * usual / np.maximum(misfit, 1e-30)) ** 2
    use = ~(stars.bad | (struck[0] & struck[1] & ~most & ~near))
    return np.asarray(use * alike[:, None, None])


def _centred(psf: PSFModel, fwhm: float) -> PSFModel:
    """Move a PSF to its centroid, weighted by a Gaussian of its FWHM, as the solver does."""
    rep = psf.rep_fact
    own = profile(psf.alpha, psf.beta, np.zeros_like(psf.lookup_table), rep)
    light = own + wrapped(psf.lookup_table, rep)
    n = len(light)
    edge = (np.arange(n) + 0.5 - n / 2) / rep
    at = np.zeros(2)
    for _ in range(15):
        down, across = (np.exp(-0.5 * ((edge - v) * 2.355 / fwhm) ** 2) for v in at)
        total = down @ light @ across
        if not total > 0:
            return psf
        mean = [(down * (edge - at[0])) @ light @ across, down @ light @ (across * (edge - at[1]))]
        at = at + 2 * np.array(mean) / total
    if np.abs(at).max() > fwhm / 2:  # neither half of an equal pair is the star
        return psf

    def moved(table: FloatArray) -> FloatArray:
        return np.asarray(shift(table, -at * rep, order=3, mode="nearest"))

    terms = psf.terms
    if terms is not None:
        tables = [as_lookup_table(moved(wrapped(table, rep)), rep) for table in terms.tables]
        terms = replace(terms, tables=np.array(tables))
    return replace(psf, lookup_table=as_lookup_table(moved(light) - own, rep), terms=terms)


def _in_pixels(at: FloatArray, knots: FloatArray, step: float, width: float) -> FloatArray:
    """Integrate splines over pixels along one axis: (..., n) places to (..., n, n_knots)."""
    low, high = (
        np.clip((at[..., None] - knots + s * width / 2) / step, -2.0, 2.0) for s in (-1, 1)
    )
    return np.asarray(step * (_INTEGRAL(high) - _INTEGRAL(low)))


def _shared_by(
    left: FloatArray, weight: FloatArray, across: FloatArray, along: FloatArray
) -> FloatArray:
    """Fit what the residuals of n stars have in common.

    Parameters
    ----------
    left, weight : (n, side, side) arrays
        Residuals of stars of flux 1, and their inverse variance.
    across, along : (n, side, k) arrays
        Splines in the pixels, along x and y.

    Returns
    -------
    (k, k) array
        Coefficients of the splines, 0 where there is nothing.
    """
    k = across.shape[2]
    down = along.swapaxes(1, 2)

    def back(pixels: FloatArray) -> FloatArray:
        return down @ pixels @ across

    each, gains = back(weight * left), down**2 @ weight @ across**2
    total, gain = each.sum(axis=0), gains.sum(axis=0)
    # If all had the same, and no noise, the square of their sum would be this times their squares'.
    count = gain**2 / np.maximum((gains**2).sum(axis=0), 1e-300)
    agree = total**2 - gain > _AGREE * count * np.maximum((each**2).sum(axis=0) - gain, 0.0)
    alike = agree & (count > max(FEWEST - 1, len(left) / 3))
    sure = alike & (np.abs(total) > _SURE * np.sqrt(gain))
    if not sure.any():
        return np.zeros((k, k))
    whole = back(weight).sum(axis=0)
    size = np.divide(np.abs(total), whole, out=np.zeros_like(total), where=whole > 0)
    size = np.where(alike, maximum_filter(np.where(sure, size, 0.0), 3), 0.0)

    def normal(z: FloatArray) -> FloatArray:
        images = along @ (size * z.reshape(k, k)) @ across.swapaxes(1, 2)
        return np.asarray(z + (size * back(weight * images).sum(axis=0)).ravel())

    answer, _ = cg(
        LinearOperator((k * k, k * k), normal, dtype=float),
        (size * total).ravel(),
        rtol=1e-3,
        maxiter=100,
    )
    return np.asarray(size * answer.reshape(k, k))
