"""Result of a simulation: the exposure, its header and its truth, and their file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table, vstack
from astropy.wcs import WCS
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from mlpsf.errors import OutputError
from mlpsf.files import whole_file
from mlpsf.frames.frame import Frame
from mlpsf.simulation.detector import Defect
from mlpsf.simulation.psfs import TruePSF
from mlpsf.version import __version__

__all__ = ["SimulatedFrame", "make_header", "make_truth"]


@dataclass(frozen=True, eq=False)
class SimulatedFrame:
    """A simulated exposure and the truth about it.

    Attributes
    ----------
    frame : Frame
        The exposure, sky included, as from a telescope; only its header tells that it is
        simulated. Its mask is true only where there are no data.
    truth : Table
        One row per object: ``id``; ``x``, ``y``, the centre in pixels, 0-based, (0, 0) is the
        centre of the first pixel; ``flux``, in ADU out to infinity; ``kind``, 'star' or 'galaxy';
        ``half_light_radius``, in pixels before the PSF, 0 for stars; ``pair_id``, shared by the
        two stars of an added pair, otherwise -1; ``saturated``, whether a pixel within a FWHM is
        at the saturation level; ``fwhm``, ``e1``, ``e2``, of the effective PSF at the object.
    defects : ndarray of uint8, shape (ny, nx)
        :class:`Defect` bits.
    sky : ndarray of float32, shape (ny, nx)
        The noiseless background in ADU, without ghosts.
    psf : TruePSF
        The PSF with which the objects were drawn, without the brighter-fatter effect.
    """

    frame: Frame
    truth: Table
    defects: NDArray[np.uint8]
    sky: NDArray[np.float32]
    psf: TruePSF

    def write(self, path: str | os.PathLike[str], *, overwrite: bool = True) -> None:
        """Write a FITS file, completely or not at all.

        The primary HDU is the exposure, NaN where there are no data. The extensions are TRUTH
        (a table), DEFECTS and SKY.

        Parameters
        ----------
        path : path-like
            Path of the file.
        overwrite : bool
            Whether to replace an existing file.

        Raises
        ------
        OutputError
            The file cannot be written, or exists and must not be replaced.
        """
        target = Path(path)
        if target.exists() and not overwrite:
            raise OutputError(f"{target} exists: try overwrite=True, or another name.")
        if not target.parent.is_dir():
            raise OutputError(f"cannot write {target}: there is no such folder.")
        data = self.frame.data.copy()
        data[(self.defects & Defect.NO_DATA) > 0] = np.nan
        defects = fits.ImageHDU(self.defects, name="DEFECTS")
        for name, flag in Defect.__members__.items():
            defects.header[name[:8]] = (int(flag), f"bit of {name}")
        units = fits.HDUList(
            [
                fits.PrimaryHDU(data, header=self.frame.header),
                fits.BinTableHDU(self.truth, name="TRUTH"),
                defects,
                fits.ImageHDU(self.sky, name="SKY"),
            ]
        )
        with whole_file(target) as temporary, temporary.open("wb") as stream:
            units.writeto(stream)


def make_truth(stars: Table, galaxies: Table, psf: TruePSF, defects: NDArray[np.uint8]) -> Table:
    """Combine stars and galaxies in one table, with the columns known only after drawing."""
    wanted = ["x", "y", "flux", "kind", "half_light_radius", "pair_id"]
    truth = vstack([stars[wanted], galaxies[wanted]], metadata_conflicts="silent")
    truth.add_column(np.arange(len(truth)), name="id", index=0)
    truth["fwhm"], truth["e1"], truth["e2"] = psf.shape_at(truth["x"], truth["y"])
    truth["saturated"] = np.zeros(len(truth), bool)
    clipped = np.argwhere(defects & Defect.SATURATED)
    if len(clipped) and len(truth):
        distance, _ = cKDTree(clipped).query(np.column_stack([truth["y"], truth["x"]]))
        truth["saturated"] = distance <= np.maximum(truth["fwhm"], 1.5)
    return truth


def make_header(
    given: Mapping[str, Any], saturation: float, centre: tuple[float, float]
) -> tuple[fits.Header, WCS]:
    """Return the header, with the parameters of the simulation, and the WCS."""
    ny, nx = given["shape"]
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = centre
    wcs.wcs.crpix = [(nx + 1) / 2, (ny + 1) / 2]
    wcs.wcs.cdelt = [-given["pixel_scale"] / 3600, given["pixel_scale"] / 3600]
    header = wcs.to_header()
    header["ORIGIN"] = ("mlpsf", "simulated with mlpsf.simulation")
    header["SIMVER"] = (__version__, "version of mlpsf")
    header["BUNIT"] = "adu"
    header["GAIN"] = (float(given["gain"]), "electrons per ADU")
    header["RDNOISE"] = (float(given["read_noise"]), "electrons")
    header["SATURATE"] = (saturation, "ADU")
    header["PIXSCALE"] = (float(given["pixel_scale"]), "arcsec per pixel")
    for name, value in given.items():
        if name == "stars" and value is not None:
            value = f"{len(np.asarray(value))} given stars"
        header.add_history(f"simulate_frame {name} = {value}")
    return header, wcs
