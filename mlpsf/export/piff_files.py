"""Piff: a PSF file that ``piff.read`` opens, and a catalogue with its configuration."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

from mlpsf.errors import MissingPackageError
from mlpsf.export.places import (
    effective,
    fit_over_frame,
    frame_size,
    half_cells,
    hdu_bytes,
    order_of,
    sign,
)
from mlpsf.export.psfex import sampling_step
from mlpsf.export.tables import psf_rows
from mlpsf.frames.cutouts import PSF_MARGIN, psf_size
from mlpsf.frames.frame import Frame

__all__ = ["as_piff", "piff_catalogue", "piff_psf"]


def as_piff(psf: Any, *, frame_shape: tuple[int, int] | None = None) -> Any:
    """Return the PSF as Piff's own object, a ``PixelGrid`` with a ``BasisPolynomial``.

    Parameters
    ----------
    psf : PSFModel
    frame_shape : (int, int), optional
        Rows and columns of the frame.

    Returns
    -------
    piff.SimplePSF
        In pixels of the frame: its WCS is a pixel scale of 1. Positions count from 1, as
        everywhere in Piff.

    Raises
    ------
    MissingPackageError
        If Piff is not installed.

    Examples
    --------
    >>> from mlpsf.psf import PSFModel
    >>> psf = as_piff(PSFModel(np.zeros((210, 210)), 3.0, 3.0))  # doctest: +SKIP
    >>> psf.draw(120.0, 80.0, stamp_size=25).array.shape  # doctest: +SKIP
    (25, 25)
    """
    try:
        import galsim
        import piff
    except ImportError as error:
        raise MissingPackageError(
            "A PSF file of Piff is written by Piff itself: pip install 'mlpsf[export]'"
        ) from error
    shape = frame_size(psf, frame_shape)
    degree, step = order_of(psf), sampling_step(psf)
    half = half_cells(psf, step)

    def terms(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        # Piff's own order: the power of y runs fastest. Its positions count from 1.
        powers = [(i, j) for i in range(degree + 1) for j in range(degree + 1 - i)]
        return np.column_stack([(x + 1.0) ** i * (y + 1.0) ** j for i, j in powers])

    # Its grid holds the light of a cell, not of a pixel.
    cube = fit_over_frame(psf, lambda here: effective(here, step, half) * step**2, terms, shape)
    side = cube.shape[-1]
    out = piff.SimplePSF(
        piff.PixelGrid(scale=step, size=side), piff.BasisPolynomial(order=degree, keys=("x", "y"))
    )
    out.interp.q = np.ascontiguousarray(cube.reshape(len(cube), -1).T)
    out.set_context({0: galsim.PixelScale(1.0)}, None)
    return out


def piff_psf(psf: Any, *, frame_shape: tuple[int, int] | None = None) -> bytes:
    """Return the content of a Piff file, written by Piff; see `as_piff`."""
    made = as_piff(psf, frame_shape=frame_shape)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "psf.piff"
        made.write(str(path))
        with fits.open(path, mode="update") as hdus:
            sign(hdus[0].header, psf.meta, len(psf.stars))
        return path.read_bytes()


def piff_catalogue(
    frame: Frame, stars: Table, *, image: str, hdu: int, catalogue: str, output: str
) -> tuple[bytes, bytes]:
    """Return a catalogue of the chosen stars and the configuration that makes their PSF.

    Parameters
    ----------
    frame : Frame
    stars : Table
        Star table; its selected rows that are not reserved are written.
    image : str
        Path of the frame as the configuration is to name it.
    hdu : int
        Number of the frame's HDU.
    catalogue, output : str
        Names of the catalogue and of the PSF file that Piff is to write.

    Returns
    -------
    configuration, catalogue : bytes
        YAML for ``piffify``; a FITS table with ``x``, ``y`` (counted from 1) and ``sky`` (ADU).
    """
    chosen = psf_rows(stars)
    x, y = (np.asarray(chosen[name], dtype=np.float64) for name in "xy")
    ny, nx = frame.shape
    at = np.clip(np.rint(y), 0, ny - 1).astype(int), np.clip(np.rint(x), 0, nx - 1).astype(int)
    rows = Table({"id": chosen["id"], "x": x + 1.0, "y": y + 1.0})
    rows["sky"] = np.asarray(frame.background.level, dtype=np.float64)[at]
    table = fits.table_to_hdu(rows)
    sign(table.header, stars.meta)
    fwhm = float(stars.meta.get("fwhm", 4.0))
    stamp = psf_size(fwhm) + 2 * PSF_MARGIN
    # Cells of a quarter of the FWHM, at least a pixel: finer ones are noise of 25 stars.
    scale = max(1.0, round(fwhm / 4, 2))
    size = int((stamp - 1) / scale / 2) * 2 + 1
    settings: dict[str, dict[str, Any]] = {
        "input": {
            "image_file_name": image,
            "image_hdu": hdu,
            "cat_file_name": catalogue,
            "cat_hdu": 1,
            "x_col": "x",
            "y_col": "y",
            "sky_col": "sky",
            "noise": float(np.median(frame.background.rms) ** 2),
            "gain": float(frame.gain),
            "satur": float(min(frame.saturation, 1e15)),
            "stamp_size": int(stamp),
            "wcs": "{type: PixelScale, scale: 1.0}",
        },
        "psf": {
            "type": "Simple",
            "model": f"{{type: PixelGrid, scale: {scale}, size: {size}}}",
            "interp": "{type: BasisPolynomial, order: 0}",
        },
        "output": {"file_name": output},
    }
    lines = [
        "# Written by mlpsf: the stars that it chose, for piffify. The PSF is constant and in",
        "# pixels; for one that varies raise the order, to 1 from 10 stars and 2 from 20.",
    ]
    for section, entries in settings.items():
        lines.append(f"{section}:")
        lines += [f"  {key}: {_yaml(value)}" for key, value in entries.items()]
    return ("\n".join(lines) + "\n").encode(), hdu_bytes(fits.PrimaryHDU(), table)


def _yaml(value: Any) -> str:
    if isinstance(value, str) and not value.startswith("{"):
        return "'" + value.replace("'", "''") + "'"
    return str(value)
