"""Sources: where they are, how large the frame's stars are, and which are marked."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import sep
from astropy.table import Table
from conftest import simulate

from mlpsf.detection.common_size import stellar_sizes
from mlpsf.detection.sources import find_sources
from mlpsf.errors import InputError, NoSourcesError
from mlpsf.flags import Flag
from mlpsf.frames.background import measure_background
from mlpsf.frames.io.catalogue import read_catalogue
from mlpsf.frames.io.reading import read_frame
from mlpsf.simulation import simulate_frame
from mlpsf.stacks.moments import FWHM_PER_SIGMA

SEEING = (1.8, 2.5, 4.0, 7.0, 10.0)
POPULATIONS = {
    "stars": {"n_stars": 120, "n_galaxies": 60},
    "galaxies": {"n_stars": 40, "n_galaxies": 500},
    "crowded": {"n_stars": 900, "n_galaxies": 50},
}


@pytest.mark.parametrize("seed", [11, 14])
@pytest.mark.parametrize("population", POPULATIONS)
@pytest.mark.parametrize("fwhm", SEEING)
def test_fwhm_of_the_frame(fwhm, population, seed):
    side = 640 if fwhm < 6 else 900
    simulated = simulate(
        shape=(side, side),
        fwhm=fwhm,
        e1=0.02,
        cosmic_rays=15,
        hot_pixels=10,
        bad_columns=1,
        seed=seed,
        **POPULATIONS[population],
    )
    assert find_sources(simulated.frame).meta["fwhm"] == pytest.approx(fwhm, rel=0.05)


@pytest.mark.parametrize(("fwhm", "seed"), [(7.0, 10), (10.0, 11)])
def test_fwhm_where_galaxies_outnumber_the_stars(fwhm, seed):
    # Some ten stars are bright enough to measure, and many galaxies are of one size too.
    side = 640 if fwhm < 6 else 900
    simulated = simulate(
        shape=(side, side),
        fwhm=fwhm,
        e1=0.02,
        cosmic_rays=15,
        hot_pixels=10,
        bad_columns=1,
        seed=seed,
        **POPULATIONS["galaxies"],
    )
    assert find_sources(simulated.frame).meta["fwhm"] == pytest.approx(fwhm, rel=0.05)


@pytest.mark.parametrize("psf", ["kolmogorov", "gaussian"])
def test_fwhm_of_other_profiles(psf):
    simulated = simulate(shape=(500, 500), fwhm=4.0, psf=psf, n_stars=80, n_galaxies=40, seed=2)
    assert find_sources(simulated.frame).meta["fwhm"] == pytest.approx(4.0, rel=0.05)


@pytest.mark.parametrize("fwhm", SEEING)
def test_positions_of_isolated_stars(star_field, fwhm):
    simulated = star_field(fwhm)
    truth, sources = simulated.truth, find_sources(simulated.frame)
    assert len(sources) == len(truth)
    distance = np.hypot(
        sources["x"][:, None] - truth["x"].data, sources["y"][:, None] - truth["y"].data
    )
    assert distance.min(axis=1).max() < 0.02
    assert len(set(distance.argmin(axis=1))) == len(truth)
    assert not np.any(sources["flags"])
    nearest = distance.argmin(axis=1)
    np.testing.assert_allclose(sources["flux"], truth["flux"][nearest], rtol=0.06)
    np.testing.assert_allclose(sources["fwhm"], fwhm, rtol=0.05)


def test_ellipticity_of_the_frame():
    simulated = simulate(
        shape=(500, 500), fwhm=5.0, e1=0.1, n_stars=80, n_galaxies=0, n_pairs=0, seed=3
    )
    # e1 = (a - b) / (a + b) of the light; the pixel makes it rounder, of other seeds by 0.02.
    assert find_sources(simulated.frame).meta["ellipticity"] == pytest.approx(
        1 - 0.9 / 1.1, abs=0.04
    )


def test_table(field):
    sources = find_sources(field.frame)
    assert sources.colnames == [
        *(
            "id",
            "x",
            "y",
            "ra",
            "dec",
            "flux",
            "snr",
            "peak",
            "fwhm",
            "ellipticity",
            "local_fwhm",
            "flags",
        )
    ]
    assert sources["id"].tolist() == list(range(1, len(sources) + 1))
    assert sources["x"].dtype == sources["y"].dtype == np.float64
    x, y = field.frame.wcs.all_world2pix(sources["ra"], sources["dec"], 0)
    np.testing.assert_allclose([x, y], [sources["x"], sources["y"]], atol=1e-6)
    meta = sources.meta
    assert meta["frame"] == field.frame.name
    assert meta["frame_sha256"] == field.frame.sha256
    assert meta["gain"] == field.frame.gain
    assert meta["saturation"] == field.frame.saturation
    assert meta["gain_from"] == "simulation"
    assert 5 <= meta["fwhm_n_stars"] <= 30


def test_same_frame_same_sources(field):
    first, second = find_sources(field.frame), find_sources(field.frame)
    for name in first.colnames:
        np.testing.assert_array_equal(first[name], second[name])


def test_background_given_is_background_measured(field):
    background = measure_background(field.frame)
    given = find_sources(field.frame.with_background(background.level, background.rms))
    np.testing.assert_array_equal(given["x"], find_sources(field.frame)["x"])
    np.testing.assert_allclose(background.level, field.sky, rtol=0.05)
    assert (background.rms > 0).all()


def test_variance_plane_raises_the_noise(field):
    variance = np.full(field.frame.shape, 1e4)
    noisier = read_frame(field.frame, variance=variance)
    assert (measure_background(noisier).rms >= 100).all()
    assert len(find_sources(noisier)) < len(find_sources(field.frame))


def test_no_wcs_no_sky_coordinates(field):
    plain = read_frame(field.frame.data, gain=3.0, saturation=6e4)
    assert "ra" not in find_sources(plain).colnames


# --- marked sources


PLACES = {
    "plain": (60.0, 60.0),
    "saturated": (160.0, 60.0),
    "masked": (60.0, 160.0),
    "edge": (158.0, 3.0),
    "hot": (110.0, 110.0),
    "left": (35.0, 110.0),
    "right": (44.0, 110.0),
}


@pytest.fixture(scope="module")
def marked():
    """Draw stars of FWHM 4 by hand, each with another trouble."""
    rng = np.random.default_rng(4)
    y, x = np.mgrid[:220, :220]
    sigma = 4.0 / FWHM_PER_SIGMA

    def star(x0, y0, peak):
        return peak * np.exp(-0.5 * ((x - x0) ** 2 + (y - y0) ** 2) / sigma**2)

    image = rng.normal(500, 5, x.shape)
    for name, (x0, y0) in PLACES.items():
        if name != "hot":
            image += star(x0, y0, 1e5 if name == "saturated" else 4000)
    for x0 in (110.3, 159.6):
        for y0 in (35.2, 160.4, 195.1):
            image += star(x0, y0, 6000)
    image[110, 110] += 2e4
    image = np.minimum(image, 3e4)
    mask = np.zeros(x.shape, bool)
    mask[161, 59:62] = True
    return read_frame(image, mask=mask, gain=2.0, saturation=3e4)


def flags_at(sources, name):
    x, y = PLACES[name]
    distance = np.hypot(sources["x"] - x, sources["y"] - y)
    assert distance.min() < 2, f"no source where the {name} one is"
    return Flag(int(sources["flags"][distance.argmin()]))


@pytest.fixture(scope="module")
def marked_sources(marked):
    return find_sources(marked)


@pytest.mark.parametrize(
    ("name", "flag"),
    [
        ("plain", Flag(0)),
        ("saturated", Flag.SATURATED),
        ("masked", Flag.MASKED),
        ("edge", Flag.NEAR_EDGE),
        ("hot", Flag.TOO_NARROW),
        ("left", Flag.BLENDED),
    ],
)
def test_flags(marked, marked_sources, name, flag):
    x, y = (np.array([place[i] for place in PLACES.values()]) for i in (0, 1))
    listed = read_catalogue(Table({"x": x, "y": y}), marked)
    assert flags_at(marked_sources, name) == flag
    # Only detection knows what it split.
    assert flags_at(find_sources(marked, listed), name) == flag & ~Flag.BLENDED


def test_marked_sources_do_not_set_the_size(marked_sources):
    assert marked_sources.meta["fwhm"] == pytest.approx(4.0, rel=0.03)


def test_both_of_a_split_pair_are_blended(marked_sources):
    assert flags_at(marked_sources, "right") & Flag.BLENDED


def test_hot_pixels_of_a_simulated_frame_are_too_narrow(field):
    from mlpsf.simulation import Defect

    sources = find_sources(field.frame)
    x, y = np.rint(sources["x"]).astype(int), np.rint(sources["y"]).astype(int)
    hot = (field.defects[y, x] & Defect.HOT_PIXEL) > 0
    assert hot.sum() >= 3
    unfit = sources["flags"] & (Flag.TOO_NARROW | Flag.SATURATED)
    assert np.all(unfit[hot] > 0)


# --- a list of one's own instead of detection


def test_catalogue_instead_of_detection(star_field):
    simulated = star_field(4.0)
    truth = simulated.truth[::3]
    shift = np.random.default_rng(2).uniform(-0.7, 0.7, (2, len(truth)))
    catalogue = Table(
        {"id": 100 + np.arange(len(truth)), "x": truth["x"] + shift[0], "y": truth["y"] + shift[1]}
    )
    sources = find_sources(simulated.frame, read_catalogue(catalogue, simulated.frame))
    assert sources["id"].tolist() == catalogue["id"].tolist()
    assert np.hypot(sources["x"] - truth["x"], sources["y"] - truth["y"]).max() < 0.02
    assert sources.meta["fwhm"] == pytest.approx(4.0, rel=0.05)
    detected = find_sources(simulated.frame)
    row = np.abs(detected["x"] - truth["x"][4]) + np.abs(detected["y"] - truth["y"][4])
    for name in ("flux", "peak", "fwhm"):
        assert sources[name][4] == pytest.approx(detected[name][row.argmin()], rel=0.05)


def test_catalogue_where_nothing_is(star_field):
    frame = star_field(4.0).frame
    empty = Table({"x": [29.0, 58.0], "y": [1.0, 57.0]})
    with pytest.raises(NoSourcesError, match="could be an unsaturated star"):
        find_sources(frame, read_catalogue(empty, frame))


# --- refusals


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(3).normal(100, 3, (150, 160))


def test_no_sources(noise):
    with pytest.raises(NoSourcesError, match=r"No source of 3 pixels over 8 .*--hdu.*--catalogue"):
        find_sources(read_frame(noise), sigma=8.0)


def test_everything_saturated(marked):
    low = read_frame(marked, saturation=1000.0)
    with pytest.raises(NoSourcesError, match=r"saturation level \(1000 ADU\) right"):
        find_sources(low)


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan")])
def test_bad_sigma(marked, sigma):
    with pytest.raises(InputError, match="'sigma' must be positive"):
        find_sources(marked, sigma=sigma)


def test_frame_is_not_changed(field):
    data, mask = field.frame.data.copy(), field.frame.mask.copy()
    find_sources(field.frame)
    np.testing.assert_array_equal(field.frame.data, data)
    np.testing.assert_array_equal(field.frame.mask, mask)


def test_half_of_the_frame_masked(star_field):
    simulated = star_field(4.0)
    mask = np.zeros(simulated.frame.shape, bool)
    mask[:, : mask.shape[1] // 2] = True
    sources = find_sources(read_frame(simulated.frame, mask=mask))
    assert sources.meta["fwhm"] == pytest.approx(4.0, rel=0.05)
    clear = sources["flags"] == 0
    assert sources["x"][clear].min() > mask.shape[1] // 2


@pytest.mark.filterwarnings("ignore:.* is the first of")  # of a mosaic
def test_real_frames(real_frames):
    paths = sorted(real_frames.glob("*.fits"))
    assert paths
    for path in paths:
        frame = read_frame(path)
        sources = find_sources(frame)
        assert 1.0 < sources.meta["fwhm"] < 30
        assert (sources["flags"] == 0).any()


def test_source_larger_than_the_room_set_aside():
    """A plateau of 360,000 pixels overflows sep's first pixel stack; it and the stars are found."""
    sim = simulate_frame(
        shape=(700, 900),
        fwhm=4.0,
        stars=[(800, 100 * k, 1e5) for k in (1, 3, 5)],
        n_galaxies=0,
        cosmic_rays=0,
        hot_pixels=0,
        bad_columns=0,
        seed=1,
    )
    level = np.full(sim.frame.shape, np.median(sim.frame.data), dtype=np.float32)
    noise = np.std(sim.frame.data[:, :200])
    sim.frame.data[50:650, 50:700] += 5000.0
    limits = sep.get_extract_pixstack(), sep.get_sub_object_limit()
    sources = find_sources(sim.frame.with_background(level, noise))
    assert np.sum(np.abs(sources["x"] - 800) < 1) == 3
    # sep's limits are the whole process's: others find them as they were.
    assert (sep.get_extract_pixstack(), sep.get_sub_object_limit()) == limits


def test_the_size_of_each_group_is_that_of_the_group_alone():
    rng = np.random.default_rng(5)
    size, e1, e2 = np.exp(rng.normal(1, 0.05, (300, 40))), *rng.normal(0, 0.1, (2, 300, 40))
    found = stellar_sizes(size, e1, e2)
    alone = [
        float(stellar_sizes(*v)[0]) for v in zip(*np.stack([size, e1, e2])[:, :, None], strict=True)
    ]
    assert found == pytest.approx(alone, rel=1e-12)


def test_a_search_does_not_stop_a_fork():
    code = """
import multiprocessing, threading, warnings
import numpy as np
from mlpsf.detection.extraction import extract
warnings.simplefilter("ignore")  # newer Pythons warn of forks beside threads
pixels = np.random.default_rng(0).normal(size=(1500, 1500)).astype(np.float32)
thread = threading.Thread(target=lambda: [extract(pixels, 1.5, err=1.0) for _ in range(3)])
thread.start()
child = multiprocessing.get_context("fork").Process(target=extract, args=(pixels[:99].copy(), 5))
child.start()
child.join()
thread.join()
raise SystemExit(child.exitcode)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=300).returncode == 0


@pytest.mark.parametrize("apart", [5.0, 6.0, 7.0])
def test_two_stars_in_one_window_keep_their_places(apart):
    frame = simulate_frame(
        shape=(300, 300), n_stars=60, n_galaxies=0, fwhm=4.5, cosmic_rays=0, hot_pixels=0, seed=4
    )
    rows = [(50, 60), (120, 200), (200, 90), (240, 240)]
    pixels = frame.frame.data.copy()
    half = 20
    for y, x in rows:
        for dx, flux in ((0.0, 6e4), (apart, 5e4)):
            stamp = frame.psf.stamp(x + dx, float(y), size=2 * half + 1)
            left = int(np.rint(x + dx)) - half
            pixels[y - half : y + half + 1, left : left + 2 * half + 1] += flux * stamp
    found = find_sources(replace(frame.frame, data=pixels))
    at = np.column_stack([found["x"], found["y"]])
    for k in range(len(at)):
        others = np.delete(at, k, axis=0)
        assert np.hypot(*(others - at[k]).T).min() > 1.0
