"""The command for a night: exit codes, what is said, what is passed on."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings
from dataclasses import replace

import pytest
from astropy.table import Table

import mlpsf.batch.run as batch
from mlpsf.batch.job import failed
from mlpsf.cli.main import main


@pytest.fixture
def frames(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.fits").touch()
    return [str(tmp_path / f"{name}.fits") for name in "abc"]


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Give a function that runs the command; of each frame it makes what `reasons` says."""

    def run(*arguments, reasons=(), warned=()):
        run.jobs = []

        def work(jobs, n_workers, time_limit):
            run.n_workers, run.time_limit = n_workers, time_limit
            for job in jobs:
                run.jobs.append(job)
                outcome = failed(job, dict(reasons).get(job.name, ""))
                outcome["again"] = False
                outcome["row"]["warnings"] = dict(warned).get(job.name, "")
                yield job, outcome

        monkeypatch.setattr(batch, "run_on_processes", work)
        monkeypatch.setattr(batch, "run_on_dask", work)
        command = ["mlpsf", "run", *map(str, arguments), "--out", str(tmp_path / "out")]
        monkeypatch.setattr(sys, "argv", command)
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        code = 0
        try:
            main()
        except SystemExit as leave:
            code = leave.code or 0
        said = capsys.readouterr()
        assert said.out == ""
        return code, said.err.replace(str(tmp_path), "T")

    return run


def test_all(run, frames, tmp_path):
    pytest.importorskip("pyarrow")
    files = "T/out/night.ecsv and T/out/night.parquet and T/out/night.html"
    assert run(*frames) == (0, f"3 of 3 frames done; summary in {files}.\n")
    assert run(*frames) == (0, f"3 of 3 frames done (3 known from before); summary in {files}.\n")
    assert run.jobs == []
    assert run(*frames, "--quiet") == (0, "")
    assert Table.read(tmp_path / "out" / "night.ecsv")["name"].tolist() == ["a", "b", "c"]
    warned = {"a": "a.fits: 3 stars left out", "b": "b.fits: 12 stars left out | few reserve stars"}
    code, err = run(*frames, "--n-max", 9, warned=warned)
    assert (code, err) == (
        0,
        "mlpsf: warning: 2 frames alike, the first: a.fits: 3 stars left out\n"
        "mlpsf: warning: 1 frame: few reserve stars\n"
        f"3 of 3 frames done, 2 with warnings; summary in {files}.\n",
    )
    assert run(*frames, "--n-max", 8, "-q", warned=warned) == (0, "")


def test_some(run, frames):
    code, err = run(*frames, reasons={"b": "no stars"})
    assert code == 4
    assert err.startswith("b: no stars\n2 of 3 frames done, 1 failed; summary in T/out/night.ecsv")
    assert run(*frames, "-q")[0] == 4
    assert run.jobs == []
    assert run(*frames, "-q", "--retry-failed")[0] == 0
    assert [job.name for job in run.jobs] == ["b"]


def test_what_a_reason_holds_is_not_printed_raw(run, frames):
    _, err = run(*frames, reasons={"b": "no \x1b[2J\nstars"})
    assert err.startswith(r"b: no \x1b[2J\nstars" + "\n2 of 3 frames done")


def test_none(run, frames):
    code, err = run(*frames, "--quiet", reasons=dict.fromkeys("abc", "no stars"))
    assert code == 1
    assert err.startswith("mlpsf: None of 3 frames succeeded; summary in T/out/night.ecsv")
    assert err.endswith("The first, a: no stars\n")
    assert err.count("\n") == 1


def test_many_reasons_are_counted(run, tmp_path):
    names = [f"n{i}" for i in range(8)]
    for name in [*names, "x", "y"]:
        (tmp_path / f"{name}.fits").touch()
    code, err = run(tmp_path / "*.fits", reasons=dict.fromkeys(names, "bad"))
    assert code == 4
    assert "n4: bad\n... and 3 more failed.\n2 of 10 frames done, 8 failed; " in err


def test_options_are_passed_on(run, frames, tmp_path):
    mask = tmp_path / "mask.dat"
    mask.write_bytes(b"x")
    options = "--n-max 7 --reserve 0.2 --relax --snr-min 20 --no-second-look --gain 2 --threshold 0"
    assert run(*frames, *options.split(), "--mask", mask, "--workers", 2, "-q")[0] == 0
    assert (run.n_workers, run.time_limit) == (2, 3600)
    settings = run.jobs[0].settings
    assert settings == replace(
        batch.Settings(),
        n_max=7,
        n_min=7,
        reserve=0.2,
        relax=True,
        snr_min=20.0,
        second_look=False,
        gain=2.0,
        threshold=0.0,
        mask=str(mask),
    )
    # Other settings: all is done again.
    assert run(*frames, "--selector", "residual", "--scheduler", "tcp://x:1", "-q")[0] == 0
    assert {job.settings.selector for job in run.jobs} == {"residual"}
    assert run.n_workers == "tcp://x:1"
    assert run(*frames, "--gain", 3, "--time-limit", "inf", "-q")[0] == 0
    assert run.time_limit == math.inf


def test_one_image_of_a_file_of_settings_need_be_no_list(run, frames, tmp_path):
    (tmp_path / "mlpsf.toml").write_text("[run]\nhdu = 'all'\ngain = 2\n")
    assert run(*frames, "-q")[0] == 0
    assert {job.settings.gain for job in run.jobs} == {2.0}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["none/*.fits"], 1, "No file matches"),
        (["a.fits", "--workers", "2", "--scheduler", "x:1"], 1, "not both"),
        (["a.fits", "--model", "m.keras", "--selector", "residual"], 1, "exclude each other"),
        (["a.fits", "--workers", "0"], 2, "--workers"),
        (["a.fits", "--time-limit", "0"], 2, "--time-limit"),
        ([], 2, "FRAME"),
    ],
)
def test_errors(run, arguments, code, words):
    got, err = run(*arguments)
    assert got == code
    assert words in err
    assert "Traceback" not in err
    assert err.count("\n") == 1 or code == 2


def test_what_an_import_loads():
    code = (
        "import sys, mlpsf, mlpsf.cli, mlpsf.batch\n"
        "heavy = {'tensorflow', 'distributed', 'dask', 'pyarrow', 'numpy', 'astropy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
