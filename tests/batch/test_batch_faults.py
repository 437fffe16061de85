"""Nights whose inputs, rows and products are touched by others: nothing is lost, or kept wrongly.

``python -m benchmarks faults`` does this to a thousand frames, at random moments.
"""

from __future__ import annotations

import errno
import json
import os

import pytest
from conftest import simulate

import mlpsf.batch.run as batch
from mlpsf.batch.inputs import plan_jobs
from mlpsf.batch.job import run_job
from mlpsf.batch.run import Settings, run_frames

SETTINGS = Settings(n_max=3, n_min=1, relax=True)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Two small frames."""
    folder = tmp_path_factory.mktemp("drawn")
    for number in range(2):
        sim = simulate(
            shape=(220, 220), fwhm=2.5, n_stars=20, n_galaxies=0, flux_range=(1e4, 2e5),
            cosmic_rays=0, hot_pixels=0, bad_columns=0, n_pairs=0, seed=number,
        )  # fmt: skip
        sim.write(folder / f"{number}.fits")
    return folder


@pytest.fixture
def night(drawn, tmp_path, monkeypatch):
    """A night of links to them, run in this process."""

    def run_here(jobs, *_):
        for job in jobs:
            yield job, run_job(job)

    monkeypatch.setattr(batch, "run_on_processes", run_here)
    folder = tmp_path / "night"
    folder.mkdir()
    for path in drawn.iterdir():
        os.link(path, folder / path.name)
    return folder


def run(night):
    return run_frames([night / "0.fits", night / "1.fits"], night / "out", settings=SETTINGS)


def products(night):
    return {p.name: p.read_bytes() for p in (night / "out").glob("[01]_*")}


@pytest.mark.parametrize("how", ["missing", "cut short", "another", "a link to itself"])
def test_a_file_that_is_another_for_a_time_is_read_again(drawn, night, how):
    """It is back, of the same size and time, before the next run looks."""
    path = night / "0.fits"
    (night / "out" / "rows").mkdir(parents=True)
    [job] = plan_jobs([path], night / "out", SETTINGS)
    path.unlink()
    if how == "a link to itself":
        path.symlink_to(path)
    elif how != "missing":
        content = (drawn / ("1.fits" if how == "another" else "0.fits")).read_bytes()
        path.write_bytes(content if how == "another" else content[:9000])
    outcome = run_job(job)
    assert outcome["again"]
    assert "the next run reads it" in outcome["row"]["warnings"]
    assert (outcome["row"]["error"] == "") == (how == "another")
    batch._keep(job, outcome)
    path.unlink(missing_ok=True)
    os.link(drawn / "0.fits", path)
    assert [job.key] == [j.key for j in plan_jobs([path], night / "out", SETTINGS)]
    result = run(night)
    assert result.n_kept == 0
    assert result.table["error"].tolist() == ["", ""]
    assert result.table["warnings"].tolist() == ["", ""]


def test_put_back_before_the_job_ends(drawn, night, monkeypatch):
    """Its size and time are those of before; when it was linked is not."""
    path = night / "0.fits"
    [job] = plan_jobs([path], night / "out", SETTINGS)

    def away(*_, **__):
        path.unlink()
        os.link(drawn / "0.fits", path)
        raise OSError("it was away")

    monkeypatch.setattr("mlpsf.frames.io.fitsio.fits.open", away)
    (night / "out").mkdir()
    outcome = run_job(job)
    assert "it was away" in outcome["row"]["error"]
    assert outcome["again"]


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE, None])
def test_what_the_system_refuses_is_tried_again(night, monkeypatch, number):
    """A disk that is away for a time says nothing of the frame; a damaged file does."""
    [job] = plan_jobs([night / "0.fits"], night / "out", SETTINGS)
    failure = OSError(number, "no") if number else OSError("no header")
    monkeypatch.setattr("mlpsf.frames.io.fitsio.fits.open", lambda *_, **__: _raise(failure))
    (night / "out").mkdir()
    outcome = run_job(job)
    assert "no readable FITS file" in outcome["row"]["error"] or number == errno.EACCES
    assert outcome["again"] == (number is not None)


def _raise(error):
    raise error


def changed(row, change):
    kept = json.loads(row.read_text())
    change(kept)
    row.write_text(json.dumps(kept))


@pytest.mark.parametrize(
    "damage",
    [
        lambda row: changed(row, lambda kept: kept["row"].update(fwhm=9.9)),
        lambda row: changed(row, lambda kept: kept["row"].update(frame="/else.fits")),
        lambda row: changed(row, lambda kept: kept["row"].update(error="lost")),
        lambda row: changed(row, lambda kept: kept.pop("sha256")),
        lambda row: row.write_bytes((row.parent / "1.json").read_bytes()),
        lambda row: row.write_text("[]"),
        lambda row: row.write_bytes(b"\xff"),
        lambda row: row.unlink(),
    ],
)
def test_a_row_that_is_not_what_was_written_is_made_again(night, damage):
    run(night)
    before = products(night)
    damage(night / "out" / "rows" / "0.json")
    result = run(night)
    assert result.n_kept == 1
    assert result.table["fwhm"][0] < 4
    assert result.table["error"].tolist() == ["", ""]
    assert products(night) == before


def test_names_without_contents_are_nobodys(night):
    """As after a power cut: no --overwrite is needed to go on."""
    run(night)
    before = products(night)
    assert len(before) == 4
    for path in (night / "out").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    result = run(night)
    assert result.n_kept == 0
    assert products(night) == before
