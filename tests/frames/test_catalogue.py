"""Lists of sources that users bring, in the formats and conventions that they come in."""

from __future__ import annotations

import bz2
import gzip
import lzma
import warnings

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import MaskedColumn, Table
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import WCS
from bad_inputs import zipped

from mlpsf.errors import CatalogueError, MlpsfError
from mlpsf.frames.io.catalogue import read_catalogue, read_table
from mlpsf.frames.io.reading import read_frame

X, Y = np.array([10.25, 70.5, 33.0]), np.array([20.75, 5.0, 41.0])


@pytest.fixture(scope="module")
def frame():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.0, 2.0]
    wcs.wcs.crpix = [40.5, 25.5]
    wcs.wcs.cdelt = [-1e-4, 1e-4]
    pixels = np.random.default_rng(1).normal(100, 3, (50, 80)).astype(np.float32)
    return read_frame(fits.PrimaryHDU(pixels, wcs.to_header()))


def check(table):
    assert table.colnames == ["id", "x", "y"]
    assert table["x"].dtype == table["y"].dtype == np.float64
    np.testing.assert_allclose(table["x"], X, atol=1e-6)
    np.testing.assert_allclose(table["y"], Y, atol=1e-6)


@pytest.mark.parametrize(
    ("names", "first"),
    [
        (("x", "y"), 0),
        (("X", "Y"), 0),
        (("xcentroid", "ycentroid"), 0),
        (("x_fit", "y_fit"), 0),
        (("X_IMAGE", "Y_IMAGE"), 1),
        (("XWIN_IMAGE", "YWIN_IMAGE"), 1),
        (("xwin_image", "ywin_image"), 1),
    ],
)
def test_pixel_columns(frame, names, first):
    check(read_catalogue(Table(dict(zip(names, (X + first, Y + first), strict=True))), frame))


@pytest.mark.parametrize(
    "names", [("ra", "dec"), ("RA", "DEC"), ("RAJ2000", "DEJ2000"), ("ALPHA_J2000", "DELTA_J2000")]
)
def test_sky_columns(frame, names):
    sky = frame.wcs.all_pix2world(X, Y, 0)
    check(read_catalogue(Table(dict(zip(names, sky, strict=True))), frame))
    quantities = [v * u.deg for v in sky]
    check(read_catalogue(Table(dict(zip(names, quantities, strict=True))), frame))


def test_pixels_are_preferred_to_the_sky(frame):
    check(read_catalogue(Table({"ra": X * 0, "dec": Y * 0, "x": X, "y": Y}), frame))


@pytest.mark.parametrize("name", ["c.ecsv", "c.csv", "c.fits", "c.xml", "c.txt"])
def test_files(frame, tmp_path, name):
    table = Table({"id": [7, 3, 5], "x": X, "y": Y})
    path = tmp_path / name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        formats = {"c.xml": "votable", "c.txt": "ascii.commented_header"}
        table.write(path, format=formats.get(name))
    before = path.read_bytes()
    out = read_catalogue(path, frame)
    check(out)
    assert out["id"].tolist() == [7, 3, 5]
    check(read_catalogue(str(path), frame))
    assert path.read_bytes() == before


def test_sextractor_text(frame, tmp_path):
    path = tmp_path / "test.cat"
    path.write_text(
        "#   1 NUMBER          Running object number\n"
        "#   2 X_IMAGE         Object position along x         [pixel]\n"
        "#   3 Y_IMAGE         Object position along y         [pixel]\n"
        + "".join(f"{i + 1} {x + 1} {y + 1}\n" for i, (x, y) in enumerate(zip(X, Y, strict=True)))
    )
    check(read_catalogue(path, frame))


@pytest.mark.parametrize("name", ["field.ldac", "field.cat", "field.fits"])
def test_ldac(frame, tmp_path, name):
    header = fits.BinTableHDU.from_columns(
        [fits.Column("Field Header Card", "160A", array=["SIMPLE"])], name="LDAC_IMHEAD"
    )
    objects = fits.BinTableHDU(
        Table({"NUMBER": [1, 2, 3], "X_IMAGE": X + 1, "Y_IMAGE": Y + 1}), name="LDAC_OBJECTS"
    )
    path = tmp_path / name
    fits.HDUList([fits.PrimaryHDU(), header, objects]).writeto(path)
    check(read_catalogue(path, frame))


@pytest.mark.parametrize(
    ("ids", "expected"),
    [([4, 9, 2], [4, 9, 2]), ([4, 4, 2], [1, 2, 3]), (["a", "b", "c"], [1, 2, 3])],
)
def test_ids(frame, ids, expected):
    out = read_catalogue(Table({"NUMBER": ids, "x": X, "y": Y}), frame)
    assert out["id"].tolist() == expected


def test_some_positions_off_the_frame(frame):
    x = np.concatenate([X, [-0.6, 79.6, np.nan, -0.4]])
    y = np.concatenate([Y, [5.0, 5.0, 5.0, 49.4]])
    table = Table({"id": np.arange(7), "x": x, "y": y})
    with pytest.warns(UserWarning, match="3 of 7 positions of the catalogue lie off the frame"):
        out = read_catalogue(table, frame)
    assert out["id"].tolist() == [0, 1, 2, 6]


def test_masked_positions_are_left_out(frame):
    table = Table({"x": MaskedColumn(X, mask=[False, True, False]), "y": Y})
    with pytest.warns(UserWarning, match="1 of 3"):
        out = read_catalogue(table, frame)
    np.testing.assert_allclose(out["x"], X[[0, 2]])


def test_integer_and_big_endian_columns(frame):
    table = Table({"x": np.array([10, 20], ">i4"), "y": np.array([5.5, 6.5], ">f4")})
    out = read_catalogue(table, frame)
    assert out["x"].tolist() == [10, 20]
    assert out["x"].dtype.isnative


def test_table_is_not_changed(frame):
    table = Table({"X_IMAGE": X + 1, "Y_IMAGE": Y + 1})
    out = read_catalogue(table, frame)
    out["x"][:] = 0
    np.testing.assert_array_equal(table["X_IMAGE"], X + 1)


# --- refusals


@pytest.mark.parametrize(
    ("table", "match"),
    [
        (Table({"x": [], "y": []}), "no rows"),
        (Table({"a": [1.0], "b": [2.0]}), "no columns of positions.*X_IMAGE.*Got: a, b"),
        (Table({"x": [1.0], "b": [2.0]}), "no columns of positions"),
        (Table({"x": ["a"], "y": ["b"]}), "Column x of the catalogue does not hold numbers"),
        (Table({"x": ["1", "--"], "y": [2, 2]}), "does not hold numbers: row 2 is '--'"),
        (Table({"x": [500.0], "y": [2.0]}), "None of the 1 positions.*80 pixels wide and 50 high"),
        (Table({"x": [np.nan], "y": [2.0]}), "none of them finite"),
        (Table({"ra": [10.0], "dec": [-40.0]}), "None of the 1 positions"),
    ],
)
def test_bad_tables(frame, table, match):
    with pytest.raises(CatalogueError, match=match) as caught:
        read_catalogue(table, frame)
    assert isinstance(caught.value, MlpsfError)
    assert isinstance(caught.value, ValueError)


def test_sky_without_wcs():
    plain = read_frame(np.random.default_rng(1).normal(100, 3, (50, 80)))
    with pytest.raises(CatalogueError, match="no WCS"):
        read_catalogue(Table({"ra": [150.0], "dec": [2.0]}), plain)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.csv", b""),
        ("binary.cat", bytes(range(256))),
        ("broken.ecsv", b"# %ECSV 1.0\n# ---\n# oops"),
        ("short.fits", b"SIMPLE  =                    T"),
        ("words.txt", b"it was a dark and stormy night;\nthe rain fell\n"),
        ("image.png", b"\x89PNG\r\n\x1a\n" + bytes(50)),
        ("broken.xml", b"<VOTABLE><oops>"),
    ],
)
def test_files_that_are_no_table(frame, tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CatalogueError, match=name) as caught:
        read_catalogue(path, frame)
    assert "()" not in str(caught.value)


def test_image_is_no_catalogue(frame, tmp_path):
    path = tmp_path / "image.fits"
    fits.PrimaryHDU(np.ones((5, 5))).writeto(path)
    with pytest.raises(CatalogueError, match=r"image\.fits"):
        read_catalogue(path, frame)


def test_no_such_file(frame, tmp_path):
    with pytest.raises(CatalogueError, match="There is no file"):
        read_catalogue(tmp_path / "none.csv", frame)
    with pytest.raises(CatalogueError, match="is a folder"):
        read_catalogue(tmp_path, frame)


def test_rows_of_one_source(frame):
    table = Table({"x": [10.0, 30.0, 10.2], "y": [10.0, 5.0, 10.1]})
    with pytest.warns(UserWarning, match=r"1 of 3 positions .* same source in two rows"):
        assert read_catalogue(table, frame)["x"].tolist() == [10.0, 30.0]


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.csv", "10.5,20\n30,40.25\n"), ("a.txt", "10.5 20\n30 40.25\n")],
)
def test_a_list_without_names_counts_from_0(frame, tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    found = read_catalogue(path, frame)
    assert found["x"].tolist() == [10.5, 30.0]
    assert found["y"].tolist() == [20.0, 40.25]


@pytest.mark.parametrize("ending", ["fits.gz", "fits"])
def test_packed_tables_and_those_with_something_behind(tmp_path, ending):
    path = tmp_path / f"stars.{ending}"
    Table({"x": [1.0, 2.0], "y": [3.0, 4.0]}).write(path)
    if ending == "fits":
        path.write_bytes(path.read_bytes() + b"junk" * 900)
    assert read_table(path)["y"].tolist() == [3.0, 4.0]


@pytest.mark.parametrize("name", ["a.csv", "a.ecsv", "a.vot", "a.txt", "a.reg"])
@pytest.mark.parametrize("how", ["gz", "bz2", "xz", "zip", "mark"])
def test_packed_lists_and_marks_of_encoding(tmp_path, name, how):
    path = tmp_path / name
    table = Table({"x": [1.0, 2.0], "y": [3.0, 4.0]})
    if name == "a.reg":
        path.write_text("image\ncircle(2,4,5)\ncircle(3,5,5)\n")
    else:
        kinds = {"a.vot": "votable", "a.txt": "ascii.basic"}
        table.write(path, format=kinds.get(name))
    content = path.read_bytes()
    if how == "mark":
        path.write_bytes(b"\xef\xbb\xbf" + content)
    else:
        path = tmp_path / f"{name}.{how}"
        pack = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
        path.write_bytes(pack[how](content) if how in pack else zipped({name: content}))
    found = read_table(path)
    assert (found["x"].tolist(), found["y"].tolist()) == ([1.0, 2.0], [3.0, 4.0])
    if how == "gz":
        path.write_bytes(gzip.compress(path.read_bytes()))
        with pytest.raises(CatalogueError, match="more than once"):
            read_table(path)


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("x;y\n1.0;3.5\n2.0;4.0\n", "y"),
        ("# of a spreadsheet\nx;y;name\n1,0;3,5;a, b\n2;4;c\n", "y"),
        ("1,0;3,5\n2,0;4\n", "col2"),
        ("# a list\n# id;x;y\n1;1,0;3,5\n2;2;4\n", "y"),
        ("sep=;\n\nname;x;y\n#3;1;3.5\nb;2;4\n", "y"),
        ('"name;alt",x,y\n"a;b",1,3.5\nc,2,4\n', "y"),
        ('x,y,"n;a"\n1,3.5,"a;b"\n2,4,c\n', "y"),
    ],
)
def test_semicolons(tmp_path, text, column):
    (tmp_path / "a.csv").write_text(text)
    assert read_table(tmp_path / "a.csv")[column].tolist() == [3.5, 4.0]


def test_other_encodings_and_names_with_semicolons(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n1,3.5\n", encoding="utf-16")
    assert read_table(tmp_path / "a.csv")["y"].tolist() == [3.5]
    table = Table({"n;a": [1], "x": [1.0], "y": [3.5]})
    table.write(tmp_path / "a.ecsv")
    assert read_table(tmp_path / "a.ecsv")["y"].tolist() == [3.5]
    (tmp_path / "c.csv").write_text("n\xe4me;x;y\na;1;3.5\n", encoding="latin-1")
    assert read_table(tmp_path / "c.csv")["y"].tolist() == [3.5]
    (tmp_path / "b.csv").write_text("x;y\n1;2\n3\n")
    with pytest.raises(CatalogueError, match="data columns"):
        read_table(tmp_path / "b.csv")


def test_a_table_cut_short_says_so(tmp_path):
    path = tmp_path / "a.fits"
    Table({"x": np.arange(5000.0), "y": np.arange(5000.0)}).write(path)
    path.write_bytes(path.read_bytes()[:30000])
    with pytest.raises(CatalogueError, match="ends in the data"):
        read_table(path)


def test_zips_of_folders_and_of_macos(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(
        zipped({"a/": b"", "a/list.csv": b"x,y\n1,3\n", "__MACOSX/a/._list.csv": b"?"})
    )
    assert read_table(path)["y"].tolist() == [3]


def test_lists_that_unpack_to_too_much(tmp_path, monkeypatch):
    monkeypatch.setattr("mlpsf.frames.io.catalogue.FREE", 1000)
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"x,y\n1,3\n" + 2000 * b" "))
    with pytest.raises(CatalogueError, match="no list"):
        read_table(path)
    # A FITS table is no list, packed or with something behind it.
    table = tmp_path / "a.fits"
    Table({"x": np.arange(300.0)}).write(table)
    packed, longer = tmp_path / "b.fits.gz", tmp_path / "c.fits"
    packed.write_bytes(gzip.compress(table.read_bytes()))
    longer.write_bytes(table.read_bytes() + b"junk" * 900)
    assert len(read_table(packed)) == len(read_table(longer)) == 300


def test_a_table_that_lost_another_says_so(tmp_path):
    path = tmp_path / "a.fits"
    tables = [fits.table_to_hdu(Table({"x": np.arange(9.0)})) for _ in range(2)]
    fits.HDUList([fits.PrimaryHDU(), *tables]).writeto(path)
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b"XTENSION") + 400])
    with pytest.warns(AstropyUserWarning, match="held there is missing"):
        assert len(read_table(path)) == 9
