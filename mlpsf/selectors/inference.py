"""Trained networks as functions of scaled cutouts, run by ONNX Runtime or Keras.

ONNX Runtime starts in a tenth of a second, TensorFlow in several seconds. A model file therefore
holds the network in both forms, and Keras is loaded only for further training.
"""

from __future__ import annotations

import io
import tempfile
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpsf.errors import ModelFileError

__all__ = ["ONNX_ENTRY", "KerasNetwork", "OnnxNetwork", "to_onnx"]

BATCH = 256
"""Number of cutouts per forward pass of Keras."""

_IN_CACHE = 32  # per forward pass of ONNX Runtime: what its layers give fits in the cache

ONNX_ENTRY = "network.onnx"


class KerasNetwork:
    """A network run by Keras.

    Parameters
    ----------
    model : keras.Model
        Maps images (n, size, size, 1) to probabilities (n, 2).
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    @property
    def shapes(self) -> tuple[Any, Any]:
        """Shapes of the input and of the probabilities."""
        return self.model.input_shape, self.model.output_shape

    def __call__(self, images: NDArray[np.float32], *, embedding: bool = False) -> Any:
        """Return probabilities (n, 2), or the last hidden layer's activations."""
        model = self.model
        if embedding:
            from mlpsf.selectors.networks import keras

            model = keras.Model(model.inputs[0], model.layers[-1].input)
        parts = [
            model(images[i : i + BATCH, :, :, None], training=False).numpy()
            for i in range(0, len(images), BATCH)
        ]
        return np.concatenate(parts)


class OnnxNetwork:
    """A network run by ONNX Runtime, read from the content of a model file.

    Parameters
    ----------
    archive : bytes
        Content of a ``.keras`` file written by `mlpsf.PSFStarSelector.save`.
    """

    def __init__(self, archive: bytes) -> None:
        self.archive = archive
        self._session: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"archive": self.archive, "_session": None}

    def __call__(self, images: NDArray[np.float32], *, embedding: bool = False) -> Any:
        """Return probabilities (n, 2), or the last hidden layer's activations."""
        session = self.load()
        name = session.get_inputs()[0].name
        output = [session.get_outputs()[1 if embedding else 0].name]
        blocks = [images[i : i + _IN_CACHE, :, :, None] for i in range(0, len(images), _IN_CACHE)]
        parts = [session.run(output, {name: np.ascontiguousarray(b)})[0] for b in blocks]
        return np.concatenate(parts)

    @property
    def shapes(self) -> tuple[Any, Any]:
        """Shapes of the input and of the probabilities."""
        session = self.load()
        return session.get_inputs()[0].shape, session.get_outputs()[0].shape

    @property
    def available(self) -> bool:
        """Whether the file holds the network in ONNX form."""
        with zipfile.ZipFile(io.BytesIO(self.archive)) as archive:
            return ONNX_ENTRY in archive.namelist()

    def load(self) -> Any:
        """Return the ONNX Runtime session, created at the first call."""
        if self._session is None:
            import onnxruntime

            try:
                with zipfile.ZipFile(io.BytesIO(self.archive)) as archive:
                    content = archive.read(ONNX_ENTRY)
            except (zipfile.BadZipFile, zlib.error) as error:
                raise ModelFileError(f"The model's ONNX form is damaged: {error}") from error
            # The stamps of a frame take a tenth of a second, so more threads do not pay off, and
            # results must not depend on the number of cores.
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            try:
                self._session = onnxruntime.InferenceSession(
                    content, options, providers=["CPUExecutionProvider"]
                )
            except Exception as error:  # onnxruntime's errors have no common base class
                raise ModelFileError(f"The model's ONNX form cannot be run: {error}") from error
        return self._session

    @property
    def model(self) -> Any:
        """Network as a Keras model; this loads TensorFlow."""
        from mlpsf.selectors.networks import keras

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.keras"
            path.write_bytes(self.archive)
            return keras.saving.load_model(path, compile=False, safe_mode=True)


def to_onnx(model: Any) -> bytes | None:
    """Export a Keras model to ONNX, with its last hidden layer as a second output.

    Returns
    -------
    bytes or None
        None if the packages ``tf2onnx`` and ``onnx`` are not installed or cannot convert the
        network. Keras runs it then.
    """
    try:
        import onnx  # noqa: F401
        import tf2onnx  # noqa: F401
    except ImportError:
        return None
    from mlpsf.selectors.networks import keras

    both = keras.Model(model.inputs[0], [model.outputs[0], model.layers[-1].input])
    both(np.zeros((1, *model.input_shape[1:]), dtype=np.float32))
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "network.onnx"
        try:
            both.export(path, format="onnx", verbose=False)
        except Exception as error:  # the converter may raise anything on a custom layer
            warnings.simplefilter("default")
            warnings.warn(
                f"The network has no ONNX form ({type(error).__name__}: {error}); Keras runs it.",
                stacklevel=3,
            )
            return None
        return path.read_bytes()
