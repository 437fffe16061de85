"""Build the PSF from the stars of a frame and convert it to a TRIPPy lookup table."""

from __future__ import annotations

import warnings
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np
from astropy.utils.exceptions import AstropyUserWarning
from numpy.typing import NDArray

from mlpsf.errors import InputError, PSFError
from mlpsf.psf.agreement import disagreements
from mlpsf.psf.classic import trippy_table
from mlpsf.psf.empirical import better_psf, misfit_of
from mlpsf.psf.model import PSFModel
from mlpsf.psf.over_frame import held_over_frame
from mlpsf.psf.shared_light import with_shared_light
from mlpsf.psf.solver.field import solve_field
from mlpsf.psf.solver.fit import Fit
from mlpsf.psf.solver.polynomial import order_for, polynomial
from mlpsf.psf.solver.solve import MISFIT, NO_PSF, ROUNDS, Solution, solution_of, solve
from mlpsf.psf.solver.stars import Stars, cut_stars, say_left_out
from mlpsf.psf.solver.variation import PSFVariation, fit_variation, variation_of
from mlpsf.psf.terms import PSFTerms
from mlpsf.psf.trippy import border as border
from mlpsf.psf.trippy.inputs import check_place
from mlpsf.psf.trippy.tables import as_lookup_table, centre_on_pixel, profile
from mlpsf.version import __version__

__all__ = ["METHODS", "build_psf"]

FloatArray = NDArray[np.float64]

METHODS = ("refined", "trippy")
"""Methods to build a PSF."""

_NOT_SMOOTH = "a PSF of what the stars have in common foretells them better than a smooth one"


def build_psf(
    frame: Any,
    stars: Any,
    *,
    size: int | None = None,
    rep_fact: int = 10,
    background: str | float | FloatArray = "mesh",
    method: str = "refined",
    at: tuple[float, float] | None = None,
    order: int = 3,
    refinements: int | None = None,
) -> PSFModel:
    """Build a PSF from stars of a frame, for TRIPPy.

    The pixels of all stars are fitted at once with one smooth PSF and the flux, position and sky of
    each star. Struck pixels and light of other sources are left out, but no light of the star (see
    `mlpsf.psf.solver.solve`). The PSF becomes the lookup table of a TRIPPy object. Where it varies
    over the frame, it knows how: by a polynomial whose order, from 0 to 3, is that which predicts
    best the stars that are left out of the fit (see `mlpsf.psf.solver.field`). Light that most
    stars have and no smooth PSF describes, as a second image or spikes, is added as it is seen (see
    `mlpsf.psf.shared_light`). If no smooth PSF describes the stars, as for a badly misaligned
    telescope, a Moffat profile with such light is used instead where it foretells stars that are
    left out better; it does not vary (``meta["method"]`` is then 'empirical', not 'refined').

    Parameters
    ----------
    frame : Frame, path, (ny, nx) array, or cutouts
        Masked, saturated and non-finite pixels are not used. Cutouts are as for
        `mlpsf.select_cutouts`, whose table, sorted or filtered, tells by ``id`` which row is of
        which; other tables have one row a cutout.
    stars : Table or (n, 2) array
        Columns x and y, 0-based. If the table has columns `selected` and `reserved`, only selected
        rows that are not reserved are used.
    size : int, optional
        Side of the PSF in pixels, odd. By default 9 FWHM rounded up to an odd number, at least 31
        and at most 101.
    rep_fact : {3, 5, 10}
        Sub-pixels per pixel.
    background : 'mesh', float or (ny, nx) array
        Background to subtract from the frame: the given value (0 if already subtracted), or that
        of the `Frame`; of an array, that of meshes of 64 pixels. The remaining sky at
        each star is fitted with the star.
    method : {'refined', 'trippy'}
        'trippy' gives the table of the TRIPPy release, for comparison. It is made by genLookupTable
        around the median of the Moffat fits. It is blurred by a pixel and includes the light of
        neighbours.
    at : (float, float), optional
        Position (x, y) on the frame, 0-based pixels, for the PSF of that place only: the same as
        :meth:`PSFModel.at` of the whole.
    order : {0, 1, 2, 3}
        Highest order of the polynomial over the frame that the stars may choose; 0 for a PSF that
        does not vary.
    refinements : int, optional
        Maximum number of times that positions, fluxes, skies and the PSF are fitted again, each
        time with the pixels that are clean according to the last PSF. 4 by default. Stops when
        nothing changes.

    Returns
    -------
    PSFModel
        ``meta`` has the order of the polynomial and the reason for it.

    Warns
    -----
    AstropyUserWarning
        If stars are left out because they are too near the edge, masked at the core or over half
        of the box, or without light above the background. The message gives the number of each.
        If the PSF varies over the frame significantly and `at` is not given. If `at` is given with
        fewer than 5 stars, or beyond all of them. If the FWHM is not that of the frame's stars
        where these are, or few stars differ by more than their noise, or their size grows with
        their brightness (`mlpsf.psf.agreement`). If what the PSF leaves of the stars is several
        times their noise. If they were chosen on another frame.

    Raises
    ------
    InputError
        If a parameter is invalid, or a star's position is not finite or off the frame.
    PSFError
        If no star is given or left, or what they give is no image of a star.

    Examples
    --------
    >>> from mlpsf.psf import PSFModel
    >>> truth = PSFModel(np.zeros((310, 310)), 3.0, 3.0)
    >>> image = truth.render([30.2, 80.7], [40.0, 41.4], [1e5, 2e5], shape=(80, 120))
    >>> psf = build_psf(image, [[30.2, 40.0], [80.7, 41.4]], background=0.0)
    >>> psf
    <PSFModel 31 x 31 pixels, FWHM 3.18, ellipticity 0.00, 2 stars>
    """
    if rep_fact not in border.REP_FACTS:
        raise InputError(f"rep_fact must be one of {border.REP_FACTS}; got {rep_fact}")
    if method not in METHODS:
        raise InputError(f"method must be 'refined' or 'trippy'; got {method!r}")
    if method == "trippy" and (at is not None or refinements):
        raise InputError("TRIPPy's own table knows neither 'at' nor 'refinements'")
    if order not in range(4):
        raise InputError(f"order must be 0, 1, 2 or 3; got {order}")
    rounds = ROUNDS if refinements is None else refinements
    if not isinstance(rounds, int) or rounds < 0:
        raise InputError(f"refinements must be 0 or more; got {refinements}")
    hand = cut_stars(frame, stars, size=size, background=background)
    place = None if at is None else check_place(at, hand.frame_shape, hand.first)
    say_left_out(hand)
    meta: dict[str, Any] = {
        **hand.meta,
        "mlpsf_version": __version__,
        "trippy_version": version("trippy"),
        "method": method,
    }
    if method == "trippy":
        table, alpha, beta, amplitude = trippy_table(hand.pixels, hand.size, rep_fact)
        psf = PSFModel(table, alpha, beta, rep_fact, meta=meta)
        flux = np.nan_to_num(amplitude) * psf.flux_per_amplitude
        psf = replace(psf, stars=np.column_stack([hand.places, flux]))
        psf.check()
        return psf
    solution = solve(hand.pixels, hand.size, np.ones((len(hand.x), 1)), rounds)
    meta["refinements"] = rounds
    if rounds >= 2 and solution.misfit > MISFIT and len(hand.x) >= 5:
        # Stars that vary over the frame are described by one PSF only in the mean.
        terms = polynomial(hand.x, hand.y, hand.frame_shape, order_for(len(hand.x)))
        varied = solve(hand.pixels, hand.size, terms, rounds)
        if varied.misfit <= MISFIT or NO_PSF < solution.misfit > varied.misfit:
            solution = varied
    smooth, found = _smooth(solution, hand, order, rep_fact, meta)
    if smooth is not None and (rounds < 2 or solution.misfit <= MISFIT):
        psf, misfit = smooth, misfit_of(smooth, hand) if rounds >= 2 else 1.0
    else:
        told = {**meta, "method": "empirical", "order": 0, "order_reason": _NOT_SMOOTH}
        psf, misfit = better_psf(smooth, solution.moffat, hand, rep_fact, told)
    psf.check()
    for text in disagreements(psf, hand, found, misfit, stars, place):
        warnings.warn(text, AstropyUserWarning, stacklevel=2)
    if place is None:
        _warn_of_variation(found, psf)
        return psf
    if len(hand.x) < 5:
        warnings.warn(
            f"{len(hand.x)} stars are too few for a PSF at a place, 5 wanted: this is the mean",
            AstropyUserWarning,
            stacklevel=2,
        )
    elif psf.meta["method"] == "empirical":
        text = "no smooth PSF describes the stars: this is the frame's mean, not that of a place"
        warnings.warn(text, AstropyUserWarning, stacklevel=2)
    return psf.at(*place)


def _smooth(
    solution: Solution, hand: Stars, order: int, rep_fact: int, meta: dict[str, Any]
) -> tuple[PSFModel | None, PSFVariation]:
    """Return the smooth PSF that varies as far as it is a star everywhere, or none; how it does."""
    found = _not_seen(hand)
    if np.isfinite(solution.misfit):
        with suppress(PSFError):  # of a fit that ran away
            found = variation_of(solution, hand.pixels, hand.x, hand.y, hand.frame_shape)
            note, most = "", order
            while True:
                varied, order, reason = _vary(solution, hand, found, most)
                told = meta | {"order": order, "order_reason": note or reason}
                psf = held_over_frame(_model(varied, order, hand, rep_fact, told))
                if psf is not None:
                    break
                note = f"of order {order} the PSF would be no star somewhere on the frame"
                most = order - 1
            with suppress(PSFError):  # as it is, if what is shared makes no star of it
                return with_shared_light(psf, hand), found
            return psf, found
    return None, found


def _not_seen(hand: Stars) -> PSFVariation:
    """Return the variation of stars that could not be measured."""
    nothing = np.zeros((len(hand.x), 3))
    return fit_variation(hand.x, hand.y, nothing, nothing + np.inf, hand.frame_shape)


def _vary(
    solution: Solution, hand: Stars, found: PSFVariation, most: int
) -> tuple[Solution, int, str]:
    """Return the solution that varies as far as the stars show it, its order, and why."""
    if most == 0:
        return solution, 0, "a PSF that does not vary was asked for"
    if not found.real:
        return solution, 0, found.verdict
    try:
        fit, choice = solve_field(solution.fit, hand.x, hand.y, found, most)
    except PSFError as error:
        return solution, 0, f"no PSF that varies fits the stars ({error})"
    if choice.order == 0:
        return solution, 0, choice.reason
    return solution_of(fit), choice.order, choice.reason


def _model(
    solution: Solution, order: int, hand: Stars, rep_fact: int, meta: dict[str, Any]
) -> PSFModel:
    """Return the model of a solution; of its mean, if the order is 0."""
    size, alpha, beta = hand.size, solution.moffat.alpha, solution.moffat.beta
    light = solution.table(size, rep_fact, np.eye(len(solution.coefficients))[0])
    moffat = profile(alpha, beta, np.zeros((size * rep_fact,) * 2), rep_fact)
    scale = centre_on_pixel(moffat, rep_fact)[0].sum() / centre_on_pixel(light, rep_fact)[0].sum()
    terms = None
    if order > 0:
        span, weights = _components(solution.fit)
        tables = [
            as_lookup_table(table * scale, rep_fact)
            for table in solution.changes(size, rep_fact, span)
        ]
        terms = PSFTerms(np.array(tables), weights, hand.frame_shape, hand.first)
    return PSFModel(
        as_lookup_table(light * scale - moffat, rep_fact),
        alpha,
        beta,
        rep_fact,
        stars=np.column_stack([hand.places, solution.flux]),
        meta=meta,
        terms=terms,
    )


def _components(fit: Fit) -> tuple[FloatArray, FloatArray]:
    """Return the functions (k, r) that a fit's variation is made of, and their weights."""
    assert fit.span is not None
    weights = np.linalg.lstsq(fit.span, fit.c[1:].T)[0].T
    return fit.span, np.asarray(weights, dtype=np.float64)


def _warn_of_variation(found: PSFVariation, psf: PSFModel) -> None:
    if not found.significant:
        return
    text = f"{found.verdict}. The stars do not suffice to follow it: this is its mean"
    if psf.varies:
        meta = psf.meta
        text = (
            f"the PSF varies over the frame: FWHM from {meta['fwhm_least']:.2f} to "
            f"{meta['fwhm_most']:.2f} pixels, rms {meta['fwhm_variation']:.2%}, and "
            f"{meta['shape_variation']:.4f} in ellipticity. The PSF and its file know it, to order "
            f"{psf.order}; for what knows one PSF a frame, at=(x, y), or --at X Y, makes that of a "
            "place"
        )
    warnings.warn(text, AstropyUserWarning, stacklevel=3)
