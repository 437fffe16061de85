"""The drop-in for TRIPPy's star chooser: a script of its tutorial, with one import changed."""

from __future__ import annotations

import contextlib
import inspect
import io
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from astropy.io import fits
from scipy.spatial import cKDTree

from mlpsf.detection.sources import find_sources
from mlpsf.errors import InputError, TooFewStarsError
from mlpsf.psf import PSFModel
from mlpsf.psf.trippy import load_trippy, starChooser
from mlpsf.simulation import simulate_frame

pytest.importorskip("galsim")

THEIRS = "from trippy.psfStarChooser import starChooser"
OURS = "from mlpsf.psf.trippy import starChooser"

# As the tutorial has it, but for the import of the chooser by its name, and no window.
SCRIPT = """
import numpy as np
from trippy import psf
{chooser}

with fits.open(image) as han:
    data = han[0].data.astype(float)

chooser = starChooser(data, x[candidates], y[candidates], flux[candidates], fluxerr[candidates])
(goodFits, goodMeds, goodSTDs) = chooser(
    30, 200, noVisualSelection=True, autoTrim=True, bgRadius=15, quickFit=True
)
goodPSF = psf.modelPSF(
    np.arange(61), np.arange(61), alpha=goodMeds[2], beta=goodMeds[3], repFact=10
)
goodPSF.genLookupTable(data, goodFits[:, 4], goodFits[:, 5], verbose=False)
goodPSF.psfStore(stored, psfV2=True)
"""


@pytest.fixture(scope="module")
def night():
    """A frame in which one bright star in three has a faint companion, or is a galaxy."""
    return simulate_frame(
        shape=(700, 720),
        fwhm=4.0,
        n_stars=70,
        n_pairs=25,
        n_galaxies=60,
        flux_range=(3e4, 8e5),
        cosmic_rays=0,
        bad_columns=0,
        hot_pixels=0,
        seed=3,
    )


@pytest.fixture(scope="module")
def catalogue(night):
    """SExtractor's columns."""
    sources = find_sources(night.frame)
    good = np.isfinite(sources["snr"])
    x, y, flux, snr = (np.asarray(sources[c])[good] for c in ("x", "y", "flux", "snr"))
    return {"x": x + 1, "y": y + 1, "flux": flux, "fluxerr": flux / snr}


@pytest.fixture(scope="module")
def run(night, catalogue, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trippy")
    night.write(folder / "image.fits")
    load_trippy()  # TRIPPy's own import fails on newer Pythons

    def script(chooser, name):
        alone = cKDTree(np.column_stack([catalogue["x"], catalogue["y"]]))
        nearest = alone.query(np.column_stack([catalogue["x"], catalogue["y"]]), k=2)[0][:, 1]
        place = {
            "fits": fits,
            "image": folder / "image.fits",
            "stored": str(folder / f"{name}.fits"),
            # The tutorial leaves crowded ones out before.
            "candidates": np.flatnonzero(nearest > 20),
            **catalogue,
        }
        with (
            matplotlib.rc_context({"backend": "Agg"}),
            contextlib.redirect_stdout(io.StringIO()),
            np.errstate(all="ignore"),
        ):
            matplotlib.use("Agg")
            exec(SCRIPT.format(chooser=chooser), place)
        return place

    return script


def shares_light(night, place):
    """Return how many of the chosen are not clean single stars."""
    truth = night.truth
    stars = truth[truth["kind"] == "star"]
    single = stars[stars["pair_id"] < 0] if (stars["pair_id"] < 0).any() else stars
    fits_ = place["goodFits"]
    at = np.column_stack([fits_[:, 4] - 1, fits_[:, 5] - 1])
    distance = cKDTree(np.column_stack([single["x"], single["y"]])).query(at)[0]
    return int((distance > 0.7).sum())


@pytest.mark.filterwarnings("ignore")
def test_a_script_of_the_tutorial_runs_with_one_import_changed(run, night):
    theirs, ours = run(THEIRS, "theirs"), run(OURS, "ours")
    for name in ("goodFits", "goodMeds", "goodSTDs"):
        assert theirs[name].shape[-1] == ours[name].shape[-1] == 7
    # The PSF: the truth's is of FWHM 4.
    made = {k: PSFModel.load(v["stored"]) for k, v in (("theirs", theirs), ("ours", ours))}
    assert abs(made["ours"].fwhm / 4 - 1) < 0.03
    assert abs(made["ours"].fwhm / made["theirs"].fwhm - 1) < 0.05
    assert shares_light(night, ours) == 0 < shares_light(night, theirs)
    # The same fits of the stars that both took.
    x = {round(v, 3): k for k, v in enumerate(theirs["goodFits"][:, 4])}
    both = [(k, x[round(v, 3)]) for k, v in enumerate(ours["goodFits"][:, 4]) if round(v, 3) in x]
    assert len(both) >= 5
    mine, other = zip(*both, strict=True)
    np.testing.assert_allclose(
        ours["goodFits"][list(mine)], theirs["goodFits"][list(other)], rtol=2e-3, atol=1e-2
    )


def test_figures_are_over_all_stars(night, catalogue, capsys):
    fits_, medians, deviations = starChooser(night.frame, *catalogue.values())(20, 200)
    assert len(fits_) > 10
    np.testing.assert_allclose(medians, np.median(fits_, axis=0))
    np.testing.assert_allclose(deviations, np.std(fits_, axis=0))
    assert capsys.readouterr().out == ""


def test_arguments_are_trippys():
    load_trippy()
    from trippy.psfStarChooser import starChooser as theirs

    for method in ("__init__", "__call__"):
        a, b = (inspect.signature(getattr(c, method)).parameters for c in (theirs, starChooser))
        mine = {k: p.default for k, p in b.items() if p.kind is not p.KEYWORD_ONLY}
        assert mine == {k: p.default for k, p in a.items()}
        assert list(mine) == list(a)


def test_low_signal_and_the_edge_are_left_out(night, catalogue):
    x, y, flux, error = catalogue.values()
    chooser = starChooser(night.frame, x, y, flux, error, n_max=8)
    fits_, _, _ = chooser(20, 300)
    assert 1 <= len(fits_) <= 8
    assert np.all(chooser.stars["x"] > 20)
    snr = flux / error
    assert np.all(snr[np.asarray(chooser.stars["id"]) - 1] > 300)
    with pytest.raises(TooFewStarsError, match=r"None of the .* candidates has a signal-to-noise"):
        chooser(20, 1e9)


def test_bad_pixels_and_shapes(night, catalogue):
    data = night.frame.data.astype(float)
    data[3, 5] = -32768.0
    data[200, 300] = np.nan
    x, y, flux, error = catalogue.values()
    fits_, medians, _ = starChooser(data, x, y, flux, error, minGoodVal=-1000.0, n_max=6)(20, 200)
    assert np.isfinite(medians).all()
    assert len(fits_) <= 6
    with pytest.raises(InputError, match="hold one number a candidate"):
        starChooser(data, x, y[:-1], flux, error)


def test_the_psf_stage_does_not_load_the_choice():
    code = (
        "import sys, mlpsf.psf.trippy as t; assert 'mlpsf.pipeline' not in sys.modules; "
        "t.starChooser; assert 'mlpsf.pipeline' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
