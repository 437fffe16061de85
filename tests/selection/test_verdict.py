"""The verdict on a frame."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from astropy.table import Table
from scipy.ndimage import gaussian_filter, shift
from scipy.signal import fftconvolve

from mlpsf import find_sources, select_cutouts, select_stars, simulate_frame
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


@pytest.mark.parametrize("across", [21, 43])
def test_discs_with_a_hole_are_out_of_focus(across):
    rng = np.random.default_rng(1)
    image = np.zeros((600, 600))
    x, y = rng.integers(40, 560, (2, 25))
    image[y, x] = 10 ** rng.uniform(4.5, 6, 25)
    radius = np.hypot(*np.mgrid[-30:31, -30:31])
    disc = gaussian_filter(((radius < across / 2) & (radius > 0.22 * across)).astype(float), 1.2)
    image = fftconvolve(image, disc / disc.sum(), "same") + rng.normal(0, 5, image.shape)
    frame = read_frame(image.astype(np.float32))
    assert verdict_of(frame) == "out of focus"
    try:
        stars = select_stars(frame)
    except TooFewStarsError as error:
        stars = error.table
    assert stars.meta["verdict"] == "out of focus"


@pytest.mark.parametrize("distance", [9, 16])
def test_doubled_images(distance):
    light = frame_of().data - 200
    frame = read_frame(light + shift(light, (3, distance), order=1) + 200)
    assert verdict_of(frame) == "doubled"


@pytest.mark.parametrize("n_stars", [60, 700])
@pytest.mark.parametrize("share", [0.15, 0.6, 1.0])
def test_doubled_stars_are_no_crowd_and_none_is_chosen(n_stars, share):
    frame = frame_of(fwhm=3.0, n_stars=n_stars, double=(7.0, -5.0, share))
    with pytest.raises(TooFewStarsError, match="the telescope moved") as caught:
        select_stars(frame)
    stars = caught.value.table
    assert stars.meta["verdict"] == "doubled"
    assert "n_subtracted" not in stars.meta
    assert (stars["flags"] & Flag.NO_STARS != 0).all()
    assert "faint hangs on the gain" not in str(caught.value)


@pytest.mark.parametrize("n_stars", [100, 1500])
def test_stars_with_neighbours_are_not_doubled(n_stars):
    assert verdict_of(frame_of(fwhm=3.0, n_stars=n_stars)) != "doubled"


@pytest.mark.parametrize("arms", [3, 4])
def test_pieces_of_rings_are_no_second_images(arms):
    rng = np.random.default_rng(arms)
    y, x = np.mgrid[:600, :600]
    light = np.zeros((600, 600))
    for _ in range(60):
        dx, dy = x - rng.uniform(30, 570), y - rng.uniform(30, 570)
        r, angle = np.hypot(dx, dy), np.arctan2(dy, dx) + 0.4
        ring = np.exp(-0.5 * ((r - 11) / 2.0) ** 2) * (np.abs(np.sin(arms * angle / 2)) > 0.2)
        light += 10 ** rng.uniform(2, 3.5) * ring
    frame = read_frame(rng.poisson(light + 200).astype(np.float32))
    assert verdict_of(frame) != "doubled"


@pytest.mark.parametrize("columns", [1, 8])
def test_regular_grids_are_not_doubled(columns):
    rng = np.random.default_rng(columns)
    sim = simulate_frame(
        shape=(500, 500), n_stars=0, n_galaxies=0, fwhm=4.0, cosmic_rays=0, hot_pixels=0, seed=2
    )
    pixels, half = sim.frame.data.copy(), 20
    stamp = sim.psf.stamp(250.0, 250.0, size=2 * half + 1)
    for x in 60 + 40 * np.arange(columns):
        for y in range(40, 470, 40 if columns > 1 else 15):
            if rng.random() < 0.9:
                part = pixels[y - half : y + half + 1, x - half : x + half + 1]
                part += 10 ** rng.uniform(4, 5) * stamp
    assert verdict_of(replace(sim.frame, data=pixels)) != "doubled"


def test_a_list_makes_the_psf_of_one_image():
    frame = frame_of(fwhm=3.0, double=(9.0, 8.0, 0.4))
    found = find_sources(frame)
    inside = np.all([(found[axis] > 40) & (found[axis] < 460) for axis in "xy"], axis=0)
    known = inside & (found["flags"] & Flag.SATURATED == 0)
    best = found["id"][known & (found["snr"] > 300)].tolist()
    stars = select_stars(frame, stars=best)
    assert set(stars["id"][stars["selected"]]) == set(best)


def test_long_trails_are_stars_and_scattered_tracks_are_none():
    frame = frame_of(fwhm=6.5, trail=11.0, trail_angle=25.0, n_galaxies=5)
    sources = find_sources(frame)
    judged = judge_frame(frame, sources)
    assert judged["verdict"] == "trailed"
    assert sources.meta["fwhm"] == pytest.approx(6.5, rel=0.05)
    assert sources.meta["fwhm_n_stars"] > 20
    # Tracks of rays are as long, and of all directions: the stars are the few round sources.
    tracks = frame_of(cosmic_rays=400, n_stars=25, n_galaxies=0, seed=5)
    assert find_sources(tracks).meta["fwhm"] == pytest.approx(4.0, rel=0.1)


@pytest.mark.parametrize(
    ("kind", "verdict"),
    [
        ("Dark Frame", "no stars"),
        ("SKY FLAT", "no stars"),
        ("DOMEFLAT", "no stars"),
        ("Light, dark-subtracted", "good"),
        ("flat-fielded", "good"),
        ("sky", "good"),
    ],
)
def test_the_header_tells_frames_that_are_not_of_the_sky(kind, verdict):
    frame = frame_of()
    frame.header["IMAGETYP"] = kind
    assert verdict_of(frame) == verdict


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


def test_hot_pixels_that_resampling_made_wide_are_no_stars():
    frame = frame_of(fwhm=5.0, hot_pixels=0)
    blot = np.outer([0.55, 1, 0.55], [0.55, 1, 0.55])
    places = np.random.default_rng(4).integers(10, 490, (150, 2))
    for y, x in places:
        frame.data[y - 1 : y + 2, x - 1 : x + 2] += 3000 * blot
    sources = find_sources(frame)
    assert sources.meta["fwhm"] == pytest.approx(5.0, rel=0.03)
    assert judge_frame(frame, sources)["verdict"] == "good"
    hot = np.hypot(*(sources[k] - places[:, ["yx".index(k)]] for k in "xy")).min(axis=0) < 0.3
    assert hot.sum() > 100
    assert (sources["flags"][hot] & Flag.TOO_NARROW != 0).mean() > 0.9


@pytest.mark.parametrize("width", [1, 3, 6])
def test_bad_columns_are_no_spectrum(width):
    frame = frame_of()
    frame.data[40:, 300 : 300 + width] += 800
    assert verdict_of(frame) == "good"
    assert verdict_of(read_frame(frame.data.T.copy(), saturation=60000)) == "good"


@pytest.mark.parametrize("rows", [True, False])
def test_the_bias_of_an_infrared_detector_is_no_spectrum(rows):
    # Each half begins with a level that falls as it is read.
    frame = frame_of(fwhm=3.0)
    since = np.arange(500) % 250
    level = 600 * (0.5 * np.exp(-since / 6) + 0.5 * np.exp(-since / 40))
    pixels = frame.data + (level[:, None] if rows else level)
    assert verdict_of(read_frame(pixels, saturation=60000)) == "good"


@pytest.mark.parametrize("rays", [0, 150, 600])
def test_a_spectrum_is_no_image(rays):
    dark = frame_of(n_stars=0, n_galaxies=0, cosmic_rays=rays, hot_pixels=20)
    at = np.arange(500)
    trace = 400 * np.exp(-((at - 250.3) ** 2) / 12)[:, None] * (1 + 0.3 * np.sin(at / 20))
    sky = 300 * np.exp(-((at - 120.0) ** 2) / 8)
    assert verdict_of(read_frame(dark.data + trace + sky)) == "no stars"


def test_lines_of_a_spectrum_are_no_stars_beside_it():
    at = np.arange(500)
    across = [np.exp(-((at - y) ** 2) / 2) for y in (60, 110, 160, 330, 380, 430)]
    along = np.exp(-((at - np.linspace(30, 470, 8)[:, None]) ** 2) / 2).sum(axis=0)
    trace = 400 * np.exp(-((at - 250.3) ** 2) / 2)[:, None]
    light = trace + 3000 * sum(np.outer(each, along) for each in across)
    dark = frame_of(n_stars=0, n_galaxies=0, cosmic_rays=0, hot_pixels=0)
    assert verdict_of(read_frame(dark.data + light, saturation=60000)) == "no stars"


def test_cutouts_may_be_centred_on_their_stars():
    rng = np.random.default_rng(1)
    u = np.arange(-25, 26)
    width = np.concatenate([np.full(60, 2.2), rng.uniform(3.2, 5.5, 25)])[:, None, None] / 2.355
    light = np.exp(-(u**2 + u[:, None] ** 2) / (2 * width**2))
    cutouts = 10 ** rng.uniform(2.5, 4, (85, 1, 1)) * light + rng.normal(100, 5, light.shape)
    stars = select_cutouts(cutouts, *rng.uniform(20, 1900, (2, 85)), selector="residual")
    assert stars.meta["fwhm"] == pytest.approx(2.2, rel=0.05)
    assert stars["selected"][:60].sum() == stars["selected"].sum()


def test_a_colour_mosaic_is_no_image():
    pixels = frame_of().data.copy()
    pixels[::2, ::2] *= 0.6
    assert verdict_of(read_frame(pixels)) == "no stars"


def test_a_psf_that_varies_is_followed():
    left, right = frame_of(fwhm=3.0), frame_of(fwhm=6.0)
    frame = read_frame(np.hstack([left.data[:, :250], right.data[:, 250:]]))
    stars = find_sources(frame)
    found = judge_frame(frame, stars)
    assert found["verdict"] == "varying"
    assert "it jumps" in found["verdict_reason"]
    local = np.asarray(stars["local_fwhm"])
    assert np.median(local[stars["x"] < 200]) == pytest.approx(3.0, rel=0.08)
    assert np.median(local[stars["x"] > 300]) == pytest.approx(6.0, rel=0.08)


def test_a_psf_that_varies_smoothly_does_not_jump():
    frame = frame_of(psf_variation=0.6, n_stars=200)
    found = judge_frame(frame, find_sources(frame))
    assert found["verdict"] == "varying"
    assert "psf.at" in found["verdict_reason"]


def test_lone_bad_pixels_are_filled_and_others_stay():
    frame = frame_of()
    mask = np.zeros(frame.shape, bool)
    mask[100, 100] = mask[200:204, 200:204] = True
    bad = read_frame(np.where(mask, np.nan, frame.data))
    filled = fill_lone_pixels(bad)
    assert not filled.mask[100, 100]
    assert filled.mask[200:204, 200:204].all()
    assert filled.data[100, 100] == pytest.approx(frame.data[100, 100], abs=60)


def test_two_stars_among_rays_are_few():
    frame = simulate_frame(shape=(300, 300), n_stars=25, n_galaxies=0, fwhm=3, seed=2).frame
    sources = find_sources(frame)
    assert judge_frame(frame, sources)["verdict"] == "few stars"
    assert sources.meta["fwhm"] == pytest.approx(3.0, rel=0.12)


def test_a_little_trail_is_said():
    assert verdict_of(frame_of(e1=0.1)) == "elongated"


def test_galaxies_among_stars_are_no_variation():
    frame = frame_of(n_stars=40, n_galaxies=400, galaxy_radius=2.0, galaxy_flux_range=(5e3, 3e5))
    sources = find_sources(frame)
    assert not sources.meta["varies"]
    assert sources.meta["fwhm"] == pytest.approx(4.0, rel=0.02)


def test_a_catalogue_that_counts_from_one():
    sim = simulate_frame(shape=(300, 300), n_stars=60, n_galaxies=0, fwhm=4.0, seed=3)
    found = find_sources(sim.frame)
    found = found[(found["x"] < 295) & (found["y"] < 295)]
    listed = Table({"x": found["x"] + 1, "y": found["y"] + 1})
    with pytest.warns(UserWarning, match=r"\+1\.0.* seem to count from 1"):
        select_stars(sim.frame, catalogue=listed, n_min=1, relax=True)
