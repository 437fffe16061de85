"""A training that is interrupted and goes on gives what it gives without the interruption."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import FLOAT32, run_eagerly

from mlpsf import CutoutSet, PSFStarSelector, train_on_set
from mlpsf.errors import InputError
from mlpsf.training.checkpoint import Checkpoint


def write_set(path, seed):
    """Write a set of noise, in which the good ones have something in the middle."""
    rng = np.random.default_rng(seed)
    with CutoutSet.create(path, size=15) as writer:
        for name in "abcdef":
            label = np.arange(24) % 2
            pixels = rng.normal(size=(24, 15, 15))
            pixels[:, 6:9, 6:9] += 2 * label[:, None, None]
            writer.append(name, pixels, label=label, x=0, y=0)
    return path


@pytest.fixture(scope="module")
def cutouts(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("set") / "set.h5", 1)


def selector(**options):
    # Nothing is learnt at this rate, so it stops after the patience, at the third of many epochs.
    return PSFStarSelector(
        filters=(2, 2), batch_size=16, epochs=9, validation_fraction=0.34, early_stopping=True,
        patience=2, learning_rate=0.3, **{"random_state": 1, **options},
    )  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def eager():
    with run_eagerly():
        yield


@pytest.fixture(scope="module")
def whole(cutouts, tmp_path_factory):
    """A training without interruption, and its checkpoint."""
    path = tmp_path_factory.mktemp("whole") / "checkpoint.npz"
    return train_on_set(cutouts, selector(), checkpoint=path), path


def check_same(one, other, cutouts):
    with CutoutSet(cutouts) as data:
        p, q = (trained.predict_proba(data[:]) for trained in (one, other))
    np.testing.assert_allclose(p, q, **FLOAT32)
    assert one.history_.keys() == other.history_.keys()
    for key, values in one.history_.items():
        np.testing.assert_allclose(values, other.history_[key], rtol=1e-5)
    np.testing.assert_allclose(one.calibration_, other.calibration_, rtol=1e-4)


def test_goes_on_after_the_last_epoch(whole, cutouts, tmp_path, monkeypatch):
    n = len(whole[0].history_["loss"])
    assert 2 < n < 9
    path, keep = tmp_path / "checkpoint.npz", Checkpoint.keep

    def interrupted(self, *arguments):
        keep(self, *arguments)
        if self.epoch == n - 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "keep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_on_set(cutouts, selector(), checkpoint=path)
    trained = train_on_set(cutouts, selector(), checkpoint=path, resume=True)
    check_same(trained, whole[0], cutouts)


def test_one_that_had_stopped_is_not_trained_again(whole, cutouts):
    trained, path = whole
    before = path.read_bytes()
    again = train_on_set(cutouts, selector(), checkpoint=path, resume=True)
    check_same(again, trained, cutouts)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"random_state": 2}, "seed"),
        ({"learning_rate": 0.1, "patience": 3}, "learning_rate, patience"),
        ({"filters": (2, 3)}, "filters"),
    ],
)
def test_other_parameters_are_refused(whole, cutouts, options, word):
    made = selector().set_params(**options)
    with pytest.raises(InputError, match=f"of a training with another {word}. Give"):
        train_on_set(cutouts, made, checkpoint=whole[1], resume=True)


def test_other_data_are_refused(whole, tmp_path):
    other = write_set(tmp_path / "set.h5", 2)
    with pytest.raises(InputError, match="of a training with another set"):
        train_on_set(other, selector(), checkpoint=whole[1], resume=True)
