"""The selectors: scikit-learn classifiers of cutouts, one contract."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlpsf.selectors.cnn import PSFStarSelector as PSFStarSelector
    from mlpsf.selectors.novelty import NoveltySelector as NoveltySelector
    from mlpsf.selectors.residual import ResidualSelector as ResidualSelector

_HOME = {
    "NoveltySelector": "novelty",
    "PSFStarSelector": "cnn",
    "ResidualSelector": "residual",
}

__all__ = ["NoveltySelector", "PSFStarSelector", "ResidualSelector"]


def __getattr__(name: str) -> Any:
    """Import a selector when it is first asked for."""
    if name not in _HOME:
        raise AttributeError(f"module 'mlpsf.selectors' has no attribute {name!r}")
    return getattr(import_module(f"mlpsf.selectors.{_HOME[name]}"), name)
