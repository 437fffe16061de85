"""The quality of a PSF: by stars that it was not made from, and by the truth."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from mlpsf.errors import InputError, PSFError
from mlpsf.frames.frame import Frame
from mlpsf.psf import PSFModel
from mlpsf.psf.quality.judge import SIZE_LIMIT, adaptive_moments, against_truth, psf_quality

GAIN, SKY, NOISE = 3.0, 200.0, 8.0
SHAPE = (420, 420)
NOTHING = np.zeros((410, 410))


class Stretched:
    """A PSF model drawn longer along x by a factor: no `PSFModel`, but it draws stars."""

    def __init__(self, factor, alpha=3.4):
        self.factor, self.alpha = factor, alpha

    def stamps(self, x_offset, y_offset, size):
        fine = (np.arange(3 * size) - (3 * size - 1) / 2) / 3
        dx, dy = (np.atleast_1d(np.asarray(v, float)) for v in (x_offset, y_offset))
        u = (fine - dx[:, None])[:, None, :] / self.factor
        v = (fine - dy[:, None])[:, :, None] * self.factor
        light = (1 + (u**2 + v**2) / self.alpha**2) ** -3.0
        return light.reshape(-1, size, 3, size, 3).sum(axis=(2, 4)) / (4.5 * np.pi * self.alpha**2)


def model(alpha=3.4):
    return PSFModel(NOTHING, alpha, 3.0)


def stars_frame(psf, seed=1, flux=2e5, widen=None, variance=False):
    """A grid of stars that the PSF draws, with noise; their places, half of them reserved."""
    rng = np.random.default_rng(seed)
    y, x = (v.ravel() + rng.uniform(-0.5, 0.5, 36) for v in np.mgrid[:6, :6] * 66.0 + 45)
    light = np.full(SHAPE, SKY)
    for i, (a, b) in enumerate(zip(x, y, strict=True)):
        drawn = psf if widen is None else widen(a, b)
        j, k = round(b), round(a)
        stamp = flux * (0.5 + i / 36) * drawn.stamps([a - k], [b - j], 41)[0]
        light[j - 20 : j + 21, k - 20 : k + 21] += stamp
    spread = np.sqrt(NOISE**2 + (light - SKY) / GAIN)
    frame = Frame(
        data=(light + rng.normal(0, spread)).astype(np.float32),
        mask=np.zeros(SHAPE, bool),
        gain=GAIN,
        saturation=1e6,
        variance=(spread**2).astype(np.float32) if variance else None,
        header=fits.Header(),
    )
    table = Table({"x": x, "y": y})
    table["selected"] = np.arange(36) % 2 == 0
    table["reserved"] = ~table["selected"]
    return frame, table


@pytest.fixture(scope="module")
def clean():
    return stars_frame(model())


@pytest.fixture(scope="module")
def judged(clean):
    return psf_quality(clean[0], model(), clean[1])


def test_a_right_psf_passes_on_its_reserve_stars(judged):
    assert judged.n_stars == 18
    assert judged.reserved
    assert abs(judged.size_residual) < 4 * judged.size_error < 0.01
    assert judged.ellipticity_residual < 5 * judged.e_error < 0.01
    assert abs(judged.flux_residual) < 4 * judged.flux_error < 0.01
    assert 0.85 < judged.chi_square < 1.15
    assert judged.residual_peak < 0.01
    assert judged.score < 1
    assert judged.passes()
    assert not judged.passes(0.01, strict=True)  # so few stars cannot tell that


def test_fits_find_place_and_flux(judged, clean):
    reserve = clean[1][clean[1]["reserved"]]
    flux = 2e5 * (0.5 + np.flatnonzero(clean[1]["reserved"]) / 36)
    np.testing.assert_allclose(judged.stars["x"], reserve["x"], atol=0.03)
    np.testing.assert_allclose(judged.stars["y"], reserve["y"], atol=0.03)
    np.testing.assert_allclose(judged.stars["flux"], flux, rtol=0.01)
    assert (judged.stars["snr"] > 200).all()


@pytest.mark.parametrize("factor", [0.97, 1.03])
def test_a_psf_of_the_wrong_width_fails_by_as_much_as_the_truth_says(clean, factor):
    wrong = model(3.4 * factor)
    quality = psf_quality(clean[0], wrong, clean[1])
    truth = against_truth(wrong, model().render(20, 20, shape=(41, 41)))
    assert np.sign(quality.size_residual) == np.sign(factor - 1)
    # T_psf / T_star - 1 of the truth, 1 - T_star / T_psf of the stars.
    expected = 1 - 1 / (1 + truth.size_residual)
    assert quality.size_residual == pytest.approx(expected, abs=5 * quality.size_error + 0.002)
    assert quality.flux_residual == pytest.approx(truth.flux_residual, abs=0.005)
    assert not quality.passes()
    assert not truth.passes()
    assert quality.chi_square > 1.5
    assert np.isnan(truth.chi_square)
    assert truth.score == pytest.approx(abs(truth.size_residual) / SIZE_LIMIT)


def test_a_psf_longer_along_x_than_the_stars_has_a_positive_e1_residual(clean):
    long = Stretched(1.02)
    quality = psf_quality(clean[0], long, clean[1])
    truth = against_truth(long, model().render(20, 20, shape=(41, 41)))
    assert truth.e1_residual == pytest.approx(0.04, abs=0.01)
    assert quality.e1_residual == pytest.approx(truth.e1_residual, abs=5 * quality.e_error)
    assert abs(quality.e2_residual) < 0.01


def test_only_reserve_stars_judge(clean):
    frame, table = clean
    spoilt = table.copy()
    chosen = np.flatnonzero(spoilt["selected"])
    spoilt["x"][chosen] += 1e4  # off the frame
    assert psf_quality(frame, model(), spoilt).n_stars == 18
    own = psf_quality(frame, model(), table["x", "y", "selected"])
    assert own.n_stars == 18
    assert not own.reserved
    assert "own" in repr(own)
    places = np.column_stack([table["x"], table["y"]])
    assert psf_quality(frame, model(), places).n_stars == 36


def test_masked_and_saturated_pixels_do_not_count(clean):
    frame, table = clean
    data, mask = frame.data.copy(), frame.mask.copy()
    reserve = table[table["reserved"]]
    for x, y in zip(reserve["x"], reserve["y"], strict=True):
        row, column = round(y), round(x) + 4
        data[row, column] = 5e5
        mask[row, column] = True
    last = round(reserve["y"][-1]), round(reserve["x"][-1])
    data[last] = 2e6
    hurt = Frame(data=data, mask=mask, gain=GAIN, saturation=1e6, header=fits.Header())
    quality = psf_quality(hurt, model(), table)
    assert quality.n_stars == 17
    assert quality.passes()
    assert 0.8 < quality.chi_square < 1.2


def test_a_variance_plane_holds_the_stars_noise():
    frame, table = stars_frame(model(), variance=True)
    assert 0.8 < psf_quality(frame, model(), table).chi_square < 1.15


def test_growth_and_aperture_corrections(judged):
    truth = against_truth(model(), model().render(20, 20, shape=(41, 41)))
    k = np.searchsorted(judged.radii, 4.0)
    # Moffat: 1 - (1 + (r / alpha)**2)**(1 - beta), widened by the pixel, of what the box holds.
    moffat = 1 - (1 + (4.0 / 3.4) ** 2) ** -2
    assert judged.growth[k] == pytest.approx(moffat, abs=0.03)
    np.testing.assert_allclose(judged.measured_growth, judged.growth, atol=0.01)
    assert (np.diff(judged.growth) > 0).all()
    assert truth.growth[-1] <= 1
    correction, error = judged.aperture_correction([2.0, 4.0])
    assert correction[0] < correction[1] < 0
    assert (error < 0.02).all()
    assert correction[1] == pytest.approx(2.5 * np.log10(judged.growth[k]))
    with pytest.raises(InputError, match="radius must be"):
        judged.aperture_correction(100.0)


def test_maps_follow_a_psf_that_varies():
    def wider(x, _):
        return model(3.4 * (1 + 0.1 * (x / 420 - 0.5)))

    frame, table = stars_frame(model(), widen=wider)
    quality = psf_quality(frame, model(), table)
    left, right = quality.fwhm_map[:, 0].mean(), quality.fwhm_map[:, -1].mean()
    width = model().fwhm
    assert left == pytest.approx(width * 0.955, rel=0.01)
    assert right == pytest.approx(width * 1.045, rel=0.01)
    assert quality.map_x[-1] == 419
    assert quality.fwhm_map.shape == (9, 9)
    assert (quality.ellipticity_map < 0.03).all()
    few = psf_quality(frame, model(), np.column_stack([table["x"], table["y"]])[:4], grid=3)
    assert np.ptp(few.fwhm_map) == pytest.approx(0)


def test_the_truth_itself_is_perfect():
    quality = against_truth(model(), 7 * model().render(20, 20, shape=(41, 41)))
    assert quality.score == pytest.approx(0, abs=1e-9)
    assert quality.residual_peak < 1e-12
    assert quality.score_error == 0
    assert quality.passes(1e-6, strict=True)
    assert "the truth" in repr(quality)


def test_table_and_repr(judged):
    row = judged.to_table()
    assert len(row) == 1
    assert row["score"][0] == judged.score
    assert "18 reserve stars" in repr(judged)
    assert "dT/T" in repr(judged)


def test_moments_are_those_of_galsim():
    galsim = pytest.importorskip("galsim")
    image = (
        galsim.Moffat(beta=3, fwhm=4.2).shear(g1=0.05, g2=-0.03).drawImage(nx=51, ny=51, scale=1.0)
    )
    found = galsim.hsm.FindAdaptiveMom(image)
    x, y, t, e1, e2 = adaptive_moments(image.array[None], 2.0)[0]
    e = found.observed_shape
    assert (e1, e2) == pytest.approx((e.e1, e.e2), abs=1e-4)
    assert t == pytest.approx(2 * found.moments_sigma**2 / np.sqrt(1 - e.e**2), rel=1e-4)
    assert max(abs(x), abs(y)) < 1e-3
    assert np.isnan(adaptive_moments(-image.array[None], 2.0)).all()


@pytest.mark.parametrize(
    ("stars", "error", "words"),
    [
        (np.zeros((0, 2)), PSFError, "list is empty"),
        ([[np.nan, 4.0]], InputError, "finite"),
        ([1.0, 2.0], InputError, "array"),
        ([[5000.0, 20.0]], PSFError, "None of 1 stars"),
        (Table({"x": [1.0]}), InputError, "columns x and y"),
    ],
)
def test_wrong_stars(clean, stars, error, words):
    with pytest.raises(error, match=words):
        psf_quality(clean[0], model(), stars)


def test_wrong_stamps_and_grids(clean):
    for stamp in (np.ones((4, 4)), np.ones(5), np.full((5, 5), np.nan)):
        with pytest.raises(InputError, match="square, odd"):
            against_truth(model(), stamp)
    with pytest.raises(InputError, match="light"):
        against_truth(model(), np.zeros((5, 5)))
    with pytest.raises(InputError, match="grid"):
        psf_quality(clean[0], model(), clean[1], grid=0)
