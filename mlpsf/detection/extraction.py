"""Source Extractor's detection (Bertin & Arnouts 1996), as sep has it, with room for any frame."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import sep
from numpy.typing import NDArray

__all__ = ["extract"]

_ALONE = threading.RLock()
os.register_at_fork(before=_ALONE.acquire, after_in_parent=_ALONE.release)
os.register_at_fork(after_in_child=_ALONE.release)  # a child would wait for its parent's thread
_SUB_OBJECTS = 16384  # of one blend; sep's own 1024 are too few for the core of a cluster


def extract(pixels: NDArray[Any], sigma: float, **options: Any) -> Any:
    """Call `sep.extract`, with more room where the pixels above the threshold need it.

    One search at a time in a process, for sep's limits are the whole process's.

    Parameters
    ----------
    pixels : ndarray, shape (ny, nx)
        Above the sky.
    sigma : float
        Threshold, in units of ``err``.
    **options
        Of `sep.extract`.

    Returns
    -------
    ndarray or tuple
        As from `sep.extract`.

    Examples
    --------
    >>> import numpy as np
    >>> u = np.arange(-20, 21)
    >>> star = 100 * np.exp(-0.5 * (u**2 + u[:, None] ** 2) / 4)
    >>> len(extract(star, 5.0, err=1.0))
    1
    """
    if options.get("mask") is not None:  # sep's filter would spread what is in them
        pixels = np.where(options["mask"], np.zeros(1, dtype=pixels.dtype), pixels)
    with _own_limits():
        # sep writes to all of the buffer for unfinished sources, which takes as long as the search.
        # Few frames need a large buffer.
        sep.set_extract_pixstack(max(300_000, pixels.size // 16))
        try:
            return sep.extract(pixels, sigma, **options)
        except Exception as error:  # sep has no exception class for it
            if "pixel buffer full" not in str(error):
                raise
        sep.set_extract_pixstack(max(1_000_000, pixels.size))
        return sep.extract(pixels, sigma, **options)


@contextmanager
def _own_limits() -> Iterator[None]:
    """Set sep's limits, which are the whole process's, for a block; then as they were."""
    with _ALONE:
        before = sep.get_extract_pixstack(), sep.get_sub_object_limit()
        sep.set_sub_object_limit(_SUB_OBJECTS)
        try:
            yield
        finally:
            sep.set_extract_pixstack(before[0])
            sep.set_sub_object_limit(before[1])
