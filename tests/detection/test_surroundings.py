"""Stars on a sky that changes: on a galaxy's light, beside an amplifier's edge."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlpsf.detection.sources import find_sources
from mlpsf.detection.surroundings import UNEVEN, on_uneven_sky
from mlpsf.flags import NEVER_A_PSF_STAR, Flag
from mlpsf.frames.io.reading import read_frame
from mlpsf.simulation import simulate_frame

CLEAN = {"n_galaxies": 0, "cosmic_rays": 0, "bad_columns": 0, "hot_pixels": 0, "seed": 3}


def drawn(fwhm=4.0, shape=(240, 480)):
    """Draw two bright stars far apart: the second for each test to harm."""
    sim = simulate_frame(shape=shape, fwhm=fwhm, stars=[(120, 120, 2e5), (360, 120, 2e5)], **CLEAN)
    return sim.frame, np.array([120.0, 360.0]), np.array([120.0, 120.0])


def judged(frame, x, y, fwhm=4.0):
    peak = frame.data[y.astype(int), x.astype(int)] - np.median(frame.data)
    return on_uneven_sky(frame, x, y, peak, fwhm).tolist()


@pytest.mark.parametrize("fwhm", [2.0, 4.0, 9.0])
def test_plain_sky_is_even(fwhm):
    frame, x, y = drawn(fwhm)
    assert judged(frame, x, y, fwhm) == [False, False]


@settings(max_examples=12, deadline=None)
@given(angle=st.floats(0, 2 * np.pi), distance=st.floats(0, 2.5))
def test_step_of_the_sky_on_any_side(angle, distance):
    """A step of 6 % of the peak, through the star or up to 2.5 FWHM from it, is seen."""
    frame, x, y = drawn()
    v, u = np.indices(frame.shape) - np.array([120, 360])[:, None, None]
    near = np.hypot(u, v) < 60
    peak = frame.data[120, 360] - np.median(frame.data)
    step = near & (u * np.cos(angle) + v * np.sin(angle) > 4 * distance)
    frame.data[step] += np.float32(0.06 * peak)
    assert judged(frame, x, y) == [False, True]


def test_neighbour_is_no_uneven_sky():
    """A lone neighbour fills less than half of a quadrant: it is for the selector to see."""
    stars = [(120, 120, 2e5), (120, 134, 4e4)]
    frame = simulate_frame(shape=(240, 240), fwhm=4.0, stars=stars, **CLEAN).frame
    assert judged(frame, np.array([120.0]), np.array([120.0])) == [False]


def test_faint_step_is_noise():
    frame, x, y = drawn()
    peak = frame.data[120, 360] - np.median(frame.data)
    frame.data[:, 368:] += np.float32(0.3 * UNEVEN * peak)
    assert judged(frame, x, y) == [False, False]


def test_sources_get_the_flag():
    sim = simulate_frame(shape=(300, 400), fwhm=4.0, n_stars=60, **CLEAN)
    frame = read_frame(sim.frame.data, gain=1.0, saturation=6e4)
    before = find_sources(frame)
    brightest = np.argmax(np.where(np.asarray(before["flags"]) == 0, before["flux"], 0))
    x, peak = before["x"][brightest], before["peak"][brightest]
    frame.data[:, int(x) + 5 :] += np.float32(0.1 * peak)
    after = find_sources(dataclasses.replace(frame))  # measures its sky anew
    same = np.argmin(np.hypot(after["x"] - x, after["y"] - before["y"][brightest]))
    assert before["flags"][brightest] & Flag.UNEVEN_SKY == 0
    assert after["flags"][same] & Flag.UNEVEN_SKY
    assert Flag.UNEVEN_SKY & NEVER_A_PSF_STAR


def test_none_of_no_sources():
    frame, *_ = drawn()
    none = np.zeros(0)
    assert on_uneven_sky(frame, none, none, none, 4.0).shape == (0,)


def test_noise_of_a_faint_star_is_no_uneven_sky():
    """Medians of so few noisy pixels differ by more than UNEVEN of a faint peak."""
    places = [(40 + 50 * (k % 8), 40 + 50 * (k // 8), 2500.0) for k in range(32)]
    sim = simulate_frame(shape=(240, 430), fwhm=4.0, stars=places, **CLEAN)
    x, y, _ = np.array(places).T
    peak = np.full(len(x), 2500.0 / (1.13 * 4.0**2))
    assert judged_by(sim.frame, x, y, peak).sum() == 0


def test_noise_is_that_of_the_place():
    """Ten times the noise under half of the stars makes none of them uneven."""
    places = [(40 + 50 * (k % 8), 40 + 50 * (k // 8), 1e5) for k in range(32)]
    frame = simulate_frame(shape=(240, 430), fwhm=4.0, stars=places, **CLEAN).frame
    x, y, _ = np.array(places).T
    rng = np.random.default_rng(5)
    noise = 10 * float(np.median(frame.background.rms))
    frame.data[:, 215:] += rng.normal(0, noise, (240, 215)).astype(np.float32)
    assert judged_by(frame, x, y, np.full(len(x), 1e5 / (1.13 * 16))).sum() == 0


def test_masked_side_takes_no_part():
    frame, x, y = drawn()
    masked = read_frame(frame.data, mask=np.indices(frame.shape)[1] > 372, gain=1.0)
    assert judged(masked, x, y) == [False, False]


def judged_by(frame, x, y, peak):
    return on_uneven_sky(frame, x, y, peak, 4.0)
