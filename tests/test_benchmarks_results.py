"""The page of results is made of what the benchmarks stored, and of nothing else."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table

# The benchmarks are not installed with the package; they stand beside the tests. Last in the path,
# so that the package that is tested stays the installed one.
sys.path.append(str(Path(__file__).resolve().parents[1]))
COMMANDS = import_module("benchmarks.__main__").COMMANDS
results = import_module("benchmarks.common.results")


def test_the_page_is_that_of_the_stored_results():
    assert results.PAGE.read_text(encoding="utf-8") == results.render()
    for path in results.FOLDER.glob("*.json"):
        command = json.loads(path.read_text())["command"].split()[3]
        assert command in COMMANDS
        assert path.stem == command or path.stem.startswith(f"{command}_")


def test_tables_are_stored_and_rendered(tmp_path, capsys):
    table = Table({"way": ["a|b"], "error": [0.00123456], "n": [3], "none": [np.nan]})
    with results.stored("fitters", "what it is", ["--n", "3"], tmp_path):
        results.record("A caption", table)
    assert "A caption" in capsys.readouterr().out
    text = results.render(tmp_path, model=results.model_hash())
    assert "| way | error | n | none |" in text
    assert "| a\\|b | 0.001235 | 3 | \N{EM DASH} |" in text
    assert "`python -m benchmarks fitters --n 3`" in text
    assert "to be measured again" not in text
    assert "to be measured again" in results.render(tmp_path, model="another model")


def test_a_part_stands_beside_the_whole(tmp_path):
    for part in ("", "few_stars"):
        with results.stored("fitters", "what it is", ["--n", "3"], tmp_path, part):
            results.record("A caption", Table({"n": [3]}))
    text = results.render(tmp_path)
    assert "[what it is: few stars](#fitters-few-stars)" in text
    assert text.count("`python -m benchmarks fitters --n 3`") == 2


def test_lines_are_stored_where_there_is_no_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    with results.stored("fitters", "what it is", [], tmp_path):
        sys.stdout.write("  LSfitter 3.0 CPU s\n")
    assert json.loads((tmp_path / "fitters.json").read_text())["lines"] == ["  LSfitter 3.0 CPU s"]
    assert "```text\n  LSfitter 3.0 CPU s\n```" in results.render(tmp_path)
    assert "LSfitter" in capsys.readouterr().out


def test_nothing_is_stored_of_a_benchmark_that_fails(tmp_path):
    with pytest.raises(ValueError, match="no"), results.stored("x", "y", [], tmp_path):
        raise ValueError("no")
    assert list(tmp_path.iterdir()) == []
