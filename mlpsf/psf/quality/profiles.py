"""Each star beside the PSF: radial profiles and residuals."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from mlpsf.errors import PSFError
from mlpsf.frames.cutouts import extract_cutouts
from mlpsf.frames.frame import Frame
from mlpsf.frames.io.reading import read_frame
from mlpsf.neighbours.subtract import as_judged
from mlpsf.psf.quality.star_fits import FitScale, fit_stars, inside
from mlpsf.psf.quality.star_shapes import DrawnPSF, drawn_at, own_moments

__all__ = ["StarProfiles", "star_profiles"]

FloatArray = NDArray[np.float64]

_FITTED = 3.0  # FWHM, radius of the fit, as in `mlpsf.psf.psf_quality`
_SKY = 4.5  # FWHM, outer radius of the sky ring
_JUDGED = 2.0  # FWHM, radius of chi-square
_WHOLE = 0.5  # share of the fitted pixels that must be there


@dataclass(frozen=True, eq=False)
class StarProfiles:
    """Stars and the PSF that was fitted to each; all relative to the peak of the fitted PSF.

    Attributes
    ----------
    radii : ndarray, shape (m,)
        Middle of each ring in pixels.
    stars, errors : ndarray, shape (n, m)
        Mean of each star in each ring, without light of neighbours, and its error from the noise;
        NaN where a star could not be fitted.
    psf : ndarray, shape (n, m)
        The same of the fitted PSF.
    residuals : ndarray, shape (n, size, size)
        Star minus PSF; NaN in bad pixels.
    chi_square : ndarray, shape (n,)
        Reduced chi-square within 2 FWHM.
    noise : float
        Median noise of the sky in a pixel.
    fwhm : float
        FWHM of the PSF in pixels.
    """

    radii: FloatArray
    stars: FloatArray
    errors: FloatArray
    psf: FloatArray
    residuals: FloatArray
    chi_square: FloatArray
    noise: float
    fwhm: float

    def first(self, n: int) -> StarProfiles:
        """Return those of the first n stars."""
        names = ("stars", "errors", "psf", "residuals", "chi_square")
        return replace(self, **{name: getattr(self, name)[:n] for name in names})


def star_profiles(frame: Any, psf: DrawnPSF, stars: Table) -> StarProfiles:
    """Fit the PSF to each star, and return both in rings of a pixel.

    Parameters
    ----------
    frame : Frame, path, or (ny, nx) array
    psf : PSFModel, or an object with the same ``stamps`` method
    stars : Table
        Columns x and y, 0-based; all rows are used.

    Returns
    -------
    StarProfiles
        A row a star, in the order given.

    Raises
    ------
    PSFError
        If no star is given.

    Examples
    --------
    >>> from mlpsf import read_frame
    >>> from mlpsf.psf import PSFModel
    >>> psf = PSFModel(np.zeros((310, 310)), 3.0, 3.0)
    >>> light = 100 + psf.render([30.2, 80.7], [40.0, 41.4], 1e5, shape=(80, 110))
    >>> frame = read_frame(np.random.default_rng(0).poisson(light).astype(np.float32))
    >>> profiles = star_profiles(frame, psf, Table({"x": [30.2, 80.7], "y": [40.0, 41.4]}))
    >>> bool(np.abs(profiles.stars - profiles.psf).max() < 0.02)
    True
    """
    if len(stars) == 0:
        raise PSFError("No star to draw beside the PSF: the list is empty.")
    if not isinstance(frame, Frame):
        frame = read_frame(frame)
    frame = as_judged(frame, stars)
    fwhm, _ = own_moments(psf)
    size = 2 * int(np.ceil(_SKY * fwhm)) + 1
    radius = min(_FITTED * fwhm, int(getattr(psf, "size", 51)) // 2)
    x, y = (np.asarray(stars[c], dtype=np.float64) for c in "xy")
    cut = extract_cutouts(frame, x, y, size, background=frame.background.level)
    data = cut.data.astype(np.float64)
    noise = extract_cutouts(frame.background.rms, x, y, size).data.astype(np.float64)
    saturated = extract_cutouts(frame.saturated.astype(np.float32), x, y, size).data > 0
    seen = np.isfinite(data) & np.isfinite(noise) & ~saturated
    nothing = np.zeros(len(x))
    enough = (seen & inside(size, nothing, nothing, radius)).sum(axis=(1, 2))
    use = enough > _WHOLE * np.pi * radius**2
    n, m = len(x), int(radius)
    out = {name: np.full((n, m), np.nan) for name in ("stars", "errors", "psf")}
    residuals = np.full((n, size, size), np.nan)
    chi_square = np.full(n, np.nan)
    sky_noise = float("nan")
    if use.any():
        # A variance plane already holds the photon noise of the stars.
        gain = frame.gain if frame.variance is None and frame.gain > 0 else np.inf
        data, seen, noise = data[use], seen[use], np.where(seen, noise, 1.0)[use]
        stamps = drawn_at(psf, cut.x[use], cut.y[use])
        (dx, dy, flux), star, model, variance = fit_stars(
            stamps, np.where(seen, data, 0.0), seen, noise, FitScale(radius, gain)
        )
        peak = np.asarray(stamps(nothing[use], nothing[use], size)).max(axis=(1, 2)) * flux
        peak = np.where(peak > 0, peak, np.nan)[:, None, None]
        near = seen & inside(size, dx, dy, _JUDGED * fwhm)
        excess = np.where(near, (star - model) ** 2 / variance, 0.0).sum(axis=(1, 2))
        chi_square[use] = excess / np.maximum(near.sum(axis=(1, 2)) - 4, 1)
        off = np.where(seen, (star - model) / peak, np.nan)
        residuals[use] = off
        ring = _rings(size, dx, dy)
        for k in range(m):
            here = ring == k
            count = np.maximum((here & seen).sum(axis=(1, 2)), 1)
            mean = np.where(here, model / peak, 0.0).sum(axis=(1, 2)) / np.maximum(
                here.sum(axis=(1, 2)), 1
            )
            spread = np.where(here & seen, variance, 0.0).sum(axis=(1, 2))
            out["psf"][use, k] = mean
            out["stars"][use, k] = mean + _median_of(off, here)
            out["errors"][use, k] = np.sqrt(spread) / count / peak[:, 0, 0]
        sky_noise = float(np.nanmedian(noise / peak))
    return StarProfiles(
        radii=np.arange(m, dtype=np.float64) + 0.5,
        residuals=residuals,
        chi_square=chi_square,
        noise=sky_noise,
        fwhm=float(fwhm),
        **out,
    )


def _rings(size: int, dx: FloatArray, dy: FloatArray) -> NDArray[np.int_]:
    """Return the ring of each pixel around n positions, of one pixel's width, from 0."""
    u = np.arange(size) - size // 2
    square = (u - dx[:, None])[:, None, :] ** 2 + (u - dy[:, None])[:, :, None] ** 2
    return np.sqrt(square).astype(int)


def _median_of(values: FloatArray, where: NDArray[np.bool_]) -> FloatArray:
    """Return the median of each image over some pixels, NaN where there are none."""
    flat = np.where(where, values, np.nan).reshape(len(values), -1)
    ok = np.isfinite(flat).any(axis=1)
    out = np.full(len(values), np.nan)
    out[ok] = np.nanmedian(flat[ok], axis=1)
    return out
