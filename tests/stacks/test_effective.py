"""The effective PSF: drawn anywhere, stacked from stars, as TRIPPy's table and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import erf

from mlpsf.errors import InputError, PSFError
from mlpsf.stacks.effective import OVERSAMPLING, EffectivePSF, stack_stars
from mlpsf.stacks.moments import FWHM_PER_SIGMA, gaussian_moments

HALF = 12


def pixel_integral(u, sigma):
    """Light of a unit Gaussian in a pixel whose centre is u from it, on one axis."""
    s = sigma * np.sqrt(2)
    return 0.5 * (erf((u + 0.5) / s) - erf((u - 0.5) / s))


def gaussian_psf(fwhm, half=HALF, skew=0.0):
    u = np.arange(-half * OVERSAMPLING, half * OVERSAMPLING + 1) / OVERSAMPLING
    sigma = fwhm / FWHM_PER_SIGMA
    return EffectivePSF(
        pixel_integral(u - skew, sigma)[None, :] * pixel_integral(u, sigma)[:, None]
    )


def gaussian_stars(dx, dy, fwhm, size):
    """Draw stars of flux 1 without any PSF class; the truth."""
    u, sigma = np.arange(size) - size // 2, fwhm / FWHM_PER_SIGMA
    x = pixel_integral(u[None, :] - np.asarray(dx)[:, None], sigma)
    y = pixel_integral(u[None, :] - np.asarray(dy)[:, None], sigma)
    return y[:, :, None] * x[:, None, :]


OFFSET = st.floats(-4, 4)


@settings(max_examples=60, deadline=None)
@given(dx=OFFSET, dy=OFFSET, fwhm=st.floats(2.0, 8.0), half=st.integers(3, 30))
def test_stamps_are_stars(dx, dy, fwhm, half):
    drawn = gaussian_psf(fwhm, half=16).stamps(np.array([dx]), np.array([dy]), 2 * half + 1)
    truth = gaussian_stars([dx], [dy], fwhm, 2 * half + 1)
    assert drawn.dtype == np.float32
    assert abs(drawn - truth).max() < 5e-4 * truth.max()


def test_axes_are_not_swapped():
    star = gaussian_psf(3.0).stamps(np.array([2.0]), np.array([0.0]), 11)[0]
    assert np.unravel_index(star.argmax(), star.shape) == (5, 7)  # row y, column x


@settings(max_examples=30, deadline=None)
@given(dx=st.floats(-1, 1), dy=st.floats(-1, 1))
def test_gradients_are_differences(dx, dy):
    psf, h = gaussian_psf(4.0), 0.02
    value, by_x, by_y = psf.stamps_and_gradients(np.array([dx]), np.array([dy]), 15)[:, 0]
    np.testing.assert_array_equal(value, psf.stamps(np.array([dx]), np.array([dy]), 15)[0])
    a, b, c, d = gaussian_stars([dx + h, dx - h, dx, dx], [dy, dy, dy + h, dy - h], 4.0, 15)
    assert abs(by_x - (a - b) / (2 * h)).max() < 0.01 * abs(by_x).max()
    assert abs(by_y - (c - d) / (2 * h)).max() < 0.01 * abs(by_y).max()


def test_beyond_its_reach_there_is_nothing():
    star = gaussian_psf(4.0, half=5).stamps(np.array([0.3]), np.array([0.1]), 41)[0]
    assert star[20, 20] > 0
    assert not star[:14].any()
    assert not star[:, 27:].any()


def test_many_stars_at_once_are_each_by_itself():
    psf = gaussian_psf(3.0, skew=0.2)
    rng = np.random.default_rng(1)
    dx, dy = rng.uniform(-1, 1, (2, 30))
    together = psf.stamps(dx, dy, 21)
    for i in range(30):
        np.testing.assert_array_equal(psf.stamps(dx[i : i + 1], dy[i : i + 1], 21)[0], together[i])
    assert psf.stamps(dx[:0], dy[:0], 21).shape == (0, 21, 21)


def test_is_a_value():
    grid = np.array(gaussian_psf(3.0).grid)
    psf = EffectivePSF(grid)
    grid[:] = 0
    assert psf.grid.max() > 0
    with pytest.raises(ValueError, match="read-only"):
        psf.grid[0, 0] = 1
    assert psf.half == HALF


@pytest.mark.parametrize("shape", [(21, 41), (20, 20), (31, 31), (21,), (21, 21, 21)])
def test_bad_grids(shape):
    with pytest.raises(InputError, match=r"side of 20 \* half \+ 1 points. Got shape"):
        EffectivePSF(np.zeros(shape))


def test_grid_of_nan():
    with pytest.raises(PSFError, match="not finite"):
        EffectivePSF(np.full((21, 21), np.nan))


# --- as TRIPPy's table


@pytest.mark.parametrize("fwhm", [2.0, 3.0, 5.0])
def test_table_round_trip(fwhm):
    psf = gaussian_psf(fwhm, skew=0.15)
    table = psf.to_table()
    assert table.shape == ((2 * HALF + 1) * OVERSAMPLING,) * 2
    assert table.sum() == pytest.approx(1.0)
    back = EffectivePSF.from_table(table)
    assert back.half == psf.half
    assert abs(back.grid - psf.grid).max() < 0.01 * psf.grid.max()


def test_from_table_is_light_in_pixels():
    fine = (np.arange(250) + 0.5) / OVERSAMPLING - 12.5
    sigma = 3.0 / FWHM_PER_SIGMA
    light = 7.0 * np.exp(-0.5 * (fine**2 + fine[:, None] ** 2) / sigma**2)
    psf = EffectivePSF.from_table(light)
    truth = gaussian_psf(3.0)
    assert abs(psf.grid - truth.grid).max() < 2e-3 * truth.grid.max()
    star = psf.stamps(np.array([0.0]), np.array([0.0]), 25)
    assert star.sum() == pytest.approx(1.0, abs=1e-4)


# --- stacked from stars


def stars(fwhm, n=30, size=25, flux=1e4, noise=2.0, seed=0):
    rng = np.random.default_rng(seed)
    dx, dy = rng.uniform(-0.5, 0.5, (2, n))
    flux = np.broadcast_to(flux, n).astype(float)
    data = flux[:, None, None] * gaussian_stars(dx, dy, fwhm, size)
    return data + rng.normal(0, noise, data.shape), dx, dy, flux


def width(psf):
    area = (psf.grid > 0.5 * psf.grid.max()).sum() / OVERSAMPLING**2
    return 2 * np.sqrt(area / np.pi)


@pytest.mark.parametrize("fwhm", [1.8, 2.5, 4.0])
def test_stack_is_the_psf(fwhm):
    psf = stack_stars(*stars(fwhm), 8, n_iter=6 if fwhm < 2.5 else 3)
    truth = gaussian_psf(fwhm, half=8)
    assert width(psf) == pytest.approx(width(truth), rel=0.03)
    assert psf.grid[::OVERSAMPLING, ::OVERSAMPLING].sum() == pytest.approx(1.0)
    assert abs(psf.grid - truth.grid).max() < 0.04 * truth.grid.max()
    m = gaussian_moments(psf.stamps(np.zeros(1), np.zeros(1), 17))
    assert np.hypot(m.dx, m.dy)[0] < 0.01


@pytest.mark.parametrize("fwhm", [1.8, 2.5, 4.0])
def test_one_very_bright_star_does_not_make_the_psf_alone(fwhm):
    # It fills the grid at its own phase only; the others know what lies between.
    flux = np.full(30, 2e3)
    flux[0] = 2e5
    rounds = 6 if fwhm < 2.5 else 3
    wide = [width(stack_stars(*stars(fwhm, flux=flux, seed=s), 8, n_iter=rounds)) for s in range(6)]
    np.testing.assert_allclose(wide, width(gaussian_psf(fwhm, half=8)), rtol=0.04)


def test_neighbours_and_holes_are_left_out():
    data, dx, dy, flux = stars(4.0)
    clean = stack_stars(data, dx, dy, flux, 10)
    spoilt = data.copy()
    for i in range(8):
        spoilt[i] += 0.5 * np.roll(data[i], (3 + i % 3, -4), axis=(0, 1))
    spoilt[8:12, 10:12, 5:9] = np.nan
    before = spoilt.copy()
    psf = stack_stars(spoilt, dx, dy, flux, 10)
    assert abs(psf.grid - clean.grid).max() < 0.04 * clean.grid.max()
    np.testing.assert_array_equal(spoilt, before)


def test_flux_unit_does_not_matter():
    data, dx, dy, flux = stars(4.0)
    one, other = (stack_stars(data * k, dx, dy, flux * k, 10) for k in (1.0, 64.0))
    np.testing.assert_allclose(one.grid, other.grid, rtol=1e-5, atol=1e-8)


def test_reach_is_limited_by_the_cutouts():
    assert stack_stars(*stars(3.0, n=5, size=15), 40).half == 7


def test_one_star():
    psf = stack_stars(*stars(4.0, n=1), 10)
    assert width(psf) == pytest.approx(width(gaussian_psf(4.0)), rel=0.05)


@pytest.mark.parametrize(
    ("n", "factor", "match"), [(0, 1.0, "No star"), (5, 0.0, "no light"), (5, np.nan, "no light")]
)
def test_no_light(n, factor, match):
    data, dx, dy, flux = stars(4.0, n=5)
    with pytest.raises(PSFError, match=match):
        stack_stars(data[:n] * factor, dx[:n], dy[:n], flux[:n], 8)


@pytest.mark.parametrize("dx", [-25.2, -5.3, 4.4, 5.3])
@pytest.mark.parametrize(("size", "sigma"), [(31, 0.8), (61, 1.0)])
def test_a_star_is_drawn_wherever_it_is_in_its_cutout(dx, size, sigma):
    y, x = np.mgrid[:size, :size] - size // 2
    dx = np.clip(dx, -size // 2 + 3, size // 2 - 3)
    star = np.exp(-0.5 * ((x - dx) ** 2 + y**2) / sigma**2) / (2 * np.pi * sigma**2)
    psf = stack_stars(1e4 * star[None], np.array([dx]), np.zeros(1), np.array([1e4]), size // 2)
    centre = psf.grid.shape[0] // 2
    assert psf.grid[centre, centre] == pytest.approx(psf.grid.max(), rel=0.05)
    assert psf.grid.min() > -0.02 * psf.grid.max()
    drawn = psf.stamps(np.array([dx, 0.0, 1e9]), np.zeros(3), size)
    assert np.abs(drawn[0] - star).max() < 1e-3
    assert drawn[2].max() == drawn[2].min() == 0


def test_far_and_near_stars_are_drawn_alike():
    u = np.arange(-150, 151) / 10
    psf = EffectivePSF(np.exp(-0.25 * (u**2 + u[:, None] ** 2)) / (4 * np.pi))
    dx, dy = np.array([3.7, -2.0]), np.array([-4.0, 1.1])
    near = psf.stamps_and_gradients(dx, dy, 31)
    far = psf.stamps_and_gradients(np.append(dx, 9.0), np.append(dy, 0.0), 31)
    np.testing.assert_allclose(far[:, :2], near, atol=1e-6)


def test_stars_without_light_are_not_stacked():
    u = np.arange(-15, 16)
    star = 1e4 * np.exp(-0.25 * (u**2 + u[:, None] ** 2))
    cutouts = np.stack([star, np.zeros_like(star)])
    zero = np.zeros(2)
    psf = stack_stars(cutouts, zero, zero, np.array([star.sum(), 0.0]), 15)
    alone = stack_stars(cutouts[:1], zero[:1], zero[:1], np.array([star.sum()]), 15)
    np.testing.assert_array_equal(psf.grid, alone.grid)
    with pytest.raises(PSFError, match="No star"):
        stack_stars(cutouts[1:], zero[1:], zero[1:], zero[1:], 15)
