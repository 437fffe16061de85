"""Import public names when they are first used.

TensorFlow takes ten seconds to import and scikit-learn one. Importing all public names at once
would make every command wait for packages that it does not need.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["lazy_names"]


def lazy_names(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a ``__getattr__`` function for a package.

    Parameters
    ----------
    package : str
        Name of the package.
    homes : mapping of str to str
        Module that defines each public name, relative to the package.

    Returns
    -------
    callable
        Imports a name when it is first used. Raises AttributeError for any other name.

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
