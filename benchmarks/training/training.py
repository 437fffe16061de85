"""How the shipped network is taught: one place for its training, its ablation and its card."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mlpsf.flags import NEVER_A_PSF_STAR
from mlpsf.frames.cutouts import Cutouts
from mlpsf.selection.unseen import with_unseen
from mlpsf.selectors import PSFStarSelector

REFERENCE_SNR = 200.0
"""In an aperture of 10 pixels radius: sources above are what the figures are about."""

CLEAN, SPOILED = 0.005, 0.02  # contamination below and above which a label is certain


def usable(data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Keep what is clearly good or clearly not."""
    return rows_of(data, data["label"] >= 0)


def judged(
    data: dict[str, np.ndarray], snr: float = REFERENCE_SNR, *, ambiguous_as_bad: bool = False
) -> dict[str, np.ndarray]:
    """Keep what the figures are about: certain labels, bright, and not flagged in any case.

    Ambiguous sources are left out, or counted as bad.
    """
    ask = (data["aperture_snr"] > snr) & (data["flags"] & NEVER_A_PSF_STAR == 0)
    if ambiguous_as_bad:
        return rows_of(data | {"label": np.maximum(data["label"], 0)}, ask)
    return rows_of(data, ask & (data["label"] >= 0))


def rows_of(data: dict[str, np.ndarray], rows: Any) -> dict[str, np.ndarray]:
    """Take rows of every column."""
    return {name: values[rows] for name, values in data.items()}


def snr_weight(data: dict[str, np.ndarray]) -> np.ndarray:
    """Weigh a source by what it would bring to a PSF, as far as the figures look.

    A faint one's label hangs on neighbours that no one could see in its noise.
    """
    return np.clip(data["aperture_snr"] / REFERENCE_SNR, 0.15, 1.0)


def with_ambiguous(
    data: dict[str, np.ndarray], weight: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Make of every ambiguous source two, one of each label, that share its weight.

    The share of the good one falls with the logarithm of the contamination from 1 to 0.
    """
    between = np.flatnonzero(data["label"] < 0)
    share = np.log(SPOILED / np.maximum(data["contamination"][between], CLEAN))
    share = np.clip(share / math.log(SPOILED / CLEAN), 0.0, 1.0)
    certain = np.flatnonzero(data["label"] >= 0)
    out = rows_of(data, np.concatenate([certain, between, between]))
    out["label"] = np.concatenate(
        [data["label"][certain], np.ones(len(between), int), np.zeros(len(between), int)]
    )
    return out, np.concatenate(
        [weight[certain], weight[between] * share, weight[between] * (1 - share)]
    )


def cosine(epochs: int, top: float) -> Any:
    """Learning rate that falls to nothing as half a cosine, after one epoch of warming up."""
    import keras

    def rate(epoch: int, _: float) -> float:
        return top * min(1.0, (epoch + 1) / 2) * 0.5 * (1 + math.cos(math.pi * epoch / epochs))

    return keras.callbacks.LearningRateScheduler(rate)


def teach(
    train: dict[str, np.ndarray],
    held: dict[str, np.ndarray],
    *,
    epochs: int,
    weighted: bool = True,
    ambiguous: bool = True,
    seed: int = 1,
    learning_rate: float = 2e-3,
    callbacks: list[Any] | None = None,
    **parameters: Any,
) -> PSFStarSelector:
    """Train a network and calibrate it on frames apart.

    Parameters
    ----------
    train, held : dict of ndarray
        As `benchmarks.common.stamps.load_stamps` returns.
    epochs, seed, learning_rate
        Of the training.
    weighted : bool
        Whether bright sources count for more, see `snr_weight`.
    ambiguous : bool
        Whether ambiguous sources take part, see `with_ambiguous`.
    callbacks : list, optional
        More of Keras's callbacks.
    **parameters
        Of `PSFStarSelector`.
    """
    weight = snr_weight(train) if weighted else np.ones(len(train["label"]))
    if ambiguous:
        train, weight = with_ambiguous(train, weight)
    else:
        weight, train = weight[train["label"] >= 0], usable(train)
    kept = weight > 0
    selector = PSFStarSelector(
        epochs=epochs,
        batch_size=128,
        callbacks=[cosine(epochs, learning_rate), *(callbacks or [])],
        random_state=seed,
        **parameters,
    )
    selector.fit(train["stamps"][kept], train["label"][kept], sample_weight=weight[kept])
    selector.callbacks = None
    return calibrated(selector, held)


def further(
    selector: PSFStarSelector,
    train: dict[str, np.ndarray],
    held: dict[str, np.ndarray],
    *,
    epochs: int,
    snr_min: float = 80.0,
    seed: int = 1,
    learning_rate: float = 7e-4,
    verbose: int = 0,
) -> PSFStarSelector:
    """Train a network further, on bright sources alone: those that PSFs are made of."""
    import keras

    train = rows_of(train, train["aperture_snr"] > snr_min)
    train, weight = with_ambiguous(train, snr_weight(train))
    kept = weight > 0
    images = selector._scale(train["stamps"][kept])[..., None]
    keras.utils.set_random_seed(seed)
    network = selector.model_
    network.compile(keras.optimizers.Adam(learning_rate), "sparse_categorical_crossentropy")
    history = network.fit(
        images,
        train["label"][kept],
        sample_weight=weight[kept],
        batch_size=128,
        epochs=epochs,
        callbacks=[cosine(epochs, learning_rate)],
        verbose=verbose,
    )
    selector.history_["loss_further"] = [float(v) for v in history.history["loss"]]
    return calibrated(selector, held)


def calibrated(selector: PSFStarSelector, held: dict[str, np.ndarray]) -> PSFStarSelector:
    """Calibrate on what, in use, will be asked: no source that is flagged in any case."""
    held = judged(held, REFERENCE_SNR / 2)
    selector.calibration_ = (1.0, 0.0)
    return selector.calibrate(Cutouts.of(held["stamps"], homogenized=True), held["label"])


def probabilities(selector: PSFStarSelector, data: dict[str, np.ndarray]) -> np.ndarray:
    """Probability of good of stamps, which are homogenized already."""
    stamps = data["stamps"].astype(np.float32)
    parts = [
        selector.predict_proba(Cutouts.of(stamps[i : i + 8192], homogenized=True))[:, 1]
        for i in range(0, len(data["label"]), 8192)
    ]
    return np.concatenate(parts) if parts else np.zeros(0)


def in_use(selector: PSFStarSelector, data: dict[str, np.ndarray]) -> np.ndarray:
    """Probability of good as `mlpsf.select_stars` gives it, of the stamps of its frame."""
    p = probabilities(selector, data)
    if selector.correction_ is None:
        return p
    return with_unseen(p, data["snr"], data["taken"], selector.correction_)
