"""A night on the workers of a Dask scheduler, one of which is killed."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from conftest import simulate

from mlpsf.batch.inputs import plan_jobs
from mlpsf.batch.job import run_job
from mlpsf.batch.run import Settings, run_frames
from mlpsf.errors import InputError

distributed = pytest.importorskip(
    "distributed", reason="the extra 'dask' is not installed", exc_type=ImportError
)

dask = pytest.importorskip("dask")

SETTINGS = Settings(n_max=4, n_min=4, relax=True)  # whatever the network says of these
N_FRAMES = 6


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    folder = tmp_path_factory.mktemp("night")
    for number in range(N_FRAMES):
        sim = simulate(
            shape=(300, 300),
            fwhm=2.5,
            n_stars=30,
            n_galaxies=8,
            flux_range=(1e4, 2e5),
            bad_columns=0,
            seed=number,
        )
        fits.writeto(folder / f"{number}.fits", sim.frame.data)
    return folder


def cluster_of(n_workers, space):
    """Start workers of one thread, each in a process of its own, on this machine."""
    return distributed.LocalCluster(
        n_workers=n_workers,
        threads_per_worker=1,
        processes=True,
        dashboard_address=None,
        local_directory=str(space),
        silence_logs=logging.CRITICAL,
    )


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dask_worker_is_killed(night, tmp_path):
    folder = tmp_path / "dask"
    with cluster_of(2, tmp_path / "space") as cluster:
        pids = [nanny.pid for nanny in cluster.workers.values()]

        def kill_one():
            # Once the first row is there, both are at work.
            end = time.monotonic() + 60
            while not list(folder.glob("rows/*.json")) and time.monotonic() < end:
                time.sleep(0.01)
            os.kill(pids[0], signal.SIGKILL)

        killer = threading.Thread(target=kill_one, daemon=True)
        killer.start()
        result = run_frames(
            [night / "*.fits"], folder, settings=SETTINGS, scheduler=cluster.scheduler_address
        )
        killer.join()
        assert {nanny.pid for nanny in cluster.workers.values()} != set(pids)
    assert result.table["error"].tolist() == [""] * N_FRAMES
    assert result.n_kept == 0
    # In one process of this machine, the same files.
    local = tmp_path / "local"
    local.mkdir()
    [job] = plan_jobs([night / "0.fits"], local, SETTINGS)
    assert run_job(job)["row"]["fwhm"] == result.table["fwhm"][0]
    for name in ("0_stars.ecsv", "0_psf.fits"):
        assert (folder / name).read_bytes() == (local / name).read_bytes()
    assert not list(folder.glob(".mlpsf-*"))
    assert len(list(folder.iterdir())) == 2 * N_FRAMES + 1 + len(result.files)
    assert np.all(np.asarray(Table.read(folder / "night.ecsv")["done"]))


@pytest.mark.usefixtures("hanging_disk")
def test_a_frame_that_takes_too_long(tmp_path):
    os.mkfifo(tmp_path / "never.fits")
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        cluster_of(1, tmp_path / "space") as cluster,
    ):
        result = run_frames(
            [tmp_path / "never.fits"],
            tmp_path / "out",
            settings=SETTINGS,
            scheduler=cluster.scheduler_address,
            time_limit=0.5,
        )
    assert result.table["error"].tolist() == [
        "too many Dask workers died of it: was memory short, or the time limit?"
    ]


def test_no_scheduler(night, tmp_path, monkeypatch):
    monkeypatch.setattr("mlpsf.batch.pool._CONNECT", 0.3)
    with pytest.raises(InputError, match="No Dask scheduler answers at"):
        run_frames([night / "0.fits"], tmp_path, settings=SETTINGS, scheduler="tcp://127.0.0.1:9")
    with pytest.raises(InputError, match="There is no scheduler file"):
        run_frames([night / "0.fits"], tmp_path, settings=SETTINGS, scheduler="none.json")
