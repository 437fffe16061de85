"""The order of the package: who may import whom, how large a module and a folder may be."""

from __future__ import annotations

import ast

from import_graph import PACKAGE, backward, circles, import_graph, modules, stage

MOST_LINES = 430
MOST_MODULES = 12


def test_no_module_imports_itself_in_a_circle():
    assert circles(modules()) == []


def test_no_stage_imports_a_later_one():
    assert backward(modules()) == []


def test_no_private_name_is_imported_from_another_folder():
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mlpsf"):
                other = PACKAGE.parent.joinpath(*(node.module or "").split("."))
                folder = other if other.is_dir() else other.parent
                private = {alias.name for alias in node.names if alias.name.startswith("_")}
                if folder != path.parent and private - {"__version__"}:
                    found.append((path.name, private))
    assert found == []


def test_modules_and_folders_stay_small():
    files = list(PACKAGE.rglob("*.py"))
    lines = {str(path): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert {name: n for name, n in lines.items() if n > MOST_LINES} == {}
    # A folder's __init__ is its face, and no module of its own.
    folders = [path.parent for path in files if path.name != "__init__.py"]
    assert {f for f in folders if f != PACKAGE and folders.count(f) > MOST_MODULES} == set()


def test_a_circle_and_an_import_backward_are_found(tmp_path):
    """The measure itself: two modules in a circle, one of which imports a later stage."""
    package = tmp_path / "mlpsf"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "errors.py").write_text("def late():\n    from mlpsf.files import name\n")
    (package / "files.py").write_text("from mlpsf import errors\nname = errors\n")
    assert import_graph(package)["mlpsf.errors"] == {"mlpsf.files"}
    assert circles(modules(package)) == [["mlpsf.errors", "mlpsf.files"]]
    assert backward(modules(package)) == [("mlpsf.errors", "mlpsf.files")]
    assert stage("mlpsf.psf.solver.basis") == "psf"
