"""LSST: a source catalogue in the layout of ``lsst.afw.table``, with its names and flags."""

from __future__ import annotations

import numpy as np
from astropy.io import fits
from astropy.table import Table

from mlpsf.export.places import hdu_bytes, sign
from mlpsf.flags import NEVER_A_PSF_STAR, Flag

__all__ = ["lsst_catalogue"]

_FLAGS = (
    # name in LSST's pipelines, what it says, flags of mlpsf of which it is set by any
    ("base_PixelFlags_flag_saturatedCenter", "saturated in the core", Flag.SATURATED),
    ("base_PixelFlags_flag_edge", "too near the edge for its cutout", Flag.NEAR_EDGE),
    ("base_PixelFlags_flag_bad", "masked pixels in the core", Flag.MASKED),
    ("base_PixelFlags_flag_crCenter", "struck by a cosmic ray, or a defect", Flag.STRUCK),
    ("deblend_isBlended", "its light was split from another source's", Flag.BLENDED),
)


def lsst_catalogue(stars: Table) -> bytes:
    """Return a star table as a catalogue that ``lsst.afw.table.SourceCatalog.readFits`` reads.

    Parameters
    ----------
    stars : Table
        Star table; all rows are written.

    Returns
    -------
    bytes
        A FITS table: ``id``, ``coord_ra``, ``coord_dec`` (radians; NaN without a WCS), ``parent``,
        ``slot_Centroid_x``, ``slot_Centroid_y`` (pixels from 0, as LSST counts),
        ``slot_ModelFlux_instFlux``, ``slot_ModelFlux_instFluxErr``, ``mlpsf_probability`` and
        ``mlpsf_flags``. Its flags, as bits of the column ``flags`` that the header names
        (``TFLAGn``): ``calib_psf_candidate`` (good or better), ``calib_psf_used``,
        ``calib_psf_reserved``, and what was found wrong with a source.

    Examples
    --------
    >>> lsst_catalogue(Table({"id": [7], "x": [70.2], "y": [61.0]}))[:6]
    b'SIMPLE'
    """
    n = len(stars)

    def column(name: str, default: float = np.nan) -> np.ndarray:
        if name not in stars.colnames:
            return np.full(n, default)
        return np.ma.filled(np.ma.asarray(stars[name]).astype(np.float64), default)

    flags = column("flags", 0).astype(np.int64)
    used = column("selected", 1).astype(bool)
    reserved = column("reserved", 0).astype(bool)
    lower = int(NEVER_A_PSF_STAR | Flag.BELOW_THRESHOLD | Flag.NOT_JUDGED)
    named = [
        ("calib_psf_candidate", "good enough for the PSF", (flags & lower == 0) | used | reserved),
        ("calib_psf_used", "makes the PSF", used),
        ("calib_psf_reserved", "kept out of the PSF to judge it", reserved),
        *((name, text, flags & int(flag) != 0) for name, text, flag in _FLAGS),
    ]
    flux, snr = column("flux"), column("snr")
    columns = [
        # name, FITS format, unit, class of afw, values
        ("id", "K", "", "Scalar", np.asarray(stars["id"], dtype=np.int64)),
        ("coord_ra", "D", "rad", "Angle", np.deg2rad(column("ra"))),
        ("coord_dec", "D", "rad", "Angle", np.deg2rad(column("dec"))),
        ("parent", "K", "", "Scalar", np.zeros(n, dtype=np.int64)),
        ("slot_Centroid_x", "D", "pixel", "Scalar", column("x")),
        ("slot_Centroid_y", "D", "pixel", "Scalar", column("y")),
        ("slot_ModelFlux_instFlux", "D", "count", "Scalar", flux),
        ("slot_ModelFlux_instFluxErr", "D", "count", "Scalar", flux / np.where(snr > 0, snr, 1)),
        ("mlpsf_probability", "D", "", "Scalar", column("probability")),
        ("mlpsf_flags", "J", "", "Scalar", flags.astype(np.int32)),
    ]
    bits = fits.Column("flags", f"{len(named)}X", array=np.column_stack([v for _, _, v in named]))
    table = fits.BinTableHDU.from_columns(
        [bits]
        + [
            fits.Column(name, form, unit=unit or None, array=v)
            for name, form, unit, _, v in columns
        ]
    )
    header = table.header
    header["HIERARCH AFW_TABLE_VERSION"] = 3
    header["AFW_TYPE"] = "SOURCE"
    header["FLAGCOL"] = (1, "Column number for the bitflags")
    for k, (name, text, _) in enumerate(named, 1):
        header[f"TFLAG{k}"], header[f"TFDOC{k}"] = name, text
    for k, (_, _, _, kind, _) in enumerate(columns, 2):
        header[f"TCCLS{k}"] = kind
    sign(header, stars.meta)
    return hdu_bytes(fits.PrimaryHDU(), table)
