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
from mlpsf.psf.classic import corrected_psf, trippy_table
from mlpsf.psf.model import PSFModel
from mlpsf.psf.over_frame import held_over_frame
from mlpsf.psf.quality.star_fits import FitScale, fit_stars, inside
from mlpsf.psf.quality.star_shapes import drawn_at
from mlpsf.psf.solver.field import solve_field
from mlpsf.psf.solver.fit import Fit
from mlpsf.psf.solver.polynomial import order_for, polynomial
from mlpsf.psf.solver.solve import MISFIT, NO_PSF, ROUNDS, SHARED, Solution, solution_of, solve
from mlpsf.psf.solver.stars import Stars, cut_stars, say_left_out
from mlpsf.psf.solver.variation import PSFVariation, variation_of
from mlpsf.psf.terms import PSFTerms
from mlpsf.psf.trippy import border as border
from mlpsf.psf.trippy.inputs import check_place
from mlpsf.psf.trippy.tables import centre_on_pixel, profile
from mlpsf.version import __version__

__all__ = ["METHODS", "build_psf"]

FloatArray = NDArray[np.float64]

METHODS = ("refined", "trippy")
"""Methods to build a PSF."""


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
    best the stars that are left out of the fit (see `mlpsf.psf.solver.field`). If no smooth PSF
    describes the stars, as for a badly misaligned telescope, TRIPPy's table corrected for its blur
    is used instead where it leaves less of them (``meta["method"]`` is then 'corrected').

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
        their brightness (`mlpsf.psf.agreement`). If no smooth PSF describes the stars. If they were
        chosen on another frame.

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
    if rounds >= 2 and np.isinf(solution.misfit):
        return _unsmooth(hand, rep_fact, meta, place)
    found = variation_of(solution, hand.pixels, hand.x, hand.y, hand.frame_shape)
    first = solution
    solution, psf = _held(solution, hand, found, order, rep_fact, meta)
    amiss = first.misfit > NO_PSF or first.shared > SHARED
    if rounds >= 2 and amiss and not _is_better(psf, hand, rep_fact, first):
        return _unsmooth(hand, rep_fact, meta, place)
    psf.check()
    for text in disagreements(psf, hand, solution.flux, found, stars, place):
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
    return psf.at(*place)


def _held(
    solution: Solution,
    hand: Stars,
    found: PSFVariation,
    most: int,
    rep_fact: int,
    meta: dict[str, Any],
) -> tuple[Solution, PSFModel]:
    """Return the solution and the PSF that varies as far as it is a star everywhere."""
    note = ""
    while True:
        varied, order, reason = _vary(solution, hand, found, most)
        told = meta | {"order": order, "order_reason": note or reason}
        psf = held_over_frame(_model(varied, order, hand, rep_fact, told))
        if psf is not None:
            return varied, psf
        note = f"of order {order} the PSF would be no star somewhere on the frame"
        most = order - 1


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
            _lookup_table(table * scale, rep_fact)
            for table in solution.changes(size, rep_fact, span)
        ]
        terms = PSFTerms(np.array(tables), weights, hand.frame_shape, hand.first)
    return PSFModel(
        _lookup_table(light * scale - moffat, rep_fact),
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


def _is_better(psf: PSFModel, hand: Stars, rep_fact: int, first: Solution) -> bool:
    """Return whether a PSF that leaves too much of its stars fits them better than a table."""
    try:
        psf.check()
    except PSFError:
        return False
    x, y = hand.places.T
    with suppress(PSFError):  # of which there is no table
        table = corrected_psf(hand.pixels, x, y, hand.size, rep_fact)
        if not _left(psf, hand) < _left(table, hand):
            return False
    if first.misfit > NO_PSF:
        text = (
            f"the stars differ from the PSF by {first.misfit:.1f} times their noise: their images "
            "change over the frame in a way that it does not follow. More stars (n_max, --n-max) "
            "may show it; or make the PSF of a part of the frame"
        )
    else:
        text = f"the mean PSF leaves up to {first.shared:.0%} of the peak of all stars alike"
    warnings.warn(text, AstropyUserWarning, stacklevel=3)
    return True


def _left(psf: PSFModel, hand: Stars) -> float:
    """Return the light that a PSF leaves of the stars it is made of, per light, in the median."""
    stars = hand.pixels
    scale = FitScale(1.5 * stars.fwhm, stars.gain)
    data = np.where(stars.bad, 0.0, stars.data)
    noise = stars.noise[:, None, None]
    drawn = drawn_at(psf, *hand.places.T)
    _, star, model, _ = fit_stars(drawn, data, ~stars.bad, noise, scale)
    nothing = np.zeros(len(stars))
    core = inside(data.shape[-1], nothing, nothing, scale.fitted) & ~stars.bad
    square = [np.where(core, part**2, 0.0).sum(axis=(1, 2)) for part in (star - model, model)]
    lit = square[1] > 0
    return float(np.median(square[0][lit] / square[1][lit])) if lit.any() else np.inf


def _unsmooth(
    hand: Stars, rep_fact: int, meta: dict[str, Any], place: tuple[float, float] | None
) -> PSFModel:
    """Build the PSF of stars that no smooth PSF describes; it does not vary with position."""
    mean = "" if place is None else ", and the frame's mean"
    warnings.warn(
        "no smooth PSF describes the stars: this is the table that TRIPPy makes, corrected for its "
        f"blur, with the stars' noise in it{mean}. Are they alike, and single?",
        AstropyUserWarning,
        stacklevel=3,
    )
    x, y = hand.places.T
    psf = corrected_psf(hand.pixels, x, y, hand.size, rep_fact)
    psf.check()
    return replace(psf, meta={**meta, "method": "corrected"})


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


def _lookup_table(lack: FloatArray, rep_fact: int) -> FloatArray:
    """Lay light, beyond that of the Moffat profile, into a lookup table, as `profile` reads it."""
    lack = lack / rep_fact**2
    # The table starts one pixel inside. The light before it is in the wrapped end of the table.
    # Half of that is in the box, in place of the light after the box.
    table, half = lack[rep_fact:, rep_fact:].copy(), rep_fact // 2
    before = slice(rep_fact - half, rep_fact)
    table[-half:] = lack[before, rep_fact:]
    table[:, -half:] = lack[rep_fact:, before]
    table[-half:, -half:] = lack[before, before]
    return np.asarray(table)
