"""PSFStarSelector: the contract of a selector, training, and its files. All with real Keras."""

from __future__ import annotations

import json
import pickle
import zipfile

import numpy as np
import pytest
from conftest import FLOAT32
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score

from mlpsf.errors import InputError, MlpsfError, ModelFileError, OutputError
from mlpsf.frames.cutouts import Cutouts
from mlpsf.selectors import PSFStarSelector
from mlpsf.stamps.standard import standard_star

SIZE = 15
N = 120
TINY = {"filters": (4, 6), "batch_size": 32, "learning_rate": 0.01, "random_state": 0}


def draw(n=N, size=SIZE, seed=0):
    """Draw round stars (1) and close pairs (0)."""
    rng = np.random.default_rng(seed)
    u = np.arange(size) - size // 2

    def stars(dx, dy):
        dx, dy = dx[:, None, None], dy[:, None, None]
        return np.exp(-0.5 * ((u[None, None, :] - dx) ** 2 + (u[None, :, None] - dy) ** 2) / 1.7**2)

    y = np.arange(n) % 2
    X = stars(*rng.uniform(-0.3, 0.3, (2, n)))
    angle = rng.uniform(0, 2 * np.pi, n)
    second = stars(4 * np.cos(angle), 4 * np.sin(angle))
    X += (1 - y)[:, None, None] * 0.8 * second
    X *= rng.uniform(500, 5000, n)[:, None, None]
    return X + rng.normal(100, 5, X.shape), y


@pytest.fixture(scope="module")
def data():
    return draw()


@pytest.fixture(scope="module")
def fitted(data):
    """Fit once, for all tests that only look."""
    return PSFStarSelector(epochs=8, **TINY).fit(*data)


@pytest.fixture(scope="module")
def probability(fitted, data):
    return fitted.predict_proba(data[0])


@pytest.fixture(scope="module")
def saved(fitted, tmp_path_factory):
    return fitted.save(tmp_path_factory.mktemp("model") / "tiny.keras")


# --- the contract


def test_contract(fitted, data, probability):
    X, _ = data
    assert is_classifier(fitted)
    assert fitted.classes_.tolist() == [0, 1]
    assert probability.shape == (N, 2)
    assert probability.dtype == np.float64
    np.testing.assert_allclose(probability.sum(axis=1), 1)
    assert ((probability >= 0) & (probability <= 1)).all()
    np.testing.assert_array_equal(fitted.predict(X), probability.argmax(axis=1))
    assert fitted.cutout_size_ == SIZE
    assert fitted.reference_fwhm_ == 4.0
    np.testing.assert_allclose(
        1 / (1 + np.exp(-fitted.decision_function(X))), probability[:, 1], atol=1e-6
    )


def test_it_learns(fitted):
    X, y = draw(seed=1)
    assert roc_auc_score(y, fitted.predict_proba(X)[:, 1]) > 0.9
    assert len(fitted.history_["loss"]) == 8
    assert fitted.history_["loss"][-1] < fitted.history_["loss"][0]


def test_one_cutout(fitted, data, probability):
    p = fitted.predict_proba(data[0][:1])
    assert p.shape == (1, 2)
    np.testing.assert_allclose(p, probability[:1], atol=1e-5)
    assert fitted.predict(data[0][:1]).shape == (1,)


def test_cutouts_are_judged_one_by_one(fitted, data, probability):
    order = np.random.default_rng(1).permutation(N)
    np.testing.assert_allclose(fitted.predict_proba(data[0][order]), probability[order], atol=1e-5)


@pytest.mark.usefixtures("eager")
def test_shape_dtype_and_byte_order_train_the_same_network(data):
    X, y = np.round(data[0]), data[1]
    flat = X.reshape(N, -1).astype(">f8")
    flat.setflags(write=False)
    cube, rows = (PSFStarSelector(epochs=1, **TINY).fit(v, y) for v in (X.astype("f4"), flat))
    np.testing.assert_array_equal(cube.predict_proba(X), rows.predict_proba(flat))


def test_flat_cutouts_where_square_ones_were_fitted(fitted, data, probability):
    np.testing.assert_array_equal(fitted.predict_proba(data[0].reshape(N, -1)), probability)


@pytest.mark.parametrize("dtype", [">f4", "f8", ">f8", "f2", "i4", ">i2", "u2"])
def test_any_dtype_read_only(fitted, data, dtype):
    X = np.round(data[0]).astype(dtype)
    native = X.astype("f4")
    X.setflags(write=False)
    np.testing.assert_array_equal(fitted.predict_proba(X), fitted.predict_proba(native))


def test_missing_pixels(fitted, data):
    X = data[0].copy()
    X[0, 2:4] = np.nan
    X[1] = np.nan
    X[2, SIZE // 2, SIZE // 2] = np.nan
    before = X.copy()
    p = fitted.predict_proba(X)
    assert np.isfinite(p).all()
    np.testing.assert_array_equal(X, before)


def test_flux_and_sky_do_not_matter(fitted, data, probability):
    p = fitted.predict_proba(data[0] * 7.0 - 50.0)
    np.testing.assert_allclose(p, probability, atol=1e-3)


@pytest.mark.usefixtures("eager")
def test_another_seed_another_network(data, probability):
    X, y = data
    other = PSFStarSelector(epochs=1, **{**TINY, "random_state": 1}).fit(X, y)
    assert abs(other.predict_proba(X) - probability).max() > 1e-3


@pytest.mark.usefixtures("eager")
def test_input_is_not_changed(data):
    X, y = data[0].copy(), data[1].copy()
    PSFStarSelector(epochs=1, scaling="standard", **TINY).fit(X, y).predict_proba(X)
    np.testing.assert_array_equal(X, data[0])
    np.testing.assert_array_equal(y, data[1])


def test_clone_and_parameters():
    selector = PSFStarSelector(epochs=3, filters=[2], random_state=1)
    assert clone(selector).get_params() == selector.get_params()
    assert selector.set_params(epochs=5).epochs == 5
    with pytest.raises(TypeError):
        PSFStarSelector("compact")


def test_embedding(fitted, data):
    embedding = fitted.embed(data[0])
    assert embedding.shape == (N, 32)
    assert np.isfinite(embedding).all()
    assert (embedding >= 0).all()


def test_groups_stay_whole(data):
    # Two frames of one class each: whole frames on either side leave one class to train on.
    X, y = data
    selector = PSFStarSelector(epochs=1, validation_fraction=0.5, random_state=0)
    with pytest.raises(InputError, match="one class only"):
        selector.fit(X, y, groups=np.array(["night 1", "night 2"])[y])


def test_validation_stops_and_calibrates(data):
    X, y = data
    selector = PSFStarSelector(
        epochs=3, validation_fraction=0.25, early_stopping=True, patience=1, **TINY
    ).fit(X, y, groups=np.repeat(np.arange(12), 10))
    assert "val_loss" in selector.history_
    assert selector.calibration_ != (1.0, 0.0)
    assert selector.calibration_[0] > 0


def test_calibration_keeps_the_order(fitted, data, probability):
    X, y = draw(seed=2)
    other = pickle.loads(pickle.dumps(fitted)).calibrate(X, y)
    a, b = probability[:, 1], other.predict_proba(data[0])[:, 1]
    rising = np.diff(b[np.argsort(a)])
    assert rising.min() > -1e-6
    # Of the calibration's own cutouts, the mean probability is the share of the good.
    assert other.predict_proba(X)[:, 1].mean() == pytest.approx(0.5, abs=0.03)


@pytest.mark.usefixtures("eager")
def test_weights(data, probability):
    X, y = data
    for words, weight in (
        ({}, np.where(y == 1, 1.0, 1e-3)),
        ({"class_weight": {0: 1e-3, 1: 1}}, None),
    ):
        leaning = PSFStarSelector(epochs=3, **words, **TINY).fit(X, y, sample_weight=weight)
        assert leaning.predict_proba(X)[:, 1].mean() > probability[:, 1].mean() + 0.05


@pytest.mark.usefixtures("eager")
def test_no_scaling(data):
    X, y = data
    selector = PSFStarSelector(epochs=1, scaling=None, **TINY).fit(X / 5000, y)
    assert selector.scaler_ is None
    assert np.isfinite(selector.predict_proba(X / 5000)).all()


# --- the published network


def test_published_network_has_the_published_size():
    from mlpsf.selectors.networks import build_network

    assert build_network(111, "published").count_params() == 189_218


@pytest.mark.usefixtures("eager")
def test_published_network(data):
    X, y = data
    selector = PSFStarSelector(architecture="published", epochs=1, random_state=0).fit(X, y)
    assert selector.reference_fwhm_ is None
    assert selector.scaler_.method == "standard"
    assert selector.predict_proba(X).shape == (N, 2)


def test_random_symmetry_turns_in_training_only():
    from mlpsf.selectors.networks import RandomSymmetry

    layer = RandomSymmetry(seed=1)
    image = np.arange(9.0, dtype=np.float32).reshape(1, 3, 3, 1)
    np.testing.assert_array_equal(layer(image, training=False), image)
    turned = np.asarray(layer(np.repeat(image, 200, axis=0), training=True))[..., 0]
    views = {tuple(t.ravel()) for t in turned}
    square = image[0, :, :, 0]
    allowed = [np.rot90(s, k) for s in (square, square.T) for k in range(4)]
    assert views == {tuple(a.ravel()) for a in allowed}


# --- files


def test_saved_and_loaded_is_the_same(fitted, saved, data, probability):
    exact = PSFStarSelector.load(saved, engine="keras")
    weights = (s.model_.get_weights() for s in (fitted, exact))
    assert all(np.array_equal(a, b) for a, b in zip(*weights, strict=True))
    np.testing.assert_allclose(exact.predict_proba(data[0]), probability, **FLOAT32)
    fast = PSFStarSelector.load(saved)
    np.testing.assert_allclose(fast.predict_proba(data[0]), probability, atol=1e-5)
    for name in ("cutout_size_", "reference_fwhm_", "calibration_", "n_features_in_", "history_"):
        assert getattr(exact, name) == getattr(fitted, name)
    assert exact.classes_.tolist() == [0, 1]
    assert [p.name for p in saved.parent.iterdir()] == ["tiny.keras"]


def test_parameters_come_back(fitted, saved):
    parameters = PSFStarSelector.load(saved).get_params()
    assert {**parameters, "filters": tuple(parameters["filters"])} == fitted.get_params()


def test_loaded_knows_what_it_is(saved):
    from mlpsf.selectors.storage import file_hash

    loaded = PSFStarSelector.load(saved)
    assert loaded.model_name_ == "tiny"
    assert loaded.model_sha256_ == file_hash(saved)


@pytest.mark.usefixtures("eager")
def test_words_survive_the_file(data, tmp_path):
    X, y = data
    selector = PSFStarSelector(epochs=1, **TINY).fit(X, np.array(["other", "star"])[y])
    loaded = PSFStarSelector.load(selector.save(tmp_path / "words.keras"))
    assert loaded.classes_.tolist() == ["other", "star"]
    assert loaded.predict(X).tolist() == selector.predict(X).tolist()


@pytest.mark.parametrize("which", ["fitted", "loaded"])
def test_pickle_round_trip(fitted, saved, data, probability, which):
    selector = fitted if which == "fitted" else PSFStarSelector.load(saved)
    again = pickle.loads(pickle.dumps(selector))
    np.testing.assert_allclose(again.predict_proba(data[0]), probability, atol=1e-5)


def test_loaded_can_be_saved_and_embeds(saved, data, fitted, tmp_path):
    loaded = PSFStarSelector.load(saved)
    np.testing.assert_allclose(loaded.embed(data[0]), fitted.embed(data[0]), atol=1e-3)
    again = PSFStarSelector.load(loaded.save(tmp_path / "again.keras"))
    np.testing.assert_allclose(
        again.predict_proba(data[0]), loaded.predict_proba(data[0]), atol=1e-5
    )


def test_file_holds_no_pickle_and_says_what_made_it(saved):
    with zipfile.ZipFile(saved) as archive:
        names = archive.namelist()
        state = json.loads(archive.read("mlpsf.json"))
    assert not [n for n in names if n.endswith((".pkl", ".pickle", ".joblib"))]
    assert state["kind"] == "PSFStarSelector"
    assert state["mlpsf"]
    assert state["parameters"]["learning_rate"] == 0.01


def rewritten(saved, path, change):
    """Copy a model file, with entries changed."""
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = change(name, old.read(name))
            if content is not None:
                new.writestr(name, content)
    return path


def with_state(**changes):
    """Give a function that changes a model file's own entry; None takes a key out."""

    def change(name, content):
        if name != "mlpsf.json":
            return content
        state = json.loads(content) | changes
        return json.dumps({k: v for k, v in state.items() if v is not None})

    return change


def without_onnx(change):
    """Leave Keras as the only form, changed."""
    return lambda name, content: None if name.endswith(".onnx") else change(name, content)


DAMAGE = {
    "other kind": with_state(kind="NoveltySelector"),
    "newer format": with_state(format=99),
    "unknown parameter": with_state(parameters={"depth": 3}),
    "no classes": with_state(classes=None),
    "list": lambda name, content: "[1, 2]" if name == "mlpsf.json" else content,
    "no json": lambda name, content: "{oops" if name == "mlpsf.json" else content,
    "binary json": lambda name, content: b"\xff\xfa\x80" if name == "mlpsf.json" else content,
    "plain keras": lambda name, content: None if name == "mlpsf.json" else content,
    "no weights": without_onnx(lambda n, c: None if n == "model.weights.h5" else c),
    "damaged weights": without_onnx(lambda n, c: b"junk" if n == "model.weights.h5" else c),
    "no network": without_onnx(lambda n, c: b"{}" if n == "config.json" else c),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_model_files(saved, tmp_path, damage):
    path = rewritten(saved, tmp_path / "bad.keras", DAMAGE[damage])
    with pytest.raises(ModelFileError, match=r"bad\.keras") as caught:
        PSFStarSelector.load(path)
    assert isinstance(caught.value, MlpsfError)
    assert isinstance(caught.value, ValueError)


def test_models_of_other_stamps_are_refused(saved, tmp_path):
    path = rewritten(saved, tmp_path / "old.keras", with_state(stamps=None))
    with pytest.raises(ModelFileError, match=r"old\.keras was trained on stamps of another kind"):
        PSFStarSelector.load(path)


@pytest.mark.parametrize("content", ["text", "half", "empty", "fits", "nothing", "folder"])
def test_files_that_are_no_model(saved, tmp_path, content):
    path = tmp_path / "bad.keras"
    if content == "folder":
        path.mkdir()
    elif content != "nothing":
        whole = saved.read_bytes()
        path.write_bytes(
            {
                "text": b"hello",
                "half": whole[: len(whole) // 2],
                "empty": b"",
                "fits": b"SIMPLE  =                    T".ljust(2880),
            }[content]
        )
    with pytest.raises(ModelFileError, match=r"bad\.keras"):
        PSFStarSelector.load(path)


@pytest.mark.parametrize("name", ["model.h5", "model", "model.pkl"])
def test_other_endings(fitted, tmp_path, name):
    with pytest.raises(ModelFileError, match=r"ends in \.keras"):
        fitted.save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_no_such_folder(fitted, tmp_path):
    with pytest.raises(OutputError, match="does not exist"):
        fitted.save(tmp_path / "none" / "model.keras")


def test_pretrained():
    from mlpsf.selectors import storage

    try:
        storage.pretrained_path()
    except ModelFileError:
        pytest.skip("mlpsf/selectors/pretrained/compact.keras is not there yet")
    selector = PSFStarSelector.from_pretrained()
    u = np.arange(selector.cutout_size_) - selector.cutout_size_ // 2
    star = (1 + (u**2 + u[:, None] ** 2) / (0.96 * selector.reference_fwhm_) ** 2) ** -3.0
    pair = star + np.roll(star, 6, axis=1)
    noise = np.random.default_rng(1).normal(0, 3, (2, *star.shape))
    stamps = Cutouts.of(5000 * np.stack([star, pair]) + noise, homogenized=True)
    good, bad = selector.predict_proba(stamps)[:, 1]
    assert good > 0.5 > bad


def test_unknown_pretrained():
    with pytest.raises(ModelFileError, match="No pretrained model is called 'huge'"):
        PSFStarSelector.from_pretrained("huge")


# --- refusals


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ({"architecture": "resnet"}, "'architecture'.*'compact'.*Got 'resnet'"),
        ({"scaling": "log"}, "'scaling'.*'log'"),
        ({"validation_fraction": 1.0}, "'validation_fraction'.*Got 1.0"),
        ({"validation_fraction": -0.1}, "'validation_fraction'"),
        ({"early_stopping": True}, "early_stopping needs a validation_fraction"),
    ],
)
def test_bad_parameters(data, words, match):
    with pytest.raises(InputError, match=match):
        PSFStarSelector(**words).fit(*data)


@pytest.mark.parametrize(
    ("X", "y", "match"),
    [
        (np.ones((4, 20, 20)), [0, 1, 0, 1], "odd number of pixels.*20 x 20"),
        (np.ones((4, 15, 17)), [0, 1, 0, 1], "must be square.*15 x 17"),
        (np.ones((4, 200)), [0, 1, 0, 1], "square number of pixels.*200"),
        (np.ones((4, 3, 3)), [0, 1, 0, 1], "15"),
        (np.ones((4, 15, 15)), [1, 1, 1, 1], r"two classes.*1 class\(es\): \[1\]"),
        (np.ones((4, 15, 15)), [0, 1, 2, 1], "two classes"),
        (np.ones((4, 15, 15)), [0, 1, 0], r"shape \(4,\). Got \(3,\)"),
    ],
)
def test_bad_input(X, y, match):
    with pytest.raises(InputError, match=match):
        PSFStarSelector(epochs=1).fit(X, y)


def test_what_scikit_learn_itself_refuses(data):
    X, y = data
    with pytest.raises(ValueError, match="continuous"):
        PSFStarSelector(epochs=1).fit(X, np.linspace(0.1, 0.9, N))
    with pytest.raises(ValueError, match="0 sample"):
        PSFStarSelector(epochs=1).fit(X[:0], y[:0])


def test_bad_groups(data):
    selector = PSFStarSelector(epochs=1, validation_fraction=0.2)
    with pytest.raises(InputError, match="one frame a cutout"):
        selector.fit(*data, groups=[1, 2, 3])
    with pytest.raises(InputError, match="need as many frames"):
        selector.fit(*data, groups=np.zeros(N))


@pytest.mark.parametrize("method", ["predict_proba", "predict", "embed", "decision_function"])
def test_not_fitted(data, method):
    with pytest.raises(NotFittedError):
        getattr(PSFStarSelector(), method)(data[0])


def test_not_fitted_is_not_saved(tmp_path):
    with pytest.raises(NotFittedError):
        PSFStarSelector().save(tmp_path / "model.keras")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shape", [(3, 17, 17), (3, 17 * 17), (0, SIZE, SIZE)])
def test_other_size_than_fitted(fitted, shape):
    with pytest.raises(ValueError, match=r"expecting|sample"):
        fitted.predict_proba(np.ones(shape))


def test_stamps_are_not_homogenized_again():
    rng = np.random.default_rng(0)
    stamps = rng.uniform(500, 5000, (20, 1, 1)) * standard_star(41)
    stamps += rng.normal(0, 1, stamps.shape)
    selector = PSFStarSelector.from_pretrained()
    marked = selector.predict_proba(Cutouts.of(stamps, homogenized=True))
    np.testing.assert_array_equal(selector.predict_proba(stamps.astype(np.float32)), marked)
