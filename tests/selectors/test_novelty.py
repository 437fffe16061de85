"""Selection without labels, and labels that are wrong."""

from __future__ import annotations

import pickle
from importlib.util import find_spec

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import KFold, ShuffleSplit
from sklearn.utils.estimator_checks import check_estimator, check_param_validation

from mlpsf import NoveltySelector, find_label_issues
from mlpsf.detection.sources import find_sources
from mlpsf.errors import InputError, MlpsfError, NoSourcesError
from mlpsf.frames.cutouts import extract_cutouts
from mlpsf.labelling import truth_labels
from mlpsf.selectors import PSFStarSelector
from mlpsf.selectors.novelty import FEATURES, METHODS

LABEL_FREE = [f for f in FEATURES if f != "embedding"]


def draw(n_frames=4, n=30, stars=0.5, size=17, seed=0):
    """Draw frames, each of its own FWHM: stars (1), and pairs and galaxies (0)."""
    rng = np.random.default_rng(seed)
    X, y, groups = [], [], []
    u = np.arange(size) - size // 2
    for frame in range(n_frames):
        width = 2.6 + 0.25 * frame
        for i in range(n):
            good = i < stars * n
            dx, dy = rng.uniform(-0.4, 0.4, 2)
            wide = width * (rng.uniform(1.3, 2.2) if not good and i % 2 else 1.0)
            q = rng.uniform(0.6, 1.0) if not good and i % 2 else 1.0
            one = np.exp(-2.77 * ((u - dx) ** 2 + ((u[:, None] - dy) / q) ** 2) / wide**2)
            if not good and i % 2 == 0:
                a, r = rng.uniform(0, 2 * np.pi), rng.uniform(0.8, 1.6) * width
                x, z = dx + r * np.cos(a), dy + r * np.sin(a)
                one += 0.6 * np.exp(-2.77 * ((u - x) ** 2 + (u[:, None] - z) ** 2) / width**2)
            X.append(10 ** rng.uniform(2.5, 4) * one + rng.normal(100, 2, one.shape))
            y.append(int(good))
            groups.append(frame)
    return np.array(X, dtype=np.float32), np.array(y), np.array(groups)


@pytest.fixture(scope="module")
def frames():
    return draw()


@pytest.fixture(scope="module")
def fitted(frames):
    return NoveltySelector().fit(frames[0], groups=frames[2])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("features", LABEL_FREE)
def test_finds_stars_without_labels(method, features):
    X, y, _ = draw(n_frames=1, n=40)
    selector = NoveltySelector(method=method, features=features, random_state=0)
    p = selector.fit(X).predict_proba(X)
    assert p.shape == (len(X), 2)
    np.testing.assert_allclose(p.sum(axis=1), 1)
    assert roc_auc_score(y, p[:, 1]) > 0.85


@pytest.mark.parametrize("stars", [0.15, 0.85])
def test_stars_may_be_few_or_many(stars):
    X, y, _ = draw(n_frames=1, n=80, stars=stars)
    selector = NoveltySelector().fit(X)
    assert roc_auc_score(y, selector.predict_proba(X)[:, 1]) > 0.95
    np.testing.assert_array_equal(selector.labels_, selector.predict(X))


@pytest.mark.parametrize("features", ["residual", "embedding"])
def test_simulated_frame(features, field):
    if features == "embedding":
        try:
            PSFStarSelector.from_pretrained()
        except MlpsfError:
            pytest.skip("no model ships")
    sources = find_sources(field.frame)
    sources = sources[sources["snr"] > 30]
    x, y = np.asarray(sources["x"]), np.asarray(sources["y"])
    truth = field.truth
    label, _ = truth_labels(
        x, y, truth["x"], truth["y"], truth["flux"], truth["kind"] == "star",
        fwhm=field.psf.fwhm, defects=field.defects,
    )  # fmt: skip
    cut = extract_cutouts(
        field.frame, x, y, 41, fwhm=sources.meta["fwhm"], background=field.frame.background.level
    )
    known = (label >= 0) & ~cut.near_edge
    method = "kmeans" if features == "embedding" else "gaussian_mixture"
    selector = NoveltySelector(features=features, method=method, random_state=0)
    score = selector.fit(cut.data[~cut.near_edge]).decision_function(cut.data[known])
    assert roc_auc_score(label[known], score) > 0.8


@pytest.mark.filterwarnings("ignore:The cutouts of .* FWHM wide:UserWarning")
def test_embedding_takes_raw_cutouts(frames):
    X, y, groups = frames
    selector = NoveltySelector(features="embedding", method="kmeans", random_state=0)
    good = selector.fit(X, groups=groups).predict_proba(X, groups)[:, 1]
    assert roc_auc_score(y, good) > 0.8


def test_labels_calibrate_and_nothing_else(frames, fitted):
    X, y, groups = frames
    words = np.array(["other", "star"])[y]
    taught = NoveltySelector().fit(X, words, groups=groups)
    assert taught.classes_.tolist() == ["other", "star"]
    a, b = (s.decision_function(X, groups) for s in (fitted, taught))
    np.testing.assert_array_equal(np.argsort(a, kind="stable"), np.argsort(b, kind="stable"))
    np.testing.assert_array_equal(fitted.model_.estimator_.means_, taught.model_.estimator_.means_)
    assert abs(taught.predict_proba(X, groups)[:, 1].mean() - y.mean()) < 0.05
    assert taught.score(X, words, groups=groups) > 0.85


def test_weight_zero_is_removal(frames):
    X, y, groups = frames
    weight = np.where(np.arange(len(y)) % 5 == 0, 0.0, 1.0)
    kept = weight > 0
    one = NoveltySelector().fit(X, y, groups=groups, sample_weight=weight)
    other = NoveltySelector().fit(X[kept], y[kept], groups=groups[kept])
    np.testing.assert_array_equal(one.predict_proba(X), other.predict_proba(X))


def test_units_sky_form_and_company_do_not_matter(frames, fitted):
    X, _, groups = frames
    expected = fitted.predict_proba(X)
    np.testing.assert_allclose(fitted.predict_proba(3 * X + 70), expected, atol=0.01)
    np.testing.assert_array_equal(fitted.predict_proba(X.reshape(len(X), -1)), expected)
    # The figures are of fits in float32, whose sums come in another order in other company.
    np.testing.assert_allclose(fitted.predict_proba(X[[7, 3]]), expected[[7, 3]], atol=1e-5)
    # A frame too poor for a PSF of its own is judged by the others' stars.
    np.testing.assert_array_equal(fitted.predict_proba(X[:3], [9] * 3), fitted.predict_proba(X[:3]))
    # The fits are those of a whole frame here; what company they get later is in float64.
    one = fitted.predict_proba(X[groups == 1], groups[groups == 1])
    np.testing.assert_allclose(one, fitted.predict_proba(X, groups)[groups == 1], atol=1e-9)


def test_missing_pixels_and_empty_cutouts(frames, fitted):
    X = frames[0].copy()
    X[0, :2] = np.nan
    X[1], X[2] = np.nan, 0.0
    p = fitted.predict_proba(X)
    assert np.isfinite(p).all()
    assert p[1, 1] == p[2, 1] == 0
    assert fitted.decision_function(X)[1] == -1000


def test_nothing_to_see():
    with pytest.raises(NoSourcesError):
        NoveltySelector().fit(np.zeros((9, 15, 15)))


def test_clone_and_pickle(frames, fitted):
    assert not hasattr(clone(fitted), "model_")
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict_proba(frames[0]), fitted.predict_proba(frames[0]))


def test_wrong_groups(frames, fitted):
    with pytest.raises(InputError, match="groups must name one frame a cutout"):
        fitted.predict(frames[0], groups=[1, 2])


EXPECTED_FAILURES = {
    "check_sample_weight_equivalence_on_dense_data": "weights lean on the calibration only: two "
    "copies of a source make the cluster about it denser, and count twice in the PSF",
}
NEED_PANDAS = {"check_sample_weights_pandas_series", "check_classifier_data_not_an_array"}


@pytest.mark.parametrize("method", ["gaussian_mixture", "one_class_svm"])
def test_scikit_learn_checks(method, monkeypatch):
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")  # without it a check is skipped
    selector = NoveltySelector(method=method, pad=True, random_state=0)
    results = check_estimator(
        selector, expected_failed_checks=EXPECTED_FAILURES, on_skip=None, on_fail=None
    )
    assert len(results) >= 46
    skipped = {r["check_name"] for r in results if r["status"] == "skipped"}
    assert skipped <= (set() if find_spec("pandas") else NEED_PANDAS)
    assert {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"} == {}
    assert {r["check_name"] for r in results if r["status"] == "xfail"} == set(EXPECTED_FAILURES)


def test_every_parameter_is_validated():
    check_param_validation("NoveltySelector", NoveltySelector(pad=True))


# --- wrong labels


def spoil(y, share, seed=0):
    """Turn a share of the labels around."""
    wrong = np.random.default_rng(seed).permutation(len(y))[: round(share * len(y))]
    bad = y.copy()
    bad[wrong] = 1 - bad[wrong]
    return bad, wrong


@pytest.mark.parametrize("way", ["novelty", "out of fold", "fitted"])
def test_wrong_labels_are_found(way, frames):
    X, y, groups = frames
    bad, wrong = spoil(y, 0.1)  # fewer are too few to say how many are found
    words = {"groups": groups, "cv": 4}
    if way == "out of fold":
        words["estimator"] = NoveltySelector(method="kmeans", random_state=0)
    if way == "fitted":
        other = draw(seed=1)
        taught = NoveltySelector().fit(other[0], other[1], groups=other[2])
        words.update(estimator=taught, cv="prefit")
    issues = find_label_issues(X, bad, **words)
    assert issues.probability.shape == (len(X), 2)
    assert (np.diff(issues.margins) >= 0).all()
    assert (issues.margins <= 0).all()
    first = issues.indices[: len(wrong)]
    # By chance one in ten would be right.
    assert np.isin(first, wrong).mean() > 0.6
    assert np.isin(wrong, issues.indices).mean() > 0.7


def test_right_labels_raise_few_issues(frames):
    X, y, groups = frames
    assert len(find_label_issues(X, y, groups=groups, cv=4).indices) < 0.1 * len(y)


def test_any_estimator_and_splitter():
    rng = np.random.default_rng(0)
    X = rng.normal(0, 1, (200, 3))
    y = np.where(X[:, 0] > 0, "star", "other")
    clear = np.abs(X[:, 0]) > 0.5
    X, y = X[clear], y[clear]
    y[4] = "star" if y[4] == "other" else "other"
    folds = KFold(4, shuffle=True, random_state=0)
    issues = find_label_issues(X, y, estimator=LogisticRegression(), cv=folds)
    assert issues.indices[0] == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"y": [0, 1]}, "one label a source"),
        ({"y": [1] * 20}, "two classes"),
        ({"groups": [0]}, "one frame a cutout"),
        ({"cv": "fitted"}, "folds or 'prefit'"),
        ({"groups": [0] * 20}, "cannot be split"),
        ({"cv": ShuffleSplit(2, random_state=0)}, "judge every source"),
    ],
)
def test_wrong_words(words, message):
    words = {"y": [0, 1] * 10, "estimator": LogisticRegression(), **words}
    with pytest.raises(InputError, match=message):
        find_label_issues(np.arange(20.0)[:, None], **words)


def test_other_labels_than_the_estimators():
    model = LogisticRegression().fit([[0.0], [1.0]], ["a", "b"])
    with pytest.raises(InputError, match="knows the labels"):
        find_label_issues([[0.0], [1.0]], [0, 1], estimator=model, cv="prefit")
