"""A drop-in for TRIPPy's star chooser: its arguments and returns, the network's choice, no window.

TRIPPy's users find it as ``mlpsf.psf.trippy.starChooser``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray

from mlpsf.errors import InputError, TooFewStarsError
from mlpsf.frames.frame import Frame
from mlpsf.frames.io.catalogue import repeated_rows
from mlpsf.frames.io.reading import read_frame
from mlpsf.pipeline import select_stars
from mlpsf.psf.trippy.chooser import fit_as_chooser, has_room
from mlpsf.selection.choice import THRESHOLD

__all__ = ["starChooser"]

FloatArray = NDArray[np.float64]


class starChooser:
    """Choose PSF stars of a list of candidates, as ``trippy.psfStarChooser.starChooser`` is used.

    TRIPPy fits a Moffat profile to every candidate and opens a window in which the user strikes the
    bad ones. This asks the network instead, and fits those that it chose.

    Parameters
    ----------
    data : (ny, nx) array, or Frame, path, CCDData ...
        The image. Of an array, gain and saturation are estimated; a frame brings its own.
    XWIN_IMAGE, YWIN_IMAGE : (n,) array_like
        Positions of the candidates, counted from 1 as SExtractor does.
    FLUX_AUTO, FLUXERR_AUTO : (n,) array_like
        Their fluxes and errors.
    zscaleNsamp, zscaleContrast
        Of TRIPPy's display; not used.
    minGoodVal : float, optional
        Pixels below it are bad.
    selector : {"cnn", "residual"} or an estimator
        As in `mlpsf.select_stars`.
    threshold : float
        Least probability of a chosen star.
    n_max : int, optional
        Most stars to choose; by default all that are good, as in TRIPPy.

    Attributes
    ----------
    points : (n, 7) array
        The fits, as returned.
    goodStars : (n,) array of bool
        True for each of them.
    stars : Table
        The candidates that were judged, as a star table with probabilities and reasons.

    Examples
    --------
    A script of TRIPPy's with one import changed (``data`` and the columns are of SExtractor)::

        from mlpsf.psf.trippy import starChooser  # was: from trippy.psfStarChooser import ...

        chooser = starChooser(data, x, y, flux, fluxerr)
        goodFits, goodMeds, goodSTDs = chooser(30, 200)
        goodPSF = psf.modelPSF(np.arange(61), np.arange(61), alpha=goodMeds[2], beta=goodMeds[3])
        goodPSF.genLookupTable(data, goodFits[:, 4], goodFits[:, 5])
    """

    def __init__(
        self,
        data: Any,
        XWIN_IMAGE: ArrayLike,
        YWIN_IMAGE: ArrayLike,
        FLUX_AUTO: ArrayLike,
        FLUXERR_AUTO: ArrayLike,
        zscaleNsamp: int = 200,  # noqa: ARG002
        zscaleContrast: float = 1.0,  # noqa: ARG002
        minGoodVal: float | None = None,
        *,
        selector: Any = "cnn",
        threshold: float = THRESHOLD,
        n_max: int | None = None,
    ) -> None:
        columns = [
            np.atleast_1d(np.asarray(v, dtype=np.float64))
            for v in (XWIN_IMAGE, YWIN_IMAGE, FLUX_AUTO, FLUXERR_AUTO)
        ]
        if len({v.shape for v in columns}) != 1 or columns[0].ndim != 1:
            raise InputError(
                "XWIN_IMAGE, YWIN_IMAGE, FLUX_AUTO and FLUXERR_AUTO hold one number a candidate. "
                f"Got shapes {', '.join(str(v.shape) for v in columns)}."
            )
        self.XWIN_IMAGE, self.YWIN_IMAGE, self.FLUX_AUTO, self.FLUXERR_AUTO = columns
        self.data = data
        self.minGoodVal = minGoodVal
        self.selector = selector
        self.threshold = threshold
        self.n_max = n_max

    def __call__(
        self,
        moffatWidth: int,
        moffatSNR: float,
        initAlpha: float = 5.0,
        initBeta: float = 2.0,
        repFact: int = 3,
        xWidth: int = 51,
        yWidth: int = 51,
        bgRadius: float = 20.0,
        ftol: float = 1.49012e-8,
        quickFit: bool = True,
        autoTrim: bool = False,  # noqa: ARG002 - the network trims
        noVisualSelection: bool = False,  # noqa: ARG002 - there is no window
        verbose: bool = False,
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Choose the stars and fit a Moffat profile to each.

        Parameters
        ----------
        moffatWidth : int
            Half-width of the fitted box in pixels. Candidates without this room are left out.
        moffatSNR : float
            Least ``FLUX_AUTO / FLUXERR_AUTO`` of a star.
        initAlpha, initBeta, repFact, xWidth, yWidth, bgRadius, ftol, quickFit, verbose
            Of TRIPPy's fits, as there.
        autoTrim, noVisualSelection
            Not used: the network trims, and there is no window.

        Returns
        -------
        goodFits : (n, 7) array
            FWHM, chi, alpha, beta, x, y (as given, from 1) and background of each chosen star.
        goodMeds, goodSTDs : (7,) arrays
            Medians and standard deviations over all of them. (TRIPPy 1.1.1 takes those of the
            first four stars.)

        Raises
        ------
        TooFewStarsError
            If no candidate is a good star.
        """
        frame = self._frame()
        with np.errstate(divide="ignore", invalid="ignore"):
            snr = self.FLUX_AUTO / self.FLUXERR_AUTO
        bright = snr > moffatSNR
        room = has_room(self.XWIN_IMAGE, self.YWIN_IMAGE, moffatWidth, frame.shape)
        rows = np.flatnonzero(bright & room)
        # Windowed centres of the parts of a blend may meet on its star, which is one candidate.
        rows = np.delete(rows, repeated_rows(self.XWIN_IMAGE[rows], self.YWIN_IMAGE[rows]))
        if len(rows) == 0:
            raise TooFewStarsError(
                f"None of the {len(bright)} candidates has a signal-to-noise ratio above "
                f"{moffatSNR:g} and {moffatWidth + 1} pixels to the edge on every side.",
                found=0,
                wanted=1,
                threshold=self.threshold,
                enough_at=float("nan"),
            )
        candidates = Table(
            {
                "id": rows + 1,
                # Only here: TRIPPy's positions count from 1.
                "x": self.XWIN_IMAGE[rows] - 1.0,
                "y": self.YWIN_IMAGE[rows] - 1.0,
            }
        )
        self.stars = select_stars(
            frame,
            selector=self.selector,
            catalogue=candidates,
            threshold=self.threshold,
            n_max=len(rows) if self.n_max is None else self.n_max,
            n_min=1,
            snr_min=0.0,  # the candidates' own ratios decide
        )
        chosen = np.asarray(self.stars["id"][self.stars["selected"]], dtype=int) - 1
        fits = fit_as_chooser(
            frame.data,
            self.XWIN_IMAGE[chosen],
            self.YWIN_IMAGE[chosen],
            width=moffatWidth,
            alpha=initAlpha,
            beta=initBeta,
            rep_fact=repFact,
            box=(xWidth, yWidth),
            bg_radius=bgRadius,
            ftol=ftol,
            quick=quickFit,
            verbose=verbose,
        )
        self.points = fits[np.isfinite(fits).all(axis=1)]
        self.goodStars = np.ones(len(self.points), dtype=bool)
        return self.points, np.median(self.points, axis=0), np.std(self.points, axis=0)

    def _frame(self) -> Frame:
        frame = read_frame(self.data)
        if self.minGoodVal is None:
            return frame
        return read_frame(frame, mask=frame.data < self.minGoodVal)
