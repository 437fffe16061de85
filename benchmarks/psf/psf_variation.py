"""A PSF that varies, against the truth at 81 places: ``python -m benchmarks psf_variation``.

Simulated frames whose FWHM changes by 2 to 15 % over the frame and whose ellipticity by as much,
100 to 2,500 stars. At a 9 x 9 grid of places: our PSF, read back from its file; its mean; PSFEx of
degree 2 and 3 from its own stars and from ours; with ``--piff 2 3``, Piff (PixelGrid and
BasisPolynomial) of order 2 and 3 from ours, which takes minutes a frame. Our stars are the shipped
network's: the best 25, as by default, and up to 200 down to PSFEx's S/N of 20 (``--n-max 200
--snr-min 20``). Frame by frame the median and the worst place; over the frames the median of both,
and the worst of all. Each frame's rows are kept in ``output``: what is there already is not done
again (``--again NAME`` does the builders whose names begin so), and ``--only NAME`` does some.

``--constant`` draws the frames of the command ``psf_quality``, whose PSF is the same everywhere:
does ours stay constant there? ``--few`` takes 5 to 15 known-clean stars of the varying frames: how
much worse can a PSF that follows them be than a constant one?
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table

from benchmarks.common.results import record
from benchmarks.common.stamps import OUTPUT
from benchmarks.peers import SIDE, Extraction, build_piff, build_psfex, cpu_clock, place_table
from benchmarks.psf.psf_error import clean_stars
from benchmarks.psf.psf_error import draw as draw_constant
from mlpsf.errors import MlpsfError
from mlpsf.files import whole_file
from mlpsf.pipeline import select_stars
from mlpsf.psf import PSFModel, build_psf
from mlpsf.psf.quality.star_shapes import adaptive_moments
from mlpsf.selectors import PSFStarSelector
from mlpsf.simulation import SimulatedFrame, simulate_frame

FIGURES = ("dT/T", "de", "flux", "residual")
GRID = 9


def draw(number: int, shape: tuple[int, int]) -> SimulatedFrame:
    """Frame `number`: seeing, profile, crowding and the size of the variation all vary."""
    rng = np.random.default_rng([78, number])
    e, angle = rng.uniform(0, 0.05), rng.uniform(0, 2 * np.pi)
    area = shape[0] * shape[1] / (2048 * 4176)
    return simulate_frame(
        shape=shape,
        fwhm=3 + 4 * ((number * 0.618) % 1),
        psf=("moffat", "kolmogorov")[number % 2],
        beta=rng.uniform(2.8, 4.5),
        e1=e * np.cos(angle),
        e2=e * np.sin(angle),
        psf_variation=0.02 + 0.13 * ((number * 0.381) % 1),
        n_stars=int(np.geomspace(100, 2500, 10)[(number * 7) % 10] * max(area, 0.5)),
        n_galaxies=int(rng.uniform(1000, 4000) * area),
        cosmic_rays=int(150 * area),
        sky_gradient=0.02,
        seed=np.random.SeedSequence([78, number]),
    )


def places(sim: SimulatedFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return the middles of the fields of a 9 x 9 grid on the frame."""
    ny, nx = sim.frame.shape
    step = (np.arange(GRID) + 0.5) / GRID
    x, y = np.meshgrid(step * nx - 0.5, step * ny - 0.5)
    return x.ravel(), y.ravel()


def errors(got: np.ndarray, true: np.ndarray, fwhm: float) -> dict[str, np.ndarray]:
    """Compare stamps (n, side, side), each normalised here to a sum of one; absolute errors."""
    got, true = (v / v.sum(axis=(1, 2), keepdims=True) for v in (got, true))
    mine, theirs = (adaptive_moments(v, fwhm / 2.3548)[:, 2:] for v in (got, true))
    u = np.arange(true.shape[1]) - true.shape[1] // 2
    inner = np.hypot(u, u[:, None]) <= 1.5 * fwhm
    return {
        "dT/T": np.abs(mine[:, 0] / theirs[:, 0] - 1),
        "de": np.hypot(*(mine - theirs)[:, 1:].T),
        "flux": np.abs(got[:, inner].sum(axis=1) / true[:, inner].sum(axis=1) - 1),
        "residual": np.abs(got - true).max(axis=(1, 2)) / true.max(axis=(1, 2)),
    }


def from_file(psf: PSFModel) -> tuple[PSFModel, int]:
    """Write a PSF and read it back; return it and the size of the file in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "psf.fits"
        psf.save(path)
        return PSFModel.load(path), path.stat().st_size


@dataclass
class Book:
    """The rows of a frame, a builder each, kept in a file.

    `only` and `again` are beginnings of the names of builders: those that are to be done, and those
    that are to be done though they are there.
    """

    path: Path
    only: tuple[str, ...] = ("",)
    again: tuple[str, ...] = ()
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path.exists():
            self.rows = json.loads(self.path.read_text())

    def wants(self, name: str) -> bool:
        """Return whether a builder is to be run."""
        return name.startswith(self.only) and (
            name not in self.rows or (bool(self.again) and name.startswith(self.again))
        )

    def write(self, row: dict[str, Any]) -> None:
        """Add a row and keep it."""
        self.rows[row["builder"]] = row
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(self.path) as path:
            path.write_text(json.dumps(self.rows, indent=1))


def judge(sim: SimulatedFrame, book: Book, builders: dict[str, Callable[[], Any]]) -> None:
    """Write a row a builder: median and worst place of each figure."""
    x, y = places(sim)
    true = np.array([sim.psf.stamp(a, b, size=SIDE) for a, b in zip(x, y, strict=True)])
    for name, build in builders.items():
        if not book.wants(name):
            continue
        row: dict[str, Any] = {"builder": name, "fwhm": sim.psf.fwhm, "error": ""}
        try:
            with cpu_clock() as clock:
                psf = build()
                row["CPU s"] = clock()
            if isinstance(psf, PSFModel):
                psf, row["kB"] = from_file(psf)
                got = psf.stamps(np.zeros(len(x)), np.zeros(len(x)), SIDE, at=(x, y))
                row |= {"order": psf.order, "n": len(psf.stars)}
            else:
                got = np.array([psf.at(a, b, SIDE) for a, b in zip(x, y, strict=True)])
                row["n"] = len(psf.stars)
            for key, values in errors(got, true, sim.psf.fwhm).items():
                row |= {key: float(np.median(values)), f"{key} worst": float(values.max())}
        except (MlpsfError, RuntimeError, MemoryError) as error:
            row["error"] = str(error)[:200]
        book.write(row)
        print(_line(row), flush=True)


def _line(row: dict[str, Any]) -> str:
    if row["error"]:
        return f"  {row['builder']:22s} {row['error']}"
    figures = " ".join(f"{k} {row[k]:.4f} {row[f'{k} worst']:.4f}" for k in FIGURES)
    order = f" order {row['order']}" if "order" in row else ""
    return f"  {row['builder']:22s} n {row['n']:3d} {figures} CPU {row['CPU s']:.1f} s{order}"


def varying(sim: SimulatedFrame, book: Book, piff: list[int]) -> None:
    """All builders on one varying frame."""
    frame, network = sim.frame, PSFStarSelector.from_pretrained()

    @cache
    def choose(n_max: int, snr_min: float) -> Table:
        options = {"n_max": n_max, "snr_min": snr_min, "n_min": 5, "relax": True}
        return place_table(select_stars(frame, selector=network, **options))

    def best() -> Table:
        return choose(25, 50.0)

    def many() -> Table:
        return choose(200, 20.0)

    with Extraction(frame) as extraction:
        builders: dict[str, Callable[[], Any]] = {
            "mlpsf 25": lambda: build_psf(frame, best(), size=SIDE),
            "mlpsf 200": lambda: build_psf(frame, many(), size=SIDE),
            "mlpsf 25, mean": lambda: build_psf(frame, best(), size=SIDE, order=0),
        }
        for degree in (2, 3):
            builders |= {
                f"PSFEx {degree}, own": lambda d=degree: build_psfex(extraction, None, d),
                f"PSFEx {degree}, our 200": lambda d=degree: build_psfex(extraction, many(), d),
            }
            if degree in piff:
                builders[f"Piff {degree}, our 200"] = lambda d=degree: build_piff(
                    extraction, many(), d
                )
        judge(sim, book, builders)


def few(sim: SimulatedFrame, book: Book, number: int) -> None:
    """Our PSF from 5 to 15 stars, as they choose, and a constant one from the same."""
    rng = np.random.default_rng([79, number])
    stars = clean_stars(sim, 25)
    n = min(5 + number % 11, len(stars))
    stars = stars[np.sort(rng.permutation(len(stars))[:n])]
    judge(sim, book, _ours_and_constant(sim, lambda: stars))


def constant(sim: SimulatedFrame, book: Book) -> None:
    """Our PSF of a frame whose PSF is the same everywhere, and one that is told so."""

    @cache
    def stars() -> Table:
        network = PSFStarSelector.from_pretrained()
        return select_stars(sim.frame, selector=network, n_min=5, relax=True)

    judge(sim, book, _ours_and_constant(sim, stars))


def _ours_and_constant(
    sim: SimulatedFrame, stars: Callable[[], Table]
) -> dict[str, Callable[[], Any]]:
    return {
        "mlpsf": lambda: build_psf(sim.frame, stars(), size=SIDE),
        "constant": lambda: build_psf(sim.frame, stars(), size=SIDE, order=0),
    }


def summarise(rows: Table) -> Table:
    """Median over frames of the median and the worst place, and the worst of all, a builder."""
    lines = []
    for name in dict.fromkeys(rows["builder"]):
        part = rows[rows["builder"] == name]
        good = part[part["error"] == ""]
        line: dict[str, Any] = {"builder": name, "frames": len(good)}
        for key in FIGURES:
            line[key] = float(np.median(good[key])) if len(good) else np.nan
            worst = good[f"{key} worst"]
            line[f"{key} worst"] = float(np.median(worst)) if len(good) else np.nan
            line[f"{key} worst of all"] = float(worst.max()) if len(good) else np.nan
        line["CPU s"] = float(np.median(good["CPU s"])) if len(good) else np.nan
        lines.append(line)
    table = Table(lines)
    for column in table.colnames[2:]:
        table[column].format = ".4f" if column != "CPU s" else ".1f"
    return table


def main() -> None:
    """Draw, build, compare, tabulate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--first", type=int, default=0, help="number of the first frame")
    parser.add_argument("--shape", type=int, nargs=2, default=(2048, 4176), metavar=("NY", "NX"))
    parser.add_argument("--piff", type=int, nargs="*", default=[], choices=(2, 3), metavar="ORDER")
    parser.add_argument("--only", nargs="*", default=[""], metavar="NAME")
    parser.add_argument("--again", nargs="*", default=[], metavar="NAME")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--constant", action="store_true", help="frames that do not vary")
    mode.add_argument("--few", action="store_true", help="5 to 15 stars")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    kind = "constant" if arguments.constant else "few" if arguments.few else "varying"
    folder, shape = OUTPUT / "psf_variation", tuple(arguments.shape)
    rows = []
    for number in range(arguments.first, arguments.first + arguments.frames):
        name = "-".join(str(v) for v in (kind, *shape, f"{number:03d}.json"))
        book = Book(folder / name, tuple(arguments.only), tuple(arguments.again))
        sim = draw_constant(number) if arguments.constant else draw(number, shape)
        print(f"frame {number}: FWHM {sim.psf.fwhm:.2f}", flush=True)
        try:
            if arguments.constant:
                constant(sim, book)
            elif arguments.few:
                few(sim, book, number)
            else:
                varying(sim, book, arguments.piff)
        except MlpsfError as error:
            print(f"  {error}", flush=True)
            continue
        rows += [{"frame": number, **row} for row in book.rows.values()]
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = Table({n: [row.get(n, "" if n == "error" else np.nan) for row in rows] for n in names})
    table.write(folder / f"{kind}.ecsv", overwrite=True)
    if arguments.constant or arguments.few:
        told = table[table["builder"] == "constant"]
        ours = table[table["builder"] == "mlpsf"]
        for key in FIGURES:
            ratio = np.asarray(ours[key]) / np.asarray(told[key])
            print(
                f"{key}: ours over constant, median {np.median(ratio):.3f}, most {ratio.max():.3f}"
            )
    summary = summarise(table)
    record("The median place and the worst of the median frame, and the worst of all", summary)
    summary.write(folder / f"{kind}-summary.ecsv", overwrite=True)
