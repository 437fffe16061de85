"""What each stage costs in one process, warm: a part of `benchmarks.speed.speed`.

The stages are clocked where `select_stars` calls them, so that they are what it really does.
"""

from __future__ import annotations

import contextlib
import io
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
from astropy.table import Table

from mlpsf import pipeline
from mlpsf.frames import frame as frames
from mlpsf.frames.frame import Frame
from mlpsf.frames.io.reading import read_frame
from mlpsf.pipeline import select_stars
from mlpsf.psf import build_psf
from mlpsf.psf.trippy.border import load_trippy, release_downsample
from mlpsf.selection import judging
from mlpsf.selectors.judge import Judge

STAGES = {
    "background": (frames, "measure_background"),
    "find": (pipeline, "find_sources"),
    "common star": (judging, "frame_star"),
    "stamps": (judging, "extract_stamps"),
    "network": (Judge, "predict_proba"),
    "second look": (pipeline, "strike_outliers"),
    "choice": (pipeline, "choose_by"),
}
"""Where `select_stars` finds each of its steps."""


class Cost(NamedTuple):
    """Wall and CPU seconds, those of children included, and the peak memory in MB."""

    wall: float
    cpu: float
    memory: float = float("nan")

    @classmethod
    def of(cls, costs: list[Cost], how: Callable[..., Any] = np.median) -> Cost:
        """Make one of several, their median unless another way is given."""
        return cls(*(float(v) for v in how(np.array(costs), axis=0)))

    def __str__(self) -> str:
        memory = f"{self.memory:8.0f} MB" if np.isfinite(self.memory) else ""
        return f"{self.wall:9.3f} s {self.cpu:9.3f} CPU s {memory}"


def warm(function: Callable[[], Any]) -> tuple[Any, Cost]:
    """Call once; return the result and the cost."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    return result, Cost(time.perf_counter() - wall, time.process_time() - cpu)


def costs_of(table: Table, way: str, key: str = "way") -> list[Cost]:
    """Return the runs of a table's rows."""
    rows = table[table[key] == way]
    return [Cost(*(float(row[name]) for name in Cost._fields)) for row in rows]


@contextlib.contextmanager
def stage_clock() -> Iterator[dict[str, list[Cost]]]:
    """Note what every stage costs while the block runs `select_stars`."""
    spent: dict[str, list[Cost]] = defaultdict(list)

    def clocked(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            result, cost = warm(lambda: function(*args, **kwargs))
            spent[stage].append(cost)
            return result

        return call

    with contextlib.ExitStack() as stack:
        for stage, (home, name) in STAGES.items():
            stack.enter_context(patch.object(home, name, clocked(stage, getattr(home, name))))
        # One after the other, so that what they cost can be added up.
        stack.enter_context(patch.object(judging, "_threads", lambda: 1))
        yield spent


def run_warm(path: Path, repeats: int, with_trippy: bool) -> Table:
    """Time reading, each stage of the selection, the whole of it, and the PSF; and TRIPPy's."""
    rows: list[dict[str, Any]] = []

    def add(number: int, stage: str, cost: Cost) -> None:
        rows.append({"run": number, "stage": stage, **cost._asdict()})

    select_stars(read_frame(path))  # what is loaded once is loaded now
    for number in range(repeats):
        frame, cost = warm(lambda: read_frame(path))
        add(number, "read", cost)
        with stage_clock() as spent:
            select_stars(frame)
        for stage in STAGES:  # stamps are cut and judged in blocks
            add(number, stage, Cost.of(spent[stage] or [Cost(0, 0)], np.sum))
        stars, cost = warm(lambda frame=frame: select_stars(frame))
        add(number, "select_stars", cost)
        _, cost = warm(lambda frame=frame, stars=stars: build_psf(frame, stars))
        add(number, "PSF", cost)
    if with_trippy:
        with release_downsample():
            n, cost = warm(lambda: chooser(frame, stars))
            add(0, "TRIPPy's chooser", cost)
            _, cost = warm(lambda: build_psf(frame, stars, method="trippy"))
            add(0, "TRIPPy's table", cost)
        print(f"\nTRIPPy's chooser takes {n} of {(stars['snr'] > 200).sum()}")
    table = Table(rows)
    print(f"\nWarm, {len(stars)} sources, median and least of {repeats}")
    for stage in dict.fromkeys(table["stage"]):
        costs = costs_of(table, stage, "stage")
        print(f"  {stage:20s} {Cost.of(costs)}   least {Cost.of(costs, np.min)}")
    return table


def chooser(frame: Frame, sources: Table) -> int:
    """Let TRIPPy 1.1.1's starChooser choose by its automatic trim; return how many it takes."""
    load_trippy()
    from matplotlib import pyplot
    from trippy import psfStarChooser

    pyplot.switch_backend("Agg")
    bright = sources[sources["snr"] > 200]
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chosen = psfStarChooser.starChooser(
            frame.data.astype(np.float64),
            np.asarray(bright["x"]) + 1,
            np.asarray(bright["y"]) + 1,
            np.asarray(bright["flux"]),
            np.asarray(bright["flux"] / bright["snr"]),
        )(30, 200, autoTrim=True, noVisualSelection=True)
    return len(chosen[0])
