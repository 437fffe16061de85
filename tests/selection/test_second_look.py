"""The second look: what it must strike, what it must leave, and that the PSF is better for it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from astropy.table import Table
from conftest import simulate
from scipy.ndimage import gaussian_filter
from sklearn.base import BaseEstimator, ClassifierMixin
from typer.testing import CliRunner

from mlpsf.cli.main import app
from mlpsf.detection.sources import find_sources
from mlpsf.errors import InputError, PSFError, TooFewStarsError
from mlpsf.flags import Flag
from mlpsf.pipeline import select_stars
from mlpsf.psf import build_psf
from mlpsf.selection.choice import candidates
from mlpsf.selection.second_look import FEWEST, second_look

# Selectors here say one thing of all sources on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:The selector gives all")

SIDE = 6
N = SIDE * SIDE


class Anything(ClassifierMixin, BaseEstimator):
    """A selector that takes every source for a good star."""

    def fit(self, X, y=None):  # noqa: ARG002
        self.classes_ = np.array([0, 1])
        self.cutout_size_, self.reference_fwhm_ = 21, 4.0
        return self

    def predict_proba(self, X):
        return np.tile([0.02, 0.98], (len(X), 1))


class FainterIsBetter(Anything):
    """A selector whose order is not that of brightness."""

    def predict_proba(self, X):
        good = 1 / (1 + np.nanmax(X, axis=(1, 2)).clip(0) / 1e4)
        return np.column_stack([1 - good, good])


def draw(fwhm=4.0, share=0.0, *, fraction=(0.06, 0.1), snr=(300, 1000), seed=1, **parameters):
    """Draw stars on a grid; a share of them has a neighbour at 0.6 to 1.5 FWHM.

    Returns the simulation, which stars have one, and the stars' positions as detection measures
    them.
    """
    rng = np.random.default_rng([seed, int(10 * fwhm)])
    step = max(int(13 * fwhm), 60)
    row, column = np.indices((SIDE, SIDE)).reshape(2, -1)
    x, y = (np.array([column, row]) + 0.5) * step + rng.uniform(-3, 3, (2, N))
    # The S/N of a star on a sky with 8.3 ADU of noise, roughly.
    flux = np.exp(rng.uniform(*np.log(snr), N)) * 8.3 * 2 * fwhm
    bad = np.arange(N) % 10 < 10 * share
    angle, distance = rng.uniform(0, 2 * np.pi, N), rng.uniform(0.6, 1.5, N) * fwhm
    beside = rng.uniform(*fraction, N) * flux
    extra = np.column_stack([x + distance * np.cos(angle), y + distance * np.sin(angle), beside])
    simulated = simulate(
        **{
            "shape": (SIDE * step, SIDE * step),
            "fwhm": fwhm,
            "e1": 0.03,
            "stars": np.vstack([np.column_stack([x, y, flux]), extra[bad]]),
            "n_galaxies": 0,
            "cosmic_rays": 0,
            "hot_pixels": 0,
            "bad_columns": 0,
            "saturation": 1e7,
            "seed": seed,
            **parameters,
        }
    )
    given = Table({"id": np.arange(N), "x": x, "y": y})
    return simulated, bad, find_sources(simulated.frame, given)


def look(frame, sources, fwhm=4.0):
    return second_look(frame, sources["x"], sources["y"], fwhm)


@pytest.fixture(scope="module")
def clean():
    return draw()


@pytest.fixture(scope="module")
def spoiled():
    return draw(share=0.3)


@pytest.mark.parametrize("fwhm", [2.0, 3.0, 8.0])
def test_a_third_may_be_contaminated(fwhm):
    simulated, bad, sources = draw(fwhm, 0.3)
    found = look(simulated.frame, sources, fwhm)
    assert not found.outlier[~bad].any()
    # The nearest are lost in the star's own shift and flux.
    assert found.outlier[bad].mean() >= 0.7
    assert (found.significance[found.outlier] > 5).all()
    assert (np.abs(found.contamination[found.outlier]) > 0.02).all()


@pytest.mark.parametrize("fwhm", [2.0, 4.0, 8.0])
@pytest.mark.parametrize("psf", ["moffat", "kolmogorov"])
def test_a_psf_that_varies_strikes_hardly_anyone(fwhm, psf):
    simulated, _, sources = draw(fwhm, psf=psf, psf_variation=0.05, seed=2)
    assert look(simulated.frame, sources, fwhm).outlier.sum() <= 2


@pytest.mark.parametrize("seed", [2, 5])
@pytest.mark.parametrize("fwhm", [2.0, 4.0])
def test_what_the_nearest_share_is_the_psf_of_the_place(fwhm, seed):
    simulated, _, sources = draw(fwhm, psf_variation=0.3, seed=seed)
    assert look(simulated.frame, sources, fwhm).outlier.sum() <= 3  # else up to 12


@pytest.mark.parametrize("seed", [1, 2])
def test_contaminants_side_by_side_do_not_hide_each_other(seed):
    simulated, _, sources = draw(seed=seed)
    wider = gaussian_filter(simulated.frame.data, 0.6)
    data, block = simulated.frame.data.copy(), [14, 15, 16, 20, 21, 22]
    for x, y in np.asarray(sources[block]["x", "y"].as_array().tolist()).round().astype(int):
        data[y - 20 : y + 21, x - 20 : x + 21] = wider[y - 20 : y + 21, x - 20 : x + 21]
    outlier = look(dataclasses.replace(simulated.frame, data=data), sources).outlier
    assert outlier[block].sum() >= 5
    assert outlier.sum() == outlier[block].sum()


def test_correlated_noise_strikes_no_one():
    simulated, _, sources = draw(resampling=0.5, snr=(60, 1000), seed=3)
    assert not look(simulated.frame, sources).outlier.any()


def test_faint_stars_are_given_their_noise():
    simulated, _, sources = draw(snr=(50, 1000), seed=4)
    found = look(simulated.frame, sources)
    assert not found.outlier.any()
    assert 1.5 < np.median(found.significance) < 3.5


def test_a_contaminant_that_noise_could_be_is_left():
    simulated, bad, sources = draw(share=0.3, fraction=(0.01, 0.012), snr=(60, 100))
    assert bad.any()
    assert not look(simulated.frame, sources).outlier.any()


def test_a_cosmic_ray_in_the_core(clean):
    simulated, _, sources = clean
    data = simulated.frame.data.copy()
    x, y, flux = (np.asarray(sources[name]) for name in ("x", "y", "flux"))
    struck = [3, 17]
    for k in struck:
        data[round(y[k]) + 1, round(x[k]) + 1] += 0.05 * flux[k]
    found = look(dataclasses.replace(simulated.frame, data=data), sources)
    assert np.flatnonzero(found.outlier).tolist() == struck


def test_a_compact_galaxy(clean):
    simulated, _, sources = clean
    galaxy = draw(fwhm=4.6)[0].psf  # as a star in worse seeing: 2.3 pixels FWHM of its own
    data = simulated.frame.data.copy()
    k = 14
    x, y, flux = (float(sources[name][k]) for name in ("x", "y", "flux"))
    for psf, sign in ((simulated.psf, -1), (galaxy, 1)):
        stamp, row, column = psf.draw(x, y, 25)
        side = len(stamp)
        data[row : row + side, column : column + side] += sign * flux * stamp
    found = look(dataclasses.replace(simulated.frame, data=data), sources)
    assert np.flatnonzero(found.outlier).tolist() == [k]


def test_few_candidates_are_left_alone(spoiled):
    simulated, _, sources = spoiled
    for n in range(FEWEST):
        found = look(simulated.frame, sources[:n])
        assert not found.outlier.any()
        assert np.isnan(found.contamination).all()
        assert len(found.significance) == n


def test_what_cannot_be_fitted_is_struck(clean):
    simulated, _, sources = clean
    mask = simulated.frame.mask.copy()
    x, y = round(float(sources["x"][5])), round(float(sources["y"][5]))
    mask[y - 6 : y + 7, x - 6 : x + 7] = True
    mask[y + 30 - 6 : y + 30, :] = True  # near others: pixels without data do no harm
    found = look(dataclasses.replace(simulated.frame, mask=mask), sources)
    assert np.flatnonzero(found.outlier).tolist() == [5]
    assert np.isnan(found.contamination[5])


def test_same_input_same_answer_and_the_input_is_as_it_was(spoiled):
    simulated, _, sources = spoiled
    data = simulated.frame.data.copy()
    first, second = look(simulated.frame, sources), look(simulated.frame, sources)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(simulated.frame.data, data)


@pytest.mark.parametrize("fwhm", [4.0, 8.0])
def test_unit_and_kind_of_noise_change_nothing(fwhm):
    simulated, _, sources = draw(fwhm, 0.3)
    frame = simulated.frame
    expected = look(frame, sources, fwhm)
    scaled = dataclasses.replace(frame, data=frame.data * 8, gain=frame.gain / 8)
    found = look(scaled, sources, fwhm)
    np.testing.assert_array_equal(found.outlier, expected.outlier)
    np.testing.assert_allclose(found.contamination, expected.contamination, rtol=0.02, atol=1e-3)
    # A variance plane says the same as the gain.
    plane = (np.maximum(frame.data, 0) / frame.gain + (frame.read_noise / frame.gain) ** 2).astype(
        np.float32
    )
    found = look(dataclasses.replace(frame, variance=plane), sources, fwhm)
    assert (found.outlier != expected.outlier).sum() <= 1
    without = look(dataclasses.replace(frame, gain=np.nan), sources, fwhm)
    assert (without.outlier != expected.outlier).sum() <= 2


# --- in the pipeline


def choose(simulated, **words):
    return select_stars(simulated.frame, selector=Anything().fit(None), **{"n_max": 15, **words})


def nearest(table, sources):
    """Index of the drawn star that each row is."""
    apart = np.hypot(
        *(np.asarray(table[c])[:, None] - np.asarray(sources[c])[None, :] for c in "xy")
    )
    return apart.argmin(axis=1)


def test_others_take_the_place_of_the_struck(spoiled):
    simulated, bad, sources = spoiled
    plain, looked = (choose(simulated, second_look=k) for k in (False, True))
    assert plain["selected"].sum() == looked["selected"].sum() == 15
    dirty = [int(bad[nearest(t[t["selected"]], sources)].sum()) for t in (plain, looked)]
    assert dirty[0] >= 3
    assert dirty[1] <= 1
    struck = (looked["flags"] & Flag.OUTLIER) != 0
    assert bad[nearest(looked[struck], sources)].all()
    assert all("unlike the frame's PSF" in reason for reason in looked["reason"][struck])
    assert not ((plain["flags"] & Flag.OUTLIER) != 0).any()
    assert (plain.meta["second_look"], looked.meta["second_look"]) == (False, True)
    assert looked.meta["n_outliers"] == struck.sum() > 0
    assert "n_outliers" not in plain.meta


def test_the_psf_is_better_for_it(spoiled):
    simulated, _, _ = spoiled
    true = simulated.psf.stamp(150.0, 150.0, size=41)
    error = []
    for second in (False, True):
        table = choose(simulated, second_look=second)
        made = build_psf(simulated.frame, table, size=41, background=simulated.sky)
        got = made.render(20, 20, shape=(41, 41))
        error.append(np.abs(got / got.sum() - true / true.sum()).max() / true.max())
    assert error[1] < 0.7 * error[0]


def test_never_fewer_than_wanted(spoiled):
    simulated, _, _ = spoiled
    free = choose(simulated, n_min=0, n_max=50)
    n_good, n_struck = int(free.meta["n_above_threshold"]), int(free.meta["n_outliers"])
    assert n_struck >= 5
    n_min = n_good + n_struck - 2
    held = choose(simulated, n_min=n_min, n_max=50)
    assert held["selected"].sum() == n_min
    struck, wanted = ((t["flags"] & Flag.OUTLIER) != 0 for t in (held, free))
    assert struck.sum() == 2
    assert (wanted | ~struck).all()
    with pytest.raises(TooFewStarsError) as caught:
        choose(simulated, n_min=n_min + 3, n_max=60)
    table = caught.value.table
    assert table.meta["n_outliers"] == 0
    assert table.meta["n_outliers_kept"] == n_struck
    assert table.meta["n_looked_at"] == n_good + n_struck
    kept = (table["flags"] & Flag.OUTLIER_KEPT) != 0
    np.testing.assert_array_equal(kept, wanted)
    assert table["selected"][kept].all()
    assert all("kept for want of others" in reason for reason in table["reason"][kept])


def test_relaxed_stars_are_looked_at_too(spoiled):
    simulated, bad, sources = spoiled
    table = choose(simulated, threshold=0.99, relax=True, n_min=15)
    assert table.meta["relaxed"]
    assert table["selected"].sum() == table.meta["n_looked_at"] == 15
    kept = (table["flags"] & Flag.OUTLIER_KEPT) != 0
    assert kept.sum() == table.meta["n_outliers_kept"] >= 3
    assert bad[nearest(table[kept], sources)].all()
    assert table.meta["n_outliers"] == 0


def test_where_nothing_can_be_compared_it_is_said(spoiled, monkeypatch):
    simulated, _, _ = spoiled
    few = choose(simulated, n_max=2, n_min=1)  # 4 candidates are under FEWEST

    def fail(*_, **__):
        raise PSFError("No star to make a PSF of.")

    monkeypatch.setattr("mlpsf.selection.second_look.stack_stars", fail)
    for table in (few, choose(simulated)):
        assert table.meta["second_look"]
        counts = [table.meta[f"n_{key}"] for key in ("looked_at", "outliers", "outliers_kept")]
        assert counts == [0, 0, 0]


def test_the_most_probable_make_the_psf(spoiled, monkeypatch):
    simulated, _, _ = spoiled
    given = []

    def note(frame, x, y, fwhm):
        given.append(x)
        return second_look(frame, x, y, fwhm)

    monkeypatch.setattr("mlpsf.selection.second_look.second_look", note)
    selector = FainterIsBetter().fit(None)
    table = select_stars(simulated.frame, selector=selector, n_max=10, rank_by="snr", threshold=0.0)
    rows = [int(np.flatnonzero(table["x"] == x)[0]) for x in given[0]]
    assert len(rows) == 20
    assert (np.diff(table["probability"][rows]) <= 0).all()
    # And yet those are looked at that are chosen first: the brightest of the surest.
    before = table.copy()
    before["flags"] &= ~np.int32(Flag.OUTLIER)
    ranked = candidates(before, np.asarray(table["probability"]), rank_by="snr", needed=10)
    assert set(rows) == set(ranked[:20])


@pytest.mark.parametrize("fwhm", [0.0, -1.0, np.nan, np.inf])
def test_a_fwhm_that_is_none_is_refused(clean, fwhm):
    simulated, _, sources = clean
    with pytest.raises(InputError, match="'fwhm' parameter must be positive"):
        look(simulated.frame, sources[:2], fwhm)


def test_reserve_stars_are_looked_at_too(spoiled):
    simulated, bad, sources = spoiled
    table = choose(simulated, reserve=0.25, n_max=12)
    assert table["reserved"].any()
    assert bad[nearest(table[table["reserved"]], sources)].sum() <= 1


def test_on_the_command_line(spoiled, tmp_path):
    simulated, _, _ = spoiled
    simulated.write(tmp_path / "frame.fits")
    out = tmp_path / "stars.ecsv"
    words = ["select", str(tmp_path / "frame.fits"), "--selector", "residual", "--out", str(out)]
    recorded = []
    for extra in ([], ["--no-second-look"]):
        result = CliRunner().invoke(app, [*words, *extra, "--n-min", "5"])
        assert result.exit_code == 0, result.output
        recorded.append(Table.read(out).meta["second_look"])
    assert recorded == [True, False]
