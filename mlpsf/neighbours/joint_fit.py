"""Fit the fluxes and positions of all point sources of a frame at once.

Overlapping stars share pixels, so their fluxes are unknowns of one system of equations. Its matrix
is sparse: each star has light in few pixels. It is solved for corrections of the last values by
conjugate gradients, a few times, as in crowdsource (Schlafly et al. 2018, ApJS 234, 39).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array
from scipy.sparse.linalg import LinearOperator, cg

from mlpsf.neighbours.scene import Scene
from mlpsf.stamps.common_star import FITTED

__all__ = ["fit_scene"]

FloatArray = NDArray[np.float64]

MODEL_ERROR = 0.02
"""Error of the common star relative to the light in a pixel."""

_PLACE = 0.3  # pixels: width of the prior of a step in position
_FLUX = 3.0  # times the flux, or its error: width of the prior of a step in flux
_STEP = 0.5  # pixels: largest step in position
_MOVED = (8.0, 12.0)  # S/N from which a source may move, and moves freely
_SOLVED, _ENOUGH = 100, 1e-5  # steps and accuracy of the gradients; less leaves chance in the rest
_TOGETHER = 20_000  # sources in one system: limits memory


def fit_scene(
    scene: Scene,
    data: NDArray[np.float32],
    level: NDArray[np.float32],
    rms: NDArray[np.float32],
    good: NDArray[np.bool_],
    per_light: float,
    *,
    rounds: int = 3,
) -> Scene:
    """Fit the sources of a scene to a frame.

    Parameters
    ----------
    scene : Scene
        Initial positions and fluxes.
    data, level, rms : ndarray of float32, shape (ny, nx)
        Pixels, sky, and noise of the sky.
    good : ndarray of bool, shape (ny, nx)
        Pixels that are used.
    per_light : float
        Variance per unit of the sources' light: 1 / gain.
    rounds : int
        Number of times that corrections are solved for.

    Returns
    -------
    Scene
        With fluxes, their errors, positions and the rest.
    """
    scene = scene.without(data)
    order = np.argsort(scene.y, kind="stable")
    parts = np.array_split(order, max(1, -(-len(order) // _TOGETHER)))
    # A source may not walk away: what it was would be found again.
    ny, nx = data.shape
    walk = np.array([[-0.5], [0.5]]) * scene.fwhm
    reach_x = np.clip(scene.x + walk, -0.5, nx - 0.5)
    reach_y = np.clip(scene.y + walk, -0.5, ny - 0.5)
    # In units of the noise: squares of pixels in any unit would not be held by single precision.
    unit = np.float32(scene.noise)
    sky_variance, per_unit = np.square(rms / unit), np.float32(per_light / scene.noise)
    for _ in range(rounds):
        light = (data - scene.rest) / unit
        weight = good / np.sqrt(
            sky_variance + per_unit * np.maximum(light, 0) + (MODEL_ERROR * light) ** 2
        )
        left = (scene.rest - level) / unit
        x, y, flux = (v.copy() for v in (scene.x, scene.y, scene.flux))
        for part in parts:
            df, dx, dy = _corrections(scene, part, left, weight)
            flux[part] = np.maximum(flux[part] + df * scene.noise, 0.0)
            x[part] = np.clip(x[part] + dx, *reach_x[:, part])
            y[part] = np.clip(y[part] + dy, *reach_y[:, part])
        scene = replace(scene, x=x, y=y, flux=flux).without(data)
    # The error of the common star is none of a source's noise.
    light = np.maximum((data - scene.rest) / unit, 0)
    weight = good / np.sqrt(sky_variance + per_unit * light)
    error = np.empty_like(scene.flux)
    for part in parts:
        point = _images(scene, part, weight)[1]
        error[part] = scene.noise / np.sqrt(np.maximum((point**2).sum(axis=1), 1e-30))
    return replace(scene, error=error)


def _images(
    scene: Scene, rows: NDArray[np.intp], weight: NDArray[np.float32]
) -> tuple[NDArray[np.intp], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return the pixels of some sources, and there star and gradients times the weights."""
    ny, nx = weight.shape
    radius = FITTED * scene.fwhm[rows].max()
    half = int(np.ceil(radius))
    u = np.arange(-half, half + 1)
    j, i = np.nonzero(np.hypot(u, u[:, None]) <= radius)
    column, row = np.rint(scene.x[rows]), np.rint(scene.y[rows])
    at_i = column.astype(int)[:, None] + i - half
    at_j = row.astype(int)[:, None] + j - half
    inside = (at_i >= 0) & (at_i < nx) & (at_j >= 0) & (at_j < ny)
    at_i, at_j = np.clip(at_i, 0, nx - 1), np.clip(at_j, 0, ny - 1)
    w = np.where(inside, weight[at_j, at_i], np.float32(0))
    drawn = np.empty((3, len(rows), len(i)), dtype=np.float32)
    for star, part in scene.by_size(rows):
        off = scene.x[rows[part]] - column[part], scene.y[rows[part]] - row[part]
        drawn[:, part] = star.psf.stamps_and_gradients(*off, 2 * half + 1)[:, :, j, i]
    drawn *= w
    return at_j * nx + at_i, *drawn


def _corrections(
    scene: Scene, rows: NDArray[np.intp], left: NDArray[np.float32], weight: NDArray[np.float32]
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Solve for corrections of flux, x and y of some sources.

    Pixels and fluxes are in units of the noise.
    """
    pixel, point, gx, gy = _images(scene, rows, weight)
    size = np.sqrt(np.maximum((point**2).sum(axis=1, dtype=np.float64), 1e-30))
    flux = scene.flux[rows] / scene.noise
    prior = np.empty((3, len(rows)))
    prior[0] = _FLUX * np.maximum(flux, 1.0 / size)
    prior[1:] = _PLACE * flux
    values = np.stack([point, gx, gy]) * prior[:, :, None].astype(np.float32)
    # Only the rows of the frame on which these sources have light are looked at.
    first, last = int(pixel.min()), int(pixel.max()) + 1
    pixel = pixel - first
    seen = (left.ravel()[first:last], weight.ravel()[first:last])
    used = np.zeros(last - first, dtype=bool)
    used[pixel.ravel()] = True
    number = np.cumsum(used, dtype=np.int32) - 1
    m = pixel.shape[1]
    matrix = csc_array(
        (
            values.reshape(-1),
            np.tile(number[pixel.ravel()], 3),
            np.arange(3 * len(rows) + 1, dtype=np.int64) * m,
        ),
        shape=(int(used.sum()), 3 * len(rows)),
    )
    side = matrix.T @ (seen[0] * seen[1])[used]
    # In units of the prior's widths, the prior adds 1 to the diagonal.
    diagonal = 1.0 + np.square(values, dtype=np.float64).sum(axis=2).ravel()
    turned = matrix.T
    normal = LinearOperator(
        (len(side), len(side)), lambda v: turned @ (matrix @ v.astype(np.float32)) + v
    )
    answer, _ = cg(
        normal,
        side.astype(np.float64),
        rtol=_ENOUGH,
        maxiter=_SOLVED,
        M=LinearOperator(normal.shape, lambda v: v / diagonal),
    )
    df, fx, fy = answer.reshape(3, -1) * prior
    now = np.maximum(flux + df, 0.3 * flux)
    step = np.array([fx, fy]) / np.maximum(now, 1e-30)
    # A faint source stays where it was found: it could only walk into a brighter one.
    low, high = _MOVED
    step *= np.clip((flux * size - low) / (high - low), 0, 1) * (now > 0)
    dx, dy = np.clip(step, -_STEP, _STEP)
    return df, dx, dy
