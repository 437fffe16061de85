"""One PSF for every place: how it is chosen, drawn, stored, and given to TRIPPy."""

import dataclasses
import pickle
import warnings

import numpy as np
import pytest
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning
from hypothesis import given, settings
from hypothesis import strategies as st

from mlpsf.errors import InputError, ModelFileError, PSFError
from mlpsf.frames.frame import Frame
from mlpsf.psf import PSFModel, build_psf, psf_quality
from mlpsf.psf.over_frame import variation_over_frame
from mlpsf.psf.solver.basis import Moffat, PolarBasis, Quadrature
from mlpsf.psf.solver.design import Design, blocks
from mlpsf.psf.solver.field import most_order, size_and_shape
from mlpsf.psf.solver.solve import solve
from mlpsf.psf.solver.stars import cut_stars
from mlpsf.psf.terms import PSFTerms
from mlpsf.psf.trippy import border as border

SIZE, SIDE = 31, 420
SHAPE = (200, 300)


def moffat(x, y, change):
    """Moffat PSF that is widest at the right edge, and longer along x at the top."""
    scale = 1 + change * (x / SIDE - 0.5)
    return PSFModel(stretched(0.2 * change * (y / SIDE - 0.5)), 3.0 * scale, 3.0)


def stretched(e):
    u = (np.arange(410) - 199.5) / 10
    r2 = u**2 + u[:, None] ** 2
    return e * (u**2 - u[:, None] ** 2) * (1 + r2 / 9) ** -4


def field(change, n=7, seed=3, noise=3.0):
    rng = np.random.default_rng(seed)
    pitch = SIDE / n
    grid = (np.arange(n) + 0.5) * pitch
    x, y = (v.ravel() + rng.uniform(-5, 5, n * n) for v in np.meshgrid(grid, grid))
    image = rng.normal(0, noise, (SIDE, SIDE))
    for xi, yi in zip(x, y, strict=True):
        image += moffat(xi, yi, change).render(xi, yi, 2e5, (SIDE, SIDE))
    return image, np.column_stack([x, y])


@pytest.fixture(scope="module")
def observed():
    image, places = field(0.12)
    with pytest.warns(AstropyUserWarning, match="The PSF and its file know it, to order"):
        psf = build_psf(image, places, size=SIZE, background=0.0)
    return image, places, psf


def toy(seed=0, order=2, rep=10, size=11, n_terms=2, motion=None):
    rng = np.random.default_rng(seed)
    side = size * rep
    v = (np.arange(side) + 0.5) / rep - size / 2
    bump = np.exp(-0.5 * (v[:, None] ** 2 + v**2))
    tables = 0.02 * bump * rng.normal(size=(n_terms, 1, 1)) * np.cos(v * rng.uniform(0.5, 1))
    weights = rng.normal(size=((3, 6, 10)[order - 1] - 1, n_terms))
    terms = PSFTerms(tables, weights, SHAPE)
    return PSFModel(0.05 * bump, 2.0, 3.0, rep, motion=motion, terms=terms)


# --- what the stars choose


def test_the_psf_is_that_of_each_place(observed):
    _, _, psf = observed
    assert psf.varies
    assert psf.order == psf.meta["order"] >= 1
    assert "left out in turn" in psf.meta["order_reason"]
    for x, y in ((40.0, 60.0), (210.0, 210.0), (390.0, 350.0)):
        true = moffat(x, y, 0.12)
        here = psf.at(x, y)
        assert here.fwhm == pytest.approx(true.fwhm, rel=0.003)
        assert (here.e1, here.e2) == pytest.approx((true.e1, true.e2), abs=0.004)
        assert np.hypot(here.shape.x, here.shape.y) < 0.01
    wide, narrow = psf.fwhm_at([390.0, 40.0], 210.0)
    assert wide / narrow == pytest.approx(1.1, abs=0.02)
    assert psf.meta["fwhm_variation"] == pytest.approx(0.12 / np.sqrt(12), rel=0.25)
    assert abs(psf.meta["variation_angle"]) < 15
    # They are those of the PSF as it is drawn.
    edges = psf.fwhm_at([0.0, 419.0], 209.5)
    assert psf.meta["fwhm_least"] <= edges.min() < psf.fwhm < edges.max() <= psf.meta["fwhm_most"]
    none = np.zeros((2, len(psf.terms.tables)))
    held = dataclasses.replace(psf, terms=dataclasses.replace(psf.terms, limits=none))
    assert variation_over_frame(held)["fwhm_variation"] == pytest.approx(0, abs=1e-9)
    assert variation_over_frame(psf.at(20.0, 20.0)) == {}


def test_at_is_the_psf_of_the_whole_at_a_place(observed):
    image, places, psf = observed
    here = build_psf(image, places, size=SIZE, background=0.0, at=(40.0, 60.0))
    np.testing.assert_array_equal(here.lookup_table, psf.at(40.0, 60.0).lookup_table)
    assert (here.meta["at_x"], here.meta["at_y"]) == (40.0, 60.0)
    assert not here.varies


def test_a_psf_that_does_not_vary_is_the_constant_one():
    image, places = field(0.0, n=4)
    psf = build_psf(image, places, size=SIZE, background=0.0)  # a warning would be an error
    told = build_psf(image, places, size=SIZE, background=0.0, order=0)
    assert not psf.varies
    assert psf.order == told.order == 0
    np.testing.assert_array_equal(psf.lookup_table, told.lookup_table)
    assert "no variation" in psf.meta["order_reason"]
    assert "asked for" in told.meta["order_reason"]
    assert psf.fwhm_at([1.0, 2.0], [3.0, 4.0]).tolist() == [psf.fwhm] * 2


def test_few_stars_carry_no_high_order():
    assert [most_order(n) for n in (1, 4, 5, 12, 19, 20, 500)] == [0, 0, 2, 2, 2, 3, 3]
    image, places = field(0.12, n=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyUserWarning)
        psf = build_psf(image, places, size=SIZE, background=0.0)
        assert psf.order == 2
        assert len(psf.terms.tables) == 3  # size and shape
        assert "size and shape only" in psf.meta["order_reason"]
        assert build_psf(image, places[:4], size=SIZE, background=0.0).order == 0
        assert build_psf(image, places, size=SIZE, background=0.0, order=0).order == 0
    with pytest.raises(InputError, match="order must be"):
        build_psf(image, places, order=4)


def test_seven_stars_tell_a_change_of_size():
    image, places = field(0.1)
    seven = places[[0, 6, 10, 24, 31, 42, 48]]
    with pytest.warns(AstropyUserWarning, match="to order 2"):
        psf = build_psf(image, seven, size=SIZE, background=0.0)
    x, y = places.T
    true = np.array([moffat(*place, 0.1).fwhm for place in places])
    error = np.abs(psf.fwhm_at(x, y) / true - 1)
    assert error.max() < 0.4 * np.abs(psf.fwhm / true - 1).max()


def test_size_and_shape_are_those_of_a_stretched_psf():
    image, places = field(0.0, n=3)
    hand = cut_stars(image, places, size=SIZE, background=0.0)
    fit = solve(hand.pixels, SIZE, np.ones((len(places), 1))).fit
    x, y = (v.ravel() for v in np.mgrid[-6:7, -6:7] * 1.0)
    change = fit.basis.design(x, y) @ size_and_shape(fit)
    for column, (along_x, along_y) in zip(change.T[:2], ((0.01, 0.01), (0.01, -0.01)), strict=True):
        # Twice as much change of the squares: dT/T, or the distortion, of 0.02.
        bent = fit.basis.light(fit.c[0], x / (1 + along_x), y / (1 + along_y))
        bent = bent / (1 + along_x) / (1 + along_y)
        wanted = (bent - fit.basis.light(fit.c[0], x, y)) / 0.02
        assert np.allclose(column, wanted, atol=0.03 * np.abs(wanted).max())


def test_stars_are_judged_by_the_psf_of_their_place(observed):
    image, places, psf = observed
    data = image.astype(np.float32) + 100
    frame = Frame(data=data, mask=np.zeros(data.shape, bool), gain=1e6, header=fits.Header())
    table = psf_quality(frame, psf, places).stars
    flat = psf_quality(frame, PSFModel(psf.lookup_table, psf.alpha, psf.beta), places).stars
    assert np.std(table["size_residual"]) < 0.3 * np.std(flat["size_residual"])
    right = table["x"] > SIDE / 2
    assert np.median(table["fwhm"][right]) > 1.03 * np.median(table["fwhm"][~right])


# --- drawing


@given(st.integers(0, 99), st.integers(1, 3), st.sampled_from([3, 5, 10]))
@settings(max_examples=15, deadline=None)
def test_all_that_draws_uses_the_psf_of_the_place(seed, order, rep):
    psf = toy(seed, order, rep)
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(20, 180, (2, 4))
    flux = rng.uniform(1, 9, 4)
    alone = [psf.at(*p).render(*p, f, SHAPE) for *p, f in zip(x, y, flux, strict=True)]
    together = psf.render(x, y, flux, SHAPE)
    np.testing.assert_allclose(together, sum(alone), atol=1e-6)
    np.testing.assert_allclose(psf.subtract(together, x, y, flux), 0, atol=1e-12)
    stamps = psf.stamps(0 * x, 0 * x, 11, at=(x, y))
    for stamp, *place in zip(stamps, x, y, strict=True):
        np.testing.assert_allclose(stamp, psf.at(*place).image(), atol=1e-6)
    part = psf.render(x - 20, y - 10, flux, (150, 250), at=(x, y))
    np.testing.assert_allclose(part, together[10:160, 20:270], atol=1e-12)


@given(st.integers(1, 7), st.sampled_from([5, 11, 15]))
@settings(max_examples=15, deadline=None)
def test_images_of_any_sampling_hold_the_same_light(cells, size):
    psf = toy()
    fine = psf.image(50, 60, size=size, oversampling=cells)
    assert fine.shape == (size * cells | 1,) * 2
    plain = psf.image(50, 60, size=size)
    if size * cells % 2:
        binned = fine.reshape(size, cells, size, cells).sum(axis=(1, 3))
        np.testing.assert_allclose(binned, plain, atol=1e-12)


def test_a_trail_is_of_its_place():
    psf = toy(size=31)
    trail = (30.0, 20.0, 300.0, 0.5)
    here = psf.at(60.0, 70.0).trail(*trail)
    np.testing.assert_array_equal(psf.trail(*trail, at=(60.0, 70.0)).oversampled, here.oversampled)
    moving = psf.trail(*trail)
    assert moving.varies
    assert repr(moving).startswith("<trailed varying PSFModel")
    x, y = np.array([60.3, 90.0]), np.array([70.1, 20.0])
    drawn = moving.render(x, y)
    for stamp, *place in zip(drawn, x, y, strict=True):
        np.testing.assert_allclose(stamp, psf.at(*place).trail(*trail).render(*place), atol=1e-9)


def test_trippy_plants_the_psf_of_a_place():
    psf = toy(size=31)
    here = psf.at(60.2, 70.7)
    planted = border.plant(here.trippy, np.zeros((140, 120)), 60.2, 70.7, 100.0)
    ours = psf.render(60.2, 70.7, 100.0, (140, 120))
    inner = np.s_[60:82, 50:71]
    # A tenth of a pixel is as near as TRIPPy plants.
    assert np.abs(planted - ours)[inner].max() < 0.02 * ours.max()


def test_places_are_on_the_frame():
    psf = toy()
    with pytest.raises(InputError, match="on the frame of 300 x 200"):
        psf.at(300.0, 5.0)
    with pytest.raises(InputError, match="a place"):
        psf.at(np.nan, 5.0)
    # Of a star just off the frame part of the light is on it.
    np.testing.assert_array_equal(psf.render(-40.0, 5.0), psf.render(-40.0, 5.0, at=(-0.5, 5.0)))
    for words in ({"size": 4}, {"oversampling": 0}, {"x": 1.0}):
        with pytest.raises(InputError):
            psf.image(**words)


# --- a value, and its file


def test_a_place_far_from_the_stars_is_warned_of():
    psf = toy(order=2)
    rng = np.random.default_rng(2)
    stars = np.column_stack([rng.uniform(0, 150, 20), rng.uniform(0, 100, 20), np.ones(20)])
    psf = dataclasses.replace(psf, stars=stars)
    psf.at(70.0, 50.0)
    assert psf.terms.reach(70.0, 50.0, stars[:, :2]) < 0.6
    with pytest.warns(AstropyUserWarning, match=r"at \(290, 190\) is extrapolated: the nearest"):
        psf.at(290.0, 190.0)


@given(st.integers(0, 99), st.integers(1, 3), st.floats(0, 299), st.floats(0, 199))
@settings(max_examples=30, deadline=None)
def test_far_from_the_stars_it_is_held_near_what_they_show(seed, order, x, y):
    terms = toy(seed, order).terms
    rng = np.random.default_rng(seed)
    stars = rng.uniform(100, 150, 9), rng.uniform(60, 90, 9)
    shown = terms.amounts(*stars)
    low, high = shown.min(axis=0), shown.max(axis=0)
    held, free = terms.held(*stars, 1 / 3).amounts(x, y)[0], terms.amounts(x, y)[0]
    assert (held <= high + 0.34 * (high - low) + 1e-6).all()
    assert (held >= low - 0.34 * (high - low) - 1e-6).all()
    inside = (free >= low) & (free <= high)
    np.testing.assert_allclose(held[inside], free[inside], atol=1e-6)
    # Drawn as the model of that place is.
    psf = dataclasses.replace(toy(seed, order), terms=terms.held(*stars, 1 / 3))
    np.testing.assert_allclose(psf.render(x, y), psf.at(x, y).render(x, y), atol=1e-7)


def test_limits_are_a_lowest_and_a_highest_amount():
    terms = PSFTerms(np.zeros((1, 30, 30)), np.zeros((2, 1)), SHAPE)
    for limits in ([[1.0], [0.0]], [[0.0]], [[np.nan], [1.0]]):
        with pytest.raises(InputError, match="lowest and a highest amount"):
            dataclasses.replace(terms, limits=limits)


def test_it_is_a_value():
    psf = toy()
    again = pickle.loads(pickle.dumps(psf))
    for array in (again.terms.tables, again.terms.weights, again.at(3, 4).lookup_table):
        with pytest.raises(ValueError, match="read-only"):
            array.flat[0] = 1.0
    np.testing.assert_array_equal(again.render(30.0, 50.0), psf.render(30.0, 50.0))
    assert again.order == psf.order


@pytest.mark.parametrize(
    ("tables", "weights", "error", "words"),
    [
        (np.zeros((1, 30, 20)), np.zeros((2, 1)), InputError, "square"),
        (np.zeros((1, 30, 30)), np.zeros((3, 1)), InputError, "weights of shape"),
        (np.zeros((1, 30, 30)), np.zeros((2, 2)), InputError, "weights of shape"),
        (np.full((1, 30, 30), np.nan), np.zeros((2, 1)), PSFError, "not finite"),
    ],
)
def test_wrong_terms_are_named(tables, weights, error, words):
    with pytest.raises(error, match=words):
        PSFTerms(tables, weights, SHAPE)
    terms = PSFTerms(np.zeros((1, 30, 30)), np.zeros((2, 1)), SHAPE)
    with pytest.raises(InputError, match="the PSF's terms"):
        PSFModel(np.zeros((50, 50)), 3.0, 3.0, terms=terms)


@given(st.integers(0, 99), st.integers(1, 3), st.integers(1, 4), st.sampled_from([3, 10]))
@settings(max_examples=10, deadline=None)
def test_the_file_gives_all_back(tmp_path_factory, seed, order, n_terms, rep):
    psf = toy(seed, order, rep, n_terms=n_terms)
    rng = np.random.default_rng(seed)
    if seed % 2:  # of more stars than a file lists
        psf = dataclasses.replace(
            psf,
            stars=np.column_stack([*rng.uniform(50, 90, (2, 1500)), np.ones(1500)]),
            terms=psf.terms.held(*rng.uniform(50, 90, (2, 1500)), 1 / 3),
        )
    path = tmp_path_factory.mktemp("psf") / "psf.fits"
    psf.save(path)
    again = PSFModel.load(path)
    assert (again.order, again.terms.frame_shape) == (order, SHAPE)
    np.testing.assert_array_equal(again.lookup_table, psf.lookup_table)
    np.testing.assert_array_equal(again.terms.weights, psf.terms.weights)
    peak = psf.oversampled.max()
    np.testing.assert_array_equal(again.terms.limits, psf.terms.limits)
    for place in ((70.0, 70.0), (299.0, 100.0)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyUserWarning)  # far from the stars
            off = again.at(*place).oversampled - psf.at(*place).oversampled
        assert np.abs(off).max() < 1e-6 * peak
    again.save(path)
    np.testing.assert_allclose(PSFModel.load(path).terms.tables, again.terms.tables, atol=1e-7)


def test_trippy_reads_the_mean_of_the_file(tmp_path, capsys):
    psf = toy(size=31)
    psf.save(tmp_path / "psf.fits")
    with fits.open(tmp_path / "psf.fits") as hdus:
        assert [hdu.name for hdu in hdus[3:]] == ["CHANGES", "WEIGHTS"]
    live = border.load_trippy().psf.modelPSF(restore=str(tmp_path / "psf.fits"))
    np.testing.assert_array_equal(live.lookupTable, psf.lookup_table)
    planted = live.plant(40.7, 40.2, 9.0, np.zeros((81, 81)), addNoise=False)
    mean = PSFModel(psf.lookup_table, psf.alpha, psf.beta)
    expected = mean.trippy.plant(40.7, 40.2, 9.0, np.zeros((81, 81)), addNoise=False)
    np.testing.assert_allclose(planted, expected, atol=1e-9 * expected.max())
    capsys.readouterr()  # it prints
    psf.at(30.0, 40.0).save(tmp_path / "here.fits")
    with fits.open(tmp_path / "here.fits") as hdus:
        assert len(hdus) == 3
    assert PSFModel.load(tmp_path / "here.fits").meta["at_x"] == 30.0


@pytest.mark.parametrize("number", [0, 3, 4])
def test_changed_numbers_are_noticed(tmp_path, number):
    path = tmp_path / "psf.fits"
    toy().save(path)
    with fits.open(path, mode="update") as hdus:
        data = hdus[number].data
        data.flat[len(data.flat) // 3] += 1
        hdus[number].data = data
    with pytest.raises(ModelFileError, match=r"damaged|verification failed"):
        PSFModel.load(path)


def test_files_of_before_are_constant(tmp_path):
    path = tmp_path / "psf.fits"
    psf = PSFModel(np.zeros((210, 210)), 3.0, 3.0)
    psf.save(path)
    with fits.open(path, mode="update") as hdus:
        for keyword in ("PSFSHA", "CHECKSUM", "DATASUM"):
            del hdus[0].header[keyword]
        hdus[0].header["ALPHA"] = 3.5
    again = PSFModel.load(path)
    assert not again.varies
    assert again.alpha == 3.5


# --- the solver's products


@given(st.integers(0, 2**32 - 1), st.sampled_from([1.3, 3.0, 6.0]), st.floats(-0.3, 0.3))
@settings(max_examples=10, deadline=None)
def test_products_in_rings_are_those_of_the_whole_matrix(seed, alpha, g1):
    rng = np.random.default_rng(seed)
    basis = PolarBasis(Moffat(alpha, 2.5, g1, 0.1), 8.0)
    quadrature = Quadrature.for_fwhm(1.3 * alpha)
    u, v = (a.ravel() for a in np.meshgrid(np.arange(-9.0, 10.0), np.arange(-9.0, 10.0)))
    shift = rng.uniform(-0.7, 0.7, (2, 3, 1))
    x, y = u - shift[0], v - shift[1]
    design = Design(basis, quadrature, x, y)
    whole = np.array([quadrature.sum(basis.design, a, b) for a, b in zip(x, y, strict=True)])
    scale = np.abs(whole).max()
    c = rng.normal(size=(3, whole.shape[2]))
    expected = np.einsum("npk,nk->np", whole, c)
    np.testing.assert_allclose(design.images(c), expected, atol=1e-11 * scale)
    weight, vectors = rng.uniform(0, 1, x.shape), rng.normal(size=(*x.shape, 2))
    np.testing.assert_allclose(
        design.products(vectors), whole.swapaxes(1, 2) @ vectors, atol=1e-11 * scale
    )
    pairs = rng.normal(size=(2, 3))
    some = whole * weight[:, :, None]
    each = some.swapaxes(1, 2) @ some
    np.testing.assert_allclose(
        design.normal(weight, pairs), np.tensordot(pairs, each, 1), atol=1e-11 * scale**2
    )
    np.testing.assert_allclose(design.normal(weight)[0], each.sum(axis=0), atol=1e-11 * scale**2)


def test_blocks_of_stars_give_the_same_psf(monkeypatch):
    image, places = field(0.0, n=4)
    stars = cut_stars(image, places, size=SIZE, background=0.0).pixels
    one = solve(stars, SIZE, np.ones((16, 1)))
    monkeypatch.setattr("mlpsf.psf.solver.fit.blocks", lambda *_: [slice(0, 5), slice(5, 16)])
    other = solve(stars, SIZE, np.ones((16, 1)))
    np.testing.assert_allclose(other.coefficients, one.coefficients, rtol=1e-6, atol=1e-9)
    assert blocks(10_000, 10_000)[-1].stop >= 10_000
