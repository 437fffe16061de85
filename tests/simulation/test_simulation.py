"""Simulated frames: the pixels hold what the truth says, and nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import maximum_filter, rotate

from mlpsf.errors import InputError, MissingPackageError, OutputError
from mlpsf.frames.estimation import noise_correlation
from mlpsf.frames.io.reading import read_frame

pytest.importorskip("galsim")

from mlpsf.simulation import TELESCOPES, Defect, random_parameters, simulate_frame
from mlpsf.simulation import detector as camera
from mlpsf.simulation.profiles import half_maximum_shape, segmented_pupil

CLEAN = {
    "n_galaxies": 0,
    "cosmic_rays": 0,
    "bad_columns": 0,
    "hot_pixels": 0,
    "sky_gradient": 0.0,
}
"""No objects but the stars given, and no defects."""

NOISELESS = {**CLEAN, "sky": 1.0, "gain": 1e4, "read_noise": 0.0, "saturation": 1e9}
"""So many electrons per ADU that noise is far under the flux of the stars used with it."""


def grid_of_stars(fwhm, flux=1e6, n=6, seed=1):
    """Give stars of one flux, far apart, each with another sub-pixel position."""
    step = int(14 * fwhm) + 10
    y, x = np.mgrid[:n, :n] * float(step) + step / 2
    offset = np.random.default_rng(seed).uniform(-0.5, 0.5, (2, n, n))
    stars = np.stack([x + offset[0], y + offset[1], np.full((n, n), flux)], axis=-1)
    return stars.reshape(-1, 3), (n * step, n * step)


def half_maximum(simulated, stars, fwhm):
    """Measure the contour at half maximum from the pixels of many stars: FWHM, e1, e2.

    The pixels of stars at many sub-pixel phases sample the effective PSF finely; a local
    quadratic in the offset gives the peak, rays of interpolated light the contour.
    """
    data = simulated.frame.data.astype(float) - simulated.sky
    rows, columns = np.indices(data.shape)
    dx, dy, value = [], [], []
    for x, y, flux in stars:
        near = (abs(columns - x) < 1.5 * fwhm) & (abs(rows - y) < 1.5 * fwhm)
        dx.append(columns[near] - x)
        dy.append(rows[near] - y)
        value.append(data[near] / flux)
    dx, dy, value = map(np.concatenate, (dx, dy, value))
    core = np.hypot(dx, dy) < 0.3 * fwhm
    terms = np.stack([dx**i * dy**j for i in range(5) for j in range(5 - i)])
    peak = np.linalg.lstsq(terms[:, core].T, value[core], rcond=None)[0][0]
    # On a narrow ring about half maximum, log(value) is linear in log(radius).
    angle = np.arctan2(dy, dx)
    radius = np.hypot(dx, dy)
    ring = abs(np.log(value.clip(1e-9) / (peak / 2))) < 0.5
    shape = [np.ones(ring.sum()), np.log(value[ring] / (peak / 2))]
    shape += [f(k * angle[ring]) for k in (2, 4) for f in (np.cos, np.sin)]
    shape += [shape[1] ** 2, *(shape[1] * s for s in shape[2:4])]
    fit = np.linalg.lstsq(np.stack(shape, axis=-1), np.log(radius[ring]), rcond=None)[0]
    theta = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    logarithm = fit[0] + sum(
        c * f(k * theta)
        for c, (k, f) in zip(
            fit[2:6], [(2, np.cos), (2, np.sin), (4, np.cos), (4, np.sin)], strict=True
        )
    )
    r = np.exp(logarithm)
    q = [np.mean(r**4 * f) for f in (np.cos(theta) ** 2, np.sin(theta) ** 2)]
    q.append(np.mean(r**4 * np.sin(theta) * np.cos(theta)))
    norm = q[0] + q[1] + 2 * np.sqrt(q[0] * q[1] - q[2] ** 2)
    return 2 * np.sqrt(np.mean(r**2)), (q[0] - q[1]) / norm, 2 * q[2] / norm


@pytest.fixture(scope="module")
def field():
    """Draw a frame with everything in it."""
    return simulate_frame(
        shape=(300, 400),
        n_stars=60,
        n_galaxies=60,
        n_pairs=5,
        psf_variation=0.1,
        flux_range=(500, 1e7),
        star_slope=0.3,
        cosmic_rays=10,
        ghosts=1,
        edge=5,
        holes=2,
        seed=11,
    )


def test_truth_is_complete(field):
    truth = field.truth
    assert set(truth.colnames) == {
        *("id", "x", "y", "flux", "kind", "half_light_radius", "pair_id"),
        *("saturated", "fwhm", "e1", "e2"),
    }
    assert list(truth["id"]) == list(range(len(truth)))
    stars = truth[truth["kind"] == "star"]
    galaxies = truth[truth["kind"] == "galaxy"]
    assert (len(stars), len(galaxies)) == (65, 60)
    assert (stars["half_light_radius"] == 0).all()
    assert (galaxies["half_light_radius"] > 0).all()
    assert (galaxies["pair_id"] == -1).all()
    paired = stars[stars["pair_id"] >= 0]
    for number in range(5):
        a, b = paired[paired["pair_id"] == number]
        apart = np.hypot(a["x"] - b["x"], a["y"] - b["y"]) / field.psf.fwhm
        assert 0.5 <= apart <= 2.5


def test_frame_is_a_frame(field):
    frame = field.frame
    assert frame.data.shape == frame.mask.shape == field.defects.shape == field.sky.shape
    assert frame.data.dtype == field.sky.dtype == np.float32
    assert frame.mask.dtype == bool
    assert field.defects.dtype == np.uint8
    assert np.isfinite(frame.data).all()
    assert (frame.data[frame.mask] == 0).all()
    assert frame.sha256 == read_frame(frame.data).sha256
    assert frame.wcs.wcs_pix2world(199.5, 149.5, 0) == pytest.approx([150.0, 2.2])
    scale = frame.wcs.proj_plane_pixel_scales()[0].to_value("arcsec")
    assert scale == pytest.approx(0.168)
    assert any("fwhm = 4.0" in line for line in frame.header["HISTORY"])
    assert any("seed = 11" in line for line in frame.header["HISTORY"])


def test_defects_agree_with_pixels(field):
    data, defects = field.frame.data, field.defects
    clipped = data >= field.frame.saturation
    assert clipped.any()
    np.testing.assert_array_equal((defects & Defect.SATURATED) > 0, clipped)
    assert data.max() == np.float32(field.frame.saturation)
    np.testing.assert_array_equal((defects & Defect.NO_DATA) > 0, field.frame.mask)
    assert field.frame.mask[:5].all()
    for flag in (Defect.COSMIC_RAY, Defect.BAD_COLUMN, Defect.HOT_PIXEL, Defect.BLEED):
        assert (defects & flag).any(), flag
    rows, columns = np.nonzero(clipped)
    for star in field.truth:
        nearest = np.hypot(columns - star["x"], rows - star["y"]).min()
        assert star["saturated"] == (nearest <= star["fwhm"])


def test_seed_repeats_and_differs():
    words = {"shape": (64, 80), "n_stars": 10, "n_galaxies": 10, "psf_variation": 0.1}
    first, again, other = (simulate_frame(**words, seed=seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.frame.data, again.frame.data)
    np.testing.assert_array_equal(first.defects, again.defects)
    assert (first.truth == again.truth).all()
    assert first.frame.sha256 != other.frame.sha256
    assert not np.array_equal(first.truth["x"], other.truth["x"])


@pytest.mark.parametrize("make", [np.random.SeedSequence, np.random.default_rng])
def test_other_seeds(make):
    words = {"shape": (32, 32), "n_stars": 3, "n_galaxies": 0}
    first, again = (simulate_frame(**words, seed=make(8)) for _ in range(2))
    assert first.frame.sha256 == again.frame.sha256
    source = make(8)
    simulate_frame(**words, seed=source)
    second = simulate_frame(**words, seed=source)
    # A generator moves on, a seed sequence is a value.
    assert (second.frame.sha256 == first.frame.sha256) == (make is np.random.SeedSequence)


def test_global_random_state_is_left_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    simulate_frame(shape=(32, 32), n_stars=3, n_galaxies=3)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_effects_have_their_own_random_numbers():
    words = {**CLEAN, "shape": (64, 64), "n_stars": 5, "seed": 3}
    plain = simulate_frame(**words)
    struck = simulate_frame(**{**words, "cosmic_rays": 5})
    differs = plain.frame.data != struck.frame.data
    assert differs.any()
    assert (struck.defects[differs] & Defect.COSMIC_RAY).all()


@pytest.mark.parametrize("psf", ["moffat", "kolmogorov", "gaussian", "optical"])
def test_centroid_and_flux(psf):
    x, y, flux = 120.3, 119.6, 3e6
    simulated = simulate_frame(
        shape=(240, 240), psf=psf, stars=[(x, y, flux)], **{**NOISELESS, "gain": 100.0}
    )
    light = simulated.frame.data.astype(float) - simulated.sky
    cut = light[100:141, 100:141]
    rows, columns = np.mgrid[100:141, 100:141]
    wx, wy = 120.0, 120.0
    for _ in range(30):
        weight = cut * np.exp(-0.5 * ((columns - wx) ** 2 + (rows - wy) ** 2) / 1.7**2)
        wx += 2 * (weight * (columns - wx)).sum() / weight.sum()
        wy += 2 * (weight * (rows - wy)).sum() / weight.sum()
    assert (wx, wy) == pytest.approx((x, y), abs=0.002 if psf != "optical" else 0.02)
    # Kolmogorov wings hold 0.3 percent outside of the frame, diffraction more.
    assert light.sum() == pytest.approx(flux, rel=0.005 if psf != "optical" else 0.02)


@pytest.mark.parametrize("fwhm", [1.6, 1.8, 4.0, 9.0])
@pytest.mark.parametrize("psf", ["moffat", "kolmogorov", "gaussian", "optical"])
def test_fwhm_in_the_pixels(psf, fwhm):
    stars, shape = grid_of_stars(fwhm, n=8 if fwhm < 3 else 4)
    simulated = simulate_frame(shape=shape, psf=psf, fwhm=fwhm, stars=stars, **NOISELESS)
    measured, _, _ = half_maximum(simulated, stars, fwhm)
    assert simulated.psf.fwhm == pytest.approx(fwhm, rel=0.001)
    assert measured == pytest.approx(fwhm, rel=0.01)


@pytest.mark.parametrize(("e1", "e2"), [(0.2, 0.0), (-0.1, 0.15), (0.0, -0.3)])
def test_ellipticity(e1, e2):
    stars, shape = grid_of_stars(6.0, n=4)
    simulated = simulate_frame(shape=shape, fwhm=6.0, e1=e1, e2=e2, stars=stars, **NOISELESS)
    fwhm, *measured = half_maximum(simulated, stars, 6.0)
    assert fwhm == pytest.approx(6.0, rel=0.01)
    assert measured == pytest.approx([simulated.psf.e1, simulated.psf.e2], abs=0.01)
    # The square pixel makes it a little rounder than the light was.
    assert (simulated.psf.e1, simulated.psf.e2) == pytest.approx((e1, e2), abs=0.015)


def test_trail_points_along_its_angle():
    psf = simulate_frame(
        shape=(64, 64), fwhm=5.0, trail=5.0, trail_angle=45.0, stars=[], **CLEAN, seed=1
    ).psf
    assert psf.fwhm == pytest.approx(5.0, rel=0.001)
    assert psf.e1 == pytest.approx(0, abs=0.01)
    assert psf.e2 > 0.1


def test_pixels_are_those_of_galsim():
    galsim = pytest.importorskip("galsim")
    stars = [(40.27, 38.81, 1e6)]
    light = galsim.Moffat(beta=3.0, fwhm=3.8).shear(g1=0.1, g2=0.05)
    drawn = light.shift(0.27, -0.19).drawImage(nx=41, ny=41, scale=1.0, dtype=float).array
    # The FWHM in the pixels is what simulate_frame takes: that of this very profile.
    fine = galsim.Convolve(light, galsim.Pixel(1.0)).drawImage(
        nx=161, ny=161, scale=0.1, method="no_pixel"
    )
    fwhm = half_maximum_shape(fine.array)[0] / 10
    simulated = simulate_frame(
        shape=(80, 80), fwhm=fwhm, e1=0.1, e2=0.05, stars=stars, **NOISELESS, seed=1
    )
    ours = (simulated.frame.data - simulated.sky)[19:60, 20:61] / 1e6
    assert abs(ours - drawn).max() < 1e-3 * drawn.max()


def test_galaxies_are_those_of_galsim():
    galsim = pytest.importorskip("galsim")
    from mlpsf.simulation.objects import draw_galaxies
    from mlpsf.simulation.psf_making import make_psf

    psf = make_psf(
        (81, 81),
        kind="gaussian",
        fwhm=3.0,
        beta=3.0,
        e1=0.0,
        e2=0.0,
        trail=0.0,
        trail_angle=0.0,
        variation=0.0,
        optics=None,
        contrast=1e-6,
        rng=np.random.default_rng(1),
    )
    sigma = 3.0 / 2.3548
    beam = galsim.Gaussian(sigma=np.sqrt(sigma**2 - 1 / 12))
    for sersic, g1, g2 in ((1.0, 0.3, -0.1), (2.5, -0.2, 0.2), (4.0, 0.0, 0.1)):
        galaxy = Table(
            {
                "x": [40.3],
                "y": [39.6],
                "flux": [1.0],
                "half_light_radius": [2.5],
                "g1": [g1],
                "g2": [g2],
                "bulge": [0.0],
                "sersic": [sersic],
            }
        )
        image = np.zeros((81, 81), np.float32)
        draw_galaxies(image, galaxy, psf, 1e-6)
        light = galsim.Sersic(sersic, half_light_radius=2.5).shear(g1=g1, g2=g2)
        both = galsim.Convolve(light, beam).shift(0.3, -0.4)
        expected = both.drawImage(nx=81, ny=81, scale=1.0, dtype=float).array
        # To the accuracy to which the beam, pixel and all, is a Gaussian.
        assert abs(image - expected).max() < 5e-3 * expected.max()


def test_half_light_radius_of_bulge_and_disc():
    galsim = pytest.importorskip("galsim")
    from mlpsf.simulation.objects import _half_light_in_discs

    disc = galsim.Exponential(half_light_radius=1.0)
    bulge = galsim.Sersic(4.0, half_light_radius=0.4)
    assert _half_light_in_discs(0.0) == pytest.approx(1.0, rel=1e-3)
    assert _half_light_in_discs(1.0) == pytest.approx(0.4, rel=1e-3)
    assert bulge.half_light_radius < _half_light_in_discs(0.5) < disc.half_light_radius


def test_wings_reach_into_the_noise():
    # A star of 1e7 ADU, and where its stamp ends: no step above a tenth of the sky noise.
    simulated = simulate_frame(
        shape=(400, 400),
        stars=[(200, 200, 1e7)],
        psf="kolmogorov",
        **{**CLEAN, "saturation": 1e9, "read_noise": 0.0},
        seed=1,
    )
    psf = simulated.psf
    noise = np.sqrt(200 / 3)
    radius = int(psf.radius_for(0.1 * noise / 1e7))
    stamp = psf.stamp(200, 200, size=2 * radius + 1)
    assert radius > 50
    edges = max(stamp[0].max(), stamp[-1].max(), stamp[:, 0].max(), stamp[:, -1].max())
    assert edges * 1e7 <= 0.12 * noise


def test_psf_stamp_is_what_was_drawn():
    x, y, flux = 51.4, 47.8, 1e6
    simulated = simulate_frame(
        shape=(100, 100), stars=[(x, y, flux)], psf_variation=0.2, **NOISELESS, seed=4
    )
    stamp = simulated.psf.stamp(x, y, size=31, offset=(0.4, -0.2))
    drawn = (simulated.frame.data - simulated.sky)[33:64, 36:67] / flux
    assert abs(drawn - stamp).max() < 1e-3 * stamp.max()
    fine = simulated.psf.stamp(x, y, size=93, oversample=3)
    assert fine.sum() == pytest.approx(stamp.sum(), rel=0.005)
    assert np.unravel_index(fine.argmax(), fine.shape) == (46, 46)
    assert stamp.sum() == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("words", [{"size": 10}, {"size": -3}, {"oversample": 0}])
def test_psf_stamp_refuses(field, words):
    with pytest.raises(InputError, match=next(iter(words))):
        field.psf.stamp(10, 10, **words)


def test_psf_varies_as_the_truth_says():
    n = 40
    stars, shape = grid_of_stars(4.0, n=8)
    simulated = simulate_frame(shape=shape, psf_variation=0.2, stars=stars, **NOISELESS, seed=2)
    fwhm = np.asarray(simulated.truth["fwhm"])
    assert 0.1 < np.ptp(fwhm) / 4.0 <= 0.21
    assert np.ptp(simulated.truth["e1"]) > 0.03
    data = simulated.frame.data - simulated.sky
    broad, narrow = np.argmax(fwhm), np.argmin(fwhm)
    for row in (broad, narrow):
        x, y, flux = stars[row]
        column, line = round(x), round(y)
        stamp = simulated.psf.stamp(x, y, size=n + 1, offset=(x - column, y - line))
        drawn = data[line - n // 2 : line + n // 2 + 1, column - n // 2 : column + n // 2 + 1]
        assert abs(drawn / flux - stamp).max() < 1e-3 * stamp.max()
    constant = simulate_frame(shape=(64, 64), stars=[], **CLEAN)
    assert constant.psf.n_nodes == 1


@pytest.mark.parametrize(("gain", "read_noise", "sky"), [(0.5, 12.0, 50.0), (3.0, 4.0, 900.0)])
def test_noise_is_that_of_sky_and_readout(gain, read_noise, sky):
    simulated = simulate_frame(
        shape=(256, 256),
        stars=[],
        **{**CLEAN, "sky": sky},
        gain=gain,
        read_noise=read_noise,
        seed=1,
    )
    expected = sky / gain + (read_noise / gain) ** 2
    residual = simulated.frame.data - simulated.sky
    assert residual.var() == pytest.approx(expected, rel=0.03)
    assert residual.mean() == pytest.approx(0, abs=4 * np.sqrt(expected) / 256)


def test_resampling_correlates_the_noise():
    words = {**CLEAN, "shape": (256, 256), "stars": [], "seed": 1}
    plain, stacked = (
        (f.frame.data - f.sky).astype(float)
        for f in (simulate_frame(**words, resampling=r) for r in (0.0, 0.3))
    )

    def correlation(noise):
        return np.mean(noise[:, 1:] * noise[:, :-1]) / noise.var()

    assert correlation(plain) == pytest.approx(0, abs=0.02)
    # Weights 0.7 and 0.3: 0.21 / 0.58 from pixel to pixel, 0.58**2 of the variance left.
    assert correlation(stacked) == pytest.approx(0.21 / 0.58, abs=0.02)
    assert stacked.var() / plain.var() == pytest.approx(0.58**2, rel=0.03)


def test_sky_gradient_vignetting_and_steps():
    words = {**CLEAN, "shape": (64, 128), "stars": [(30.0, 20.0, 1e4)], "seed": 1}
    flat = simulate_frame(**words)
    assert np.ptp(flat.sky) == 0
    tilted = simulate_frame(**{**words, "sky_gradient": 0.2})
    assert 0.05 < np.ptp(tilted.sky) / 200 < 0.3
    dimmed = simulate_frame(**{**words, "vignetting": 0.3})
    assert dimmed.sky[0, 0] == pytest.approx(200 * 0.7, rel=1e-3)
    assert dimmed.truth["flux"][0] < 1e4
    steps = simulate_frame(**{**words, "sky_step": 5.0})
    assert len(np.unique(steps.sky[0])) == 4
    stack = simulate_frame(**{**words, "subtract_sky": True})
    assert np.median(stack.frame.data) == pytest.approx(0, abs=1)
    assert stack.frame.saturation == pytest.approx(60000 - 200)
    np.testing.assert_allclose(stack.frame.data - stack.sky, flat.frame.data - flat.sky, atol=0.01)


def test_integer():
    data = simulate_frame(shape=(64, 64), n_stars=5, n_galaxies=5, integer=True, seed=1).frame.data
    np.testing.assert_array_equal(data, np.rint(data))


def test_bleeding_spills_along_columns():
    words = {**CLEAN, "shape": (200, 60), "stars": [(30, 100, 2e7)], "seed": 1}
    bled = simulate_frame(**words)
    clipped = simulate_frame(**words, bleeding=False)
    rows = {
        name: np.ptp(np.nonzero(frame.defects & Defect.SATURATED)[0])
        for name, frame in (("bled", bled), ("clipped", clipped))
    }
    columns = {
        name: np.ptp(np.nonzero(frame.defects & Defect.SATURATED)[1])
        for name, frame in (("bled", bled), ("clipped", clipped))
    }
    assert rows["bled"] > 2 * rows["clipped"]
    assert columns["bled"] == columns["clipped"]
    assert not (clipped.defects & Defect.BLEED).any()
    assert bled.truth["saturated"][0]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 400), min_size=8, max_size=8), st.floats(50, 500))
def test_bleeding_conserves_charge(column, full_well):
    image = np.zeros((400, 1), np.float32)
    image[196:204, 0] = column
    before = float(image.sum(dtype=float))
    camera.bleed(image, np.zeros(image.shape, np.uint8), full_well)
    assert image.sum(dtype=float) == pytest.approx(before, rel=1e-5, abs=1e-3)
    assert image.max() <= full_well * (1 + 1e-6)


def test_brighter_fatter_broadens_and_conserves():
    image = simulate_frame(
        shape=(64, 64), stars=[(32, 32, 3e5)], **{**NOISELESS, "gain": 1.0}, seed=1
    ).frame.data.copy()
    before = image.copy()
    camera.brighter_fatter(image, 3e-7, 1e5)
    assert image.sum(dtype=float) == pytest.approx(before.sum(dtype=float), rel=1e-5)
    assert image[32, 32] < before[32, 32]


def test_given_stars_are_drawn_and_others_not():
    stars = [(10.0, 20.0, 1e4), (40.5, 30.25, 2e4)]
    truth = simulate_frame(shape=(64, 64), stars=stars, **CLEAN, seed=1).truth
    np.testing.assert_array_equal(np.column_stack([truth[n] for n in ("x", "y", "flux")]), stars)
    empty = simulate_frame(shape=(64, 64), n_stars=0, **CLEAN, seed=1)
    assert len(empty.truth) == 0


def test_cluster_is_crowded():
    words = {**CLEAN, "shape": (256, 256), "n_stars": 300, "n_pairs": 0, "seed": 1}
    field, cluster = (
        simulate_frame(**words, clustering=c, cluster_radius=20.0).truth for c in (0.0, 0.9)
    )

    def densest(truth):
        return np.histogram2d(truth["x"], truth["y"], bins=8)[0].max()

    assert densest(cluster) > 4 * densest(field)


def test_write_round_trip(field, tmp_path):
    path = tmp_path / "simulated.fits"
    field.write(path)
    assert [p.name for p in tmp_path.iterdir()] == ["simulated.fits"]
    with fits.open(path) as units:
        np.testing.assert_array_equal(np.isnan(units[0].data), field.frame.mask)
        np.testing.assert_array_equal(units["DEFECTS"].data, field.defects)
        np.testing.assert_array_equal(units["SKY"].data, field.sky)
        assert units["DEFECTS"].header["GHOST"] == Defect.GHOST
    truth = Table.read(path, hdu="TRUTH")
    for name in field.truth.colnames:
        np.testing.assert_array_equal(truth[name], field.truth[name])
    frame = read_frame(path)
    np.testing.assert_array_equal(frame.data, field.frame.data)
    np.testing.assert_array_equal(frame.mask, field.frame.mask)
    assert frame.sha256 == field.frame.sha256
    assert frame.gain == field.frame.gain
    assert frame.saturation == field.frame.saturation
    assert frame.read_noise == field.frame.read_noise


def test_write_is_whole_or_not_at_all(field, tmp_path, monkeypatch):
    path = tmp_path / "simulated.fits"
    path.write_text("old")
    with pytest.raises(OutputError, match="overwrite"):
        field.write(path, overwrite=False)

    def fail(_units, stream):
        stream.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(fits.HDUList, "writeto", fail)
    with pytest.raises(OutputError, match="disk full"):
        field.write(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    with pytest.raises(OutputError, match="cannot write"):
        field.write(Path(tmp_path) / "nowhere" / "simulated.fits")


@pytest.mark.parametrize("number", range(20))
def test_random_telescopes(number):
    parameters = random_parameters(np.random.default_rng(number), shape=(256, 256))
    simulated = simulate_frame(**parameters, seed=number)
    frame = simulated.frame
    assert frame.data.shape == (256, 256)
    assert np.isfinite(frame.data).all()
    assert np.isfinite([simulated.truth[n] for n in ("x", "y", "flux", "fwhm", "e1", "e2")]).all()
    np.testing.assert_array_equal(frame.mask, (simulated.defects & Defect.NO_DATA) > 0)
    assert (frame.mask.any()) == (parameters["edge"] > 0 or parameters["holes"] > 0)
    assert simulated.psf.fwhm == pytest.approx(parameters["fwhm"], rel=0.31)
    assert np.hypot(simulated.psf.e1, simulated.psf.e2) < 0.5


@pytest.mark.parametrize("kind", TELESCOPES)
@pytest.mark.parametrize("number", range(3))
def test_special_telescopes(kind, number):
    parameters = random_parameters(np.random.default_rng(number), (200, 200), kind)
    simulated = simulate_frame(**parameters | {"n_galaxies": 5}, seed=number)
    assert np.isfinite(simulated.frame.data).all()
    assert np.isfinite(simulated.truth["fwhm"]).all()


def test_unknown_telescope():
    with pytest.raises(InputError, match=r"kind must be one of common, space.*'radio'"):
        random_parameters(np.random.default_rng(0), kind="radio")


def test_second_image():
    star = {"shape": (64, 64), "stars": [(30, 30, 1e5)], **NOISELESS, "seed": 1}
    one, two = (simulate_frame(**star, double=d).frame.data for d in (None, (12.0, 4.0, 0.5)))
    one, two = one - np.median(one), two - np.median(two)
    again = np.roll(one, (4, 12), (0, 1))
    inner = (slice(20, 45), slice(20, 50))
    expected = (one + 0.5 * again)[inner] / 1.5
    np.testing.assert_allclose(two[inner], expected, atol=0.003 * one.max())


def test_plate_saturates_slowly():
    star = {"shape": (64, 64), "stars": [(30, 30, 1e5)], **NOISELESS, "seed": 1}
    linear, plate = (simulate_frame(**star, plate=p) for p in (0.0, 5000.0))
    light = linear.frame.data - linear.sky
    expected = plate.sky + 5000 * (1 - np.exp(-light / 5000))
    np.testing.assert_allclose(plate.frame.data, expected, atol=1.0)
    assert plate.defects[30, 30] & Defect.SATURATED
    assert not linear.defects.any()


def test_drizzle_correlates_noise_and_spreads_rays():
    words = {"shape": (256, 256), "n_stars": 0, "n_galaxies": 0, "seed": 2}
    words |= {"cosmic_rays": 0, "bad_columns": 0, "sky_gradient": 0.0}
    plain, spread = (simulate_frame(**words, hot_pixels=3, drizzle=d, drop=1.0) for d in (0.0, 2.0))
    (plain_noise, noise) = (s.frame.data - s.sky for s in (plain, spread))
    assert noise_correlation(plain_noise, plain.frame.mask) == pytest.approx(1, abs=0.1)
    assert noise_correlation(noise, spread.frame.mask) > 1.8
    hot = [(s.defects & Defect.HOT_PIXEL) > 0 for s in (plain, spread)]
    np.testing.assert_array_equal(hot[1], maximum_filter(hot[0], size=3))
    assert noise[hot[1]].sum() == pytest.approx(plain_noise[hot[0]].sum(), rel=0.1)


def test_variation_is_in_the_logarithm():
    psf = simulate_frame(
        shape=(64, 64), n_stars=0, n_galaxies=0, fwhm=6.0, psf_variation=1.0, seed=5
    ).psf
    x, y = (v.ravel() for v in np.meshgrid(np.linspace(-0.5, 63.5, 4), np.linspace(-0.5, 63.5, 4)))
    fwhm, e1, e2 = psf.shape_at(x, y)
    assert np.log(fwhm.max() / fwhm.min()) == pytest.approx(1.0, abs=0.01)
    assert max(np.ptp(e1), np.ptp(e2)) < 0.3


def test_true_shape_is_that_of_the_drawn_image_between_nodes():
    psf = simulate_frame(
        shape=(64, 64), n_stars=0, n_galaxies=0, fwhm=4.0, psf_variation=0.7, seed=2
    ).psf
    for x, y in np.random.default_rng(3).uniform(0, 63, (6, 2)):
        fwhm, *shear = half_maximum_shape(psf.stamp(x, y, size=241, oversample=12))
        assert float(psf.shape_at(x, y)[0]) == pytest.approx(fwhm / 12, rel=0.01)
        np.testing.assert_allclose(np.array(psf.shape_at(x, y))[1:], shear, atol=0.01)


def test_segmented_pupil_has_six_sides():
    pupil = segmented_pupil(2, 0, 0.0, 0.0)
    assert pupil[256, 256] == 0  # the segment in the middle is missing
    third = rotate(pupil, 60, reshape=False, order=1)
    assert np.mean(np.abs(third - pupil) > 0.5) < 0.01


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_random_parameters_are_in_range(seed):
    p = random_parameters(np.random.default_rng(seed))
    assert 1.5 <= p["fwhm"] <= 12
    assert 0.1 <= p["pixel_scale"] <= 4
    assert 0.5 <= p["gain"] <= 10
    assert np.hypot(p["e1"], p["e2"]) <= 0.3 + 1e-9
    assert p["n_pairs"] <= p["n_stars"]
    assert p["saturation"] > p["sky"]
    assert p == random_parameters(np.random.default_rng(seed))


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ({"shape": (8, 100)}, "shape must be"),
        ({"psf": "airy"}, "psf must be one of moffat.*airy"),
        ({"fwhm": 0.9}, "fwhm must be a number from 1.2"),
        ({"psf_variation": 9.0}, "psf_variation .--variation. must be a number"),
        ({"fwhm": float("nan")}, "fwhm must be"),
        ({"gain": "2"}, "gain must be a number"),
        ({"n_stars": 2.5}, "n_stars .--stars. must be a whole number"),
        ({"n_stars": 5, "n_pairs": 6}, "n_pairs must be at most n_stars, 5"),
        ({"flux_range": (10, 1)}, "flux_range must be"),
        ({"stars": [(1, 2)]}, "stars must be"),
        ({"stars": [(1, 2, -3)]}, "flux > 0"),
        ({"edge": 40}, "edge must leave"),
        ({"sky": 1e6}, "saturation must be above the sky"),
        ({"e1": 0.6, "e2": 0.6}, "e1, e2"),
        ({"centre": (10.0, 91.0)}, "centre must be"),
        ({"psf": "optical", "optics": {"comma": 1}}, "optics may hold.*comma"),
        ({"fwhm": 2.0, "trail": 30.0}, "no profile has a FWHM"),
        ({"double": (3.0, 1.0, 0.0)}, "double must be"),
        ({"drizzle": 0.5}, "drizzle must be 0, or 1 and more"),
        ({"seed": -1}, "seed must be"),
        ({"seed": "a"}, "seed must be"),
    ],
)
def test_bad_parameters(words, match):
    with pytest.raises(InputError, match=match):
        simulate_frame(**{"shape": (64, 64), "n_stars": 2, "n_galaxies": 0, **words})


def test_without_galsim(monkeypatch):
    monkeypatch.setitem(sys.modules, "galsim", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'mlpsf\[simulation\]'"):
        simulate_frame(shape=(64, 64), n_stars=1, n_galaxies=0)
