"""The unit of the pixels and the level of the sky change neither stars nor probabilities."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

from mlpsf import select_stars, simulate_frame
from mlpsf.errors import TooFewStarsError
from mlpsf.frames.io.reading import read_frame


@pytest.fixture(scope="module")
def pixels():
    """Give a frame of common stars, its gain and its saturation."""
    frame = simulate_frame(
        shape=(500, 500), n_stars=250, n_galaxies=30, fwhm=3.5, cosmic_rays=9, hot_pixels=9, seed=3
    ).frame
    return np.where(frame.mask, np.nan, frame.data), frame.gain, frame.saturation


def chosen(data, selector, gain, saturation):
    header = fits.Header({"SATURATE": saturation} | ({} if gain is None else {"GAIN": gain}))
    frame = read_frame(fits.PrimaryHDU(data.astype(np.float32), header))
    try:
        return select_stars(frame, selector=selector)
    except TooFewStarsError as error:
        return error.table


@pytest.fixture(scope="module")
def expected(pixels):
    data, gain, saturation = pixels
    return {
        (selector, known): chosen(data, selector, gain if known else None, saturation)
        for selector in ("cnn", "residual")
        for known in (True, False)
    }


@pytest.mark.parametrize(
    ("factor", "sky", "selector", "known"),
    [
        (-6.0, 0.0, "cnn", False),
        (5.7, -200.0, "cnn", False),
        (-2.3, 300.0, "cnn", True),
        (-4.8, -200.0, "residual", False),
        (6.0, 300.0, "residual", True),
    ],
)
def test_unit_and_sky_change_nothing(pixels, expected, factor, sky, selector, known):
    data, gain, saturation = pixels
    f = 10.0**factor
    stars = chosen(
        (data.astype(float) + sky) * f,
        selector,
        gain / f if known else None,
        (saturation + sky) * f,
    )
    wanted = expected[selector, known]
    np.testing.assert_array_equal(stars["selected"], wanted["selected"])
    np.testing.assert_allclose(stars["probability"], wanted["probability"], atol=0.01)


def test_a_gain_of_another_unit_makes_no_star_faint(pixels):
    data, gain, saturation = pixels
    f = 1e-5
    header = fits.Header({"BUNIT": "MJy/sr", "GAIN": gain, "SATURATE": saturation})
    frame = read_frame(fits.PrimaryHDU((data - 200) * np.float32(f), header))
    assert frame.known_gain == np.inf
    assert select_stars(frame, n_min=5).meta["n_selected"] >= 5
