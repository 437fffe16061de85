"""Cut stamps in which the stars of all telescopes look the same, by replacing the frame's PSF.

Resampling makes stars equally wide. But they can still be round, trailed or comatic, with different
wings and spikes. A selector would need to know every telescope to distinguish an unusual PSF from
an unusual source. So the common image of a frame's bright sources is fitted to each source and
replaced by a standard star of the same flux. The difference of a source from the frame's PSF (a
neighbour, the width of a galaxy, a cosmic ray) remains in the stamp.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray

from mlpsf.errors import InputError
from mlpsf.frames.cutouts import (
    REFERENCE_FWHM,
    Cutouts,
    extract_cutouts,
    reach_of,
    resample,
)
from mlpsf.frames.frame import Frame
from mlpsf.frames.geometry import reaches_over
from mlpsf.stacks.fitting import fit_psf
from mlpsf.stacks.values import sky_and_noise
from mlpsf.stamps.common_star import FITTED, CommonStar, brightest, common_star
from mlpsf.stamps.leftover import Leftover

__all__ = [
    "STAMP_SIZE",
    "extract_stamps",
    "frame_star",
    "fwhm_of_stars",
    "standard_star",
    "standardise",
]

STAMP_SIZE = 41
"""Side of a stamp in pixels: ten FWHM."""

_BETA = 3.0  # exponent of the standard star's Moffat profile: between seeing and optics
_BLOCK = 512  # sources processed at once: limits memory to about 50 MB
_MOST = float(np.finfo(np.float32).max)
_STEPS = 6  # steps of the fit: detections are centred to a tenth of a pixel


def standard_star(size: int) -> NDArray[np.float32]:
    """Draw the standard star: a round Moffat profile of `REFERENCE_FWHM` and beta 3.

    Parameters
    ----------
    size : int
        Side in pixels, odd.

    Returns
    -------
    ndarray of float32, shape (size, size)
        Peak of 1 at the centre.

    Examples
    --------
    >>> standard_star(41)[20, 20:24].tolist()[::2]
    [1.0, 0.5]
    """
    alpha2 = (REFERENCE_FWHM / 2) ** 2 / (2 ** (1 / _BETA) - 1)
    u = np.arange(size) - size // 2
    return np.asarray((1 + (u**2 + u[:, None] ** 2) / alpha2) ** -_BETA, dtype=np.float32)


def standardise(
    stamps: ArrayLike,
    star: CommonStar | None,
    x: ArrayLike | None = None,
    y: ArrayLike | None = None,
) -> NDArray[np.float32]:
    """Replace a frame's PSF by the standard star in each of its stamps.

    Parameters
    ----------
    stamps : array_like, shape (n, size, size)
        As for `common_star`.
    star : CommonStar or None
        Common star of the stamps, from `common_star`. If None, only the sky is subtracted.
    x, y : array_like, shape (n,), optional
        Positions on the frame. Without them the star is taken as constant over the frame.

    Returns
    -------
    ndarray of float32, shape (n, size, size)
        Stamps without sky. Where the star cannot be fitted, only the sky is subtracted.

    Raises
    ------
    InputError
        If the stamps have a wrong shape, the star is on the frame's pixels (use `extract_stamps`),
        or only one of x and y is given.

    Examples
    --------
    >>> wide = standard_star(41) ** 0.8  # another telescope's stars
    >>> stars = np.linspace(50, 100, 9)[:, None, None] * wide
    >>> alike = standardise(stars, common_star(stars, snr=np.arange(9)))
    >>> bool(np.abs(alike[0] / alike[0].max() - standard_star(41)).max() < 1e-3)
    True
    """
    stamps = np.asarray(stamps, dtype=np.float32)
    if stamps.ndim != 3 or stamps.shape[1] != stamps.shape[2]:
        raise InputError(f"Stamps have the shape (n, size, size). Got {stamps.shape}.")
    if (x is None) != (y is None):
        raise InputError("Places of stamps are x and y. Got one of them.")
    out = stamps - sky_and_noise(stamps)[0][:, None, None]
    if star is None or not len(stamps):
        return out
    if star.fwhm != REFERENCE_FWHM:
        raise InputError(
            f"The common star has a FWHM of {star.fwhm:.3g} pixels, on the frame's own; stamps "
            f"have {REFERENCE_FWHM:g}. Cut them with extract_stamps."
        )
    place = None if x is None or y is None else np.column_stack([x, y]).astype(np.float64)
    return _with_standard(out, _take_away(out, star, place), star, place)


def _take_away(
    pixels: NDArray[np.float32], star: CommonStar, place: NDArray[np.float64] | None
) -> NDArray[np.float32]:
    """Fit the star to stamps and take it away, in place; return the fluxes, 0 of what is no fit."""
    size = pixels.shape[-1]
    fit = fit_psf(pixels, star.psf, half_width=round(FITTED * REFERENCE_FWHM), n_iter=_STEPS)
    rows = np.flatnonzero(fit.ok)
    flux = np.zeros(len(pixels), dtype=np.float32)
    flux[rows] = fit.flux[rows]
    at = fit.dx[rows], fit.dy[rows]
    if place is None:
        own = star.psf.stamps(*at, size)
    else:
        own = star.stamps(*at, place[rows, 0], place[rows, 1], size)
    pixels[rows] -= flux[rows, None, None] * own
    return flux


def _with_standard(
    rest: NDArray[np.float32],
    flux: NDArray[np.float32],
    star: CommonStar,
    place: NDArray[np.float64] | None,
) -> NDArray[np.float32]:
    """Put the standard star where the common one was, without what that leaves of any star."""
    rows = np.flatnonzero(flux)
    size = rest.shape[-1]
    standard = standard_star(size)
    standard /= standard.sum()
    if place is not None and star.left is not None:
        standard = standard - star.left.at(place[rows], size)
    rest[rows] += flux[rows, None, None] * standard
    return rest


def frame_star(
    frame: Frame,
    sources: Table,
    size: int = STAMP_SIZE,
    *,
    follow: bool = True,
    harm: NDArray[np.floating] | None = None,
) -> CommonStar | None:
    """Find the common star of a frame; see `common_star`.

    Parameters
    ----------
    frame : Frame
    sources : Table
        Table from `find_sources`.
    size : int
        Side of the stamps in pixels.
    follow : bool
        Whether to measure what it leaves of stars, too, which stamps are then without.
    harm : ndarray, shape (n,), optional
        As for `common_star`.

    Returns
    -------
    CommonStar or None
        None if there are too few stars.
    """
    rows = brightest(sources["snr"], sources["flags"])
    part = sources[rows]
    fwhm = fwhm_of_stars(sources, part)
    place = frame.place(part["x"], part["y"])
    sky = frame.background.level
    harm = None if harm is None else harm[rows]
    if isinstance(fwhm, float) and fwhm < REFERENCE_FWHM:
        side = 2 * reach_of(size, fwhm / REFERENCE_FWHM) + 1
        cut = extract_cutouts(frame, part["x"], part["y"], side, background=sky)
        star = common_star(cut.data, part["snr"], part["flags"], *place, fwhm, harm=harm)
    else:
        cut = extract_cutouts(frame, part["x"], part["y"], size, fwhm=fwhm, background=sky)
        star = common_star(cut.data, part["snr"], part["flags"], *place, harm=harm)
    if star is None or not follow:
        return star
    return replace(star, left=_left_of(frame, sources, part[star.alike], size, star))


def _left_of(
    frame: Frame, sources: Table, stars: Table, size: int, star: CommonStar
) -> Leftover | None:
    """Measure what the common star leaves of stars, per flux, on stamps."""
    fwhm = fwhm_of_stars(sources, stars)
    cut, flux = _without_star(frame, stars["x"], stars["y"], size, fwhm, star)
    lit = flux > 0
    place = _places(frame, stars["x"], stars["y"])
    return Leftover.of_stars(cut.data[lit] / flux[lit, None, None], place[lit])


def _places(frame: Frame, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
    return np.column_stack(frame.place(x, y)).astype(np.float64)


def fwhm_of_stars(alike: Table, sources: Table) -> float | NDArray[np.float64]:
    """Return the FWHM in pixels of the stars of a frame; at each source if it varies strongly.

    Parameters
    ----------
    alike : Table
        Table from `find_sources`.
    sources : Table
        Sources of the same frame, with ``local_fwhm``.

    Returns
    -------
    float or ndarray, shape (n,)
    """
    if alike.meta.get("varies", False):
        return np.asarray(sources["local_fwhm"], dtype=np.float64)
    return float(alike.meta["fwhm"])


def extract_stamps(
    frame: Frame,
    x: ArrayLike,
    y: ArrayLike,
    size: int = STAMP_SIZE,
    *,
    fwhm: ArrayLike,
    star: CommonStar | None,
) -> Cutouts:
    """Cut stamps for the shipped network: resampled, sky-subtracted and standardised.

    Parameters
    ----------
    frame : Frame
    x, y : array_like, shape (n,)
        Positions in pixels, 0-based.
    size : int
        Side of a stamp in pixels, odd.
    fwhm : float or array_like, shape (n,)
        FWHM of the frame's stars in pixels, or of those at each source; see `fwhm_of_stars`.
    star : CommonStar or None
        Common star from `frame_star`.

    Returns
    -------
    Cutouts

    Raises
    ------
    InputError
        As for `extract_cutouts`, or if the star is from a frame of another FWHM.

    Examples
    --------
    >>> from mlpsf import simulate_frame
    >>> from mlpsf.detection.sources import find_sources
    >>> frame = simulate_frame(shape=(400, 400), n_stars=120, n_galaxies=20, seed=1).frame
    >>> sources = find_sources(frame)
    >>> extract_stamps(
    ...     frame, sources["x"][:9], sources["y"][:9], fwhm=sources.meta["fwhm"],
    ...     star=frame_star(frame, sources))
    <Cutouts: 9 of 41 x 41, 1 frame pixels a pixel>
    """
    found = REFERENCE_FWHM if star is None else star.fwhm
    width = np.asarray(fwhm, dtype=np.float64)
    if width.ndim:  # of scaled cutouts, with which a star of the reference's FWHM goes
        wrong = found < REFERENCE_FWHM
    else:
        wrong = bool(abs(found / np.minimum(width, REFERENCE_FWHM) - 1) > 0.01)
    if star is not None and wrong:
        of_this = f"{width:.3g}" if not width.ndim else "one each; give one for all"
        raise InputError(
            f"The common star is of a frame whose stars have a FWHM of {found:.3g} pixels"
            f"{' or more' if found == REFERENCE_FWHM else ''}; this one's have {of_this}."
        )
    x, y = np.atleast_1d(x), np.atleast_1d(y)
    parts = []
    for start in range(0, max(len(x), 1), _BLOCK):
        block = slice(start, start + _BLOCK)
        at = x[block], y[block]
        cut, flux = _without_star(frame, *at, size, width[block] if width.ndim else width, star)
        if star is not None:
            place = _places(frame, cut.x, cut.y)
            cut = replace(cut, data=_with_standard(cut.data, flux, star, place))
        parts.append(replace(cut, homogenized=True))
    if len(parts) == 1:
        return parts[0]

    def whole(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(part, name) for part in parts])

    return Cutouts(
        data=whole("data"),
        x=whole("x"),
        y=whole("y"),
        x0=whole("x0"),
        y0=whole("y0"),
        scale=float(np.median(width)) / REFERENCE_FWHM,
        near_edge=whole("near_edge"),
        homogenized=True,
    )


def _without_star(
    frame: Frame,
    x: ArrayLike,
    y: ArrayLike,
    size: int,
    fwhm: ArrayLike,
    star: CommonStar | None,
) -> tuple[Cutouts, NDArray[np.float32]]:
    """Cut stamps without sky and star; return the flux of that, too, in the pixels of stamps."""
    sky = frame.background.level
    if star is None or star.fwhm == REFERENCE_FWHM:
        cut = extract_cutouts(frame, x, y, size, fwhm=fwhm, background=sky)
        data = cut.data - sky_and_noise(cut.data)[0][:, None, None]
        place = _places(frame, cut.x, cut.y)
        flux = np.zeros(len(data), np.float32) if star is None else _take_away(data, star, place)
        return replace(cut, data=data), flux
    # The star is subtracted before resampling, which blurs a narrow one by its sub-pixel phase.
    scale = float(np.asarray(fwhm)) / REFERENCE_FWHM
    cut = extract_cutouts(frame, x, y, 2 * reach_of(size, scale) + 1, background=sky)
    data = cut.data - sky_and_noise(cut.data)[0][:, None, None]
    dx, dy = cut.x - cut.x0, cut.y - cut.y0
    half = round(FITTED * star.fwhm)
    fit = fit_psf(data, star.psf, dx=dx, dy=dy, half_width=half, n_iter=_STEPS)
    rows = np.flatnonzero(fit.ok & (np.abs(fit.flux) < 1e-3 * _MOST))
    flux = np.zeros(len(data), dtype=np.float32)
    flux[rows] = fit.flux[rows]
    at = frame.place(cut.x[rows], cut.y[rows])
    own = star.stamps(fit.dx[rows], fit.dy[rows], *at, data.shape[-1])
    data[rows] -= flux[rows, None, None] * own
    out = resample(data, dx, dy, size, scale)
    near_edge = reaches_over(cut.x, cut.y, scale * (size // 2), frame.shape)
    # Resampling conserves surface brightness, not flux.
    flux /= np.float32(scale**2)
    return Cutouts(out, cut.x, cut.y, cut.x, cut.y, scale, near_edge), flux
