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
from scipy.ndimage import binary_dilation, uniform_filter

from mlpsf.errors import PSFError
from mlpsf.psf.solver.basis import Moffat, PolarBasis, Quadrature, centroid, gradient
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
        dx, dy = centroid(self.basis, c, self.fwhm)
        n = (size + 1) * rep_fact
        edge = (np.arange(n) + 0.5 - n / 2) / rep_fact
        x, y = (v.ravel() for v in np.meshgrid(edge + dx, edge + dy))
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
        self.use, self.misfit = ~stars.bad, 1.0
        self._last: FloatArray = np.zeros(0)
        self.offset = np.arange(stars.data.shape[1])

    def _grid(self, i: int) -> tuple[FloatArray, FloatArray]:
        x, y = np.meshgrid(self.offset - self.x[i], self.offset - self.y[i])
        return x.ravel(), y.ravel()

    def _draw(self, c: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
        return self.quadrature.sum(lambda a, b: self.basis.light(c, a, b), x, y)

    def round(self, first: bool) -> float:
        """Fit everything once; return the change of the PSF over its peak."""
        stars, n, k = self.stars, len(self.stars), self.c.shape[1]
        local = self.terms @ self.c
        models, square = np.empty_like(stars.data), np.empty_like(stars.data)
        for i in range(n):
            x, y = self._grid(i)
            model = self._draw(local[i], x, y)
            models[i], square[i] = (v.reshape(models[i].shape) for v in (model, x * x + y * y))
            if not np.isfinite(self.flux[i]):
                core = (square[i] < (1.5 * stars.fwhm) ** 2) & ~stars.bad[i]
                fit = models[i][core]
                light = stars.data[i][core] - self.sky[i]
                self.flux[i] = max(fit @ light / max(fit @ fit, 1e-30), 0.0)
        self._strike(models, square, 0.05 if first else 0.02)
        p = self.terms.shape[1]
        normal, target = np.zeros((p * k + 1,) * 2), np.zeros(p * k + 1)
        self._prior(normal, target, _FIRST_BEND if first else _BEND)
        kept, level = [], np.zeros(k)
        for i in range(n):
            own, cross, side, matrix, vector = self._equations(i, local[i], models[i])
            kept.append((own, cross, side))
            level += cross[:-1, 0]
            t = self.terms[i]
            normal[:-1, :-1] += np.kron(np.outer(t, t), matrix[:-1, :-1])
            normal[:-1, -1] += np.kron(t, matrix[:-1, -1])
            normal[-1, :-1] += np.kron(t, matrix[:-1, -1])
            normal[-1, -1] += matrix[-1, -1]
            target += np.append(np.kron(t, vector[:-1]), vector[-1])
        # A brighter PSF with fainter stars fits equally well, so the light of the PSF is fixed.
        level /= level @ self.c[0]
        for term in range(p):
            block = slice(term * k, (term + 1) * k)
            normal[block, block] += _LEVEL * np.outer(level, level)
        target[:k] += _LEVEL * level
        answer = np.linalg.solve(normal, target)
        self.c = answer[:-1].reshape(p, k)
        local = self.terms @ self.c
        spread = np.empty(n)
        for i, (own, cross, side) in enumerate(kept):
            inverse = np.linalg.inv(own)
            step = inverse @ (side - cross.T @ np.append(local[i], answer[-1]))
            self.flux[i] *= 1 + np.clip(step[0], -0.5, 0.5)
            self.sky[i], spread[i] = step[1], inverse[1, 1]
            self._place(i, local[i])
        # If skies scatter more than galaxies explain, the frame has no common sky: widen the prior.
        scatter = np.median((self.sky - answer[-1]) ** 2 / stars.noise**2) / 0.455
        scatter += np.median(spread / stars.noise**2) - _SKY_LIGHT**2
        self.sky_width = np.sqrt(max(scatter, _SKY**2)) * stars.noise
        return self._normalise()

    def _strike(self, models: FloatArray, square: FloatArray, error: float) -> None:
        """Leave out struck pixels and the light of other sources.

        The common residual of the stars is subtracted first, because errors of the model must not
        be struck.
        """
        stars = self.stars
        flux = np.maximum(self.flux, 1e-30)[:, None, None]
        light = flux * models
        left = np.where(stars.bad, np.nan, stars.data - self.sky[:, None, None] - light)
        if len(stars) >= 4:
            with np.errstate(all="ignore"):
                left = left - flux * median_of(left / flux)
        photon = np.maximum(light, 0.0) / stars.gain + stars.noise[:, None, None] ** 2
        ratio = np.nan_to_num(left / np.sqrt(photon + (error * light) ** 2))
        width = max(3, round(stars.fwhm) | 1)
        grow = max(1, round(0.5 * stars.fwhm))
        outside = square > stars.fwhm**2
        for i, z in enumerate(ratio):
            struck = binary_dilation(uniform_filter(z, width) * width > _NEIGHBOUR, iterations=grow)
            struck |= np.abs(z) > _OUTLIER
            self.use[i] = ~(stars.bad[i] | (struck & outside[i]))
        core = (square < (1.5 * stars.fwhm) ** 2) & self.use
        count = np.maximum(core.sum(axis=(1, 2)), 1)
        misfit = np.sqrt((np.where(core, ratio, 0.0) ** 2).sum(axis=(1, 2)) / count)
        usual = self.misfit = max(1.0, float(np.median(misfit)))
        self.weight = np.minimum(1.0, _EXCESS * usual / np.maximum(misfit, 1e-30)) ** 2

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

    def _equations(
        self, i: int, c: FloatArray, model: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
        """Return the equations of one star, with its own unknowns and after eliminating them.

        Its own unknowns are the step in flux (relative) and the sky. The shared unknowns are the
        PSF's coefficients at the star and the frame's sky. The position is not included: in a joint
        fit with the PSF all positions could drift together.
        """
        stars, f = self.stars, self.flux[i]
        rows = np.flatnonzero(self.use[i])
        x, y = (v[rows] for v in self._grid(i))
        light = f * model.ravel()[rows]
        variance = stars.noise[i] ** 2 + np.maximum(light, 0.0) / stars.gain
        weight = np.sqrt(self.weight[i] / (variance + (_MODEL_ERROR * light) ** 2))
        shared = self.quadrature.sum(self.basis.design, x, y).reshape(rows.size, c.size)
        shared *= (f * weight)[:, None]
        own = np.column_stack([light, np.ones(rows.size)]) * weight[:, None]
        data = stars.data[i].ravel()[rows] * weight
        width = np.array([_FLUX, self.sky_width[i]])
        normal = own.T @ own + np.diag(width**-2)
        side = own.T @ data
        cross = np.zeros((c.size + 1, 2))
        cross[:-1] = shared.T @ own
        cross[-1, 1] = -(width[1] ** -2)
        matrix = np.zeros((c.size + 1,) * 2)
        matrix[:-1, :-1] = shared.T @ shared
        matrix[-1, -1] = width[1] ** -2
        vector = np.append(shared.T @ data, 0.0)
        gone = np.linalg.solve(normal, np.column_stack([cross.T, side]))
        return normal, cross, side, matrix - cross @ gone[:, :-1], vector - cross @ gone[:, -1]

    def _place(self, i: int, c: FloatArray) -> None:
        """Move one star to the position where the PSF fits best."""
        stars, f = self.stars, self.flux[i]
        x, y = self._grid(i)
        rows = np.flatnonzero(self.use[i].ravel() & (x * x + y * y < (2 * stars.fwhm) ** 2))
        if rows.size < 9 or not f > 0:
            return
        x, y = x[rows], y[rows]
        light = f * self._draw(c, x, y)
        left = stars.data[i].ravel()[rows] - self.sky[i] - light
        variance = stars.noise[i] ** 2 + np.maximum(light, 0.0) / stars.gain
        weight = 1 / np.sqrt(variance + (_MODEL_ERROR * light) ** 2)
        dx, dy = gradient(self.basis, c, x, y)
        slopes = np.column_stack([f * dx, f * dy, light]) * weight[:, None]
        normal = slopes.T @ slopes + np.diag([_PLACE**-2, _PLACE**-2, _FLUX**-2])
        step = np.linalg.solve(normal, slopes.T @ (left * weight))
        self.x[i] += np.clip(step[0], -0.5, 0.5)
        self.y[i] += np.clip(step[1], -0.5, 0.5)

    def _normalise(self) -> float:
        """Normalise the PSF to a sum of 1 in its box and shift the stars to its centroid."""
        offset = np.arange(self.size) - self.size // 2
        x, y = (v.ravel().astype(float) for v in np.meshgrid(offset, offset))
        image = self._draw(self.c[0], x, y)
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
    for number in range(rounds + 1):
        change = fit.round(first=number == 0)
        # The misfit is that of the PSF before this fit, so it is not valid in the first two rounds.
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
        fit.use,
        fit.misfit,
    )
