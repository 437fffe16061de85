"""The rounds of a PSF's fit: the PSF, its variation, and the stars' own unknowns.

Weighted least squares on the original pixels of the stars. The flux and sky of each star are
eliminated exactly from its equations (a Schur complement), which leaves the coefficients of the
PSF. See `mlpsf.psf.solver.solve`.
"""

from __future__ import annotations

from copy import copy

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import block_diag

from mlpsf.errors import PSFError
from mlpsf.psf.solver.basis import PolarBasis, Quadrature, centroid, gradient
from mlpsf.psf.solver.design import Design, blocks
from mlpsf.psf.solver.pixels import StarPixels, first_profile, median_of, struck_pixels
from mlpsf.stacks.values import sky_and_noise

__all__ = ["EXCESS", "MODEL_ERROR", "Fit"]

FloatArray = NDArray[np.float64]

MODEL_ERROR = 0.005
"""Error of a PSF relative to the light: limit on how well it describes the brightest star."""

EXCESS = 2.0
"""Times the usual misfit of a core, above which a star has less weight."""

_WAVES = 4  # for trefoil and four struts of a secondary mirror; six waves make no difference
_BEND, _FIRST_BEND, _SIZE = 0.15, 0.3, 0.3  # widths of the prior, relative to the local light
_VARIES = 0.1  # the same for the variation from the centre of the frame to its edge, by default
_FLUX, _PLACE = 0.1, 0.3  # prior widths of a step in flux (relative) and position (pixels)
_LEVEL = 1e7  # weight that fixes the light of the PSF, so that the fluxes adjust
_SKY = 0.0125  # scatter of the stars' skies around the frame's, over the noise of a pixel
_SKY_LIGHT = 0.04  # the same scatter from faint galaxies, in any frame
_DIFFERENT = 0.5  # of what is usually left of a star, over its light: error of the PSF there


class Fit:
    """The fit in progress.

    Parameters
    ----------
    stars : StarPixels
    size : int
        Side of the PSF's box in pixels, odd.
    terms : (n, n_terms) array
        Terms of the polynomial over the frame at each star; the first column is 1.
    """

    def __init__(self, stars: StarPixels, size: int, terms: FloatArray) -> None:
        self.stars, self.size, self.terms = stars, size, terms
        self.span: FloatArray | None = None
        self.span_prior: FloatArray | None = None
        self.varies = _VARIES
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

    def go_on(
        self,
        terms: FloatArray,
        span: FloatArray | None = None,
        span_prior: FloatArray | None = None,
        varies: float | None = None,
    ) -> Fit:
        """Return a fit that starts from this one, with another variation.

        Parameters
        ----------
        terms : (n, n_terms) array
            Its mean is this one's. A variation starts from 0, or, with a span, as near as that
            comes to this one's.
        span : (k, r) array, optional
            Coefficients of the functions that the variation is a sum of. By default it is free:
            each coefficient of the PSF varies by itself.
        span_prior : (r, r) array, optional
            Inverse covariance of the amounts of those functions.
        varies : float, optional
            Width of the prior of the variation, relative to the local light.
        """
        fit = copy(self)
        fit.varies = self.varies if varies is None else varies
        fit.basis, fit.terms = copy(self.basis), terms
        fit.span, fit.span_prior = span, span_prior
        fit.c = np.zeros((terms.shape[1], self.c.shape[1]))
        fit.c[0] = self.c[0]
        if span is not None and len(self.c) > 1:
            # Without a start, the stars that differ most from the mean lose pixels to it.
            amounts = np.linalg.lstsq(span, (self.terms[:, 1:] @ self.c[1:]).T)[0].T
            fit.c[1:] = np.linalg.lstsq(terms[:, 1:], amounts)[0] @ span.T
        for name in ("x", "y", "flux", "sky", "weight", "use"):
            setattr(fit, name, getattr(self, name).copy())
        return fit

    def pixels(self, part: slice) -> tuple[FloatArray, FloatArray]:
        """Return the pixels of some stars from their positions, (n, n_pixels) each."""
        u, v = self.stars.offsets(self.x[part], self.y[part])
        return u.reshape(len(u), -1), v.reshape(len(v), -1)

    def design(self, part: slice) -> Design:
        """Return the functions in the pixels of some stars; the last is kept."""
        if self._kept is None or self._kept[0] != part:
            self._kept = part, Design(self.basis, self.quadrature, *self.pixels(part))
        return self._kept[1]

    def images(self, c: FloatArray) -> FloatArray:
        """Return stars of flux 1 for the coefficients at each, (n, n_pixels)."""
        return np.concatenate([self.design(part).images(c[part]) for part in self.parts])

    def round(self, first: bool) -> float:
        """Fit everything once; return the change of the PSF over its peak."""
        stars = self.stars
        self._kept = None
        models = self.images(self.terms @ self.c)
        pixels = self.pixels(slice(None))
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
        photon = np.maximum(light, 0.0) / stars.gain + stars.noise[:, None] ** 2
        if len(stars) >= 4:
            with np.errstate(all="ignore"):
                shared = np.nan_to_num(median_of(left / flux))
            left = left - flux * shared
        # Where stars differ much from the PSF, none is struck for it: little would be left of them.
        near = (square < (1.5 * stars.fwhm) ** 2) & ~self.bad
        off = np.where(near, np.nan_to_num(left) ** 2 - photon, 0.0).sum(axis=1)
        own = np.where(near, light**2, 0.0).sum(axis=1)
        usual = max(float(np.median(np.divide(off, own, where=own > 0, out=np.zeros_like(off)))), 0)
        different = max(error, _DIFFERENT * np.sqrt(usual))
        ratio, wide = (
            np.nan_to_num(left / np.sqrt(photon + (e * light) ** 2)) for e in (error, different)
        )
        struck = struck_pixels(wide.reshape(stars.data.shape), stars.fwhm)
        self.use = ~(self.bad | (struck.reshape(ratio.shape) & (square > stars.fwhm**2)))
        core = (square < (1.5 * stars.fwhm) ** 2) & self.use
        misfit = np.sqrt(
            (np.where(core, ratio, 0.0) ** 2).sum(axis=1) / np.maximum(core.sum(axis=1), 1)
        )
        usual = self.misfit = max(1.0, float(np.median(misfit)))
        self.weight = np.minimum(1.0, EXCESS * usual / np.maximum(misfit, 1e-30)) ** 2

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
        weight = np.sqrt(self.weight[:, None] / (variance + (MODEL_ERROR * light) ** 2)) * self.use
        # Columns: light, sky, and the data.
        own = np.stack([light, np.ones_like(light), self.data], axis=2) * weight[:, :, None]
        seen = own.swapaxes(1, 2) @ own
        width = np.column_stack([np.full(n, _FLUX), self.sky_width]) ** -2.0
        inverse = np.linalg.inv(seen[:, :2, :2] + width[:, :, None] * np.eye(2))
        side = seen[:, :2, 2]
        weight *= self.flux[:, None]
        normal, target = self._prior(bend)
        cross, vector = np.zeros((n, k + 1, 2)), np.empty((n, k))
        cross[:, -1, 1] = -width[:, 1]
        for part in self.parts:
            design = self.design(part)
            shared = design.products(own[part] * weight[part][:, :, None])
            cross[part, :-1], vector[part] = shared[:, :, :2], shared[:, :, 2]
            self._add(normal[:-1, :-1], design, weight[part], self.terms[part])
        normal[-1, -1] += width[:, 1].sum()
        # Each star's own unknowns, eliminated: normal - cross @ inverse @ cross.T, and so on.
        root = cross @ np.linalg.cholesky(inverse)
        gone = np.hstack([self._spread(root[:, :-1]), root[:, -1:]])
        gone = gone.swapaxes(0, 1).reshape(len(normal), 2 * n)
        normal -= gone @ gone.T
        lost = cross @ (inverse @ side[:, :, None])
        target[:-1] += self._spread(vector[:, :, None] - lost[:, :-1]).sum(axis=(0, 2))
        target[-1] -= lost[:, -1].sum()
        # A brighter PSF with fainter stars fits equally well, so the light of the PSF is fixed.
        level = cross[:, :-1, 0].sum(axis=0)
        level /= level @ self.c[0]
        # So is that of a free change; one that is a sum of few functions cannot take its form.
        fixed = [level] * (p if self.span is None else 1)
        start = 0
        for row in fixed:
            block = slice(start, start + len(row))
            normal[block, block] += _LEVEL * np.outer(row, row)
            start += len(row)
        target[:k] += _LEVEL * level
        answer = np.linalg.solve(normal, target)
        varying = answer[k:-1].reshape(p - 1, k if self.span is None else self.span.shape[1])
        if self.span is not None:
            varying = varying @ self.span.T
        c = np.vstack([answer[None, :k], varying.reshape(p - 1, k)])
        return (c, float(answer[-1])), (inverse, cross, side)

    def _spread(self, vectors: FloatArray) -> FloatArray:
        """Return the unknowns' share of vectors (n, k, m) of the PSF at each star, (n, q, m)."""
        varying = vectors if self.span is None else self.span.T @ vectors
        terms = self.terms[:, 1:, None, None] * varying[:, None]
        n, m = len(vectors), vectors.shape[2]
        return np.hstack([vectors, terms.reshape(n, terms.shape[1] * varying.shape[1], m)])

    def _add(
        self, normal: FloatArray, design: Design, weight: FloatArray, terms: FloatArray
    ) -> None:
        """Add the products of the unknowns' functions over the pixels of some stars."""
        (p, k), n = self.c.shape, len(terms)
        if self.span is None and p > 1:
            pairs = (terms[:, :, None] * terms[:, None, :]).reshape(n, -1).T
            sums = design.normal(weight, pairs).reshape(p, p, k, k)
            normal += sums.swapaxes(1, 2).reshape(p * k, p * k)
            return
        normal[:k, :k] += design.normal(weight)[0]
        if self.span is None:
            return
        images = design.images(self.span[None]) * weight[:, :, None]
        terms = terms[:, 1:]
        one = np.tensordot(terms, design.products(images * weight[:, :, None]), (0, 0))
        one = one.swapaxes(0, 1).reshape(k, -1)
        normal[:k, k:] += one
        normal[k:, :k] += one.T
        both = images.swapaxes(1, 2) @ images
        pairs = (terms[:, :, None] * terms[:, None, :]).reshape(n, -1)
        sums = np.tensordot(pairs, both, (0, 0)).reshape(p - 1, p - 1, *both.shape[1:])
        normal[k:, k:] += sums.swapaxes(1, 2).reshape(one.shape[1], one.shape[1])

    def prior_of_variation(self, bend: float = _BEND) -> FloatArray:
        """Return the inverse covariance (k, k) of the coefficients' change over the frame."""
        size = self.varies
        stiff = self.basis.stiffness(size * bend, size)
        return stiff + np.eye(self.c.shape[1]) / size**2

    def _prior(self, bend: float) -> tuple[FloatArray, FloatArray]:
        """Return the matrix and the right hand side of the prior of all shared unknowns."""
        p, k = self.c.shape
        rest = self.prior_of_variation(bend) if self.span is None else self.span_prior
        assert rest is not None
        stiff = self.basis.stiffness(bend, _SIZE)
        sky = np.array([[1e-6 / np.median(self.stars.noise) ** 2]])
        normal = block_diag(stiff, *[rest] * (p - 1), sky)
        target = np.zeros(len(normal))
        target[:k] = stiff @ self.basis.unit().ravel()
        return normal, target

    def _place(self, local: FloatArray, x: FloatArray, y: FloatArray, square: FloatArray) -> None:
        """Move each star to the position where the PSF fits best."""
        stars, flux = self.stars, self.flux[:, None]
        near = self.use & (square < (2 * stars.fwhm) ** 2)
        near &= (near.sum(axis=1, keepdims=True) >= 9) & (flux > 0)
        light = flux * self.images(local)
        variance = stars.noise[:, None] ** 2 + np.maximum(light, 0.0) / stars.gain
        weight = near / np.sqrt(variance + (MODEL_ERROR * light) ** 2)
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
        # A PSF that varies has its centroid at the star everywhere.
        local = self.c if len(self.c) == 1 else self.terms @ self.c
        shift = centroid(self.basis, local, self.stars.fwhm)
        self.x += shift[:, 0]
        self.y += shift[:, 1]
        if not all(np.isfinite(v).all() for v in (self.x, self.y, self.flux, self.c)):
            raise PSFError("no PSF fits the stars: are they images of one kind, and bright enough?")
        change = np.abs(image / total - self._last).max() / image.max() if self._last.size else 1.0
        self._last = image / total
        return float(change)

    def rebase(self) -> None:
        """Use the round part of the current PSF as the new profile to correct."""
        gain = np.tile(self.basis.gain(self.c[0]), self.basis.shape[0])
        self.c[1:] /= gain
        self.c[0] = self.basis.adopt(self.c[0]).ravel()
        if self.span is not None:
            self.span = self.span / gain[:, None]
