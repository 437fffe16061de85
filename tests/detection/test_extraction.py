"""Detection itself: what is in masked pixels is nothing to it."""

from __future__ import annotations

import numpy as np
import pytest

from mlpsf import read_frame, select_stars, simulate_frame
from mlpsf.detection.extraction import extract
from mlpsf.detection.sources import find_sources


@pytest.mark.parametrize("value", [-1000.0, 1000.0, 1e6])
def test_masked_pixels_are_not_seen(value: float) -> None:
    sim = simulate_frame(shape=(200, 200), n_stars=60, n_galaxies=10, fwhm=3.0, seed=4)
    pixels = sim.frame.data - sim.frame.background.level
    mask = np.zeros(pixels.shape, dtype=bool)
    mask[:, 90:95] = mask[:30] = True
    options = {"err": sim.frame.background.rms, "mask": mask, "minarea": 3}
    before = extract(pixels, 5.0, **options)
    pixels[mask] = value
    after = extract(pixels, 5.0, **options)
    for column in ("x", "y", "flux", "npix", "a", "b"):
        np.testing.assert_array_equal(before[column], after[column])


def test_pixels_without_data_below_and_above_the_sky() -> None:
    # They are read as 0: far above a sky of -5000, far below one of 5000.
    sim = simulate_frame(shape=(300, 300), n_stars=80, n_galaxies=10, fwhm=2.5, seed=5)
    pixels = sim.frame.data.astype(np.float64)
    pixels[:, 140:150] = pixels[-20:] = np.nan
    found = [
        find_sources(read_frame((pixels + sky).astype(np.float32), gain=sim.frame.gain))
        for sky in (0.0, 5000.0, -5000.0)
    ]
    for other in found[1:]:
        assert len(other) == len(found[0])
        # In single precision, a sky of 5000 has 4 digits after the point.
        np.testing.assert_allclose(other["x"], found[0]["x"], atol=0.05)


@pytest.mark.parametrize(("factor", "sky"), [(3e-5, 700.0), (7e4, -300.0)])
def test_a_crowd_in_another_unit(factor: float, sky: float) -> None:
    sim = simulate_frame(
        shape=(256, 256), n_stars=700, n_galaxies=5, fwhm=3.5, cosmic_rays=0, seed=3
    )
    pixels = sim.frame.data.astype(np.float64)
    one, other = (
        select_stars(read_frame(p.astype(np.float32)), selector="residual", n_min=1)
        for p in (pixels, (pixels + sky) * factor)
    )
    assert "n_subtracted" in one.meta
    bright = one[one["selected"]]
    apart = np.hypot(other["x"] - bright["x"][:, None], other["y"] - bright["y"][:, None])
    row = apart.argmin(axis=1)
    assert apart.min(axis=1).max() < 0.01
    assert other["selected"][row].all()
    np.testing.assert_allclose(other["probability"][row], bright["probability"], atol=0.02)
