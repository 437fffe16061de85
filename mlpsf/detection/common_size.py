"""The size that the stars share among sources of other sizes.

Stars share a size and a shape: they form a cluster in (log size, e1, e2), where galaxies, blends
and cosmic rays are scattered.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlpsf.detection.locus import Locus

__all__ = ["stellar_size", "stellar_sizes"]

_WIDTH, _SHAPE = 0.035, 0.08  # of the cluster: errors of moments at S/N 30, change over a frame
_ROUND = 0.15  # ellipticity of a star that is alone, (a^2 - b^2) / (a^2 + b^2)
_IN_CACHE = 100_000  # values processed at once
_FEWEST = 5  # sources, of which fewer form no cluster
_STARTS = 24  # clusters that are fitted
_LEAST = 3.5  # stars of a cluster, that is 4 that are surely: fewer may be alike by chance
_ROUNDS, _SETTLED = 8, 50  # of fits that are compared, and of the likeliest
_STILL = 1e-5  # change of a centre that has settled
_SHARE = 0.3  # of stars, with which it begins


def stellar_size(
    fwhm: NDArray[np.float64], e1: NDArray[np.float64], e2: NDArray[np.float64]
) -> float:
    """Find the common size of the stars among bright sources.

    Each cluster of sources is fitted as stars among others, and that is taken which makes them the
    likeliest beside others alone. Galaxies may be many more and nearly as alike, but their density
    is smooth, and stars are narrower.

    Parameters
    ----------
    fwhm, e1, e2 : ndarray, shape (n,)
        From the moments of the sources.

    Returns
    -------
    float
        In the unit of `fwhm`.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> fwhm = np.append(rng.normal(4, 0.04, 8), rng.normal(6, 0.8, 200).clip(4.2))
    >>> e1, e2 = rng.normal(0, np.repeat([0.01, 0.15], [8, 200]), (2, 208))
    >>> round(stellar_size(fwhm, e1, e2), 1)
    4.0
    """
    values = np.column_stack([np.log(fwhm), e1, e2])
    starts = values[_peaks(values)] if len(values) >= _FEWEST else values[:0]
    begun = [Locus.begun(values - start, _WIDTH, _SHARE) for start in starts]
    fits = [_fitted(values, locus, _ROUNDS) for locus in begun]
    fits = [locus for locus in fits if locus.share * len(values) >= _LEAST]
    if not fits:
        return float(stellar_sizes(fwhm[None], e1[None], e2[None])[0])
    likeliest = max(fits, key=_gain)
    settled = _fitted(values, likeliest, _SETTLED)
    return float(np.exp(values[0, 0] - settled.off[0, 0]))


def _gain(stars: Locus) -> float:
    """Return by how much a cluster of stars among others is likelier than others alone.

    Others are told by how far they are from the centre of the stars: about the round ones they are
    the likelier, whether there are stars or not.
    """
    alone = Locus.begun(stars.off, _WIDTH, _SHARE).others
    return stars.log_likelihood - float(np.log(alone).sum())


def _peaks(values: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the sources at which clusters are densest, of the densest clusters."""
    near = _near(*values.T[:, None])[0]
    density = near.sum(axis=1)
    around = np.where(near > 0.3, density, 0.0).max(axis=1)
    peaks = np.flatnonzero((density >= around) & (density >= 1.5))
    return peaks[np.argsort(-density[peaks], kind="stable")][:_STARTS]


def _fitted(values: NDArray[np.float64], locus: Locus, rounds: int) -> Locus:
    """Fit stars of one size and shape, from a locus on, until they settle."""
    for _ in range(rounds):
        before, weight = locus.off, locus.is_star
        centre = (weight[:, None] * values).sum(axis=0) / max(float(weight.sum()), 1e-9)
        locus = locus.updated(values - centre, _WIDTH)
        if np.abs(locus.off[0] - before[0]).max() < _STILL:
            break
    return locus


def stellar_sizes(
    fwhm: NDArray[np.float64], e1: NDArray[np.float64], e2: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Find the common size of the stars in each of m groups of k sources, with no fit.

    Of all clusters at least half as dense as the densest, the one of the smallest sources is taken.
    Arrays have the shape (m, k); that returned has the shape (m,).
    """
    found = np.empty(len(fwhm))
    step = max(_IN_CACHE // max(fwhm.shape[1], 1) ** 2, 1)
    for start in range(0, len(fwhm), step):
        block = slice(start, start + step)
        found[block] = _modes(fwhm[block], e1[block], e2[block])
    return found


def _modes(
    fwhm: NDArray[np.float64], e1: NDArray[np.float64], e2: NDArray[np.float64]
) -> NDArray[np.float64]:
    log_size = np.log(fwhm)
    if fwhm.shape[1] < _FEWEST:
        return np.asarray(np.exp(np.median(log_size, axis=1)))

    near = _near(log_size, e1, e2)
    others = near.sum(axis=2) - 1
    # By itself a source is a cluster as far as it is round: rays are not.
    itself = np.exp(-0.5 * (e1**2 + e2**2) / _ROUND**2)
    density = others + np.maximum(itself, np.clip(others, 0, 1))
    dense = density >= 0.5 * density.max(axis=1, keepdims=True)
    group = np.arange(len(fwhm))
    smallest = np.argmin(np.where(dense, log_size, np.inf), axis=1)
    # Move from the edge of the smallest dense cluster to its centre.
    for _ in range(5):
        crowd = dense & (near[group, smallest] > 0.3)
        smallest = np.argmax(np.where(crowd, density, -np.inf), axis=1)
    weight = near[group, smallest]
    return np.asarray(np.exp((weight * log_size).sum(axis=1) / weight.sum(axis=1)))


def _near(
    log_size: NDArray[np.float64], e1: NDArray[np.float64], e2: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return how alike any two of the sources of each group are, 0 to 1, shape (m, k, k)."""

    def apart(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return (values[:, :, None] - values[:, None, :]) ** 2

    unlike = apart(log_size) / _WIDTH**2 + (apart(e1) + apart(e2)) / _SHAPE**2
    return np.asarray(np.exp(-0.5 * unlike))
