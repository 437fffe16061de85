"""The tutorial: a notebook, from a frame to its PSF and what to do with it.

Input: nothing. Output: a copy of the notebook. It uses files only.
"""

from __future__ import annotations

import os
from pathlib import Path

from mlpsf.errors import OutputError
from mlpsf.files import check_folder, check_replaceable, whole_file

__all__ = ["copy_tutorial"]

NOTEBOOK = Path(__file__).parent / "tutorial.ipynb"
"""Stored without outputs; ``tests/test_tutorial.py`` runs it."""


def copy_tutorial(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Copy the tutorial notebook to a file.

    Parameters
    ----------
    path : path-like
        Ends in ``.ipynb``.
    overwrite : bool
        Whether to replace a file that exists.

    Returns
    -------
    Path

    Raises
    ------
    OutputError
        If the file cannot be written, or must not be replaced.

    Examples
    --------
    >>> import tempfile
    >>> copy_tutorial(Path(tempfile.mkdtemp()) / "tutorial.ipynb").name
    'tutorial.ipynb'
    """
    path = check_folder(path)
    if path.suffix != ".ipynb":
        raise OutputError(f"A notebook ends in .ipynb. Got {path.name!r}.")
    check_replaceable(path, None, overwrite or None)
    with whole_file(path) as temporary:
        temporary.write_bytes(NOTEBOOK.read_bytes())
    return path
