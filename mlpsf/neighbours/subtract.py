"""Take the neighbours of a frame's sources away, so that each can be seen alone.

As crowded-field photometry does since DAOPHOT (Stetson 1987, PASP 99, 191): with a first common
star, all sources are fitted and subtracted; what they hid is detected in the rest; the sky is
measured on it, and the common star made again, of stars without neighbours most of all; and so on,
until nothing new is found. Where the FWHM varies over the frame, each star has that of its place.
Sources that are no stars (galaxies, saturated stars, cosmic rays) are not subtracted: their light
stays in the cutouts, as before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from mlpsf.detection.bad_pixels import fill_lone_pixels
from mlpsf.detection.extraction import extract
from mlpsf.detection.sources import DETECTION_SIGMA, MINIMUM_AREA, find_sources
from mlpsf.flags import Flag
from mlpsf.frames.background import measure_background
from mlpsf.frames.cutouts import extract_cutouts
from mlpsf.frames.frame import Frame
from mlpsf.frames.metadata import metadata_of
from mlpsf.frames.near import nearest, pairs_within
from mlpsf.neighbours.crowding import NEVER_SUBTRACTED, is_crowded
from mlpsf.neighbours.scene import Scene
from mlpsf.neighbours.taken import light_taken
from mlpsf.stamps.common_star import FITTED, CommonStar, brightest, common_star
from mlpsf.stamps.standard import frame_star

__all__ = ["as_judged", "measure_again", "remember", "subtract_neighbours", "without_neighbours"]

FloatArray = NDArray[np.float64]

ROUNDS = 3
"""Largest number of rounds of finding what is hidden and making the common star again."""

_FEWEST = 10  # stars of a crowd
_REACH = (5.0, 12, 40)  # half-width of the common star: in FWHM, and its limits in pixels
_ABOUT = 3.0  # FWHM about a star in which its neighbours' light counts
_UNLIKE = 0.25  # light that the star leaves of a source that is none, in its core
_CHANCE = 4.0  # standard deviations of the light that noise leaves
_HIDDEN_SIGMA = 1.5  # as SExtractor's: 2 per cent of a star of S/N 300 is no brighter in a pixel
_SHADOW = 0.05  # error of the common star in the search for what is hidden
_APART = 0.75  # FWHM: a detection nearer to a source is part of it
_ONE = 0.3  # FWHM: two fitted sources nearer to each other are one
_STRIP = 4_000_000  # pixels of a strip in which hidden sources are searched
_MARGIN = 15.0  # FWHM by which strips overlap
_NEW = 0.05  # share of new sources below which another round changes little


# None where nothing was taken away: a frame that is kept by itself would be kept for ever.
_FOUND: WeakKeyDictionary[Frame, Frame | None] = WeakKeyDictionary()


def subtract_neighbours(frame: Frame, sources: Table, *, rounds: int = ROUNDS) -> Frame:
    """Fit all point sources of a crowded frame, so that cutouts show each without the others.

    Parameters
    ----------
    frame : Frame
    sources : Table
        Its sources, from `find_sources`.
    rounds : int
        Largest number of rounds.

    Returns
    -------
    Frame
        With `Frame.scene`, and the sky measured between the stars. The frame that was given, where
        few sources have neighbours or there are too few stars for a common one.

    Examples
    --------
    >>> from mlpsf import simulate_frame
    >>> sim = simulate_frame(
    ...     shape=(256, 256), n_stars=900, flux_range=(1e3, 1e5), n_galaxies=0, fwhm=4.0,
    ...     cosmic_rays=0, hot_pixels=0, seed=2)
    >>> frame = subtract_neighbours(sim.frame, find_sources(sim.frame))
    >>> bool(frame.scene.rest.std() < 0.5 * sim.frame.data.std())
    True
    """
    if not is_crowded(sources):
        return frame
    fwhm = float(sources.meta["fwhm"])
    low, high = _REACH[1:]
    half = int(np.clip(np.ceil(_REACH[0] * fwhm), low, high))
    star = _star(frame, sources, half)
    if star is None:
        return frame
    given = frame
    flags = np.asarray(sources["flags"])
    point = flags & NEVER_SUBTRACTED == 0
    x, y = (np.asarray(sources[c], dtype=np.float64) for c in "xy")
    others = x[~point], y[~point]
    x, y = x[point], y[point]
    flux = np.maximum(np.asarray(sources["flux"], dtype=np.float64)[point], 0.0)
    noise = float(np.median(frame.background.rms))
    flux, error = np.nan_to_num(flux), np.zeros_like(flux)
    scene = Scene(star, x, y, flux, error, frame.data, noise, _sizes(sources))
    for number in range(rounds):
        scene = _fit(frame, scene, 2)
        if not np.isfinite(scene.flux).all():  # no sky, or no star, that could be solved for
            return given
        frame = _showing(frame, scene)
        found = _hidden(frame, scene, others)
        last = number == rounds - 1 or len(found[0]) < _NEW * len(scene.x)
        star = _star(frame, sources, half) or scene.star
        scene = _with_sources(replace(scene, star=star), *found)
        if last:
            break
    scene = _stars_only(frame, _fit(frame, scene, 3))
    # Where the common star describes so few, it is none, and the sources are cosmic rays.
    return _showing(frame, scene) if _count_sure(scene) >= _FEWEST else given


def without_neighbours(frame: Frame) -> Frame:
    """Find the sources of a frame and take their neighbours away, or return what was found before.

    Parameters
    ----------
    frame : Frame

    Returns
    -------
    Frame
        As from `subtract_neighbours`.
    """
    if frame.scene is not None:
        return frame
    if frame not in _FOUND:
        whole = fill_lone_pixels(frame)
        remember(frame, subtract_neighbours(whole, find_sources(whole)))
    found = _FOUND[frame]
    return frame if found is None else found


def as_judged(frame: Frame, stars: Any) -> Frame:
    """Return a frame as the stars of a list were judged on it.

    Parameters
    ----------
    frame : Frame
    stars : Table or other
        A star table whose metadata has ``n_subtracted`` was made where neighbours were subtracted.

    Returns
    -------
    Frame
        As from `without_neighbours` for such a table, and the frame itself for any other list.

    Examples
    --------
    >>> from mlpsf import simulate_frame
    >>> frame = simulate_frame(shape=(120, 120), n_stars=5, n_galaxies=0, seed=1).frame
    >>> as_judged(frame, [[40.0, 40.0]]) is frame
    True
    """
    subtracted = metadata_of(stars).get("n_subtracted")
    return without_neighbours(frame) if subtracted else frame


def remember(frame: Frame, without: Frame) -> None:
    """Keep what a frame is without its neighbours, as long as the frame is kept."""
    _FOUND[frame] = None if without.scene is None else without


def measure_again(frame: Frame, sources: Table) -> Table:
    """Measure sources on a frame without their neighbours.

    Parameters
    ----------
    frame : Frame
        From `subtract_neighbours`.
    sources : Table
        From `find_sources`.

    Returns
    -------
    Table
        As from `find_sources`. ``flux`` and ``snr`` of stars are those of the fit.
    """
    scene = frame.scene
    if not isinstance(scene, Scene):
        return sources
    limit = sources.meta.get("linear_to", np.inf)
    again = find_sources(frame, sources["id", "x", "y"], linear_to=limit)
    rows = scene.rows_at(np.asarray(again["x"]), np.asarray(again["y"]))
    star = np.flatnonzero(rows < len(scene.x))
    star = star[scene.flux[rows[star]] > 0]
    own = rows[star]
    again["flux"][star] = scene.flux[own]
    again["snr"][star] = scene.flux[own] / scene.error[own]
    kept = np.full(len(again), int(Flag.SATURATED | Flag.MASKED | Flag.BLENDED))
    kept[star] &= ~int(Flag.BLENDED)
    flags = np.array(again["flags"])
    again["flags"] = flags | (np.asarray(sources["flags"]) & kept)
    again.meta["n_subtracted"] = max(_count_sure(scene), 1)
    return again


def _count_sure(scene: Scene) -> int:
    """Count the stars that are sure: fainter ones are as often what is left of others."""
    return int((scene.flux > DETECTION_SIGMA * scene.error).sum())


def _showing(frame: Frame, scene: Scene) -> Frame:
    """Return the frame with a scene, and with the sky of what it leaves."""
    sky = measure_background(replace(frame, data=scene.rest))
    return replace(frame, scene=scene, given_background=sky)


def _fit(frame: Frame, scene: Scene, times: int) -> Scene:
    # Most frames are not crowded, and need no sparse equations.
    from mlpsf.neighbours.joint_fit import fit_scene

    sky = frame.background
    good = ~(frame.mask | frame.saturated)
    gain = frame.known_gain if frame.variance is None else np.inf
    # The matrices are small: threads would wait for each other. What float32 does not hold is
    # looked at afterwards.
    with threadpool_limits(1), np.errstate(over="ignore", invalid="ignore"):
        fitted = fit_scene(scene, frame.data, sky.level, sky.rms, good, 1.0 / gain, rounds=times)
        return _merged(fitted, frame.data)


def _star(frame: Frame, sources: Table, half: int) -> CommonStar | None:
    """Find the common star on the frame's own pixels."""
    rows = brightest(sources["snr"], sources["flags"])
    part = sources[rows]
    fwhm = float(sources.meta["fwhm"])
    # What the common star leaves of neighbours is in the next common star, which leaves more of
    # them, until a rounding error decides what is found.
    harm = light_taken(frame, part["x"], part["y"], fwhm, _ABOUT)
    if sources.meta.get("varies", False):  # of stars that are made equally wide
        of_all = np.zeros(len(sources))
        of_all[rows] = harm
        star = frame_star(frame, sources, follow=False, harm=of_all)
        return star and star.scaled(fwhm / star.fwhm)
    cut = extract_cutouts(
        frame, part["x"], part["y"], 2 * half + 1, background=frame.background.level
    )
    place = frame.place(part["x"], part["y"])
    return common_star(cut.data, part["snr"], part["flags"], *place, fwhm, harm=harm)


def _sizes(sources: Table) -> Callable[[FloatArray, FloatArray], FloatArray] | None:
    """Return what tells the FWHM of the stars at any place over that of the frame, if it varies."""
    if not sources.meta.get("varies", False):
        return None
    place = np.column_stack([sources["x"], sources["y"]])
    ratio = np.asarray(sources["local_fwhm"], dtype=np.float64) / sources.meta["fwhm"]
    return partial(_nearest_value, place, ratio)


def _nearest_value(
    place: FloatArray, values: FloatArray, x: FloatArray, y: FloatArray
) -> FloatArray:
    return np.asarray(values[nearest(place, np.column_stack([x, y]))[1]])


def _hidden(
    frame: Frame, scene: Scene, others: tuple[FloatArray, FloatArray]
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Detect what the subtracted sources hid: x, y and flux of each."""
    from scipy.spatial import cKDTree  # few frames are crowded

    sky = frame.background
    unit = np.float32(scene.noise)
    light = np.maximum(frame.data - scene.rest, 0) / unit
    per_light = np.float32(1.0 / (frame.known_gain * scene.noise))
    noise = np.sqrt((sky.rms / unit) ** 2 + per_light * light + (_SHADOW * light) ** 2)
    pixels, bad = (scene.rest - sky.level) / unit, frame.mask | frame.saturated
    # sep compares each source with all others, so a large frame is searched in strips.
    ny, nx = pixels.shape
    edges = np.linspace(0, ny, max(ny * nx // _STRIP, 1) + 1).astype(int)
    margin = int(np.ceil(_MARGIN * scene.star.fwhm))
    parts = []
    for low, high in pairwise(edges):
        first = max(low - margin, 0)
        rows = slice(first, high + margin)
        part = extract(
            pixels[rows], _HIDDEN_SIGMA, err=noise[rows], mask=bad[rows], minarea=MINIMUM_AREA
        )
        part["y"] += first
        parts.append(part[(part["y"] >= low - 0.5) & (part["y"] < high - 0.5)])
    found = np.concatenate(parts)
    found = found[np.isfinite(found["x"]) & np.isfinite(found["y"])]  # of no light in all
    at = np.column_stack([found["x"], found["y"]])
    known = np.column_stack([np.append(scene.x, others[0]), np.append(scene.y, others[1])])
    apart = cKDTree(known).query(at)[0] if len(at) else np.zeros(0)
    new = found[apart > _APART * replace(scene, x=found["x"], y=found["y"]).fwhm]
    return new["x"].astype(float), new["y"].astype(float), np.maximum(new["flux"] * unit, 0.0)


def _with_sources(scene: Scene, x: FloatArray, y: FloatArray, flux: FloatArray) -> Scene:
    return replace(
        scene,
        x=np.append(scene.x, x),
        y=np.append(scene.y, y),
        flux=np.append(scene.flux, flux),
        error=np.append(scene.error, np.zeros(len(x))),
    )


def _merged(scene: Scene, data: NDArray[np.float32]) -> Scene:
    """Make one source of those that have come to lie on each other, of which each has a share."""
    shining = np.flatnonzero(scene.flux > 0)
    place = np.column_stack([scene.x, scene.y])
    width = _ONE * scene.fwhm
    pairs = shining[pairs_within(place[shining], width.max())]
    apart = np.hypot(*(place[pairs[:, 0]] - place[pairs[:, 1]]).T)
    pairs = pairs[apart <= width[pairs].max(axis=1)]
    if not len(pairs):
        return scene
    flux = scene.flux.copy()
    # The brightest first, so that of several the brightest takes all.
    for pair in pairs[np.argsort(-flux[pairs].max(axis=1), kind="stable")]:
        to, of = pair[np.argsort(-flux[pair], kind="stable")]
        if flux[of] > 0:
            share = flux[of] / (flux[of] + flux[to])
            place[to] += share * (place[of] - place[to])
            flux[to] += flux[of]
            flux[of] = 0.0
    left = (flux > 0) | (scene.flux == 0)
    x, y = place[left].T
    merged = replace(scene, x=x, y=y, flux=flux[left], error=scene.error[left])
    return merged.without(data)


def _stars_only(frame: Frame, scene: Scene) -> Scene:
    """Put the sources back that the common star does not describe."""
    half = int(np.ceil(FITTED * scene.fwhm.max()))
    rest = extract_cutouts(
        replace(frame, scene=None, data=scene.rest),
        scene.x,
        scene.y,
        2 * half + 1,
        background=frame.background.level,
    ).data
    # In double precision, which holds the squares of all pixels that there may be.
    cut = rest / np.float64(scene.noise)
    u = np.arange(-half, half + 1)
    core = (np.hypot(u, u[:, None]) <= scene.fwhm[:, None, None]) & np.isfinite(cut)
    own = scene.own_light(scene.x, scene.y, half) / np.float64(scene.noise)
    noise = 1.0 + np.maximum(own, 0) / (frame.known_gain * scene.noise)

    def total(values: FloatArray) -> FloatArray:
        return np.asarray(np.where(core, values, 0).sum(axis=(1, 2)))

    left = total(np.nan_to_num(cut) ** 2 - noise)
    light = total(own**2)
    chance = _CHANCE * np.sqrt(2 * total(noise**2))
    star = left < _UNLIKE**2 * light + chance
    if star.all():
        return scene
    return replace(scene, flux=np.where(star, scene.flux, 0.0)).without(frame.data)
