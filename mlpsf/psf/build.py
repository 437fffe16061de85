"""The PSF from the stars of a frame: checked, cut out, fitted with TRIPPy, refined."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from astropy.utils.exceptions import AstropyUserWarning
from numpy.typing import NDArray
from scipy.ndimage import label

from mlpsf import __version__
from mlpsf.cutouts import sky_and_noise
from mlpsf.errors import InputError, PSFError
from mlpsf.frame import Frame, read_frame
from mlpsf.psf import trippy as border
from mlpsf.psf.effective import stack_stars
from mlpsf.psf.model import PSFModel
from mlpsf.psf.moments import centre_on_pixel, cumulative, pixel_integrals, profile

__all__ = ["build_psf"]

FloatArray = NDArray[np.float64]


_CHOSEN_BY = (
    "selector",
    "model_name",
    "model_sha256",
    "threshold",
    "snr_min",
    "n_max",
    "second_look",
    "n_looked_at",
    "n_outliers",
    "n_outliers_kept",
    "relaxed",
)
"""What a PSF repeats of the metadata of the table that its stars are from."""


@dataclass
class _Stars:
    """Stars in hand while a PSF is made, and why others no longer are."""

    x: FloatArray
    y: FloatArray
    left_out: dict[str, int] = field(default_factory=dict)

    def keep(self, good: NDArray[np.bool_], reason: str) -> None:
        if not good.all():
            self.left_out[reason] = self.left_out.get(reason, 0) + int((~good).sum())
        self.x, self.y = self.x[good], self.y[good]
        if not good.any():
            why = ", ".join(f"{n} {text}" for text, n in self.left_out.items())
            raise PSFError(f"no star is left to make a PSF from: {why}")


def _read_frame(frame: Any) -> tuple[FloatArray, NDArray[np.bool_], dict[str, Any]]:
    meta: dict[str, Any] = {}
    pixels: NDArray[Any]
    if isinstance(frame, str | Path):
        frame = read_frame(frame)
    if isinstance(frame, Frame):
        # A saturated core is no star's image: such stars fall out as masked.
        pixels, mask = frame.data, frame.mask | frame.saturated
        meta = {"frame": frame.name, "frame_sha256": frame.sha256}
    else:
        pixels, mask = np.ma.getdata(frame), np.ma.getmaskarray(frame)
    pixels = np.array(pixels, dtype=np.float64)
    if pixels.ndim != 2 or mask.shape != pixels.shape:
        raise InputError(f"a frame is a 2-D image with a mask of its shape; got {pixels.shape}")
    mask = mask | ~np.isfinite(pixels)
    pixels[~np.isfinite(pixels)] = 0.0
    return pixels, mask, meta


def _read_stars(stars: Any, shape: tuple[int, ...]) -> _Stars:
    columns = getattr(stars, "colnames", None)
    if columns is None:
        places = np.asarray(stars, dtype=np.float64)
        if places.ndim != 2 or places.shape[1] != 2:
            raise InputError(f"stars must be a table or an (n, 2) array; got {places.shape}")
    else:
        if not {"x", "y"} <= set(columns):
            raise InputError(f"the star table needs columns x and y; it has {', '.join(columns)}")
        places = np.column_stack([np.ma.filled(stars[c], np.nan) for c in "xy"]).astype(float)
        use = np.ones(len(places), dtype=bool)
        if "selected" in columns:
            use &= np.asarray(stars["selected"], dtype=bool)
        if "reserved" in columns:
            use &= ~np.asarray(stars["reserved"], dtype=bool)
        if len(places) and not use.any():
            raise PSFError(f"none of the {len(places)} stars of the table is selected")
        places = places[use]
    if len(places) == 0:
        raise PSFError("no star to make a PSF from: the list is empty")
    bad = np.flatnonzero(~np.isfinite(places).all(axis=1))
    if bad.size:
        raise InputError(f"{bad.size} star positions are not finite; the first is number {bad[0]}")
    ny, nx = shape
    off = np.flatnonzero(((places < -0.5) | (places >= (nx - 0.5, ny - 0.5))).any(axis=1))
    if off.size:
        x, y = places[off[0]]
        raise InputError(
            f"{off.size} of {len(places)} stars are off the frame of {nx} x {ny} pixels; the first "
            f"is at x {x:.1f}, y {y:.1f}. Are x and y swapped, or from another frame?"
        )
    return _Stars(places[:, 0].copy(), places[:, 1].copy())


def _background(pixels: FloatArray, mask: NDArray[np.bool_], background: Any) -> Any:
    """Return what to take off the frame, and how that was found."""
    if isinstance(background, str):
        if background != "mesh":
            raise InputError(f"background must be 'mesh', a number or an array; got {background!r}")
        import sep

        return sep.Background(pixels, mask=mask, bw=64, bh=64).back(), "sep mesh of 64 pixels"
    level = np.asarray(background, dtype=np.float64)
    if level.shape not in ((), pixels.shape) or not np.isfinite(level).all():
        raise InputError(
            f"background must be finite, one number or an array of the frame's shape "
            f"{pixels.shape}; got shape {level.shape}"
        )
    return level, "given" if level.ndim else f"given, {float(level):g}"


def _cut(
    pixels: NDArray[Any], stars: _Stars, half: int
) -> tuple[NDArray[Any], FloatArray, FloatArray]:
    """Cut (n, 2 half + 1, 2 half + 1) around the stars, zero or True off the frame."""
    fill = pixels.dtype.type(pixels.dtype == bool)
    padded = np.pad(pixels, half, constant_values=fill)
    column, row = (np.floor(v + 0.5).astype(int) for v in (stars.x, stars.y))
    span = 2 * half + 1
    cutouts = np.array(
        [padded[j : j + span, i : i + span] for i, j in zip(column, row, strict=True)]
    )
    return cutouts, stars.x - column + half, stars.y - row + half


def _guess_fwhm(cutouts: FloatArray) -> float:
    """Median width of the connected pixels above half of each star's peak."""
    centre = cutouts.shape[1] // 2
    core = slice(centre - 2, centre + 3)
    areas = []
    for image in cutouts:
        peak = image[core, core].max()
        if peak > 0:
            labels = label(image > peak / 2)[0]
            at = np.unravel_index(image[core, core].argmax(), (5, 5))
            areas.append((labels == labels[core, core][at]).sum())
    if not areas:
        raise PSFError(
            "no star has light above the background; are x and y 0-based, and is the background "
            "right?"
        )
    return float(2 * np.sqrt(np.median(areas) / np.pi))


def _fill_masked(
    cutouts: FloatArray, bad: NDArray[np.bool_], x: FloatArray, y: FloatArray, fit: Any
) -> tuple[float, float]:
    """Give masked pixels the light of a Moffat star, in place; return its alpha and beta.

    The profile is that of the stars without masked pixels. Where all have some, these are first
    filled from the pixel opposite.
    """
    clean: NDArray[np.bool_] = np.asarray(~bad.any(axis=(1, 2)))
    if not clean.any():
        opposite = np.where(bad, 0.0, cutouts)[:, ::-1, ::-1]
        cutouts[bad] = opposite[bad]
        clean[:] = True
    alphas, betas, _ = fit(cutouts[clean], x[clean], y[clean])
    if not np.isfinite(alphas).any():
        raise PSFError(
            f"TRIPPy can fit a Moffat profile to none of {clean.sum()} stars; are x and y 0-based, "
            "and the stars unsaturated?"
        )
    alpha, beta = float(np.nanmedian(alphas)), float(np.nanmedian(betas))
    some = bad.any(axis=(1, 2))
    if some.any():
        side = cutouts.shape[1]
        light = profile(alpha, beta, np.zeros(((side + 2) * 10,) * 2), 10)
        table = centre_on_pixel(light, 10)[0]
        moffat = pixel_integrals(cumulative(table), 10, x[some], y[some], side)
        image, hole = cutouts[some], bad[some]
        seen = np.where(hole, 0.0, moffat)
        scale = (seen * image).sum(axis=(1, 2)) / (seen * seen).sum(axis=(1, 2))
        cutouts[some] = np.where(hole, scale[:, None, None] * moffat, image)
    return alpha, beta


def _strike_outliers(cutouts: FloatArray, x: FloatArray, y: FloatArray, fwhm: float) -> None:
    """Give struck pixels, and those under a neighbour, the light that the other stars have there.

    In place. A pixel is struck when it lies a FWHM or more from its star and over 5 standard
    deviations of the sky, and 5 % of its light, from the stars' clipped mean. TRIPPy's own cut at
    3 standard deviations, of which the outlier is part, never strikes one of ten stars.
    """
    if len(cutouts) < 4:
        return
    side = cutouts.shape[1]
    centre = side // 2
    dx, dy = x - centre, y - centre
    offset = np.arange(side) - centre
    square = (offset - dx[:, None])[:, None, :] ** 2 + (offset - dy[:, None])[:, :, None] ** 2
    flux = np.where(square < (1.5 * fwhm) ** 2, cutouts, 0.0).sum(axis=(1, 2))
    lit = flux > 0
    if lit.sum() < 4:
        return
    reach = min(centre, 45)
    mean = stack_stars(cutouts[lit], dx[lit], dy[lit], flux[lit], reach, n_iter=1)
    light = mean.stamps(dx, dy, side)
    inner = square < (2.0 * fwhm) ** 2
    scale = np.where(inner, cutouts, 0.0).sum(axis=(1, 2))
    scale /= np.maximum(np.where(inner, light, 0.0).sum(axis=(1, 2)), 1e-12)
    # In the corners, beyond the stack, light changes so slowly that no shift is needed.
    beyond = square >= (reach - 1.0) ** 2
    wings = np.median(cutouts[lit] / np.maximum(scale[lit], 1e-12)[:, None, None], axis=0)
    model = scale[:, None, None] * np.where(beyond, wings, light)
    noise = sky_and_noise(cutouts)[1].astype(np.float64)[:, None, None]
    struck = np.abs(cutouts - model) > 5.0 * noise + 0.05 * np.abs(model)
    struck &= (square > fwhm**2) & lit[:, None, None] & (noise > 0)
    cutouts[struck] = model[struck]


def _refine(
    psf: PSFModel, cutouts: FloatArray, bad: NDArray[np.bool_], x: FloatArray, y: FloatArray
) -> PSFModel:
    """Add to the lookup table what it leaves of the stars, spread as TRIPPy spreads them.

    TRIPPy repeats each pixel over its sub-pixels, which blurs and rounds the table by a pixel;
    what the blurred table misses is in the residuals (van Cittert's iteration). Brighter stars
    weigh more, pixels three standard deviations from the stars' median and masked ones nothing.
    """
    rep, box, side = psf.rep_fact, psf.size // 2, cutouts.shape[1]
    middle = side // 2
    models = psf.stamps(x - middle, y - middle, side)
    offset = np.arange(side) - middle
    near = offset[:, None] ** 2 + offset**2 <= min(2 * psf.fwhm, box) ** 2
    use = near & ~bad
    flux = (cutouts * models * use).sum(axis=(1, 2)) / (models**2 * use).sum(axis=(1, 2))
    scale = np.maximum(flux, 1e-300) / psf.flux_per_amplitude
    residuals = (cutouts - flux[:, None, None] * models) / scale[:, None, None]
    residuals[bad] = np.nan
    span = psf.size * rep
    spread = np.empty((x.size, span, span), dtype=np.float32)
    for i, residual in enumerate(residuals):
        fine = np.repeat(np.repeat(residual / rep**2, rep, axis=0), rep, axis=1)
        column, row = (round((v[i] + 0.5) * rep) - rep * box for v in (x, y))
        spread[i] = fine[row : row + span, column : column + span]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # sub-pixels that no star has
        far = np.abs(spread - np.nanmedian(spread, axis=0)) > 3 * np.nanstd(spread, axis=0)
    lost = far | np.isnan(spread)
    weight = np.where(lost, 0.0, np.maximum(flux, 0.0)[:, None, None].astype(np.float32))
    total = weight.sum(axis=0)
    change = (weight * np.where(lost, 0.0, spread)).sum(axis=0) / np.where(total > 0, total, 1.0)
    stars = np.column_stack([psf.stars[:, :2], flux])
    return replace(psf, lookup_table=psf.lookup_table + change, stars=stars)


def build_psf(
    frame: Any,
    stars: Any,
    *,
    size: int | None = None,
    rep_fact: int = 10,
    background: str | float | FloatArray = "mesh",
    refinements: int | None = None,
) -> PSFModel:
    """Build a PSF from stars of a frame, with TRIPPy.

    A Moffat profile is fitted to each star and its medians are kept; TRIPPy's lookup table then
    holds what the profile lacks, and is corrected `refinements` times for its own blur.

    Parameters
    ----------
    frame : Frame, path, or (ny, nx) array
        Masked, saturated and non-finite pixels are not used.
    stars : Table or (n, 2) array
        Columns x and y, 0-based; rows that are not `selected`, or are `reserved`, are left out
        where the table has those columns.
    size : int, optional
        Of the PSF, odd, pixels. The odd number from 9 FWHM up, but 31 at least and 101 at most.
    rep_fact : {3, 5, 10}
        Sub-pixels to a pixel.
    background : 'mesh', float or (ny, nx) array
        To take off the frame: a mesh of 64 pixels measured with sep, or what is given (0 when
        it is off already). TRIPPy's own estimate at each star is not used.
    refinements : int, optional
        By default 1, and 2 below a FWHM of 2.5 pixels. The first takes the ellipticity error at
        FWHM 3 from 0.010 to 0.002; more of them gain noise.

    Returns
    -------
    PSFModel

    Warns
    -----
    AstropyUserWarning
        When stars are left out: too near the edge, masked at the core or over half of the box,
        or without light above the background. How many of each is said.

    Raises
    ------
    InputError
        When a parameter is wrong, or a star's place is not finite or off the frame.
    PSFError
        When no star is given or left.

    Examples
    --------
    >>> from mlpsf.psf import PSFModel
    >>> truth = PSFModel(np.zeros((310, 310)), 3.0, 3.0)
    >>> image = truth.render([30.2, 80.7], [40.0, 41.4], [1e5, 2e5], shape=(80, 120))
    >>> psf = build_psf(image, [[30.2, 40.0], [80.7, 41.4]], background=0.0)
    >>> psf
    <PSFModel 31 x 31 pixels, FWHM 3.18, ellipticity 0.00, 2 stars>
    """
    if size is not None and (size < 5 or size % 2 == 0):
        raise InputError(f"size must be an odd number of pixels, 5 or more; got {size}")
    if rep_fact not in border.REP_FACTS:
        raise InputError(f"rep_fact must be one of {border.REP_FACTS}; got {rep_fact}")
    if refinements is not None and refinements < 0:
        raise InputError(f"refinements must be 0 or more; got {refinements}")
    pixels, mask, meta = _read_frame(frame)
    hand = _read_stars(stars, pixels.shape)
    chosen_by = getattr(stars, "meta", None) or {}
    own, theirs = meta.get("frame_sha256"), chosen_by.get("frame_sha256")
    if own and theirs and own != theirs:
        warnings.warn(
            f"the stars were chosen on {chosen_by.get('frame', 'another frame')}, whose pixels are "
            f"not those of {meta['frame']}: are their positions this frame's?",
            AstropyUserWarning,
            stacklevel=2,
        )
    sky, how = _background(pixels, mask, background)
    pixels = np.where(mask, 0.0, pixels - sky)
    fwhm = _guess_fwhm(_cut(pixels, hand, 25)[0])
    if size is None:
        size = int(np.clip(np.ceil(9 * fwhm), 31, 101)) | 1
    half = size // 2 + 3
    margin = size // 2 + 2
    ny, nx = pixels.shape
    column, row = (np.floor(v + 0.5) for v in (hand.x, hand.y))
    inside = (column >= margin) & (column < nx - margin) & (row >= margin) & (row < ny - margin)
    hand.keep(inside, f"within {margin} pixels of the edge of the frame")
    bad, x, y = _cut(mask, hand, half)
    offset = np.arange(2 * half + 1)
    square = (offset - x[:, None])[:, None, :] ** 2 + (offset - y[:, None])[:, :, None] ** 2
    core = (bad & (square < max(fwhm, 1.5) ** 2)).any(axis=(1, 2))
    hand.keep(~core & (bad.mean(axis=(1, 2)) < 0.5), "masked at the core or over half of the box")
    cutouts, x, y = _cut(pixels, hand, half)
    bad = _cut(mask, hand, half)[0]
    # A pixel off the frame lies in the spare rim of a cutout only.

    def fit(images: FloatArray, xs: FloatArray, ys: FloatArray) -> Any:
        # The wider the star, the coarser the sub-pixels that its profile needs.
        coarse = 10 if fwhm < 3 else 5 if fwhm < 6 else 3
        radius = min(size // 2, max(8, round(3 * fwhm)))
        return border.fit_moffat(images, xs, ys, radius=radius, rep_fact=coarse)

    alpha, beta = _fill_masked(cutouts, bad, x, y, fit)
    _strike_outliers(cutouts, x, y, fwhm)
    table, amplitude = border.build_table(
        cutouts, x, y, alpha=alpha, beta=beta, size=size, rep_fact=rep_fact
    )
    good = amplitude > 0
    hand.keep(good, "without light above the background")
    if hand.left_out:
        given = len(hand.x) + sum(hand.left_out.values())
        why = "; ".join(f"{n} {text}" for text, n in hand.left_out.items())
        warnings.warn(
            f"{given - len(hand.x)} of {given} stars are not in the PSF: {why}",
            AstropyUserWarning,
            stacklevel=2,
        )
    meta |= {key: chosen_by[key] for key in _CHOSEN_BY if key in chosen_by}
    meta |= {
        "mlpsf_version": __version__,
        "trippy_version": version("trippy"),
        "background": how,
        "n_left_out": sum(hand.left_out.values()),
    }
    psf = PSFModel(table, alpha, beta, rep_fact, meta=meta)
    flux = amplitude[good] * psf.flux_per_amplitude
    psf = replace(psf, stars=np.column_stack([hand.x, hand.y, flux]))
    if refinements is None:
        refinements = 2 if psf.fwhm < 2.5 else 1
    for _ in range(refinements):
        psf = _refine(psf, cutouts[good], bad[good], x[good], y[good])
    return replace(psf, meta={**psf.meta, "refinements": refinements})
