"""PSFHomogenizer: cutouts of any telescope become the same stamps, a step of any pipeline."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import sklearn
from conftest import simulate
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_validate
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator

from mlpsf import (
    NoveltySelector,
    PSFHomogenizer,
    PSFStarSelector,
    ResidualSelector,
    extract_cutouts,
    extract_stamps,
    find_sources,
    frame_star,
)
from mlpsf.errors import InputError, NoSourcesError
from mlpsf.frames.cutouts import Cutouts
from mlpsf.labelling import truth_labels
from mlpsf.selectors.loading import load_judge
from mlpsf.selectors.storage import pretrained_path
from mlpsf.stamps.homogenizer import stamps_of_weight
from mlpsf.stamps.standard import standard_star

CLEAN = {"cosmic_rays": 0, "hot_pixels": 0, "bad_columns": 0}
NARROW = "ignore:The cutouts of .* FWHM wide:UserWarning"

EXPECTED = {
    "check_methods_subset_invariance": "the PSF that is replaced is that of the set",
    "check_methods_sample_order_invariance": "the PSF that is replaced is that of the set",
}


def test_scikit_learn_checks():
    results = check_estimator(
        PSFHomogenizer(pad=True), expected_failed_checks=EXPECTED, on_skip=None, on_fail=None
    )
    failed = {r["check_name"]: repr(r["exception"]) for r in results if r["status"] == "failed"}
    assert failed == {}
    assert len(results) > 30


def sky(fwhm, seed, **options):
    """Draw a frame; returns its cutouts, positions, labels and the probabilities from the frame."""
    sim = simulate(
        fwhm=fwhm, star_slope=0.3, seed=seed,
        **{"shape": (700, 700), "n_stars": 160, "n_galaxies": 60, **CLEAN, **options},
    )  # fmt: skip
    sources = find_sources(sim.frame)
    rows = np.flatnonzero(sources["snr"] > 100)
    x, y = (np.asarray(sources[name])[rows] for name in "xy")
    truth = sim.truth
    labels, _ = truth_labels(
        x, y, truth["x"], truth["y"], truth["flux"], truth["kind"] == "star", fwhm=fwhm
    )
    star = frame_star(sim.frame, sources)
    stamps = extract_stamps(sim.frame, x, y, fwhm=sources.meta["fwhm"], star=star)
    return sim.frame, x, y, labels, stamps


@pytest.fixture(scope="module")
def judge():
    return load_judge(pretrained_path())


@pytest.mark.parametrize(("fwhm", "size"), [(2.2, 55), (4.0, 55), (4.0, 111), (6.5, 111)])
def test_cutouts_alone_are_judged_as_from_the_frame(judge, fwhm, size):
    frame, x, y, labels, stamps = sky(fwhm, seed=int(10 * fwhm))
    cutouts = extract_cutouts(frame, x, y, size).data
    alone = judge.predict_proba(
        PSFHomogenizer().fit_transform(cutouts, positions=np.column_stack([x, y]))
    )[:, 1]
    expected = judge.predict_proba(stamps.data)[:, 1]
    sure = labels >= 0
    assert (
        roc_auc_score(labels[sure], alone[sure])
        > roc_auc_score(labels[sure], expected[sure]) - 0.01
    )
    assert np.median(np.abs(alone - expected)) < 0.02


def test_unit_sky_and_order_do_not_matter(judge):
    frame, x, y, _, _ = sky(3.5, seed=7)
    cutouts = extract_cutouts(frame, x, y, 51).data
    homogenizer = PSFHomogenizer()
    expected = judge.predict_proba(homogenizer.fit_transform(cutouts))[:, 1]
    for changed in (cutouts * 1e-3, cutouts - 500.0, (cutouts + 1e3) * 50):
        found = judge.predict_proba(homogenizer.transform(changed))[:, 1]
        np.testing.assert_allclose(found, expected, atol=2e-3)
    back = judge.predict_proba(homogenizer.transform(cutouts[::-1]))[::-1, 1]
    np.testing.assert_allclose(back, expected, atol=2e-3)


def test_missing_pixels_as_sextractor_writes_them(judge):
    frame, x, y, _, _ = sky(3.5, seed=7)
    cutouts = extract_cutouts(frame, x, y, 51).data.copy()
    holes = np.random.default_rng(0).random(cutouts.shape) < 0.01
    holes[:, 20:31, 20:31] = False
    as_nan, as_flag = cutouts.copy(), cutouts.copy()
    as_nan[holes], as_flag[holes] = np.nan, -1e30
    a, b = (PSFHomogenizer().fit_transform(v) for v in (as_nan, as_flag))
    np.testing.assert_array_equal(a, b)
    whole = judge.predict_proba(PSFHomogenizer().fit_transform(cutouts))[:, 1]
    assert np.median(np.abs(judge.predict_proba(a)[:, 1] - whole)) < 0.02


def test_stamps_pass_unchanged():
    frame, x, y, _, stamps = sky(4.0, seed=40)
    homogenizer = PSFHomogenizer().fit(stamps)
    np.testing.assert_array_equal(homogenizer.transform(stamps), stamps.data)
    np.testing.assert_array_equal(homogenizer.transform(stamps.data), stamps.data)
    # Raw cutouts of the same size, FWHM and round PSF are not taken for stamps.
    raw = extract_cutouts(frame, x, y, 41).data
    assert not np.array_equal(homogenizer.transform(raw), raw)


def test_frames_are_kept_apart():
    parts = [sky(fwhm, seed=k) for k, fwhm in enumerate((3.0, 6.0))]
    cutouts = [extract_cutouts(p[0], p[1], p[2], 71).data for p in parts]
    groups = np.repeat(["sharp", "soft"], [len(c) for c in cutouts])
    order = np.random.default_rng(0).permutation(len(groups))
    together = PSFHomogenizer().fit_transform(
        np.concatenate(cutouts)[order], None, groups=groups[order]
    )
    for name, own in zip(("sharp", "soft"), cutouts, strict=True):
        alone = PSFHomogenizer().fit_transform(own)
        rows = np.argsort(order[groups[order] == name])
        np.testing.assert_allclose(
            together[groups[order] == name][rows], alone, rtol=2e-4, atol=1e-3 * np.nanmax(alone)
        )


def test_few_cutouts_are_only_resampled_and_it_is_said():
    frame, x, y, _, _ = sky(4.0, seed=40)
    few = extract_cutouts(frame, x, y, 55).data[:4]
    with pytest.warns(UserWarning, match="4 cutouts are too few"):
        assert PSFHomogenizer().fit_transform(few).shape == (4, 41, 41)


def test_sets_that_cannot_be_judged_are_refused():
    frame, x, y, _, _ = sky(6.5, seed=65)
    with pytest.raises(InputError, match="at least 4 FWHM"):
        PSFHomogenizer().fit_transform(extract_cutouts(frame, x, y, 21).data)
    with pytest.warns(UserWarning, match="FWHM wide: a neighbour beyond"):
        PSFHomogenizer().fit_transform(extract_cutouts(frame, x, y, 41).data)
    flat = np.full((9, 31, 31), 6e4) + np.random.default_rng(0).normal(0, 1, (9, 31, 31))
    with pytest.raises(NoSourcesError):
        PSFHomogenizer().fit_transform(flat)


def test_parameters():
    with pytest.raises(InputError, match="must be odd"):
        PSFHomogenizer(size=40).fit(np.zeros((2, 15, 15)))
    with pytest.raises(InputError, match="'size' parameter of PSFHomogenizer"):
        PSFHomogenizer(size=3).fit(np.zeros((2, 15, 15)))
    # Without a fit, too: there is nothing to learn.
    with pytest.raises(InputError, match="must be odd"):
        PSFHomogenizer(size=40).transform(np.zeros((2, 15, 15)))
    with pytest.raises(InputError, match="'replace' parameter of PSFHomogenizer"):
        PSFHomogenizer(replace="no").transform(np.zeros((2, 15, 15)))
    with pytest.raises(InputError, match="one frame a cutout"):
        PSFHomogenizer().fit_transform(np.zeros((2, 15, 15)), None, groups=[1])
    assert clone(PSFHomogenizer(size=31, replace=False)).get_params() == {
        "size": 31, "replace": False, "pad": False,
    }  # fmt: skip
    assert "PSFHomogenizer" in PSFHomogenizer()._repr_html_()


# --- one X for every selector, in the same pipelines


@pytest.fixture(scope="module")
def one_x():
    """Raw cutouts of three frames, their labels and frames."""
    X, labels, groups = [], [], []
    for k, fwhm in enumerate((3.0, 4.5, 3.6)):
        small = {"shape": (460, 460), "n_stars": 80, "n_galaxies": 30}
        frame, x, y, label, _ = sky(fwhm, seed=100 + k, **small)
        sure = label >= 0
        X.append(extract_cutouts(frame, x[sure], y[sure], 55).data)
        labels.append(label[sure])
        groups.append(np.full(sure.sum(), k))
    return np.concatenate(X), np.concatenate(labels), np.concatenate(groups)


@pytest.fixture
def eager():
    """Compiling a graph for every one of many tiny fits would take minutes."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


class Shipped(PSFStarSelector):
    """The model that ships, as an estimator whose fit leaves it as it is."""

    def fit(self, X, y=None, groups=None):  # noqa: ARG002 - scikit-learn's signature
        self.__dict__.update(PSFStarSelector.from_pretrained().__dict__)
        return self


def flatten(X):
    return np.nan_to_num(X.reshape(len(X), -1) / np.nanmax(X, axis=(1, 2))[:, None])


SELECTORS = {
    "residual": lambda: ResidualSelector(n_best=10),
    "novelty": lambda: NoveltySelector(random_state=0),
    "network": lambda: PSFStarSelector(
        homogenize=True, filters=(4,), epochs=1, batch_size=64, random_state=0
    ),
    "shipped": Shipped,
}


@pytest.mark.filterwarnings("ignore:Even though the `tf.config:UserWarning")
@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", SELECTORS)
def test_one_pipeline_for_every_selector(name, one_x):
    X, y, groups = one_x
    with sklearn.config_context(enable_metadata_routing=True):
        selector = SELECTORS[name]().set_fit_request(groups=True)
        for method in ("predict_proba", "predict", "decision_function"):
            getattr(selector, f"set_{method}_request")(groups=True)
        selector.set_score_request(groups=True)
        pipe = Pipeline([("selector", selector)])
        found = cross_validate(
            pipe, X, y, cv=GroupKFold(2), params={"groups": groups}, error_score="raise"
        )
        assert np.isfinite(found["test_score"]).all()
        search = GridSearchCV(
            pipe, {"selector__pad": [False]}, cv=GroupKFold(2), error_score="raise"
        )
        search.fit(X, y, groups=groups)
        best = search.best_estimator_
        assert best.predict_proba(X, groups=groups).shape == (len(X), 2)
    if name == "shipped":
        assert found["test_score"].mean() > 0.8  # saturated stars and cut off ones among them


def test_before_a_classifier_of_ones_own(one_x):
    X, y, groups = one_x
    with sklearn.config_context(enable_metadata_routing=True):
        homogenizer = PSFHomogenizer().set_transform_request(groups=True)
        pipe = Pipeline(
            [
                ("psf", homogenizer),
                ("flat", FunctionTransformer(flatten)),
                ("line", LogisticRegression(C=0.01, max_iter=500)),
            ]
        )
        search = GridSearchCV(
            pipe, {"psf__size": [21, 31], "psf__replace": [True, False]}, cv=GroupKFold(3),
            scoring="roc_auc", error_score="raise",
        )  # fmt: skip
        search.fit(X, y, groups=groups)
    assert search.best_score_ > 0.6


@pytest.mark.filterwarnings(NARROW)
def test_any_size_after_the_fit():
    frame, x, y, _, _ = sky(3.0, seed=100)
    selector = PSFStarSelector.from_pretrained()
    p = [
        selector.predict_proba(Cutouts.of(extract_cutouts(frame, x, y, size).data, x, y))[:, 1]
        for size in (31, 55, 111)
    ]
    np.testing.assert_allclose(p[1], p[2], atol=0.02)
    assert np.median(np.abs(p[0] - p[2])) < 0.02


def test_standard_stars_are_good_stars():
    rng = np.random.default_rng(0)
    stamps = rng.uniform(500, 5000, (20, 1, 1)) * standard_star(41)
    stamps += rng.normal(0, 1, stamps.shape)
    assert (PSFStarSelector.from_pretrained().predict_proba(stamps)[:, 1] > 0.9).all()


def test_a_clone_of_the_shipped_network_is_taught_with_raw_cutouts():
    selector = PSFStarSelector.from_pretrained()
    assert selector.homogenize
    assert clone(selector).homogenize


def test_columns_of_a_data_frame_keep_their_names():
    X = pd.DataFrame(np.random.default_rng(0).normal(size=(8, 225)))
    X.columns = [f"p{k}" for k in range(225)]
    homogenizer = PSFHomogenizer(pad=True).fit(X)
    homogenizer.transform(X)
    with pytest.raises(ValueError, match="feature names"):
        homogenizer.transform(X[X.columns[::-1]])


def test_pixels_of_stamps_have_names_and_stay_arrays():
    X = np.random.default_rng(0).normal(size=(8, 225))
    homogenizer = PSFHomogenizer(size=15, pad=True)
    with sklearn.config_context(transform_output="pandas"):
        assert isinstance(homogenizer.fit_transform(X), np.ndarray)
        assert homogenizer.fit_transform(X.reshape(8, 15, 15)).shape == (8, 15, 15)
    assert homogenizer.get_feature_names_out()[-1] == "psfhomogenizer224"


def test_images_of_an_even_side_are_refused():
    with pytest.raises(InputError, match="odd side"):
        PSFHomogenizer(pad=True).transform(np.zeros((5, 40, 40)))


def test_cutouts_without_weight_are_not_looked_at(one_x):
    X, _, groups = one_x
    weight = np.ones(len(X))
    weight[::3] = 0
    homogenizer = PSFHomogenizer().fit(X)
    stamps = stamps_of_weight(homogenizer, X, groups, weight)
    alone = homogenizer.transform(X[weight > 0], groups[weight > 0])
    np.testing.assert_array_equal(stamps[weight > 0], alone)
    assert not stamps[::3].any()
