"""The command line: exit codes, one line an error, whole files or none, nothing on stdout."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from astropy.io import fits
from astropy.table import Table
from conftest import simulate

import mlpsf
from mlpsf import __version__
from mlpsf.cli.main import app, main
from mlpsf.frames.io.reading import read_frame
from mlpsf.psf import PSFModel
from mlpsf.psf.terms import PSFTerms
from mlpsf.selection.choice import N_MIN

RESIDUAL = ["--selector", "residual"]


@pytest.fixture(scope="module")
def frame_file(tmp_path_factory):
    """Write a small frame with room for a dozen stars away from its edges."""
    path = tmp_path_factory.mktemp("frame") / "night.fits"
    simulate(
        shape=(330, 360),
        fwhm=2.5,
        n_stars=40,
        n_galaxies=15,
        n_pairs=2,
        flux_range=(1e4, 2e5),
        cosmic_rays=5,
        hot_pixels=5,
        bad_columns=0,
        seed=6,
    ).write(path)
    return path


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Give a function that runs a command in an empty folder: exit code, stdout, stderr."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["mlpsf", *map(str, arguments)])
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        code = 0
        try:
            main()
        except SystemExit as leave:
            code = leave.code or 0
        said = capsys.readouterr()
        return code, said.out, said.err

    run.folder = folder
    return run


def check_error(answer, code, *words):
    """Insist on one line on stderr that holds the words, and nothing on stdout."""
    got, out, err = answer
    assert got == code, err
    assert out == ""
    assert err.startswith("mlpsf: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    for word in words:
        assert word in err


# --- what goes well


def test_select(run, frame_file):
    before = frame_file.read_bytes()
    code, out, err = run("select", frame_file, *RESIDUAL)
    assert (code, out) == (0, "")
    table = Table.read(run.folder / "stars.ecsv")
    n = int(table["selected"].sum())
    assert 10 <= n <= 25
    assert err == (
        f"night.fits: {n} of {len(table)} sources selected; FWHM {table.meta['fwhm']:.2f} pixels; "
        "table in stars.ecsv.\n"
        f"Verdict: good: {table.meta['verdict_reason']}.\n"
    )
    assert [p.name for p in run.folder.iterdir()] == ["stars.ecsv"]
    assert table.meta["frame"] == "night.fits"
    assert table.meta["frame_sha256"] == read_frame(frame_file).sha256
    assert table.meta["mlpsf_version"] == __version__
    assert table.meta["selector"] == "residual"
    assert frame_file.read_bytes() == before


@pytest.mark.parametrize("name", ["stars.fits", "stars.reg"])
def test_formats_say_what_made_them(run, frame_file, name):
    code, out, err = run("select", frame_file, *RESIDUAL, "--out", name, "--quiet")
    assert (code, out, err) == (0, "", "")
    if name == "stars.fits":
        header = fits.getheader(name, "STARS")
        assert header["MLPSF FRAME"] == "night.fits"
        assert header["MLPSF MLPSF VERSION"] == __version__
    else:
        text = (run.folder / name).read_text()
        assert "# frame: night.fits\n" in text
        assert f"# mlpsf_version: {__version__}\n" in text
        assert "# selector: residual\n" in text


@pytest.mark.filterwarnings("ignore:.*stars are not in the PSF")
def test_psf(run, frame_file):
    code, out, err = run("psf", frame_file, *RESIDUAL, "--out", "night_psf.fits")
    assert (code, out) == (0, "")
    assert sorted(p.name for p in run.folder.iterdir()) == [
        "night_psf.fits",
        "night_psf_stars.ecsv",
    ]
    made = PSFModel.load("night_psf.fits")
    assert made.fwhm == pytest.approx(2.5, rel=0.05)
    header = fits.getheader("night_psf.fits")
    assert header["MLPSFVER"] == __version__
    assert header["FRAME"] == "night.fits"
    assert header["FRAMESHA"] == read_frame(frame_file).sha256
    assert header["NSTARS"] == len(made.stars) >= 10
    assert "ATX" not in header
    last = err.splitlines()[-1]
    assert last.startswith(f"PSF of FWHM {made.fwhm:.2f} pixels")
    assert f"constant over the frame: {made.meta['order_reason']}." in last


@pytest.mark.filterwarnings("ignore:.*stars are not in the PSF")
def test_psf_for_a_place(run, frame_file):
    words = ("--at", 300, 70.5, "--out", "target.fits")
    code, out, err = run("psf", frame_file, *RESIDUAL, *words)
    assert (code, out) == (0, ""), err
    made = PSFModel.load("target.fits")
    header = fits.getheader("target.fits")
    assert (header["ATX"], header["ATY"]) == (300.0, 70.5)
    assert header["ATORDER"] == 0  # the stars of this frame are alike
    assert (made.meta["at_x"], made.meta["at_y"]) == (300.0, 70.5)
    assert err.splitlines()[-1].startswith(f"PSF at (300, 70.5) of FWHM {made.fwhm:.2f} pixels")


def test_render(run):
    ny, nx = 120, 150
    changes = 0.01 * np.random.default_rng(1).normal(size=(1, 210, 210))
    terms = PSFTerms(changes, [[1.0], [0.5]], (ny, nx))
    psf = PSFModel(np.zeros((210, 210)), 3.0, 3.0, terms=terms)
    psf.save("psf.fits")
    code, out, err = run("render", "psf.fits", 30, 70.5)
    assert (code, out) == (0, ""), err
    near = np.random.default_rng(2).uniform([120, 90, 1e4], [140, 110, 2e4], (8, 3))
    replace(psf, stars=near).save("few.fits")
    # Warnings look the same in every command.
    command = [sys.executable, "-m", "mlpsf", "render", "few.fits", "2", "3", "--out", "few_1.fits"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert said.startswith("mlpsf: warning: the PSF at (2, 3) is extrapolated")
    stamp, header = fits.getdata("stamp.fits", header=True)
    np.testing.assert_allclose(stamp, psf.at(30, 70.5).render(0, 0), atol=1e-8)
    assert (header["ATX"], header["ATY"], header["OVERSAMP"]) == (30.0, 70.5, 1)
    words = ("--oversampling", 5, "--size", 41, "--out", "fine.fits")
    assert run("render", "psf.fits", 30, 70.5, *words)[0] == 0
    fine = fits.getdata("fine.fits")
    assert fine.shape == (205, 205)
    assert fine.sum() == pytest.approx(1.0)
    check_error(run("render", "psf.fits", 30, 70.5), 1, "exists")
    check_error(run("render", "psf.fits", 300, 5, "--overwrite"), 1, "on the frame of 150 x 120")
    check_error(run("render", "psf.fits", 3, 5, "--out", "a.png"), 1, "must end in .fits")
    check_error(run("render", "psf.fits", 3, 5, "--size", 8, "--out", "b.fits"), 1, "odd number")
    check_error(run("render", "none.fits", 3, 5, "--out", "b.fits"), 1, "There is no file")
    check_error(run("render", "psf.fits", 3, 5, "--out", "psf.fits", "--overwrite"), 1, "input")


def test_places_are_of_the_frame_and_of_psf_only(run, frame_file):
    check_error(run("psf", frame_file, *RESIDUAL, "--at", 360, 5), 1, "on the frame of 360 x 330")
    check_error(run("psf", frame_file, *RESIDUAL, "--at", "nan", 5), 1, "at must be a place")
    for words in (["psf", frame_file, "--at", 5], ["select", frame_file, "--at", 5, 5]):
        assert run(*words)[0] == 2
    assert not list(run.folder.iterdir())
    assert "--at X Y" in run("psf", "--help")[1]


def test_simulate(run):
    words = ("--nx", 80, "--ny", 64, "--stars", 5, "--galaxies", 2, "--seed", 4)
    code, out, err = run("simulate", "--out", "a.fits", *words)
    assert (code, out) == (0, "")
    assert err == "80 x 64 pixels with 5 stars and 2 galaxies of FWHM 4 in a.fits.\n"
    code, out, err = run("simulate", "--out", "b.fits", *words, "-q", "--json")
    assert (code, err) == (0, "")
    drawn = {"frame": "b.fits", "nx": 80, "ny": 64, "stars": 5, "galaxies": 2, "fwhm": 4.0}
    assert json.loads(out) == drawn
    err = run("simulate", "--out", "c.fits", *words, "-v")[2]
    assert re.search(r"^\[ +\d+\.\d\d s\] drawing 5 stars and 2 galaxies: \d+\.\d\d s$", err, re.M)
    assert read_frame("a.fits").shape == (64, 80)
    assert read_frame("a.fits").sha256 == read_frame("b.fits").sha256
    assert any("seed" in line for line in fits.getheader("a.fits")["HISTORY"])


def test_relax(run, frame_file):
    words = ("select", frame_file, *RESIDUAL, "--threshold", 1.0, "--n-min", 12)
    code, out, err = run(*words, "--relax")
    assert (code, out) == (0, "")
    assert err.startswith("night.fits: 12 of ")
    assert "(relaxed: the least probable is one by " in err
    assert Table.read("stars.ecsv")["selected"].sum() == 12


def test_catalogue_mask_gain_saturation(run, frame_file):
    frame = read_frame(frame_file)
    mask = np.zeros(frame.shape, np.uint8)
    mask[:, :40] = 1
    fits.PrimaryHDU(mask).writeto("mask.fits")
    with fits.open(frame_file) as hdus:
        truth = Table(hdus["TRUTH"].data)
    truth = truth[(truth["x"] > 45) & (truth["flux"] > 1e4)]
    Table({"X_IMAGE": truth["x"] + 1, "Y_IMAGE": truth["y"] + 1}).write("list.csv")
    code, out, err = run(
        *("select", frame_file, *RESIDUAL, "--catalogue", "list.csv", "--mask", "mask.fits"),
        *("--gain", 2.5, "--saturation", 5e4, "--hdu", 0, "--n-min", 5),
    )
    assert (code, out) == (0, ""), err
    table = Table.read("stars.ecsv")
    assert len(table) == len(truth)
    assert table.meta["gain"] == 2.5
    assert table.meta["saturation"] == 5e4
    assert table.meta["gain_from"] == "given"


def test_version_and_help(run):
    assert run("--version") == (0, f"mlpsf {__version__}\n", "")
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    for word in ("select", "psf", "simulate", "Exit codes"):
        assert word in out
    for command in ("select", "psf", "simulate"):
        code, out, _ = run(command, "--help")
        assert code == 0
        assert "--out" in out


# --- exit code 2: mistyped


@pytest.mark.parametrize(
    "words",
    [
        ["select"],
        ["choose", "a.fits"],
        ["select", "a.fits", "--nmax", "3"],
        ["select", "a.fits", "--n-max", "many"],
        ["select", "a.fits", "--n-max", "0"],
        ["select", "a.fits", "--threshold", "1.5"],
        ["select", "a.fits", "--selector", "forest"],
        ["simulate", "--nx", "3"],
    ],
)
def test_mistyped(run, words):
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert err
    assert "Traceback" not in err
    assert not list(run.folder.iterdir())


# --- exit code 3: too few stars


def test_too_few_stars(run, frame_file):
    answer = run("select", frame_file, *RESIDUAL, "--threshold", 1.0, "-q")
    check_error(answer, 3, f"{N_MIN} wanted", "--relax")
    table = Table.read("stars.ecsv")
    assert table.meta["frame"] == "night.fits"
    assert table["selected"].sum() < N_MIN
    # Where the next are good too, the threshold that the message names does give enough.
    words = ["select", frame_file, "--n-min", 2, "-q"]
    answer = run(*words, "--threshold", 1.0)
    check_error(answer, 3, "2 wanted", "A threshold of 0.")
    threshold = answer[2].split("A threshold of ")[1].split()[0]
    assert run(*words, "--threshold", threshold)[0] == 0


def test_too_few_stars_for_a_psf(run, frame_file):
    code, out, err = run("psf", frame_file, *RESIDUAL, "--threshold", 1.0)
    assert (code, out) == (3, "")
    assert [p.name for p in run.folder.iterdir()] == ["psf_stars.ecsv"]
    lines = err.splitlines()
    assert "is in psf_stars.ecsv" in lines[0]
    assert lines[1].startswith("mlpsf: ")
    assert len(lines) == 2


# --- exit code 1: a bad input or output, said in one line


SKY = np.random.default_rng(1).normal(100, 3, (120, 120)).astype(np.float32)


def make_bad(kind, folder):
    path = folder / "bad.fits"
    if kind == "not FITS":
        path.write_text("hello\nworld\n")
    elif kind == "truncated":
        fits.PrimaryHDU(SKY).writeto(path)
        path.write_bytes(path.read_bytes()[: 2880 * 4])
    elif kind != "no such file":
        content = {
            "no image": None,
            "all NaN": np.full_like(SKY, np.nan),
            "constant": np.full_like(SKY, 5),
            "no sources": SKY,
        }[kind]
        fits.PrimaryHDU(content).writeto(path)
    return path


@pytest.mark.parametrize("command", ["select", "psf"])
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("no such file", "There is no file"),
        ("not FITS", "no readable FITS file"),
        ("truncated", "cut short"),
        ("no image", "no 2-D image"),
        ("all NaN", "NaN"),
        ("constant", "have the value 5"),
        ("no sources", "No source"),
    ],
)
def test_bad_frames(run, tmp_path, command, kind, words):
    path = make_bad(kind, tmp_path)
    check_error(run(command, path, *RESIDUAL), 1, words)
    assert not list(run.folder.iterdir())


def bad_words(kind, folder):
    """Give the options of one bad input, and what the error must say."""
    if kind == "mask of another shape":
        fits.PrimaryHDU(SKY).writeto(folder / "mask.fits")
        return ["--mask", folder / "mask.fits"], "(120, 120)"
    if kind == "no mask":
        return ["--mask", folder / "none.fits"], "There is no file"
    if kind == "no such HDU":
        return ["--hdu", "SCI,3"], "no HDU 'SCI,3'"
    if kind == "HDU without image":
        return ["--hdu", "TRUTH"], "no 2-D image"
    if kind == "gain":
        return ["--gain", "-1"], "'gain'"
    if kind == "n_min over n_max":
        return ["--n-min", "30", "--n-max", "20"], "'n_min'"
    if kind == "no model":
        return ["--model", folder / "none.keras"], "There is no file"
    if kind == "other model":
        (folder / "other.keras").write_bytes(b"hello")
        return ["--model", folder / "other.keras"], "is no mlpsf model"
    path = folder / "list.csv"
    if kind == "catalogue off the frame":
        Table({"x": [9e4], "y": [5.0]}).write(path)
        return ["--catalogue", path], "None of the 1 positions"
    if kind == "catalogue empty":
        path.write_text("x,y\n")
        return ["--catalogue", path], "no rows"
    if kind == "catalogue without positions":
        Table({"mag": [1.0], "err": [5.0]}).write(path)
        return ["--catalogue", path], "no columns of positions"
    if kind == "no catalogue":
        return ["--catalogue", path], "There is no file"
    raise AssertionError(kind)


@pytest.mark.parametrize(
    "kind",
    [
        *("mask of another shape", "no mask", "no such HDU", "HDU without image", "gain"),
        *("n_min over n_max", "no model", "other model", "catalogue off the frame"),
        *("catalogue empty", "catalogue without positions", "no catalogue"),
    ],
)
def test_bad_options(run, tmp_path, frame_file, kind):
    options, said = bad_words(kind, tmp_path)
    words = [] if "--model" in options else RESIDUAL
    check_error(run("select", frame_file, *words, *options), 1, said)
    assert not list(run.folder.iterdir())


@pytest.mark.parametrize(
    ("command", "out", "said"),
    [
        ("select", "none/stars.ecsv", "does not exist"),
        ("psf", "none/psf.fits", "does not exist"),
        ("simulate", "none/a.fits", "does not exist"),
        ("select", "stars.txt", "gives no format"),
        ("select", ".", "is a folder"),
        ("psf", ".", "is a folder"),
    ],
)
def test_bad_outputs_are_told_before_the_work(run, command, out, said):
    # The frame is not even there: the output is looked at first.
    frame = [] if command == "simulate" else ["nothing.fits"]
    check_error(run(command, *frame, "--out", out), 1, said)
    assert not list(run.folder.iterdir())


def test_no_output_replaces_an_input_or_the_other_output(run, frame_file):
    before = frame_file.read_bytes()
    for words in (
        ["select", frame_file, "--out", frame_file],
        ["psf", frame_file, "--out", frame_file],
    ):
        check_error(run(*words), 1, "would replace an input")
    check_error(run("psf", frame_file, "--out", "a.fits", "--table", "a.fits"), 1, "would replace")
    assert frame_file.read_bytes() == before
    check_error(run("psf", frame_file, "--out", "a.txt"), 1, "must end in .fits")


def test_simulate_replaces_a_file_only_when_told_to(run):
    small = ["simulate", "--nx", 64, "--ny", 64, "--stars", 3, "--galaxies", 0, "--out", "a.fits"]
    assert run(*small)[0] == 0
    check_error(run(*small), 1, "exists", "--overwrite")
    assert run(*small, "--overwrite")[0] == 0


def test_star_table_of_the_psf_is_checked_before_the_work(run):
    check_error(run("psf", "nothing.fits", "--table", "stars.txt"), 1, "gives no format")


def test_a_file_that_was_there_stays_when_the_command_fails(run, tmp_path):
    (run.folder / "stars.ecsv").write_text("old")
    words = ("select", make_bad("no sources", tmp_path), *RESIDUAL)
    check_error(run(*words), 1, "stars.ecsv exists and is no star table of mlpsf")
    check_error(run(*words, "--overwrite"), 1, "No source")
    assert (run.folder / "stars.ecsv").read_text() == "old"


@pytest.mark.parametrize("name", ["stars.ecsv", "stars.fits", "stars.csv", "stars.reg"])
def test_a_star_table_of_mlpsf_is_replaced(run, frame_file, name):
    words = ["select", frame_file, *RESIDUAL, "--out", name, "-q"]
    assert run(*words)[0] == 0
    first = (run.folder / name).read_bytes()
    assert run(*words, "--snr-min", 60)[0] == 0
    assert (run.folder / name).read_bytes() != first


@pytest.mark.filterwarnings("ignore:.*stars are not in the PSF")
def test_a_psf_replaces_a_psf_but_no_other_file(run, frame_file):
    fits.writeto("mine.fits", SKY)
    words = ("psf", frame_file, *RESIDUAL, "-q", "--out")
    check_error(run(*words, "mine.fits"), 1, "mine.fits exists and is no PSF.")
    assert [p.name for p in run.folder.iterdir()] == ["mine.fits"]
    assert [run(*words, "a.fits")[0] for _ in range(2)] == [0, 0]
    answer = run("select", frame_file, *RESIDUAL, "--out", "a.fits")
    check_error(answer, 1, "a.fits exists and is no star table of mlpsf")
    assert run(*words, "mine.fits", "--overwrite")[0] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--fwhm", "0.5"], "fwhm"),
        (["--seed", "-1"], "seed"),
    ],
)
def test_bad_simulations(run, words, said):
    check_error(run("simulate", "--nx", 64, "--ny", 64, *words), 1, said)
    assert not list(run.folder.iterdir())


def test_bad_hdu_number(run, frame_file):
    check_error(run("select", frame_file, *RESIDUAL, "--hdu", "77"), 1, "no HDU 77")


# --- as a program


def program(*arguments, folder):
    return subprocess.run(
        [sys.executable, "-m", "mlpsf", *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_program_succeeds_and_warns_in_one_line(frame_file, tmp_path):
    with fits.open(frame_file) as hdus:
        truth = Table(hdus["TRUTH"].data)
    x, y = [*truth["x"], -50.0], [*truth["y"], 5.0]
    Table({"x": x, "y": y}).write(tmp_path / "list.csv")
    done = program(
        "select", frame_file, *RESIDUAL, "--catalogue", "list.csv", "--n-min", 3, folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 3  # and what was chosen, and the verdict
    assert lines[0].startswith("mlpsf: warning: ")
    assert "lie off the frame" in lines[0]


def test_program_fails_in_one_line(tmp_path):
    done = program("select", "none.fits", folder=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("mlpsf: There is no file 'none.fits'")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ("select", "none.fits"),
        ("export", "none.ecsv", "--to", "ldac", "--out", "a.cat"),
        ("render", "none.fits", "-0.2", "3"),
    ],
)
def test_a_script_is_told_of_errors(words, tmp_path):
    done = program(*words, "--json", folder=tmp_path)
    assert done.returncode == 1
    assert "no file" in json.loads(done.stdout)["error"]


def test_a_script_is_told_of_too_few_stars(frame_file, tmp_path):
    words = ("--n-min", "900", "--n-max", "900", "--json")
    done = program("report", frame_file, *words, folder=tmp_path)
    assert done.returncode == 3
    assert "900 wanted" in json.loads(done.stdout)["error"]


def test_program_fails_in_one_line_with_the_shipped_network(frame_file, tmp_path):
    from mlpsf.errors import ModelFileError
    from mlpsf.selectors.storage import pretrained_path

    try:
        pretrained_path()
    except ModelFileError:
        pytest.skip("mlpsf/selectors/pretrained/compact.keras is not there yet")
    done = program("select", frame_file, "--threshold", 1, "-q", folder=tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.count("\n") == 1, done.stderr
    assert (tmp_path / "stars.ecsv").is_file()


def test_the_help_knows_the_smallest_number(run):
    assert f"Default: {N_MIN}, or" in " ".join(run("select", "--help")[1].split())


def test_options_that_messages_name_are_there():
    group = typer.main.get_command(app)
    known = {o for c in group.commands.values() for p in c.params for o in (*p.opts, "--help")}
    known |= {o for p in group.params for o in p.opts}
    no_options = {"--write"}  # begins a name inside mlpsf
    for path in (Path(mlpsf.__file__).parent).rglob("*.py"):
        if "cli" in path.parts:
            continue
        texts = (
            node.value
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        )
        named = {o for text in texts for o in re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", text)}
        assert named - known - no_options == set(), path
