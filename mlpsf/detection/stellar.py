"""Find the common size and shape of a frame's stars among all its sources."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import sep
from numpy.typing import ArrayLike, NDArray

from mlpsf.detection.common_size import stellar_size, stellar_sizes
from mlpsf.detection.local_size import SizeMap, size_map
from mlpsf.errors import NoSourcesError, PSFError
from mlpsf.frames.cutouts import extract_cutouts, nearest_pixels
from mlpsf.frames.frame import Frame
from mlpsf.frames.tiles import TiledFrame
from mlpsf.stacks.effective import OVERSAMPLING, EffectivePSF, stack_stars
from mlpsf.stacks.fitting import fit_psf
from mlpsf.stacks.moments import FWHM_PER_SIGMA, Moments

__all__ = [
    "ON_CENTRE_SHARE",
    "SEVERAL",
    "STELLAR",
    "StellarProfile",
    "any_within",
    "on_pixel_centres",
    "stellar_profile",
]

_ON_CENTRE = 0.12  # pixels: sources nearer to a pixel's centre are on it

ON_CENTRE_SHARE = (2 * _ON_CENTRE) ** 2
"""Share of stars that are centred on a pixel, by chance; see `on_pixel_centres`."""

STELLAR = 0.15
"""Largest difference of a star from the size of the stars near it, in the logarithm."""

SEVERAL = 8
"""Sources that are enough to tell of what kind they are."""

_PROFILE_STARS = 30  # brightest members; more would only be fainter
_SHARPEST = 1.25  # pixels; FWHM by its moments, along its minor axis, of a star within a pixel
_LONG, _ALIKE = 0.6, 0.2  # ellipticity of what is no star, unless most are long, in e1 and e2 alike
_TRAILED_SNR = 20.0  # of sources that show it
_THIN, _RAGGED = 2.5, 0.33  # pixels, width of rays; stars are less ragged, whatever their optics
_ONE_SIZE, _STARS = 0.06, 0.25  # width in the logarithm, and share, of stars that are of one size
_WIDEST = 6.0  # pixels; wider stars are measured on resampled cutouts


@dataclass(frozen=True)
class StellarProfile:
    """The image of a frame's stars, as measured from the brightest compact sources.

    Attributes
    ----------
    fwhm : float
        Full width at half maximum in pixels, pixel included, the geometric mean of both axes.
    ellipticity : float
        ``1 - b / a``.
    n : int
        Number of stars it was measured on.
    moment_ratio : float
        FWHM over that of the moments. Scales the moments of other sources.
    sizes : SizeMap
        FWHM by the moments of the stars at any place of the frame.
    """

    fwhm: float
    ellipticity: float
    n: int
    moment_ratio: float
    sizes: SizeMap


def stellar_profile(
    frame: Frame,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    moments: Moments,
    whole: NDArray[np.bool_],
) -> StellarProfile:
    """Find the frame's FWHM from its brightest compact sources.

    Stars share one size and galaxies do not. So among bright, unblended, unsaturated, roundish
    sources the stars are a cluster in size and shape, of which few are narrower (cosmic rays are,
    but vary in size); see `mlpsf.detection.common_size.stellar_size`. The brightest
    members are stacked on a grid of tenths of pixels, and the FWHM is measured on the mean image.

    Parameters
    ----------
    frame : Frame
    x, y : ndarray, shape (n,)
        Positions of the sources, 0-based pixels.
    moments : Moments
        Moments of the same sources.
    whole : ndarray of bool, shape (n,)
        Whether a source is neither deblended, nor truncated, nor too bright.

    Returns
    -------
    StellarProfile

    Raises
    ------
    NoSourcesError
        If no source could be a star.
    """
    r = np.maximum(1.0 * np.nan_to_num(moments.fwhm, nan=3.0), 1.5)
    core_bad = any_within(frame.saturated | frame.mask, x, y, r)
    noise = frame.background.rms[nearest_pixels(x, y, frame.shape)]
    # S/N within the matched Gaussian, whose effective area is 4 pi sigma^2.
    snr = moments.flux / (noise * np.sqrt(4 * np.pi) * moments.fwhm / FWHM_PER_SIGMA)
    usable = moments.ok & ~core_bad & (snr > 5)
    usable &= _roundish(moments, usable & (snr > _TRAILED_SNR))
    # Nothing that came through optics is as sharp as one pixel: cosmic rays and hot pixels are.
    minor = moments.fwhm * np.sqrt(1 - moments.ellipticity)
    optical = usable & (np.nan_to_num(minor) > _SHARPEST)
    if optical.sum() >= 3:
        usable = optical
    # Nor as ragged: a track of a ray is thin, and no smooth profile fits it.
    thin = np.flatnonzero(usable & (np.nan_to_num(minor) < _THIN))
    smooth = usable.copy()
    smooth[thin] = ~(_raggedness(frame, x, y, moments, thin) > _RAGGED)
    if smooth.any():
        usable = smooth
    if not isinstance(frame, TiledFrame):  # whose cutouts may be centred on purpose
        usable &= ~_hot(x, y, moments, thin[usable[thin]], usable)
    if (usable & whole).sum() >= 5:
        usable &= whole
    if not usable.any():
        raise NoSourcesError(
            f"None of the {len(x)} sources of {frame.name} could be an unsaturated star, so the "
            f"frame's FWHM cannot be found. {_why_none(frame, moments, x, y, r, snr)}"
        )
    rows = np.flatnonzero(usable)
    rows = rows[np.argsort(-snr[rows])]
    bright = rows[: max(50, int((snr[rows] > 30).sum()))][:600]
    size = stellar_size(moments.fwhm[bright], moments.e1[bright], moments.e2[bright])
    shape = moments.fwhm[bright], moments.e1[bright], moments.e2[bright]
    place = frame.place(x[bright], y[bright])
    sizes = size_map(*place, *shape, size, stellar_sizes)
    if sizes.varies:  # the size of most of the frame, neither of its best nor of its worst part
        size = float(np.median(sizes(*place)))
    members = bright[np.abs(moments.fwhm[bright] / size - 1.0) < 0.10]
    # Select twice: the median of the members is more stable than the mode.
    for width in (0.07, 0.07):
        if len(members):
            size = float(np.median(moments.fwhm[members]))
        off = np.abs(moments.fwhm[bright] / size - 1.0)
        members = bright[off < max(width, off.min())]
    members = members if len(members) else bright[[np.argmin(off)]]
    members = members[:_PROFILE_STARS]
    e1, e2 = (float(np.median(v[members])) for v in (moments.e1, moments.e2))
    fwhm = size
    if len(members) > 2:  # a struck pixel in one of two stars would be their mean image's peak
        with suppress(PSFError):  # too faint for a mean image
            fwhm = _half_maximum(frame, x[members], y[members], moments.flux[members], size)
    e = min(np.hypot(e1, e2), 0.99)
    return StellarProfile(
        fwhm=fwhm,
        ellipticity=float(1.0 - np.sqrt((1 - e) / (1 + e))),
        n=len(members),
        moment_ratio=fwhm / float(np.median(moments.fwhm[members])),
        sizes=sizes,
    )


def on_pixel_centres(x: ArrayLike, y: ArrayLike) -> NDArray[np.bool_]:
    """Return which positions are within 0.12 pixels of a pixel's centre, along x and y.

    Parameters
    ----------
    x, y : array_like, shape (n,)
        0-based pixels.

    Returns
    -------
    ndarray of bool, shape (n,)

    Examples
    --------
    >>> on_pixel_centres([3.0, 7.1, 9.5], [4.05, 2.0, 1.0]).tolist()
    [True, True, False]
    """
    place = np.array([x, y], dtype=np.float64)
    return np.asarray((np.abs(place - np.rint(place)) < _ON_CENTRE).all(axis=0))


def _roundish(moments: Moments, bright: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which sources are as round as stars, or as long where most are long in one direction.

    Rays, tracks and pieces of spikes are long, but not most sources, nor alike.
    """
    long = ~(moments.ellipticity < _LONG)
    some = np.flatnonzero(bright & long)
    if len(some) >= SEVERAL:
        e1, e2 = (v - np.median(v[some]) for v in (moments.e1, moments.e2))
        alike = np.hypot(e1, e2) < _ALIKE
        if (bright & alike).sum() > 0.5 * bright.sum():
            return np.asarray(alike)
    return ~long


def _hot(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    moments: Moments,
    thin: NDArray[np.intp],
    usable: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Return which of the thin sources are hot pixels, which resampling makes wide and smooth.

    That is so where most of them are centred on pixels, and others are the stars: of one size.
    """
    hot = np.zeros(len(x), dtype=bool)
    on = thin[on_pixel_centres(x[thin], y[thin])]
    hot[on] = True
    others = np.flatnonzero(usable & ~hot)
    if len(on) < max(SEVERAL, 0.5 * len(thin)) or len(others) < SEVERAL:
        return np.zeros_like(hot)
    brightest = others[np.argsort(-moments.flux[others])][:400]
    shape = moments.fwhm[brightest], moments.e1[brightest], moments.e2[brightest]
    alike = np.abs(np.log(shape[0] / stellar_size(*shape))) < _ONE_SIZE
    return np.asarray(hot & (alike.sum() >= max(SEVERAL, _STARS * len(alike))))


def _why_none(
    frame: Frame,
    moments: Moments,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    reach: NDArray[np.float64],
    snr: NDArray[np.float64],
) -> str:
    """Say what the sources are instead of stars, and what to try."""
    full, bad = (any_within(mask, x, y, reach) for mask in (frame.saturated, frame.mask))
    kinds = {
        "saturated": full,
        "masked": bad & ~full,
        "of no measurable size": ~moments.ok,
        "of S/N under 5": moments.ok & ~(snr > 5),
        "elongated": moments.ok & (snr > 5) & ~(moments.ellipticity < 0.6),
    }
    said = ", ".join(f"{int(rows.sum())} {kind}" for kind, rows in kinds.items() if rows.any())
    advice = "Are these images of the sky, with its sources?"
    if full.sum() >= 0.5 * len(x) and np.isfinite(frame.saturation):
        advice = f"Is the saturation level ({frame.saturation:.6g} {frame.unit_name}) right?"
    elif full.sum() >= 0.5 * len(x):
        advice = "Is the saturation level, or the mask that marks saturated pixels, right?"
    elif bad.sum() >= 0.5 * len(x):
        advice = (
            "Is the mask right? Scattered bad pixels may be filled first, set to NaN, as by "
            "interpolate_replace_nans of astropy.convolution."
        )
    return f"They are: {said}. {advice}"


def _raggedness(
    frame: Frame,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    moments: Moments,
    rows: NDArray[np.intp],
) -> NDArray[np.float64]:
    """Return what the Gaussian of a source's own moments leaves of it, relative, without noise."""
    if not len(rows):
        return np.zeros(0)
    half = int(np.ceil(1.2 * np.max(moments.fwhm[rows]))) + 1
    cut = extract_cutouts(frame, x[rows], y[rows], 2 * half + 1, background=frame.background.level)
    rms = frame.background.rms[nearest_pixels(x[rows], y[rows], frame.shape)].astype(np.float64)
    pixels = cut.data / rms[:, None, None]
    fwhm, e1, e2 = (v[rows, None, None] for v in (moments.fwhm, moments.e1, moments.e2))
    # With e1 and e2 of the covariance C, and det(C) as of the FWHM: r2 = u C^-1 u.
    root = np.sqrt(np.maximum(1 - e1**2 - e2**2, 0.02))
    u = np.arange(-half, half + 1)
    dx = u[None, None, :] - (x[rows] - cut.x0)[:, None, None]
    dy = u[None, :, None] - (y[rows] - cut.y0)[:, None, None]
    r2 = ((1 - e1) * dx**2 - 2 * e2 * dx * dy + (1 + e1) * dy**2) / root
    r2 *= (FWHM_PER_SIGMA / fwhm) ** 2
    near = (r2 < 2.8**2) & np.isfinite(pixels)
    gauss = np.where(near, np.exp(-0.5 * r2), 0.0)
    pixels = np.where(near, pixels, 0.0)
    n, g, gg = near.sum((1, 2)), gauss.sum((1, 2)), (gauss**2).sum((1, 2))
    p, gp = pixels.sum((1, 2)), (gauss * pixels).sum((1, 2))
    norm = np.maximum(gg * n - g**2, 1e-12)
    height, sky = (gp * n - g * p) / norm, (gg * p - g * gp) / norm
    model = np.where(near, height[:, None, None] * gauss + sky[:, None, None], 0.0)
    left = np.maximum(((pixels - model) ** 2).sum((1, 2)) - n, 0.0)
    return np.asarray(np.sqrt(left / np.maximum((model**2).sum((1, 2)), 1e-12)))


def _half_maximum(
    frame: Frame,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    flux: NDArray[np.float64],
    size: float,
) -> float:
    """Return the FWHM of the stars' mean image, from the area above half of its maximum."""
    # Wide stars are first resampled to a FWHM of 6: accurate to 0.4 % at a constant cost.
    scale = max(size / _WIDEST, 1.0)
    half = int(np.ceil(1.6 * size / scale)) + 2
    cut = extract_cutouts(
        frame,
        x,
        y,
        2 * half + 1,
        fwhm=size if scale > 1 else None,
        reference_fwhm=size / scale,
        background=frame.background.level,
    )
    dx, dy = (x - cut.x0) / scale, (y - cut.y0) / scale
    # For undersampled stars, interpolation and position errors blur the stack.
    rounds = 3 if size > 2.5 else 6
    # The first stack only centres the stars: its blur does not matter.
    psf = stack_stars(cut.data, dx, dy, flux, half, n_iter=1 if size > 2.5 else rounds)
    for _ in range(1 if size > 2.5 else 3):
        fit = fit_psf(cut.data, psf, dx=dx, dy=dy, half_width=max(3, int(size / scale)))
        ok = fit.ok
        if ok.sum() < min(3, len(x)):
            break
        dx, dy = np.where(ok, fit.dx, dx), np.where(ok, fit.dy, dy)
        psf = stack_stars(cut.data[ok], dx[ok], dy[ok], fit.flux[ok], half, n_iter=rounds)
    width = _width(psf)
    if size <= 2.5 and ok.any():
        # Stacking stars drawn from this image shows how much stacking widens the real ones. With
        # few sub-pixel phases this is an overestimate, so half of it is subtracted.
        again = psf.stamps(dx[ok], dy[ok], cut.data.shape[-1]) * fit.flux[ok, None, None]
        blurred = stack_stars(again, dx[ok], dy[ok], fit.flux[ok], half, n_iter=rounds)
        width *= np.sqrt(width / _width(blurred))
    if not 0 < width < 2 * half + 1:
        raise PSFError("The mean image of the stars has no width.")
    return float(width * scale)


def _width(psf: EffectivePSF) -> float:
    """Return the diameter in pixels of the circle with the area above half of the maximum."""
    above = psf.grid - 0.5 * psf.grid.max()
    # Points next to the contour count in part: the area is continuous in the pixels.
    step = np.hypot(*np.gradient(psf.grid))
    inside = np.clip(0.5 + above / np.maximum(step, 1e-9 * psf.grid.max()), 0, 1)
    area = inside.sum() / OVERSAMPLING**2
    return float(2.0 * np.sqrt(area / np.pi))


def any_within(
    bad: NDArray[np.bool_],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    radius: float | NDArray[np.float64],
) -> NDArray[np.bool_]:
    """Whether any bad pixel is within a radius of each source."""
    if not bad.any():
        return np.zeros(len(x), dtype=bool)
    count, _, _ = sep.sum_circle(bad.view(np.uint8), x, y, radius, subpix=5)
    touched: NDArray[np.bool_] = count > 0
    return touched
