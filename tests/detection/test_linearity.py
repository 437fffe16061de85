"""Stars that grow with their brightness, and the level from which they do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlpsf import find_sources, select_stars, simulate_frame
from mlpsf.detection.linearity import linear_limit
from mlpsf.errors import TooFewStarsError
from mlpsf.flags import Flag

SKY = {"shape": (600, 600), "n_stars": 250, "flux_range": (2e3, 1e6), "fwhm": 3.5}


def widths(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Peaks of many brightnesses, and widths that do not depend on them; some are galaxies'."""
    rng = np.random.default_rng(seed)
    width = rng.normal(0, 0.015, n)
    width[: n // 4] += rng.exponential(0.2, n // 4)
    return 10 ** rng.uniform(1, 4, n), width


@given(st.integers(0, 10_000), st.integers(0, 200))
def test_stars_of_one_size_have_no_limit(seed: int, n: int) -> None:
    assert linear_limit(*widths(n, seed)) == np.inf


@given(st.floats(1e-12, 1e12), st.integers(0, 100))
def test_the_limit_has_the_unit_of_the_peaks(unit: float, seed: int) -> None:
    peak, width = widths(200, seed)
    width = width + 0.2 * peak / peak.max()
    limit = linear_limit(peak, width)
    assert limit == pytest.approx(0.1 * peak.max(), rel=0.3)
    assert linear_limit(peak * unit, width) == pytest.approx(limit * unit, rel=1e-6)


def test_stars_of_a_plate_are_taken_where_it_is_linear() -> None:
    frame = simulate_frame(**SKY, n_galaxies=40, plate=15_000, gain=1.5, seed=3).frame
    stars = select_stars(frame)
    assert "wider the brighter they are" in stars.meta["verdict_reason"]
    level = stars.meta["linear_to"]
    assert 1000 < level < 4000
    chosen = stars[stars["selected"]]
    assert len(chosen) >= 10
    assert chosen["peak"].max() <= level
    assert (stars["flags"][stars["peak"] > level] & Flag.NOT_LINEAR != 0).all()
    assert stars.meta["fwhm"] == pytest.approx(3.5, rel=0.03)


def test_the_level_is_the_frames_whatever_is_listed() -> None:
    """A list of few stars, and stars in a crowd, are held to the level that the frame shows."""
    crowd = SKY | {"n_stars": 900}
    for sky, listed in ((SKY, slice(0, None, 15)), (crowd, None)):
        frame = simulate_frame(**sky, n_galaxies=20, plate=15_000, gain=1.5, seed=3).frame
        found = find_sources(frame)
        catalogue = found[np.argsort(-found["flux"])][listed]["x", "y"] if listed else None
        stars = select_stars(frame, catalogue=catalogue, n_min=1, relax=True)
        level = stars.meta["linear_to"]
        assert level == found.meta["linear_to"]
        bright = stars["flags"] & Flag.NOT_LINEAR != 0
        assert bright.sum() >= 5
        assert (bright == (stars["peak"] > level)).all()
        assert not (stars["selected"] & bright).any()


def test_too_few_say_from_which_level_stars_are_too_bright() -> None:
    frame = simulate_frame(**SKY, n_galaxies=40, plate=15_000, gain=1.5, seed=3).frame
    with pytest.raises(TooFewStarsError, match="wider the brighter they are"):
        select_stars(frame, n_min=25)


@pytest.mark.parametrize("effect", [0.0, 5e-7, 1e-6])
def test_stars_of_a_ccd_are_all_linear(effect: float) -> None:
    frame = simulate_frame(**SKY, n_galaxies=150, brighter_fatter=effect, seed=3).frame
    assert "linear_to" not in find_sources(frame).meta
