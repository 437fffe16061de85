"""How much a PSF changes over its frame: figures of the PSF itself, as it is drawn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from mlpsf.psf.model import PSFModel

__all__ = ["variation_over_frame"]

_STEPS = np.array([-1.0, 0.0, 1.0])  # places along each axis, from one edge to the other


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
            table = psf.lookup_table + psf.terms.change(x, y)
            here = replace(psf, lookup_table=table, terms=None).shape
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
