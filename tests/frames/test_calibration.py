"""Gain, saturation and read noise, from headers and from pixels."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning
from hypothesis import given, settings
from hypothesis import strategies as st

from mlpsf.frames.calibration import find_gain, find_read_noise, find_saturation
from mlpsf.frames.estimation import (
    find_pile_up,
    gain_lower_bound,
    measure_sky_noise,
    noise_correlation,
)
from mlpsf.frames.io.reading import read_frame
from mlpsf.frames.keywords import (
    GAIN_KEYWORDS,
    READ_NOISE_KEYWORDS,
    SATURATION_KEYWORDS,
    header_number,
)
from mlpsf.frames.units import header_gain, pixel_unit

UINT16 = np.dtype(np.uint16)
FLOAT32 = np.dtype(np.float32)


def card(keyword, value):
    """Write a keyword that is long or has spaces as HIERARCH, as observatories do."""
    return fits.Card(keyword if len(keyword) <= 8 else f"HIERARCH {keyword}", value)


def star_field(seed=0, shape=(300, 300), n=40, galaxy=0.0, gain=1.0, pedestal=0.0, fwhm=4.0):
    """Stars of a wide range of flux, and a galaxy, on a sky of 400 ADU, with photon noise."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(shape)
    image = 400 + galaxy * np.exp(-np.hypot(y - shape[0] / 2, x - shape[1] / 2) / 30)
    sigma = fwhm / 2.3548
    y, x = np.mgrid[-20:21, -20:21]
    for _ in range(n):
        cy, cx = rng.uniform(22, shape[0] - 22), rng.uniform(22, shape[1] - 22)
        iy, ix = round(cy), round(cx)
        r2 = (y + iy - cy) ** 2 + (x + ix - cx) ** 2
        image[iy - 20 : iy + 21, ix - 20 : ix + 21] += (
            10 ** rng.uniform(2.5, 4.8) * (1 + r2 / (5 * sigma**2)) ** -2.5
        )
    return (rng.poisson(image * gain) / gain + pedestal).astype(np.float32)


def gain_of(data, *headers, **kwargs):
    mask = np.zeros(data.shape, bool)
    return find_gain(data, mask, headers, measure_sky_noise(data, mask), **kwargs)[:2]


def saturation_of(data, *headers, gain=1.0, dtype=FLOAT32):
    mask = np.zeros(data.shape, bool)
    noise = measure_sky_noise(data, mask)
    return find_saturation(data, mask, headers, noise, gain=gain, dtype=dtype)[:2]


def pile_of(data):
    mask = np.zeros(data.shape, bool)
    return find_pile_up(data, mask, measure_sky_noise(data, mask))


@pytest.mark.parametrize("keyword", GAIN_KEYWORDS)
def test_every_gain_keyword_is_read(keyword):
    header = fits.Header([card(keyword, 2.5)])
    assert header_number([header], GAIN_KEYWORDS, 0, 1e6) == (2.5, keyword)


@pytest.mark.parametrize("value", [0, -1.0, "auto", True, 1e9])
def test_an_absurd_keyword_is_ignored(value):
    first, second = fits.Header({"GAIN": value}), fits.Header({"GAIN": "1.9 "})
    assert header_number([first], GAIN_KEYWORDS, 0, 1e6) is None
    assert header_number([first, second], GAIN_KEYWORDS, 0, 1e6) == (1.9, "GAIN")


def test_other_gain_like_keywords_are_no_gain():
    header = fits.Header({"GAINDL": 11, "CBBAGAIN": 0})
    assert header_number([header], GAIN_KEYWORDS, 0, 1e6) is None


@pytest.mark.parametrize("keyword", READ_NOISE_KEYWORDS)
def test_read_noise(keyword):
    header = fits.Header([card(keyword, 4.5)])
    assert find_read_noise([header]) == (4.5, f"header {keyword}")
    assert find_read_noise([]) == (0.0, "unknown, taken as 0")


@settings(max_examples=15, deadline=None)
@given(gain=st.floats(0.3, 20), electrons=st.floats(200, 3e4), seed=st.integers(0, 2**32 - 1))
def test_photon_noise_gives_the_gain(gain, electrons, seed):
    rng = np.random.default_rng(seed)
    data = (rng.poisson(electrons, (256, 256)) / gain).astype(np.float32)
    value, origin = gain_of(data)
    assert value == pytest.approx(gain, rel=0.12)
    assert origin.startswith("photon noise")


def test_known_read_noise_is_allowed_for():
    rng = np.random.default_rng(3)
    data = (rng.poisson(400, (256, 256)) + rng.normal(0, 20, (256, 256))).astype(np.float32) / 2
    assert gain_of(data)[0] < 1.2
    assert gain_of(data, read_noise=20.0)[0] == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("pedestal", [0, 1000, 20000])
def test_a_true_gain_survives_any_pedestal(pedestal):
    data = star_field(gain=2.0, pedestal=pedestal)
    assert gain_of(data, fits.Header({"GAIN": 2.0})) == (2.0, "header GAIN")


def test_a_true_gain_survives_crowding():
    data = star_field(n=1500, gain=2.0)
    assert gain_of(data, fits.Header({"GAIN": 2.0})) == (2.0, "header GAIN")


def test_a_gain_that_is_too_small_for_the_noise_is_overruled():
    data = star_field(gain=9.0, shape=(500, 500), galaxy=2000)
    value, origin = gain_of(data, fits.Header({"EGAIN": 1.0}))
    assert value == pytest.approx(9, rel=0.2)
    assert "EGAIN = 1 contradicts" in origin


def test_a_camera_setting_is_no_gain():
    value, origin = gain_of(star_field(gain=0.5), fits.Header({"GAIN": 100}))
    assert value == pytest.approx(0.5, rel=0.2)
    assert "GAIN = 100 contradicts" in origin


def test_the_lower_bound_holds_whatever_the_pedestal():
    mask = np.zeros((500, 500), bool)
    bounds = []
    for pedestal in (0, 5000):
        data = star_field(gain=3.0, shape=(500, 500), n=200, pedestal=pedestal)
        bounds.append(gain_lower_bound(data, mask, measure_sky_noise(data, mask)))
    assert bounds[0] == pytest.approx(bounds[1], rel=0.05)
    assert 0.5 < bounds[0] < 3.3


def test_no_sky_no_gain():
    data = star_field() - 400
    assert gain_of(data) == (np.inf, "unknown, the noise of the sky alone")
    assert gain_of(data, fits.Header({"GAIN": 5.0})) == (5.0, "header GAIN")


def test_electrons_have_gain_one():
    data = star_field(gain=3.0)
    assert gain_of(data, fits.Header({"BUNIT": "Electrons", "GAIN": 3.0}))[0] == 1
    assert gain_of(data, fits.Header({"GAIN": 3.0}), unit="electron")[0] == 1


def test_the_variance_plane_gives_the_gain():
    data = star_field(gain=3.0) - 400
    variance = (400 + np.maximum(data, 0)) / 3
    value, origin = gain_of(data, variance=variance.astype(np.float32))
    assert value == pytest.approx(3, rel=0.05)
    assert "variance plane" in origin


@pytest.mark.parametrize("level", [3000, 6000])
@pytest.mark.parametrize("fwhm", [2.0, 4.0, 7.0])
def test_a_sharp_pile_up_is_found(level, fwhm):
    data = np.minimum(star_field(1, fwhm=fwhm), level)
    assert pile_of(data) == level
    assert saturation_of(data) == (level, "pile-up of the histogram")


def test_a_pile_up_spread_by_flat_fielding_is_found():
    rng = np.random.default_rng(5)
    data = np.minimum(star_field(1), 6000) * rng.normal(1, 0.01, (300, 300)).astype(np.float32)
    assert 5700 < pile_of(data) < 6000


@pytest.mark.parametrize("seed", range(8))
def test_nothing_piles_up_without_saturation(seed):
    assert pile_of(star_field(seed, fwhm=2.0 + seed)) is None


def test_equal_stars_on_the_grid_are_no_pile_up():
    y, x = np.mgrid[:300, :300]
    stars = 5e4 * np.exp(-((y % 20 - 10) ** 2 + (x % 20 - 10) ** 2) / 6)
    data = np.random.default_rng(1).poisson(stars + 100).astype(np.float32)
    assert pile_of(data) is None


def test_cosmic_rays_and_hot_pixels_set_nothing():
    rng = np.random.default_rng(2)
    data = star_field(2)
    y, x = rng.integers(0, 300, (2, 30))
    data[y, x] = rng.uniform(5000, 70000, 30)
    assert pile_of(data) is None
    assert saturation_of(data) == (np.inf, "nothing limits it")


def test_a_few_hot_pixels_above_the_pile_up_do_not_hide_it():
    data = np.minimum(star_field(1), 4000)
    data[[10, 50, 90], [10, 50, 90]] = 60000
    assert pile_of(data) == 4000


def test_integers_saturate_at_their_largest_value():
    data = star_field(3)
    assert saturation_of(data, dtype=UINT16) == (65535, "largest value of uint16 pixels")
    assert saturation_of(data, dtype=np.dtype(">i2"))[0] == 32767


@pytest.mark.parametrize("keyword", SATURATION_KEYWORDS)
def test_header_saturation(keyword):
    header = fits.Header([card(keyword, 5e4)])
    assert saturation_of(star_field(3), header) == (5e4, f"header {keyword}")


def test_header_full_well_is_in_electrons():
    assert saturation_of(star_field(3), fits.Header({"FULLWELL": 1e5}), gain=2.0)[0] == 5e4


@pytest.mark.parametrize("share", [0.5, 1.0, 3.0])
def test_datamax_is_no_saturation(share):
    data = star_field(3)
    assert saturation_of(data, fits.Header({"DATAMAX": float(share * data.max())}))[0] == np.inf


def test_header_saturation_above_the_pile_up_is_overruled():
    level, origin = saturation_of(np.minimum(star_field(1), 4000), fits.Header({"SATURATE": 65535}))
    assert level == 4000
    assert "SATURATE = 65535 is above it" in origin


def test_a_linearity_limit_under_the_pile_up_stays():
    level, _ = saturation_of(np.minimum(star_field(1), 6000), fits.Header({"MAXLIN": 4000}))
    assert level == 4000


@pytest.mark.parametrize("value", [255, 500])
def test_header_saturation_far_below_the_sources_is_ignored(value):
    # 255 is below the sky; 500 below many stars
    assert saturation_of(star_field(n=80), fits.Header({"SATURATE": value}))[0] == np.inf


def test_tiny_and_noiseless_images_have_no_sky_noise():
    assert measure_sky_noise(np.ones((3, 3), np.float32), np.zeros((3, 3), bool)) is None
    assert measure_sky_noise(np.ones((64, 64), np.float32), np.zeros((64, 64), bool)) is None
    assert measure_sky_noise(star_field(), np.ones((300, 300), bool)) is None


def test_masked_pixels_do_not_count():
    data = star_field(4, n=0)
    mask = np.zeros(data.shape, bool)
    clean = measure_sky_noise(data, mask)
    mask[::5] = True
    data[::5] = 1e6
    noise = measure_sky_noise(data, mask)
    assert noise.sky == pytest.approx(clean.sky, rel=0.01)
    assert noise.variance == pytest.approx(clean.variance, rel=0.1)
    assert find_pile_up(data, mask, noise) is None


def undersampled(rounded):
    rng = np.random.default_rng(7)
    data = rng.normal(100, 5, (300, 300))
    for peak, row, column in zip(
        np.geomspace(1e3, 9e4, 60), *rng.integers(10, 290, (2, 60)), strict=True
    ):
        data[row - 1 : row + 2, column - 1 : column + 2] += peak * np.array(
            [[0.02, 0.1, 0.02], [0.1, 1.0, 0.1], [0.02, 0.1, 0.02]]
        )
    return (np.rint(data) if rounded else data).astype(np.float32)


@pytest.mark.parametrize("rounded", [True, False])
def test_stars_clipped_in_a_pixel_each_show_the_level(rounded):
    data = undersampled(rounded)
    assert pile_of(data) is None
    level = float(np.sort(data, axis=None)[-4])
    assert pile_of(np.minimum(data, level)) == level
    assert pile_of(np.minimum(data, np.sort(data, axis=None)[-2])) is None  # two may be chance


@pytest.mark.parametrize(
    ("cards", "gain"),
    [
        ({"BUNIT": "DN", "GAIN": 2.0}, 2.0),
        ({"GAIN": 2.0}, 2.0),
        ({"BUNIT": "ELECTRONS/S", "EXPTIME": 500.0, "CCDGAIN": 1.5}, 500.0),
        ({"BUNIT": "electron s-1", "XPOSURE": 500.0}, 500.0),
        ({"BUNIT": "DN/s", "GAIN": 2.0, "EXPTIME": 30.0}, 60.0),
        ({"BUNIT": "DN/s", "GAIN": 2.0}, None),
        ({"BUNIT": "MJy/sr", "GAIN": 2.0, "EXPTIME": 100.0}, None),
        ({"BUNIT": "MJy/sr", "GAIN": 2.0, "PHOTMJSR": 0.5, "EXPTIME": 100.0}, 400.0),
        ({"BUNIT": "nanomaggy", "GAIN": 4.0, "NMGY": 0.005}, 800.0),
        ({"BUNIT": "nanomaggy", "GAIN": 4.0}, None),
        ({"BUNIT": "Jy", "EGAIN": 1.0}, None),
    ],
)
def test_a_gain_counts_in_the_unit_of_the_pixels(cards, gain):
    header = fits.Header(cards)
    found = header_gain([header], pixel_unit([header]))
    assert (found and found[0]) == (gain and pytest.approx(gain))


def test_a_gain_that_makes_pixels_quieter_than_any_detector_is_of_another_unit():
    data = (star_field(gain=2.0) - 400) * 1e-4
    value, origin = gain_of(data, fits.Header({"GAIN": 2.0}))
    assert value == np.inf
    assert "GAIN = 2 contradicts" in origin


def test_a_saturation_in_the_unit_of_calibrated_pixels_is_taken():
    unit = 3.1e-4
    data = (np.minimum(star_field(1), 50000) * np.float32(unit)).astype(np.float32)
    header = fits.Header({"SATURATE": round(50000 * unit, 4), "BUNIT": "nanomaggy"})
    assert saturation_of(data, header) == (header["SATURATE"], "header SATURATE")


def test_a_saturation_in_counts_says_nothing_of_calibrated_pixels():
    header = fits.Header({"BUNIT": "MJy/sr", "SATURATE": 3000})
    assert saturation_of(star_field(3), header)[0] == np.inf


@pytest.mark.parametrize(("spread", "expected"), [(0, 1.0), (1, 1.41), (2, 2.05)])
def test_the_correlation_of_noise(spread, expected):
    noise = np.random.default_rng(4).normal(size=(300, 300))
    for axis in range(spread):
        noise = noise + np.roll(noise, 1, axis)
    found = noise_correlation(noise, np.zeros(noise.shape, bool))
    assert found == pytest.approx(expected, abs=0.08)


def test_crowding_is_no_correlation_of_noise():
    data = star_field(n=4000, fwhm=5.0)
    assert noise_correlation(data - 400, np.zeros(data.shape, bool)) == 1.0


@pytest.mark.parametrize("value", [-2.0, "two", 1e300, 0, True])
def test_nonsense_of_a_header_is_said(value):
    data = star_field(gain=2.0)
    header = fits.Header({"GAIN": value, "SATURATE": value, "RDNOISE": ""})
    with pytest.warns(AstropyUserWarning) as caught:
        frame = read_frame(fits.PrimaryHDU(data, header))
    gain, saturation = (str(one.message) for one in caught)
    assert f"header GAIN = {header['GAIN']} is no gain, and is not used. gain (--gain)" in gain
    assert f"header SATURATE = {header['SATURATE']} is no saturation level" in saturation
    assert frame.guessed >= {"gain", "saturation"}
    with warnings.catch_warnings(action="error"):
        read_frame(fits.PrimaryHDU(data, header), gain=2.0, saturation=np.inf)
        read_frame(fits.PrimaryHDU(data, fits.Header({**header, "BUNIT": "MJy/sr"})))
        read_frame(fits.PrimaryHDU(data, fits.Header({"GAIN": "", "SATURATE": None})))
