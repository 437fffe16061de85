"""Noise planes in an image's file and beside it."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

from mlpsf.frames.io.fitsio import open_fits
from mlpsf.frames.io.hdus import planes_of
from mlpsf.frames.io.reading import read_frame


def image(seed=1, shape=(128, 128)):
    return np.random.default_rng(seed).normal(0, 2, shape).astype(np.float32)


def planes(name, values):
    return fits.HDUList(
        [
            fits.PrimaryHDU(),
            fits.ImageHDU(image(), name="SCI"),
            fits.ImageHDU(values.astype(np.float32), name=name),
        ]
    )


@pytest.mark.parametrize(
    ("name", "value"), [("ERR", 3.0), ("RMS", 3.0), ("VAR", 9.0), ("VARIANCE", 9.0)]
)
def test_an_error_or_variance_in_the_file(tmp_path, name, value):
    values = np.full((128, 128), value)
    values[5, 7] = 0
    planes(name, values).writeto(tmp_path / "a.fits")
    frame = read_frame(tmp_path / "a.fits")
    assert frame.variance[0, 0] == pytest.approx(9.0)
    assert frame.mask[5, 7]
    assert frame.mask.sum() == 1
    with open_fits(tmp_path / "a.fits") as hdus:
        assert planes_of(hdus) == {2}


@pytest.mark.parametrize("name", ["WHT", "WEIGHT", "IVAR", "WGT", "INVVAR"])
def test_a_weight_is_relative_to_the_noise_that_is_measured(tmp_path, name):
    weight = np.full((128, 128), 50.0)
    weight[:20], weight[5, 7] = 12.5, 0.0
    planes(name, weight).writeto(tmp_path / "a.fits")
    frame = read_frame(tmp_path / "a.fits")
    assert frame.variance[60, 60] == pytest.approx(4.0, rel=0.1)
    assert frame.variance[3, 3] == pytest.approx(16.0, rel=0.1)
    assert frame.mask[5, 7]


@pytest.mark.parametrize(
    ("name", "plane"),
    [
        ("coadd.fits", "coadd.weight.fits"),
        ("x_drz_sci.fits", "x_drz_wht.fits"),
        ("legacysurvey-1-image-r.fits", "legacysurvey-1-invvar-r.fits"),
        ("ztf.fits", "ztf_ivar.fits.gz"),
    ],
)
def test_a_weight_beside_the_file(tmp_path, name, plane):
    fits.writeto(tmp_path / name, image())
    weight = np.ones((128, 128), np.float32)
    weight[5, 7] = 0
    fits.writeto(tmp_path / plane, weight)
    frame = read_frame(tmp_path / name)
    assert frame.mask[5, 7]
    assert frame.origin["variance"] == plane
    assert read_frame(tmp_path / plane, gain=1.0).variance is None


def test_files_of_another_shape_or_kind_are_no_weights(tmp_path):
    fits.writeto(tmp_path / "a.fits", image())
    fits.writeto(tmp_path / "a.weight.fits", np.ones((5, 5)))
    (tmp_path / "a_ivar.fits").write_text("nothing")
    assert read_frame(tmp_path / "a.fits").variance is None


def test_the_light_of_sources_is_added_to_weights_where_the_gain_is_known(tmp_path):
    data = image() + 100
    data[60, 60] = 5100
    header = fits.Header({"GAIN": 2.0})
    fits.writeto(tmp_path / "a.fits", data, header)
    fits.writeto(tmp_path / "a.wht.fits", np.ones_like(data))
    frame = read_frame(tmp_path / "a.fits")
    assert frame.origin["gain"] == "header GAIN"
    assert frame.variance[60, 60] == pytest.approx(4 + 2500, rel=0.01)


@pytest.mark.parametrize(
    ("name", "header", "bad", "saturated", "harmless"),
    [
        ("DQ", {"TELESCOP": "HST"}, 4096, 256, 64),
        ("DQ", {"TELESCOP": "JWST"}, 1, 2, 4),
        ("MSK", {}, 16, 2, 32),
    ],
)
def test_the_bits_of_masks(tmp_path, name, header, bad, saturated, harmless):
    bits = np.zeros((128, 128), np.int32)
    bits[5, 7], bits[6, 8], bits[7, 9] = bad, saturated, harmless
    hdus = planes(name, bits)
    hdus[2] = fits.ImageHDU(bits, name=name)
    hdus[0].header.update(header)
    hdus.writeto(tmp_path / "a.fits")
    frame = read_frame(tmp_path / "a.fits")
    assert frame.mask[5, 7]
    assert frame.mask.sum() == 2
    assert np.argwhere(frame.saturated_plane).tolist() == [[6, 8]]
    with open_fits(tmp_path / "a.fits") as hdus:
        assert planes_of(hdus) == {2}


def test_any_bit_of_an_unknown_mask_is_bad(tmp_path):
    bits = np.zeros((128, 128))
    bits[5, 7] = 32
    planes("MASK", bits).writeto(tmp_path / "a.fits")
    assert np.argwhere(read_frame(tmp_path / "a.fits").mask).tolist() == [[5, 7]]


def test_hyperbolic_sines_of_pan_starrs():
    light = image() * 100
    zero, soft, scale = 3.0, 40.0, 2.5 / np.log(10)
    header = fits.Header({"BOFFSET": zero, "BSOFTEN": soft})
    stored = (scale * np.arcsinh((light - zero) / (2 * soft))).astype(np.float32)
    frame = read_frame(fits.PrimaryHDU(stored, header))
    np.testing.assert_allclose(frame.data, light, rtol=1e-4, atol=1e-3)
