"""The size of the stars over a frame: a surface, jumps, and galaxies that lie on neither."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlpsf import simulate_frame
from mlpsf.detection.common_size import _peaks, stellar_size, stellar_sizes
from mlpsf.detection.local_size import size_map
from mlpsf.detection.sources import find_sources


def sources(rng, n_stars, n_galaxies, true_size):
    """Draw places, sizes and shapes: stars of one locus, galaxies of many."""
    n = n_stars + n_galaxies
    x, y = rng.uniform(0, 1000, (2, n))
    size = true_size(x, y) * np.exp(rng.normal(0, 0.01, n))
    e1, e2 = rng.normal(0.02, 0.01, (2, n))
    size[n_stars:] *= np.exp(rng.exponential(0.5, n_galaxies) + 0.05)
    e1[n_stars:] += rng.normal(0, 0.2, n_galaxies)
    e2[n_stars:] += rng.normal(0, 0.2, n_galaxies)
    return x, y, size, e1, e2


def found(x, y, size, e1, e2):
    return size_map(x, y, size, e1, e2, stellar_size(size, e1, e2), stellar_sizes)


@given(
    st.integers(0, 10**6),
    st.integers(60, 200),
    st.floats(0, 2),
    st.floats(0.4, 1.2),
    st.floats(0, 2 * np.pi),
)
@settings(max_examples=30, deadline=None)
def test_a_size_that_varies_smoothly_is_followed(seed, n_stars, galaxies, change, angle):
    def true_size(x, y):
        u = ((x - 500) * np.cos(angle) + (y - 500) * np.sin(angle)) / 700
        return 4 * np.exp(change * (u + u * u) / 2)

    rng = np.random.default_rng(seed)
    x, y, *measured = sources(rng, n_stars, int(galaxies * n_stars), true_size)
    sizes = found(x, y, *measured)
    off = np.abs(np.log(sizes(x, y) / true_size(x, y)))
    assert np.median(off) < 0.02
    assert np.quantile(off, 0.95) < 0.08
    assert sizes.scatter < 0.05


@given(st.integers(0, 10**6), st.integers(20, 150), st.floats(0, 3))
@settings(max_examples=30, deadline=None)
def test_one_size_stays_one(seed, n_stars, galaxies):
    rng = np.random.default_rng(seed)
    x, y, *measured = sources(rng, n_stars, int(galaxies * n_stars), lambda x, _: 0 * x + 4.0)
    sizes = found(x, y, *measured)
    assert not sizes.varies
    # Among many galaxies, some are taken for stars.
    assert np.quantile(np.abs(np.log(sizes(x, y) / 4)), 0.9) < (0.04 if galaxies < 1.5 else 0.1)


@pytest.mark.parametrize(("n_stars", "n_galaxies"), [(9, 0), (12, 3), (15, 10)])
@pytest.mark.parametrize("seed", range(4))
def test_a_size_is_followed_by_few_stars(n_stars, n_galaxies, seed):
    rng = np.random.default_rng(seed)
    x, y, *measured = sources(rng, n_stars, n_galaxies, lambda x, _: 3 * np.exp(0.6 * x / 1000))
    sizes = found(x, y, *measured)
    assert sizes.varies
    assert np.abs(np.log(sizes(x, y) / (3 * np.exp(0.6 * x / 1000))))[:n_stars].max() < 0.08


@given(st.integers(0, 10**6), st.integers(5, 20), st.integers(0, 100))
@settings(max_examples=60, deadline=None)
def test_one_size_of_few_stays_one(seed, n_stars, n_galaxies):
    rng = np.random.default_rng(seed)
    assert not found(*sources(rng, n_stars, n_galaxies, lambda x, _: 0 * x + 4.0)).varies


@pytest.mark.parametrize("to", [6.0, 4.0])
@pytest.mark.parametrize("cut", [500, 800])
def test_a_size_that_jumps_is_followed(cut, to):
    rng = np.random.default_rng(3)
    x, y, *measured = sources(rng, 200, 40, lambda x, _: np.where(x < cut, 3.0, to))
    sizes = found(x, y, *measured)
    assert sizes.varies
    at = np.array([100.0, cut - 100, cut + 100, 980.0])
    np.testing.assert_allclose(sizes(at, 0 * at + 500), [3, 3, to, to], rtol=0.03)


@pytest.mark.parametrize("seed", [1, 2])
def test_fwhm_of_a_frame_that_varies(seed):
    sim = simulate_frame(
        shape=(800, 800), n_stars=400, n_galaxies=80, fwhm=4.0, psf_variation=0.8, seed=seed
    )
    found = find_sources(sim.frame)
    assert found.meta["varies"]
    bright = found[(found["snr"] > 50) & (found["flags"] == 0)]
    true = [float(sim.psf.shape_at(x, y)[0]) for x, y in zip(bright["x"], bright["y"], strict=True)]
    ratio = np.asarray(bright["local_fwhm"]) / true
    assert np.median(ratio) == pytest.approx(1, abs=0.05)
    # The simulated PSF has kinks at its nodes, which no polynomial has.
    assert np.quantile(np.abs(ratio / np.median(ratio) - 1), 0.9) < 0.08


@pytest.mark.parametrize("seed", range(3))
def test_a_cluster_of_galaxies_is_no_wider_place_of_the_stars(seed):
    rng = np.random.default_rng(seed)
    everywhere, cluster = rng.uniform(0, 1800, (2, 55)), rng.normal(900, 350, (2, 300))
    x, y = np.append(everywhere, cluster, axis=1).clip(0, 1800)
    star = np.arange(355) < 55
    size = rng.normal(np.where(star, 0.0, 0.25), np.where(star, 0.02, 0.1))
    e1, e2 = rng.normal(0, np.where(star, 0.01, 0.08), (2, 355))
    sizes = size_map(x, y, 3.0 * np.exp(size), e1, e2, 3.0, stellar_sizes)
    assert not sizes.varies
    assert np.abs(np.log(sizes(x, y) / 3.0)).max() < 0.15


@pytest.mark.parametrize(("n_stars", "n_galaxies"), [(5, 60), (8, 150), (20, 400)])
@pytest.mark.parametrize("wider", [0.3, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_few_stars_among_galaxies_are_the_stars(n_stars, n_galaxies, wider, seed):
    rng = np.random.default_rng(seed)
    n = n_stars + n_galaxies
    star = np.arange(n) < n_stars
    x, y = rng.uniform(0, 1000, (2, n))
    log_size = rng.normal(np.where(star, 0.0, wider), np.where(star, 0.01, 0.15 * wider + 0.05))
    log_size = np.where(star, log_size, np.maximum(log_size, 0.06))
    e1, e2 = rng.normal(0, np.where(star, 0.01, 0.12), (2, n))
    sizes = found(x, y, 4 * np.exp(log_size), e1, e2)
    assert np.abs(np.log(sizes(x, y) / 4)).max() < 0.05


@pytest.mark.parametrize("seed", range(5))
def test_rays_narrower_than_the_stars_are_not_the_stars(seed):
    rng = np.random.default_rng(seed)
    star = np.arange(225) < 25
    size = np.where(star, 4 * np.exp(rng.normal(0, 0.08, 225)), rng.uniform(1.3, 3, 225))
    e1, e2 = rng.normal(0, np.where(star, 0.02, 0.25), (2, 225))
    assert stellar_size(size, e1, e2) == pytest.approx(4, rel=0.05)


def test_stars_that_scatter_are_more_than_a_pair_that_is_alike_by_chance():
    found = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        size, (e1, e2) = 4 * np.exp(rng.normal(0, 0.07, 8)), rng.normal(0, 0.07, (2, 8))
        found.append(stellar_size(size, e1, e2))
    np.testing.assert_allclose(found, 4, rtol=0.12)


@pytest.mark.parametrize("seed", range(6))
def test_few_elongated_stars_among_rounder_galaxies(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = np.append(rng.normal(5, 0.04, 8), rng.normal(6.5, 0.8, 200).clip(4.5))
    e1, e2 = rng.normal(0, np.repeat([0.012, 0.15], [8, 200]), (2, 208))
    e1[:8] += 0.3  # the galaxies are rounder, which makes them no stars
    assert stellar_size(size, e1, e2) == pytest.approx(5, rel=0.03)


def test_one_size_of_all_and_hundreds_of_clusters_are_quick_to_judge():
    rng = np.random.default_rng(1)
    assert stellar_size(np.full(300, 3.0), np.zeros(300), np.zeros(300)) == pytest.approx(3.0)
    size, shape = np.exp(rng.uniform(0, 1.5, 600)), rng.uniform(-0.5, 0.5, (2, 600))
    assert len(_peaks(np.column_stack([np.log(size), *shape]))) <= 24
