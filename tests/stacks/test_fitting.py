"""PSF fits to many cutouts at once, and both residual figures against their plain definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlpsf.stacks.effective import EffectivePSF
from mlpsf.stacks.fitting import PSFFit, fit_psf, residual_figures, subtract_fit
from mlpsf.stacks.moments import FWHM_PER_SIGMA


def psf_of(fwhm, half=15):
    u = np.arange(-10 * half, 10 * half + 1) / 10
    sigma = fwhm / FWHM_PER_SIGMA
    return EffectivePSF(np.exp(-0.5 * (u**2 + u[:, None] ** 2) / sigma**2) / (2 * np.pi * sigma**2))


PSF = psf_of(4.0)


def star(dx, dy, flux, size=31, psf=PSF):
    dx, dy, flux = (np.atleast_1d(np.asarray(v, float)) for v in (dx, dy, flux))
    return flux[:, None, None] * psf.stamps(dx, dy, size).astype(float)


@settings(max_examples=60, deadline=None)
@given(
    dx=st.floats(-1.4, 1.4),
    dy=st.floats(-1.4, 1.4),
    power=st.floats(-3, 7),
    fwhm=st.sampled_from([2.0, 4.0, 8.0]),
)
def test_exact_without_noise(dx, dy, power, fwhm):
    psf, flux = psf_of(fwhm), 10.0**power
    fit = fit_psf(star(dx, dy, flux, psf=psf), psf)
    assert fit.ok[0]
    assert (fit.dx[0], fit.dy[0]) == pytest.approx((dx, dy), abs=2e-3)
    assert fit.flux[0] == pytest.approx(flux, rel=2e-3)


def test_many_with_noise():
    rng = np.random.default_rng(1)
    dx, dy = rng.uniform(-0.7, 0.7, (2, 200))
    flux = 10 ** rng.uniform(4, 6, 200)
    data = star(dx, dy, flux) + rng.normal(0, 3, (200, 31, 31))
    before = data.copy()
    fit = fit_psf(data, PSF)
    assert fit.ok.all()
    # Sky noise only: sigma of a position is that of the noise over the slope of the light.
    error = 3 * np.sqrt(8 * np.pi) * (4 / FWHM_PER_SIGMA) ** 2 / flux
    pull = np.concatenate([fit.dx - dx, fit.dy - dy]) / np.tile(error, 2)
    assert 0.85 < pull.std() < 1.15
    assert abs(pull.mean()) < 0.25
    np.testing.assert_allclose(fit.flux, flux, rtol=0.03)
    np.testing.assert_array_equal(data, before)
    for i in (0, 57):
        alone = fit_psf(data[i : i + 1], PSF)
        assert (alone.dx[0], alone.flux[0]) == pytest.approx((fit.dx[i], fit.flux[i]), rel=1e-3)


def test_missing_pixels():
    data = star([0.3, 0.3], [-0.2, -0.2], 1e4)
    data[0, 13:16, 17:19] = np.nan
    fit = fit_psf(data, PSF)
    assert fit.ok.all()
    np.testing.assert_allclose(fit.dx, 0.3, atol=2e-3)
    np.testing.assert_allclose(fit.flux, 1e4, rtol=2e-3)


def test_start():
    data = star(1.4, -1.4, 100.0)
    near = fit_psf(data, PSF, dx=np.array([1.4]), dy=np.array([-1.4]), n_iter=1)
    assert (near.dx[0], near.dy[0]) == pytest.approx((1.4, -1.4), abs=2e-3)
    lost = fit_psf(data, PSF, dx=np.array([np.nan]), dy=np.array([50.0]))
    assert (lost.dx[0], lost.dy[0]) == pytest.approx((1.4, -1.4), abs=2e-3)


@pytest.mark.parametrize("content", ["nothing", "hole", "nan", "far"])
def test_failures_are_said(content):
    data = {
        "nothing": np.zeros((1, 31, 31)),
        "hole": -star(0, 0, 100.0),
        "nan": np.full((1, 31, 31), np.nan),
        "far": np.roll(star(0, 0, 100.0), 6, axis=2),
    }[content]
    fit = fit_psf(data, PSF)
    assert not fit.ok[0]
    assert np.isfinite([fit.dx[0], fit.dy[0], fit.flux[0]]).all()


def test_no_cutouts():
    fit = fit_psf(np.zeros((0, 31, 31)), PSF)
    assert all(len(v) == 0 for v in fit)


def test_small_cutouts():
    fit = fit_psf(star(0.2, 0.1, 500.0, size=9), PSF)
    assert (fit.dx[0], fit.flux[0]) == pytest.approx((0.2, 500.0), abs=0.5)


def test_subtract():
    data = star([0.3, -0.4], [0.1, 0.2], [1e3, 2e3])
    data[1, 3, 4] = np.nan
    residual, model = subtract_fit(data, PSF, fit_psf(data, PSF))
    assert np.nanmax(abs(residual)) < 0.1
    assert np.isnan(residual[1, 3, 4])
    assert np.isnan(residual).sum() == 1
    np.testing.assert_allclose(model.sum(axis=(1, 2)), [1e3, 2e3], rtol=2e-3)


# --- the figures


def plain_figures(cutout, residual, model):
    """Write the definition out for one source."""
    use = np.isfinite(residual)
    weight = 1 / (abs(model[use]) + 1)
    square = (residual[use] - residual[use].mean()) ** 2
    variance = (weight * square).sum() / weight.sum() * use.sum() / model.sum()
    c = cutout.shape[0] // 2
    top = np.nanmax(cutout[c - 1 : c + 2, c - 1 : c + 2])
    return variance, np.sort(abs(residual[use]))[-2] / top


@pytest.mark.parametrize("holes", [False, True])
def test_figures_are_those_of_the_study(holes):
    rng = np.random.default_rng(2)
    flux = 10 ** rng.uniform(3, 5, 20)
    data = star(rng.uniform(-0.5, 0.5, 20), 0.0 * flux, flux) + rng.normal(0, 2, (20, 31, 31))
    if holes:
        data[rng.random(data.shape) < 0.02] = np.nan
    residual, model = subtract_fit(data, PSF, fit_psf(data, PSF))
    variance, peak = residual_figures(data, residual, model)
    expected = [plain_figures(*row) for row in zip(data, residual, model, strict=True)]
    np.testing.assert_allclose(np.column_stack([variance, peak]), expected, rtol=1e-3)


def test_figures_of_a_clean_star_are_the_least():
    rng = np.random.default_rng(3)
    clean = star(0.1, 0.2, 1e4) + rng.normal(0, 1, (1, 31, 31))
    pair = clean + star(3.0, 1.0, 4e3)
    wide = star(0.1, 0.2, 1e4, psf=psf_of(5.5)) + rng.normal(0, 1, (1, 31, 31))
    data = np.concatenate([clean, pair, wide])
    variance, peak = residual_figures(data, *subtract_fit(data, PSF, fit_psf(data, PSF)))
    assert variance[0] < variance[1:].min() / 3
    assert peak[0] < peak[1:].min() / 3


def test_one_hot_pixel_is_forgiven_and_nothing_else_is_not():
    data = star([0.0, 0.0], [0.0, 0.0], 1e4)
    data[0, 3, 3] += 5e3
    data[1] = 0
    data[1, 15, 15] = 5e3
    variance, peak = residual_figures(data, *subtract_fit(data, PSF, fit_psf(data, PSF)))
    assert peak[0] < 0.02
    assert np.isinf([variance[1], peak[1]]).all()


@pytest.mark.parametrize("content", [0.0, np.nan])
def test_no_light_no_figures(content):
    data = np.full((1, 31, 31), content)
    fit = PSFFit(np.zeros(1), np.zeros(1), np.zeros(1), np.zeros(1, bool))
    variance, peak = residual_figures(data, *subtract_fit(data, PSF, fit))
    assert np.isinf([variance[0], peak[0]]).all()
