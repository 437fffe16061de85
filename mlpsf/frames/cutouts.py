"""Cut out a square around each source, at the frame's pixel scale or at a reference FWHM."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from mlpsf.errors import InputError
from mlpsf.frames.geometry import check_positions, reaches_over

if TYPE_CHECKING:
    from mlpsf.frames.frame import Frame, PointSources

__all__ = [
    "PSF_MARGIN",
    "PUBLISHED_SIZE",
    "REFERENCE_FWHM",
    "Cutouts",
    "extract_cutouts",
    "nearest_pixels",
    "psf_size",
]

PUBLISHED_SIZE = 111
"""Side of the cutouts of the ML-PSF study in pixels, wide enough for seeing of 3 to 10 pixels."""

PSF_MARGIN = 2
"""Pixels by which a star's box on the frame extends beyond that of the PSF on each side."""

REFERENCE_FWHM = 4.0
"""FWHM in pixels to which stamps are resampled, so that the stars of all telescopes look alike."""


_BLOCK, _PIXELS = 512, 2**23  # sources, and pixels, resampled at once: limits memory to 100 MB


@dataclass(frozen=True, eq=False)
class Cutouts:
    """Cutouts of n sources, with their positions on the frame.

    Attributes
    ----------
    data : ndarray of float32, shape (n, size, size)
        Pixels with the source at the centre; NaN where masked or off the frame.
    x, y : ndarray of float64, shape (n,)
        Positions of the sources on the frame, 0-based.
    x0, y0 : ndarray of float64, shape (n,)
        Frame coordinates of the centre of each cutout: the nearest pixel at the frame's pixel
        scale, the position of the source if resampled.
    scale : float
        Frame pixels per cutout pixel; 1 at the frame's pixel scale; the median, where it varies.
    near_edge : ndarray of bool, shape (n,)
        Whether each cutout extends over the edge of the frame.
    homogenized : bool
        Whether the PSF of their frame has been replaced by the standard star.
    """

    data: NDArray[np.float32]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    x0: NDArray[np.float64]
    y0: NDArray[np.float64]
    scale: float
    near_edge: NDArray[np.bool_]
    homogenized: bool = False

    @classmethod
    def of(
        cls,
        data: ArrayLike,
        x: ArrayLike | None = None,
        y: ArrayLike | None = None,
        *,
        homogenized: bool = False,
    ) -> Cutouts:
        """Make cutouts of an array and, where known, positions.

        Parameters
        ----------
        data : array_like, shape (n, size, size)
        x, y : array_like, shape (n,), optional
            Positions on their frame, 0-based pixels; NaN unless given.
        homogenized : bool
            Whether they are stamps in which the PSF has been replaced; see `mlpsf.PSFHomogenizer`.
        """
        pixels = np.asarray(data, dtype=np.float32)
        zero = np.zeros(len(pixels))
        near_edge = np.zeros(len(pixels), dtype=bool)
        if x is None or y is None:
            x = y = zero + np.nan
        else:
            x, y = check_positions(x, y)
        return cls(pixels, x, y, np.rint(x), np.rint(y), 1.0, near_edge, homogenized)

    @property
    def positions(self) -> tuple[NDArray[np.float64], NDArray[np.float64]] | tuple[None, None]:
        """X and y, or None and None where they are not known."""
        known = np.isfinite(self.x).all() and np.isfinite(self.y).all()
        return (self.x, self.y) if known else (None, None)

    def __getitem__(self, rows: Any) -> Cutouts:
        """Return some of the cutouts: a slice, indices or a mask."""
        arrays = ("data", "x", "y", "x0", "y0", "near_edge")
        return replace(self, **{name: getattr(self, name)[rows] for name in arrays})

    def __len__(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        size = self.data.shape[-1]
        return f"<Cutouts: {len(self)} of {size} x {size}, {self.scale:.3g} frame pixels a pixel>"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Return the pixels, so that NumPy and the selectors accept cutouts."""
        return np.array(self.data, dtype=dtype, copy=copy)


def extract_cutouts(
    frame: Frame | ArrayLike,
    x: ArrayLike,
    y: ArrayLike,
    size: int = PUBLISHED_SIZE,
    *,
    fwhm: ArrayLike | None = None,
    reference_fwhm: float = REFERENCE_FWHM,
    background: NDArray[np.floating] | float = 0.0,
) -> Cutouts:
    """Cut out a square around each source of a frame.

    Parameters
    ----------
    frame : Frame or array_like, shape (ny, nx)
        Masked pixels of a `Frame` become NaN. Cutouts of a frame with a `Frame.scene` show the
        source at (x, y) without its neighbours.
    x, y : array_like, shape (n,)
        Positions in pixels; the centre of the first pixel is (0, 0).
    size : int
        Side of a cutout in pixels, odd.
    fwhm : float or array_like, shape (n,), optional
        FWHM of the frame's stars in pixels, or of those at each source. If given, cutouts are
        centred exactly on (x, y) and resampled so that `fwhm` becomes `reference_fwhm`. Resampling
        uses cubic convolution (Keys 1981, IEEE Trans. ASSP 29, 1153), widened to an area average
        where the frame's pixels are smaller. Surface brightness is conserved.
    reference_fwhm : float
        FWHM after resampling, in pixels.
    background : ndarray of shape (ny, nx) or float
        Subtracted from the pixels.

    Returns
    -------
    Cutouts

    Raises
    ------
    InputError
        If `size` is even, below 3 or far beyond the frame, x and y differ in length or are not
        finite, or a FWHM is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.arange(100.0).reshape(10, 10)
    >>> cut = extract_cutouts(image, [4.2, 9.0], [5.1, 5.0], size=3)
    >>> cut.data[0, 1, 1], cut.near_edge.tolist()
    (np.float32(54.0), [False, True])
    """
    x, y = check_positions(x, y)
    pixels, bad = _pixels_of(frame)
    most = 2 * max(*pixels.shape, 500) + 1  # a wider cutout is mostly off the frame
    if not isinstance(size, int | float | np.number) or not 3 <= size <= most or size % 2 != 1:
        raise InputError(
            f"The 'size' of cutouts must be an odd integer from 3 to {most}. Got {size!r}."
        )
    size, half = int(size), int(size) // 2
    scene = getattr(frame, "scene", None)
    scale = np.ones(())
    if fwhm is None:
        x0, y0 = np.rint(x), np.rint(y)
        data = _gather(pixels, bad, x0.astype(int), y0.astype(int), half, background)
        if scene is not None:
            data += scene.own_light(x, y, half)
    else:
        width = np.asarray(fwhm, dtype=np.float64)
        if not ((np.isfinite(width) & (width > 0)).all() and reference_fwhm > 0):
            raise InputError(
                f"'fwhm' and 'reference_fwhm' must be positive. Got {fwhm}, {reference_fwhm}."
            )
        if width.shape not in ((), x.shape):
            raise InputError(f"'fwhm' is one for all, or of shape {x.shape}. Got {width.shape}.")
        scale = np.asarray(width / reference_fwhm)
        x0, y0 = x, y
        scales = np.broadcast_to(scale, x.shape)
        data = np.empty((x.size, size, size), dtype=np.float32)
        order = np.argsort(-scales, kind="stable")  # a block is as wide as its widest needs
        while order.size:
            side = 2 * reach_of(size, float(scales[order[0]])) + 1
            block = order[: int(np.clip(_PIXELS // side**2, 1, _BLOCK))]
            at = x[block], y[block]
            data[block] = _resample(pixels, bad, *at, size, scales[block], background, scene)
            order = order[len(block) :]
    near_edge = reaches_over(x0, y0, scale * half, pixels.shape)
    usual = float(np.median(scale)) if scale.size else 1.0
    return Cutouts(data, x, y, x0.astype(float), y0.astype(float), usual, near_edge)


def nearest_pixels(
    x: ArrayLike, y: ArrayLike, shape: tuple[int, ...]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return row and column of the frame pixel nearest to each position.

    Examples
    --------
    >>> [v.tolist() for v in nearest_pixels([1.6, -3.0], [0.2, 9.0], (4, 5))]
    [[0, 3], [2, 0]]
    """
    ny, nx = shape
    row = np.clip(np.rint(y).astype(int), 0, ny - 1)
    return row, np.clip(np.rint(x).astype(int), 0, nx - 1)


def psf_size(fwhm: float) -> int:
    """Return the side of a frame's PSF in pixels: 9 FWHM rounded up to odd, from 31 to 101.

    Examples
    --------
    >>> psf_size(3.0), psf_size(5.0)
    (31, 45)
    """
    return int(np.clip(np.ceil(9 * fwhm), 31, 101)) | 1


def _pixels_of(frame: Frame | ArrayLike) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    if hasattr(frame, "data") and hasattr(frame, "mask") and not isinstance(frame, np.ndarray):
        scene = getattr(frame, "scene", None)
        bad = frame.mask if frame.mask.any() else None
        return frame.data if scene is None else scene.rest, bad
    pixels = np.asarray(frame)
    if pixels.ndim != 2:
        raise InputError(f"A frame must have two axes. Got an array of shape {pixels.shape}.")
    bad = None if pixels.dtype.kind in "iub" else ~np.isfinite(pixels)
    return pixels, bad


def _gather(
    pixels: NDArray[Any],
    bad: NDArray[np.bool_] | None,
    col: NDArray[np.int_],
    row: NDArray[np.int_],
    half: int,
    background: NDArray[np.floating] | float,
) -> NDArray[np.float32]:
    """Cut squares of whole pixels, shape (n, 2 half + 1, 2 half + 1); NaN off the frame."""
    ny, nx = pixels.shape
    side = 2 * half + 1
    off = (col < half) | (row < half) | (col >= nx - half) | (row >= ny - half)
    if off.any() and not off.all():
        mixed = np.empty((len(col), side, side), dtype=np.float32)
        for part in (off, ~off):
            mixed[part] = _gather(pixels, bad, col[part], row[part], half, background)
        return mixed
    if not off.any() and side <= min(ny, nx):  # the rule; whole rows are copied at once

        def cut(plane: NDArray[Any]) -> NDArray[Any]:
            return sliding_window_view(plane, (side, side))[row - half, col - half]

        data: NDArray[np.float32] = cut(pixels).astype(np.float32, copy=False)
        data -= cut(background) if isinstance(background, np.ndarray) else np.float32(background)
        if bad is not None:
            data[cut(bad)] = np.nan
        return data
    offset = np.arange(-half, half + 1)
    cols, rows = col[:, None] + offset, row[:, None] + offset
    inside = ((rows >= 0) & (rows < ny))[:, :, None] & ((cols >= 0) & (cols < nx))[:, None, :]
    index = (np.clip(rows, 0, ny - 1)[:, :, None], np.clip(cols, 0, nx - 1)[:, None, :])
    data = pixels[index].astype(np.float32)
    data -= background[index] if isinstance(background, np.ndarray) else np.float32(background)
    if bad is not None:
        inside &= ~bad[index]
    data[~inside] = np.nan
    return data


def _resample(
    pixels: NDArray[Any],
    bad: NDArray[np.bool_] | None,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    size: int,
    scale: NDArray[np.float64],
    background: NDArray[np.floating] | float,
    scene: PointSources | None,
) -> NDArray[np.float32]:
    """Cut out and resample around sub-pixel positions."""
    col, row = np.rint(x).astype(int), np.rint(y).astype(int)
    half = reach_of(size, float(scale.max()))
    raw = _gather(pixels, bad, col, row, half, background)
    if scene is not None:
        raw += scene.own_light(x, y, half)
    return resample(raw, x - col, y - row, size, scale)


def reach_of(size: int, scale: float) -> int:
    """Return the pixels to each side of a source needed to resample to a stamp of `size`."""
    return int(np.ceil(scale * (size // 2) + 2.0 * max(scale, 1.0) + 0.5))


def resample(
    raw: NDArray[np.float32],
    dx: NDArray[np.float64],
    dy: NDArray[np.float64],
    size: int,
    scale: float | NDArray[np.float64],
) -> NDArray[np.float32]:
    """Resample squares of whole pixels, with one matrix for rows and one for columns per source.

    Parameters
    ----------
    raw : ndarray of float32, shape (n, side, side)
        Pixels at the frame's scale, ``side = 2 * reach_of(size, scale) + 1``; NaN where there is
        no pixel. Overwritten.
    dx, dy : ndarray, shape (n,)
        Offset of the new centre from that of the centre pixel, in pixels.
    size : int
        Side of the stamps.
    scale : float or ndarray, shape (n,)
        Frame pixels per stamp pixel; the largest decides on `raw`.

    Returns
    -------
    ndarray of float32, shape (n, size, size)
    """
    scale = np.broadcast_to(scale, dx.shape)
    width = np.maximum(scale, 1.0)
    half_in = raw.shape[-1] // 2
    missing = np.isnan(raw)
    raw[missing] = 0.0
    wx = _cubic_weights(dx, size, half_in, scale, width)
    wy = _cubic_weights(dy, size, half_in, scale, width)
    # With a transposed view NumPy would not use BLAS for the product.
    wx = np.ascontiguousarray(np.swapaxes(wx, 1, 2))
    out: NDArray[np.float32] = wy @ (raw @ wx)
    some = missing.any(axis=(1, 2))
    if some.any():
        # A stamp pixel is missing if a quarter of its (absolute) weight is on missing pixels.
        lost = np.abs(wy[some]) @ (missing[some].astype(np.float32) @ np.abs(wx[some]))
        stamp = out[some]
        stamp[lost > 0.25] = np.nan
        out[some] = stamp
    return out


def _cubic_weights(
    shift: NDArray[np.float64],
    size: int,
    half_in: int,
    scale: NDArray[np.float64],
    width: NDArray[np.float64],
) -> NDArray[np.float32]:
    """Return weights of input pixels for each output pixel, shape (n, size, 2 half_in + 1)."""
    wanted = shift[:, None] + scale[:, None] * (np.arange(size) - size // 2)
    # Pixels with weight; the others have none.
    n_near = int(np.ceil(4 * width.max(initial=1.0))) + 1
    first = np.floor(wanted - 2 * width[:, None]).astype(np.intp)
    pixel = first[:, :, None] + np.arange(n_near + 1)
    u = np.abs(pixel - wanted[:, :, None]) / width[:, None, None]
    near, far = u < 1, (u >= 1) & (u < 2)
    some = np.where(near, (1.5 * u - 2.5) * u * u + 1.0, 0.0)
    some += np.where(far, ((-0.5 * u + 2.5) * u - 4.0) * u + 2.0, 0.0)
    inside = (pixel >= -half_in) & (pixel <= half_in)
    some *= inside
    some /= some.sum(axis=2, keepdims=True)
    side = 2 * half_in + 1
    weight = np.zeros((*wanted.shape, side + 1), dtype=np.float32)  # the last takes what is outside
    place = np.where(inside, pixel + half_in, side)
    np.put_along_axis(weight, place, some.astype(np.float32), axis=2)
    return weight[:, :, :side]
