"""The calibration of the network that ships: what is drawn with one is found again."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).resolve().parents[1]))  # beside the tests, not installed
made = import_module("benchmarks.training.calibrate_pretrained")
TRUE = made.Calibration(1.4, 0.3, (0.3, 0.7, 2.0))


def drawn(n: int) -> tuple:
    rng = np.random.default_rng(0)
    snr = 10 ** rng.uniform(1.7, 3, n)
    taken = np.where(rng.random(n) < 0.5, 0.0, 10 ** rng.uniform(-2, 1, n))
    asked = made.Asked(rng.normal(1, 3, n), snr, taken, np.zeros(n), np.ones(n))
    return asked._replace(good=(rng.random(n) < TRUE.probability(*asked[:3])).astype(int))


def test_a_calibration_is_found_again() -> None:
    found = made.fit(drawn(60_000))
    assert found.slope == pytest.approx(TRUE.slope, rel=0.06)
    assert found.intercept == pytest.approx(TRUE.intercept, abs=0.06)
    assert found.correction == pytest.approx(TRUE.correction, rel=0.2)


@settings(max_examples=60, deadline=None)
@given(st.floats(-8, 8), st.floats(30, 1e5), st.floats(0, 10))
def test_log_odds_are_found_again(log_odds: float, snr: float, taken: float) -> None:
    of = (np.array([v]) for v in (log_odds, snr, taken, 1.0, 1.0))
    asked = made.Asked(*of)
    p = TRUE.probability(*asked[:3])
    assert TRUE.log_odds(p, asked.snr, asked.taken)[0] == pytest.approx(log_odds, abs=1e-3)
