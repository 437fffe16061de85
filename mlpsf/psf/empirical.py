"""The PSF of stars that no smooth one describes: a Moffat profile and what they have beyond."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpsf.errors import PSFError
from mlpsf.psf.model import PSFModel
from mlpsf.psf.quality.star_fits import inside
from mlpsf.psf.shared_light import FEWEST, fit_own_stars, with_shared_light
from mlpsf.psf.solver.basis import Moffat
from mlpsf.psf.solver.stars import Stars

__all__ = ["better_psf", "misfit_of"]

FloatArray = NDArray[np.float64]

_LEAVES = 0.5  # of the stars: a PSF that leaves more is none
_ERROR = 0.02  # of a PSF, relative to the light, that is not counted as a misfit


def better_psf(
    smooth: PSFModel | None, start: Moffat, hand: Stars, rep_fact: int, meta: dict[str, Any]
) -> tuple[PSFModel, float]:
    """Return the smooth PSF, or an empirical one if that foretells the stars better.

    An empirical PSF has thousands of free values. So it is judged by stars that it was not made of,
    each half of them by the other, and the smooth one, which has a hundred, by its own.

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
        What it leaves of the stars' cores, as `misfit_of` says.

    Raises
    ------
    PSFError
        If neither is an image of a star that describes the stars.
    """
    own = np.inf
    if smooth is not None:
        with suppress(PSFError):
            smooth.check()
            own = misfit_of(smooth, hand)
    if smooth is not None and own < np.inf and own <= _foretold(start, hand, rep_fact, meta):
        return smooth, own
    try:
        empirical = _empirical(start, hand, rep_fact, meta)
        empirical.check()
        left, light = np.median(_misfits(empirical, hand), axis=1)
        if left > _LEAVES * light:
            raise PSFError(
                "no PSF fits the stars: are they images of one kind, and bright enough? are x and "
                "y 0-based, and is the background right?"
            )
    except PSFError:
        if smooth is None or own == np.inf:
            raise
        return smooth, own
    return empirical, float(left)


def misfit_of(psf: PSFModel, hand: Stars) -> float:
    """Return what a PSF leaves of its stars' cores, rms over the error, in the median of them."""
    return float(np.median(_misfits(psf, hand)[0]))


def _foretold(start: Moffat, hand: Stars, rep_fact: int, meta: dict[str, Any]) -> float:
    """Return the misfit of halves of the stars with the PSF of the other half."""
    n = len(hand.x)
    if n < 2 * FEWEST:
        return np.inf
    half = np.random.default_rng(0).permutation(n) % 2 == 0
    misfit = np.full(n, np.inf)
    for mine in (half, ~half):
        with suppress(PSFError):
            psf = _empirical(start, _some(hand, ~mine), rep_fact, meta)
            misfit[mine] = _misfits(psf, _some(hand, mine))[0]
    return float(np.median(misfit))


def _empirical(start: Moffat, hand: Stars, rep_fact: int, meta: dict[str, Any]) -> PSFModel:
    if len(hand.x) < FEWEST:
        raise PSFError(
            f"no smooth PSF fits the {len(hand.x)} stars: are they images of one kind, and single? "
            "give others or more"
        )
    table = np.zeros((hand.size * rep_fact,) * 2)
    stars = np.column_stack([hand.places, np.zeros(len(hand.x))])
    psf = PSFModel(table, start.alpha, start.beta, rep_fact, stars=stars, meta=meta)
    return with_shared_light(psf, hand)


def _some(hand: Stars, which: NDArray[np.bool_]) -> Stars:
    """Return some of the stars."""
    stars = hand.pixels
    pixels = replace(
        stars,
        data=stars.data[which],
        bad=stars.bad[which],
        x=stars.x[which],
        y=stars.y[which],
        noise=stars.noise[which],
    )
    return replace(hand, x=hand.x[which], y=hand.y[which], pixels=pixels)


def _misfits(psf: PSFModel, hand: Stars) -> FloatArray:
    """Return each star's core less the PSF, and as it is: rms over the error, shape (2, n)."""
    stars = hand.pixels
    (x, y, _), star, model, variance = fit_own_stars(psf, hand)
    core = inside(star.shape[-1], x, y, 1.5 * stars.fwhm) & ~stars.bad
    error = variance + (_ERROR * model) ** 2
    count = np.maximum(core.sum(axis=(1, 2)), 1)
    squares = [
        np.where(core, part**2 / error, 0.0).sum(axis=(1, 2)) for part in (star - model, star)
    ]
    return np.asarray(np.sqrt(np.array(squares) / count))
