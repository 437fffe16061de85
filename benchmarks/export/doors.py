"""Each tool on what ``mlpsf export`` wrote for it: ``python -m benchmarks doors``.

A frame is drawn, its stars chosen, its PSF built; each format is written by the command, opened by
the tool that it is for, and compared with our PSF or with the truth. One row a door: format, what
was run, what was measured. A tool that is not installed is a row that says so.

``--variation 0.1`` draws a PSF that varies over the frame.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from astropy.table import Table

from benchmarks.common.results import record
from benchmarks.export.case import Case, NotInstalledError
from benchmarks.export.psf_doors import PSF_DOORS
from benchmarks.export.star_doors import STAR_DOORS


def main() -> None:
    """Open every door."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variation", type=float, default=0.0, help="of the PSF over the frame")
    parser.add_argument("--seed", type=int, default=5)
    arguments = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        case = Case(Path(folder), arguments.variation, arguments.seed)
        rows, title = [], f"{case.psf!r}, {case.stars['selected'].sum()} stars"
        for name, command, proof in (*PSF_DOORS, *STAR_DOORS):
            try:
                with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                    said = proof(case)
            except NotInstalledError as error:
                said = f"not tried: {error}"
            except Exception as error:  # one that fails must not hide the others
                said = f"FAILED: {type(error).__name__}: {error}"
                failed += 1
            rows.append((name, command, said))
        record(title, Table(rows=rows, names=("format", "run on it", "measured")))
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
