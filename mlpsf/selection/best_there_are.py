"""What PSF the best stars of a frame would make, where too few of them reach the threshold."""

from __future__ import annotations

import warnings
from contextlib import suppress

import numpy as np
from astropy.table import Table

from mlpsf.errors import MlpsfError
from mlpsf.frames.frame import Frame
from mlpsf.psf.build import build_psf
from mlpsf.psf.quality.judge import psf_quality
from mlpsf.selection.choice import candidates

__all__ = ["say_what_the_best_give"]

_FEWEST = 3  # stars, so that two are left when one is taken out
_ENOUGH = 25  # stars of a PSF, as n_max: more change little, and cost
_MOST = 8  # stars that are left out in turn; each costs a PSF


def say_what_the_best_give(frame: Frame, table: Table) -> str:
    """Build the PSF of the best stars there are, and judge it by each star left out of it.

    Parameters
    ----------
    frame : Frame
    table : Table
        Table of a choice that found too few stars.

    Returns
    -------
    str
        Sentences for the message, with the error to expect; empty where no PSF can be made.
    """
    probability = np.asarray(table["probability"], dtype=np.float64)
    best = candidates(table, probability)[: min(int(table.meta["n_min"]), _ENOUGH)]
    if len(best) < _FEWEST:
        return ""
    stars = np.column_stack([table["x"][best], table["y"][best]])
    residual, size = [], []
    with warnings.catch_warnings(), suppress(MlpsfError):
        warnings.simplefilter("ignore")
        psf = build_psf(frame, stars, order=0)
        for k in range(min(len(stars), _MOST)):
            with suppress(MlpsfError):
                others = build_psf(frame, np.delete(stars, k, axis=0), order=0)
                quality = psf_quality(frame, others, stars[k : k + 1])
                residual.append(quality.residual_peak)
                size.append(abs(quality.size_residual) / 2)  # of the FWHM, not of its square
        if residual:
            low, high = probability[best[-1]], probability[best[0]]
            return (
                f" The best {len(best)}, of probability {low:.2g} to {high:.2g}, make a PSF of "
                f"FWHM {psf.fwhm:.3g} pixels. On a star left out of it, noise included, it is off "
                f"by {100 * np.median(residual):.2g} % of the peak and {100 * np.median(size):.2g} "
                "% in FWHM."
            )
    return ""
