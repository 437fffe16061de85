"""Training on a set of cutouts larger than memory, from scratch or starting from a model."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, precision_score, recall_score, roc_auc_score
from sklearn.utils import check_random_state
from sklearn.utils.class_weight import compute_class_weight
from tqdm import tqdm

from mlpsf.errors import InputError, ModelFileError
from mlpsf.flags import NEVER_A_PSF_STAR
from mlpsf.labelling import balance
from mlpsf.selectors.cnn import PSFStarSelector
from mlpsf.selectors.inference import KerasNetwork
from mlpsf.stamps.homogenizer import PSFHomogenizer
from mlpsf.stamps.scaling import CutoutScaler
from mlpsf.training.checkpoint import Checkpoint, training_made_of
from mlpsf.training.sets import CutoutSet

__all__ = ["HeldOutScores", "train_on_set"]

_STRICT = 0.9  # default threshold for choosing a star
_BLOCK = 256  # cutouts per batch, outside of training


@dataclass(frozen=True)
class HeldOutScores:
    """Scores of a selector on frames that it was not trained on.

    Attributes
    ----------
    n, n_good : int
        Number of sources judged, and number of good ones.
    balanced_accuracy, roc_auc : float
        NaN if all sources are of one class.
    precision, recall : float
        For a probability threshold of 0.9. Precision is NaN if no source reaches it, recall if
        none is good.
    """

    n: int
    n_good: int
    balanced_accuracy: float
    roc_auc: float
    precision: float
    recall: float

    @classmethod
    def of(cls, good: NDArray[np.bool_], probability: NDArray[np.float64]) -> HeldOutScores:
        """Score probabilities of being good against the truth."""
        n_good, nan = int(good.sum()), float("nan")
        both = 0 < n_good < len(good)
        strict = probability >= _STRICT
        return cls(
            len(good),
            n_good,
            float(balanced_accuracy_score(good, probability > 0.5)) if both else nan,
            float(roc_auc_score(good, probability)) if both else nan,
            float(precision_score(good, strict)) if strict.any() else nan,
            float(recall_score(good, strict)) if n_good else nan,
        )


def train_on_set(
    cutouts: CutoutSet | str | os.PathLike[str],
    selector: PSFStarSelector | None = None,
    *,
    undersample: bool = False,
    progress: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
) -> PSFStarSelector:
    """Train a selector on a set of labelled cutouts, read from disk batch by batch.

    This is what `PSFStarSelector.fit` does in memory, with the selector's own parameters. A
    fraction ``validation_fraction`` of the frames is held out for early stopping, calibration of
    the probabilities and the scores. Ambiguous cutouts are not used. Held-out sources with a flag
    that excludes them from selection are not used for calibration or scores.

    Parameters
    ----------
    cutouts : CutoutSet or path
    selector : PSFStarSelector, optional
        An unfitted selector is trained from scratch. A fitted one is trained further: it keeps
        its scaling, starts from its network, and keeps its calibration if no frames are held out
        for a new one. The given selector is not changed. Default: a compact network with balanced
        classes and early stopping on a fifth of the frames.
    undersample : bool
        Whether to train on equal numbers of good and other sources of every frame, drawn at
        random. In contrast, ``class_weight="balanced"`` uses all sources and gives both classes
        the same weight.
    progress : bool
        Whether to show a progress bar on stderr, if that is a terminal.
    checkpoint : path-like, optional
        File, ending in ``.npz``, that is given the state of the training after each epoch.
    resume : bool
        Whether to go on from `checkpoint`, if that file exists, after the last epoch in it. The
        result is that of a training without interruption, to the rounding of float32.

    Returns
    -------
    PSFStarSelector
        A new selector. Besides the attributes of a fitted selector, it has ``held_out_``, the
        held-out rows of the set, and ``scores_``, a dict of `HeldOutScores` on these rows:
        ``"after"``; ``"before"`` when trained further; ``"shipped"`` for the pretrained model,
        when trained from scratch on cutouts that the pretrained model takes.

    Raises
    ------
    InputError
        The set has too few frames or classes, or its cutouts do not match a fitted selector. The
        checkpoint is damaged, or of a training of other data or parameters.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> path, rng = Path(tempfile.mkdtemp()) / "set.h5", np.random.default_rng(0)
    >>> with CutoutSet.create(path, size=15) as writer:
    ...     for name in "ab":
    ...         pixels = rng.normal(size=(8, 15, 15))
    ...         writer.append(name, pixels, label=np.arange(8) % 2, x=0, y=0)
    >>> start = PSFStarSelector(filters=(2,), epochs=1, validation_fraction=0.5, random_state=1)
    >>> trained = train_on_set(path, start)
    >>> trained.cutout_size_, len(trained.held_out_), trained.scores_["after"].n
    (15, 8, 8)
    """
    if selector is None:
        selector = PSFStarSelector(
            class_weight="balanced", early_stopping=True, validation_fraction=0.2
        )
    with ExitStack() as stack:
        data = cutouts
        if not isinstance(data, CutoutSet):
            data = stack.enter_context(CutoutSet(data))
        start = selector if hasattr(selector, "network_") else None
        made = type(selector)(**selector.get_params(deep=False))
        made._validate_params()
        _check_fit(data, made, start)
        random = check_random_state(made.random_state)
        train, held = _split(data, made, random)
        if undersample:
            drawn = balance(data.label[train], groups=data.frame[train], random_state=random)
            train = train[drawn]
        if len(data.labels_with_light(train)) < 2:
            raise InputError(
                f"{data.path.name} holds one class only, or no light of one: give more frames."
            )
        seed = int(random.randint(2**31 - 1))
        kept = None
        if checkpoint is not None:
            made_of = training_made_of(data, made, start, seed=seed, undersample=undersample)
            kept = Checkpoint(checkpoint, made_of, resume=resume)
        _prepare(made, data, train, start)
        judged = _judged(data, held)
        good = data.label[judged] == 1
        made.scores_ = {}
        for name, other in (_yardstick(data, start) if judged.size else {}).items():
            log_odds = _log_odds(other, data, judged)
            made.scores_[name] = HeldOutScores.of(good, expit(log_odds))
        _fit(made, data, train, held, seed, start, progress, kept)
        if 0 < good.sum() < len(good):
            made.calibration_ = _platt(_log_odds(made, data, judged), good)
        elif start is not None:
            made.calibration_, made.correction_ = start.calibration_, start.correction_
        if judged.size:
            log_odds = _log_odds(made, data, judged)
            made.scores_["after"] = HeldOutScores.of(good, expit(log_odds))
        made.held_out_ = held
    return made


def _check_fit(data: CutoutSet, made: PSFStarSelector, start: PSFStarSelector | None) -> None:
    """Raise if the parameters, the start and the set do not match."""
    if made.early_stopping and made.validation_fraction == 0:
        raise InputError("early_stopping needs a validation_fraction above 0, say 0.1.")
    if start is None:
        return
    size, reference = start.cutout_size_, start.reference_fwhm_
    if (size, reference) != (data.size, data.reference_fwhm):
        raise InputError(
            f"The model takes {_kind(size, reference)}; {data.path.name} holds "
            f"{_kind(data.size, data.reference_fwhm)}. Make a set of that kind, or train a model "
            "from nothing."
        )


def _kind(size: int, reference: float | None) -> str:
    scale = "at the frame's own scale" if reference is None else f"at a FWHM of {reference:g}"
    return f"cutouts of {size} x {size} pixels {scale}"


def _split(
    data: CutoutSet, selector: PSFStarSelector, random: Any
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return labelled rows to train on and to hold out; no frame is in both."""
    rows = np.flatnonzero(data.label >= 0)
    frames = data.frame[rows]
    n = len(np.unique(frames))
    if n < (2 if selector.validation_fraction else 1):
        raise InputError(
            f"{data.path.name} holds labelled cutouts of {n} frame(s). To hold frames out it "
            "needs 2 at least: add frames, or train with validation_fraction=0."
        )
    train, held = selector._split(frames, random)
    return rows[train], rows[held]


def _judged(data: CutoutSet, held: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return held-out rows that may be selected; all held-out rows if these are of one class."""
    judged = held[data.flags[held] & NEVER_A_PSF_STAR == 0]
    return judged if len(np.unique(data.label[judged])) == 2 else held


def _prepare(
    made: PSFStarSelector,
    data: CutoutSet,
    train: NDArray[np.intp],
    start: PSFStarSelector | None,
) -> None:
    """Set all attributes of a fitted selector except the network."""
    made._validate_cutouts(data[:1], reset=True)
    made.cutout_size_, made.reference_fwhm_ = data.size, data.reference_fwhm
    made.calibration_, made.correction_ = (1.0, 0.0), None
    made.homogenize = data.reference_fwhm is not None  # cutouts to come are raw
    made.homogenizer_ = PSFHomogenizer(size=data.size) if made.homogenize else None
    if start is not None:
        made.classes_, made.scaler_ = start.classes_, start.scaler_
        return
    made.classes_ = np.array([0, 1])
    method = made._scaling_method()
    made.scaler_ = None if method is None else _fit_scaler(method, data, train)


def _fit_scaler(method: str, data: CutoutSet, rows: NDArray[np.intp]) -> CutoutScaler:
    """Fit a scaler to rows of a set in one pass."""
    scaler: CutoutScaler = CutoutScaler(method=method).fit(data[rows[:1]])
    if method == "standard":
        n, mean, square = 0, 0.0, 0.0
        for batch in data.batches(_BLOCK, rows=rows):
            finite = batch.cutouts[np.isfinite(batch.cutouts)].astype(np.float64)
            if finite.size == 0:
                continue
            # Chan, Golub & LeVeque 1983, Am. Stat. 37, 242; more exact than sums of squares.
            shift, total = float(finite.mean()) - mean, n + finite.size
            square += float(finite.var()) * finite.size + shift**2 * n * finite.size / total
            mean += shift * finite.size / total
            n = total
        deviation = (square / n) ** 0.5 if n else 0.0
        scaler.mean_, scaler.scale_ = mean, deviation if deviation > 0 else 1.0
    return scaler


def _fit(
    made: PSFStarSelector,
    data: CutoutSet,
    train: NDArray[np.intp],
    held: NDArray[np.intp],
    seed: int,
    start: PSFStarSelector | None,
    progress: bool,
    kept: Checkpoint | None,
) -> None:
    """Build or copy the network, and train it."""
    estimator = made._make_estimator(data.size, seed)

    import keras
    from scikeras.utils.random_state import tensorflow_random_state

    weights = compute_class_weight(
        made.class_weight, classes=made.classes_, y=made.classes_[data.label[train]]
    ).astype(np.float32)
    steps = -(-len(train) // made.batch_size)
    done_before = kept.epoch if kept else 0
    bar = tqdm(
        total=made.epochs * steps,
        initial=done_before * steps,
        unit="batch",
        leave=False,
        disable=None if progress else True,
    )

    def advance(_: int, logs: Any = None) -> None:  # noqa: ARG001 - named by Keras
        bar.update()

    given = list(estimator.callbacks or [])
    stopper = next((c for c in given if isinstance(c, keras.callbacks.EarlyStopping)), None)

    def train_begin(_: Any = None) -> None:
        if kept:
            kept.restore(estimator.model_, stopper)

    def epoch_end(epoch: int, logs: Any = None) -> None:
        bar.set_postfix_str(_line(epoch, made.epochs, logs))
        if kept:
            kept.keep(estimator.model_, stopper, logs)

    # Last, so that those before it have begun, or ended their epoch.
    ours = keras.callbacks.LambdaCallback(
        on_train_begin=train_begin, on_train_batch_end=advance, on_epoch_end=epoch_end
    )
    done = threading.Event()
    extra: dict[str, Any] = {}
    with bar, tensorflow_random_state(seed):
        estimator.initialize(np.zeros((2, data.size, data.size, 1), np.float32), [0, 1])
        if start is not None:
            estimator.model_ = _copy(start.model_)
        model = estimator.model_
        model.compile(  # scikeras compiles only in fit, which takes only arrays
            keras.optimizers.Adam(made.learning_rate),
            loss=estimator.loss,
            metrics=estimator.metrics,
        )
        if held.size:
            extra["validation_data"] = _held_batches(made, data, held)
        try:
            history = model.fit(
                _stream(made, data, train, weights, done, seed, done_before),
                steps_per_epoch=steps,
                initial_epoch=made.epochs if kept and kept.stopped else done_before,
                epochs=made.epochs,
                callbacks=[*given, ours],
                shuffle=False,  # the stream shuffles
                verbose=made.verbose,
                **extra,
            )
        finally:
            done.set()
    made.estimator_ = estimator
    made.network_ = KerasNetwork(model)
    losses = kept.history if kept else history.history
    made.history_ = {key: list(map(float, values)) for key, values in losses.items()}


def _copy(model: Any) -> Any:
    """Copy a trained network, which may differ from those built by this version of mlpsf."""
    import keras

    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def _stream(
    made: PSFStarSelector,
    data: CutoutSet,
    rows: NDArray[np.intp],
    weights: NDArray[np.float32],
    done: threading.Event,
    seed: int,
    epoch: int,
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int8], NDArray[np.float32]]]:
    """Yield images, labels and weights in shuffled batches, epoch after epoch.

    Keras reads ahead in another thread. `done` ends the stream.
    """
    while not done.is_set():
        # An order of its own for each epoch, so that a training may begin with any of them.
        random = int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0])
        epoch += 1
        batches = data.batches(made.batch_size, rows=rows, shuffle=True, random_state=random)
        try:
            for batch in batches:
                label = data.label[batch.rows]
                yield made._scale(batch.cutouts)[..., None], label, weights[label]
                if done.is_set():
                    return
        except InputError:
            if done.is_set():  # closed while reading ahead
                return
            raise


def _held_batches(made: PSFStarSelector, data: CutoutSet, rows: NDArray[np.intp]) -> Any:
    """Return batches by number, for Keras repeats the first of a generator after each epoch."""
    import keras

    size = made.batch_size

    class Held(keras.utils.PyDataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return -(-len(rows) // size)

        def __getitem__(self, number: int) -> tuple[Any, Any]:
            some = rows[number * size : (number + 1) * size]
            return made._scale(data[some])[..., None], data.label[some]

    return Held()


def _log_odds(
    selector: PSFStarSelector, data: CutoutSet, rows: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return the log-odds of being good of ascending rows."""
    parts = [selector._log_odds_of_good(batch.cutouts) for batch in data.batches(_BLOCK, rows=rows)]
    return np.concatenate(parts)


def _platt(log_odds: NDArray[np.float64], good: NDArray[np.bool_]) -> tuple[float, float]:
    """Return slope and intercept of Platt scaling, as in `PSFStarSelector.calibrate`."""
    model = LogisticRegression(C=10.0).fit(log_odds[:, None], good)
    return max(float(model.coef_[0, 0]), 1e-3), float(model.intercept_[0])


def _yardstick(data: CutoutSet, start: PSFStarSelector | None) -> dict[str, PSFStarSelector]:
    """Return the selector to compare with: the start, or the pretrained model if it fits."""
    if start is not None:
        return {"before": start}
    try:
        shipped = PSFStarSelector.from_pretrained()
    except ModelFileError:
        return {}
    fits = (shipped.cutout_size_, shipped.reference_fwhm_) == (data.size, data.reference_fwhm)
    return {"shipped": shipped} if fits else {}


def _line(epoch: int, epochs: int, logs: dict[str, float] | None) -> str:
    losses = [f"{k} {v:.3f}" for k, v in (logs or {}).items() if k.endswith("loss")]
    return ", ".join([f"epoch {epoch + 1} of {epochs}", *losses])
