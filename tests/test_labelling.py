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
    neighbour_weight,
    residual_distance,
    split_frames,
    truth_labels,
)
from mlpsf.selectors import ResidualSelector
from mlpsf.stacks.fitting import residual_figures

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


def test_25_are_the_best_unless_told():
    assert np.flatnonzero(best_labels(np.arange(40.0))).tolist() == list(range(25))
    assert best_labels(np.arange(40.0), n_best=1).tolist() == [1] + 39 * [0]
    for n_best in (0, -1):
        assert not best_labels(np.arange(40.0), n_best=n_best).any()
    assert not best_labels([np.inf, np.nan]).any()


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


@few
@given(
    same_length(FIGURE, st.sampled_from([0.0, 1.0])),
    ANY | st.sampled_from([0.0, 1.0, 2.0**20]),
    st.integers(1, 30),
)
def test_one_more_source_makes_none_good_and_a_worse_one_none_bad(pairs, new, n_best):
    distance, eligible = pairs[0], pairs[1] > 0
    before = best_labels(distance, eligible, n_best)
    every = best_labels([*distance, new], [*eligible, True], n_best)
    assert np.all(every[:-1] <= before)
    # Of those that may not be good too: they hold places.
    worst = max(distance[best_labels(distance, n_best=n_best) == 1], default=-np.inf)
    if not new <= worst:  # NaN is worse than all
        np.testing.assert_array_equal(every[:-1], before)
    elif not new <= max(distance[before == 1], default=-np.inf):
        np.testing.assert_array_equal(every[:-1][before == 1], 1)


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


@few
@given(same_length(FIGURE, FIGURE, max_size=20))
def test_no_worse_in_both_figures_is_no_further(figures):
    # Whatever the company: the order of such two cannot be turned by any other source.
    variance, peak = figures
    distance = residual_distance(variance, peak)
    fitted = np.flatnonzero(np.isfinite(variance) & np.isfinite(peak))
    for i in fitted:
        no_better = fitted[(variance[fitted] >= variance[i]) & (peak[fitted] >= peak[i])]
        assert np.all(distance[i] <= distance[no_better] * (1 + 1e-14))


def test_what_a_worse_source_may_do():
    """Worse in both figures than every good source: it moves the scatter, and nothing else."""
    # Few sources and many equal figures: where it happens at all, seldom among hundreds.
    rng = np.random.default_rng(0)
    overtaken = 0
    for _ in range(3000):
        n = int(rng.integers(2, 14))
        variance = rng.integers(1, 12, n) * 1.0 if rng.random() < 0.5 else rng.lognormal(0, 1.5, n)
        peak, n_best = rng.integers(1, 100, n) / 100, int(rng.integers(1, n + 1))
        before = residual_distance(variance, peak)
        good = best_labels(before, n_best=n_best) == 1
        if not good.any():
            continue
        worse = rng.uniform(1.5, 4) * np.array([variance[good].max(), peak[good].max()])
        after = residual_distance([*variance, worse[0]], [*peak, worse[1]])
        labels = best_labels(after, n_best=n_best)
        assert np.all(after[-1] > after[:-1][good & np.isfinite(after[:-1])])
        for i in np.flatnonzero(good & (labels[:-1] == 0)):
            if np.isinf(after[i]):
                continue  # under the clip: so rare that it has an example of its own below
            # Overtaken, by sources that are better in one figure and worse in the other.
            overtaken += 1
            ahead = (after[:-1] <= after[i]) & (before >= before[i])
            ahead[i] = False
            assert ahead.any()
            assert np.all((variance[ahead] - variance[i]) * (peak[ahead] - peak[i]) <= 0)
    assert overtaken > 10


@few
@given(
    arrays(np.float64, st.integers(1, 40), elements=st.floats(2.0**-10, 1, width=32)),
    st.floats(2.0**-10, 2.0**20, width=32),
    st.floats(1, 1e6),
    st.floats(1.001, 100),
    st.integers(1, 30),
)
def test_at_equal_variance_a_worse_source_makes_none_bad(peak, variance, more, higher, n_best):
    variances = np.full(len(peak), variance)
    before = best_labels(residual_distance(variances, peak), n_best=n_best)
    # In units of the variance itself peaks are not lost beside it: their order decides.
    np.testing.assert_array_equal(before, best_labels(np.hypot(1, peak), n_best=n_best))
    top = peak[before == 1].max() if before.any() else peak.max()
    after = residual_distance([*variances, more * variance], [*peak, higher * top + 1])
    order = np.argsort(peak)
    assert np.all(np.diff(after[:-1][order]) >= 0)
    assert np.isfinite(after[:-1]).all()
    if before.any():
        assert np.all(best_labels(after, n_best=n_best)[:-1][before == 1] == 1)


@pytest.mark.parametrize(
    ("variance", "peak", "n_best", "lost"),
    [
        ([11, 11, 9], [0.6, 0.8, 0.9], 1, 0),  # overtaken by one of less variance and more peak
        ([3, 8, 4, 9, 4, 4, 4], [0.4, 0.1, 0.8, 0.9, 0.8, 0.6, 0.2], 6, 1),  # under the clip
    ],
)
def test_a_worse_source_can_turn_a_good_one_bad(variance, peak, n_best, lost):
    # Not wished for, but so it is: the scatter that variances are measured in is that of all.
    before = best_labels(residual_distance(variance, peak), n_best=n_best)
    good = before == 1
    worse = 2 * np.array(variance)[good].max(), 2 * np.array(peak)[good].max()
    after = residual_distance([*variance, worse[0]], [*peak, worse[1]])
    labels = best_labels(after, n_best=n_best)
    assert np.flatnonzero(good & (labels[:-1] == 0)).tolist() == [lost]


@few
@given(
    same_length(FIGURE, FIGURE),
    arrays(np.float64, 2, elements=st.floats(0, 1e6)),
    st.sampled_from([np.nan, np.inf, -np.inf]),
)
def test_a_source_without_a_fit_moves_nothing(figures, added, none):
    variance, peak = figures
    distance = residual_distance(variance, peak)
    for v, p in ((none, added[0]), (added[1], none), (none, none)):
        after = residual_distance([*variance, v], [*peak, p])
        np.testing.assert_array_equal(after, [*distance, np.inf])


@few
@given(same_length(FIGURE, FIGURE), st.floats(1e-12, 1e12), st.integers(-40, 40))
def test_the_unit_of_the_variance_does_not_matter(figures, factor, power):
    variance, peak = figures
    distance = residual_distance(variance, peak)
    np.testing.assert_array_equal(residual_distance(variance * 2.0**power, peak), distance)
    scaled = residual_distance(variance * factor, peak)
    # Any other factor rounds: a source exactly on the clip may fall on either side.
    both = np.isfinite(scaled) & np.isfinite(distance)
    np.testing.assert_allclose(scaled[both], distance[both], rtol=1e-6)
    clear = residual_distance(variance, peak, clip=5.0 * (1 - 1e-9))
    wide = residual_distance(variance, peak, clip=5.0 * (1 + 1e-9))
    assert np.isfinite(scaled[np.isfinite(clear)]).all()
    assert np.isinf(scaled[np.isinf(wide)]).all()


def test_distances_are_in_units_of_the_scatter_and_end_at_five_of_them():
    # A median of 10 and a median absolute deviation of 1: a scatter of 1.4826, a limit of 17.413.
    variance = [*np.tile([9.0, 10.0, 11.0], 33), 17.41, 17.42]
    distance = residual_distance(variance, np.full(101, 2.0))
    np.testing.assert_allclose(distance[:-1], np.hypot(np.array(variance[:-1]) / 1.4826, 2))
    assert distance[-1] == np.inf
    nearer = residual_distance([*variance, 12.96, 12.97], np.full(103, 2.0), clip=2.0)
    assert np.isfinite(nearer[-4:]).tolist() == [False, False, True, False]
    # The limit itself is within, and a scatter below 1 is one too.
    assert np.isfinite(residual_distance([0.0, 1.0, 2.0], [0.0] * 3, clip=1 / 1.4826)).all()
    np.testing.assert_allclose(
        residual_distance([0.25, 0.5, 0.75], [0.0] * 3), np.array([1, 2, 3]) / 1.4826
    )


def test_equal_variances_are_a_unit_themselves():
    peak = np.array([0.1, 0.2, 0.3])
    np.testing.assert_array_equal(residual_distance([4.0] * 3, peak), np.hypot(1, peak))
    np.testing.assert_array_equal(residual_distance([0.0] * 3, peak), peak)


def test_no_fit_at_all():
    assert np.isinf(residual_distance([np.nan, np.inf], [0.1, 0.1])).all()
    assert residual_distance([], []).shape == (0,)
    assert best_labels([]).shape == (0,)


# --- pixels


def small_cutouts(n=30, size=21, fwhm=2.5, seed=0):
    """Draw n lone stars on a sky of 100, and after them a third as many close pairs."""
    rng = np.random.default_rng(seed)
    m = n + n // 3
    u = np.arange(size) - size // 2
    dx, dy = rng.uniform(-0.4, 0.4, (2, m))
    r2 = (u - dx[:, None, None]) ** 2 + (u[:, None] - dy[:, None, None]) ** 2
    X = 10 ** rng.uniform(3, 4, (m, 1, 1)) * np.exp(-r2 / (2 * (fwhm / 2.3548) ** 2))
    X[n:] += 0.6 * np.roll(X[n:], (2, 2), axis=(1, 2))
    return X + rng.normal(100, 2, X.shape)


LONE = np.repeat([1, 0], [30, 10])
slow = settings(max_examples=8, deadline=None)


@pytest.fixture(scope="module")
def small():
    X = small_cutouts()
    fitted = ResidualSelector(n_best=30).fit(X)
    np.testing.assert_array_equal(fitted.labels_, LONE)
    return X, fitted


@pytest.mark.parametrize("kind", ["pair", "galaxy", "hot pixel", "sky", "no data", "saturated"])
def test_another_bad_source_turns_no_good_one_bad(small, kind):
    X, _ = small
    rng = np.random.default_rng(9)
    u = np.arange(21) - 10
    r2 = (u**2 + u[:, None] ** 2).astype(float)
    new = 100 + rng.normal(0, 2, (21, 21))
    if kind == "pair":
        new = 100 + (X[3] - 100) + 0.8 * np.roll(X[3] - 100, 3, axis=1)
    elif kind == "galaxy":
        new += 3000 * np.exp(-np.sqrt(r2) / 2)
    elif kind == "hot pixel":
        new[10, 10] += 5000
    elif kind == "no data":
        new[:] = np.nan
    elif kind == "saturated":
        new += np.minimum(2e6 * np.exp(-r2 / 2.25), 6e4)
    labels = ResidualSelector(n_best=30).fit(np.concatenate([X, new[None]])).labels_
    np.testing.assert_array_equal(labels, [*LONE, 0])


PIXEL = st.integers(-(2**10), 2**10).map(float)


@few
@given(
    st.integers(1, 4).flatmap(lambda n: arrays(np.float64, (2, n, 5, 5), elements=PIXEL)),
    st.integers(-6, 6),
)
def test_all_pixels_times_a_factor(pixels, power):
    """Of the figures, the peak stays, and the variance scales but for the 1 ADU in its weights."""
    k = 2.0**power  # exact
    model, residual = np.abs(pixels[0]).astype(np.float32), pixels[1].astype(np.float32)
    cutouts = model + residual
    variance, peak = residual_figures(cutouts, residual, model)
    scaled, same = residual_figures(k * cutouts, k * residual, k * model)
    np.testing.assert_array_equal(same, peak)
    np.testing.assert_array_equal(np.isfinite(scaled), np.isfinite(variance))
    for i in np.flatnonzero(np.isfinite(variance)):
        # As if the weights had been 1 / (|model| + 1 / k) all along.
        weight = 1 / (model[i] + 1.0 / k)
        mean_square = np.average((residual[i] - residual[i].mean(dtype=float)) ** 2, weights=weight)
        expected = mean_square * residual[i].size / model[i].sum(dtype=float)
        assert scaled[i] / k == pytest.approx(expected, rel=1e-4, abs=1e-6)
        # So by no more than the factor once over, and not at all where the model is far from 1.
        assert scaled[i] / k <= variance[i] * max(k, 1 / k) * 1.0001
        assert scaled[i] / k >= variance[i] / max(k, 1 / k) * 0.9999


def test_bright_models_do_not_know_their_unit():
    rng = np.random.default_rng(0)
    model = rng.uniform(1e3, 1e4, (60, 9, 9)).astype(np.float32)
    residual = rng.normal(0, 10, model.shape).astype(np.float32)
    distances = [
        residual_distance(*residual_figures(k * (model + residual), k * residual, k * model))
        for k in (np.float32(1), np.float32(3), np.float32(100))
    ]
    np.testing.assert_allclose(distances[1:], [distances[0]] * 2, rtol=2e-3)


@pytest.mark.parametrize("k", [0.1, 0.5, 2.0, 50.0])
def test_all_fluxes_in_another_unit(small, k):
    # With the ranges, which are in ADU, in that unit too.
    X, fitted = small
    ranges = {
        name: tuple(k * v for v in getattr(fitted, name))
        for name in ("brightness_range", "exclusion_range")
    }
    other = ResidualSelector(n_best=30, **ranges).fit(k * X)
    np.testing.assert_array_equal(other.labels_, fitted.labels_)
    np.testing.assert_allclose(other.peak_, fitted.peak_, rtol=0.05)


# One sky for the frame, or one for every source.
@slow
@given(
    st.floats(-1000, 1000, width=32)
    | arrays(np.float32, (40, 1, 1), elements=st.floats(-1000, 1000, width=32))
)
def test_a_constant_sky_changes_no_label(small, sky):
    X, fitted = small
    other = ResidualSelector(n_best=30).fit(X + sky)
    np.testing.assert_array_equal(other.labels_, fitted.labels_)
    near = fitted.labels_ == 1
    np.testing.assert_allclose(other.distance_[near], fitted.distance_[near], rtol=0.02)


@slow
@given(st.permutations(range(40)))
def test_the_order_of_the_cutouts_changes_no_label(small, order):
    X, fitted = small
    other = ResidualSelector(n_best=30).fit(X[order])
    np.testing.assert_array_equal(other.labels_, fitted.labels_[order])


@pytest.fixture(scope="module")
def three_frames():
    X = np.concatenate([small_cutouts(fwhm=f, seed=i) for i, f in enumerate((2.3, 2.8, 3.4))])
    groups = np.repeat([0, 1, 2], 40)
    fitted = ResidualSelector(n_best=20).fit(X, groups=groups)
    return X, groups, fitted, fitted.distances(X, groups)


@pytest.mark.parametrize(
    "names", [["b.fits", "c.fits[2]", "a.fits"], ["c", "b", "a"], [7, -3, 4], [1, 2, 0]]
)
def test_the_names_of_the_frames_change_no_label(three_frames, names):
    X, groups, fitted, distances = three_frames
    frames = np.array(names)[groups]
    other = ResidualSelector(n_best=20).fit(X, groups=frames)
    np.testing.assert_array_equal(other.labels_, fitted.labels_)
    np.testing.assert_array_equal(other.distance_, fitted.distance_)
    np.testing.assert_array_equal(other.distances(X, frames), distances)


def test_a_frame_is_labelled_as_if_alone(three_frames):
    X, groups, fitted, _ = three_frames
    for frame in range(3):
        alone = ResidualSelector(n_best=20).fit(X[groups == frame])
        np.testing.assert_array_equal(fitted.labels_[groups == frame], alone.labels_)


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


def test_the_range_of_the_study():
    pixels = np.array([-200.0, 32768.0, -200.1, 32768.1])
    assert in_range(pixels[:, None, None]).tolist() == [True, True, False, False]


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
    assert [len(p) for p in split_frames(groups)] == sizes


@pytest.mark.parametrize(
    ("n", "fractions", "sizes"),
    [
        (5, (0.98, 0.01, 0.01), [3, 1, 1]),
        (5, (0.01, 0.01, 0.98), [1, 1, 3]),
        (5, (0.01, 0.98, 0.01), [1, 3, 1]),
        (3, (0.98, 0.01, 0.01), [1, 1, 1]),
        (6, (0.01, 0.01, 0.01, 0.97), [1, 1, 1, 3]),
        (7, (0.5, 0.5), [4, 3]),
    ],
)
def test_each_part_has_a_frame_and_no_more_than_it_needs(n, fractions, sizes):
    parts = split_frames(np.arange(n), fractions, random_state=1)
    assert [len(part) for part in parts] == sizes


@pytest.mark.parametrize("fractions", [(0.5, 0.4), (0.5, 0.5001), (1.5, -0.5), (0.0, 1.0)])
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


def test_weight_of_a_neighbour():
    distance = [0.0, 4.0, np.nextafter(4.0, 5.0), 6.0, np.nextafter(6.0, 7.0)]
    assert neighbour_weight(distance).tolist() == [1.0, 1.0, 0.15, 0.15, 0.0]


@st.composite
def crowds(draw):
    """Objects and detections on whole pixels, so that some are exactly on every limit."""
    place, n, m = st.integers(0, 24), draw(st.integers(0, 8)), draw(st.integers(0, 12))
    x, y = draw(arrays(np.float64, (2, n), elements=place))
    true_x, true_y = draw(arrays(np.float64, (2, m), elements=place))
    flux = draw(arrays(np.float64, m, elements=st.integers(1, 2000), unique=True))
    fwhm = draw(arrays(np.float64, n, elements=st.sampled_from([1.0, 2.0, 3.0])))
    defects = np.zeros((30, 30), np.uint8)
    defects[tuple(draw(arrays(np.intp, (2, draw(st.integers(0, 3))), elements=place)))] = 1
    return x, y, true_x, true_y, flux, draw(arrays(bool, m)), fwhm, defects


@few
@given(crowds())
def test_truth_counts_every_pair(crowd):
    x, y, true_x, true_y, flux, is_star, fwhm, defects = crowd
    labels, contamination = truth_labels(
        x, y, true_x, true_y, flux, is_star, fwhm=fwhm, defects=defects
    )
    for i, width in enumerate(fwhm):
        distance = np.hypot(true_x - x[i], true_y - y[i])
        near = np.flatnonzero(distance <= max(width, 1.5))
        if near.size == 0:
            assert (labels[i], contamination[i]) == (0, np.inf)
            continue
        own = near[np.argmax(flux[near])]
        share = np.where(distance <= 4 * width, 1.0, 0.15 * (distance <= 6 * width))
        share[own] = 0
        expected = (share * flux).sum() / flux[own]
        assert contamination[i] == pytest.approx(expected, rel=1e-12)
        row, column = np.nonzero(defects)
        struck = (np.hypot(column - x[i], row - y[i]) <= 1.5 * width).any()
        if struck or not is_star[own] or expected >= 0.02 * (1 + 1e-12):
            assert labels[i] == 0
        elif not 0.005 * (1 - 1e-12) < expected < 0.02 * (1 + 1e-12):
            assert labels[i] == 1


@pytest.mark.parametrize(("flux", "label"), [(4.9, 1), (5.0, -1), (19.9, -1), (20.0, 0)])
def test_a_limit_belongs_to_the_worse_label(flux, label):
    true = {"true_x": [50.0, 58.0], "true_y": [10.0, 10.0], "is_star": [True, True]}
    assert labels_of([50.0], (1000.0, flux), **true)[0].tolist() == [label]
    worse = labels_of([50.0], (1000.0, flux), **true, clean=0.1, spoiled=0.2)
    assert worse[0].tolist() == [1]


def test_what_is_left_of_the_neighbours_counts_instead():
    # The last detection is of nothing, whatever was subtracted there.
    labels, contamination = labels_of(
        [10.0, 50.0, 30.0], (100.0, 100.0, 1e4), left=[0.01, 0.001, 0.001], true_x=[10, 50, 58]
    )
    assert labels.tolist() == [-1, 1, 0]
    assert contamination.tolist() == [0.01, 0.001, np.inf]


def test_truth_defects():
    defects = np.zeros((20, 100), np.uint8)
    defects[10, 15] = 1
    assert labels_of([10.0, 50.0], defects=defects)[0].tolist() == [0, 1]
    defects[10, 15:18] = 0, 1, 1  # 6 pixels and more away
    assert labels_of([9.9, 50.0], defects=defects)[0].tolist() == [1, 1]
    # Any number but 0 marks a pixel, and none may be marked.
    marked = np.zeros((20, 100), np.int8)
    assert labels_of([10.0, 50.0], defects=marked)[0].tolist() == [1, 1]
    assert labels_of([], defects=marked)[0].shape == (0,)
    marked[10, 50] = -1
    assert labels_of([10.0, 50.0], defects=marked)[0].tolist() == [1, 0]


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
