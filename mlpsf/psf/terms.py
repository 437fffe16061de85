"""How a PSF changes over the frame: a few tables, and how much of each there is at a place."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from astropy.utils.exceptions import AstropyUserWarning
from numpy.typing import ArrayLike, NDArray

from mlpsf.errors import InputError, PSFError
from mlpsf.psf.solver.polynomial import order_for, polynomial

__all__ = ["PSFTerms", "warn_of_extrapolation"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PSFTerms:
    """The change of a lookup table over the frame.

    The table of a place is that of the mean plus ``amounts(x, y) @ tables``. Arrays are read-only.

    Parameters
    ----------
    tables : (n_terms, n, n) array
        Changes of the lookup table; stored as float32.
    weights : (n_polynomial, n_terms) array
        Coefficients of the amount of each table: of the terms of
        `mlpsf.psf.solver.polynomial.polynomial` without the constant, whose mean is 0.
    frame_shape : (int, int)
        Rows and columns of the frame.
    first : (int, int)
        x and y of the frame's first pixel: of a part of a larger image, as a patch of a tract,
        whose positions are given there.
    limits : (2, n_terms) array, optional
        Lowest and highest amount of each table, where the polynomial is held; see `held`.

    Attributes
    ----------
    order : int
        Order of the polynomial.

    Raises
    ------
    InputError
        If shapes do not match.
    PSFError
        If a value is not finite.

    Examples
    --------
    >>> terms = PSFTerms(np.ones((1, 30, 30)), [[0.5], [0.0]], (200, 100))
    >>> terms.order, terms.amounts([99.5, -0.5], 99.5).ravel().tolist()
    (1, [0.5, -0.5])
    """

    tables: NDArray[Any]
    weights: FloatArray
    frame_shape: tuple[int, int]
    first: tuple[int, int] = (0, 0)
    limits: FloatArray | None = None

    def __post_init__(self) -> None:
        tables = np.array(self.tables, dtype=np.float32)
        weights = np.array(self.weights, dtype=np.float64)
        if tables.ndim != 3 or tables.shape[1] != tables.shape[2] or not len(tables):
            raise InputError(f"the terms are a stack of square tables; got shape {tables.shape}")
        if weights.ndim != 2 or len(weights) not in (2, 5, 9) or weights.shape[1] != len(tables):
            raise InputError(
                f"{len(tables)} tables need weights of shape (2, 5 or 9, {len(tables)}); got "
                f"{weights.shape}"
            )
        if not (np.isfinite(tables).all() and np.isfinite(weights).all()):
            raise PSFError("the PSF's terms hold values that are not finite")
        ny, nx = (int(n) for n in self.frame_shape)
        if min(ny, nx) < 1:
            raise InputError(f"a frame has rows and columns; got {self.frame_shape}")
        limits = self.limits
        if limits is not None:
            # Of float32, so that the cards of a file hold all digits.
            limits = np.array(limits, dtype=np.float32).astype(np.float64)
            if limits.shape != (2, len(tables)) or not (limits[0] <= limits[1]).all():
                raise InputError(
                    f"the limits of {len(tables)} tables are a lowest and a highest amount of "
                    f"each; got {limits.tolist()}"
                )
            limits.setflags(write=False)
        for array in (tables, weights):
            array.setflags(write=False)
        first = int(self.first[0]), int(self.first[1])
        values = {"tables": tables, "weights": weights, "frame_shape": (ny, nx), "first": first}
        for name, value in {**values, "limits": limits}.items():
            object.__setattr__(self, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return PSFTerms, (self.tables, self.weights, self.frame_shape, self.first, self.limits)

    @property
    def order(self) -> int:
        """Order of the polynomial: 1, 2 or 3."""
        return {2: 1, 5: 2, 9: 3}[len(self.weights)]

    @property
    def free(self) -> PSFTerms:
        """The same terms, not held anywhere."""
        return replace(self, limits=None)

    def held(self, x: ArrayLike, y: ArrayLike, beyond: float) -> PSFTerms:
        """Return terms whose amounts stay near what stars at these positions show.

        Far from all stars a polynomial may be no star at all.

        Parameters
        ----------
        x, y : array_like, shape (n,)
        beyond : float
            How far an amount may go beyond those at the stars, in units of their range.
        """
        shown = self.free.amounts(x, y)
        low, high = shown.min(axis=0), shown.max(axis=0)
        more = beyond * (high - low)
        return replace(self, limits=np.stack([low - more, high + more]))

    def amounts(self, x: ArrayLike, y: ArrayLike) -> FloatArray:
        """Return how much of each table there is at positions (0-based pixels), (n, n_terms).

        Within the limits; off the frame it is that of the nearest place on it.
        """
        (ny, nx), (x0, y0) = self.frame_shape, self.first
        place_x = np.clip(np.atleast_1d(np.asarray(x, dtype=np.float64)) - x0, -0.5, nx - 0.5)
        place_y = np.clip(np.atleast_1d(np.asarray(y, dtype=np.float64)) - y0, -0.5, ny - 0.5)
        place_x, place_y = np.broadcast_arrays(place_x, place_y)
        terms = polynomial(place_x, place_y, self.frame_shape, self.order)
        amounts = np.asarray(terms[:, 1:] @ self.weights)
        return amounts if self.limits is None else np.clip(amounts, *self.limits)

    def reach(self, x: float, y: float, stars: ArrayLike) -> float:
        """Return how uncertain the change is at a position, over what one star by itself tells.

        Above 1 the polynomial is extrapolated: the stars about the place say less than one would.

        Parameters
        ----------
        x, y : float
        stars : (n, 2) array
            Positions of the stars that the polynomial was fitted to.
        """
        at, (x0, y0) = np.asarray(stars, dtype=np.float64), self.first
        # What few stars do not tell, the prior of the fit holds.
        order = min(self.order, order_for(len(at)))
        known = polynomial(at[:, 0] - x0, at[:, 1] - y0, self.frame_shape, order)
        here = polynomial(x - x0, y - y0, self.frame_shape, order)[0]
        # A trace of a prior, for stars that do not tell all terms.
        normal = known.T @ known + 1e-3 * np.eye(len(here))
        return float(np.sqrt(here @ np.linalg.solve(normal, here)))

    def change(self, x: float, y: float) -> FloatArray:
        """Return the change of the lookup table at a position."""
        amounts = self.amounts(x, y)[0].astype(np.float32)
        flat = amounts @ self.tables.reshape(len(self.tables), -1)
        return np.asarray(flat.reshape(self.tables.shape[1:]), dtype=np.float64)


def warn_of_extrapolation(
    terms: PSFTerms, stars: FloatArray, x: float, y: float, *, stacklevel: int
) -> None:
    """Warn if the change of a PSF at a position is extrapolated from its stars, (n, 3)."""
    if len(stars) == 0:
        return
    reach = terms.reach(x, y, stars[:, :2])
    if reach > 1:
        nearest = np.hypot(stars[:, 0] - x, stars[:, 1] - y).min()
        warnings.warn(
            f"the PSF at ({x:.0f}, {y:.0f}) is extrapolated: the nearest of its {len(stars)} stars "
            f"is {nearest:.0f} pixels away, and they tell less of the place than one star there "
            "would",
            AstropyUserWarning,
            stacklevel=stacklevel + 1,
        )
