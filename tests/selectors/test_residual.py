"""The classical selector: what it ranks first, what does not move it, and scikit-learn."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import FLOAT32, simulate
from scipy.stats import spearmanr
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score

from mlpsf.detection.sources import find_sources
from mlpsf.errors import InputError, MlpsfError
from mlpsf.flags import Flag
from mlpsf.frames.cutouts import extract_cutouts
from mlpsf.labelling import truth_labels
from mlpsf.selectors import ResidualSelector
from mlpsf.selectors.first_psf import judge
from mlpsf.stacks.values import sky_and_noise


def tidy_frame(fwhm, seed, n, pairs):
    """Draw a grid of stars, some of them close pairs, with galaxies and cosmic rays between."""
    rng = np.random.default_rng(seed)
    step, unit = int(13 * fwhm), (fwhm / 4) ** 2
    y, x = np.mgrid[:n, :n] * float(step) + step / 2
    x, y = (v.ravel() + rng.uniform(-0.5, 0.5, n * n) for v in (x, y))
    flux = unit * np.exp(rng.uniform(np.log(1e5), np.log(4e5), n * n))
    angle = rng.uniform(0, 2 * np.pi, pairs)
    apart = rng.uniform(0.6, 1.2, pairs) * fwhm
    first = rng.permutation(n * n)[:pairs]
    second = np.column_stack(
        [
            x[first] + apart * np.cos(angle),
            y[first] + apart * np.sin(angle),
            flux[first] * rng.uniform(0.4, 1.0, pairs),
        ]
    )
    return simulate(
        shape=(n * step, n * step),
        fwhm=fwhm,
        stars=np.concatenate([np.column_stack([x, y, flux]), second]),
        n_galaxies=n + 3,
        galaxy_flux_range=(1e5 * unit, 4e5 * unit),
        galaxy_radius=3.0,
        cosmic_rays=25,
        hot_pixels=5,
        bad_columns=0,
        seed=seed,
    )


def cosmic_rays(size, n=4):
    """Draw tracks over blank sky: the frame's own are too narrow to be judged at all."""
    rng = np.random.default_rng(3)
    X = rng.normal(0, 8, (n, size, size)).astype(np.float32)
    middle = size // 2
    for i in range(n):
        for step in range(-3, 4):
            X[i, middle + step * (i % 2), middle + step] += rng.uniform(2e3, 8e3)
    return X


def judge_tidy_frame(fwhm, n, pairs):
    simulated = tidy_frame(fwhm, 1, n, pairs)
    truth = simulated.truth
    sources = find_sources(simulated.frame)
    size = 2 * round(5 * fwhm) + 1
    x, y = sources["x"].data, sources["y"].data
    cut = extract_cutouts(simulated.frame, x, y, size, background=simulated.frame.background.level)
    unfit = sources["flags"] & (Flag.SATURATED | Flag.TOO_NARROW | Flag.NEAR_EDGE)
    use = (sources["snr"] > 50) & (unfit == 0) & ~cut.near_edge
    labels, _ = truth_labels(
        x,
        y,
        truth["x"],
        truth["y"],
        truth["flux"],
        truth["kind"] == "star",
        fwhm=fwhm,
        defects=simulated.defects,
    )
    distance = np.hypot(x[:, None] - truth["x"].data, y[:, None] - truth["y"].data)
    members = (distance < 1.5 * fwhm) & (truth["kind"] == "star").data
    kind = np.full(len(x), "other", dtype="U12")
    kind[members.sum(axis=1) == 2] = "pair"
    kind[(distance.argmin(axis=1) >= n * n + pairs) & (distance.min(axis=1) < fwhm)] = "galaxy"
    # Clean: not only the star, all of its cutout.
    half = size // 2 + fwhm
    inside = (abs(x[:, None] - truth["x"].data) < half) & (abs(y[:, None] - truth["y"].data) < half)
    defects = extract_cutouts(simulated.defects, x, y, size).data
    alone = (inside.sum(axis=1) == 1) & ~(np.nan_to_num(defects) > 0).any(axis=(1, 2))
    kind[labels == 1] = "nearly clean"
    kind[(labels == 1) & alone] = "clean"
    rays = cosmic_rays(size)
    X, kind = (
        np.concatenate([cut.data[use], rays]),
        np.append(kind[use], ["cosmic ray"] * len(rays)),
    )
    return SimpleNamespace(
        fwhm=fwhm,
        X=X,
        kind=kind,
        selector=ResidualSelector(n_best=n * n // 2).fit(X),
    )


@pytest.fixture(scope="module")
def good_seeing():
    return judge_tidy_frame(4.0, 7, 12)


@pytest.fixture(scope="module")
def bad_seeing():
    return judge_tidy_frame(9.0, 5, 7)


@pytest.fixture(scope="module", params=["good_seeing", "bad_seeing"])
def judged(request):
    return request.getfixturevalue(request.param)


def auc(judged, kind, clean="clean"):
    rank = -np.log10(np.clip(judged.selector.distance_, 1e-6, 1e6))
    a, b = rank[judged.kind == clean], rank[judged.kind == kind]
    return roc_auc_score(np.repeat([1, 0], [len(a), len(b)]), np.concatenate([a, b]))


@pytest.mark.parametrize(("kind", "least"), [("pair", 0.95), ("galaxy", 0.95), ("cosmic ray", 0.9)])
def test_clean_stars_rank_above(judged, kind, least):
    assert auc(judged, kind) > least


def test_most_of_the_best_are_clean(judged):
    good = judged.selector.labels_ == 1
    assert 0 < good.sum() <= judged.selector.n_best
    assert np.isin(judged.kind[good], ["clean", "nearly clean"]).mean() > 0.8


def test_constant_sky_changes_no_label(good_seeing):
    other = clone(good_seeing.selector).fit(good_seeing.X + np.float32(300.0))
    np.testing.assert_array_equal(other.labels_, good_seeing.selector.labels_)
    finite = np.isfinite(good_seeing.selector.distance_)
    np.testing.assert_array_equal(np.isfinite(other.distance_), finite)
    np.testing.assert_allclose(
        np.log10(other.distance_[finite]),
        np.log10(good_seeing.selector.distance_[finite]),
        atol=0.02,
    )


def test_order_of_the_sources_does_not_matter(good_seeing):
    order = np.random.default_rng(1).permutation(len(good_seeing.X))
    other = clone(good_seeing.selector).fit(good_seeing.X[order])
    np.testing.assert_array_equal(other.labels_, good_seeing.selector.labels_[order])


def test_outside_the_brightness_range_is_never_good(good_seeing):
    peak = good_seeing.X[:, good_seeing.X.shape[1] // 2, good_seeing.X.shape[1] // 2]
    limit = float(np.median(peak))
    selector = ResidualSelector(brightness_range=(-500.0, limit)).fit(good_seeing.X)
    data = good_seeing.X - sky_and_noise(good_seeing.X)[0][:, None, None]
    outside = (data > limit).any(axis=(1, 2))
    assert outside.any()
    assert not selector.labels_[outside].any()
    assert selector.labels_.any()
    assert not selector.predict(good_seeing.X)[outside].any()


@pytest.fixture(scope="module")
def both(judged):
    """Fit a dozen sources with both fitters: half clean, half not."""
    clean = np.flatnonzero(judged.kind == "clean")[:6]
    rest = np.flatnonzero(np.isin(judged.kind, ["pair", "galaxy"]))[:6]
    rows = np.concatenate([clean, rest])
    data = judged.X[rows] - sky_and_noise(judged.X[rows])[0][:, None, None]
    return [judge(data, judged.selector.psf_, 7, f) for f in ("vectorized", "trippy")]


def test_trippy_finds_the_same_positions(both):
    fast, slow = both
    off = np.concatenate([abs(fast.fit.dx - slow.fit.dx)[:6], abs(fast.fit.dy - slow.fit.dy)[:6]])
    # TRIPPy rounds a source to a tenth of a pixel: no single one is better than half of that.
    assert np.median(off) < 0.005
    # In bad seeing LSfitter stops short of the least squares of a star or two.
    assert (off < 0.05).sum() >= 11
    np.testing.assert_allclose(fast.fit.flux[:6], slow.fit.flux[:6], rtol=0.01)


def test_trippy_ranks_alike(both):
    fast, slow = both
    for figure in ("variance", "peak"):
        assert spearmanr(getattr(fast, figure), getattr(slow, figure))[0] > 0.95


def test_trippy_as_the_selectors_fitter(good_seeing):
    rows = np.flatnonzero(np.isin(good_seeing.kind, ["clean", "pair"]))[:12]
    fast, slow = (
        ResidualSelector(n_best=6, fitter=f).fit(good_seeing.X[rows])
        for f in ("vectorized", "trippy")
    )
    assert spearmanr(fast.distance_, slow.distance_)[0] > 0.9


# --- on stars drawn by hand


def gaussian_cutouts(n=40, size=21, fwhm=2.5, seed=0):
    rng = np.random.default_rng(seed)
    u = np.arange(size) - size // 2
    dx, dy = rng.uniform(-0.4, 0.4, (2, n))
    peak = 10 ** rng.uniform(3, 4, n)
    width = 2 * (fwhm / 2.3548) ** 2
    r2 = (u[None, None, :] - dx[:, None, None]) ** 2 + (u[None, :, None] - dy[:, None, None]) ** 2
    return peak[:, None, None] * np.exp(-r2 / width) + rng.normal(100, 2, (n, size, size))


@pytest.fixture(scope="module")
def cutouts():
    X = gaussian_cutouts()
    X[:10] += 0.6 * np.roll(X[:10] - 100, (2, 2), axis=(1, 2))
    return X


Y = np.repeat([0, 1], [10, 30])


@pytest.fixture(scope="module")
def fitted(cutouts):
    return ResidualSelector(n_best=20).fit(cutouts, Y)


def test_contract(fitted, cutouts):
    assert is_classifier(fitted)
    assert fitted.classes_.tolist() == [0, 1]
    p = fitted.predict_proba(cutouts)
    assert p.shape == (40, 2)
    np.testing.assert_allclose(p.sum(axis=1), 1)
    assert roc_auc_score(Y, p[:, 1]) > 0.99
    np.testing.assert_array_equal(fitted.predict(cutouts), p.argmax(axis=1))
    score = fitted.decision_function(cutouts)
    assert spearmanr(score, p[:, 1])[0] > 0.999
    assert fitted.labels_[:10].sum() == 0
    assert fitted.labels_.sum() == 20


def test_without_labels(cutouts):
    selector = ResidualSelector(n_best=20).fit(cutouts)
    assert selector.classes_.tolist() == [0, 1]
    p = selector.predict_proba(cutouts)[:, 1]
    assert p[:10].max() < p[10:].min()


@pytest.mark.parametrize("labels", [("bad", "good"), (-1, 1), (False, True)])
def test_labels_of_any_kind(cutouts, labels):
    y = np.array(labels)[Y]
    selector = ResidualSelector(n_best=20).fit(cutouts, y)
    assert selector.classes_.tolist() == list(labels)
    assert set(selector.predict(cutouts).tolist()) <= set(labels)
    assert set(selector.labels_.tolist()) == set(labels)


def test_flat_cutouts_are_cutouts(fitted, cutouts):
    flat = cutouts.reshape(len(cutouts), -1)
    other = ResidualSelector(n_best=20).fit(flat, Y)
    np.testing.assert_allclose(other.distance_, fitted.distance_)
    np.testing.assert_allclose(other.predict_proba(flat), fitted.predict_proba(cutouts))


def test_flat_cutouts_where_square_ones_were_fitted(fitted, cutouts):
    flat = cutouts.reshape(len(cutouts), -1)
    np.testing.assert_allclose(fitted.predict_proba(flat), fitted.predict_proba(cutouts))


@pytest.mark.parametrize("dtype", [">f8", "i4"])
def test_any_dtype_read_only(cutouts, dtype):
    X = np.round(cutouts).astype(dtype)
    X.setflags(write=False)
    selector = ResidualSelector(n_best=20).fit(X)
    native = ResidualSelector(n_best=20).fit(np.round(cutouts).astype("f4"))
    np.testing.assert_array_equal(selector.labels_, native.labels_)


def test_missing_pixels(cutouts):
    X = cutouts.copy()
    X[12, :5] = np.nan
    X[13] = np.nan
    before = X.copy()
    selector = ResidualSelector(n_best=20).fit(X)
    p = selector.predict_proba(X)[:, 1]
    assert np.isfinite(p).all()
    assert p[13] == 0
    assert np.isfinite(selector.distance_[12])
    assert np.isinf(selector.distance_[13])
    np.testing.assert_array_equal(X, before)


def test_every_frame_by_its_own_psf():
    narrow, wide = gaussian_cutouts(n=30), gaussian_cutouts(n=30, fwhm=4.0, seed=1)
    X, groups = np.concatenate([narrow, wide]), np.repeat(["n", "w"], 30)
    mixed = np.random.default_rng(1).permutation(60)
    together = ResidualSelector(n_best=15).fit(X[mixed], groups=groups[mixed])
    for name, part in (("n", narrow), ("w", wide)):
        alone = ResidualSelector(n_best=15).fit(part)
        rows = np.argsort(mixed)[groups == name]
        # The PSF and the fits are sums in float32, over stars in another order.
        np.testing.assert_allclose(together.distance_[rows], alone.distance_, **FLOAT32)
        assert together.labels_[rows].sum() == 15
        p = together.predict_proba(X[mixed], groups[mixed])[rows, 1]
        q = alone.predict_proba(part, np.zeros(30))[:, 1]
        np.testing.assert_allclose(p, q, **FLOAT32)


def test_clone_and_pickle(fitted, cutouts):
    assert clone(fitted).get_params() == fitted.get_params()
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict_proba(cutouts), fitted.predict_proba(cutouts))


def test_one_cutout(fitted, cutouts):
    assert fitted.predict_proba(cutouts[:1]).shape == (1, 2)


@pytest.mark.parametrize("shift", [2, 5, 8])
def test_sources_off_their_centres(shift):
    # The cutouts are wider than the PSF, and some hold no source in their middle.
    X = gaussian_cutouts(n=20, size=61)
    X[:4] = 100 + np.roll(X[:4] - 100, (shift, shift), axis=(1, 2))
    selector = ResidualSelector(n_best=15).fit(X)
    assert np.isfinite(selector.distance_[4:]).all()
    if shift > 3:  # a fit follows its source three pixels
        assert not selector.labels_[:4].any()


# --- refusals


@pytest.mark.parametrize(
    ("X", "y", "match"),
    [
        (np.ones((6, 20, 20)), None, "odd number of pixels"),
        (np.ones((6, 20)), None, "square number of pixels"),
        (np.ones((6, 15, 17)), None, "must be square"),
        (gaussian_cutouts(6, 31), np.zeros(6), "two classes"),
        (gaussian_cutouts(6, 31), np.arange(5) % 2, "one label a cutout"),
        (np.full((6, 31, 31), np.nan), None, "holds a source"),
        (np.zeros((6, 31, 31)), None, "holds a source"),
    ],
)
def test_bad_input(X, y, match):
    with pytest.raises(MlpsfError, match=match):
        ResidualSelector().fit(X, y)


def test_bad_fitter(cutouts):
    with pytest.raises(InputError, match=r"'fitter' parameter.*'mcmc'"):
        ResidualSelector(fitter="mcmc").fit(cutouts)


def test_bad_groups(cutouts):
    with pytest.raises(InputError, match=r"one frame a cutout: shape \(40,\)"):
        ResidualSelector().fit(cutouts, groups=[1, 2])


def test_other_size(fitted, cutouts):
    with pytest.raises(ValueError, match="expecting"):
        fitted.predict_proba(cutouts[:, 2:-2, 2:-2])


def test_not_fitted(cutouts):
    with pytest.raises(NotFittedError):
        ResidualSelector().predict_proba(cutouts)
