"""What a frame's common star leaves of its stars, followed over the frame.

A stack and a few numbers for width and elongation do not describe the coma of a wide field, or the
spots of a lens. But neighbouring stars are alike in what is left of them. So each source is
compared with the stars about it, itself excluded, as far as these foretell each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["Leftover"]

_NEAREST = 8  # stars about a source; fewer are noisier, more are farther away
_WIDTH = 1.5  # their distance over the standard deviation of the weights
_FEWEST = 20  # stars: of fewer, chance would seem to be foretold
_APART = 3.5  # pixels: a star no farther from a source is the source
_CLIP = 3.0  # standard deviations; a neighbour of a star does not count as its shape
_LEAST = 1e-12  # of the light of a star; less is nothing
_RIM = 0.75  # of the half-width of a stamp: beyond it is little light of a star
_SKILL = (0.1, 0.3)  # share of the light foretold, from which and at which it is taken away
_KNOWN = 0.9  # share of the pixels of a stamp
_CORE = 8  # pixels of a stamp, two FWHM: where stars are compared


@dataclass(frozen=True, eq=False)
class Leftover:
    """What the common star leaves of the stars of a frame.

    Attributes
    ----------
    light : ndarray of float32, shape (n, size, size)
        Of stars of flux 1; the brighter half, of faint ones it is noise.
    place : ndarray, shape (n, 2)
        Where they are on the frame, x and y in pixels.
    share : float
        Share of what is about a star that is its own, too, from 0 to 1.
    """

    light: NDArray[np.float32]
    place: NDArray[np.float64]
    share: float

    @classmethod
    def of_stars(cls, light: NDArray[np.floating], place: NDArray[np.float64]) -> Self | None:
        """Measure how far the stars of a frame foretell what is left of each other.

        Parameters
        ----------
        light : ndarray, shape (n, size, size)
            Per flux. NaN counts as nothing, in a few pixels beyond the core.
        place : ndarray, shape (n, 2)
            x and y in pixels.

        Returns
        -------
        Leftover or None
            None if there are too few stars, or they foretell nothing.

        Examples
        --------
        >>> rng, u = np.random.default_rng(1), np.arange(-10, 11)
        >>> coma = u * np.exp(-(u**2 + u[:, None] ** 2) / 8)
        >>> place = rng.uniform(0, 2000, (400, 2))
        >>> light = np.sin(place[:, 0] / 500)[:, None, None] * coma
        >>> left = Leftover.of_stars(light + rng.normal(0, 0.1, light.shape), place)
        >>> there = left.at(np.array([[800.0, 1000.0]]), 21)
        >>> bool(np.abs(there - np.sin(1.6) * coma).max() < 0.2 * coma.max())
        True
        """
        c = light.shape[-1] // 2
        core = np.s_[:, max(c - _CORE, 0) : c + _CORE + 1, max(c - _CORE, 0) : c + _CORE + 1]
        known = np.isfinite(light)
        good = known[core].all(axis=(1, 2)) & (known.mean(axis=(1, 2)) > _KNOWN)
        light = np.where(known[good], light[good], 0.0).astype(np.float32)
        place = place[good]
        if len(light) < _FEWEST or not np.ptp(place, axis=0).any():
            return None
        u = np.abs(np.arange(-c, c + 1))
        rim = np.maximum(u, u[:, None]) > _RIM * c
        noise = np.median(np.abs(light[:, rim]), axis=1)
        bright = np.argsort(noise, kind="stable")[: max(len(noise) // 2, _FEWEST)]
        light, place, noise = light[bright], place[bright], noise[bright]
        noise = np.maximum(noise, max(float(np.median(noise)), _LEAST))[:, None, None]
        weight = _weights(place, place)
        about = np.zeros_like(light)
        for _ in range(3):
            off = (light - about) / noise
            limit = _CLIP * 1.4826 * np.median(np.abs(off), axis=0)
            shape = about + noise * np.clip(off, -limit, limit)
            about = _mean(weight, shape)
        own, near = shape[core] / noise, about[core] / noise
        total, foretold, square = (
            float((a * b).sum(dtype=np.float64)) for a, b in ((own, own), (own, near), (near, near))
        )
        share = float(np.clip(foretold / max(square, _LEAST), 0.0, 1.0))
        skill = share * (2 * foretold - share * square) / max(total, _LEAST)
        share *= float(np.clip((skill - _SKILL[0]) / (_SKILL[1] - _SKILL[0]), 0.0, 1.0))
        return cls(shape, place, share) if share > 0 else None

    def at(self, place: NDArray[np.float64], size: int) -> NDArray[np.float32]:
        """Return what is foretold of sources of flux 1, shape (m, size, size).

        Parameters
        ----------
        place : ndarray, shape (m, 2)
            x and y in pixels.
        size : int
            Side of the stamps in pixels, odd.
        """
        found = np.float32(self.share) * _mean(_weights(place, self.place), self.light)
        less = (found.shape[-1] - size) // 2
        if less >= 0:
            return found[:, less : less + size, less : less + size]
        return np.pad(found, ((0, 0), (-less, -less), (-less, -less)))


def _weights(at: NDArray[np.float64], place: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return how much each star says of each position, shape (m, n); the sum of a row is 1."""
    square = ((at[:, None] - place) ** 2).sum(axis=-1)
    square = np.where(square < _APART**2, np.inf, square)
    reach = np.partition(square, _NEAREST - 1, axis=1)[:, _NEAREST - 1, None]
    far = np.isinf(square)
    weight = np.where(far, 0.0, np.exp(-0.5 * _WIDTH**2 * np.where(far, 0.0, square) / reach))
    return np.asarray(weight / np.maximum(weight.sum(axis=1, keepdims=True), 1e-30), np.float32)


def _mean(weight: NDArray[np.float32], light: NDArray[np.float32]) -> NDArray[np.float32]:
    flat = weight @ light.reshape(len(light), -1)
    return np.asarray(flat.reshape(-1, *light.shape[1:]))
