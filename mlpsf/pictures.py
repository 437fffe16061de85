"""Small pictures of arrays: stretched, and as PNG.

>>> import numpy as np
>>> png(wings(np.eye(5)))[1:4]
b'PNG'
"""

from __future__ import annotations

import io
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["core", "jpeg", "png", "shrunk", "sky", "wings"]

Levels = NDArray[np.uint8]

_TOP = 62  # the last but one of 64 levels: so many the eye tells, and more make larger files
BAD = 63
"""Level of what cannot be shown: masked pixels or, in `core`, saturated ones."""


def wings(image: ArrayLike, softening: float = 0.005) -> Levels:
    """Stretch an image of a source by arcsinh, which shows its wings.

    Parameters
    ----------
    image : array_like, shape (..., ny, nx)
        Above the sky; each image is stretched by its own peak near the middle.
    softening : float
        Share of the peak where the stretch goes from linear to logarithmic.

    Returns
    -------
    ndarray of uint8
        Levels from 0 to 62; 63 where a pixel is not finite.
    """
    values = np.asarray(image, dtype=np.float64)
    peak = _peak(values)
    shown = np.arcsinh(values / (peak * softening))
    return _levels(shown, -1.0, np.arcsinh(1 / softening))


def core(image: ArrayLike, saturated: ArrayLike | None = None) -> Levels:
    """Stretch an image of a source linearly up to its peak, which shows its core.

    Parameters
    ----------
    image : array_like, shape (..., ny, nx)
    saturated : array_like of bool, same shape, optional
        Pixels that get the level 63.
    """
    values = np.asarray(image, dtype=np.float64)
    if saturated is not None:
        values = np.where(saturated, np.nan, values)
    return _levels(values, 0.0, _peak(values))


def sky(image: ArrayLike) -> Levels:
    """Stretch a frame between limits near its sky."""
    values = np.asarray(image, dtype=np.float64)
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return np.full(values.shape, BAD, dtype=np.uint8)
    step = max(finite.size // 100_000, 1)
    low, middle, high = np.quantile(finite[::step], [0.02, 0.5, 0.98])
    top = max(high, middle + 4 * (middle - low))
    return _levels(np.arcsinh((values - low) / max((top - low) / 4, 1e-30)), 0.0, np.arcsinh(8.0))


def shrunk(image: ArrayLike, side: int) -> NDArray[np.float64]:
    """Return an image whose longer side has at most so many pixels, by means over blocks."""
    values = np.asarray(image)
    step = max(-(-max(values.shape) // side), 1)
    ny, nx = (max(n // step, 1) for n in values.shape)
    whole = values[: ny * step, : nx * step]
    # One axis after the other: the frame is read once, and a copy of it is not made.
    rows = whole.reshape(ny, min(step, whole.shape[0]), -1).mean(axis=1, dtype=np.float64)
    return np.asarray(rows.reshape(ny, nx, -1).mean(axis=2))


def png(levels: Levels, colours: str = "magma") -> bytes:
    """Return levels as a PNG file, the first row at the bottom.

    Parameters
    ----------
    levels : ndarray of uint8, shape (ny, nx)
        From 0 to 62, and 63 for what is marked.
    colours : str
        Name of one of matplotlib's colour maps.
    """
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(levels[::-1]), mode=None)
    picture.putpalette(_palette(colours))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()


def jpeg(levels: Levels, quality: int = 80) -> bytes:
    """Return levels as a grey JPEG file, the first row at the bottom."""
    from PIL import Image

    grey = (levels[::-1].astype(np.float64) * (255 / _TOP)).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(grey)).save(file, "JPEG", quality=quality)
    return file.getvalue()


def _peak(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the highest pixel of the inner third of each image, (..., 1, 1)."""
    ny, nx = values.shape[-2:]
    inner = values[..., ny // 3 : ny - ny // 3, nx // 3 : nx - nx // 3]
    top = np.where(np.isfinite(inner), inner, -np.inf).max(axis=(-2, -1), keepdims=True)
    return np.where(np.isfinite(top) & (top > 0), top, 1.0)


def _levels(values: NDArray[np.float64], low: float, high: ArrayLike) -> Levels:
    scaled = (values - low) / (np.asarray(high) - low) * _TOP
    bad = ~np.isfinite(values)
    out = np.where(bad, 0.0, scaled).clip(0, _TOP).astype(np.uint8)
    out[bad] = BAD
    return out


@cache
def _palette(colours: str) -> list[int]:
    from matplotlib import colormaps

    rows = (colormaps[colours](np.linspace(0, 1, _TOP + 1))[:, :3] * 255).astype(int).tolist()
    marked = [[90, 200, 250]]  # a light blue, in none of the maps used
    return [int(v) for row in rows + marked for v in row]
