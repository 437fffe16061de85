"""A PSF that varies: mapped, judged, and built for a place."""

from dataclasses import replace

import numpy as np
import pytest
from astropy.utils.exceptions import AstropyUserWarning
from hypothesis import given, settings
from hypothesis import strategies as st

from mlpsf.errors import InputError
from mlpsf.psf import PSFModel, build_psf, measure_variation
from mlpsf.psf.agreement import _spread
from mlpsf.psf.over_frame import fwhm_over, held_over_frame
from mlpsf.psf.solver.polynomial import polynomial
from mlpsf.psf.solver.variation import fit_variation
from mlpsf.psf.terms import PSFTerms

SIZE = 31


def field(change, n=6, pitch=60, seed=2, noise=3.0):
    """Moffat stars whose width grows from left to right by `change` of it, from model to truth."""
    rng = np.random.default_rng(seed)
    side = n * pitch
    grid = (np.arange(n) + 0.5) * pitch
    x, y = (v.ravel() + rng.uniform(-5, 5, n * n) for v in np.meshgrid(grid, grid))
    image = rng.normal(0, noise, (side, side))
    for xi, yi in zip(x, y, strict=True):
        image += moffat(xi, change, side).render(xi, yi, 2e5, (side, side))
    return image, np.column_stack([x, y])


def moffat(x, change, side):
    return PSFModel(np.zeros((410, 410)), 3.0 * (1 + change * (x / side - 0.5)), 3.0)


@pytest.fixture(scope="module")
def varying():
    return field(0.1)


def test_variation_is_seen_and_mapped(varying):
    image, places = varying
    found = measure_variation(image, places, size=SIZE, background=0.0)
    assert found.significant
    assert "the PSF varies over the frame" in found.verdict
    left, right = found.at([30, 330], [180, 180])[:, 0]
    # T goes as the square of the width, less the pixel's own part of it; and pixels far from the
    # mean PSF are struck, which takes a tenth of the change with them.
    assert right - left == pytest.approx(2 * 0.1 * 300 / 360, rel=0.2)
    assert np.abs(found.at([30, 330], [180, 180])[:, 1:]).max() < 0.005


def test_a_psf_for_a_place_is_nearer_the_truth_than_the_mean(varying):
    image, places = varying
    with pytest.warns(AstropyUserWarning, match=r"varies over the frame.*at=\(x, y\)"):
        mean = build_psf(image, places, size=SIZE, background=0.0)
    true = moffat(40.0, 0.1, 360).fwhm
    local = build_psf(image, places, size=SIZE, background=0.0, at=(40.0, 180.0))
    assert local.fwhm == pytest.approx(true, rel=0.005)
    assert abs(mean.fwhm / true - 1) > 0.03
    assert (local.meta["at_x"], local.meta["at_y"]) == (40.0, 180.0)
    assert local.meta["order"] == mean.order >= 1
    assert not local.varies


def test_a_constant_psf_is_not_called_varying():
    image, places = field(0.0, n=4)
    found = measure_variation(image, places, size=SIZE, background=0.0)
    assert not found.significant
    assert "no variation" in found.verdict
    build_psf(image, places, size=SIZE, background=0.0)  # a warning would be an error


def test_few_stars_are_said_to_be_few():
    image, places = field(0.0, n=2)
    found = measure_variation(image, places, size=SIZE, background=0.0)
    assert not found.significant
    assert "too few" in found.verdict
    with pytest.warns(AstropyUserWarning, match="4 stars are too few for a PSF at a place"):
        build_psf(image, places, size=SIZE, background=0.0, at=(60.0, 60.0))


@pytest.mark.parametrize("change", [0.1, 0.2])
def test_few_stars_that_differ_are_said(change):
    image, places = field(change, n=2)
    with pytest.warns(AstropyUserWarning, match=r"4 stars differ by \d\.\d% in FWHM") as said:
        psf = build_psf(image, places, size=SIZE, background=0.0)
    assert not psf.varies
    assert len(said) == 1


@pytest.mark.parametrize(
    ("size", "error", "spread"),
    [
        ([0.0, 0.1, -0.1], 0.005, 0.5 * np.sqrt(0.02 / 3 - 0.005**2)),
        ([0.0, 0.1, -0.1, 0.1], [0.005, 0.005, 0.005, 0.5], 0.5 * np.sqrt(0.02 / 3 - 0.005**2)),
        ([0.0, 0.01, -0.01], 0.005, None),  # as much as good stars do
        ([0.0, 0.1, -0.1], 0.1, None),  # noise
        ([0.0, 0.1], 0.005, None),
    ],
)
def test_the_spread_of_few_stars(size, error, spread):
    n = len(size)
    values = np.column_stack([size, np.zeros(n), np.zeros(n)])
    errors = np.full((n, 3), 0.005)
    errors[:, 0] = error
    found = fit_variation(np.arange(n) * 50.0, np.full(n, 9.0), values, errors, (200, 200), 0)
    assert _spread(found) == (None if spread is None else pytest.approx(spread, rel=0.01))


def test_where_a_psf_is_no_star_it_has_no_fwhm():
    psf = PSFModel(np.zeros((210, 210)), 3.0, 3.0)
    hole = np.full((1, 210, 210), -1.0)  # more than the star has
    psf = replace(psf, terms=PSFTerms(hole, [[1.0], [0.0]], (100, 100)))
    fwhm = fwhm_over(psf, np.array([49.5, 99.0]), np.array([49.5, 49.5]))
    assert fwhm[0] == pytest.approx(psf.fwhm, rel=1e-6)
    assert np.isnan(fwhm[1])
    assert held_over_frame(replace(psf, stars=np.array([[1.0, 1, 9], [99, 99, 9]]))) is None


@pytest.mark.parametrize("seed", [0, 3])
def test_a_strong_variation_is_held_beyond_the_stars(seed):
    """The FWHM grows from 4 in the middle to 10 in the corners, and no star is in them."""
    rng = np.random.default_rng(seed)
    side = 900
    x, y = rng.uniform(40, side - 40, (2, 20))
    image = rng.normal(0, 3, (side, side))
    for a, b in zip(x, y, strict=True):
        u, v = 2 * a / side - 1, 2 * b / side - 1
        star = PSFModel(np.zeros((610, 610)), 3.6 * (1 + 0.75 * (u * u + v * v)), 3.0)
        image += star.render([a], [b], [10 ** rng.uniform(4.5, 5.5)], image.shape)
    with pytest.warns(AstropyUserWarning, match="varies over the frame"):
        psf = build_psf(image, np.column_stack([x, y]), size=61, background=0.0)
    assert 3.5 < psf.meta["fwhm_least"] < 4.5
    assert 7 < psf.meta["fwhm_most"] < 11.5  # not held, 26 and 20


@pytest.mark.parametrize("seed", range(4))
def test_few_stars_of_one_psf_do_not_differ(seed):
    image, places = field(0.0, n=2 + seed % 2, seed=seed, noise=300.0 * (1 + seed))
    build_psf(image, places, size=SIZE, background=0.0)  # a warning would be an error


def test_wrong_parameters_are_named():
    image, places = field(0.0, n=2)
    with pytest.raises(InputError, match="at must be a place"):
        build_psf(image, places, at=(1.0, np.nan), background=0.0)
    with pytest.raises(InputError, match="on the frame of 120 x 120"):
        build_psf(image, places, at=(1.0, 500.0), background=0.0)
    with pytest.raises(InputError, match="method must be"):
        build_psf(image, places, method="median")
    with pytest.raises(InputError, match="knows neither"):
        build_psf(image, places, method="trippy", at=(60.0, 60.0))
    with pytest.raises(InputError, match="order"):
        polynomial([1.0], [1.0], (10, 10), 4)


@given(
    st.integers(0, 2),
    st.lists(st.floats(-0.3, 0.3), min_size=18, max_size=18),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=25, deadline=None)
def test_a_polynomial_comes_back(order, numbers, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, 500, 40), rng.uniform(0, 300, 40)
    terms = polynomial(x, y, (300, 500), order)
    wanted = np.array(numbers).reshape(6, 3)[: terms.shape[1]]
    found = fit_variation(x, y, terms @ wanted, np.full((40, 3), 0.01), (300, 500), order)
    np.testing.assert_allclose(found.coefficients, wanted, atol=1e-5)
    np.testing.assert_allclose(found.at(x, y), terms @ wanted, atol=1e-5)


def test_stars_unlike_the_rest_do_not_bend_the_map():
    rng = np.random.default_rng(5)
    x, y = rng.uniform(0, 500, (2, 30))
    values = rng.normal(0, 0.002, (30, 3))
    values[[3, 17]] += 0.5
    found = fit_variation(x, y, values, np.full((30, 3), 0.002), (500, 500))
    assert not found.used[[3, 17]].any()
    assert not found.significant
