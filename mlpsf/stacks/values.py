"""Pixel values of cutouts: sky, noise, and scaling for a network."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from mlpsf.errors import InputError

__all__ = [
    "SOFTENING",
    "as_cutouts",
    "check_frames",
    "padded",
    "real_array",
    "row_median",
    "row_quantiles",
    "scaled",
    "sky_and_noise",
    "stretched",
]

SOFTENING = 0.003
"""Fraction of the peak at which the stretch changes from linear to logarithmic."""


def real_array(values: ArrayLike, what: str, dtype: DTypeLike = np.float64) -> NDArray[Any]:
    """Return real numbers as a new C-contiguous array, NaN where they are masked.

    Parameters
    ----------
    values : array_like
        Of any float or integer type, order of bytes and order of axes.
    what : str
        What they are, for the message.
    dtype : dtype
        Floating-point type of the result.

    Raises
    ------
    InputError
        They are no numbers, or complex.

    Examples
    --------
    >>> real_array(np.ma.masked_equal([1, 2], 2), "Pixels").tolist()
    [1.0, nan]
    """
    try:
        array = np.asanyarray(values)
        if array.dtype.kind not in "biufO":
            kind = "complex numbers" if array.dtype.kind == "c" else f"type {array.dtype}"
            raise TypeError(f"they are of {kind}")
        with np.errstate(over="ignore"):  # beyond the largest float is infinite
            numbers = np.array(np.ma.getdata(array), dtype=dtype, order="C")
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} must be real numbers: {error}.") from error
    mask = getattr(array, "mask", False)  # also of an astropy Masked
    if np.any(mask):
        numbers[np.broadcast_to(mask, numbers.shape)] = np.nan
    return numbers


def as_cutouts(X: NDArray[Any]) -> NDArray[Any]:
    """View (n, size * size) as (n, size, size); 3-D input is returned unchanged.

    Raises
    ------
    InputError
        If the rows are not square cutouts.

    Examples
    --------
    >>> as_cutouts(np.zeros((2, 225))).shape
    (2, 15, 15)
    """
    if X.ndim not in (2, 3):
        raise InputError(f"Cutouts have two or three dimensions. Got an array of {X.ndim}.")
    if X.ndim == 3:
        if X.shape[1] != X.shape[2]:
            raise InputError(f"Cutouts must be square. Got {X.shape[1]} x {X.shape[2]} pixels.")
        return X
    size = round(float(X.shape[1]) ** 0.5)
    if size * size != X.shape[1]:
        raise InputError(
            f"Flattened cutouts must have a square number of pixels. Got {X.shape[1]}; "
            "pass cutouts of shape (n, size, size), or each one ravelled."
        )
    return X.reshape(len(X), size, size)


def padded(pixels: NDArray[np.float32], least: int) -> NDArray[np.float32]:
    """Centre flattened cutouts in zeros, to the next odd square of side `least` or more.

    Zeros and not NaN: a pixel without data would keep a PSF from being fitted at all.
    """
    width = pixels.shape[1]
    side = max(math.isqrt(width - 1) + 1, least)
    side += 1 - side % 2
    before = (side * side - width) // 2
    return np.pad(pixels, ((0, 0), (before, side * side - width - before)))


_FEWEST_RIM = 8  # valid pixels of a cutout, of which something like a sky can be said


def sky_and_noise(
    cutouts: NDArray[np.floating],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Estimate each cutout's sky level and noise from its border.

    Parameters
    ----------
    cutouts : ndarray, shape (n, size, size)
        NaN marks pixels without data.

    Returns
    -------
    sky, noise : ndarray of float32, shape (n,)
        Median, and 1.4826 times the median absolute deviation, of the outermost tenth (at least
        2 pixels), after rejecting pixels more than 3 such deviations above the median. Where all
        of it is missing, the outermost pixels that are not. Both are 0 if all pixels are missing.

    Examples
    --------
    >>> sky, noise = sky_and_noise(np.full((1, 15, 15), 7.0))
    >>> float(sky[0]), float(noise[0])
    (7.0, 0.0)
    """
    size = cutouts.shape[-1]
    rim = max(2, size // 10)
    border = np.ones((size, size), dtype=bool)
    border[rim:-rim, rim:-rim] = False
    # Half of the pixels of a large border suffice for a median and take half the time.
    picks = np.flatnonzero(border.ravel())[:: 1 if size < 60 else 3]
    values = cutouts.reshape(len(cutouts), size * size)[:, picks].astype(np.float32)
    values[~np.isfinite(values)] = np.nan
    lost = np.flatnonzero(np.isnan(values).all(axis=1))
    for row in lost:
        outermost = _outermost(cutouts[row], rim)[: values.shape[1]]
        values[row, : len(outermost)] = outermost
    ordered = np.sort(values, axis=1)  # NaN sorts last; what is rejected, too: the sort serves all
    count = np.isfinite(ordered).sum(axis=1)
    for _ in range(2):
        sky, noise = _median_and_mad(ordered, count)
        count = _count_to(ordered, count, sky + np.float32(3.0) * noise + np.float32(1e-30))
    return _median_and_mad(ordered, count)


def _outermost(cutout: NDArray[np.floating], rim: int) -> NDArray[np.floating]:
    """Return the valid pixels of a cutout that are farthest from its centre, from a rim's width."""
    u = np.abs(np.arange(len(cutout)) - len(cutout) // 2)
    apart = np.maximum(u, u[:, None])
    valid = np.isfinite(cutout)
    if valid.sum() < _FEWEST_RIM:
        return np.zeros(0)
    far = apart[valid].max(initial=0)
    return np.asarray(cutout[valid & (apart > far - rim)])


def _median_and_mad(
    ordered: NDArray[np.float32], count: NDArray[np.intp]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return median and scaled MAD of the first `count` of each sorted row; 0 where there are none.

    The values nearest to the median are neighbours in a sorted row. So the k-th smallest deviation
    is the least over all runs of k values of that of the further end of the run.
    """
    rows, some, half = np.arange(len(ordered)), np.maximum(count, 1), np.float32(0.5)

    def deviation(k: NDArray[np.intp]) -> NDArray[np.float32]:
        # To the left of `first`, the lower end of a run is the further one.
        first, last = np.zeros(len(rows), dtype=np.intp), some - k
        while (open_ := first < last).any():
            middle = (first + last) // 2
            lower = sky - ordered[rows, middle] > ordered[rows, middle + k - 1] - sky
            first = np.where(open_ & lower, middle + 1, first)
            last = np.where(open_ & ~lower, middle, last)
        runs = [first, np.maximum(first - 1, 0)]
        ends = [np.maximum(sky - ordered[rows, i], ordered[rows, i + k - 1] - sky) for i in runs]
        least: NDArray[np.float32] = np.minimum(*ends)
        return least

    def middle_of(
        value: Callable[[NDArray[np.intp]], NDArray[np.float32]],
    ) -> NDArray[np.float32]:
        a, b = value((some + 1) // 2), value(some // 2 + 1)
        between = np.where(some % 2, a, a + half * (b - a))
        return np.where(count > 0, between, 0).astype(np.float32)

    sky = middle_of(lambda k: ordered[rows, k - 1])
    return sky, np.float32(1.4826) * middle_of(deviation)


def _count_to(
    ordered: NDArray[np.float32], count: NDArray[np.intp], limit: NDArray[np.float32]
) -> NDArray[np.intp]:
    """Return how many of the first `count` values of each sorted row are not above a limit."""
    rows, first, last = np.arange(len(ordered)), np.zeros_like(count), count.copy()
    while (first < last).any():
        middle = np.minimum((first + last) // 2, ordered.shape[1] - 1)
        inside = (first < last) & (ordered[rows, middle] <= limit)
        first = np.where(inside, middle + 1, first)
        last = np.where(inside, last, np.minimum(last, middle))
    return first


def row_quantiles(values: NDArray[np.float32], *shares: float) -> list[NDArray[np.float32]]:
    """Return quantiles of each row, ignoring NaN; 0 for rows without a value.

    Parameters
    ----------
    values : ndarray of float32, shape (n, m)
    shares : float
        Quantiles, from 0 to 1; 0.5 is the median.

    Returns
    -------
    list of ndarray of float32, shape (n,)

    Examples
    --------
    >>> [q.tolist() for q in row_quantiles(np.array([[3.0, 1.0, 2.0, np.nan]]), 0.5, 1.0)]
    [[2.0], [3.0]]
    """
    ordered = np.sort(values, axis=1)  # NaN sorts last
    count = np.isfinite(values).sum(axis=1)
    last = np.maximum(count - 1, 0)
    rows = np.arange(len(values))
    found = []
    for share in shares:
        low = np.floor(share * last).astype(int)
        a, b = ordered[rows, low], ordered[rows, np.minimum(low + 1, last)]
        between = a + (share * last - low).astype(np.float32) * (b - a)
        found.append(np.where(count > 0, between, np.float32(0.0)).astype(np.float32))
    return found


def row_median(values: NDArray[Any]) -> NDArray[Any]:
    """Return the median of each row, shape (n,). Of many short rows np.median takes much longer.

    Examples
    --------
    >>> row_median(np.array([[3.0, 1.0, 2.0, 7.0]])).tolist()
    [2.5]
    """
    ordered = np.sort(values, axis=1)
    n = values.shape[1]
    return np.asarray(0.5 * (ordered[:, (n - 1) // 2] + ordered[:, n // 2]))


def stretched(cutouts: NDArray[np.float32], softening: float) -> NDArray[np.float32]:
    """Divide each cutout by its star's peak and stretch it; see `mlpsf.CutoutScaler`, ``"star"``.

    Parameters
    ----------
    cutouts : ndarray of float32, shape (n, size, size)
        NaN marks pixels without data, also in the output.
    softening : float
        Fraction of the peak at which the stretch changes from linear to logarithmic.

    Returns
    -------
    ndarray of float32, shape (n, size, size)
    """
    sky, noise = sky_and_noise(cutouts)
    out: NDArray[np.float32] = cutouts - sky[:, None, None]
    c = cutouts.shape[-1] // 2
    core = np.nan_to_num(out[:, c - 1 : c + 2, c - 1 : c + 2], nan=-np.inf)
    peak = core.reshape(len(out), -1).max(axis=1)
    # A cutout without a peak above the noise has no star to scale by.
    peak = np.where(np.isfinite(peak) & (peak > noise), peak, np.maximum(noise, 1e-20))
    with np.errstate(over="ignore"):  # of a pixel 1e38 times brighter than the star
        out /= (peak * np.float32(softening))[:, None, None]
    np.arcsinh(out, out=out)
    out /= np.float32(np.arcsinh(1.0 / softening))
    return out


def scaled(
    cutouts: NDArray[np.float32],
    *,
    method: str = "star",
    softening: float = SOFTENING,
    mean: float = 0.0,
    scale: float = 1.0,
) -> NDArray[np.float32]:
    """Scale pixel values like `mlpsf.CutoutScaler` with these parameters; NaN becomes 0."""
    if method == "standard":
        out = (cutouts - np.float32(mean)) / np.float32(scale)
    elif method == "star":
        out = stretched(cutouts, softening)
    else:
        raise InputError(f"Pixel values are scaled by 'star' or 'standard'. Got {method!r}.")
    return np.asarray(np.nan_to_num(out, copy=False, nan=0.0, posinf=0.0, neginf=0.0))


def check_frames(groups: ArrayLike, n: int) -> NDArray[Any]:
    """Return the frame of each of n cutouts, shape (n,).

    Raises
    ------
    InputError
        `groups` has another number of entries, or some are NaN or None.
    """
    frames = np.asarray(groups)
    if frames.shape != (n,):
        raise InputError(f"groups must name one frame a cutout: shape ({n},). Got {frames.shape}.")
    if frames.dtype.kind == "f" and np.isnan(frames).any():
        raise InputError("groups must name the frame of every cutout. Some are NaN.")
    if frames.dtype.kind == "O":
        if any(frame is None or frame != frame for frame in frames):
            raise InputError("groups must name the frame of every cutout. Some are None or NaN.")
        try:
            np.unique(frames)
        except TypeError as error:
            raise InputError(f"groups must be names of one type: {error}.") from error
    return frames
