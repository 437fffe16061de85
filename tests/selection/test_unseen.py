"""What stamps do not show: light that was taken away, neighbours in the noise."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlpsf import PSFStarSelector, select_stars, simulate_frame
from mlpsf.neighbours.subtract import without_neighbours
from mlpsf.neighbours.taken import light_taken
from mlpsf.selection.unseen import with_unseen
from mlpsf.selectors.judge import Judge
from mlpsf.selectors.loading import load_judge
from mlpsf.selectors.storage import pretrained_path

OF = (0.3, 0.7, 1.5)
few = settings(max_examples=100, deadline=None)
probabilities = st.floats(0, 1)
light = st.floats(0, 1e6)
ratios = st.floats(1, 1e6)


@few
@given(probabilities, ratios, light)
def test_it_is_a_probability(p, snr, taken):
    out = float(with_unseen([p], [snr], [taken], OF)[0])
    assert 0 <= out <= 1
    if p >= 0.5:  # nothing makes a good star better
        assert out <= p + 1e-9


@few
@given(probabilities, probabilities, ratios, light)
def test_the_order_of_alike_sources_stays(first, second, snr, taken):
    low, high = sorted((first, second))
    out = with_unseen([low, high], [snr, snr], [taken, taken], OF)
    assert out[0] <= out[1]


@few
@given(st.floats(0.5, 1), ratios, ratios, light, light)
def test_the_fainter_and_the_more_taken_the_less_sure(p, first, second, light1, light2):
    faint, bright = sorted((first, second))
    little, much = sorted((light1, light2))
    surest = with_unseen([p], [bright], [little], OF)
    assert with_unseen([p], [faint], [little], OF) <= surest
    assert with_unseen([p], [bright], [much], OF) <= surest + 1e-12


@few
@given(st.floats(1e-6, 1 - 1e-6))
def test_a_bright_star_alone_keeps_its_probability(p):
    assert with_unseen([p], [1e12], [0.0], OF)[0] == pytest.approx(p, rel=1e-9)


def test_the_formula():
    g = np.log(1 + 0.4 / 0.1)
    log_odds = np.log(0.9 / 0.1) / (1 + 0.5 * g) - 2.0 * g
    expected = np.exp(-3.0 / 60) / (1 + np.exp(-log_odds))
    assert with_unseen([0.9], [60.0], [0.4], (0.5, 2.0, 3.0))[0] == pytest.approx(expected)


def test_what_is_unknown_stays_unknown():
    out = with_unseen([np.nan, 0.9, 0.9], [100.0, np.nan, 0.0], [0.0, 0.0, 0.0], OF)
    assert np.isnan(out[0])
    assert (out[1:] < 1e-9).all()


def test_the_model_that_ships_is_that_of_its_card():
    card = json.loads(pretrained_path().with_suffix(".json").read_text())
    shipped = load_judge(pretrained_path())
    assert shipped.calibration_ == (card["slope"], card["intercept"])
    assert list(shipped.correction_) == card["correction"]
    assert PSFStarSelector.from_pretrained().correction_ == shipped.correction_


def same(correction):
    """Return a selector that says 0.95 of any stamp."""
    return Judge(
        lambda images: np.tile([0.05, 0.95], (len(images), 1)),
        scaler=None,
        calibration=(1.0, 0.0),
        cutout_size=41,
        reference_fwhm=4.0,
        name="same",
        sha256="",
        correction=correction,
    )


@pytest.mark.parametrize(("n_stars", "crowded"), [(40, False), (500, True)])
@pytest.mark.parametrize("correction", [None, OF])
def test_the_choice_corrects_as_the_model_says(n_stars, crowded, correction):
    frame = simulate_frame(
        shape=(300, 300), n_stars=n_stars, star_slope=0.5, n_galaxies=0, fwhm=4.0, seed=3
    ).frame
    with pytest.warns(UserWarning, match=r"the probability 0\.95"):
        table = select_stars(frame, selector=same(correction), n_min=0)
    alone = without_neighbours(frame)
    assert (alone.scene is not None) == crowded
    expected = np.full(len(table), 0.95)
    if correction is not None:
        taken = light_taken(alone, table["x"], table["y"], float(table.meta["fwhm"]))
        assert taken.any() == crowded
        expected = with_unseen(expected, table["snr"], taken, correction)
    np.testing.assert_allclose(table["probability"], expected, atol=1e-5)


def test_what_a_user_trains_is_not_corrected(tmp_path):
    rng = np.random.default_rng(0)
    stamps = rng.normal(0, 1, (80, 41, 41)).astype(np.float32)
    stamps[::2, 18:23, 18:23] += 50
    selector = PSFStarSelector(epochs=1, random_state=0).fit(stamps, np.arange(80) % 2)
    assert selector.correction_ is None
    selector.correction_ = OF
    again = PSFStarSelector.load(selector.save(tmp_path / "own.keras"))
    assert again.correction_ == OF
    assert again.calibrate(stamps, np.arange(80) % 2).correction_ is None
