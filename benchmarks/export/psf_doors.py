"""What tools make of the PSFs that ``mlpsf export`` wrote; see `benchmarks.export.doors`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

from benchmarks.export.case import Case, Doors, daophot_settings, need
from mlpsf.export import as_image_psf, as_interpolated_image
from mlpsf.export.places import psf_at
from mlpsf.psf import PSFModel

_OFFSET = (0.3, -0.27)  # pixels, between the samples of every format


def off(image: NDArray[Any], truth: NDArray[Any]) -> float:
    """Return the largest difference in per cent of the peak."""
    return 100 * float(np.abs(image - truth).max() / truth.max())


def drawn(case: Case, draw: Callable[[float, float, float, float, int], Any]) -> str:
    """Compare drawings with our PSF at five places, on the centre of a pixel and off it."""
    worst = [0.0, 0.0]
    for k, offset in enumerate(((0.0, 0.0), _OFFSET)):
        for x, y in case.places:
            x, y = np.rint(x), np.rint(y)
            ours = psf_at(case.psf, (x, y))
            stamp = ours.stamps(*offset, ours.size)[0]
            worst[k] = max(worst[k], off(draw(x, y, *offset, ours.size), stamp))
    return f"{worst[0]:.3f} % of the peak at five places; {worst[1]:.2f} % between pixels"


def psfex_galsim(case: Case) -> str:
    """Draw PSFEx's file with GalSim."""
    galsim, des = need("galsim"), need("galsim.des")
    theirs = des.DES_PSFEx(str(case.export("psf.fits", "psfex", "frame.psf", "--overwrite")))

    def draw(x: float, y: float, dx: float, dy: float, size: int) -> Any:
        psf = theirs.getPSF(galsim.PositionD(x + 1, y + 1))
        kind = {"scale": 1.0, "method": "no_pixel", "offset": (dx, dy)}
        return psf.drawImage(nx=size, ny=size, **kind).array

    return drawn(case, draw)


def psfex_sextractor(case: Case) -> str:
    """Fit PSFEx's file with SExtractor."""
    case.export("psf.fits", "psfex", "frame.psf", "--overwrite")
    (case.folder / "psf.param").write_text("FLUX_PSF\nXPSF_IMAGE\nYPSF_IMAGE\n")
    (case.folder / "empty.conf").write_text("")
    case.run(
        *("source-extractor", "pixels.fits", "-c", "empty.conf", "-PSF_NAME", "frame.psf"),
        *("-PARAMETERS_NAME", "psf.param", "-CATALOG_TYPE", "FITS_1.0", "-CATALOG_NAME", "psf.cat"),
        *("-FILTER", "N", "-VERBOSE_TYPE", "QUIET"),
        *("-BACK_TYPE", "MANUAL", "-BACK_VALUE", float(np.median(case.sim.sky))),
    )
    out = fits.getdata(case.folder / "psf.cat")
    return case.fluxes(out["XPSF_IMAGE"] - 1, out["YPSF_IMAGE"] - 1, out["FLUX_PSF"])


def photutils_grid(case: Case) -> str:
    """Draw the STDPSF grid."""
    models = need("photutils.psf")
    grid = models.stdpsf_reader(case.export("psf.fits", "photutils", "grid.fits", "--overwrite"))

    def draw(x: float, y: float, dx: float, dy: float, size: int) -> Any:
        yy, xx = np.mgrid[:size, :size] - size // 2
        return grid.evaluate(xx + x, yy + y, 1.0, x + dx, y + dy)

    return drawn(case, draw)


def photutils_fluxes(case: Case) -> str:
    """Measure fluxes with the STDPSF grid."""
    models = need("photutils.psf")
    path = case.export("psf.fits", "photutils", "grid.fits", "--overwrite")
    return _photometry(case, models, models.stdpsf_reader(path))


def photutils_image(case: Case) -> str:
    """Measure fluxes with an ImagePSF."""
    models = need("photutils.psf")
    return _photometry(case, models, as_image_psf(case.psf))


def _photometry(case: Case, models: Any, model: Any) -> str:
    truth = case.sim.truth[case.sim.truth["kind"] == "star"]
    start = Table({name: np.asarray(truth[name]) for name in ("x", "y", "flux")})
    data = np.asarray(case.sim.frame.data - case.sim.sky, dtype=float)
    phot = models.PSFPhotometry(model, (9, 9), aperture_radius=6)
    out = phot(data, error=np.full(data.shape, 5.0), init_params=start)
    return case.fluxes(out["x_fit"], out["y_fit"], out["flux_fit"])


def galsim_image(case: Case) -> str:
    """Draw an InterpolatedImage from its file."""
    galsim = need("galsim")

    def draw(x: float, y: float, dx: float, dy: float, size: int) -> Any:
        words = ("--place", x, y, "--overwrite")
        star = galsim.InterpolatedImage(str(case.export("psf.fits", "galsim", "g.fits", *words)))
        kind = {"scale": 1.0, "method": "no_pixel", "offset": (dx, dy)}
        same = as_interpolated_image(case.psf, (x, y)).drawImage(nx=size, ny=size, **kind).array
        image = star.drawImage(nx=size, ny=size, **kind).array
        assert off(image, same) < 0.01
        return image

    return drawn(case, draw)


def piff_file(case: Case) -> str:
    """Draw a Piff file with Piff."""
    piff = need("piff")
    theirs = piff.read(str(case.export("psf.fits", "piff", "frame.piff", "--overwrite")))

    def draw(x: float, y: float, dx: float, dy: float, size: int) -> Any:
        return theirs.draw(x + 1, y + 1, center=True, offset=(dx, dy), stamp_size=size).array

    return drawn(case, draw)


def daophot_seepsf(case: Case) -> str:
    """Draw DAOPHOT's PSF image with seepsf."""
    case.export("psf.fits", "daophot", "dao.fits", "--overwrite")
    tasks = [
        f'seepsf ("dao.fits", "see{k}.fits", xpsf={x + 1}, ypsf={y + 1})'
        for k, (x, y) in enumerate(case.places)
    ]
    case.iraf(*tasks)
    worst = 0.0
    for k, place in enumerate(case.places):
        ours = psf_at(case.psf, place)
        yy, xx = np.mgrid[: ours.size, : ours.size] - ours.size // 2
        circle = np.hypot(xx, yy) < ours.size // 2 - 0.5
        seen = fits.getdata(case.folder / f"see{k}.fits") / 1e5
        worst = max(worst, off(seen * circle, ours.stamps(0.0, 0.0, ours.size)[0] * circle))
    return f"{worst:.4f} % of the peak at five places, within the circle of DAOPHOT's PSF"


def daophot_allstar(case: Case) -> str:
    """Measure fluxes with DAOPHOT's PSF image in allstar."""
    case.export("psf.fits", "daophot", "dao.fits", "--overwrite")
    truth = case.sim.truth[case.sim.truth["kind"] == "star"]
    rows = zip(truth["x"] + 1, truth["y"] + 1, strict=True)
    (case.folder / "f.coo").write_text("".join(f"{x:.3f} {y:.3f}\n" for x, y in rows))
    case.iraf(
        *daophot_settings(case),
        'centerpars.calgorithm = "none"',
        'fitskypars.salgorithm = "constant"',
        f"fitskypars.skyvalue = {float(np.median(case.sim.sky))}",
        'phot ("pixels.fits", "f.coo", "f.mag", verify=no, interactive=no, verbose=no)',
        'allstar ("pixels.fits", "f.mag", "dao.fits", "f.als", "f.arj", "f.sub.fits", '
        "verify=no, verbose=no)",
    )
    out = Table.read(case.folder / "f.als", format="ascii.daophot")
    flux = 10 ** (-0.4 * (np.asarray(out["MAG"]) - 25))
    return case.fluxes(out["XCENTER"] - 1, out["YCENTER"] - 1, flux)


def image_file(case: Case) -> str:
    """Look at the image for galfit and imfit."""
    worst = 0.0
    for x, y in case.places:
        words = ("--place", x, y, "--overwrite")
        image = fits.getdata(case.export("psf.fits", "image", "i.fits", *words))
        ours = psf_at(case.psf, (x, y))
        assert image.shape == (ours.size, ours.size)
        assert abs(image.sum() - 1) < 1e-9
        worst = max(worst, off(image, ours.stamps(0.0, 0.0, ours.size)[0]))
    return (
        f"odd, centred, sum 1; {worst:.3f} % of the peak at five places; opened by astropy, as "
        "neither galfit nor imfit is to be had"
    )


def trippy_file(case: Case) -> str:
    """Read TRIPPy's file of a place."""
    x, y = case.places[1]
    path = case.export("psf.fits", "trippy", "t.fits", "--place", x, y, "--overwrite")
    back, ours = PSFModel.load(path), psf_at(case.psf, (x, y))
    return f"{off(back.trippy.fullpsf, ours.trippy.fullpsf):.4f} % of the peak of TRIPPy's fullpsf"


PSF_DOORS: Doors = (
    ("psfex", "galsim.des.DES_PSFEx(...).getPSF", psfex_galsim),
    ("psfex", "source-extractor -PSF_NAME frame.psf", psfex_sextractor),
    ("photutils", "stdpsf_reader(...).evaluate", photutils_grid),
    ("photutils", "PSFPhotometry(stdpsf_reader(...))", photutils_fluxes),
    ("photutils", "PSFPhotometry(as_image_psf(psf))", photutils_image),
    ("galsim", "galsim.InterpolatedImage(...)", galsim_image),
    ("piff", "piff.read(...).draw", piff_file),
    ("daophot", "iraf: seepsf", daophot_seepsf),
    ("daophot", "iraf: phot, allstar", daophot_allstar),
    ("image", "astropy.io.fits (galfit, imfit)", image_file),
    ("trippy", "PSFModel.load(...).trippy", trippy_file),
)
