"""PSF error, builder by star list: ``python -m benchmarks psf_quality [--frames N] [--full]``.

The same frames, PSFs of five builders (ours, TRIPPy as released, PSFEx, Piff, photutils; see
`benchmarks.peers`) from the stars of eleven lists: our three selectors' (of our network's the best
25, and all that reach the threshold), the published network's, known-clean stars, what each peer
chooses by its own rule, the 25 brightest unflagged. The error against the truth is that of
the command ``psf_error``. By default each builder takes its own list, our network's and the clean
one, PSFEx, which averages hundreds, our network's whole list too, and ours takes them all;
``--full`` is every pair.

With ``--real FOLDER`` the frames are real: ours and PSFEx, from the same stars, judged by reserve
stars that neither used.

Each pair of each frame is one small file; what is there is not made again, but for the
``--redo BUILDER``.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table

from benchmarks.common.results import record
from benchmarks.common.stamps import OUTPUT
from benchmarks.peers import (
    SIDE,
    Extraction,
    Following,
    PeerPSF,
    build_photutils,
    build_piff,
    build_psfex,
    cpu_clock,
    place_table,
    trippy_stars,
)
from benchmarks.psf.psf_error import (
    brightest,
    clean_stars,
    draw,
    errors_of,
    published_network,
    purity,
)
from benchmarks.selection.real_frames import images_of
from mlpsf.errors import InputError, MlpsfError
from mlpsf.files import whole_file
from mlpsf.frames.frame import Frame
from mlpsf.frames.io.reading import read_frame
from mlpsf.pipeline import select_stars
from mlpsf.plots._figure import new_figure
from mlpsf.psf import build_psf
from mlpsf.psf.quality.judge import psf_quality
from mlpsf.selectors import NoveltySelector, PSFStarSelector
from mlpsf.simulation import SimulatedFrame

FOLDER = OUTPUT / "psf_quality"
FIGURES = ("dT/T", "de", "flux", "residual")
OWN = {
    "mlpsf": "network",
    "TRIPPy": "TRIPPy",
    "PSFEx": "PSFEx",
    "Piff": "Piff",
    "photutils": "photutils",
}
"""Builders, and the list that each has of its own."""

LISTS = (
    "network",
    "all",
    "residual",
    "novelty",
    "published",
    "clean",
    "PSFEx",
    "Piff",
    "TRIPPy",
    "photutils",
    "brightest",
)


@cache
def _network() -> PSFStarSelector:
    return PSFStarSelector.from_pretrained()


class Case:
    """One frame, and what its pairs share: lists, and SExtractor's catalogue.

    Parameters
    ----------
    sim : SimulatedFrame
    """

    def __init__(self, sim: SimulatedFrame) -> None:
        self.sim = sim
        self.extraction = Extraction(sim.frame).__enter__()
        self._lists: dict[str, Table | MlpsfError] = {}
        self._own: dict[str, PeerPSF | MlpsfError] = {}

    def close(self) -> None:
        """Remove the temporary files."""
        self.extraction.__exit__(None, None, None)

    def stars(self, name: str) -> Table:
        """Return a list of stars, x and y; raise what went wrong when it was made."""
        if name not in self._lists:
            try:
                self._lists[name] = self._choose(name)
            except MlpsfError as error:
                self._lists[name] = error
        found = self._lists[name]
        if isinstance(found, MlpsfError):
            raise found
        return found

    def _choose(self, name: str) -> Table:
        if name in ("PSFEx", "Piff", "photutils"):
            return self.build(name, name).stars
        if name == "TRIPPy":
            return trippy_stars(self.extraction)
        if name in ("clean", "brightest"):
            return place_table((clean_stars if name == "clean" else brightest)(self.sim))
        if name == "published":
            choose = published_network().get(name)
            if choose is None:
                raise InputError("no published network is there: the command study trains it")
            return place_table(choose(self.sim))
        options: dict[str, Any] = {
            "network": {"selector": _network()},
            "all": {"selector": _network(), "n_max": 10_000},
            "residual": {"selector": "residual", "threshold": 0.0},
            "novelty": {"selector": NoveltySelector(random_state=0), "threshold": 0.0},
        }[name]
        return place_table(select_stars(self.sim.frame, n_min=5, relax=True, **options))

    def build(self, builder: str, name: str) -> PeerPSF:
        """Build a PSF; a peer with its own list chooses by itself."""
        if builder in ("mlpsf", "TRIPPy"):
            return _build_ours(self.sim.frame, self.stars(name), builder)
        peer: Callable[..., PeerPSF] = {
            "PSFEx": build_psfex,
            "Piff": build_piff,
            "photutils": build_photutils,
        }[builder]
        if OWN[builder] != name:
            return peer(self.extraction, self.stars(name))
        if builder not in self._own:
            try:
                self._own[builder] = peer(self.extraction)
            except MlpsfError as error:
                self._own[builder] = error
        found = self._own[builder]
        if isinstance(found, MlpsfError):
            raise found
        return found

    def judge(self, builder: str, name: str) -> dict[str, Any]:
        """Build and compare with the truth; an error is a row too."""
        sim = self.sim
        row: dict[str, Any] = {"fwhm": sim.psf.fwhm, "builder": builder, "list": name}
        try:
            psf = self.build(builder, name)
            ny, nx = sim.frame.shape
            true = sim.psf.stamp(nx / 2, ny / 2, size=SIDE)
            got = np.asarray(psf.stamps([0.0], [0.0], SIDE))[0]
            row |= errors_of(got, true, sim.psf.fwhm)
        except (MlpsfError, RuntimeError) as error:  # GalSim's moments fail with a RuntimeError
            return row | {"error": str(error)[:200]}
        pure = purity(psf.stars, sim) if len(psf.stars) else np.nan
        return row | {"n": len(psf.stars), "pure": pure, "CPU s": psf.seconds, "error": ""}


def _build_ours(frame: Frame, stars: Table, builder: str) -> PeerPSF:
    """Build with `build_psf`, as it comes or with TRIPPy's own table."""
    options: dict[str, Any] = {"size": SIDE}
    if builder == "TRIPPy":
        options["method"] = "trippy"
    with cpu_clock() as clock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        psf = build_psf(frame, stars, **options)
        seconds = clock()
    used = np.asarray(psf.stars)
    return PeerPSF(psf.stamps, Table({"x": used[:, 0], "y": used[:, 1]}), seconds)


def pairs(
    full: bool, builders: list[str] | None = None, lists: list[str] | None = None
) -> list[tuple[str, str]]:
    """Return the pairs of builder and list that are wanted."""
    out = []
    for builder, own in OWN.items():
        few = (own, "network", "clean", *(["all"] if builder == "PSFEx" else []))
        wanted = [n for n in LISTS if full or builder == "mlpsf" or n in few]
        out += [
            (builder, n)
            for n in wanted
            if (not builders or builder in builders) and (not lists or n in lists)
        ]
    return out


def run(n_frames: int, wanted: list[tuple[str, str]], redo: list[str]) -> Table:
    """Make what is not there yet; return all rows of these frames and pairs."""
    folder = FOLDER / "pairs"
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(n_frames):
        paths = {pair: folder / f"{number:03d}-{'-'.join(pair)}.json" for pair in wanted}
        todo = [pair for pair in wanted if pair[0] in redo or not paths[pair].exists()]
        if todo:
            case = Case(draw(number))
            try:
                for pair in todo:
                    try:
                        row = {"frame": number, **case.judge(*pair)}
                    except Exception as error:  # one that breaks must not stop the others
                        print(number, *pair, repr(error), flush=True)
                        continue
                    with whole_file(paths[pair]) as temporary:
                        temporary.write_text(json.dumps({k: _plain(v) for k, v in row.items()}))
                    print(_line(row), flush=True)
            finally:
                case.close()
        rows += [json.loads(path.read_text()) for path in paths.values() if path.exists()]
    columns = ["frame", "fwhm", "builder", "list", "n", "pure", *FIGURES, "CPU s", "error"]
    empty = {"error": "", "n": 0}
    return Table({c: [row.get(c, empty.get(c, np.nan)) for row in rows] for c in columns})


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _line(row: dict[str, Any]) -> str:
    start = f"{row['frame']:3d} {row['fwhm']:5.2f} {row['builder']:10s}{row['list']:10s}"
    if row["error"]:
        return f"{start} {row['error']}"
    return start + (
        "n {n:3d} pure {pure:.2f} dT/T {dT/T:+.4f} de {de:.4f} flux {flux:+.4f} "
        "residual {residual:.4f} CPU {CPU s:.1f} s"
    ).format(**row)


def summarise(rows: Table) -> Table:
    """Median and worst of the absolute errors of each pair."""
    lines = []
    for builder in OWN:
        for name in LISTS:
            part = rows[(rows["builder"] == builder) & (rows["list"] == name)]
            good = part[part["error"] == ""]
            if len(part) == 0:
                continue
            line: dict[str, Any] = {"builder": builder, "list": name, "frames": len(good)}
            line["failed"] = len(part) - len(good)
            line["pure"] = float(np.nanmean(good["pure"])) if len(good) else np.nan
            for key in FIGURES:
                values = np.abs(np.asarray(good[key], dtype=float))
                line[f"|{key}|"] = float(np.median(values)) if len(good) else np.nan
                line[f"|{key}| worst"] = float(values.max()) if len(good) else np.nan
            line["CPU s"] = float(np.median(good["CPU s"])) if len(good) else np.nan
            lines.append(line)
    table = Table(lines)
    for column in table.colnames[4:]:
        table[column].format = ".4f" if "|" in column else ".2f"
    return table


def with_our_list(rows: Table) -> Table:
    """How each peer fares with our network's stars beside its own, frame by frame."""
    lines = []
    for builder, own in OWN.items():
        if builder == "mlpsf":
            continue
        of_builder = rows[(rows["builder"] == builder) & (rows["error"] == "")]
        theirs = {r["frame"]: r for r in of_builder[of_builder["list"] == own]}
        for name in ("network", "all"):
            pairs_of = [
                (r, theirs[r["frame"]])
                for r in of_builder[of_builder["list"] == name]
                if r["frame"] in theirs
            ]
            if not pairs_of:
                continue
            line: dict[str, Any] = {"builder": builder, "list": name, "frames": len(pairs_of)}
            for key in FIGURES:
                a, b = np.abs(
                    [(with_ours[key], with_own[key]) for with_ours, with_own in pairs_of]
                ).T
                line[f"{key} no worse"] = int((a <= b).sum())
                line[f"{key} ratio"] = float(np.median(a) / np.median(b))
            lines.append(line)
    table = Table(lines)
    for column in table.colnames:
        if column.endswith("ratio"):
            table[column].format = ".2f"
    return table


def draw_errors(rows: Table, path: Path) -> None:
    """Draw median (mark) and worst (end of the line) of every pair, a panel a figure."""
    figure = new_figure(13, 8)
    axes = figure.subplots(2, 2)
    lists = [name for name in LISTS if name in set(rows["list"])]
    for ax, key in zip(axes.flat, FIGURES, strict=True):
        for i, builder in enumerate(OWN):
            at, middle, worst = [], [], []
            for j, name in enumerate(lists):
                part = rows[(rows["builder"] == builder) & (rows["list"] == name)]
                values = np.abs(np.asarray(part[key][part["error"] == ""], dtype=float))
                if len(values):
                    at.append(j + 0.15 * (i - 2))
                    middle.append(np.median(values))
                    worst.append(values.max())
            ax.vlines(at, middle, worst, color=f"C{i}", lw=1)
            ax.plot(at, middle, "o", color=f"C{i}", ms=5, label=builder)
        ax.set(yscale="log", ylabel=f"|{key}|", xticks=range(len(lists)))
        ax.set_xticklabels(lists, rotation=30, fontsize="small")
        ax.grid(axis="y", alpha=0.3)
    marks = axes[0, 0].get_legend_handles_labels()
    figure.legend(*marks, loc="outside lower center", ncols=len(OWN), fontsize="small")
    figure.suptitle("Error of the PSF by list of stars: median of the frames, line to the worst")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)


def judge_real(folder: Path, figures: Path | None) -> Table:
    """Ours and PSFEx from the same stars of real frames, judged by stars that no one used."""
    rows, stacks = [], []
    for path in sorted(folder.glob("*.fits*")):
        for number, _, _ in images_of(path):
            frame = read_frame(path, hdu=number)
            try:
                stars = select_stars(
                    frame, selector=_network(), n_max=40, n_min=5, reserve=0.25, relax=True
                )
                if not stars["reserved"].any():
                    print(f"{frame.name}: too few stars to reserve one", flush=True)
                    continue
                with Extraction(frame, float(stars.meta["fwhm"])) as extraction:
                    places = place_table(stars)
                    ours = build_psf(frame, stars)
                    psfs: dict[str, tuple[Any, int]] = {
                        "mlpsf": (ours, len(ours.stars)),
                        "mlpsf, constant": (build_psf(frame, stars, order=0), len(ours.stars)),
                    }
                    for degree in (0, 2):
                        theirs = build_psfex(extraction, places, degree)
                        drawn = Following(theirs) if degree else theirs
                        psfs[f"PSFEx of degree {degree}"] = (drawn, len(theirs.stars))
                for builder, (psf, n) in psfs.items():
                    quality = psf_quality(frame, psf, stars)
                    line = {"frame": frame.name, "builder": builder, "made of": n}
                    line["order"] = getattr(psf, "order", int(builder[-1:] == "2") * 2)
                    line |= dict(quality.to_table()[0])
                    rows.append(line)
                    image = quality.residual_image
                    judged = np.flatnonzero(np.abs(image).max(axis=0))
                    part = slice(*np.clip([judged.min() - 1, judged.max() + 2], 0, len(image)))
                    stacks.append((f"{frame.name}\n{builder}", image[part, part]))
                    print(frame.name, builder, quality, flush=True)
            except MlpsfError as error:
                print(f"{frame.name}: {error}", flush=True)
    if figures is not None and stacks:
        n = (len(stacks) + 1) // 2
        figure = new_figure(2.2 * n, 5)
        for k, (name, image) in enumerate(stacks):
            ax = figure.add_subplot(2, n, 1 + k // 2 + n * (k % 2))
            ax.imshow(image, origin="lower", cmap="RdBu_r", vmin=-0.03, vmax=0.03)
            ax.set_title(name, fontsize=6)
            ax.set_axis_off()
        figure.suptitle("PSF minus reserve stars, median; white to full colour 3 % of the peak")
        figures.mkdir(parents=True, exist_ok=True)
        figure.savefig(figures / "psf_quality-real.png", dpi=90)
    table = Table(rows)
    for column in table.colnames:
        if table[column].dtype.kind == "f":
            table[column].format = ".4f"
    return table


CAPTIONS = {
    "summary": "Against the truth: medians and worst",
    "with-our-list": "Each builder with our list beside its own",
}


def main() -> None:
    """Build, compare, tabulate, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--builders", nargs="+", choices=list(OWN))
    parser.add_argument("--lists", nargs="+", choices=LISTS)
    parser.add_argument("--full", action="store_true", help="every builder with every list")
    parser.add_argument("--redo", nargs="+", default=[], choices=list(OWN))
    parser.add_argument("--real", type=Path, metavar="FOLDER", help="judge on real frames instead")
    parser.add_argument("--figures", type=Path, metavar="FOLDER", help="where to save figures")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    FOLDER.mkdir(parents=True, exist_ok=True)
    if arguments.real is not None:
        table = judge_real(arguments.real, arguments.figures)
        record("Reserve stars of real frames", table)
        table.write(FOLDER / "real.ecsv", overwrite=True)
        return
    rows = run(
        arguments.frames,
        pairs(arguments.full, arguments.builders, arguments.lists),
        arguments.redo,
    )
    rows.write(FOLDER / "frames.ecsv", overwrite=True)
    tables = {"summary": summarise(rows), "with-our-list": with_our_list(rows)}
    for name, table in tables.items():
        if len(table):
            record(CAPTIONS[name], table)
            table.write(FOLDER / f"{name}.ecsv", overwrite=True)
    if arguments.figures is not None:
        draw_errors(rows, arguments.figures / "psf_quality.png")
