"""A judge says what the selector says that was saved."""

from __future__ import annotations

import pickle
import zipfile

import numpy as np
import pytest
from astropy.table import Table
from conftest import FLOAT32

from mlpsf.errors import InputError, ModelFileError
from mlpsf.frames.cutouts import Cutouts
from mlpsf.selection.choice import choose
from mlpsf.selectors import PSFStarSelector
from mlpsf.selectors.judge import Judge, as_probabilities
from mlpsf.selectors.loading import load_judge
from mlpsf.selectors.storage import pretrained_path
from mlpsf.stacks.values import as_cutouts

SIZE = 15


def cutouts(n=40, size=41, seed=0):
    """Make stars and noise, with holes."""
    rng = np.random.default_rng(seed)
    u = np.arange(size) - size // 2
    star = np.exp(-(u**2 + u[:, None] ** 2) / 6.0)
    made = rng.uniform(0, 3e4, n)[:, None, None] * star + rng.normal(0, 20, (n, size, size))
    made[: n // 4, :3, :3] = np.nan
    return made


@pytest.fixture(scope="module", params=["star", "standard", None])
def trained(request, tmp_path_factory):
    """Train a small network of each kind of scaling, and save it."""
    path = tmp_path_factory.mktemp("judge") / f"{request.param}.keras"
    labels = np.arange(40) % 2
    selector = PSFStarSelector(scaling=request.param, epochs=1, random_state=0)
    selector.fit(cutouts(size=SIZE) / 1e4, labels)
    selector.calibrate(cutouts(size=SIZE, seed=1) / 1e4, labels)
    selector.save(path)
    return path


def same(judge, selector, pixels):
    # To the last bit: the same batches, and ONNX Runtime in one thread.
    stamps = Cutouts.of(as_cutouts(np.asarray(pixels)), homogenized=True)
    np.testing.assert_array_equal(judge.predict_proba(pixels), selector.predict_proba(stamps))


def test_shipped_one_says_the_same():
    judge, selector = load_judge(pretrained_path()), PSFStarSelector.from_pretrained()
    assert isinstance(judge, Judge)
    pixels = cutouts()
    said = judge.predict_proba(pixels)
    assert np.ptp(said) > 0.1
    for form in (pixels, pixels.reshape(40, -1), pixels.astype(">f8"), pixels[:1], list(pixels)):
        same(judge, selector, form)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(judge)).predict_proba(pixels), said)
    for name in ("cutout_size_", "reference_fwhm_", "model_name_", "model_sha256_"):
        assert getattr(judge, name) == getattr(selector, name)


@pytest.mark.filterwarnings("ignore")
def test_any_saved_one_says_the_same(trained):
    judge, selector = load_judge(trained), PSFStarSelector.load(trained)
    same(judge, selector, cutouts(size=SIZE, seed=2) / 1e4)


@pytest.mark.parametrize("engine", ["auto", "keras"])
def test_any_split_of_a_batch_chooses_the_same_stars(engine):
    judge = PSFStarSelector.load(pretrained_path(), engine=engine)
    pixels = Cutouts.of(cutouts(), homogenized=True)
    sources = Table({"flags": np.zeros(40, int), "snr": np.arange(40.0)})
    whole = judge.predict_proba(pixels)[:, 1]
    words = {"threshold": float(np.median(whole)), "n_max": 12, "n_min": 12}
    expected = choose(sources, whole, **words)
    for n in (1, 3, 7):
        parts = [judge.predict_proba(pixels[i : i + n])[:, 1] for i in range(0, 40, n)]
        split = np.concatenate(parts)
        np.testing.assert_allclose(split, whole, **FLOAT32)
        assert choose(sources, split, **words)["reason"].tolist() == expected["reason"].tolist()


def test_calibration_is_used():
    judge = load_judge(pretrained_path())
    pixels = cutouts()
    before = judge.predict_proba(pixels)
    judge.calibration_ = (1.0, 0.0)
    assert not np.allclose(judge.predict_proba(pixels), before, atol=1e-3)


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        (np.zeros((2, 39, 39)), "41 pixels a side"),
        (np.zeros((2, 1, 41, 41)), "two or three dimensions"),
        (np.zeros(1681), "two or three dimensions"),
        (np.zeros((2, 41, 39)), "must be square"),
    ],
)
def test_wrong_cutouts_are_said(pixels, said):
    with pytest.raises(InputError, match=said):
        load_judge(pretrained_path()).predict_proba(pixels)


def damaged(tmp_path, change):
    """Copy the shipped model with its entries changed by a function."""
    path = tmp_path / "damaged.keras"
    with zipfile.ZipFile(pretrained_path()) as whole, zipfile.ZipFile(path, "w") as out:
        for name in whole.namelist():
            content = change(name, whole.read(name))
            if content is not None:
                out.writestr(name, content)
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda name, content: b"no network" if name == "network.onnx" else content,
        lambda name, content: (
            content.replace(b'"calibration": [', b'"calibration": [1.0, ')
            if name == "mlpsf.json"
            else content
        ),
    ],
    ids=["network", "calibration"],
)
def test_damaged_file_is_said_when_it_is_loaded(tmp_path, change):
    with pytest.raises(ModelFileError, match=r"damaged|cannot be run"):
        load_judge(damaged(tmp_path, change))


def test_without_an_onnx_form_the_selector_judges(tmp_path):
    path = damaged(tmp_path, lambda name, content: None if name == "network.onnx" else content)
    selector = load_judge(path)
    assert isinstance(selector, PSFStarSelector)
    pixels = cutouts(n=8)
    np.testing.assert_allclose(
        selector.predict_proba(Cutouts.of(pixels, homogenized=True)),
        load_judge(pretrained_path()).predict_proba(pixels),
        atol=1e-5,
    )


def test_probabilities_of_log_odds():
    odds = np.array([-800.0, -1.0, 0.0, 1.0, 800.0])
    other, good = as_probabilities(odds).T
    np.testing.assert_allclose(good, [0.0, 0.2689414, 0.5, 0.7310586, 1.0], atol=1e-7)
    np.testing.assert_array_equal(other, 1 - good)
