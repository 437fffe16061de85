"""Displays: what is drawn is what was given, asserted on the drawn bars, lines and images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from astropy.table import Table
from astropy.visualization import ZScaleInterval
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

import mlpsf.plots
from mlpsf import PSFModel, PSFStarSelector, read_frame
from mlpsf.errors import InputError
from mlpsf.plots import (
    ConfidenceDisplay,
    CutoutSheetDisplay,
    ProfilesDisplay,
    PSFComparisonDisplay,
    PSFDisplay,
    ResidualsDisplay,
    SizeHistogramDisplay,
    SizeMagnitudeDisplay,
    StarMapDisplay,
    TimesDisplay,
    TrainingHistoryDisplay,
    VariationDisplay,
)
from mlpsf.psf.quality.profiles import star_profiles
from mlpsf.psf.terms import PSFTerms


@pytest.fixture
def ax():
    figure = Figure()
    FigureCanvasAgg(figure)
    return figure.subplots()


@pytest.fixture(scope="module")
def pretrained():
    return PSFStarSelector.from_pretrained()


@pytest.fixture(scope="module")
def cutouts():
    """Half stars, half blank sky, of the pretrained network's size."""
    rng = np.random.default_rng(1)
    u = np.arange(-20, 21)
    X = rng.normal(0, 3, (12, 41, 41)).astype(np.float32)
    X[:6] += 2000 * np.exp(-0.5 * (u**2 + u[:, None] ** 2) / (4 / 2.355) ** 2)
    return X


Y = np.repeat([1, 0], 6)


def heights(container):
    return [bar.get_height() for bar in container]


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def draw(display):
    """Draw for good: whatever cannot be laid out raises or warns here."""
    display.figure_.canvas.draw()


def test_all_are_exported():
    assert all(hasattr(mlpsf.plots, name) for name in mlpsf.plots.__all__)
    assert all(name.endswith("Display") for name in mlpsf.plots.__all__ if name != "draw")


# --- sizes


def test_sizes_of_all_and_of_the_misclassified(ax):
    display = SizeHistogramDisplay.from_predictions(
        ["s", "s", "g", "g", "g", "s"],
        ["s", "g", "g", "s", "s", "s"],
        [4.0, 4.5, 6.0, 6.2, 7.0, np.nan],
        bins=[4, 5, 6, 7],
        ax=ax,
    )
    draw(display)
    counts, share = display.axes_
    assert counts is ax
    assert display.figure_ is ax.figure
    every, wrong = counts.containers
    assert heights(every) == [2, 0, 3]
    assert heights(wrong) == [1, 0, 2]
    assert [bar.get_x() for bar in every] == [4, 5, 6]
    assert [bar.get_width() for bar in wrong] == [1, 1, 1]
    x, y = share.lines[0].get_data()
    np.testing.assert_array_equal(x, [4.5, 5.5, 6.5])
    np.testing.assert_allclose(y, [0.5, np.nan, 2 / 3])
    assert share.get_ylim()[1] > 2 / 3
    assert legend(counts) == ["all (5)", "misclassified (3)", "share misclassified"]
    assert counts.get_legend().get_title().get_text() == "1 left out"


def test_no_source_is_misclassified():
    display = SizeHistogramDisplay.from_predictions([1, 0], [True, False], [3.0, 4.0], bins=2)
    draw(display)
    assert heights(display.axes_[0].containers[1]) == [0, 0]
    assert display.axes_[1].get_ylim() == (0, 1)
    assert display.n_left_out == 0


def test_sources_of_one_size_and_outside_the_edges():
    draw(SizeHistogramDisplay.from_predictions([1, 0], [1, 1], [3.0, 3.0]))
    display = SizeHistogramDisplay.from_predictions([1, 0], [1, 1], [3.0, 9.0], bins=[8, 10])
    assert (display.n_left_out, display.n_sources.tolist()) == (1, [1])


def test_sizes_from_estimator(pretrained, cutouts):
    fwhm = np.repeat([4.0, 8.0], 6)
    display = SizeHistogramDisplay.from_estimator(pretrained, cutouts, 1 - Y, fwhm, bins=[3, 6, 9])
    wrong = pretrained.predict(cutouts) != 1 - Y
    assert heights(display.axes_[0].containers[1]) == [wrong[:6].sum(), wrong[6:].sum()]
    assert wrong.any()


@pytest.mark.parametrize(
    ("arguments", "words", "message"),
    [
        (([1, 0], [1], [3.0, 4.0]), {}, r"one length\. Got 2, 1, 2"),
        (([], [], []), {}, "empty"),
        (([1], [1], [[3.0]]), {}, r"fwhm must have shape \(n,\)\. Got \(1, 1\)"),
        (([1], [0.7], [3.0]), {}, r"y_pred must be labels\. Got 0\.7"),
        (([1], [1], [np.inf]), {}, "None of the 1"),
        (([1], [1], ["wide"]), {}, "fwhm must be numbers"),
        (([1], [1], [3.0]), {"bins": 0}, r"1 or more, or edges\. Got 0"),
        (([1], [1], [3.0]), {"bins": 2.5}, r"1 or more, or edges\. Got 2\.5"),
        (([1], [1], [3.0]), {"bins": [4, 4]}, "rise"),
    ],
)
def test_sizes_refused(arguments, words, message):
    with pytest.raises(InputError, match=message):
        SizeHistogramDisplay.from_predictions(*arguments, **words)


# --- confidence


def test_precision_at_or_above_each_confidence(ax):
    rng = np.random.default_rng(3)
    p = rng.integers(0, 21, 200) / 20  # many equal ones
    y = rng.random(200) < p
    display = ConfidenceDisplay.from_predictions(y, p, threshold=0.7, bins=4, ax=ax)
    draw(display)
    line, mark = ax.lines
    x, precision = line.get_data()
    assert x[0] == 0
    np.testing.assert_array_equal(x[1:], np.unique(p))
    np.testing.assert_allclose(precision[1:], [y[p >= t].mean() for t in np.unique(p)])
    assert precision[0] == y.mean()
    assert line.get_drawstyle() == "steps-pre"  # between two, that of the next one up
    assert list(mark.get_xdata()) == [0.7, 0.7]
    above = p >= 0.7
    assert legend(ax)[1] == f"at 0.7: {y[above].mean():.3f} of {above.sum()}"
    for t in (0.0, 0.701, 0.99, 1.0):
        assert display.precision_at(t) == pytest.approx(y[p >= t].mean())
    other, good = display.axes_[1].containers
    edges = [0, 0.25, 0.5, 0.75, 1]
    assert heights(other) == np.histogram(p[~y], edges)[0].tolist()
    assert heights(good) == np.histogram(p[y], edges)[0].tolist()
    assert [bar.get_y() for bar in good] == heights(other)  # on top of each other
    assert ax.get_zorder() > display.axes_[1].get_zorder()


def test_nothing_above_the_threshold():
    display = ConfidenceDisplay.from_predictions([0, 1], [0.2, 0.3])
    draw(display)
    assert np.isnan(display.precision_at(0.9))
    assert legend(display.axes_[0])[1] == "at 0.9: no source"


def test_no_threshold():
    display = ConfidenceDisplay.from_predictions([0, 1], [0.2, 0.3], threshold=None)
    assert len(display.axes_[0].lines) == 1


@pytest.mark.parametrize(
    ("y", "words", "good"),
    [
        ([0, 0, 0], {}, 0), ([1, 1, 1], {}, 3),
        ([-1, 1, 1], {"pos_label": 1}, 2), ([False] * 3, {}, 0),
        (["a", "b", "b"], {}, 2), (["a", "b", "b"], {"pos_label": "a"}, 1),
        (["a"] * 3, {"pos_label": "a"}, 3), ([-1, 0, 0], {"pos_label": 0}, 2),
    ],
)  # fmt: skip
def test_which_label_is_good(y, words, good):
    display = ConfidenceDisplay.from_predictions(y, [0.1, 0.5, 0.9], **words)
    assert display.n_good.sum() == good
    assert display.precision[0] == pytest.approx(good / 3)


def test_confidence_from_estimator(pretrained, cutouts):
    names = np.where(Y == 1, "s", "b")
    with pytest.raises(InputError, match="pos_label must be one of"):
        ConfidenceDisplay.from_estimator(pretrained, cutouts, names)
    with pytest.raises(InputError, match="leave the ambiguous out"):
        ConfidenceDisplay.from_estimator(pretrained, cutouts, np.where(Y == 1, 1, -1))
    display = ConfidenceDisplay.from_estimator(pretrained, cutouts, Y)
    p = pretrained.predict_proba(cutouts)[:, 1]
    np.testing.assert_array_equal(display.confidence, np.unique(p))
    flat = ConfidenceDisplay.from_estimator(pretrained, cutouts.reshape(12, -1), Y)
    np.testing.assert_array_equal(flat.precision, display.precision)


@pytest.mark.parametrize(
    ("arguments", "words", "message"),
    [
        (([0, 1], [0.5]), {}, r"one length\. Got 2, 1"),
        (([], []), {}, "empty"),
        (([0, 1], [0.5, 1.2]), {}, r"0\.\.1\. Got 1\.2 in row 1"),
        (([0, 1], [np.nan, 0.5]), {}, r"0\.\.1\. Got nan in row 0"),
        (([0, 1], [[0.5, 0.5]] * 2), {}, r"shape \(n,\)\. Got \(2, 2\)"),
        (([0, 1, -1], [0.5] * 3), {}, "two classes.*ambiguous"),
        (([0, -1], [0.5] * 2), {}, "leave the ambiguous out, or say by pos_label"),
        (([1, -1], [0.5] * 2), {}, "leave the ambiguous out, or say by pos_label"),
        (([-1], [0.5]), {}, "leave the ambiguous out, or say by pos_label"),
        ((["a"], [0.5]), {}, "pos_label"),
        (([0, 1], [0.5, 0.6]), {"threshold": 90}, r"threshold must be in 0\.\.1\. Got 90"),
        (([0, 1], [0.5, 0.6]), {"bins": 0}, "bins must be 1 or more"),
        (([0, 1], [0.5, 0.6]), {"bins": 2.5}, r"an integer\. Got 2\.5"),
    ],
)
def test_confidence_refused(arguments, words, message):
    with pytest.raises(InputError, match=message):
        ConfidenceDisplay.from_predictions(*arguments, **words)


# --- training

HISTORY = {
    "loss": [0.7, 0.4, 0.3],
    "accuracy": [0.5, 0.8, 0.9],
    "val_loss": [0.6, 0.5, 0.55],
    "val_accuracy": [0.6, 0.7, 0.8],
    "learning_rate": [1e-3] * 3,
}


def test_history_by_epoch():
    display = TrainingHistoryDisplay(history=HISTORY).plot()
    draw(display)
    for ax, name in zip(display.axes_, ("loss", "accuracy"), strict=True):
        training, validation, best = ax.lines
        np.testing.assert_array_equal(training.get_data(), ([1, 2, 3], HISTORY[name]))
        np.testing.assert_array_equal(validation.get_data(), ([1, 2, 3], HISTORY[f"val_{name}"]))
        assert list(best.get_xdata()) == [2, 2]
        assert ax.get_ylabel() == name
        assert legend(ax) == ["training", "validation", "least validation loss"]
        assert all(tick == round(tick) for tick in ax.get_xticks())


def test_history_of_the_loss_alone(ax):
    display = TrainingHistoryDisplay(history={"loss": [0.7, np.nan]}).plot(axes=ax)
    draw(display)
    assert list(display.axes_) == [ax]
    assert len(ax.lines) == 1
    assert display.best_epoch is None


def test_history_from_selector(pretrained):
    display = TrainingHistoryDisplay.from_selector(pretrained)
    drawn = display.axes_[0].lines[0].get_ydata()
    np.testing.assert_array_equal(drawn, pretrained.history_["loss"])


def test_history_refused(ax):
    with pytest.raises(InputError, match=r"no history_.*Call fit"):
        TrainingHistoryDisplay.from_selector(PSFStarSelector())
    with pytest.raises(InputError, match=r'needs "loss"\. Got \[\'accuracy\'\]'):
        TrainingHistoryDisplay(history={"accuracy": [0.5]})
    with pytest.raises(InputError, match="'loss': 2, 'val_loss': 1"):
        TrainingHistoryDisplay(history={"loss": [1, 2], "val_loss": [1]})
    with pytest.raises(InputError, match="one or more"):
        TrainingHistoryDisplay(history={"loss": []})
    with pytest.raises(InputError, match=r"need 2 axes\. Got 1"):
        TrainingHistoryDisplay(history=HISTORY).plot(axes=ax)


# --- times


def test_times_by_method_and_stage(ax):
    display = TimesDisplay.from_times(
        {"cnn": {"cutouts": 0.1, "fit": [2.0, 1.0, 4.0]}, "rule": {"fit": 30.0}}, ax=ax
    )
    draw(display)
    assert display.axes_ is ax
    assert ax.get_xscale() == "log"
    bars = [c for c in ax.containers if hasattr(c, "patches")]
    assert [c.patches[0].get_width() for c in bars] == [0.1, 2.0, 30.0]
    colours = [to_hex(c.patches[0].get_facecolor()) for c in bars]
    assert colours[0] != colours[1] == colours[2]
    assert legend(ax) == ["cutouts", "fit"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["cnn", "rule"]
    error = bars[1].errorbar.lines[2][0].get_segments()[0]
    np.testing.assert_allclose(error[:, 0], [1.0, 4.0])  # the extremes, where there are several
    assert bars[0].errorbar is None
    assert ax.get_xlim()[0] < 0.1
    assert ax.get_xlim()[1] > 30
    assert [t.get_text() for t in ax.texts] == ["100 ms", "2 s", "30 s"]
    middles = [c.patches[0].get_y() + c.patches[0].get_height() / 2 for c in bars]
    np.testing.assert_allclose(ax.get_yticks(), [np.mean(middles[:2]), middles[2]])
    assert ax.yaxis_inverted()  # the first on top


def test_times_by_method():
    display = TimesDisplay.from_times({"a": [1e-6, 3e-6], "b": 2500})
    draw(display)
    assert display.medians == {"a": {"": 2e-6}, "b": {"": 2500}}
    assert display.axes_.get_legend() is None
    assert [t.get_text() for t in display.axes_.texts] == ["2 µs", "2,500 s"]


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ({}, "no times"),
        ({"a": {}}, "no times"),
        ({"a": 0.0}, r"positive and finite, in seconds\. Got 0\.0 of 'a'"),
        ({"a": {"fit": [1.0, np.nan]}}, "Got nan of 'a fit'"),
        ({"a": []}, "Got none of 'a'"),
        ({"a": "fast"}, "must be numbers"),
    ],
)
def test_times_refused(times, message):
    with pytest.raises(InputError, match=message):
        TimesDisplay.from_times(times)


# --- frames, cutouts


def test_star_map(ax):
    table = Table(
        {
            "x": [1.0, 5.0, 8.0],
            "y": [2.0, 6.0, 3.0],
            "selected": [True, False, False],
            "reserved": [False, True, False],
        }
    )
    display = StarMapDisplay(image=np.random.default_rng(0).normal(size=(9, 12)), table=table)
    display.plot(ax=ax)
    draw(display)
    assert legend(ax) == ["not taken (1)", "selected (1)", "reserved (1)"]
    drawn = [c.get_offsets().tolist() for c in ax.collections]
    assert drawn == [[[8.0, 3.0]], [[1.0, 2.0]], [[5.0, 6.0]]]
    assert ax.get_xlim() == (-0.5, 11.5)
    display = StarMapDisplay(image=display.image, table=table).plot(others=False)
    assert legend(display.axes_) == ["selected (1)", "reserved (1)"]


@pytest.mark.parametrize("image", [np.zeros((4, 6)), np.full((4, 6), np.nan), [[1, 2], [3, 4]]])
def test_star_map_of_no_stars(image):
    table = Table({name: [] for name in ("x", "y", "selected", "reserved")})
    display = StarMapDisplay(image=image, table=table).plot()
    draw(display)
    assert display.axes_.get_legend() is None
    assert not display.axes_.collections


@pytest.mark.parametrize(
    ("image", "table", "message"),
    [
        (np.zeros(5), None, r"shape \(ny, nx\)\. Got \(5,\)"),
        (np.zeros((0, 5)), None, r"Got \(0, 5\)"),
        ([[1, 2], [3]], None, "rows of one length"),
        ([["a"]], None, "of numbers"),
        (np.eye(5), Table(), "no column x, y, selected, reserved"),
    ],
)
def test_star_map_refused(image, table, message):
    if table is None:
        table = Table({name: [] for name in ("x", "y", "selected", "reserved")})
    with pytest.raises(InputError, match=message):
        StarMapDisplay(image=image, table=table)


@pytest.fixture
def stars():
    rng = np.random.default_rng(2)
    u = np.arange(-10, 11)
    star = np.exp(-0.5 * (u**2 + u[:, None] ** 2) / 4)
    return star * np.array([100, 1000, 1e4])[:, None, None] + rng.normal(0, 2, (3, 21, 21))


def test_sheet_by_arcsinh(stars):
    sheet = CutoutSheetDisplay(cutouts=stars, titles=["a", "b", "c"]).plot(columns=2)
    draw(sheet)
    assert [ax.get_title() for ax in sheet.axes_] == ["a", "b", "c", ""]
    assert not sheet.axes_[3].images
    for ax, star in zip(sheet.axes_, stars, strict=False):
        shown = ax.images[0]
        np.testing.assert_allclose(shown.get_array(), np.arcsinh(star / (star.max() * 0.005)))
        # The peak is at the top of the stretch, however bright.
        assert shown.get_array().max() == pytest.approx(shown.norm.vmax)


def test_sheet_by_zscale(stars):
    stars[0, :3] = np.nan
    blank = np.full((1, 21, 21), np.nan)
    sheet = CutoutSheetDisplay(cutouts=np.concatenate([stars, blank])).plot(stretch="zscale")
    draw(sheet)
    for ax, star in zip(sheet.axes_[:3], stars, strict=True):
        shown = ax.images[0]
        np.testing.assert_array_equal(shown.get_array().filled(np.nan), star)
        assert (shown.norm.vmin, shown.norm.vmax) == ZScaleInterval().get_limits(star)
        assert shown.norm.vmax < star[10, 10]  # the core is off the scale
    assert (sheet.axes_[3].images[0].norm.vmin, sheet.axes_[3].images[0].norm.vmax) == (0, 1)


def test_sheet_refused(stars):
    with pytest.raises(InputError, match=r"3 cutouts need as many titles\. Got 1"):
        CutoutSheetDisplay(cutouts=stars, titles=["a"])
    with pytest.raises(InputError, match=r"shape \(n, size, size\)\. Got \(21, 21\)"):
        CutoutSheetDisplay(cutouts=stars[0])
    with pytest.raises(InputError, match=r"Got \(3, 21, 9\)"):
        CutoutSheetDisplay(cutouts=stars[:, :, :9])
    with pytest.raises(InputError, match="Got 'log'"):
        CutoutSheetDisplay(cutouts=stars).plot(stretch="log")
    for columns in (0, 2.5):
        with pytest.raises(InputError, match="columns must be 1 or more, an integer"):
            CutoutSheetDisplay(cutouts=stars).plot(columns=columns)
    with pytest.raises(InputError, match="softening must be positive"):
        CutoutSheetDisplay(cutouts=stars).plot(softening=0)


def test_a_sheet_of_no_star_says_so():
    sheet = CutoutSheetDisplay(cutouts=np.zeros((0, 9, 9))).plot()
    assert "no star is chosen" in [text.get_text() for text in sheet.figure_.texts]


def test_sheet_of_lists_and_of_no_light():
    sheet = CutoutSheetDisplay(cutouts=[np.zeros((5, 5)).tolist(), np.eye(5).tolist()]).plot()
    draw(sheet)
    assert [len(ax.images) for ax in sheet.axes_] == [1, 1, 0, 0, 0]


def test_sheet_of_a_table_without_stars():
    frame = read_frame(np.random.default_rng(0).normal(100, 3, (64, 64)))
    names = ("id", "x", "y", "snr", "probability", "selected")
    table = Table({name: [] for name in names}, meta={"fwhm": 3.0})
    sheet = CutoutSheetDisplay.from_stars(frame, table)
    draw(sheet)
    assert not any(ax.images for ax in sheet.axes_)
    with pytest.raises(InputError, match="no column id, x"):
        CutoutSheetDisplay.from_stars(frame, Table())
    with pytest.raises(InputError, match="must hold the frame's fwhm"):
        CutoutSheetDisplay.from_stars(frame, Table({name: [] for name in names}))


# --- PSFs


def model(alpha=3.0, pixels=21, rep_fact=10, bump=0.0):
    table = np.zeros((pixels * rep_fact,) * 2)
    middle = len(table) // 2
    table[middle - 5 : middle + 5, middle - 5 : middle + 5] = bump
    return PSFModel(table, alpha, 3.0, rep_fact)


def test_psf():
    psf = model()
    display = PSFDisplay.from_model(psf)
    draw(display)
    image, profile = display.axes_
    np.testing.assert_allclose(
        image.images[0].get_array(), np.arcsinh(psf.render(10, 10) / (display.stamp.max() * 1e-3))
    )
    radius, height = profile.lines[0].get_data()
    assert height[radius == 0] == [1]
    assert list(profile.lines[1].get_xdata()) == [psf.fwhm / 2] * 2


NO_STAMPS = [
    (np.ones((3, 5)), r"shape \(size, size\)\. Got \(3, 5\)"),
    (np.ones(3), r"Got \(3,\)"),
    (np.full((3, 3), np.nan), "must be finite. Got 9"),
    (np.zeros((3, 3)), "must hold light"),
    ([[1, 2], [3]], "rows of one length"),
]


@pytest.mark.parametrize(("stamp", "message"), NO_STAMPS)
def test_no_stamps_are_refused(stamp, message):
    with pytest.raises(InputError, match=message):
        PSFDisplay(stamp=stamp, fwhm=2.0, ellipticity=0.0)
    with pytest.raises(InputError, match=message):
        PSFComparisonDisplay(images={"a": stamp, "b": stamp})


def test_stamps_may_be_lists():
    stamp = model().stamps(0.0, 0.0, 21)[0]
    draw(PSFDisplay(stamp=stamp.tolist(), fwhm=2.0, ellipticity=0.0).plot())
    display = PSFComparisonDisplay(images={"a": stamp.tolist(), "b": (2 * stamp).tolist()}).plot()
    draw(display)
    assert display.differences["b"].max() == pytest.approx(1)


def test_stamps_side_by_side():
    models = {"a": model(), "b": model(3.3, pixels=25), "c": model(bump=0.1)}
    display = PSFComparisonDisplay.from_models(models)
    draw(display)
    images, below = display.axes_
    assert [ax.get_title() for ax in images] == list("abc")
    stamps = [m.stamps(0.0, 0.0, 21)[0] for m in models.values()]
    largest = max(s.max() for s in stamps)
    limits = set()
    for ax, stamp in zip(images, stamps, strict=True):
        shown = ax.images[0]
        np.testing.assert_allclose(shown.get_array(), np.arcsinh(stamp / (largest * 1e-3)))
        limits.add((shown.norm.vmin, shown.norm.vmax))
    assert len(limits) == 1  # one stretch
    assert [ax.get_title() for ax in below] == ["", "b \N{MINUS SIGN} a", "c \N{MINUS SIGN} a"]
    reach = 0.0
    for ax, stamp in zip(below[1:], stamps[1:], strict=True):
        shown = ax.images[0].get_array()
        np.testing.assert_allclose(shown, (stamp - stamps[0]) / stamps[0].max())
        reach = max(reach, float(np.abs(shown).max()))
    for ax in below[1:]:
        norm = ax.images[0].norm
        assert (norm.vmin, norm.vmax) == pytest.approx((-reach, reach))
    assert legend(below[0]) == list("abc")
    assert [line.get_ydata()[0] for line in below[0].lines] == pytest.approx(
        [s[10, 10] / stamps[0].max() for s in stamps]
    )


def test_lookup_tables_side_by_side():
    models = {"a": model(bump=0.1), "b": model(pixels=25, bump=0.3)}
    display = PSFComparisonDisplay.from_models(models, kind="lookup_table")
    draw(display)
    (left, right), (_, difference) = display.axes_
    np.testing.assert_array_equal(left.images[0].get_array(), models["a"].lookup_table)
    inner = models["b"].lookup_table[20:-20, 20:-20]
    np.testing.assert_array_equal(right.images[0].get_array(), inner)
    for ax in (left, right):
        assert (ax.images[0].norm.vmin, ax.images[0].norm.vmax) == (-0.3, 0.3)
    shown = difference.images[0].get_array()
    np.testing.assert_allclose(shown, inner - models["a"].lookup_table)
    assert shown.max() == pytest.approx(0.2)


def test_the_same_psf_twice_and_no_table():
    draw(PSFComparisonDisplay.from_models({"a": model(), "b": model()}))
    display = PSFComparisonDisplay.from_models({"a": model(), "b": model()}, kind="lookup_table")
    draw(display)
    assert not display.differences["b"].any()


def test_comparison_refused(ax):
    with pytest.raises(InputError, match=r"two or more PSFs\. Got 1"):
        PSFComparisonDisplay.from_models({"a": model()})
    with pytest.raises(InputError, match=r"one rep_fact\. Got {'a': 10, 'b': 5}"):
        PSFComparisonDisplay.from_models(
            {"a": model(), "b": model(rep_fact=5)}, kind="lookup_table"
        )
    with pytest.raises(InputError, match="Got 'table'"):
        PSFComparisonDisplay.from_models({"a": model(), "b": model()}, kind="table")
    with pytest.raises(InputError, match="Got 'table'"):
        PSFComparisonDisplay(images={"a": np.eye(3), "b": np.eye(3)}, kind="table")
    with pytest.raises(InputError, match="softening must be positive"):
        PSFComparisonDisplay.from_models({"a": model(), "b": model()}, softening=0)
    with pytest.raises(InputError, match="one size"):
        PSFComparisonDisplay(images={"a": np.ones((3, 3)), "b": np.ones((5, 5))})
    with pytest.raises(InputError, match=r"axes of shape \(2, 2\)\. Got \(\)"):
        PSFComparisonDisplay.from_models({"a": model(), "b": model()}, axes=ax)


# --- what is not ours


@pytest.mark.parametrize("flat", [False, True])
def test_scikit_learns_displays_take_our_selectors(pretrained, cutouts, flat, ax):
    from sklearn.calibration import CalibrationDisplay
    from sklearn.metrics import (
        ConfusionMatrixDisplay,
        PrecisionRecallDisplay,
        RocCurveDisplay,
        confusion_matrix,
        roc_auc_score,
    )

    X = cutouts.reshape(len(cutouts), -1) if flat else cutouts
    y = Y.copy()
    y[0] = 0  # one that the network takes for good
    p = pretrained.predict_proba(cutouts)[:, 1]
    roc = RocCurveDisplay.from_estimator(pretrained, X, y, ax=ax)
    assert roc.roc_auc == pytest.approx(roc_auc_score(y, p))
    PrecisionRecallDisplay.from_estimator(pretrained, X, y, ax=ax)
    calibration = CalibrationDisplay.from_estimator(pretrained, X, y, ax=ax)
    np.testing.assert_allclose(calibration.y_prob, p)
    confusion = ConfusionMatrixDisplay.from_estimator(pretrained, X, y, ax=ax)
    np.testing.assert_array_equal(
        confusion.confusion_matrix, confusion_matrix(y, pretrained.predict(cutouts))
    )


def test_no_window_of_pyplots():
    import matplotlib as mpl
    from matplotlib import pyplot

    before = dict(mpl.rcParams), pyplot.get_fignums()
    displays = [
        SizeHistogramDisplay.from_predictions([1, 0], [1, 1], [3.0, 4.0]),
        ConfidenceDisplay.from_predictions([1, 0], [0.9, 0.1]),
        TrainingHistoryDisplay(history=HISTORY).plot(),
        TimesDisplay.from_times({"a": 1.0}),
        PSFDisplay.from_model(model()),
        PSFComparisonDisplay.from_models({"a": model(), "b": model()}),
    ]
    for display in displays:
        draw(display)
    assert (dict(mpl.rcParams), pyplot.get_fignums()) == before


# --- what is measured on stars


def test_sizes_against_magnitudes(scene, ax):
    _, stars, _ = scene
    display = SizeMagnitudeDisplay.from_stars(stars, ax=ax)
    draw(display)
    flux = np.asarray(stars["flux"])
    taken = stars["selected"] & ~stars["reserved"]
    drawn = [c.get_offsets() for c in ax.collections]
    np.testing.assert_allclose(drawn[1][:, 1], stars["fwhm"][taken])
    np.testing.assert_allclose(drawn[1][:, 0], -2.5 * np.log10(flux[taken] / flux.max()))
    others = len(stars) - taken.sum() - stars["reserved"].sum()
    assert legend(ax) == [
        f"not taken ({others})",
        f"selected ({taken.sum()})",
        f"reserved ({stars['reserved'].sum()})",
        f"the frame's FWHM, {stars.meta['fwhm']:.2f}",
    ]
    with pytest.raises(InputError, match="no column flux"):
        SizeMagnitudeDisplay(table=Table({"fwhm": [1.0]}))


def test_profiles_of_stars_lie_on_the_psf(scene):
    sim, stars, psf = scene
    display = ProfilesDisplay.from_stars(sim.frame, stars, psf)
    draw(display)
    p = display.profiles
    taken = stars["selected"] | stars["reserved"]
    assert len(p.stars) == taken.sum()
    bright = np.asarray(stars["snr"][taken]) > 300
    assert bright.any()
    assert np.abs(p.stars - p.psf)[bright].max() < 0.05
    assert 0.5 < np.median(p.chi_square) < 2
    assert p.psf[0, 0] == pytest.approx(1, abs=0.15)
    upper, lower = display.axes_
    assert legend(upper) == ["PSF", f"stars ({len(p.stars)})", "noise of a pixel"]
    np.testing.assert_allclose(lower.lines[0].get_ydata(), 100 * (p.stars - p.psf)[0])


def test_a_galaxy_leaves_the_psf(scene):
    sim, _, psf = scene
    image = sim.frame.data.copy()
    u = np.arange(-20, 21)
    image[100:141, 100:141] += 3e4 * np.exp(-0.5 * (u**2 + u[:, None] ** 2) / 4.0**2)
    profiles = star_profiles(read_frame(image), psf, Table({"x": [120.0], "y": [120.0]}))
    assert profiles.chi_square[0] > 10
    assert (profiles.stars - profiles.psf)[0, 4:7].min() > 0.05


def test_variation_is_that_of_the_psf(scene):
    sim, stars, psf = scene
    u = np.arange(len(psf.lookup_table)) - len(psf.lookup_table) / 2
    wider = 0.1 * np.exp(-0.5 * (u**2 + u[:, None] ** 2) / 30.0**2)
    terms = PSFTerms(wider[None], [[1.0], [0.4]], sim.frame.shape)
    psf = replace(psf, terms=terms)
    display = VariationDisplay.from_model(psf, sim.frame.shape, stars, grid=3)
    draw(display)
    places = np.meshgrid([0, 319.5, 639], [0, 299.5, 599])
    np.testing.assert_allclose(display.fwhm, psf.fwhm_at(*places))
    assert np.ptp(display.fwhm) > 0.1
    offsets = display.axes_[0].collections[0].get_offsets()
    assert len(offsets) == stars["selected"].sum()
    with pytest.raises(InputError, match="shape of y and x"):
        VariationDisplay(x=[1], y=[1, 2], fwhm=[[1]], e1=[[0]], e2=[[0]], frame_shape=(5, 5))


def test_residuals_of_reserve_stars(scene):
    sim, stars, psf = scene
    display = ResidualsDisplay.from_stars(sim.frame, stars, psf)
    draw(display)
    q = display.quality
    assert display.axes_[0].get_title() == f"residual of {q.n_stars} reserve stars (median)"
    shown = display.axes_[0].images[0].get_array()
    c, half = len(q.residual_image) // 2, len(shown) // 2
    inner = q.residual_image[c - half : c + half + 1, c - half : c + half + 1]
    np.testing.assert_allclose(shown, -100 * inner)


def test_variation_far_from_the_stars_is_hatched(recwarn):
    """Stars in the left half alone: what the plot shows needs no warning a place."""
    terms = PSFTerms(
        tables=np.full((1, 210, 210), 1e-4), weights=np.full((2, 1), 0.5), frame_shape=(300, 400)
    )
    stars = np.array([(x, y, 1e4) for x in (20, 90, 150) for y in (10, 150, 290)], float)
    psf = replace(model(), terms=terms, stars=stars)
    display = VariationDisplay.from_model(psf, (300, 400))
    assert not recwarn.list
    left, _ = display.axes_
    assert left.get_title() == "FWHM; dots: the stars; hatched: far from the stars"
    assert display.reach[:, 0].max() < 1 < display.reach[:, -1].min()
    dots = next(c for c in left.collections if len(c.get_offsets()) == len(stars))
    np.testing.assert_allclose(dots.get_offsets(), stars[:, :2])
    # Each outer place of the map is on the frame's border.
    x0, x1, y0, y1 = left.images[0].get_extent()
    assert ((x0 + (x1 - x0) / 12), (x1 - (x1 - x0) / 12)) == pytest.approx((0, 399))
    assert ((y0 + (y1 - y0) / 12), (y1 - (y1 - y0) / 12)) == pytest.approx((0, 299))
    assert left.get_xlim() == (-0.5, 399.5)
    draw(display)


def test_the_mean_of_a_psf_that_varies_is_called_so():
    terms = PSFTerms(
        tables=np.full((1, 210, 210), 1e-4), weights=np.full((2, 1), 0.5), frame_shape=(300, 400)
    )
    varying = PSFDisplay.from_model(replace(model(), terms=terms))
    assert "mean of a PSF that varies" in varying.axes_[0].get_title()
    assert "mean" not in PSFDisplay.from_model(model()).axes_[0].get_title()


def test_displays_show_themselves_in_a_notebook():
    assert PSFDisplay.from_model(model())._repr_png_().startswith(b"\x89PNG")
    table = Table({"flux": [1e4], "fwhm": [4.0], "selected": [True], "reserved": [False]})
    assert SizeMagnitudeDisplay(table=table)._repr_png_() is None  # not drawn yet

    from matplotlib import pyplot

    figure, axes = pyplot.subplots()
    try:  # pyplot shows its figures itself
        assert SizeMagnitudeDisplay.from_stars(table, ax=axes)._repr_png_() is None
    finally:
        pyplot.close(figure)
