"""The PSF of stars that no smooth one describes: a Moffat profile and what they have beyond."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpsf.errors import PSFError
from mlpsf.psf.model import PSFModel
from mlpsf.psf.quality.star_fits import FitScale, fit_stars, inside
from mlpsf.psf.quality.star_shapes import drawn_at
from mlpsf.psf.shared_light import with_shared_light
from mlpsf.psf.solver.basis import Moffat
from mlpsf.psf.solver.pixels import StarPixels
from mlpsf.psf.solver.stars import Stars

__all__ = ["nearest"]

FloatArray = NDArray[np.float64]

_FEWEST = 4  # stars, whose halves foretell each other
_LEAVES = 0.5  # of the stars: a PSF that leaves more is none
_ERROR = 0.02  # of a PSF, relative to the light, that is not counted as a misfit


def nearest(
    smooth: PSFModel | None, start: Moffat, hand: Stars, rep_fact: int, meta: dict[str, Any]
) -> tuple[PSFModel, float]:
    """Return the smooth PSF, or an empirical one if that foretells the stars better.

    The empirical PSF has thousands of free values, the smooth one a hundred. So it is judged by
    stars that it was not made of: each half of them by the other.

    Parameters
    ----------
    smooth : PSFModel or None
        None if there is none.
    start : Moffat
        Profile that the empirical PSF starts from.
    hand : Stars
    rep_fact : int
    meta : dict
        Of the empirical PSF.

    Returns
    -------
    psf : PSFModel
    misfit : float
        What it leaves of the stars' cores, rms over the error, in the median of them.

    Raises
    ------
    PSFError
        If the empirical PSF does not describe the stars either.
    """
    if smooth is not None:
        with suppress(PSFError):
            smooth.check()
            own = np.median(_misfits(smooth, hand)[0])
            foretold = np.full(len(hand.x), np.inf)
            for half in (0, 1) if len(hand.x) >= _FEWEST else ():
                mine = np.arange(len(foretold)) % 2 == half
                with suppress(PSFError):
                    psf = _empirical(start, _some(hand, ~mine), rep_fact, meta)
                    foretold[mine] = _misfits(psf, _some(hand, mine))[0]
            if own <= np.median(foretold):
                return smooth, float(own)
    empirical = _empirical(start, hand, rep_fact, meta)
    left, light = np.median(_misfits(empirical, hand), axis=1)
    if left > _LEAVES * light:
        raise PSFError(
            "no PSF fits the stars: are they images of one kind, and bright enough? are x and y "
            "0-based, and is the background right?"
        )
    return empirical, float(left)


def _empirical(start: Moffat, hand: Stars, rep_fact: int, meta: dict[str, Any]) -> PSFModel:
    table = np.zeros((hand.size * rep_fact,) * 2)
    stars = np.column_stack([hand.places, np.zeros(len(hand.x))])
    psf = PSFModel(table, start.alpha, start.beta, rep_fact, stars=stars, meta=meta)
    return with_shared_light(psf, hand)


def _some(hand: Stars, which: NDArray[np.bool_]) -> Stars:
    """Return some of the stars."""
    stars = hand.pixels
    pixels = StarPixels(
        stars.data[which],
        stars.bad[which],
        stars.x[which],
        stars.y[which],
        stars.noise[which],
        stars.gain,
        stars.fwhm,
    )
    return replace(hand, x=hand.x[which], y=hand.y[which], pixels=pixels)


def _misfits(psf: PSFModel, hand: Stars) -> FloatArray:
    """Return each star's core less the PSF, and as it is: rms over the error, shape (2, n)."""
    stars = hand.pixels
    scale = FitScale(1.5 * stars.fwhm, stars.gain)
    data = np.where(stars.bad, 0.0, stars.data)
    drawn = drawn_at(psf, *hand.places.T)
    noise = stars.noise[:, None, None]
    (x, y, _), star, model, variance = fit_stars(drawn, data, ~stars.bad, noise, scale)
    core = inside(data.shape[-1], x, y, scale.fitted) & ~stars.bad
    error = variance + (_ERROR * model) ** 2
    count = np.maximum(core.sum(axis=(1, 2)), 1)
    squares = [
        np.where(core, part**2 / error, 0.0).sum(axis=(1, 2)) for part in (star - model, star)
    ]
    return np.asarray(np.sqrt(np.array(squares) / count))
