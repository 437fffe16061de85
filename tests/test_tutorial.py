"""The tutorial: every cell runs and shows something, and the figures that it prints are right."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import re

import pytest
from typer.testing import CliRunner

from mlpsf.cli.main import app
from mlpsf.errors import OutputError
from mlpsf.tutorial import NOTEBOOK, copy_tutorial


@pytest.fixture(scope="module")
def cells():
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    return notebook["cells"]


def run_cell(source, names):
    """Run a cell as a notebook does; return what it prints, and the value of its last line."""
    *body, last = ast.parse(source).body
    shown = None
    with contextlib.redirect_stdout(io.StringIO()) as said:
        if not isinstance(last, ast.Expr):
            body.append(last)
        exec(compile(ast.Module(body, []), "cell", "exec"), names)
        if isinstance(last, ast.Expr):
            shown = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    return said.getvalue(), shown


def test_stored_without_outputs(cells):
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 15
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)
    assert max(len("".join(cell["source"]).splitlines()) for cell in code) <= 40


# It is what the third part is about.
@pytest.mark.filterwarnings("ignore:the PSF varies over the frame")
def test_every_cell_runs(cells, tmp_path, monkeypatch):
    pytest.importorskip("galsim")
    monkeypatch.chdir(tmp_path)
    names, said, pictures = {}, "", 0
    for cell in cells:
        if cell["cell_type"] == "code":
            text, shown = run_cell("".join(cell["source"]), names)
            said += text
            if hasattr(shown, "_repr_png_"):
                assert shown._repr_png_().startswith(b"\x89PNG")
                pictures += 1
    assert pictures >= 10
    true = names["true_flux"]
    pill, fitted = (float(n) for n in re.findall(r"^flux (\d+)", said, re.M))
    assert pill == pytest.approx(true, rel=0.02)
    assert fitted == pytest.approx(true, rel=0.02)
    assert names["phot"].sourceFlux < 0.97 * true  # the pill alone
    pairs = re.findall(r"FWHM (\d\.\d+); the truth is (\d\.\d+)", said)
    assert len(pairs) == 3
    for found, truth in pairs:
        assert float(found) == pytest.approx(float(truth), rel=0.03)
    assert names["psf"].varies
    assert names["mine"].meta["n_selected"] >= 5
    assert list(tmp_path.iterdir()) == []


def test_the_command_copies_it_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["tutorial", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {"notebook": "mlpsf_tutorial.ipynb"}
    assert "jupyter lab mlpsf_tutorial.ipynb" in done.stderr
    copied = tmp_path / "mlpsf_tutorial.ipynb"
    assert copied.read_bytes() == NOTEBOOK.read_bytes()
    copied.write_text("mine")
    assert isinstance(CliRunner().invoke(app, ["tutorial"]).exception, OutputError)
    assert copied.read_text() == "mine"
    assert CliRunner().invoke(app, ["tutorial", "--overwrite"]).exit_code == 0
    with pytest.raises(OutputError, match=r"ends in \.ipynb"):
        copy_tutorial(tmp_path / "a.txt")
