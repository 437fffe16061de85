"""Piff, photutils and TRIPPy's chooser, Python packages; each is imported only when it is wanted.

The settings are from Piff's documented options, its ``examples/desy3.yaml`` (the DES year 3
analysis, Jarvis et al. 2021, MNRAS 501, 1282, appendix B) and ``tests/sizemag.yaml``; photutils'
user guide on building an ePSF; TRIPPy's tutorial.
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree

from benchmarks.peers.astromatic import Extraction
from benchmarks.peers.common import SIDE, FloatArray, PeerPSF, cpu_clock
from mlpsf.errors import MissingPackageError, PSFError
from mlpsf.frames.frame import Frame

# --- Piff ----------------------------------------------------------------------------------------


def piff_config(extraction: Extraction, stars: Table | None, order: int = 0) -> dict[str, Any]:
    """Write the files that Piff reads and give its configuration."""
    assert extraction.fwhm is not None
    folder, frame, fwhm = extraction.folder, extraction.frame, extraction.fwhm
    noise = extraction.sky_noise()
    if stars is None:
        # tests/sizemag.yaml: SExtractor's windowed centres, unflagged sources.
        rows = extraction.table()
        rows = rows[rows["FLAGS"] == 0]
        x, y = rows["XWIN_IMAGE"], rows["YWIN_IMAGE"]
    else:
        x, y = stars["x"] + 1.0, stars["y"] + 1.0
    Table({"x": x, "y": y}).write(folder / "piff.fits", overwrite=True)
    bad = (frame.mask | frame.saturated).astype(np.int16)
    fits.writeto(folder / "bad.fits", bad, overwrite=True)
    # desy3.yaml: cells of 1.14 pixels, 3 of them a FWHM; where stars are wider, 3 still.
    scale = max(1.14, fwhm / 3.0)
    size = math.floor((SIDE - 1) / scale / 2) * 2 + 1
    if order:
        # Every cell has a polynomial: 25 cells, 8 FWHM or more, are as many as fit in memory.
        size = min(size, 25)
    choose: dict[str, Any] = {"max_snr_weight": 100}
    if stars is None:
        # The documented selection with its defaults, rejection and least S/N of sizemag.yaml;
        # the 40 stars of highest S/N, for each star takes up to 40 MB of design matrix.
        choose |= {"type": "SizeMag", "hsm_size_reject": 4, "min_snr": 20, "nstars": 40}
    return {
        "input": {
            "dir": str(folder),
            "image_file_name": "image.fits",
            "image_hdu": 0,
            "cat_file_name": "piff.fits",
            "cat_hdu": 1,
            "x_col": "x",
            "y_col": "y",
            "sky_file_name": "sky.fits",
            "badpix_file_name": "bad.fits",
            "badpix_hdu": 0,
            "noise": noise**2,
            "gain": min(frame.gain, 1e6),
            "satur": min(0.9 * frame.saturation, 1e15),
            "stamp_size": SIDE + 2,
            "wcs": {"type": "PixelScale", "scale": 1.0},
        },
        "select": choose,
        "psf": {
            "type": "Simple",
            "model": {"type": "PixelGrid", "scale": scale, "size": size},
            "interp": {"type": "BasisPolynomial", "order": order},
            "outliers": {"type": "Chisq", "nsigma": 5.5, "max_remove": 0.03},
        },
        "verbose": 0,
    }


def build_piff(extraction: Extraction, stars: Table | None = None, order: int = 0) -> PeerPSF:
    """Build a pixel-grid PSF with Piff, from its size-magnitude choice or given stars.

    `order` is that of its polynomial over the frame; `PeerPSF.stamps` is of the frame's centre.
    """
    try:
        import piff
    except ImportError as error:
        raise MissingPackageError("Piff is not installed; pip install piff") from error
    _ = extraction.catalogue  # its time is counted once, whoever was first to want it
    before = extraction.seconds
    with cpu_clock() as clock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = piff_config(extraction, stars, order)
        try:
            psf = piff.process(config)
        except (RuntimeError, ValueError, IndexError, np.linalg.LinAlgError) as error:
            raise PSFError(f"Piff failed: {error}") from error
        seconds = clock() + before
    used = [s for s in psf.stars if not s.is_flagged and not s.is_reserve]
    ny, nx = extraction.frame.shape

    def stamps(x_offset: ArrayLike, y_offset: ArrayLike, size: int) -> FloatArray:
        dx, dy = (np.atleast_1d(np.asarray(v, dtype=float)) for v in (x_offset, y_offset))
        # Its grid has the pixel in it, and is drawn without another.
        return np.array(
            [
                psf.draw(nx / 2, ny / 2, center=True, offset=(a, b), stamp_size=size).array
                for a, b in zip(dx, dy, strict=True)
            ]
        )

    def at(x: float, y: float, size: int) -> FloatArray:
        return np.asarray(psf.draw(x + 1, y + 1, center=True, stamp_size=size).array)

    return PeerPSF(
        stamps,
        Table({"x": [s.x - 1.0 for s in used], "y": [s.y - 1.0 for s in used]}),
        seconds,
        at,
    )


# --- photutils -----------------------------------------------------------------------------------


def build_photutils(extraction: Extraction, stars: Table | None = None) -> PeerPSF:
    """Build an effective PSF with photutils, from given stars or what DAOStarFinder finds."""
    try:
        from photutils.psf import EPSFBuilder, extract_stars
    except ImportError as error:
        raise MissingPackageError("photutils is not installed; pip install photutils") from error
    from astropy.nddata import NDData, StdDevUncertainty

    assert extraction.fwhm is not None
    frame, fwhm = extraction.frame, extraction.fwhm
    with cpu_clock() as clock, warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        level, noise = _photutils_sky(extraction)
        pixels = np.asarray(frame.data - level, dtype=float)
        if stars is None:
            stars = _photutils_stars(frame, pixels, noise, fwhm)
        error = np.sqrt(noise**2 + np.maximum(pixels, 0) / frame.gain)
        data = NDData(
            pixels, uncertainty=StdDevUncertainty(error), mask=frame.mask | frame.saturated
        )
        cut = extract_stars(data, Table({"x": stars["x"], "y": stars["y"]}), size=SIDE)
        if len(cut.all_good_stars) == 0:
            raise PSFError("photutils can cut out none of the stars")
        # "At least about four grid points a FWHM"; from a FWHM of 2.5 on one point a pixel still
        # beats finer grids when stars are 25 (tried 1 to 4 on three frames: residuals of 0.01
        # against 0.04 of the peak and more).
        oversampling = 1 if fwhm >= 2.5 else math.ceil(4.0 / fwhm)
        builder = EPSFBuilder(
            oversampling=oversampling,
            # "With fewer than about seven grid points per FWHM, None is a better choice".
            smoothing_kernel="quartic" if fwhm * oversampling >= 7 else None,
            # "A square box of twice the FWHM"; ten iterations.
            fit_shape=2 * round(fwhm) + 1,
            maxiters=10,
            progress_bar=False,
        )
        try:
            result = builder(cut)
        except (ValueError, RuntimeError) as problem:
            raise PSFError(f"photutils failed: {problem}") from problem
        epsf = result.epsf
        good = result.fitted_stars.all_good_stars
        seconds = clock()

    def stamps(x_offset: ArrayLike, y_offset: ArrayLike, size: int) -> FloatArray:
        dx, dy = (np.atleast_1d(np.asarray(v, dtype=float)) for v in (x_offset, y_offset))
        y, x = np.mgrid[:size, :size] - size // 2
        # An effective PSF has the pixel in it: its value at a pixel's centre is the pixel's light.
        return np.array(
            [epsf.evaluate(x, y, 1.0, a, b) for a, b in zip(dx, dy, strict=True)], dtype=float
        )

    places = np.array([star.center for star in good]).reshape(-1, 2)
    return PeerPSF(stamps, Table({"x": places[:, 0], "y": places[:, 1]}), seconds)


def _photutils_sky(extraction: Extraction) -> tuple[FloatArray | float, float]:
    """Level and noise by the guide: Background2D, sources found and masked 10 pixels around."""
    from photutils.background import Background2D
    from photutils.segmentation import detect_sources

    if extraction.sky is not None:
        return extraction.sky, extraction.sky_noise()
    frame = extraction.frame
    bad = frame.mask | frame.saturated
    first = Background2D(frame.data, (50, 50), mask=bad, exclude_percentile=80)
    above = frame.data - first.background
    found = detect_sources(above, 2.0 * first.background_rms_median, 10, mask=bad)
    if found is None:
        return first.background, float(first.background_rms_median)
    hidden = bad | found.make_source_mask(size=21)
    sky = Background2D(frame.data, (50, 50), mask=hidden, exclude_percentile=80)
    return sky.background, float(sky.background_rms_median)


def _photutils_stars(frame: Frame, pixels: FloatArray, noise: float, fwhm: float) -> Table:
    """Choose as the guide says: DAOStarFinder, bright, unsaturated, alone in the cutout."""
    from photutils.detection import DAOStarFinder

    # Its kernel and its cuts in sharpness and roundness are made for FWHM of a few pixels.
    found = DAOStarFinder(threshold=5 * noise, fwhm=fwhm)(pixels, mask=frame.mask)
    if found is None:
        raise PSFError("DAOStarFinder found no star")
    x, y = (np.asarray(found[c], dtype=float) for c in ("x_centroid", "y_centroid"))
    flux, half = np.asarray(found["flux"]), SIDE // 2
    ny, nx = frame.shape
    tree = cKDTree(np.column_stack([x, y]))
    nearest = tree.query(np.column_stack([x, y]), k=min(2, len(x)))[0].reshape(len(x), -1)[:, -1]
    ok = (x > half) & (x < nx - 1 - half) & (y > half) & (y < ny - 1 - half)
    ok &= (nearest > half) & (np.asarray(found["peak"]) < 0.8 * frame.saturation)
    best = np.flatnonzero(ok)[np.argsort(-flux[ok])][:100]
    if len(best) == 0:
        raise PSFError("DAOStarFinder found no star that is alone in its cutout")
    return Table({"x": x[best], "y": y[best]})


# --- TRIPPy --------------------------------------------------------------------------------------


def trippy_stars(extraction: Extraction, n_max: int = 60) -> Table:
    """Choose stars as TRIPPy's tutorial does: its catalogue trim, then ``autoTrim``.

    Unflagged sources with no other within 30 pixels and a peak under the saturation level; those
    of S/N over 200 are fitted, and those unlike the others left out. Only the `n_max` brightest
    are fitted, for each takes a third of a second.
    """
    from mlpsf.psf.trippy.border import load_trippy

    frame, rows = extraction.frame, extraction.table()
    places = np.column_stack([rows["XWIN_IMAGE"], rows["YWIN_IMAGE"]])
    alone = cKDTree(places).query(places, k=2)[0][:, 1] > 30
    snr = rows["FLUX_AUTO"] / np.maximum(rows["FLUXERR_AUTO"], 1e-30)
    ok = alone & (rows["FLAGS"] == 0) & (snr > 200)
    ok &= rows["FLUX_MAX"] < 0.9 * frame.saturation
    rows = rows[np.flatnonzero(ok)[np.argsort(-snr[ok])][:n_max]]
    if len(rows) < 4:
        raise PSFError(f"TRIPPy's choice needs 4 stars or more; {len(rows)} pass its trim")
    x, y, flux, error = (
        np.asarray(rows[c], dtype=float)
        for c in ("XWIN_IMAGE", "YWIN_IMAGE", "FLUX_AUTO", "FLUXERR_AUTO")
    )
    import matplotlib

    with (
        matplotlib.rc_context(),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        np.errstate(all="ignore"),
    ):
        warnings.simplefilter("ignore")
        matplotlib.use("Agg")  # it opens a figure whatever is asked
        load_trippy()
        from trippy import psfStarChooser

        chooser = psfStarChooser.starChooser(frame.data.astype(float), x, y, flux, error)
        try:
            good, _, _ = chooser(
                30, 200, noVisualSelection=True, autoTrim=True, bgRadius=15, quickFit=True
            )
        except (ValueError, IndexError, np.linalg.LinAlgError) as problem:
            raise PSFError(f"TRIPPy's chooser failed: {problem}") from problem
    if len(good) == 0:
        raise PSFError("TRIPPy's chooser kept no star")
    return Table({"x": good[:, 4] - 1.0, "y": good[:, 5] - 1.0})
