"""Fit a PSF to the stars of a frame that judge it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlpsf.errors import InputError, PSFError

__all__ = ["FitScale", "fit_stars", "inside", "judging_places"]

FloatArray = NDArray[np.float64]


def judging_places(stars: Any) -> tuple[FloatArray, NDArray[np.bool_], NDArray[np.bool_]]:
    """Return positions of all chosen stars (n, 2), which judge, and whether those are reserved.

    All stars judge if none is reserved.
    """
    names = getattr(stars, "colnames", None)
    if names is None:
        places = np.asarray(stars, dtype=np.float64)
        reserved = np.zeros(len(places), dtype=bool)
        if places.ndim != 2 or places.shape[1] != 2:
            raise InputError(f"stars must be a table or an (n, 2) array. Got {places.shape}.")
    else:
        if not {"x", "y"} <= set(names):
            raise InputError(f"The star table needs columns x and y; it has {', '.join(names)}.")
        places = np.column_stack([np.ma.filled(stars[c], np.nan) for c in "xy"]).astype(float)
        reserved = np.zeros(len(places), dtype=bool)
        if "reserved" in names:
            reserved = np.asarray(stars["reserved"], dtype=bool)
        if "selected" in names:
            chosen = np.asarray(stars["selected"], dtype=bool) | reserved
            places, reserved = places[chosen], reserved[chosen]
    if len(places) == 0:
        raise PSFError("No star to judge the PSF by: the list is empty.")
    if not np.isfinite(places).all():
        raise InputError("Star positions must be finite.")
    return places, reserved if reserved.any() else ~reserved, reserved


def inside(size: int, x: FloatArray, y: FloatArray, radius: float) -> NDArray[np.bool_]:
    """Return pixels within a radius of n positions, from the middle of a stamp; (n, size, size)."""
    u = np.arange(size) - size // 2
    square = (u - x[:, None])[:, None, :] ** 2 + (u - y[:, None])[:, :, None] ** 2
    return np.asarray(square <= radius**2)


class FitScale(NamedTuple):
    """Radius of the fit in pixels, and gain in electrons per ADU for the stars' photon noise."""

    fitted: float
    gain: float


def fit_stars(
    stamps: Callable[..., Any],
    data: FloatArray,
    seen: NDArray[np.bool_],
    noise: FloatArray,
    scale: FitScale,
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Fit position and flux of the PSF to each star, by Gauss-Newton steps of least squares.

    `stamps` draws the PSF of each star: see `DrawnPSF`.

    The sky is the clipped median of a ring after subtracting the PSF there. It is not a free
    parameter, because a darker sky could then hide a PSF that is too wide. The weights are computed
    from the model; weights from the pixels would favour low ones.

    Returns
    -------
    x, y, flux : ndarray, shape (3, n)
    star, model, variance : ndarray, shape (n, size, size)
        Sky-subtracted pixels, fitted PSF, and variance.
    """
    n, size = len(data), data.shape[-1]
    nothing = np.zeros(n)
    ring = ~inside(size, nothing, nothing, scale.fitted) & seen
    use = (inside(size, nothing, nothing, scale.fitted) & seen).reshape(n, -1)
    spread = np.where(seen, noise**2, 1.0).reshape(n, -1)
    x, y, flux, step = nothing, nothing, nothing, 0.02
    star, model, variance = data, np.zeros_like(data), spread
    for turn in range(8):
        level = np.where(ring & (np.abs(star - model) < 3 * noise), data - model, np.nan)
        if turn == 0:
            level = np.where(ring, data, np.nan)
        empty = np.isnan(level).all(axis=(1, 2))
        level[empty] = 0.0
        star = data - np.nanmedian(level, axis=(1, 2))[:, None, None]
        point = np.asarray(stamps(x, y, size), dtype=np.float64)
        slopes = [
            (stamps(x + a, y + b, size) - stamps(x - a, y - b, size)) / (2 * step)
            for a, b in ((step, 0.0), (0.0, step))
        ]
        basis = np.stack([point, *slopes], axis=1).reshape(n, 3, -1)
        variance = spread + np.maximum(model, 0.0).reshape(n, -1) / scale.gain
        weighted = basis * np.where(use, 1.0 / variance, 0.0)[:, None, :]
        normal = weighted @ basis.swapaxes(1, 2)
        unit = np.sqrt(np.maximum(np.einsum("nii->ni", normal), 1e-300))
        normal = normal / unit[:, :, None] / unit[:, None, :] + 1e-9 * np.eye(3)
        values = np.where(use, star.reshape(n, -1), 0.0)
        target = np.einsum("nip,np->ni", weighted, values) / unit
        flux, *shift = (np.linalg.solve(normal, target[:, :, None])[:, :, 0] / unit).T
        model = flux[:, None, None] * point
        if turn < 7:
            x, y = (
                np.clip(v + np.clip(d / np.where(flux > 0, flux, np.inf), -0.5, 0.5), -2, 2)
                for v, d in zip((x, y), shift, strict=True)
            )
    return np.array([x, y, flux]), star, model, variance.reshape(data.shape)
