"""Sky, noise and medians of many cutouts at once are what NumPy gives for each by itself."""

import numpy as np
import pytest

from mlpsf.stacks.values import row_median, sky_and_noise


def _median_and_mad(values):
    sky = np.float32(np.median(values))
    return sky, np.float32(1.4826) * np.median(np.abs(values - sky))


@pytest.mark.parametrize("size", [15, 41, 61])
def test_sky_and_noise_of_each(size):
    rng = np.random.default_rng(size)
    cut = rng.normal(500, 20, (12, size, size)).astype(np.float32)
    cut[rng.random(cut.shape) < 0.1] += 300
    cut[3][rng.random((size, size)) < 0.6] = np.nan
    cut[4] = np.round(cut[4], -1)
    cut[5], cut[6] = 7.0, np.nan
    cut[7] = np.nan
    cut[7, 0, :3] = (1.0, 2.0, 4.0)
    sky, noise = sky_and_noise(cut)
    rim = max(2, size // 10)
    border = np.ones((size, size), dtype=bool)
    border[rim:-rim, rim:-rim] = False
    for k, image in enumerate(cut):
        values = image[border][:: 1 if size < 60 else 3]
        values = values[np.isfinite(values)]
        if not len(values):
            assert (sky[k], noise[k]) == (0, 0)
            continue
        for _ in range(2):
            level, spread = _median_and_mad(values)
            values = values[values <= level + 3 * spread + 1e-30]
        assert np.array([sky[k], noise[k]]) == pytest.approx(_median_and_mad(values), rel=1e-6)


@pytest.mark.parametrize("n", [1, 4, 7])
def test_row_median(n):
    values = np.random.default_rng(n).normal(size=(9, n))
    assert np.array_equal(row_median(values), np.median(values, axis=1))
