"""Points near each other: as SciPy's trees find them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from mlpsf.frames import near
from mlpsf.frames.near import nearest, pairs_within, sums_across


@pytest.fixture(params=["few", "many"])
def size(request, monkeypatch):
    """Run a test as for few points, all distances at once, and as for many."""
    if request.param == "many":
        monkeypatch.setattr(near, "_MOST", 10)
        monkeypatch.setattr(near, "_BLOCK", 50)
    return request.param


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("k", [1, 3, 40])
def test_the_nearest_are_those_of_a_tree(k):
    rng = np.random.default_rng(1)
    points, at = rng.uniform(0, 100, (40, 2)), rng.uniform(-20, 120, (130, 2))
    distance, row = nearest(points, at, k)
    expected = cKDTree(points).query(at, k=k)
    np.testing.assert_allclose(distance, expected[0])
    np.testing.assert_array_equal(row, expected[1])
    assert [len(v) for v in nearest(points, at[:0], k)] == [0, 0]


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("radius", [0.0, 5.0, 40.0, 300.0])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_pairs_are_those_of_a_tree(radius, dimensions):
    points = np.random.default_rng(2).uniform(0, [100, 300, 20][:dimensions], (150, dimensions))
    pairs = pairs_within(points, radius)
    assert set(map(frozenset, pairs.tolist())) == set(
        map(frozenset, cKDTree(points).query_pairs(radius))
    )
    assert len(pairs) == len(cKDTree(points).query_pairs(radius))


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_points_have_no_pairs(n):
    assert pairs_within(np.zeros((n, 2)), 3.0).shape == (0, 2)
    assert pairs_within(np.zeros((2, 2)), 3.0).shape == (1, 2)


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 60))
def test_sums_across_are_those_of_all_signs(seed, n):
    rng = np.random.default_rng(seed)
    place = rng.normal(size=(n, 2)) if seed % 2 else rng.integers(-3, 4, (n, 2)).astype(float)
    place[rng.random(n) < 0.1] = 0
    rows = np.flatnonzero(rng.random(n) < 0.7)
    values = rng.normal(size=(len(rows), 2))
    across = (place @ place[rows].T < 0).astype(float)
    centre = ~place.any(axis=1)
    across[centre] = ~centre[rows]
    np.testing.assert_allclose(sums_across(place, rows, values), across @ values, atol=1e-9)
