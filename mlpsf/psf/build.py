"""Build the PSF from the stars of a frame and convert it to a TRIPPy lookup table."""

from __future__ import annotations

import warnings
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np
from astropy.utils.exceptions import AstropyUserWarning
from numpy.typing import NDArray

from mlpsf.errors import InputError
from mlpsf.psf.classic import corrected_psf, trippy_table
from mlpsf.psf.model import PSFModel
from mlpsf.psf.solver.solve import MISFIT, ROUNDS, Solution, solve
from mlpsf.psf.solver.stars import Stars, cut_stars, say_left_out
from mlpsf.psf.solver.variation import order_for, polynomial, variation_of
from mlpsf.psf.trippy import border as border
from mlpsf.psf.trippy.tables import centre_on_pixel, profile
from mlpsf.version import __version__

__all__ = ["METHODS", "build_psf", "check_place"]

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
    refinements: int | None = None,
) -> PSFModel:
    """Build a PSF from stars of a frame, for TRIPPy.

    The pixels of all stars are fitted at once with one smooth PSF and the flux, position and sky of
    each star. Struck pixels and light of other sources are left out, but no light of the star (see
    `mlpsf.psf.solver.solve`). The PSF becomes the lookup table of a TRIPPy object. If no smooth PSF
    describes the stars, as for a badly misaligned telescope, TRIPPy's table corrected for its blur
    is used instead (``meta["method"]`` is then 'corrected').

    Parameters
    ----------
    frame : Frame, path, or (ny, nx) array
        Masked, saturated and non-finite pixels are not used.
    stars : Table or (n, 2) array
        Columns x and y, 0-based. If the table has columns `selected` and `reserved`, only selected
        rows that are not reserved are used.
    size : int, optional
        Side of the PSF in pixels, odd. By default 9 FWHM rounded up to an odd number, at least 31
        and at most 101.
    rep_fact : {3, 5, 10}
        Sub-pixels per pixel.
    background : 'mesh', float or (ny, nx) array
        Background to subtract from the frame: a mesh of 64 pixels measured with sep, or the given
        value (0 if already subtracted). The remaining sky at each star is fitted with the star.
    method : {'refined', 'trippy'}
        'trippy' gives the table of the TRIPPy release, for comparison. It is made by genLookupTable
        around the median of the Moffat fits. It is blurred by a pixel and includes the light of
        neighbours.
    at : (float, float), optional
        Position (x, y) on the frame for which to build the PSF, 0-based pixels. The PSF then varies
        as a polynomial: of second order from 12 stars, of first order from 5. By default the PSF is
        the mean over the frame.
    refinements : int, optional
        Maximum number of times that positions, fluxes, skies and the PSF are fitted again, each
        time with the pixels that are clean according to the last PSF. 4 by default. Stops when
        nothing changes.

    Returns
    -------
    PSFModel

    Warns
    -----
    AstropyUserWarning
        If stars are left out because they are too near the edge, masked at the core or over half
        of the box, or without light above the background. The message gives the number of each.
        If the PSF varies over the frame significantly and `at` is not given, or is given with
        fewer than 5 stars. If no smooth PSF describes the stars. If they were chosen on another
        frame.

    Raises
    ------
    InputError
        If a parameter is invalid, or a star's position is not finite or off the frame.
    PSFError
        If no star is given or left.

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
    rounds = ROUNDS if refinements is None else refinements
    if rounds < 0:
        raise InputError(f"refinements must be 0 or more; got {refinements}")
    hand = cut_stars(frame, stars, size=size, background=background)
    place = None if at is None else check_place(at, hand.frame_shape)
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
        return replace(psf, stars=np.column_stack([hand.x, hand.y, flux]))
    order = 0 if place is None else order_for(len(hand.x))
    solution = solve(
        hand.pixels, hand.size, polynomial(hand.x, hand.y, hand.frame_shape, order), rounds
    )
    meta["refinements"] = rounds
    if rounds >= 2 and solution.misfit > MISFIT and place is None and len(hand.x) >= 5:
        # Stars that vary over the frame are described by one PSF only in the mean.
        order = order_for(len(hand.x))
        solution = solve(
            hand.pixels, hand.size, polynomial(hand.x, hand.y, hand.frame_shape, order), rounds
        )
    if rounds >= 2 and solution.misfit > MISFIT:
        return _unsmooth(hand, rep_fact, meta, place)
    if place is None:
        # The mean of the other terms over the frame is 0.
        terms = np.eye(len(solution.coefficients))[0]
        _warn_of_variation(solution, hand)
    else:
        terms = polynomial(*place, hand.frame_shape, order)[0]
        meta |= {"at_x": place[0], "at_y": place[1], "order": order}
        if order == 0:
            warnings.warn(
                f"{len(hand.x)} stars are too few for a PSF at a place, 5 wanted: this is the mean",
                AstropyUserWarning,
                stacklevel=2,
            )
    light = solution.table(hand.size, rep_fact, terms)
    alpha, beta = solution.moffat.alpha, solution.moffat.beta
    return PSFModel(
        _lookup_table(light, alpha, beta, hand.size, rep_fact),
        alpha,
        beta,
        rep_fact,
        stars=np.column_stack([hand.x, hand.y, solution.flux]),
        meta=meta,
    )


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
    psf = corrected_psf(hand.pixels, hand.x, hand.y, hand.size, rep_fact)
    return replace(psf, meta={**meta, "method": "corrected"})


def check_place(at: Any, frame_shape: tuple[int, int]) -> tuple[float, float]:
    """Return a position (x, y) in 0-based pixels; raise `InputError` if it is off the frame."""
    place = np.asarray(at, dtype=np.float64)
    ny, nx = frame_shape
    if place.shape != (2,) or not np.isfinite(place).all():
        raise InputError(f"at must be a place (x, y); got {at}")
    if not ((place >= -0.5) & (place < (nx - 0.5, ny - 0.5))).all():
        raise InputError(f"at must be on the frame of {nx} x {ny} pixels; got {at}")
    return float(place[0]), float(place[1])


def _warn_of_variation(solution: Solution, hand: Stars) -> None:
    found = variation_of(solution, hand.pixels, hand.x, hand.y, hand.frame_shape)
    if found.significant:
        warnings.warn(
            f"{found.verdict}. This is its mean; at=(x, y), or --at X Y, makes it for a place",
            AstropyUserWarning,
            stacklevel=3,
        )


def _lookup_table(
    light: FloatArray, alpha: float, beta: float, size: int, rep_fact: int
) -> FloatArray:
    """Return the lookup table that with the Moffat profile gives the light, as in `profile`."""
    moffat = profile(alpha, beta, np.zeros((size * rep_fact,) * 2), rep_fact)
    scale = centre_on_pixel(moffat, rep_fact)[0].sum() / centre_on_pixel(light, rep_fact)[0].sum()
    lack = (light * scale - moffat) / rep_fact**2
    # The table starts one pixel inside. The light before it is in the wrapped end of the table.
    # Half of that is in the box, in place of the light after the box.
    table, half = lack[rep_fact:, rep_fact:].copy(), rep_fact // 2
    before = slice(rep_fact - half, rep_fact)
    table[-half:] = lack[before, rep_fact:]
    table[:, -half:] = lack[rep_fact:, before]
    table[-half:, -half:] = lack[before, before]
    return np.asarray(table)
