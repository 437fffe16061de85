"""Whatever it is given: every row of the table of bad inputs gets what the table says.

The commands are tried with a part of the table; with the environment variable
``MLPSF_ALL_BAD_INPUTS`` set, with all of it.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import sys
import warnings
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import pytest
from bad_inputs import ENTRANCES, FINE, Lab, RowError, page, rows

from mlpsf import errors

# astropy leaves files open whose headers it cannot read.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

LONGEST = 120  # seconds until an input counts as one that hangs, on a machine of any load
MOST = 1_000_000_000  # bytes that an input may take


def chosen():
    every = 1 if os.environ.get("MLPSF_ALL_BAD_INPUTS") else 5
    commands = 0
    for row in rows():
        if row.entrance.startswith("mlpsf"):
            commands += 1
            if commands % every:
                continue
        yield pytest.param(row, id=row.name)


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    return Lab.stock(tmp_path_factory.mktemp("stock"))


@pytest.fixture
def lab(stock, tmp_path, monkeypatch):
    folder = tmp_path / "lab"
    shutil.copytree(stock.folder, folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    return Lab(folder)


@contextmanager
def bounded():
    """End a block that hangs or takes too much memory."""

    def end(*_):
        raise TimeoutError(f"it took more than {LONGEST} s")

    with open("/proc/self/statm") as file:  # noqa: PTH123 - no file on a disk
        now = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, end)
    resource.setrlimit(resource.RLIMIT_AS, (now + MOST, before[1]))
    signal.alarm(LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's /proc")
@pytest.mark.parametrize("row", list(chosen()))
def test_bad_input(row, lab, capsys):
    thing = row.bad.make(lab)
    before = {p.name for p in lab.folder.iterdir()}
    said, code = "", 0
    with warnings.catch_warnings(), bounded():
        warnings.simplefilter("ignore")
        try:
            ENTRANCES[row.entrance](lab, thing)
        except RowError as error:
            said, code = str(error), error
        except SystemExit as leave:
            code = leave.code or 0
        except (errors.MlpsfError, TypeError) as error:
            said, code = str(error), error
    out, err = capsys.readouterr()
    got = FINE if code == 0 else f"exit code {code}" if isinstance(code, int) else None
    if row.entrance.startswith("mlpsf") and not isinstance(code, RowError):
        said = err
        assert out == ""
        assert "Traceback" not in err
        assert got == row.gets, err
        if code:
            # Nothing is written of what failed, but for the table of too few stars.
            new = {p.name for p in lab.folder.iterdir()} - before
            assert new <= {"stars.ecsv", "new_stars.ecsv"}, new
    elif isinstance(code, RowError):
        assert not re.match(r"\w*(Error|Exception): ", said), said
    elif row.gets == FINE:
        assert code == 0, code
    else:
        assert isinstance(code, getattr(errors, row.gets, TypeError)), repr(code)
    assert re.search(row.bad.says, said), said
    assert "\x1b" not in said


def test_the_table_is_large_and_its_rows_differ():
    names = [row.name for row in rows()]
    assert len(set(names)) == len(names)
    assert len(names) >= 150


def test_the_page_is_that_of_the_table():
    written = Path(__file__).resolve().parents[1] / "mlpsf" / "BAD_INPUTS.md"
    assert written.read_text() == page(), "python tests/bad_inputs.py > mlpsf/BAD_INPUTS.md"


def test_no_undocumented_word_is_printed():
    assert errors.printable("a\x1b[2J\tb\udcff") == r"a\x1b[2J\tb\udcff"
    assert str(errors.InputError("x\x00y")) == r"x\x00y"


@pytest.mark.filterwarnings("always")
@pytest.mark.parametrize(
    "seed",
    [
        20009,
        20018,
        20336,
        20382,
        20360,
        20478,
        20566,
        22069,
        24878,
        25677,
        27653,
        29977,
        42741,
        43768,
        45767,
        86798,
    ],
)
def test_frames_that_once_failed(seed):
    """Random frames of `benchmarks any_input`: one of each kind of failure that it found."""
    # As in test_benchmarks_results: last in the path.
    sys.path.append(str(Path(__file__).resolve().parents[1]))
    any_input = import_module("benchmarks.robust.any_input")
    assert [one.failure for one in any_input.try_frame(seed)] == ["", ""]
