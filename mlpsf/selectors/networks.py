"""Keras networks: the published one, unchanged, and a compact one for resampled stamps."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from mlpsf.errors import InputError
from mlpsf.stamps.scaling import CutoutScaler
from mlpsf.stamps.standard import standard_star


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Suppress TensorFlow's messages on stderr about accelerators that it does not find.

    Its libraries write to the file descriptor before they read the settings that silence them.
    """
    sys.stderr.flush()
    try:
        saved = os.dup(2)
    except OSError:  # there is no stderr
        yield
        return
    try:
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123 - a device, by its file number
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


with _without_stderr():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras


# "keras" too: other modules import Keras from here, after its set-up.
__all__ = ["ARCHITECTURES", "Departures", "RandomSymmetry", "build_network", "keras"]


@keras.saving.register_keras_serializable(package="mlpsf")
class RandomSymmetry(keras.layers.Layer):  # type: ignore[misc]
    """Apply one of the square's eight symmetries, chosen at random, to each training image.

    The quality of a star does not depend on its orientation. At inference the layer does nothing.
    """

    def __init__(self, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seed = seed
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return the images, transformed in training; shape (n, size, size, channels)."""
        if not training:
            return inputs
        ops = keras.ops
        shape = (ops.shape(inputs)[0], 1, 1, 1)
        out = inputs
        turns: tuple[Callable[[Any], Any], ...] = (
            lambda t: ops.flip(t, axis=1),
            lambda t: ops.flip(t, axis=2),
            lambda t: ops.transpose(t, (0, 2, 1, 3)),
        )
        for turn in turns:
            out = ops.where(keras.random.uniform(shape, seed=self.generator) < 0.5, turn(out), out)
        return out

    def get_config(self) -> dict[str, Any]:
        """Return the configuration of the layer."""
        return {**super().get_config(), "seed": self.seed}


@keras.saving.register_keras_serializable(package="mlpsf")
class Departures(keras.layers.Layer):  # type: ignore[misc]
    """Add two channels: the image minus its 180-degree rotation, and minus the standard star.

    A neighbour of a few per cent in the wings of a star, or a galaxy slightly wider than a star,
    is hard to see in the image but clear in a difference. The rotation needs no known PSF, since
    nearly every PSF is symmetric under it. The standard star is what a good star looks like in
    standardised stamps (`mlpsf.stamps.standard`).

    Parameters
    ----------
    gain : float
        Factor applied to the differences before a hyperbolic tangent bounds them.
    """

    def __init__(self, gain: float = 10.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gain = gain

    def build(self, input_shape: Any) -> None:
        """Draw the standard star with the same scaling as the images."""
        star = standard_star(input_shape[1])[None]
        self.star = CutoutScaler(method="star").fit_transform(star)[..., None]
        super().build(input_shape)

    def call(self, inputs: Any) -> Any:
        """Return images and both differences; shape (n, size, size, 3 * channels)."""
        ops = keras.ops
        turned = ops.flip(ops.flip(inputs, axis=1), axis=2)
        differences = [ops.tanh(self.gain * (inputs - other)) for other in (turned, self.star)]
        return ops.concatenate([inputs, *differences], axis=-1)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the output shape: three times as many channels."""
        return (*input_shape[:-1], 3 * input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """Return the configuration of the layer."""
        return {**super().get_config(), "gain": self.gain}


def _published(
    _size: int, filters: Sequence[int] | None, dropout: float | None, seed: int | None
) -> Any:
    """Return the layers of the ML-PSF study's network; 189,218 parameters on 111 x 111 pixels."""
    first, second = (16, 16) if filters is None else filters
    rate = 0.2 if dropout is None else dropout
    layers = keras.layers
    return [
        layers.Conv2D(first, 3, padding="same", activation="relu"),
        layers.Dropout(rate, seed=seed),
        layers.MaxPooling2D(2),
        layers.BatchNormalization(),
        layers.Conv2D(second, 3, padding="same", activation="relu"),
        layers.Dropout(rate, seed=seed),
        layers.MaxPooling2D(2),
        layers.Flatten(),
        layers.Dense(16, activation="sigmoid"),
    ]


def _compact(
    size: int, filters: Sequence[int] | None, dropout: float | None, seed: int | None
) -> Any:
    """Return convolutions with pooling down to 5 pixels a side; 46,000 parameters on 41 x 41."""
    layers = keras.layers
    stack: list[Any] = [RandomSymmetry(seed=seed), Departures()]
    widths = (16, 24, 32, 32) if filters is None else tuple(filters)
    for i, width in enumerate(widths):
        stack += [
            layers.Conv2D(width, 3, padding="same", use_bias=False),
            # Low momentum, so that a short training is not dominated by its first batches.
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
        ]
        if size >= 10 and i < len(widths) - 1:
            stack.append(layers.MaxPooling2D(2))
            size //= 2
    stack.append(layers.Flatten())
    if dropout is None or dropout > 0:
        stack.append(layers.Dropout(0.2 if dropout is None else dropout, seed=seed))
    stack.append(layers.Dense(32, activation="relu", name="embedding"))
    return stack


ARCHITECTURES: dict[str, Callable[..., Any]] = {"compact": _compact, "published": _published}
"""Networks by name: functions of (size, filters, dropout, seed) that return hidden layers."""


def build_network(
    size: int,
    architecture: str = "compact",
    filters: Sequence[int] | None = None,
    dropout: float | None = None,
    seed: int | None = None,
) -> Any:
    """Build an uncompiled network that maps (n, size, size, 1) to two probabilities.

    Parameters
    ----------
    size : int
        Side of the cutouts in pixels.
    architecture : {"compact", "published"}
    filters : sequence of int, optional
        Number of filters of each convolution. Default: set by the architecture.
    dropout : float, optional
        Fraction of values dropped in training. Default: 0.2.
    seed : int, optional
        Seed of the dropout and the random symmetries.

    Returns
    -------
    keras.Model

    Raises
    ------
    InputError
        The architecture is unknown, or takes another number of filters.

    Examples
    --------
    >>> build_network(111, "published").count_params()
    189218
    """
    if architecture not in ARCHITECTURES:
        raise InputError(
            f"The 'architecture' parameter must be one of {sorted(ARCHITECTURES)}. "
            f"Got {architecture!r} instead."
        )
    if filters is not None:
        filters = _check_filters(filters, 2 if architecture == "published" else None)
    inputs = keras.Input((size, size, 1))
    out = inputs
    for layer in ARCHITECTURES[architecture](size, filters, dropout, seed):
        out = layer(out)
    out = keras.layers.Dense(2, activation="softmax")(out)
    return keras.Model(inputs, out, name=architecture)


def _check_filters(filters: Sequence[int], wanted: int | None) -> tuple[int, ...]:
    counts = np.asarray(filters)
    right = counts.ndim == 1 and counts.dtype.kind in "iu" and wanted in (None, counts.size)
    if not right or counts.size == 0 or counts.min() < 1:
        raise InputError(
            f"The 'filters' parameter must be {wanted or 'one or more'} positive integers. "
            f"Got {filters!r} instead."
        )
    return tuple(counts.tolist())
