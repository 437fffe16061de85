"""Second check of the best stars of a frame, using their common PSF.

Some contaminants show only against the frame's own PSF: a faint neighbour within about a FWHM, a
compact galaxy, a cosmic ray in the core. A selector that judges single cutouts cannot see them.
Here the candidates are stacked robustly, the stack is fitted to each candidate and subtracted, and
the residual is searched for point sources with a matched filter. A candidate is an outlier if its
residual is larger than noise and the scatter among the candidates explain.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray

from mlpsf.detection.sources import parts_of
from mlpsf.errors import InputError, PSFError
from mlpsf.flags import Flag
from mlpsf.frames.cutouts import REFERENCE_FWHM, extract_cutouts, nearest_pixels
from mlpsf.frames.frame import Frame
from mlpsf.frames.near import nearest, sums_across
from mlpsf.selection.choice import Rules, candidates, with_places
from mlpsf.stacks.effective import EffectivePSF, stack_stars
from mlpsf.stacks.fitting import PSFFit, fit_psf

__all__ = ["FEWEST", "SecondLook", "second_look", "strike_outliers"]

FEWEST = 5
"""Minimum number of candidates to compare; with fewer, none is an outlier."""

SIGNIFICANCE = 5.0
"""Lowest significance of an outlier's residual, in standard deviations."""

CONTAMINATION = 0.02
"""Lowest flux of an outlier's residual, relative to its own flux; the limit used for labels."""

_WINDOW = 2.0  # FWHM, radius of the comparison; the selector judges what is farther out
_SEARCHED = (0.3, 1.75)  # FWHM, radii between which point sources are searched for
_STACKED = 25  # candidates in the stack; more take time and change nothing
_TREND = 15  # minimum number of candidates to fit a trend over the frame, not a constant
_MODEL_ERROR = 0.01  # error of a stack on tenths of pixels, relative to the light in a pixel
_NEAREST = 3  # candidates about each, whose median is the PSF of the place
_MOST = 2.4  # standard deviations that count of how far candidates are alike
_LOOKS = 4  # at most: stars that take the places of struck ones are looked at, too
_NOISE_ALONE = 2.4  # median over stars of the highest significance, for noise only


class SecondLook(NamedTuple):
    """Result of a second look at n candidates; arrays of shape (n,).

    `outlier`: whether to reject the candidate; also true where the PSF could not be fitted.
    `contamination`: flux of the most significant point source in the residual, relative to the
    candidate's flux. It counts only light that neither a shift nor a change of flux accounts for,
    nor the nearest candidates share. It is negative where light is missing and NaN where the fit
    failed. `significance`: its own, in standard deviations of the noise and the frame's scatter.
    """

    outlier: NDArray[np.bool_]
    contamination: NDArray[np.float64]
    significance: NDArray[np.float64]


class _Cutouts(NamedTuple):
    """Cutouts in units of the noise, of a FWHM of 4 pixels at most, and initial values of a fit."""

    data: NDArray[np.float32]
    variance: NDArray[np.float64]  # of the sky; whole cutouts or one value each
    per_light: float  # variance per unit of the stars' light
    dx: NDArray[np.float64]
    dy: NDArray[np.float64]
    flux: NDArray[np.float64]
    fwhm: float
    half: int


def second_look(frame: Frame, x: ArrayLike, y: ArrayLike, fwhm: float) -> SecondLook:
    """Find the candidates of a frame that do not match their common PSF.

    Size and shape of the PSF may change linearly over the frame, and what a candidate shares with
    those nearest to it is the PSF of the place. Any further scatter of the candidates is measured
    and added to the noise. Up to about a third of them may be contaminated.

    Parameters
    ----------
    frame : Frame
    x, y : array_like, shape (n,)
        Positions of the candidates, 0-based pixels, the best first. The first 25 make the PSF.
    fwhm : float
        FWHM of the frame's stars, in pixels.

    Returns
    -------
    SecondLook

    Raises
    ------
    InputError
        `fwhm` is not positive and finite.
    PSFError
        The candidates contain no light to make a PSF from.

    Examples
    --------
    >>> from mlpsf import simulate_frame
    >>> stars = [(40 + 50 * (k % 5), 40 + 50 * (k // 5), 1e5) for k in range(20)]
    >>> sim = simulate_frame(
    ...     shape=(240, 280), stars=[*stars, (44, 40, 6e3)], n_galaxies=0, cosmic_rays=0,
    ...     bad_columns=0, hot_pixels=0, seed=1)
    >>> x, y, _ = np.array(stars).T
    >>> look = second_look(sim.frame, x, y, fwhm=4.0)
    >>> np.flatnonzero(look.outlier).tolist(), bool(look.contamination[0] > 0.02)
    ([0], True)
    """
    if not 0 < fwhm < np.inf:
        raise InputError(f"The 'fwhm' parameter must be positive and finite. Got {fwhm}.")
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    n = len(x)
    look = SecondLook(np.zeros(n, dtype=bool), np.full(n, np.nan), np.full(n, np.nan))
    if n < FEWEST:
        return look
    cut = _cut(frame, x, y, fwhm)
    ny, nx = frame.extent
    at_x, at_y = frame.place(x, y)
    place = np.column_stack([at_x / nx, at_y / ny]) - 0.5
    dx, dy, flux = cut.dx, cut.dy, cut.flux
    for _ in range(2):  # the second PSF leaves out the outliers of the first
        rows = np.flatnonzero((flux > 0) & ~look.outlier)[:_STACKED]
        if len(rows) < FEWEST:
            break
        psf = stack_stars(cut.data[rows], dx[rows], dy[rows], flux[rows], cut.half, n_iter=2)
        fit = fit_psf(cut.data, psf, dx=dx, dy=dy, half_width=round(1.5 * cut.fwhm))
        look = _verdict(*_search(cut, psf, fit, place), fit.ok, place)
        if not look.outlier[rows].any():
            break
        dx, dy, flux = fit.dx, fit.dy, np.where(fit.ok, fit.flux, 0.0)
    return look


def strike_outliers(
    frame: Frame, sources: Table, probability: NDArray[np.float64], rules: Rules
) -> None:
    """Flag the candidates that do not match the PSF of the best ones, in place.

    Parameters
    ----------
    frame : Frame
    sources : Table
        Sources. The flags ``OUTLIER`` and ``OUTLIER_KEPT`` are set, and ``n_looked_at``,
        ``n_outliers`` and ``n_outliers_kept`` in the metadata.
    probability : ndarray, shape (n,)
    rules : Rules
        Rules of the choice. Twice as many candidates as needed are compared, and again if so many
        are struck that others would be chosen. At least ``n_min`` of those that reach the threshold
        are kept.
    """
    placed = with_places(frame, sources)

    def ranking() -> NDArray[np.intp]:
        placed["flags"] = sources["flags"]
        ranked = candidates(
            placed,
            probability,
            threshold=rules.threshold,
            rank_by=rules.rank_by,
            needed=rules.needed,
        )
        if rules.relax and len(ranked) < rules.n_min:
            ranked = candidates(placed, probability)[: rules.n_min]
        return ranked

    looked = np.zeros(0, dtype=np.intp)
    kept = n_looked_at = n_struck = 0
    for _ in range(_LOOKS):
        ranked = ranking()
        rows = ranked[: 2 * rules.needed]
        if np.isin(rows[: rules.needed], looked).all():
            break
        surest = candidates(sources, probability)
        rows = surest[np.isin(surest, rows)]  # the most probable make the PSF
        outliers, number = _outliers(frame, sources, rows)
        flags = np.array(sources["flags"])
        outliers = outliers[flags[outliers] & (Flag.KEPT | Flag.OUTLIER_KEPT) == 0]
        most = min(len(outliers), max(len(ranked) - rules.n_min, 0))
        flags[outliers[:most]] |= Flag.OUTLIER
        flags[outliers[most:]] |= Flag.OUTLIER_KEPT
        sources["flags"] = flags
        n_looked_at += number if not len(looked) else int((~np.isin(rows, looked)).sum())
        looked = np.union1d(looked, rows)
        n_struck, kept = n_struck + most, kept + len(outliers) - most
    sources.meta["n_looked_at"] = n_looked_at
    sources.meta["n_outliers"] = n_struck
    sources.meta["n_outliers_kept"] = kept


def _outliers(frame: Frame, sources: Table, rows: NDArray[np.intp]) -> tuple[NDArray[np.intp], int]:
    """Find the rows that do not match their common PSF.

    Returns
    -------
    outliers : ndarray
        Rows of the outliers, the worst first.
    n_looked_at : int
        Number of rows compared; 0 if no PSF could be made.
    """
    x, y = (np.asarray(sources[name]) for name in "xy")
    outliers: list[int] = []
    significance: list[float] = []
    n_looked_at = 0
    for part, fwhm in parts_of(sources):
        here = rows[np.isin(rows, part)]
        try:
            look = second_look(frame, x[here], y[here], fwhm)
        except PSFError:
            continue
        n_looked_at += int((look.outlier | np.isfinite(look.significance)).sum())
        outliers.extend(here[look.outlier])
        significance.extend(np.nan_to_num(look.significance[look.outlier], nan=np.inf))
    worst = np.argsort(-np.array(significance), kind="stable")
    return np.array(outliers, dtype=np.intp)[worst], n_looked_at


def _cut(
    frame: Frame,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    fwhm: float,
) -> _Cutouts:
    scale = max(fwhm / REFERENCE_FWHM, 1.0)
    width = fwhm / scale
    half = int(np.ceil(_WINDOW * width)) + 1
    cut = extract_cutouts(
        frame,
        x,
        y,
        2 * half + 1,
        fwhm=fwhm if scale > 1 else None,
        background=frame.background.level,
    )
    row, column = nearest_pixels(x, y, frame.shape)
    rms = frame.background.rms[row, column].astype(np.float64)
    # In units of the noise: the limits of the fits are those of numbers near one.
    unit = float(np.median(rms))
    pixels = cut.data / np.float32(unit)
    variance, gain = (rms[:, None, None] / unit) ** 2, np.inf
    if frame.variance is not None:  # it includes the stars' own noise
        everywhere = extract_cutouts(
            (frame.background.rms / np.float32(unit)) ** 2,
            x,
            y,
            2 * half + 1,
            fwhm=fwhm if scale > 1 else None,
        )
        variance = everywhere.data.astype(np.float64)
    else:
        gain = frame.known_gain * unit
    u = np.arange(-half, half + 1)
    near = np.hypot(u, u[:, None]) <= width
    flux = np.asarray(np.nansum(np.where(near, pixels, 0.0), axis=(1, 2), dtype=np.float64))
    return _Cutouts(
        pixels,
        # Variance of pixels averaged over scale**2. The resulting correlation is shorter than the
        # width of a star, over which pixels are summed.
        variance / scale**2,
        1.0 / (gain * scale**2),
        (x - cut.x0) / scale,
        (y - cut.y0) / scale,
        flux,
        width,
        half,
    )


def _search(
    cut: _Cutouts, psf: EffectivePSF, fit: PSFFit, place: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Search the residual of each candidate for point sources.

    Returns
    -------
    share, noise : ndarray, shape (n, m)
        For each of m positions around the candidate: the flux of a point source there relative
        to the candidate's flux, without the part absorbed by the candidate's own fit; and its
        standard deviation.
    """
    n, side = len(cut.data), cut.data.shape[-1]
    point, gx, gy = psf.stamps_and_gradients(fit.dx, fit.dy, side).astype(np.float64)
    flux = np.where(fit.ok, fit.flux, 0.0)[:, None]
    model = flux[:, :, None] * point
    u = np.arange(side) - side // 2
    # The stack is as large as the cutouts, so the model of an off-centre star ends earlier.
    good = np.isfinite(cut.data) & (np.hypot(u, u[:, None]) <= cut.half - 1)
    variance = cut.variance + cut.per_light * np.maximum(model, 0.0)
    variance += (_MODEL_ERROR * model) ** 2
    weight = np.where(good, 1.0 / variance, 0.0).reshape(n, -1)
    left = np.where(good, cut.data - model, 0.0).reshape(n, -1)
    rx, ry = u - fit.dx[:, None, None], u[:, None] - fit.dy[:, None, None]
    plain = np.stack([point, gx, gy, np.full_like(point, 1.0 / side**2)], axis=1)
    # Effects of a wider and an elongated PSF (the gradients are those of a shifted star).
    modes = np.stack([rx * gx + ry * gy - 2 * point, rx * gx - ry * gy, rx * gy + ry * gx], axis=1)
    plain, modes = plain.reshape(n, 4, -1), modes.reshape(n, 3, -1)
    own_flux = np.maximum(flux, 1e-30)
    amplitude = _least_squares(np.concatenate([plain, modes], axis=1), weight, left)[:, 4:]
    trend = _trend(amplitude / own_flux, place, fit.ok)
    left = left - flux * np.einsum("nk,nkp->np", trend, modes)
    left = left - np.einsum("nk,nkp->np", _least_squares(plain, weight, left), plain)
    sources = _point_sources(psf, cut)
    if not len(sources):
        raise PSFError("no pixel is far enough from the stars to be searched for neighbours")
    dot = (weight * left) @ sources.T
    norm = np.maximum(weight @ (sources**2).T, 1e-30)
    weighted = plain * weight[:, None, :]
    normal = weighted @ plain.swapaxes(1, 2) + 1e-30 * np.eye(4)
    cross = weighted @ sources.T
    taken = (cross * np.linalg.solve(normal, cross)).sum(axis=1)
    free = np.maximum(norm - taken, 1e-3 * norm)
    return dot / np.sqrt(free * norm) / own_flux, 1.0 / np.sqrt(norm) / own_flux


def _point_sources(psf: EffectivePSF, cut: _Cutouts) -> NDArray[np.float64]:
    """Draw a source of flux 1 at each searched position, shape (m, pixels of a cutout)."""
    side = cut.data.shape[-1]
    row, column = np.indices((side, side)).reshape(2, -1) - cut.half
    distance = np.hypot(row, column) / cut.fwhm
    searched = (distance > _SEARCHED[0]) & (distance <= _SEARCHED[1])
    wide = psf.stamps(np.zeros(1), np.zeros(1), 4 * cut.half + 1)[0].astype(np.float64)
    first = [(cut.half - j, cut.half - i) for j, i in zip(row, column, strict=True)]
    drawn = [wide[j : j + side, i : i + side].ravel() for j, i in np.array(first)[searched]]
    return np.array(drawn)


def _least_squares(
    basis: NDArray[np.float64], weight: NDArray[np.float64], data: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Fit k functions to each of n images, shape (n, k); too few pixels give small values."""
    weighted = basis * weight[:, None, :]
    normal = weighted @ basis.swapaxes(1, 2)
    unit = np.sqrt(np.maximum(np.einsum("nkk->nk", normal), 1e-30))
    normal = normal / unit[:, :, None] / unit[:, None, :] + 1e-6 * np.eye(basis.shape[1])
    target = np.einsum("nkp,np->nk", weighted, data) / unit
    solution: NDArray[np.float64] = np.linalg.solve(normal, target[:, :, None])[:, :, 0] / unit
    return solution


def _trend(
    values: NDArray[np.float64], place: NDArray[np.float64], ok: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Fit robust linear trends of k values over the frame; return them, shape (n, k)."""
    out = np.zeros_like(values)
    if not ok.any():
        return out
    base = np.ones((len(place), 1))
    if ok.sum() >= _TREND:
        base = np.column_stack([base, place])
    for k, value in enumerate(values.T):
        trend = np.full(len(value), np.median(value[ok]))
        for _ in range(8):  # iterative reweighting: outliers lose their weight
            off = np.abs(value - trend)
            weight = ok / np.maximum(1.0, off / (1.4826 * np.median(off[ok]) + 1e-6)) ** 2
            weighted = base * weight[:, None]
            normal = weighted.T @ base + 1e-9 * np.eye(base.shape[1])
            trend = base @ np.linalg.solve(normal, weighted.T @ value)
        out[:, k] = trend
    return out


def _verdict(
    share: NDArray[np.float64],
    noise: NDArray[np.float64],
    ok: NDArray[np.bool_],
    place: NDArray[np.float64],
) -> SecondLook:
    """Find the candidates whose residual exceeds the noise and the scatter of the frame."""
    n, rows = len(share), np.flatnonzero(ok)
    if len(rows) < FEWEST:
        return SecondLook(~ok, np.full(n, np.nan), np.full(n, np.nan))
    order = rows[np.argsort(np.median(noise[rows], axis=1), kind="stable")]
    bright = order[: max(FEWEST, (len(order) + 1) // 2)]
    # Errors of the PSF scale with the light, so they show in bright candidates.
    scatter = max(_scatter(share[part], noise[part]) for part in (bright, rows))
    error = np.hypot(noise, scatter)
    share = _unlike_nearest(share, error, place, rows)
    significance = np.abs(share) / error
    highest = np.argmax(significance, axis=1)
    contamination = np.where(ok, share[np.arange(n), highest], np.nan)
    significance = np.where(ok, significance[np.arange(n), highest], np.nan)
    outlier = (significance > SIGNIFICANCE) & (np.abs(contamination) > CONTAMINATION)
    return SecondLook(outlier | ~ok, contamination, significance)


def _unlike_nearest(
    share: NDArray[np.float64],
    error: NDArray[np.float64],
    place: NDArray[np.float64],
    rows: NDArray[np.intp],
) -> NDArray[np.float64]:
    """Return of each residual no more than its difference from that of the nearest candidates.

    What they share is the PSF of the place, as far as the frame's candidates foretell each other:
    contaminants side by side, as the galaxies of a cluster, do not hide each other.
    """
    if not np.ptp(place, axis=0).any():  # places are not known
        return share
    near = rows[nearest(place[rows], place, _NEAREST + 1)[1]]
    itself = near == np.arange(len(share))[:, None]
    near = np.take_along_axis(near, np.argsort(itself, axis=1, kind="stable"), 1)[:, :_NEAREST]
    there = np.median(share[near], axis=1)
    # How far they do is told by those on the other side of the frame, no one of them by much.
    mine, theirs = (np.clip(v[rows] / error[rows], -_MOST, _MOST) for v in (share, there))
    products = np.column_stack([(mine * theirs).sum(axis=1), (theirs**2).sum(axis=1)])
    sums = sums_across(place - np.median(place[rows], axis=0), rows, products)
    alike = np.clip(sums[:, 0] / np.maximum(sums[:, 1], 1e-30), 0.0, 1.0)
    off = share - alike[:, None] * there
    least = np.minimum(np.abs(share), np.abs(off))
    return np.where(share * off > 0, np.sign(share) * least, 0.0)


def _scatter(share: NDArray[np.float64], noise: NDArray[np.float64]) -> float:
    """Find the scatter at which the median star's highest significance is that of pure noise."""
    low, high = 0.0, 1.0
    for _ in range(14):
        middle = max(0.5 * (low + high), 1e-4) if low else 0.25 * high
        highest = np.max(np.abs(share) / np.hypot(noise, middle), axis=1)
        if np.median(highest) > _NOISE_ALONE:
            low = middle
        else:
            high = middle
    return high
