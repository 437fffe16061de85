"""The PSF: TRIPPy's border, the model, its files. All with the real TRIPPy and real FITS files."""

import pickle
import subprocess
import sys
import textwrap
import time
import warnings

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import Table
from astropy.utils.exceptions import AstropyUserWarning
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares

from mlpsf.errors import InputError, ModelFileError, OutputError, PSFError
from mlpsf.frames.frame import Frame
from mlpsf.frames.io.reading import read_frame
from mlpsf.psf import PSFModel, build_psf
from mlpsf.psf.trippy import border as border
from mlpsf.psf.trippy.tables import line_kernel, measure_shape

galsim = pytest.importorskip("galsim")

FLUX = 2e5


def moffat(fwhm, g1=0.04, g2=0.03, beta=3.0):
    return galsim.Moffat(beta=beta, fwhm=fwhm).shear(g1=g1, g2=g2)


def draw(profile, x, y, flux, shape):
    """Stars integrated over pixels by GalSim; centre of the first pixel (0, 0)."""
    image = galsim.ImageD(shape[1], shape[0], xmin=0, ymin=0)
    for xi, yi, fi in zip(x, y, flux, strict=True):
        half = 60
        stamp = galsim.ImageD(2 * half + 1, 2 * half + 1, xmin=int(xi) - half, ymin=int(yi) - half)
        profile.withFlux(fi).drawImage(stamp, scale=1.0, center=(xi, yi), method="auto")
        both = stamp.bounds & image.bounds
        image[both] += stamp[both]
    return image.array


def field(fwhm, n=16, pitch=120, seed=1, noise=3.0, **kwargs):
    rng = np.random.default_rng(seed)
    side = int(np.sqrt(n))
    grid = (np.arange(side) + 0.5) * pitch
    x, y = (v.ravel() + rng.uniform(-5, 5, n) for v in np.meshgrid(grid, grid))
    profile = moffat(fwhm, **kwargs)
    flux = FLUX * rng.uniform(0.5, 1.5, n)
    image = draw(profile, x, y, flux, (side * pitch, side * pitch))
    return image + rng.normal(0, noise, image.shape), x, y, flux, profile


def truth_of(profile, size):
    table = galsim.ImageD(size * 10, size * 10)
    profile.drawImage(table, scale=0.1, method="no_pixel")
    return measure_shape(table.array, 10)


@pytest.fixture(scope="module")
def sky():
    return field(4.0)


@pytest.fixture(scope="module")
def psf(sky):
    image, x, y, _, _ = sky
    return build_psf(image, np.column_stack([x, y]), background=0.0)


def simple(size=21, rep=10, alpha=2.5, beta=3.0, seed=0, stars=0):
    rng = np.random.default_rng(seed)
    # Real tables fade outwards; this one is lopsided, so that swapped axes show.
    v = (np.arange(size * rep) + 0.5) / rep - size / 2
    table = 0.02 * np.exp(-0.5 * ((v[:, None] - 0.7) ** 2 / 4 + (v[None, :] + 1) ** 2))
    rows = np.column_stack([rng.uniform(0, 500, (stars, 2)), rng.uniform(1, 1e5, stars)])
    return PSFModel(table, alpha, beta, rep, stars=rows)


# --- the import ---------------------------------------------------------------------------------


def run_python(code):
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_import_leaves_matplotlib_and_stand_ins_out():
    assert (
        run_python(
            """
            import sys
            import mlpsf.psf
            assert not any(m == "trippy" or m.startswith("trippy.") for m in sys.modules)
            from mlpsf.psf.trippy.border import load_trippy
            package = load_trippy()
            assert package.__version__ == "1.1.1"
            assert "imp" not in sys.modules and "pylab" not in sys.modules
            assert "matplotlib.pyplot" not in sys.modules
            """
        )
        == ""
    )


def test_import_keeps_the_users_backend():
    run_python(
        """
        import warnings
        with warnings.catch_warnings():  # an old Matplotlib with new parts warns of them
            warnings.simplefilter("ignore", DeprecationWarning)
            import matplotlib
            matplotlib.use("svg")
            import matplotlib.pyplot as plt
        from mlpsf.psf.trippy.border import load_trippy
        psf = load_trippy().psf
        assert matplotlib.get_backend().lower() == "svg"
        assert psf.pyl.figure is plt.figure  # drawing still works when it is asked for
        assert plt.get_fignums() == []
        """
    )


def test_import_works_where_imp_is_gone():
    # The stand-in does its work on every version: here imp is hidden as from Python 3.12 on.
    run_python(
        """
        import sys
        class NoImp:
            def find_spec(self, name, path=None, target=None):
                if name == "imp":
                    raise ModuleNotFoundError(name)
        sys.meta_path.insert(0, NoImp())
        from mlpsf.psf.trippy.border import load_trippy
        load_trippy()
        try:
            import imp
        except ModuleNotFoundError:
            pass
        else:
            raise AssertionError("the stand-in stayed")
        """
    )


def test_downsample_is_the_same_sum():
    trippy = border.load_trippy()
    a = np.random.default_rng(0).normal(size=(70, 50))
    fast = trippy.psf.downSample2d(a, 10)
    with border.release_downsample():
        slow = trippy.psf.downSample2d(a, 10)
    np.testing.assert_allclose(fast, slow, rtol=1e-12)
    assert trippy.psf.downSample2d is border.downsample


# --- the border ---------------------------------------------------------------------------------


def test_fit_moffat_does_not_depend_on_the_stars_before(sky):
    image, x, y, _, _ = sky
    i, j = np.floor(x + 0.5).astype(int), np.floor(y + 0.5).astype(int)
    cutouts = np.array(
        [image[b - 20 : b + 21, a - 20 : a + 21] for a, b in zip(i, j, strict=True)]
    )[:4]
    cx, cy = (x - i + 20)[:4], (y - j + 20)[:4]
    alpha, beta, _ = border.fit_moffat(cutouts, cx, cy, radius=14, rep_fact=5)
    # A saturated star listed first.
    flat = np.concatenate([np.minimum(cutouts[:1], 300.0), cutouts])
    alpha2, beta2, _ = border.fit_moffat(
        flat, np.r_[cx[0], cx], np.r_[cy[0], cy], radius=14, rep_fact=5
    )
    np.testing.assert_allclose(alpha2[1:], alpha)
    np.testing.assert_allclose(beta2[1:], beta)
    hwhm = np.sqrt(2 ** (1 / beta) - 1) * alpha
    np.testing.assert_allclose(2 * hwhm, 4.0, rtol=0.01)


def test_background_estimate_of_trippy_can_be_used(sky):
    image, x, y, _, _ = sky
    a, b = int(x[0]), int(y[0])
    cut = image[None, b - 25 : b + 26, a - 25 : a + 26]
    own = border.fit_moffat(cut + 1000, [x[0] - a + 25], [y[0] - b + 25], background=None)
    given_ = border.fit_moffat(cut + 1000, [x[0] - a + 25], [y[0] - b + 25], background=1000.0)
    np.testing.assert_allclose(own[0], given_[0], rtol=0.05)


def test_edge_sources_are_refused_not_dropped():
    with pytest.raises(InputError, match="within 12 pixels of the edge"):
        border.build_table(np.ones((1, 31, 31)), [5.0], [15.0], alpha=3, beta=3, size=21)
    with pytest.raises(InputError, match="finite"):
        border.fit_moffat(np.full((1, 31, 31), np.nan), [15.0], [15.0])
    with pytest.raises(InputError, match="fit_width must be at most"):
        border.lsfit(simple().trippy, np.ones((1, 61, 61)), [30.0], [30.0], [1.0], fit_width=20)
    with pytest.raises(InputError, match="off the 40 x 40"):
        border.plant(simple().trippy, np.zeros((40, 40)), -3.0, 4.0, 1.0)


def test_lsfit_finds_what_was_planted(psf):
    x, y = np.array([25.0, 25.31]), np.array([24.8, 25.12])
    cutouts = np.array([psf.render(a, b, FLUX, (51, 51)) for a, b in zip(x, y, strict=True)])
    fx, fy, flux = border.lsfit(psf.trippy, cutouts, x + 0.2, y - 0.1, [FLUX * 0.8] * 2)
    np.testing.assert_allclose(fx, x, atol=0.06)
    np.testing.assert_allclose(fy, y, atol=0.06)
    np.testing.assert_allclose(flux, FLUX, rtol=0.01)


def test_live_flux_is_amplitude_times_fullpsf(psf):
    live = psf.trippy
    model = live.plant(50.5, 50.5, 3.0, np.zeros((101, 101)), addNoise=False, returnModel=True)
    # TRIPPy overwrites a strip of its table at the rim as it shifts it: 7e-6 of the light.
    np.testing.assert_allclose(model.sum(), 3.0 * live.fullpsf.sum(), rtol=3e-5)
    np.testing.assert_allclose(psf.flux_per_amplitude, live.fullpsf.sum(), rtol=1e-12)


# --- rendering ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rep", [3, 5, 10])
@pytest.mark.parametrize("tenths", [(0, 0), (3, 7), (9, 1)])
def test_render_agrees_with_plant(rep, tenths):
    # But for the box's rim, where plant wraps its table round and render does not.
    model = simple(rep=rep)
    x, y = (20 + k % rep / rep for k in tenths)
    ours = model.render(x - 0.5, y - 0.5, 100.0, (41, 41))
    theirs = border.plant(model.trippy, np.zeros((41, 41)), x - 0.5, y - 0.5, 100.0)
    inner = np.s_[12:29, 12:29]
    np.testing.assert_allclose(ours[inner], theirs[inner], rtol=1e-6, atol=1e-9)


@given(st.floats(-5, 45), st.floats(-5, 45), st.floats(-1e6, 1e6), st.integers(-3, 3))
@settings(max_examples=40, deadline=None)
def test_flux_is_linear_and_whole_pixels_translate(x, y, flux, step):
    model = simple()
    one = model.render(x, y, 1.0, (40, 40))
    np.testing.assert_allclose(model.render(x, y, flux, (40, 40)), flux * one, atol=1e-12)
    moved = model.render(x + step, y, 1.0, (40, 40))
    a, b = max(step, 0), min(40 + step, 40)
    np.testing.assert_allclose(moved[:, a:b], one[:, a - step : b - step], atol=1e-12)
    assert -1e-9 <= one.sum() <= 1 + 1e-9


@given(st.floats(15, 25), st.floats(15, 25))
@settings(max_examples=40, deadline=None)
def test_all_the_flux_and_the_centroid_are_kept(x, y):
    model = simple()
    image = model.render(x, y, 7.0, (41, 41))
    np.testing.assert_allclose(image.sum(), 7.0, rtol=1e-12)
    centre = model.render(20.0, 20.0, 7.0, (41, 41))
    grid = np.arange(41)
    for axis, place in ((0, x), (1, y)):
        shift = (image.sum(axis) - centre.sum(axis)) @ grid / 7.0
        np.testing.assert_allclose(shift, place - 20.0, atol=1e-4)  # pixels alias a little


def test_many_sources_sum_in_one_image():
    model = simple()
    rng = np.random.default_rng(3)
    x, y, f = rng.uniform(-30, 130, 300), rng.uniform(-30, 90, 300), rng.uniform(1, 9, 300)
    together = model.render(x, y, f, (60, 100))
    one_by_one = sum(model.render(*v, (60, 100)) for v in zip(x, y, f, strict=True))
    np.testing.assert_allclose(together, one_by_one, atol=1e-9)
    assert model.render([], [], [], (6, 9)).sum() == 0
    assert model.render(1e300, 5.0, 1.0, (6, 9)).sum() == 0


def test_stamps_are_cut_around_the_nearest_pixel():
    model = simple()
    stamp = model.render(100.3, 7.6, 5.0)
    np.testing.assert_allclose(stamp, 5 * model.stamps(0.3, -0.4, 21)[0], atol=1e-14)
    image = model.render(100.3, 30.6, 5.0, (80, 200))
    np.testing.assert_allclose(stamp, image[31 - 10 : 42, 90:111], atol=1e-14)
    assert model.render([1.0, 2.0], 3.0).shape == (2, 21, 21)
    assert model.stamps([0.1], [0.2], 41)[0, 0].sum() == 0


@pytest.mark.parametrize("dtype", [">i2", ">f4", "uint16", "float32", "int64"])
def test_subtract_takes_any_number_and_changes_nothing(dtype):
    model = simple()
    image = np.round(model.render(20.2, 19.7, 900.0, (40, 41))).astype(dtype)
    before = image.copy()
    image.setflags(write=False)
    left = model.subtract(image, 20.2, 19.7, 900.0)
    assert left.dtype == np.float64
    assert left.dtype.isnative
    assert np.abs(left).max() <= 0.51
    np.testing.assert_array_equal(image, before)


def test_bad_numbers_are_named():
    model = simple()
    with pytest.raises(InputError, match="y must be finite"):
        model.render([1.0, 2.0], [1.0, np.nan], shape=(9, 9))
    with pytest.raises(InputError, match="shapes that go together"):
        model.render([1.0, 2.0], [1.0, 2.0, 3.0], shape=(9, 9))
    with pytest.raises(InputError, match="odd"):
        model.stamps(0.0, 0.0, 10)
    with pytest.raises(InputError, match="two dimensions"):
        model.subtract(np.zeros(9), 1.0, 1.0, 1.0)


# --- building -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fwhm", "size_error", "residual"),
    [
        (1.8, 0.03, 0.03),
        (3.0, 0.01, 0.012),
        (4.0, 0.01, 0.01),
        (6.0, 0.01, 0.01),
        (9.0, 0.01, 0.01),
    ],
)
def test_size_shape_and_residual(fwhm, size_error, residual):
    image, x, y, flux, profile = field(fwhm, n=16 if fwhm < 9 else 9)
    model = build_psf(image, np.column_stack([x, y]), background=0.0)
    true = truth_of(profile, model.size)
    assert model.fwhm == pytest.approx(true.fwhm, rel=size_error)
    assert np.hypot(model.e1 - true.e1, model.e2 - true.e2) < 0.006
    assert model.ellipticity == pytest.approx(true.ellipticity, abs=0.01)
    assert abs(model.position_angle - true.position_angle) < 5
    # A star that was not used, at a known place.
    star = draw(profile, [60.27], [59.61], [FLUX], (121, 121))
    inside = star[59 - model.size // 2 :, 59 - model.size // 2 :][: model.size, : model.size]
    left = model.subtract(star, 60.27, 59.61, inside.sum())
    assert np.abs(left).max() / star.max() < residual
    np.testing.assert_allclose(model.stars[:, :2], np.column_stack([x, y]))
    assert np.median(model.stars[:, 2] / flux) == pytest.approx(1.0, abs=0.02)


def test_position_comes_back_to_two_hundredths(sky, psf):
    profile = sky[4]
    for x, y in ((30.0, 30.0), (30.37, 29.71), (29.55, 30.49)):
        star = draw(profile, [x], [y], [FLUX], (61, 61))

        def miss(p, star=star):
            return (star - psf.render(p[0], p[1], p[2] * FLUX, (61, 61)))[20:41, 20:41].ravel()

        fit = least_squares(miss, [30.0, 30.0, 0.9], x_scale=[0.1, 0.1, 0.1]).x
        assert np.hypot(fit[0] - x, fit[1] - y) < 0.02
        assert fit[2] == pytest.approx(1.0, abs=0.02)


def test_centroid_of_a_rendered_star(psf):
    assert np.hypot(psf.shape.x, psf.shape.y) < 0.01


def test_frame_table_and_provenance(sky, tmp_path):
    image, x, y, _, _ = sky
    frame = Frame(
        data=image.astype(np.float32) + 200,
        mask=np.zeros(image.shape, bool),
        name="nuit étoilée.fits",
        sha256="ab" * 32,
    )
    table = Table({"x": x, "y": y})
    table["selected"] = np.arange(len(x)) < 10
    table["reserved"] = np.arange(len(x)) < 2
    model = build_psf(frame, table)
    assert len(model.stars) == 8
    assert model.meta["frame_sha256"] == "ab" * 32
    path = tmp_path / "psf.fits"
    model.save(path)
    header = fits.getheader(path)
    assert header["FRAME"] == "nuit \\xe9toil\\xe9e.fits"
    assert header["NSTARS"] == 8
    assert header["FWHM"] == pytest.approx(model.fwhm)
    assert header["XSTAR0"] == pytest.approx(x[2] + 1)


def test_build_prints_nothing_and_is_quick(sky, capfd):
    image, x, y, _, _ = sky
    start = time.process_time()
    build_psf(image, np.column_stack([x, y]))
    assert time.process_time() - start < 6  # about 0.6 s; the release takes 15
    out, err = capfd.readouterr()
    assert out == err == ""


def test_stars_left_out_are_counted(sky):
    image, x, y, _, _ = sky
    mask = np.zeros(image.shape, bool)
    mask[round(y[0]), round(x[0]) + 1] = True
    places = np.column_stack([x, y])[:6]
    places = np.vstack([places, [3.0, 200.0]])
    with pytest.warns(AstropyUserWarning, match="2 of 7 stars.*1 within .* edge.*1 masked"):
        model = build_psf(np.ma.array(image, mask=mask), places, background=0.0)
    assert len(model.stars) == 5
    assert model.meta["n_left_out"] == 2


@pytest.mark.parametrize("everywhere", [False, True])
def test_masked_pixels_do_not_poison_the_table(sky, psf, everywhere):
    image, x, y, _, _ = sky
    spoilt, mask = image.copy(), np.zeros(image.shape, bool)
    for k in range(16 if everywhere else 3):
        column = round(x[k]) + (6 if k % 2 else -7)
        spoilt[:, column] = 6e4
        mask[:, column] = True
        spoilt[round(y[k]) + 6, round(x[k])] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyUserWarning)
        model = build_psf(
            np.ma.array(spoilt, mask=mask), np.column_stack([x, y]), background=0.0, size=psf.size
        )
    assert model.fwhm == pytest.approx(psf.fwhm, rel=0.005)
    difference = model.render(0, 0) - psf.render(0, 0)
    assert np.abs(difference).max() < 0.01 * psf.render(0, 0).max()


@pytest.mark.parametrize("at", [(-19, -19), (19, 17), (0, 19), (8, 0)])
def test_hot_pixels_are_struck_wherever_they_are(sky, at):
    image, x, y, _, _ = sky
    spoilt = image.copy()
    spoilt[round(y[6]) + at[0], round(x[6]) + at[1]] = 3e4
    stars = np.column_stack([x, y])[4:10]
    model = build_psf(spoilt, stars, background=0.0, size=41)
    same = build_psf(image, stars, background=0.0, size=41)
    difference = model.render(0, 0) - same.render(0, 0)
    assert np.abs(difference).max() < 6e-3 * same.render(0, 0).max()  # 0.5 where it is not


def test_one_star_makes_a_psf(sky):
    image, x, y, _, _ = sky
    model = build_psf(image, [[x[5], y[5]]], background=0.0, size=31)
    assert model.size == 31
    assert model.fwhm == pytest.approx(truth_of(sky[4], 31).fwhm, rel=0.03)


def test_what_cannot_be_built_says_why(sky):
    image, x, y, _, _ = sky
    places = np.column_stack([x, y])
    with pytest.raises(PSFError, match="list is empty"):
        build_psf(image, np.zeros((0, 2)))
    with pytest.raises(PSFError, match="none of the 16 stars of the table is selected"):
        build_psf(image, Table({"x": x, "y": y, "selected": np.zeros(16, bool)}))
    with pytest.raises(PSFError, match=r"no star is left.*1 within 17 pixels of the edge"):
        build_psf(image, [[2.0, 2.0]], size=31, background=0.0)
    with pytest.raises(PSFError, match="light above the background"):
        build_psf(np.zeros((200, 200)), [[100.0, 100.0]], background=0.0)
    with pytest.raises(InputError, match="2 star positions are not finite; the first is number 1"):
        build_psf(image, np.where(np.isin(np.arange(16), [1, 4])[:, None], np.nan, places))
    with pytest.raises(InputError, match="off the frame of 480 x 480"):
        build_psf(image, places + np.array([0.0, 300.0]))
    with pytest.raises(InputError, match="needs columns x and y"):
        build_psf(image, Table({"X": x}))
    with pytest.raises(InputError, match="odd number"):
        build_psf(image, places, size=30)
    with pytest.raises(InputError, match="rep_fact"):
        build_psf(image, places, rep_fact=4)
    with pytest.raises(InputError, match="'mesh'"):
        build_psf(image, places, background="median")


# --- trails -------------------------------------------------------------------------------------


@pytest.mark.parametrize("angle", [0.0, 37.0, 63.0, 90.0, -80.0])
def test_trail_is_the_mean_of_many_stars(angle):
    model = simple(size=41)
    moving = model.trail(rate=60.0, angle=angle, exposure=360.0, pixel_scale=0.5)  # 12 pixels
    along = ((np.arange(200) + 0.5) / 200 - 0.5) * 12
    a = np.deg2rad(angle)
    stars = model.render(40.3 + along * np.cos(a), 39.8 + along * np.sin(a), 1 / 200, (81, 81))
    ours = moving.render(40.3, 39.8, 1.0, (81, 81))
    assert np.abs(ours - stars).max() < 0.003 * stars.max()
    assert ours.sum() == pytest.approx(1.0)
    planted = border.plant(moving.trippy, np.zeros((81, 81)), 40.3, 39.8, 1.0, trailed=True)
    assert np.abs(planted - stars).max() < 0.01 * stars.max()
    live = moving.trippy
    assert (live.rate, live.angle, live.dt, live.pixScale) == (60.0, angle, 0.1, 0.5)
    assert live.longpsf.shape == (41, 41)
    assert model.motion is None


def test_trail_takes_quantities_and_names_what_is_wrong(tmp_path):
    model = simple(size=41)
    plain = model.trail(30.0, 20.0, 600.0, 0.5)
    with_units = model.trail(
        0.5 * u.arcsec / u.min, (20 * u.deg).to(u.rad), 10 * u.min, 0.5 * u.arcsec / u.pix
    )
    np.testing.assert_allclose(with_units.motion, plain.motion)
    with pytest.raises(InputError, match="rate must be"):
        model.trail(3 * u.m, 0.0, 1.0, 1.0)
    with pytest.raises(InputError, match="does not fit a PSF of 41 pixels"):
        model.trail(3600.0, 0.0, 100.0, 1.0)
    with pytest.raises(InputError, match="must not be negative"):
        model.trail(-1.0, 0.0, 100.0, 1.0)
    plain.save(tmp_path / "t.fits")
    again = PSFModel.load(tmp_path / "t.fits")
    assert again.motion == plain.motion
    np.testing.assert_allclose(again.oversampled, plain.oversampled)


@given(st.floats(0, 80), st.floats(-180, 180))
@settings(max_examples=50, deadline=None)
def test_line_kernel_keeps_light_centre_and_length(length, angle):
    kernel = line_kernel(length, angle)
    y, x = np.indices(kernel.shape)
    x, y = x - kernel.shape[1] // 2, y - kernel.shape[0] // 2
    assert kernel.sum() == pytest.approx(1)
    assert (kernel * x).sum() == pytest.approx(0, abs=1e-9)
    assert (kernel * y).sum() == pytest.approx(0, abs=1e-9)
    assert (kernel * (x**2 + y**2)).sum() == pytest.approx(length**2 / 12, abs=0.6)


# --- files --------------------------------------------------------------------------------------


@given(
    st.sampled_from([3, 5, 10]),
    st.sampled_from([15, 21]),
    st.floats(1, 8),
    st.floats(1.5, 6),
    st.integers(0, 12),
)
@settings(max_examples=15, deadline=None)
def test_save_and_load_round_trip(tmp_path_factory, rep, size, alpha, beta, stars):
    model = simple(size, rep, alpha, beta, stars=stars)
    path = tmp_path_factory.mktemp("psf") / "a.fits.model.fits"
    model.save(path)
    again = PSFModel.load(path)
    np.testing.assert_array_equal(again.lookup_table, model.lookup_table)
    np.testing.assert_allclose(again.stars, model.stars, rtol=1e-12)
    assert (again.rep_fact, again.size) == (rep, size)
    assert (again.alpha, again.beta) == pytest.approx((alpha, beta))
    assert list(path.parent.iterdir()) == [path]


def test_file_is_the_one_that_trippy_writes(psf, tmp_path):
    psf.save(tmp_path / "ours.fits")
    psf.trippy.psfStore(str(tmp_path / "theirs.fits"), psfV2=True)
    with fits.open(tmp_path / "ours.fits") as a, fits.open(tmp_path / "theirs.fits") as b:
        assert len(a) == len(b) == 3
        for ours, theirs in zip(a, b, strict=True):
            np.testing.assert_array_equal(ours.data, theirs.data)
            assert ours.data.dtype == theirs.data.dtype
        assert set(b[0].header) <= set(a[0].header)
        for name, value in b[0].header.items():
            if isinstance(value, float):
                assert a[0].header[name] == pytest.approx(value, rel=1e-9), name
            elif name not in ("RATE", "ANGLE", "DT", "PIXSCALE"):
                assert a[0].header[name] == value, name


def test_trippy_restores_our_file(psf, tmp_path, capsys):
    # Its own file of a PSF that does not move holds None, on which its own restore fails.
    psf.save(tmp_path / "ours.fits")
    live = border.load_trippy().psf.modelPSF(restore=str(tmp_path / "ours.fits"))
    np.testing.assert_array_equal(live.lookupTable, psf.lookup_table)
    assert (live.alpha, live.beta) == (psf.alpha, psf.beta)
    capsys.readouterr()  # it prints


def test_saturated_stars_are_left_out(sky):
    image, x, y, _, _ = sky
    peak = image[int(y[0] + 0.5), int(x[0] + 0.5)]
    frame = read_frame(image, gain=1.0, saturation=float(peak) * 0.999)
    with pytest.warns(AstropyUserWarning, match="masked at the core"):
        build_psf(frame, Table({"x": x, "y": y}))


@pytest.mark.parametrize("version_2", [False, True])
def test_files_of_trippy_are_read(psf, tmp_path, version_2):
    live = border.new_psf(psf.size, psf.alpha, psf.beta, 10, psf.lookup_table)
    live.psfStars = [[11.0, 21.0, 3.0]]
    live.A = 1.0
    live.psfStore(str(tmp_path / "old.fits"), psfV2=version_2)
    model = PSFModel.load(tmp_path / "old.fits")
    np.testing.assert_array_equal(model.oversampled, psf.oversampled)
    np.testing.assert_array_equal(model.stars[:, :2], [[10.0, 20.0]])
    model.save(tmp_path / "again.fits")  # though it knows no fluxes
    np.testing.assert_array_equal(PSFModel.load(tmp_path / "again.fits").stars[:, 0], [10.0])


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ModelFileError, match="no file"):
        PSFModel.load(tmp_path / "none.fits")
    (tmp_path / "text.fits").write_text("no FITS")
    with pytest.raises(ModelFileError):
        PSFModel.load(tmp_path / "text.fits")
    fits.PrimaryHDU(np.zeros((50, 50))).writeto(tmp_path / "image.fits")
    with pytest.raises(ModelFileError, match="1 HDUs"):
        PSFModel.load(tmp_path / "image.fits")
    three = [fits.PrimaryHDU(np.zeros((50, 50))), fits.ImageHDU(), fits.ImageHDU()]
    fits.HDUList(three).writeto(tmp_path / "three.fits")
    with pytest.raises(ModelFileError, match="REPFACT"):
        PSFModel.load(tmp_path / "three.fits")
    three[0].header.update({"REPFACT": 10, "ALPHA": 3.0, "BETA": 3.0})
    fits.HDUList(three).writeto(tmp_path / "odd.fits")  # 5 pixels: this one is a PSF
    assert PSFModel.load(tmp_path / "odd.fits").size == 5
    whole = (tmp_path / "odd.fits").read_bytes()
    (tmp_path / "cut.fits").write_bytes(whole[:9000])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ModelFileError):
            PSFModel.load(tmp_path / "cut.fits")


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    model = simple()
    with pytest.raises(OutputError, match="does its folder exist"):
        model.save(tmp_path / "nowhere" / "psf.fits")
    path = tmp_path / "psf.model"
    model.save(path)
    before = path.read_bytes()
    with pytest.raises(OutputError, match="exists"):
        model.save(path, overwrite=False)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OutputError, match="disk full"):
        simple(seed=5).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_model_is_a_value(psf):
    with pytest.raises(AttributeError):
        psf.alpha = 3.0
    with pytest.raises(ValueError, match="read-only"):
        psf.lookup_table[0, 0] = 1.0
    with pytest.raises(ValueError, match="read-only"):
        psf.oversampled[0, 0] = 1.0
    before = psf.oversampled.copy()
    psf.trippy.lookupTable[:] = 0
    again = pickle.loads(pickle.dumps(psf))
    np.testing.assert_array_equal(again.oversampled, before)
    assert dict(again.meta) == dict(psf.meta)
    del psf.__dict__["trippy"]  # spoilt above
    with pytest.raises(InputError, match="odd number of pixels"):
        PSFModel(np.zeros((200, 200)), 3.0, 3.0)
    with pytest.raises(InputError, match="beta > 1"):
        PSFModel(np.zeros((210, 210)), 3.0, 1.0)
    with pytest.raises(PSFError, match="not finite"):
        PSFModel(np.full((210, 210), np.nan), 3.0, 3.0)


def test_stars_of_another_frame_are_noticed(sky):
    image, x, y, _, _ = sky
    stars = Table({"x": x, "y": y}, meta={"frame": "other.fits", "frame_sha256": "0" * 64})
    with pytest.warns(AstropyUserWarning, match="chosen on other.fits, whose pixels are not"):
        build_psf(read_frame(image), stars, background=0.0)
