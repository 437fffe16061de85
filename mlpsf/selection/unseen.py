"""What the stamp of a source does not show, but its frame tells."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlpsf.selectors.judge import as_probabilities

__all__ = ["with_unseen"]

_SCALE = 0.1  # of the light that was taken away, relative to the star's own
_SURE = 1e-9  # a probability is that far from 0 and 1
_LEAST_SNR = 1e-3


def with_unseen(
    probability: ArrayLike,
    snr: ArrayLike,
    taken: ArrayLike,
    correction: tuple[float, float, float],
) -> NDArray[np.float64]:
    """Correct the probabilities that stamps give for what these do not show.

    Where neighbours were taken away, some of their light is left. The more there was of it, the
    less the stamp is evidence, and the likelier the source is bad: with g = log(1 + taken / 0.1),
    its log-odds l become l / (1 + a g) - b g. And a neighbour of 2 % of its light may be hidden in
    the noise, the likelier the fainter the source is. It has none with a probability of
    exp(-c / snr), which no source exceeds.

    Parameters
    ----------
    probability : array_like, shape (n,)
        From the stamps, in [0, 1]. NaN stays NaN.
    snr : array_like, shape (n,)
        Signal-to-noise ratio of the sources.
    taken : array_like, shape (n,)
        Light of neighbours that was taken away, relative to the source's own:
        `mlpsf.neighbours.taken.light_taken`.
    correction : (float, float, float)
        a, b and c. Those of the network that ships are in its file, measured by
        ``python -m benchmarks calibrate_pretrained``.

    Returns
    -------
    ndarray, shape (n,)
        Not larger than `probability`, for sources that are likelier good than not.

    Examples
    --------
    >>> p, snr, taken = [0.99, 0.99, 0.99], [1000.0, 50.0, 1000.0], [0.0, 0.0, 1.0]
    >>> with_unseen(p, snr, taken, (0.3, 0.7, 1.5)).round(2).tolist()
    [0.99, 0.96, 0.73]
    """
    given = np.asarray(probability, dtype=np.float64)
    known = np.isfinite(given)
    less, harm, hidden = correction
    sure = np.clip(given[known], _SURE, 1 - _SURE)
    light = np.nan_to_num(np.asarray(taken, dtype=np.float64)[known])
    g = np.log1p(np.maximum(light, 0.0) / _SCALE)
    log_odds = np.log(sure / (1 - sure)) / (1 + less * g) - harm * g
    ratio = np.nan_to_num(np.asarray(snr, dtype=np.float64)[known])
    out = np.full(given.shape, np.nan)
    out[known] = as_probabilities(log_odds)[:, 1] * np.exp(-hidden / np.maximum(ratio, _LEAST_SNR))
    return out
