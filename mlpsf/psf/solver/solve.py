"""Solve for one smooth PSF and the position, flux and sky of each star, from all pixels.

Weighted least squares on the original pixels of the stars. Nothing is resampled, so nothing is
blurred or rounded. A joint fit avoids bias between the parameters: if the local sky absorbs light
of the wings, the sky rises with the flux, and the fit corrects for it. The flux and sky of each
star are eliminated exactly from its equations (a Schur complement), which leaves about a hundred
coefficients of the PSF. The variation over the frame is a polynomial in each coefficient, at little
extra cost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve as solve_linear
from scipy.ndimage import binary_dilation, uniform_filter
from threadpoolctl import threadpool_limits

from mlpsf.errors import PSFError
from mlpsf.psf.solver.basis import Moffat, PolarBasis, Quadrature, centroid, gradient
from mlpsf.psf.solver.design import Design, blocks
from mlpsf.psf.solver.pixels import StarPixels, first_profile, median_of
from mlpsf.stacks.values import sky_and_noise

__all__ = ["MISFIT", "ROUNDS", "Solution", "StarPixels", "first_profile", "solve"]

FloatArray = NDArray[np.float64]

ROUNDS = 4
"""Rounds of fitting. The second changes the PSF by 1 % of its peak, the fourth by 0.05 %."""

MISFIT = 1.5
"""Largest misfit of a solution. Above it, a smooth PSF does not describe the stars."""

_WAVES = 4  # for trefoil and four struts of a secondary mirror; six waves make no difference
_BEND, _FIRST_BEND, _SIZE = 0.5, 1.0, 0.3  # widths of the prior, relative to the local light
_VARIES = 0.1  # the same for the variation from the centre of the frame to its edge
_FLUX, _PLACE = 0.1, 0.3  # prior widths of a step in flux (relative) and position (pixels)
_LEVEL = 1e7  # weight that fixes the light of the PSF, so that the fluxes adjust
_SKY = 0.0125  # scatter of the stars' skies around the frame's, over the noise of a pixel
_SKY_LIGHT = 0.04  # the same scatter from faint galaxies, in any frame
_MODEL_ERROR = 0.005  # of the light: limit on how well a model describes the brightest star
_OUTLIER, _NEIGHBOUR = 4.5, 4.0  # sigma: of one pixel, and of the light in a square of one FWHM
_EXCESS = 2.0  # times the usual misfit of a core, above which a star has less weight


@dataclass(frozen=True, eq=False)
class Solution:
    """A PSF and the stars fitted with it.

    Attributes
    ----------
    basis : PolarBasis
    coefficients : (n_terms, k) array
        One row per term of the polynomial over the frame; the first is the constant.
    moffat : Moffat
        Initial profile.
    x, y, flux, sky : (n,) arrays
        Positions of the stars in their cutouts, fluxes and skies.
    use : (n, side, side) array of bool
        Pixels that are used: with data and not struck.
    misfit : float
        Median over stars of the rms residual of the core over its error, at least 1.
    """

    basis: PolarBasis
    coefficients: FloatArray
    moffat: Moffat
    quadrature: Quadrature
    fwhm: float
    x: FloatArray
    y: FloatArray
    flux: FloatArray
    sky: FloatArray
    use: NDArray[np.bool_]
    misfit: float

    def draw(self, c: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
        """Draw a star of flux 1 at pixels (x, y) from it, for a PSF with these coefficients."""
        return self.quadrature.sum(lambda a, b: self.basis.light(c, a, b), x, y)

    def table(self, size: int, rep_fact: int, terms: FloatArray) -> FloatArray:
        """Return the light on sub-pixels at one position, for TRIPPy's table.

        Parameters
        ----------
        size, rep_fact : int
            Side of the box in pixels, sub-pixels per pixel.
        terms : (n_terms,) array
            Terms of the polynomial at that position.

        Returns
        -------
        ((size + 1) * rep_fact,) * 2 array
            Mean light of each sub-pixel, with the centroid of the star (Gaussian-weighted by the
            FWHM) in the middle.
        """
        c = terms @ self.coefficients
        return self.tables(size, rep_fact, c, centroid(self.basis, c, self.fwhm))

    def tables(self, size: int, rep_fact: int, c: FloatArray, origin: FloatArray) -> FloatArray:
        """Return the light on sub-pixels of functions with coefficients c around an origin."""
        n = (size + 1) * rep_fact
        edge = (np.arange(n) + 0.5 - n / 2) / rep_fact
        x, y = (v.ravel() for v in np.meshgrid(edge + origin[0], edge + origin[1]))
        # A tenth of a pixel needs one point; a third of an undersampled one needs three.
        points = 1 if rep_fact == 10 else 2 if rep_fact == 5 else 3
        at = (np.arange(points) + 0.5) / points - 0.5
        out = sum(self.basis.light(c, x + i / rep_fact, y + j / rep_fact) for j in at for i in at)
        return np.asarray(out).reshape(n, n) / points**2


class _Fit:
    """The fit in progress."""

    def __init__(self, stars: StarPixels, size: int, terms: FloatArray) -> None:
        self.stars, self.size, self.terms = stars, size, terms
        self.quadrature = Quadrature.for_fwhm(stars.fwhm)
        self.moffat = first_profile(stars)
        self.basis = PolarBasis(self.moffat, size / 2, _WAVES)
        k = self.basis.unit().size
        self.c = np.zeros((terms.shape[1], k))
        self.c[0] = self.basis.unit().ravel()
        n = len(stars)
        self.x, self.y = stars.x.copy(), stars.y.copy()
        self.flux, self.weight = np.full(n, np.nan), np.ones(n)
        # Sky of the border. It only affects which pixels are struck before the first fit.
        rim = sky_and_noise(np.where(stars.bad, np.nan, stars.data))[0]
        self.sky = rim.astype(np.float64)
        self.sky_width = _SKY * stars.noise
        self.use, self.misfit = ~stars.bad.reshape(n, -1), 1.0
        self._last: FloatArray = np.zeros(0)
        self.data, self.bad = stars.data.reshape(n, -1), stars.bad.reshape(n, -1)
        self.parts = blocks(n, self.data.shape[1])
        self._kept: tuple[slice, Design] | None = None

    def _pixels(self, part: slice) -> tuple[FloatArray, FloatArray]:
        """Return the pixels of some stars from their positions, (n, n_pixels) each."""
        u, v = self.stars.offsets(self.x[part], self.y[part])
        return u.reshape(len(u), -1), v.reshape(len(v), -1)

    def _design(self, part: slice) -> Design:
        """Return the functions in the pixels of some stars; the last is kept."""
        if self._kept is None or self._kept[0] != part:
            self._kept = part, Design(self.basis, self.quadrature, *self._pixels(part))
        return self._kept[1]

    def _images(self, c: FloatArray) -> FloatArray:
        """Return stars of flux 1 for the coefficients at each, (n, n_pixels)."""
        return np.concatenate([self._design(part).images(c[part]) for part in self.parts])

    def round(self, first: bool) -> float:
        """Fit everything once; return the change of the PSF over its peak."""
        stars = self.stars
        self._kept = None
        models = self._images(self.terms @ self.c)
        pixels = self._pixels(slice(None))
        square = pixels[0] ** 2 + pixels[1] ** 2
        new = ~np.isfinite(self.flux)
        if new.any():
            core = (square < (1.5 * stars.fwhm) ** 2) & ~self.bad
            fit = np.where(core, models, 0.0)
            light = self.data - self.sky[:, None]
            scale = (fit * light).sum(axis=1) / np.maximum((fit * fit).sum(axis=1), 1e-30)
            self.flux[new] = np.maximum(scale, 0.0)[new]
        self._strike(models, square, 0.05 if first else 0.02)
        answer, own = self._solve(models, _FIRST_BEND if first else _BEND)
        self.c, sky = answer
        local = self.terms @ self.c
        inverse, cross, side = own
        lack = side - (cross[:, :-1].swapaxes(1, 2) @ local[:, :, None])[:, :, 0]
        step = (inverse @ (lack - cross[:, -1] * sky)[:, :, None])[:, :, 0]
        self.flux *= 1 + np.clip(step[:, 0], -0.5, 0.5)
        self.sky = step[:, 1]
        self._place(local, *pixels, square)
        # If skies scatter more than galaxies explain, the frame has no common sky: widen the prior.
        scatter = np.median((self.sky - sky) ** 2 / stars.noise**2) / 0.455
        scatter += np.median(inverse[:, 1, 1] / stars.noise**2) - _SKY_LIGHT**2
        self.sky_width = np.sqrt(max(scatter, _SKY**2)) * stars.noise
        return self._normalise()

    def _strike(self, models: FloatArray, square: FloatArray, error: float) -> None:
        """Leave out struck pixels and the light of other sources.

        The common residual of the stars is subtracted first, because errors of the model must not
        be struck.
        """
        stars = self.stars
        flux = np.maximum(self.flux, 1e-30)[:, None]
        light = flux * models
        left = np.where(self.bad, np.nan, self.data - self.sky[:, None] - light)
        if len(stars) >= 4:
            with np.errstate(all="ignore"):
                left = left - flux * median_of(left / flux)
        photon = np.maximum(light, 0.0) / stars.gain + stars.noise[:, None] ** 2
        ratio = np.nan_to_num(left / np.sqrt(photon + (error * light) ** 2))
        width = max(3, round(stars.fwhm) | 1)
        grow = max(1, round(0.5 * stars.fwhm))
        cross = np.array([[[0, 1, 0], [1, 1, 1], [0, 1, 0]]], dtype=bool)
        images = ratio.reshape(stars.data.shape)
        near = uniform_filter(images, (1, width, width)) * width > _NEIGHBOUR
        struck = binary_dilation(near, cross, iterations=grow) | (np.abs(images) > _OUTLIER)
        self.use = ~(self.bad | (struck.reshape(ratio.shape) & (square > stars.fwhm**2)))
        core = (square < (1.5 * stars.fwhm) ** 2) & self.use
        misfit = np.sqrt(
            (np.where(core, ratio, 0.0) ** 2).sum(axis=1) / np.maximum(core.sum(axis=1), 1)
        )
        usual = self.misfit = max(1.0, float(np.median(misfit)))
        self.weight = np.minimum(1.0, _EXCESS * usual / np.maximum(misfit, 1e-30)) ** 2

    def _solve(
        self, models: FloatArray, bend: float
    ) -> tuple[tuple[FloatArray, float], tuple[FloatArray, FloatArray, FloatArray]]:
        """Solve for the PSF and the frame's sky; each star's own unknowns are eliminated.

        These are the step in flux (relative) and the sky. The position is not included: in a joint
        fit with the PSF all positions could drift together.

        Returns
        -------
        answer : (n_terms, k) array and float
            Coefficients, and sky of the frame.
        inverse, cross, side : (n, 2, 2), (n, k + 1, 2) and (n, 2) arrays
            Equations of the stars' own unknowns, inverted; their products with the shared ones;
            their right hand sides.
        """
        stars, n, (p, k) = self.stars, len(self.stars), self.c.shape
        light = self.flux[:, None] * models
        variance = stars.noise[:, None] ** 2 + np.maximum(light, 0.0) / stars.gain
        weight = np.sqrt(self.weight[:, None] / (variance + (_MODEL_ERROR * light) ** 2)) * self.use
        # Columns: light, sky, and the data.
        own = np.stack([light, np.ones_like(light), self.data], axis=2) * weight[:, :, None]
        seen = own.swapaxes(1, 2) @ own
        width = np.column_stack([np.full(n, _FLUX), self.sky_width]) ** -2.0
        inverse = np.linalg.inv(seen[:, :2, :2] + width[:, :, None] * np.eye(2))
        side = seen[:, :2, 2]
        weight *= self.flux[:, None]
        normal, target = np.zeros((p * k + 1,) * 2), np.zeros(p * k + 1)
        self._prior(normal, target, bend)
        cross, vector = np.zeros((n, k + 1, 2)), np.empty((n, k))
        cross[:, -1, 1] = -width[:, 1]
        pairs = (self.terms[:, :, None] * self.terms[:, None, :]).reshape(n, -1).T
        blocks_of = normal[:-1, :-1].reshape(p, k, p, k)
        for part in self.parts:
            design = self._design(part)
            shared = design.products(own[part] * weight[part][:, :, None])
            cross[part, :-1], vector[part] = shared[:, :, :2], shared[:, :, 2]
            sums = design.normal(weight[part], pairs[:, part] if p > 1 else None)
            blocks_of += sums.reshape(p, p, k, k).swapaxes(1, 2)
        normal[-1, -1] += width[:, 1].sum()
        # Each star's own unknowns, eliminated: normal - cross @ inverse @ cross.T, and so on.
        root = cross @ np.linalg.cholesky(inverse)
        gone = np.einsum("ip,ikj->pkij", self.terms, root[:, :-1]).reshape(p * k, 2 * n)
        gone = np.vstack([gone, root[:, -1].reshape(1, 2 * n)])
        normal -= gone @ gone.T
        lost = (cross @ (inverse @ side[:, :, None]))[:, :, 0]
        target[:-1] += (self.terms.T @ (vector - lost[:, :-1])).ravel()
        target[-1] -= lost[:, -1].sum()
        # A brighter PSF with fainter stars fits equally well, so the light of the PSF is fixed.
        level = cross[:, :-1, 0].sum(axis=0)
        level /= level @ self.c[0]
        for term in range(p):
            block = slice(term * k, (term + 1) * k)
            normal[block, block] += _LEVEL * np.outer(level, level)
        target[:k] += _LEVEL * level
        answer = solve_linear(normal, target, assume_a="pos")
        return (answer[:-1].reshape(p, k), float(answer[-1])), (inverse, cross, side)

    def _prior(self, normal: FloatArray, target: FloatArray, bend: float) -> None:
        k = self.c.shape[1]
        stiff = self.basis.stiffness(bend, _SIZE)
        normal[:k, :k] += stiff
        target[:k] += stiff @ self.basis.unit().ravel()
        rest = self.basis.stiffness(_VARIES * bend, _VARIES) + np.eye(k) / _VARIES**2
        for term in range(1, len(self.c)):
            block = slice(term * k, (term + 1) * k)
            normal[block, block] += rest
        normal[-1, -1] += 1e-6 / np.median(self.stars.noise) ** 2

    def _place(self, local: FloatArray, x: FloatArray, y: FloatArray, square: FloatArray) -> None:
        """Move each star to the position where the PSF fits best."""
        stars, flux = self.stars, self.flux[:, None]
        near = self.use & (square < (2 * stars.fwhm) ** 2)
        near &= (near.sum(axis=1, keepdims=True) >= 9) & (flux > 0)
        light = flux * self._images(local)
        variance = stars.noise[:, None] ** 2 + np.maximum(light, 0.0) / stars.gain
        weight = near / np.sqrt(variance + (_MODEL_ERROR * light) ** 2)
        slopes = np.zeros((*light.shape, 3))
        # Without a variation all have the same PSF.
        which = np.nonzero(near)[0] if len(self.c) > 1 else None
        c = local if len(self.c) > 1 else self.c
        dx, dy = gradient(self.basis, c, x[near], y[near], which)
        slopes[near, 0], slopes[near, 1], slopes[:, :, 2] = dx, dy, light
        slopes[:, :, :2] *= flux[:, :, None]
        slopes *= weight[:, :, None]
        left = (self.data - self.sky[:, None] - light) * weight
        normal = slopes.swapaxes(1, 2) @ slopes + np.diag([_PLACE**-2, _PLACE**-2, _FLUX**-2])
        target = slopes.swapaxes(1, 2) @ left[:, :, None]
        step = np.clip(np.linalg.solve(normal, target)[:, :2, 0], -0.5, 0.5)
        self.x += step[:, 0]
        self.y += step[:, 1]

    def _normalise(self) -> float:
        """Normalise the PSF to a sum of 1 in its box and shift the stars to its centroid."""
        offset = np.arange(self.size) - self.size // 2
        x, y = (v.ravel().astype(float) for v in np.meshgrid(offset, offset))
        image = self.quadrature.sum(lambda a, b: self.basis.light(self.c[0], a, b), x, y)
        total = float(image.sum())
        if not (np.isfinite(total) and total > 0):
            raise PSFError(
                "the stars hold no light that a PSF could be made from; are x and y 0-based, and "
                "is the background right?"
            )
        self.c /= total
        self.flux *= total
        shift = centroid(self.basis, self.c[0], self.stars.fwhm)
        self.x += shift[0]
        self.y += shift[1]
        change = np.abs(image / total - self._last).max() / image.max() if self._last.size else 1.0
        self._last = image / total
        return float(change)

    def rebase(self) -> None:
        """Use the round part of the current PSF as the new profile to correct."""
        gain = np.maximum(self.c[0][: self.basis.n_radial], 0.02)
        self.c /= np.tile(gain, self.basis.shape[0])
        self.c[0] = self.basis.adopt(self.c[0] * np.tile(gain, self.basis.shape[0])).ravel()


def solve(stars: StarPixels, size: int, terms: FloatArray, rounds: int = ROUNDS) -> Solution:
    """Solve for the PSF of stars.

    Parameters
    ----------
    stars : StarPixels
    size : int
        Side of the PSF's box in pixels, odd. The light in it is 1.
    terms : (n, n_terms) array
        Terms of the polynomial over the frame at each star; the first column is 1. With a single
        column of ones the PSF is constant.
    rounds : int
        Maximum number of fits after the first. Stops when a fit changes nothing, or no smooth PSF
        describes the stars (see `MISFIT`).

    Returns
    -------
    Solution

    Raises
    ------
    PSFError
        If the stars have no light.
    """
    fit = _Fit(stars, size, terms)
    # The matrices are small: threads would wait for each other, on a busy machine for long.
    with threadpool_limits(1):
        for number in range(rounds + 1):
            change = fit.round(first=number == 0)
            # The misfit is of the PSF before this fit, so it is not valid in the first two rounds.
            if number == rounds or change < 3e-4 or (number >= 2 and fit.misfit > MISFIT):
                break
            fit.rebase()
    return Solution(
        fit.basis,
        fit.c,
        fit.moffat,
        fit.quadrature,
        stars.fwhm,
        fit.x,
        fit.y,
        fit.flux,
        fit.sky,
        fit.use.reshape(stars.data.shape),
        fit.misfit,
    )
