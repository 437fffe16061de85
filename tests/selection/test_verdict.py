"""The verdict on a frame."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import shift

from mlpsf import find_sources, select_stars, simulate_frame
from mlpsf.detection.bad_pixels import fill_lone_pixels
from mlpsf.errors import TooFewStarsError
from mlpsf.flags import Flag
from mlpsf.frames.io.reading import read_frame
from mlpsf.selection.verdict import VERDICTS, judge_frame


def frame_of(**changes):
    common = {
        "shape": (500, 500),
        "n_stars": 100,
        "n_galaxies": 20,
        "fwhm": 4.0,
        "cosmic_rays": 5,
        "hot_pixels": 5,
        "bad_columns": 0,
        "flux_range": (3000, 4e5),
        "seed": 3,
    }
    return simulate_frame(**common | changes).frame


def verdict_of(frame):
    found = judge_frame(frame, find_sources(frame))
    assert found["verdict"] in VERDICTS
    return found["verdict"]


def test_a_common_frame_is_good():
    assert verdict_of(frame_of()) == "good"


def test_shapes_and_sampling():
    assert verdict_of(frame_of(e1=0.18)) == "elongated"
    assert verdict_of(frame_of(fwhm=1.4)) == "undersampled"


@pytest.mark.parametrize("distance", [9, 16])
def test_doubled_images(distance):
    light = frame_of().data - 200
    frame = read_frame(light + shift(light, (3, distance), order=1) + 200)
    assert verdict_of(frame) == "doubled"


def test_a_dark_frame_has_no_stars_to_choose():
    rng = np.random.default_rng(5)
    pixels = rng.normal(200, 5, (400, 400))
    for y, x in rng.integers(5, 395, (100, 2)):
        pixels[y, x] += 2000
        for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            pixels[y + dy, x + dx] += 500
    with pytest.raises(TooFewStarsError, match="hot pixels") as caught:
        select_stars(read_frame(pixels))
    assert (caught.value.table["flags"] & Flag.NO_STARS != 0).all()


def test_a_colour_mosaic_is_no_image():
    pixels = frame_of().data.copy()
    pixels[::2, ::2] *= 0.6
    assert verdict_of(read_frame(pixels)) == "no stars"


def test_a_psf_that_varies_is_followed():
    left, right = frame_of(fwhm=3.0), frame_of(fwhm=6.0)
    frame = read_frame(np.hstack([left.data[:, :250], right.data[:, 250:]]))
    stars = find_sources(frame)
    assert judge_frame(frame, stars)["verdict"] == "varying"
    local = np.asarray(stars["local_fwhm"])
    assert np.median(local[stars["x"] < 200]) == pytest.approx(3.0, rel=0.08)
    assert np.median(local[stars["x"] > 300]) == pytest.approx(6.0, rel=0.08)


def test_lone_bad_pixels_are_filled_and_others_stay():
    frame = frame_of()
    mask = np.zeros(frame.shape, bool)
    mask[100, 100] = mask[200:204, 200:204] = True
    bad = read_frame(np.where(mask, np.nan, frame.data))
    filled = fill_lone_pixels(bad)
    assert not filled.mask[100, 100]
    assert filled.mask[200:204, 200:204].all()
    assert filled.data[100, 100] == pytest.approx(frame.data[100, 100], abs=60)
