"""The package's import graph, read from the source with `ast`; nothing of it is imported.

``python tests/import_graph.py [FOLDER]`` prints the number of modules and imports, the circles, and
the imports that run against the order of the stages, for the package in FOLDER (the one beside this
file unless given).
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "mlpsf"

Graph = dict[str, set[str]]

STAGES = (
    # The ground.
    "version",
    "lazy",
    "errors",
    "flags",
    "files",
    "labelling",
    "pictures",
    "rich",
    "tutorial",
    # What flows: arrays, frames, sources, stamps, PSFs, probabilities, lists.
    "stacks",
    "frames",
    "detection",
    "stamps",
    "neighbours",
    "psf",
    "selectors",
    "selection",
    # What is made of it.
    "simulation",
    "export",
    "plots",
    "pipeline",
    "star_chooser",
    "report",
    "training",
    "batch",
    "cli",
    "__main__",
)
"""Folders and modules of the package, in order: each may import those before it, and none after."""


def import_graph(package: Path = PACKAGE) -> Graph:
    """Return which modules of a package each of its modules imports, also inside functions."""
    files = {_name(path, package): path for path in sorted(package.rglob("*.py"))}
    graph: Graph = {name: set() for name in files}
    for name, path in files.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                base = _base(node, name, path)
                # "from a.b import c" takes a.b.c where that is a module, else a.b.
                found = {f"{base}.{alias.name}" for alias in node.names}
                graph[name] |= {f if f in files else base for f in found} & files.keys()
            elif isinstance(node, ast.Import):
                graph[name] |= {alias.name for alias in node.names} & files.keys()
        graph[name].discard(name)
    return graph


def _name(path: Path, package: Path) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _base(node: ast.ImportFrom, name: str, path: Path) -> str:
    if not node.level:
        return node.module or ""
    parts = name.split(".")
    kept = parts[: len(parts) - node.level + (path.name == "__init__.py")]
    return ".".join([*kept, node.module or ""]).strip(".")


def circles(graph: Graph) -> list[list[str]]:
    """Return the sets of modules that import each other in a loop (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            at = stack.index(name)
            if len(stack) - at > 1:
                found.append(sorted(stack[at:]))
            del stack[at:]

    for name in sorted(graph):
        if name not in index:
            visit(name)
    return found


def stage(name: str) -> str:
    """Return the folder, or the module, of the package that a module belongs to."""
    return name.split(".")[1]


def backward(graph: Graph) -> list[tuple[str, str]]:
    """Return the imports of a stage that comes later, and those of a stage that is not listed."""
    rank = {name: k for k, name in enumerate(STAGES)}
    return [
        (name, other)
        for name, others in sorted(graph.items())
        for other in sorted(others)
        if stage(other) not in rank or rank.get(stage(name), -1) < rank[stage(other)]
    ]


def modules(package: Path = PACKAGE) -> Graph:
    """Return the import graph without the package itself, which hands public names on, lazily."""
    graph = import_graph(package)
    return {name: others - {package.name} for name, others in graph.items() if name != package.name}


def between_stages(graph: Graph) -> Graph:
    """Return which stages each stage imports."""
    out: Graph = {}
    for name, others in graph.items():
        out.setdefault(stage(name), set()).update(map(stage, others))
    return {name: others - {name} for name, others in out.items()}


def _print(package: Path) -> None:
    graph = modules(package)
    for title, arrows in (("modules", graph), ("stages", between_stages(graph))):
        print(f"{len(arrows)} {title}, {sum(map(len, arrows.values()))} imports between them")
        for circle in circles(arrows):
            print("  a circle: " + ", ".join(circle))
    if set(map(stage, graph)) <= set(STAGES):
        found = backward(graph)
        print(f"{len(found)} imports of a later stage")
        for name, other in found:
            print(f"  {name} imports {other}")


if __name__ == "__main__":
    _print(Path(sys.argv[1]).resolve() if sys.argv[1:] else PACKAGE)
