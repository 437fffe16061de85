"""The first PSF of a frame: found among blends, galaxies and cosmic rays, in any seeing."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from conftest import simulate

from mlpsf.detection.sources import find_sources
from mlpsf.errors import MlpsfError, NoSourcesError
from mlpsf.flags import Flag
from mlpsf.frames.cutouts import extract_cutouts
from mlpsf.selectors.first_psf import first_psf, judge, judge_frame
from mlpsf.stacks.effective import OVERSAMPLING
from mlpsf.stacks.values import sky_and_noise


def width(psf):
    area = (psf.grid > 0.5 * psf.grid.max()).sum() / OVERSAMPLING**2
    return 2 * np.sqrt(area / np.pi)


def cutouts_of(simulated, fwhm, snr=50, size=None):
    sources = find_sources(simulated.frame)
    use = (sources["snr"] > snr) & (sources["flags"] & (Flag.SATURATED | Flag.TOO_NARROW) == 0)
    cut = extract_cutouts(
        simulated.frame,
        sources["x"][use],
        sources["y"][use],
        size or 2 * round(5 * fwhm) + 1,
        background=simulated.frame.background.level,
    )
    data = cut.data[~cut.near_edge]
    return data - sky_and_noise(data)[0][:, None, None]


POPULATIONS = {
    "stars": {"n_stars": 70, "n_galaxies": 30},
    "galaxies": {"n_stars": 50, "n_galaxies": 120},
    "few": {"n_stars": 20, "n_galaxies": 30},
    "pairs": {"n_stars": 50, "n_pairs": 25, "n_galaxies": 20},
}


@pytest.mark.parametrize(
    ("fwhm", "population"),
    [(2.0, "stars"), (2.0, "pairs"), (4.0, "galaxies"), (9.0, "few")],
)
def test_first_psf_is_that_of_the_stars(fwhm, population):
    side = 500 if fwhm < 6 else 800
    unit = (fwhm / 4) ** 2
    simulated = simulate(
        shape=(side, side),
        fwhm=fwhm,
        flux_range=(1e4 * unit, 3e5 * unit),
        bad_columns=0,
        cosmic_rays=20,
        seed=2,
        **POPULATIONS[population],
    )
    data = cutouts_of(simulated, fwhm)
    _, noise = sky_and_noise(data)
    psf = first_psf(data, noise, np.ones(len(data), bool))
    # Moments are taken in the frame's own pixels, so the first PSF is a little wider.
    assert width(psf) == pytest.approx(fwhm, rel=0.08)


@pytest.fixture(scope="module")
def data(field):
    return cutouts_of(field, 4.0, size=31)[:45]


@pytest.fixture(scope="module")
def verdict(data):
    before = data.copy()
    verdict = judge_frame(data, np.ones(len(data), bool), half_width=7, n_best=25)
    np.testing.assert_array_equal(data, before)
    return verdict


def test_verdict(data, verdict):
    assert width(verdict.psf) == pytest.approx(4.0, rel=0.04)
    assert verdict.variance.shape == verdict.peak.shape == (len(data),)
    assert np.isinf(verdict.variance[~verdict.fit.ok]).all()
    assert (verdict.variance > 0).all()
    assert not np.isnan(verdict.peak).any()


def test_not_eligible_make_no_psf(data):
    eligible = np.ones(len(data), bool)
    spoilt = data.copy()
    spoilt[::3] = np.random.default_rng(1).normal(0, 1e4, spoilt[::3].shape)
    eligible[::3] = False
    verdict = judge_frame(spoilt, eligible, half_width=7, n_best=25)
    assert width(verdict.psf) == pytest.approx(4.0, rel=0.05)


def test_one_source_after_the_other_is_the_same(data, verdict):
    psf, together = verdict.psf, verdict
    for i in (0, len(data) - 1):
        alone = judge(data[i : i + 1], psf, 7)
        assert alone.variance[0] == pytest.approx(together.variance[i], rel=1e-3)
        assert alone.peak[0] == pytest.approx(together.peak[i], rel=1e-3)


@pytest.mark.parametrize("shift", [3, 5, 6])
def test_sources_far_off_their_centres_do_no_harm(data, shift):
    moved = data.copy()
    moved[:5] = np.roll(moved[:5], (0, shift), axis=(1, 2))
    psf = first_psf(moved, sky_and_noise(moved)[1], np.ones(len(data), bool))
    assert width(psf) == pytest.approx(4.0, rel=0.08)


@pytest.mark.parametrize("content", [0.0, np.nan, -5.0])
def test_no_star_at_all(content):
    data = np.full((10, 31, 31), content, dtype=np.float32)
    with pytest.raises(NoSourcesError, match="None of the 10 cutouts holds a source") as caught:
        judge_frame(data, np.ones(10, bool), half_width=7, n_best=25)
    assert isinstance(caught.value, MlpsfError)


def test_noise_only_is_no_crash():
    data = np.random.default_rng(1).normal(0, 3, (40, 31, 31)).astype(np.float32)
    with contextlib.suppress(MlpsfError):
        judge_frame(data, np.ones(40, bool), half_width=7, n_best=25)
