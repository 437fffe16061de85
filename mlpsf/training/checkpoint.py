"""What an interrupted training needs to go on after its last epoch: one file of plain arrays."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpsf.errors import InputError
from mlpsf.files import file_hash, input_file, whole_file
from mlpsf.version import __version__

__all__ = ["Checkpoint", "training_made_of"]

_DESCRIPTION = "description"
_LONGEST = 4 * 2**20  # bytes of the description
_BEST = ("wait", "best", "best_epoch")  # of Keras's EarlyStopping, besides its best weights


def training_made_of(
    data: Any, selector: Any, start: Any, *, seed: int, undersample: bool
) -> dict[str, str]:
    """Return all that a training's result depends on, by name.

    Parameters
    ----------
    data : CutoutSet
    selector : PSFStarSelector
        Its parameters.
    start : PSFStarSelector or None
        Model that the training begins from.
    seed : int
        Seed of network and order of the cutouts.
    undersample : bool
    """
    parameters = selector.get_params(deep=False)
    for name in ("callbacks", "verbose", "random_state"):  # the seed stands for the last
        del parameters[name]
    begun = "nothing"
    if start is not None:
        scaling = None if start.scaler_ is None else vars(start.scaler_)
        state = (scaling, start.classes_.tolist(), start.calibration_)
        digest = hashlib.sha256(repr(state).encode())
        for weights in start.model_.get_weights():
            digest.update(np.ascontiguousarray(weights).tobytes())
        begun = digest.hexdigest()
    return {
        "set": file_hash(data.path),
        "start": begun,
        "seed": str(seed),
        "undersample": str(undersample),
        "version of mlpsf": __version__,
        **{name: repr(value) for name, value in parameters.items()},
    }


class Checkpoint:
    """State of a training after each epoch, in a file that is always whole.

    Weights, optimiser, random states and best epoch are kept, so that a training that goes on
    gives what it would have given without the interruption. Callbacks of the user's own begin
    anew.

    Parameters
    ----------
    path : path-like
        File, ending in ``.npz``; replaced after each epoch.
    made_of : dict of str
        See `training_made_of`.
    resume : bool
        Whether to go on from the file, if there is one.

    Attributes
    ----------
    epoch : int
        Number of epochs that are done.
    stopped : bool
        Whether the training has ended after them.
    history : dict of list of float
        Loss and accuracy of each epoch.

    Raises
    ------
    InputError
        The file is damaged, or is of a training of other data or parameters.
    """

    def __init__(
        self, path: str | os.PathLike[str], made_of: dict[str, str], *, resume: bool
    ) -> None:
        self.path, self._made_of = Path(path), made_of
        self.epoch, self.stopped = 0, False
        self.history: dict[str, list[float]] = {}
        self._best: dict[str, Any] | None = None
        self._arrays: dict[str, NDArray[Any]] = {}
        if resume and self.path.exists():
            self._read()

    def restore(self, model: Any, stopper: Any) -> None:
        """Give a compiled model, and Keras's EarlyStopping or None, the state of the file."""
        if not self._arrays:
            return
        for kind, variables in _variables(model).items():
            for at, variable in enumerate(variables):
                variable.assign(self._array(f"{kind}{at}", variable))
        if stopper is not None and self._best is not None:
            for name in _BEST:
                setattr(stopper, name, self._best[name])
            stopper.best_weights = [
                self._array(f"best{at}", old) for at, old in enumerate(model.get_weights())
            ]
        self._arrays = {}

    def keep(self, model: Any, stopper: Any, logs: dict[str, Any] | None) -> None:
        """Write the state after one more epoch, whose figures are `logs`."""
        self.epoch, self.stopped = self.epoch + 1, bool(model.stop_training)
        for key, value in (logs or {}).items():
            self.history.setdefault(key, []).append(float(value))
        arrays: dict[str, Any] = {
            f"{kind}{at}": np.asarray(variable)
            for kind, variables in _variables(model).items()
            for at, variable in enumerate(variables)
        }
        best = None
        if stopper is not None and stopper.best_weights is not None:
            best = {name: float(getattr(stopper, name)) for name in _BEST}
            best |= {name: int(best[name]) for name in ("wait", "best_epoch")}
            arrays |= {f"best{at}": weights for at, weights in enumerate(stopper.best_weights)}
        state = {
            "made_of": self._made_of,
            "epoch": self.epoch,
            "stopped": self.stopped,
            "history": self.history,
            "best": best,
        }
        arrays[_DESCRIPTION] = np.frombuffer(json.dumps(state).encode(), dtype=np.uint8)
        with whole_file(self.path) as temporary, temporary.open("wb") as stream:
            np.savez(stream, **arrays)

    def _read(self) -> None:
        """Read the file; a training set's neighbour is no more to be trusted than any other."""
        path = input_file(self.path, InputError, "the checkpoint of a training")
        try:
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
                # Stored, an array takes no more memory than it has bytes in the file.
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                    raise ValueError("it is compressed")
                if sum(entry.file_size for entry in entries) > path.stat().st_size:
                    raise ValueError("it promises more than it holds")
            with np.load(path, allow_pickle=False) as archive:
                arrays = dict(archive)
            description = arrays.pop(_DESCRIPTION)
            if description.dtype != np.uint8 or description.size > _LONGEST:
                raise ValueError("its description is none")
            state = json.loads(description.tobytes())
            made_of, epoch, history = state["made_of"], state["epoch"], state["history"]
            self.stopped, self._best = bool(state["stopped"]), state["best"]
            self.history = {
                key: [float(value) for value in values] for key, values in history.items()
            }
            if not (isinstance(epoch, int) and epoch > 0 and isinstance(made_of, dict)):
                raise ValueError("its numbers make no sense")
            if any(len(values) != epoch for values in self.history.values()):
                raise ValueError("its history is not that of its epochs")
            if self._best is not None:
                wait, best, best_epoch = (float(self._best[name]) for name in _BEST)
                self._best = {"wait": int(wait), "best": best, "best_epoch": int(best_epoch)}
        except Exception as error:  # a damaged archive can make its parsers raise anything
            raise InputError(
                f"{path.name} is no checkpoint of a training, or is damaged "
                f"({type(error).__name__}: {str(error)[:200]}). Remove it to begin anew."
            ) from error
        other = [key for key in self._made_of if made_of.get(key) != self._made_of[key]]
        if other:
            raise InputError(
                f"{path.name} is of a training with another {', '.join(other)}. Give what it began "
                "with to go on, or remove it to begin anew."
            )
        self.epoch, self._arrays = epoch, arrays

    def _array(self, name: str, like: Any) -> NDArray[Any]:
        array = self._arrays.get(name)
        if array is None or array.shape != tuple(like.shape) or array.dtype != str(like.dtype):
            raise InputError(
                f"{self.path.name} holds the state of another network. Remove it to begin anew."
            )
        return array


def _variables(model: Any) -> dict[str, list[Any]]:
    """Return all that changes in a training: weights with random states, and the optimiser's."""
    model.optimizer.build(model.trainable_variables)
    return {"model": model.variables, "optimizer": model.optimizer.variables}
