"""Selectors by name, their default rules of choice, and the provenance of a star table."""

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

__all__ = ["count_of", "frame_selector", "provenance", "rules_for"]


def frame_selector(selector: Any, frame: Frame) -> tuple[Any, str]:
    """Return the estimator for a name or estimator on a frame, and its name."""
    if not isinstance(selector, str):
        if not hasattr(selector, "predict_proba"):
            raise InputError(
                "A selector is 'cnn', 'residual', or an estimator with predict_proba. "
                f"Got a {type(selector).__name__}."
            )
        # A Judge was saved as a PSFStarSelector.
        kind = "PSFStarSelector" if isinstance(selector, Judge) else type(selector).__name__
        return selector, kind
    if selector == "cnn":
        return _shipped(), "cnn"
    if selector == "residual":
        from mlpsf.selectors.residual import ResidualSelector

        # The study's limits in ADU are for one camera: half of its full well, and far below its
        # noise. Here they are computed for this frame.
        count = count_of(selector, frame)
        noise = float(np.median(frame.background.rms)) / count
        full_well = float(frame.saturation - np.median(frame.background.level)) / count
        limits = (-20.0 * noise, 0.5 * full_well)
        return (
            ResidualSelector(
                brightness_range=limits, exclusion_range=(-200 * noise, 2 * full_well)
            ),
            "residual",
        )
    raise InputError(f"A selector is 'cnn', 'residual' or an estimator. Got {selector!r}.")


def count_of(selector: Any, frame: Frame) -> float:
    """Return the value of a count for a selector, in the unit of the frame's pixels.

    The residual rule is in counts: its weights are ``1 / (light + 1)``. A count there is a tenth of
    the sky's noise, which is what it is on the study's frames, so that the rule is the same in any
    unit. For all other selectors it is 1.
    """
    if isinstance(selector, str) and selector == "residual":
        return 0.1 * float(np.median(frame.background.rms))
    return 1.0


@cache
def _shipped() -> Any:
    """Read the pretrained network, once for all frames."""
    return load_judge(pretrained_path())


def rules_for(selector: Any, **choice: Unpack[ChoiceOptions]) -> Rules:
    """Return the rules for choosing the stars of a selector.

    For the residual rule: the best sources of a frame, without a threshold, in the order of the
    rule. For all other selectors: sources of probability 0.9 or more, the brightest of the surest
    first. Given options override these defaults.

    Raises
    ------
    InputError
        An option is out of range.
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
    """Return the provenance of a star table: selector and versions."""
    out: dict[str, Any] = {"selector": name, "mlpsf_version": __version__}
    for key in ("model_name_", "model_sha256_"):
        if hasattr(estimator, key):
            out[key.strip("_")] = getattr(estimator, key)
    if name == "residual":  # its settings, if a file can hold them
        for key, value in estimator.get_params(deep=False).items():
            if isinstance(value, str | int | float | tuple):
                out[f"residual_{key}"] = str(value) if isinstance(value, tuple) else value
    out["python_version"] = platform.python_version()
    modules = {"numpy": np, "astropy": astropy, "sep": sep}
    out |= {f"{name}_version": module.__version__ for name, module in modules.items()}
    runtime = "onnxruntime" if isinstance(estimator, Judge) else "scikit-learn"
    out[f"{runtime}_version"] = version(runtime)
    return out
