"""Public names that are imported when they are first used.

TensorFlow takes ten seconds to import, scikit-learn one: a package that imported all of its public
names at once would make every command wait for what it does not need.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["lazy_names"]


def lazy_names(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Make the ``__getattr__`` of a package.

    Parameters
    ----------
    package : str
        Name of the package.
    homes : mapping of str to str
        For each public name, the module that defines it, relative to the package.

    Returns
    -------
    callable
        Imports a name when it is first used; AttributeError for any other name.

    Examples
    --------
    >>> get = lazy_names("mlpsf", {"Flag": "flags"})
    >>> get("Flag").SATURATED.name
    'SATURATED'
    """

    def __getattr__(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    return __getattr__
