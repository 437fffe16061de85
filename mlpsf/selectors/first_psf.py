"""First PSF of a frame, made from its cutouts alone, and the residuals of its sources."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mlpsf.detection.common_size import stellar_size
from mlpsf.errors import NoSourcesError
from mlpsf.labelling import residual_distance
from mlpsf.stacks.effective import EffectivePSF, stack_stars
from mlpsf.stacks.fitting import PSFFit, fit_psf, residual_figures, subtract_fit
from mlpsf.stacks.moments import FWHM_PER_SIGMA, gaussian_moments
from mlpsf.stacks.values import sky_and_noise

__all__ = ["Verdict", "first_psf", "judge", "judge_frame"]

Fitter = Literal["vectorized", "trippy"]

_SETTLED = 0.05  # pixels; a fit that still goes to and fro ends where rounding errors choose
_FIRST_STARS = 40  # enough that blends and galaxies are outvoted in every pixel
_MAX_HALF = 40  # pixels; radius of a PSF, 4.4 FWHM in the worst seeing
_MEASURED = 49  # pixels a side that the moments of a star need


@dataclass(frozen=True, eq=False)
class Verdict:
    """Result of the classical method for n cutouts; arrays of shape (n,).

    `variance` and `peak` are the two residual figures, inf where the fit failed.
    """

    psf: EffectivePSF
    fit: PSFFit
    variance: NDArray[np.float64]
    peak: NDArray[np.float64]


def first_psf(
    data: NDArray[np.float32], noise: NDArray[np.floating], eligible: NDArray[np.bool_]
) -> EffectivePSF:
    """Make a frame's PSF from its cutouts alone.

    The most star-like sources are stacked: those with the size and shape that the bright and
    compact sources share, and with the least light beside them. In bad seeing the brightest
    compact source can be a galaxy's core or a blend. Stars are recognised by their common size.

    Parameters
    ----------
    data : ndarray, shape (n, size, size)
        Sky-subtracted cutouts; NaN marks pixels without data.
    noise : ndarray, shape (n,)
        Noise per pixel of each cutout.
    eligible : ndarray of bool, shape (n,)
        Whether a cutout may be used.

    Returns
    -------
    EffectivePSF

    Raises
    ------
    NoSourcesError
        No cutout looks like a star.
    """
    size = data.shape[-1]
    c, h = size // 2, min(size, _MEASURED) // 2
    inner = data[:, c - h : c + h + 1, c - h : c + h + 1]
    m = gaussian_moments(inner, np.clip(h / 4, 2.0, 6.0))
    area = np.sqrt(4 * np.pi) * m.fwhm / FWHM_PER_SIGMA
    with np.errstate(invalid="ignore", divide="ignore"):
        snr = m.flux / (np.maximum(noise, 1e-12) * area)
    off = np.hypot(m.dx, m.dy)
    usable = eligible & m.ok & (snr > 10) & (m.ellipticity < 0.6) & (off < 0.25 * h + 1)
    if not usable.any():
        usable = m.ok & (m.flux > 0)
    if not usable.any():
        raise NoSourcesError(
            f"None of the {len(data)} cutouts holds a source that a PSF could start from: "
            "expected sky-subtracted stars at their centres."
        )
    rows = np.flatnonzero(usable)
    rows = rows[np.argsort(-snr[rows], kind="stable")][: int(np.clip(len(rows) // 2, 50, 600))]
    fwhm = stellar_size(m.fwhm[rows], m.e1[rows], m.e2[rows])
    near = rows[np.abs(m.fwhm[rows] / fwhm - 1) < 0.1]
    near = near if len(near) else rows
    fwhm = float(np.median(m.fwhm[near]))
    e1, e2 = np.median(m.e1[near]), np.median(m.e2[near])
    unlike = np.hypot(m.fwhm[rows] / fwhm - 1, np.hypot(m.e1[rows] - e1, m.e2[rows] - e2) / 2)
    beside = _light_beside(data[rows], 2.0 * fwhm)
    # Each term is 1 at the limit between a star and something else.
    merit = unlike / 0.05 + beside / 0.02 - 0.3 * np.log10(np.maximum(snr[rows], 1))
    best = rows[np.argsort(merit, kind="stable")][:_FIRST_STARS]
    half = int(np.clip(np.ceil(5 * fwhm), 8, min(_MAX_HALF, size // 2)))
    return stack_stars(data[best], m.dx[best], m.dy[best], m.flux[best], half)


def _light_beside(data: NDArray[np.float32], radius: float) -> NDArray[np.float64]:
    """Return the third-highest pixel beyond a radius, divided by the peak, shape (n,)."""
    size = data.shape[-1]
    u = np.arange(size) - size // 2
    out = (u**2 + u[:, None] ** 2) > radius**2
    if out.sum() < 9:
        return np.zeros(len(data))
    values = np.nan_to_num(data[:, out], nan=-np.inf)
    third = np.partition(values, -3, axis=1)[:, -3]
    c = size // 2
    core = np.nan_to_num(data[:, c - 1 : c + 2, c - 1 : c + 2], nan=-np.inf)
    top = core.reshape(len(data), -1).max(axis=1)
    share = np.where(top > 0, third / np.where(top > 0, top, 1), np.inf)
    return np.maximum(share, 0.0).astype(np.float64)


def judge(
    data: NDArray[np.float32], psf: EffectivePSF, half_width: int, fitter: Fitter = "vectorized"
) -> Verdict:
    """Fit and subtract a PSF from sky-subtracted cutouts and compute both residual figures.

    Parameters
    ----------
    data : ndarray, shape (n, size, size)
    psf : EffectivePSF
    half_width : int
        Half-width of the fit window in pixels.
    fitter : {"vectorized", "trippy"}
        Fit all sources at once, or one by one with TRIPPy's ``LSfitter``.

    Returns
    -------
    Verdict
    """
    if fitter == "trippy":
        from mlpsf.psf.trippy.border import fit_one_by_one

        fit = fit_one_by_one(data, psf, half_width)
    else:
        fit = fit_psf(data, psf, half_width=half_width, settled=_SETTLED)
    n = len(data)
    variance, peak = np.full(n, np.inf), np.full(n, np.inf)
    for start in range(0, n, 256):  # in blocks that stay in the processor's cache
        rows = slice(start, start + 256)
        part = PSFFit._make(v[rows] for v in fit)
        residual, model = subtract_fit(data[rows], psf, part)
        variance[rows], peak[rows] = residual_figures(data[rows], residual, model)
    variance[~fit.ok] = peak[~fit.ok] = np.inf
    return Verdict(psf, fit, variance, peak)


def judge_frame(
    data: NDArray[np.float32],
    eligible: NDArray[np.bool_],
    *,
    half_width: int,
    n_best: int,
    n_iter: int = 2,
    fitter: Fitter = "vectorized",
) -> Verdict:
    """Judge the sources of one frame by a PSF made from them.

    The first PSF ranks all sources. The sources with the smallest residuals make the next PSF.
    This is repeated `n_iter` times.

    Parameters
    ----------
    data : ndarray, shape (n, size, size)
        Sky-subtracted cutouts of one frame.
    eligible : ndarray of bool, shape (n,)
        Whether a cutout may be used for the PSF.
    half_width, n_best : int
        Half-width of the fit window in pixels; number of sources that make the next PSF.
    n_iter : int
        Number of times the PSF is rebuilt from the best sources.
    fitter : {"vectorized", "trippy"}
        Fitter of the last iteration, whose figures are returned.

    Returns
    -------
    Verdict
    """
    _, noise = sky_and_noise(data)
    psf = first_psf(data, noise, eligible)
    for _ in range(n_iter):
        verdict = judge(data, psf, half_width)
        distance = residual_distance(verdict.variance, verdict.peak)
        distance[~eligible] = np.inf
        best = np.argsort(distance, kind="stable")[:n_best]
        best = best[np.isfinite(distance[best])]
        if len(best) < 3:
            break
        fit = verdict.fit
        psf = stack_stars(data[best], fit.dx[best], fit.dy[best], fit.flux[best], psf.half)
    return judge(data, psf, half_width, fitter)
