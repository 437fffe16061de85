"""Struck pixels: which must be found, and that nothing that came through the optics is one."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from conftest import simulate
from hypothesis import given, settings
from hypothesis import strategies as st

from mlpsf.detection.defects import NARROWEST, RADIUS, struck_pixels
from mlpsf.errors import InputError
from mlpsf.flags import NEVER_A_PSF_STAR, Flag
from mlpsf.frames.frame import Frame

SIDE = 5
N = SIDE * SIDE
SKY_NOISE = 8.3  # ADU, of the simulator's default sky


def draw(fwhm=5.0, *, snr=(60, 2000), seed=1, galaxies=0, **parameters):
    """Draw stars on a grid; returns the frame and the stars' positions."""
    rng = np.random.default_rng([seed, int(10 * fwhm)])
    step = max(int(9 * fwhm), 40)
    row, column = np.indices((SIDE, SIDE)).reshape(2, -1)
    x, y = (np.array([column, row]) + 0.5) * step + rng.uniform(-3, 3, (2, N))
    flux = np.exp(rng.uniform(*np.log(snr), N)) * SKY_NOISE * 2 * fwhm
    simulated = simulate(
        **{
            "shape": (SIDE * step, SIDE * step),
            "fwhm": fwhm,
            "stars": np.column_stack([x, y, flux]),
            "n_galaxies": galaxies,
            "cosmic_rays": 0,
            "hot_pixels": 0,
            "bad_columns": 0,
            "saturation": 1e7,
            "seed": seed,
            **parameters,
        }
    )
    # Whatever is changed later, the sky stays that of the clean frame.
    sky = simulated.frame.background
    return simulated.frame.with_background(sky.level, sky.rms), x, y


def changed(frame, *changes):
    """Copy a frame with some ``(rows, columns, added, factor)`` applied."""
    data = frame.data.copy()
    for rows, columns, added, factor in changes:
        data[rows, columns] = data[rows, columns] * factor + added
    return dataclasses.replace(frame, data=data)


def noise_at(frame, row, column):
    sky = frame.background
    light = max(frame.data[row, column] - sky.level[row, column], 0)
    return np.sqrt(sky.rms[row, column] ** 2 + light / frame.gain)


@pytest.fixture(scope="module")
def clean():
    return draw()


@pytest.mark.parametrize("fwhm", [3.5, 5.0, 9.0])
@pytest.mark.parametrize("where", [(0, 0), (2, -1), (-3, 2)])
def test_a_hot_pixel_is_found(fwhm, where):
    frame, x, y = draw(fwhm)
    row, column = np.rint(y).astype(int) + where[0], np.rint(x).astype(int) + where[1]
    hit = np.arange(0, N, 3)
    spoiled = changed(
        frame,
        *((row[k], column[k], 25 * noise_at(frame, row[k], column[k]), 1) for k in hit),
    )
    found = struck_pixels(spoiled, x, y, fwhm)
    assert set(np.flatnonzero(found.struck)) <= set(hit)
    assert found.struck[hit].mean() >= 0.85
    assert (found.significance[found.struck] > 5).all()
    listed = set(zip(found.rows.tolist(), found.columns.tolist(), strict=True))
    of_found = hit[found.struck[hit]]
    right = {(row[k], column[k]) for k in of_found} & listed
    assert len(right) >= 0.8 * len(of_found)


@pytest.mark.parametrize("fwhm", [4.0, 8.0])
@pytest.mark.parametrize("step", [(1, 0), (0, 1), (1, 1), (1, -1), (2, 1)])
def test_a_track_does_not_hide_behind_itself(fwhm, step):
    frame, x, y = draw(fwhm, snr=(60, 300))
    along = np.arange(-6, 7)
    tracks = [
        (round(y[k]) + step[0] * along, round(x[k]) + step[1] * along, 250, 1)
        for k in range(0, N, 4)
    ]
    found = struck_pixels(changed(frame, *tracks), x, y, fwhm)
    assert found.struck[::4].all()
    assert found.struck.sum() == len(tracks)


@pytest.mark.parametrize(("added", "factor"), [(150, 1), (0, 0.0), (0, 0.6)])
def test_a_bad_column_is_found_from_end_to_end(clean, added, factor):
    frame, x, y = clean
    column = round(x[12]) + 1
    found = struck_pixels(changed(frame, (slice(None), column, added, factor)), x, y, 5.0)
    near = np.abs(x - column) <= RADIUS * 5.0 - 1
    assert near.sum() >= 3
    assert found.struck[near].all()
    assert not found.struck[np.abs(x - column) > RADIUS * 5.0].any()


@pytest.mark.parametrize("fwhm", [3.3, 5.0, 9.0])
@pytest.mark.parametrize(
    "parameters",
    [
        {"snr": (200, 3000)},
        {"psf": "gaussian", "e1": 0.1},
        {"psf": "moffat", "beta": 2.5, "psf_variation": 0.1},
        {
            "psf": "optical",
            "optics": {"diffraction": 0.6, "obscuration": 0.4, "nstruts": 4, "strut_thick": 0.03},
        },
        {"brighter_fatter": 3e-7},
        {"resampling": 0.5},
        {"galaxies": 40},
        {"subtract_sky": True, "integer": True},
    ],
    ids=["bright", "elongated", "varying", "spikes", "fatter", "correlated", "galaxies", "whole"],
)
def test_light_from_the_sky_is_never_struck(fwhm, parameters):
    frame, x, y = draw(fwhm, seed=2, **parameters)
    assert not struck_pixels(frame, x, y, fwhm).struck.any()


def test_a_neighbour_is_not_a_defect():
    rng = np.random.default_rng(3)
    frame, x, y = draw()
    pairs = np.column_stack([x, y, np.full(N, 2e4)])
    beside = pairs + np.column_stack([rng.uniform(-6, 6, (2, N)).T, np.zeros(N)])
    frame, x, y = draw(stars=np.vstack([pairs, beside]))
    assert not struck_pixels(frame, x, y, 5.0).struck.any()


def test_what_lies_beyond_the_radius_is_left(clean):
    frame, x, y = clean
    far = int(np.ceil(RADIUS * 5.0)) + 1
    hits = [(round(b), round(a) + far, 3e4, 1) for a, b in zip(x, y, strict=True)]
    assert not struck_pixels(changed(frame, *hits), x, y, 5.0).struck.any()


def test_masked_and_saturated_pixels_are_not_judged(clean):
    frame, x, y = clean
    row, column = round(y[0]) + 2, round(x[0])
    spoiled = changed(frame, (row, column, 2e4, 1))
    assert struck_pixels(spoiled, x, y, 5.0).struck[0]
    mask = spoiled.mask.copy()
    mask[row, column] = True
    full = dataclasses.replace(spoiled, saturation=float(spoiled.data[row, column]))
    for other in (
        dataclasses.replace(spoiled, mask=mask),
        dataclasses.replace(spoiled, saturated_plane=mask),
        full,
    ):
        assert not struck_pixels(other, x, y, 5.0).struck.any()


def test_a_variance_plane_and_an_unknown_gain_serve(clean):
    frame, x, y = clean
    spoiled = changed(frame, (round(y[3]), round(x[3]) + 3, 5e3, 1))
    sky = frame.background
    variance = sky.rms**2 + np.maximum(frame.data - sky.level, 0) / frame.gain
    with_plane = dataclasses.replace(spoiled, variance=variance.astype(np.float32))
    for other in (
        with_plane.with_background(sky.level, np.sqrt(with_plane.variance)),
        dataclasses.replace(spoiled, gain=np.inf),
    ):
        assert struck_pixels(other, x, y, 5.0).struck[3]


@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_sources_are_enough(clean, n):
    frame, x, y = clean
    found = struck_pixels(frame, x[:n], y[:n], 5.0)
    assert found.struck.shape == found.significance.shape == (n,)
    assert not found.struck.any()
    assert found.rows.shape == found.columns.shape == (0,)


def test_narrow_stars_are_left_alone():
    frame, x, y = draw(2.2)
    spoiled = changed(frame, (np.rint(y).astype(int) + 1, np.rint(x).astype(int), 5e3, 1))
    assert not struck_pixels(spoiled, x, y, NARROWEST - 0.01).struck.any()


def test_sources_at_the_edge_and_without_data():
    frame = Frame(data=np.zeros((30, 30), np.float32), mask=np.zeros((30, 30), bool))
    frame = frame.with_background(0.0, 1.0)
    where = np.array([0.0, 29.0, 15.0, 200.0])
    assert not struck_pixels(frame, where, where, 5.0).struck.any()
    blank = dataclasses.replace(frame, mask=np.ones((30, 30), bool))
    found = struck_pixels(blank, where, where, 5.0)
    assert np.isneginf(found.significance).all()


@pytest.mark.parametrize("fwhm", [0.0, -1.0, np.nan, np.inf])
def test_a_fwhm_that_is_none_is_refused(clean, fwhm):
    frame, x, y = clean
    with pytest.raises(InputError, match="'fwhm' parameter must be positive"):
        struck_pixels(frame, x, y, fwhm)


def test_positions_must_be_finite(clean):
    frame, _, _ = clean
    with pytest.raises(InputError, match="finite"):
        struck_pixels(frame, [np.nan], [3.0], 5.0)


@pytest.fixture(scope="module")
def spoiled(clean):
    frame, x, y = clean
    rng = np.random.default_rng(5)
    hits = [
        (round(y[k]) + int(rng.integers(-4, 5)), round(x[k]) + 1, 3000, 1) for k in range(0, N, 3)
    ]
    return changed(frame, *hits), x, y


@settings(max_examples=15, deadline=None)
@given(sky=st.floats(-500, 5000), scale=st.floats(1e-3, 1e3))
def test_the_zero_point_and_the_unit_do_not_matter(spoiled, sky, scale):
    frame, x, y = spoiled
    other = dataclasses.replace(
        frame,
        data=np.float32(scale) * (frame.data + np.float32(sky)),
        gain=frame.gain / scale,
        saturation=scale * (frame.saturation + sky),
    )
    own = frame.background
    level = np.float32(scale) * (own.level + np.float32(sky))
    other = other.with_background(level, np.float32(scale) * own.rms)
    one = struck_pixels(frame, x, y, 5.0)
    two = struck_pixels(other, x, y, 5.0)
    assert one.struck.sum() == len(range(0, N, 3))
    np.testing.assert_array_equal(one.struck, two.struck)
    np.testing.assert_allclose(one.significance, two.significance, rtol=0.01, atol=0.05)


@settings(max_examples=8, deadline=None)
@given(flip_x=st.booleans(), flip_y=st.booleans(), transposed=st.booleans())
def test_the_orientation_does_not_matter(spoiled, flip_x, flip_y, transposed):
    frame, x, y = spoiled
    ny, nx = frame.shape

    def turn(image):
        image = image[:: -1 if flip_y else 1, :: -1 if flip_x else 1]
        return np.ascontiguousarray(image.T if transposed else image)

    other = dataclasses.replace(frame, data=turn(frame.data), mask=turn(frame.mask))
    at = (nx - 1 - x if flip_x else x), (ny - 1 - y if flip_y else y)
    at = at[::-1] if transposed else at
    sky = frame.background
    other = other.with_background(turn(sky.level), turn(sky.rms))
    one = struck_pixels(frame, x, y, 5.0)
    two = struck_pixels(other, *at, 5.0)
    np.testing.assert_array_equal(one.struck, two.struck)
    np.testing.assert_allclose(one.significance, two.significance, rtol=0.02, atol=0.05)


def test_the_order_of_sources_and_the_blocks_do_not_matter(spoiled, monkeypatch):
    frame, x, y = spoiled
    one = struck_pixels(frame, x, y, 5.0)
    monkeypatch.setattr("mlpsf.detection.defects._BLOCK", 1)
    two = struck_pixels(frame, x[::-1], y[::-1], 5.0)
    np.testing.assert_array_equal(one.struck, two.struck[::-1])
    np.testing.assert_array_equal(one.rows, two.rows)


def test_a_struck_star_is_never_taken():
    assert Flag.STRUCK & NEVER_A_PSF_STAR
    assert Flag.STRUCK == 32768
