"""What the benchmarks measured: stored as JSON, and the page that is made of it.

``python -m benchmarks NAME --keep`` stores what a benchmark prints in ``benchmarks/results``;
``python -m benchmarks results`` makes ``benchmarks/RESULTS.md`` of all that is stored.
"""

from __future__ import annotations

import io
import json
import math
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from astropy.table import Table

from mlpsf.files import whole_file
from mlpsf.version import __version__

HOME = Path(__file__).resolve().parents[1]
FOLDER = HOME / "results"
PAGE = HOME / "RESULTS.md"
CARD = HOME.parent / "mlpsf/selectors/pretrained/compact.json"

_recorded: list[dict[str, Any]] = []


def record(caption: str, table: Table) -> None:
    """Print a table, and keep it for the page of results."""
    print(f"\n{caption}")
    table.pprint_all()
    columns = [str(name) for name in table.colnames]
    rows = [[_plain(row[name]) for name in table.colnames] for row in table]
    _recorded.append({"caption": caption, "columns": columns, "rows": rows})


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, bool | int | None) else str(value)


class _Both(io.TextIOBase):
    """Print, and keep what is printed."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.kept = stream, io.StringIO()

    def write(self, text: str) -> int:
        self.kept.write(text)
        return int(self.stream.write(text))

    def flush(self) -> None:
        self.stream.flush()


@contextmanager
def stored(
    name: str, what: str, words: list[str], folder: Path = FOLDER, part: str = ""
) -> Iterator[None]:
    """Store the tables that a benchmark records or, if there are none, the lines that it prints.

    With the name of a part they stand beside those of the same benchmark with other options.
    """
    _recorded.clear()
    both = _Both(sys.stdout)
    sys.stdout = both  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout = both.stream
    own = f"{name}_{part}" if part else name
    content: dict[str, Any] = {
        "name": own,
        "what": f"{what}: {part.replace('_', ' ')}" if part else what,
        "command": shlex.join(["python", "-m", "benchmarks", name, *words]),
        "mlpsf": __version__,
        "model": model_hash(),
        "tables": list(_recorded),
    }
    if not _recorded:
        content["lines"] = both.kept.getvalue().strip("\n").splitlines()
    folder.mkdir(exist_ok=True)
    with whole_file(folder / f"{own}.json") as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def model_hash() -> str:
    """Return the hash of the model that ships, from its card."""
    return str(json.loads(CARD.read_text())["sha256"])


def render(folder: Path = FOLDER, model: str | None = None) -> str:
    """Return the page of all stored results, in Markdown."""
    model = model or model_hash()
    results = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    out = [
        "# What was measured",
        "",
        "Made by `python -m benchmarks results` of what the benchmarks stored (`python -m "
        "benchmarks NAME --keep`). All frames are ones that no network has seen. The model that "
        f"ships is `{model[:8]}`; tables of an earlier one say so, and stand until measured "
        "again.",
        "",
        *(f"- [{r['what']}](#{r['name'].replace('_', '-')})" for r in results),
    ]
    for r in results:
        out += ["", f"## {r['name'].replace('_', ' ')}", "", f"{_sentence(r['what'])}", ""]
        out += [f"`{r['command']}`", ""]
        if r["model"] != model:
            which = f"model `{r['model'][:8]}`" if r["model"] else "an earlier state of mlpsf"
            out += [f"**Measured with {which}, to be measured again.**", ""]
        for table in r["tables"]:
            out += [*_table(table), ""]
        for note in r.get("notes", ()):
            out += [note, ""]
        if r.get("lines"):
            out += ["```text", *r["lines"], "```", ""]
        figure = HOME / "figures" / f"{r['name']}.png"
        if figure.exists():
            out += [f"![{r['what']}](figures/{figure.name})", ""]
    return "\n".join(out).rstrip("\n") + "\n"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _table(table: dict[str, Any]) -> Iterator[str]:
    if table["caption"]:
        yield table["caption"]
        yield ""
    rows = [[_cell(value) for value in row] for row in table["rows"]]
    yield f"| {' | '.join(map(_cell, table['columns']))} |"
    yield f"|{'---|' * len(table['columns'])}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _cell(value: Any) -> str:
    if value is None:
        return "\N{EM DASH}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def main() -> None:
    """Make the page."""
    with whole_file(PAGE) as temporary:
        temporary.write_text(render(), encoding="utf-8")
    print(PAGE)
