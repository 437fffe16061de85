"""Files with damage between their HDUs, or with more behind them."""

from __future__ import annotations

import gzip
import warnings

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.utils.exceptions import AstropyUserWarning

from mlpsf.errors import FrameError
from mlpsf.frames.io.fits_sizes import check_fits, lost_hdus
from mlpsf.frames.io.reading import list_images, read_frame

BLOCK = 2880


@pytest.fixture
def mosaic(tmp_path):
    rng = np.random.default_rng(1)
    chips = [fits.ImageHDU(rng.normal(size=(30, 40)).astype("f4"), name=f"C{k}") for k in range(3)]
    path = tmp_path / "mosaic.fits"
    fits.HDUList([fits.PrimaryHDU(), *chips]).writeto(path)
    return path


def _damage(path, how):
    content = path.read_bytes()
    third = content.index(b"XTENSION", content.index(b"XTENSION", BLOCK) + 1)
    return {
        "a flipped byte": content[:third] + b"XTENSIOM" + content[third + 8 :],
        "another flipped byte": content[:third] + b"YTENSION" + content[third + 8 :],
        "a kind with a flipped byte": content[:third]
        + content[third:].replace(b"'IMAGE", b"'IMAGD", 1),
        "junk between": content[:third] + b"junk" * (BLOCK // 4) + content[third:],
        "a damaged end": content[:third] + content[third:].replace(b"END     ", b"EMD     ", 1),
        "cut data": content[: third + BLOCK + 100],
        "a cut header": content[: third + 400],
        "a header without its end": content[:third]
        + content[third : third + BLOCK].replace(b"END     ", b"EMD     "),
        "a width that is no number": _other_card(content, third, "NAXIS1", "x"),
        "no groups": _other_card(content, third, "GCOUNT", "0"),
        "10^9 axes": _other_card(content, third, "NAXIS", "1000000000"),
        "an axis that is missing": _other_card(content, third, "NAXIS", "3"),
        "far too wide": _other_card(content, third, "NAXIS1", "1000000000"),
        "a PCOUNT": _other_card(content, third, "PCOUNT", "2880"),
        "junk of no block": content[:third] + b"junk" * 25 + content[third:],
        "bytes lost": content[: third - 3000] + content[third - 2900 :],
    }[how]


def _other_card(content, header, key, value):
    at = content.index(f"{key:<8}= ".encode(), header) + 10
    return content[:at] + value.rjust(20).encode() + content[at + 20 :]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "how",
    [
        "a flipped byte",
        "another flipped byte",
        "a kind with a flipped byte",
        "junk between",
        "a cut header",
        "a header without its end",
        "a damaged end",
        "a width that is no number",
        "no groups",
        "10^9 axes",
        "an axis that is missing",
        "far too wide",
        "a PCOUNT",
        "junk of no block",
        "bytes lost",
    ],
)
def test_lost_hdus_are_told(mosaic, how, packed):
    content = _damage(mosaic, how)
    mosaic.write_bytes(gzip.compress(content) if packed else content)
    with pytest.warns(AstropyUserWarning, match="held there is missing"):
        images = list_images(mosaic)
    assert images[0] == (1, "C0,1", (30, 40))
    assert "C1,1" not in [name for _, name, _ in images]
    with pytest.warns(AstropyUserWarning, match="held there is missing"):
        assert read_frame(mosaic, hdu=1).data.shape == (30, 40)
    with pytest.raises(FrameError, match="HDU"), pytest.warns(AstropyUserWarning):
        read_frame(mosaic, hdu=2)


@pytest.mark.parametrize("behind", [b"", b"junk" * 900, bytes(7 * BLOCK), b"x", b" " * BLOCK])
def test_what_is_behind_the_hdus_is_no_loss(mosaic, behind):
    whole = read_frame(mosaic, hdu="C2").data
    mosaic.write_bytes(mosaic.read_bytes() + behind)
    assert lost_hdus(mosaic) == ""
    check_fits(mosaic, FrameError)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(read_frame(mosaic, hdu="C2").data, whole)
        assert len(list_images(mosaic)) == 3


@pytest.mark.parametrize("packed", [False, True])
def test_data_that_end_early_are_told(mosaic, packed):
    content = _damage(mosaic, "cut data")
    mosaic.write_bytes(gzip.compress(content) if packed else content)
    with pytest.warns(AstropyUserWarning, match="ends in the data of HDU 2"):
        assert read_frame(mosaic, hdu=1).data.shape == (30, 40)


@pytest.mark.parametrize(("key", "value"), [("NAXIS1", "100"), ("BITPIX", "-64")])
def test_an_hdu_that_claims_the_next_one_is_told(mosaic, key, value):
    content = mosaic.read_bytes()
    third = content.index(b"XTENSION", content.index(b"XTENSION", BLOCK) + 1)
    mosaic.write_bytes(_other_card(content, third, key, value))
    with pytest.warns(AstropyUserWarning, match="a header in the data|ends in the data"):
        list_images(mosaic)


def test_a_first_header_without_its_end_is_refused(mosaic):
    mosaic.write_bytes(mosaic.read_bytes().replace(b"END     ", b"EMD     ", 1))
    with pytest.raises(FrameError, match="first header has no END"):
        read_frame(mosaic, hdu=1)


def test_a_packed_table_is_whole(tmp_path):
    cards = {"ZTABLE": True, "ZNAXIS1": 8, "ZNAXIS2": 9, "ZPCOUNT": 0, "ZTILELEN": 9}
    table = fits.table_to_hdu(Table({"x": np.arange(9.0)}))
    table.header.update(cards)
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(tmp_path / "a.fits")
    assert check_fits(tmp_path / "a.fits", FrameError) == tmp_path / "a.fits"
    assert lost_hdus(tmp_path / "a.fits") == ""
