"""Quality figures of a PSF, and a score for a pass or fail decision in a pipeline."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray

from mlpsf.errors import InputError

__all__ = ["ELLIPTICITY_LIMIT", "SIZE_LIMIT", "PSFQuality"]

FloatArray = NDArray[np.float64]

SIZE_LIMIT = 0.004
"""Largest absolute dT/T that passes: the HSC survey's requirement on a PSF's fractional size
(Mandelbaum et al. 2018, PASJ 70, S25), applied to T, which is stricter."""

ELLIPTICITY_LIMIT = 0.007
"""Largest ellipticity residual that passes: the limit for exposures in LSST's pipelines
(``pipe_tasks``, ``maxEllipResidual``)."""

_FLUX_UNIT = 2.5 / np.log(10)  # magnitudes per small relative change


@dataclass(frozen=True, eq=False, repr=False)
class PSFQuality:
    """Agreement of a PSF with stars, or with the truth.

    Attributes
    ----------
    n_stars : int
        Number of stars used to judge the PSF; 0 for the truth.
    reserved : bool
        Whether these stars were kept out of the PSF. If not, the figures are too good.
    size_residual, size_error : float
        Median dT/T and its standard error.
    e1_residual, e2_residual, e_error : float
        Median residuals of the distortion, and the standard error of each.
    flux_residual, flux_error : float
        Relative residual of the light within 1.5 FWHM, for the same total within the largest of
        `radii`: about 3 FWHM, or the stamp for the truth.
    chi_square : float
        Median over stars of the reduced chi-square within 2 FWHM; NaN for the truth.
    residual_image : ndarray, shape (size, size)
        Median over stars of PSF minus star, over the peak of the PSF. No star is shifted.
    residual_peak : float
        Largest absolute value of `residual_image` within 2 FWHM.
    radii : ndarray, shape (m,)
        Radii of apertures in pixels.
    growth, measured_growth, growth_error : ndarray, shape (m,)
        Fraction of the light in the PSF's box within each radius: of the PSF; of the stars,
        normalised to the PSF at the largest radius; standard error of the latter.
    stars : Table
        One row per star: ``x``, ``y``, ``flux``, ``snr``, ``size_residual``, ``e1_residual``,
        ``e2_residual``, ``flux_residual``, ``chi_square``, ``fwhm``, ``e1``, ``e2``.
    map_x, map_y : ndarray, shape (k,)
        Columns and rows of the maps in pixels.
    fwhm_map, ellipticity_map : ndarray, shape (k, k)
        FWHM in pixels and 1 - b/a over the frame, from a surface fitted to the stars: a constant
        for fewer than 6 stars, a plane for fewer than 15, else a quadratic.
    """

    n_stars: int
    reserved: bool
    size_residual: float
    size_error: float
    e1_residual: float
    e2_residual: float
    e_error: float
    flux_residual: float
    flux_error: float
    chi_square: float
    residual_image: FloatArray
    residual_peak: float
    radii: FloatArray
    growth: FloatArray
    measured_growth: FloatArray
    growth_error: FloatArray
    stars: Table
    map_x: FloatArray
    map_y: FloatArray
    fwhm_map: FloatArray
    ellipticity_map: FloatArray

    @property
    def ellipticity_residual(self) -> float:
        """Length of (e1_residual, e2_residual)."""
        return float(np.hypot(self.e1_residual, self.e2_residual))

    @property
    def score(self) -> float:
        """Score for a pass or fail decision; 1 is the limit of weak-lensing surveys.

        It is the larger of the absolute dT/T over `SIZE_LIMIT` and the ellipticity residual over
        `ELLIPTICITY_LIMIT`. The standard error of each is subtracted in quadrature, so that noise
        alone gives about 0; against the truth nothing is subtracted. At a score of 1, fluxes of PSF
        fits are accurate to about 0.2 percent, and a shape measured with the PSF to 0.007.
        """
        size = np.sqrt(max(self.size_residual**2 - self.size_error**2, 0.0))
        e = np.sqrt(max(self.ellipticity_residual**2 - 2 * self.e_error**2, 0.0))
        return float(max(size / SIZE_LIMIT, e / ELLIPTICITY_LIMIT))

    @property
    def score_error(self) -> float:
        """Error of the score from noise; above 1, these stars cannot tell a good PSF from a bad."""
        return float(max(self.size_error / SIZE_LIMIT, self.e_error / ELLIPTICITY_LIMIT))

    def passes(self, limit: float = 1.0, *, strict: bool = False) -> bool:
        """Return whether the score is within a limit.

        Parameters
        ----------
        limit : float
            Highest score that passes.
        strict : bool
            Whether the PSF fails if `score_error` is above `limit`, so that the stars could not
            have shown a failure.
        """
        return bool(self.score <= limit and (not strict or self.score_error <= limit))

    def aperture_correction(self, radius: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Return the correction from aperture magnitudes to those of the PSF's box.

        Parameters
        ----------
        radius : float or ndarray
            In pixels, within the range of `radii`.

        Returns
        -------
        correction, error : ndarray
            `correction`, to be added, is ``2.5 log10`` of the PSF's curve of growth. It is above 0
            only for a PSF with negative wings. `error` is the standard error of the stars' curve
            and its difference from the PSF's, added in quadrature.

        Raises
        ------
        InputError
            If a radius is out of range.
        """
        at = np.asarray(radius, dtype=np.float64)
        if not ((at >= self.radii[0]) & (at <= self.radii[-1])).all():
            raise InputError(
                f"A radius must be {self.radii[0]:g} to {self.radii[-1]:g} pixels. Got {at}."
            )
        share = np.interp(at, self.radii, self.growth)
        off = np.hypot(self.growth_error, self.measured_growth - self.growth)
        error = _FLUX_UNIT * np.interp(at, self.radii, off) / share
        return 2.5 * np.log10(share), error

    def to_table(self) -> Table:
        """Return all scalar figures as a table with one row."""
        names = (
            "n_stars reserved size_residual size_error e1_residual e2_residual "
            "ellipticity_residual e_error flux_residual flux_error chi_square residual_peak "
            "score score_error"
        )
        return Table([{name: getattr(self, name) for name in names.split()}])

    def __repr__(self) -> str:
        kind = "reserve" if self.reserved else "own"
        by = f"{self.n_stars} {kind} stars" if self.n_stars else "the truth"
        return (
            f"<PSFQuality by {by}: "
            f"dT/T {self.size_residual:+.4f} +- {self.size_error:.4f}, "
            f"de {self.ellipticity_residual:.4f} +- {self.e_error:.4f}, "
            f"chi-square {self.chi_square:.2f}, score {self.score:.2f}>"
        )
