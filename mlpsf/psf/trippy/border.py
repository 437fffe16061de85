"""Interface to TRIPPy (Fraser et al. 2016, AJ 151, 158); no other module uses it.

Coordinates of this interface are 0-based, the centre of the first pixel is (0, 0), and all numbers
are float64. TRIPPy mixes two other origins: its fits are 1-based, and its ``plant``, ``remove`` and
``LSfitter`` take the 0-based centre plus 0.5. These are used only in this file.

TRIPPy 1.1.1 is used as released, except for the changes in :func:`load_trippy` and :func:`new_psf`.
Nothing here prints, draws or opens a display.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import least_squares

from mlpsf.errors import InputError, PSFError
from mlpsf.psf.trippy.importing import REP_FACTS, load_trippy, new_psf, release_downsample
from mlpsf.psf.trippy.importing import downsample as downsample
from mlpsf.psf.trippy.inputs import as_cutouts, check_room
from mlpsf.psf.trippy.tables import centre_on_pixel, profile
from mlpsf.stacks.effective import EffectivePSF
from mlpsf.stacks.fitting import PSFFit

__all__ = [
    "REP_FACTS",
    "build_table",
    "fit_moffat",
    "fit_one_by_one",
    "load_trippy",
    "lsfit",
    "new_psf",
    "plant",
    "release_downsample",
]

FloatArray = NDArray[np.float64]

#: Initial Moffat parameters of every fit. Starting from the result of the last star would carry
#: the profile of a bad star to all that follow.
START_ALPHA, START_BETA = 5.0, 3.0

#: Maximum number of sub-pixels of all stars in one call of genLookupTable. It keeps about five
#: copies of 160 MB.
_BATCH_CELLS = 20_000_000


def fit_moffat(
    cutouts: ArrayLike,
    x: ArrayLike,
    y: ArrayLike,
    *,
    radius: int | None = None,
    rep_fact: int = 10,
    background: float | None = 0.0,
    start: tuple[float, float] = (START_ALPHA, START_BETA),
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Fit a round Moffat profile to each star with TRIPPy's fitMoffat.

    Every fit starts from `start`, not from the result of the star before.

    Parameters
    ----------
    cutouts : (n, k, k) array
        One star per cutout.
    x, y : (n,) arrays
        Position of the star in its cutout, from the centre of the lower left pixel.
    radius : int, optional
        Half-width of the fitted box in pixels; the whole cutout by default.
    rep_fact : {3, 5, 10}
        Sub-pixels per pixel.
    background : float or None
        Background to subtract from every cutout. If None, TRIPPy estimates it at each star from
        the rim of the box, which needs cutouts with a mean well above zero.
    start : (float, float)
        Initial alpha and beta.

    Returns
    -------
    alpha, beta, amplitude : (n,) arrays
        NaN for a star that cannot be fitted.

    Raises
    ------
    InputError
        If shapes do not match, a value is not finite, or a star is too near its cutout's edge.

    Examples
    --------
    >>> offset = np.arange(31) - 15.0
    >>> star = (1 + (offset[:, None] ** 2 + offset**2) / 9.0) ** -3.0
    >>> alpha, beta, _ = fit_moffat(star[None], [15.0], [15.0])
    >>> bool(2.5 < alpha[0] < 3.2), bool(2.5 < beta[0] < 3.3)
    (True, True)
    """
    images, xs, ys = as_cutouts(cutouts, x, y)
    if radius is None:
        radius = int(
            np.floor(min(xs.min(), ys.min(), *(images.shape[1] - 1 - v.max() for v in (xs, ys))))
        )
    check_room(images, xs, ys, radius)
    psf = new_psf(2 * radius + 1, *start, rep_fact)
    psf.sky = background
    # TRIPPy evaluates the profile at the lower left corner of each sub-pixel, so the position is
    # shifted by half a sub-pixel.
    origin = 1.0 - 0.5 / rep_fact
    out = np.full((3, xs.size), np.nan)
    for i, image in enumerate(images):
        psf.alpha, psf.beta = start
        with np.errstate(all="ignore"), warnings.catch_warnings():
            # leastsq tries negative widths, for which TRIPPy returns infinity as intended.
            warnings.simplefilter("ignore")
            psf.fitMoffat(
                image,
                float(xs[i]) + origin,
                float(ys[i]) + origin,
                boxSize=radius,
                bgRadius=radius - 1,
            )
        values = (psf.alpha, psf.beta, psf.A)
        if np.isfinite(values).all() and psf.alpha > 0 and psf.beta > 1 and psf.A > 0:
            out[:, i] = values
    return out[0], out[1], out[2]


def build_table(
    cutouts: ArrayLike,
    x: ArrayLike,
    y: ArrayLike,
    *,
    alpha: float,
    beta: float,
    size: int,
    rep_fact: int = 10,
    background: float | None = 0.0,
) -> tuple[FloatArray, FloatArray]:
    """Build the lookup table with TRIPPy's genLookupTable from cutouts.

    The cutouts are placed side by side in one small image instead of the frame. Many stars are
    split over several calls to limit memory, and the tables are averaged.

    Parameters
    ----------
    cutouts, x, y, rep_fact, background
        As for :func:`fit_moffat`; a star needs ``size // 2 + 2`` pixels on every side.
    alpha, beta : float
        Parameters of the Moffat profile that the table corrects.
    size : int
        Side of the PSF in pixels, odd.

    Returns
    -------
    table : (size * rep_fact, size * rep_fact) array
        Light missing in the Moffat profile, for an amplitude of 1.
    amplitude : (n,) array
        TRIPPy's amplitude of each star; NaN if the star was not used because it is not positive.

    Raises
    ------
    InputError
        If shapes do not match, a value is not finite, or a star is too near its cutout's edge.
    PSFError
        If no star has a positive amplitude.

    Examples
    --------
    >>> offset = np.arange(31) - 15.0
    >>> star = (1 + (offset[:, None] ** 2 + offset**2) / 9.0) ** -3.0
    >>> table, _ = build_table(star[None], [15.0], [15.0], alpha=3.0, beta=3.0, size=21)
    >>> table.shape
    (210, 210)
    """
    images, xs, ys = as_cutouts(cutouts, x, y)
    check_room(images, xs, ys, size // 2 + 2)
    psf = new_psf(size, alpha, beta, rep_fact)
    psf.sky = background
    side = images.shape[1]
    step = max(8, _BATCH_CELLS // (size * rep_fact) ** 2)
    tables, weights, amplitude = [], [], np.full(xs.size, np.nan)
    for start in range(0, xs.size, step):
        part = slice(start, min(start + step, xs.size))
        strip = np.hstack(list(images[part]))
        along = side * np.arange(part.stop - part.start)
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            psf.genLookupTable(
                strip, xs[part] + along + 1.0, ys[part] + 1.0, bgRadius=size // 2 - 1
            )
        amplitude[part] = [star[2] for star in psf.psfStars]
        tables.append(psf.lookupTable)
        weights.append(part.stop - part.start)
    good = amplitude > 0
    if not good.all():
        if not good.any():
            raise PSFError(
                f"none of the {xs.size} stars has a positive flux at its position; are x and y "
                "0-based, and was the background taken off?"
            )
        # Its 1 / amplitude is already in the mean, so repeat without the star.
        table, rest = build_table(
            images[good],
            xs[good],
            ys[good],
            alpha=alpha,
            beta=beta,
            size=size,
            rep_fact=rep_fact,
            background=background,
        )
        amplitude[~good] = np.nan
        amplitude[good] = rest
        return table, amplitude
    return np.average(tables, axis=0, weights=weights), amplitude


def plant(
    psf: Any,
    image: ArrayLike,
    x: ArrayLike,
    y: ArrayLike,
    flux: ArrayLike,
    *,
    trailed: bool = False,
) -> FloatArray:
    """Add sources to an image with TRIPPy's plant, which rounds positions to a sub-pixel.

    Parameters
    ----------
    psf : trippy.psf.modelPSF
        From :func:`new_psf`, or the `trippy` attribute of a PSFModel.
    image : (ny, nx) array
        Not changed.
    x, y, flux : float or (n,) arrays
        Centres on the image, 0-based, and fluxes in the unit of the image.
    trailed : bool
        Whether to plant the trail made by ``psf.line``.

    Returns
    -------
    (ny, nx) array
        float64.

    Raises
    ------
    InputError
        If a source is off the image.

    Examples
    --------
    >>> psf = new_psf(21, 3.0, 3.0, table=np.zeros((210, 210)))
    >>> float(plant(psf, np.zeros((40, 40)), 20.0, 20.0, 100.0).sum().round(6))
    100.0
    """
    out = np.array(image, dtype=np.float64)
    xs, ys, fluxes = np.broadcast_arrays(
        *(np.atleast_1d(np.asarray(v, float)) for v in (x, y, flux))
    )
    ny, nx = out.shape
    off = ~((xs >= -0.5) & (xs < nx - 0.5) & (ys >= -0.5) & (ys < ny - 0.5))
    if off.any():
        raise InputError(
            f"TRIPPy plants only on the image: {off.sum()} of {off.size} sources are off the "
            f"{nx} x {ny} pixels; PSFModel.render clips them instead"
        )
    unit = float(psf.fullpsf.sum())
    for xi, yi, fi in zip(xs, ys, fluxes, strict=True):
        out = psf.plant(
            float(xi) + 0.5,
            float(yi) + 0.5,
            float(fi) / unit,
            out,
            addNoise=False,
            useLinePSF=trailed,
        )
    return out


def lsfit(
    psf: Any,
    cutouts: ArrayLike,
    x: ArrayLike,
    y: ArrayLike,
    flux: ArrayLike,
    *,
    fit_width: int = 7,
    use_trail: bool = False,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Fit position and flux of each source with TRIPPy's LSfitter: the classical method.

    It is slow and serves as a reference for faster fits. Use it within :func:`release_downsample`
    for the speed of the release.

    Parameters
    ----------
    psf : trippy.psf.modelPSF
        From :func:`new_psf`, or the `trippy` attribute of a PSFModel.
    cutouts : (n, k, k) array
        Background-subtracted.
    x, y, flux : (n,) arrays
        Initial centres in the cutout, 0-based, and fluxes.
    fit_width : int
        Half-width of the fitted box in pixels.
    use_trail : bool
        Whether to fit the trail made by ``psf.line``.

    Returns
    -------
    x, y, flux : (n,) arrays
        NaN for a source whose fit left its cutout.

    Raises
    ------
    InputError
        If shapes do not match, a value is not finite, or `fit_width` exceeds the PSF or cutout.

    Examples
    --------
    >>> psf = new_psf(21, 3.0, 3.0, table=np.zeros((210, 210)))
    >>> image = plant(psf, np.zeros((31, 31)), 15.2, 14.9, 100.0)
    >>> x, y, flux = lsfit(psf, image[None], [15.0], [15.0], [90.0])
    >>> bool(abs(x[0] - 15.2) < 0.1), round(flux[0])
    (True, 100)
    """
    images, xs, ys = as_cutouts(cutouts, x, y)
    fluxes = np.broadcast_to(np.asarray(flux, dtype=np.float64), xs.shape)
    if fit_width > psf.boxSize:
        raise InputError(
            f"fit_width must be at most half the PSF, {psf.boxSize} pixels; got {fit_width}"
        )
    check_room(images, xs, ys, fit_width)
    fitter: Any = load_trippy().MCMCfit.MCMCfit.LSfitter
    unit = float(psf.fullpsf.sum())
    # genLookupTable leaves imData behind, and every plant would copy it.
    psf.imData = None
    out = np.full((3, xs.size), np.nan)
    for i, image in enumerate(images):
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                fit = fitter(psf, image).fitWithModelPSF(
                    xs[i] + 0.5,
                    ys[i] + 0.5,
                    fluxes[i] / unit,
                    fitWidth=fit_width,
                    bg=0.0,
                    useLinePSF=use_trail,
                )
        except (ValueError, OverflowError, IndexError):
            # The trial position is off the cutout, and TRIPPy's slices do not match.
            continue
        out[:, i] = fit[0] - 0.5, fit[1] - 0.5, fit[2] * unit
    return out[0], out[1], out[2]


def fit_one_by_one(data: NDArray[np.floating], psf: EffectivePSF, half_width: int) -> PSFFit:
    """Fit an effective PSF to each source with TRIPPy's LSfitter.

    Parameters
    ----------
    data : (n, k, k) array
        Sky-subtracted cutouts with sources at their centres. TRIPPy does not support missing
        pixels, so NaN is replaced by sky.
    psf : EffectivePSF
        Converted to the lookup table of a TRIPPy PSF.
    half_width : int
        Half-width of the fit window in pixels, at most that of the PSF and of the cutouts.

    Returns
    -------
    PSFFit

    Examples
    --------
    >>> from mlpsf.stacks.effective import EffectivePSF
    >>> u = np.arange(-100, 101) / 10
    >>> psf = EffectivePSF(np.exp(-0.5 * (u**2 + u[:, None] ** 2) / 2.25) / (2.25 * 2 * np.pi))
    >>> star = 500 * psf.stamps(np.array([0.3]), np.array([-0.2]), 21)
    >>> fit = fit_one_by_one(star, psf, 7)
    >>> [round(float(v[0]), 1) for v in (fit.dx, fit.dy)]
    [0.3, -0.2]
    """
    light = psf.to_table()
    rep, size = 10, light.shape[0] // 10
    # The table corrects the profile, but TRIPPy shifts it by whole tenths of a pixel. So only the
    # profile gives the fitter a gradient.
    alpha, beta = _nearest_moffat(psf)
    moffat = centre_on_pixel(profile(alpha, beta, np.zeros_like(light), rep), rep)[0] / rep**2
    table = np.roll(light * moffat.sum() - moffat, (-rep // 2, -rep // 2), axis=(0, 1))
    live = new_psf(size, alpha, beta, rep, table)
    images = np.nan_to_num(np.asarray(data, dtype=np.float64), nan=0.0)
    centre = images.shape[-1] // 2
    width = min(half_width, size // 2, centre)
    window = slice(centre - width, centre + width + 1)
    start = images[:, window, window].sum(axis=(1, 2))
    middle = np.full(len(images), float(centre))
    x, y, flux = lsfit(live, images, middle, middle, start, fit_width=width)
    dx, dy = x - centre, y - centre
    ok = np.isfinite(flux) & (flux > 0) & (np.maximum(np.abs(dx), np.abs(dy)) < 3.0)
    return PSFFit(np.nan_to_num(dx), np.nan_to_num(dy), np.nan_to_num(flux), ok)


def _nearest_moffat(psf: EffectivePSF) -> tuple[float, float]:
    """Return alpha (pixels) and beta of the round Moffat function nearest an effective PSF."""
    values = psf.grid[::5, ::5]
    u = np.arange(len(values)) * 0.5 - psf.half
    radius2 = u**2 + u[:, None] ** 2

    def residual(p: FloatArray) -> FloatArray:
        top, alpha, beta = p
        return np.asarray((top * (1 + radius2 / alpha**2) ** -beta - values).ravel())

    width = np.sqrt((values > 0.5 * values.max()).sum() * 0.25 / np.pi)
    fit = least_squares(
        residual,
        [values.max(), 2.0 * width, 3.0],
        bounds=([0, 0.2, 1.1], [np.inf, 100.0, 50.0]),
        x_scale=[values.max(), 1.0, 1.0],
    )
    return float(fit.x[1]), float(fit.x[2])
