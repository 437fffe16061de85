"""The contract of a selector: scikit-learn's own checks, and what cutouts add to them.

scikit-learn checks on tables of a few columns, which the selectors take with ``pad=True``.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import sklearn
from conftest import FLOAT32, run_eagerly
from sklearn.base import clone, is_classifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import VotingClassifier
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.inspection import permutation_importance
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    HalvingGridSearchCV,
    cross_val_predict,
    cross_validate,
)
from sklearn.pipeline import Pipeline
from sklearn.utils.estimator_checks import check_estimator, check_param_validation

from mlpsf.errors import InputError
from mlpsf.selectors import PSFStarSelector, ResidualSelector
from mlpsf.stamps.scaling import CutoutScaler

TINY = {"filters": (4,), "dropout": 0.0, "batch_size": 20, "learning_rate": 0.02}


@pytest.fixture(scope="module", autouse=True)
def eager():
    with run_eagerly():
        yield


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


# --- scikit-learn's checks

CHECKED = {
    "cnn": PSFStarSelector(
        pad=True,
        scaling=None,
        filters=(4,),
        dropout=0.0,
        learning_rate=0.05,
        epochs=2,
        batch_size=32,
        random_state=0,
    ),
    "residual": ResidualSelector(pad=True),
    "scaler": CutoutScaler(method="standard"),
}

EXPECTED_FAILURES = {
    "cnn": {
        "check_sample_weight_equivalence_on_dense_data": "two copies fall into different batches, "
        "and each is turned by a random symmetry of its own",
    },
    "residual": {
        "check_sample_weight_equivalence_on_dense_data": "sources are ranked: two copies take two "
        "of the n_best places, and count twice in the scatter of the frame",
    },
    "scaler": {},
}

MAY_FAIL = {
    "cnn": dict.fromkeys(
        ("check_methods_sample_order_invariance", "check_methods_subset_invariance"),
        "to 1e-7, which is the last digit of single precision; FLOAT32 is what holds",
    )
}

NEED_PANDAS = {"check_sample_weights_pandas_series", "check_classifier_data_not_an_array"}


@pytest.mark.parametrize("name", CHECKED)
def test_scikit_learn_checks(name, monkeypatch):
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")  # without it a check is skipped
    may_fail = MAY_FAIL.get(name, {})
    results = check_estimator(
        CHECKED[name],
        expected_failed_checks=EXPECTED_FAILURES[name] | may_fail,
        on_skip=None,
        on_fail=None,
    )
    assert len(results) >= 46
    skipped = {r["check_name"] for r in results if r["status"] == "skipped"}
    assert skipped <= (set() if find_spec("pandas") else NEED_PANDAS)
    failed = {r["check_name"]: repr(r["exception"]) for r in results if r["status"] == "failed"}
    assert failed == {}
    expected = {r["check_name"] for r in results if r["status"] == "xfail"}
    assert expected - set(may_fail) == set(EXPECTED_FAILURES[name])


@pytest.mark.parametrize("name", CHECKED)
def test_every_parameter_is_validated(name):
    estimator = CHECKED[name]
    check_param_validation(type(estimator).__name__, estimator)


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (PSFStarSelector(epochs=0), "The 'epochs' parameter of PSFStarSelector must be an int"),
        (PSFStarSelector(filters=(4, 0)), "The 'filters' parameter must be .* positive integers"),
        (PSFStarSelector(filters=[2.5]), "The 'filters' parameter must be .* positive integers"),
        (
            PSFStarSelector(architecture="published", filters=(4,)),
            "The 'filters' parameter must be 2 positive integers",
        ),
        (ResidualSelector(fitter="mcmc"), "The 'fitter' parameter of ResidualSelector must be"),
        (CutoutScaler(softening=0.0), "The 'softening' parameter of CutoutScaler must be a float"),
    ],
)
def test_wrong_parameters(estimator, message, frames):
    X, y, _ = frames
    with pytest.raises(InputError, match=message):
        estimator.fit(X, y)


def test_architectures_are_those_that_there_are():
    from mlpsf.selectors.networks import ARCHITECTURES

    allowed = PSFStarSelector._parameter_constraints["architecture"][0].options
    assert allowed == set(ARCHITECTURES)


# --- cutouts


def draw(n_frames=4, n=20, size=15, fwhm=3.0, seed=0):
    """Draw frames of stars (1) and close pairs (0)."""
    rng = np.random.default_rng(seed)
    groups, y = np.repeat(np.arange(n_frames), n), np.tile([0, 1], n_frames * n // 2)
    u = np.arange(size) - size // 2

    def uniform(low, high):
        return rng.uniform(low, high, (len(y), 1, 1))

    def star(x, y):
        return np.exp(-4 * np.log(2) * ((u - x) ** 2 + (u[:, None] - y) ** 2) / fwhm**2)

    dx, dy, angle, apart = uniform(-0.4, 0.4), uniform(-0.4, 0.4), uniform(0, 6.3), uniform(2.5, 4)
    beside = star(dx + apart * np.cos(angle), dy + apart * np.sin(angle)) * uniform(0.4, 0.9)
    X = 10 ** uniform(3, 4) * (star(dx, dy) + (y == 0)[:, None, None] * beside)
    return (X + rng.normal(50, 2, X.shape)).astype(np.float32), y, groups


@pytest.fixture(scope="module")
def frames():
    return draw()


MAKE = {
    "cnn": lambda **words: PSFStarSelector(**{"epochs": 4, "random_state": 0, **TINY, **words}),
    "residual": lambda **words: ResidualSelector(n_best=10, **words),
}


# Enough to see that something was trained at all.
QUICK = {"cnn": {"epochs": 1, "batch_size": 40}, "residual": {}}


@pytest.fixture(scope="module", params=MAKE)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def fitted(name, frames):
    X, y, groups = frames
    return MAKE[name]().fit(X, y, groups=groups)


@pytest.fixture(scope="module")
def probability(fitted, frames):
    return fitted.predict_proba(frames[0])


def test_learns(fitted, frames, probability):
    assert is_classifier(fitted)
    assert roc_auc_score(frames[1], probability[:, 1]) > 0.9
    assert fitted.score(frames[0], frames[1]) > 0.8


def test_probabilities(fitted, frames, probability):
    X = frames[0]
    assert probability.shape == (len(X), 2)
    assert probability.dtype == np.float64
    assert ((probability >= 0) & (probability <= 1)).all()
    np.testing.assert_allclose(probability.sum(axis=1), 1.0)
    score = fitted.decision_function(X)
    np.testing.assert_array_equal(score > 0, probability[:, 1] > 0.5)
    np.testing.assert_array_equal(fitted.predict(X), fitted.classes_[probability.argmax(axis=1)])


def test_flat_or_square(name, fitted, frames, probability):
    X, y, groups = frames
    flat = X.reshape(len(X), -1)
    assert fitted.n_features_in_ == flat.shape[1]
    np.testing.assert_array_equal(fitted.predict_proba(flat), probability)
    other = MAKE[name]().fit(flat, y, groups=groups)
    assert other.n_features_in_ == flat.shape[1]
    np.testing.assert_array_equal(other.predict_proba(X), probability)
    np.testing.assert_array_equal(other.predict_proba(X.tolist()), probability)


@pytest.mark.parametrize("dtype", [">f4", ">f8", "f8", "f2", "i4", ">i2", "u2"])
def test_any_numbers_read_only(fitted, frames, dtype):
    whole = np.rint(frames[0][:20]).astype(dtype)
    X = whole.copy()
    X.setflags(write=False)
    native = fitted.predict_proba(whole.astype(np.float32))
    np.testing.assert_array_equal(fitted.predict_proba(X), native)
    np.testing.assert_array_equal(fitted.predict_proba(X[:, ::-1][:, ::-1]), native)


def test_missing_pixels(name, fitted, frames):
    X, y, groups = frames
    X = X.copy()
    X[0, :2] = np.nan
    X[1] = np.nan
    before = X.copy()
    for selector in (fitted, MAKE[name](**QUICK[name]).fit(X, y, groups=groups)):
        assert np.isfinite(selector.predict_proba(X)).all()
    np.testing.assert_array_equal(X, before)


def test_company_does_not_matter(fitted, frames, probability):
    X = frames[0]
    for rows in ([3], [5, 4, 3], range(7), range(79, -1, -1)):
        np.testing.assert_allclose(fitted.predict_proba(X[rows]), probability[rows], **FLOAT32)


@pytest.mark.parametrize("labels", [("other", "star"), (False, True), (-1, 1)])
def test_labels_of_any_kind(name, frames, labels):
    X, y, groups = frames
    selector = MAKE[name](**QUICK[name])
    selector.fit(X, np.array(labels)[y], groups=groups)
    assert selector.classes_.tolist() == list(labels)
    assert set(selector.predict(X).tolist()) <= set(labels)


def test_weight_zero_is_removal(name, frames):
    X, y, groups = frames
    weight = np.ones(len(y))
    weight[::5] = 0
    kept = weight > 0
    odd = X.copy()
    odd[~kept] *= -1  # whatever they hold
    words = {**QUICK["cnn"], "validation_fraction": 0.3} if name == "cnn" else {}
    one = MAKE[name](**words).fit(odd, y, groups=groups, sample_weight=weight)
    other = MAKE[name](**words).fit(X[kept], y[kept], groups=groups[kept])
    np.testing.assert_array_equal(one.predict_proba(X), other.predict_proba(X))


def test_weights_lean(name, frames):
    X, y, groups = frames
    good, other = (
        MAKE[name](**QUICK[name])
        .fit(X, y, groups=groups, sample_weight=np.where(y == lighter, 0.05, 1.0))
        .decision_function(X)
        for lighter in (0, 1)
    )
    assert good.mean() > other.mean() + 0.1


@pytest.mark.parametrize("size", [17, 23])
def test_odd_sizes(name, size):
    X, y, groups = draw(n_frames=2, n=12, size=size)
    selector = MAKE[name](**QUICK[name]).fit(X, y, groups=groups)
    assert selector.predict_proba(X[:3]).shape == (3, 2)
    with pytest.raises(ValueError, match="expecting"):
        selector.predict_proba(X[:3, 1:-1, 1:-1])


def test_pad_leaves_cutouts_alone(name, frames, probability):
    X, y, groups = frames
    padded = MAKE[name](pad=True).fit(X, y, groups=groups)
    np.testing.assert_array_equal(padded.predict_proba(X), probability)


def test_clone_pickle_and_html(fitted, frames, probability):
    copy = clone(fitted)
    assert copy.get_params() == fitted.get_params()
    assert not hasattr(copy, "classes_")
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict_proba(frames[0]), probability)
    assert type(fitted).__name__ in fitted._repr_html_()


# --- the network


def test_parameters_reach_the_network(frames):
    X, y, _ = frames
    pipe = Pipeline([("scale", CutoutScaler()), ("cnn", PSFStarSelector(scaling=None))])
    pipe.set_params(
        cnn__filters=(3, 5), cnn__dropout=0.4, cnn__learning_rate=0.25, cnn__epochs=2,
        cnn__batch_size=50, cnn__architecture="published", cnn__random_state=3,
    )  # fmt: skip
    selector = pipe.fit(X, y)["cnn"]
    layers = selector.model_.layers
    assert [x.filters for x in layers if hasattr(x, "filters")] == [3, 5]
    assert {x.rate for x in layers if hasattr(x, "rate")} == {0.4}
    assert float(selector.estimator_.model_.optimizer.learning_rate) == pytest.approx(0.25)
    assert len(selector.history_["loss"]) == 2
    assert int(selector.estimator_.model_.optimizer.iterations) == 2 * 2


def test_class_weight_by_label(frames):
    X, y, _ = frames
    words = np.array(["other", "star"])[y]
    by_class = MAKE["cnn"](**QUICK["cnn"], class_weight={"other": 0.2, "star": 3.0})
    by_source = MAKE["cnn"](**QUICK["cnn"])
    by_source.fit(X, words, sample_weight=np.where(y == 1, 3.0, 0.2))
    np.testing.assert_array_equal(
        by_class.fit(X, words).predict_proba(X), by_source.predict_proba(X)
    )


def test_callbacks_stay_what_they_were(frames):
    import keras

    seen = []
    callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, _: seen.append(epoch))
    before = set(vars(callback))
    selector = MAKE["cnn"](epochs=2, callbacks=[callback]).fit(*frames[:2])
    assert seen == [0, 1]
    assert set(vars(callback)) == before
    assert callback.model is None
    assert clone(selector).callbacks is not None


def test_early_stopping_holds_whole_frames_out(frames):
    X, y, groups = frames
    selector = MAKE["cnn"](epochs=40, early_stopping=True, patience=0, validation_fraction=0.5)
    selector.fit(X, y, groups=groups)
    held = np.isin(np.arange(len(X)), selector.held_out_)
    assert len(np.unique(groups[held])) == 2
    assert not set(groups[held]) & set(groups[~held])
    assert len(selector.history_["val_loss"]) < 40
    assert selector.calibration_ != (1.0, 0.0)


def test_seed_repeats(frames):
    X, y, _ = frames
    words = {**QUICK["cnn"], "dropout": 0.5}
    a, b, c = (
        MAKE["cnn"](random_state=seed, **words).fit(X, y).predict_proba(X) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def test_saved_here_loaded_there(frames, tmp_path):
    X, y, groups = frames
    selector = MAKE["cnn"](epochs=1, validation_fraction=0.3).fit(X, y, groups=groups)
    path = selector.save(tmp_path / "model.keras")
    np.save(tmp_path / "X.npy", X.reshape(len(X), -1))
    script = """
import sys, numpy as np
from mlpsf.selectors import PSFStarSelector
folder = sys.argv[1]
X = np.load(folder + "/X.npy")
for engine in ("auto", "keras"):
    selector = PSFStarSelector.load(folder + "/model.keras", engine=engine)
    np.save(f"{folder}/{engine}.npy", selector.predict_proba(X))
    print(engine, "tensorflow" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True, text=True, check=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )  # fmt: skip
    expected = selector.predict_proba(X)
    np.testing.assert_allclose(np.load(tmp_path / "keras.npy"), expected, **FLOAT32)
    # Another program sums in another order in every layer.
    np.testing.assert_allclose(np.load(tmp_path / "auto.npy"), expected, rtol=0, atol=1e-5)
    if find_spec("tf2onnx"):
        assert done.stdout.splitlines() == ["auto False", "keras True"]
    # A file of before features were counted in pixels.
    loaded = PSFStarSelector.load(path)
    weights = (s.model_.get_weights() for s in (selector, loaded))
    assert all(np.array_equal(a, b) for a, b in zip(*weights, strict=True))
    assert loaded.n_features_in_ == loaded.scaler_.n_features_in_ == 225


def test_calibrate_refuses_unknown_labels(frames):
    X, y, _ = frames
    selector = MAKE["cnn"](epochs=1).fit(X, y)
    with pytest.raises(InputError, match="Labels must be those of fit"):
        selector.calibrate(X, y + 1)


# --- the residual rule and its frames


def test_common_psf_does_not_depend_on_the_last_frame(frames):
    X, y, groups = frames
    a = MAKE["residual"]().fit(X, y, groups=groups)
    b = MAKE["residual"]().fit(X, y, groups=-groups)
    np.testing.assert_allclose(a.psf_.grid, b.psf_.grid, atol=1e-6)
    np.testing.assert_allclose(a.predict_proba(X), b.predict_proba(X), atol=1e-4)


def test_common_psf_judges_unlike_frames():
    parts = [draw(n_frames=1, n=30, size=21, fwhm=f, seed=i) for i, f in enumerate((3.0, 3.6))]
    X, y = (np.concatenate([p[i] for p in parts]) for i in range(2))
    groups = np.repeat(["sharp", "soft"], 30)
    selector = ResidualSelector(n_best=10).fit(X, y, groups=groups)
    own, common = selector.predict_proba(X, groups)[:, 1], selector.predict_proba(X)[:, 1]
    for frame in ("sharp", "soft"):
        rows = groups == frame
        assert roc_auc_score(y[rows], own[rows]) > 0.95
        assert roc_auc_score(y[rows], common[rows]) > 0.9
    # The careful side: a PSF that fits less well makes no star of what is none.
    assert common[y == 0].max() < 0.5
    np.testing.assert_array_equal(selector.decision_function(X, groups) > 0, own > 0.5)


def test_poor_frames_are_judged_by_the_others(frames):
    X, y, groups = frames
    selector = MAKE["residual"]().fit(X, y, groups=groups)
    alone = selector.predict_proba(X[:3], groups=["new"] * 3)
    np.testing.assert_array_equal(alone, selector.predict_proba(X[:3]))
    poor = np.where(np.arange(len(X)) < 3, 99, groups)
    other = MAKE["residual"]().fit(X, y, groups=poor)
    assert np.isfinite(other.distance_[:3]).any()
    empty = X.copy()
    empty[groups == 0] = 0.0  # a frame without a source
    assert not MAKE["residual"]().fit(empty, y, groups=groups).labels_[groups == 0].any()


# --- in scikit-learn's hands


def test_scaler_gives_tables(frames):
    pandas = pytest.importorskip("pandas")
    flat = frames[0].reshape(len(frames[0]), -1)
    table = CutoutScaler().set_output(transform="pandas").fit_transform(flat)
    assert isinstance(table, pandas.DataFrame)
    assert table.columns[-1] == "x224"
    np.testing.assert_array_equal(table.to_numpy(), CutoutScaler().fit_transform(flat))


def test_scaling_before_or_inside(frames):
    X, y, _ = frames
    inside = MAKE["cnn"](**QUICK["cnn"], scaling="star").fit(X, y)
    plain = MAKE["cnn"](**QUICK["cnn"], scaling=None)
    pipe = Pipeline([("scale", CutoutScaler()), ("cnn", plain)])
    np.testing.assert_array_equal(inside.predict_proba(X), pipe.fit(X, y).predict_proba(X))


def test_grid_search_finds_the_better_network(frames):
    X, y, groups = frames
    pipe = Pipeline([("scale", CutoutScaler()), ("cnn", MAKE["cnn"](scaling=None))])
    # Eight steps of training do not settle the batch normalisation of the published network.
    search = GridSearchCV(
        pipe,
        {"cnn__architecture": ["published", "compact"], "cnn__filters": [(4, 4)]},
        cv=GroupKFold(2),
        scoring="roc_auc",
    ).fit(X, y, groups=groups)
    assert search.best_params_["cnn__architecture"] == "compact"
    published, compact = search.cv_results_["mean_test_score"]
    assert compact > 0.8
    assert compact > published
    assert search.predict_proba(X).shape == (len(X), 2)


@pytest.mark.usefixtures("routing")
def test_groups_and_weights_are_routed(frames):
    X, y, groups = frames
    selector = MAKE["cnn"](epochs=1, validation_fraction=0.34)
    selector.set_fit_request(groups=True, sample_weight=True)
    pipe = Pipeline([("scale", CutoutScaler()), ("cnn", selector.set_params(scaling=None))])
    weight = np.where(groups == 2, 0.0, 1.0)
    pipe.fit(X, y, groups=groups, sample_weight=weight)
    held = pipe["cnn"].held_out_
    assert len(held) == 20
    assert 2 not in groups[held]
    assert len(np.unique(groups[held])) == 1


@pytest.mark.usefixtures("routing")
def test_frames_are_routed_to_the_residual_rule(frames):
    X, y, groups = frames
    selector = MAKE["residual"]().set_fit_request(groups=True).set_score_request(groups=True)
    selector.set_predict_proba_request(groups=True).set_predict_request(groups=True)
    result = cross_validate(selector, X, y, cv=GroupKFold(2), params={"groups": groups}, n_jobs=2)
    assert result["test_score"].min() > 0.8
    pipe = Pipeline([("rule", selector)]).fit(X, y, groups=groups)
    direct = selector.fit(X, y, groups=groups)
    np.testing.assert_array_equal(
        pipe.predict_proba(X, groups=groups), direct.predict_proba(X, groups)
    )
    np.testing.assert_array_equal(pipe.predict(X, groups=groups), direct.predict(X, groups))


@pytest.mark.usefixtures("routing")
def test_splitters_and_meta_estimators(name, frames):
    """All of these take three axes; permutation_importance below is the one that does not."""
    X, y, groups = frames
    selector = MAKE[name](**QUICK[name]).set_fit_request(groups=True)
    selector.set_score_request(groups=False)
    p = cross_val_predict(
        selector, X, y, cv=GroupKFold(2), params={"groups": groups}, method="predict_proba"
    )
    assert p.shape == (len(X), 2)
    calibrated = CalibratedClassifierCV(selector, cv=GroupKFold(2)).fit(X, y, groups=groups)
    np.testing.assert_allclose(calibrated.predict_proba(X).sum(axis=1), 1)
    voting = VotingClassifier([("a", selector), ("b", clone(selector))], voting="soft")
    assert voting.fit(X, y, groups=groups).predict_proba(X).shape == (len(X), 2)
    search = GridSearchCV(selector, {"pad": [False]}, cv=GroupKFold(2)).fit(X, y, groups=groups)
    assert search.best_score_ > 0.4


@pytest.mark.usefixtures("routing")
def test_halving_over_epochs(frames):
    X, y, groups = frames
    search = HalvingGridSearchCV(
        MAKE["cnn"]().set_fit_request(groups=True),
        {"learning_rate": [1e-6, 0.02]},
        resource="epochs", min_resources=2, max_resources=4, factor=2, cv=GroupKFold(2),
        scoring="roc_auc", random_state=0,
    )  # fmt: skip
    search.fit(X[:40], y[:40], groups=groups[:40])
    assert search.best_params_ == {"learning_rate": 0.02, "epochs": 4}


def test_permutation_importance(name, fitted, frames):
    X, y, _ = frames
    with pytest.raises(ValueError, match="dim 3"):
        permutation_importance(fitted, X, y)
    centre = X[:, 5:10, 5:10].reshape(len(X), -1)[:, ::6]  # a table of five columns
    selector = MAKE[name](pad=True, **QUICK[name])
    found = permutation_importance(selector.fit(centre, y), centre, y, n_repeats=2, random_state=0)
    assert found.importances_mean.shape == (5,)
