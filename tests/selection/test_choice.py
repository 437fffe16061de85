"""The choice: how the brightest cover the frame, whom the reserve spares, what a user is told."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from astropy.table import Table
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mlpsf.errors import InputError, TooFewStarsError
from mlpsf.flags import Flag
from mlpsf.frames.tiles import tile_cutouts
from mlpsf.selection.choice import (
    Rules,
    candidates,
    choose,
    unjudged,
    warn_of_few_reserved,
    with_places,
)

few = settings(max_examples=60, deadline=None)


def stars(n, **columns):
    return Table({"flags": np.zeros(n, np.int32), **columns})


# --- the brightest that cover the frame


def spread(x, y, snr):
    x, y, snr = (np.asarray(v, dtype=float) for v in (x, y, snr))
    table = stars(len(x), x=x, y=y, snr=snr)
    return candidates(table, np.ones(len(x)), rank_by="snr").tolist()


def test_far_ones_come_before_bright_neighbours():
    # A distance of 100 / 4 at first: the third brightest star is the first that far off.
    x, snr = [0.0, 1.0, 2.0, 100.0, 50.0], [50.0, 40.0, 30.0, 10.0, 20.0]
    assert spread(x, [0.0] * 5, snr) == [0, 4, 3, 2, 1]
    assert spread([0.0] * 5, x, snr) == [0, 4, 3, 2, 1]
    # Exactly at the distance is too near.
    assert spread([0.0, 25.0, 100.0], [7.0] * 3, [3.0, 2.0, 1.0]) == [0, 2, 1]
    assert spread([0.0, 25.01, 100.0], [7.0] * 3, [3.0, 2.0, 1.0]) == [0, 1, 2]
    # Half of the diagonal of 30 x 40 pixels is 25, a quarter 12.5.
    assert spread([0, 12.4, 30], [0, 0, 40], [3, 2, 1]) == [0, 2, 1]
    assert spread([0, 12.6, 30], [0, 0, 40], [3, 2, 1]) == [0, 1, 2]


def test_the_distance_is_halved_in_area():
    # 100 / 4 = 25, then 17.7 and 12.5.
    x = [0.0, 17.6, 100.0, 117.7 - 35.4]
    assert spread(x, [0.0] * 4, [4.0, 3.0, 2.0, 1.0]) == [0, 2, 3, 1]
    assert spread([0.0, 17.7, 100.0, 82.4], [0.0] * 4, [4.0, 3.0, 2.0, 1.0]) == [0, 2, 1, 3]


def test_within_a_pixel_brightness_alone_counts():
    # The distance ends at 0.78 pixels.
    assert spread([0.0, 100.0, 0.6, 0.77], [0.0] * 4, [4.0, 3.0, 2.0, 1.0]) == [0, 1, 2, 3]
    assert spread([0.0, 100.0, 0.6, 0.79], [0.0] * 4, [4.0, 3.0, 2.0, 1.0]) == [0, 1, 3, 2]
    assert spread([5.0] * 4, [5.0] * 4, [1.0, 4.0, 2.0, 3.0]) == [1, 3, 2, 0]


def test_after_200_stars_brightness_alone_counts():
    rng = np.random.default_rng(0)
    x, y, snr = rng.uniform(0, 2000, (3, 1500))
    rows = spread(x, y, snr)
    assert sorted(rows) == list(range(1500))
    falling = np.diff(snr[rows]) <= 0
    # The last pass begins where S/N rises last.
    last = np.flatnonzero(~falling)[-1] + 1
    assert 200 <= last < 400
    fewer = np.array(spread(x[:190], y[:190], snr[:190]))
    assert np.flatnonzero(np.diff(snr[fewer]) > 0)[-1] > 150


@few
@given(st.integers(3, 40), st.integers(0, 2**32 - 1))
def test_the_first_ones_cover_the_frame(n, seed):
    x, y, snr = np.random.default_rng(seed).uniform(0, 500, (3, n))
    rows = np.array(spread(x, y, snr))
    assert sorted(rows) == list(range(n))
    far = np.hypot(np.ptp(x), np.ptp(y)) / 4
    apart = np.hypot(x[rows, None] - x[rows], y[rows, None] - y[rows])
    gap = np.array([np.inf, *(apart[k, :k].min() for k in range(1, n))])
    first = int(np.argmin(gap > far)) or n
    assert (np.diff(snr[rows[:first]]) < 0).all()
    assert (apart[first:, :first].min(axis=1, initial=np.inf) <= far).all()


def test_without_places_the_brightest_are_first():
    columns = {"snr": [10.0, np.nan, 30.0, 20.0]}
    for more in ({}, {"x": [0.0, 100.0, 1.0, 2.0]}):
        rows = candidates(stars(4, **columns, **more), np.ones(4), rank_by="snr")
        assert rows.tolist() == [2, 3, 0, 1]
    assert candidates(stars(3), np.array([0.2, 0.4, 0.3]), rank_by="snr").tolist() == [1, 2, 0]
    assert candidates(stars(0, **{"snr": []}), np.zeros(0), rank_by="snr").size == 0


def surest_of(p, snr, **more):
    table = stars(len(p), snr=np.asarray(snr, dtype=float))
    out = choose(table, p, rank_by="snr", n_min=0, **more)
    return np.flatnonzero(out["selected"]).tolist()


def test_of_many_the_surest_are_the_brightest_taken():
    # Of 3 surest (one and a half times 2), the 2 brightest, however bright the others are.
    p, snr = [0.99, 0.98, 0.97, 0.92, 0.91], [10, 20, 30, 40, 50]
    assert surest_of(p, snr, n_max=2) == [1, 2]
    assert surest_of(p, snr, n_max=3) == [2, 3, 4]  # all 5 are among the surest
    assert surest_of(p, snr, n_max=5) == [0, 1, 2, 3, 4]
    # With a star in reserve (3), one more is needed, which makes five the surest.
    assert surest_of(p, snr, n_max=2, reserve=0.3) == [2, 4]


def test_less_than_a_percent_is_no_difference():
    # 0.991 and 0.994 are alike, 0.994 and 0.996 are not.
    assert surest_of([0.994, 0.991, 0.993, 0.992], [10, 20, 30, 40], n_max=1) == [3]
    assert surest_of([0.996, 0.994, 0.997, 0.992], [10, 20, 30, 40], n_max=1) == [2]


@few
@given(
    arrays(float, 60, elements=st.floats(0.9, 1)),
    arrays(float, 60, elements=st.floats(50, 1e4)),
    st.integers(1, 60),
)
def test_none_is_taken_that_is_less_sure_than_half_as_many_again(p, snr, n_max):
    chosen = surest_of(p, snr, n_max=n_max)
    assert len(chosen) == n_max
    surer = (p.round(2)[:, None] > p.round(2)[chosen]).sum(axis=0)
    assert (surer < np.ceil(1.5 * n_max)).all()


def test_where_the_surest_leave_half_a_frame_empty_others_fill_it():
    rng = np.random.default_rng(2)
    x, y = rng.uniform(0, 500, 120) + np.repeat([0, 500], 60), rng.uniform(0, 1000, 120)
    table = stars(120, x=x, y=y, snr=rng.uniform(100, 1000, 120))
    out = choose(table, np.repeat([0.93, 0.99], 60), rank_by="snr", n_max=25, n_min=0)
    chosen = np.flatnonzero(out["selected"])
    assert 3 <= (chosen < 60).sum() <= 10
    u, v = np.mgrid[50:1000:50, 50:1000:50]
    hole = np.hypot(u.ravel()[:, None] - x[chosen], v.ravel()[:, None] - y[chosen]).min(axis=1)
    assert hole.max() < 360  # a quarter of the diagonal


def test_stars_that_the_user_keeps_are_taken_before_the_surest():
    table = stars(5, snr=np.arange(5.0))
    table["flags"][4] = Flag.KEPT
    out = choose(table, [0.99, 0.99, 0.99, 0.99, 0.2], rank_by="snr", n_max=1, n_min=0)
    assert np.flatnonzero(out["selected"]).tolist() == [4]


def test_places_are_those_on_the_detector():
    u = np.arange(21) - 10
    cutouts = 1e3 * np.exp(-0.3 * (u**2 + u[:, None] ** 2)) + np.arange(21.0) * np.ones((3, 1, 1))
    frame = tile_cutouts(cutouts, [100.0, 200.0, 300.0], [50.0, 40.0, 30.0])
    sources = Table({"x": frame.tile_x, "y": frame.tile_y})
    sources["x"].unit = "pix"
    placed = with_places(frame, sources)
    assert placed["x"].tolist() == [100.0, 200.0, 300.0]
    assert placed["y"].tolist() == [50.0, 40.0, 30.0]
    assert placed["x"].unit == "pix"
    assert sources["x"].tolist() == frame.tile_x.tolist()


# --- the reserve


def test_stars_that_the_user_keeps_are_not_reserved():
    flags = np.zeros(20, np.int32)
    flags[::2] = Flag.KEPT
    out = choose(Table({"flags": flags}), np.full(20, 0.95), n_min=2, n_max=20, reserve=0.2)
    assert np.flatnonzero(out["reserved"]).tolist() == [5, 15]
    assert out["selected"].sum() == 18
    flags[:] = Flag.KEPT
    out = choose(Table({"flags": flags}), np.full(20, 0.95), n_min=2, n_max=20, reserve=0.2)
    assert out["reserved"].sum() == 4


@pytest.mark.parametrize(("reserve", "found", "warned"), [(0.1, 2, 1), (0.1, 3, 0), (0.0, 0, 0)])
def test_three_judge_a_psf(reserve, found, warned):
    meta = {"reserve": reserve, "n_reserved": found, "n_above_threshold": 20, "n_min": 10}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        warn_of_few_reserved(Table(meta=meta))
    assert len(told) == warned


# --- rules


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ({"n_max": 2.5}, "'n_max' parameter .--n-max. must be a whole number. Got 2.5"),
        ({"n_min": "3"}, "'n_min' parameter .--n-min. must be a whole number. Got '3'"),
        ({"threshold": "0.9"}, "'threshold' parameter .--threshold. must be a number. Got '0.9'"),
        ({"reserve": None}, "'reserve' parameter .--reserve. must be a number. Got None"),
        ({"rank_by": "flux"}, "'rank_by'.*must be 'probability' or 'snr'. Got 'flux'"),
        ({"threshold": -0.001}, "'threshold'"),
        ({"n_max": 3, "n_min": 4}, "'n_min'.*from 0 to n_max = 3"),
    ],
)
def test_bad_rules(words, match):
    with pytest.raises(InputError, match=match):
        Rules(**words)


def test_the_ends_of_what_rules_allow():
    for words in ({"threshold": 0}, {"threshold": 1}, {"n_max": 1, "n_min": 1}, {"reserve": 0.99}):
        assert Rules(**words)
    assert Rules(n_max=np.int64(12), n_min=0).n_max == 12
    rules = Rules()
    assert (rules.threshold, rules.n_max, rules.n_min) == (0.9, 25, 7)
    assert (rules.reserve, rules.relax, rules.rank_by) == (0.0, False, "probability")
    with pytest.raises(AttributeError):
        rules.n_max = 3
    with pytest.raises(TypeError):
        Rules(0.9)


def test_single_precision_may_leave_0_to_1_a_little():
    for p in (1 + 9e-7, -9e-7):
        assert len(choose(stars(1), [p], n_min=0)) == 1
    for p in (1 + 2e-6, -2e-6, 1.4, -0.4):
        with pytest.raises(InputError, match="in row 0"):
            choose(stars(1), [p], n_min=0)


def test_five_decimals_are_compared():
    out = choose(stars(3), [0.900004, 0.899996, 0.899994], n_min=0)
    assert out["selected"].tolist() == [True, True, False]
    # The last of them counts.
    assert choose(stars(2), [0.95001, 0.95002], n_min=1, n_max=1)["selected"].tolist() == [0, 1]


@few
@given(
    arrays(np.float64, 20, elements=st.sampled_from([0.2, 0.6, 0.95, 0.97, np.nan])),
    *(st.fixed_dictionaries({
        "threshold": st.sampled_from([0.1, 0.5, 0.96]),
        "n_max": st.integers(1, 9),
        "reserve": st.sampled_from([0.0, 0.4]),
        "relax": st.booleans(),
    }),) * 2,
)  # fmt: skip
def test_an_earlier_choice_leaves_nothing_behind(probability, before, words):
    sources = Table({"flags": np.tile([0, 0, 0, int(Flag.KEPT), 1], 4)})
    fresh = choose(sources, probability, n_min=0, **words)
    again = choose(choose(sources, probability, n_min=1, **before), probability, n_min=0, **words)
    for name in fresh.colnames:
        np.testing.assert_array_equal(again[name], fresh[name])


# --- too few


def message(probability, flags=None, meta=None, snr=None, **words):
    table = Table({"flags": np.zeros(len(probability), np.int32) if flags is None else flags})
    if snr is not None:
        table["snr"] = snr
    table.meta.update(meta or {})
    with pytest.raises(TooFewStarsError) as caught:
        choose(table, probability, **words)
    return str(caught.value)


def test_too_few_look_good():
    assert message([0.95, 0.3, 0.2], n_min=2) == (
        "1 star at or above 0.9, 2 wanted: the best of the others has 0.3, and too few look like "
        "good stars. A lower n_min (--n-min 1) takes these, relax (--relax) takes the best there "
        "are."
    )
    assert message([0.4, 0.3, 0.2], n_min=2) == (
        "0 stars at or above 0.9, 2 wanted: the best of the others has 0.4, and too few look like "
        "good stars. Relax (--relax) takes the best there are."
    )
    # At 0.5 a lower threshold is advised.
    assert "A threshold of 0.500 gives enough; relax (--relax)" in message([0.5, 0.5], n_min=2)
    assert "A threshold of 0.500 gives enough; a lower" in message([0.5, 0.95], n_min=2)


def test_too_few_were_judged():
    flags = np.array([1, 1, 1, 1, 2, 2, 2, 4, 4, 8, 0])
    told = message(np.full(11, 0.95), flags, n_min=3)
    assert told == (
        "1 star at or above 0.9, 3 wanted: only 1 of 11 sources could be judged at all (of the "
        "others, some for more than one reason: 4 saturated, 3 near the edge, 2 masked pixels). A "
        "lower n_min (--n-min 1), or relax (--relax), takes what there is."
    )
    told = message([0.2, np.nan], n_min=2)  # none reaches the threshold: a lower number has none
    assert told.endswith("no probability). Relax (--relax) takes what there is.")
    told = message([np.nan, np.nan], n_min=1)
    assert "none of 2 sources could be judged at all (of the others, some for more" in told
    assert told.endswith("one reason: no probability).")  # and there is nothing to take
    # Notes on a star are no reasons.
    assert "no probability" in message([np.nan], np.array([int(Flag.BLENDED)]), n_min=1)


@pytest.mark.parametrize(
    ("n", "word"),
    [
        (1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (10, "10th"), (11, "11th"), (12, "12th"),
        (13, "13th"), (14, "14th"), (20, "20th"), (21, "21st"), (22, "22nd"), (23, "23rd"),
        (101, "101st"), (111, "111th"), (112, "112th"), (113, "113th"), (121, "121st"),
    ],
)  # fmt: skip
def test_the_place_in_words(n, word):
    assert f"the {word} best has 0.6." in message(np.full(n, 0.6), n_min=n, n_max=n)


def test_faint_stars_by_a_guessed_gain_are_told():
    flags = np.array([int(Flag.FAINT), int(Flag.FAINT | Flag.BLENDED), 1, 0])
    meta = {"guessed": "gain, saturation", "gain_from": "the noise"}
    told = message(np.full(4, 0.95), flags, meta, n_min=2)
    assert told.endswith(
        " Whether 2 are faint hangs on the gain, which is a guess (the noise); give it with gain "
        "(--gain) if you know it."
    )
    assert "guess" not in message(np.full(4, 0.95), flags, {"guessed": "saturation"}, n_min=2)
    assert "guess" not in message(np.full(4, 0.95), flags, n_min=2)
    assert "guess" not in message(np.full(4, 0.95), flags & ~8, meta, n_min=5)


def test_a_lower_limit_of_the_signal_to_noise_is_advised():
    flags = np.array([int(Flag.FAINT)] * 6 + [int(Flag.FAINT | Flag.NEAR_EDGE), 0])
    snr = np.array([40.0, 35.5, 31.0, 22.3, 8.0, 3.0, 45.0, 90.0])
    told = message(np.full(8, 0.95), flags, n_min=3, snr=snr)
    assert "2 of the faint ones have a S/N of 35 or more: a lower snr_min (--snr-min 35)" in told
    told = message(np.full(8, 0.95), flags, n_min=4, snr=snr)
    assert "3 of the faint ones have a S/N of 31 or more" in told
    told = message(np.full(8, 0.95), flags, n_min=2, snr=snr)
    assert "1 of the faint ones has a S/N of 40 or more" in told
    assert "faint ones" not in message(np.full(8, 0.95), flags, n_min=5, snr=snr)  # too few
    fainter = np.minimum(snr, 29.9)  # of which hardly any is sure
    assert "faint ones" not in message(np.full(8, 0.95), flags, n_min=2, snr=fainter)


def test_the_verdict_is_told():
    meta = {"verdict": "no stars", "verdict_reason": "noise alone"}
    told = message([0.2], meta=meta, n_min=1)
    assert told.endswith("there are. The frame has no stars: noise alone.")
    crowded = {"verdict": "doubtful", "verdict_reason": "few stars"}
    assert message([0.2], meta=crowded, n_min=1).endswith("The frame is doubtful: few stars.")
    assert message([0.2], meta={"verdict": "good"}, n_min=1).endswith("there are.")


def test_nothing_is_known_of_what_was_not_judged():
    table = unjudged(["a", "b"])
    assert table["id"].tolist() == ["a", "b"]
    assert set(table["reason"]) == {"not judged"}
    assert set(table["flags"]) == {int(Flag.NOT_JUDGED)}
    assert table["flags"].dtype == np.int32
    assert not table["selected"].any()
    assert not table["reserved"].any()
    for name in ("x", "y", "flux", "snr", "fwhm", "local_fwhm", "probability"):
        assert np.isnan(table[name]).all()


@few
@given(
    arrays(np.float64, 30, elements=st.sampled_from([0.2, 0.6, 0.95, 0.97, np.nan])),
    arrays(bool, 30),
    st.integers(0, 12),
)
def test_relaxing_marks_those_under_the_threshold_alone(probability, kept, n_min):
    flags = np.where(kept, int(Flag.KEPT), 0)
    out = choose(Table({"flags": flags}), probability, n_min=n_min, n_max=30, relax=True)
    selected = np.asarray(out["selected"])
    relaxed = (np.asarray(out["flags"]) & Flag.RELAXED) != 0
    good = kept | (probability >= 0.9)
    np.testing.assert_array_equal(relaxed, selected & ~good)
    assert selected[good].all()
    assert out.meta["n_above_threshold"] == good.sum()
    assert out.meta["relaxed"] == (good.sum() < n_min)
    below = (np.asarray(out["flags"]) & Flag.BELOW_THRESHOLD) != 0
    np.testing.assert_array_equal(below, np.isfinite(probability) & ~good & ~selected)
    unknown = (np.asarray(out["flags"]) & Flag.NOT_JUDGED) != 0
    np.testing.assert_array_equal(unknown, np.isnan(probability) & ~kept)
    told = {"selected; kept by the user", "selected", "selected; taken by relaxing"}
    assert set(out["reason"][selected]) <= told
