"""A verdict on a frame, from what is measured on its sources.

A list of stars and their FWHM say little if the frame holds no stars, or if every star is double.
The verdict names the first of these that holds, with the measurement, and what to do about it.
"""

from __future__ import annotations

import re

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from mlpsf.detection.second_image import second_image
from mlpsf.detection.stellar import ON_CENTRE_SHARE, SEVERAL, STELLAR, on_pixel_centres
from mlpsf.flags import OVEREXPOSED, Flag
from mlpsf.frames.cutouts import extract_cutouts
from mlpsf.frames.frame import Frame
from mlpsf.frames.tiles import TiledFrame
from mlpsf.stacks.values import row_quantiles

__all__ = ["LEFT_WHOLE", "VERDICTS", "WITHOUT_PSF_STARS", "flag_verdict", "judge_frame"]

VERDICTS = (
    "no stars",
    "few stars",
    "out of focus",
    "doubled",
    "trailed",
    "elongated",
    "undersampled",
    "crowded",
    "varying",
    "good",
)
"""Verdicts, in the order in which they are tried."""

WITHOUT_PSF_STARS = ("no stars", "doubled")
"""Verdicts on frames of which no star is chosen, unless a list names it."""

LEFT_WHOLE = (*WITHOUT_PSF_STARS, "out of focus")
"""Verdicts on frames whose neighbours stay: of such images a fit would make several stars each."""

ELONGATED, TRAILED = 0.15, 0.45
"""Ellipticity 1 - b/a of the stars from which a frame is elongated, or trailed."""

UNDERSAMPLED = 1.7
"""FWHM in pixels below which the image of a star depends on its place within a pixel."""

_CALIBRATION = re.compile(
    r"\b(bias(es)?|zeros?|darks?|(sky|dome|twi|twilight|lamp|dark|d)?-?flats?(field)?|arcs?|lamps?)\b",
    re.IGNORECASE,
)
_OF_THE_SKY = re.compile(  # or made of such, with darks and flats
    "light|object|science|target|standard|subtract|correct|fielded|reduced|calibrated",
    re.IGNORECASE,
)
_BRIGHT = 20.0  # S/N of the sources that are looked at
_CHANGES = 0.03  # smallest range of the FWHM over the frame that is said, in its logarithm
_LINES = 256  # rows or columns that are enough for the median of the others
_SLIT = 15.0  # times the noise: light along whole rows of a spectrum
_SHARP = 1.8  # over the FWHM, at most 0.9: step from a row to the next that optics do not make
_ELSEWHERE, _MANY = 0.9, 30  # share and number of stars away from it that show an image
_CROWDED = 0.75  # share of the bright sources that overlap with another
_RING = 1.2  # light of a ring over that of the centre, from which a star is a disc with a hole


def judge_frame(frame: Frame, sources: Table) -> dict[str, str]:
    """Judge a frame by its sources.

    Parameters
    ----------
    frame : Frame
        Of cutouts (`TiledFrame`) only the sources are judged: they may be centred on purpose, and
        no row or column runs through them.
    sources : Table
        Table from `find_sources`.

    Returns
    -------
    dict
        ``verdict``, one of `VERDICTS`, and ``verdict_reason``: the measurement and what to do.

    Examples
    --------
    >>> from mlpsf import find_sources, simulate_frame
    >>> frame = simulate_frame(shape=(400, 400), n_stars=200, n_galaxies=20, seed=2).frame
    >>> judge_frame(frame, find_sources(frame))["verdict"]
    'good'
    """
    found = _judged(frame, sources)
    if found["verdict"] != "no stars":
        found["verdict_reason"] += _growth(frame, sources)
    return found


def _judged(frame: Frame, sources: Table) -> dict[str, str]:
    """Return the first verdict that holds."""
    meta = sources.meta
    flags = np.asarray(sources["flags"])
    snr = np.nan_to_num(np.asarray(sources["snr"], dtype=np.float64))
    usable = flags & (OVEREXPOSED | Flag.MASKED | Flag.TOO_NARROW) == 0
    bright = np.flatnonzero((snr > _BRIGHT) & usable)
    bright = bright[np.argsort(-snr[bright], kind="stable")][:400]
    fwhm, e = float(meta["fwhm"]), float(meta["ellipticity"])
    reason = None
    if not isinstance(frame, TiledFrame):
        size = np.asarray(sources["fwhm"])[bright] / np.asarray(sources["local_fwhm"])[bright]
        alike = sources[bright[np.abs(np.log(size)) < STELLAR]]
        reason = (
            _calibration(frame)
            or _mosaic(frame)
            or _spectrum(frame, alike, fwhm)
            or _hot_pixels(alike, fwhm)
        )
    if reason is None and not len(bright):
        reason = f"no source has a S/N of {_BRIGHT:g}; look whether this is an image of the sky"
    if reason:
        return _said("no stars", reason)
    if len(bright) < 3:
        what = f"{len(bright)} source{'s' * (len(bright) > 1)} of S/N {_BRIGHT:g} or more"
        return _said("few stars", f"{what}; whether they are alike cannot be told")
    if (n := int(meta.get("fwhm_n_stars", 3))) < 3:
        what = f"the FWHM of {fwhm:.2f} pixels is that of {n} source{'s' * (n > 1)} alone"
        return _said("few stars", f"{what}; look at them, or add frames of the same night")
    if reason := _defocused(frame, sources, bright, fwhm):
        return _said("out of focus", reason)
    if reason := _doubled(frame, sources):
        return _said("doubled", reason)
    if e > ELONGATED:
        kind = "trailed" if e > TRAILED else "elongated"
        todo = "the PSF has the shape that all stars share; make it of this frame alone"
        return _said(kind, f"the stars' ellipticity is {e:.2f} at a FWHM of {fwhm:.1f}; {todo}")
    if fwhm < UNDERSAMPLED:
        todo = "a PSF needs many stars, at all places within a pixel"
        return _said("undersampled", f"FWHM {fwhm:.2f} pixels; {todo}")
    blended = (flags[bright] & Flag.BLENDED != 0).mean() if len(bright) else 0.0
    if blended > _CROWDED and len(bright) >= 30:
        todo = "stars are judged, and the PSF is built, without their neighbours"
        return _said("crowded", f"{blended:.0%} of the bright sources overlap; {todo}")
    if meta.get("varies", False):
        low, high = np.quantile(np.asarray(sources["local_fwhm"])[bright], [0.05, 0.95])
        todo = "the PSF is that of a place: psf.at(x, y), --at X Y"
        if meta.get("jumps", False):
            todo = "it jumps, as between chips, which no PSF of the whole follows: make one a part"
        return _said("varying", f"FWHM from {low:.1f} to {high:.1f} pixels over the frame; {todo}")
    return _said("good", f"FWHM {fwhm:.2f} pixels, ellipticity {e:.2f}{_range(sources, bright)}")


def flag_verdict(sources: Table, verdict: dict[str, str]) -> None:
    """Write a verdict to the metadata of sources; flag all if none can make a PSF, in place."""
    sources.meta.update(verdict)
    if verdict["verdict"] in WITHOUT_PSF_STARS:
        sources["flags"] = np.array(sources["flags"]) | Flag.NO_STARS


def _range(sources: Table, bright: NDArray[np.intp]) -> str:
    """Say between which values the FWHM changes over the frame, if it does."""
    local = np.log(np.asarray(sources["local_fwhm"])[bright])
    low, high = np.quantile(local, [0.05, 0.95])
    # Of the median of seven stars; from 5 to 95 per cent are 3.3 standard deviations.
    noise = 3.3 * 1.25 * float(sources.meta.get("fwhm_scatter", 0.0)) / np.sqrt(7)
    if high - low < max(_CHANGES, 1.5 * noise):
        return ""
    return f"; the stars' FWHM is {np.exp(low):.2f} to {np.exp(high):.2f} over the frame"


def _growth(frame: Frame, sources: Table) -> str:
    """Say from which level the stars grow with their brightness, if they do."""
    if (level := sources.meta.get("linear_to")) is None:
        return ""
    return (
        f"; stars whose peak is over {level:.4g} {frame.unit_name} above the sky are wider the "
        "brighter they are: saturated, or not linear, and left out"
    )


def _said(verdict: str, reason: str) -> dict[str, str]:
    return {"verdict": verdict, "verdict_reason": reason}


def _calibration(frame: Frame) -> str | None:
    """Read in the header whether the frame is none of the sky."""
    said = {key: str(frame.header.get(key, "")) for key in ("IMAGETYP", "OBSTYPE", "FRAMETYP")}
    if _OF_THE_SKY.search(" ".join(said.values())):
        return None
    for key, text in said.items():
        if _CALIBRATION.search(text):
            return (
                f"its header says {key} = {text!r}, a calibration frame; if it is of the sky, mend "
                "the header, or list the stars (stars, --stars)"
            )
    return None


def _mosaic(frame: Frame) -> str | None:
    """Compare the four kinds of pixels that a colour mosaic has."""
    pixels = frame.good_pixels
    kinds = [pixels[dy::2, dx::2] for dy in (0, 1) for dx in (0, 1)]
    rows = max(kinds[0].shape[0] // _LINES, 1)
    kinds = [kind[::rows].ravel()[::7] for kind in kinds]
    least = min(map(len, kinds))
    if least < 500:
        return None
    values = np.stack([kind[:least] for kind in kinds])
    (level,) = row_quantiles(values, 0.5)
    noise = frame.background.noise
    step = float(level.max() - level.min())
    # Sources and gradients are the same for all four, so their medians agree to the noise.
    if step < max(8 * 1.25 * noise / np.sqrt(least), 0.5 * noise):
        return None
    return (
        f"the four pixels of every 2 x 2 differ by {step / noise:.1f} times the noise: a colour "
        "mosaic; take one colour of it (frame[0::2, 0::2]) or a debayered plane"
    )


def _spectrum(frame: Frame, alike: Table, fwhm: float) -> str | None:
    """Look for light that runs along whole rows or columns, as through a slit."""
    noise = frame.background.noise
    pixels = frame.good_pixels
    every = max(min(pixels.shape) // _LINES, 1)
    for axis, name, lines in (
        ("y", "rows", pixels[:, ::every]),
        ("x", "columns", pixels[::every].T),
    ):
        if lines.shape[0] < 60 or lines.shape[1] < 60:
            continue
        (level,) = row_quantiles(np.ascontiguousarray(lines), 0.5)
        # A bad row is alone; the light of a slit is as wide as an image.
        wide = np.median([level[:-2], level[1:-1], level[2:]], axis=0)
        above = np.minimum(wide[15:-15] - wide[:-30], wide[15:-15] - wide[30:])
        lit = 16 + np.flatnonzero(above > _SLIT * noise)
        if not len(lit):
            continue
        # Resampling makes bad rows wide, too, and light bleeds along them. But their edges are
        # sharper than optics make them, and the stars are elsewhere.
        away = np.abs(np.asarray(alike[axis])[:, None] - lit).min(axis=1) > max(fwhm, 3.0)
        stars = away.sum() >= SEVERAL and away.mean() > 0.5
        sharp = stars and _sharpest_edges(level, lit) > min(_SHARP / fwhm, 0.9)
        # Nor is the bias level of some infrared detectors, where a quadrant begins to be read.
        if not (sharp or (_are_scattered(alike[away], fwhm) and away.mean() > _ELSEWHERE)):
            return (
                f"light along whole {name}, {above.max() / noise:.0f} times the noise: a spectrum; "
                "an image of the same field has the PSF"
            )
    return None


def _sharpest_edges(level: NDArray[np.floating], lit: NDArray[np.intp]) -> float:
    """Return the largest step from a row to the next over its light; of several, the least."""
    least = np.inf
    for rows in np.split(lit, np.flatnonzero(np.diff(lit) > 1) + 1):
        near = level[max(rows[0] - 8, 0) : rows[-1] + 9]
        least = min(least, float(np.abs(np.diff(near)).max() / np.ptp(near)))
    return least


def _are_scattered(alike: Table, fwhm: float) -> bool:
    """Return whether there are many sources, as large as stars, in no rows or columns, as stars."""
    n = len(alike)
    if n < _MANY or fwhm < UNDERSAMPLED:
        return False
    for axis in "xy":
        place = np.sort(np.asarray(alike[axis], dtype=np.float64))
        near = np.searchsorted(place, place + fwhm / 2) - np.arange(1, n + 1)
        by_chance = n * (n - 1) / 2 * fwhm / max(float(np.ptp(place)), fwhm)
        if near.sum() > 2 * by_chance + 4 * np.sqrt(by_chance + 1):
            return False
    return True


def _hot_pixels(alike: Table, fwhm: float) -> str | None:
    """Count the sources that are centred on pixels, as no star prefers to be."""
    on = on_pixel_centres(alike["x"], alike["y"])
    if len(on) < SEVERAL or fwhm > 2.5 or on.mean() < 0.5:
        return None
    return (
        f"{on.sum()} of {len(on)} sources are centred on a pixel ({ON_CENTRE_SHARE:.0%} of stars "
        "are): hot pixels; subtract a dark frame, or look whether this is one"
    )


def _doubled(frame: Frame, sources: Table) -> str | None:
    """Say where the second image of each star is, if there is one."""
    second = second_image(sources, np.column_stack(frame.place(sources["x"], sources["y"])))
    if second is None:
        return None
    dx, dy = second.gap
    return (
        f"{second.n_double} of {second.n_stars} stars have a companion of {second.ratio:.0%} of "
        f"their light at ({dx:+.1f}, {dy:+.1f}) pixels: the telescope moved. The PSF is both "
        "images: leave the frame out, or list eight stars or more (stars, --stars) for it"
    )


def _defocused(frame: Frame, sources: Table, bright: NDArray[np.intp], fwhm: float) -> str | None:
    """Compare the centre of the mean bright star with the rings around it."""
    rows = bright[:25]
    if len(rows) < 5 or fwhm < 4:
        return None
    half = int(np.ceil(fwhm))
    x, y = (np.asarray(sources[k])[rows] for k in "xy")
    cut = extract_cutouts(frame, x, y, 2 * half + 1, background=frame.background.level).data
    if not np.isfinite(cut).any(axis=0).all():
        return None
    light = np.nansum(np.maximum(cut, 0), axis=(1, 2))
    star = np.nanmedian(cut / np.maximum(light, 1e-30)[:, None, None], axis=0)
    u = np.arange(-half, half + 1)
    ring = np.floor(np.hypot(u, u[:, None]) / max(fwhm / 8, 1.0)).astype(int)
    profile = [float(np.nanmean(star[ring == k])) for k in range(int(ring[half, -1]))]
    top = int(np.argmax(profile))
    if top < 2 or not profile[top] > _RING * max(profile[0], 0.0):
        return None
    return (
        f"a ring of {2 * (top + 0.5) * max(fwhm / 8, 1.0):.0f} pixels across is "
        f"{profile[top] / max(profile[0], 1e-30):.1f} times as bright as the centre of the stars; "
        "focus, or leave the frame out"
    )
