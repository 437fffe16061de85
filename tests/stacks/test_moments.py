"""Gaussian moments: what they measure of sources whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlpsf.stacks.moments import FWHM_PER_SIGMA, gaussian_moments


def gaussian(fwhm, dx=0.0, dy=0.0, e1=0.0, e2=0.0, flux=1.0, size=49):
    """Draw an elliptical Gaussian whose geometric-mean width is `fwhm`."""
    u = np.arange(size) - size // 2
    x, y = u[None, :] - dx, u[:, None] - dy
    # The covariance with this trace ratio, scaled to the determinant wanted.
    cov = np.array([[1 + e1, e2], [e2, 1 - e1]])
    cov *= (fwhm / FWHM_PER_SIGMA) ** 2 / np.sqrt(np.linalg.det(cov))
    inverse = np.linalg.inv(cov)
    r2 = inverse[0, 0] * x**2 + 2 * inverse[0, 1] * x * y + inverse[1, 1] * y**2
    return flux * np.exp(-0.5 * r2) / (2 * np.pi * np.sqrt(np.linalg.det(cov)))


@settings(max_examples=60, deadline=None)
@given(
    fwhm=st.floats(2.0, 11.0),
    guess=st.floats(0.6, 1.8),
    dx=st.floats(-1.0, 1.0),
    dy=st.floats(-1.0, 1.0),
    e1=st.floats(-0.3, 0.3),
    e2=st.floats(-0.3, 0.3),
    flux=st.floats(1e-3, 1e6),
)
def test_a_gaussian_is_measured_exactly(fwhm, guess, dx, dy, e1, e2, flux):
    m = gaussian_moments(gaussian(fwhm, dx, dy, e1, e2, flux)[None], fwhm * guess)
    assert m.ok[0]
    assert (m.dx[0], m.dy[0]) == pytest.approx((dx, dy), abs=0.01)
    assert m.fwhm[0] == pytest.approx(fwhm, rel=0.01)
    assert (m.e1[0], m.e2[0]) == pytest.approx((e1, e2), abs=0.02)
    assert m.flux[0] == pytest.approx(flux, rel=0.02)


def test_signs_of_the_shape():
    along_x, diagonal = gaussian(5, e1=0.3), gaussian(5, e2=0.3)
    m = gaussian_moments(np.stack([along_x, along_x.T, diagonal, diagonal[::-1]]))
    assert m.e1[0] > 0.25
    assert m.e1[1] < -0.25
    assert m.e2[2] > 0.25
    assert m.e2[3] < -0.25
    # b / a of a covariance with eigenvalues 1.3 and 0.7.
    np.testing.assert_allclose(m.ellipticity, 1 - np.sqrt(0.7 / 1.3), atol=0.01)


def test_each_source_is_measured_by_itself():
    stars = np.stack([gaussian(f, dx=0.1 * f) for f in (2.5, 4.0, 8.0)])
    together = gaussian_moments(stars)
    for i, star in enumerate(stars):
        alone = gaussian_moments(star[None])
        for a, b in zip(alone, together, strict=True):
            # Sums in float32; some of the figures are differences that are zero but for rounding.
            np.testing.assert_allclose(a[0], b[i], rtol=1e-6, atol=1e-6)


def test_nan_counts_as_no_light():
    star = gaussian(4.0, dx=0.2)
    holed = star.copy()
    holed[:6] = np.nan
    np.testing.assert_allclose(
        gaussian_moments(holed[None])[:6], gaussian_moments(star[None])[:6], atol=1e-4
    )


def test_input_is_not_changed_and_may_be_read_only():
    star = gaussian(4.0).astype(">f8")[None]
    star[0, 0, 0] = np.nan
    before = star.tobytes()
    star.setflags(write=False)
    assert gaussian_moments(star).ok[0]
    assert star.tobytes() == before


@pytest.mark.parametrize("content", ["nothing", "negative", "nan", "flat"])
def test_no_source_is_said_so(content):
    pixels = {
        "nothing": np.zeros((25, 25)),
        "negative": -gaussian(4.0, size=25),
        "nan": np.full((25, 25), np.nan),
        "flat": np.ones((25, 25)),
    }[content]
    m = gaussian_moments(pixels[None])
    assert not m.ok[0]
    assert all(np.isnan(value[0]) for value in m[:6])


def test_noise_moves_a_bright_star_little():
    rng = np.random.default_rng(1)
    stars = 1e5 * gaussian(4.0, dx=0.3) + rng.normal(0, 10, (50, 49, 49))
    m = gaussian_moments(stars)
    assert m.ok.all()
    assert abs(m.dx - 0.3).max() < 0.02
    assert abs(m.fwhm / 4.0 - 1).max() < 0.02


def test_no_cutouts():
    m = gaussian_moments(np.zeros((0, 25, 25)))
    assert all(len(value) == 0 for value in m)


def test_fixed_centre():
    m = gaussian_moments(gaussian(4.0, dx=0.5)[None], recentre=False)
    assert m.dx[0] == m.dy[0] == 0
