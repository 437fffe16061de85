"""The benchmark's peers: is what is compared really their PSF, on the pixels that it is for?

A field without noise to speak of, its PSF known: each must be near it, by its own rendering.
"""

import shutil

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from mlpsf.frames.frame import Frame
from mlpsf.psf import PSFModel

peers = pytest.importorskip("benchmarks.peers")

FWHM, STEP = 6.0, 90


@pytest.fixture(scope="module")
def truth():
    """An elongated Moffat star of FWHM 6, the pixel in it."""
    galsim = pytest.importorskip("galsim")
    star = galsim.Moffat(beta=3.5, fwhm=5.9).shear(g1=0.04, g2=-0.02)

    def draw(dx, dy, size):
        image = galsim.ImageD(size, size)
        return star.drawImage(image, scale=1.0, offset=(dx, dy)).array

    return draw


@pytest.fixture(scope="module")
def easy(truth):
    """A frame of 16 stars on a sky of 100, and where they are."""
    rng = np.random.default_rng(3)
    y, x = (v.ravel() + rng.uniform(-0.5, 0.5, 16) for v in np.mgrid[:4, :4] * float(STEP) + 45)
    image = rng.normal(100, 0.05, (4 * STEP, 4 * STEP))
    for a, b in zip(x, y, strict=True):
        i, j = round(a), round(b)
        part = image[j - 44 : j + 45, i - 44 : i + 45]
        part += 4e5 * truth(a - i, b - j, 89)[: part.shape[0], : part.shape[1]]
    frame = Frame(
        data=image.astype(np.float32),
        mask=np.zeros(image.shape, bool),
        gain=1e6,
        saturation=1e6,
        header=fits.Header(),
    )
    return frame, Table({"x": x, "y": y})


def check(psf, truth, residual, size):
    """Compare at the centre of a pixel and off it."""
    for dx, dy in ((0.0, 0.0), (0.3, -0.4)):
        true = truth(dx, dy, 51)
        true = true / true.sum()
        got = np.asarray(psf.stamps([dx], [dy], 51))[0]
        got = got / got.sum()
        assert np.abs(got - true).max() < residual * true.max()
        u = np.arange(51) - 25
        centres = [((s * u).sum(), (s * u[:, None]).sum()) for s in (got, true)]
        np.testing.assert_allclose(*centres, atol=0.05)
        assert got.max() / true.max() == pytest.approx(1, abs=size)


@pytest.mark.parametrize("own", [True, False])
def test_psfex(easy, truth, own):
    if not (shutil.which("psfex") and shutil.which("source-extractor")):
        pytest.skip("needs source-extractor and psfex")
    frame, stars = easy
    with peers.Extraction(frame, FWHM, sky=100.0) as extraction:
        psf = peers.build_psfex(extraction, None if own else stars[:12])
    assert not extraction.folder.exists()
    assert psf.seconds > 0
    assert len(psf.stars) >= 12
    check(psf, truth, 0.006, 0.006)
    if not own:
        assert len(psf.stars) == 12
        for x, y in psf.stars.iterrows("x", "y"):
            assert np.hypot(stars["x"][:12] - x, stars["y"][:12] - y).min() < 0.3


def test_piff(easy, truth):
    pytest.importorskip("piff")
    if not shutil.which("source-extractor"):
        pytest.skip("needs source-extractor")
    frame, stars = easy
    with peers.Extraction(frame, FWHM, sky=100.0) as extraction:
        psf = peers.build_piff(extraction, stars[:5])
    assert len(psf.stars) == 5
    np.testing.assert_allclose(psf.stars["x"], stars["x"][:5], atol=0.01)
    check(psf, truth, 0.005, 0.004)


def test_photutils(easy, truth):
    pytest.importorskip("photutils")
    if not shutil.which("source-extractor"):
        pytest.skip("needs source-extractor")
    frame, stars = easy
    with peers.Extraction(frame, FWHM, sky=100.0) as extraction:
        psf = peers.build_photutils(extraction, stars)
    check(psf, truth, 0.01, 0.01)


def test_psfex_tables_are_drawn_as_samples_of_light_in_a_pixel():
    truth = PSFModel(np.zeros((410, 410)), 4.0, 3.0)
    offset = (np.arange(61) - 30) * 0.8
    column, row = (v.ravel() for v in np.meshgrid(offset, offset))
    table = truth.stamps(-column, -row, 1).reshape(61, 61)
    stamps = peers.psfex_stamps(table, 0.8)([0.0, 0.25], [0.0, -0.4], 21)
    np.testing.assert_allclose(
        stamps, truth.stamps([0.0, 0.25], [0.0, -0.4], 21), atol=0.004 * table.max()
    )


def test_star_lists_without_reserved_rows():
    table = Table({"x": [1.0, 2.0, 3.0], "y": [4.0, 5.0, 6.0], "id": [1, 2, 3]})
    table["selected"], table["reserved"] = [True, True, False], [False, True, False]
    chosen = peers.place_table(table)
    assert chosen.colnames == ["x", "y"]
    assert chosen["x"].tolist() == [1.0]
