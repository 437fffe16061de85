"""How much a PSF changes over its frame: figures of the PSF itself, as it is drawn."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpsf.errors import PSFError
from mlpsf.psf.model import PSFModel

__all__ = ["fwhm_over", "held_over_frame", "variation_over_frame"]

_BEYOND = (1 / 3, 0.2, 0.1, 0.0)  # of the range at the stars, by which amounts may go beyond it
_WIDER = 0.5  # of the range of the FWHM at the stars: no more is believed beyond them
_ERROR = 0.05  # of the FWHM, in the logarithm
_STARS = 32  # whose FWHM is looked at
_STEPS = np.array([-1.0, 0.0, 1.0])  # places along each axis, from one edge to the other


def held_over_frame(psf: PSFModel) -> PSFModel | None:
    """Hold a PSF that varies near what its stars show, where it is beyond them.

    Its images are sums: where stars of twice the width are foretold, they may be wider by any
    amount, or no stars at all.

    Parameters
    ----------
    psf : PSFModel
        With the stars that it was made of.

    Returns
    -------
    PSFModel or None
        With the figures of `variation_over_frame` in ``meta``; as it is, if it does not vary. None
        if somewhere it is no star, however it is held.
    """
    if psf.terms is None:
        return psf
    x, y = psf.stars[:, :2].T
    some = slice(None, None, -(-len(x) // _STARS))
    for beyond in _BEYOND:
        held = replace(psf, terms=psf.terms.held(x, y, beyond))
        try:
            figures = variation_over_frame(held)
        except PSFError:
            continue
        at_stars = np.log(fwhm_over(held, x[some], y[some]))
        if np.isnan(at_stars).any():
            continue
        low, high = at_stars.min(), at_stars.max()
        more = _WIDER * (high - low) + _ERROR
        least, most = np.log([figures["fwhm_least"], figures["fwhm_most"]])
        if beyond == 0 or (least >= low - more and most <= high + more):
            return replace(held, meta={**psf.meta, **figures})
    return None


def fwhm_over(psf: PSFModel, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the FWHM of a PSF at places on its frame, shape (n,); NaN where it is no star."""
    if psf.terms is None:
        return np.full(len(x), psf.fwhm)
    fwhm = np.full(len(x), np.nan)
    for k, place in enumerate(zip(x, y, strict=True)):
        with suppress(PSFError):
            fwhm[k] = _shape(psf, *place).fwhm
    return fwhm


def _shape(psf: PSFModel, x: float, y: float) -> Any:
    assert psf.terms is not None
    return replace(psf, lookup_table=psf.lookup_table + psf.terms.change(x, y), terms=None).shape


def variation_over_frame(psf: PSFModel) -> dict[str, Any]:
    """Return the size and direction of the variation of a PSF; empty if it does not vary.

    The PSF is measured at the corners, the middles of the edges, and the centre of the frame, held
    as it is where it is drawn (see `mlpsf.psf.terms.PSFTerms`).

    Parameters
    ----------
    psf : PSFModel

    Returns
    -------
    dict
        ``fwhm_least`` and ``fwhm_most`` in pixels; ``fwhm_variation``, the rms of the relative
        FWHM over the frame; ``shape_variation``, that of the ellipticity; ``variation_angle``, the
        direction in which the FWHM grows, in degrees from +x towards +y.

    Examples
    --------
    >>> variation_over_frame(PSFModel(np.zeros((210, 210)), 3.0, 3.0))
    {}
    """
    if psf.terms is None:
        return {}
    (ny, nx), (x0, y0) = psf.terms.frame_shape, psf.terms.first
    shapes = []
    for v in _STEPS:
        for u in _STEPS:
            x, y = x0 + (1 + u) * (nx - 1) / 2, y0 + (1 + v) * (ny - 1) / 2
            here = _shape(psf, x, y)
            shapes.append((here.fwhm, here.e1, here.e2))
    seen = np.array(shapes).reshape(3, 3, 3)
    fwhm = seen[..., 0]
    # The parabola through three places, on a fine grid: the corners are but a small part of it.
    fine = np.linspace(-1, 1, 33)
    through = np.polynomial.polynomial.polyvander(fine, 2) @ np.linalg.inv(
        np.polynomial.polynomial.polyvander(_STEPS, 2)
    )
    size, *shape = through @ np.moveaxis(seen, 2, 0) @ through.T
    slope = [(size * fine[None, :]).mean() / nx, (size * fine[:, None]).mean() / ny]
    return {
        "fwhm_least": float(fwhm.min()),
        "fwhm_most": float(fwhm.max()),
        "fwhm_variation": float(size.std() / size.mean()),
        "shape_variation": float(np.hypot(*(e.std() for e in shape))),
        "variation_angle": float(np.degrees(np.arctan2(slope[1], slope[0]))),
    }
