"""Check the input of callers: coordinates, cutouts, and the motion of a target."""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy import units
from numpy.typing import ArrayLike, NDArray

from mlpsf.errors import InputError

__all__ = ["as_cutouts", "as_numbers", "check_motion", "check_place", "check_room", "read_motion"]

FloatArray = NDArray[np.float64]


def as_numbers(**values: ArrayLike) -> list[FloatArray]:
    """Broadcast coordinates or fluxes to 1-D float64 and check that all are finite."""
    try:
        arrays = [
            np.atleast_1d(np.asarray(v, dtype=np.float64))
            for v in np.broadcast_arrays(*values.values())
        ]
    except ValueError as error:
        shapes = ", ".join(f"{name} {np.shape(v)}" for name, v in values.items())
        raise InputError(f"these must be numbers, of shapes that go together: {shapes}") from error
    for name, array in zip(values, arrays, strict=True):
        if array.ndim > 1:
            raise InputError(f"{name} must be a number or 1-D; got shape {array.shape}")
        bad = np.flatnonzero(~np.isfinite(array))
        if bad.size:
            raise InputError(f"{name} must be finite; {bad.size} are not, the first at {bad[0]}")
    return arrays


_FARTHEST = 1e9  # pixels; no image is as large


def check_place(
    at: Any, frame_shape: tuple[int, int] | None, first: tuple[int, int] = (0, 0)
) -> tuple[float, float]:
    """Return a position (x, y); raise `InputError` if it is off the frame, whose first pixel is."""
    try:
        place = np.asarray(at, dtype=np.float64)
    except (TypeError, ValueError):
        place = np.zeros(0)
    if place.shape != (2,) or not (np.abs(place) < _FARTHEST).all():
        raise InputError(f"at must be a place (x, y), in pixels; got {at}")
    if frame_shape is not None:
        ny, nx = frame_shape
        off = place - first
        if not ((off >= -0.5) & (off < (nx - 0.5, ny - 0.5))).all():
            start = f" that starts at {first}" if any(first) else ""
            raise InputError(f"at must be on the frame of {nx} x {ny} pixels{start}; got {at}")
    return float(place[0]), float(place[1])


def check_motion(motion: tuple[float, float, float, float], size: int) -> None:
    """Raise `InputError` unless a trail has finite numbers and is no longer than the box.

    Parameters
    ----------
    motion : (float, float, float, float)
        Rate (arcsec / h), angle (degrees), exposure (h) and pixel scale (arcsec).
    size : int
        Side of the PSF in pixels.
    """
    rate, _, hours, scale = motion
    fits = np.isfinite(motion).all() and rate >= 0 and hours >= 0 and scale > 0
    if not fits or rate * hours > size * scale:
        raise InputError(
            f"a trail needs a rate, an angle, an exposure and a positive pixel scale that give no "
            f"more than the PSF's {size} pixels; got {tuple(motion)}"
        )


def _quantity(name: str, value: Any, *accepted: units.UnitBase) -> float:
    """Convert a number in the first of the units, or a Quantity in any of them."""
    for unit in accepted:
        try:
            number = float(units.Quantity(value, unit).to_value(unit))
        except (units.UnitConversionError, TypeError, ValueError):
            continue
        if np.isfinite(number):
            return number
    raise InputError(f"{name} must be one finite number or Quantity in {accepted[0]}; got {value}")


def read_motion(
    rate: Any, angle: Any, exposure: Any, pixel_scale: Any
) -> tuple[float, float, float, float]:
    """Return a motion in arcsec / hour, degrees, hours and arcsec / pixel."""
    hourly = _quantity("rate", rate, units.arcsec / units.hour)
    degrees = _quantity("angle", angle, units.deg)
    hours = _quantity("exposure", exposure, units.s) / 3600.0
    scale = _quantity("pixel_scale", pixel_scale, units.arcsec, units.arcsec / units.pix)
    if hourly < 0 or hours < 0 or scale <= 0:
        raise InputError(
            "rate and exposure must not be negative and pixel_scale must be positive; "
            f"got {rate}, {exposure}, {pixel_scale}"
        )
    return hourly, degrees, hours, scale


def as_cutouts(
    cutouts: ArrayLike, x: ArrayLike, y: ArrayLike
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Check cutouts and the positions of their sources; return them as native float64."""
    images = np.asarray(cutouts, dtype=np.float64)
    xs, ys = (np.atleast_1d(np.asarray(v, dtype=np.float64)) for v in (x, y))
    if images.ndim != 3 or images.shape[1] != images.shape[2]:
        raise InputError(f"cutouts must have shape (n, size, size); got {images.shape}")
    if not xs.shape == ys.shape == images.shape[:1]:
        raise InputError(
            f"one x and one y a cutout: {images.shape[0]} cutouts, x of shape {xs.shape}, "
            f"y of shape {ys.shape}"
        )
    if not (np.isfinite(images).all() and np.isfinite(xs).all() and np.isfinite(ys).all()):
        raise InputError("TRIPPy takes finite pixels and positions only; fill the masked ones")
    return images, xs, ys


def check_room(images: FloatArray, x: FloatArray, y: FloatArray, reach: int) -> None:
    """Raise if a source is too near its cutout's edge, where TRIPPy would silently drop it."""
    limit = images.shape[1] - reach
    close = [(np.floor(v + 0.5) < reach) | (np.floor(v + 0.5) + 1 > limit) for v in (x, y)]
    bad = np.flatnonzero(close[0] | close[1])
    if bad.size:
        raise InputError(
            f"{bad.size} of {x.size} sources are within {reach} pixels of the edge of their "
            f"cutout (the first is number {bad[0]}, at ({x[bad[0]]:.1f}, {y[bad[0]]:.1f})); "
            "cut wider, or leave them out"
        )
