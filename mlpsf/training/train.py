"""Training on a set of cutouts that is larger than memory: from nothing, or a model further."""

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
from mlpsf.stamps.scaling import CutoutScaler
from mlpsf.training.sets import CutoutSet

__all__ = ["HeldOutScores", "train_on_set"]

_STRICT = 0.9  # the probability from which mlpsf takes a star, unless told otherwise
_BLOCK = 256  # cutouts looked at together, outside of training


@dataclass(frozen=True)
class HeldOutScores:
    """How a selector does on frames that it was not trained on.

    Attributes
    ----------
    n, n_good : int
        Sources judged, and the good among them.
    balanced_accuracy, roc_auc : float
        NaN where all are of one class.
    precision, recall : float
        Of the sources at a probability of 0.9 or more; NaN where there are none.
    """

    n: int
    n_good: int
    balanced_accuracy: float
    roc_auc: float
    precision: float
    recall: float

    @classmethod
    def of(cls, good: NDArray[np.bool_], probability: NDArray[np.float64]) -> HeldOutScores:
        """Score probabilities of being good by what is good."""
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
) -> PSFStarSelector:
    """Train a selector on a set of labelled cutouts, read from disk batch by batch.

    What `PSFStarSelector.fit` does in memory, with the selector's own parameters: a share
    ``validation_fraction`` of the frames is held out, for early stopping, for the calibration of
    the probabilities and for the scores. Ambiguous cutouts take no part. Held-out sources with a
    flag that keeps them from selection are not calibrated on nor scored.

    Parameters
    ----------
    cutouts : CutoutSet or path
    selector : PSFStarSelector, optional
        One that is not fitted is trained from nothing; one that is, is trained further with its
        network and scaling as they are, and its calibration where no frames are held out to make
        one of. It is left as it was. Unless given: a compact network, classes
        balanced, early stopping on a fifth of the frames.
    undersample : bool
        Whether to train on as many other sources as good ones of every frame, drawn at random.
        ``class_weight="balanced"`` gives both classes the same weight and uses all.
    progress : bool
        Whether to show a bar on stderr, where that is a terminal.

    Returns
    -------
    PSFStarSelector
        A new one. Beside the attributes of a fitted selector: ``held_out_``, the rows of the set
        held out, and ``scores_``, a dict of `HeldOutScores` on them: ``"after"``; ``"before"``
        when trained further; ``"shipped"`` for the model that ships, when trained from nothing
        on cutouts that it takes.

    Raises
    ------
    InputError
        The set has too few frames or classes, or its cutouts are not what a fitted selector
        takes.

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
        if len(np.unique(data.label[train])) < 2:
            raise InputError(
                f"The frames of {data.path.name} to train on hold one class only: give more."
            )
        seed = int(random.randint(2**31 - 1))
        _prepare(made, data, train, start)
        judged = _judged(data, held)
        good = data.label[judged] == 1
        made.scores_ = {}
        for name, other in (_yardstick(data, start) if judged.size else {}).items():
            log_odds = _log_odds(other, data, judged)
            made.scores_[name] = HeldOutScores.of(good, expit(log_odds))
        _fit(made, data, train, held, seed, start, progress)
        if 0 < good.sum() < len(good):
            made.calibration_ = _platt(_log_odds(made, data, judged), good)
        elif start is not None:
            made.calibration_ = start.calibration_
        if judged.size:
            log_odds = _log_odds(made, data, judged)
            made.scores_["after"] = HeldOutScores.of(good, expit(log_odds))
        made.held_out_ = held
    return made


def _check_fit(data: CutoutSet, made: PSFStarSelector, start: PSFStarSelector | None) -> None:
    """Raise where parameters, the start and the set do not go together."""
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
    """Rows to train on and rows held out: labelled ones, no frame on both sides."""
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
    """Held-out rows that the selector has the last word on; all where that leaves one class."""
    judged = held[data.flags[held] & NEVER_A_PSF_STAR == 0]
    return judged if len(np.unique(data.label[judged])) == 2 else held


def _prepare(
    made: PSFStarSelector,
    data: CutoutSet,
    train: NDArray[np.intp],
    start: PSFStarSelector | None,
) -> None:
    """Give the selector all that it has when fitted, but the network."""
    made._validate_cutouts(data[:1], reset=True)
    made.cutout_size_, made.reference_fwhm_ = data.size, data.reference_fwhm
    made.calibration_ = (1.0, 0.0)
    if start is not None:
        made.classes_, made.scaler_ = start.classes_, start.scaler_
        return
    made.classes_ = np.array([0, 1])
    method = made._scaling_method()
    made.scaler_ = None if method is None else _fit_scaler(method, data, train)


def _fit_scaler(method: str, data: CutoutSet, rows: NDArray[np.intp]) -> CutoutScaler:
    """Fit a scaler to rows of a set in one pass; see `CutoutScaler.fit`."""
    scaler: CutoutScaler = CutoutScaler(method=method).fit(data[rows[:1]])
    if method == "standard":
        n, mean, square = 0, 0.0, 0.0
        for batch in data.batches(_BLOCK, rows=rows):
            finite = batch.cutouts[np.isfinite(batch.cutouts)].astype(np.float64)
            if finite.size == 0:
                continue
            # Chan, Golub & LeVeque 1983, Am. Stat. 37, 242: exact where sums of squares are not.
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
) -> None:
    """Build or take over the network, and train it."""
    estimator = made._make_estimator(data.size, seed)

    import keras
    from scikeras.utils.random_state import tensorflow_random_state

    weights = compute_class_weight(
        made.class_weight, classes=made.classes_, y=made.classes_[data.label[train]]
    ).astype(np.float32)
    steps, held_steps = (-(-len(rows) // made.batch_size) for rows in (train, held))
    bar = tqdm(
        total=made.epochs * steps, unit="batch", disable=None if progress else True, leave=False
    )

    def advance(_: int, logs: Any = None) -> None:  # noqa: ARG001 - Keras names them
        bar.update()

    def epoch_end(epoch: int, logs: Any = None) -> None:
        bar.set_postfix_str(_line(epoch, made.epochs, logs))

    callbacks = [
        *(estimator.callbacks or []),
        keras.callbacks.LambdaCallback(on_train_batch_end=advance, on_epoch_end=epoch_end),
    ]
    done = threading.Event()
    extra: dict[str, Any] = {}
    with bar, tensorflow_random_state(seed):
        estimator.initialize(np.zeros((2, data.size, data.size, 1), np.float32), [0, 1])
        if start is not None:
            estimator.model_ = _copy(start.model_)
        model = estimator.model_
        model.compile(  # scikeras does so in its fit, which takes arrays only
            keras.optimizers.Adam(made.learning_rate),
            loss=estimator.loss,
            metrics=estimator.metrics,
        )
        if held.size:
            extra["validation_data"] = _stream(made, data, held, np.ones(2, np.float32), done)
            extra["validation_steps"] = held_steps
        try:
            history = model.fit(
                _stream(made, data, train, weights, done, check_random_state(seed)),
                steps_per_epoch=steps,
                epochs=made.epochs,
                callbacks=callbacks,
                shuffle=False,  # the stream is
                verbose=made.verbose,
                **extra,
            )
        finally:
            done.set()
    made.estimator_ = estimator
    made.network_ = KerasNetwork(model)
    made.history_ = {key: list(map(float, values)) for key, values in history.history.items()}


def _copy(model: Any) -> Any:
    """Copy a trained network, which may be none of those that this mlpsf builds."""
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
    random: Any = None,
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int8], NDArray[np.float32]]]:
    """Images, labels and weights, batch by batch, epoch after epoch; shuffled by `random`.

    Keras reads ahead in a thread of its own; `done` tells it that nobody waits any more.
    """
    while not done.is_set():
        batches = data.batches(
            made.batch_size, rows=rows, shuffle=random is not None, random_state=random
        )
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


def _log_odds(
    selector: PSFStarSelector, data: CutoutSet, rows: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Log-odds of being good, ascending rows."""
    parts = [selector.decision_function(batch.cutouts) for batch in data.batches(_BLOCK, rows=rows)]
    return np.concatenate(parts)


def _platt(log_odds: NDArray[np.float64], good: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and intercept of Platt's scaling, as in `PSFStarSelector.calibrate`."""
    model = LogisticRegression(C=10.0).fit(log_odds[:, None], good)
    return max(float(model.coef_[0, 0]), 1e-3), float(model.intercept_[0])


def _yardstick(data: CutoutSet, start: PSFStarSelector | None) -> dict[str, PSFStarSelector]:
    """Give what to compare with: the start, or the shipped model where it takes these cutouts."""
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
