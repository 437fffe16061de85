"""Nights: what they are made of, what is done again, what survives a kill."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from conftest import simulate

import mlpsf.batch.run as batch
from mlpsf import pipeline
from mlpsf.batch.inputs import Job, find_frames, plan_jobs
from mlpsf.batch.job import _selector, run_job
from mlpsf.batch.pool import _Worker, available_cores, run_on_processes
from mlpsf.batch.run import Settings, run_frames, summarise
from mlpsf.errors import InputError, MissingPackageError, MlpsfError, OutputError
from mlpsf.files import temporary_prefix
from mlpsf.psf import PSFModel
from mlpsf.selection.named import rules_for

SETTINGS = Settings(n_max=4, n_min=4, relax=True)  # whatever the network says of these
N_FRAMES = 5


def pixels(seed):
    return simulate(
        shape=(300, 300),
        fwhm=2.5,
        n_stars=30,
        n_galaxies=8,
        n_pairs=0,
        flux_range=(1e4, 2e5),
        cosmic_rays=2,
        hot_pixels=2,
        bad_columns=0,
        seed=seed,
    ).frame.data


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """Write five frames, the third cut short, and the list of them."""
    folder = tmp_path_factory.mktemp("night")
    for number in range(N_FRAMES):
        fits.writeto(folder / f"{number}.fits", pixels(number))
    whole = (folder / "2.fits").read_bytes()
    (folder / "2.fits").write_bytes(whole[: len(whole) // 2])
    (folder / "list.txt").write_text(f"# a night\n{folder}/[0-3].fits\n\n{folder}/4.fits # last\n")
    return folder


@pytest.fixture(scope="module")
def undisturbed(night, tmp_path_factory):
    """Run the night once: its folder and what came of it."""
    out = tmp_path_factory.mktemp("undisturbed")
    return out, run_frames([f"@{night}/list.txt"], out, settings=SETTINGS, workers=1)


def products(folder):
    """Contents of what the frames gave, by name."""
    return {p.name: p.read_bytes() for p in folder.glob("[0-9]*_*")}


def read_summary(folder):
    """Read the ECSV file; it gives empty texts back as masked ones."""
    return Table.read(folder / "night.ecsv").filled("")


def check_same(folder, undisturbed):
    """Insist on the same files, to the byte; in the summary, only seconds may differ."""
    out, reference = undisturbed
    assert products(folder) == products(out)
    assert {p.name for p in folder.iterdir()} == {p.name for p in out.iterdir()}
    assert {p.name for p in (folder / "rows").iterdir()} == {
        p.name for p in (out / "rows").iterdir()
    }
    table = read_summary(folder)
    table["seconds"] = reference.table["seconds"]
    assert table.meta == reference.table.meta
    assert table.pformat() == reference.table.pformat()


def jobs_of(night, out, settings=SETTINGS, hdu=None):
    out.mkdir(exist_ok=True)
    (out / "rows").mkdir(exist_ok=True)
    return plan_jobs(find_frames([night / "[0-9].fits"]), out, settings, hdu)


# --- what a night is made of


def test_globs_lists_and_paths(night, tmp_path):
    names = [night / f"{i}.fits" for i in range(N_FRAMES)]
    assert find_frames([night / "*.fits", names[0]]) == names
    assert find_frames([f"@{night}/list.txt"]) == names
    odd = tmp_path / "a[1].fits"
    odd.touch()
    assert find_frames([odd, "none.fits"]) == [odd, Path.cwd() / "none.fits"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "the list is empty"),
        (["none/*.fits"], "No file matches 'none/"),
        (["@none.txt"], "'none.txt' cannot be read"),
    ],
)
def test_no_frames(given, words):
    with pytest.raises(InputError, match=words):
        find_frames(given)


def test_output_among_the_frames(night):
    with pytest.raises(InputError, match="folder of its own"):
        run_frames([night / "0.fits"], night)


def test_frames_of_one_name(tmp_path):
    paths = []
    for folder in "ab":
        (tmp_path / folder).mkdir()
        paths.append(tmp_path / folder / "x.fits.fz")
        paths[-1].touch()
    names = [job.name for job in plan_jobs(paths, tmp_path / "out", SETTINGS)]
    assert len(set(names)) == 2
    assert all(name.startswith("x-") for name in names)
    assert [plan_jobs([p], tmp_path, SETTINGS)[0].name for p in paths] == ["x", "x"]


def test_key_is_of_file_and_settings(night, tmp_path):
    def keys(settings=SETTINGS):
        return [job.key for job in plan_jobs([path], tmp_path / "out", settings)]

    path = tmp_path / "x.fits"
    path.write_bytes((night / "0.fits").read_bytes())
    before = keys()
    assert keys() == before
    assert keys(replace(SETTINGS, n_max=5)) != before
    os.utime(path, ns=(1, 1))
    assert keys() != before


@pytest.fixture(scope="module")
def mosaic(tmp_path_factory):
    path = tmp_path_factory.mktemp("mosaic") / "mosaic.fits"
    chips = [fits.ImageHDU(pixels(seed), name="SCI", ver=seed) for seed in (1, 2)]
    mask = fits.ImageHDU(np.zeros((300, 300), dtype=np.uint8), name="DQ")
    guide = fits.ImageHDU(np.zeros((20, 20)), name="GUIDE")
    fits.HDUList([fits.PrimaryHDU(), chips[0], mask, chips[1], guide]).writeto(path)
    return path


@pytest.mark.parametrize(
    ("hdu", "numbers"),
    [
        (None, [None]),
        (["all"], [1, 3, 4]),
        (["SCI,*"], [1, 3]),
        (["sci"], [1]),
        (["SCI,2", "1", "sci*"], [3, 1]),
        ([7], [7]),
    ],
)
def test_images_of_a_mosaic(mosaic, tmp_path, hdu, numbers):
    jobs = plan_jobs([mosaic], tmp_path, SETTINGS, hdu)
    assert [job.hdu for job in jobs] == numbers
    expected = ["mosaic" if n is None else f"mosaic_{n}" for n in numbers]
    assert [job.name for job in jobs] == expected


def test_no_such_image(mosaic, tmp_path):
    [job] = plan_jobs([mosaic], tmp_path, SETTINGS, ["CHIP*"])
    assert job.name == "mosaic_CHIP_"
    row = run_job(job)["row"]
    assert "has no HDU 'CHIP*'. It has the HDUs 0 (PRIMARY,1: no pixels); 1 (SCI,1:" in row["error"]
    assert row["hdu"] is None


def test_mosaic(mosaic, tmp_path):
    outcomes = [run_job(job) for job in plan_jobs([mosaic], tmp_path, SETTINGS, ["SCI,*", 7])]
    table = summarise([outcome["row"] for outcome in outcomes])
    assert table["hdu"].tolist() == [1, 3, 7]
    assert table["error"][:2].tolist() == ["", ""]
    assert "has no HDU 7" in table["error"][2]
    assert table["n_found"][0] > table["n_chosen"][0] == 4
    stars = Table.read(tmp_path / "mosaic_3_stars.ecsv")
    assert stars.meta["frame"] == "mosaic.fits[3]"
    assert len(stars) == table["n_found"][1]


# --- one frame


def test_too_few_stars_keep_their_table_alone(night, tmp_path):
    job = jobs_of(night, tmp_path)[0]
    job.psf.write_text("of an earlier run")
    outcome = run_job(replace(job, settings=replace(SETTINGS, n_min=1000, n_max=1000, relax=False)))
    assert "1000 wanted" in outcome["row"]["error"]
    assert not outcome["again"]
    assert outcome["row"]["n_found"] == len(Table.read(job.stars))
    assert not job.psf.exists()


def test_reserve_stars_judge(night, tmp_path):
    settings = replace(SETTINGS, reserve=0.5, n_max=10, threshold=0.0)
    row = run_job(jobs_of(night, tmp_path, settings)[0])["row"]
    assert row["judged_by"] == "reserved"
    assert 0 <= row["quality"] < 0.1


def test_another_version_is_refused(night, tmp_path):
    outcome = run_job(replace(jobs_of(night, tmp_path)[0], version="0.0.1"))
    assert "started with 0.0.1" in outcome["row"]["error"]


@contextlib.contextmanager
def largest_file(size):
    """Let no file of this process grow over a size, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_disk_full(night, tmp_path, undisturbed):
    out, _ = undisturbed
    job = jobs_of(night, tmp_path)[0]
    with largest_file(job_size := 100_000):
        outcome = run_job(job)
    assert "Cannot write" in outcome["row"]["error"]
    assert outcome["again"]
    assert list(outcome["products"]) == ["0_stars.ecsv"]  # smaller than the limit, and whole
    assert (out / job.psf.name).stat().st_size > job_size
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["0_stars.ecsv"]
    with largest_file(50), pytest.raises(OutputError, match="Cannot write"):
        batch._keep(job, outcome)
    assert list((tmp_path / "rows").iterdir()) == []
    run_job(job)
    assert products(tmp_path) == {k: v for k, v in products(out).items() if k.startswith("0_")}


# --- a night


def test_night(night, undisturbed):
    out, result = undisturbed
    table = result.table
    assert result.n_kept == 0
    assert table["name"].tolist() == [str(i) for i in range(N_FRAMES)]
    assert table["frame"][0] == str(night / "0.fits")
    assert "cut short or damaged" in table["error"][2]
    good = table[[0, 1, 3, 4]]
    assert good["error"].tolist() == [""] * 4
    assert good["hdu"].tolist() == [0] * 4
    assert good["n_chosen"].tolist() == [4] * 4
    assert np.all(abs(good["fwhm"] - 2.5) < 0.2)
    assert np.all(good["seconds"] > 0)
    assert good["psf_order"].tolist() == [0] * 4
    assert np.isnan(good["fwhm_variation"]).all()  # of a PSF that does not vary
    assert table["variation_angle"].unit == "deg"
    assert len(products(out)) == 8
    for row in good:
        psf = PSFModel.load(out / f"{row['name']}_psf.fits")
        assert psf.fwhm == pytest.approx(row["fwhm"], abs=1e-3)
    assert [p.name for p in result.files][:1] == ["night.ecsv"]
    read = read_summary(out)
    assert read["done"].tolist() == [True, True, False, True, True]
    assert read.pformat() == table.pformat()
    assert read.meta["settings"]["n_max"] == 4
    assert {p.name for p in (out / "rows").iterdir()} == {f"{i}.json" for i in range(N_FRAMES)}


@pytest.mark.filterwarnings("ignore:.*stars are not in the PSF")
def test_the_summary_says_how_a_psf_varies(tmp_path):
    sim = simulate(
        shape=(500, 500), n_stars=60, n_galaxies=0, fwhm=2.5, psf_variation=0.3,
        flux_range=(2e4, 2e5), cosmic_rays=0, hot_pixels=0, bad_columns=0, n_pairs=0, seed=5,
    )  # fmt: skip
    sim.write(tmp_path / "0.fits")
    options = {"n_max": 40, "n_min": 5, "selector": "residual", "threshold": 0.0}
    row = run_job(jobs_of(tmp_path, tmp_path / "out", Settings(**options))[0])["row"]
    assert row["error"] == ""
    psf = PSFModel.load(tmp_path / "out" / "0_psf.fits")
    assert row["psf_order"] == psf.order >= 1
    fwhm, e1, e2 = sim.psf.shape_at(*np.meshgrid(np.linspace(0, 499, 9), np.linspace(0, 499, 9)))
    assert row["fwhm_variation"] == pytest.approx(fwhm.std() / fwhm.mean(), rel=0.4)
    # The distortion of the image is twice the shear of the light, less what the pixel rounds.
    assert row["shape_variation"] == pytest.approx(2 * np.hypot(e1.std(), e2.std()), rel=0.5)
    assert -180 <= row["variation_angle"] <= 180


def test_parquet(undisturbed):
    pytest.importorskip("pyarrow")
    out, result = undisturbed
    read = Table.read(out / "night.parquet")
    assert read.pformat() == result.table.pformat()


def run_here(jobs, n_workers, time_limit):
    """Stand in for processes where they are not what is tested."""
    assert n_workers >= 1
    assert time_limit == 3600
    for job in jobs:
        yield job, run_job(job)


def test_only_what_is_missing_is_done(night, monkeypatch, tmp_path):
    out = tmp_path / "out"
    monkeypatch.setattr(batch, "run_on_processes", run_here)
    frames = [night / "0.fits", night / "1.fits", night / "2.fits"]

    def run(**changes):
        return run_frames(frames, out, settings=replace(SETTINGS, n_max=2, n_min=2), **changes)

    assert run().n_kept == 0
    before = {p.name: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert run().n_kept == 3
    assert {p.name: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    # A lost file, a row cut short, a failure that is to be tried again.
    (out / "0_psf.fits").unlink()
    left = out / f"{temporary_prefix(out / '0_psf.fits')}x.fits"
    other = out / f"{temporary_prefix(out / 'psf.fits')}x.fits"
    left.touch()
    other.touch()
    (out / "rows" / "1.json").write_text("{")
    assert run().n_kept == 1
    assert products(out) == {k: v for k, v in before.items() if "_" in k}
    # Another command may be writing its own.
    assert (left.exists(), other.exists()) == (False, True)
    assert run(retry_failed=True).n_kept == 2
    kept = json.loads((out / "rows" / "0.json").read_text())
    (out / "rows" / "0.json").write_text(json.dumps({**kept, "again": True}))
    assert run().n_kept == 2
    monkeypatch.setattr(batch.importlib.util, "find_spec", lambda _: None)
    assert [p.name for p in run().files] == ["night.ecsv", "night.html"]
    assert not (out / "night.parquet").exists()


def test_only_its_own_files_are_replaced(night, monkeypatch, tmp_path):
    monkeypatch.setattr(batch, "run_on_processes", run_here)
    mine = tmp_path / "0_psf.fits"
    mine.write_text("mine")
    frames = [night / "0.fits"]
    with pytest.raises(
        OutputError, match=r"0_psf.fits exists, and mlpsf did not make it\. .*--overwrite"
    ):
        run_frames(frames, tmp_path, settings=SETTINGS)
    assert [p.name for p in tmp_path.iterdir()] == ["0_psf.fits"]
    assert mine.read_text() == "mine"
    (tmp_path / "elsewhere").mkdir()
    for name in ("night.ecsv", "night.parquet"):
        (tmp_path / "elsewhere" / name).write_text("mine")
        with pytest.raises(OutputError, match=rf"{name} exists, and .* --overwrite"):
            run_frames(frames, tmp_path / "elsewhere", settings=SETTINGS)
        (tmp_path / "elsewhere" / name).unlink()
    assert run_frames(frames, tmp_path, settings=SETTINGS, overwrite=True).table["done"].all()
    # A run that was killed may have left files without a row.
    (tmp_path / "rows" / "0.json").unlink()
    assert run_frames(frames, tmp_path, settings=SETTINGS).n_kept == 0
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "0.fits"
    other.write_bytes((night / "1.fits").read_bytes())
    before = mine.read_bytes()
    with pytest.raises(OutputError, match=rf"exists, and it was made of {night}/0.fits"):
        run_frames([other], tmp_path, settings=SETTINGS)
    assert mine.read_bytes() == before


def test_input_is_never_replaced(night, monkeypatch, tmp_path):
    monkeypatch.setattr(batch, "run_on_processes", run_here)
    run_frames([night / "0.fits"], tmp_path, settings=SETTINGS)
    stars = tmp_path / "0_stars.ecsv"
    before = stars.read_bytes()
    again = dataclasses.replace(SETTINGS, catalogue=str(stars))
    with pytest.raises(InputError, match=r"would replace .*0_stars.ecsv, which it needs"):
        run_frames([night / "0.fits"], tmp_path, settings=again, overwrite=True)
    assert stars.read_bytes() == before
    again = dataclasses.replace(SETTINGS, catalogue=str(tmp_path / "night.ecsv"))
    with pytest.raises(InputError, match=r"would replace .*night.ecsv, which it needs"):
        run_frames([night / "0.fits"], tmp_path, settings=again, overwrite=True)


def test_products_of_another_frame_are_not_replaced_after_an_upgrade(night, monkeypatch, tmp_path):
    monkeypatch.setattr(batch, "run_on_processes", run_here)
    run_frames([night / "0.fits"], tmp_path / "out", settings=SETTINGS)
    row = tmp_path / "out" / "rows" / "0.json"
    kept = json.loads(row.read_text())
    del kept["sha256"]
    row.write_text(json.dumps({**kept, "format": 5}))
    (tmp_path / "0.fits").write_bytes((night / "1.fits").read_bytes())
    with pytest.raises(OutputError, match="it was made of"):
        run_frames([tmp_path / "0.fits"], tmp_path / "out", settings=SETTINGS)


@pytest.mark.parametrize("how", ["away", "cut short"])
def test_products_outlive_an_input_that_cannot_be_read(night, monkeypatch, tmp_path, how):
    monkeypatch.setattr(batch, "run_on_processes", run_here)
    frame, out = tmp_path / "0.fits", tmp_path / "out"
    shutil.copy2(night / "0.fits", frame)

    def run():
        return run_frames([frame], out, settings=SETTINGS).table["error"][0]

    assert run() == ""
    before = products(out)
    whole = frame.read_bytes()
    frame.unlink() if how == "away" else frame.write_bytes(whole[:3000])
    assert run() != ""
    assert products(out) == before
    frame.write_bytes(whole)
    assert run() == ""


@pytest.mark.parametrize("name", [b"b\xff", b"new\nline", b"n" * 245, b"\xc3\xa4" * 120])
def test_names_that_are_hard_to_write(night, monkeypatch, tmp_path, name):
    monkeypatch.setattr(batch, "run_on_processes", run_here)
    frame = tmp_path / os.fsdecode(name + b".fits")
    frame.write_bytes((night / "0.fits").read_bytes())
    out = tmp_path / "out"
    result = run_frames([frame], out, settings=SETTINGS)
    assert result.table["error"].tolist() == [""]
    assert run_frames([frame], out, settings=SETTINGS).n_kept == 1
    assert len(Table.read(out / "night.ecsv")) == 1
    (psf,) = out.glob("*_psf.fits")
    assert PSFModel.load(psf).fwhm > 1


def test_a_copy_on_another_machine_is_the_same_file(night, tmp_path):
    job = jobs_of(night, tmp_path)[0]
    there = tmp_path / "there.fits"
    shutil.copy2(job.path, there)
    outcome = run_job(dataclasses.replace(job, path=str(there)))
    assert not outcome["again"]
    assert "changed" not in outcome["row"]["warnings"]


def test_one_run_a_folder(night, tmp_path):
    jobs_of(night, tmp_path)
    with (
        batch._locked(tmp_path / "rows"),
        pytest.raises(OutputError, match="Another run is at work"),
    ):
        run_frames([night / "0.fits"], tmp_path, settings=SETTINGS)


@pytest.mark.parametrize(
    ("settings", "options", "words"),
    [
        ({}, {"workers": 0}, "'workers' parameter must be 1 or more"),
        ({}, {"time_limit": 0}, "'time_limit' parameter must be over 0"),
        ({}, {"workers": 1, "scheduler": "tcp://x:1"}, "not both"),
        ({"n_max": 0}, {}, "n_max"),
        ({"snr_min": -1.0}, {}, "'snr_min' parameter .--snr-min."),
        ({"gain": -1.0}, {}, "'gain' parameter .--gain. must be a positive number"),
        (
            {"saturation": float("nan")},
            {},
            "'saturation' parameter .* must be a positive number",
        ),
        ({"selector": "psychic"}, {}, "Got 'psychic'"),
        ({"mask": "none.fits"}, {}, "no file 'none.fits'"),
    ],
)
def test_wrong_parameters(night, tmp_path, settings, options, words):
    with pytest.raises(InputError, match=words):
        run_frames([night / "0.fits"], tmp_path, settings=Settings(**settings), **options)


def test_dask_is_optional(night, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'mlpsf\[dask\]'"):
        run_frames([night / "0.fits"], tmp_path, settings=SETTINGS, scheduler="tcp://x:1")


# --- what dies


class Deadly(Job):
    """A job whose arrival ends the worker."""

    def __reduce__(self):
        return os._exit, (9,)


def test_a_frame_that_kills_its_workers(night, tmp_path):
    deadly = Deadly(**vars(jobs_of(night, tmp_path)[0]))
    [(job, outcome)] = run_on_processes([deadly], 1)
    assert job is deadly
    assert outcome["row"]["error"] == "2 workers died of it, the last with exit code 9"
    assert outcome["again"]


def test_workers_that_cannot_start(night, tmp_path, monkeypatch):
    monkeypatch.setattr("mlpsf.batch.pool._serve", os._exit)
    with pytest.raises(MlpsfError, match="die before they can work"):
        list(run_on_processes(jobs_of(night, tmp_path), 2))
    assert [p for p in multiprocessing.active_children() if p.name.startswith("mlpsf")] == []


@pytest.mark.usefixtures("hanging_disk")
def test_frames_that_take_too_long(night, tmp_path):
    """The disk does not answer for some frames; the next frame gets another worker."""
    frames = [tmp_path / f"{number}.fits" for number in range(2)]
    for frame in frames:
        os.mkfifo(frame)

    def run(**limit):
        return run_frames(frames, tmp_path / "out", settings=SETTINGS, workers=1, **limit)

    assert run(time_limit=0.5).table["error"].tolist() == ["took longer than 0.5 s"] * 2
    assert [p for p in multiprocessing.active_children() if p.name.startswith("mlpsf")] == []
    for frame in frames:
        frame.unlink()
        frame.write_bytes((night / "0.fits").read_bytes())
    night_after = run()
    assert night_after.n_kept == 0
    assert night_after.table["error"].tolist() == ["", ""]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize("early", [True, False])
@pytest.mark.usefixtures("hanging_disk")
def test_ctrl_c(night, tmp_path, early):
    """As a terminal does, all processes are sent the signal, as workers start or later."""
    os.mkfifo(tmp_path / "never.fits")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "mlpsf", "run", night / "0.fits", tmp_path / "never.fits"]
    command += ["--out", out, "--workers", "1", "--n-max", "4", "--n-min", "4", "--relax"]
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        start_new_session=True,
        # What a shell starts in the background, these tests say, ignores the signal.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as run:
        try:
            if early:  # the first child is multiprocessing's own
                wait_for(lambda: len(children(run.pid)) > 1, 300)
            else:
                wait_for(lambda: (out / "rows" / "0.json").exists(), 300)
            workers = children(run.pid)
            os.killpg(run.pid, signal.SIGINT)
            said = run.stderr.read().decode()
            run.wait()
        finally:
            run.kill()
    assert run.returncode == 130
    done = 0 if early else 1
    assert said == (
        f"mlpsf: stopped: {done} of 2 frames done. The same command goes on from there.\n"
    )
    wait_for(lambda: not any(map(alive, workers)))


def children(pid):
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


@pytest.mark.usefixtures("hanging_disk")
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads Linux's /proc")
def test_killed_and_started_again(night, undisturbed, tmp_path, monkeypatch):
    """The parent is killed, then a worker of the run that takes over: same files."""
    random = np.random.default_rng(20)
    # Two frames that nobody delivers: however fast the others are done, it has not ended.
    never = [tmp_path / "never" / name for name in ("3.fits", "4.fits")]
    never[0].parent.mkdir()
    for frame in never:
        os.mkfifo(frame)
    frames = [*(night / f"{number}.fits" for number in range(3)), *never]
    out = tmp_path / "out"
    command = [sys.executable, "-m", "mlpsf", "run", *frames, "--out", out]
    command += ["--workers", "2", "--n-max", "4", "--n-min", "4", "--relax", "--quiet"]
    rows = out / "rows"
    with subprocess.Popen(command, stderr=subprocess.PIPE) as run:
        n_rows = random.integers(1, 3)
        wait_for(lambda: len(list(rows.glob("[0-9]*.json"))) >= n_rows)
        workers = children(run.pid)
        time.sleep(random.uniform(0, 0.05))
        run.kill()
        assert run.stderr.read() == b""
    assert run.returncode == -signal.SIGKILL
    wait_for(lambda: not any(map(alive, workers)))
    n_done = len(list(rows.glob("[0-9]*.json")))
    assert 1 <= n_done <= N_FRAMES - 2

    # This process takes over; its first worker is killed with a frame in hand.
    give, victims = _Worker.give, []

    def deadly_give(worker, job, time_limit):
        give(worker, job, time_limit)
        if not victims:
            victims.append(job.name)
            time.sleep(random.uniform(0, 0.1))
            worker.process.kill()

    monkeypatch.setattr(_Worker, "give", deadly_give)
    result = run_frames([f"@{night}/list.txt"], out, settings=SETTINGS, workers=1)
    assert len(victims) == 1
    assert result.n_kept == n_done
    check_same(out, undisturbed)


def test_cores():
    assert 1 <= available_cores() <= os.cpu_count()


def test_a_model_is_read_once_and_again_when_it_is_another(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(
        "mlpsf.selectors.loading.load_judge", lambda path: read.append(path) or path
    )
    model = tmp_path / "model.keras"
    model.write_text("one")
    for _ in range(3):
        assert _selector("cnn", str(model)) == str(model)
    assert len(read) == 1
    model.write_text("another")
    _selector("cnn", str(model))
    assert len(read) == 2
    assert _selector("residual", None) == "residual"


def test_a_row_says_what_reading_warns_of(tmp_path):
    header = fits.Header({"GAIN": -1.0, "SATURATE": 6e4})
    noise = np.random.default_rng(1).normal(100, 3, (2, 60, 70))
    chips = [fits.ImageHDU(chip.astype(np.float32), header) for chip in noise]
    fits.HDUList([fits.PrimaryHDU(), *chips]).writeto(tmp_path / "2.fits")
    row = run_job(jobs_of(tmp_path, tmp_path / "out", Settings())[0])["row"]
    more, nonsense = row["warnings"].split(" | ")
    assert more.startswith("2.fits[1] is the first of 2 images in the file: hdu (--hdu)")
    assert nonsense.startswith("2.fits[1]: header GAIN = -1.0 is no gain")


def test_a_row_does_not_say_what_libraries_tell_their_users(night, tmp_path, monkeypatch):
    choose = pipeline.select_stars

    def outdated(*arguments, **options):
        warnings.warn("another name is used today", DeprecationWarning, stacklevel=1)
        warnings.warn("the sky is blue", UserWarning, stacklevel=1)
        return choose(*arguments, **options)

    monkeypatch.setattr(pipeline, "select_stars", outdated)
    row = run_job(jobs_of(night, tmp_path)[0])["row"]
    assert "the sky is blue" in row["warnings"]
    assert "another name" not in row["warnings"]


def test_a_night_chooses_as_a_frame_does():
    night, alone = Settings(), rules_for("cnn")
    for name in ("n_max", "n_min", "reserve", "relax"):
        assert getattr(night, name) == getattr(alone, name)
