"""A smooth PSF as a sum of few functions: radial splines times waves around the star.

Coordinates are scaled so that an elliptical Moffat profile is round. The light at (x, y) from the
star is that profile M(r) times a sum over
``c[m, k] B_k(t) (r / sqrt(r^2 + s^2))^m cos(m theta)``, and the same with sines. s is the profile's
alpha or, if less, its FWHM. The B_k are cubic B-splines in a coordinate t. It grows as r^2 in the
core and more slowly beyond, so that knots are dense in the core and sparse in the wings. Every
coefficient is a *relative* correction of the profile, so that the same prior applies to a core of
30,000 ADU and a wing of 3.

Pixels are integrated by Gauss-Legendre quadrature of the light, without interpolation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from mlpsf.errors import PSFError

__all__ = ["Moffat", "PolarBasis", "Quadrature", "centroid", "gradient"]

FloatArray = NDArray[np.float64]

_BEND = 3.0  # of the radial coordinate: it grows as ln(1 + r^2 / s^2) up to here, then slower
_KNOT = 0.18  # distance of knots in that coordinate: 0.4 s at the centre, r / 8 in the wings
_SHEARED = 1.05  # long axis over that of a round profile, from which pixels see more splines
_FLOOR = 0.02  # lower limit of a new radial profile over the last one, for the logarithm


@dataclass(frozen=True)
class Moffat:
    """An elliptical Moffat profile with a total light of 1.

    Attributes
    ----------
    alpha, beta : float
        Radius in pixels, and exponent.
    g1, g2 : float
        Reduced shear, (a - b) / (a + b) along x and along the diagonal.
    """

    alpha: float
    beta: float
    g1: float = 0.0
    g2: float = 0.0

    @property
    def fwhm(self) -> float:
        """FWHM in pixels, before pixels average it."""
        return float(2 * self.alpha * np.sqrt(2 ** (1 / self.beta) - 1))

    @property
    def unshear(self) -> FloatArray:
        """Matrix of determinant 1 that makes the profile round."""
        g1, g2 = self.g1, self.g2
        matrix = np.array([[1 - g1, -g2], [-g2, 1 + g1]])
        return np.asarray(matrix / np.sqrt(1 - g1**2 - g2**2))

    def __call__(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """Return the light per square pixel at points (x, y) from the centre."""
        m = self.unshear
        square = (m[0, 0] * x + m[0, 1] * y) ** 2 + (m[1, 0] * x + m[1, 1] * y) ** 2
        norm = (self.beta - 1) / np.pi / self.alpha**2
        return np.asarray((1 + square / self.alpha**2) ** -self.beta * norm)


@dataclass(frozen=True)
class Quadrature:
    """Integration over pixels, with fewer points further from the star.

    Attributes
    ----------
    rings : tuple of (int, float)
        Points along each axis of a pixel, and the radius in pixels up to which they are used.

    Examples
    --------
    >>> from mlpsf.psf.solver.basis import Moffat, Quadrature
    >>> x = np.arange(-30.0, 31.0)
    >>> x, y = (v.ravel() for v in np.meshgrid(x, x))
    >>> light = Quadrature.for_fwhm(2.0).sum(Moffat(2.0, 4.0), x, y)
    >>> round(float(light.sum()), 4)
    1.0
    """

    rings: tuple[tuple[int, float], ...]

    @classmethod
    def for_fwhm(cls, fwhm: float) -> Quadrature:
        """Create a quadrature accurate to 1e-4 of the peak."""
        near = 5 if fwhm < 2.2 else 3 if fwhm < 4 else 2
        return cls(((near, 1.5 * fwhm + 1), (2, max(4 * fwhm, 12.0)), (1, np.inf)))

    def sum(
        self, function: Callable[[FloatArray, FloatArray], FloatArray], x: FloatArray, y: FloatArray
    ) -> FloatArray:
        """Integrate a function of two coordinates over the pixels centred at (x, y).

        Parameters
        ----------
        function : callable
            Function of two arrays of shape (n,) that returns (n,) or (n, ...).
        x, y : (n,) arrays

        Returns
        -------
        array
            Same shape as returned by `function`.
        """
        out, inner, radius = None, -1.0, np.hypot(x, y)
        for points, outer in self.rings:
            rows = np.flatnonzero((radius > inner) & (radius <= outer))
            inner = outer
            if rows.size == 0:
                continue
            whole = rows.size == len(x)
            a, b = (x, y) if whole else (x[rows], y[rows])
            (i, j, weight), *others = _nodes(points)
            part = function(a + i, b + j)
            for i, j, w in others:
                value = function(a + i, b + j)
                if w != weight:  # those of a pixel's corners are the same
                    value *= w / weight
                part += value
            if weight != 1:
                part *= weight
            if whole:
                return part
            if out is None:
                out = np.zeros((len(x), *part.shape[1:]))
            out[rows] = part
        return np.zeros(len(x)) if out is None else out


@cache
def _nodes(points: int) -> tuple[tuple[float, float, float], ...]:
    """Return the x and y offsets of the points in a pixel, and their weights."""
    at, weight = np.polynomial.legendre.leggauss(points)
    return tuple(
        (float(i), float(j), float(wi * wj))
        for j, wj in zip(at / 2, weight / 2, strict=True)
        for i, wi in zip(at / 2, weight / 2, strict=True)
    )


class PolarBasis:
    """The basis functions described in the module docstring.

    Parameters
    ----------
    start : Moffat
        Profile that the first coefficients correct.
    reach : float
        Extent of the light along x and y, in pixels.
    waves : int
        Highest m.

    Attributes
    ----------
    n_radial : int
        Number of splines.
    shape : (int, int)
        Shape of a set of coefficients: ``(1 + 2 * waves, n_radial)``; first the round part, then
        cosine and sine of m = 1, 2 and so on.
    """

    def __init__(self, start: Moffat, reach: float, waves: int = 4) -> None:
        # Of a star without wings alpha is wider than its FWHM: knots of that scale would be too far
        # apart for the rings of a diffraction pattern.
        self._scale, self._unshear = min(start.alpha, start.fwhm), start.unshear
        self._finer = (self._scale / start.alpha) ** 2
        self.waves = waves
        corner = np.sqrt(2) * reach * np.linalg.norm(self._unshear, 2)
        last = _BEND * np.log1p(np.log1p((corner / self._scale) ** 2) / _BEND)
        intervals = max(3, int(np.ceil(last / _KNOT)))
        self._step = last / intervals
        self.n_radial = intervals + 3
        self.shape = (1 + 2 * waves, self.n_radial)
        self._t = np.linspace(0.0, last, 800)
        norm = (start.beta - 1) / np.pi / start.alpha**2
        # Logarithm of the radial profile that is corrected. `adopt` changes it.
        square = self._finer * np.expm1(_BEND * np.expm1(self._t / _BEND))
        self._log = np.log(norm) - start.beta * np.log1p(square)

    def unit(self) -> FloatArray:
        """Return the coefficients of the uncorrected profile."""
        out = np.zeros(self.shape)
        out[0] = 1.0
        return out

    def _place(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray, NDArray]:  # type: ignore[type-arg]
        """Return the radial coordinate, the light of the profile, and the complex m = 1 wave."""
        m = self._unshear
        u, v = m[0, 0] * x + m[0, 1] * y, m[1, 0] * x + m[1, 1] * y
        q = 1 + (u * u + v * v) / self._scale**2
        t = _BEND * np.log1p(np.log(q) / _BEND)
        return (
            t,
            np.exp(np.interp(t, self._t, self._log)),
            (u + 1j * v) / (self._scale * np.sqrt(q)),
        )

    def _splines(self, t: FloatArray) -> tuple[NDArray[np.intp], tuple[FloatArray, ...]]:
        """Return the index of the first of four nonzero splines at t, and the value of each."""
        s = t / self._step
        first = np.clip(s.astype(np.intp), 0, self.n_radial - 4)
        s = s - first
        return first, (
            (1 - s) ** 3 / 6,
            (3 * s**3 - 6 * s**2 + 4) / 6,
            (-3 * s**3 + 3 * s**2 + 3 * s + 1) / 6,
            s**3 / 6,
        )

    def first_spline(self, x: FloatArray, y: FloatArray) -> NDArray[np.intp]:
        """Return the index of the first of the four radial splines that are not 0 at points."""
        return self._splines(self._place(x, y)[0])[0]

    def splines_of_pixels(
        self, x: FloatArray, y: FloatArray
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the index of the first spline, and that behind the last, that pixels see.

        Parameters are those of :meth:`first_spline`; pixels are one wide.
        """
        # Those at the points of a pixel nearest to and farthest from the star.
        at = [
            [np.sign(v) * np.maximum(np.abs(v) - 0.5, 0.0) for v in (x, y)],
            [v + np.copysign(0.5, v) for v in (x, y)],
        ]
        if np.linalg.norm(self._unshear, 2) > _SHEARED:  # other points are
            at += [[x + i, y + j] for i in (-0.5, 0.0, 0.5) for j in (-0.5, 0.0, 0.5)]
        first = np.stack([self.first_spline(*point) for point in at])
        return first.min(axis=0) - 1, first.max(axis=0) + 5

    def design(
        self, x: FloatArray, y: FloatArray, columns: tuple[int, int] | None = None
    ) -> FloatArray:
        """Return the functions at points (x, y) from the star.

        Parameters
        ----------
        x, y : (n,) arrays
        columns : (int, int), optional
            Range of the radial splines that are wanted; must hold all that are not 0 at the
            points. By default all.

        Returns
        -------
        (n, (1 + 2 * waves) * n_columns) array
        """
        low, high = columns or (0, self.n_radial)
        t, light, wave = self._place(x, y)
        first, values = self._splines(t)
        round_ = np.zeros((len(x), high - low))
        at = np.arange(len(x)) * (high - low) + (first - low)
        flat = round_.reshape(-1)
        for k, value in enumerate(values):
            flat[at + k] = value * light
        out = np.empty((len(x), self.shape[0], high - low))
        out[:, 0] = round_
        turned = np.ones_like(wave)
        for m in range(1, self.waves + 1):
            turned = turned * wave
            np.multiply(round_, turned.real[:, None], out=out[:, 2 * m - 1])
            np.multiply(round_, turned.imag[:, None], out=out[:, 2 * m])
        return out.reshape(len(x), -1)

    def light(
        self,
        coefficients: FloatArray,
        x: FloatArray,
        y: FloatArray,
        which: NDArray[np.intp] | None = None,
    ) -> FloatArray:
        """Return the light per square pixel at points (x, y), without the matrix of `design`.

        Parameters
        ----------
        coefficients : (k,) or (n_psfs, k) array
            Of one PSF or of several.
        x, y : (n,) arrays
        which : (n,) array of int, optional
            Number of the PSF at each point; needed where there are several.

        Returns
        -------
        (n,) array
        """
        t, light, wave = self._place(x, y)
        first, values = self._splines(t)
        rows = np.ascontiguousarray(coefficients.reshape(-1, *self.shape).swapaxes(0, 1))
        if which is not None:
            first = first + which * self.n_radial
        at = [first + k for k in range(4)]

        def radial(row: FloatArray) -> FloatArray:
            flat = row.ravel()
            out = values[0] * flat.take(at[0])
            for k in (1, 2, 3):
                out += values[k] * flat.take(at[k])
            return np.asarray(out)

        out = radial(rows[0])
        turned = np.ones_like(wave)
        for m in range(1, self.waves + 1):
            turned = turned * wave
            out += radial(rows[2 * m - 1]) * turned.real + radial(rows[2 * m]) * turned.imag
        out *= light
        return np.asarray(out)

    def gain(self, coefficients: FloatArray) -> FloatArray:
        """Return the round part of a PSF over the profile at the middle of each spline.

        A coefficient between brighter ones may be negative where the light is not.
        """
        row = np.pad(coefficients.reshape(self.shape)[0], 1, mode="edge")
        return np.asarray(np.maximum((row[:-2] + 4 * row[1:-1] + row[2:]) / 6, _FLOOR))

    def adopt(self, coefficients: FloatArray) -> FloatArray:
        """Use the round part of a PSF as the new profile to correct.

        Returns
        -------
        array
            Coefficients of nearly the same PSF in the new functions.
        """
        rows = coefficients.reshape(self.shape)
        first, values = self._splines(self._t)
        gain = sum(b * rows[0][first + k] for k, b in enumerate(values))
        self._log = self._log + np.log(np.maximum(gain, _FLOOR))
        out = rows / self.gain(coefficients)
        out[0] = 1.0
        return np.asarray(out)

    def stiffness(self, bend: float, size: float) -> FloatArray:
        """Return the matrix of the prior: coefficients are small and change smoothly with radius.

        Parameters
        ----------
        bend : float
            Standard deviation of a second difference along the radius, of knots of the scale alpha;
            ``bend / m`` for wave m.
        size : float
            Standard deviation of the waves' coefficients; ``size / m`` for wave m. The level of
            the round part is free.

        Returns
        -------
        (k, k) array
            Inverse covariance of the coefficients.
        """
        n = self.n_radial
        second = np.diff(np.eye(n), 2, axis=0)
        out = np.zeros((self.shape[0] * n,) * 2)
        for row in range(self.shape[0]):
            m = (row + 1) // 2
            part = second.T @ second * (max(m, 1) / (bend * self._finer)) ** 2
            part += np.eye(n) * ((m / size) ** 2 if m else 1e-6)
            out[row * n : (row + 1) * n, row * n : (row + 1) * n] = part
        return out


def centroid(basis: PolarBasis, c: FloatArray, fwhm: float) -> FloatArray:
    """Return the Gaussian-weighted centroid of the light in pixels from the origin.

    Parameters
    ----------
    basis : PolarBasis
    c : (k,) or (n, k) array
        Coefficients of one PSF or of n.
    fwhm : float

    Returns
    -------
    (2,) or (n, 2) array

    Raises
    ------
    PSFError
        If there is no light there.
    """
    offset = np.arange(-12, 13) * max(fwhm / 8, 0.1)
    x, y = (v.ravel() for v in np.meshgrid(offset, offset))
    # The same points for all, so that the functions are evaluated once.
    light = np.atleast_2d(c) @ basis.design(x, y).T
    at = np.zeros((len(light), 2))
    for _ in range(15):
        square = (x - at[:, :1]) ** 2 + (y - at[:, 1:]) ** 2
        weight = light * np.exp(-0.5 * square / (fwhm / 2.355) ** 2)
        total = weight.sum(axis=1)[:, None]
        if not (total > 0).all():
            raise PSFError("the PSF has no light at its centre: are the stars images of one kind?")
        mean = np.column_stack([weight @ x, weight @ y]) / total
        # A weight of the width of the source reduces a shift by half.
        at = at + 2 * (mean - at)
    return at[0] if c.ndim == 1 else at


def gradient(
    basis: PolarBasis,
    c: FloatArray,
    x: FloatArray,
    y: FloatArray,
    which: NDArray[np.intp] | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Return the change of pixels per pixel of star motion, from the light at their edges.

    Parameters are those of :meth:`PolarBasis.light`.
    """

    def light(dx: float, dy: float) -> FloatArray:
        return basis.light(c, x + dx, y + dy, which)

    at = 0.5 / np.sqrt(3.0)
    across = sum(light(-0.5, j) - light(0.5, j) for j in (-at, at))
    along = sum(light(i, -0.5) - light(i, 0.5) for i in (-at, at))
    return np.asarray(across) / 2, np.asarray(along) / 2
