"""Measure how the PSF varies over the frame, from the size and shape of the chosen stars."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import map_coordinates, spline_filter
from scipy.special import fdtrc

from mlpsf.errors import PSFError
from mlpsf.psf.solver.polynomial import order_for, polynomial
from mlpsf.psf.solver.solve import Solution, StarPixels, solve
from mlpsf.psf.solver.stars import cut_stars, say_left_out

__all__ = ["PSFVariation", "fit_variation", "measure_variation"]

FloatArray = NDArray[np.float64]

STEP = 0.02  # stretch whose effect on the pixels is computed
CHANCE = 1e-3  # probability that a constant PSF is called varying
_MATTERS = (0.01, 0.005, 0.005)  # rms of dT/T, e1, e2: three times the error of a good PSF
_SEEN = 0.75  # of the rms from noise alone; less may be noise of few stars
_CLIP = 5.0  # robust standard deviations from the map; stars further off are not used


@dataclass(frozen=True, eq=False)
class PSFVariation:
    """Size and shape of stars over a frame, and a low-order polynomial fit.

    All values are relative to the frame's mean PSF. The size is ``dT/T``, with T the sum of the
    second moments (twice the relative change of the FWHM). The shape is the distortion ``e1``,
    ``e2``: (a^2 - b^2) / (a^2 + b^2) along x and along the diagonal.

    Attributes
    ----------
    x, y : (n,) arrays
        Positions of the stars, 0-based pixels.
    values, errors : (n, 3) arrays
        dT/T, e1, e2 of each star and their standard deviations.
    used : (n,) array of bool
        False for outliers from the map.
    order : int
        Order of the polynomial.
    coefficients : (n_terms, 3) array
        Coefficients of the terms of :func:`polynomial`.
    rms, rms_error : (3,) arrays
        Root mean square of the map over the frame, and its value for noise alone.
    chance : float
        Probability of such a map if the PSF is constant (F-test of the polynomial against a
        constant, with errors scaled to the scatter about the map). NaN with too few stars.
    frame_shape : (int, int)
    first : (int, int)
        x and y of the frame's first pixel, as positions count.
    """

    x: FloatArray
    y: FloatArray
    values: FloatArray
    errors: FloatArray
    used: NDArray[np.bool_]
    order: int
    coefficients: FloatArray
    rms: FloatArray
    rms_error: FloatArray
    chance: float
    frame_shape: tuple[int, int]
    first: tuple[int, int] = (0, 0)

    @property
    def real(self) -> bool:
        """Whether the PSF varies, by however little: below 1 in 1000 that it is chance."""
        return bool(self.chance < CHANCE)

    @property
    def significant(self) -> bool:
        """Whether the PSF varies significantly.

        The probability of chance must be below 1 in 1000. The rms after subtracting noise must be
        above 0.01 in dT/T or 0.005 in e1 or e2, and above three quarters of the noise.
        """
        real = np.sqrt(np.maximum(self.rms**2 - self.rms_error**2, 0.0))
        return bool(self.real and (real > np.maximum(_MATTERS, _SEEN * self.rms_error)).any())

    @property
    def verdict(self) -> str:
        """Description of the variation in words."""
        if not np.isfinite(self.chance):
            return f"{self.used.sum()} stars are too few to tell whether the PSF varies"
        size, shape = self.rms[0], np.hypot(*self.rms[1:])
        noise, blur = self.rms_error[0], np.hypot(*self.rms_error[1:])
        what = "the PSF varies" if self.significant else "no variation of the PSF that matters"
        return (
            f"{what} over the frame: rms {size / 2:.2%} in FWHM (noise {noise / 2:.2%}) and "
            f"{shape:.4f} in ellipticity (noise {blur:.4f})"
        )

    def at(self, x: ArrayLike, y: ArrayLike) -> FloatArray:
        """Return dT/T, e1 and e2 relative to the mean PSF at positions, shape (n, 3)."""
        x, y = np.asarray(x) - self.first[0], np.asarray(y) - self.first[1]
        return polynomial(x, y, self.frame_shape, self.order) @ self.coefficients


def stretches() -> FloatArray:
    """Return matrices that transform a star's pixels, for 2 * STEP more size, e1 and e2."""
    unit = np.eye(2)
    e1, e2 = np.diag([1.0, -1.0]), np.array([[0.0, 1.0], [1.0, 0.0]])
    # A stretch by s changes dT/T by 2 s; a shear g changes the distortion by 2 g.
    return np.array([[unit + s * d * STEP for s in (-1, 1)] for d in (unit, e1, e2)])


def star_shapes(solution: Solution, stars: StarPixels, c: FloatArray) -> tuple[FloatArray, ...]:
    """Measure each star's size and shape relative to a PSF.

    The PSF, pixel included, is slightly stretched and sheared. The amount of each change is fitted
    to the star's pixels by weighted least squares, together with flux, position and sky.

    Parameters
    ----------
    solution : Solution
        Positions, fluxes and skies, and the pixels to use.
    stars : StarPixels
    c : array
        Coefficients of the PSF to compare with.

    Returns
    -------
    values, errors : (n, 3) arrays
        dT/T, e1, e2.
    """
    n = len(stars)
    x, y = (v.reshape(n, -1) for v in stars.offsets(solution.x, solution.y))
    reach = 2.5 * stars.fwhm
    near = (x * x + y * y < reach**2) & solution.use.reshape(n, -1)
    measured = (near.sum(axis=1) >= 20) & (solution.flux > 0)
    values, errors = np.zeros((n, 3)), np.full((n, 3), np.inf)
    if not measured.any():
        return values, errors
    near &= measured[:, None]
    star, pixel = np.nonzero(near)
    x, y, flux = x[near], y[near], solution.flux[star]
    light, columns = _changes(solution, c, reach, x, y)
    light, columns = flux * light, flux * columns
    variance = stars.noise[star] ** 2 + np.maximum(light, 0.0) / stars.gain + (5e-3 * light) ** 2
    weight = 1 / np.sqrt(variance)
    rows = np.zeros((n, near.shape[1], 7))
    rows[star, pixel] = np.column_stack([*columns, light, np.ones_like(light)]) * weight[:, None]
    scale = np.zeros((n, 7))
    np.maximum.at(scale, star, np.abs(rows[star, pixel] / weight[:, None]))
    scale = np.maximum(scale, 1e-30)
    design = rows[measured] / scale[measured, None]
    residual = np.zeros(near.shape)
    residual[star, pixel] = weight * (stars.data.reshape(n, -1)[near] - solution.sky[star] - light)
    normal = design.swapaxes(1, 2) @ design
    normal += 1e-12 * np.trace(normal, axis1=1, axis2=2)[:, None, None] * np.eye(7)
    # The sky is known from around the star, about as well as from a box of 25 x 25 pixels.
    normal[:, -1, -1] += (25.0 / stars.noise[measured]) ** 2
    covariance = np.linalg.inv(normal)
    target = design.swapaxes(1, 2) @ residual[measured][:, :, None]
    values[measured] = ((covariance @ target)[:, :, 0] / scale[measured])[:, :3]
    spread = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    errors[measured] = (spread / scale[measured])[:, :3]
    return values, errors


def _changes(
    solution: Solution, c: FloatArray, reach: float, x: FloatArray, y: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return a star of flux 1 at pixels, and its changes with size, e1, e2, x and y.

    Drawn once on a fine grid and interpolated.
    """
    step = solution.fwhm / 24
    half = int(np.ceil(1.1 * reach / step)) + 4
    u, v = (a.ravel() for a in np.meshgrid(*[np.arange(-half, half + 1) * step] * 2))
    fine = spline_filter(solution.draw(c, u, v).reshape(2 * half + 1, -1), order=3)

    def draw(a: FloatArray, b: FloatArray) -> FloatArray:
        at = np.stack([b, a]) / step + half
        return np.asarray(map_coordinates(fine, at, order=3, prefilter=False))

    columns = []
    for matrices in stretches():
        low, high = (
            draw(*(np.linalg.inv(m) @ np.array([x, y]))) / np.linalg.det(m) for m in matrices
        )
        columns.append((high - low) / (4 * STEP))
    h = 0.05
    columns += [draw(x - h, y) - draw(x + h, y), draw(x, y - h) - draw(x, y + h)]
    return draw(x, y), np.array(columns)


def fit_variation(
    x: FloatArray,
    y: FloatArray,
    values: FloatArray,
    errors: FloatArray,
    frame_shape: tuple[int, int],
    order: int | None = None,
) -> PSFVariation:
    """Fit a polynomial over the frame to sizes and shapes of stars, and test its significance.

    Parameters
    ----------
    x, y : (n,) arrays
        Positions, 0-based pixels.
    values, errors : (n, 3) arrays
        dT/T, e1, e2 and their standard deviations; infinite for a star without a measurement.
    frame_shape : (int, int)
    order : {0, 1, 2}, optional
        By default from the number of stars: 1 from 5 stars, 2 from 12. It is 0 for stars whose
        places cannot tell it: all on a line, or at one place.

    Returns
    -------
    PSFVariation

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> x, y = rng.uniform(0, 1000, (2, 30))
    >>> values = np.column_stack([0.1 * x / 1000, 0 * x, 0 * x]) + rng.normal(0, 0.01, (30, 3))
    >>> found = fit_variation(x, y, values, np.full((30, 3), 0.01), (1000, 1000))
    >>> found.significant, round(float(found.at(900, 500)[0, 0] - found.at(100, 500)[0, 0]), 2)
    (True, 0.08)
    """
    order = order_for(len(x)) if order is None else order
    terms = polynomial(x, y, frame_shape, order)
    if np.linalg.matrix_rank(terms) < terms.shape[1]:
        # Stars on a line, or at one place where places are not known, tell no change over it.
        order, terms = 0, terms[:, :1]
    n_terms = terms.shape[1]
    used: NDArray[np.bool_] = np.asarray(np.isfinite(errors).all(axis=1))
    coefficients = np.zeros((n_terms, 3))
    spread, factor = np.zeros((3, n_terms, n_terms)), np.ones(3)
    sums = np.zeros((2, 3))
    free = 0
    for _ in range(4):
        free = int(used.sum()) - n_terms
        if free < 1:
            break
        for k in range(3):
            # Stars scatter by more than noise (faint sources), so the brightest must not dominate.
            weight = used / (np.where(used, errors[:, k], 1.0) ** 2 + 2e-3**2)
            normal = (terms * weight[:, None]).T @ terms + 1e-9 * np.eye(n_terms)
            spread[k] = np.linalg.inv(normal)
            coefficients[:, k] = spread[k] @ (terms.T @ (weight * values[:, k]))
            off = values[:, k] - terms @ coefficients[:, k]
            mean = (weight * values[:, k]).sum() / weight.sum()
            sums[0, k] = (weight * (values[:, k] - mean) ** 2).sum() - (weight * off**2).sum()
            sums[1, k] = (weight * off**2).sum()
            factor[k] = max(1.0, sums[1, k] / free)
        off = np.abs(values - terms @ coefficients) / np.sqrt(factor)
        typical = 1.4826 * np.median(off[used], axis=0)
        far = used & (off > _CLIP * np.maximum(typical, 1e-6)).any(axis=1)
        if not far.any() or (used & ~far).sum() < max(n_terms + 3, 0.7 * len(x)):
            break
        used = np.asarray(used & ~far)
    chance = np.nan
    if free >= 2 and order > 0:
        wide, narrow = 3 * (n_terms - 1), 3 * free
        f = (sums[0] / factor).sum() / wide / max((sums[1] / factor).sum() / narrow, 1e-30)
        chance = float(fdtrc(wide, narrow, max(f, 0.0)))
    ny, nx = frame_shape
    gx, gy = (v.ravel() for v in np.meshgrid(np.linspace(0, nx - 1, 9), np.linspace(0, ny - 1, 9)))
    grid = polynomial(gx, gy, frame_shape, order)[:, 1:]
    rms = np.sqrt(((grid @ coefficients[1:]) ** 2).mean(axis=0))
    noise = np.array([np.einsum("gi,ij,gj->g", grid, s[1:, 1:], grid).mean() for s in spread])
    return PSFVariation(
        x, y, values, errors, used, order, coefficients, rms, np.sqrt(noise * factor), chance,
        frame_shape,
    )  # fmt: skip


def variation_of(solution: Solution, stars: StarPixels, x: FloatArray, y: FloatArray,
                 frame_shape: tuple[int, int]) -> PSFVariation:  # fmt: skip
    """Map the variation of the stars that a constant PSF was solved from."""
    values, errors = star_shapes(solution, stars, solution.coefficients[0])
    return fit_variation(x, y, values, errors, frame_shape)


def measure_variation(
    frame: Any,
    stars: Any,
    *,
    size: int | None = None,
    background: str | float | FloatArray = "mesh",
) -> PSFVariation:
    """Measure how the PSF varies over a frame, from its chosen stars.

    Parameters
    ----------
    frame, stars, size, background
        As for :func:`mlpsf.psf.build_psf`.

    Returns
    -------
    PSFVariation

    Raises
    ------
    InputError, PSFError
        As :func:`mlpsf.psf.build_psf`.

    Examples
    --------
    >>> from mlpsf import simulate_frame
    >>> sim = simulate_frame(shape=(600, 600), n_stars=40, n_galaxies=0, fwhm=3.0, seed=4,
    ...                      cosmic_rays=0, hot_pixels=0, n_pairs=0)
    >>> truth = sim.truth[~sim.truth["saturated"]]
    >>> truth = truth[np.argsort(-truth["flux"])][:20]
    >>> inside = np.maximum(abs(truth["x"] - 300), abs(truth["y"] - 300)) < 250
    >>> measure_variation(sim.frame, truth[inside], size=31).significant
    False
    """
    hand = cut_stars(frame, stars, size=size, background=background)
    say_left_out(hand)
    if len(hand.x) == 0:
        raise PSFError("no star to measure the PSF's variation from")
    solution = solve(hand.pixels, hand.size, np.ones((len(hand.x), 1)))
    found = variation_of(solution, hand.pixels, hand.x, hand.y, hand.frame_shape)
    x, y = hand.places.T
    return replace(found, x=x, y=y, first=hand.first)
