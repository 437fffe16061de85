"""Fit a PSF to many cutouts at once and compute the residual figures of the classical method."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlpsf.stacks.effective import EffectivePSF

__all__ = ["FIT_HALF_WIDTH", "PSFFit", "fit_psf", "residual_figures", "subtract_fit"]

FIT_HALF_WIDTH = 7
"""Half-width of the fit window in pixels, as in the ML-PSF study."""

_MAX_OFFSET = 3.0  # pixels; a fit that moves further from its source has failed


class PSFFit(NamedTuple):
    """Offsets from the cutouts' centres (pixels) and fluxes of n fits, arrays of shape (n,).

    `ok` is False where the fit diverged, found no light or had too few pixels. The values there
    are those of the last valid step.
    """

    dx: NDArray[np.float64]
    dy: NDArray[np.float64]
    flux: NDArray[np.float64]
    ok: NDArray[np.bool_]


def fit_psf(
    cutouts: NDArray[np.floating],
    psf: EffectivePSF,
    *,
    dx: NDArray[np.floating] | None = None,
    dy: NDArray[np.floating] | None = None,
    half_width: int = FIT_HALF_WIDTH,
    n_iter: int = 20,
    tolerance: float = 1e-4,
    settled: float = np.inf,
) -> PSFFit:
    """Fit position and flux of a PSF to each cutout by least squares with equal pixel weights.

    Damped Gauss-Newton (Levenberg 1944) with a 3 x 3 system per source. All sources are fitted at
    once; converged ones leave the loop.

    Parameters
    ----------
    cutouts : ndarray, shape (n, size, size)
        Sky-subtracted; NaN marks pixels without data.
    psf : EffectivePSF
    dx, dy : ndarray of shape (n,), optional
        Initial offsets from the centre in pixels; 0 by default.
    half_width : int
        The window is ``2 * half_width + 1`` pixels wide.
    n_iter : int
        Maximum number of steps.
    tolerance : float
        A source has converged when it moves by less than this many pixels.
    settled : float
        A fit whose last step is longer, in pixels, has failed.

    Returns
    -------
    PSFFit

    Examples
    --------
    >>> import numpy as np
    >>> u = np.arange(-100, 101) / 10
    >>> psf = EffectivePSF(np.exp(-0.5 * (u**2 + u[:, None] ** 2) / 2.25) / (2.25 * 2 * np.pi))
    >>> star = 500 * psf.stamps(np.array([0.3]), np.array([-0.2]), 21)
    >>> fit = fit_psf(star, psf)
    >>> [round(float(v[0]), 3) for v in (fit.dx, fit.dy, fit.flux)]
    [0.3, -0.2, 500.0]
    """
    n, size = cutouts.shape[0], cutouts.shape[-1]
    w = min(half_width, size // 2)
    c = size // 2
    data = np.asarray(cutouts[:, c - w : c + w + 1, c - w : c + w + 1], dtype=np.float32)
    use = np.isfinite(data)
    data = np.where(use, data, np.float32(0))
    enough = use.sum(axis=(1, 2)) >= 0.5 * use[0].size if n else np.zeros(0, dtype=bool)
    px = np.zeros(n) if dx is None else np.array(dx, dtype=np.float64)
    py = np.zeros(n) if dy is None else np.array(dy, dtype=np.float64)
    px = np.clip(np.nan_to_num(px), -1.5, 1.5)
    py = np.clip(np.nan_to_num(py), -1.5, 1.5)
    flux, moved = np.zeros(n), np.zeros(n)
    todo = np.flatnonzero(enough)
    side = 2 * w + 1
    for _ in range(n_iter):
        if todo.size == 0:
            break
        model = psf.stamps_and_gradients(px[todo], py[todo], side) * use[todo]
        basis = model.reshape(3, len(todo), -1).swapaxes(0, 1)  # (n, 3, pixels)
        normal = (basis @ basis.swapaxes(1, 2)).astype(np.float64)
        target = (basis @ data[todo].reshape(len(todo), -1, 1)).astype(np.float64)[:, :, 0]
        # Variable projection: the flux is solved for at the current position. The position step
        # then comes from the 3 x 3 system in (flux, flux * shift x, flux * shift y).
        flux[todo] = target[:, 0] / np.maximum(normal[:, 0, 0], 1e-30)
        normal[:, (1, 2), (1, 2)] *= 1.0 + 1e-3
        trace = np.einsum("nii->n", normal)
        normal[:, (0, 1, 2), (0, 1, 2)] += (1e-9 * trace + 1e-30)[:, None]
        solution = np.linalg.solve(normal, target[:, :, None])[:, :, 0]
        amplitude = solution[:, 0]
        amplitude = np.where(np.abs(amplitude) > 1e-30, amplitude, 1e-30)
        step = np.clip(solution[:, 1:] / amplitude[:, None], -0.6, 0.6)
        px[todo] = np.clip(px[todo] + step[:, 0], -_MAX_OFFSET, _MAX_OFFSET)
        py[todo] = np.clip(py[todo] + step[:, 1], -_MAX_OFFSET, _MAX_OFFSET)
        moved[todo] = np.abs(step).max(axis=1)
        todo = todo[moved[todo] > tolerance]
    ok = (
        enough
        & (flux > 0)
        & (moved <= settled)
        & (np.maximum(np.abs(px), np.abs(py)) < _MAX_OFFSET)
    )
    return PSFFit(px, py, flux, ok)


def subtract_fit(
    cutouts: NDArray[np.floating], psf: EffectivePSF, fit: PSFFit
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the residual and the model of each fit, both in the shape of the cutouts.

    NaN pixels stay NaN in the residual.
    """
    model = psf.stamps(fit.dx, fit.dy, cutouts.shape[-1])
    model *= fit.flux.astype(np.float32)[:, None, None]
    return cutouts - model, model


def residual_figures(
    cutouts: NDArray[np.floating], residual: NDArray[np.floating], model: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the two residual figures with which the ML-PSF study judges a source.

    Parameters
    ----------
    cutouts, residual, model : ndarray, shape (n, size, size)
        Sky-subtracted pixels, residuals of the fit, and the fitted model. NaN marks pixels
        without data.

    Returns
    -------
    variance, peak : ndarray of float64, shape (n,)
        `variance`: the weighted mean square of (residual - its mean) with weights
        ``1 / (|model| + 1)``, times the number of pixels, over the model's flux. `peak`: the
        second-highest absolute residual over the highest of the central 3 x 3 pixels. Both are
        inf where there is no light, no valid pixel, or a peak twice as high as the model's (a hot
        pixel or cosmic ray, not a star).
    """
    n, size = residual.shape[0], residual.shape[-1]
    flat = residual.reshape(n, -1)
    use = np.isfinite(flat)
    values = np.where(use, flat, np.float32(0))
    count = use.sum(axis=1)
    weight = use / (np.abs(model.reshape(n, -1)) + np.float32(1))
    mean = values.sum(axis=1, dtype=np.float64) / np.maximum(count, 1)
    off = np.where(use, values - mean.astype(np.float32)[:, None], np.float32(0))
    square = np.square(off, dtype=np.float64)
    total = weight.sum(axis=1, dtype=np.float64)
    mean_square = (weight * square).sum(axis=1, dtype=np.float64) / np.maximum(total, 1e-30)
    flux = model.sum(axis=(1, 2), dtype=np.float64)
    c = size // 2
    core = np.nan_to_num(cutouts[:, c - 1 : c + 2, c - 1 : c + 2], nan=-np.inf)
    top = core.reshape(n, -1).max(axis=1).astype(np.float64)
    second = np.partition(np.abs(values), -2, axis=1)[:, -2].astype(np.float64)
    good = (flux > 0) & (top > 0) & np.isfinite(top) & (count > 1)
    # The second-highest residual tolerates one hot pixel, but not a source that is only that.
    explained = model[:, c - 1 : c + 2, c - 1 : c + 2].reshape(n, -1).max(axis=1)
    good &= explained > 0.5 * top
    variance = np.where(good, mean_square * count / np.where(good, flux, 1.0), np.inf)
    return variance, np.where(good, second / np.where(good, top, 1.0), np.inf)
