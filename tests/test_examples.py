"""The examples of the docstrings are right, of every module."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import tempfile

import pytest

import mlpsf

MODULES = [
    found.name
    for found in pkgutil.walk_packages(mlpsf.__path__, "mlpsf.")
    if not found.name.endswith("__main__")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if "photutils" in name:
        pytest.importorskip("photutils")
    assert doctest.testmod(importlib.import_module(name)).failed == 0
