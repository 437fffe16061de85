"""Model files: a Keras archive with an extra entry that describes how to use the network."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from mlpsf.errors import InputError, ModelFileError
from mlpsf.files import file_hash, whole_file
from mlpsf.selectors.inference import ONNX_ENTRY, KerasNetwork, OnnxNetwork, to_onnx
from mlpsf.selectors.model_format import (
    DESCRIPTION,
    FORMAT,
    STAMPS,
    check_network,
    read_state,
)
from mlpsf.version import __version__

__all__ = [
    "correction_in",
    "damage_reported",
    "file_hash",
    "load_selector",
    "pretrained_path",
    "save_selector",
]

Selector = TypeVar("Selector")


def pretrained_path(name: str = "compact") -> Path:
    """Return the path of a pretrained model shipped with mlpsf.

    Raises
    ------
    ModelFileError
        There is no model of that name.
    """
    folder = Path(str(resources.files("mlpsf.selectors") / "pretrained"))
    path = folder / f"{name}.keras"
    if not path.is_file():
        there = sorted(p.stem for p in folder.glob("*.keras"))
        raise ModelFileError(f"No pretrained model is called {name!r}. There are: {there}.")
    return path


def save_selector(selector: Any, path: str | os.PathLike[str]) -> Path:
    """Write a fitted `PSFStarSelector`; see `PSFStarSelector.save`."""
    from sklearn.utils.validation import check_is_fitted

    check_is_fitted(selector, "network_")
    path = Path(path)
    if path.suffix != ".keras":
        raise ModelFileError(f"A model file ends in .keras. Got {path.name!r}.")
    parameters = selector.get_params(deep=False)
    state = {
        "format": FORMAT,
        "mlpsf": __version__,
        "kind": type(selector).__name__,
        # Callbacks and random states are not plain values, and a trained network does not need
        # them. Nor is the verbosity of its training kept.
        "parameters": {
            k: v
            for k, v in parameters.items()
            if isinstance(v, str | int | float | bool | list | tuple | type(None))
            and k not in ("callbacks", "verbose")
        },
        "classes": selector.classes_.tolist(),
        "classes_dtype": selector.classes_.dtype.str,
        "calibration": list(selector.calibration_),
        "correction": None if selector.correction_ is None else list(selector.correction_),
        "cutout_size": selector.cutout_size_,
        "reference_fwhm": selector.reference_fwhm_,
        "homogenizes": selector.homogenizer_ is not None,
        "stamps": None if selector.reference_fwhm_ is None else STAMPS,
        "n_features_in": selector.n_features_in_,
        "history": selector.history_,
        "scaler": None
        if selector.scaler_ is None
        else {
            "parameters": selector.scaler_.get_params(),
            "mean": selector.scaler_.mean_,
            "scale": selector.scaler_.scale_,
            "n_features_in": selector.scaler_.n_features_in_,
        },
    }
    with whole_file(path) as temporary:
        from mlpsf.selectors.networks import keras

        # Not compiled, so without the optimiser state, which is twice the size of the network.
        trained = selector.model_  # read once: a loaded selector loads it each time
        model = keras.Model(trained.inputs[0], trained.outputs[0])
        model.save(temporary)
        with zipfile.ZipFile(temporary, "a") as archive:
            archive.writestr(DESCRIPTION, json.dumps(state, indent=1))
            network = to_onnx(model)
            if network is not None:
                archive.writestr(ONNX_ENTRY, network, zipfile.ZIP_DEFLATED)
    return path


def load_selector(
    cls: type[Selector], path: str | os.PathLike[str], engine: str = "auto"
) -> Selector:
    """Read a selector of class `cls`; see `PSFStarSelector.load`."""
    if engine not in ("auto", "keras"):
        raise InputError(f"The 'engine' parameter must be 'auto' or 'keras'. Got {engine!r}.")
    path = Path(path)
    state = read_state(path, cls.__name__)
    with damage_reported(path):
        selector = _restore(cls, state, path, engine)
    return cast("Selector", selector)


@contextmanager
def damage_reported(path: Path) -> Iterator[None]:
    """Raise `ModelFileError` if reading the file fails."""
    try:
        yield
    except ModelFileError:
        raise
    except Exception as error:  # a damaged network can make its libraries raise anything
        raise ModelFileError(
            f"{path.name} is damaged ({type(error).__name__}: {error}). Train or copy it again."
        ) from error


def correction_in(state: dict[str, Any]) -> tuple[float, float, float] | None:
    """Return the correction for what stamps do not show, from the description of a model."""
    given = state["correction"]
    return None if given is None else (float(given[0]), float(given[1]), float(given[2]))


def _restore(cls: type[Any], state: dict[str, Any], path: Path, engine: str) -> Any:
    from mlpsf.stamps.scaling import CutoutScaler

    selector = cls(**{k: v for k, v in state["parameters"].items() if k != "verbose"})
    selector._validate_params()
    selector.network_ = OnnxNetwork(path.read_bytes())
    if engine == "keras" or not selector.network_.available:
        selector.network_ = KerasNetwork(selector.network_.model)
    check_network(path.name, selector.network_.shapes, state["cutout_size"])
    selector.classes_ = np.array(state["classes"], dtype=state["classes_dtype"])
    slope, intercept = state["calibration"]
    selector.calibration_ = (float(slope), float(intercept))
    selector.correction_ = correction_in(state)
    selector.cutout_size_ = state["cutout_size"]
    selector.reference_fwhm_ = state["reference_fwhm"]
    selector.n_features_in_ = state["n_features_in"]
    selector.history_ = state["history"]
    selector.model_name_ = path.stem
    selector.model_sha256_ = file_hash(path)
    selector.homogenizer_ = None
    # Files from before this entry hold networks that were trained on homogenized stamps.
    if state.get("homogenizes", state["reference_fwhm"] is not None):
        from mlpsf.stamps.homogenizer import PSFHomogenizer

        selector.homogenizer_ = PSFHomogenizer(size=state["cutout_size"])
        selector.homogenize = True  # so that a clone is taught with raw cutouts, too
    selector.scaler_ = None
    if state["scaler"] is not None:
        scaler = CutoutScaler(**state["scaler"]["parameters"])
        scaler.mean_, scaler.scale_ = state["scaler"]["mean"], state["scaler"]["scale"]
        scaler.n_features_in_ = state["scaler"]["n_features_in"]
        selector.scaler_ = scaler
    return selector
