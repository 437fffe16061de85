"""The tutorial runs from its first cell to its last."""

from __future__ import annotations

from importlib.resources import files

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")


# Jupyter's own: the kernel talks over TCP, on this machine alone.
@pytest.mark.filterwarnings("ignore")
def test_tutorial(tmp_path, monkeypatch):
    pytest.importorskip("galsim")
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.reads(
        files("mlpsf.tutorial").joinpath("tutorial.ipynb").read_text(encoding="utf-8"), 4
    )
    client = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    assert sorted(p.name for p in tmp_path.glob("*.*")) == ["psf.fits", "report.html"]
    shown = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    assert not [o for o in shown if o.get("name") == "stderr"]
    rich = [o["data"] for o in shown if "data" in o]
    assert sum("image/png" in data for data in rich) >= 6
    assert sum("text/html" in data for data in rich) >= 3
