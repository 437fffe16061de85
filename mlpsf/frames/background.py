"""Sky level and noise of a frame."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mlpsf.frames.estimation import measure_sky_noise, noise_correlation
from mlpsf.frames.meshes import map_of, mesh_statistics

__all__ = ["MESH", "Background", "measure_background"]

MESH = 64
"""Side of a background mesh in pixels, as in the ML-PSF study."""


_MOST_RATIO = 1e30  # of the largest pixel to the noise
_STEEP = 0.5  # noise: a step from mesh to mesh that makes it seem 1 per cent larger
_PASSES = 3  # of skies that slope; more would be for those that bend within a mesh
_FEW_VALUES = 64  # fewer different values of the sky show the steps of the pixels


@dataclass(frozen=True, eq=False)
class Background:
    """Sky level and noise of a frame.

    Attributes
    ----------
    level, rms : ndarray of float32, shape (ny, nx)
        In the unit of the pixels.
    correlation : float
        How much noisier a sum over many pixels is than that of independent pixels; above 1 for
        resampled images. See `mlpsf.frames.estimation.noise_correlation`.
    """

    level: NDArray[np.float32]
    rms: NDArray[np.float32]
    correlation: float = 1.0

    @cached_property
    def noise(self) -> float:
        """Median of `rms`, of every sixteenth pixel: a scale, of a map that is smooth."""
        return float(np.median(self.rms[::4, ::4]))


class _Image(Protocol):
    @property
    def data(self) -> NDArray[np.float32]: ...
    @property
    def mask(self) -> NDArray[np.bool_]: ...
    @property
    def variance(self) -> NDArray[np.float32] | None: ...


def measure_background(frame: _Image, mesh: int = MESH) -> Background:
    """Measure the sky in meshes, as SExtractor does (Bertin & Arnouts 1996, A&AS 117, 393).

    Parameters
    ----------
    frame : Frame
    mesh : int
        Side of a mesh in pixels.

    Returns
    -------
    Background

    See Also
    --------
    mlpsf.Frame.background : The same, measured once and kept.
    """
    # In units of the noise, without the sky: float32 has digits for both.
    # No noise is so small beside the largest pixel that float32 could not hold their ratio.
    least = np.float32(max(float(frame.data.max()), -float(frame.data.min())) / _MOST_RATIO)
    zero, unit = _zero_and_unit(frame, least)
    pixels = frame.data - zero
    pixels /= unit
    mask, step = frame.mask if frame.mask.any() else None, _step(pixels)
    level = np.zeros_like(pixels)
    for _ in range(_PASSES):
        mode, sigma, off = mesh_statistics(pixels, mask, mesh)
        if not np.isfinite(sigma).any():  # no good pixel: what is known roughly
            mode, sigma = np.zeros_like(mode), np.ones_like(sigma)
        usual = float(np.nanmedian(sigma))
        rest = map_of(mode, off, pixels.shape)
        pixels -= rest
        level += rest
        if _steepest(mode) <= _STEEP * usual:
            break  # else a slope within a mesh has counted as noise; it is known now
    rms = map_of(sigma, off, pixels.shape)
    rms *= unit
    if frame.variance is not None:
        # The variance plane has detail finer than a mesh; the mesh includes correlated noise.
        good = np.isfinite(frame.variance) & (frame.variance > 0)
        rms = np.where(good, np.maximum(rms, np.sqrt(np.where(good, frame.variance, 0))), rms)
    if step:
        rms = np.hypot(rms, step * unit / np.sqrt(12))
    smallest = float(np.finfo(np.float32).tiny) * 1e6
    # At an edge the spline may go below the noise of all meshes.
    lowest = max(float(np.nanmin(sigma)), usual * 0.01)
    floor = max(lowest * float(unit), smallest, float(least))
    rms = np.asarray(rms, dtype=np.float32)
    correlation = noise_correlation(pixels, frame.mask)
    level *= unit
    level += zero
    return Background(level, np.maximum(rms, np.float32(floor), out=rms), correlation)


def _steepest(mode: NDArray[np.float64]) -> float:
    """Return the largest step from a mesh to the next, of which most are no larger; 0 of one."""
    steps = np.concatenate([np.abs(np.diff(mode, axis=axis)).ravel() for axis in (0, 1)])
    steps = steps[np.isfinite(steps)]
    return float(np.quantile(steps, 0.9)) if len(steps) else 0.0


def _step(pixels: NDArray[np.float32]) -> float:
    """Return the step of pixels that hold few different values, as of 8 bits; else 0.

    Where the noise is less than a step, meshes of equal pixels seem to have none.
    """
    values = np.unique(pixels[:: max(1, len(pixels) // 64)])
    middle = values[(values > -20) & (values < 20)]  # the sky, in units of its noise
    if not 1 < len(middle) < _FEW_VALUES:
        middle = values[:_FEW_VALUES]
    gaps = np.diff(middle)
    return float(np.median(gaps)) if 0 < len(middle) < _FEW_VALUES and len(gaps) else 0.0


def _zero_and_unit(frame: _Image, least: np.float32) -> tuple[np.float32, np.float32]:
    """Return the sky and its noise, roughly, as zero and unit of the pixels that are measured."""
    noise = measure_sky_noise(frame.data, frame.mask)
    if noise is None:
        return np.float32(0.0), np.float32(1.0)
    return np.float32(noise.sky), max(np.float32(noise.sigma), least)
