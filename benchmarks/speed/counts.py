"""Operations that a frame takes, whatever the machine: ``python -m benchmarks counts [--store]``.

Times say little where other programs run; these counts are the same everywhere. ``--store`` writes
them to ``tests/counts.json``: a test fails when one of them grows by more than a tenth.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from astropy.io import fits
from astropy.table import Table

import mlpsf
from benchmarks.common.results import record
from mlpsf.frames import cutouts
from mlpsf.frames.io.reading import read_frame
from mlpsf.pipeline import select_stars
from mlpsf.psf import build_psf
from mlpsf.selection import judging
from mlpsf.selectors.judge import Judge
from mlpsf.stamps.standard import STAMP_SIZE

STORED = Path(__file__).resolve().parents[2] / "tests" / "counts.json"
COMMANDS = {"mlpsf select": ("select", "out.ecsv"), "mlpsf psf": ("psf", "out.fits")}

Counts = dict[str, dict[str, float]]

_PACKAGE = str(Path(mlpsf.__file__).parent)
_SAY_MODULES = """
import json, sys
before = set(sys.modules)
sys.argv[0] = "mlpsf"
from mlpsf.cli.main import main
try:
    main()
except SystemExit as stop:
    if stop.code:
        raise
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def draw(path: Path) -> None:
    """Write a frame of 120 stars and 40 wider sources, by NumPy alone: the same everywhere."""
    rng = np.random.default_rng(1)
    shape, n = (600, 800), 160
    y, x = np.mgrid[:10, :16].reshape(2, -1) * 48.0 + 40 + rng.uniform(-12, 12, (2, n))
    flux = 10 ** rng.uniform(3.8, 5.3, n)
    fwhm = np.where(np.arange(n) % 4, 4.0, 7.0)
    pixels = rng.normal(100, 10, shape)
    u = np.arange(-30, 31)
    for x0, y0, light, width in zip(x, y, flux, fwhm, strict=True):
        i, j = round(x0), round(y0)
        r2 = (u + i - x0) ** 2 + (u + j - y0)[:, None] ** 2
        alpha2 = (width / 2) ** 2 / (2 ** (1 / 3.0) - 1)
        star = light * 2 / (np.pi * alpha2) * (1 + r2 / alpha2) ** -3.0
        rows, columns = slice(max(j - 30, 0), j + 31), slice(max(i - 30, 0), i + 31)
        part = pixels[rows, columns]
        star = star[-part.shape[0] :, -part.shape[1] :] if j < 30 or i < 30 else star
        part += star[: part.shape[0], : part.shape[1]]
    header = fits.Header({"GAIN": 2.0, "SATURATE": 60000.0})
    fits.writeto(path, np.float32(pixels), header, overwrite=True)


def judge() -> Judge:
    """Return a selector that likes all sources: the one that ships may be replaced by another."""

    def network(images: Any) -> Any:
        other = 0.03 + 0.01 * np.clip(images[:, 0, 0], -1, 1)
        return np.stack([other, 1 - other], axis=1)

    return Judge(
        network,
        scaler={"method": "star"},
        calibration=(1.0, 0.0),
        cutout_size=STAMP_SIZE,
        reference_fwhm=cutouts.REFERENCE_FWHM,
        name="all",
        sha256="",
    )


def counts_of(function: Callable[[], Any]) -> dict[str, float]:
    """Count what a function does.

    Returns
    -------
    dict
        ``calls`` of the package's own functions, the largest number of ``bytes`` that are allocated
        at once, and ``pixels`` that `mlpsf.extract_cutouts` gathers, if it is called.
    """
    function()  # what is loaded once is loaded now
    calls = pixels = 0

    def note(frame: Any, event: str, _: Any) -> None:
        nonlocal calls
        code = frame.f_code
        # Comprehensions are calls in some versions of Python.
        if event == "call" and code.co_name[0] != "<" and code.co_filename.startswith(_PACKAGE):
            calls += 1

    cut = cutouts._gather

    def gather(*arguments: Any) -> Any:
        nonlocal pixels
        before = pixels
        found = cut(*arguments)
        pixels = before + found.size  # of cutouts that are made in parts, once
        return found

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    with patch.object(cutouts, "_gather", gather):
        tracemalloc.start()
        try:
            function()
            allocated = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    counts: dict[str, float] = {"calls": calls, "bytes": allocated}
    return counts | ({"pixels": pixels} if pixels else {})


def modules_of(command: str, path: Path) -> list[str]:
    """Return the modules that a command imports from its start to its end."""
    word, out = COMMANDS[command]
    words = [word, str(path), "--out", str(path.with_name(out)), "--quiet", "--n-min", "1"]
    done = subprocess.run(
        [sys.executable, "-c", _SAY_MODULES, *words, "--relax"],
        cwd=path.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    modules: list[str] = json.loads(done.stdout.splitlines()[-1])
    return modules


def measure(folder: Path) -> Counts:
    """Count what choosing, building and the two commands take, on one small frame."""
    path = folder / "frame.fits"
    draw(path)
    selector = judge()
    with patch.object(judging, "_threads", lambda: 1):
        stars = select_stars(read_frame(path), selector=selector)
        frame = read_frame(path)
        counts: Counts = {
            # The sky is measured once a frame: each time on another one.
            "select_stars": counts_of(lambda: select_stars(read_frame(path), selector=selector)),
            "build_psf": counts_of(lambda: build_psf(frame, stars)),
        }
    for command in COMMANDS:
        modules = modules_of(command, path)
        own = sum(name.split(".")[0] == "mlpsf" for name in modules)
        counts[command] = {"modules": len(modules), "modules of mlpsf": own}
    return counts


def grown(counts: Counts, stored: Counts, share: float = 0.1) -> list[str]:
    """Say which counts are larger than the stored ones by more than a share."""
    return [
        f"{what}: {counts[what][key]:,.0f} {key}, {value:,.0f} are stored"
        for what, kinds in stored.items()
        for key, value in kinds.items()
        if counts[what][key] > (1 + share) * value
    ]


def main() -> None:
    """Print the counts beside the stored ones."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", action="store_true", help="replace the stored counts")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts = measure(Path(folder))
    stored: Counts = json.loads(STORED.read_text()) if STORED.exists() else {}
    rows = [
        {"of": what, "count": key, "now": value, "stored": stored.get(what, {}).get(key, np.nan)}
        for what, kinds in counts.items()
        for key, value in kinds.items()
    ]
    record("Operations on a frame of 600 x 800 pixels with 160 sources", Table(rows))
    if arguments.store:
        STORED.write_text(json.dumps(counts, indent=1) + "\n")
