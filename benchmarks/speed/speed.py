"""How fast, beside SExtractor and PSFEx: ``python -m benchmarks speed [--growth]``.

Cold: the commands, each in a new process, on 2048 x 4176 frames of some 1,000 and 2,000 sources in
the disk's cache, turn by turn; `select_stars` once more in a warm process, in one thread.
SExtractor and PSFEx run twice: as PSFEx's manual has it, with a PSF that varies to the second
order, and with a constant one, the least that gives a PSF; both on vignettes of 55 x 55 pixels.
Warm: the stages within ``select_stars`` in one process. Judging: the network, the vectorised
residual rule and the published one on the same sources. Growth: 100 to 100,000 sources. Run it on
an idle machine: it says so where it is none.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from astropy.io import fits
from astropy.table import Table
from threadpoolctl import threadpool_limits

from benchmarks.common.results import record
from benchmarks.common.stamps import OUTPUT
from benchmarks.peers import astromatic
from benchmarks.speed.stages import STAGES, Cost, costs_of, run_warm, warm
from mlpsf.detection.sources import find_sources
from mlpsf.flags import Flag
from mlpsf.frames.cutouts import PUBLISHED_SIZE, Cutouts, extract_cutouts
from mlpsf.frames.io.reading import read_frame
from mlpsf.pipeline import select_stars
from mlpsf.psf.trippy.border import release_downsample
from mlpsf.selection import judging
from mlpsf.selection.eligibility import SNR_MIN
from mlpsf.selectors import PSFStarSelector, ResidualSelector
from mlpsf.selectors.first_psf import judge
from mlpsf.simulation import simulate_frame
from mlpsf.stacks.fitting import FIT_HALF_WIDTH
from mlpsf.stacks.values import sky_and_noise
from mlpsf.stamps.standard import extract_stamps, frame_star

HOME = OUTPUT / "speed"
PROGRAMS = ("source-extractor", "psfex")
LEAN, MANUAL = "SExtractor + PSFEx, constant", "SExtractor + PSFEx, second order"
SELECT, PSF, WARM = "mlpsf select", "mlpsf psf", "select_stars, warm"
TARGETS = {
    # (way, peer): largest ratio
    (SELECT, LEAN): 2.0,
    (SELECT, MANUAL): 0.75,
    (PSF, LEAN): 3.0,
    (PSF, MANUAL): 1.2,
    (WARM, LEAN): 1.0,
}
COUNTS = {
    # sources that are found, about: objects that are drawn
    1000: {"n_stars": 1500, "n_galaxies": 4500},
    2000: {"n_stars": 3400, "n_galaxies": 10200},
}
GROWTH = (100, 1_000, 10_000, 100_000)
IDLE = 0.3  # load average of a machine that does nothing else
AS_PUBLISHED = "as published"  # TRIPPy's fitter, source by source, as released
LINEAR = 1.1  # exponent up to which growth is called so

FIELD: dict[str, Any] = {
    "fwhm": 2.0,
    "n_galaxies": 0,
    "n_pairs": 0,
    "flux_range": (1000.0, 3e5),
    "star_slope": 1.0,
    "clustering": 0.3,
    "cosmic_rays": 0,
    "hot_pixels": 0,
    "bad_columns": 0,
    "seed": 6,
}
"""Where sources are counted: stars alone, all bright enough to be found, a third in a cluster."""

# Starts the commands from a process that is small itself: Linux counts what a process was before
# it became the command into the command's peak memory.
_LAUNCHER = """
import json, os, subprocess, sys, time
folder, right, commands = json.loads(sys.argv[1])
cpu, peak, start = 0.0, 0, time.perf_counter()
for command in commands:
    with open("said.txt", "wb") as said:
        process = subprocess.Popen(command, cwd=folder, stdout=said, stderr=said)
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status) not in right:
        sys.exit(" ".join(command[:3]) + ": " + open("said.txt").read()[-1000:])
    cpu, peak = cpu + usage.ru_utime + usage.ru_stime, max(peak, usage.ru_maxrss)
print(json.dumps([time.perf_counter() - start, cpu, peak / 1024]))
"""


def cold(commands: list[list[str]], folder: Path, right: tuple[int, ...] = (0,)) -> Cost:
    """Run commands one after another, each in a new process; `right` are the good exit codes.

    What the last run left, under names with ``out``, is removed before.
    """
    for made in folder.glob("out*"):
        made.unlink()
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _LAUNCHER, json.dumps([str(folder), right, commands])],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr.strip())
    return Cost(*json.loads(done.stdout))


def mlpsf_command(*words: str) -> list[str]:
    """Return the installed command, or the module where none is installed."""
    script = Path(sys.executable).with_name("mlpsf")
    start = [str(script)] if script.exists() else [sys.executable, "-m", "mlpsf"]
    return [*start, *words]


def load_of_machine() -> float:
    """Say what else the machine does, and return its load average of a minute."""
    load = os.getloadavg()[0]
    print(f"load average {load:.2f} on {os.cpu_count()} cores")
    if load > IDLE:
        print("WARNING: the machine is not idle. Wall times and ratios of this run say little.")
    return load


def settings(load: float) -> dict[str, Any]:
    """Versions and machine, for the tables' metadata."""
    meta: dict[str, Any] = {"python": platform.python_version(), "machine": platform.machine()}
    packages = "mlpsf numpy scipy scikit-learn astropy sep onnxruntime tensorflow trippy"
    meta |= {name: version(name) for name in packages.split()}
    for program in PROGRAMS:
        if shutil.which(program):
            said = subprocess.run([program, "--version"], capture_output=True, text=True)
            meta[program] = (said.stdout or said.stderr).strip()
    return meta | {"cores": os.cpu_count(), "load": load}


def peer_commands(path: Path, folder: Path) -> dict[str, list[list[str]]]:
    """Return the command lines of SExtractor and PSFEx that `benchmarks.psf.psf_quality` runs.

    With a constant PSF, and with one that varies to the second order. They are run once, and noted
    down. What they are not asked for here: images of the sky and the list of stars used, which only
    that comparison needs. They read the very file that mlpsf reads.
    """
    with astromatic.Extraction(read_frame(path)) as extraction:
        with patch.object(subprocess, "run", wraps=subprocess.run) as noted:
            astromatic.build_psfex(extraction)
        commands = [list(call.args[0]) for call in noted.call_args_list]
        for name in ("default.conv", "prepsfex.param", "empty.conf"):
            shutil.copy(extraction.folder / name, folder)
    extract, build = (c for c in commands if c[0] in PROGRAMS)
    extract[extract.index("image.fits")] = path.name
    # Of two words for one setting the programs heed the last.
    extract, build = [*extract, "-CHECKIMAGE_TYPE", "NONE"], [*build, "-OUTCAT_TYPE", "NONE"]
    return {LEAN: [extract, build], MANUAL: [extract, [*build, "-PSFVAR_DEGREES", "2"]]}


def run_cold(path: Path, repeats: int) -> Table:
    """Time the ways in turn, so that what else the machine does meets all of them."""
    folder, name = path.parent, path.name
    ways = {
        SELECT: [mlpsf_command("select", name, "--out", "out.ecsv")],
        PSF: [mlpsf_command("psf", name, "--out", "out.fits")],
    }
    if all(map(shutil.which, PROGRAMS)):
        ways |= peer_commands(path, folder)
    else:
        print(f"{PROGRAMS} are not installed; on Debian: apt install source-extractor psfex")
    rows = []
    n_sources = len(select_stars(read_frame(path)))  # what is loaded once is loaded now
    for number in range(repeats):
        for way, commands in ways.items():
            rows.append({"run": number, "way": way, **cold(commands, folder)._asdict()})
        frame = read_frame(path)
        with threadpool_limits(1), patch.object(judging, "_threads", lambda: 1):
            cost = warm(lambda frame=frame: select_stars(frame))[1]
        rows.append({"run": number, "way": WARM, **cost._asdict()})
    table = Table(rows, meta={"sources": n_sources})
    lines: list[dict[str, Any]] = []
    for way in (*ways, WARM):
        costs = costs_of(table, way)
        median, least = Cost.of(costs), Cost.of(costs, np.min)
        line = {"way": way, "wall s": median.wall, "least": least.wall, "CPU s": median.cpu}
        lines.append({**line, "MB": median.memory})
    caption = f"{n_sources} sources; medians of {repeats}, turn by turn; commands from a cold start"
    record(caption, Table(lines))
    return table


def run_judging(path: Path, repeats: int, n_sample: int) -> Table:
    """CPU seconds in which each method judges the sources that the residual rule would judge."""
    frame = read_frame(path)
    found = find_sources(frame)
    fwhm = float(found.meta["fwhm"])
    unusable = Flag.SATURATED | Flag.TOO_NARROW
    network = PSFStarSelector.from_pretrained()

    def native(size: int, rows: Any) -> Cutouts:
        x, y = (np.asarray(found[key])[rows] for key in "xy")
        return extract_cutouts(frame, x, y, size, background=frame.background.level)

    def stamps(rows: Any) -> np.ndarray:
        x, y = (np.asarray(found[key])[rows] for key in "xy")
        star = frame_star(frame, found)
        return extract_stamps(frame, x, y, fwhm=fwhm, star=star).data

    usable = (found["snr"] >= SNR_MIN) & (np.asarray(found["flags"]) & unusable == 0)
    rows = np.flatnonzero(usable)
    cut = native(PUBLISHED_SIZE, rows)
    rows, published = rows[~cut.near_edge], cut.data[~cut.near_edge]
    ready, n, side = stamps(rows), len(rows), judging.own_cutout_size(fwhm)
    ways: dict[str, tuple[int, Callable[[], Any]]] = {
        "network": (n, lambda: network.predict_proba(ready)),
        "network with stamps": (n, lambda: network.predict_proba(stamps(rows))),
        "network with stamps, all": (
            len(found),
            lambda: network.predict_proba(stamps(slice(None))),
        ),
        "residual rule": (n, lambda: ResidualSelector().fit(native(side, rows).data)),
    }
    out: list[dict[str, Any]] = []
    with threadpool_limits(1):  # threads that wait for others count too
        for way, (judged, function) in ways.items():
            cpu = min(warm(function)[1].cpu for _ in range(repeats))
            out.append({"way": way, "sources": judged, "timed": judged, "cpu": cpu})
        if n_sample:
            data = published - sky_and_noise(published)[0][:, None, None]
            psf = ResidualSelector().fit(published).psf_
            chosen = data[np.random.default_rng(1).permutation(n)[:n_sample]]
            with release_downsample():
                cost = warm(lambda: judge(chosen, psf, FIT_HALF_WIDTH, "trippy"))[1]
            cpu = cost.cpu / len(chosen) * n
            out.append({"way": AS_PUBLISHED, "sources": n, "timed": len(chosen), "cpu": cpu})
    print(f"\nJudging, CPU seconds a frame, the least of {repeats}")
    for line in out:
        print("  {way:26s} {cpu:9.3f}   {sources} sources, {timed} of them timed".format(**line))
    return Table(out)


def run_growth(counts: list[int], field: dict[str, Any], folder: Path) -> Table:
    """Time ``mlpsf select`` on one field with ever more stars."""
    rows = []
    print("\nGrowth of a cold mlpsf select")
    for count in counts:
        path, out = folder / "growth.fits", folder / "out.ecsv"
        write_frame(path, n_stars=count * 9 // 8, **field)  # one in nine hides behind another
        # Code 3, too few stars: the work has been done, and the table is there.
        command = mlpsf_command("select", path.name, "--out", out.name, "--n-min", "1")
        cost = cold([command], folder, right=(0, 3))
        found = len(Table.read(out))
        rows.append({"wanted": count, "sources": found, **cost._asdict()})
        print(f"  {found:7d} sources {cost}", flush=True)
    if len(rows) > 1:
        before, last = rows[-2:]
        step = np.log10(last["sources"] / before["sources"])
        for key in Cost._fields:
            slope = np.log10(last[key] / before[key]) / step
            word = "at most linear" if slope <= LINEAR else "MORE THAN LINEAR"
            print(f"  {key:6s} grows as sources to the {slope:.2f} in the last step: {word}")
        more = (last["memory"] - before["memory"]) / (last["sources"] - before["sources"])
        print(f"  {1024 * more:.1f} kB more memory a source")
    return Table(rows)


def write_frame(path: Path, **parameters: Any) -> None:
    """Draw a frame and write it as a telescope would: the image, and no truth beside it."""
    frame = simulate_frame(**parameters).frame
    fits.writeto(path, frame.data, frame.header, overwrite=True)


def compare(runs: Table, judged: Table | None = None) -> None:
    """Record the ratios that matter, each with its target.

    The median, over the repeats, of the ratio of what ran turn by turn.
    """
    rows: list[dict[str, Any]] = []

    def say(what: str, target: float, wall: float, cpu: float) -> None:
        met = "yes" if (wall if np.isfinite(wall) else cpu) <= target else "NO"
        rows.append({"ratio": what, "wall": wall, "CPU": cpu, "at most": target, "met": met})

    for (way, peer), target in TARGETS.items():
        if peer in runs["way"]:
            pairs = zip(costs_of(runs, way), costs_of(runs, peer), strict=True)
            ratios = [(ours.wall / theirs.wall, ours.cpu / theirs.cpu) for ours, theirs in pairs]
            say(f"{way} / {peer}", target, *np.median(ratios, axis=0))
    if judged is not None:
        cpu = dict(zip(judged["way"], judged["cpu"], strict=True))
        for rule, target in (("residual rule", 0.5), (AS_PUBLISHED, 0.002)):
            for way in ("network", "network with stamps") if rule in cpu else ():
                say(f"{way} / {rule}", target, np.nan, cpu[way] / cpu[rule])
    if rows:
        record(f"Ratios, {runs.meta['sources']} sources", Table(rows))


def draw(runs: Table, stages: Table, growth: Table | None, path: Path) -> None:
    """Draw the cold times, the stages on each other, and the growth."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4), layout="constrained")
    FigureCanvasAgg(figure)
    widths = [2, 1] if growth is None else [2, 1, 1]
    panels = figure.subplots(1, len(widths), width_ratios=widths)
    left, middle = panels[:2]
    ways = list(dict.fromkeys(runs["way"]))
    for shift, clock in ((-0.2, "wall"), (0.2, "cpu")):
        values = [[getattr(c, clock) for c in costs_of(runs, way)] for way in ways]
        left.bar(np.arange(len(ways)) + shift, [np.median(v) for v in values], 0.4, label=clock)
        for at, seconds in enumerate(values):
            left.plot([at + shift] * len(seconds), seconds, "k.", ms=3)
    names = [way.replace(", ", ",\n").replace(" + ", " +\n") for way in ways]
    left.set(xticks=range(len(ways)), ylabel="s, cold start", title="Commands")
    left.set_xticks(range(len(ways)), names, fontsize="small")
    left.legend()
    parts = ["read", *STAGES, "PSF"]
    colours = colormaps["tab10"](range(10))
    for at, clock in enumerate(("wall", "cpu")):
        below = 0.0
        for part, colour in zip(parts, colours, strict=False):
            height = getattr(Cost.of(costs_of(stages, part, "stage")), clock)
            middle.bar(at, height, 0.6, bottom=below, color=colour, label=None if at else part)
            below += height
    middle.set(xticks=[0, 1], xticklabels=["wall", "cpu"], xlim=(-0.5, 3), ylabel="s, warm")
    middle.set_title("Stages")
    middle.legend(reverse=True, fontsize="small")
    if growth is not None:
        right = panels[2]
        right.set(xlabel="sources", ylabel="s; GB", title="Growth of mlpsf select")
        for key, scale, label in (
            ("wall", 1, "wall, s"),
            ("cpu", 1, "cpu, s"),
            ("memory", 1024, "GB"),
        ):
            right.loglog(growth["sources"], growth[key] / scale, "o-", label=label)
        right.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Print and write the tables and the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--fwhm", type=float, default=4.0)
    parser.add_argument("--shape", type=int, nargs=2, default=(4176, 2048), metavar=("NY", "NX"))
    parser.add_argument("--sample", type=int, default=20, help="sources of the published method")
    parser.add_argument("--no-trippy", action="store_true", help="leave TRIPPy's own parts out")
    parser.add_argument(
        "--growth", type=int, nargs="*", metavar="STARS", help=f"unless given: {GROWTH}"
    )
    parser.add_argument(
        "--growth-shape", type=int, nargs=2, default=(6144, 6144), metavar=("NY", "NX")
    )
    arguments = parser.parse_args()
    meta = settings(load_of_machine())
    share = arguments.shape[0] * arguments.shape[1] / (4176 * 2048)
    shape = tuple(arguments.growth_shape)
    field = FIELD | {"shape": shape, "cluster_radius": shape[0] / 6}
    HOME.mkdir(parents=True, exist_ok=True)
    kept = HOME / "growth.ecsv"

    def keep(table: Table, name: str, frame: dict[str, Any]) -> Table:
        table.meta |= meta | {"frame": frame}
        table.write(HOME / f"{name}.ecsv", overwrite=True)
        return table

    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "frame.fits"
        for count in reversed(COUNTS):  # what follows is of the first
            parameters: dict[str, Any] = {
                "shape": tuple(arguments.shape),
                "fwhm": arguments.fwhm,
                **{key: int(n * share) for key, n in COUNTS[count].items()},
                "seed": 5,
            }
            write_frame(path, **parameters)
            runs = keep(run_cold(path, arguments.repeats), f"cold_{count}", parameters)
            if count != min(COUNTS):
                compare(runs)
        with_trippy = not arguments.no_trippy
        stages = keep(run_warm(path, arguments.repeats, with_trippy), "stages", parameters)
        n_sample = arguments.sample if with_trippy else 0
        judged = keep(run_judging(path, arguments.repeats, n_sample), "judging", parameters)
        compare(runs, judged)
        if arguments.growth is not None:
            counts = arguments.growth or list(GROWTH)
            keep(run_growth(counts, field, Path(name)), "growth", field)
    draw(runs, stages, Table.read(kept) if kept.exists() else None, HOME / "speed.png")
