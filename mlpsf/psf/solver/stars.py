"""Read, check and cut out the stars that a PSF is built from."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy.utils.exceptions import AstropyUserWarning
from numpy.typing import NDArray
from scipy.ndimage import label

from mlpsf.errors import InputError, PSFError
from mlpsf.frames.background import MESH
from mlpsf.frames.cutouts import PSF_MARGIN, psf_size
from mlpsf.frames.frame import Frame, PointSources
from mlpsf.frames.io.reading import read_frame
from mlpsf.frames.meshes import map_of, mesh_statistics
from mlpsf.neighbours.subtract import as_judged
from mlpsf.psf.solver.solve import StarPixels
from mlpsf.psf.solver.tiles import are_cutouts, tile_stars, truth
from mlpsf.stacks.values import real_array, sky_and_noise

__all__ = ["Stars", "cut_stars", "say_left_out"]

FloatArray = NDArray[np.float64]

_MESHES = f"mode of meshes of {MESH} pixels"

_SIZES = range(5, 1002, 2)  # of a PSF, in pixels

CHOSEN_BY = (
    "selector",
    "model_name",
    "model_sha256",
    "threshold",
    "snr_min",
    "n_max",
    "second_look",
    "n_looked_at",
    "n_outliers",
    "n_outliers_kept",
    "relaxed",
    "n_subtracted",
)
"""Metadata that a PSF takes from the table of its stars."""


@dataclass
class _Places:
    """Positions of the stars that are kept, and why others were left out."""

    x: FloatArray
    y: FloatArray
    left_out: dict[str, int] = field(default_factory=dict)

    def keep(self, good: NDArray[np.bool_], reason: str) -> None:
        if not good.all():
            self.left_out[reason] = self.left_out.get(reason, 0) + int((~good).sum())
        self.x, self.y = self.x[good], self.y[good]
        if not good.any():
            why = ", ".join(f"{n} {text}" for text, n in self.left_out.items())
            raise PSFError(f"no star is left to make a PSF from: {why}")


@dataclass(frozen=True, eq=False)
class Stars:
    """Stars cut out of a frame.

    Attributes
    ----------
    x, y : (n,) arrays
        Positions on the frame, from its first pixel.
    pixels : StarPixels
    size : int
        Side of the PSF. The cutouts have a margin of 3 pixels on each side.
    frame_shape : (int, int)
    left_out : dict
        Number of given stars that were left out, by reason.
    meta : dict
        Metadata of the frame, the star table and the background for the PSF.
    first : (int, int)
        x and y of the first pixel, as the positions of the stars were given; 0 but for cutouts of
        a larger image.
    """

    x: FloatArray
    y: FloatArray
    pixels: StarPixels
    size: int
    frame_shape: tuple[int, int]
    left_out: dict[str, int]
    meta: dict[str, Any]
    first: tuple[int, int] = (0, 0)

    @property
    def places(self) -> FloatArray:
        """Positions as they were given, shape (n, 2)."""
        return np.column_stack([self.x, self.y]) + self.first


def _read_frame(frame: Any) -> tuple[NDArray[Any], NDArray[np.bool_], float, dict[str, Any]]:
    meta: dict[str, Any] = {}
    pixels: NDArray[Any]
    gain = np.inf
    if isinstance(frame, Frame):
        # Saturated pixels are masked, so stars with a saturated core are left out.
        pixels = frame.data if frame.scene is None else frame.scene.rest
        mask = frame.mask | frame.saturated
        gain = frame.gain if np.isfinite(frame.gain) and frame.gain > 0 else np.inf
        meta = {"frame": frame.name, "frame_sha256": frame.sha256}
    else:
        # Keep float32, which halves the work on the full frame; convert integers to float64.
        single = getattr(frame, "dtype", None) == np.float32
        pixels = real_array(frame, "a frame's pixels", np.float32 if single else np.float64)
        if pixels.ndim != 2 or pixels.size == 0:
            raise InputError(f"a frame is a 2-D image; got shape {pixels.shape}")
        mask = ~np.isfinite(pixels)
        pixels[mask] = 0.0
    if mask.all():
        raise InputError("all pixels of the frame are NaN, infinite or masked")
    return pixels, mask, gain, meta


def _read_stars(stars: Any, shape: tuple[int, ...]) -> _Places:
    columns = getattr(stars, "colnames", None)
    if columns is None:
        places = real_array(stars, "stars' positions")
        if places.ndim != 2 or places.shape[1] != 2:
            raise InputError(f"stars must be a table or an (n, 2) array; got {places.shape}")
    else:
        if not {"x", "y"} <= set(columns):
            raise InputError(f"the star table needs columns x and y; it has {', '.join(columns)}")
        # A QTable's columns are quantities.
        values = [getattr(stars[c], "value", stars[c]) for c in "xy"]
        numbers = [real_array(v, "stars' positions") for v in values]
        if any(v.ndim != 1 for v in numbers):
            raise InputError("the columns x and y of stars hold one number a row")
        places = np.column_stack(numbers)
        use = np.ones(len(places), dtype=bool)
        if "selected" in columns:
            use &= truth(stars["selected"])
        if "reserved" in columns:
            use &= ~truth(stars["reserved"])
        if len(places) and not use.any():
            raise PSFError(f"none of the {len(places)} stars of the table is selected")
        places = places[use]
    if len(places) == 0:
        raise PSFError("no star to make a PSF from: the list is empty")
    bad = np.flatnonzero(~np.isfinite(places).all(axis=1))
    if bad.size:
        raise InputError(f"{bad.size} star positions are not finite; the first is number {bad[0]}")
    ny, nx = shape
    off = np.flatnonzero(((places < -0.5) | (places >= (nx - 0.5, ny - 0.5))).any(axis=1))
    if off.size:
        x, y = places[off[0]]
        raise InputError(
            f"{off.size} of {len(places)} stars are off the frame of {nx} x {ny} pixels; the first "
            f"is at x {x:.1f}, y {y:.1f}. Are x and y swapped, or from another frame?"
        )
    return _Places(places[:, 0].copy(), places[:, 1].copy())


def _background(frame: Any, pixels: NDArray[Any], mask: NDArray[np.bool_], background: Any) -> Any:
    """Return the background to subtract from the frame, and a description of it."""
    if isinstance(background, str):
        if background != "mesh":
            raise InputError(f"background must be 'mesh', a number or an array; got {background!r}")
        if isinstance(frame, Frame):
            how = _MESHES if frame.given_background is None else "the frame's own"
            return frame.background.level, how
        level, _, off = mesh_statistics(pixels, mask, MESH)
        return map_of(level, off, pixels.shape), _MESHES
    level = np.asarray(background, dtype=np.float64)
    if level.shape not in ((), pixels.shape) or not np.isfinite(level).all():
        raise InputError(
            f"background must be finite, one number or an array of the frame's shape "
            f"{pixels.shape}; got shape {level.shape}"
        )
    return level, "given" if level.ndim else f"given, {float(level):g}"


def _cut(
    pixels: NDArray[Any], stars: _Places, half: int
) -> tuple[NDArray[Any], FloatArray, FloatArray]:
    """Cut out (n, 2 half + 1, 2 half + 1) around the stars; zero or True off the frame."""
    column, row = (np.floor(v + 0.5).astype(int) for v in (stars.x, stars.y))
    shape = (len(column), 2 * half + 1, 2 * half + 1)
    cutouts = np.full(shape, pixels.dtype == bool, dtype=pixels.dtype)
    for cutout, i, j in zip(cutouts, column - half, row - half, strict=True):
        part = pixels[max(j, 0) : max(j + shape[1], 0), max(i, 0) : max(i + shape[2], 0)]
        top, left = max(-j, 0), max(-i, 0)
        cutout[top : top + part.shape[0], left : left + part.shape[1]] = part
    return cutouts, stars.x - column + half, stars.y - row + half


def _cut_light(
    pixels: NDArray[Any],
    mask: NDArray[np.bool_],
    sky: NDArray[Any],
    stars: _Places,
    half: int,
    scene: PointSources | None,
) -> tuple[NDArray[Any], FloatArray, FloatArray]:
    """Cut out as `_cut`, without the sky; bad pixels are zero.

    To what is left of a scene, each star is added again.
    """
    cutouts, x, y = _cut(pixels, stars, half)
    cutouts = cutouts - (_cut(sky, stars, half)[0] if sky.ndim else sky)
    cutouts[_cut(mask, stars, half)[0]] = 0.0
    if scene is not None:
        cutouts += scene.own_light(stars.x, stars.y, half)
    return cutouts, x, y


def _guess_fwhm(cutouts: FloatArray) -> float:
    """Return the median width of the connected pixels above half of each star's peak."""
    centre = cutouts.shape[1] // 2
    core = slice(centre - 2, centre + 3)
    areas = []
    for image in cutouts:
        peak = image[core, core].max()
        if peak > 0:
            labels = label(image > peak / 2)[0]
            at = np.unravel_index(image[core, core].argmax(), (5, 5))
            areas.append((labels == labels[core, core][at]).sum())
    if not areas:
        raise PSFError(
            "no star has light above the background; are x and y 0-based, and is the background "
            "right?"
        )
    return float(2 * np.sqrt(np.median(areas) / np.pi))


def cut_stars(
    frame: Any,
    stars: Any,
    *,
    size: int | None,
    background: str | float | FloatArray,
) -> Stars:
    """Read a frame and a list of stars, check both, and cut the stars out.

    Parameters and errors are those of :func:`mlpsf.psf.build_psf`.

    Returns
    -------
    Stars
    """
    if size is not None and (not isinstance(size, int | np.integer) or size not in _SIZES):
        raise InputError(
            f"size must be an odd number of pixels from {_SIZES[0]} to {_SIZES[-1]}; got {size!r}"
        )
    largest = extent = None
    first = (0, 0)
    chosen_by = getattr(stars, "meta", None) or {}
    if are_cutouts(frame, stars):
        frame, stars, largest, extent, first = tile_stars(frame, stars)
        background = 0.0 if isinstance(background, str) and background == "mesh" else background
    elif not isinstance(frame, Frame) and (
        isinstance(frame, str | Path)
        or hasattr(frame, "writeto")  # HDUs
        or chosen_by.get("n_subtracted")
    ):
        frame = read_frame(frame)
    if isinstance(frame, Frame):
        frame = as_judged(frame, stars)
    scene = frame.scene if isinstance(frame, Frame) else None
    pixels, mask, gain, meta = _read_frame(frame)
    hand = _read_stars(stars, pixels.shape)
    own, theirs = meta.get("frame_sha256"), chosen_by.get("frame_sha256")
    if own and theirs and own != theirs:
        warnings.warn(
            f"the stars were chosen on {chosen_by.get('frame', 'another frame')}, whose pixels are "
            f"not those of {meta['frame']}: are their positions this frame's?",
            AstropyUserWarning,
            stacklevel=3,
        )
    sky, how = _background(frame, pixels, mask, background)
    fwhm = _guess_fwhm(_cut_light(pixels, mask, sky, hand, 25, scene)[0])
    if size is None:
        size = psf_size(fwhm) if largest is None else min(psf_size(fwhm), largest)
    half = size // 2 + 3
    margin = size // 2 + PSF_MARGIN
    ny, nx = pixels.shape
    column, row = (np.floor(v + 0.5) for v in (hand.x, hand.y))
    inside = (column >= margin) & (column < nx - margin) & (row >= margin) & (row < ny - margin)
    hand.keep(inside, f"within {margin} pixels of the edge of the frame")
    # Pixels off the frame are only in the margin of a cutout.
    bad, x, y = _cut(mask, hand, half)
    square = _square(x, y, 2 * half + 1)
    core = (bad & (square < max(fwhm, 1.5) ** 2)).any(axis=(1, 2))
    hand.keep(~core & (bad.mean(axis=(1, 2)) < 0.5), "masked at the core or over half of the box")
    cutouts, x, y = _cut_light(pixels, mask, sky, hand, half, scene)
    bad = _cut(mask, hand, half)[0]
    cutouts = cutouts.astype(np.float64)
    light = np.where(_square(x, y, 2 * half + 1) < (1.5 * fwhm) ** 2, cutouts, 0.0)
    lit = light.sum(axis=(1, 2)) > 0
    hand.keep(lit, "without light above the background")
    cutouts, bad, x, y = cutouts[lit], bad[lit], x[lit], y[lit]
    noise = sky_and_noise(np.where(bad, np.nan, cutouts))[1].astype(np.float64)
    # Avoid infinite weights in a noiseless image.
    noise = np.maximum(noise, 1e-4 * light[lit].max(axis=(1, 2)))
    meta |= {key: chosen_by[key] for key in CHOSEN_BY if key in chosen_by}
    meta |= {"background": how, "n_left_out": sum(hand.left_out.values())}
    place = (hand.x, hand.y), (ny, nx)
    if isinstance(frame, Frame):
        place = frame.place(hand.x, hand.y), extent or frame.extent
    return Stars(
        *place[0],
        StarPixels(cutouts, bad, x, y, noise, gain, fwhm),
        size,
        place[1],
        hand.left_out,
        meta,
        first,
    )


def _square(x: FloatArray, y: FloatArray, side: int) -> FloatArray:
    """Return the squared distance of each pixel of a cutout from its star, (n, side, side)."""
    offset = np.arange(side)
    return np.asarray(
        (offset - x[:, None])[:, None, :] ** 2 + (offset - y[:, None])[:, :, None] ** 2
    )


def say_left_out(stars: Stars) -> None:
    """Warn, at the level of the caller's caller, of given stars that are not used."""
    if stars.left_out:
        lost = sum(stars.left_out.values())
        why = "; ".join(f"{n} {text}" for text, n in stars.left_out.items())
        warnings.warn(
            f"{lost} of {len(stars.x) + lost} stars are not in the PSF: {why}",
            AstropyUserWarning,
            stacklevel=3,
        )
