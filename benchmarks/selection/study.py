"""The ML-PSF study, done again on two simulated nights: ``python -m benchmarks study``.

The published network trained as published, on the study's own labels, beside what mlpsf makes of
the same frames; the study's figures, each with its 95 % interval over whole frames, on frames and
a night that were never seen; by the study's labels and by the truth; how far the labels themselves
can be trusted; the times; the study's plots. Trained networks are kept and found again.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from benchmarks.common.nights import (
    Sample,
    draw_night,
    label_frame,
    load_night,
    load_reruns,
    make_nights,
)
from benchmarks.common.results import record
from benchmarks.common.scores import STUDY_RECALL, STUDY_SCORES, score
from benchmarks.common.stamps import OUTPUT
from mlpsf.frames.cutouts import PUBLISHED_SIZE, extract_cutouts
from mlpsf.labelling import balance, in_range, split_frames
from mlpsf.psf import build_psf
from mlpsf.psf.trippy.border import release_downsample
from mlpsf.selectors import PSFStarSelector, ResidualSelector
from mlpsf.stacks.values import sky_and_noise
from mlpsf.stamps.scaling import CutoutScaler
from mlpsf.stamps.standard import STAMP_SIZE, extract_stamps, frame_star

HOME = OUTPUT / "study"
FIGURES = Path(__file__).parents[1] / "figures" / "study"
PUBLISHED = (0.8912, 0.8981, 0.8843, 0.9387, 0.7123, 0.0465, 0.9387)
"""The study's figures, in the order of `STUDY_SCORES`."""

_HELD = 2 / 9  # of the nine tenths to learn from: 70 % train, 20 % validate, 10 % test
LETTER = {"architecture": "published", "learning_rate": 1e-4, "batch_size": 256}
"""The published network as it was trained, to the letter."""

STOP = {"epochs": 60, "early_stopping": True, "patience": 8, "batch_size": 64}
LONGER = LETTER | STOP | {"learning_rate": 1e-3}
"""The same until the validation loss no longer falls: smaller batches, larger steps."""


def train(name: str, settings: dict[str, Any], sample: Sample, by_frame: bool = True) -> Any:
    """Train a network, or find it again."""
    from mlpsf.selectors import networks

    settings = {"random_state": 1, "validation_fraction": _HELD} | settings
    size = PUBLISHED_SIZE if settings.get("architecture") == "published" else STAMP_SIZE
    content = hashlib.sha256(json.dumps([settings, size, by_frame], sort_keys=True).encode())
    # A network or a scaling that has changed since is another one; so are other sources.
    content.update(inspect.getsource(networks).encode() + repr(CutoutScaler()).encode())
    for values in (sample.frame, sample.data["row"][sample.rows], sample.y, 1e6 * sample.weight):
        content.update(values.astype(np.int64).tobytes())
    path = HOME / f"{name.replace(' ', '-').replace(',', '')}-{content.hexdigest()[:12]}.keras"
    start, cpu = time.monotonic(), time.process_time()
    if not path.exists():
        selector = PSFStarSelector(**settings)
        groups = sample.frame if by_frame else None
        selector.fit(sample.pixels(size), sample.y, groups, sample.weight)
        selector.save(path)
    selector = PSFStarSelector.load(path)
    loss, n = selector.history_["val_loss"], len(sample.y) * (1 - _HELD)
    print(
        f"{name}: about {n:.0f} cutouts, {len(loss)} epochs, "
        f"{len(loss) * np.ceil(n / selector.batch_size):.0f} steps; validation loss "
        f"{min(loss):.3f} at best, {loss[-1]:.3f} at last; now {time.monotonic() - start:.0f} s, "
        f"{time.process_time() - cpu:.0f} CPU s",
        flush=True,
    )
    return selector


def row_of(name: str, taught: str, judged: str, on: str, y: Any, p: Any, frame: Any) -> dict:
    """One line of the table: every figure with its interval."""
    table = score(y, p, frame, n_boot=400, scores=STUDY_SCORES)
    row: dict[str, Any] = {"selector": name, "taught by": taught, "judged by": judged, "on": on}
    row |= {"sources": len(y), "frames": len(np.unique(frame))}
    for line in table:
        row |= {line["score"]: line["value"], line["score"] + " low": line["low"]}
        row |= {line["score"] + " high": line["high"]}
    return row


def log_distance(sample: Sample) -> np.ndarray:
    """Give the rule's own figure of each source, and whether its brightness rules it out."""
    cut = sample.pixels(PUBLISHED_SIZE)
    allowed = in_range(cut - sky_and_noise(cut)[0][:, None, None])
    distance = np.clip(sample.data["distance"][sample.rows], 1e-3, 1e3)
    return np.column_stack([np.log10(distance), ~allowed])


def ceilings(n_reruns: int, n_noise: int) -> tuple[list[dict], str]:
    """How well the rule agrees with itself when nothing but the noise is drawn anew."""
    collected: dict[str, list[np.ndarray]] = {"y": [], "again": [], "mean": [], "frame": []}
    for number in range(n_reruns):
        labels = load_reruns(number, n_noise)
        if labels is None:
            continue
        labels = labels[:, (labels >= 0).all(axis=0)]
        good = labels.mean()
        for j, y in enumerate(labels if labels.any(axis=1).all() else []):
            rows = balance(y, random_state=j)
            others = np.delete(labels, j, axis=0)[:, rows]
            share = (others.sum(axis=0) + good) / (len(others) + 1.0)
            odds = share / (1 - share) * (1 - good) / good  # in a set of as many good as bad
            collected["y"].append(y[rows])
            collected["again"].append(others[j % len(others)])
            collected["mean"].append(odds / (1 + odds))
            collected["frame"].append(np.full(len(rows), number))
    if not collected["y"]:
        return [], ""
    y, again, mean, frame = (np.concatenate(collected[k]) for k in ("y", "again", "mean", "frame"))
    rows = [
        row_of("the rule, once more", "rule", "rule", "other noise", y, again.astype(float), frame),
        row_of(f"the rule, mean of {n_noise}", "rule", "rule", "other noise", y, mean, frame),
    ]
    # Steps of the mean: between two of them the best is a mixture, a straight line of the ROC.
    steps = np.unique(mean)[::-1]
    recall = np.array([0.0, *(np.mean(mean[y == 1] >= s) for s in steps)])
    false = np.array([0.0, *(np.mean(mean[y == 0] >= s) for s in steps)])
    at = float(np.interp(STUDY_RECALL, recall, false))
    best = float(np.max((recall + 1 - false) / 2))
    note = (
        f"What knows the scene but not the noise: at a recall of {STUDY_RECALL:.2%} its precision "
        f"on the rule's labels is {STUDY_RECALL / (STUDY_RECALL + at):.2%}; its best balanced "
        f"accuracy {best:.2%}."
    )
    return rows, note


def cpu_of(function: Callable[[], Any], repeat: int = 3) -> float:
    """Least CPU seconds of a call, on one thread: threads that wait for others count too."""
    seconds = []
    for _ in range(repeat):
        with threadpool_limits(1):
            start = time.process_time()
            function()
            seconds.append(time.process_time() - start)
    return min(seconds)


def times_of(network: Any, n_frames: int) -> dict[str, list[float]]:
    """Measure CPU seconds a frame of choosing among the same sources, cutting out included."""
    shipped = PSFStarSelector.from_pretrained()
    kept = HOME / f"times-{n_frames}-{shipped.model_sha256_[:8]}.json"
    if kept.exists():
        return dict(json.loads(kept.read_text()))
    path = network.save(HOME / "timed.keras")
    keras = PSFStarSelector.load(path, engine="keras")
    out: dict[str, list[float]] = {}
    for number in range(n_frames):
        sim = draw_night(2, number)
        made = label_frame(sim)
        x, y = (np.asarray(made.sources[key])[made.rows] for key in ("x", "y"))
        sky = sim.frame.background.level

        def native(at: Any = (sim, x, y, sky)) -> np.ndarray:
            return extract_cutouts(at[0].frame, at[1], at[2], background=at[3]).data

        def stamps(at: Any = (sim.frame, x, y, made.sources)) -> np.ndarray:
            frame, x, y, sources = at
            star = frame_star(frame, sources)
            fwhm = sources.meta["fwhm"]
            return extract_stamps(frame, x, y, fwhm=fwhm, star=star).data

        def published(cut: Any = native) -> None:
            with release_downsample():
                ResidualSelector(fitter="trippy", n_iter=0).fit(cut())

        for name, function, repeat in (
            ("published network, ONNX", lambda cut=native: network.predict_proba(cut()), 3),
            ("published network, Keras", lambda cut=native: keras.predict_proba(cut()), 3),
            ("shipped network", lambda cut=stamps: shipped.predict_proba(cut()), 3),
            ("residual rule, vectorised", lambda cut=native: ResidualSelector().fit(cut()), 3),
            ("residual rule, TRIPPy's fit", published, 1),
        ):
            out.setdefault(name, []).append(cpu_of(function, repeat))
    kept.write_text(json.dumps(out, indent=1) + "\n")
    return out


def as_text(rows: list[dict]) -> Table:
    """Put the table in percent, every figure with its interval, as it is read."""
    lines = []
    for row in rows:
        line = {key: row[key] for key in ("selector", "taught by", "judged by", "on", "sources")}
        for name in STUDY_SCORES:
            text = f"{100 * row[name]:.1f}"
            if np.isfinite(row[name + " low"]):
                text += f" ({100 * row[name + ' low']:.1f}-{100 * row[name + ' high']:.1f})"
            line[name] = text
        lines.append(line)
    return Table(lines)


def draw_figures(sample: Sample, network: Any, letter: Any, times: dict[str, list[float]]) -> None:
    """Draw the study's plots of the night of judgement."""
    from PIL import Image
    from sklearn.metrics import ConfusionMatrixDisplay, PrecisionRecallDisplay, RocCurveDisplay

    from mlpsf.plots import (
        ConfidenceDisplay,
        CutoutSheetDisplay,
        PSFComparisonDisplay,
        SizeHistogramDisplay,
        TimesDisplay,
        TrainingHistoryDisplay,
    )
    from mlpsf.plots._figure import new_figure

    FIGURES.mkdir(parents=True, exist_ok=True)

    def save(name: str, figure: Any) -> None:
        path = FIGURES / f"{name}.png"
        figure.savefig(path, dpi=80)
        if name.startswith("chosen"):  # noise packs badly: a palette makes it a small file
            with Image.open(path) as image:
                small = image.convert("RGB").quantize(64)
            small.save(path, optimize=True)

    p = network.predict_proba(sample.pixels(PUBLISHED_SIZE))[:, 1]
    y, taken = sample.y, (p >= 0.5).astype(int)
    figure = new_figure(4.2, 3.6)
    ConfusionMatrixDisplay.from_predictions(
        y,
        taken,
        normalize="true",
        display_labels=["other", "good"],
        values_format=".2%",
        cmap="Blues",
        ax=figure.subplots(),
    )
    save("confusion", figure)
    for name, display in (("roc", RocCurveDisplay), ("precision_recall", PrecisionRecallDisplay)):
        figure = new_figure(4.2, 4)
        display.from_predictions(y, p, ax=figure.subplots(), name="night 2, rule's labels")
        save(name, figure)
    fwhm = sample.data["fwhm"][sample.rows]
    sizes = SizeHistogramDisplay.from_predictions(y, taken, fwhm, bins=np.linspace(2, 15, 27))
    save("fwhm", sizes.figure_)
    save("confidence", ConfidenceDisplay.from_predictions(y, p).figure_)
    save("history_as_published", TrainingHistoryDisplay.from_selector(letter).figure_)
    save("times", TimesDisplay.from_times(times).figure_)
    draw_selections(network, CutoutSheetDisplay, PSFComparisonDisplay, save)


def draw_selections(
    network: Any, sheet: Any, comparison: Any, save: Callable[[str, Any], None]
) -> None:
    """Draw what both methods choose in the first frame of night 2, and the PSFs they make."""
    sim = draw_night(2, 0)
    made = label_frame(sim)
    rule = made.rule
    models = {}
    for name, p in (
        ("network", network.predict_proba(made.cutouts)[:, 1]),
        ("residual rule", np.where(rule.labels_ == 1, rule.predict_proba(made.cutouts)[:, 1], -1)),
    ):
        best = np.argsort(-p, kind="stable")[:25]
        best = best[p[best] >= 0]
        titles = [f"{p[i]:.3f}" for i in best]
        drawn = sheet(cutouts=made.cutouts[best], titles=titles).plot(stretch="zscale")
        save(f"chosen_by_{name.replace(' ', '_')}", drawn.figure_)
        models[name] = build_psf(sim.frame, made.sources[made.rows[best]])
    save("psfs", comparison.from_models(models, kind="lookup_table").figure_)


class Report:
    """The table as it grows, written after every selector."""

    def __init__(self, tests: dict[tuple[str, str], Sample]) -> None:
        self.tests = tests
        self.rows: list[dict[str, Any]] = []

    def add(self, name: str, taught: str, judge: Callable[[Sample], np.ndarray]) -> None:
        """Judge all test sources."""
        for (label, on), sample in self.tests.items():
            p = judge(sample)
            self.rows.append(row_of(name, taught, label, on, sample.y, p, sample.frame))
        self.write()

    def add_network(self, name: str, taught: str, network: Any) -> None:
        """Judge all test sources by a network."""
        size = network.cutout_size_
        self.add(name, taught, lambda s: network.predict_proba(s.pixels(size))[:, 1])

    def write(self) -> None:
        """Write it whole."""
        table = Table(self.rows)
        for name in table.colnames[6:]:
            table[name].format = ".4f"
        table.write(HOME / "study.ecsv", overwrite=True)


def published_row() -> dict[str, Any]:
    """Give the study's own figures, which have no interval."""
    row: dict[str, Any] = {"selector": "the study", "taught by": "rule", "judged by": "rule"}
    row |= {"on": "10 % of its cutouts", "sources": 31800, "frames": -1}
    for name, value in zip(STUDY_SCORES, PUBLISHED, strict=True):
        row |= {name: value, name + " low": np.nan, name + " high": np.nan}
    return row


def by_cutout(name: str, settings: dict[str, Any], sample: Sample) -> dict[str, Any]:
    """Split as the study did, by cutout: neighbours of one frame are on both sides."""
    order = np.random.default_rng(0).permutation(len(sample.y))
    test, learn = np.split(order, [len(order) // 10])
    network = train(f"{name}, split by cutout", settings, sample.part(np.sort(learn)), False)
    tested = sample.part(np.sort(test))
    p = network.predict_proba(tested.pixels(network.cutout_size_))[:, 1]
    return row_of(
        f"{name}, split by cutout", "rule", "rule", "10 % of cutouts", tested.y, p, tested.frame
    )


def main() -> None:
    """Draw, label, train, test, time, plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=100, help="frames of night 1")
    parser.add_argument("--judged", type=int, default=30, help="frames of night 2")
    parser.add_argument("--reruns", type=int, default=8, help="of these, labelled anew")
    parser.add_argument("--noises", type=int, default=4, help="times under other noise")
    parser.add_argument("--epochs", type=int, default=60, help="of the network as published")
    parser.add_argument("--timed", type=int, default=2, help="frames of night 2 to time")
    parser.add_argument("--short", action="store_true", help="leave two slow networks out")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    HOME.mkdir(parents=True, exist_ok=True)
    frames = {1: arguments.frames, 2: arguments.judged}
    make_nights(frames, arguments.reruns, arguments.noises, arguments.workers)
    design, judged = (load_night(night, range(n)) for night, n in frames.items())
    learn_rows, test_rows = split_frames(design["frame"], (0.9, 0.1), random_state=0)
    learn, tests = {}, {}
    for label in ("rule", "truth"):
        learn[label] = Sample.balanced(1, design, label, learn_rows)
        tests[label, "10 % of night 1"] = Sample.balanced(1, design, label, test_rows)
        tests[label, "night 2"] = Sample.balanced(2, judged, label)
    counts = {key: len(sample.y) for key, sample in tests.items()}
    print({key: len(sample.y) for key, sample in learn.items()}, "cutouts to learn from;", counts)
    report = Report(tests)
    report.rows.append(published_row())
    lines, note = ceilings(arguments.reruns, arguments.noises)
    report.rows += lines
    # What knows every source's distance to the digit, but not the other sources of its frame.
    cut = LogisticRegression(C=1e3).fit(log_distance(learn["rule"]), learn["rule"].y)
    report.add(
        "the rule's distance, one cut", "rule", lambda s: cut.predict_proba(log_distance(s))[:, 1]
    )
    letter = train("published", LETTER | {"epochs": arguments.epochs}, learn["rule"])
    report.add_network("the same, calibrated", "rule", letter)
    letter.calibration_ = (1.0, 0.0)  # the study's probabilities are the network's own
    report.add_network("published, as published", "rule", letter)
    report.add_network("compact", "rule", train("compact", STOP, learn["rule"]))
    everything = Sample.weighted(1, design, "rule", learn_rows)
    report.add_network(
        "compact, all sources", "rule", train("compact, all sources", STOP, everything)
    )
    report.rows.append(by_cutout("compact", STOP, Sample.balanced(1, design, "rule")))
    report.add_network("compact, on truth", "truth", train("compact truth", STOP, learn["truth"]))
    report.add_network("as shipped", "other truth", PSFStarSelector.from_pretrained())
    network = train("published, until it stops", LONGER, learn["rule"])
    report.add_network("published, until it stops", "rule", network)
    print(note)
    times = times_of(network, arguments.timed)
    for name, seconds in times.items():
        print(f"{name:30s} {np.median(seconds):9.3f} CPU s a frame  {seconds}")
    draw_figures(tests["rule", "night 2"], network, letter, times)
    if not arguments.short:
        report.rows.append(by_cutout("published", LONGER, Sample.balanced(1, design, "rule")))
        on_truth = train("published, on truth", LONGER, learn["truth"])
        report.add_network("published, on truth", "truth", on_truth)
    record("In per cent, with 95 % intervals over frames", as_text(report.rows))
