"""Cutouts laid out as one frame, so that every stage that takes a frame takes cutouts too.

Each cutout becomes a tile without its sky, in a border of masked pixels that keeps its neighbours
out. The frame knows the position of each on the detector, for what varies over it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlpsf.errors import InputError
from mlpsf.frames.background import Background
from mlpsf.frames.estimation import SkyNoise, find_pile_up
from mlpsf.frames.frame import Frame
from mlpsf.frames.geometry import check_positions
from mlpsf.stacks.values import as_cutouts, sky_and_noise

__all__ = [
    "LARGEST",
    "MISSING",
    "SMALLEST",
    "TiledFrame",
    "clean_cutouts",
    "first_pixel",
    "squares",
    "tile_cutouts",
]

SMALLEST, LARGEST = 15, 151
"""Sides in pixels of the cutouts that are taken."""

WIDEST = 301
"""Widest cutouts that are made of a frame, in pixels."""

_KEPT = 6.5  # FWHM to each side: the widest window of any stage, that of the residual rule
_BRIGHTEST = 200  # cutouts that tell the FWHM
_MARGIN = 100  # pixels without a source at the left or lower side of a frame, at least
_UNKNOWN = 4.0  # FWHM where nothing is bright
_COSMIC = 4  # pixels above half of its peak that a cosmic ray has, at most

MISSING = 1e29
"""Pixels of this size, of either sign, are missing.

SExtractor writes -1e30 into a VIGNET where there is no pixel, others the largest number there is.
"""


@dataclass(frozen=True, eq=False, kw_only=True)
class TiledFrame(Frame):
    """Cutouts as one frame.

    Attributes
    ----------
    tile_x, tile_y : ndarray of float64, shape (n,)
        Centre of each cutout's centre pixel on this frame.
    places : ndarray of float64, shape (n, 2) or (0, 2)
        Pixel of the detector that each cutout's centre pixel is, from `first`; empty where not
        known.
    first : (int, int)
        x and y of the first pixel, as the positions of the cutouts count; see `first_pixel`.
    pitch : int
        Side of a tile in pixels, its border included.
    half : int
        Pixels of a cutout to each side of its centre pixel.
    """

    tile_x: NDArray[np.float64] = field(repr=False)
    tile_y: NDArray[np.float64] = field(repr=False)
    places: NDArray[np.float64] = field(repr=False)
    pitch: int
    half: int
    first: tuple[int, int] = (0, 0)

    def place(self, x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return where points of this frame were on that of the cutouts, from its first pixel."""
        x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        if not len(self.places):
            return np.zeros_like(x), np.zeros_like(y)
        tile = self._tile_of(x, y)
        at_x, at_y = self.places[tile].T
        return at_x + x - self.tile_x[tile], at_y + y - self.tile_y[tile]

    def cut_off(self, x: ArrayLike, y: ArrayLike, reach: float) -> NDArray[np.bool_]:
        """Return which cutouts lack whole rows or columns, as at the edge of a detector."""
        near = int(min(np.ceil(reach), self.half))
        whole = np.arange(-near, near + 1)
        tile = self._tile_of(np.asarray(x), np.asarray(y))
        rows = self.tile_y[tile].astype(int)[:, None] + whole
        columns = self.tile_x[tile].astype(int)[:, None] + whole
        missing = self.mask[rows[:, :, None], columns[:, None, :]]
        gone = [np.any(np.all(missing, axis=axis), axis=1) for axis in (2, 1)]
        return np.asarray(gone[0] | gone[1], dtype=bool)

    def _tile_of(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.intp]:
        per_row = self.shape[1] // self.pitch
        tile = (y // self.pitch).astype(int) * per_row + (x // self.pitch).astype(int)
        return np.asarray(np.clip(tile, 0, len(self.tile_x) - 1))

    @property
    def extent(self) -> tuple[int, int]:
        """Rows and columns that the places span."""
        if not len(self.places):
            return self.shape
        nx, ny = np.ceil(self.places.max(axis=0)).astype(int) + 1
        return max(int(ny), 1), max(int(nx), 1)


def first_pixel(x: NDArray[np.floating], y: NDArray[np.floating]) -> tuple[int, int]:
    """Return x and y of the first pixel of the frame that positions are on.

    It is 0, unless they start below that or further off than they reach, as those of a tract do.

    Examples
    --------
    >>> first_pixel(np.array([12000.4, 15990.0]), np.array([30.0, 900.0]))
    (12000, 0)
    """

    def first(v: NDArray[np.floating]) -> int:
        elsewhere = v.size and (v.min() < -0.5 or v.min() > np.ptp(v) + _MARGIN)
        return int(np.floor(v.min())) if elsewhere else 0

    return first(x), first(y)


def squares(cutouts: ArrayLike) -> NDArray[Any]:
    """Return cutouts as an array, shape (n, size, size), of their own type; a view if they are one.

    Raises
    ------
    InputError
        As `clean_cutouts`.

    Examples
    --------
    >>> squares(np.ones((2, 225), dtype=np.uint8)).shape
    (2, 15, 15)
    """
    try:
        raw = cutouts if isinstance(cutouts, np.ma.MaskedArray) else np.asarray(cutouts)
    except ValueError as error:
        raise InputError(f"Cutouts must all be of one size: {error}") from error
    if raw.dtype.kind not in "fiub":
        raise InputError(f"Pixels of cutouts must be real numbers. Got the type {raw.dtype}.")
    pixels = as_cutouts(raw)
    if not len(pixels):
        raise InputError("There must be at least one cutout. Got none.")
    size = pixels.shape[-1]
    if size % 2 == 0 or not SMALLEST <= size <= LARGEST:
        raise InputError(
            f"Cutouts must have an odd side of {SMALLEST} to {LARGEST} pixels, the source on the "
            f"middle one. Got {size} x {size}."
        )
    return pixels


def clean_cutouts(cutouts: ArrayLike) -> NDArray[np.float32]:
    """Return cutouts as native float32, NaN where a pixel is missing.

    Parameters
    ----------
    cutouts : array_like, shape (n, size, size) or (n, size * size)
        NaN, infinity, SExtractor's -1e30 or the mask of a masked array mark missing pixels.

    Returns
    -------
    ndarray of float32, shape (n, size, size)
        A copy.

    Raises
    ------
    InputError
        There are none, they are not square, or their side is even or outside of 15 to 151 pixels.

    Examples
    --------
    >>> clean_cutouts(np.full((1, 15, 15), -1e30))[0, 0, 0]
    np.float32(nan)
    """
    raw = squares(cutouts)
    pixels = np.array(np.ma.getdata(raw), dtype=np.float32)
    if isinstance(raw, np.ma.MaskedArray):
        pixels[np.ma.getmaskarray(raw)] = np.nan
    # One look at all pixels where none is missing, which is the rule.
    with np.errstate(invalid="ignore"):
        known = np.isfinite(pixels.sum()) and max(-pixels.min(), pixels.max()) < MISSING
        if not known:
            pixels[~(np.abs(pixels) < MISSING)] = np.nan
    return pixels


def tile_cutouts(
    cutouts: ArrayLike,
    x: ArrayLike | None = None,
    y: ArrayLike | None = None,
    *,
    gain: float | None = None,
    saturation: float | None = None,
    first: tuple[int, int] | None = None,
    name: str = "cutouts",
) -> TiledFrame:
    """Lay cutouts out as one frame.

    Parameters
    ----------
    cutouts : array_like, shape (n, size, size) or (n, size * size)
        See `clean_cutouts`. The sky of each is the median of its border, see
        `mlpsf.stacks.values.sky_and_noise`; it may be subtracted already.
    x, y : array_like, shape (n,), optional
        Where each was on its frame, 0-based pixels.
    gain : float, optional
        Electrons per unit of the pixels. Without, the sources' own photon noise is not counted.
    saturation : float, optional
        In the unit of the pixels, sky included. Unless given, the level at which pixels pile up.
    first : (int, int), optional
        x and y of the first pixel of the frame; `first_pixel` of the positions unless given.
    name : str
        For messages.

    Returns
    -------
    TiledFrame

    Raises
    ------
    InputError
        The cutouts are none, or of a wrong shape; x and y are of another length.

    Examples
    --------
    >>> u = np.arange(-10, 11)
    >>> star = 7 + 100 * np.exp(-(u**2 + u[:, None] ** 2) / 6)
    >>> frame = tile_cutouts([star, star], [30, 90], [40, 80])
    >>> at = frame.place(frame.tile_x, frame.tile_y)
    >>> [v.tolist() for v in at], len(frame.tile_x)
    ([[30.0, 90.0], [40.0, 80.0]], 2)
    """
    pixels = clean_cutouts(cutouts)
    if gain is not None and not float(gain) > 0:
        raise InputError(f"The gain must be positive, in electrons per unit. Got {gain}.")
    if saturation is not None and np.isnan(saturation):
        raise InputError("The saturation level must be a number, or infinity. Got NaN.")
    n, size = pixels.shape[:2]
    if (x is None) != (y is None):
        raise InputError("Positions are x and y. Got one of them.")
    places = np.zeros((0, 2))
    if x is not None and y is not None:
        places = np.rint(np.column_stack(check_positions(x, y)))  # of the centre pixels
        if len(places) != n:
            raise InputError(f"There must be one x and one y a cutout: {n}. Got {len(places)}.")
        first = first_pixel(*places.T) if first is None else first
        places -= first
        if n > 1 and not np.ptp(places, axis=0).any():
            places = places[:0]  # all at one place: none is known
    sky, noise = sky_and_noise(pixels)
    full, origin = _saturation(pixels, sky, noise, saturation)
    reach = int(np.ceil(_KEPT * _rough_fwhm(pixels, sky, noise))) + 2
    half = min(size // 2, reach)
    middle = slice(size // 2 - half, size // 2 + half + 1)
    pixels = pixels[:, middle, middle]
    saturated = pixels >= full
    pixels -= sky[:, None, None]
    pixels = _resized(pixels, reach, places)
    if saturated.any():
        saturated = _resized(saturated.astype(np.float32), reach, places) > 0
    else:
        saturated = np.zeros(pixels.shape, dtype=bool)
    pitch = 2 * reach + 3
    per_row = int(np.ceil(np.sqrt(n)))
    rows = -(-n // per_row)

    def lay(stack: NDArray[Any], fill: Any) -> NDArray[Any]:
        plane = np.full((rows * per_row, pitch, pitch), fill, dtype=stack.dtype)
        plane[:n, 1:-1, 1:-1] = stack
        joined = plane.reshape(rows, per_row, pitch, pitch).swapaxes(1, 2)
        return np.ascontiguousarray(joined.reshape(rows * pitch, per_row * pitch))

    bad = np.isnan(pixels)
    mask = lay(bad, True)
    pixels[bad] = 0.0
    data = lay(pixels, 0.0)
    # A cutout without noise, or without a border, must not divide by zero.
    usual = float(np.median(noise[noise > 0])) if (noise > 0).any() else 1.0
    rms = np.repeat(np.where(noise > 0, noise, usual), pitch).astype(np.float32)
    rms = np.pad(rms, (0, (rows * per_row - n) * pitch), constant_values=usual)
    rms = np.repeat(rms.reshape(rows, per_row * pitch), pitch, axis=0)
    column, row = np.arange(n) % per_row, np.arange(n) // per_row
    return TiledFrame(
        data=data,
        mask=mask,
        gain=np.inf if gain is None else float(gain),
        # Of each tile the sky is gone: what is saturated is known pixel by pixel.
        saturation=np.inf,
        saturated_plane=lay(saturated, False),
        name=name,
        origin={
            "gain": "unknown, photon noise left out" if gain is None else "given",
            "saturation": origin,
            "read_noise": "unknown, taken as 0",
        },
        given_background=Background(np.zeros_like(data), rms),
        tile_x=(column * pitch + pitch // 2).astype(np.float64),
        tile_y=(row * pitch + pitch // 2).astype(np.float64),
        places=places,
        pitch=pitch,
        half=half,
        first=first or (0, 0),
    )


def _resized(stack: NDArray[Any], reach: int, places: NDArray[np.float64]) -> NDArray[Any]:
    """Extend cutouts to a reach; what is beyond them is taken from others at their places.

    Around a source that is cut small, the cutouts of its neighbours show what is there.
    """
    n, half = len(stack), stack.shape[-1] // 2
    if half == reach:
        return stack
    wide = np.full((n, 2 * reach + 1, 2 * reach + 1), np.nan, dtype=stack.dtype)
    middle = slice(reach - half, reach + half + 1)
    if len(places):
        from scipy.spatial import cKDTree  # takes half a second, and frames have no places

        at = np.rint(places).astype(int)
        for i, j in cKDTree(at).query_pairs(reach + half, p=np.inf):
            for one, other in ((i, j), (j, i)):
                dx, dy = at[other] - at[one]
                target, source = [], []
                for d in (dy, dx):
                    low, high = max(d - half, -reach), min(d + half, reach)
                    target.append(slice(low + reach, high + reach + 1))
                    source.append(slice(low - d + half, high - d + half + 1))
                seen = stack[other][tuple(source)]
                wide[one][tuple(target)] = np.where(np.isnan(seen), wide[one][tuple(target)], seen)
    wide[:, middle, middle] = stack
    return wide


def _rough_fwhm(
    pixels: NDArray[np.float32], sky: NDArray[np.float32], noise: NDArray[np.float32]
) -> float:
    """Return roughly the FWHM of the wider stars, from the area above half of their peak.

    Most of the brightest may be cosmic rays. Tiles too wide only take time; too narrow ones fail.
    """
    centre = pixels.shape[-1] // 2
    core = np.nan_to_num(pixels[:, centre - 1 : centre + 2, centre - 1 : centre + 2], nan=-np.inf)
    peak = core.reshape(len(pixels), -1).max(axis=1) - sky
    lit = np.flatnonzero((peak > 10 * noise) & np.isfinite(peak))
    if not lit.size:
        return _UNKNOWN
    rows = lit[np.argsort(-peak[lit], kind="stable")][:_BRIGHTEST]
    with np.errstate(invalid="ignore"):
        half = sky[rows] + np.float32(0.5) * peak[rows]
        area = (pixels[rows] > half[:, None, None]).sum(axis=(1, 2))
    stellar = area[area > _COSMIC]
    area = stellar if len(stellar) >= 0.05 * len(rows) else area
    # Cutouts of less than 4 FWHM are refused: a source that fills one is none to go by.
    return float(min(2 * np.sqrt(np.quantile(area, 0.75) / np.pi), pixels.shape[-1] / 4))


def _saturation(
    pixels: NDArray[np.float32],
    sky: NDArray[np.float32],
    noise: NDArray[np.float32],
    given: float | None,
) -> tuple[float, str]:
    """Return the saturation level, sky included, and where it is from."""
    if given is not None:
        return float(given), "given"
    sigma = float(np.median(noise))
    if not sigma > 0:
        return np.inf, "nothing limits it"
    # Side by side the cutouts are an image whose bright pixels pile up at the full well.
    wall = pixels.reshape(-1, pixels.shape[-1])
    quiet = SkyNoise(float(np.median(sky)), sigma**2, sigma**2)
    level = find_pile_up(wall, None, quiet)
    if level is None:
        return np.inf, "nothing limits it"
    return level, "pile-up of the histogram"
