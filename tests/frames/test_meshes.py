"""The sky of an image in meshes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlpsf.frames.meshes import map_of, mesh_statistics

SIDE = 64


def crowded(seed: int, shape: tuple[int, int] = (192, 192), light: float = 20.0) -> np.ndarray:
    """White noise of 1 with stars."""
    rng = np.random.default_rng(seed)
    pixels = rng.normal(0, 1, shape)
    u = np.arange(-6, 7)
    star = np.exp(-(u**2 + u[:, None] ** 2) / 8)
    for y, x, flux in zip(
        rng.integers(6, shape[0] - 7, 60),
        rng.integers(6, shape[1] - 7, 60),
        rng.pareto(1.2, 60) * light,
        strict=True,
    ):
        pixels[y - 6 : y + 7, x - 6 : x + 7] += flux * star
    return pixels


class TestLevel:
    @pytest.mark.parametrize("seed", range(3))
    def test_of_noise_and_stars(self, seed):
        level, sigma, _ = mesh_statistics(crowded(seed).astype(np.float32), None, SIDE)
        assert np.abs(level).max() < 0.25
        assert np.abs(sigma - 1).max() < 0.2

    @pytest.mark.parametrize("sigma", [0.8, 1.0, 1.2, 1.5, 3.0, 20.0])
    @pytest.mark.parametrize("rest", [0.0, 0.2, 0.4, 0.5, 0.7, 0.8])
    def test_of_integers(self, sigma, rest):
        # A median of integers is an integer; the sky of a quiet camera is none.
        rng = np.random.default_rng(1)
        pixels = np.rint(rng.normal(1000 + rest, sigma, (256, 256))).astype(np.float32)
        level, found, _ = mesh_statistics(pixels, None, SIDE)
        assert level.mean() == pytest.approx(1000 + rest, abs=0.07 * max(sigma, 1))
        assert found.mean() == pytest.approx(np.hypot(sigma, 1 / np.sqrt(12)), rel=0.05)

    @pytest.mark.parametrize("depth", [10.0, 1e3, 1e6])
    @pytest.mark.parametrize("share", [0.001, 0.02, 0.04, 0.1, 0.3])
    def test_of_pixels_without_light(self, share, depth):
        # Dead columns, fill values and overscan that no mask tells of.
        pixels = np.random.default_rng(1).normal(0, 1, (64, 64))
        pixels.ravel()[: int(share * pixels.size)] -= depth
        level, sigma, _ = mesh_statistics(pixels.astype(np.float32), None, SIDE)
        worst = 0.6 if (share, depth) == (0.3, 10.0) else 0.15
        assert abs(level[0, 0]) < worst
        assert sigma[0, 0] == pytest.approx(1, abs=worst)

    @pytest.mark.parametrize("factor", [1e-20, 1.0, 1e20])
    def test_of_two_values_in_any_unit(self, factor):
        pixels = np.random.default_rng(1).choice([0.0, 1.0], (128, 128), p=[0.9, 0.1])
        level, _, _ = mesh_statistics((pixels * factor).astype(np.float32), None, SIDE)
        one, _, _ = mesh_statistics(pixels.astype(np.float32), None, SIDE)
        np.testing.assert_allclose(level / factor, one, atol=1e-6)

    def test_where_all_meshes_have_few_good_pixels(self):
        pixels = np.random.default_rng(1).normal(500, 3, (192, 192)).astype(np.float32)
        mask = np.random.default_rng(2).random(pixels.shape) < 0.7
        mask[:64, :64] = True
        level, sigma, _ = mesh_statistics(pixels, mask, SIDE)
        assert np.argwhere(np.isnan(level)).tolist() == [[0, 0]]
        assert np.nanmax(np.abs(level - 500)) < 0.5
        assert np.nanmean(sigma) == pytest.approx(3, abs=0.2)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_of_pixels_that_are_not_finite(self, value):
        pixels = np.random.default_rng(1).normal(0, 1, (64, 64)).astype(np.float32)
        pixels[:20] = value
        level, sigma, _ = mesh_statistics(pixels, None, SIDE)
        assert abs(level[0, 0]) < 0.1
        assert sigma[0, 0] == pytest.approx(1, abs=0.1)

    def test_of_equal_pixels(self):
        level, sigma, _ = mesh_statistics(np.full((100, 100), 7, dtype=np.float32), None, SIDE)
        assert (level == 7).all()
        assert (sigma == 0).all()

    def test_of_an_image_smaller_than_a_mesh(self):
        level, sigma, _ = mesh_statistics(np.arange(12, dtype=np.float32).reshape(3, 4), None, SIDE)
        assert level.shape == sigma.shape == (1, 1)
        assert level[0, 0] == pytest.approx(5.5)

    def test_bad_pixels_do_not_count(self):
        pixels = crowded(1).astype(np.float32)
        mask = np.random.default_rng(2).random(pixels.shape) < 0.2
        one, other = pixels.copy(), pixels.copy()
        one[mask], other[mask] = 1e6, -1e6
        found = [mesh_statistics(pixels, mask, SIDE) for pixels in (one, other)]
        for a, b in zip(*found, strict=True):
            np.testing.assert_array_equal(a, b)

    def test_a_mesh_of_bad_pixels_has_none(self):
        mask = np.zeros((192, 192), dtype=bool)
        mask[:64, :40] = True
        level, sigma, _ = mesh_statistics(crowded(1).astype(np.float32), mask, SIDE)
        assert np.argwhere(np.isnan(level)).tolist() == [[0, 0]]
        assert np.isnan(sigma[0, 0])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), light=st.floats(1, 1000), step=st.floats(1e-6, 1e-3))
def test_rounding_moves_the_sky_no_more_than_itself(seed, light, step):
    pixels = crowded(seed, light=light)
    rounded = np.rint(pixels / step) * step
    found = [mesh_statistics(p.astype(np.float32), None, SIDE) for p in (pixels, rounded)]
    # The spacing of float32, at the brightest pixels, is no larger.
    assert np.abs(np.subtract(*(np.stack(f[:2]) for f in found))).max() < 0.2 * step + 1e-5


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    factor=st.floats(-6, 6).map(lambda power: 10.0**power),
    sky=st.floats(-100, 100),
)
def test_another_unit(seed, factor, sky):
    pixels = crowded(seed)
    level, sigma, _ = mesh_statistics(pixels.astype(np.float32), None, SIDE)
    other = mesh_statistics(((pixels + sky) * factor).astype(np.float32), None, SIDE)
    np.testing.assert_allclose(other[0] / factor - sky, level, atol=1e-4)
    np.testing.assert_allclose(other[1] / factor, sigma, rtol=1e-4)


def surface(image: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    level, _, off = mesh_statistics(image.astype(np.float32), mask, SIDE)
    return map_of(level, off, image.shape)


ROWS, COLUMNS = np.mgrid[:512, :512].astype(np.float64)
RADIUS = np.hypot(ROWS - 255.5, COLUMNS - 255.5)


class TestMap:
    @pytest.mark.parametrize("shape", [(192, 192), (300, 100), (64, 500), (10, 10)])
    def test_of_one_value(self, shape):
        assert (np.abs(surface(np.full(shape, 3.0)) - 3) < 1e-5).all()

    @pytest.mark.parametrize("shape", [(320, 640), (512, 512), (128, 128), (128, 300)])
    def test_of_a_slope(self, shape):
        y, x = np.mgrid[: shape[0], : shape[1]] * 0.01
        assert np.abs(surface(x + 2 * y) - (x + 2 * y)).max() < 0.05

    @pytest.mark.parametrize(
        "mask",
        [
            RADIUS > 256,
            RADIUS > 200,
            ROWS > COLUMNS,
            COLUMNS < 30,
            COLUMNS < 256,
            (ROWS > 128) & (ROWS < 384),
            (ROWS > 100) | (COLUMNS > 100),
            np.random.default_rng(1).random((512, 512)) < 0.5,
            np.random.default_rng(1).random((512, 512)) < 0.51,
            np.random.default_rng(1).random((512, 512)) < 0.9,
        ],
        ids=[
            "circle",
            "corners",
            "diagonal",
            "strip",
            "half",
            "rows",
            "rest",
            "random",
            "more-than-half",
            "most",
        ],
    )
    def test_of_a_slope_with_bad_pixels(self, mask):
        # What is left of a mesh may be off its centre, and none may have many good pixels.
        slope = 0.03 * COLUMNS - 0.02 * ROWS
        off = surface(slope + np.random.default_rng(2).normal(0, 1, slope.shape), mask) - slope
        assert np.abs(off[~mask]).max() < 0.5

    def test_of_a_vignetted_sky(self):
        sky = 1000 * np.cos(RADIUS / 400) ** 4
        found = surface(np.random.default_rng(1).poisson(sky))
        assert np.abs((found - sky) / np.sqrt(sky)).max() < 5  # where it bends most; 4 of sep

    @pytest.mark.parametrize("shape", [(128, 128), (64, 192), (90, 200), (192, 192)])
    def test_of_a_galaxy_on_a_small_frame(self, shape):
        row, column = np.mgrid[: shape[0], : shape[1]]
        apart = np.hypot(row - 32, column - shape[1] + 40)
        noise = np.random.default_rng(1).normal(0, 3, shape)
        found = surface(150 * np.exp(-apart / 15) + noise)
        assert np.abs(found[apart > 60]).max() < 8  # of a noise of 3

    def test_stray_good_pixels_are_no_meshes(self):
        rng = np.random.default_rng(1)
        pixels = rng.normal(100, 3, (512, 512))
        mask = rng.random(pixels.shape) > 3e-4
        mask[:256, :256] = False
        level, sigma, _ = mesh_statistics(pixels.astype(np.float32), mask, SIDE)
        assert np.nanmin(sigma) > 2.7
        assert np.isnan(level[4:]).all()

    @pytest.mark.parametrize("at", [(32, 32), (32, 256), (256, 256)])
    def test_of_a_galaxy(self, at):
        # At an edge, few other meshes tell that it is no sky.
        light = 150 * np.exp(-np.hypot(ROWS - at[0], COLUMNS - at[1]) / 15)
        found = surface(light + np.random.default_rng(1).normal(0, 1, light.shape))
        assert np.abs(found).max() < 8  # 47 of sep

    def test_of_a_globular_cluster(self):
        # The sky bends at the corners; what its slope foretells is far too low there.
        sky = 100 * np.exp(-RADIUS / 60)
        found = surface(sky + np.random.default_rng(1).normal(0, 1, sky.shape))
        assert np.abs((found - sky)[RADIUS > 300]).max() < 1

    def test_one_odd_mesh_does_not_matter(self):
        level = np.ones((5, 5))
        level[2, 2] = 50
        assert (np.abs(map_of(level, np.zeros((2, 5, 5)), (320, 320)) - 1) < 1e-5).all()

    def test_missing_ones_are_as_the_nearest(self):
        level = np.ones((4, 4))
        level[:2] = np.nan
        assert (np.abs(map_of(level, np.zeros((2, 4, 4)), (256, 256)) - 1) < 1e-5).all()

    def test_of_none(self):
        found = map_of(np.full((2, 2), np.nan), np.zeros((2, 2, 2)), (100, 100))
        assert (found == 0).all()
