"""Plots of a selector's accuracy by source size and by probability."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlpsf.errors import InputError
from mlpsf.plots._figure import (
    Display,
    check_count,
    legend_above,
    new_figure,
)
from mlpsf.selection.choice import THRESHOLD

__all__ = ["ConfidenceDisplay", "SizeHistogramDisplay"]

_GOOD, _OTHER, _WRONG, _LINE = "#2f7fb8", "#c4ccd4", "#d1495b", "#222222"


class SizeHistogramDisplay(Display):
    """FWHM histograms of all and of misclassified sources, and the misclassified fraction per bin.

    Parameters
    ----------
    edges : ndarray, shape (n_bins + 1,)
        Edges of the bins in pixels.
    n_sources, n_misclassified : ndarray of int, shape (n_bins,)
        Number of sources in each bin.
    n_left_out : int
        Number of sources without a finite FWHM, or outside the bins.

    Attributes
    ----------
    figure_
    axes_ : ndarray, shape (2,)
        Axes of the histogram and of the fraction, overlaid. Set by ``plot``.

    Examples
    --------
    >>> display = SizeHistogramDisplay.from_predictions(
    ...     [1, 1, 0, 0], [1, 1, 1, 0], [4.0, 4.1, 5.9, 6.0], bins=2)
    >>> display.n_sources.tolist(), display.n_misclassified.tolist()
    ([2, 2], [0, 1])
    >>> display.share.tolist()
    [0.0, 0.5]
    """

    def __init__(
        self,
        *,
        edges: NDArray[np.floating],
        n_sources: NDArray[np.integer],
        n_misclassified: NDArray[np.integer],
        n_left_out: int = 0,
    ) -> None:
        self.edges = edges
        self.n_sources = n_sources
        self.n_misclassified = n_misclassified
        self.n_left_out = n_left_out

    @property
    def share(self) -> NDArray[np.float64]:
        """Misclassified fraction, shape (n_bins,); NaN where there is no source."""
        share = np.full(len(self.n_sources), np.nan)
        np.divide(self.n_misclassified, self.n_sources, out=share, where=self.n_sources > 0)
        return share

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        y_pred: ArrayLike,
        fwhm: ArrayLike,
        *,
        bins: int | ArrayLike = 20,
        **kwargs: Any,
    ) -> Self:
        """Count misclassified sources and plot.

        Parameters
        ----------
        y_true, y_pred : array_like, shape (n,)
            True labels and those of the selector, of any kind.
        fwhm : array_like, shape (n,)
            FWHM of the sources in pixels; non-finite ones are left out.
        bins : int or array_like, shape (n_bins + 1,)
            Number of bins between the smallest and largest FWHM, or increasing edges.
        **kwargs
            Passed to `plot`.

        Raises
        ------
        InputError
            If the lengths differ, there is nothing to show, the edges do not increase, or `y_pred`
            contains probabilities.
        """
        true, predicted, size = _columns(y_true=y_true, y_pred=y_pred, fwhm=fwhm)
        for name, labels in (("y_true", true), ("y_pred", predicted)):
            if labels.dtype.kind == "f" and np.any(labels != np.rint(labels)):
                raise InputError(f"{name} must be labels. Got {labels[labels % 1 != 0][0]}.")
        size = _numbers("fwhm", size)
        finite = np.isfinite(size)
        if not finite.any():
            raise InputError(f"None of the {size.size} values of fwhm is finite.")
        n_sources, edges = np.histogram(size[finite], _bins(bins))
        n_wrong, _ = np.histogram(size[finite & (true != predicted)], edges)
        return cls(
            edges=edges,
            n_sources=n_sources,
            n_misclassified=n_wrong,
            n_left_out=int(size.size - n_sources.sum()),
        ).plot(**kwargs)

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: ArrayLike, y: ArrayLike, fwhm: ArrayLike, **kwargs: Any
    ) -> Self:
        """Predict, count and plot; keyword arguments go to `from_predictions`."""
        return cls.from_predictions(y, estimator.predict(X), fwhm, **kwargs)

    def plot(self, *, ax: Any = None) -> Self:
        """Draw both histograms, and the misclassified fraction on an axis at the right.

        Parameters
        ----------
        ax : matplotlib Axes, optional

        Returns
        -------
        self
        """
        ax = new_figure(6, 3.8).subplots() if ax is None else ax
        width = np.diff(self.edges)
        total, wrong = int(self.n_sources.sum()), int(self.n_misclassified.sum())
        for counts, colour, label in (
            (self.n_sources, _OTHER, f"all ({total:,})"),
            (self.n_misclassified, _WRONG, f"misclassified ({wrong:,})"),
        ):
            ax.bar(self.edges[:-1], counts, width, align="edge", color=colour, label=label)
        ax.set(xlabel="FWHM (pixels)", ylabel="sources", xlim=(self.edges[0], self.edges[-1]))
        ax.set_ylim(0, 1.05 * max(self.n_sources.max(), 1))
        right = ax.twinx()
        middle = (self.edges[:-1] + self.edges[1:]) / 2
        right.plot(middle, self.share, "o-", color=_LINE, ms=3.5, lw=1, label="share misclassified")
        top = np.nanmax(self.share, initial=0.0)
        right.set(ylabel="share misclassified", ylim=(0, min(1.15 * top, 1.05) or 1.0))
        handles = [*ax.get_legend_handles_labels()[0], *right.get_legend_handles_labels()[0]]
        title = f"{self.n_left_out:,} left out" if self.n_left_out else None
        legend_above(ax, handles, title)
        self.axes_, self.figure_ = np.array([ax, right]), ax.figure
        return self


class ConfidenceDisplay(Display):
    """Precision of the sources at or above each probability, and a histogram of probability.

    Parameters
    ----------
    confidence : ndarray, shape (m,)
        Distinct probabilities in increasing order.
    precision : ndarray, shape (m,)
        Fraction of truly good sources among those at or above each probability.
    edges : ndarray, shape (n_bins + 1,)
        Edges of the histogram's bins, from 0 to 1.
    n_good, n_other : ndarray of int, shape (n_bins,)
        Number of truly good and of other sources in each bin.
    threshold : float or None
        Probability to mark.
    n_above : int
        Number of sources at or above the threshold.

    Attributes
    ----------
    figure_
    axes_ : ndarray, shape (2,)
        Axes of the precision and of the histogram, overlaid. Set by ``plot``.

    Examples
    --------
    >>> display = ConfidenceDisplay.from_predictions([0, 1, 0, 1], [0.1, 0.4, 0.6, 0.9])
    >>> display.confidence.tolist()
    [0.1, 0.4, 0.6, 0.9]
    >>> display.precision.round(2).tolist()
    [0.5, 0.67, 0.5, 1.0]
    """

    def __init__(
        self,
        *,
        confidence: NDArray[np.floating],
        precision: NDArray[np.floating],
        edges: NDArray[np.floating],
        n_good: NDArray[np.integer],
        n_other: NDArray[np.integer],
        threshold: float | None = None,
        n_above: int = 0,
    ) -> None:
        self.confidence = confidence
        self.precision = precision
        self.edges = edges
        self.n_good = n_good
        self.n_other = n_other
        self.threshold = threshold
        self.n_above = n_above

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        probability: ArrayLike,
        *,
        threshold: float | None = THRESHOLD,
        bins: int = 20,
        pos_label: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Compute precision and histogram, and plot.

        Parameters
        ----------
        y_true : array_like, shape (n,)
            True labels, of two classes.
        probability : array_like, shape (n,)
            Probability of being good, as ``predict_proba(X)[:, 1]``.
        threshold : float or None
            Probability to mark.
        bins : int
            Number of bins of the histogram.
        pos_label : label, optional
            Label of good sources; the larger of the two labels by default.
        **kwargs
            Passed to `plot`.

        Raises
        ------
        InputError
            If the lengths differ, there is nothing to show, a probability or the threshold is not
            in 0..1, or there are not two classes. The label -1 (ambiguous in a `CutoutSet`) is not
            a class unless `pos_label` is given.
        """
        true, p = _columns(y_true=y_true, probability=probability)
        p = _numbers("probability", p)
        outside = ~((p >= 0) & (p <= 1))  # also NaN
        if outside.any():
            row = int(np.argmax(outside))
            raise InputError(f"Probabilities must be in 0..1. Got {p[row]} in row {row}.")
        if threshold is not None and not 0 <= threshold <= 1:
            raise InputError(f"threshold must be in 0..1. Got {threshold}.")
        check_count("bins", bins)
        good = true == _label_of_good(true, pos_label)
        order = np.argsort(-p, kind="stable")
        falling = p[order]
        ends = np.flatnonzero(np.append(np.diff(falling) != 0, True))  # equal values count together
        precision = np.cumsum(good[order])[ends] / (ends + 1)
        edges = np.linspace(0, 1, bins + 1)
        return cls(
            confidence=falling[ends][::-1],
            precision=precision[::-1],
            edges=edges,
            n_good=np.histogram(p[good], edges)[0],
            n_other=np.histogram(p[~good], edges)[0],
            threshold=threshold,
            n_above=0 if threshold is None else int((p >= threshold).sum()),
        ).plot(**kwargs)

    @classmethod
    def from_estimator(cls, estimator: Any, X: ArrayLike, y: ArrayLike, **kwargs: Any) -> Self:
        """Predict, compute and plot; keyword arguments go to `from_predictions`."""
        if "pos_label" not in kwargs:
            kwargs["pos_label"] = estimator.classes_[1]
            if -1 not in estimator.classes_.tolist():
                _check_unambiguous(np.asarray(y))
        return cls.from_predictions(y, estimator.predict_proba(X)[:, 1], **kwargs)

    def precision_at(self, threshold: float) -> float:
        """Return the precision of the sources at or above a probability; NaN without sources."""
        row = int(np.searchsorted(self.confidence, threshold))
        return float(self.precision[row]) if row < len(self.precision) else float("nan")

    def plot(self, *, ax: Any = None) -> Self:
        """Draw the precision, and the histogram on an axis at the right.

        Parameters
        ----------
        ax : matplotlib Axes, optional

        Returns
        -------
        self
        """
        ax = new_figure(6, 3.8).subplots() if ax is None else ax
        right = ax.twinx()
        width = np.diff(self.edges)
        bottom = np.zeros(len(width))
        for counts, colour, label in (
            (self.n_other, _OTHER, f"other ({int(self.n_other.sum()):,})"),
            (self.n_good, _GOOD, f"good ({int(self.n_good.sum()):,})"),
        ):
            right.bar(
                self.edges[:-1], counts, width, bottom, align="edge", color=colour, label=label
            )
            bottom = bottom + counts
        right.set(ylabel="sources", ylim=(0, 1.15 * max(bottom.max(), 1)))
        # From 0 to the lowest probability, all sources are at or above.
        ax.step(
            np.append(0.0, self.confidence),
            np.append(self.precision[:1], self.precision),
            where="pre",
            color=_LINE,
            lw=1.5,
            label="precision at or above",
        )
        if self.threshold is not None:
            precision = self.precision_at(self.threshold)
            said = f"{precision:.3f} of {self.n_above:,}" if self.n_above else "no source"
            label = f"at {self.threshold:g}: {said}"
            ax.axvline(self.threshold, color=_WRONG, lw=1.2, ls="--", label=label)
        ax.set(xlabel="probability of being good", ylabel="precision", xlim=(0, 1), ylim=(0, 1.03))
        ax.set_zorder(right.get_zorder() + 1)  # draw the line above the bars
        ax.patch.set_visible(False)
        handles = [*ax.get_legend_handles_labels()[0], *right.get_legend_handles_labels()[0]]
        legend_above(ax, handles)
        self.axes_, self.figure_ = np.array([ax, right]), ax.figure
        return self


def _columns(**columns: ArrayLike) -> list[NDArray[Any]]:
    """Return 1-D arrays of equal nonzero length."""
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    for name, array in arrays.items():
        if array.ndim != 1:
            raise InputError(f"{name} must have shape (n,). Got {array.shape}.")
    sizes = [array.size for array in arrays.values()]
    if len(set(sizes)) > 1:
        got = ", ".join(map(str, sizes))
        raise InputError(f"{', '.join(arrays)} must have one length. Got {got}.")
    if sizes[0] == 0:
        raise InputError(f"{', '.join(arrays)} are empty: expected one source at least.")
    return list(arrays.values())


def _numbers(name: str, values: NDArray[Any]) -> NDArray[np.float64]:
    try:
        return values.astype(np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name} must be numbers. Got {values.dtype}.") from None


def _bins(bins: int | ArrayLike) -> Any:
    """Return the number of bins, or their edges, for `numpy.histogram`."""
    given = np.asarray(bins)
    if given.ndim == 0:
        if given.dtype.kind not in "iu" or given < 1:
            raise InputError(f"bins must be an integer, 1 or more, or edges. Got {given}.")
        return int(given)
    edges = _numbers("bins", given)
    if edges.ndim != 1 or edges.size < 2 or not np.all(np.diff(edges) > 0):
        raise InputError(f"Edges of bins must be two or more and rise. Got {edges.tolist()}.")
    return edges


def _label_of_good(labels: NDArray[Any], given: Any) -> Any:
    """Return the label of good sources: the larger one by default, as in the selectors."""
    classes = np.unique(labels)
    if len(classes) > 2:
        raise InputError(
            f"y_true must be of two classes. Got {len(classes)}: {classes[:5].tolist()}; "
            "leave out the ambiguous."
        )
    if given is not None:
        if len(classes) == 2 and given not in classes.tolist():
            raise InputError(f"pos_label must be one of {classes.tolist()}. Got {given!r}.")
        return given
    _check_unambiguous(classes)
    if len(classes) == 2:
        return classes[1]
    if classes[0] in (0, 1):  # with a single class, 0 and 1 have their usual meaning
        return 1
    raise InputError(f"y_true holds {classes[0]!r} alone: say by pos_label what good is called.")


def _check_unambiguous(labels: NDArray[Any]) -> None:
    """Raise `InputError` if labels of a `CutoutSet` include ambiguous ones, which are no class."""
    if set(labels.ravel().tolist()) in ({-1}, {-1, 0}, {-1, 1}, {-1, 0, 1}):
        raise InputError(
            "y_true holds -1, which stands for ambiguous sources: leave the ambiguous out, or say "
            "by pos_label what good is called."
        )
