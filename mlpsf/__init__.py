"""Choose the best PSF stars of an astronomical image, and build the PSF.

Each stage is a folder and can be used alone::

    FITS frame -> Frame -> sources -> stamps -> P(good) -> chosen stars -> PSF -> products
                  frames  detection   stamps   selectors    selection      psf    export, plots

``ARCHITECTURE.md`` in this folder describes the folders and which may import which.

Public names are imported when first used: ``import mlpsf`` loads neither TensorFlow nor TRIPPy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mlpsf.lazy import lazy_names
from mlpsf.version import __version__

if TYPE_CHECKING:
    from mlpsf.batch import run_frames as run_frames
    from mlpsf.detection import find_sources as find_sources
    from mlpsf.errors import MlpsfError as MlpsfError
    from mlpsf.errors import TooFewStarsError as TooFewStarsError
    from mlpsf.export import write_stars as write_stars
    from mlpsf.flags import Flag as Flag
    from mlpsf.frames.cutouts import Cutouts as Cutouts
    from mlpsf.frames.cutouts import extract_cutouts as extract_cutouts
    from mlpsf.frames.frame import Frame as Frame
    from mlpsf.frames.io.reading import list_images as list_images
    from mlpsf.frames.io.reading import read_frame as read_frame
    from mlpsf.pipeline import select_cutouts as select_cutouts
    from mlpsf.pipeline import select_stars as select_stars
    from mlpsf.psf import PSFModel as PSFModel
    from mlpsf.psf import build_psf as build_psf
    from mlpsf.selection.choice import choose as choose
    from mlpsf.selectors import NoveltySelector as NoveltySelector
    from mlpsf.selectors import PSFStarSelector as PSFStarSelector
    from mlpsf.selectors import ResidualSelector as ResidualSelector
    from mlpsf.simulation import SimulatedFrame as SimulatedFrame
    from mlpsf.simulation import simulate_frame as simulate_frame
    from mlpsf.stamps.homogenizer import PSFHomogenizer as PSFHomogenizer
    from mlpsf.stamps.scaling import CutoutScaler as CutoutScaler
    from mlpsf.stamps.standard import extract_stamps as extract_stamps
    from mlpsf.stamps.standard import frame_star as frame_star
    from mlpsf.training.frame_labels import label_frames as label_frames
    from mlpsf.training.label_issues import find_label_issues as find_label_issues
    from mlpsf.training.sets import CutoutSet as CutoutSet
    from mlpsf.training.train import train_on_set as train_on_set

_HOME = {
    "CutoutScaler": "stamps.scaling",
    "CutoutSet": "training.sets",
    "Cutouts": "frames.cutouts",
    "Flag": "flags",
    "Frame": "frames.frame",
    "MlpsfError": "errors",
    "NoveltySelector": "selectors",
    "PSFHomogenizer": "stamps.homogenizer",
    "PSFModel": "psf",
    "PSFStarSelector": "selectors",
    "ResidualSelector": "selectors",
    "SimulatedFrame": "simulation",
    "TooFewStarsError": "errors",
    "build_psf": "psf",
    "choose": "selection.choice",
    "extract_cutouts": "frames.cutouts",
    "extract_stamps": "stamps.standard",
    "find_label_issues": "training.label_issues",
    "find_sources": "detection",
    "frame_star": "stamps.standard",
    "label_frames": "training.frame_labels",
    "list_images": "frames.io.reading",
    "read_frame": "frames.io.reading",
    "run_frames": "batch",
    "select_cutouts": "pipeline",
    "select_stars": "pipeline",
    "simulate_frame": "simulation",
    "train_on_set": "training.train",
    "write_stars": "export",
}

_STAGES = frozenset(
    {"batch", "detection", "errors", "export", "labelling", "plots", "psf", "selectors"}
)
"""Modules and folders available as ``mlpsf.NAME`` without a separate import."""

__all__ = ["__version__", *sorted(_HOME)]

_public_name = lazy_names(__name__, _HOME)


def __getattr__(name: str) -> Any:
    """Import a public name or a stage when it is first used."""
    return import_module(f"mlpsf.{name}") if name in _STAGES else _public_name(name)


def __dir__() -> list[str]:
    return list(__all__)
