"""From frames to a model of one's own, on the command line and in Python."""

from __future__ import annotations

import json
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.table import Table
from conftest import simulate

from mlpsf import CutoutScaler, CutoutSet, Flag, PSFStarSelector, label_frames, train_on_set
from mlpsf.cli.main import main
from mlpsf.cli.training import _figures
from mlpsf.errors import InputError, NoSourcesError
from mlpsf.flags import NEVER_A_PSF_STAR
from mlpsf.selectors.networks import ARCHITECTURES
from mlpsf.training.checkpoint import Checkpoint
from mlpsf.training.train import HeldOutScores

TINY = {"filters": (4, 4), "batch_size": 32, "random_state": 1}


def run(monkeypatch, capsys, *arguments):
    """Run the command line; return exit code and stderr."""
    monkeypatch.setattr(sys, "argv", ["mlpsf", *map(str, arguments)])
    with pytest.raises(SystemExit) as done:
        main()
    captured = capsys.readouterr()
    assert captured.out == "" or "--json" in arguments
    return done.value.code or 0, captured.out if "--json" in arguments else captured.err


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("frames")


@pytest.fixture(scope="module")
def simulated(folder):
    """Four small frames, as files, and their truths."""
    out = {}
    for i in range(4):
        sim = simulate(
            shape=(300, 320),
            fwhm=3.5 + 0.3 * i,
            n_stars=35,
            n_galaxies=25,
            flux_range=(2e4, 5e5),
            cosmic_rays=5,
            hot_pixels=5,
            bad_columns=0,
            seed=20 + i,
        )
        path = folder / f"frame{i}.fits"
        sim.write(path)
        out[path] = sim.truth
    return out


@pytest.fixture(scope="module")
def truth_set(simulated, folder):
    path = folder / "truth.h5"
    report = label_frames(list(simulated), path, rule="truth", snr_min=30)
    assert (report["error"] == "").all()
    return path


def test_labels_by_truth(monkeypatch, capsys, simulated, tmp_path):
    out = tmp_path / "set.h5"
    code, said = run(
        monkeypatch, capsys, "label", *simulated, "--out", out, "--rule", "truth", "--snr-min", 30
    )
    assert code == 0
    with CutoutSet(out) as data:
        n_good = int((data.label == 1).sum())
        assert f"{len(data)} cutouts of 4 of 4 frames: {n_good} good" in said
        assert data.frames == [path.name for path in simulated]
        assert (data.size, data.reference_fwhm) == (41, 4.0)
        assert data.parameters["rule"] == "truth"
        assert n_good > 20
        assert (data.snr >= 30).all()
        # A good one is a star that stands alone, in the middle of its cutout.
        for i, truth in enumerate(simulated.values()):
            good = (data.frame == i) & (data.label == 1)
            stars = truth[truth["kind"] == "star"]
            away = np.hypot(
                data.x[good, None] - np.asarray(stars["x"]),
                data.y[good, None] - np.asarray(stars["y"]),
            )
            assert (away.min(axis=1) < 0.5).all()
        cutouts = data[data.label == 1]
        peak = np.nanmax(cutouts[:, 19:22, 19:22], axis=(1, 2))
        assert (peak == np.nanmax(cutouts[:, 16:25, 16:25], axis=(1, 2))).all()


def test_labels_by_residuals(monkeypatch, capsys, simulated, tmp_path):
    out = tmp_path / "set.h5"
    path = next(iter(simulated))
    code, _ = run(
        monkeypatch, capsys, "label", path, "--out", out, "--n-best", 6, "--native", "--quiet"
    )
    assert code == 0
    with CutoutSet(out) as data:
        assert (data.size, data.reference_fwhm) == (111, None)
        judged = np.isfinite(data.probability)
        assert 1 <= (data.label == 1).sum() <= 6
        assert (data.distance[data.label == 1] <= np.sort(data.distance[judged])[5]).all()
        # What the rule did not judge is ambiguous, unless it could be no PSF star anyway.
        hopeless = data.flags & (NEVER_A_PSF_STAR & ~Flag.NEAR_EDGE) != 0
        np.testing.assert_array_equal(data.label == -1, ~judged & ~hopeless)


def test_labels_by_the_users_list(monkeypatch, capsys, simulated, tmp_path):
    path, truth = next(iter(simulated.items()))
    inner = (np.abs(truth["x"] - 160) < 120) & (np.abs(truth["y"] - 150) < 110)
    stars = truth[(truth["kind"] == "star") & inner]
    stars.sort("flux", reverse=True)
    mine = tmp_path / "mine.csv"
    Table({"x": stars["x"][:5] + 0.8, "y": stars["y"][:5] - 0.8}).write(mine)
    out = tmp_path / "set.h5"
    code, said = run(monkeypatch, capsys, "label", path, "--out", out, "--good", mine)
    assert code == 0
    assert "5 good" in said
    with CutoutSet(out) as data:
        good = data.label == 1
        away = np.hypot(
            data.x[good, None] - np.asarray(stars["x"][:5]),
            data.y[good, None] - np.asarray(stars["y"][:5]),
        )
        assert (away.min(axis=0) < 1).all()
        assert (data.label >= 0).all()


@pytest.mark.filterwarnings("default")
def test_a_frame_that_fails_is_said_and_left_out(monkeypatch, capsys, simulated, tmp_path):
    bad, out = tmp_path / "bad.fits", tmp_path / "set.h5"
    bad.write_text("no frame")
    code, said = run(
        monkeypatch, capsys, "label", bad, next(iter(simulated)), "--out", out, "--rule", "truth"
    )
    assert code == 4
    first, last = said.splitlines()
    assert first.startswith(f"mlpsf: warning: {bad} is left out: ")
    assert "is no readable FITS file" in first
    assert "of 1 of 2 frames" in last
    with CutoutSet(out) as data:
        assert data.frames == ["frame0.fits"]
    assert run(monkeypatch, capsys, "label", bad, "--out", out) == (
        1,
        f"mlpsf: {out} exists. --overwrite replaces it.\n",
    )
    out.unlink()
    code, said = run(monkeypatch, capsys, "label", bad, "--out", out, "--overwrite")
    assert code == 1
    assert "None of the 1 frames could be used" in said.splitlines()[-1]
    assert [p.name for p in tmp_path.iterdir()] == ["bad.fits"]


def test_frames_without_truth_or_stars_are_no_use(simulated, tmp_path):
    from astropy.io import fits

    path = next(iter(simulated))
    plain = tmp_path / "plain.fits"
    fits.writeto(plain, fits.getdata(path), fits.getheader(path))
    for options, message in (
        ({"rule": "truth"}, "no truth to label by"),
        ({"snr_min": 1e9}, "sources has a S/N of 1e.09"),
        ({"rule": "list", "good": [Table({"x": [1.0], "y": [1.0]})]}, "listed stars has a source"),
    ):
        with (
            pytest.warns(UserWarning, match=message),
            pytest.raises(NoSourcesError, match=message),
        ):
            label_frames([plain], tmp_path / "set.h5", **options)
    assert [p.name for p in tmp_path.iterdir()] == ["plain.fits"]


@pytest.mark.parametrize(
    ("n", "options", "message"),
    [
        (1, {"rule": "guess"}, "'rule' must be one of"),
        (0, {}, "At least one frame"),
        (2, {}, "is given twice"),
        (1, {"rule": "list"}, "go with rule='list'"),
        (1, {"good": ["a.csv"]}, "go with rule='list'"),
        (1, {"rule": "list", "good": ["a.csv", "b.csv"]}, "one a frame: 1. Got 2"),
        (1, {"size": 40}, "odd"),
        (1, {"snr_min": float("nan")}, "0 or more"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(simulated, tmp_path, n, options, message):
    with pytest.raises(InputError, match=message):
        label_frames([next(iter(simulated))] * n, tmp_path / "set.h5", **options)


def test_label_for_scripts_and_with_a_line_a_frame(monkeypatch, capsys, simulated, tmp_path):
    words = ("label", *list(simulated)[:2], "--out", tmp_path / "set.h5", "--rule", "truth")
    code, said = run(monkeypatch, capsys, *words, "--json")
    rows = [json.loads(line) for line in said.splitlines()]
    assert code == 0
    assert [row["frame"] for row in rows] == [str(path) for path in list(simulated)[:2]]
    assert all(row["n"] == row["good"] + row["other"] + row["ambiguous"] for row in rows)
    code, said = run(monkeypatch, capsys, *words, "--overwrite", "--verbose")
    counts = [f"{row[key]} {key}" for row in rows for key in ("good", "other", "ambiguous")]
    assert all(text in said for text in counts)
    assert re.search(r"^\[ +\d+\.\d\d s\] labelling: \d+\.\d\d s$", said, re.M)


def test_trains_from_nothing(monkeypatch, capsys, truth_set, tmp_path):
    out = tmp_path / "own.keras"
    words = ("train", truth_set, "--out", out, "--epochs", 2, "--validation", 0.25)
    # Ctrl-C in the second epoch; the same command goes on from there.
    keep = Checkpoint.keep

    def interrupted(self, *arguments):
        keep(self, *arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "keep", interrupted)
        code, said = run(patch, capsys, *words)
    assert code == 130
    assert said.endswith("mlpsf: stopped: --resume goes on after the last whole epoch\n")
    assert [p.name for p in tmp_path.iterdir()] == ["own.checkpoint.npz"]
    code, said = run(monkeypatch, capsys, *words)
    assert code == 1
    assert said.endswith(
        "own.checkpoint.npz exists. --resume goes on from it; --overwrite replaces it.\n"
    )
    code, said = run(monkeypatch, capsys, *words, "--resume", "--seed", 7)
    assert code == 1
    assert "is of a training with another seed" in said
    code, said = run(monkeypatch, capsys, *words, "--resume")
    assert code == 0
    assert [p.name for p in tmp_path.iterdir()] == ["own.keras"]
    lines = [line for line in said.splitlines() if not line.startswith(("I0", "WARNING: All"))]
    assert lines[0] == f"2 epochs; model in {out}. On 1 frames held out:"
    assert "after" in [line.split()[0] for line in lines[2:]]  # a line on dashes may follow
    selector = PSFStarSelector.load(out)
    assert (selector.cutout_size_, selector.reference_fwhm_) == (41, 4.0)
    assert len(selector.history_["val_loss"]) == 2
    with CutoutSet(truth_set) as data:
        p = selector.predict_proba(data[:20])
    assert p.shape == (20, 2)
    # And further from there; the ONNX form takes seconds to make and has tests of its own.
    monkeypatch.setattr("mlpsf.selectors.storage.to_onnx", lambda _: None)
    more = tmp_path / "more.keras"
    code, said = run(
        monkeypatch, capsys, "train", truth_set, "--from", out, "--out", more, "--epochs", 1,
        "--balance", "undersample", "--verbose",
    )  # fmt: skip
    assert re.search(r"^epoch 1: .*loss \d", said, re.M)
    assert re.search(r"^\[ +\d+\.\d\d s\] training: \d+\.\d\d s$", said, re.M)
    assert code == 0
    words = [line.split()[0] for line in said.splitlines()]
    assert [word for word in words if word in ("before", "after")] == ["before", "after"]
    finer = PSFStarSelector.load(more)
    # A batch normalisation's averages move by a tenth each step, at any rate.
    both = (model.model_.trainable_weights for model in (selector, finer))
    for old, new in zip(*both, strict=True):
        assert 0 < np.abs(np.array(old) - np.array(new)).max() < 0.05


@pytest.mark.usefixtures("eager")
def test_the_same_seed_gives_the_same_model(truth_set):
    first, again, other = (
        train_on_set(
            truth_set,
            PSFStarSelector(
                epochs=1, validation_fraction=0.25, class_weight="balanced",
                **{**TINY, "random_state": seed},
            ),
        )
        for seed in (1, 1, 2)
    )  # fmt: skip
    with CutoutSet(truth_set) as data:
        p, q, r = (s.predict_proba(data[:]) for s in (first, again, other))
    np.testing.assert_array_equal(p, q)
    assert not np.array_equal(p, r)
    assert first.calibration_ == again.calibration_


@pytest.mark.usefixtures("eager")
def test_held_out_frames_calibrate_and_judge(truth_set):
    selector = PSFStarSelector(
        epochs=3, learning_rate=3e-3, validation_fraction=0.25, class_weight="balanced",
        early_stopping=True, patience=1, **TINY,
    )  # fmt: skip
    trained = train_on_set(truth_set, selector)
    assert not hasattr(selector, "network_")
    with CutoutSet(truth_set) as data:
        held = trained.held_out_
        assert len(np.unique(data.frame[held])) == 1
        assert (data.label[held] >= 0).all()
        judged = held[data.flags[held] & NEVER_A_PSF_STAR == 0]
        # None may reach 0.9; then the precision is NaN, which equals nothing.
        again = HeldOutScores.of(data.label[judged] == 1, trained.predict_proba(data[judged])[:, 1])
        np.testing.assert_equal(vars(trained.scores_["after"]), vars(again))
        # Platt's scaling makes the mean probability that of the good among them.
        mean = trained.predict_proba(data[judged])[:, 1].mean()
        assert mean == pytest.approx((data.label[judged] == 1).mean(), abs=0.02)


@pytest.mark.usefixtures("eager")
def test_standard_scaling_is_that_of_all_pixels_at_once(truth_set):
    selector = PSFStarSelector(architecture="published", epochs=1, **TINY)
    trained = train_on_set(truth_set, selector)
    with CutoutSet(truth_set) as data:
        rows = np.flatnonzero(data.label >= 0)
        whole = CutoutScaler(method="standard").fit(data[rows])
    assert trained.scaler_.mean_ == pytest.approx(whole.mean_, rel=1e-6)
    assert trained.scaler_.scale_ == pytest.approx(whole.scale_, rel=1e-6)
    assert trained.reference_fwhm_ == 4.0
    assert trained.scores_ == {}
    assert trained.calibration_ == (1.0, 0.0)


@pytest.mark.usefixtures("eager")
def test_training_further_keeps_scaling_and_classes_and_leaves_the_start(truth_set):
    with CutoutSet(truth_set) as data:
        rows = np.flatnonzero(data.label >= 0)[:150]
        X, y = data[rows], np.array(["bad", "star"])[data.label[rows]]
        start = PSFStarSelector(epochs=1, scaling="standard", **TINY).fit(X, y)
        before = start.predict_proba(X)
        start.set_params(learning_rate=1e-3, validation_fraction=0.25)
        further = train_on_set(data, start)
        assert further.classes_.tolist() == ["bad", "star"]
        assert further.scaler_.mean_ == start.scaler_.mean_
        assert set(further.scores_) == {"before", "after"}
        assert not np.array_equal(further.predict_proba(X), before)
        np.testing.assert_array_equal(start.predict_proba(X), before)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("network", ["today's", "an older one"])
def test_training_further_without_held_out_frames_keeps_the_calibration(
    truth_set, monkeypatch, network
):
    with CutoutSet(truth_set) as data:
        rows = np.flatnonzero(data.label >= 0)[:150]
        start = PSFStarSelector(epochs=1, **TINY).fit(data[rows], data.label[rows])
    start.calibration_ = (1.5, -0.5)
    if network != "today's":
        monkeypatch.setitem(ARCHITECTURES, "compact", ARCHITECTURES["published"])
    further = train_on_set(truth_set, start)
    assert further.calibration_ == (1.5, -0.5)
    assert further.scores_ == {}
    assert [type(layer) for layer in further.model_.layers] == [
        type(layer) for layer in start.model_.layers
    ]
    assert further.estimator_.model_ is further.model_
    for old, new in zip(start.model_.get_weights(), further.model_.get_weights(), strict=True):
        assert 0 < np.abs(old - new).max() < 0.5
    said = _figures(further, 0, "more.keras")
    assert said[0].endswith("No frames were held out: its probabilities are calibrated as before.")


@pytest.mark.parametrize(
    ("good", "probability", "said"),
    [
        ([0, 1], [0.2, 0.95], None),
        ([0, 1], [0.2, 0.5], "-: none reaches 0.9; give"),
        ([1, 1], [0.2, 0.95], "-: all sources held out are of one class; give"),
        ([0, 0], [0.2, 0.5], "-: all sources held out are of one class, or none reaches 0.9; give"),
    ],
)
def test_every_dash_is_explained(good, probability, said):
    scores = HeldOutScores.of(np.array(good, bool), np.array(probability))
    trained = SimpleNamespace(history_={"loss": [0.1]}, scores_={"after": scores})
    lines = _figures(trained, 1, "model.keras")
    assert ("-" in lines[2].split()) == (said is not None)
    assert "nan" not in lines[2]
    if said is None:
        assert len(lines) == 3
    else:
        assert lines[3].startswith(said)


@pytest.mark.usefixtures("eager")
def test_sets_that_do_not_fit_are_refused(monkeypatch, capsys, simulated, truth_set, tmp_path):
    other = tmp_path / "other.h5"
    label_frames(list(simulated)[:1], other, rule="truth", size=31)
    with CutoutSet(other) as data:
        rows = np.flatnonzero(data.label >= 0)
        small = PSFStarSelector(epochs=1, **TINY).fit(data[rows], data.label[rows])
    monkeypatch.setattr("mlpsf.selectors.storage.to_onnx", lambda _: None)
    own = tmp_path / "small.keras"
    small.save(own)
    for arguments, message in (
        ((truth_set, "--from", own), "takes cutouts of 31 x 31 pixels"),
        ((other,), "holds labelled cutouts of 1 frame"),
        ((truth_set, "--from", tmp_path / "none.keras"), "There is no file"),
        ((tmp_path / "none.h5",), "There is no file"),
        ((truth_set, "--from", "pretrained", "--architecture", "compact"), "has its --archi"),
        ((truth_set, "--out", tmp_path / "model.onnx"), "ends in .keras"),
        ((truth_set, "--out", own), "small.keras exists. --overwrite"),
        (
            (truth_set, "--from", own, "--out", own, "--overwrite"),
            "would replace an input",
        ),
    ):
        out = () if "--out" in arguments else ("--out", tmp_path / "model.keras")
        code, said = run(monkeypatch, capsys, "train", *arguments, *out)
        assert code == 1
        assert message in said
        assert len(said.splitlines()) == 1
    assert not (tmp_path / "model.keras").exists()
    with pytest.raises(InputError, match="early_stopping needs"):
        train_on_set(truth_set, PSFStarSelector(early_stopping=True))
