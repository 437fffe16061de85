"""Judge a PSF by its residuals on stars that are not in it, or by its difference from the truth.

Sizes and shapes are from adaptive moments (Bernstein & Jarvis 2002, AJ 123, 583, section 3.1), with
an elliptical Gaussian weight of the size and shape of the source. T is the trace of the second
moments; e1 and e2 are the distortion. All residuals are PSF minus star: positive dT/T means that
the PSF is too wide.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray

from mlpsf.errors import InputError, PSFError
from mlpsf.frames.cutouts import extract_cutouts
from mlpsf.frames.frame import Frame
from mlpsf.frames.io.reading import read_frame
from mlpsf.neighbours.subtract import as_judged
from mlpsf.psf.quality.figures import ELLIPTICITY_LIMIT, SIZE_LIMIT, PSFQuality
from mlpsf.psf.quality.star_fits import FitScale, fit_stars, inside, judging_places
from mlpsf.psf.quality.star_shapes import (
    DrawnPSF,
    adaptive_moments,
    drawn_at,
    fit_surface,
    growth_of,
    median_and_error,
    own_moments,
)

__all__ = [
    "ELLIPTICITY_LIMIT",
    "SIZE_LIMIT",
    "DrawnPSF",
    "PSFQuality",
    "adaptive_moments",
    "against_truth",
    "psf_quality",
]

FloatArray = NDArray[np.float64]

_FITTED = 3.0  # FWHM, radius of the fit
_SKY = 4.5  # FWHM, outer radius of the sky ring, which starts where the fit ends
_JUDGED = 2.0  # FWHM, radius of chi-square and residual image
_INNER = 1.5  # FWHM, radius of the aperture of `flux_residual`


def psf_quality(frame: Any, psf: DrawnPSF, stars: Any, *, grid: int = 9) -> PSFQuality:
    """Judge a PSF by stars of a frame.

    Position and flux of the PSF are fitted to each star within 3 FWHM, weighted by the noise of sky
    and star. The local sky is the median of a ring outside. Then star and fit are measured in the
    same way on the same pixels. Where the PSF varies, each star is judged by that of its place.

    Parameters
    ----------
    frame : Frame, path, or (ny, nx) array
    psf : PSFModel, or an object with the same ``stamps`` method
    stars : Table or (n, 2) array
        Columns x and y, 0-based. Rows that are ``reserved`` judge the PSF. If there are none, all
        rows do, or all that are ``selected``. The maps use all of these stars.
    grid : int
        Number of points of the maps along each axis.

    Returns
    -------
    PSFQuality

    Raises
    ------
    InputError
        If a parameter is invalid, or a star's position is not finite.
    PSFError
        If no star is given, or none can be measured: masked, off the frame, or without light.

    Examples
    --------
    >>> from mlpsf.psf import PSFModel
    >>> psf = PSFModel(np.zeros((310, 310)), 3.0, 3.0)
    >>> x, y = np.array([30.2, 80.7, 130.0]), np.array([40.0, 41.4, 38.6])
    >>> light = 100 + psf.render(x, y, 1e5, shape=(80, 160))
    >>> image = np.random.default_rng(0).poisson(light)
    >>> quality = psf_quality(image, psf, np.column_stack([x, y]))
    >>> quality.n_stars, quality.passes()
    (3, True)
    """
    if grid < 1:
        raise InputError(f"grid must be 1 or more. Got {grid}.")
    if not isinstance(frame, Frame):
        frame = read_frame(frame)
    frame = as_judged(frame, stars)
    places, judging, reserved = judging_places(stars)
    fwhm, own = own_moments(psf)
    size = 2 * int(np.ceil(_SKY * fwhm)) + 1
    radius = min(_FITTED * fwhm, int(getattr(psf, "size", 51)) // 2)
    x, y = places.T
    cut = extract_cutouts(frame, x, y, size, background=frame.background.level)
    data = cut.data.astype(np.float64)
    dx, dy = cut.x - cut.x0, cut.y - cut.y0
    noise = extract_cutouts(frame.background.rms, x, y, size).data.astype(np.float64)
    # A variance plane already includes the photon noise of the stars.
    gain = frame.gain if frame.variance is None and frame.gain > 0 else np.inf
    saturated = extract_cutouts(frame.saturated.astype(np.float32), x, y, size).data > 0
    seen = np.isfinite(data) & ~saturated
    inner = inside(size, dx, dy, radius)
    whole = (seen & inner).sum(axis=(1, 2)) > 0.8 * np.pi * radius**2
    whole &= (seen | ~inside(size, dx, dy, max(0.5 * fwhm, 1.5))).all(axis=(1, 2))
    if not (whole & judging).any():
        raise PSFError(
            f"None of {judging.sum()} stars can judge the PSF: masked, saturated or off the frame."
        )
    data, seen, noise = data[whole], seen[whole], noise[whole]
    stamps = drawn_at(psf, cut.x[whole], cut.y[whole])
    found, star, model, variance = fit_stars(stamps, data, seen, noise, FitScale(radius, gain))
    fx, fy, flux = found
    near = seen & inside(size, fx, fy, _JUDGED * fwhm)
    chi = np.where(near, (star - model) ** 2 / variance, 0.0)
    signal = np.sqrt(np.where(near, model**2 / variance, 0.0).sum(axis=(1, 2)))
    # Outside the fit, and in masked pixels, the star is replaced by the PSF.
    star = np.where(seen & inside(size, fx, fy, radius), star, model)
    t, e1, e2 = adaptive_moments(star, fwhm / 2.3548)[:, 2:].T
    t0, f1, f2 = adaptive_moments(model, fwhm / 2.3548)[:, 2:].T
    # Of the PSF at each star's place, at the centre of a pixel.
    here = adaptive_moments(stamps(0 * fx, 0 * fy, size), fwhm / 2.3548)[:, 3:].T
    radii = np.arange(0.5, radius + 0.01, 0.5)
    light, drawn = (growth_of(v, fx, fy, radii) for v in (star, model))
    # Relative to the PSF at the star's sub-pixel position, on which small apertures depend. The
    # fitted flux is that of the core; the star's flux is that in the largest circle.
    good = (flux > 0) & np.isfinite(t) & np.isfinite(t0) & (light[:, -1] > 0)
    good &= (drawn > 0).all(axis=1)
    light, drawn = (np.where(good[:, None], v, 1.0) for v in (light, drawn))
    excess = (light / light[:, -1:]) / (drawn / drawn[:, -1:])
    core = np.array([np.interp(_INNER * fwhm, radii, v) for v in excess])
    judges = good & judging[whole]
    if not judges.any():
        raise PSFError(f"None of {len(good)} stars has light that the PSF can be fitted to.")
    table = Table(
        {
            "x": cut.x0[whole] + fx,
            "y": cut.y0[whole] + fy,
            "flux": flux,
            "snr": signal,
            "size_residual": 1 - t / t0,
            "e1_residual": f1 - e1,
            "e2_residual": f2 - e2,
            "flux_residual": 1 - core,
            "chi_square": chi.sum(axis=(1, 2)) / np.maximum(near.sum(axis=(1, 2)) - 4, 1),
            "fwhm": fwhm * np.sqrt(t / own[2]),
            "e1": here[0] + e1 - f1,
            "e2": here[1] + e2 - f2,
        }
    )
    expected = 2.0 / np.maximum(signal, 1e-9)
    figures = {
        name: median_and_error(np.asarray(table[name])[judges], expected[judges] * scale)
        for name, scale in (
            ("size_residual", 1.0),
            ("e1_residual", 1.0),
            ("e2_residual", 1.0),
            ("flux_residual", 0.5),
        )
    }
    peak = model.max(axis=(1, 2))[:, None, None]
    stack = np.where(near, (model - star) / peak, np.nan)[judges]
    # At the rim, where few stars reach, a pixel would be the noise of one of them.
    shown = 2 * np.isfinite(stack).sum(axis=0) >= len(stack)
    image = np.zeros(stack.shape[1:])
    image[shown] = np.nanmedian(stack[:, shown], axis=0)
    box = np.asarray(psf.stamps([0.0], [0.0], getattr(psf, "size", 51)), dtype=np.float64)
    growth = growth_of(box / box.sum(), np.zeros(1), np.zeros(1), radii)[0]
    curve = growth[:, None] * [median_and_error(v, expected[judges] / 2) for v in excess[judges].T]
    ny, nx = frame.shape
    u, v = np.linspace(-1, 1, grid), np.linspace(-1, 1, grid)
    at = (np.broadcast_to(u, (grid, grid)), np.broadcast_to(v[:, None], (grid, grid)))
    u0, v0 = 2 * table["x"][good] / (nx - 1) - 1, 2 * table["y"][good] / (ny - 1) - 1
    maps = [fit_surface(u0, v0, np.asarray(table[c][good]), at) for c in ("fwhm", "e1", "e2")]
    length = np.minimum(np.hypot(maps[1], maps[2]), 0.999)
    e_error = float(np.sqrt((figures["e1_residual"][1] ** 2 + figures["e2_residual"][1] ** 2) / 2))
    return PSFQuality(
        n_stars=int(judges.sum()),
        reserved=bool(reserved.any()),
        size_residual=figures["size_residual"][0],
        size_error=figures["size_residual"][1],
        e1_residual=figures["e1_residual"][0],
        e2_residual=figures["e2_residual"][0],
        e_error=e_error,
        flux_residual=figures["flux_residual"][0],
        flux_error=figures["flux_residual"][1],
        chi_square=float(np.median(table["chi_square"][judges])),
        residual_image=image,
        residual_peak=float(np.abs(image).max()),
        radii=radii,
        growth=growth,
        measured_growth=curve[:, 0],
        growth_error=curve[:, 1],
        stars=table[judges],
        map_x=(u + 1) / 2 * (nx - 1),
        map_y=(v + 1) / 2 * (ny - 1),
        fwhm_map=maps[0],
        ellipticity_map=1 - np.sqrt((1 - length) / (1 + length)),
    )


def against_truth(psf: DrawnPSF, truth_stamp: ArrayLike) -> PSFQuality:
    """Judge a PSF by the true PSF.

    Parameters
    ----------
    psf : PSFModel, or an object with the same ``stamps`` method
    truth_stamp : array_like, shape (size, size)
        True PSF with the star at the centre of the middle pixel, in any normalisation. Both PSFs
        are normalised to a sum of 1 over the stamp.

    Returns
    -------
    PSFQuality
        Errors are 0, there are no stars, and the maps have a single value.

    Raises
    ------
    InputError
        If the stamp is not square with an odd side, or contains no light.

    Examples
    --------
    >>> from mlpsf.psf import PSFModel
    >>> true, wide = (PSFModel(np.zeros((310, 310)), alpha, 3.0) for alpha in (3.0, 3.03))
    >>> quality = against_truth(wide, true.render(15, 15, shape=(31, 31)))
    >>> round(quality.size_residual, 3), quality.passes()
    (0.019, False)
    """
    true = np.array(truth_stamp, dtype=np.float64)
    size = true.shape[0] if true.ndim == 2 else 0
    if true.shape != (size, size) or size % 2 == 0 or not (np.isfinite(true).all()):
        raise InputError(f"A stamp must be square, odd and finite. Got shape {true.shape}.")
    if not true.sum() > 0:
        raise InputError("A stamp must hold light.")
    true /= true.sum()
    got = np.asarray(psf.stamps([0.0], [0.0], size), dtype=np.float64)[0]
    got = got / got.sum()
    fwhm, own = own_moments(psf)
    mine, theirs = adaptive_moments(np.stack([got, true]), fwhm / 2.3548)
    radii = np.arange(0.5, size // 2 + 0.01, 0.5)
    zeros = np.zeros(2)
    growth, measured = growth_of(np.stack([got, true]), zeros, zeros, radii)
    inner = growth_of(np.stack([got, true]), zeros, zeros, np.array([_INNER * fwhm]))[:, 0]
    image = (got - true) / true.max()
    length = min(float(np.hypot(own[3], own[4])), 0.999)
    return PSFQuality(
        n_stars=0,
        reserved=True,
        size_residual=float(mine[2] / theirs[2] - 1),
        size_error=0.0,
        e1_residual=float(mine[3] - theirs[3]),
        e2_residual=float(mine[4] - theirs[4]),
        e_error=0.0,
        flux_residual=float(inner[0] / inner[1] - 1),
        flux_error=0.0,
        chi_square=float("nan"),
        residual_image=image,
        residual_peak=float(np.abs(image).max()),
        radii=radii,
        growth=growth,
        measured_growth=measured,
        growth_error=np.zeros_like(radii),
        stars=Table(),
        map_x=np.zeros(1),
        map_y=np.zeros(1),
        fwhm_map=np.array([[fwhm]]),
        ellipticity_map=np.array([[1 - np.sqrt((1 - length) / (1 + length))]]),
    )
