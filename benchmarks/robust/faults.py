"""A night under faults: ``python -m benchmarks faults [--frames 1000] [--seed 0] [--workers 2]``.

A night of small simulated frames is run while its workers are killed and stopped, the run itself is
killed and interrupted and given again, inputs are away or damaged for a time, the disk is full for
a time, and products and rows are damaged between the runs. Then one run without faults must give
what an undisturbed run gives: every frame a row, every failure its reason, the same products to the
byte, no other file, the inputs as they were. What is lost is listed, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from astropy.table import Table

from benchmarks.common.results import record
from mlpsf.files import file_hash
from mlpsf.simulation import simulate_frame

DRAWN = 20
FOLDERS = 3
STUCK = 300  # seconds without a new row
LIMIT = 30  # seconds of a frame, which a stopped worker exceeds
NEVER = (float("inf"), float("inf"))
ROOMS = (0, 1000, 20_000, 100_000, 400_000)  # bytes that a file may have on a full disk


class Fault(NamedTuple):
    """A fault that was injected, and the frame it was of; "" for one of the whole run."""

    kind: str
    frame: str = ""


def main() -> None:
    """Draw, disturb, compare, and tabulate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    with TemporaryDirectory() as place:
        night = Night(Path(place), arguments.frames, arguments.seed, arguments.workers)
        start = time.monotonic()
        night.run("reference")
        print(f"Undisturbed, the night took {time.monotonic() - start:.0f} s.", flush=True)
        start = time.monotonic()
        night.disturb()
        print(f"Under faults it took {time.monotonic() - start:.0f} s.", flush=True)
        night.run("out")
        wrong, lost = night.differences()
    counts = Counter(fault.kind for fault in night.faults)
    harmed = Counter(f.kind for f in night.faults if f.frame in wrong)
    rows = [{"fault": kind, "times": n, "frames lost": harmed[kind]} for kind, n in counts.items()]
    record(f"Faults of a night of {arguments.frames} frames", Table(rows))
    rows = [{"a run": how, "times": n} for how, n in sorted(night.ends.items())]
    record("How its runs ended", Table(rows))
    record("What was left", Table([{"checked": what, "wrong": n} for what, n in lost.items()]))
    print("\n".join([*night.complaints, *(f"{k}: {v}" for k, v in wrong.items())]))
    bad = sum(lost.values()) + len(night.complaints)
    print(f"{counts.total()} faults, {bad} losses.")
    sys.exit(bool(bad))


class Night:
    """A folder with the frames of a night, the outputs of its runs, and what was done to them."""

    def __init__(self, place: Path, n_frames: int, seed: int, workers: int) -> None:
        self.place, self.workers = place, workers
        self.rng = np.random.default_rng(seed)
        self.faults: list[Fault] = []
        self.ends: Counter[str] = Counter()
        self.complaints: list[str] = []
        self.away: dict[Path, int] = {}  # inputs, and the number of rows at which they come back
        self.full = NEVER  # the number of rows at which, and when, the disk has room again
        drawn = draw(place / "drawn", seed)
        self.frames: dict[Path, Path] = {}  # each name, and what it is a link to
        for number in range(n_frames):
            # Some names are there in several folders, as of several cameras.
            folder = place / f"night{number % FOLDERS}"
            folder.mkdir(exist_ok=True)
            path = folder / f"f{number if number % 5 else number // 15:04d}.fits"
            while path in self.frames:
                path = path.with_stem(path.stem + "x")
            self.frames[path] = drawn[number % len(drawn)]
            os.link(self.frames[path], path)
        (place / "list.txt").write_text("".join(f"{path}\n" for path in self.frames))
        self.before = self.inputs()

    def inputs(self) -> dict[str, str]:
        """Return the hash of every input by its path."""
        folders = [self.place / f"night{number}" for number in range(FOLDERS)]
        return {str(path): file_hash(path) for f in folders for path in sorted(f.iterdir())}

    def start(self, out: str) -> subprocess.Popen[bytes]:
        """Begin a run as a user would."""
        command = [sys.executable, "-m", "mlpsf", "run", f"@{self.place}/list.txt"]
        command += ["--out", str(self.place / out), "--workers", str(self.workers)]
        command += ["--n-min", "1", "--n-max", "3", "--relax", "--quiet"]
        command += ["--time-limit", str(LIMIT)]
        with (self.place / "said").open("wb") as said:
            return subprocess.Popen(
                command,
                stdout=said,
                stderr=said,
                start_new_session=True,
                # What a shell starts in the background ignores it.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    def run(self, out: str) -> None:
        """Run without faults, to the end."""
        code = self.start(out).wait()
        if code not in (0, 4):
            said = (self.place / "said").read_text()[-600:]
            self.complaints.append(f"The run to {out} without faults ended with {code}: {said}")

    def disturb(self) -> None:
        """Run under faults, again and again, until a run has come to its end."""
        while True:
            # It is ended after so many frames, if faults have not ended it before.
            enough = self.n_rows() + int(self.rng.integers(3, 60))
            process = self.start("out")
            try:
                code = self.watch(process, enough)
            finally:
                process.kill()
            said = (self.place / "said").read_text()
            how = {0: "to its end", 4: "to its end", 130: "interrupted", 1: "with an error"}
            how[-signal.SIGKILL] = "killed"
            self.ends[how.get(code, f"with {code}")] += 1
            print(f"{self.n_rows()} rows; ended {how.get(code)}: {said[-300:].strip()}", flush=True)
            if "Traceback" in said or code not in how:
                self.complaints.append(f"A run ended with {code}: {said[-1500:]}")
            self.put_back()
            if code in (0, 4) or len(self.complaints) > 20:
                return
            self.damage_outputs()

    def watch(self, process: subprocess.Popen[bytes], enough: int) -> int:
        """Inject faults into a run until it ends, by itself or by one of them.

        They come with the rows, not with the seconds: a night gets as many on a slow machine.
        """
        moved, since = 0, time.monotonic()
        early = since + float(self.rng.uniform(0, 20)) if self.rng.random() < 0.1 else np.inf
        while process.poll() is None:
            time.sleep(float(self.rng.uniform(0.02, 0.2)))
            now, done, last = time.monotonic(), self.n_rows(), moved
            with suppress(FileNotFoundError):  # a row that is made again is none more
                moved = (self.place / "out" / "rows").stat().st_mtime_ns
            if now - since > STUCK:
                self.complaints.append(f"Nothing came for {STUCK} s")
                os.killpg(process.pid, signal.SIGKILL)
                break
            if (done >= enough or now > early) and done < len(self.frames):
                self.end(process)
                break
            self.put_back(done)
            if done >= self.full[0] or now > self.full[1]:
                self.disk_of(process, resource.RLIM_INFINITY)
                self.full = NEVER
            if moved != last:
                since = now
                with suppress(ProcessLookupError, FileNotFoundError):
                    self.inject(process, done)
        self.full = NEVER
        return process.wait()

    def n_rows(self) -> int:
        """Return how many frames have a row."""
        return sum(1 for _ in (self.place / "out" / "rows").glob("[!.]*.json"))

    # --- faults while it runs

    def inject(self, process: subprocess.Popen[bytes], done: int) -> None:
        """Inject one fault, or none, after a frame."""
        way = self.rng.random()
        workers = list(workers_of(process.pid))
        if way < 0.06 and workers:
            time.sleep(float(self.rng.uniform(0, 0.5)))
            os.kill(int(self.rng.choice(workers)), signal.SIGKILL)
            self.faults.append(Fault("a worker killed"))
        elif way < 0.065 and workers:
            os.kill(int(self.rng.choice(workers)), signal.SIGSTOP)
            self.faults.append(Fault("a worker stopped"))
        elif way < 0.09 and self.full is NEVER:
            self.disk_of(process, int(self.rng.choice(ROOMS)))
            rows, seconds = int(self.rng.integers(1, 6)), float(self.rng.uniform(1, 20))
            self.full = (done + rows, time.monotonic() + seconds)
            self.faults.append(Fault("a full disk"))
        elif way < 0.5:
            self.take_away(self.next_frame(), done)

    def next_frame(self) -> Path:
        """Return an input that is soon to be read, or any."""
        paths = list(self.frames)
        at = self.n_rows() if self.rng.random() < 0.8 else int(self.rng.integers(len(paths)))
        return paths[min(at + int(self.rng.integers(0, 8)), len(paths) - 1)]

    def take_away(self, path: Path, done: int) -> None:
        """Make an input missing, unreadable or damaged for a time."""
        if path in self.away:
            return
        self.away[path] = done + int(self.rng.integers(1, 10))
        content = self.frames[path].read_bytes()
        new, way = path.with_name("new"), int(self.rng.integers(5))
        if way == 0:
            path.unlink()
        elif way == 1 and os.geteuid() == 0:  # who may read all
            new.symlink_to(path)
            new.replace(path)
        else:
            stars = [other for other in self.frames.values() if other != self.frames[path]]
            new.write_bytes(
                {
                    1: content,
                    2: content[: int(self.rng.integers(len(content)))],
                    3: flipped(content, self.rng),
                    4: stars[int(self.rng.integers(len(stars)))].read_bytes(),
                }[way]
            )
            if way == 1:
                new.chmod(0)
            new.replace(path)
        kinds = ("missing", "unreadable", "cut short", "damaged", "another")
        self.faults.append(Fault(f"an input {kinds[way]} for a time", str(path)))

    def put_back(self, done: float = float("inf")) -> None:
        """Put inputs back whose time is over, by default all."""
        for path, when in [*self.away.items()]:
            if when <= done:
                os.link(self.frames[path], path.with_name("new"))
                path.with_name("new").replace(path)
                path.with_name("new").unlink(missing_ok=True)  # of a link to the same, it stays
                del self.away[path]

    def disk_of(self, process: subprocess.Popen[bytes], room: int) -> None:
        """Let files of a run have so many bytes, as on a disk that is full."""
        for pid in (process.pid, *workers_of(process.pid)):
            with suppress(OSError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """Kill or interrupt a run, alone or with its workers, as a terminal or a system does."""
        kind, number = [("killed", signal.SIGKILL), ("interrupted", signal.SIGINT)][
            int(self.rng.integers(2))
        ]
        alone = self.rng.random() < 0.5
        with suppress(ProcessLookupError):
            (os.kill if alone else os.killpg)(process.pid, number)
        self.faults.append(Fault(f"the run {kind}{'' if alone else ', with its workers'}"))

    # --- faults between runs

    def damage_outputs(self) -> None:
        """Damage products and rows of some frames."""
        out = self.place / "out"
        rows = sorted((out / "rows").glob("[!.]*.json"))
        if not rows:
            return
        for _ in range(int(self.rng.integers(1, 12))):
            row = rows[int(self.rng.integers(len(rows)))]
            files = sorted(out.glob(f"{row.stem}_*"))
            way = self.rng.random()
            if way < 0.1:  # as after a power cut: names without contents
                for path in (row, *files):
                    path.write_bytes(b"")
                kind = "row and products empty"
            elif way < 0.5 or not files:
                kind = f"a row {self.damage(row, rows)}"
            else:
                same = files[int(self.rng.integers(len(files)))]
                others = [*out.glob(f"*{same.name.rpartition('_')[2]}")]
                kind = f"a product {self.damage(same, others)}"
            self.faults.append(Fault(kind, row.stem))

    def damage(self, path: Path, others: list[Path]) -> str:
        """Damage a file; return how."""
        content = path.read_bytes() if path.exists() else b""
        way = int(self.rng.integers(5))
        if way == 0 or not content:
            path.unlink(missing_ok=True)
        elif way == 1:
            path.write_bytes(content[: int(self.rng.integers(len(content)))])
        elif way == 2:
            path.write_bytes(flipped(content, self.rng))
        elif way == 3:
            other = others[int(self.rng.integers(len(others)))]
            with suppress(FileNotFoundError):
                path.write_bytes(other.read_bytes())
        else:
            path.write_bytes(b"")
        return ("removed", "cut short", "flipped", "of another", "emptied")[way]

    # --- what is left

    def differences(self) -> tuple[dict[str, str], dict[str, int]]:
        """Return what is wrong with which frame, and counts of what was checked."""
        reference, out = self.place / "reference", self.place / "out"
        wrong: dict[str, str] = {}
        files, wanted = (
            {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}
            for folder in (out, reference)
        )
        lost = {"files missing": 0, "other files": 0, "products differ": 0, "rows differ": 0}
        for name in wanted.keys() - files.keys():
            lost["files missing"] += 1
            self.complaints.append(f"{name} is missing")
        for name in files.keys() - wanted.keys():
            lost["other files"] += 1
            self.complaints.append(f"{name} is left")
        for name in sorted(wanted.keys() & files.keys()):
            product = "/" not in name and not name.startswith("night.")
            if product and file_hash(files[name]) != file_hash(wanted[name]):
                lost["products differ"] += 1
                wrong[name.rpartition("_")[0]] = f"{name} differs"
        tables = [Table.read(folder / "night.ecsv").filled("") for folder in (out, reference)]
        lost["rows too few"] = len(self.frames) - len(tables[0])
        for row, other in zip(*tables, strict=False):
            keys = [key for key in row.colnames if key != "seconds"]
            unlike = [key for key in keys if str(row[key]) != str(other[key])]
            if unlike:
                lost["rows differ"] += 1
                said = {key: (str(row[key]), str(other[key])) for key in unlike}
                wrong[str(other["frame"])] = wrong[str(other["name"])] = f"its row differs: {said}"
        failures = tables[0][~np.asarray(tables[0]["done"])]
        lost["failures without a reason"] = sum(not error for error in failures["error"])
        lost["inputs changed"] = len(set(self.before.items()) ^ set(self.inputs().items()))
        print(f"{len(tables[0])} rows, {len(failures)} of them failures, {len(files)} files.")
        return wrong, lost


def draw(folder: Path, seed: int) -> list[Path]:
    """Draw frames: the last but one has no stars, the last is cut short."""
    folder.mkdir()
    rng = np.random.default_rng([seed, 1])
    paths = [folder / f"{number}.fits" for number in range(DRAWN)]
    for number, path in enumerate(paths):
        simulate_frame(
            shape=tuple(int(n) for n in rng.integers(180, 241, 2)),
            fwhm=float(rng.uniform(2.5, 3.5)),
            n_stars=0 if number == DRAWN - 2 else int(rng.integers(12, 20)),
            n_galaxies=0,
            flux_range=(1e4, 2e5),
            seed=seed * DRAWN + number,
        ).write(path)
    content = paths[-1].read_bytes()
    paths[-1].write_bytes(content[: len(content) // 2])
    return paths


def flipped(content: bytes, rng: np.random.Generator) -> bytes:
    """Flip one bit."""
    changed = bytearray(content)
    changed[int(rng.integers(len(changed)))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def workers_of(pid: int) -> Iterator[int]:
    """Yield the processes that work for a run."""
    with suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with suppress(OSError):
                if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                    yield int(child)
