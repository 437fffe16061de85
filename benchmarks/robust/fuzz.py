"""Fuzzed files: ``python -m benchmarks fuzz [--seconds 1800] [--reader frame ...] [--workers 1]``.

What `flips` does by chance, guided by coverage (atheris, libFuzzer): a file that leads to lines of
mlpsf or of `astropy.io.fits` that no file led to before is changed further, its checksums made anew
(`mutators`). What reads a file must give an error of mlpsf, or a valid result; what does not, hangs
for 10 seconds of CPU, takes a gigabyte or ends the process is kept in a folder, from which
``--replay FILE`` gives it to its reader again.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import time
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table

from benchmarks.common.results import record
from benchmarks.robust.flips import READERS, limit_memory, read, ready, stock
from mlpsf.errors import MissingPackageError

LARGEST = 5 * 10**5  # bytes of a file to begin with: of a larger one few changes are tried

MORE = {
    # Small, so that much of them is tried, and of kinds that nights have.
    "frame": ("scaled.fits", "mosaic.fits", "floats.fits.fz", "hcompress.fits.fz", "plio.fits.fz"),
    "PSF": ("small.fits", "moving.fits", "varies.fits"),
    "table": ("sky.fits",),
}


def main() -> None:
    """Fuzz, and tabulate; or give a find to its reader again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1800, help="for each reader")
    parser.add_argument("--reader", nargs="+", choices=list(READERS), default=list(READERS))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--finds", type=Path, default=Path(gettempdir(), "mlpsf_fuzz"))
    parser.add_argument("--replay", type=Path, nargs="+", metavar="FILE")
    arguments = parser.parse_args()
    with TemporaryDirectory() as place:
        stock(Path(place))
        if arguments.replay:
            fails = [replay(path, Path(place)) for path in arguments.replay]
            sys.exit(any(fails))
        stock_more(Path(place))
        fuzz(arguments.reader, Path(place), arguments.finds, arguments.seconds, arguments.workers)


def fuzz(readers: list[str], place: Path, finds: Path, seconds: float, workers: int) -> None:
    """Fuzz several readers, and tabulate."""
    if importlib.util.find_spec("atheris") is None:
        raise MissingPackageError(
            "python -m benchmarks fuzz needs atheris, which has wheels for Linux on x86-64 only: "
            "pip install 'mlpsf[fuzz]'."
        )
    finds.mkdir(parents=True, exist_ok=True)
    start = time.time()
    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(partial(run, place=place, finds=finds, seconds=seconds), readers))
    rows = [
        {"reader": reader, "what it gets": what, "files": n}
        for reader, (counts, _) in zip(readers, found, strict=True)
        for what, n in sorted(counts.items())
    ]
    record("What fuzzed files get", Table(rows))
    rows = [
        {"reader": reader, "files": counts.total(), **covered}
        for reader, (counts, covered) in zip(readers, found, strict=True)
    ]
    record(f"How far {seconds:g} seconds of each reader went", Table(rows))
    new = [path for path in sorted(finds.glob("*.txt")) if path.stat().st_mtime >= start]
    for path in new:
        print(f"{path}: {path.read_text().strip()}")
    print(f"{len(new)} finds.")
    sys.exit(bool(new))


def stock_more(folder: Path) -> None:
    """Fill a folder with further good files."""
    from mlpsf.psf import PSFModel
    from mlpsf.psf.terms import PSFTerms

    rng = np.random.default_rng(2)
    pixels = rng.normal(300, 10, (60, 64)) + 1e4 * (rng.random((60, 64)) < 0.01)
    whole = pixels.astype(np.int16)
    sky = fits.Header(
        {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": 20.0, "CRPIX1": 30.0,
         "CRPIX2": 30.0, "CDELT1": -1e-4, "CDELT2": 1e-4, "GAIN": 2.0, "SATURATE": 60000.0,
         "EXPTIME": 30.0, "BUNIT": "adu", "TELESCOP": "any", "DATE-OBS": "2020-01-01T00:00:00"}
    )  # fmt: skip
    scaled = fits.PrimaryHDU(whole.astype(np.uint16), sky)
    scaled.add_checksum()
    scaled.writeto(folder / "scaled.fits")
    planes = [
        fits.PrimaryHDU(),
        fits.ImageHDU(pixels.astype(np.float32), sky, name="SCI"),
        fits.ImageHDU(np.sqrt(pixels).astype(np.float32), name="ERR"),
        fits.ImageHDU((pixels > 5000).astype(np.int32), name="DQ"),
    ]
    fits.HDUList(planes).writeto(folder / "mosaic.fits", checksum=True)
    for name, data, how in (
        ("floats", pixels.astype(np.float32), "GZIP_2"),
        ("hcompress", whole, "HCOMPRESS_1"),
        ("plio", (whole > 5000).astype(np.int16) + whole // 300, "PLIO_1"),
    ):
        packed = fits.CompImageHDU(data, sky, compression_type=how)
        fits.HDUList([fits.PrimaryHDU(), packed]).writeto(folder / f"{name}.fits.fz")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        PSFModel(np.zeros((70, 70)), 1.2, 3.0).save(folder / "small.fits")
        PSFModel(np.zeros((70, 70)), 1.2, 3.0).trail(9.0, 20.0, 600.0, 0.5).save(
            folder / "moving.fits"
        )
        terms = PSFTerms(rng.normal(0, 1e-3, (2, 70, 70)), [[0.5, 0.1], [0.2, 0.0]], (200, 100))
        PSFModel(np.zeros((70, 70)), 1.2, 3.0, terms=terms).save(folder / "varies.fits")
    with fits.open(folder / "frame.fits", mode="update") as hdus:  # what the lists are read for
        hdus[0].header.update(sky)
    Table({"ra": [10.0, 10.001], "dec": [20.001, 20.0]}).write(folder / "sky.fits")


def run(
    reader: str, place: Path, finds: Path, seconds: float
) -> tuple[Counter[str], dict[str, Any]]:
    """Fuzz a reader for some time; return counts of what it gave, and how far the fuzzer came.

    A process that dies of a file is replaced, and the next one goes on from what it found.
    """
    work = place / reader
    names = [name for name in READERS[reader][1] if (place / name).stat().st_size < LARGEST]
    names += MORE.get(reader, ())
    endings = sorted({"".join(Path(name).suffixes) for name in names})
    for folder in ("good", "seeds", "corpus"):
        (work / folder).mkdir(parents=True)
    for name in names:
        shutil.copy(place / name, work / "good")
        ending = endings.index("".join(Path(name).suffixes))
        (work / "seeds" / name).write_bytes(bytes([ending]) + (place / name).read_bytes())
    (work / "endings.json").write_text(json.dumps(endings))
    counts: Counter[str] = Counter()
    covered = {"edges": 0, "features": 0, "kept": 0}
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        command = [sys.executable, "-m", "benchmarks.robust.fuzzing", reader, work, finds, left]
        (work / "counts.json").unlink(missing_ok=True)
        with (work / "log").open("w+") as log:
            process = subprocess.run([*map(str, command)], stdout=log, stderr=log, check=False)
            log.seek(0)
            said = log.read()
        for line in re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", said)[-1:]:
            covered = dict(zip(covered, map(int, line), strict=True))
        done = (work / "counts.json").exists()
        if done:
            counts.update(json.loads((work / "counts.json").read_text()))
        if process.returncode == 0:
            break
        last = sorted((work / "lab").glob("bad*"), key=lambda path: path.stat().st_mtime)[-1:]
        if not done or not last:
            raise RuntimeError(f"The fuzzer of {reader} cannot work:\n{said[-3000:]}")
        counts["a crash"] += 1
        _keep_last(
            last[0], finds, reader, f"the process died ({process.returncode}): {said[-500:]}"
        )
    return counts, covered


def _keep_last(path: Path, finds: Path, reader: str, failure: str) -> None:
    """Keep the file that a process died of."""
    ending = "".join(path.suffixes)
    number = sum(1 for _ in finds.glob(f"{reader}-died-*.txt"))
    (finds / f"{reader}-died-{number}.txt").write_text(failure)
    path.replace(finds / f"{reader}-died-{number}{ending}")


def replay(path: Path, folder: Path) -> bool:
    """Give a find to its reader, which its name begins with; return whether it fails still."""
    reader = path.name.partition("-")[0]
    if reader not in READERS:
        sys.exit(f"{path.name} begins with none of {', '.join(READERS)}.")
    context = get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=_replay, args=(theirs, reader, folder, path))
    process.start()
    theirs.close()
    try:
        what, failure = mine.recv()
    except EOFError:
        process.join()
        what, failure = "a crash", f"the process died ({process.exitcode})"
    process.join()
    print(f"{path.name}: {what}{': ' if failure else ''}{failure}")
    return bool(failure)


def _replay(pipe: Any, reader: str, folder: Path, path: Path) -> None:
    entrances, names = READERS[reader]
    with TemporaryDirectory() as place:
        lab = ready(Path(place), folder, entrances, names)
        bad = lab / f"bad{''.join(path.suffixes)}"
        shutil.copy(path, bad)
        limit_memory()
        pipe.send(read(lab, entrances, bad))
