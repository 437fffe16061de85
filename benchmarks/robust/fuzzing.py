"""One process of `benchmarks.robust.fuzz`: it fuzzes one reader until its time is over.

It runs by itself (``python -m benchmarks.robust.fuzzing READER PLACE FINDS SECONDS``), because
Python code must be prepared for the fuzzer as it is imported, and libFuzzer ends its process.
"""

from __future__ import annotations

import hashlib
import json
import re
import resource
import sys
from collections import Counter
from pathlib import Path
from random import Random

LONGEST = 2**21  # bytes of a file
HARD_LIMIT = 300  # wall seconds for what hangs in compiled code, where Python cannot interrupt it
WATCHED = ("mlpsf.", "astropy.io.fits.")


def main() -> None:
    """Prepare the reader and fuzz it."""
    reader, place, finds, seconds = sys.argv[1:]
    import atheris

    _watch_imports()
    # Only now, so that these are prepared for the fuzzer.
    from benchmarks.robust.flips import READERS, limit_memory, read, ready
    from benchmarks.robust.mutators import keep_good, mutate

    entrances = READERS[reader][0]
    folder = Path(place)
    endings = json.loads((folder / "endings.json").read_text())
    good = sorted((folder / "good").iterdir())
    # At most a gigabyte for a file; the fuzzer's own memory grows with what it has found.
    (folder / "lab").mkdir(exist_ok=True)
    lab = ready(folder / "lab", folder.parent, entrances, [str(path) for path in good])
    for path in good:
        if path.suffix == ".h5":
            keep_good(path.read_bytes())
    counts: Counter[str] = Counter()

    def one(data: bytes) -> None:
        if not data:
            return
        number = counts.total()
        # Of another name each time: what is known of a file is kept by its name, size and time.
        path = lab / f"bad{number}{endings[data[0] % len(endings)]}"
        path.write_bytes(data[1:])
        limit_memory()
        what, failure = read(lab, entrances, path)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
        path.unlink(missing_ok=True)
        counts[what] += 1
        if failure:
            keep(Path(finds), reader, data[1:], path.name.removeprefix(f"bad{number}"), failure)
        if failure or number % 200 == 0:
            (folder / "counts.json").write_text(json.dumps(counts))

    def change(data: bytes, most: int, seed: int) -> bytes:
        rng = Random(seed)
        if not data or rng.random() < 0.01:
            return atheris.Mutate(data, most)
        ending = endings[data[0] % len(endings)]
        return data[:1] + mutate(data[1:], ending, rng, atheris.Mutate, most - 1)

    options = {
        "max_total_time": int(float(seconds)),
        "max_len": LONGEST,
        "len_control": 0,
        "timeout": HARD_LIMIT,
        "rss_limit_mb": 0,
        "detect_leaks": 0,
        "reload": 0,
        "artifact_prefix": f"{folder}/",
        "print_final_stats": 1,
    }
    words = [f"-{key}={value}" for key, value in options.items()]
    words += [str(folder / "corpus"), str(folder / "seeds")]
    atheris.Setup([sys.argv[0], *words], one, custom_mutator=change)
    atheris.Fuzz()


def _watch_imports() -> None:
    """Prepare for the fuzzer what is imported from now on, where files are read."""
    from atheris.import_hook import AtherisMetaPathFinder

    class Finder(AtherisMetaPathFinder):  # type: ignore[misc]
        def find_spec(self, fullname: str, path: object = None, target: object = None) -> object:
            if not f"{fullname}.".startswith(WATCHED):
                return None
            return super().find_spec(fullname, path, target)

    sys.meta_path.insert(0, Finder(set(), set(), True, True))


def keep(finds: Path, reader: str, content: bytes, ending: str, failure: str) -> None:
    """Write what a reader failed of, the smallest file of each way to fail."""
    way = re.sub(r"(: \w+):.*; \[", r"\1 [", failure)
    stem = f"{reader}-{hashlib.sha256(way.encode()).hexdigest()[:8]}"
    path = finds / f"{stem}{ending}"
    if not path.exists() or path.stat().st_size > len(content):
        path.write_bytes(content)
        (finds / f"{stem}.txt").write_text(f"{failure}\n")


if __name__ == "__main__":
    main()
