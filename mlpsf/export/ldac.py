"""FITS_LDAC, SExtractor's catalogue with stamps, as PSFEx takes it: the chosen stars only."""

from __future__ import annotations

from typing import Any

import numpy as np
import sep
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from mlpsf.detection.extraction import extract
from mlpsf.export.places import hdu_bytes, sign
from mlpsf.export.tables import psf_rows
from mlpsf.frames.cutouts import PSF_MARGIN, extract_cutouts, psf_size
from mlpsf.frames.frame import Frame
from mlpsf.frames.metadata import metadata_of
from mlpsf.neighbours.subtract import as_judged

__all__ = ["ldac_catalogue"]

FloatArray = NDArray[np.float64]

_APERTURE = 2.1  # radius in FWHM; PSFEx's manual wants a diameter of 5" at a FWHM of 1.2"
_NEIGHBOUR = 1.5  # times the noise: pixels above it belong to a source
_GROWTH = 3  # pixels by which other sources reach beyond theirs
_MASKED = -1e30  # what SExtractor writes for a pixel that is not to be used


def ldac_catalogue(frame: Frame, stars: Table, *, size: int | None = None) -> bytes:
    """Return a FITS_LDAC catalogue of the chosen stars, with all that PSFEx reads.

    Parameters
    ----------
    frame : Frame
        Where the stars' pixels are taken from, with its sky subtracted; and without their
        neighbours, where those were subtracted to judge the stars.
    stars : Table
        Star table; its selected rows that are not reserved are written.
    size : int, optional
        Side of the stamps in pixels, odd; by default the PSF's box and a margin.

    Returns
    -------
    bytes
        Tables ``LDAC_IMHEAD`` and ``LDAC_OBJECTS`` with ``NUMBER`` (the star table's id),
        ``VIGNET``, ``X_IMAGE``, ``Y_IMAGE`` (counted from 1), ``FLUX_RADIUS``, ``SNR_WIN``,
        ``FLUX_APER``, ``FLUXERR_APER``, ``FLUX_AUTO``, ``FLUX_MAX``, ``ELONGATION``, ``FLAGS``.
        Pixels that are masked or saturated, or that another source reaches, hold -1e30, which
        PSFEx leaves out.

    Examples
    --------
    >>> from mlpsf import read_frame
    >>> frame = read_frame(np.random.default_rng(0).normal(100, 1, (150, 160)))
    >>> ldac_catalogue(frame, Table({"id": [7], "x": [70.2], "y": [61.0]}), size=31)[:6]
    b'SIMPLE'
    """
    chosen = psf_rows(stars)
    x, y = (np.asarray(chosen[name], dtype=np.float64) for name in "xy")
    fwhm = float(metadata_of(stars).get("fwhm", 4.0))
    side = psf_size(fwhm) + 2 * PSF_MARGIN if size is None else size
    frame = as_judged(frame, stars)
    sky = frame.background
    radius = _APERTURE * fwhm
    # The apertures lie within these, so that one star's light is not measured in another's stamp.
    wide = max(side, 2 * int(np.ceil(2 * radius)) + 3)
    cut = extract_cutouts(frame, x, y, wide, background=sky.level)
    full = extract_cutouts(frame.saturated.astype(np.float32), x, y, wide).data > 0
    noise = extract_cutouts(sky.rms, x, y, wide).data
    bad = ~np.isfinite(cut.data) | ~np.isfinite(noise) | full
    pixels = np.where(bad, 0, cut.data)
    usable = _middle(~bad, side) & ~_of_others(frame, x, y, side, fwhm)
    stamps = np.where(usable, _middle(pixels, side), _MASKED).astype(np.float32)
    # The stamps below one another are the image of which sep measures.
    image, mask, rms = (a.reshape(-1, wide) for a in (pixels, bad, np.where(bad, 1, noise)))
    half = wide // 2
    across, up = cut.x - cut.x0 + half, cut.y - cut.y0 + half + wide * np.arange(len(x))
    flux, error, _ = sep.sum_circle(image, across, up, radius, err=rms, mask=mask, gain=frame.gain)
    half_light, _ = sep.flux_radius(
        image, across, up, np.full(len(x), 2 * radius), 0.5, normflux=flux, mask=mask, subpix=5
    )
    ones = np.ones(len(x), dtype=np.float32)
    given = {name: chosen[name] if name in chosen.colnames else None for name in _DEFAULTS}
    read = {
        name: ones * default if given[name] is None else np.asarray(given[name], dtype=np.float32)
        for name, default in _DEFAULTS.items()
    }
    snr = flux / error if given["snr"] is None else read["snr"]
    columns = {
        # name: (values, unit)
        "NUMBER": (np.asarray(chosen["id"], dtype=np.int32), None),
        "VIGNET": (stamps, "count"),
        "X_IMAGE": (x + 1, "pixel"),
        "Y_IMAGE": (y + 1, "pixel"),
        "FLUX_RADIUS": (half_light, "pixel"),
        "SNR_WIN": (snr, None),
        "FLUX_APER": (flux, "count"),
        "FLUXERR_APER": (error, "count"),
        "FLUX_AUTO": (flux if given["flux"] is None else read["flux"], "count"),
        "FLUX_MAX": (pixels[:, half, half], "count"),
        "ELONGATION": (1 / (1 - np.clip(read["ellipticity"], 0, 0.9)), None),
        # A star's neighbours and flags were looked at when it was chosen.
        "FLAGS": (np.zeros(len(x), dtype=np.int16), None),
    }
    table = fits.BinTableHDU.from_columns(
        [
            fits.Column(
                name,
                f"{side**2}E" if name == "VIGNET" else _form(np.asarray(values)),
                unit=unit,
                dim=f"({side}, {side})" if name == "VIGNET" else None,
                array=np.asarray(values),
            )
            for name, (values, unit) in columns.items()
        ],
        name="LDAC_OBJECTS",
    )
    sign(table.header, stars.meta)
    content = hdu_bytes(fits.PrimaryHDU(), _image_header(frame, radius), table)
    # The blanks at the end of a text column are written as zeros, which PSFEx does not survive.
    return content.replace(b"END" + 77 * b"\0", b"END" + 77 * b" ", 1)


def _middle(stamps: NDArray[Any], side: int) -> NDArray[Any]:
    """Return the middle of stamps."""
    cut = slice((stamps.shape[-1] - side) // 2, (stamps.shape[-1] + side) // 2)
    return stamps[:, cut, cut]


def _of_others(
    frame: Frame, x: FloatArray, y: FloatArray, side: int, fwhm: float
) -> NDArray[np.bool_]:
    """Return which pixels of the stamps belong to other sources, with a margin."""
    # Where the star itself is subtracted, too, what is left within a FWHM is its own.
    near = 0 if frame.scene is None else int(np.ceil(fwhm))
    light = frame.data if frame.scene is None else frame.scene.rest
    bad = frame.mask | frame.saturated
    pixels = np.where(bad, 0, light - frame.background.level).astype(np.float32)
    _, segments = extract(
        pixels,
        _NEIGHBOUR,
        err=frame.background.rms,
        minarea=5,
        segmentation_map=True,
    )
    half = side // 2 + _GROWTH
    wide = np.pad(segments, half)
    others = np.zeros((len(x), side, side), dtype=bool)
    for k, (a, b) in enumerate(zip(np.rint(x).astype(int), np.rint(y).astype(int), strict=True)):
        box = wide[b : b + 2 * half + 1, a : a + 2 * half + 1]
        own = box[half - near : half + near + 1, half - near : half + near + 1]
        foreign = (box != 0) & ~np.isin(box, own)
        inner = slice(_GROWTH, _GROWTH + side)
        others[k] = binary_dilation(foreign, iterations=_GROWTH)[inner, inner]
    return others


_DEFAULTS = {"snr": 0.0, "flux": 0.0, "ellipticity": 0.0}


def _form(values: np.ndarray) -> str:
    return {"i": {2: "1I", 4: "1J"}}.get(values.dtype.kind, {}).get(values.dtype.itemsize, "1E")


def _image_header(frame: Frame, radius: float) -> fits.BinTableHDU:
    """Return the frame's header in a table of one row, as SExtractor keeps it for PSFEx."""
    ny, nx = frame.shape
    header = fits.PrimaryHDU(np.zeros((1, 1), dtype=np.float32)).header
    header["NAXIS1"], header["NAXIS2"] = nx, ny
    if frame.wcs is not None:
        header.update(frame.wcs.to_header(relax=True))
    header["GAIN"] = (float(min(frame.gain, 1e15)), "electrons per ADU")
    header["SATURATE"] = (float(min(frame.saturation, 1e15)), "ADU")
    header["SEXBKGND"] = (float(np.median(frame.background.level)), "Median background level (ADU)")
    header["SEXBKDEV"] = (float(np.median(frame.background.rms)), "Median background RMS (ADU)")
    header["SEXGAIN"] = (float(min(frame.gain, 1e15)), "Gain used (e-/ADU)")
    header["SEXAPED1"] = (2 * radius, "Fixed photometric aperture #1 (pixels)")
    header["SEXNAMEF"] = frame.name[:60].encode("ascii", "replace").decode()
    cards = [str(card)[:80].ljust(80) for card in header.cards] + ["END".ljust(80)]
    text = "".join(cards).encode("ascii")
    column = fits.Column("Field Header Card", f"{len(text)}A", array=np.array([text]))
    table = fits.BinTableHDU.from_columns([column], name="LDAC_IMHEAD")
    table.header["TDIM1"] = f"(80, {len(cards)})"
    return table
