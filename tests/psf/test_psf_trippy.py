"""TRIPPy at work with the PSF of a frame: plant, remove, line, its files, and a moving source."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import simulate
from scipy.spatial import cKDTree

from mlpsf.psf import PSFModel, build_psf, psf_quality
from mlpsf.psf.trippy import border as border

SIDE = 1024
FLUX = 8e5
RATE, EXPOSURE, SCALE = 30.0, 360.0, 0.25  # arcsec / h, s, arcsec: 12 pixels
LENGTH = RATE * EXPOSURE / 3600 / SCALE


def observe(seed, kind):
    """Draw a frame and build the PSF of its 25 brightest lone, unsaturated stars."""
    sim = simulate(
        shape=(SIDE, SIDE),
        psf=kind,
        fwhm=4.0,
        e1=0.03,
        e2=-0.02,
        n_stars=250,
        n_galaxies=100,
        flux_range=(5e3, 6e5),
        cosmic_rays=0,
        hot_pixels=0,
        bad_columns=0,
        seed=seed,
    )
    truth = sim.truth
    places = np.column_stack([truth["x"], truth["y"]])
    good = (truth["kind"] == "star") & ~truth["saturated"]
    good &= (np.abs(places - SIDE / 2) < SIDE / 2 - 45).all(axis=1)
    good &= cKDTree(places).query(places, k=2)[0][:, 1] > 25
    stars = truth[good]
    return sim, build_psf(sim.frame, stars[np.argsort(-stars["flux"])][:25])


def empty_place(sim):
    """Place farthest from every source."""
    axis = np.arange(80.0, SIDE - 80, 5)
    places = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    sources = np.column_stack([sim.truth["x"], sim.truth["y"]])
    return places[np.argmax(cKDTree(sources).query(places)[0])]


def true_trail(sim, dx, dy, angle, size):
    """Light of a source of flux 1 that moves: the mean of many stars along its way."""
    along = ((np.arange(61) + 0.5) / 61 - 0.5) * LENGTH
    a = np.deg2rad(angle)
    ways = ((dx + v * np.cos(a), dy + v * np.sin(a)) for v in along)
    middle = (SIDE - 1) / 2
    return np.mean([sim.psf.stamp(middle, middle, size, offset=way) for way in ways], axis=0)


@pytest.fixture(scope="module")
def observed():
    return observe(2, "moffat")


def test_what_is_planted_is_a_star_and_can_be_removed(observed):
    sim, psf = observed
    live, before = psf.trippy, np.full((81, 81), 100.0)
    true = FLUX * sim.psf.stamp(500, 500, 81, offset=(0.2, -0.3))
    amplitude = FLUX / psf.flux_per_amplitude
    # A star at (40.2, 39.7): TRIPPy counts from the corner of the first pixel.
    planted = live.plant(40.7, 40.2, amplitude, before.copy(), addNoise=False)
    assert np.abs(planted - before - true).max() < 0.01 * true.max()
    np.testing.assert_allclose(live.remove(40.7, 40.2, amplitude, planted), before, atol=1e-6)
    left = live.remove(40.7, 40.2, amplitude, before + true) - before
    assert np.abs(left).max() < 0.01 * true.max()
    assert abs(left.sum()) < 0.003 * FLUX


@pytest.mark.parametrize("angle", [0.0, 35.0, -90.0])
def test_line_makes_the_trail_of_a_moving_source(observed, angle):
    sim, psf = observed
    live = PSFModel(psf.lookup_table, psf.alpha, psf.beta).trippy
    live.line(RATE, angle, EXPOSURE / 3600, pixScale=SCALE, verbose=False)
    true = FLUX * true_trail(sim, 0.1, 0.4, angle, 81)
    sky, amplitude = np.zeros((81, 81)), FLUX / psf.flux_per_amplitude
    planted = live.plant(40.6, 40.9, amplitude, sky.copy(), addNoise=False, useLinePSF=True)
    assert planted.sum() == pytest.approx(FLUX, rel=1e-3)
    assert np.abs(planted - true).max() < 0.015 * true.max()
    left = live.remove(40.6, 40.9, amplitude, planted, useLinePSF=True)
    assert np.abs(left).max() < 1e-6 * true.max()


def test_trippy_stores_and_restores_the_psf(observed, tmp_path, capsys):
    _, psf = observed
    moving = psf.trail(RATE, 35.0, EXPOSURE, SCALE)
    moving.trippy.psfStore(str(tmp_path / "theirs.fits"), psfV2=True)
    again = PSFModel.load(tmp_path / "theirs.fits")
    assert again.motion == moving.motion
    np.testing.assert_array_equal(again.lookup_table, psf.lookup_table)
    np.testing.assert_array_equal(again.oversampled, moving.oversampled)
    np.testing.assert_allclose(again.stars[:, :2], psf.stars[:, :2])

    psf.save(tmp_path / "ours.fits")
    sky = np.zeros((81, 81))
    expected = psf.trippy.plant(40.7, 40.2, 9.0, sky.copy(), addNoise=False)
    for name in ("ours", "theirs"):
        live = border.load_trippy().psf.modelPSF(restore=str(tmp_path / f"{name}.fits"))
        planted = live.plant(40.7, 40.2, 9.0, sky.copy(), addNoise=False)
        np.testing.assert_allclose(planted, expected, atol=1e-9 * expected.max())
    assert (live.rate, live.angle, live.dt, live.pixScale) == moving.motion
    capsys.readouterr()  # it prints


@pytest.mark.parametrize(("seed", "kind", "angle"), [(2, "moffat", 57.0), (1, "kolmogorov", -64.0)])
def test_a_moving_source_is_recovered(observed, seed, kind, angle):
    sim, psf = observed if seed == 2 else observe(seed, kind)
    rng = np.random.default_rng(seed)
    column, row = empty_place(sim).astype(int)
    dx, dy = rng.uniform(-0.5, 0.5, 2)
    # Drawn by GalSim with the true PSF, not with the one that is to find it.
    light = FLUX * true_trail(sim, dx, dy, angle, 101)
    data = sim.frame.data.copy()
    here = np.s_[row - 50 : row + 51, column - 50 : column + 51]
    data[here] += rng.poisson(np.maximum(light, 0) * sim.frame.gain) / sim.frame.gain
    frame = replace(sim.frame, data=data)

    moving = psf.trail(RATE, angle, EXPOSURE, SCALE)
    found = psf_quality(frame, moving, [[column + dx + 0.2, row + dy - 0.3]]).stars[0]
    assert found["snr"] > 1000
    assert np.hypot(found["x"] - column - dx, found["y"] - row - dy) < 0.02
    # Fluxes are those in the PSF's box; a Kolmogorov PSF has half a percent beyond it.
    in_box = sim.psf.stamp(column, row, psf.size).sum()
    assert found["flux"] == pytest.approx(FLUX * in_box, rel=0.003)
    assert abs(found["size_residual"]) < 0.01

    cut = data[here] - sim.sky[here]
    x, y = found["x"] - column + 50, found["y"] - row + 50
    left = moving.subtract(cut, x, y, found["flux"])
    assert np.abs(left).max() < 0.03 * cut.max()
    # TRIPPy's own fitter, where it knows the place: it moves trails by whole tenths of a pixel
    # only, and so not at all.
    near = np.s_[20:81, 20:81]
    flux = border.lsfit(
        moving.trippy, cut[near][None], [x - 20], [y - 20], [FLUX], fit_width=14, use_trail=True
    )[2]
    assert flux[0] == pytest.approx(FLUX * in_box, rel=0.01)


def test_trippys_pill_measures():
    """Released, it asks NumPy for a number of places that is no integer."""
    pill = border.load_trippy().pill
    image = np.zeros((41, 41))
    image[20, 16:25] = 100.0
    photometry = pill.pillPhot(image)
    photometry(21.0, 21.0, radius=3.0, l=9.0, a=0.01, skyRadius=None, width=18)
    assert photometry.sourceFlux == pytest.approx(900, rel=0.01)
