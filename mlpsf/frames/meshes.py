"""The sky of an image in meshes: the mode of each, and the smooth map through them.

As SExtractor does it (Bertin & Arnouts 1996, A&AS 117, 393), but with weights that fall smoothly
about the limits of clipping, and without a histogram: the same image in another unit, whose pixels
differ by rounding, has the same sky. With sharp limits one pixel more or less moves the sky by
hundreds of times that, and in crowded fields decides which sources are found.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from mlpsf.frames.near import nearest

__all__ = ["map_of", "mesh_statistics"]

FloatArray = NDArray[np.float64]

_CLIP = 3.0  # standard deviations, as SExtractor's
_SOFT = 1.0  # standard deviations over which weights fall from 1 to 0
_ROUNDS = 8  # of clipping; more change the sky by less than 1e-4 of its noise, even in crowds
_SKEW = (0.25, 0.45)  # mean less median, in standard deviations; SExtractor's limit is 0.3
_LOW = ((0.45, 0.1257), (0.3, 0.5244), (0.16, 0.9945), (0.02, 2.0537))
"""Quantiles, and by how many standard deviations a normal one is below the median."""

_SPREAD = 0.3  # standard deviations; over a wider range, sources pull
_STEP = 2.0  # standard deviations; a wider gap between values is no step of the pixels
_FEW, _LEAST = 0.02, 1e-12  # share of the values within that range that is not too small
_FARTHEST = 50.0  # standard deviations: farther values have no weight, and would cost digits
_GOOD = 0.5  # least share of good pixels in a mesh, of what is usual where there are any
_AT_ONCE = 1_000_000  # pixels: limits memory


def mesh_statistics(
    pixels: NDArray[np.float32], mask: NDArray[np.bool_] | None, side: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the mode and the standard deviation of the sky in meshes of about a side.

    Parameters
    ----------
    pixels : ndarray of float32, shape (ny, nx)
    mask : ndarray of bool, shape (ny, nx), or None
        True where a pixel is bad.
    side : int
        Side of a mesh in pixels. The meshes of an image are of one size, as near to it as can be.

    Returns
    -------
    level, sigma : ndarray, shape (gy, gx)
        NaN where far more pixels are bad than in most meshes.
    off : ndarray, shape (2, gy, gx)
        Row and column of the mean of the unmasked pixels, from the centre of the mesh, in meshes.

    Examples
    --------
    >>> pixels = np.random.default_rng(1).normal(500, 3, (128, 128)).astype(np.float32)
    >>> level, sigma, off = mesh_statistics(pixels, None, 64)
    >>> level.round(), sigma.round()
    (array([[500., 500.],
           [500., 500.]]), array([[3., 3.],
           [3., 3.]]))
    """
    rows, columns = (_edges(n, side) for n in pixels.shape)
    cells = [
        np.s_[y0:y1, x0:x1]
        for y0, y1 in itertools.pairwise(rows)
        for x0, x1 in itertools.pairwise(columns)
    ]
    area = np.multiply.outer(np.diff(rows), np.diff(columns)).ravel()
    most = int(area.max(initial=1))
    step = max(_AT_ONCE // most, 1)
    found, off = np.empty((2, len(cells))), np.zeros((2, len(cells)))
    count = np.empty(len(cells), dtype=np.intp)
    for start in range(0, len(cells), step):
        part = slice(start, start + step)
        values = np.full((len(cells[part]), most), np.inf, dtype=np.float32)
        for own, cell, place in zip(values, cells[part], off.T[part], strict=True):
            inside = pixels[cell] if mask is None else pixels[cell][~mask[cell]]
            own[: inside.size] = inside.ravel()
            if mask is not None:
                place[:] = _off(~mask[cell])
        values[~np.isfinite(values)] = np.inf
        count[part] = np.isfinite(values).sum(axis=1)
        found[:, part] = _mode_and_sigma(values, count[part])
    good = count / np.maximum(area, 1)
    # Half of the good pixels are in meshes that have no more: stray ones do not count.
    order = np.argsort(good)
    inside = np.cumsum(count[order])
    usual = good[order][np.searchsorted(inside, inside[-1] / 2)] if count.any() else 1.0
    found[:, (good < _GOOD * usual) | (count == 0)] = np.nan
    grid = (len(rows) - 1, len(columns) - 1)
    return found[0].reshape(grid), found[1].reshape(grid), off.reshape(2, *grid)


def map_of(values: FloatArray, off: FloatArray, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Return the natural cubic spline through values of meshes, after a median filter of 3 by 3.

    Parameters
    ----------
    values : ndarray, shape (gy, gx)
        NaN where there is none: the nearest ones are taken.
    off : ndarray, shape (2, gy, gx)
        Where in its mesh each value belongs; see `mesh_statistics`.
    shape : (int, int)
        That of the image, (ny, nx).

    Returns
    -------
    ndarray of float32, shape (ny, nx)

    Examples
    --------
    >>> values = np.array([[1.0, np.nan], [1.0, 1.0]])
    >>> map_of(values, np.zeros((2, 2, 2)), (100, 120)).mean()
    np.float32(1.0)
    """
    if not np.isfinite(values).any():
        return np.zeros(shape, dtype=np.float32)
    smooth = _filtered(values, off)
    down, across = (_spline(n, count) for n, count in zip(shape, smooth.shape, strict=True))
    return np.asarray(down @ (smooth @ across.T).astype(np.float32))


def _off(good: NDArray[np.bool_]) -> FloatArray:
    """Return row and column of the mean of the good pixels, from the centre, in sides of a mesh."""
    total = max(int(good.sum()), 1)
    by_row, by_column = good.sum(axis=1), good.sum(axis=0)
    places = [(one @ (np.arange(len(one)) + 0.5)) / len(one) for one in (by_row, by_column)]
    return np.array(places) / total - 0.5 if good.any() else np.zeros(2)


def _filtered(values: FloatArray, off: FloatArray) -> FloatArray:
    """Return the medians of 3 by 3 values; each carried along the slope where some are missing.

    Beyond an edge or beside a gap a plain median would flatten a slope.
    """
    slope = np.zeros_like(off)
    for _ in range(2):  # the slopes need the values at the centres of the meshes, and these those
        centred = values - (slope * off).sum(axis=0)
        slope = np.stack([_slope(centred.T).T, _slope(centred)])
    centred = values - (slope * off).sum(axis=0)
    around = _windows(centred, (1, 1), (1, 1))
    dy, dx = np.mgrid[-1:2, -1:2].reshape(2, 1, 1, -1)
    carried = around - slope[0][..., None] * dy - slope[1][..., None] * dx
    whole = np.asarray(np.isfinite(around).all(axis=-1))
    # Of two middle ones the darker: sources only add light, and noise.
    smooth = _middle(np.where(whole[..., None], around, carried))[0]
    # What is carried is as uncertain as the slope is steep: a sky that bends has another here.
    doubt = np.where(whole, 0.0, np.abs(slope).sum(axis=0))
    smooth += np.nan_to_num(np.clip(centred - smooth, -doubt, doubt))
    known = np.isfinite(smooth)
    if not known.all():
        at = np.argwhere(known).astype(np.float64)
        smooth[~known] = smooth[known][nearest(at, np.argwhere(~known).astype(np.float64))[1]]
    return smooth


def _slope(values: FloatArray) -> FloatArray:
    """Return the median step from mesh to mesh along rows, of the 3 by 4 steps about each."""
    steps = np.pad(np.diff(values, axis=1), ((0, 0), (0, 1)), constant_values=np.nan)
    low, high = _middle(_windows(steps, (1, 1), (2, 1)))
    # Where these differ, few steps are known, and the steeper may be that of a source.
    flat = np.where(low > 0, low, np.where(high < 0, high, 0.0))
    return np.where(np.isfinite(low), flat, 0.0)


def _windows(values: FloatArray, rows: tuple[int, int], columns: tuple[int, int]) -> FloatArray:
    """Return the values from some before to some after each, NaN beyond the edge; last axis."""
    padded = np.pad(values, (rows, columns), constant_values=np.nan)
    window = (sum(rows) + 1, sum(columns) + 1)
    return sliding_window_view(padded, window).reshape(*values.shape, -1)


def _middle(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the two middle ones of those that are not NaN along the last axis; NaN of none.

    Of an odd number both are the median.
    """
    ordered = np.sort(values, axis=-1)  # NaN last
    count = np.isfinite(values).sum(axis=-1)[..., None]
    low, high = (
        np.take_along_axis(ordered, np.maximum(count - k, 0) // 2, -1)[..., 0] for k in (1, 0)
    )
    return low, high


def _edges(n: int, side: int) -> NDArray[np.intp]:
    return np.linspace(0, n, max(int(n / side + 0.5), 1) + 1).astype(np.intp)


def _spline(n: int, count: int) -> NDArray[np.float32]:
    """Return what each of the meshes adds to each pixel of a row, shape (n, count)."""
    if count == 1:
        return np.ones((n, 1), dtype=np.float32)
    # Second derivatives at the meshes, from their values; none at the ends.
    inner = np.arange(1, count - 1)
    left, right = np.eye(count), np.zeros((count, count))
    for step, of_derivative, of_value in ((-1, 1, 6), (0, 4, -12), (1, 1, 6)):
        left[inner, inner + step] = of_derivative
        right[inner, inner + step] = of_value
    second = np.linalg.solve(left, right)
    place = (np.arange(n) + 0.5) * (count / n) - 0.5  # in meshes
    low = np.clip(place.astype(np.intp), 0, count - 2)
    up = (place - low)[:, None]
    down, value = 1 - up, np.eye(count)
    line = down * value[low] + up * value[low + 1]
    bend = [np.where(part < 0, -part, part**3 - part) for part in (down, up)]  # straight beyond
    curve = bend[0] * second[low] + bend[1] * second[low + 1]
    return np.asarray(line + curve / 6, dtype=np.float32)


def _mode_and_sigma(values: NDArray[np.float32], count: NDArray[np.intp]) -> FloatArray:
    """Return mode and standard deviation of the first `count` values of each row, shape (2, n).

    All other values must be infinite. Sums over the values below any limit are differences of
    cumulative sums, so that a round of clipping costs a few searches.
    """
    values.sort(axis=1)
    rows, some = np.arange(len(values)), np.maximum(count, 1)
    middle = values[rows, (some - 1) // 2].astype(np.float64)
    middle = np.where(np.isfinite(middle), middle, 0.0)
    scale = _scale(values, some, middle)
    off = np.clip((values - middle[:, None]) / scale[:, None], -_FARTHEST, _FARTHEST)
    v: NDArray[np.float32] = off.astype(np.float32)
    sums = np.zeros((4, len(v), v.shape[1] + 1))
    sums[0] = np.arange(v.shape[1] + 1)
    power = v.copy()
    for k in (1, 2, 3):
        np.cumsum(power, axis=1, dtype=np.float64, out=sums[k, :, 1:])
        power *= v

    def total(first: NDArray[np.intp], last: NDArray[np.intp]) -> FloatArray:
        return np.asarray(sums[:, rows, last] - sums[:, rows, first])

    median, mean, sigma = (np.full(len(v), start) for start in (0.0, 0.0, 1.0))
    for _ in range(_ROUNDS):
        sigma = np.maximum(sigma, _LEAST)
        # Weights are 1 within the limit, and fall to 0 over a range about it.
        inner, outer = ((_CLIP + side * _SOFT / 2) * sigma for side in (-1, 1))
        cut = [_search(v, count, median + at) for at in (-outer, -inner, inner, outer)]
        slope = 1.0 / (_SOFT * sigma)
        rise, flat, fall = (total(*pair) for pair in itertools.pairwise(cut))
        left = slope * (rise[1:] - (median - outer) * rise[:-1])
        right = slope * ((median + outer) * fall[:-1] - fall[1:])
        weight, first, second = left + flat[:-1] + right
        mean = first / np.maximum(weight, _LEAST)
        sigma = np.sqrt(np.maximum(second / np.maximum(weight, _LEAST) - mean**2, 0))
        faint = cut[1] - left[0]  # values below that have no weight
        median = median + _step(v, count, total, median, weight / 2 + faint, sigma)
    skew = mean - median
    least, most = _SKEW
    share = np.clip((most - np.abs(skew) / np.maximum(sigma, _LEAST)) / (most - least), 0, 1)
    return np.stack([middle + scale * (median - 1.5 * share * skew), scale * sigma])


def _step(
    v: NDArray[np.float32],
    count: NDArray[np.intp],
    total: Callable[[NDArray[np.intp], NDArray[np.intp]], FloatArray],
    at: FloatArray,
    rank: FloatArray,
    sigma: FloatArray,
) -> FloatArray:
    """Return a step of Newton's from a place to where as many values as the rank are below.

    Each value counts as a triangle, so that rounding moves the place by no more than itself, and
    of at least the step of the pixels: the median of integers would be an integer.
    """
    width = np.clip(_gap(v, count, at), _SPREAD * sigma, _STEP * sigma) + _LEAST
    ends = [_search(v, count, at + side * width) for side in (-1, 0, 1)]
    below, dense = ends[0].astype(np.float64), np.zeros(len(v))
    for side, pair in ((-1, ends[:2]), (1, ends[1:])):
        inside, first, second = total(*pair)[:3]
        off = (inside * at - first) / width
        square = (inside * at**2 - 2 * at * first + second) / width**2
        below = below + inside / 2 + off + side * square / 2
        dense = dense + inside + side * off
    least = _FEW * (ends[2] + 1)
    return np.asarray(width * np.clip((rank - below) / np.maximum(dense, least), -1, 1))


def _gap(v: NDArray[np.float32], count: NDArray[np.intp], at: FloatArray) -> FloatArray:
    """Return the step between the values of each sorted row about a place."""
    rows, last = np.arange(len(v)), np.maximum(count - 1, 0)
    above = _search(v, count, at)
    value = v[rows, np.minimum(above, last)]
    end = _search(v, count, np.nextafter(value, np.float32(np.inf)))
    return np.asarray(v[rows, np.minimum(end, last)] - v[rows, np.maximum(above - 1, 0)]) / 2


def _scale(values: NDArray[np.float32], count: NDArray[np.intp], middle: FloatArray) -> FloatArray:
    """Return about the noise of each sorted row, to start with.

    Of the dark half, in which there are no stars; the smallest, for there may be dead pixels.
    """
    rows = np.arange(len(values))
    found = np.full(len(values), np.inf)
    dark = [(share, -sigma) for share, sigma in _LOW]
    bright = [(1 - share, sigma) for share, sigma in _LOW]
    for sides in (dark, bright, [(1.0, 1.0)]):
        # The bright half, and the brightest pixel, only where all of the dark are equal.
        for share, sigma in sides if not np.isfinite(found).all() else ():
            with np.errstate(invalid="ignore", over="ignore"):
                at = values[rows, (share * (count - 1)).astype(np.intp)].astype(np.float64)
                width = (at - middle) / sigma
            found = np.where((width > 0) & np.isfinite(width), np.minimum(width, found), found)
    return np.where(np.isfinite(found), found, 1.0)


def _search(v: NDArray[np.float32], count: NDArray[np.intp], limit: FloatArray) -> NDArray[np.intp]:
    """Return the number of values of each sorted row that are below a limit."""
    rows = np.arange(len(v))
    low, high = np.zeros(len(v), dtype=np.intp), count.copy()
    for _ in range(int(v.shape[1]).bit_length()):
        middle = np.minimum((low + high) // 2, v.shape[1] - 1)
        below = (v[rows, middle] < limit) & (low < high)
        low = np.where(below, middle + 1, low)
        high = np.where(below, high, np.minimum(middle, high))
    return low
