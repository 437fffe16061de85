"""``mlpsf export``, and the lists that ``select`` and ``psf`` reuse."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from typer.testing import CliRunner

from mlpsf.cli.main import app
from mlpsf.errors import MlpsfError
from mlpsf.export import PSF_FORMATS, STAR_FORMATS, read_stars


@pytest.fixture(scope="module")
def folder(field, tmp_path_factory):
    """A frame, its star table and its PSF, made by the commands."""
    folder = tmp_path_factory.mktemp("export")
    field.write(folder / "frame.fits")
    words = ["psf", folder / "frame.fits", "--out", folder / "psf.fits", "-q"]
    assert CliRunner().invoke(app, list(map(str, words))).exit_code == 0
    return folder


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def invoke(*words):
        return CliRunner().invoke(app, [str(w) for w in words])

    return invoke


def fails(result, said):
    assert isinstance(result.exception, MlpsfError), result.output
    assert said in str(result.exception)


@pytest.mark.parametrize("to", PSF_FORMATS)
def test_every_format_of_a_psf(run, folder, tmp_path, to):
    if to == "piff":
        pytest.importorskip("piff")
    done = run("export", folder / "psf.fits", "--to", to, "--out", "out.fits")
    assert done.exit_code == 0, done.output
    assert [p.name for p in tmp_path.iterdir()] == ["out.fits"]
    with fits.open("out.fits") as hdus:
        assert any(hdu.header.get("FRAME") for hdu in hdus)


@pytest.mark.parametrize("to", STAR_FORMATS)
def test_every_format_of_stars(run, folder, to):
    frame = ("--frame", folder / "frame.fits")
    done = run("export", folder / "psf_stars.ecsv", "--to", to, "--out", "out.x", *frame)
    assert done.exit_code == 0, done.output
    fails(
        run("export", folder / "psf_stars.ecsv", "--to", to, "--out", "out.x", *frame),
        "--overwrite replaces it",
    )


def test_options_of_a_psf(run, folder):
    psf = folder / "psf.fits"
    run("export", psf, "--to", "image", "--place", 30, 40.5, "--oversampling", 3, "--out", "a.fits")
    header = fits.getheader("a.fits")
    assert (header["PSFX"], header["PSFY"], header["OVERSAMP"]) == (31, 41.5, 3)
    frame = ("--frame", folder / "frame.fits")
    run("export", psf, "--to", "photutils", "--grid", 3, *frame, "--out", "b.fits")
    header = fits.getheader("b.fits")
    assert header["NXPSFS"] == 3
    assert header["IPSFX03"] == 520
    fails(
        run("export", psf, "--to", "psfex", "--place", 1, 2, "--out", "c"),
        "does not take 'at' (--place)",
    )


def test_what_cannot_be_exported(run, folder, tmp_path):
    psf, stars = folder / "psf.fits", folder / "psf_stars.ecsv"
    fails(run("export", "none.fits", "--to", "psfex", "--out", "a"), "There is no file none.fits")
    frame = folder / "frame.fits"
    fails(run("export", frame, "--to", "psfex", "--out", "a"), "neither a PSF nor a star table")
    fails(run("export", psf, "--to", "ldac", "--out", "a"), "holds a PSF, of formats psfex")
    fails(run("export", stars, "--to", "psfex", "--out", "a"), "holds star tables, of formats ldac")
    fails(run("export", stars, "--to", "ldac", "--out", "a"), "give it")
    fails(run("export", stars, "--to", "ds9", "--grid", 3, "--out", "a"), "are for PSFs")
    fails(run("export", psf, "--to", "image", "--out", psf), "would replace an input")
    fails(
        run("export", stars, "--to", "piff", "--frame", frame, "--out", folder / "frame.yaml"),
        "would replace an input",
    )
    assert list(tmp_path.iterdir()) == []


def test_lists_are_reused(run, folder):
    """Stars of an earlier table, one of them vetoed and another kept."""
    earlier = read_stars(folder / "psf_stars.ecsv")
    frame = folder / "frame.fits"
    chosen = earlier[earlier["selected"]]
    Table({"X_IMAGE": chosen["x"][:1] + 1, "Y_IMAGE": chosen["y"][:1] + 1}).write("veto.fits")
    words = ("--stars", folder / "psf_stars.ecsv", "--veto", "veto.fits", "-q")
    done = run("psf", frame, "--out", "psf.fits", "--table", "again.csv", *words)
    assert done.exit_code == 0, done.output
    again = read_stars("again.csv")
    assert set(again["id"][again["selected"]]) == set(chosen["id"][1:])
    assert again.meta["stars_from"] == "psf_stars.ecsv"
    assert again.meta["veto_from"] == "veto.fits"
    poor = earlier[np.nanargmin(earlier["probability"])]
    Table({"ra": [poor["ra"]], "dec": [poor["dec"]]}).write("keep.ecsv")
    done = run("select", frame, "--keep", "keep.ecsv", "--out", "kept.ecsv", "-q")
    assert done.exit_code == 0, done.output
    kept = read_stars("kept.ecsv")
    unusable = poor["reason"] in ("near the edge", "saturated", "masked pixels")
    assert kept["selected"][kept["id"] == poor["id"]][0] != unusable
    fails(run("select", frame, "--veto", "none.ecsv"), "There is no file")
    fails(
        run("select", frame, "--stars", "kept.ecsv", "--out", "kept.ecsv"), "would replace an input"
    )
