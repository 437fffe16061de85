"""Choose the stars of an astronomical image that make the best PSF, and make it.

What flows through the package, one module a step, each useful alone::

    FITS frame -> Frame -> sources -> stamps -> P(good) -> chosen stars -> PSF -> products
                  frame   detection   standard  selectors  selection      psf    export

The public names are imported when they are first used: ``import mlpsf`` loads neither TensorFlow
nor TRIPPy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlpsf.batch import run_frames as run_frames
    from mlpsf.cutouts import Cutouts as Cutouts
    from mlpsf.cutouts import extract_cutouts as extract_cutouts
    from mlpsf.dataset import CutoutSet as CutoutSet
    from mlpsf.detection import find_sources as find_sources
    from mlpsf.errors import MlpsfError as MlpsfError
    from mlpsf.errors import TooFewStarsError as TooFewStarsError
    from mlpsf.export import write_stars as write_stars
    from mlpsf.flags import Flag as Flag
    from mlpsf.frame import Frame as Frame
    from mlpsf.frame import list_images as list_images
    from mlpsf.frame import read_frame as read_frame
    from mlpsf.frame_labels import label_frames as label_frames
    from mlpsf.label_issues import find_label_issues as find_label_issues
    from mlpsf.pipeline import select_stars as select_stars
    from mlpsf.psf import PSFModel as PSFModel
    from mlpsf.psf import build_psf as build_psf
    from mlpsf.scaling import CutoutScaler as CutoutScaler
    from mlpsf.selection import choose as choose
    from mlpsf.selectors import NoveltySelector as NoveltySelector
    from mlpsf.selectors import PSFStarSelector as PSFStarSelector
    from mlpsf.selectors import ResidualSelector as ResidualSelector
    from mlpsf.selectors.training import train_on_set as train_on_set
    from mlpsf.simulation import SimulatedFrame as SimulatedFrame
    from mlpsf.simulation import simulate_frame as simulate_frame
    from mlpsf.standard import extract_stamps as extract_stamps
    from mlpsf.standard import frame_star as frame_star

__version__ = "0.1.0"

_HOME = {
    "CutoutScaler": "scaling",
    "CutoutSet": "dataset",
    "Cutouts": "cutouts",
    "Flag": "flags",
    "Frame": "frame",
    "MlpsfError": "errors",
    "NoveltySelector": "selectors",
    "PSFModel": "psf",
    "PSFStarSelector": "selectors",
    "ResidualSelector": "selectors",
    "SimulatedFrame": "simulation",
    "TooFewStarsError": "errors",
    "build_psf": "psf",
    "choose": "selection",
    "extract_cutouts": "cutouts",
    "extract_stamps": "standard",
    "find_label_issues": "label_issues",
    "find_sources": "detection",
    "frame_star": "standard",
    "label_frames": "frame_labels",
    "list_images": "frame",
    "read_frame": "frame",
    "run_frames": "batch",
    "select_stars": "pipeline",
    "simulate_frame": "simulation",
    "train_on_set": "selectors.training",
    "write_stars": "export",
}

__all__ = ["__version__", *sorted(_HOME)]


_ROOMS = frozenset({"batch", "detection", "errors", "labelling", "plots", "psf", "selectors"})
"""Modules that need not be imported by themselves."""


def __getattr__(name: str) -> Any:
    """Import a public name, or a room of the package, when it is first asked for."""
    if name in _ROOMS:
        return import_module(f"mlpsf.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'mlpsf' has no attribute {name!r}")
    return getattr(import_module(f"mlpsf.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
