"""What the subtraction of neighbours left of their light, where the truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.signal import fftconvolve
from scipy.spatial import cKDTree

from mlpsf.errors import InputError
from mlpsf.frames.cutouts import extract_cutouts
from mlpsf.frames.frame import Frame
from mlpsf.labelling import FAR, neighbour_weight
from mlpsf.neighbours.scene import Scene
from mlpsf.stamps.common_star import FARTHEST

__all__ = ["light_left"]

FloatArray = NDArray[np.float64]

_CHANCE = 2.0  # standard deviations of the flux of a point source; less is noise, not light
_BLOCK = 64  # sources at once: limits memory


def light_left(
    frame: Frame, x: ArrayLike, y: ArrayLike, true_x: ArrayLike, true_y: ArrayLike, flux: ArrayLike
) -> FloatArray:
    """Return the light of other objects that is left about each source, relative to its own.

    The true objects are drawn with the common star of the frame, without the source itself, and
    what was subtracted about the source is taken from them. What is left, without an even sky, is
    measured as point sources: light of less than two standard deviations of the noise does no harm
    that the noise does not do. That within 4 FWHM counts in full, to 6 FWHM at 15 %.

    Parameters
    ----------
    frame : Frame
        With a scene, from `subtract_neighbours`.
    x, y : array_like, shape (n,)
        Positions of the sources, 0-based pixels.
    true_x, true_y, flux : array_like, shape (m,)
        Objects of the simulation.

    Returns
    -------
    ndarray, shape (n,)
        As the contamination of `mlpsf.labelling.truth_labels`; infinite where no object is within
        a FWHM.

    Raises
    ------
    InputError
        The frame has no scene.
    """
    scene = frame.scene
    if not isinstance(scene, Scene):
        raise InputError("The frame has no scene: its neighbours were not subtracted.")
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    tx, ty, tf = (np.asarray(v, dtype=np.float64) for v in (true_x, true_y, flux))
    truth = replace(scene, x=tx, y=ty, flux=tf)
    subtracted = frame.data - scene.rest
    error = truth.light(frame.shape) - subtracted
    per_light = np.float32(1.0 / frame.known_gain / scene.noise) / np.float32(scene.noise)
    sigma = frame.background.rms / np.float32(scene.noise)
    variance = sigma**2 + per_light * np.maximum(subtracted, 0)
    own = _own(x, y, tx, ty, tf, scene.star.fwhm)
    there = replace(scene, x=x, y=y)
    out = np.empty(len(x))
    for star, rows in there.by_size(np.arange(len(x))):
        half = int(np.ceil(FAR * star.fwhm))
        u = np.arange(-half, half + 1)
        weight = neighbour_weight(np.hypot(u, u[:, None]) / star.fwhm)
        reach = min(int(np.ceil(2 * star.fwhm)), star.psf.half)
        point = star.psf.stamps(np.zeros(1), np.zeros(1), 2 * reach + 1)[0].astype(float)
        unit = (point**2).sum()
        spread = fftconvolve(variance, point[::-1, ::-1] ** 2, mode="same")
        noise = scene.noise * np.sqrt(spread) / unit
        for start in range(0, len(rows), _BLOCK):
            part = rows[start : start + _BLOCK]
            at = x[part], y[part]
            left = extract_cutouts(error, *at, 2 * half + 1).data
            column, row = np.rint(at)
            inside = own[part] < len(tx)
            left += scene.own_light(*at, half)
            left[inside] -= truth.draw(own[part][inside], column[inside], row[inside], half)
            left = np.nan_to_num(left - np.nanmedian(left, axis=(1, 2), keepdims=True))
            light = fftconvolve(left, point[None, ::-1, ::-1], mode="same", axes=(1, 2)) / unit
            sigma = np.nan_to_num(extract_cutouts(noise, *at, 2 * half + 1).data, nan=np.inf)
            harm = np.maximum(np.abs(light) - _CHANCE * sigma, 0.0)
            # A point source of flux 1 makes an image of light 1 / unit.
            out[part] = (weight * harm).sum(axis=(1, 2)) * unit
    flux_of_own = np.append(tf, 0.0)[own]
    return np.where(flux_of_own > 0, out / np.maximum(flux_of_own, 1e-30), np.inf)


def _own(
    x: FloatArray, y: FloatArray, tx: FloatArray, ty: FloatArray, flux: FloatArray, fwhm: float
) -> NDArray[np.intp]:
    """Return the brightest object at each source, m where there is none."""
    near = cKDTree(np.column_stack([tx, ty])).query_ball_point(
        np.column_stack([x, y]), min(max(fwhm, 1.5), FARTHEST)
    )
    return np.array([max(rows, key=flux.__getitem__, default=len(tx)) for rows in near], dtype=int)
