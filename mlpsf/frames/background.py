"""Sky level and noise of a frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import sep
from numpy.typing import NDArray

__all__ = ["MESH", "Background", "measure_background"]

MESH = 64
"""Side of a background mesh in pixels, as in the ML-PSF study."""


@dataclass(frozen=True, eq=False)
class Background:
    """Sky level and noise of a frame.

    Attributes
    ----------
    level, rms : ndarray of float32, shape (ny, nx)
        In ADU.
    """

    level: NDArray[np.float32]
    rms: NDArray[np.float32]


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
    sky = sep.Background(frame.data, mask=frame.mask, bw=mesh, bh=mesh)
    rms = sky.rms()
    if frame.variance is not None:
        # The variance plane has detail finer than a mesh; the mesh includes correlated noise.
        good = np.isfinite(frame.variance) & (frame.variance > 0)
        rms = np.where(good, np.maximum(rms, np.sqrt(np.where(good, frame.variance, 0))), rms)
    floor = max(float(sky.globalrms) * 0.01, float(np.finfo(np.float32).tiny) * 1e6)
    rms = np.asarray(rms, dtype=np.float32)
    return Background(sky.back(), np.maximum(rms, np.float32(floor), out=rms))
