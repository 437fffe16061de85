"""Loading of a saved selector for its probabilities only, with few imports."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mlpsf.files import file_hash
from mlpsf.selectors.inference import OnnxNetwork
from mlpsf.selectors.judge import Judge
from mlpsf.selectors.model_format import check_network, read_state
from mlpsf.selectors.storage import correction_in, damage_reported

__all__ = ["load_judge"]


def load_judge(path: str | os.PathLike[str]) -> Any:
    """Read a saved `PSFStarSelector` for its probabilities only.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    Judge or PSFStarSelector
        A `Judge`, which loads neither scikit-learn nor TensorFlow; the selector itself if the
        file does not hold an ONNX network.

    Raises
    ------
    ModelFileError
        The file does not exist or does not hold a selector.
    """
    path = Path(path)
    state = read_state(path, "PSFStarSelector")
    with damage_reported(path):
        network = OnnxNetwork(path.read_bytes())
        if not network.available:
            from mlpsf.selectors.cnn import PSFStarSelector

            return PSFStarSelector.load(path)
        # A damaged network is reported now, not at every frame.
        check_network(path.name, network.shapes, state["cutout_size"])
        scaler = state["scaler"]
        if scaler is not None:
            scaler = {**scaler["parameters"], "mean": scaler["mean"], "scale": scaler["scale"]}
        slope, intercept = state["calibration"]
        return Judge(
            network,
            scaler=scaler,
            calibration=(float(slope), float(intercept)),
            correction=correction_in(state),
            cutout_size=state["cutout_size"],
            reference_fwhm=state["reference_fwhm"],
            name=path.stem,
            sha256=file_hash(path),
        )
