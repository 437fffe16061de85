"""``mlpsf report``, ``psf --report``, ``--json``, ``--verbose``, and settings from a file."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from astropy.table import Table
from typer.testing import CliRunner

from mlpsf.cli.main import app
from mlpsf.errors import InputError, OutputError, TooFewStarsError
from mlpsf.psf import PSFModel


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def invoke(*words):
        return CliRunner().invoke(app, [str(w) for w in words])

    return invoke


@pytest.fixture
def frame(written):
    return written / "frame.fits"


def test_report(run, frame, tmp_path):
    done = run("report", frame, "--gain", "3", "--out", "night report.html", "--json")
    assert done.exit_code == 0, done.output
    assert [p.name for p in tmp_path.iterdir()] == ["night report.html"]
    text = (tmp_path / "night report.html").read_text()
    assert f"mlpsf psf {frame} --gain 3 --stars list.ecsv" in text
    found = json.loads(done.stdout)
    assert found["report"] == "night report.html"
    assert found["n_selected"] == 25
    assert text.count('class="card chosen"') == 25


def test_psf_with_a_report_and_the_list_it_saves(run, frame, tmp_path):
    done = run("psf", frame, "--report", "report.html", "--verbose")
    assert done.exit_code == 0, done.output
    assert re.search(r"^\[ +\d+\.\d\d s\] making the PSF: \d+\.\d\d s$", done.stderr, re.M)
    assert "Report in report.html." in done.stderr
    text = (tmp_path / "report.html").read_text()
    data = json.loads(re.search(r'type="application/json" id="data">(.*?)</script>', text)[1])
    chosen = [s for s in data["sources"] if s["kind"] == "chosen"][2:]
    (tmp_path / "list.ecsv").write_text(data["head"] + "".join(s["line"] for s in chosen))
    done = run("psf", frame, "--stars", "list.ecsv", "--out", "again.fits", "--json", "-q")
    assert done.stderr == ""
    assert json.loads(done.stdout)["n_selected"] == len(chosen) == 23
    assert len(PSFModel.load("again.fits").stars) == 23


def test_too_few_stars(run, frame, tmp_path):
    done = run("report", frame, "--n-min", "900", "--n-max", "900")
    assert isinstance(done.exception, TooFewStarsError)
    assert "900 wanted" in (tmp_path / "report.html").read_text()
    done = run("psf", frame, "--n-min", "900", "--n-max", "900", "--report", "why.html")
    assert isinstance(done.exception, TooFewStarsError)
    assert "900 wanted" in (tmp_path / "why.html").read_text()


def test_nothing_but_a_report_is_replaced(run, frame, tmp_path):
    (tmp_path / "mine.html").write_text("<!doctype html>mine")
    done = run("report", frame, "--out", "mine.html")
    assert isinstance(done.exception, OutputError)
    done = run("report", frame, "--out", "report.png")
    assert "must end in .html" in str(done.exception)
    assert (tmp_path / "mine.html").read_text().endswith("mine")


# --- settings from a file


@pytest.fixture
def beside(frame, tmp_path, monkeypatch):
    """A copy of the frame in a folder, for settings beside it."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "frame.fits").symlink_to(frame)
    monkeypatch.chdir(tmp_path)
    return folder


def test_settings_beside_the_data(run, beside):
    (beside / "mlpsf.toml").write_text(
        "n-max = 12\nselector = 'residual'\n[select]\nthreshold = 0.0\n[psf]\nn-max = 7\n"
    )
    done = run("select", beside / "frame.fits")
    assert done.exit_code == 0, done.output
    assert f"Settings from {beside / 'mlpsf.toml'}: n-max, selector, threshold." in done.stderr
    table = Table.read("stars.ecsv")
    assert table.meta["selector"] == "residual"
    assert table["selected"].sum() == 12
    done = run("select", beside / "frame.fits", "--n-max", "11", "--selector", "cnn")
    assert Table.read("stars.ecsv")["selected"].sum() == 11
    assert "n-max" not in done.stderr
    assert Table.read("stars.ecsv").meta["selector"] != "residual"


def test_settings_of_a_file_that_is_named(run, frame, beside):
    mask = beside / "own.toml"
    mask.write_text("[select]\nmask = 'no_such.fits'\nrelax = true\n")
    done = run("select", frame, "--config", mask)
    # Found from where the settings are.
    assert f"{beside / 'no_such.fits'}" in str(done.exception)
    mask.write_text("[label]\ngood = 'no_such.reg'\n")
    done = run("label", frame, "--config", mask, "--out", "set.h5")
    assert f"{beside / 'no_such.reg'}" in str(done.exception)
    done = run("select", frame, "--config", "none.toml")
    assert isinstance(done.exception, InputError)
    assert "no file none.toml" in str(done.exception)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nmax = 3", "no option nmax. Did you mean n-max?"),
        ("[select]\nat = [1, 2]", "no option [select] at."),
        ("n-max = ", "cannot be read as settings (TOML)"),
        ("relax = 'yes'", 'relax must be true or false. Got "yes"'),
        ("gain = true", "gain must be a number. Got true."),
        ("n-max = true", "n-max must be a whole number. Got true."),
        ("mask = false", "mask must be a path. Got false."),
        ("n-max = 'many'", 'own.toml: n-max cannot be "many".'),
        ("threshold = 3.5", "own.toml: threshold cannot be 3.5."),
        ("n-max = [3]", "n-max is one value, not a list. Got [3]"),
        (
            "overwrite = true",
            "overwrite cannot be set in a file: give --overwrite on the command line",
        ),
        ("[select]\noverwrite = true", "[select] overwrite cannot be set in a file"),
        ("[n-max]\na = 1", "n-max is an option, and its value no table"),
    ],
)
def test_settings_refused(run, frame, tmp_path, text, said):
    (tmp_path / "own.toml").write_text(text)
    done = run("select", frame, "--config", "own.toml")
    assert isinstance(done.exception, InputError)
    assert said in str(done.exception)


def test_shell_completion_is_offered(run):
    assert "--install-completion" in run("--help").stdout


# --- plots, and a first look


@pytest.mark.parametrize(
    ("source", "what", "out"),
    [
        ("stars.ecsv", None, "stars.png"),
        ("stars.ecsv", "sizes", "sizes.pdf"),
        ("stars.ecsv", "residuals", "residuals.svg"),
        ("psf.fits", None, "psf.pdf"),
        ("psf.fits", "profiles", "profiles.png"),
        ("psf.fits", "variation", "variation.png"),
        ("frame.fits", "map", "map.png"),
    ],
)
def test_plots_by_one_word(run, written, tmp_path, source, what, out):
    words = [] if what is None else ["--what", what]
    frame = [] if source == "frame.fits" else ["--frame", written / "frame.fits"]
    done = run("plot", written / source, *words, *frame, "--out", out, "--dpi", "60")
    assert done.exit_code == 0, done.output
    head = (tmp_path / out).read_bytes()[:300]
    kind = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[out.rpartition(".")[2]]
    assert head.startswith(kind)
    again = run("plot", written / source, *words, *frame, "--out", out)
    assert isinstance(again.exception, OutputError)


def test_frame_of_a_product_is_found_beside_it(run, written, tmp_path):
    done = run("plot", written / "stars.ecsv", "--what", "sizes", "--out", "a.png")
    assert done.exit_code == 0, done.output
    done = run("plot", written / "stars.ecsv", "--what", "map", "--out", "b.png")
    assert isinstance(done.exception, InputError)  # the scene was never read from a file
    assert "give --frame" in str(done.exception)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_a_psf_finds_the_table_of_its_stars(run, written, tmp_path):
    alone = tmp_path / "alone.fits"
    shutil.copy(written / "psf.fits", alone)
    done = run("plot", alone, "--what", "sizes", "--out", "sizes.png")
    assert isinstance(done.exception, InputError)
    assert "give the star table" in str(done.exception)
    shutil.copy(written / "stars.ecsv", tmp_path / "alone_stars.ecsv")
    assert run("plot", alone, "--what", "sizes", "--out", "sizes.png").exit_code == 0


def test_info(run, frame):
    done = run("info", frame)
    assert done.exit_code == 0, done.output
    assert "saturation   60000 adu" in done.stdout
    assert "verdict      good" in done.stdout
    look = json.loads(run("info", frame, "--json", "--gain", "2").stdout)
    assert look["gain"] == 2
    assert look["fwhm"] == pytest.approx(4, rel=0.05)
    assert "no file" in str(run("info", "none.fits").exception)
