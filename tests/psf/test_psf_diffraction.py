"""PSFs that no Moffat profile resembles: rings of diffraction, spikes, discs, second images."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.special import j1

from mlpsf.psf import build_psf
from mlpsf.psf.solver.basis import Moffat, PolarBasis

FINE = 5  # points a pixel


def radius(half=30):
    """Return the distance from the centre, in pixels, on a fine grid."""
    at = (np.arange((2 * half + 1) * FINE) - (2 * half + 1) * FINE // 2) / FINE
    return np.hypot(at, at[:, None])


def airy(fwhm):
    """Return a diffraction pattern on a fine grid: its FWHM is 1.03 of the unit of its radius."""
    v = np.pi * radius() * 1.0290 / fwhm
    light = (2 * j1(np.maximum(v, 1e-9)) / np.maximum(v, 1e-9)) ** 2
    return light / light.sum()


def disc(across, hole):
    lit = (radius() < across / 2) & (radius() > hole * across / 2)
    light = gaussian_filter(lit.astype(float), 1.2 * FINE)
    return light / light.sum()


def stamp(light, dx=0, dy=0):
    """Return the pixels of a star that is off the centre by whole points of the fine grid."""
    moved = np.roll(light, (dy, dx), (0, 1))
    n = len(light) // FINE
    return moved.reshape(n, FINE, n, FINE).sum(axis=(1, 3))


def frame_of(light, n=4, pitch=116, seed=1):
    rng = np.random.default_rng(seed)
    image = rng.normal(0, 3, (n * pitch, n * pitch))
    stars = []
    for row in range(n):
        for column in range(n):
            dx, dy = rng.integers(-2, 3, 2)
            x, y = column * pitch + pitch // 2, row * pitch + pitch // 2
            half = len(light) // FINE // 2
            cut = slice(y - half, y + half + 1), slice(x - half, x + half + 1)
            image[cut] += 10 ** rng.uniform(5, 6) * stamp(light, dx, dy)
            stars.append((x + dx / FINE, y + dy / FINE))
    return image, np.array(stars)


def error_of(psf, light):
    """Return the largest difference from the truth over the peak, for the flux that fits best."""
    made, true = psf.stamps([0.0], [0.0], len(light) // FINE)[0], stamp(light)
    return np.abs(made * (made * true).sum() / (made**2).sum() - true).max() / true.max()


@pytest.mark.parametrize("fwhm", [2.3, 3.5])
def test_rings_of_diffraction_are_followed(fwhm):
    image, stars = frame_of(airy(fwhm))
    psf = build_psf(image, stars, background=0.0)
    assert psf.meta["method"] == "refined"
    assert error_of(psf, airy(fwhm)) < 0.01


@pytest.mark.parametrize("fwhm", [2.3, 3.5])
def test_the_faint_rings_are_not_lost_in_noise(fwhm):
    image, stars = frame_of(airy(fwhm))
    image = 0.2 * image + np.random.default_rng(0).normal(0, 20, image.shape)
    psf = build_psf(image, stars, background=0.0)
    far = np.hypot(*np.indices((31, 31)) - 15) > 3 * fwhm
    made, true = psf.stamps([0.0], [0.0], 31)[0], stamp(airy(fwhm))[15:46, 15:46]
    assert made[far].sum() / made.sum() == pytest.approx(true[far].sum() / true.sum(), rel=0.2)


@pytest.mark.parametrize(("across", "hole"), [(8, 0.4), (10, 0.6)])
def test_discs_with_a_hole_are_what_they_are(across, hole):
    light = disc(across, hole)
    image, stars = frame_of(light)
    psf = build_psf(image, stars, background=0.0, size=45)
    assert error_of(psf, light) < 0.02
    bright = stamp(light) > stamp(light).max() / 2
    assert psf.fwhm == pytest.approx(2 * np.sqrt(bright.sum() / np.pi), rel=0.05)


def moffat(fwhm, dx=0.0, dy=0.0):
    at = (np.arange(61 * FINE) - 61 * FINE // 2) / FINE
    return (1 + np.hypot(at - dx, (at - dy)[:, None]) ** 2 / (fwhm / 1.02) ** 2) ** -3


@pytest.mark.parametrize(("ratio", "dx"), [(0.5, 8.0), (0.2, 5.0), (1.0, 9.0)])
def test_a_second_image_of_every_star_is_of_the_psf(ratio, dx):
    light = moffat(3.0) + ratio * moffat(3.0, dx, 2.0)
    light /= light.sum()
    image, stars = frame_of(light)
    psf = build_psf(image, stars, background=0.0)
    assert error_of(psf, light) < 0.03
    # The flux is that of both.
    assert psf.stars[:, 2].sum() == pytest.approx(image.sum(), rel=0.02)


def test_a_neighbour_of_some_stars_is_not_of_the_psf():
    light = moffat(3.0) / moffat(3.0).sum()
    image, stars = frame_of(light)
    second = moffat(3.0, 8.0, 2.0)
    for x, y in np.round(stars[:5]).astype(int):
        image[y - 30 : y + 31, x - 30 : x + 31] += 2e5 * stamp(second / second.sum())
    psf = build_psf(image, stars, background=0.0)
    assert error_of(psf, light) < 0.01


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_neighbours_at_random_places_are_not_of_the_psf(seed):
    light = moffat(3.0) / moffat(3.0).sum()
    image, stars = frame_of(light, n=3, seed=seed)
    rng = np.random.default_rng(seed)
    for x, y in np.round(stars).astype(int):
        for _ in range(3):
            dx, dy = rng.uniform(5, 11, 2) * rng.choice([-1, 1], 2)
            second = moffat(3.0, dx, dy)
            cut = slice(y - 30, y + 31), slice(x - 30, x + 31)
            image[cut] += 10 ** rng.uniform(3.5, 5.3) * stamp(second / second.sum())
    psf = build_psf(image, stars, background=0.0)
    assert error_of(psf, light) < 0.02


def test_a_source_that_is_no_star_is_not_of_the_psf():
    light = moffat(3.0) / moffat(3.0).sum()
    image, stars = frame_of(light, n=3)
    second = moffat(3.0, 5.0, 0.0)
    x, y = np.round(stars[4]).astype(int)
    image[y - 30 : y + 31, x - 30 : x + 31] += 1e6 * stamp(second / second.sum())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of stars that differ
        psf = build_psf(image, stars, background=0.0)
    assert error_of(psf, light) < 0.02


def test_spikes_are_seen():
    u = np.abs(np.arange(61 * FINE) - 61 * FINE // 2) / FINE
    spike = np.exp(-0.5 * (u / 0.6) ** 2)[:, None] * np.exp(-u / 6)
    light = moffat(2.5) + 0.05 * (spike + spike.T)
    light /= light.sum()
    image, stars = frame_of(light)
    psf = build_psf(image, stars, background=0.0)
    assert error_of(psf, light) < 0.015


def test_a_dark_ring_leaves_waves_as_they_are():
    basis = PolarBasis(Moffat(3.0, 3.0), 15.0, waves=2)
    c = basis.unit()
    c[0, 5], c[0, 6] = -0.5, 3.0  # between them the light is positive
    c[1:] = 0.05 * np.random.default_rng(1).normal(size=c[1:].shape)
    x, y = np.random.default_rng(2).uniform(-10, 10, (2, 500))
    before = basis.light(c, x, y)
    after = basis.light(basis.adopt(c), x, y)
    assert np.abs(after - before).max() < 0.05 * before.max()
