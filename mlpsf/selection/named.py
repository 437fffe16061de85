"""The selector that a name stands for, how its stars are chosen, and what made a table."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import version
from typing import Any, Unpack

import astropy
import numpy as np
import sep

from mlpsf.errors import InputError
from mlpsf.frames.frame import Frame
from mlpsf.selection.choice import THRESHOLD, ChoiceOptions, Rules
from mlpsf.selectors.judge import Judge
from mlpsf.selectors.loading import load_judge
from mlpsf.selectors.storage import pretrained_path
from mlpsf.version import __version__

__all__ = ["frame_selector", "provenance", "rules_for"]


def frame_selector(selector: Any, frame: Frame) -> tuple[Any, str]:
    """Return the estimator that a name stands for on a frame, and what to call it."""
    if not isinstance(selector, str):
        if not hasattr(selector, "predict_proba"):
            raise InputError(
                "A selector is 'cnn', 'residual', or an estimator with predict_proba. "
                f"Got a {type(selector).__name__}."
            )
        # A judge is what is left of the selector that was saved.
        kind = "PSFStarSelector" if isinstance(selector, Judge) else type(selector).__name__
        return selector, kind
    if selector == "cnn":
        return _shipped(), "cnn"
    if selector == "residual":
        from mlpsf.selectors.residual import ResidualSelector

        # The study's limits in ADU are those of one camera: half of its full well, and far below
        # its noise. Here they are this frame's own.
        noise = float(np.median(frame.background.rms))
        full_well = float(frame.saturation - np.median(frame.background.level))
        limits = (-20.0 * noise, 0.5 * full_well)
        return (
            ResidualSelector(
                brightness_range=limits, exclusion_range=(-200 * noise, 2 * full_well)
            ),
            "residual",
        )
    raise InputError(f"A selector is 'cnn', 'residual' or an estimator. Got {selector!r}.")


@cache
def _shipped() -> Any:
    """Read the network that ships, once for all frames."""
    return load_judge(pretrained_path())


def rules_for(selector: Any, **choice: Unpack[ChoiceOptions]) -> Rules:
    """Return the rules by which the stars of a selector are chosen.

    The residual rule takes the best of a frame, whatever they are, in its own order; of all others
    those that reach 0.9 are taken, the brightest first. What is given overrides this.

    Raises
    ------
    InputError
        An option is out of its range.
    """
    classical = _is_classical(selector)
    if choice.get("threshold") is None:
        choice["threshold"] = 0.0 if classical else THRESHOLD
    if choice.get("rank_by") is None:
        choice["rank_by"] = "probability" if classical else "snr"
    return Rules(**choice)  # type: ignore[arg-type]


def _is_classical(selector: Any) -> bool:
    if isinstance(selector, str | Judge):
        return selector == "residual"
    from mlpsf.selectors.residual import ResidualSelector

    return isinstance(selector, ResidualSelector)


def provenance(estimator: Any, name: str) -> dict[str, Any]:
    """Return what made a table: selector, versions."""
    out: dict[str, Any] = {"selector": name, "mlpsf_version": __version__}
    for key in ("model_name_", "model_sha256_"):
        if hasattr(estimator, key):
            out[key.strip("_")] = getattr(estimator, key)
    if name == "residual":  # its settings, where a file can hold them
        for key, value in estimator.get_params(deep=False).items():
            if isinstance(value, str | int | float | tuple):
                out[f"residual_{key}"] = str(value) if isinstance(value, tuple) else value
    out["python_version"] = platform.python_version()
    modules = {"numpy": np, "astropy": astropy, "sep": sep}
    out |= {f"{name}_version": module.__version__ for name, module in modules.items()}
    runtime = "onnxruntime" if isinstance(estimator, Judge) else "scikit-learn"
    out[f"{runtime}_version"] = version(runtime)
    return out
