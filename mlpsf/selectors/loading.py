"""Reading a saved selector for nothing but its probabilities, in few imports."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mlpsf.selectors.inference import OnnxNetwork
from mlpsf.selectors.judge import Judge
from mlpsf.selectors.storage import damage_reported, file_hash, read_state

__all__ = ["load_judge"]


def load_judge(path: str | os.PathLike[str]) -> Any:
    """Read a saved `PSFStarSelector` for nothing but to judge.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    Judge or PSFStarSelector
        A `Judge`, which loads neither scikit-learn nor TensorFlow; the selector itself where the
        file holds no ONNX form.

    Raises
    ------
    ModelFileError
        There is no such file, or it is no selector.
    """
    path = Path(path)
    state = read_state(path, "PSFStarSelector")
    with damage_reported(path):
        network = OnnxNetwork(path.read_bytes())
        if not network.available:
            from mlpsf.selectors.cnn import PSFStarSelector

            return PSFStarSelector.load(path)
        network.load()  # a damaged one is better known now than at every frame
        scaler = state["scaler"]
        if scaler is not None:
            scaler = {**scaler["parameters"], "mean": scaler["mean"], "scale": scaler["scale"]}
        slope, intercept = state["calibration"]
        return Judge(
            network,
            scaler=scaler,
            calibration=(float(slope), float(intercept)),
            cutout_size=state["cutout_size"],
            reference_fwhm=state["reference_fwhm"],
            name=path.stem,
            sha256=file_hash(path),
        )
