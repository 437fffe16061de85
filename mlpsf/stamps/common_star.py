"""Find the common image of a frame's bright stars and its variation over the frame."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlpsf.detection.common_size import stellar_size
from mlpsf.errors import PSFError
from mlpsf.flags import NEVER_A_PSF_STAR, Flag
from mlpsf.frames.cutouts import REFERENCE_FWHM
from mlpsf.stacks.effective import OVERSAMPLING, EffectivePSF, stack_stars
from mlpsf.stacks.fitting import fit_psf
from mlpsf.stacks.moments import Moments, gaussian_moments
from mlpsf.stacks.values import sky_and_noise
from mlpsf.stamps.leftover import Leftover

__all__ = ["FARTHEST", "FEWEST", "FITTED", "STEP", "CommonStar", "brightest", "common_star"]

FEWEST = 3
"""Minimum number of similar stars for a common star."""

FITTED = 1.25
"""Half-width in FWHM of the window in which the star is fitted to a source."""

STEP = 0.08
"""From one size of a scaled star to the next, in the logarithm."""

FARTHEST = 3.4
"""Largest distance in pixels of a star from where it was looked for: beyond, it is another."""

_BRIGHTEST = 400  # brightest sources among which the common star is searched
_STACKED = 30  # stars in the stack; more cost time and change little
_FOLLOWED = 120  # stars to which the variation over the frame is fitted
_EXACT = 1e-9  # of the light of a star; a stack that leaves less fits
_WORST = 2.0  # light that the stack leaves of a star, over the usual
_ALIKE = (0.08, 0.10)  # largest difference of nearby stars in size (relative) and ellipticity
_BRIGHT, _HARM = 300.0, 0.05  # S/N, and light of neighbours, that halve a star's weight
_POWERS = ((8, 3), (18, 6))  # (minimum number of stars, number of polynomial terms)


@dataclass(frozen=True, eq=False)
class CommonStar:
    """The common image of the bright stars of a frame, and its variation over the frame.

    Attributes
    ----------
    psf : EffectivePSF
        Normalised to a sum of 1, on the pixels of stamps.
    trend : ndarray, shape (k, 3)
        Coefficients of a polynomial in position for the change of width, elongation along x, and
        elongation along the diagonal.
    centre, reach : ndarray, shape (2,)
        The polynomial is in ``((x, y) - centre) / reach``.
    most : ndarray, shape (3,)
        Largest absolute value of each change among the fitted stars.
    fwhm : float
        FWHM of the star in pixels: `REFERENCE_FWHM` on stamps, less on the frame's pixels.
    alike : ndarray of int, shape (m,)
        Rows of the stars, among those that it was made of, that are alike.
    left : Leftover, optional
        What it leaves of stars, on stamps; see `frame_star`.
    """

    psf: EffectivePSF
    trend: NDArray[np.float64]
    centre: NDArray[np.float64]
    reach: NDArray[np.float64]
    most: NDArray[np.float64]
    fwhm: float = REFERENCE_FWHM
    alike: NDArray[np.intp] = field(default_factory=lambda: np.zeros(0, dtype=np.intp))
    left: Leftover | None = None
    _sizes: dict[int, CommonStar] = field(default_factory=dict, init=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what can be drawn again."""
        return self.__dict__ | {"_sizes": {}}

    def of_size(self, step: int) -> CommonStar:
        """Return the star with a FWHM of ``exp(STEP * step)`` times its own; drawn once."""
        if not step:
            return self
        if step not in self._sizes:
            self._sizes[step] = self.scaled(float(np.exp(STEP * step)))
        return self._sizes[step]

    def scaled(self, factor: float) -> CommonStar:
        """Return the star with a FWHM that is larger by a factor, and all of its light."""
        from scipy.interpolate import RectBivariateSpline  # few frames need it

        half = self.psf.half
        to = max(ceil(half * factor), 1)
        own, u = (
            np.arange(-h * OVERSAMPLING, h * OVERSAMPLING + 1) / OVERSAMPLING for h in (half, to)
        )
        at = u / factor
        inside = np.abs(at) <= half
        grid = np.zeros((len(u),) * 2)
        grid[np.ix_(inside, inside)] = RectBivariateSpline(own, own, self.psf.grid, kx=1, ky=1)(
            at[inside], at[inside]
        )
        grid /= grid[::OVERSAMPLING, ::OVERSAMPLING].sum()
        return replace(self, psf=EffectivePSF(grid), fwhm=self.fwhm * factor)

    def stamps(
        self,
        dx: NDArray[np.float64],
        dy: NDArray[np.float64],
        x: ArrayLike,
        y: ArrayLike,
        size: int,
        wider: ArrayLike = 0.0,
    ) -> NDArray[np.float32]:
        """Draw stars of flux 1 as they are at given positions of the frame.

        Parameters
        ----------
        dx, dy : ndarray, shape (n,)
            Offset of each star from the centre of its stamp, in pixels.
        x, y : array_like, shape (n,)
            Positions in pixels of the frame.
        size : int
            Side of the stamps in pixels.
        wider : float or array_like, shape (n,)
            Width of each over that of the star drawn at its place, less 1; 0.03 for 3 % wider.

        Returns
        -------
        ndarray of float32, shape (n, size, size)
        """
        if not (self.trend.any() or np.any(wider)):
            return self.psf.stamps(dx, dy, size)
        # The sum of the changes of `_shape_modes`, which need not be drawn each by itself.
        drawn: NDArray[np.float32]
        drawn, gx, gy = self.psf.stamps_and_gradients(dx, dy, size)
        rx, ry = _distances(dx, dy, size)
        change = self.change(x, y) + np.multiply.outer(wider, [1.0, 0.0, 0.0])
        grown, along, across = change.astype(np.float32).T[:, :, None, None]
        gx *= (grown + along) * rx + across * ry
        gy *= (grown - along) * ry + across * rx
        drawn *= 1 - 2 * grown
        drawn += gx
        drawn += gy
        return drawn

    def change(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Return how the star at each position differs from the common one, shape (n, 3)."""
        place = (np.column_stack([x, y]) - self.centre) / self.reach
        return np.clip(_powers(place, len(self.trend)) @ self.trend, -self.most, self.most)


def _powers(place: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Return the first `count` of 1, x, y, x2, xy, y2 at each position, shape (n, count)."""
    x, y = place.T
    return np.column_stack([np.ones_like(x), x, y, x * x, x * y, y * y])[:, :count]


def _distances(
    dx: NDArray[np.float64], dy: NDArray[np.float64], size: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return how far the columns and rows of stamps are from their stars."""
    u = (np.arange(size) - size // 2).astype(np.float32)
    rx = u - dx.astype(np.float32)[:, None, None]
    ry = u[:, None] - dy.astype(np.float32)[:, None, None]
    return rx, ry


def _shape_modes(
    psf: EffectivePSF, dx: NDArray[np.float64], dy: NDArray[np.float64], size: int
) -> NDArray[np.float32]:
    """Draw a star, its slopes, and its changes if wider or elongated, (6, n, ...)."""
    point, gx, gy = psf.stamps_and_gradients(dx, dy, size)
    rx, ry = _distances(dx, dy, size)
    wider = rx * gx + ry * gy - 2 * point
    return np.stack([point, gx, gy, wider, rx * gx - ry * gy, rx * gy + ry * gx])


def common_star(
    stamps: NDArray[np.floating],
    snr: ArrayLike,
    flags: ArrayLike | None = None,
    x: ArrayLike | None = None,
    y: ArrayLike | None = None,
    fwhm: float = REFERENCE_FWHM,
    *,
    harm: NDArray[np.floating] | None = None,
) -> CommonStar | None:
    """Find the common image of the bright stars of a frame.

    Among the brightest sources, the stars are a cluster in size, and have one shape. The
    common star is the clipped mean of the brightest of them. It is computed again without the
    stars that it fits worst. If there are enough stars, the variation of size and shape over the
    frame is fitted with a polynomial.

    Parameters
    ----------
    stamps : ndarray, shape (n, size, size)
        Stamps of one frame; NaN marks pixels without data.
    snr : array_like, shape (n,)
        Signal-to-noise ratio of the sources, to rank them.
    flags : array_like of int, shape (n,), optional
        Flags from `find_sources`. Sources that cannot be PSF stars are not used, except faint ones
        and ones near the edge. Blended ones are used only if there are few others.
    x, y : array_like, shape (n,), optional
        Positions on the frame. Without them the star is constant over the frame.
    fwhm : float
        FWHM of the stars in pixels of the stamps.
    harm : ndarray, shape (n,), optional
        Light of neighbours that was taken away about each source, relative to its own. If given,
        stars count by it and by their noise. By default all count alike.

    Returns
    -------
    CommonStar or None
        None if fewer than three sources are similar.

    Examples
    --------
    >>> u = np.arange(-20, 21)
    >>> round_star = (1 + (u**2 + u[:, None] ** 2) / 15.4) ** -3.0
    >>> stars = np.linspace(50, 100, 9)[:, None, None] * round_star
    >>> star = common_star(stars, snr=np.arange(9))
    >>> round(float(star.psf.stamps(np.zeros(1), np.zeros(1), 41)[0, 20, 20]), 3)
    0.041
    """
    rows = brightest(snr, flags)
    c, near = stamps.shape[-1] // 2, round(fwhm)
    core = stamps[rows, c - near : c + near + 1, c - near : c + near + 1]
    rows = rows[np.isfinite(core).all(axis=(1, 2))]
    if len(rows) < FEWEST:
        return None
    pixels = stamps[rows] - sky_and_noise(stamps[rows])[0][:, None, None]
    found = gaussian_moments(pixels, fwhm)
    good = found.ok & (np.hypot(found.dx, found.dy) < min(fwhm / 2, FARTHEST))
    good &= found.ellipticity < 0.7
    good &= np.nan_to_num(found.flux) > 0
    if good.sum() < FEWEST:
        return None
    place = np.zeros((len(rows), 2))
    if x is not None and y is not None:
        place = np.column_stack([x, y]).astype(np.float64)[rows]
    alike = np.flatnonzero(_alike(found, good, place))
    if len(alike) < FEWEST:
        return None
    stars = alike[:_STACKED]
    weight = np.ones(len(rows))
    if harm is not None:
        bright = np.maximum(np.asarray(snr, dtype=np.float64)[rows], 1e-3)
        weight = 1.0 / (1.0 + (_BRIGHT / bright) ** 2 + (harm[rows] / _HARM) ** 2)
    try:
        psf = _stack(
            pixels[stars],
            found.dx[stars],
            found.dy[stars],
            found.flux[stars],
            weight[stars],
            fwhm,
        )
    except PSFError:
        return None
    some = alike[:_FOLLOWED]
    followed = _followed(psf, pixels[some], place[some], weight[some], fwhm)
    return replace(followed, alike=rows[alike])


def _alike(
    found: Moments, good: NDArray[np.bool_], place: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return which sources share one size and shape, or one that varies smoothly over the frame."""
    values = np.column_stack([np.log(found.fwhm), found.e1, found.e2])
    width = stellar_size(found.fwhm[good], found.e1[good], found.e2[good])
    alike = np.asarray(good & (np.abs(values[:, 0] - np.log(width)) < 1.25 * _ALIKE[0]))
    if alike.sum() < FEWEST:
        return alike
    usual = np.median(values[alike], axis=0)
    near = alike & (np.hypot(*(values - usual).T[1:]) < 1.2 * _ALIKE[1])
    alike = near if near.sum() >= FEWEST else alike
    for _ in range(3):  # start with the stars of the usual shape
        count = _count(int(alike.sum()))
        trend, centre, reach = _fit_powers(place[alike], values[alike] - usual, count)
        off = np.abs(values - usual - _powers((place - centre) / reach, count) @ trend)
        now = good & (off[:, 0] < _ALIKE[0]) & (np.hypot(off[:, 1], off[:, 2]) < _ALIKE[1])
        if now.sum() < FEWEST:
            break
        alike = now
    return np.asarray(alike)


def _count(n: int) -> int:
    """Return the number of polynomial terms that n stars can constrain."""
    return max((k for least, k in _POWERS if n >= least), default=1)


def _fit_powers(
    place: NDArray[np.float64],
    values: NDArray[np.float64],
    count: int,
    weight: NDArray[np.floating] | float = 1.0,
) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[np.float64]]:
    """Fit polynomials in position to columns of values, with less weight for outliers."""
    centre = np.asarray(0.5 * (place.max(axis=0) + place.min(axis=0)))
    reach = np.maximum(0.5 * np.ptp(place, axis=0), 1.0)
    powers = _powers((place - centre) / reach, count)
    usual = np.broadcast_to(weight, len(place))[:, None]
    now = usual
    for _ in range(6):
        weighted = powers * now
        # Add a virtual star without any change, so that a trend needs evidence.
        trend = np.linalg.solve(weighted.T @ powers + np.eye(count), weighted.T @ values)
        off = np.abs(values - powers @ trend)
        spread = 1.4826 * np.median(off, axis=0) + 1e-6
        now = usual / np.maximum(1.0, (off / spread / 2).max(axis=1, keepdims=True)) ** 2
    return trend, centre, reach


def _followed(
    psf: EffectivePSF,
    pixels: NDArray[np.floating],
    place: NDArray[np.float64],
    weight: NDArray[np.floating],
    fwhm: float,
) -> CommonStar:
    """Fit how the image of the stars changes with position."""
    half = min(round(1.5 * fwhm), pixels.shape[-1] // 2)
    near = slice(pixels.shape[-1] // 2 - half, pixels.shape[-1] // 2 + half + 1)
    pixels = pixels[:, near, near]
    fit = fit_psf(pixels, psf, half_width=round(FITTED * fwhm))
    rows = np.flatnonzero(fit.ok & np.isfinite(pixels).all(axis=(1, 2)))
    still = CommonStar(psf, np.zeros((1, 3)), np.zeros(2), np.ones(2), np.zeros(3), fwhm)
    if len(rows) < FEWEST:
        return still
    modes = _shape_modes(psf, fit.dx[rows], fit.dy[rows], pixels.shape[-1])
    basis = modes.reshape(6, len(rows), -1).swapaxes(0, 1).astype(np.float64)
    data = pixels[rows].reshape(len(rows), -1, 1).astype(np.float64)
    normal = basis @ basis.swapaxes(1, 2)
    normal += 1e-9 * np.trace(normal[0]) * np.eye(6)
    amplitude = np.linalg.solve(normal, basis @ data)[:, :, 0]
    lit = amplitude[:, 0] > 0.3 * fit.flux[rows]
    rows, amplitude = rows[lit], amplitude[lit]
    if len(rows) < FEWEST:
        return still
    change = amplitude[:, 3:] / amplitude[:, :1]
    trend, centre, reach = _fit_powers(place[rows], change, _count(len(rows)), weight[rows])
    most = np.abs(_powers((place[rows] - centre) / reach, len(trend)) @ trend).max(axis=0)
    return CommonStar(psf, trend, centre, reach, most, fwhm)


def brightest(snr: ArrayLike, flags: ArrayLike | None) -> NDArray[np.intp]:
    """Return the rows of the sources among which stars are searched, the brightest first.

    Parameters are those of `common_star`.
    """
    snr = np.asarray(snr, dtype=np.float64)
    flags = np.zeros(len(snr), dtype=int) if flags is None else np.asarray(flags)
    harmless = Flag.NEAR_EDGE | Flag.FAINT | Flag.UNEVEN_SKY  # for the mean of many stars
    usable = (flags & (NEVER_A_PSF_STAR & ~harmless) == 0) & np.isfinite(snr)
    whole = usable & (flags & Flag.BLENDED == 0)
    rows = np.flatnonzero(whole if whole.sum() >= 4 * FEWEST else usable)
    rows = rows[np.argsort(-snr[rows], kind="stable")]
    return rows[: max(40, int((snr[rows] > 60).sum()))][:_BRIGHTEST]


def _stack(
    pixels: NDArray[np.floating],
    dx: NDArray[np.float64],
    dy: NDArray[np.float64],
    flux: NDArray[np.float64],
    weight: NDArray[np.floating],
    fwhm: float,
) -> EffectivePSF:
    """Stack stars, then again only those that the first stack fits."""
    size = pixels.shape[-1]
    # The wings are not needed to find stars with a neighbour.
    edge = max(size // 2 - round(2.5 * fwhm), 0)
    inner = pixels[:, edge : size - edge, edge : size - edge]
    star = stack_stars(inner, dx, dy, flux, len(inner[0]) // 2, n_iter=1, weight=weight)
    fit = fit_psf(inner, star, dx=dx, dy=dy, half_width=round(FITTED * fwhm))
    left = inner - star.stamps(fit.dx, fit.dy, inner.shape[-1]) * fit.flux[:, None, None]
    off = np.nanmean(np.abs(left), axis=(1, 2)) / np.maximum(fit.flux, 1e-30)
    # Weights fall about the limit: a rounding error may not take a star in or out.
    fits = np.clip(_WORST + 0.5 - off / max(np.median(off), _EXACT), 0, 1) * fit.ok
    kept = fits > 0
    if kept.sum() < FEWEST:
        return stack_stars(pixels, dx, dy, flux, size // 2, n_iter=2, weight=weight)
    return stack_stars(
        pixels[kept],
        fit.dx[kept],
        fit.dy[kept],
        fit.flux[kept],
        size // 2,
        n_iter=2,
        weight=(weight * fits)[kept],
    )
