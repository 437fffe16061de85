"""Cutouts: which pixels they hold, what resampling keeps, how values are scaled."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from mlpsf.errors import InputError
from mlpsf.frames.background import measure_background
from mlpsf.frames.cutouts import Cutouts, extract_cutouts, nearest_pixels, psf_size
from mlpsf.frames.io.reading import read_frame
from mlpsf.stacks.moments import FWHM_PER_SIGMA, gaussian_moments
from mlpsf.stacks.values import as_cutouts, sky_and_noise
from mlpsf.stamps.scaling import CutoutScaler

DTYPES = ("u1", "i2", "u2", "i4", "f4", "f8")
ODD = st.integers(1, 20).map(lambda n: 2 * n + 1)


def image_of(dtype="f4", order="=", shape=(40, 50), seed=0):
    values = np.random.default_rng(seed).integers(1, 100, shape)
    return values.astype(np.dtype(dtype).newbyteorder(order))


# --- the frame's own pixels


@settings(max_examples=80, deadline=None)
@given(
    size=ODD,
    dtype=st.sampled_from(DTYPES),
    order=st.sampled_from("<>"),
    x=st.floats(-0.49, 49.49),
    y=st.floats(-0.49, 39.49),
)
def test_pixels_are_those_of_the_frame(size, dtype, order, x, y):
    image = image_of(dtype, order)
    image.setflags(write=False)
    cut = extract_cutouts(image, [x], [y], size)
    assert cut.data.shape == (1, size, size)
    assert cut.data.dtype == np.float32
    assert cut.data.dtype.isnative
    half = size // 2
    padded = np.pad(image.astype(np.float32), half, constant_values=np.nan)
    column, row = int(np.rint(x)), int(np.rint(y))
    np.testing.assert_array_equal(cut.data[0], padded[row : row + size, column : column + size])
    assert (cut.x0[0], cut.y0[0]) == (column, row)
    assert abs(cut.x[0] - cut.x0[0]) <= 0.5
    assert cut.scale == 1
    assert cut.near_edge[0] == np.isnan(cut.data).any()


@settings(max_examples=40, deadline=None)
@given(
    dx=st.integers(0, 9),
    dy=st.integers(0, 9),
    x=st.floats(12, 25).filter(lambda x: abs(x % 1 - 0.5) > 1e-9),  # halves are rounded to even
    y=st.floats(12, 25).filter(lambda y: abs(y % 1 - 0.5) > 1e-9),
    fwhm=st.one_of(st.none(), st.floats(2, 5)),
)
def test_whole_pixel_shifts_shift_nothing(dx, dy, x, y, fwhm):
    image = image_of("f4", shape=(60, 60))
    moved = image[9 - dy :, 9 - dx :]
    one = extract_cutouts(image, [x + 9], [y + 9], 9, fwhm=fwhm)
    other = extract_cutouts(moved, [x + dx], [y + dy], 9, fwhm=fwhm)
    np.testing.assert_allclose(one.data, other.data, rtol=1e-4, atol=1e-3)


@settings(max_examples=40, deadline=None)
@given(
    x=st.floats(0, 39), y=st.floats(0, 29), size=ODD, seed=st.integers(0, 5), as_nan=st.booleans()
)
def test_nan_exactly_where_masked_or_off_the_frame(x, y, size, seed, as_nan):
    image = image_of("f8", shape=(30, 40), seed=seed)
    bad = np.random.default_rng(seed).random(image.shape) < 0.1
    if as_nan:
        image[bad] = np.nan
        frame = read_frame(image)
    else:
        frame = read_frame(image, mask=bad)
    half = size // 2
    missing = np.pad(bad, half, constant_values=True)
    row, column = int(np.rint(y)), int(np.rint(x))
    expected = missing[row : row + size, column : column + size]
    cut = extract_cutouts(frame, [x], [y], size)
    np.testing.assert_array_equal(np.isnan(cut.data[0]), expected)
    # A masked pixel is no edge.
    inside = half <= row <= 29 - half and half <= column <= 39 - half
    assert cut.near_edge[0] == (not inside)


def test_background():
    image = image_of("f4")
    level = image_of("f4", seed=1)
    plane = extract_cutouts(image, [20], [20], 7, background=level)
    np.testing.assert_array_equal(plane.data[0], (image - level)[17:24, 17:24])
    number = extract_cutouts(image, [20], [20], 7, background=3.5)
    np.testing.assert_array_equal(number.data[0], image[17:24, 17:24] - 3.5)


@settings(max_examples=40, deadline=None)
@given(
    xy=st.lists(st.tuples(st.floats(0, 49), st.floats(0, 39)), min_size=1, max_size=8),
    size=ODD,
    plane=st.booleans(),
    dtype=st.sampled_from(["i2", "f4"]),
)
def test_over_the_edge_a_background_is_subtracted_too(xy, size, plane, dtype):
    # Inside and outside in one call; cutouts that are larger than the frame.
    image = image_of(dtype)
    level = image_of("f4", seed=1) if plane else 3.5
    x, y = np.array(xy).T
    cut = extract_cutouts(image, x, y, size, background=level)
    half = size // 2
    padded = np.pad((image - level).astype(np.float32), half, constant_values=np.nan)
    for i in range(len(xy)):
        row, column = int(np.rint(y[i])), int(np.rint(x[i]))
        expected = padded[row : row + size, column : column + size]
        np.testing.assert_allclose(cut.data[i], expected, rtol=1e-6)


def test_a_pixel_of_no_value_is_missing():
    image = image_of("f8")
    image[20, 20], image[21, 21] = np.inf, np.nan
    for background in (0.0, np.ones(image.shape)):
        missing = np.isnan(extract_cutouts(image, [20], [20], 5, background=background).data[0])
        assert np.argwhere(missing).tolist() == [[2, 2], [3, 3]]


def test_edge_is_flagged_and_not_lost():
    image = image_of("f4")
    x, y = [2.0, 47.0, 25.0, 25.0, 25.0], [20.0, 20.0, 2.0, 37.0, 20.0]
    for fwhm in (None, 3.0, 6.0):
        cut = extract_cutouts(image, x, y, 11, fwhm=fwhm)
        assert len(cut) == 5
        assert cut.near_edge.tolist() == [True] * 4 + [False]
        assert np.isfinite(cut.data[:, 5, 5]).all()
        assert np.isnan(cut.data[:4]).any(axis=(1, 2)).all()
        assert np.isfinite(cut.data[4]).all()


def test_input_is_not_changed():
    image = image_of("f8")
    x = np.array([3.3, 44.0])
    before = image.copy(), x.copy()
    cut = extract_cutouts(image, x, x / 2, 9, background=7.0)
    cut.data[:] = 0
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(x, before[1])


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.5])
def test_the_edge_is_half_a_cutout_away(scale):
    # 5 pixels to each side of the centre, of the size of the cutout's pixels.
    image, reach = image_of("f4"), 5 * scale
    x = np.array([reach, reach - 0.01, 49 - reach, 49.01 - reach, 25.0, 25.0, 25.0, 25.0])
    y = np.array([20.0, 20.0, 20.0, 20.0, reach, reach - 0.01, 39 - reach, 39.01 - reach])
    cut = extract_cutouts(image, x, y, 11, fwhm=4 * scale)
    assert cut.near_edge.tolist() == 4 * [False, True]
    np.testing.assert_array_equal(cut.x0, x)
    if scale == 1:
        plain = extract_cutouts(image, np.rint(x) - [0, 1, 0, -1, 0, 0, 0, 0], np.rint(y), 11)
        assert plain.near_edge.tolist() == [False, True, False, True] + 4 * [False]


def test_more_sources_than_are_resampled_at_once():
    image, rng = image_of("f4"), np.random.default_rng(0)
    x, y = rng.uniform(8, 40, 1100), rng.uniform(8, 30, 1100)
    together = extract_cutouts(image, x, y, 3, fwhm=5.0)
    for rows in (slice(0, 3), slice(510, 514), slice(1022, 1026), slice(1097, 1100)):
        alone = extract_cutouts(image, x[rows], y[rows], 3, fwhm=5.0)
        np.testing.assert_allclose(together.data[rows], alone.data, rtol=1e-5)


def test_no_sources_no_cutouts():
    assert extract_cutouts(image_of(), [], []).data.shape == (0, 111, 111)
    assert extract_cutouts(image_of(), [], [], 9).data.shape == (0, 9, 9)
    assert extract_cutouts(image_of(), [], [], 9, fwhm=3.0).data.shape == (0, 9, 9)


# --- resampled


def gaussians(fwhm, side, seed=0, n=3):
    """Draw stars of peak 1000, far apart, at sub-pixel positions."""
    step = int(10 * fwhm) + 10
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:n, :n] * float(step) + step / 2
    x, y = (v.ravel() + rng.uniform(-0.5, 0.5, n * n) for v in (x, y))
    v, u = np.mgrid[: n * step, : n * step]
    image = np.zeros(u.shape)
    for x0, y0 in zip(x, y, strict=True):
        r2 = (u - x0) ** 2 + (v - y0) ** 2
        image += 1000 * np.exp(-0.5 * r2 * (FWHM_PER_SIGMA / fwhm) ** 2)
    return image, x, y, side


@pytest.mark.parametrize("fwhm", [2.0, 2.5, 3.0, 4.0, 5.5, 7.0, 10.0])
def test_resampling_brings_the_fwhm_to_four(fwhm):
    image, x, y, size = gaussians(fwhm, 33)
    cut = extract_cutouts(image, x, y, size, fwhm=fwhm)
    m = gaussian_moments(cut.data)
    # Cubic convolution blurs what is undersampled: at a FWHM of 2 pixels by 5 %.
    np.testing.assert_allclose(m.fwhm, 4.0, rtol=0.03 if fwhm > 2 else 0.06)
    assert np.abs([m.dx, m.dy]).max() < 0.02
    assert m.ellipticity.max() < 0.02
    assert cut.scale == pytest.approx(fwhm / 4)
    # Surface brightness, so the same light in (4 / fwhm)^2 times the pixels.
    light = 1000 * 2 * np.pi * (fwhm / FWHM_PER_SIGMA) ** 2
    np.testing.assert_allclose(cut.data.sum(axis=(1, 2)) * cut.scale**2, light, rtol=0.01)
    np.testing.assert_array_equal(cut.x0, x)


@pytest.mark.parametrize("fwhm", [2.5, 4.0, 7.0, 10.0])
def test_resampled_simulated_stars_look_alike(star_field, fwhm):
    simulated = star_field(fwhm)
    truth = simulated.truth
    level = measure_background(simulated.frame).level
    cut = extract_cutouts(simulated.frame, truth["x"], truth["y"], 41, fwhm=fwhm, background=level)
    assert not cut.near_edge.any()
    m = gaussian_moments(cut.data)
    # The moments of a Moffat profile of FWHM 4; one figure for all seeing.
    np.testing.assert_allclose(m.fwhm, 4.53, rtol=0.03)
    assert np.abs([m.dx, m.dy]).max() < 0.05


@settings(max_examples=40, deadline=None)
@given(
    level=st.floats(-1e3, 1e5), fwhm=st.floats(1.5, 12), x=st.floats(60, 90), y=st.floats(60, 90)
)
def test_resampling_keeps_a_flat_sky(level, fwhm, x, y):
    cut = extract_cutouts(np.full((150, 150), level), [x], [y], 21, fwhm=fwhm)
    np.testing.assert_allclose(cut.data, level, rtol=1e-5, atol=1e-3)


def test_resampled_masked_pixels():
    image = np.ones((80, 80))
    mask = np.zeros(image.shape, bool)
    mask[40:43, 46:49] = True
    mask[10, 10] = True
    cut = extract_cutouts(
        read_frame(image + image_of(shape=(80, 80)), mask=mask), [40], [40], 21, fwhm=4.0
    )
    missing = np.isnan(cut.data[0])
    np.testing.assert_array_equal(missing, mask[30:51, 30:51])


@pytest.mark.parametrize("fwhm", [2.0, 4.0, 8.0])
def test_resampling_is_cubic_convolution(fwhm):
    # Keys's kernel, wider where pixels are averaged; on one axis, beside a constant other.
    def kernel(u):
        u = np.abs(u)
        inner, outer = 1.5 * u**3 - 2.5 * u**2 + 1, -0.5 * u**3 + 2.5 * u**2 - 4 * u + 2
        return np.where(u < 1, inner, np.where(u < 2, outer, 0.0))

    row = np.random.default_rng(3).uniform(1, 100, 90)
    scale, x = fwhm / 4, 44.3
    wanted = x + scale * np.arange(-5, 6)
    weight = kernel((np.arange(90) - wanted[:, None]) / max(scale, 1))
    expected = weight @ row / weight.sum(axis=1)
    for turned in (False, True):
        image = np.broadcast_to(row, (90, 90))
        cut = extract_cutouts(image.T if turned else image, [x], [x], 11, fwhm=fwhm).data[0]
        np.testing.assert_allclose(cut[:, 4] if turned else cut[7], expected, rtol=1e-5)


def test_a_quarter_of_the_weight_may_be_missing():
    image, mask = np.full((60, 60), 7.0), np.zeros((60, 60), bool)
    mask[30, 30] = True
    frame = read_frame(image + 0.01 * image_of(shape=image.shape), mask=mask)
    # Of the weights on one axis, the two next ones at 0.5, 0.45 and 0.3 pixels off are 0.56 twice,
    # 0.63 and 0.49, 0.82 and 0.29. Both axes multiply.
    for x, y, lost in (
        (30.0, 30.0, 1), (30.5, 30.0, 2), (30.0, 30.5, 2), (30.5, 30.5, 4), (30.45, 30.45, 3),
        (30.3, 30.3, 1), (30.0, 30.3, 2),
    ):  # fmt: skip
        cut = extract_cutouts(frame, [x], [y], 5, fwhm=4.0).data[0]
        assert np.isnan(cut).sum() == lost


# --- the cutouts of an array


def test_cutouts_of_an_array():
    data = image_of("f8", shape=(4, 9, 9))
    cut = Cutouts.of(data, [3.4, 7.0, 1.0, 2.0], [2.6, 0.0, 1.0, 2.0])
    assert cut.data.dtype == np.float32
    assert cut.x0.tolist() == [3, 7, 1, 2]
    assert cut.y0.tolist() == [3, 0, 1, 2]
    assert cut.x[0] == 3.4
    assert (cut.scale, cut.homogenized) == (1.0, False)
    assert cut.near_edge.tolist() == 4 * [False]
    assert cut.positions == (cut.x, cut.y)
    assert Cutouts.of(data, homogenized=True).homogenized
    for x, y in ((None, None), ([1.0] * 4, None), (None, [1.0] * 4)):
        unknown = Cutouts.of(data, x, y)
        assert np.isnan([unknown.x, unknown.y, unknown.x0, unknown.y0]).all()
        assert unknown.positions == (None, None)


def test_some_of_the_cutouts():
    cut = extract_cutouts(image_of("f4"), [2.2, 20.0, 30.0], [9.0, 10.6, 11.0], 7, fwhm=3.0)
    for rows in (slice(1, 3), [2, 0], np.array([True, False, True])):
        some = cut[rows]
        for name in ("data", "x", "y", "x0", "y0", "near_edge"):
            np.testing.assert_array_equal(getattr(some, name), getattr(cut, name)[rows])
        assert some.scale == cut.scale
        assert not some.homogenized
        assert len(some) == 2


def test_cutouts_are_copied_where_numpy_asks():
    cut = Cutouts.of(np.zeros((2, 3, 3)))
    assert np.shares_memory(np.asarray(cut), cut.data)
    assert not np.shares_memory(np.array(cut), cut.data)
    with pytest.raises(AttributeError):
        cut.scale = 2.0
    # Two are the same only if they are one: pixels are compared by NumPy.
    assert len({cut, cut, cut[:]}) == 2


def test_nearest_pixels_are_on_the_frame():
    x, y = [-5.0, -0.4, 0.6, 3.4, 9.0], [9.0, 2.4, 1.6, -0.4, -5.0]
    row, column = nearest_pixels(x, y, (3, 5))
    assert row.tolist() == [2, 2, 2, 0, 0]
    assert column.tolist() == [0, 0, 1, 3, 4]


@pytest.mark.parametrize(
    ("fwhm", "side"),
    [(0.1, 31), (3.4, 31), (3.5, 33), (4.0, 37), (4.5, 41), (5.0, 45), (11.2, 101), (50.0, 101)],
)
def test_side_of_a_psf(fwhm, side):
    assert psf_size(fwhm) == side


# --- refusals


@pytest.mark.parametrize("size", [2, 10, 1, 0, -3, 10.5, "5", None])
def test_bad_size(size):
    with pytest.raises(InputError, match="'size' of cutouts must be an odd integer"):
        extract_cutouts(image_of(), [5], [5], size)


@pytest.mark.parametrize(("shape", "most"), [((40, 50), 1001), ((4, 600), 1201), ((510, 4), 1021)])
def test_the_largest_size(shape, most):
    image = image_of(shape=shape)
    assert extract_cutouts(image, [1], [2], most).data.shape == (1, most, most)
    with pytest.raises(InputError, match=f"odd integer from 3 to {most}. Got {most + 2}."):
        extract_cutouts(image, [1], [2], most + 2)


def test_a_frame_has_two_axes():
    with pytest.raises(InputError, match=r"two axes. Got an array of shape \(3, 40, 50\)"):
        extract_cutouts(image_of(shape=(3, 40, 50)), [5], [5], 5)


@pytest.mark.parametrize(
    ("x", "y", "match"),
    [
        ([1, 2], [1], "one length"),
        ([[1, 2]], [[1, 2]], "one length"),
        ([1, np.nan], [1, 2], "finite"),
        ([1, 2], [np.inf, 2], "finite"),
    ],
)
def test_bad_positions(x, y, match):
    with pytest.raises(InputError, match=match):
        extract_cutouts(image_of(), x, y, 5)


@pytest.mark.parametrize(
    "words",
    [
        {"fwhm": 0},
        {"fwhm": np.nan},
        {"fwhm": np.inf},
        {"fwhm": 3, "reference_fwhm": 0},
        {"fwhm": 3, "reference_fwhm": -4.0},
    ],
)
def test_bad_fwhm(words):
    with pytest.raises(InputError, match="must be positive"):
        extract_cutouts(image_of(), [5], [5], 5, **words)


@pytest.mark.parametrize("shape", [(3, 4, 5), (3, 17)])
def test_as_cutouts_refuses(shape):
    with pytest.raises(InputError, match="square"):
        as_cutouts(np.zeros(shape))


# --- sky and noise of a border


def test_sky_and_noise():
    rng = np.random.default_rng(1)
    cut = rng.normal(50, 4, (200, 31, 31))
    cut[:, 10:21, 10:21] += 1e4
    cut[::2, 0, 5:9] += 500  # a neighbour on the border
    sky, noise = sky_and_noise(cut)
    assert sky.mean() == pytest.approx(50, abs=0.3)
    assert noise.mean() == pytest.approx(4, rel=0.07)


def test_sky_of_nothing():
    cut = np.full((2, 15, 15), np.nan)
    cut[1, 7, 7] = 3.0
    sky, noise = sky_and_noise(cut)
    assert sky.tolist() == noise.tolist() == [0.0, 0.0]


# --- scaling


@pytest.fixture(scope="module")
def stamps():
    u = np.arange(21) - 10
    star = np.exp(-0.5 * (u**2 + u[:, None] ** 2) / 1.7**2)
    rng = np.random.default_rng(2)
    flux = 10 ** rng.uniform(2, 4, 30)
    return flux[:, None, None] * star + rng.normal(100, 2, (30, 21, 21))


@pytest.mark.parametrize("method", ["star", "standard"])
def test_scaler_keeps_the_shape(stamps, method):
    flat = stamps.reshape(30, -1)
    cube = CutoutScaler(method=method).fit_transform(stamps)
    rows = CutoutScaler(method=method).fit_transform(flat)
    assert cube.shape == stamps.shape
    assert rows.shape == flat.shape
    assert cube.dtype == np.float32
    np.testing.assert_allclose(rows, cube.reshape(30, -1), atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(factor=st.floats(0.1, 100), sky=st.floats(-100, 1000))
def test_star_scaling_is_blind_to_flux_and_sky(stamps, factor, sky):
    scaler = CutoutScaler().fit(stamps)
    one, other = scaler.transform(stamps), scaler.transform(factor * stamps + sky)
    np.testing.assert_allclose(one, other, atol=0.01)
    np.testing.assert_allclose(one[:, 10, 10], 1.0, atol=0.02)


def test_standard_scaling(stamps):
    scaler = CutoutScaler(method="standard").fit(stamps)
    out = scaler.transform(stamps)
    assert out.mean() == pytest.approx(0, abs=1e-3)
    assert out.std() == pytest.approx(1, abs=1e-3)
    assert scaler.mean_ == pytest.approx(stamps.mean(), rel=1e-5)


@pytest.mark.parametrize("method", ["star", "standard"])
def test_scaler_leaves_no_nan(stamps, method):
    holed = stamps.copy()
    holed[0, 3] = np.nan
    holed[1] = np.nan
    holed[2] = 5.0
    holed[3, 10, 10] = np.nan
    before = holed.copy()
    out = CutoutScaler(method=method).fit_transform(holed)
    assert np.isfinite(out).all()
    assert np.all(out[1] == 0)
    assert np.all(out[0, 3] == 0)
    np.testing.assert_array_equal(holed, before)


def test_scaler_in_scikit_learn(stamps):
    scaler = clone(CutoutScaler(method="standard", softening=0.1))
    assert scaler.get_params() == {"method": "standard", "softening": 0.1}
    with pytest.raises(NotFittedError):
        scaler.transform(stamps)
    with pytest.raises(InputError, match=r"'method' parameter.*'log'"):
        CutoutScaler(method="log").fit(stamps)


def test_cutouts_are_arrays_to_numpy_and_short_in_print():
    cut = extract_cutouts(np.arange(900.0).reshape(30, 30), [15.0], [14.0], 5)
    np.testing.assert_array_equal(np.asarray(cut), cut.data)
    assert np.asarray(cut, dtype=np.float64).dtype == np.float64
    assert repr(cut) == "<Cutouts: 1 of 5 x 5, 1 frame pixels a pixel>"


def test_each_cutout_at_its_own_scale():
    rng = np.random.default_rng(5)
    image = rng.normal(size=(90, 90))
    x, y = rng.uniform(0, 89, (2, 7))
    fwhm = rng.uniform(2, 9, 7)
    together = extract_cutouts(image, x, y, 15, fwhm=fwhm)
    for k in range(7):
        alone = extract_cutouts(image, x[k], y[k], 15, fwhm=fwhm[k])
        np.testing.assert_allclose(together.data[k], alone.data[0], atol=1e-5)
        assert together.near_edge[k] == alone.near_edge[0]
    with pytest.raises(InputError, match="one for all"):
        extract_cutouts(image, x, y, 15, fwhm=fwhm[:3])
