"""Star tables in files: what goes in comes out, with what made it."""

from __future__ import annotations

import re

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from mlpsf.errors import OutputError
from mlpsf.export import FORMATS, check_star_path, write_stars
from mlpsf.selection.choice import choose

META = {
    "frame": "night 1.fits[2]",
    "frame_sha256": "ab" * 32,
    "fwhm": 3.25,
    "saturation": np.inf,
    "gain_from": "photon noise of the sky, taking the bias as 0",
    "selector": "residual",
    "mlpsf_version": "0.1.0",
}


@pytest.fixture
def stars():
    sources = Table(
        {
            "id": [1, 2, 3, 4, 5],
            "x": [0.0, 10.25, 99.5, 50.125, 7.0],
            "y": [0.0, 20.75, 1.5, 60.0, np.nan],
            "snr": [1e3, 1e2, np.inf, 50.0, 5.0],
            "flags": np.array([0, 0, 1, 0, 8], np.int32),
        }
    )
    sources["x"].unit = "pix"
    sources.meta.update(META)
    return choose(sources, [0.99, 0.97, 0.95, 0.93, np.nan], n_min=1, n_max=2, reserve=0.34)


def plain(column):
    """Give a column as astropy had it before it masked the empty strings and NaN of a file."""
    return np.ma.filled(column, "" if column.dtype.kind in "SU" else np.nan)


def test_ecsv(stars, tmp_path):
    path = write_stars(stars, tmp_path / "stars.ecsv")
    back = Table.read(path)
    assert back.colnames == stars.colnames
    for name in stars.colnames:
        np.testing.assert_array_equal(plain(back[name]), stars[name])
    assert back["x"].unit == "pix"
    assert back["selected"].dtype == bool
    assert dict(back.meta) == dict(stars.meta)


def test_fits(stars, tmp_path):
    path = write_stars(stars, tmp_path / "stars.fits")
    with fits.open(path) as hdus:
        header = hdus["STARS"].header
        assert header["MLPSF FRAME"] == META["frame"]
        assert header["MLPSF FRAME SHA256"] == META["frame_sha256"]
        assert header["MLPSF FWHM"] == 3.25
        assert header["MLPSF SATURATION"] == "inf"
        assert header["MLPSF N SELECTED"] == 2
        assert header["MLPSF RELAXED"] is False
        assert header["MLPSF MLPSF VERSION"] == META["mlpsf_version"]
        for key in stars.meta:
            assert f"MLPSF {key.upper().replace('_', ' ')}" in header
    back = Table.read(path, hdu="STARS")
    assert back.colnames == stars.colnames
    for name in stars.colnames:
        np.testing.assert_array_equal(plain(back[name]), stars[name])


def test_fits_keeps_long_and_foreign_names(stars, tmp_path):
    stars.meta["frame"] = "über_" + "a_very_long_name_of_a_frame_" * 4 + ".fits"
    path = write_stars(stars, tmp_path / "stars.fits")
    name = fits.getheader(path, "STARS")["MLPSF FRAME"]
    assert name == stars.meta["frame"].replace("ü", "?")


def test_csv(stars, tmp_path):
    path = write_stars(stars, tmp_path / "stars.csv")
    lines = path.read_text().splitlines()
    comments = [line for line in lines if line.startswith("#")]
    assert comments == [f"# {key}: {value}" for key, value in stars.meta.items()]
    assert lines[len(comments)] == ",".join(stars.colnames)
    back = Table.read(path, format="ascii.csv", comment="#")
    np.testing.assert_array_equal(back["x"], stars["x"])
    assert [r == "True" for r in back["selected"].astype(str)] == stars["selected"].tolist()


def test_regions(stars, tmp_path):
    path = write_stars(stars, tmp_path / "stars.reg")
    lines = path.read_text().splitlines()
    assert lines[0] == "# Region file format: DS9 version 4.1"
    for key, value in stars.meta.items():
        assert f"# {key}: {value}" in lines
    assert "image" in lines
    circles = [line for line in lines if line.startswith("circle")]
    assert len(circles) == len(stars)
    colours = [re.search(r"color=(\w+)", c)[1] for c in circles]
    expected = np.where(stars["selected"], "green", np.where(stars["reserved"], "cyan", "red"))
    assert colours == expected.tolist()
    # DS9 counts from 1.
    x, y = re.match(r"circle\(([\d.]+),([\d.]+),", circles[1]).groups()
    assert (float(x), float(y)) == (11.25, 21.75)
    assert "text={3 0.95 saturated}" in circles[2]
    assert circles[4].endswith("text={5 faint}")


@pytest.mark.parametrize("ending", FORMATS)
def test_table_is_not_changed(stars, tmp_path, ending):
    before = stars.copy()
    write_stars(stars, tmp_path / f"stars{ending}")
    assert stars.meta == before.meta
    assert stars.colnames == before.colnames
    for name in stars.colnames:
        np.testing.assert_array_equal(stars[name], before[name])


@pytest.mark.parametrize("ending", FORMATS)
def test_same_table_same_file(stars, tmp_path, ending):
    one = write_stars(stars, tmp_path / f"one{ending}").read_bytes()
    assert one == write_stars(stars, tmp_path / f"two{ending.upper()}").read_bytes()


@pytest.mark.parametrize("ending", FORMATS)
def test_empty_table(stars, tmp_path, ending):
    assert write_stars(stars[:0], tmp_path / f"stars{ending}").stat().st_size > 0


def test_overwrite(stars, tmp_path):
    path = tmp_path / "stars.ecsv"
    path.write_text("old")
    for overwrite, said in (
        (False, r"exists\. overwrite=True"),
        (None, "is no star table of mlpsf"),
    ):
        with pytest.raises(OutputError, match=said):
            write_stars(stars, path, overwrite=overwrite)
        assert path.read_text() == "old"
    write_stars(stars, path, overwrite=True)
    write_stars(stars, path)
    assert len(Table.read(path)) == len(stars)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["stars.txt", "stars", "stars.fits.gz", "stars.ecs"])
def test_unknown_ending(stars, tmp_path, name):
    with pytest.raises(OutputError, match=r"gives no format. Expected one of .ecsv, .fits"):
        write_stars(stars, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_no_such_folder(stars, tmp_path):
    with pytest.raises(OutputError, match="does not exist"):
        write_stars(stars, tmp_path / "none" / "stars.ecsv")
    with pytest.raises(OutputError, match="does not exist"):
        check_star_path(tmp_path / "none" / "stars.ecsv")
