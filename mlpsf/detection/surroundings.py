"""Find sources on an uneven sky: one that differs between the sides of the source.

A star on the light of a galaxy, or next to the edge of an amplifier, can be sharp and isolated.
But the sky at the star differs from that around it, which would make the wings of the PSF wrong.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlpsf.frames.cutouts import extract_cutouts, nearest_pixels
from mlpsf.frames.frame import Frame
from mlpsf.stacks.values import row_quantiles

__all__ = ["on_uneven_sky"]

UNEVEN = 0.008
"""Largest difference of the sky between the sides of a star, over its peak.

Among stars that the network chose on seven real frames, those on galaxies or next to an
amplifier's edge have 0.009 to 0.048, the others up to 0.007. In simulated frames one clean star in
200 has more.
"""

_RING = (2.5, 5.0)  # FWHM: beyond the light of the star, within the stamps
_NARROWEST = 0.5  # pixels: nothing is narrower, and a ring has pixels in every quadrant
_SURE = 8.0  # standard deviations; less may be noise
_COMMON = 5  # fewest stars that show what their surroundings have in common
_BRIGHTEST = 30  # stars that show it
_MEDIAN = 1.2533  # error of a median over that of a mean
_BLOCK = 4_000_000  # pixels processed at once


def on_uneven_sky(
    frame: Frame,
    x: ArrayLike,
    y: ArrayLike,
    peak: ArrayLike,
    fwhm: float,
    stellar: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_]:
    """Find the sources whose sky is not the same on all sides.

    The medians of the four quadrants of a ring from 2.5 to 5 FWHM are compared, and again with
    quadrants rotated by 45 degrees. A neighbour fills less than half of a quadrant.

    Parameters
    ----------
    frame : Frame
    x, y : array_like, shape (n,)
        Positions of the sources, 0-based pixels.
    peak : array_like, shape (n,)
        Peak of each source above the sky, in the frame's unit.
    fwhm : float
        FWHM of the frame's stars in pixels.
    stellar : ndarray of bool, shape (n,), optional
        Which sources are of the size of stars. The light that five or more of them have in common
        in a quadrant, relative to their peaks, belongs to the PSF: spikes, rings, a trail.

    Returns
    -------
    ndarray of bool, shape (n,)

    Examples
    --------
    >>> from mlpsf import simulate_frame
    >>> sim = simulate_frame(
    ...     shape=(120, 240), fwhm=4, stars=[(60, 60, 1e5), (180, 60, 1e5)], n_galaxies=0,
    ...     cosmic_rays=0, bad_columns=0, hot_pixels=0, seed=1)
    >>> sim.frame.data[:, 192:] += 100
    >>> peak = sim.frame.data[60, [60, 180]]
    >>> on_uneven_sky(sim.frame, [60, 180], [60, 60], peak, fwhm=4.0).tolist()
    [False, True]
    """
    x, y, peak = np.asarray(x), np.asarray(y), np.asarray(peak, dtype=np.float64)
    uneven = np.zeros(len(x), dtype=bool)
    half = int(np.ceil(_RING[1] * max(fwhm, _NARROWEST)))
    quadrants = _quadrants(half, fwhm)
    full = quadrants[0].sum()
    error = _MEDIAN * frame.background.rms[nearest_pixels(x, y, frame.shape)]
    step = max(_BLOCK // (2 * half + 1) ** 2, 1)
    common = np.zeros(len(quadrants))
    if stellar is not None and stellar.sum() >= _COMMON:
        rows = np.flatnonzero(stellar & (peak > 0))
        rows = rows[np.argsort(-peak[rows], kind="stable")][:_BRIGHTEST]
        cut = extract_cutouts(
            frame, x[rows], y[rows], 2 * half + 1, background=frame.background.level
        )
        medians = np.stack([row_quantiles(cut.data[:, q], 0.5)[0] for q in quadrants])
        common = np.median(medians / peak[rows], axis=1)
    for start in range(0, len(x), step):
        part = slice(start, start + step)
        cut = extract_cutouts(
            frame, x[part], y[part], 2 * half + 1, background=frame.background.level
        )
        medians = np.stack([row_quantiles(cut.data[:, q], 0.5)[0] for q in quadrants])
        count = np.stack([np.isfinite(cut.data[:, q]).sum(axis=1) for q in quadrants])
        seen = count >= 0.5 * full
        medians = medians - common[:, None] * np.maximum(peak[part], 0)
        medians[~seen] = np.nan
        change = np.fmax(
            *(np.fmax.reduce(m) - np.fmin.reduce(m) for m in (medians[:4], medians[4:]))
        )
        fewest = np.where(seen, count, full).min(axis=0)
        sure = change > _SURE * error[part] / np.sqrt(fewest)
        uneven[part] = sure & (change > UNEVEN * peak[part])
    return uneven


def _quadrants(half: int, fwhm: float) -> list[NDArray[np.bool_]]:
    """Return the ring's pixels in each quadrant: four along the axes, four along the diagonals."""
    u = np.arange(-half, half + 1)
    x, y = u[None, :], u[:, None]
    distance = np.hypot(x, y) / max(fwhm, _NARROWEST)
    ring = (distance > _RING[0]) & (distance <= _RING[1])
    return [
        ring & (sx * a >= 0) & (sy * b >= 0)
        for a, b in ((x, y), (x + y, x - y))
        for sx in (1, -1)
        for sy in (1, -1)
    ]
