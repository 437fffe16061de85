"""The PSF solved for: its functions, its integrals, and what it leaves out."""

import warnings

import numpy as np
import pytest
from astropy.table import Table
from astropy.utils.exceptions import AstropyUserWarning
from hypothesis import given, settings
from hypothesis import strategies as st

from mlpsf.flags import Flag
from mlpsf.psf import PSFModel, build_psf
from mlpsf.psf.solver.basis import Moffat, PolarBasis, Quadrature
from mlpsf.psf.solver.solve import solve
from mlpsf.psf.solver.stars import cut_stars

SIZE = 31


def field(alpha=3.0, n=3, pitch=70, seed=4, noise=2.0, e=0.0):
    rng = np.random.default_rng(seed)
    side = n * pitch
    grid = (np.arange(n) + 0.5) * pitch
    x, y = (v.ravel() + rng.uniform(-4, 4, n * n) for v in np.meshgrid(grid, grid))
    truth = PSFModel(table(e), alpha, 3.0)
    flux = 2e5 * rng.uniform(0.5, 1.5, n * n)
    image = truth.render(x, y, flux, (side, side)) + rng.normal(0, noise, (side, side))
    return image, np.column_stack([x, y]), truth


def table(e):
    """Light that makes a Moffat profile elliptical."""
    u = (np.arange(410) - 199.5) / 10  # half a pixel off the middle, as TRIPPy lays its table
    r2 = u**2 + u[:, None] ** 2
    return e * (u**2 - u[:, None] ** 2) * (1 + r2 / 9) ** -4


@given(st.floats(0.8, 8), st.floats(1.5, 6), st.floats(-0.4, 0.4), st.floats(-0.4, 0.4))
@settings(max_examples=20, deadline=None)
def test_the_basis_holds_its_own_profile(alpha, beta, g1, g2):
    moffat = Moffat(alpha, beta, g1, g2)
    basis = PolarBasis(moffat, 20.0)
    x, y = np.random.default_rng(0).uniform(-20, 20, (2, 200))
    light = basis.light(basis.unit(), x, y)
    np.testing.assert_allclose(light, moffat(x, y), rtol=2e-3)
    np.testing.assert_allclose(basis.design(x, y) @ basis.unit().ravel(), light, rtol=1e-10)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_design_and_light_agree_for_any_coefficients(seed):
    basis = PolarBasis(Moffat(3.0, 2.5, 0.1, -0.05), 15.0)
    rng = np.random.default_rng(seed)
    c = rng.normal(size=basis.shape)
    x, y = rng.uniform(-15, 15, (2, 50))
    np.testing.assert_allclose(
        basis.design(x, y) @ c.ravel(), basis.light(c, x, y), rtol=1e-9, atol=1e-14
    )


def test_a_new_base_leaves_a_round_psf_as_it_is():
    basis = PolarBasis(Moffat(3.0, 2.5), 15.0)
    c = basis.unit()
    c[0] = np.linspace(1.0, 1.5, basis.n_radial)
    x = np.linspace(0.0, 20.0, 100)
    before = basis.light(c, x, 0 * x)
    np.testing.assert_allclose(basis.light(basis.adopt(c), x, 0 * x), before, rtol=1e-4)


@pytest.mark.parametrize("fwhm", [1.5, 3.0, 6.0])
def test_pixels_hold_all_the_light(fwhm):
    u = np.arange(-80.0, 81.0)
    x, y = (v.ravel() for v in np.meshgrid(u - 0.3, u + 0.2))
    light = Quadrature.for_fwhm(fwhm).sum(Moffat(fwhm, 3.0), x, y)
    assert light.sum() == pytest.approx(1.0, abs=2e-3)


# Coarse sub-pixels are squares of even light, which a narrow PSF is not.
@pytest.mark.parametrize(("rep_fact", "most"), [(3, 0.02), (5, 0.01), (10, 0.005)])
def test_the_refined_psf_is_nearer_than_trippys(rep_fact, most):
    image, places, truth = field(alpha=2.5, e=0.01)
    true = truth.stamps(0.2, -0.3, SIZE)[0]
    true /= true.sum()

    def error(**options):
        made = build_psf(image, places, size=SIZE, background=0.0, rep_fact=rep_fact, **options)
        assert made.meta["method"] == options.get("method", "refined")
        # A bare profile of TRIPPy's is half a sub-pixel off its place; ours has its centroid there.
        dx, dy = (getattr(truth.shape, k) - getattr(made.shape, k) for k in "xy")
        stamp = made.stamps(0.2 + dx, -0.3 + dy, SIZE)[0]
        return np.abs(stamp / stamp.sum() - true).max() / true.max()

    refined = error()
    assert refined < most
    if rep_fact == 10:
        assert refined < 0.7 * error(method="trippy")


def test_a_sky_that_is_wrong_does_not_reach_the_wings():
    image, places, truth = field()
    true = truth.stamps(0.0, 0.0, SIZE)[0]
    inner = np.hypot(*np.mgrid[-15:16, -15:16]) < 5
    made = build_psf(image + 7.0, places, size=SIZE, background=0.0).stamps(0.0, 0.0, SIZE)[0]
    share = made[inner].sum() / made.sum()
    assert share == pytest.approx(true[inner].sum() / true.sum(), abs=0.003)


def test_neighbours_are_left_out():
    image, places, truth = field()
    clean = build_psf(image, places, size=SIZE, background=0.0).render(0, 0)
    x, y = places[:4].T
    beside = image + truth.render(x + 9, y - 3, 1e4, image.shape)
    made = build_psf(beside, places, size=SIZE, background=0.0).render(0, 0)
    assert np.abs(made - clean).max() < 0.006 * clean.max()


@given(st.floats(1e-3, 1e3))
@settings(max_examples=4, deadline=None)
def test_the_unit_of_the_frame_does_not_matter(scale):
    image, places, _ = field(n=2)
    one = build_psf(image, places, size=SIZE, background=0.0).render(0, 0)
    other = build_psf(image * scale, places, size=SIZE, background=0.0).render(0, 0)
    np.testing.assert_allclose(other, one, atol=2e-3 * one.max())


def test_the_light_is_shared_between_psf_and_fluxes_in_one_way_only():
    image, places, _ = field(noise=0.5)
    # Three-fold stars, whose waves the prior would rather have small.
    u, v = np.meshgrid(np.arange(image.shape[1]), np.arange(image.shape[0]))
    for x, y in places:
        r2 = (u - x) ** 2 + (v - y) ** 2
        wave = ((u - x) + 1j * (v - y)) ** 3 / (r2 + 9) ** 1.5
        image = image + 600 * wave.real * np.exp(-r2 / 16)
    hand = cut_stars(image, places, size=SIZE, background=0.0)
    stars = hand.pixels
    solution = solve(stars, SIZE, np.ones((len(stars), 1)))
    offset = np.arange(stars.data.shape[1])
    excess = []
    for i, data in enumerate(stars.data):
        x, y = (a.ravel() for a in np.meshgrid(offset - solution.x[i], offset - solution.y[i]))
        model = solution.draw(solution.coefficients[0], x, y).reshape(data.shape)
        scale = (model * (data - solution.sky[i])).sum() / (model**2).sum()
        excess.append(scale / solution.flux[i] - 1)
    assert np.mean(excess) == pytest.approx(0.0, abs=0.004)


def stars_of_sizes(growth):
    """Draw stars that are the wider the brighter they are."""
    rng = np.random.default_rng(8)
    flux = np.geomspace(2e4, 4e5, 16)
    image = rng.normal(0, 2.0, (4 * 60, 4 * 60))
    places = []
    for k, f in enumerate(flux[rng.permutation(16)]):
        x, y = 60 * (k % 4) + 30.3, 60 * (k // 4) + 29.8
        wide = 3.0 * (1 + growth * np.log(f / flux[0]) / np.log(20))
        image += PSFModel(table(0.0), wide, 3.0).render([x], [y], [f], image.shape)
        places.append((x, y))
    return image, np.array(places)


def test_stars_that_grow_with_their_brightness_are_said():
    image, places = stars_of_sizes(0.1)
    with pytest.warns(AstropyUserWarning, match="grow with their brightness"):
        build_psf(image, places, background=0.0)
    build_psf(*stars_of_sizes(0.0), background=0.0)  # nothing to warn of


def test_another_fwhm_than_the_frames_is_said():
    image, places, _ = field()
    stars = Table({"x": places[:, 0], "y": places[:, 1], "local_fwhm": np.full(9, 2.5)})
    with pytest.warns(AstropyUserWarning, match=r"it is \d\.\d\d pixels, and 2\.50 of"):
        build_psf(image, stars, background=0.0)


def test_stars_of_other_sizes_elsewhere_are_said():
    image, places, psf = field()
    local = np.append(np.full(9, psf.fwhm), 9 * [2 * psf.fwhm])
    stars = Table({"x": np.append(places[:, 0], np.linspace(5, 9, 9)), "local_fwhm": local})
    stars["y"] = np.append(places[:, 1], np.full(9, 5.0))
    stars["selected"] = np.arange(18) < 9
    with pytest.warns(AstropyUserWarning, match=r"by -50% to \+0%"):
        build_psf(image, stars, background=0.0)
    build_psf(image, stars, background=0.0, at=tuple(places[4]))  # where there are stars


def test_sizes_that_a_constant_psf_does_not_follow_are_said():
    image, places, psf = field()
    stars = Table({"x": places[:, 0], "y": places[:, 1]})
    stars["local_fwhm"] = psf.fwhm * np.linspace(0.8, 1.2, 9)
    with pytest.warns(AstropyUserWarning, match=r"by -1[4-7]% to \+2[0-5]% \([+-]0%"):
        build_psf(image, stars, background=0.0)
    build_psf(image, stars, background=0.0, at=tuple(places[4]))  # is of its place


def test_a_size_that_jumps_is_said():
    image, places, psf = field()
    right = places[:, 0] > np.median(places[:, 0])
    local = {"local_fwhm": psf.fwhm * np.where(right, 1.06, 0.96)}
    stars = Table({"x": places[:, 0], "y": places[:, 1], **local}, meta={"jumps": True})
    with pytest.warns(AstropyUserWarning, match="no smooth PSF follows"):
        build_psf(image, stars, background=0.0)
    build_psf(image, stars[~right], background=0.0)  # is of one side


def test_the_psf_of_a_listed_part_is_not_compared_with_the_rest():
    image, places, psf = field()
    stars = Table({"x": places[:, 0], "y": places[:, 1]})
    stars["selected"] = stars["x"] < 150
    stars["local_fwhm"] = np.where(stars["selected"], 1, 2) * psf.fwhm
    stars["flags"] = np.where(stars["selected"], 0, int(Flag.NOT_LISTED))
    build_psf(image, stars, background=0.0)


def test_a_place_beyond_all_stars_is_said():
    image, places, _ = field(n=4)
    near = places[places[:, 0] < 150]
    with pytest.warns(AstropyUserWarning, match=r"\(270, 100\) is beyond all stars, \d+ pixels"):
        build_psf(image, near, background=0.0, at=(270.0, 100.0))


def lens(n=40, side=900, seed=3):
    """Stars, far brighter than their noise, whose coma grows and turns; and their places."""
    rng = np.random.default_rng(seed)
    pixels = rng.normal(100, 1, (side, side))
    u = np.arange(-15, 16)
    places = rng.uniform(25, side - 26, (n, 2))
    for x, y in places:
        i, j = round(x), round(y)
        turn = 1.5 * np.pi * x / side
        for part, far in ((1.0, 0.0), (0.8 * y / side, 2.5)):
            square = (u - (x - i + far * np.cos(turn))) ** 2
            square = square + (u[:, None] - (y - j + far * np.sin(turn))) ** 2
            pixels[j - 15 : j + 16, i - 15 : i + 16] += 4e2 * part * np.exp(-square / 3)
    return pixels, places


def test_a_psf_that_changes_more_than_it_can_follow_is_better_than_its_mean():
    pixels, places = lens()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        psf = build_psf(pixels, places, background=100.0)
    assert psf.varies
    assert psf.meta["method"] == "refined"
    said = " ".join(str(each.message) for each in caught)
    assert "times their noise" in said
    assert "--n-max" in said


def test_stars_that_are_not_smooth_have_a_psf_of_what_they_share():
    rng = np.random.default_rng(2)
    pixels = rng.normal(100, 1, (300, 300))
    image = np.zeros((5, 5))
    image[2], image[:, 0], image[2, 2] = 2e4, 2e4, 6e4  # a letter
    places = np.mgrid[40:280:50, 40:280:50].reshape(2, -1).T
    for x, y in places:
        pixels[y - 2 : y + 3, x - 2 : x + 3] += image
    psf = build_psf(pixels, places, background=100.0)
    assert psf.meta["method"] == "empirical"
    made = psf.stamps([0.0], [0.0], 5)[0]
    assert abs(made / made.max() - image / image.max()).max() < 0.1
