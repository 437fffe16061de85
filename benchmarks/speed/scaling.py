"""How a night grows: ``python -m benchmarks scaling [--frames 40] [--workers 1 2] [--dask 3]``.

Frames per second with one and more processes, and with a local Dask cluster; the memory of the
workers from the tenth frame to the last; what an archive of ten million CCDs would take at that
rate. A few frames are drawn and linked under many names: the disk's cache serves them all, so
that what is timed is the work, not the disk.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from astropy.table import Table

from benchmarks.common.stamps import OUTPUT
from mlpsf.batch.pool import available_cores
from mlpsf.batch.run import Settings, run_frames
from mlpsf.simulation import simulate_frame

ARCHIVE = 10_000_000
"""CCDs of an archive: DECam's, Hyper Suprime-Cam's or the ZTF's, in order of magnitude."""

N_DRAWN = 4  # different frames; the others are links to them
SETTLED = 10  # frames after which a worker's memory should be at its height


def draw(folder: Path, n_frames: int, shape: tuple[int, int]) -> None:
    """Write a night of so many frames, with 1 star in 5,700 pixels and twice as many galaxies."""
    n_stars = shape[0] * shape[1] // 5700
    for number in range(n_frames):
        path = folder / f"{number:05d}.fits"
        if number < N_DRAWN:
            simulate_frame(
                shape=shape, fwhm=4.0, n_stars=n_stars, n_galaxies=2 * n_stars, seed=100 + number
            ).write(path)
        else:
            path.hardlink_to(folder / f"{number % N_DRAWN:05d}.fits")


def children(pid: int) -> list[int]:
    """List the processes under a process, of all generations."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            direct = [int(p) for p in task.read_text().split()]
        except OSError:
            continue
        found += direct + [p for d in direct for p in children(d)]
    return found


def used(pid: int) -> tuple[float, float]:
    """Return resident memory (MB) and CPU seconds of a process; zeros when it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, IndexError):
        return 0.0, 0.0
    ticks = int(fields[11]) + int(fields[12])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, ticks / os.sysconf("SC_CLK_TCK")


class Sample(NamedTuple):
    """The state of a run: seconds, frames done, MB of the largest worker, CPU seconds of all."""

    time: float
    done: int
    memory: float
    cpu: float


class Watch:
    """What the workers use and how many frames are done, five times a second."""

    def __init__(self, rows: Path) -> None:
        self.rows = rows
        self.samples: list[Sample] = []
        self._over = threading.Event()

    @contextmanager
    def running(self) -> Iterator[Watch]:
        """Sample while the block runs."""
        thread = threading.Thread(target=self._sample, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._over.set()
            thread.join()

    def _sample(self) -> None:
        start = time.perf_counter()
        cpu: dict[int, float] = {}
        while not self._over.wait(0.2):
            done = len(list(self.rows.glob("[0-9]*.json")))
            largest = 0.0
            for pid in children(os.getpid()):
                memory, seconds = used(pid)
                largest = max(largest, memory)
                cpu[pid] = max(seconds, cpu.get(pid, 0.0))
            now = time.perf_counter() - start
            self.samples.append(Sample(now, done, largest, sum(cpu.values())))

    def rates(self) -> tuple[float, float]:
        """Frames a second, and CPU seconds a frame, from the first row to the last.

        The start of the workers, some seconds whatever the night's length, is left out.
        """
        there = [s for s in self.samples if s.done > 0]
        last = max(there, key=lambda s: (s.done, -s.time))
        n = max(last.done - there[0].done, 1)
        return n / (last.time - there[0].time), (last.cpu - there[0].cpu) / n

    def memory(self, n_frames: int) -> tuple[float, float]:
        """Memory (MB) of the largest worker at the tenth frame and at the end.

        The highest sample over a tenth of the night each, because a worker's memory goes up and
        down within a frame.
        """
        done = np.array([s.done for s in self.samples])
        memory = np.array([s.memory for s in self.samples])
        span = max(n_frames // 10, 4)

        def highest(low: int, high: int) -> float:
            there = memory[(done >= low) & (done <= high)]
            return float(there.max()) if there.size else float("nan")

        settled = min(SETTLED, n_frames // 2)
        return highest(settled, settled + span), highest(n_frames - span, n_frames)


def measure(
    name: str, n_frames: int, n_workers: int, run: Callable[[Path], Any]
) -> tuple[dict[str, Any], Watch]:
    """Run a night once and return its row of the table."""
    with tempfile.TemporaryDirectory() as out:
        watch = Watch(Path(out) / "rows")
        start = time.perf_counter()
        with watch.running():
            night = run(Path(out))
        wall = time.perf_counter() - start
        size = sum(p.stat().st_size for p in Path(out).glob("*_*")) / n_frames
    if not np.all(night.table["done"]):
        raise SystemExit(f"{name}: {night.table['error'].tolist()}")
    early, late = watch.memory(n_frames)
    rate, cpu = watch.rates()
    row = {
        "run": name,
        "workers": n_workers,
        "frames": n_frames,
        "wall (s)": wall,
        "frames/s": rate,
        "cpu s a frame": cpu,
        "wall s in a frame": float(np.median(night.table["seconds"])),
        "MB at frame 10": early,
        "MB at the end": late,
        "MB at most": max(s.memory for s in watch.samples),
        "MB of products": size / 1e6,
    }
    print(
        f"{name:22s} {wall:8.1f} s {rate:7.3f} frames/s   {cpu:6.2f} CPU s a frame   "
        f"{early:5.0f} MB at frame {min(SETTLED, n_frames // 2)}, {late:5.0f} MB at the end",
        flush=True,
    )
    return row, watch


def on_dask(frames: Path, out: Path, settings: Settings, n_workers: int) -> Any:
    """Run a night on a cluster of worker processes on this machine."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=n_workers, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        return run_frames(
            [frames / "*.fits"], out, settings=settings, scheduler=cluster.scheduler_address
        )


def extrapolate(row: dict[str, Any], megapixels: float) -> list[str]:
    """Say what the archive takes at the CPU time a frame of one run."""
    each = row["cpu s a frame"]
    hours = ARCHIVE * each / 3600
    return [
        f"{ARCHIVE:,} CCDs of {megapixels:.1f} Mpixel at {each:.2f} CPU s each ({row['run']}):",
        f"  {hours:,.0f} core hours; {hours / 24 / 1000:,.1f} days on 1,000 cores, "
        f"{hours / 24 / 100:,.0f} days on 100",
        f"  {ARCHIVE * row['MB of products'] / 1e6:,.1f} TB of star tables and PSFs; "
        f"{1000 * row['MB at most'] / 1024:,.0f} GB of memory on 1,000 cores",
        f"  to be read: {ARCHIVE * megapixels * 4 / 1e6:,.0f} TB of float32 pixels, "
        f"{1000 / each * megapixels * 4 / 1000:,.1f} GB/s for 1,000 cores",
    ]


def plot(rows: list[dict[str, Any]], watches: list[Watch], path: Path) -> None:
    """Draw rates, and memory over frames."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    left.bar([r["run"] for r in rows], [r["frames/s"] for r in rows], color="tab:blue")
    left.set_ylabel("frames / s")
    left.tick_params(axis="x", rotation=20)
    for row, watch in zip(rows, watches, strict=True):
        right.plot(
            [s.done for s in watch.samples], [s.memory for s in watch.samples], label=row["run"]
        )
    right.axhline(700, color="grey", ls=":", lw=1)
    right.set(xlabel="frames done", ylabel="resident memory of the largest worker (MB)", ylim=0)
    right.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Print and write the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--shape", type=int, nargs=2, default=(2048, 4176), metavar=("NY", "NX"))
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2], help="processes")
    parser.add_argument("--dask", type=int, default=3, help="Dask workers; 0 leaves it out")
    arguments = parser.parse_args()
    settings = Settings(n_min=1)
    rows: list[dict[str, Any]] = []
    watches: list[Watch] = []
    print(f"{available_cores()} cores; load {os.getloadavg()[0]:.1f} before the start", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        frames = Path(folder)
        draw(frames, arguments.frames, tuple(arguments.shape))

        def add(name: str, n_workers: int, run: Callable[[Path], Any]) -> None:
            row, watch = measure(name, arguments.frames, n_workers, run)
            rows.append(row)
            watches.append(watch)

        for n in arguments.workers:
            add(
                f"{n} process{'es' if n > 1 else ''}",
                n,
                lambda out, n=n: run_frames([frames / "*.fits"], out, settings=settings, workers=n),
            )
        if arguments.dask:
            add(
                f"Dask, {arguments.dask} workers",
                arguments.dask,
                lambda out: on_dask(frames, out, settings, arguments.dask),
            )
    rates = {r["workers"]: r["frames/s"] for r in rows if r["run"].endswith(("process", "es"))}
    if 1 in rates and len(rates) > 1:
        for n, rate in rates.items():
            if n > 1:
                print(f"{n} workers: {rate / rates[1]:.2f} times the rate of one")
    megapixels = arguments.shape[0] * arguments.shape[1] / 1e6
    print("\n".join(extrapolate(rows[0], megapixels)))
    folder_out = OUTPUT / "scaling"
    folder_out.mkdir(parents=True, exist_ok=True)
    Table(rows).write(folder_out / "scaling.ecsv", overwrite=True)
    plot(rows, watches, folder_out / "scaling.png")
