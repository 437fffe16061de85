"""Cutouts laid out as a frame: pixels, sky, masks and positions stay theirs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlpsf.errors import InputError
from mlpsf.frames.cutouts import extract_cutouts
from mlpsf.frames.tiles import clean_cutouts, tile_cutouts


def stars(n=12, size=31, fwhm=3.0, sky=40.0, seed=0):
    rng = np.random.default_rng(seed)
    u = np.arange(size) - size // 2
    star = np.exp(-4 * np.log(2) * (u**2 + u[:, None] ** 2) / fwhm**2)
    return rng.uniform(500, 5000, (n, 1, 1)) * star + rng.normal(sky, 2, (n, size, size))


@given(n=st.integers(1, 20), size=st.integers(7, 20).map(lambda k: 2 * k + 1))
def test_every_cutout_is_found_where_its_tile_is(n, size):
    cutouts = stars(n, size)
    frame = tile_cutouts(cutouts)
    inner = extract_cutouts(frame, frame.tile_x, frame.tile_y, 15).data
    middle = slice(size // 2 - 7, size // 2 + 8)
    level = inner - cutouts[:, middle, middle]
    # Each without its sky, and nothing else changed.
    np.testing.assert_allclose(level, np.broadcast_to(level[:, :1, :1], level.shape), atol=2e-3)
    assert abs(np.median(level) + 40) < 3


def test_a_neighbouring_tile_is_never_seen():
    cutouts = stars(9, 15)
    frame = tile_cutouts(cutouts)
    wide = extract_cutouts(frame, frame.tile_x, frame.tile_y, 33).data
    assert np.isnan(wide[:, :9]).all()
    assert np.isfinite(wide[:, 12:21, 12:21]).all()


def test_what_is_beside_a_small_cutout_comes_from_its_neighbours():
    rng = np.random.default_rng(1)
    image = rng.normal(0, 1, (80, 80))
    u = np.arange(80)
    for x, y in ((30, 40), (46, 40)):
        image += 5000 * np.exp(-((u - x) ** 2 + (u[:, None] - y) ** 2) / 12)
    at = np.array([30.0, 46.0]), np.array([40.0, 40.0])
    small = extract_cutouts(image, *at, 15).data
    alone, together = (tile_cutouts(small, *where) for where in ((), at))
    seen = [
        np.isfinite(extract_cutouts(frame, frame.tile_x, frame.tile_y, 41).data[0])
        for frame in (alone, together)
    ]
    assert not seen[0][20, 36]
    assert seen[1][20, 36]  # the other star's centre
    whole = extract_cutouts(together, together.tile_x, together.tile_y, 41).data[0]
    assert abs(whole[20, 36] - image[40, 46]) < 0.1 * image[40, 46]


def test_positions_are_those_of_the_detector():
    frame = tile_cutouts(stars(5), [100.2, 300.7, 5, 6, 7], [10, 20, 30, 40.4, 1999.0])
    x, y = frame.place(frame.tile_x + 0.3, frame.tile_y - 0.2)
    np.testing.assert_allclose(x, [100.3, 301.3, 5.3, 6.3, 7.3])
    np.testing.assert_allclose(y, [9.8, 19.8, 29.8, 39.8, 1998.8])
    assert frame.extent == (2000, 302)
    plain = tile_cutouts(stars(5))
    assert plain.place([3.0], [4.0])[0].tolist() == [0.0]


def test_cut_off_where_rows_or_columns_are_missing():
    cutouts = stars(4)
    cutouts[1, :, 28:] = -1e30  # at the edge of its frame
    cutouts[2, 3, 4] = np.nan  # one bad pixel
    frame = tile_cutouts(cutouts)
    assert frame.cut_off(frame.tile_x, frame.tile_y, 13).tolist() == [False, True, False, False]
    assert not frame.cut_off(frame.tile_x, frame.tile_y, 9).any()


def test_saturated_cutouts_are_known_by_their_pile():
    cutouts = np.minimum(stars(60, seed=3), 3000.0)
    frame = tile_cutouts(cutouts)
    assert frame.origin["saturation"] == "pile-up of the histogram"
    hit = extract_cutouts(frame.saturated.astype(float), frame.tile_x, frame.tile_y, 3).data
    np.testing.assert_array_equal(hit.any(axis=(1, 2)), cutouts.max(axis=(1, 2)) >= 3000)
    given_level = tile_cutouts(stars(10), saturation=1e9)
    assert not given_level.saturated.any()


@pytest.mark.parametrize("missing", [np.nan, np.inf, -np.inf, -1e30, -1e30 * 1.01])
def test_every_mark_of_a_missing_pixel(missing):
    cutouts = stars(2)
    cutouts[0, 1, 1] = missing
    clean = clean_cutouts(cutouts)
    assert np.isnan(clean[0, 1, 1])
    assert np.isnan(clean).sum() == 1
    masked = np.ma.masked_array(stars(2), mask=False)
    masked[1, 5, 5] = np.ma.masked
    assert np.isnan(clean_cutouts(masked)[1, 5, 5])


@pytest.mark.parametrize(
    ("cutouts", "message"),
    [
        (np.zeros((2, 16, 16)), "odd side"),
        (np.zeros((2, 13, 13)), "odd side"),
        (np.zeros((2, 153, 153)), "odd side"),
        (np.zeros((2, 15, 17)), "square"),
        (np.zeros((0, 15, 15)), "at least one"),
    ],
)
def test_wrong_cutouts_are_refused(cutouts, message):
    with pytest.raises(InputError, match=message):
        tile_cutouts(cutouts)


def test_positions_must_fit():
    with pytest.raises(InputError, match="Got one of them"):
        tile_cutouts(stars(3), x=[1, 2, 3])
    with pytest.raises(InputError, match="one x and one y a cutout"):
        tile_cutouts(stars(3), [1, 2], [1, 2])


def test_a_set_without_noise_is_laid_out_too():
    frame = tile_cutouts(np.zeros((3, 15, 15)))
    assert (frame.background.rms > 0).all()
