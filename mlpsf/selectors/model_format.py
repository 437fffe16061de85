"""What a model file says of itself, checked before anything of it is used.

A model is data of unknown origin. Its sizes are checked before memory is taken, and every number of
its description against the range in which it makes sense.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlpsf.errors import ModelFileError
from mlpsf.files import input_file

__all__ = ["DESCRIPTION", "FORMAT", "STAMPS", "check_network", "read_state"]

DESCRIPTION = "mlpsf.json"
"""Name of the description in the archive."""

FORMAT = 1
STAMPS = "standardised"  # made by mlpsf.stamps.standard, which removes the frame's own PSF

_MOST, _FREE = (
    20,
    64 * 2**20,
)  # unpacked bytes: of each packed one, and for all; weights do not pack
_LONGEST = 4 * 2**20  # bytes of a description
_SIDES = range(5, 1002, 2)  # of cutouts, in pixels


def _number(low: float, high: float) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and math.isfinite(value) and low <= value <= high

    return check


def _is_side(value: Any) -> bool:
    return isinstance(value, int) and value in _SIDES


def _is_calibration(value: Any) -> bool:
    # A slope of 0 or less turns the order of all sources, and a large number says always the same.
    if not isinstance(value, list) or len(value) != 2:
        return False
    return _number(1e-4, 100.0)(value[0]) and _number(-30.0, 30.0)(value[1])


def _is_correction(value: Any) -> bool:
    if value is None:
        return True
    return isinstance(value, list) and len(value) == 3 and all(map(_number(0.0, 100.0), value))


def _is_scaler(value: Any) -> bool:
    if value is None:
        return True
    if not isinstance(value, dict) or not isinstance(value.get("parameters"), dict):
        return False
    parameters = value["parameters"]
    return (
        set(parameters) <= {"method", "softening"}
        and parameters.get("method", "star") in ("star", "standard")
        and _number(1e-12, 1e12)(parameters.get("softening", 1.0))
        and _number(-1e30, 1e30)(value.get("mean"))
        and _number(1e-30, 1e30)(value.get("scale"))
        and isinstance(value.get("n_features_in"), int)
    )


def _is_classes(value: Any) -> bool:
    kinds = int | float | str
    return isinstance(value, list) and len(value) == 2 and all(isinstance(v, kinds) for v in value)


_SCHEMA: dict[str, tuple[Callable[[Any], bool], str]] = {
    "parameters": (lambda v: isinstance(v, dict), "a mapping"),
    "classes": (_is_classes, "two labels"),
    "classes_dtype": (
        lambda v: isinstance(v, str) and v[1:2] in tuple("biufU") and len(v) < 9,
        "the type of labels",
    ),
    "calibration": (_is_calibration, "a slope from 0.0001 to 100 and an intercept from -30 to 30"),
    "correction": (_is_correction, "None, or three numbers from 0 to 100"),
    "cutout_size": (_is_side, f"an odd number from {_SIDES[0]} to {_SIDES[-1]}"),
    "reference_fwhm": (lambda v: v is None or _number(0.5, 100.0)(v), "None, or 0.5 to 100 pixels"),
    "n_features_in": (lambda v: isinstance(v, int) and v > 0, "a number of pixels"),
    "history": (lambda v: isinstance(v, dict), "a mapping"),
    "scaler": (_is_scaler, "None, or method, mean and scale of a CutoutScaler"),
}


def read_state(path: Path, kind: str) -> dict[str, Any]:
    """Return the description in a model file.

    Parameters
    ----------
    path : Path
    kind : str
        Name of the class that the file should hold.

    Raises
    ------
    ModelFileError
        It is no model file, or its kind, format, stamps or a number of it is another than expected.
    """
    path = input_file(path, ModelFileError, "a model file (.keras)")
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
            unpacked = sum(sizes.values())
            if unpacked > max(_MOST * path.stat().st_size, _FREE):
                raise ModelFileError(
                    f"{path.name} is no model: it would unpack to {unpacked:,} bytes, over {_MOST} "
                    "times its size."
                )
            if sizes.get(DESCRIPTION, 0) > _LONGEST:
                raise ModelFileError(f"{path.name} is no model: its description is too long.")
            state = json.loads(archive.read(DESCRIPTION))
        if not isinstance(state, dict):
            raise TypeError("its description is no mapping")
    except ModelFileError:
        raise
    except Exception as error:  # a damaged archive can make zipfile raise anything
        raise ModelFileError(
            f"{path.name} is no mlpsf model: expected a .keras file that PSFStarSelector.save "
            f"wrote ({type(error).__name__}). Train one with PSFStarSelector.fit."
        ) from error
    if state.get("kind") != kind or state.get("format") != FORMAT:
        raise ModelFileError(
            f"{path.name} holds a {str(state.get('kind'))[:40]} of file format "
            f"{str(state.get('format'))[:40]}; expected a {kind} of format {FORMAT}."
        )
    if state.get("reference_fwhm") is not None and state.get("stamps") != STAMPS:
        raise ModelFileError(
            f"{path.name} was trained on stamps of another kind than this mlpsf cuts "
            f"({STAMPS}). Label and train again."
        )
    state.setdefault("correction", None)  # files from before this entry, and most others
    for key, (valid, expected) in _SCHEMA.items():
        if key not in state or not valid(state[key]):
            raise ModelFileError(
                f"{path.name} is damaged: its {key} is {str(state.get(key))[:60]!r}. Expected "
                f"{expected}. Copy it again."
            )
    return state


def check_network(name: str, shapes: tuple[Any, Any], size: int) -> None:
    """Raise `ModelFileError` unless a network maps cutouts of a size to two probabilities.

    Parameters
    ----------
    name : str
        Of the file.
    shapes : (sequence, sequence)
        Shapes of its input and of its output; the first number of each is of any size.
    size : int
        Side of the cutouts.
    """
    takes, gives = (tuple(shape)[1:] for shape in shapes)
    if takes != (size, size, 1) or gives != (2,):
        raise ModelFileError(
            f"{name} is damaged: its network maps {takes} to {gives}. Expected ({size}, {size}, 1) "
            "to (2,), as its description says. Copy it again."
        )
