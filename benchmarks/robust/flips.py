"""Damaged files: ``python -m benchmarks flips [--seconds 60] [--first 0] [--reader frame ...]``.

Bits flipped, stretches cut, doubled and emptied, digits changed, in files of every kind; what reads
them must give an error of mlpsf, or a valid result. Each reader works in a process of its own, with
a gigabyte; one that dies of a file, hangs for `LONGEST` seconds of CPU or raises anything else is
listed with the number of its file, which ``--first N --seconds 0`` makes again.
"""

from __future__ import annotations

import argparse
import gzip
import resource
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from astropy.table import Table

from benchmarks.common.results import record
from mlpsf.errors import MlpsfError
from tests.bad_inputs import ENTRANCES, Lab

LONGEST = 10  # seconds of CPU
MOST = 10**9  # bytes

READERS = {
    # reader: the entrances of tests/bad_inputs.py that it is tried at, and good files for them
    "frame": (("read_frame", "list_images"), ("frame.fits", "frame.fits.fz", "frame.fits.gz")),
    "PSF": (("PSFModel.load",), ("psf.fits", "bare.fits", "trail.fits")),
    "table": (("read_catalogue",), ("list.fits", "list.ecsv", "list.csv", "list.reg")),
    "stars": (("read_stars",), ("stars.fits", "stars.ecsv", "stars.csv")),
    "model": (("load_judge", "PSFStarSelector.load"), ("model.keras",)),
    "set": (("CutoutSet",), ("set.h5",)),
    "cutouts": (("read_cutouts",), ("cutouts.npz", "cutouts.fits")),
}


class Hanging(BaseException):
    """Raised in what takes too long; no reader's ``except Exception`` takes it."""


def main() -> None:
    """Damage, read, and tabulate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="for each reader")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--reader", nargs="+", choices=list(READERS), default=list(READERS))
    arguments = parser.parse_args()
    rows, failures = [], []
    with TemporaryDirectory() as folder:
        stock(Path(folder))
        for reader in arguments.reader:
            counts, failed = run(reader, Path(folder), arguments.seconds, arguments.first)
            rows += [
                {"reader": reader, "what it gets": what, "files": n}
                for what, n in sorted(counts.items())
            ]
            failures += failed
    record("What damaged files get", Table(rows))
    print("\n".join([*failures, f"{len(failures)} failures."]))
    sys.exit(bool(failures))


def stock(folder: Path) -> None:
    """Fill a folder with good files of every kind."""
    from mlpsf.export import write_stars
    from mlpsf.frames.io.cutout_files import write_cutouts
    from mlpsf.pipeline import select_stars

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lab = Lab.stock(folder)
    (lab / "frame.fits.gz").write_bytes(gzip.compress((lab / "frame.fits").read_bytes()))
    stars = Table.read(lab / "list.fits")
    stars.write(lab / "list.ecsv")
    stars.write(lab / "list.csv")
    regions = [f"circle({x + 1},{y + 1},5)\n" for x, y in zip(stars["x"], stars["y"], strict=True)]
    (lab / "list.reg").write_text("image\n" + "".join(regions))
    for ending in ("fits", "ecsv", "csv"):
        write_stars(select_stars(lab.image, n_min=1, relax=True), lab / f"stars.{ending}")
    with np.load(lab / "cutouts.npz") as good:
        write_cutouts(lab / "cutouts.fits", good["cutouts"], good["x"], good["y"])


def run(reader: str, folder: Path, seconds: float, first: int) -> tuple[Counter[str], list[str]]:
    """Try a reader for some time; return counts of what it gave, and its failures."""
    counts: Counter[str] = Counter()
    failures: list[str] = []
    end, seed = time.monotonic() + seconds, first
    context = get_context("spawn")
    while True:
        mine, theirs = context.Pipe()
        left = max(end - time.monotonic(), 0)
        process = context.Process(target=work, args=(theirs, reader, folder, left, seed))
        process.start()
        theirs.close()
        while True:
            try:
                what, failure = mine.recv()
            except EOFError:
                break
            counts[what] += 1
            failures += [f"{reader} {seed}: {failure}"] if failure else []
            seed += 1
        process.join()
        if process.exitcode == 0:
            return counts, failures
        counts["a crash"] += 1
        failures.append(f"{reader} {seed}: the process died ({process.exitcode})")
        seed += 1
        if time.monotonic() >= end:
            return counts, failures


def work(pipe: Any, reader: str, folder: Path, seconds: float, seed: int) -> None:
    """Damage and read, one file after another, in a process of its own."""
    entrances, names = READERS[reader]
    end = time.monotonic() + seconds
    with TemporaryDirectory() as place:
        lab = ready(Path(place), folder, entrances, names)
        limit_memory()
        while True:
            rng = np.random.default_rng(seed)
            good = folder / str(rng.choice(names))
            bad = lab / f"bad{''.join(good.suffixes)}"
            bad.write_bytes(damaged(good.read_bytes(), rng))
            pipe.send(read(lab, entrances, bad))
            seed += 1
            if time.monotonic() >= end:
                return


def ready(place: Path, folder: Path, entrances: tuple[str, ...], names: Iterable[str]) -> Lab:
    """Return a lab at a place, with all loaded that good files need: that is no file's memory."""
    warnings.simplefilter("ignore")

    def hangs(*_: object) -> None:
        raise Hanging

    signal.signal(signal.SIGPROF, hangs)
    lab = Lab(place)
    shutil.copy(folder / "frame.fits", lab / "frame.fits")
    for name in names:
        for entrance in entrances:
            ENTRANCES[entrance](lab, folder / name)
    return lab


def limit_memory() -> None:
    """Let this process take no more than `MOST` bytes beyond what it has."""
    with Path("/proc/self/statm").open() as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MOST, resource.RLIM_INFINITY))


def read(lab: Lab, entrances: tuple[str, ...], path: Path) -> tuple[str, str]:
    """Return what a file gets, in a word, and how it failed if it did."""
    what = "a result"
    for entrance in entrances:
        signal.setitimer(signal.ITIMER_PROF, LONGEST)
        try:
            ENTRANCES[entrance](lab, path)
        except MlpsfError as error:
            what = type(error).__name__
            if of_memory(error):
                return "a failure", f"{entrance}: it took more than {MOST:,} bytes; {_place(error)}"
        except (Exception, Hanging) as error:
            said = " ".join(str(error).split())[:200]
            return "a failure", f"{entrance}: {type(error).__name__}: {said}; {_place(error)}"
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    return what, ""


def of_memory(error: BaseException | None) -> bool:
    """Return whether an error came of a lack of memory, whatever it was made into."""
    while error is not None and not isinstance(error, MemoryError):
        error = error.__cause__ or error.__context__
    return error is not None


def _place(error: BaseException) -> list[str]:
    return [f"{f.name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)][-5:]


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Return a file's content with one damage or several; half of them near an end of it."""
    changed = bytearray(content)
    for _ in range(int(rng.geometric(0.4))):
        n = len(changed)
        if n < 2:
            break
        near = min(n, 6000)
        at = int(rng.integers(near if rng.random() < 0.5 else n))
        at = n - 1 - at if rng.random() < 0.25 else at
        length = int(rng.choice([1, 2, 8, 80, 2880]))
        how = rng.integers(9)
        if how <= 2:
            changed[at] ^= 1 << int(rng.integers(8))
        elif how == 3:
            changed[at] = int(rng.integers(256))
        elif how == 4:
            changed[at : at + length] = bytes(len(changed[at : at + length]))
        elif how == 5:
            del changed[at : at + length]
        elif how == 6:
            changed[at:at] = changed[at : at + length]
        elif how == 7:
            digits = [i for i in range(at, min(at + 4000, n)) if 48 <= changed[i] <= 57]
            if digits:
                changed[int(rng.choice(digits))] = 48 + int(rng.integers(10))
        elif rng.random() < 0.3:
            del changed[at:]
    return bytes(changed)
