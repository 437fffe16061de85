"""What a frame takes does not grow: calls, pixels, memory, modules. Counts, not times."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from mlpsf.stacks.values import row_median

# As in test_benchmarks_results: last in the path.
sys.path.append(str(Path(__file__).resolve().parents[1]))
counts = import_module("benchmarks.speed.counts")

NEVER = ("scipy", "sklearn", "matplotlib", "tensorflow", "keras", "trippy", "astropy.wcs")
"""What `mlpsf select` has no use for, on a frame without coordinates."""


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("counts") / "frame.fits"
    counts.draw(path)
    return path


def test_no_count_grows_by_more_than_a_tenth(tmp_path):
    found = counts.measure(tmp_path)
    stored = json.loads(counts.STORED.read_text())
    assert found.keys() == stored.keys()
    assert counts.grown(found, stored) == [], (
        "python -m benchmarks counts --store stores the new ones, if what they buy is worth it"
    )


def test_a_cold_command_imports_only_what_it_uses(path):
    modules = counts.modules_of("mlpsf select", path)
    assert [name for name in modules if name in NEVER] == []
    assert {"onnxruntime", "mlpsf.pipeline"} <= set(modules)


def test_growth_is_found():
    stored = {"it": {"calls": 100, "bytes": 50}}
    assert counts.grown({"it": {"calls": 110, "bytes": 20}}, stored) == []
    assert counts.grown({"it": {"calls": 111, "bytes": 20}}, stored) == [
        "it: 111 calls, 100 are stored"
    ]


def test_only_the_package_is_counted():
    values = np.zeros((2, 3))
    found = counts.counts_of(lambda: [row_median(values) for _ in range(7)])
    assert found["calls"] == 7
    assert "pixels" not in found
