"""Reading frames: every kind of file and object that may come, and every way it can be broken."""

from __future__ import annotations

import gzip
import hashlib
import logging
import os
import pickle
import warnings
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData, InverseVariance, StdDevUncertainty
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st

from mlpsf.errors import FrameError, FrameNotFoundError, InputError, MlpsfError
from mlpsf.frames.frame import Frame
from mlpsf.frames.io.reading import list_images, read_frame

SHAPE = (60, 80)


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(1).poisson(900, SHAPE).astype(np.float32)


@pytest.fixture
def write(tmp_path):
    def write(*hdus, name="frame.fits"):
        path = tmp_path / name
        fits.HDUList(list(hdus)).writeto(path)
        return path

    return write


def tan_header():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.0, 2.0]
    wcs.wcs.crpix = [30.0, 30.0]
    wcs.wcs.cdelt = [-1e-4, 1e-4]
    return wcs.to_header()


# --- what may come


@settings(max_examples=30, deadline=None)
@given(
    dtype=st.sampled_from(["u1", "i2", "u2", "i4", "u4", "i8", "f2", "f4", "f8", "g"]),
    order=st.sampled_from("<>"),
    fortran=st.booleans(),
)
def test_dtype_and_byte_order_change_nothing(dtype, order, fortran):
    values = np.random.default_rng(2).integers(1, 100, (20, 30))
    source = np.asarray(values.astype(dtype), order="F" if fortran else "C")
    source = source.astype(source.dtype.newbyteorder(order))
    source.setflags(write=False)
    frame = read_frame(source)
    assert frame.data.dtype == np.float32
    assert frame.data.dtype.isnative
    assert frame.data.flags.c_contiguous
    np.testing.assert_array_equal(frame.data, values)
    assert frame.sha256 == hashlib.sha256(values.astype("<f4").tobytes()).hexdigest()


@pytest.mark.parametrize("dtype", [np.int64, np.float64])
@pytest.mark.parametrize("level", [-3e8, 3e7, 1e12])
def test_noise_that_float32_cannot_hold_is_said(dtype, level):
    noise = np.random.default_rng(2).normal(0, 5, SHAPE)
    values = (level + noise).astype(dtype)
    values[5, 6:20] = 0
    with pytest.warns(AstropyUserWarning, match=r"array: the noise, .* Subtract a constant"):
        read_frame(values)
    # As much noise as the level deserves, or none at all.
    read_frame((level + abs(level) / 1e5 * noise).astype(dtype))
    read_frame(values - int(level))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_plain_file(write, image, dtype):
    expected = (image / 8).astype(dtype)
    frame = read_frame(write(fits.PrimaryHDU(expected, fits.Header({"FILTER": "r"}))))
    np.testing.assert_array_equal(frame.data, expected)
    assert frame.name == "frame.fits"
    assert frame.shape == SHAPE
    assert frame.header["FILTER"] == "r"
    assert not frame.mask.any()
    assert frame.wcs is None
    if dtype in (np.int16, np.uint16):
        assert frame.saturation == np.iinfo(dtype).max


def test_gzip_and_tile_compression(tmp_path, write, image):
    plain = write(fits.PrimaryHDU(image.astype(np.uint16)))
    zipped = tmp_path / "frame.fits.gz"
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    header = fits.Header({"GAIN": 2.0})
    packed = write(
        fits.PrimaryHDU(), fits.CompImageHDU(image.astype(np.uint16), header), name="frame.fits.fz"
    )
    reference = read_frame(plain)
    assert read_frame(zipped).sha256 == reference.sha256
    frame = read_frame(packed)
    assert frame.sha256 == reference.sha256
    assert frame.gain == 2
    assert frame.saturation == 65535
    assert frame.name == "frame.fits.fz[1]"


@pytest.fixture
def mef(write, image):
    primary = fits.PrimaryHDU(header=fits.Header({"GAIN": 0.0, "SATURATE": 4e4, "FILTER": "w"}))
    table = fits.BinTableHDU.from_columns([fits.Column("A", "E", array=[1.0])], name="CAT")
    chips = [
        fits.ImageHDU(image + k, fits.Header({"GAIN": 1 + k / 10}), name="sci", ver=k)
        for k in (1, 2)
    ]
    return write(primary, chips[0], table, chips[1], name="mef.fits")


@pytest.mark.parametrize(
    ("hdu", "number"),
    [
        (1, 1), (3, 3), (-1, 3), ("SCI", 1), ("sci ", 1), ("SCI,2", 3), ("Sci, 2", 3),
        (("SCI", 2), 3), ("3", 3), (np.int64(3), 3),
    ],
)  # fmt: skip
def test_multi_extension_file(mef, image, hdu, number):
    frame = read_frame(mef, hdu)
    version = {1: 1, 3: 2}[number]
    np.testing.assert_array_equal(frame.data, image + version)
    assert frame.name == f"mef.fits[{number}]"
    assert frame.gain == pytest.approx(1 + version / 10)
    assert frame.saturation == 4e4
    assert frame.header["FILTER"] == "w"
    assert frame.header["GAIN"] == frame.gain
    assert frame.origin["gain"] == "header GAIN"


def test_the_first_of_several_images_is_said(mef, image, write):
    with pytest.warns(AstropyUserWarning, match=r"mef.fits\[1\] is the first of 2 images"):
        frame = read_frame(mef)
    np.testing.assert_array_equal(frame.data, image + 1)
    with fits.open(mef) as hdus, pytest.warns(AstropyUserWarning, match="--hdu all"):
        assert read_frame(hdus).name == "HDU list[1]"
    planes = [fits.ImageHDU(np.ones_like(image), name=name) for name in ("ERR", "AREA", "VAR_FLAT")]
    alone = write(fits.PrimaryHDU(), fits.ImageHDU(image, name="SCI"), *planes, name="one.fits")
    read_frame(alone)  # which has planes that describe its image, and no other


def test_list_images(mef, write, image):
    assert list_images(mef) == [(1, "SCI,1", SHAPE), (3, "SCI,2", SHAPE)]
    cube = write(fits.PrimaryHDU(image[None]), fits.CompImageHDU(image, name="C"), name="c.fits")
    assert list_images(cube) == [(0, "PRIMARY,1", SHAPE), (1, "C,1", SHAPE)]


def test_degenerate_cube_squeezes(write, image):
    np.testing.assert_array_equal(read_frame(write(fits.PrimaryHDU(image[None]))).data, image)
    np.testing.assert_array_equal(read_frame(image[None, None]).data, image)


def test_a_file_is_not_modified_and_not_held(mef):
    before = mef.read_bytes()
    frame = read_frame(mef, 1)
    frame.data[:] = 0
    assert mef.read_bytes() == before
    mef.unlink()


def test_an_array_is_not_modified(image):
    source = image.copy()
    source[3, 4] = np.nan
    frame = read_frame(source)
    assert np.isnan(source[3, 4])
    assert frame.data[3, 4] == 0
    assert not np.shares_memory(frame.data, source)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_pixels_that_are_not_finite_are_masked(image, value):
    source = image.astype(float)
    source[3, 4] = value
    frame = read_frame(source)
    assert np.argwhere(frame.mask).tolist() == [[3, 4]]
    assert np.isfinite(frame.data).all()


def test_masked_array(image):
    frame = read_frame(np.ma.masked_less(image, 900))
    np.testing.assert_array_equal(frame.mask, image < 900)


def test_mask_and_variance_as_array_and_path(write, image):
    mask = (image > 930).astype(np.int16)
    variance = image.copy()
    variance[0, :3] = [np.nan, -1, np.inf]
    mask_path = write(fits.PrimaryHDU(), fits.ImageHDU(mask), name="mask.fits")
    variance_path = write(fits.PrimaryHDU(variance), name="variance.fits")
    by_array = read_frame(image, mask=mask, variance=variance)
    by_path = read_frame(image, mask=str(mask_path), variance=variance_path)
    expected = mask.astype(bool)
    expected[0, :3] = True
    for frame in (by_array, by_path):
        np.testing.assert_array_equal(frame.mask, expected)
        assert np.isfinite(frame.variance).all()
        np.testing.assert_array_equal(frame.variance[1:], image[1:])


@pytest.mark.parametrize("kind", [StdDevUncertainty, InverseVariance])
def test_ccddata(image, kind):
    mask = image > 930
    uncertainty = kind(np.full(SHAPE, 4.0))
    ccd = CCDData(
        image, unit="adu", mask=mask, uncertainty=uncertainty, wcs=WCS(tan_header()),
        meta={"gain": 3.0, "history of it": object()},
    )  # fmt: skip
    frame = read_frame(ccd)
    np.testing.assert_array_equal(frame.data, image)
    np.testing.assert_array_equal(frame.mask, mask)
    np.testing.assert_allclose(frame.variance, 16 if kind is StdDevUncertainty else 0.25)
    assert frame.gain == 3
    assert frame.wcs.has_celestial
    assert read_frame(CCDData(image, unit=u.electron, meta={"gain": 3.0})).gain == 1


def test_hdus(image):
    header = fits.Header({"GAIN": 1.3})
    for hdu in (fits.PrimaryHDU(image, header), fits.ImageHDU(image, header, name="SCI")):
        frame = read_frame(hdu)
        np.testing.assert_array_equal(frame.data, image)
        assert frame.gain == 1.3
    hdus = fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(image, header, name="SCI")])
    assert read_frame(hdus, "SCI").gain == 1.3
    with pytest.raises(FrameError, match="holds no 2-D image"):
        read_frame(fits.PrimaryHDU())


def test_a_frame_comes_back_and_takes_overrides(image):
    frame = read_frame(image)
    assert read_frame(frame) is frame
    mask = image > 930
    other = read_frame(frame, mask=mask, variance=image, gain=2.5, saturation=940)
    assert (other.gain, other.saturation) == (2.5, 940)
    assert other.origin["gain"] == other.origin["saturation"] == "given"
    np.testing.assert_array_equal(other.mask, mask)
    np.testing.assert_array_equal(other.saturated, image >= 940)
    assert frame.variance is None
    assert not frame.mask.any()


def test_given_values_are_kept(write, image):
    path = write(fits.PrimaryHDU(image, fits.Header({"GAIN": 3.0, "SATURATE": 5e4})))
    frame = read_frame(path, gain=7, saturation=np.inf)
    assert (frame.gain, frame.saturation) == (7, np.inf)
    assert not frame.saturated.any()


def test_a_frame_pickles_and_speaks(write, image):
    frame = read_frame(write(fits.PrimaryHDU(image, tan_header())))
    again = pickle.loads(pickle.dumps(frame))
    np.testing.assert_array_equal(again.data, frame.data)
    assert again.sha256 == frame.sha256
    assert repr(frame).startswith("<Frame frame.fits: 60 x 80 pixels, gain ")


# --- exposures of LSST and HSC


@pytest.mark.parametrize("blank", [False, True])
@pytest.mark.parametrize("compressed", [False, True])
def test_lsst_exposure(write, image, blank, compressed):
    planes = {"BAD": 0, "SAT": 1, "CR": 3, "DETECTED": 5, "NO_DATA": 8, "UNMASKEDNAN": 12}
    plane = np.zeros(SHAPE, np.int32)
    for column, bit in enumerate(planes.values()):
        plane[0, column] = 1 << bit
    plane[1, 1] = (1 << 5) | (1 << 1)
    header = fits.Header([(f"HIERARCH MP_{name}", bit) for name, bit in planes.items()])
    header["EXTNAME"] = "MASK"
    if blank:
        plane[2, 2] = 2147483647
        header["BLANK"] = 2147483647
    kind = fits.CompImageHDU if compressed else fits.ImageHDU
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # astropy mentions BLANK as it writes
        path = write(
            fits.PrimaryHDU(), fits.ImageHDU(image, tan_header(), name="IMAGE"),
            kind(plane, header), fits.ImageHDU(image / 2, name="VARIANCE"),
        )  # fmt: skip
    frame = read_frame(path)
    bad = np.zeros(SHAPE, bool)
    bad[0, [0, 1, 2, 4, 5]] = bad[1, 1] = True
    saturated = np.zeros(SHAPE, bool)
    saturated[0, 1] = saturated[1, 1] = True
    if blank:
        bad[2, 2] = saturated[2, 2] = True
    np.testing.assert_array_equal(frame.mask, bad)
    np.testing.assert_array_equal(frame.saturated_plane, saturated)
    np.testing.assert_array_equal(frame.saturated, saturated)
    np.testing.assert_array_equal(frame.variance, image / 2)
    assert frame.wcs is not None


# --- headers


def test_malformed_cards_are_used_without_a_word(write, image, caplog, capfd):
    path = write(fits.PrimaryHDU(image, fits.Header({"GAIN": 1.7, "OBJECT": "x", "RDNOISE": 5})))
    raw = path.read_bytes()
    raw = raw.replace(b"OBJECT  = 'x       '", b"OBJECT  = x'unclosed")
    raw = raw.replace(b"RDNOISE =", b"rdnoise =")
    path.write_bytes(raw)
    with caplog.at_level(logging.INFO):
        frame = read_frame(path)
    assert frame.gain == 1.7
    assert frame.read_noise == 5
    assert capfd.readouterr().out == ""


def test_wcs(write, image, capfd):
    frame = read_frame(write(fits.PrimaryHDU(image, tan_header())))
    assert frame.wcs.all_pix2world([[29.0, 29.0]], 0)[0] == pytest.approx([150.0, 2.0])
    sip = tan_header() + fits.Header({"A_ORDER": 2, "A_2_0": 1e-6, "B_ORDER": 2, "B_0_2": 1e-6})
    assert read_frame(write(fits.PrimaryHDU(image, sip), name="sip.fits")).wcs is not None
    broken = tan_header()
    broken["CDELT1"] = 0.0
    assert read_frame(write(fits.PrimaryHDU(image, broken), name="broken.fits")).wcs is None
    assert capfd.readouterr() == ("", "")


# --- how it can be broken


def test_no_such_file(tmp_path):
    with pytest.raises(FrameNotFoundError, match="There is no file") as caught:
        read_frame(tmp_path / "none.fits")
    assert isinstance(caught.value, (FileNotFoundError, MlpsfError))


@pytest.mark.parametrize("content", [b"", b"hello", b"\x1f\x8b\x08 no gzip"])
def test_not_fits(tmp_path, content):
    path = tmp_path / "text.fits"
    path.write_bytes(content)
    with pytest.raises(FrameError, match=r"no readable FITS file|holds no 2-D image"):
        read_frame(path)
    with pytest.raises(FrameError, match="is a folder"):
        read_frame(tmp_path)


@pytest.mark.parametrize("kind", ["plain", "uint16", "gz", "fz", "header"])
def test_truncated_file(tmp_path, write, image, kind):
    pixels = image.astype(np.uint16) if kind in ("uint16", "fz") else image
    if kind == "fz":
        path = write(fits.PrimaryHDU(), fits.CompImageHDU(pixels))
    else:
        path = write(fits.PrimaryHDU(pixels))
    raw = path.read_bytes()
    if kind == "gz":
        raw, path = gzip.compress(raw), tmp_path / "frame.fits.gz"
    keep = {"header": 1000, "fz": len(raw) - 4000}.get(kind, len(raw) // 2)
    path.write_bytes(raw[:keep])
    warned = pytest.warns(AstropyUserWarning, match="ends in the data of HDU 1")
    with (
        pytest.raises(FrameError, match=r"cut short|no readable FITS|download"),
        warned if kind == "fz" else nullcontext(),
    ):
        read_frame(path)


def test_missing_padding_is_no_harm(write, image):
    path = write(fits.PrimaryHDU(image))
    end = 2880 + image.nbytes
    path.write_bytes(path.read_bytes()[:end])
    np.testing.assert_array_equal(read_frame(path).data, image)


def test_no_image(write):
    table = fits.BinTableHDU.from_columns([fits.Column("A", "E", array=[1.0])], name="CAT")
    path = write(fits.PrimaryHDU(), table)
    with pytest.raises(FrameError, match=r"no 2-D image.*1 \(CAT,1: a table\)"):
        read_frame(path)
    with pytest.raises(FrameError, match="holds no 2-D image"):
        read_frame(write(fits.PrimaryHDU(np.ones((3, 8, 8))), name="cube.fits"))


@pytest.mark.parametrize("hdu", [7, -9, "NONE", "SCI,9", ("SCI", 9)])
def test_unknown_hdu(mef, hdu):
    with pytest.raises(FrameError, match=r"has no HDU.*3 \(SCI,2: 60 x 80\)"):
        read_frame(mef, hdu)


@pytest.mark.parametrize("hdu", [0, 2, "CAT"])
def test_hdu_without_an_image(mef, hdu):
    with pytest.raises(FrameError, match=r"holds no 2-D image.*1 \(SCI,1: 60 x 80\)"):
        read_frame(mef, hdu)


def test_no_good_pixel(image):
    with pytest.raises(FrameError, match="NaN, infinite or masked"):
        read_frame(np.full(SHAPE, np.nan))
    with pytest.raises(FrameError, match="NaN, infinite or masked"):
        read_frame(image, mask=np.ones(SHAPE))
    with pytest.raises(FrameError, match="NaN, infinite or masked"):
        read_frame(read_frame(image), mask=np.ones(SHAPE))


def test_constant_image(image):
    with pytest.raises(FrameError, match="have the value 7"):
        read_frame(np.full(SHAPE, 7))
    with pytest.raises(FrameError, match="have the value 900"):
        read_frame(image, mask=image != 900)


@pytest.mark.parametrize("parameter", ["mask", "variance"])
def test_companion_of_another_shape(image, parameter):
    other = np.ones((SHAPE[1], SHAPE[0]))
    message = rf"'{parameter}' parameter has shape \(80, 60\)"
    with pytest.raises(InputError, match=message):
        read_frame(image, **{parameter: other})
    with pytest.raises(InputError, match=message):
        read_frame(read_frame(image), **{parameter: other})


@pytest.mark.parametrize("shape", [(), (5,), (2, 5, 5), (0, 5), (0,)])
def test_wrong_number_of_dimensions(shape):
    with pytest.raises(FrameError, match="Expected a 2-D image"):
        read_frame(np.ones(shape))


@pytest.mark.parametrize("dtype", [complex, object, "U1", "M8[s]"])
def test_pixels_that_are_no_numbers(dtype):
    with pytest.raises(FrameError, match="Expected real numbers"):
        read_frame(np.zeros((5, 5), dtype))


@pytest.mark.parametrize("unit", [1.0, 0.09303446345371597, 3e-7])
def test_pixels_at_saturation_are_saturated_in_any_unit(unit):
    # Pixels and level are rounded on different ways.
    pixels = np.full((20, 20), 100, dtype=np.float32)
    pixels[5, 5] = 65535
    frame = read_frame(pixels * np.float32(unit), saturation=65535 * unit)
    assert frame.saturated.sum() == 1
    assert read_frame(pixels, saturation=65535.4).saturated.sum() == 1  # six digits
    assert read_frame(pixels, saturation=65540).saturated.sum() == 0


@pytest.mark.parametrize("value", [0, -1, np.nan])
@pytest.mark.parametrize("parameter", ["gain", "saturation"])
def test_gain_and_saturation_must_be_positive(image, parameter, value):
    with pytest.raises(InputError, match=f"'{parameter}' parameter .--{parameter}. must be"):
        read_frame(image, **{parameter: value})


def test_hdu_of_an_array_makes_no_sense(image):
    for source in (image, read_frame(image)):
        with pytest.raises(InputError, match="'hdu' parameter is for files"):
            read_frame(source, 1)


def test_tiny_image():
    frame = read_frame([[1.0, 2.0]])
    assert frame.origin["gain"] == "unknown, the noise of the sky alone"
    assert frame.saturation == np.inf


# --- real frames

FOLDER = os.environ.get("MLPSF_REAL_FRAMES")


@pytest.fixture
def real():
    if not FOLDER:
        pytest.skip("MLPSF_REAL_FRAMES names no folder of real frames")
    return lambda name, hdu=None: read_frame(Path(FOLDER) / name, hdu)


@pytest.mark.parametrize(
    ("name", "hdu", "gain", "saturation"),
    [
        ("bulge_i_saao10.fits", None, (1.9, 1.9), (65300, 65300)),
        ("eso085_apogee.fits", None, (1.2, 2.2), (65000, 65535)),
        ("hsc_r_coadd.fits", None, (1000, 4000), (np.inf, np.inf)),
        ("huntsman_raw.fits", None, (1.14, 1.15), (4094, 4094)),
        ("lco_mef_raw.fits", 1, (6.42, 6.42), (40000, 40000)),
        ("lco_mef_raw.fits", "SCI,2", (6.23, 6.23), (40000, 40000)),
        ("sn2019so_r_ctio13.fits", None, (2, 6), (65000, 72000)),
        ("ztau_v_cdk17.fits", None, (7, 12), (27000, 65535)),
    ],
)
def test_real_frames(real, capfd, name, hdu, gain, saturation):
    frame = real(name, hdu)
    assert isinstance(frame, Frame)
    assert gain[0] <= frame.gain <= gain[1], frame.origin
    assert saturation[0] <= frame.saturation <= saturation[1], frame.origin
    assert (frame.wcs is not None) == name.startswith(("hsc", "huntsman", "sn2019", "ztau"))
    assert capfd.readouterr() == ("", "")


def test_real_mask_planes(real):
    frame = real("hsc_r_coadd.fits")
    assert frame.variance is not None
    assert frame.saturated_plane is not None
    assert 0 < frame.mask.mean() < 0.05


@pytest.mark.parametrize("masked", [False, True])
def test_a_quantity_is_an_image(masked):
    from astropy import units
    from astropy.utils.masked import Masked

    pixels = np.random.default_rng(1).poisson(800.0, (128, 128)).astype(float)
    mask = np.zeros(pixels.shape, dtype=bool)
    mask[3, 4] = True
    image = pixels * units.electron
    frame = read_frame(Masked(image, mask=mask) if masked else image)
    np.testing.assert_array_equal(frame.data[5:], pixels[5:].astype(np.float32))
    assert frame.gain == 1.0
    assert "electron" in frame.origin["gain"]
    assert frame.mask[3, 4] == masked
    assert frame.mask.sum() == masked


@pytest.mark.parametrize("value", [-3.4028235e38, 3.4e38, -1e30, 1e37])
def test_marks_of_no_data_are_masked(image, value):
    marked = image.astype(np.float32)
    marked[3:9, 4:8] = value
    frame = read_frame(marked)
    assert frame.mask.sum() == 24
    assert frame.mask[3:9, 4:8].all()


@pytest.mark.parametrize("largest", [1.0, 1e4, 9e28])
def test_sky_of_hardly_any_noise_beside_a_bright_pixel(largest):
    pixels = np.random.default_rng(1).normal(0, 1e-38, (60, 80)).astype(np.float32)
    pixels[30, 40] = largest
    sky = read_frame(pixels).background
    assert np.isfinite(sky.rms).all()
    assert (sky.rms > 0).all()
    assert np.isfinite(pixels / sky.rms).all()


def test_a_slope_of_the_sky_is_no_noise():
    # Within a mesh, the sky of a vignetted frame falls by several times its noise.
    row, column = np.mgrid[:1024, :1024]
    sky = 2000 / (1 + 0.9 * ((row - 512) ** 2 + (column - 512) ** 2) / 500**2) ** 2
    background = read_frame(np.random.default_rng(1).poisson(sky) + 100.0, gain=1.0).background
    ratio = background.rms / np.sqrt(sky)
    assert np.median(ratio) == pytest.approx(1, abs=0.05)
    assert np.quantile(ratio, [0.02, 0.9]) == pytest.approx([1, 1], abs=0.2)
