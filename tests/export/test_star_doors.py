"""Star lists for other tools: each tool, or its reader, takes exactly the chosen stars."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import QTable, Table

from mlpsf.errors import CatalogueError, InputError, OutputError
from mlpsf.export import (
    STAR_FORMATS,
    as_qtable,
    export_stars,
    extract_input,
    read_stars,
    write_stars,
)
from mlpsf.export.tables import psf_rows
from mlpsf.flags import Flag
from mlpsf.psf import build_psf


@pytest.fixture(scope="module")
def chosen(scene):
    return psf_rows(scene[1])


def test_psfex_takes_exactly_the_chosen_stars(scene, chosen, program, tmp_path):
    sim, stars, _ = scene
    export_stars(stars, tmp_path / "stars.cat", "ldac", frame=sim.frame)
    (tmp_path / "empty.conf").write_text("")
    done = program(
        *("psfex", "stars.cat", "-c", "empty.conf", "-PSFVAR_DEGREES", 0, "-WRITE_XML", "N"),
        # By default its PSF ends where bright stars still have light, and it drops those.
        *("-PSF_SIZE", "45,45"),
        *("-CHECKPLOT_TYPE", "NONE", "-CHECKIMAGE_TYPE", "NONE", "-VERBOSE_TYPE", "QUIET"),
        *("-OUTCAT_TYPE", "FITS_LDAC", "-OUTCAT_NAME", "used.cat"),
    )
    assert done.returncode == 0, done.stderr
    header = fits.getheader(tmp_path / "stars.psf", 1)
    assert header["LOADED"] == header["ACCEPTED"] == len(chosen)
    assert 0.8 < header["CHI2"] < 1.2
    used = fits.getdata(tmp_path / "used.cat", 2)
    assert np.all(used["FLAGS_PSF"] == 0)
    np.testing.assert_allclose(np.sort(used["X_IMAGE"]), np.sort(chosen["x"] + 1), atol=1e-3)


def test_ldac_holds_the_stars_pixels(scene, chosen, tmp_path):
    sim, stars, psf = scene
    frame = sim.frame
    path = export_stars(stars, tmp_path / "stars.cat", "ldac", frame=frame)[0]
    with fits.open(path) as hdus:
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "LDAC_IMHEAD", "LDAC_OBJECTS"]
        cards = "".join(np.ravel(hdus[1].data["Field Header Card"][0]).astype("U80"))
        rows = hdus[2].data
        assert hdus[2].header["CREATOR"].startswith("mlpsf")
    assert "SEXBKDEV" in cards
    assert rows["NUMBER"].tolist() == chosen["id"].tolist()
    side = rows["VIGNET"].shape[1]
    x, y = np.rint(chosen["x"]).astype(int), np.rint(chosen["y"]).astype(int)
    middle = (frame.data - frame.background.level)[y, x]
    np.testing.assert_allclose(rows["VIGNET"][:, side // 2, side // 2], middle, rtol=1e-5)
    np.testing.assert_allclose(rows["FLUX_MAX"], middle, rtol=1e-5)
    # The half-light radius of a star, about 0.6 of its FWHM for a Moffat profile.
    assert abs(np.median(rows["FLUX_RADIUS"]) / psf.fwhm - 0.58) < 0.05
    mask = frame.mask.copy()
    mask[y[0] + 3, x[0] - 2] = True
    masked = dataclasses.replace(frame, mask=mask)
    path = export_stars(stars, tmp_path / "masked.cat", "ldac", frame=masked)[0]
    assert fits.getdata(path, 2)["VIGNET"][0, side // 2 + 3, side // 2 - 2] == np.float32(-1e30)


@pytest.mark.filterwarnings("ignore")
def test_piff_runs_its_configuration(scene, chosen, written, tmp_path):
    piff = pytest.importorskip("piff")
    yaml = pytest.importorskip("yaml")
    stars, psf = scene[1:]
    paths = export_stars(stars, tmp_path / "piff.yaml", "piff", frame=written / "frame.fits")
    assert [p.name for p in paths] == ["piff.yaml", "piff.fits"]
    config = yaml.safe_load(paths[0].read_text())
    config["output"]["dir"] = str(tmp_path)
    piff.piffify(config)
    made = piff.read(str(tmp_path / "piff.piff"))
    used = np.sort([s.x for s in made.stars])
    np.testing.assert_allclose(used, np.sort(chosen["x"] + 1), atol=1e-6)
    star = made.draw(300.0, 300.0, stamp_size=psf.size).array
    ours = psf.stamps(0.0, 0.0, psf.size)[0]
    assert np.abs(star / star.sum() - ours).max() / ours.max() < 0.03


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("ending", [".ecsv", ".fits"])
def test_photutils_cuts_out_the_stars(scene, chosen, tmp_path, ending):
    psf_tools = pytest.importorskip("photutils.psf")
    sim, stars, _ = scene
    path = export_stars(stars, tmp_path / f"stars{ending}", "photutils")[0]
    catalogue = Table.read(path, hdu=1) if ending == ".fits" else Table.read(path)
    data, same = extract_input(sim.frame, stars)
    cut = psf_tools.extract_stars(data, catalogue, size=25)
    assert cut.n_good_stars == len(chosen)
    np.testing.assert_allclose([s.center[0] for s in cut], chosen["x"], atol=1e-9)
    np.testing.assert_allclose(same["x"], catalogue["x"])
    assert [int(i) for i in catalogue["id"]] == chosen["id"].tolist()


def test_daophot_makes_its_psf_of_the_stars(scene, chosen, iraf, tmp_path):
    sim, stars, _ = scene
    paths = export_stars(stars, tmp_path / "s.pst", "daophot", frame=sim.frame)
    assert [p.name for p in paths] == ["s.pst", "s.coo"]
    pst, coo = (Table.read(p, format="ascii.daophot") for p in paths)
    for table in (pst, coo):
        np.testing.assert_allclose(table["XCENTER"], chosen["x"] + 1, atol=6e-4)
        np.testing.assert_allclose(table["YCENTER"], chosen["y"] + 1, atol=6e-4)
        assert table["ID"].tolist() == list(range(1, len(chosen) + 1))
    np.testing.assert_allclose(10 ** (-0.4 * (pst["MAG"] - 25)), chosen["flux"], rtol=1e-3)
    assert abs(np.median(pst["MSKY"]) - np.median(sim.sky)) < 2
    fits.writeto(tmp_path / "f.fits", sim.frame.data)
    done = iraf(
        "datapars.fwhmpsf = 4",
        f"datapars.epadu = {sim.frame.gain}",
        "datapars.datamax = 59000",
        'daopars.function = "moffat25"',
        "daopars.varorder = 0",
        "daopars.psfrad = 14",
        "daopars.fitrad = 4",
        'fitskypars.salgorithm = "median"',
        "fitskypars.annulus = 18",
        'photpars.apertures = "6"',
        'phot ("f.fits", "s.coo", "f.mag", verify=no, interactive=no, verbose=no)',
        'psf ("f.fits", "f.mag", "s.pst", "p.fits", "f.opst", "f.psg", verify=no, '
        "interactive=no, verbose=no, showplots=no)",
    )
    assert (tmp_path / "p.fits").exists(), done.stdout
    assert fits.getheader(tmp_path / "p.fits")["NPSFSTAR"] == len(chosen)


def test_lsst_names_and_flags(scene, tmp_path):
    """As ``lsst.afw.table`` reads it: bits of one column, which the header names."""
    stars = scene[1]
    path = export_stars(stars, tmp_path / "src.fits", "lsst")[0]
    with fits.open(path) as hdus:
        rows, header = hdus[1].data, hdus[1].header
    bits = rows["flags"]
    names = [header[f"TFLAG{k + 1}"] for k in range(bits.shape[1])]
    assert header["FLAGCOL"] == 1
    assert header["TTYPE1"] == "flags"
    assert header["AFW_TYPE"] == "SOURCE"
    flag = {name: bits[:, k] for k, name in enumerate(names)}
    np.testing.assert_array_equal(flag["calib_psf_used"], stars["selected"])
    np.testing.assert_array_equal(flag["calib_psf_reserved"], stars["reserved"])
    assert stars["reserved"].sum() > 0
    assert flag["calib_psf_candidate"][stars["selected"] | stars["reserved"]].all()
    assert flag["calib_psf_candidate"].sum() < len(stars)
    np.testing.assert_array_equal(
        flag["base_PixelFlags_flag_edge"], stars["flags"] & Flag.NEAR_EDGE != 0
    )
    np.testing.assert_allclose(np.rad2deg(rows["coord_ra"]), stars["ra"])
    np.testing.assert_allclose(rows["slot_Centroid_x"], stars["x"])
    angle = header["TTYPE*"].values()
    at = list(angle).index("coord_ra") + 1
    assert (header[f"TCCLS{at}"], header[f"TUNIT{at}"]) == ("Angle", "rad")


def test_ds9_regions(scene, tmp_path):
    stars = scene[1]
    path = export_stars(stars, tmp_path / "stars.reg", "ds9")[0]
    green = [line for line in path.read_text().splitlines() if "color=green" in line]
    assert len(green) == stars["selected"].sum()
    x = [float(re.match(r"circle\(([\d.]+),", line)[1]) for line in green]
    np.testing.assert_allclose(x, stars["x"][stars["selected"]] + 1, atol=1e-3)


def test_table_has_units_and_ucds(scene, program, tmp_path):
    stars = scene[1]
    path = export_stars(stars, tmp_path / "stars.fits", "table")[0]
    header = fits.getheader(path, 1)
    n = {header[f"TTYPE{k}"]: k for k in range(1, header["TFIELDS"] + 1)}
    for name, unit, ucd in (
        ("ra", "deg", "pos.eq.ra;meta.main"),
        ("x", "pix", "pos.cartesian.x;instr.det"),
        ("probability", None, "stat.probability"),
    ):
        assert header.get(f"TUNIT{n[name]}") == unit
        assert header[f"TUCD{n[name]}"] == ucd
    assert all(f"TUCD{k}" in header for k in n.values())
    assert read_stars(path)["selected"].tolist() == stars["selected"].tolist()
    # TOPCAT's own reader.
    done = program("stilts", "tpipe", "in=stars.fits", "cmd=meta name units ucd", "omode=out")
    assert done.returncode == 0, done.stderr
    line = next(row for row in done.stdout.splitlines() if re.match(r"\W*ra\W", row))
    assert "deg" in line
    assert "pos.eq.ra;meta.main" in line


def test_qtable_has_quantities_and_sky_positions(scene, tmp_path):
    sim, stars, psf = scene
    table = as_qtable(stars)
    assert isinstance(table, QTable)
    assert isinstance(table["sky"], SkyCoord)
    assert table["x"].unit == units.pix
    assert table["flux"].unit == units.adu
    assert dict(table.meta) == dict(stars.meta)
    assert "ra" in stars.colnames
    np.testing.assert_allclose(table["sky"].ra.deg, stars["ra"])
    table.write(tmp_path / "q.ecsv")
    back = QTable.read(tmp_path / "q.ecsv")
    assert back.meta["frame_sha256"] == stars.meta["frame_sha256"]
    assert isinstance(back["sky"], SkyCoord)
    same = build_psf(sim.frame, table)
    np.testing.assert_array_equal(same.lookup_table, psf.lookup_table)


@pytest.mark.parametrize("ending", [".ecsv", ".fits", ".csv"])
def test_a_star_table_is_read_back(scene, tmp_path, ending):
    stars = scene[1]
    back = read_stars(write_stars(stars, tmp_path / f"s{ending}"))
    assert back.colnames == stars.colnames
    for name in stars.colnames:
        assert back[name].dtype.kind == stars[name].dtype.kind
        assert not hasattr(back[name], "mask")
        if stars[name].dtype.kind == "f":
            np.testing.assert_allclose(back[name], stars[name])
        else:
            np.testing.assert_array_equal(back[name], stars[name])
    assert back.meta["fwhm"] == pytest.approx(stars.meta["fwhm"])
    assert back.meta["frame_sha256"] == stars.meta["frame_sha256"]
    assert back.meta["relaxed"] is False
    assert set(back.meta) == set(stars.meta)


def test_what_is_no_star_table(tmp_path):
    for name, content, said in (
        ("a.reg", "", "read from .ecsv, .fits and .csv"),
        ("a.ecsv", "nothing", "cannot be read as a star table"),
        ("a.csv", "a,b\n1,2\n", "has no columns x and y"),
        ("none.fits", None, "There is no file"),
    ):
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises(CatalogueError, match=said):
            read_stars(tmp_path / name)


def test_what_a_format_needs(scene, tmp_path):
    sim, stars, _ = scene
    for to in ("ldac", "piff"):
        with pytest.raises(InputError, match=r"from 'frame' \(--frame\): give it"):
            export_stars(stars, tmp_path / "s", to)
    with pytest.raises(InputError, match="give 'frame' as a path"):
        export_stars(stars, tmp_path / "s.yaml", "piff", frame=sim.frame)
    with pytest.raises(InputError, match="formats of star lists are ldac"):
        export_stars(stars, tmp_path / "s", "psfex")
    with pytest.raises(InputError, match=r"its name would be 's\.coo' too"):
        export_stars(stars, tmp_path / "s.coo", "daophot")
    none = stars[~(stars["selected"] | stars["reserved"])]
    with pytest.raises(InputError, match=r"None of the .* rows"):
        export_stars(none, tmp_path / "s.pst", "daophot")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("to", STAR_FORMATS)
def test_all_files_or_none(scene, written, tmp_path, to):
    stars = scene[1]
    path = tmp_path / "out.x"
    path.write_text("old")
    with pytest.raises(OutputError, match="replaces it"):
        export_stars(stars, path, to, frame=written / "frame.fits")
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "old"
    made = export_stars(stars, path, to, frame=written / "frame.fits", overwrite=True)
    assert sorted(tmp_path.iterdir()) == sorted(made)
    assert path.read_bytes() != b"old"
    before = stars.copy()
    for name in stars.colnames:
        np.testing.assert_array_equal(stars[name], before[name])
