"""PSFs for other tools: each tool opens what was written, and gives the same PSF back."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.utils.exceptions import AstropyUserWarning
from doors_help import Varying, difference
from scipy.spatial import cKDTree

from mlpsf.errors import InputError, MissingPackageError, OutputError
from mlpsf.export import (
    PSF_FORMATS,
    as_gridded_psf,
    as_image_psf,
    as_interpolated_image,
    export_psf,
    psf_image,
)
from mlpsf.export.places import effective, fit_over_frame, frame_size, monomials
from mlpsf.psf import PSFModel
from mlpsf.psf.terms import PSFTerms

PLACES = [(10.0, 20.0), (600.0, 30.0), (319.0, 299.0), (55.0, 580.0), (630.0, 590.0)]


@pytest.fixture(scope="module")
def varying():
    return Varying()


@pytest.fixture(params=["constant", "varying"])
def psf(request, scene, varying):
    return scene[2] if request.param == "constant" else varying


def here(psf, x, y):
    return psf.at(x, y) if getattr(psf, "varies", False) else psf


def bright_stars(sim, x, y):
    """Return rows of a catalogue and fluxes of the true stars that they are."""
    truth = sim.truth
    good = (truth["kind"] == "star") & (truth["flux"] > 5e4) & ~truth["saturated"]
    truth = truth[good & (truth["pair_id"] < 0)]
    distance, row = cKDTree(np.column_stack([x, y])).query(
        np.column_stack([truth["x"], truth["y"]])
    )
    alone = cKDTree(np.column_stack([sim.truth["x"], sim.truth["y"]])).query(
        np.column_stack([truth["x"], truth["y"]]), k=2
    )[0][:, 1]
    ok = (distance < 0.5) & (alone > 20)
    return row[ok], np.asarray(truth["flux"])[ok]


# --- PSFEx's users -------------------------------------------------------------------------------


def test_galsim_draws_the_psfex_file(psf, tmp_path):
    """Within 0.1 % of the peak at five places, on pixels' centres and between them."""
    galsim = pytest.importorskip("galsim")
    des = pytest.importorskip("galsim.des")
    path = export_psf(psf, tmp_path / "frame.psf", "psfex", frame_shape=(600, 640))
    theirs = des.DES_PSFEx(str(path))
    for x, y in PLACES:
        mine = here(psf, x, y)
        for dx, dy in ((0.0, 0.0), (0.3, -0.27), (-0.07, 0.16)):
            drawn = theirs.getPSF(galsim.PositionD(x + 1, y + 1)).drawImage(
                nx=mine.size, ny=mine.size, scale=1.0, method="no_pixel", offset=(dx, dy)
            )
            assert difference(drawn.array, mine.stamps(dx, dy, mine.size)[0]) < 0.001


def test_sextractor_fits_the_psfex_file(scene, program, tmp_path):
    sim, _, psf = scene
    export_psf(psf, tmp_path / "frame.psf", "psfex", frame_shape=sim.frame.shape)
    fits.writeto(tmp_path / "image.fits", sim.frame.data)
    (tmp_path / "psf.param").write_text("X_IMAGE\nY_IMAGE\nFLUX_PSF\nXPSF_IMAGE\nYPSF_IMAGE\n")
    (tmp_path / "empty.conf").write_text("")
    done = program(
        *("source-extractor", "image.fits", "-c", "empty.conf", "-PSF_NAME", "frame.psf"),
        *("-CATALOG_TYPE", "FITS_1.0", "-CATALOG_NAME", "out.cat", "-FILTER", "N"),
        *("-PARAMETERS_NAME", "psf.param", "-VERBOSE_TYPE", "QUIET"),
        *("-BACK_TYPE", "MANUAL", "-BACK_VALUE", float(np.median(sim.sky))),
    )
    assert done.returncode == 0, done.stderr
    out = fits.getdata(tmp_path / "out.cat")
    rows, flux = bright_stars(sim, out["X_IMAGE"] - 1, out["Y_IMAGE"] - 1)
    assert len(rows) > 20
    assert abs(np.median(out["FLUX_PSF"][rows] / flux) - 1) < 0.003


def test_psfex_layout(psf, tmp_path):
    path = export_psf(psf, tmp_path / "frame.psf", "psfex", frame_shape=(600, 640))
    with fits.open(path) as hdus:
        header, cube = hdus["PSF_DATA"].header, hdus["PSF_DATA"].data["PSF_MASK"][0]
    assert cube.dtype == np.dtype(">f4")
    degree, n_terms = (2, 6) if getattr(psf, "varies", False) else (0, 1)
    assert header["POLDEG1"] == degree
    assert len(cube) == header["PSFAXIS3"] == n_terms
    assert (cube[0].sum() * header["PSF_SAMP"] ** 2).round(3) == 1
    assert header["ACCEPTED"] == header["NSTARS"] == len(psf.stars)
    assert header["CREATOR"].startswith("mlpsf")
    assert header["FRAME"] == psf.meta["frame"]


# --- GalSim, Piff --------------------------------------------------------------------------------


def test_galsim_opens_the_image_of_a_place(psf, tmp_path):
    galsim = pytest.importorskip("galsim")
    for k, (x, y) in enumerate(PLACES):
        mine = here(psf, x, y)
        path = export_psf(psf, tmp_path / f"{k}.fits", "galsim", at=(x, y))
        for star in (galsim.InterpolatedImage(str(path)), as_interpolated_image(psf, (x, y))):
            assert star.flux == pytest.approx(1)
            drawn = star.drawImage(
                nx=mine.size, ny=mine.size, scale=1, method="no_pixel", offset=(0.3, -0.2)
            )
            assert difference(drawn.array, mine.stamps(0.3, -0.2, mine.size)[0]) < 0.001


@pytest.mark.filterwarnings("ignore")
def test_piff_reads_its_file(psf, tmp_path):
    piff = pytest.importorskip("piff")
    path = export_psf(psf, tmp_path / "frame.piff", "piff", frame_shape=(600, 640))
    theirs = piff.read(str(path))
    for x, y in PLACES:
        mine = here(psf, x, y)
        drawn = theirs.draw(x + 1.3, y + 0.8, stamp_size=mine.size + 2)
        bounds = drawn.bounds
        yy, xx = np.mgrid[bounds.ymin : bounds.ymax + 1, bounds.xmin : bounds.xmax + 1] - 1
        truth = mine.stamps((x + 0.3 - xx).ravel(), (y - 0.2 - yy).ravel(), 1).reshape(xx.shape)
        assert difference(drawn.array, truth) < 0.001


# --- photutils -----------------------------------------------------------------------------------


def test_photutils_models(psf, tmp_path):
    models = pytest.importorskip("photutils.psf")
    path = export_psf(psf, tmp_path / "frame.fits", "photutils", frame_shape=(600, 640))
    for grid in (models.stdpsf_reader(path), as_gridded_psf(psf, frame_shape=(600, 640))):
        for x, y in PLACES:
            mine = here(psf, x, y)
            yy, xx = np.mgrid[: mine.size, : mine.size] - mine.size // 2
            values = grid.evaluate(xx + x, yy + y, 1.0, x + 0.3, y - 0.2)
            # Between its places a grid is linear.
            assert difference(values, mine.stamps(0.3, -0.2, mine.size)[0]) < 0.003
    mine = here(psf, *PLACES[1])
    one = as_image_psf(psf, PLACES[1])
    yy, xx = np.mgrid[: mine.size, : mine.size] - mine.size // 2
    values = one.evaluate(xx, yy, 1.0, 0.3, -0.2)
    assert difference(values, mine.stamps(0.3, -0.2, mine.size)[0]) < 0.001


@pytest.mark.filterwarnings("ignore")
def test_photutils_measures_fluxes(scene, tmp_path):
    models = pytest.importorskip("photutils.psf")
    sim, _, psf = scene
    path = export_psf(psf, tmp_path / "frame.fits", "photutils", frame_shape=sim.frame.shape)
    rows, flux = bright_stars(sim, sim.truth["x"], sim.truth["y"])
    start = Table({c: np.asarray(sim.truth[c])[rows] for c in ("x", "y", "flux")})
    data = np.asarray(sim.frame.data - sim.sky, dtype=float)
    for model in (models.stdpsf_reader(path), as_image_psf(psf)):
        phot = models.PSFPhotometry(model, (9, 9), aperture_radius=6)
        out = phot(data, error=np.full(data.shape, 5.0), init_params=start)
        assert abs(np.median(out["flux_fit"] / flux) - 1) < 0.003
        assert np.abs(out["x_fit"] - start["x"]).max() < 0.1


# --- DAOPHOT -------------------------------------------------------------------------------------


def test_seepsf_gives_the_daophot_psf_back(psf, iraf, tmp_path):
    export_psf(psf, tmp_path / "p.fits", "daophot", frame_shape=(600, 640))
    places = PLACES if getattr(psf, "varies", False) else PLACES[:1]
    done = iraf(
        *(
            f'seepsf ("p.fits", "see{k}.fits", xpsf={x + 1}, ypsf={y + 1})'
            for k, (x, y) in enumerate(places)
        )
    )
    for k, (x, y) in enumerate(places):
        mine = here(psf, x, y)
        seen = fits.getdata(tmp_path / f"see{k}.fits") / 1e5
        truth = mine.stamps(0.0, 0.0, mine.size)[0]
        yy, xx = np.mgrid[: mine.size, : mine.size] - mine.size // 2
        inside = np.hypot(xx, yy) < mine.size // 2 - 0.5  # DAOPHOT's PSF is a circle
        assert difference(seen * inside, truth * inside) < 0.001, done.stdout


def test_allstar_measures_fluxes(scene, iraf, tmp_path):
    sim, _, psf = scene
    export_psf(psf, tmp_path / "p.fits", "daophot", frame_shape=sim.frame.shape)
    fits.writeto(tmp_path / "f.fits", sim.frame.data)
    truth = sim.truth[(sim.truth["kind"] == "star") & (sim.truth["flux"] > 1e4)]
    lines = "".join(
        f"{x + 1:.3f} {y + 1:.3f}\n" for x, y in zip(truth["x"], truth["y"], strict=True)
    )
    (tmp_path / "f.coo").write_text(lines)
    done = iraf(
        "datapars.fwhmpsf = 4",
        f"datapars.epadu = {sim.frame.gain}",
        "datapars.datamax = 59000",
        'daopars.function = "gauss"',
        "daopars.varorder = 0",
        f"daopars.psfrad = {psf.size // 2}",
        "daopars.fitrad = 4",
        "daopars.fitsky = no",
        'centerpars.calgorithm = "none"',
        'fitskypars.salgorithm = "constant"',
        f"fitskypars.skyvalue = {float(np.median(sim.sky))}",
        'photpars.apertures = "6"',
        'phot ("f.fits", "f.coo", "f.mag", verify=no, interactive=no, verbose=no)',
        'allstar ("f.fits", "f.mag", "p.fits", "f.als", "f.arj", "f.sub.fits", verify=no, '
        "verbose=no)",
    )
    assert (tmp_path / "f.als").exists(), done.stdout
    out = Table.read(tmp_path / "f.als", format="ascii.daophot")
    rows, flux = bright_stars(sim, out["XCENTER"] - 1, out["YCENTER"] - 1)
    assert len(rows) > 20
    measured = 10 ** (-0.4 * (np.asarray(out["MAG"])[rows] - 25))
    assert abs(np.median(measured / flux) - 1) < 0.003


def test_daophot_varies_up_to_second_order(varying, tmp_path, monkeypatch):
    monkeypatch.setattr(type(varying), "order", 3)
    with pytest.warns(AstropyUserWarning, match="up to second order: this one, of order 3"):
        path = export_psf(varying, tmp_path / "p.fits", "daophot")
    assert fits.getheader(path)["VARORDER"] == 2


# --- galfit, imfit, TRIPPy -----------------------------------------------------------------------


@pytest.mark.parametrize("oversampling", [1, 3, 4])
def test_an_image_is_odd_centred_and_normalised(psf, tmp_path, oversampling):
    path = export_psf(psf, tmp_path / "p.fits", "image", at=(30.0, 40.0), oversampling=oversampling)
    image = fits.getdata(path)
    side = image.shape[0]
    assert side % 2 == 1
    assert image.shape == (side, side)
    assert image.sum() == pytest.approx(1)
    assert np.unravel_index(image.argmax(), image.shape) == (side // 2, side // 2)
    mine = here(psf, 30.0, 40.0)
    middle = image[side // 2 :: oversampling, side // 2 :: oversampling] * oversampling**2
    half = mine.size // 2
    truth = mine.stamps(0.0, 0.0, mine.size)[0][half:, half:]
    n = min(len(middle), len(truth))
    assert difference(middle[:n, :n], truth[:n, :n]) < 1e-3


@pytest.mark.parametrize("to", ["image", "trippy", "galsim"])
@pytest.mark.parametrize("known", [True, False])
def test_the_mean_of_a_psf_that_varies_is_said_to_be_one(tmp_path, to, known):
    if to == "galsim":
        pytest.importorskip("galsim")
    terms = PSFTerms(np.full((1, 210, 210), 1e-4), [[0.5], [0.2]], (200, 100))
    meta = {"fwhm_least": 3.02, "fwhm_most": 3.33} if known else {}
    # A star at the very edge of the frame is none to fail at.
    stars = [[99.6, 20.0, 1e4]]
    psf = PSFModel(np.zeros((210, 210)), 3.0, 3.0, stars=stars, meta=meta, terms=terms)
    with pytest.warns(AstropyUserWarning, match="--place X Y") as caught:
        export_psf(psf, tmp_path / "mean.fits", to)
    assert ("3.02 to 3.33 pixels" in str(caught[0].message)) == known
    export_psf(psf.at(50.0, 100.0), tmp_path / "of_a_place.fits", to)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(AstropyUserWarning):
            export_psf(psf, tmp_path / "none.fits", to)
    assert not (tmp_path / "none.fits").exists()


def test_trippys_file_of_a_place(psf, tmp_path):
    path = export_psf(psf, tmp_path / "p.fits", "trippy", at=(30.0, 40.0))
    back, mine = PSFModel.load(path), here(psf, 30.0, 40.0)
    np.testing.assert_allclose(back.lookup_table, mine.lookup_table)
    assert back.trippy.fullpsf.shape == (mine.size, mine.size)


# --- what is common ------------------------------------------------------------------------------


def test_unknown_formats_and_options(scene, tmp_path):
    psf = scene[2]
    with pytest.raises(InputError, match=r"formats of PSFs are psfex, photutils.*Got 'fits'"):
        export_psf(psf, tmp_path / "p", "fits")
    with pytest.raises(InputError, match="'psfex' does not take 'at'"):
        export_psf(psf, tmp_path / "p", "psfex", at=(1.0, 2.0))
    with pytest.raises(InputError, match="2 places along each axis"):
        export_psf(psf, tmp_path / "p", "photutils", grid=1)
    with pytest.raises(InputError, match="an odd size"):
        psf_image(psf, size=20)
    with pytest.raises(OutputError, match="does not exist"):
        export_psf(psf, tmp_path / "none" / "p", "image")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("to", PSF_FORMATS)
def test_files_are_replaced_only_when_told_to(scene, tmp_path, to):
    if to == "piff":
        pytest.importorskip("piff")
    path = tmp_path / "out.fits"
    path.write_text("old")
    with pytest.raises(OutputError, match="overwrite=True replaces it"):
        export_psf(scene[2], path, to)
    assert path.read_text() == "old"
    export_psf(scene[2], path, to, overwrite=True)
    assert list(tmp_path.iterdir()) == [path]
    with fits.open(path) as hdus:
        header = {k: v for hdu in hdus for k, v in hdu.header.items()}
    assert header["FRAME"] == scene[2].meta["frame"]


def test_missing_packages_are_named(scene, tmp_path, monkeypatch):
    for package in ("galsim", "piff", "photutils", "photutils.psf"):
        monkeypatch.setitem(__import__("sys").modules, package, None)
    psf = scene[2]
    for make in (as_interpolated_image, as_image_psf, as_gridded_psf):
        with pytest.raises(MissingPackageError, match=r"pip install 'mlpsf\[export\]'"):
            make(psf)
    with pytest.raises(MissingPackageError, match="Piff"):
        export_psf(psf, tmp_path / "p", "piff")
    assert list(tmp_path.iterdir()) == []
    for to in ("psfex", "photutils", "galsim", "daophot", "image", "trippy"):
        export_psf(psf, tmp_path / to, to)


def test_effective_psf_is_the_light_of_a_pixel(scene):
    psf = scene[2]
    values = effective(psf, 0.5, 6)
    assert values[6, 6] == pytest.approx(psf.stamps(0.0, 0.0, 1)[0, 0, 0])
    # A sample to the right is a pixel to the right of the star.
    assert values[6, 8] == pytest.approx(psf.stamps(0.0, 0.0, 3)[0, 1, 2])
    assert values[7, 6] == pytest.approx(psf.stamps(0.0, -0.5, 1)[0, 0, 0])


def test_frame_of_a_psf(scene, varying):
    assert frame_size(varying) == (600, 640)
    assert frame_size(varying, (50, 60)) == (50, 60)
    ny, nx = frame_size(scene[2])
    assert ny <= 600
    assert nx <= 640
    assert frame_size(PSFModel(np.zeros((210, 210)), 3.0, 3.0)) == (21, 21)
    with pytest.raises(InputError, match="2 x 2 pixels"):
        frame_size(varying, (1, 40))


def test_a_polynomial_is_exact_at_the_stars_whatever_holds_the_psf_beyond():
    rng = np.random.default_rng(4)
    u = (np.arange(210) - 99.5) / 10
    light = np.exp(-0.5 * (u**2 + u[:, None] ** 2) / 4)
    tables = 0.02 * np.stack([light, light * (u**2 - u[:, None] ** 2)])
    terms = PSFTerms(tables, rng.normal(0, 1, (5, 2)), (200, 300))
    x, y = rng.uniform(100, 160, 20), rng.uniform(60, 110, 20)
    psf = PSFModel(np.zeros((210, 210)), 3.0, 3.0, terms=terms.held(x, y, 1 / 3))
    assert not np.allclose(psf.at(299, 0).lookup_table, terms.change(299, 0))
    with pytest.warns(AstropyUserWarning, match=r"leaves it at the corner"):
        found = fit_over_frame(
            psf, lambda p: p.lookup_table, lambda a, b: monomials(a, b, 2), (200, 300)
        )
    made = np.tensordot(monomials(x, y, 2), found, (1, 0))
    for image, a, b in zip(made, x, y, strict=True):
        np.testing.assert_allclose(image, psf.at(a, b).lookup_table, atol=2e-6)
