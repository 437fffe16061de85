"""Builds the pages of the API from the docstrings: ``python .ci/docs.py FOLDER``.

A warning is an error: a name that is not there, a docstring that cannot be read.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import warnings
from pathlib import Path

import pdoc

import mlpsf


def load(package: str) -> None:
    """Import a package and all in it; names that are imported when first used are used."""
    module = importlib.import_module(package)
    for name in getattr(module, "__all__", ()):
        vars(module).setdefault(name, getattr(module, name))
    for found in pkgutil.iter_modules(getattr(module, "__path__", ())):
        if not found.name.startswith("_"):
            load(f"{package}.{found.name}")


def main() -> None:
    """Build the pages."""
    if len(sys.argv) != 2:
        sys.exit("usage: python .ci/docs.py FOLDER")
    load("mlpsf")
    warnings.simplefilter("error")
    pdoc.render.configure(docformat="numpy", footer_text=f"mlpsf {mlpsf.__version__}")
    pdoc.pdoc("mlpsf", output_directory=Path(sys.argv[1]))


if __name__ == "__main__":
    main()
