"""How much light of neighbours was taken away about each source."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlpsf.frames.cutouts import extract_cutouts
from mlpsf.frames.frame import Frame
from mlpsf.labelling import NEAR
from mlpsf.neighbours.scene import Scene

__all__ = ["light_taken"]

_MOST = 1e6
_BLOCK = 512  # sources at once: limits memory


def light_taken(
    frame: Frame, x: ArrayLike, y: ArrayLike, fwhm: float, reach: float = NEAR
) -> NDArray[np.float64]:
    """Return the light of neighbours that was taken away about sources, relative to their own.

    Parameters
    ----------
    frame : Frame
        From `subtract_neighbours`.
    x, y : array_like, shape (n,)
        Positions of the sources, 0-based pixels.
    fwhm : float
        Of the frame's stars, in pixels.
    reach : float
        Distance in FWHM within which light counts.

    Returns
    -------
    ndarray, shape (n,)
        0 where nothing was taken away from the frame, at most 1e6. Of a source that is no star and
        has no light of its own, it is relative to the noise of a pixel.

    Examples
    --------
    >>> from mlpsf import simulate_frame
    >>> frame = simulate_frame(shape=(120, 120), n_stars=5, n_galaxies=0, seed=1).frame
    >>> light_taken(frame, [40.0], [40.0], fwhm=4.0).tolist()
    [0.0]
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    taken = np.zeros(len(x))
    scene = frame.scene
    if not isinstance(scene, Scene):
        return taken
    half = int(np.ceil(reach * fwhm))
    light = replace(frame, scene=None, data=(frame.data - scene.rest) / np.float32(scene.noise))
    u = np.arange(-half, half + 1)
    within = np.hypot(u, u[:, None]) <= reach * fwhm
    for start in range(0, len(x), _BLOCK):
        part = slice(start, start + _BLOCK)
        own = scene.own_light(x[part], y[part], half) / np.float32(scene.noise)
        others = np.abs(extract_cutouts(light, x[part], y[part], 2 * half + 1).data - own)
        seen = np.isfinite(others) & within
        alone, about = (
            np.where(seen, v, 0).sum(axis=(1, 2), dtype=np.float64) for v in (own, others)
        )
        taken[part] = np.minimum(about / np.maximum(alone, 1.0), _MOST)
    return taken
