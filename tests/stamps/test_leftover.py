"""What the common star leaves of the stars of a frame."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlpsf.detection.sources import find_sources
from mlpsf.flags import Flag
from mlpsf.frames.io.reading import read_frame
from mlpsf.stamps.leftover import Leftover
from mlpsf.stamps.standard import extract_stamps, frame_star, standard_star

SIZE = 41
U = np.arange(SIZE) - SIZE // 2
TILT = np.exp(-(U**2 + U[:, None] ** 2) / 18) * U / 3


def places(n: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 2000, (n, 2))


def of_a_wide_field(place: np.ndarray, noise: float = 0.0, seed: int = 1) -> np.ndarray:
    """What is left of stars whose coma grows to one side."""
    tilt = np.sin(place[:, 0] / 500)[:, None, None] * TILT
    return tilt + np.random.default_rng(seed).normal(0, noise, (len(place), SIZE, SIZE))


def test_neighbours_foretell_each_other():
    place = places(300)
    left = Leftover.of_stars(of_a_wide_field(place, 0.02), place)
    at = places(50, seed=2)
    truth = of_a_wide_field(at)
    rest = np.abs(left.at(at, SIZE) - truth).max(axis=(1, 2))
    assert left.share > 0.9
    assert np.median(rest) < 0.25 * np.median(np.abs(truth).max(axis=(1, 2)))


def test_a_star_says_nothing_of_itself():
    place = places(200)
    light = of_a_wide_field(place, np.where(np.arange(200) < 50, 0.01, 0.05)[:, None, None])
    odd = light.copy()
    odd[7] += 5 * TILT.T
    one, other = (Leftover.of_stars(each, place) for each in (light, odd))
    assert (other.place == place[7]).all(axis=1).any()
    alone, beside = (
        np.abs(one.at(at, SIZE) - other.at(at, SIZE)).max() for at in (place[7:8], place[7:8] + 5)
    )
    assert alone < 0.02
    assert beside > 0.04


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(20, 200))
def test_noise_foretells_little(seed, n):
    place = places(n, seed)
    light = np.random.default_rng(seed).normal(0, 1, (n, SIZE, SIZE))
    left = Leftover.of_stars(light, place)
    assert left is None or np.abs(left.at(place, SIZE)).max() < 0.5


def test_a_neighbour_of_a_star_is_not_its_shape():
    place = places(200)
    light = np.random.default_rng(1).normal(0, 0.01, (200, SIZE, SIZE))
    light[::10, 26:30, 26:30] += 1.0  # as bright as the star
    left = Leftover.of_stars(light, place)
    assert left is None or np.abs(left.at(place, SIZE)).max() < 0.03


@pytest.mark.parametrize("size", [21, 41, 51])
def test_of_another_size(size):
    place = places(100)
    left = Leftover.of_stars(of_a_wide_field(place), place)
    found = left.at(place[:3], size)
    assert found.shape == (3, size, size)
    half = min(size, SIZE) // 2
    inner = [np.s_[:, n // 2 - half : n // 2 + half + 1] for n in (size, SIZE)]
    np.testing.assert_array_equal(
        found[inner[0]][:, :, size // 2], left.at(place[:3], SIZE)[inner[1]][:, :, 20]
    )


def test_few_stars_and_cutouts_without_places_have_none():
    place = places(19)
    assert Leftover.of_stars(of_a_wide_field(place), place) is None
    place = np.zeros((60, 2))
    assert Leftover.of_stars(of_a_wide_field(places(60)), place) is None
    assert Leftover.of_stars(np.full((60, SIZE, SIZE), np.nan), places(60)) is None
    place = np.vstack([np.full((57, 2), 900.0), places(3)])
    Leftover.of_stars(of_a_wide_field(place), place)  # without a warning
    assert Leftover.of_stars(np.zeros((60, SIZE, SIZE)), places(60)) is None


def test_stars_of_a_lens_are_standard_everywhere():
    # A spot that a stack and an ellipse do not follow: coma that grows and turns.
    rng = np.random.default_rng(3)
    side, n = 1200, 400
    pixels = rng.normal(100, 3, (side, side))
    u = np.arange(-15, 16)
    for x, y, power in rng.uniform([25, 25, 3.5], [side - 26, side - 26, 5.2], (n, 3)):
        i, j = round(x), round(y)
        for dx, dy, part in ((0, 0, 1.0), (2.5, 1.5 * np.sin(x / 300), 0.35 * (x / side) ** 2)):
            square = (u - (x - i + dx)) ** 2 + (u[:, None] - (y - j + dy)) ** 2
            pixels[j - 15 : j + 16, i - 15 : i + 16] += 10**power / 19 * part * np.exp(-square / 6)
    frame = read_frame(pixels, gain=2.0)
    sources = find_sources(frame)
    bright = sources[(sources["snr"] > 100) & (sources["flags"] & Flag.BLENDED == 0)]
    star = frame_star(frame, sources)
    core = np.s_[:, 12:29, 12:29]
    standard = standard_star(SIZE)[None][core]

    def departure(star):
        fwhm = sources.meta["fwhm"]
        cut = extract_stamps(frame, bright["x"], bright["y"], fwhm=fwhm, star=star).data[core]
        off = cut / cut.sum(axis=(1, 2), keepdims=True) - standard / standard.sum()
        return np.median(np.abs(off).max(axis=(1, 2)))

    assert len(bright) > 100
    assert departure(star) < 0.6 * departure(replace(star, left=None))
