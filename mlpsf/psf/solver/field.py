"""How the PSF changes over the frame: which functions, of which order, is decided by the stars.

A polynomial in each of a hundred coefficients has too many parameters for the stars of a frame. But
the PSF changes in few ways. The first are known: wider, and longer along x or the diagonal. What is
beyond them is found as the principal components of the PSF's change in a polynomial fit of all
coefficients. Then only the amount of each is a polynomial of the position. Its order, and how many
components there are, is that which predicts best the stars that are left out of the fit.

Fewer than 16 stars cannot choose: a line through them that is wrong by the bend it leaves out is
wrong by most in the corners, beyond the stars, where none is left out. They get a quadratic of size
and shape, each term held by a prior as wide as the variation that the stars show, or a constant.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import block_diag
from threadpoolctl import threadpool_limits

from mlpsf.psf.solver.basis import gradient
from mlpsf.psf.solver.fit import MODEL_ERROR, Fit
from mlpsf.psf.solver.polynomial import polynomial
from mlpsf.psf.solver.variation import STEP, PSFVariation, stretches

__all__ = ["Choice", "choose_order", "most_order", "size_and_shape", "solve_field"]

FloatArray = NDArray[np.float64]

_STARS = (0, 5, 5, 20)  # stars that each order needs: a cubic two for a term
_FEW = 16  # stars that choose more than whether the PSF varies
_HELD = 2.0  # times the prior of size and shape of many, because of few the rms is larger by noise
_FOLDS = 20  # groups of stars that are left out in turn; up to so many, each star by itself
_COMPONENTS = 4  # most ways in which the PSF changes besides size and shape
_LEAST, _WIDE = 0.005, 1.0  # rms of size and shape, at least; width of their prior in rms
_SURE = 1.0  # standard errors that it must be better by, where sizes and shapes do vary
_WIDTH, _WIDTHS = 4.0, (0.1, 0.3)  # of the prior: times the rms of size and shape; its limits
_CUBIC = 1.1  # times a quadratic's gain that a cubic's must be: in the corners it is wild
_ROUNDS = 2  # of fitting with the polynomial, each after a fit of the last kind


def most_order(n_stars: int) -> int:
    """Return the highest order that a number of stars can carry.

    Examples
    --------
    >>> [most_order(n) for n in (4, 5, 19, 20)]
    [0, 2, 2, 3]
    """
    return int(np.searchsorted(_STARS, n_stars, side="right")) - 1


@dataclass(frozen=True, eq=False)
class Choice:
    """The order that was chosen, and why.

    Attributes
    ----------
    order, n_components : int
    gain : (n_orders, n_components) array
        Decrease of the chi-square of the stars left out from that of a constant PSF.
    error : float
        Standard error of the gain of the chosen one.
    n_stars : int
    """

    order: int
    n_components: int
    gain: FloatArray
    error: float
    n_stars: int

    @property
    def reason(self) -> str:
        """The choice in words."""
        if self.order == 0:
            return f"no polynomial predicts the {self.n_stars} stars better, left out in turn"
        best = self.gain[self.order, self.n_components - 1]
        if self.n_stars < _FEW:
            return (
                f"{self.n_stars} stars left out in turn: chi-square lower by {best:.0f} +- "
                f"{self.error:.0f} than of a constant PSF; size and shape only, with so few"
            )
        below = self.gain[self.order - 1].max() if self.order > 1 else 0.0
        return (
            f"{self.n_stars} stars left out in turn: chi-square lower by {best:.0f} +- "
            f"{self.error:.0f} than of a constant PSF, by {below:.0f} with one order less; "
            f"{self.n_components} ways to change"
        )


def solve_field(
    fit: Fit, x: FloatArray, y: FloatArray, found: PSFVariation, most: int = 3
) -> tuple[Fit, Choice]:
    """Solve for a PSF that varies, with the order that the stars support.

    Parameters
    ----------
    fit : Fit
        Of the constant PSF.
    x, y : (n,) arrays
        Positions of the stars on the frame.
    found : PSFVariation
        Of the sizes and shapes of these stars.
    most : int
        Highest order.

    Returns
    -------
    fit : Fit
        `fit` itself if a constant PSF predicts the stars as well. The first coefficients are of
        the mean over the frame.
    choice : Choice
    """
    most = min(most, most_order(len(x)))
    with threadpool_limits(1):
        # A change of the size by some per cent is one of the light by twice that, and more outside.
        # Few stars measure it badly, and leave more to the prior.
        widest = _WIDTHS[0 if len(x) < _FEW else 1]
        width = float(np.clip(_WIDTH * found.rms.max(), _WIDTHS[0], widest))
        frame_shape = found.frame_shape
        free = fit.go_on(polynomial(x, y, frame_shape, min(most, 2)), varies=width)
        for _ in range(_ROUNDS):
            free.rebase()
            free.round(first=False)
        span, prior = components(free, found.rms)
        if len(x) < _FEW:
            span, prior = span[:, :3], _HELD * prior[:3, :3]
        terms = [polynomial(x, y, frame_shape, order) for order in range(most + 1)]
        choice = choose_order(free, span, prior, terms)
        if choice.order == 0:
            return fit, choice
        r = choice.n_components
        fit = free.go_on(terms[choice.order], span[:, :r], prior[:r, :r])
        for _ in range(_ROUNDS):
            fit.rebase()
            fit.round(first=False)
    return fit, choice


def components(fit: Fit, rms: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the ways in which the PSF of a fit changes: size and shape, then the largest others.

    Largest is what changes the pixels of the mean PSF most, as the stars weigh them.

    Parameters
    ----------
    fit : Fit
        Whose variation is free.
    rms : (3,) array
        Of the size and the shape over the frame.

    Returns
    -------
    span : (k, r) array
        Coefficients of each, of about the change from the frame's centre to its edge.
    prior : (r, r) array
        Inverse covariance of their amounts.
    """
    weight = _weights(fit)
    k = fit.c.shape[1]
    metric = np.zeros((k, k))
    for part in fit.parts:
        metric += fit.design(part).normal(weight[part])[0]
    stiff = fit.prior_of_variation()
    metric = metric / len(fit.terms) + stiff
    root = np.linalg.cholesky(metric)
    known = size_and_shape(fit) * np.maximum(rms, _LEAST)
    # Changes at the stars, not terms: where there are stars, they count.
    changes = fit.terms[:, 1:] @ fit.c[1:] @ root
    span = np.linalg.qr(root.T @ np.column_stack([fit.c[0], known]))[0]
    changes -= changes @ span @ span.T
    _, size, ways = np.linalg.svd(changes, full_matrices=False)
    rank = min(int((size > 1e-6 * size[0]).sum()), _COMPONENTS, fit.terms.shape[1] - 1)
    scale = size[:rank] / np.sqrt(len(changes))
    others = np.linalg.solve(root.T, ways[:rank].T) * scale
    prior = block_diag(np.eye(3) / _WIDE**2, others.T @ stiff @ others)
    return np.column_stack([known, others]), np.asarray(prior)


def size_and_shape(fit: Fit) -> FloatArray:
    """Return the coefficients (k, 3) of the mean PSF's change a unit of dT/T, e1 and e2."""
    basis, c = fit.basis, fit.c[0]
    # Points dense in the core; relative to the light there, as the coefficients are.
    radius = fit.size / np.sqrt(2) * np.sinh(4 * (np.arange(48) + 0.5) / 48) / np.sinh(4)
    angle = np.arange(24) * (2 * np.pi / 24)
    x, y = (np.outer(radius, f(angle)).ravel() for f in (np.cos, np.sin))
    light = np.maximum(basis.light(c, x, y), 1e-9 * basis.light(c, np.zeros(1), np.zeros(1)))
    change = []
    for matrices in stretches():
        low, high = (
            basis.light(c, *(np.linalg.inv(m) @ np.array([x, y]))) / np.linalg.det(m)
            for m in matrices
        )
        change.append((high - low) / (4 * STEP) / light)
    functions = basis.design(x, y) / light[:, None]
    normal = functions.T @ functions
    normal += 1e-9 * np.trace(normal) * np.eye(len(normal))
    return np.asarray(np.linalg.solve(normal, functions.T @ np.array(change).T))


def _weights(fit: Fit) -> FloatArray:
    """Return the pixels' root weights in a star of flux 1, (n, n_pixels)."""
    light = fit.flux[:, None] * fit.images(fit.terms @ fit.c)
    variance = fit.stars.noise[:, None] ** 2 + np.maximum(light, 0.0) / fit.stars.gain
    weight = fit.use / np.sqrt(variance + (MODEL_ERROR * light) ** 2)
    return np.asarray(weight * (np.sqrt(fit.weight) * fit.flux)[:, None])


def _equations(fit: Fit, span: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return each star's equations for the amounts of the components, from the mean PSF.

    Flux, sky and position of the star are eliminated.

    Returns
    -------
    matrix : (n, r, r) array
    vector : (n, r) array
    """
    n, flux = len(fit.x), np.maximum(fit.flux, 1e-30)[:, None]
    weight = _weights(fit)
    u, v = fit.pixels(slice(None))
    near = fit.use & (u * u + v * v < (3 * fit.stars.fwhm) ** 2)
    c = fit.c[:1]
    mean = fit.images(np.repeat(c, n, axis=0))
    own = np.zeros((*mean.shape, 4))
    own[:, :, 0], own[:, :, 1] = mean, 1 / flux
    own[near, 2], own[near, 3] = gradient(fit.basis, c, u[near], v[near])
    own *= weight[:, :, None]
    images = np.concatenate([fit.design(part).images(span[None]) for part in fit.parts])
    images *= weight[:, :, None]
    left = ((fit.data - fit.sky[:, None]) / flux - mean) * weight
    # The sky is free within what is known of it, the position within a pixel.
    prior = np.zeros((n, 4))
    prior[:, 0], prior[:, 1] = 1.0, fit.sky_width**-2.0
    prior[:, 2:] = 1.0
    normal = own.swapaxes(1, 2) @ own + prior[:, :, None] * np.eye(4)
    cross = own.swapaxes(1, 2) @ images
    side = own.swapaxes(1, 2) @ left[:, :, None]
    gone = np.linalg.solve(normal, np.concatenate([cross, side], axis=2))
    matrix = images.swapaxes(1, 2) @ images - cross.swapaxes(1, 2) @ gone[:, :, :-1]
    vector = images.swapaxes(1, 2) @ left[:, :, None] - cross.swapaxes(1, 2) @ gone[:, :, -1:]
    return matrix, vector[:, :, 0]


def choose_order(fit: Fit, span: FloatArray, prior: FloatArray, terms: list[FloatArray]) -> Choice:
    """Choose order and number of components by stars that are left out in turn.

    Parameters
    ----------
    fit : Fit
    span : (k, r) array
        Components, the largest first.
    prior : (r, r) array
        Inverse covariance of their amounts.
    terms : list of (n, n_terms) arrays
        Terms of each order at the stars, from order 0.

    Returns
    -------
    Choice
        The lowest order whose gain is within 0.3 standard errors of the largest (a cubic must be
        better by a tenth), and the most components whose gain is within half of one; of fewer than
        16 stars the highest order and all components. Order 0 if its gain is not above its error.
    """
    matrix, vector = _equations(fit, span)
    n, rank = vector.shape
    turn = np.random.default_rng(0).permutation(n) % min(n, _FOLDS)
    chi = np.empty((len(terms), rank, n))
    for order, t in enumerate(terms):
        for r in range(1, rank + 1):
            chi[order, r - 1] = _left_out(matrix[:, :r, :r], vector[:, :r], t, prior[:r, :r], turn)
    gain = chi[0].sum(axis=1).min() - chi.sum(axis=2)
    base = chi[0, chi[0].sum(axis=1).argmin()]

    def error(a: FloatArray, b: FloatArray) -> float:
        return float(np.sqrt(n) * np.std(a - b, ddof=1)) if n > 1 else np.inf

    best = (len(terms) - 1, rank - 1)
    if n >= _FEW and len(terms) > 1:
        at = np.unravel_index(gain[1:].argmax(), gain[1:].shape)
        best = (int(at[0]) + 1, int(at[1]))
    if len(terms) == 1 or gain[best] < _SURE * error(base, chi[best]):
        return Choice(0, 0, gain, 0.0, n)
    if n < _FEW:
        return Choice(best[0], rank, gain, error(base, chi[best]), n)
    if best[0] == 3 and gain[best] < _CUBIC * gain[2].max():
        best = (2, int(gain[2].argmax()))
    for order in range(1, best[0]):
        r = int(gain[order].argmax())
        if gain[best] - gain[order, r] < 0.3 * error(chi[order, r], chi[best]):
            best = (order, r)
            break
    # A component too many costs little, one too few is an error everywhere.
    order, least = best
    for r in range(rank - 1, least, -1):
        if gain[best] - gain[order, r] < 0.5 * error(chi[order, r], chi[best]):
            best = (order, r)
            break
    return Choice(best[0], best[1] + 1, gain, error(base, chi[best]), n)


def _left_out(
    matrix: FloatArray,
    vector: FloatArray,
    terms: FloatArray,
    stiff: FloatArray,
    turn: NDArray[np.intp],
) -> FloatArray:
    """Return the change of each star's chi-square by a fit without it and others of its turn."""
    n, r = vector.shape
    p = terms.shape[1]
    pairs = terms[:, :, None] * terms[:, None, :]
    each = np.einsum("npq,nij->npiqj", pairs, matrix).reshape(n, p * r, p * r)
    sides = (terms[:, :, None] * vector[:, None]).reshape(n, p * r)
    n_turns = int(turn.max()) + 1
    member = (turn == np.arange(n_turns)[:, None]).astype(float)
    prior = np.kron(np.eye(p), stiff)
    normal = each.sum(axis=0) - np.tensordot(member, each, (1, 0)) + prior
    side = sides.sum(axis=0) - member @ sides
    found = np.linalg.solve(normal, side[:, :, None])[:, :, 0].reshape(n_turns, p, r)
    amount = np.einsum("np,npr->nr", terms, found[turn])
    return np.asarray(
        np.einsum("ni,nij,nj->n", amount, matrix, amount) - 2 * (amount * vector).sum(axis=1)
    )
