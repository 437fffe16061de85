"""Plots of a network's training history and of run times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlpsf.errors import InputError
from mlpsf.plots._figure import (
    Display,
    legend_above,
    new_figure,
)

__all__ = ["TimesDisplay", "TrainingHistoryDisplay"]

_COLOURS = ("#2f7fb8", "#e39b3b", "#5b9c5b", "#8a6fb0", "#c4ccd4")


class TrainingHistoryDisplay(Display):
    """Loss and accuracy of a network by epoch, in training and validation.

    Parameters
    ----------
    history : mapping of str to sequence of float
        As ``PSFStarSelector.history_``: ``"loss"`` and optionally ``"accuracy"``, ``"val_loss"``
        and ``"val_accuracy"``, with one value per epoch. Other keys are not shown.

    Attributes
    ----------
    figure_
    axes_ : ndarray of Axes
        Axes of the loss and, if there is one, of the accuracy. Set by ``plot``.

    Raises
    ------
    InputError
        If there is no loss or no epoch, or the numbers of epochs differ.

    Examples
    --------
    >>> display = TrainingHistoryDisplay(
    ...     history={"loss": [0.7, 0.4, 0.3], "val_loss": [0.6, 0.5, 0.6]}).plot()
    >>> display.best_epoch
    2
    """

    def __init__(self, *, history: Mapping[str, Sequence[float]]) -> None:
        if "loss" not in history:
            raise InputError(f'A history needs "loss". Got {sorted(history)}.')
        shown = {
            key: np.asarray(history[key], dtype=np.float64)
            for key in ("loss", "val_loss", "accuracy", "val_accuracy")
            if key in history
        }
        sizes = {key: values.size for key, values in shown.items()}
        if len(set(sizes.values())) > 1 or not sizes["loss"]:
            raise InputError(f"A history needs a value of each an epoch, one or more. Got {sizes}.")
        self.history = shown

    @property
    def best_epoch(self) -> int | None:
        """Epoch of the smallest validation loss, counted from 1; None without validation loss."""
        loss = self.history.get("val_loss")
        if loss is None or np.isnan(loss).all():
            return None
        return int(np.nanargmin(loss)) + 1

    @classmethod
    def from_selector(cls, selector: Any, **kwargs: Any) -> Self:
        """Plot the history of a trained network.

        Parameters
        ----------
        selector : PSFStarSelector
            Trained, loaded or pretrained selector.
        **kwargs
            Passed to `plot`.

        Raises
        ------
        InputError
            If the selector has no history.
        """
        history = getattr(selector, "history_", None)
        if not history:
            raise InputError(
                f"This {type(selector).__name__} has no history_: expected a trained "
                "PSFStarSelector. Call fit first."
            )
        return cls(history=history).plot(**kwargs)

    def plot(self, *, axes: Any = None) -> Self:
        """Draw loss and accuracy.

        Parameters
        ----------
        axes : sequence of matplotlib Axes, optional
            Axes of the loss and of the accuracy.

        Returns
        -------
        self
        """
        from matplotlib.ticker import MaxNLocator

        names = [name for name in ("loss", "accuracy") if _of(self.history, name)]
        if axes is None:
            axes = new_figure(4 * len(names), 3.2).subplots(1, len(names), squeeze=False)
        axes = np.atleast_1d(axes).ravel()
        if len(axes) < len(names):
            raise InputError(f"{' and '.join(names)} need {len(names)} axes. Got {len(axes)}.")
        for ax, name in zip(axes, names, strict=False):
            for key, label, colour in (
                (name, "training", _COLOURS[0]),
                (f"val_{name}", "validation", _COLOURS[1]),
            ):
                if key in self.history:
                    values = self.history[key]
                    epoch = np.arange(1, values.size + 1)
                    ax.plot(epoch, values, "o-", ms=3, lw=1.4, color=colour, label=label)
            if self.best_epoch is not None:
                ax.axvline(
                    self.best_epoch, color="0.6", lw=1, ls="--", label="least validation loss"
                )
            ax.set(xlabel="epoch", ylabel=name)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            ax.legend(fontsize="small")
        self.axes_, self.figure_ = axes[: len(names)], axes[0].figure
        return self


class TimesDisplay(Display):
    """Bars of the seconds per frame, by method and stage, on a logarithmic axis.

    Parameters
    ----------
    times : mapping of str to mapping of str to ndarray
        Seconds of each stage of each method, shape (n_runs,). `from_times` converts simpler input.

    Attributes
    ----------
    figure_, axes_
        Set by ``plot``.

    Examples
    --------
    >>> display = TimesDisplay.from_times({"network": [0.9, 1.0, 1.4], "residual": 3.5})
    >>> display.medians
    {'network': {'': 1.0}, 'residual': {'': 3.5}}
    """

    def __init__(self, *, times: Mapping[str, Mapping[str, NDArray[np.floating]]]) -> None:
        self.times = times

    @property
    def medians(self) -> dict[str, dict[str, float]]:
        """Median seconds of each stage of each method."""
        return {
            method: {stage: float(np.median(runs)) for stage, runs in stages.items()}
            for method, stages in self.times.items()
        }

    @classmethod
    def from_times(
        cls, times: Mapping[str, ArrayLike | Mapping[str, ArrayLike]], **kwargs: Any
    ) -> Self:
        """Convert times and plot them.

        Parameters
        ----------
        times : mapping
            Maps each method to its seconds, or to a mapping of its stages to seconds. Seconds are
            a number, or those of several runs: the bar is the median, the error bar the range.
        **kwargs
            Passed to `plot`.

        Raises
        ------
        InputError
            If there are no times, or one is not a positive number.
        """
        ordered: dict[str, dict[str, NDArray[np.float64]]] = {}
        for method, stages in times.items():
            given = stages if isinstance(stages, Mapping) else {"": stages}
            ordered[method] = {s: _seconds(f"{method} {s}".strip(), t) for s, t in given.items()}
        if not any(ordered.values()):
            raise InputError("There are no times: expected seconds of one method at least.")
        return cls(times=ordered).plot(**kwargs)

    def plot(self, *, ax: Any = None) -> Self:
        """Draw the bars, with the first method at the top.

        Parameters
        ----------
        ax : matplotlib Axes, optional

        Returns
        -------
        self
        """
        from matplotlib.ticker import FuncFormatter, NullFormatter

        stages = list(dict.fromkeys(s for by_stage in self.times.values() for s in by_stage))
        n_bars = sum(map(len, self.times.values()))
        if ax is None:
            ax = new_figure(6.5, 1.1 + 0.28 * n_bars + 0.2 * len(self.times)).subplots()
        place, ticks, smallest, largest = 0.0, [], np.inf, 0.0
        labelled: set[str] = set()
        for by_stage in self.times.values():
            start = place
            for stage, runs in by_stage.items():
                middle, low, high = float(np.median(runs)), float(runs.min()), float(runs.max())
                ax.barh(
                    place,
                    middle,
                    0.85,
                    xerr=[[middle - low], [high - middle]] if runs.size > 1 else None,
                    error_kw={"ecolor": "0.25", "capsize": 2, "lw": 1},
                    color=_COLOURS[stages.index(stage) % len(_COLOURS)],
                    label=stage if stage and stage not in labelled else None,
                )
                labelled.add(stage)
                ax.annotate(
                    _short(middle), (high, place), (5, 0), textcoords="offset points",
                    va="center", fontsize="small",
                )  # fmt: skip
                smallest, largest = min(smallest, low), max(largest, high)
                place += 1.0
            ticks.append((start + place - 1.0) / 2)
            place += 0.7
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
        # On the logarithmic axis, bars start at the decade below the smallest value.
        first = 10.0 ** (np.ceil(np.log10(smallest)) - 1)
        first = first if first < 0.7 * smallest else first / 10
        ax.set_xlim(first, largest * (largest / first) ** 0.15)
        ax.set_yticks(ticks, list(self.times))
        ax.set(xlabel="seconds a frame", ylim=(place - 0.7 - 0.3, -0.7))
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="x", color="0.9")
        ax.set_axisbelow(True)
        if any(stages):
            legend_above(ax, ax.get_legend_handles_labels()[0])
        self.axes_, self.figure_ = ax, ax.figure
        return self


def _of(history: Mapping[str, Any], name: str) -> bool:
    return name in history or f"val_{name}" in history


def _seconds(name: str, values: ArrayLike) -> NDArray[np.float64]:
    try:
        runs = np.atleast_1d(np.asarray(values, dtype=np.float64)).ravel()
    except (TypeError, ValueError):
        raise InputError(f"Times must be numbers. Got {values!r} of {name!r}.") from None
    wrong = ~(np.isfinite(runs) & (runs > 0))
    if runs.size == 0 or wrong.any():
        got = "none" if runs.size == 0 else runs[wrong][0]
        raise InputError(f"Times must be positive and finite, in seconds. Got {got} of {name!r}.")
    return runs


def _short(seconds: float) -> str:
    """Format seconds with two digits and a unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{float(f'{seconds / size:.2g}'):,g} {unit}"
    return f"{float(f'{seconds / 1e-6:.2g}'):g} µs"
