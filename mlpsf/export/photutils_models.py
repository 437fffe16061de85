"""photutils: PSF models as objects, a grid of them as a STDPSF file, and the input of its ePSF."""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy.io import fits
from astropy.nddata import NDData, StdDevUncertainty
from astropy.table import Table

from mlpsf.errors import InputError, MissingPackageError
from mlpsf.export.places import (
    Place,
    effective,
    frame_size,
    half_cells,
    hdu_bytes,
    order_of,
    psf_at,
    sign,
)
from mlpsf.export.tables import psf_rows

__all__ = ["as_gridded_psf", "as_image_psf", "extract_input", "photutils_psf"]

OVERSAMPLING = 4
"""Samples per pixel and axis; a STDPSF file holds no other.

Splines between them follow a PSF of FWHM 4 pixels to 0.1 % of its peak, one of 1.5 to 0.5 %.
"""


def as_image_psf(psf: Any, at: Place | None = None, *, oversampling: int = OVERSAMPLING) -> Any:
    """Return the PSF of a place as photutils' ``ImagePSF``.

    Parameters
    ----------
    psf : PSFModel
    at : (float, float), optional
        Place on the frame, 0-based pixels; by default the mean.
    oversampling : int
        Samples per pixel and axis.

    Returns
    -------
    photutils.psf.ImagePSF

    Raises
    ------
    MissingPackageError
        If photutils is not installed.

    Examples
    --------
    >>> from mlpsf.psf import PSFModel
    >>> model = as_image_psf(PSFModel(np.zeros((210, 210)), 3.0, 3.0))  # doctest: +SKIP
    >>> model.evaluate(10.0, 10.0, flux=1.0, x_0=10.0, y_0=10.0)  # doctest: +SKIP
    """
    models = _photutils().psf
    values = effective(psf_at(psf, at), 1 / oversampling)
    return models.ImagePSF(values, oversampling=oversampling)


def as_gridded_psf(
    psf: Any,
    *,
    frame_shape: tuple[int, int] | None = None,
    grid: int | None = None,
    oversampling: int = OVERSAMPLING,
) -> Any:
    """Return the PSF of a frame as photutils' ``GriddedPSFModel``, which interpolates places.

    Parameters
    ----------
    psf : PSFModel
    frame_shape : (int, int), optional
        Rows and columns of the frame.
    grid : int, optional
        Places along each axis, 2 or more. By default 2 for a constant PSF; for one that varies 9,
        between which a straight line follows a quadratic to 1/128 of its bend over the frame.
    oversampling : int
        Samples per pixel and axis.

    Returns
    -------
    photutils.psf.GriddedPSFModel

    Raises
    ------
    MissingPackageError
        If photutils is not installed.
    InputError
        If `grid` is below 2.
    """
    models = _photutils().psf
    cube, xs, ys = _grid(psf, frame_shape, grid, oversampling)
    places = [(float(x), float(y)) for y in ys for x in xs]
    return models.GriddedPSFModel(
        NDData(cube, meta={"grid_xypos": places, "oversampling": oversampling})
    )


def photutils_psf(
    psf: Any, *, frame_shape: tuple[int, int] | None = None, grid: int | None = None
) -> bytes:
    """Return a STDPSF file: a grid of effective PSFs, as STScI distributes them for its cameras.

    ``photutils.psf.stdpsf_reader`` reads it. Parameters are those of `as_gridded_psf`; photutils
    need not be installed.
    """
    cube, xs, ys = _grid(psf, frame_shape, grid, OVERSAMPLING)
    image = fits.PrimaryHDU(cube.astype(np.float32))
    header = image.header
    header["NXPSFS"], header["NYPSFS"] = len(xs), len(ys)
    # The format counts pixels from 1, and places are whole pixels.
    for k, x in enumerate(xs, 1):
        header[f"IPSFX{k:02d}"] = int(x) + 1
    for k, y in enumerate(ys, 1):
        header[f"JPSFY{k:02d}"] = int(y) + 1
    sign(header, psf.meta, len(psf.stars))
    return hdu_bytes(image)


def _grid(
    psf: Any, frame_shape: tuple[int, int] | None, grid: int | None, oversampling: int
) -> tuple[Any, Any, Any]:
    """Return effective PSFs at a grid of whole pixels, x fastest, and the pixels of each axis."""
    n = (9 if order_of(psf) else 2) if grid is None else grid
    if n < 2:
        raise InputError(f"a grid of PSFs needs 2 places along each axis or more; got {n}")
    if n**2 in (36, 56, 90, 200):
        # photutils takes files of so many PSFs for those of certain cameras with several detectors.
        n += 1
    ny, nx = frame_size(psf, frame_shape)
    xs, ys = (np.unique(np.rint(np.linspace(0, size - 1, n))) for size in (nx, ny))
    step = 1 / oversampling
    half = half_cells(psf, step)
    if order_of(psf):
        planes = [effective(psf_at(psf, (float(x), float(y))), step, half) for y in ys for x in xs]
    else:
        planes = [effective(psf, step, half)] * (len(xs) * len(ys))
    return np.stack(planes), xs, ys


def extract_input(frame: Any, stars: Table) -> tuple[NDData, Table]:
    """Return what photutils' ``extract_stars`` takes: sky-subtracted pixels, and the chosen stars.

    Parameters
    ----------
    frame : Frame
    stars : Table
        Star table; its selected rows that are not reserved are taken.

    Returns
    -------
    data : NDData
        With a mask (saturated and bad pixels) and standard deviations.
    catalogue : Table
        Columns ``x``, ``y`` (0-based pixels) and ``id``.

    Examples
    --------
    >>> from mlpsf import read_frame
    >>> frame = read_frame(np.random.default_rng(0).normal(100, 1, (150, 160)))
    >>> data, catalogue = extract_input(frame, Table({"id": [7], "x": [40.2], "y": [61.0]}))
    >>> data.data.shape, catalogue["x"][0]
    ((150, 160), np.float64(40.2))
    """
    chosen = psf_rows(stars)
    pixels = np.asarray(frame.data - frame.background.level, dtype=np.float64)
    noise = np.sqrt(frame.background.rms**2 + np.maximum(pixels, 0) / frame.gain)
    data = NDData(
        pixels,
        mask=frame.mask | frame.saturated,
        uncertainty=StdDevUncertainty(noise),
    )
    catalogue = Table({name: np.asarray(chosen[name]) for name in ("x", "y", "id")})
    catalogue.meta.update(stars.meta)
    return data, catalogue


def _photutils() -> Any:
    try:
        import photutils.psf
    except ImportError as error:
        raise MissingPackageError(
            "photutils' objects need photutils: pip install 'mlpsf[export]'"
        ) from error
    return photutils
