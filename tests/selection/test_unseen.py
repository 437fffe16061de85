"""What stamps do not show: light that was taken away, neighbours in the noise."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlpsf import select_stars, simulate_frame
from mlpsf.selection.unseen import CORRECTION, with_unseen
from mlpsf.selectors.storage import pretrained_path

few = settings(max_examples=100, deadline=None)
probabilities = st.floats(0, 1)
light = st.floats(0, 1e6)
ratios = st.floats(1, 1e6)


@few
@given(probabilities, ratios, light)
def test_it_is_a_probability(p, snr, taken):
    out = float(with_unseen([p], [snr], [taken])[0])
    assert 0 <= out <= 1
    if p >= 0.5:  # nothing makes a good star better
        assert out <= p + 1e-9


@few
@given(probabilities, probabilities, ratios, light)
def test_the_order_of_alike_sources_stays(first, second, snr, taken):
    low, high = sorted((first, second))
    out = with_unseen([low, high], [snr, snr], [taken, taken])
    assert out[0] <= out[1]


@few
@given(st.floats(0.5, 1), ratios, ratios, light, light)
def test_the_fainter_and_the_more_taken_the_less_sure(p, first, second, light1, light2):
    faint, bright = sorted((first, second))
    little, much = sorted((light1, light2))
    assert with_unseen([p], [faint], [little]) <= with_unseen([p], [bright], [little])
    assert with_unseen([p], [bright], [much]) <= with_unseen([p], [bright], [little]) + 1e-12


@few
@given(st.floats(1e-6, 1 - 1e-6))
def test_a_bright_star_alone_keeps_its_probability(p):
    assert with_unseen([p], [1e12], [0.0])[0] == pytest.approx(p, rel=1e-9)


def test_the_formula():
    of = {"taken": 0.1, "less evidence": 0.5, "harm": 2.0, "hidden": 3.0}
    g = np.log(1 + 0.4 / 0.1)
    log_odds = np.log(0.9 / 0.1) / (1 + 0.5 * g) - 2.0 * g
    expected = np.exp(-3.0 / 60) / (1 + np.exp(-log_odds))
    assert with_unseen([0.9], [60.0], [0.4], correction=of)[0] == pytest.approx(expected)


def test_what_is_unknown_stays_unknown():
    out = with_unseen([np.nan, 0.9, 0.9], [100.0, np.nan, 0.0], [0.0, 0.0, 0.0])
    assert np.isnan(out[0])
    assert (out[1:] < 1e-9).all()


def test_the_constants_are_those_that_were_measured():
    card = json.loads(pretrained_path().with_suffix(".json").read_text())
    assert card["correction"] == CORRECTION


def test_a_pipeline_corrects_stamps_alone():
    class Same:
        """A fitted estimator that says the same of any cutout."""

        classes_ = np.array([0, 1])
        n_features_in_ = 31 * 31

        def predict_proba(self, cutouts):
            return np.tile([0.05, 0.95], (len(cutouts), 1))

    frame = simulate_frame(shape=(300, 300), n_stars=25, n_galaxies=0, fwhm=4.0, seed=3).frame
    with pytest.warns(UserWarning, match="the probability 0.95"):
        table = select_stars(frame, selector=Same(), n_min=0, second_look=False)
    assert np.nanmax(table["probability"]) == 0.95
