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


def test_between_grid_points_it_is_curved():
    # A slope alone would be off by 0.002 of the peak; the slopes have a curvature too.
    psf, at = gaussian_psf(2.0), np.arange(-0.5, 0.51, 0.024)
    dx, dy = (v.ravel() for v in np.meshgrid(at, at))
    value, by_x, by_y = psf.stamps_and_gradients(dx, dy, 15)
    truth, h = gaussian_stars(dx, dy, 2.0, 15), 0.001
    assert abs(value - truth).max() < 2e-4 * truth.max()
    for slope, (u, v) in ((by_x, (h, 0)), (by_y, (0, h))):
        stars = (gaussian_stars(dx + k * u, dy + k * v, 2.0, 15) for k in (1, -1))
        exact = (next(stars) - next(stars)) / (2 * h)
        assert abs(slope - exact).max() < 0.01 * abs(exact).max()


@settings(max_examples=60, deadline=None)
@given(
    dx=st.floats(-40, 40),
    dy=st.floats(-40, 40),
    half=st.integers(0, 20),
    reach=st.sampled_from([1, 5, 12]),
)
def test_a_far_star_is_a_near_one_moved_by_whole_pixels(dx, dy, half, reach):
    psf, size = gaussian_psf(3.0, half=reach, skew=0.3), 2 * half + 1
    x, y = np.array([dx, 9.0]), np.array([dy, -9.0])
    drawn = psf.stamps_and_gradients(x, y, size)
    np.testing.assert_array_equal(psf.stamps(x, y, size), drawn[0])
    for i in range(2):
        kx, ky = round(x[i]), round(y[i])
        wide = half + 41
        near = psf.stamps_and_gradients(x[i : i + 1] - kx, y[i : i + 1] - ky, 2 * wide + 1)
        rows, columns = (slice(wide - k - half, wide - k + half + 1) for k in (ky, kx))
        np.testing.assert_allclose(drawn[:, i], near[:, 0, rows, columns], atol=1e-7)


def test_beyond_its_reach_there_is_nothing():
    star = gaussian_psf(4.0, half=5).stamps(np.array([0.3]), np.array([0.1]), 41)[0]
    assert star[20, 20] > 0
    assert not star[:14].any()
    assert not star[:, 27:].any()


@pytest.mark.parametrize(("dx", "dy"), [(4, -4), (-4, 4), (0, 0), (3, -1), (5, -5), (-6, 2)])
def test_light_at_its_rim_is_drawn_too(dx, dy):
    # On grid points there is no step from them: all of the light, and none beyond.
    psf, expected = EffectivePSF(np.ones((41, 41))), np.zeros((17, 17))
    expected[8 + dy - 2 : 8 + dy + 3, 8 + dx - 2 : 8 + dx + 3] = 1
    for size in (17, 9, 5, 3, 1):
        middle = slice(8 - size // 2, 8 + size // 2 + 1)
        drawn = psf.stamps(np.array([float(dx)]), np.array([float(dy)]), size)[0]
        np.testing.assert_array_equal(drawn, expected[middle, middle])


def test_a_star_that_is_nowhere_is_not_drawn():
    psf, x, y = gaussian_psf(3.0), np.array([0.3, np.nan, 0.0, 1e9]), np.array([0.1, 0, np.nan, 0])
    drawn = psf.stamps(x, y, 21)
    assert not drawn[1:].any()
    np.testing.assert_array_equal(drawn[0], psf.stamps(x[:1], y[:1], 21)[0])


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


# --- who counts in a stack, and how much


def flat(values, size=9, level=0.01):
    """Cutouts of light 1e4, of which one pixel beside the centre has a level and more."""
    u = np.arange(size) - size // 2
    star = np.exp(-0.5 * (u**2 + u[:, None] ** 2))
    star[4, 6] = 0
    star *= (1 - level) / star.sum()
    cutouts = np.repeat(star[None], len(values), axis=0)
    cutouts[:, 4, 6] = level + np.asarray(values)
    return 1e4 * cutouts


def stacked(values, flux=1.0, level=0.01, **words):
    """Value at that pixel before the stack was divided by its sum."""
    n = len(values)
    flux = np.broadcast_to(flux, n) * 1e4
    cutouts = flat(values, level=level) * flux[:, None, None] / 1e4
    psf = stack_stars(cutouts, np.zeros(n), np.zeros(n), flux, 4, n_iter=1, **words)
    share = psf.grid[40, 60]
    return share * (1 - level) / (1 - share) - level


def test_the_weight_of_a_star_by_its_flux():
    # Of three there is no clipping. Four times the median's flux is half the weight.
    flux, values = np.array([1.0, 2.0, 8.0]), np.array([0.0, 0.01, 0.05])
    expected = np.average(values, weights=flux / (flux + 8))
    assert stacked(values, flux) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("others", "level", "clip"),
    [
        ([-2, -1, -1, 0, 0, 1, 1, 2], 0.01, 3.0),
        ([-2, -1, -1, 0, 0, 1, 1, 2], 0.01, 5.0),
        ([-2, -1, -1, 0, 1, 1, 2], 0.02, 3.0),
        ([-4, -3, -1, 0, 1.5, 2, 3, 4], 0.02, 3.0),
        ([-4, -3, -1, 0, 1.5, 2, 3], 0.02, 3.0),
        ([0, 1, 3], 0.01, 3.0),
        ([0] * 6, 0.01, 3.0),
        ([0] * 6, 0.0, 3.0),
    ],
)
@pytest.mark.parametrize(
    ("off", "weight"), [(0.8, 1.0), (0.9, 0.8), (1.0, 0.5), (1.1, 0.2), (1.2, 0)]
)
def test_the_weight_of_an_outlier(others, level, clip, off, weight, sign):
    # By how many standard deviations it is off, and of the PSF's value by how much they may differ.
    others = sign * 0.001 * np.array(others)
    every = [*others, sign * 0.1]
    middle = np.median(every)
    # The scatter is the mean of that of the grid points within half a pixel, to which the weights
    # of interpolation bring it.
    u = np.abs(np.arange(-5, 6)) / 10
    around = ((1.5 * u - 2.5) * u * u + 1).mean() ** 2
    scatter = around * 1.4826 * np.median(np.abs(every - middle))
    limit = clip * scatter + 0.002 * abs(level + middle) + 4e-6
    outlier = middle + sign * off * limit
    found = stacked([*others, outlier], level=level, clip=clip)
    # mean = (sum of the others with their weights + w * outlier) / (their number + w)
    each = np.clip(3.5 - 3 * np.abs(others - middle) / limit, 0, 1)
    expected = (each @ others + weight * outlier) / (each.sum() + weight)
    assert found == pytest.approx(expected, abs=2e-3 * abs(outlier) + 1e-8)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(4, 15), error=st.floats(1e-6, 1e-3))
def test_rounding_of_pixels_moves_a_stack_little(seed, n, error):
    # With sharp limits, or ones of the few stars of a single grid point, by hundreds of times that.
    rng = np.random.default_rng(seed)
    dx, dy = rng.uniform(-0.5, 0.5, (2, n))
    flux = 10 ** rng.uniform(2, 4, n)
    stars = gaussian_stars(dx, dy, 3.5, 25) * flux[:, None, None] + rng.normal(0, 1, (n, 25, 25))
    stars[0, 14, 15] += 0.2 * flux[0]  # a neighbour
    other = stars + error * rng.uniform(-1, 1, stars.shape)
    grids = [stack_stars(pixels, dx, dy, flux, 12).grid for pixels in (stars, other)]
    assert np.abs(np.subtract(*grids)).max() < 30 * error / flux.min() + 1e-6


def test_three_stars_are_not_clipped():
    assert stacked([0.0, 0.0, 0.3]) == pytest.approx(0.1, rel=1e-3)
    assert stacked([0.0, 0.0, 0.0, 0.3]) == pytest.approx(0.0, abs=1e-4)


def test_a_pixel_without_data_takes_a_star_out_around_it():
    none, flux = np.zeros(3), np.full(3, 1e4)
    data = 1e4 * gaussian_stars(none, none, 4.0, 9)
    data[0] *= 1.5
    whole = stack_stars(data, none, none, flux, 4, n_iter=1)
    data[0, 4, 5] = np.nan
    holed = stack_stars(data, none, none, flux, 4, n_iter=1)
    # Where the pixel has a weight over 0.1, the two other stars alone count.
    u = np.abs(np.arange(-40, 41) / 10)
    weight = np.where(u < 1, 1.5 * u**3 - 2.5 * u**2 + 1, 0.0)
    lost = weight[:, None] * np.roll(weight, 10) > 0.1
    assert lost.sum() > 200
    ratio = holed.grid / whole.grid
    np.testing.assert_array_equal(np.isclose(ratio, ratio[40, 50], rtol=1e-5), lost)
    # Beyond, the pixel counts as 0 with its small weight.
    assert abs(ratio[~lost] / ratio[0, 0] - 1).max() < 0.1


def test_where_no_star_has_data_there_is_nothing():
    data, dx, dy, flux = stars(4.0, n=6)
    dx[:], data[:, 12, 16] = 0.0, np.nan
    psf = stack_stars(data, dx, dy, flux, 8)
    assert psf.grid[80, 120] == 0
    assert psf.grid[80, 40] > 0


@pytest.mark.parametrize(
    ("dx", "dy", "flux"),
    [
        (12.01, 0.0, 1e4), (0.0, -12.01, 1e4), (np.nan, 0.0, 1e4), (0.0, np.nan, 1e4),
        (0.0, 0.0, np.inf), (0.0, 0.0, np.nan), (0.0, 0.0, -1e4), (0.0, 0.0, 0.0),
    ],
)  # fmt: skip
def test_who_shows_nothing_does_not_count(dx, dy, flux):
    data, x, y, light = stars(4.0, n=6)
    alone = stack_stars(data[1:], x[1:], y[1:], light[1:], 8)
    data[0], x[0], y[0], light[0] = 1e7, dx, dy, flux
    np.testing.assert_array_equal(stack_stars(data, x, y, light, 8).grid, alone.grid)


def test_a_star_at_the_edge_of_its_cutout_counts():
    data, x, y, light = stars(4.0, n=3)
    alone = stack_stars(data[1:], x[1:], y[1:], light[1:], 8)
    x[0] = 12.0
    assert np.abs(stack_stars(data, x, y, light, 8).grid - alone.grid).max() > 1e-3


def test_defaults():
    data, dx, dy, flux = stars(3.0)
    data[0] += np.roll(data[1], 3, axis=1)
    told = stack_stars(data, dx, dy, flux, 8, n_iter=3, clip=3.0)
    np.testing.assert_array_equal(stack_stars(data, dx, dy, flux, 8).grid, told.grid)
    np.testing.assert_array_equal(told.to_table(), told.to_table(n_iter=6))


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 12), seed=st.integers(0, 99))
def test_the_order_of_the_stars_does_not_matter(n, seed):
    data, dx, dy, flux = stars(3.0, n=n, seed=seed)
    order = np.random.default_rng(seed).permutation(n)
    one = stack_stars(data, dx, dy, flux, 6)
    other = stack_stars(data[order], dx[order], dy[order], flux[order], 6)
    np.testing.assert_allclose(one.grid, other.grid, atol=1e-6)


def test_more_points_than_are_averaged_at_once():
    # 40 stars of 241 x 241 points are averaged in parts of 10 rows: as two of 20 with equal stars.
    data, dx, dy, flux = stars(3.0, n=3, size=25)
    few = stack_stars(data, dx, dy, flux, 12, clip=1e9)
    many = (np.concatenate([v] * 40) for v in (data, dx, dy, flux))
    np.testing.assert_allclose(stack_stars(*many, 12, clip=1e9).grid, few.grid, atol=1e-6)
