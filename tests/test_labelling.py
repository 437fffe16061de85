"""Labels: what the residual rule, the truth and balancing may and may not do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mlpsf.errors import InputError
from mlpsf.labelling import (
    balance,
    best_labels,
    in_range,
    residual_distance,
    split_frames,
    truth_labels,
)

ANY = st.floats(allow_nan=True, allow_infinity=True, width=32)
FIGURE = st.floats(2.0**-10, 2.0**20, width=32) | st.sampled_from([1.0, np.nan, np.inf])
few = settings(max_examples=100, deadline=None)


def same_length(*elements, max_size=60):
    """Arrays of one length, one of each kind of element."""
    return st.integers(0, max_size).flatmap(
        lambda n: st.tuples(*(arrays(np.float64, n, elements=e) for e in elements))
    )


# --- the best of a frame


@few
@given(arrays(np.float64, st.integers(0, 80), elements=ANY), st.integers(-1, 30))
def test_never_more_than_n_best(distance, n_best):
    labels = best_labels(distance, n_best=n_best)
    assert set(np.unique(labels)) <= {0, 1}
    assert labels.sum() <= max(n_best, 0)
    assert not labels[~np.isfinite(distance)].any()
    # All that are good are nearer than all finite others.
    finite = np.isfinite(distance)
    if labels.any() and (finite & (labels == 0)).any():
        assert distance[labels == 1].max() < distance[finite & (labels == 0)].min()


@few
@given(arrays(np.float64, 40, elements=st.floats(0, 1, width=32), unique=True), st.integers(1, 60))
def test_exactly_n_best_without_ties(distance, n_best):
    assert best_labels(distance, n_best=n_best).sum() == min(n_best, 40)


@few
@given(arrays(np.float64, 40, elements=FIGURE), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_order_of_the_sources_does_not_matter(distance, n_best, seed):
    order = np.random.default_rng(seed).permutation(len(distance))
    labels = best_labels(distance, n_best=n_best)
    np.testing.assert_array_equal(best_labels(distance[order], n_best=n_best), labels[order])


def test_ties_over_the_last_place_get_none():
    assert best_labels([1.0, 2.0, 2.0, 2.0], n_best=3).tolist() == [1, 0, 0, 0]
    assert best_labels([1.0, 2.0, 2.0], n_best=3).tolist() == [1, 1, 1]
    assert best_labels([5.0] * 4, n_best=3).tolist() == [0] * 4


@few
@given(arrays(np.float64, 40, elements=FIGURE), arrays(bool, 40), st.integers(1, 30))
def test_not_eligible_is_never_good_and_not_replaced(distance, eligible, n_best):
    every = best_labels(distance, n_best=n_best)
    labels = best_labels(distance, eligible, n_best)
    np.testing.assert_array_equal(labels, every * eligible)


# --- the distance


@few
@given(same_length(FIGURE, FIGURE), st.integers(-8, 8), st.integers(0, 2**32 - 1))
def test_distance_follows_its_sources_and_not_the_flux_unit(figures, power, seed):
    variance, peak = figures
    distance = residual_distance(variance, peak)
    assert distance.shape == variance.shape
    assert not np.isnan(distance).any()
    assert (distance >= 0).all()
    fitted = np.isfinite(variance) & np.isfinite(peak)
    assert np.isinf(distance[~fitted]).all()
    order = np.random.default_rng(seed).permutation(len(variance))
    np.testing.assert_array_equal(residual_distance(variance[order], peak[order]), distance[order])
    # All fluxes in another unit: the variance figure scales, the peak figure does not.
    scaled = residual_distance(variance * 2.0**power, peak)
    np.testing.assert_array_equal(best_labels(scaled, n_best=7), best_labels(distance, n_best=7))


def test_a_diverged_fit_is_dropped_and_moves_no_other():
    rng = np.random.default_rng(1)
    variance, peak = rng.uniform(1, 2, 51), rng.uniform(0, 0.1, 51)
    before = residual_distance(variance, peak)
    after = residual_distance([*variance, 1e12, np.nan], [*peak, 0.1, 0.1])
    assert np.isinf(after[-2:]).all()
    np.testing.assert_allclose(after[:-2], before, rtol=0.1)


def test_distance_grows_with_either_figure():
    base = residual_distance([1.0, 1.5, 2.0, 2.5, 3.0], [0.1] * 5)
    assert (np.diff(base) > 0).all()
    base = residual_distance([1.0] * 3, [0.1, 0.2, 0.3])
    assert (np.diff(base) > 0).all()


def test_no_fit_at_all():
    assert np.isinf(residual_distance([np.nan, np.inf], [0.1, 0.1])).all()
    assert residual_distance([], []).shape == (0,)
    assert best_labels([]).shape == (0,)


# --- the brightness range


@few
@given(
    arrays(np.float32, (6, 5, 5), elements=st.floats(-1e5, 1e5, width=32) | st.just(np.nan)),
    st.floats(-1e4, -1, width=32),
    st.floats(1, 1e5, width=32),
)
def test_in_range_judges_every_pixel(cutouts, low, high):
    expected = [all(np.isnan(v) or low <= v <= high for v in cutout.ravel()) for cutout in cutouts]
    assert in_range(cutouts, (low, high)).tolist() == expected


def test_range_must_rise():
    with pytest.raises(InputError, match="must rise"):
        in_range(np.zeros((1, 3, 3)), (5.0, 5.0))


# --- balance


@few
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4)), max_size=80),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_balance(pairs, by_frame, seed):
    y = np.array([p[0] for p in pairs], dtype=int)
    groups = np.array([p[1] for p in pairs], dtype=int) if by_frame else np.zeros(len(y), int)
    rows = balance(y, groups=groups if by_frame else None, random_state=seed)
    assert len(set(rows)) == len(rows)
    assert np.all(np.diff(rows) > 0)
    assert set(rows) <= set(range(len(y)))
    classes = np.unique(y)
    for frame in np.unique(groups):
        members = groups == frame
        fewest = min((int((members & (y == c)).sum()) for c in classes), default=0)
        for c in classes:
            assert (y[rows][groups[rows] == frame] == c).sum() == fewest
    again = balance(y, groups=groups if by_frame else None, random_state=seed)
    np.testing.assert_array_equal(rows, again)


def test_balance_of_words():
    y = np.array(["star", "other", "other", "star", "other"])
    taken = y[balance(y, random_state=1)].tolist()
    assert taken.count("star") == taken.count("other") == 2


def test_balance_refuses():
    with pytest.raises(InputError, match=r"one length\. Got 3 and 2"):
        balance([0, 1, 1], groups=[1, 2])


# --- splits


@few
@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=200),
    st.sampled_from([(0.7, 0.2, 0.1), (0.5, 0.5), (1.0,), (0.98, 0.01, 0.01)]),
    st.integers(0, 2**31),
)
def test_no_frame_on_two_sides(groups, fractions, seed):
    groups = np.array(groups)
    if len(np.unique(groups)) < len(fractions):
        with pytest.raises(InputError, match="need as many frames"):
            split_frames(groups, fractions, random_state=seed)
        return
    parts = split_frames(groups, fractions, random_state=seed)
    assert len(parts) == len(fractions)
    assert all(len(p) for p in parts)
    assert sorted(np.concatenate(parts)) == list(range(len(groups)))
    frames = [set(groups[p]) for p in parts]
    assert sum(map(len, frames)) == len(set(groups))


def test_shares_of_the_frames():
    groups = np.repeat(np.arange(100), 3)
    sizes = [len(p) for p in split_frames(groups, (0.7, 0.2, 0.1), random_state=0)]
    assert sizes == [210, 60, 30]


@pytest.mark.parametrize("fractions", [(0.5, 0.4), (1.5, -0.5), (0.0, 1.0)])
def test_bad_fractions(fractions):
    with pytest.raises(InputError, match="sum to 1"):
        split_frames([1, 2, 3], fractions)


# --- the truth of a simulation


TRUE = {"true_x": [10.0, 50.0, 90.0], "true_y": [10.0] * 3, "is_star": [True, True, False]}


def labels_of(x, flux=(100.0, 100.0, 100.0), **words):
    y = words.pop("y", [10.0] * len(x))
    return truth_labels(x, y, true_flux=flux, fwhm=4.0, **{**TRUE, **words})


def test_truth_star_galaxy_nothing():
    labels, contamination = labels_of([10.4, 49.0, 90.0, 30.0])
    assert labels.tolist() == [1, 1, 0, 0]
    assert contamination.tolist() == [0, 0, 0, np.inf]


@pytest.mark.parametrize(
    ("x", "flux", "label"),
    [
        (62.0, 0.3, 1), (62.0, 1.0, -1), (62.0, 3.0, 0),
        (70.0, 3.0, 1), (70.0, 10.0, -1), (70.0, 20.0, 0), (75.0, 1e4, 1),
    ],
)  # fmt: skip
def test_truth_neighbours(x, flux, label):
    # Within 4 FWHM in full, from 4 to 6 at 15 %, beyond not at all.
    labels, _ = labels_of([50.0], (100.0, 100.0, flux), true_x=[10.0, 50.0, x])
    assert labels.tolist() == [label]


def test_truth_defects():
    defects = np.zeros((20, 100), np.uint8)
    defects[10, 15] = 1
    assert labels_of([10.0, 50.0], defects=defects)[0].tolist() == [0, 1]
    defects[10, 15:18] = 0, 1, 1  # 6 pixels and more away
    assert labels_of([9.9, 50.0], defects=defects)[0].tolist() == [1, 1]


def test_truth_of_an_empty_field():
    nothing = {"true_x": [], "true_y": [], "is_star": []}
    labels, contamination = labels_of([10.0], [], **nothing)
    assert labels.tolist() == [0]
    assert contamination.tolist() == [np.inf]
    assert labels_of([])[0].shape == (0,)


def test_truth_labels_of_a_field(field):
    truth = field.truth
    labels, _ = truth_labels(
        truth["x"],
        truth["y"],
        truth["x"],
        truth["y"],
        truth["flux"],
        truth["kind"] == "star",
        fwhm=4.0,
        defects=field.defects,
    )
    good = labels == 1
    assert 20 < good.sum() < (truth["kind"] == "star").sum()
    assert np.all(truth["kind"][good] == "star")
    assert not truth["saturated"][good].any()
