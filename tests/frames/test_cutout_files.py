"""Files of cutouts: read whatever form they have, and LDAC's chosen rows byte for byte."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.utils.exceptions import AstropyUserWarning
from hypothesis import given
from hypothesis import strategies as st

from mlpsf.errors import CatalogueError
from mlpsf.frames.io.cutout_files import (
    holds_cutouts,
    is_ldac,
    kept_rows,
    read_cutouts,
    write_cutouts,
)


def catalogue(path, sizes=(5,), side=15, seed=0):
    """Write a catalogue as SExtractor's FITS_LDAC does, one pair of HDUs an image."""
    rng = np.random.default_rng(seed)
    hdus = [fits.PrimaryHDU()]
    for n in sizes:
        card = np.array([b"SIMPLE  =                    T"], dtype="S80")
        cards = [fits.Column("Field Header Card", "80A", array=card)]
        hdus.append(fits.BinTableHDU.from_columns(cards, name="LDAC_IMHEAD"))
        vignet = rng.normal(100, 5, (n, side, side)).astype(">f4")
        vignet[:, 0] = -1e30
        columns = [
            fits.Column("NUMBER", "1J", array=np.arange(1, n + 1)),
            fits.Column("X_IMAGE", "1E", array=rng.uniform(1, 999, n)),
            fits.Column("Y_IMAGE", "1E", array=rng.uniform(1, 999, n)),
            fits.Column("VIGNET", f"{side * side}E", dim=f"({side},{side})", array=vignet),
        ]
        hdus.append(fits.BinTableHDU.from_columns(columns, name="LDAC_OBJECTS"))
    fits.HDUList(hdus).writeto(path, overwrite=True)
    return path


def test_ldac(tmp_path):
    path = catalogue(tmp_path / "a.cat", (5, 3))
    assert holds_cutouts(path)
    found = read_cutouts(path)
    assert found.cutouts.shape == (8, 15, 15)
    assert found.groups.tolist() == [1] * 5 + [2] * 3
    with fits.open(path) as hdus:
        np.testing.assert_allclose(found.x[:5], hdus[2].data["X_IMAGE"] - 1.0)
    assert read_cutouts(catalogue(tmp_path / "b.cat")).groups is None


@given(data=st.data())
def test_chosen_rows_come_back_byte_for_byte(tmp_path_factory, data):
    sizes = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    path = catalogue(tmp_path_factory.mktemp("ldac") / "a.cat", sizes)
    n = sum(sizes)
    keep = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    out = path.with_name("b.cat")
    out.write_bytes(kept_rows(path, keep))
    assert out.stat().st_size % 2880 == 0
    with fits.open(path) as before, fits.open(out) as after:
        assert [h.name for h in before] == [h.name for h in after]
        start = 0
        for one, other in zip(before, after, strict=True):
            if one.name != "LDAC_OBJECTS":
                assert repr(one.header) == repr(other.header)
                continue
            mine = keep[start : start + len(one.data)]
            start += len(one.data)
            assert len(other.data) == mine.sum()
            assert one.data[mine].tobytes() == other.data.tobytes()
    if keep.all():
        assert out.read_bytes() == path.read_bytes()


def test_rows_must_be_those_of_the_catalogue(tmp_path):
    path = catalogue(tmp_path / "a.cat", (5,))
    with pytest.raises(CatalogueError, match="more rows"):
        kept_rows(path, [True] * 4)
    with pytest.raises(CatalogueError, match="5 rows"):
        kept_rows(path, [True] * 6)


def test_chosen_rows_of_a_packed_catalogue(tmp_path):
    path = catalogue(tmp_path / "a.cat", (5,))
    packed = tmp_path / "b.cat"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    keep = [True, False, True, True, False]
    assert is_ldac(packed)
    assert kept_rows(packed, keep) == kept_rows(path, keep)


@pytest.mark.parametrize("how", ["cut", "zeros"])
def test_a_catalogue_that_lost_a_table_says_so(tmp_path, how):
    path = catalogue(tmp_path / "a.cat", (5, 3))
    content = path.read_bytes()
    last = content.rindex(b"XTENSION")
    path.write_bytes(
        content[: last + 400] + (bytes(2480) + content[last + 2880 :]) * (how != "cut")
    )
    with pytest.warns(AstropyUserWarning, match="held there is missing"):
        assert len(read_cutouts(path).cutouts) == 5
    with pytest.raises(CatalogueError, match="would lack that"):
        kept_rows(path, [True] * 5)


def test_damaged_catalogue_is_none(tmp_path):
    path = catalogue(tmp_path / "a.cat", (5,))
    content = path.read_bytes()
    for before, after in ((b"NAXIS2  =", b"NAXIS3  ="), (b"TFIELDS =", b"TFIELDS -")):
        path.write_bytes(content.replace(before, after))
        assert not is_ldac(path)
        with pytest.raises(CatalogueError):
            kept_rows(path, [True] * 5)
    path.write_bytes(
        content.replace(b"NAXIS2  =                    5", b"NAXIS2  = 5000000000000000000 ")
    )
    assert not is_ldac(path)
    with pytest.raises(CatalogueError):
        kept_rows(path, [True] * 5)


@pytest.mark.parametrize("ending", [".npz", ".fits"])
def test_written_cutouts_are_read_again(tmp_path, ending):
    rng = np.random.default_rng(1)
    cutouts = rng.normal(size=(4, 15, 15)).astype(np.float32)
    path = write_cutouts(tmp_path / f"a{ending}", cutouts, np.arange(4.0), np.arange(4.0) + 7)
    assert holds_cutouts(path)
    found = read_cutouts(path)
    np.testing.assert_array_equal(found.cutouts, cutouts)
    assert found.x.tolist() == [0, 1, 2, 3]
    assert found.y.tolist() == [7, 8, 9, 10]
    assert found.groups is None


def test_cubes(tmp_path):
    cube = np.zeros((3, 15, 15), np.float32)
    alone, counted, grouped = (tmp_path / f"{k}.fits" for k in "abc")
    fits.PrimaryHDU(cube).writeto(alone)
    table = fits.table_to_hdu(Table({"X_IMAGE": [1.0, 2, 3], "Y_IMAGE": [4.0, 5, 6]}))
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(cube), table]).writeto(counted)
    table = fits.table_to_hdu(Table({"x": [1.0, 2, 3], "y": [4.0, 5, 6], "group": ["a", "b", "b"]}))
    fits.HDUList([fits.PrimaryHDU(cube), table]).writeto(grouped)
    assert read_cutouts(alone).x is None
    assert read_cutouts(counted).x.tolist() == [0, 1, 2]
    assert read_cutouts(grouped).groups.tolist() == ["a", "b", "b"]


def test_frames_and_other_files_are_no_cutouts(tmp_path):
    image, plain, text = (tmp_path / name for name in ("a.fits", "b.fits", "c.txt"))
    fits.PrimaryHDU(np.zeros((40, 40))).writeto(image)
    fits.HDUList([fits.PrimaryHDU(), fits.table_to_hdu(Table({"x": [1.0]}))]).writeto(plain)
    text.write_text("no cutouts")
    for path in (image, plain, text, tmp_path / "none.fits"):
        assert not holds_cutouts(path)
        with pytest.raises(CatalogueError):
            read_cutouts(path)


def test_damaged_archives_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, pixels=np.zeros((2, 15, 15)))
    with pytest.raises(CatalogueError, match="no array 'cutouts'"):
        read_cutouts(path)
    np.savez(path, cutouts=np.array([{}], dtype=object))  # a pickle is not opened
    with pytest.raises(CatalogueError, match="cannot be read"):
        read_cutouts(path)
    path.write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(CatalogueError, match="cannot be read"):
        read_cutouts(path)
    np.savez(path, cutouts=np.zeros((2, 15, 15)), x=np.zeros(3), y=np.zeros(2))
    with pytest.raises(CatalogueError, match="2 cutouts and x"):
        read_cutouts(path)
