"""The choice: what holds for every table of sources and every setting."""

from __future__ import annotations

import pickle
import re

import numpy as np
import pytest
from astropy.table import Table
from hypothesis import given, settings
from hypothesis import strategies as st

from mlpsf.errors import InputError, MlpsfError, TooFewStarsError
from mlpsf.flags import NEVER_A_PSF_STAR, Flag, describe
from mlpsf.selection.choice import candidates, choose

# Stars that the user keeps have rules of their own: tests/selection/test_lists.py.
FLAGS = st.sampled_from(
    [0, 0, 0, 0, *(int(f) for f in Flag if f != Flag.KEPT), int(Flag.BLENDED | Flag.SATURATED)]
)
PROBABILITY = st.floats(0, 1) | st.sampled_from([0.0, 0.5, 0.9, 1.0, np.nan])


@st.composite
def tables(draw):
    rows = draw(st.lists(st.tuples(FLAGS, PROBABILITY, st.floats(0, 1e4)), max_size=60))
    flags, probability, snr = (np.array([r[i] for r in rows]) for i in range(3))
    sources = Table({"id": np.arange(len(rows)), "flags": flags.astype(np.int32), "snr": snr})
    return sources, probability.astype(float)


@st.composite
def parameters(draw):
    n_max = draw(st.integers(1, 30))
    return {
        "threshold": draw(st.floats(0, 1)),
        "n_max": n_max,
        "n_min": draw(st.integers(0, n_max)),
        "reserve": draw(st.floats(0, 0.9)),
        "relax": draw(st.booleans()),
    }


def chosen(sources, probability, words):
    """Return the table, and the error it came with."""
    try:
        return choose(sources, probability, **words), None
    except TooFewStarsError as error:
        return error.table, error


@settings(max_examples=150, deadline=None)
@given(tables(), parameters())
def test_what_always_holds(table, words):
    sources, probability = table
    before = sources.copy()
    out, error = chosen(sources, probability, words)
    selected, reserved = np.asarray(out["selected"]), np.asarray(out["reserved"])
    flags = np.asarray(out["flags"])
    assert len(out) == len(sources)
    assert out["id"].tolist() == sources["id"].tolist()
    assert selected.sum() <= words["n_max"]
    assert not (selected & reserved).any()
    never = (np.asarray(sources["flags"]) & NEVER_A_PSF_STAR) != 0
    assert not (never & (selected | reserved)).any()
    assert not (np.isnan(probability) & (selected | reserved)).any()
    assert (flags[reserved] & Flag.RESERVED).all()
    told = [r for r, taken in zip(out["reason"], selected, strict=True) if not taken]
    assert told == [describe(f) for f, taken in zip(flags, selected, strict=True) if not taken]
    judged = np.isfinite(probability)
    assert all(out["reason"][judged & ~selected])
    # Under the threshold only by relaxing, which is said.
    under = selected & (probability.round(5) < round(words["threshold"], 5))
    assert (flags[under] & Flag.RELAXED).all()
    assert words["relax"] or not under.any()
    assert out.meta["n_selected"] == selected.sum()
    assert out.meta["n_reserved"] == reserved.sum()
    if error is None:
        assert selected.sum() >= words["n_min"] or out.meta["relaxed"]
    else:
        assert selected.sum() < words["n_min"]
    # The input is as it was.
    for name in before.colnames:
        np.testing.assert_array_equal(sources[name], before[name])
    assert sources.colnames == before.colnames
    assert not sources.meta


def test_a_source_that_could_not_be_judged_has_a_reason_too():
    out = choose(Table({"flags": [0, 0]}), [0.95, np.nan], n_min=1)
    assert out["reason"][0] == "selected"
    assert out["reason"][1] != ""


@settings(max_examples=60, deadline=None)
@given(tables(), parameters())
def test_the_best_are_taken(table, words):
    sources, probability = table
    out, _ = chosen(sources, probability, {**words, "reserve": 0.0})
    selected = np.asarray(out["selected"])
    beaten = (np.asarray(out["flags"]) & (Flag.BEYOND_N_MAX | Flag.BELOW_THRESHOLD)) != 0
    beaten &= (np.asarray(out["flags"]) & NEVER_A_PSF_STAR) == 0
    if selected.any() and beaten.any():
        assert probability[selected].min().round(5) >= probability[beaten].max().round(5)


@settings(max_examples=60, deadline=None)
@given(tables(), st.floats(0, 1), st.integers(1, 30), st.sampled_from(["probability", "snr"]))
def test_the_first_candidates_are_chosen(table, threshold, n_max, rank_by):
    sources, probability = table
    ranking = {"threshold": threshold, "rank_by": rank_by}
    rows = candidates(sources, probability, **ranking, needed=n_max)
    out = choose(sources, probability, **ranking, n_max=n_max, n_min=0)
    assert np.flatnonzero(out["selected"]).tolist() == sorted(rows[:n_max].tolist())
    assert out.meta["n_above_threshold"] == len(rows)


@settings(max_examples=60, deadline=None)
@given(tables(), parameters())
def test_choosing_again_changes_nothing(table, words):
    sources, probability = table
    once, _ = chosen(sources, probability, words)
    twice, _ = chosen(once, probability, words)
    for name in once.colnames:
        np.testing.assert_array_equal(once[name], twice[name])


@settings(max_examples=60, deadline=None)
@given(tables(), parameters())
def test_the_threshold_that_the_error_names_gives_enough(table, words):
    sources, probability = table
    _, error = chosen(sources, probability, {**words, "relax": False})
    if error is None:
        return
    assert error.found < error.wanted == words["n_min"]
    assert error.threshold == words["threshold"]
    possible = np.isfinite(probability) & ((sources["flags"] & NEVER_A_PSF_STAR) == 0)
    if np.isnan(error.enough_at):
        assert possible.sum() < words["n_min"]
    else:
        again = choose(sources, probability, **{**words, "threshold": error.enough_at})
        assert again["selected"].sum() >= words["n_min"]


def stars(n, **columns):
    return Table({"flags": np.zeros(n, np.int32), **columns})


def test_message_of_too_few():
    probability = [0.97, 0.93, 0.8314, 0.7, 0.2]
    with pytest.raises(TooFewStarsError) as caught:
        choose(stars(5), probability, n_min=3)
    error = caught.value
    assert re.fullmatch(
        r"2 stars at or above 0\.9, 3 wanted: the 3\w\w best has 0\.8314\. A threshold of 0\.831 "
        r"gives enough; a lower n_min \(--n-min 2\) takes those, relax \(--relax\) takes the best "
        r"there are\.",
        str(error),
    )
    assert (error.found, error.wanted, error.threshold) == (2, 3, 0.9)
    assert error.enough_at == 0.8314
    assert error.table["selected"].tolist() == [True, True, False, False, False]
    assert isinstance(error, MlpsfError)
    assert isinstance(error, RuntimeError)


def test_message_when_no_threshold_helps():
    sources = Table({"flags": [1, 1, 2, 0]})
    with pytest.raises(TooFewStarsError, match=r"only 1 of 4 sources.*2 saturated, 1 near") as e:
        choose(sources, [0.99, 0.99, 0.99, 0.1], n_min=3)
    assert np.isnan(e.value.enough_at)
    assert str(e.value).startswith("0 stars at or above 0.9, 3 wanted")


def test_threshold_printed_is_rounded_down():
    probability = [0.89999, 0.89999, 0.89999]
    said = r"the 3\w\w best has 0\.89999\. A threshold of 0\.899 gives enough"
    with pytest.raises(TooFewStarsError, match=said):
        choose(stars(3), probability, threshold=0.95, n_min=3)
    assert choose(stars(3), probability, threshold=0.899, n_min=3)["selected"].all()


def test_relax_takes_the_best_and_says_so():
    out = choose(stars(5), [0.97, 0.2, 0.8, 0.7, np.nan], n_min=3, relax=True)
    assert out["selected"].tolist() == [True, False, True, True, False]
    assert out["reason"].tolist()[1:4] == [
        "below the threshold",
        *["selected; taken by relaxing"] * 2,
    ]
    assert out.meta["relaxed"]
    assert out.meta["n_above_threshold"] == 1


def test_relax_changes_nothing_where_there_are_enough():
    probability = np.linspace(0, 1, 40)
    plain, relaxed = (choose(stars(40), probability, n_min=3, relax=r) for r in (False, True))
    assert plain["selected"].tolist() == relaxed["selected"].tolist()
    assert not relaxed.meta["relaxed"]


def test_relax_cannot_take_what_must_not_be_taken():
    sources = Table({"flags": [int(Flag.SATURATED), int(Flag.VETOED), 0]})
    out = choose(sources, [0.9, 0.9, 0.1], n_min=3, n_max=3, relax=True)
    assert out["selected"].tolist() == [False, False, True]
    with pytest.raises(TooFewStarsError):
        choose(sources[:2], [0.9, 0.9], n_min=2, relax=True)


def test_blended_sources_may_be_chosen():
    sources = Table({"flags": [int(Flag.BLENDED), 0]})
    assert choose(sources, [0.95, 0.95], n_min=1)["selected"].all()


def test_beyond_n_max():
    out = choose(stars(6), [0.91, 0.96, 0.93, 0.95, 0.92, 0.94], n_max=3, n_min=1)
    assert out["selected"].tolist() == [False, True, False, True, False, True]
    assert out["reason"][0] == "beyond n_max"


def test_equal_probabilities_are_ordered_by_snr():
    out = choose(stars(4, snr=[10.0, 40.0, 30.0, 20.0]), [0.95] * 4, n_max=2, n_min=1)
    assert out["selected"].tolist() == [False, True, True, False]


# --- what is rounding is not compared


ROUNDING = [-1e-7, 0.0, 1e-7]  # of a network in single precision


@pytest.mark.parametrize("threshold", [0.9, 0.5, 0.12345, np.float32(0.9)])
def test_rounding_at_the_threshold_flips_no_star(threshold):
    for off in ROUNDING:
        out = choose(stars(2), [threshold + off, threshold - 0.001], threshold=threshold, n_min=1)
        assert out["selected"].tolist() == [True, False]
        assert out["reason"].tolist() == ["selected", "below the threshold"]
        assert out.meta["n_above_threshold"] == 1
        assert out["probability"][0] == threshold + off  # published as it came
        assert candidates(stars(1), out["probability"][:1], threshold=threshold).tolist() == [0]


def test_rounding_does_not_rank():
    for off in ROUNDING:
        out = choose(stars(3, snr=[10.0, 20.0, 30.0]), [0.95, 0.95 + off, 0.91], n_max=1, n_min=1)
        assert out["selected"].tolist() == [False, True, False]


def test_rounding_is_not_called_too_few():
    for off in ROUNDING:
        words = {"threshold": 0.95, "n_min": 2}
        with pytest.raises(TooFewStarsError, match=r"best has 0\.9\. A threshold of 0\.900") as e:
            choose(stars(2), [0.97, 0.9 + off], **words)
        assert e.value.enough_at == 0.9
        again = choose(stars(2), [0.97, 0.9 + off], **{**words, "threshold": 0.9})
        assert again["selected"].all()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 100).map(lambda n: n / 100), min_size=1, max_size=60),
    st.integers(0, 2**32 - 1),
    st.sampled_from(["probability", "snr"]),
    st.sampled_from([0.0, 0.3]),
)
def test_row_order_and_rounding_change_no_star(probability, seed, rank_by, reserve):
    rng = np.random.default_rng(seed)
    n = len(probability)
    sources = stars(n, id=np.arange(n), snr=rng.permutation(n) + 50.0)
    words = {"threshold": 0.5, "n_max": 9, "n_min": 0, "rank_by": rank_by, "reserve": reserve}
    once = choose(sources, probability, **words)
    order = rng.permutation(n)
    other = np.clip(np.array(probability) + rng.uniform(-3e-6, 3e-6, n), 0, 1)
    again = choose(sources[order], other[order], **words)
    again.sort("id")
    for name in ("selected", "reserved", "flags", "reason"):
        assert again[name].tolist() == once[name].tolist()


# --- reserve stars


@pytest.mark.parametrize(
    ("n", "reserve", "n_max", "n_min", "expected"),
    [
        (100, 0.2, 25, 10, 6),  # of ceil(25 / 0.8) = 32
        (20, 0.25, 25, 10, 5),
        (12, 0.5, 25, 10, 2),  # never under n_min; select_stars warns
        (10, 0.5, 25, 10, 0),
        (20, 0.0, 25, 10, 0),
    ],
)
def test_number_of_reserve_stars(n, reserve, n_max, n_min, expected):
    out = choose(stars(n), np.linspace(1, 0.9, n), reserve=reserve, n_max=n_max, n_min=n_min)
    assert out["reserved"].sum() == expected
    assert out["selected"].sum() == min(n - expected, n_max)


def test_reserve_stars_are_spread_down_the_ranking():
    out = choose(stars(40), np.linspace(1, 0.9, 40), reserve=0.25, n_max=30, n_min=10)
    rows = np.flatnonzero(out["reserved"])
    assert rows.tolist() == [2, 6, 10, 14, 18, 22, 26, 30, 34, 38]
    assert set(out["reason"][rows]) == {"reserved"}
    one = choose(stars(12), np.linspace(1, 0.9, 12), reserve=0.1, n_max=12, n_min=2)
    assert np.flatnonzero(one["reserved"]).tolist() == [6]


# --- what is written down, and refusals


def test_metadata():
    out = choose(stars(3), [0.95, 0.99, 0.2], threshold=0.8, n_max=7, n_min=2, reserve=0.1)
    expected = {
        "threshold": 0.8,
        "n_max": 7,
        "n_min": 2,
        "reserve": 0.1,
        "relaxed": False,
        "n_sources": 3,
        "n_above_threshold": 2,
        "n_selected": 2,
        "n_reserved": 0,
    }
    assert {key: out.meta[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ({"threshold": 1.1}, r"'threshold'.*in \[0, 1\]. Got 1.1"),
        ({"threshold": float("nan")}, "'threshold'"),
        ({"n_max": 0}, "'n_max'.*1 or more"),
        ({"n_min": 30}, "'n_min'.*from 0 to n_max = 25. Got 30"),
        ({"n_min": -1}, "'n_min'"),
        ({"reserve": 1.0}, r"'reserve'.*in \[0, 1\)"),
        ({"reserve": -0.1}, "'reserve'"),
    ],
)
def test_bad_parameters(words, match):
    with pytest.raises(InputError, match=match):
        choose(stars(2), [0.95, 0.99], **words)


def test_one_probability_a_source():
    with pytest.raises(InputError, match=r"shape \(3,\). Got \(2,\)"):
        choose(stars(3), [0.9, 0.9])


def test_no_sources_at_all():
    with pytest.raises(TooFewStarsError, match="none of 0 sources"):
        choose(stars(0), [], n_min=1)
    assert len(choose(stars(0), [], n_min=0)) == 0


def test_too_few_survives_a_pool_of_processes():
    with pytest.raises(TooFewStarsError) as caught:
        choose(stars(3), [0.95, 0.6, 0.7], n_min=3)
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert (again.found, again.wanted, len(again.table)) == (1, 3, 3)


def test_what_is_not_finite_is_never_a_candidate():
    out = choose(stars(4), [np.inf, 0.95, -np.inf, np.nan], n_min=1)
    assert out["selected"].tolist() == [False, True, False, False]
    assert set(out["reason"][[0, 2, 3]]) == {"not judged"}
    assert out.meta["n_above_threshold"] == 1
    assert candidates(stars(2), np.array([np.inf, 0.5])).tolist() == [1]


@pytest.mark.parametrize("p", [-0.2, 1.1])
def test_probabilities_are_in_0_to_1(p):
    with pytest.raises(InputError, match=rf"in \[0, 1\]. Got {p} in row 1"):
        choose(stars(2), [0.95, p], n_min=0)
    assert choose(stars(1), np.float32([1 + 2e-7]), n_min=1)["selected"].all()


def test_what_a_second_look_says_of_a_chosen_star_is_kept():
    out = choose(Table({"flags": [int(Flag.OUTLIER_KEPT), 0]}), [0.95, 0.95], n_min=1)
    assert out["selected"].all()
    assert out["reason"].tolist() == [
        "selected; unlike the frame's PSF, kept for want of others",
        "selected",
    ]
