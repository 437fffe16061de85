"""Builds the pages of the API from the docstrings: ``python .ci/docs.py FOLDER``.

A warning is an error: a name that is not there, a docstring that cannot be read.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import sys
import typing
import warnings
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pdoc

import mlpsf


def load(name: str) -> Iterator[str]:
    """Import a module and all below it, and give their names.

    Names of a package that are imported when first used are used: pdoc looks in the module alone.
    """
    module = importlib.import_module(name)
    for public in getattr(module, "__all__", ()):
        vars(module).setdefault(public, getattr(module, public))
    name_types(module)
    yield name
    for found in pkgutil.iter_modules(getattr(module, "__path__", ())):
        if not found.name.startswith("_"):
            yield from load(f"{name}.{found.name}")


@cache
def names_in(module: ModuleType) -> dict[str, Any]:
    """Return the names that a module knows, with those for type checking only."""
    names = dict(vars(module))
    if not module.__name__.startswith("mlpsf"):
        return names
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for statement in node.body:
                with suppress(ImportError):  # a name that is itself for type checking only
                    exec(ast.unparse(statement), names)
    return names


def name_types(module: ModuleType) -> None:
    """Put types in the place of their names in the constructors that Python writes.

    Those of dataclasses and named tuples do not know the module whose names they use.
    """
    for found in vars(module).values():
        if inspect.isclass(found) and found.__module__ == module.__name__:
            made = [c for c in (found.__init__, found.__new__) if inspect.isfunction(c)]
            if any(Path(c.__code__.co_filename).is_file() for c in made):
                continue  # written by hand
            names: dict[str, Any] = {}
            for base in reversed(found.__mro__):
                names |= names_in(sys.modules[base.__module__])
            types = typing.get_type_hints(found, names) if made else {}
            for constructor in made:
                wanted = constructor.__annotations__.keys() & types.keys()
                constructor.__annotations__.update({name: types[name] for name in wanted})


def main() -> None:
    """Build the pages."""
    if len(sys.argv) != 2:
        sys.exit("usage: python .ci/docs.py FOLDER")
    folder = Path(sys.argv[1])
    names = list(load("mlpsf"))
    warnings.simplefilter("error")
    # In a clone the folder of the source has the package's name; the installed one is meant.
    warnings.filterwarnings("ignore", "'mlpsf' may refer to", RuntimeWarning)
    pdoc.render.configure(docformat="numpy", footer_text=f"mlpsf {mlpsf.__version__}")
    # By name: of a package with __all__ pdoc would show those names, and no module below it.
    asked: list[str] = []
    shown: set[str] = set()
    for name in names:
        if name not in shown:
            asked.append(name)
            shown.update(pdoc.extract.walk_specs([name]))
    pdoc.pdoc(*asked, output_directory=folder)
    print(f"{len(names)} modules: {folder / 'index.html'}")  # noqa: T201


if __name__ == "__main__":
    main()
