"""Plots of a frame's stars and their cutouts."""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
from astropy.table import Row, Table
from astropy.visualization import ZScaleInterval
from numpy.typing import ArrayLike, NDArray

from mlpsf.errors import InputError
from mlpsf.frames.cutouts import extract_cutouts
from mlpsf.frames.frame import Frame
from mlpsf.frames.metadata import by_its_own_names
from mlpsf.neighbours.subtract import as_judged
from mlpsf.plots._figure import (
    Display,
    as_numbers,
    check_count,
    check_softening,
    legend_above,
    needed,
    new_figure,
)

__all__ = ["CutoutSheetDisplay", "StarMapDisplay"]

Stretch = Literal["arcsinh", "linear", "zscale"]

_STRETCHES = {
    "arcsinh": "arcsinh stretch, to each peak: shows the wings",
    "linear": "linear stretch, to each peak; light blue: saturated",
    "zscale": "linear stretch near each sky",
}


class StarMapDisplay(Display):
    """The frame with its sources: selected, reserved and not selected.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
    table : Table
        Star table from `mlpsf.select_stars`.

    Attributes
    ----------
    figure_, axes_
        Set by ``plot``.

    Raises
    ------
    InputError
        If the image is not valid, or the table lacks a column.

    Examples
    --------
    >>> table = Table({"x": [3.0, 7.0], "y": [5.0, 2.0],
    ...                "selected": [True, False], "reserved": [False, False]})
    >>> display = StarMapDisplay(image=np.eye(10), table=table).plot()
    >>> [text.get_text() for text in display.axes_.get_legend().get_texts()]
    ['not taken (1)', 'selected (1)']
    """

    def __init__(self, *, image: ArrayLike, table: Table) -> None:
        self.image = as_numbers("An image", image, 2)
        needed(table, "x", "y", "selected", "reserved")
        self.table = table

    @classmethod
    def from_stars(cls, frame: Frame, table: Table, **kwargs: Any) -> Self:
        """Create and plot the display; keyword arguments go to `plot`."""
        return cls(image=frame.data, table=table).plot(**kwargs)

    def plot(self, *, ax: Any = None, others: bool = True) -> Self:
        """Draw the map.

        Parameters
        ----------
        ax : matplotlib Axes, optional
        others : bool
            Whether to mark sources that were not selected.

        Returns
        -------
        self
        """
        ny, nx = self.image.shape
        if ax is None:
            scale = 8.0 / max(nx, ny)
            ax = new_figure(nx * scale + 1, ny * scale + 1).subplots()
        low, high = _zscale(self.image)
        ax.imshow(self.image, origin="lower", cmap="gray", vmin=low, vmax=high)
        t = self.table
        # Columns of an empty table are of type float by default.
        selected, reserved = (np.asarray(t[name], bool) for name in ("selected", "reserved"))
        kinds = [
            (selected, "#56b4e9", 90, "o", "selected"),
            (reserved, "#e69f00", 90, "s", "reserved"),
        ]
        if others:
            kinds.insert(0, (~(selected | reserved), "#e08ab4", 14, "D", "not taken"))
        handles = [
            ax.scatter(
                t["x"][rows],
                t["y"][rows],
                s=size,
                marker=marker,
                facecolors="none",
                edgecolors=colour,
                linewidths=1.2 if size > 20 else 0.6,
                label=f"{label} ({int(rows.sum())})",
            )
            for rows, colour, size, marker, label in kinds
            if rows.any()
        ]
        ax.set(xlabel="x (pixels)", ylabel="y (pixels)", xlim=(-0.5, nx - 0.5))
        ax.set_ylim(-0.5, ny - 0.5)
        if handles:
            legend_above(ax, handles)
        self.axes_, self.figure_ = ax, ax.figure
        return self


class CutoutSheetDisplay(Display):
    """A sheet of cutouts, stretched to show both faint neighbours and saturated cores.

    Parameters
    ----------
    cutouts : ndarray, shape (n, size, size)
        Sky-subtracted; NaN pixels stay blank.
    titles : list of str, optional
        Title of each cutout.
    saturated : ndarray of bool, shape (n, size, size), optional
        Pixels that the linear stretch marks.
    note : str
        Said at the foot of the sheet.

    Attributes
    ----------
    figure_
    axes_ : ndarray of Axes
        Axes row by row; those after the last cutout are empty. Set by ``plot``.

    Raises
    ------
    InputError
        If the cutouts are not a stack of images, or the number of titles differs.

    Examples
    --------
    >>> u = np.arange(-7, 8)
    >>> star = np.exp(-0.5 * (u**2 + u[:, None] ** 2) / 4)
    >>> sheet = CutoutSheetDisplay(cutouts=np.stack([star, 9 * star])).plot(stretch="zscale")
    >>> len(sheet.axes_)
    5
    """

    def __init__(
        self,
        *,
        cutouts: ArrayLike,
        titles: list[str] | None = None,
        saturated: ArrayLike | None = None,
        note: str = "",
    ) -> None:
        cutouts = as_numbers("Cutouts", cutouts, 3)
        if titles is not None and len(titles) != len(cutouts):
            raise InputError(f"{len(cutouts)} cutouts need as many titles. Got {len(titles)}.")
        self.cutouts = cutouts
        self.saturated = None if saturated is None else np.asarray(saturated, dtype=bool)
        if self.saturated is not None and self.saturated.shape != cutouts.shape:
            raise InputError(
                f"Saturated pixels must have the shape of the cutouts, {cutouts.shape}. Got "
                f"{self.saturated.shape}."
            )
        self.note = note
        self.titles = titles or [""] * len(cutouts)

    @classmethod
    def from_stars(
        cls, frame: Frame, table: Table, *, half_width_fwhm: float = 5.0, **kwargs: Any
    ) -> Self:
        """Cut out the selected stars of a table and plot them, best first.

        Where neighbours were subtracted, each star is shown as it was judged, without them, and the
        sheet says so.

        Parameters
        ----------
        frame : Frame
        table : Table
            Star table from `mlpsf.select_stars`.
        half_width_fwhm : float
            Half-width of a cutout in FWHM of the frame.
        **kwargs
            Passed to `plot`.

        Raises
        ------
        InputError
            If the table lacks a column, or ``fwhm`` in its metadata.
        """
        needed(table, "id", "x", "y", "snr", "probability", "selected")
        table = by_its_own_names(table)
        if "fwhm" not in table.meta:
            raise InputError("The table's metadata must hold the frame's fwhm.")
        stars = table[np.asarray(table["selected"], bool)]
        stars = stars[np.argsort(-stars["probability"], kind="stable")]
        size = 2 * int(np.ceil(half_width_fwhm * table.meta["fwhm"])) + 1
        seen = as_judged(frame, table)
        note = f"; {table.meta['n_subtracted']:,} neighbours subtracted" if seen.scene else ""
        sky = seen.background.level
        cut = extract_cutouts(seen, stars["x"], stars["y"], size, background=sky)
        titles = [_title(star) for star in stars]
        full = extract_cutouts(frame.saturated.astype(np.float32), stars["x"], stars["y"], size)
        over = full.data > 0
        return cls(cutouts=cut.data, titles=titles, saturated=over, note=note).plot(**kwargs)

    def plot(
        self,
        *,
        figure: Any = None,
        columns: int = 5,
        softening: float = 0.005,
        stretch: Stretch = "arcsinh",
    ) -> Self:
        """Draw the sheet.

        Parameters
        ----------
        figure : matplotlib Figure, optional
        columns : int
        softening : float
            Fraction of the peak at which the arcsinh stretch changes from linear to logarithmic.
        stretch : {"arcsinh", "linear", "zscale"}
            ``"arcsinh"`` shows the wings. ``"linear"`` goes to the peak and shows the core, with
            saturated pixels in light blue.
            ``"zscale"``: linear between the limits of astropy's z-scale for each cutout, as in the
            ML-PSF study. It shows levels near the sky, but not cores.

        Returns
        -------
        self

        Raises
        ------
        InputError
            If the stretch is unknown, or `columns` or `softening` is out of range.
        """
        check_count("columns", columns)
        check_softening(softening)
        if stretch not in ("arcsinh", "linear", "zscale"):
            raise InputError(f'stretch must be "arcsinh", "linear" or "zscale". Got {stretch!r}.')
        n = max(len(self.cutouts), 1)
        rows = -(-n // columns)
        figure = figure or new_figure(1.6 * columns, 1.8 * rows + 0.3)
        axes = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
        for ax in axes:
            ax.set_axis_off()
        if not len(self.cutouts):
            figure.text(0.5, 0.5, "no star is chosen", ha="center", va="center")
        full = np.zeros_like(self.cutouts, bool) if self.saturated is None else self.saturated
        for ax, cutout, over, title in zip(axes, self.cutouts, full, self.titles, strict=False):
            if stretch == "arcsinh":
                shown, low, high = _arcsinh(cutout, softening)
            elif stretch == "linear":
                shown, low, high = cutout, 0.0, _core_peak(cutout)
            else:
                shown = cutout
                low, high = _zscale(cutout)
            ax.imshow(shown, origin="lower", cmap="magma", vmin=low, vmax=high)
            if stretch == "linear" and over.any():
                blue = np.zeros((*over.shape, 4))
                blue[over] = (0.35, 0.78, 0.98, 1.0)
                ax.imshow(blue, origin="lower")
            ax.set_title(title, fontsize=7)
        side = self.cutouts.shape[-1]
        text = f"{side} x {side} pixels each; {_STRETCHES[stretch]}{self.note}"
        figure.supxlabel(text, fontsize="small")
        self.axes_, self.figure_ = axes, figure
        return self


def _title(star: Row) -> str:
    """Return number, probability and S/N of a star, as far as they are known."""
    known = [
        f"{name} {star[column]:{form}}"
        for name, column, form in (("P", "probability", ".3f"), ("S/N", "snr", ".0f"))
        if np.isfinite(star[column])
    ]
    return ": ".join([str(star["id"]), *([", ".join(known)] if known else [])])


def _arcsinh(
    cutout: NDArray[np.floating], softening: float
) -> tuple[NDArray[np.floating], float, float]:
    """Stretch a cutout by its peak; return the image and its limits."""
    shown = np.arcsinh(cutout / (_core_peak(cutout) * softening))
    return shown, -1.0, float(np.arcsinh(1 / softening))


def _core_peak(cutout: NDArray[np.floating]) -> float:
    """Return the highest of the nine pixels in the middle."""
    c = len(cutout) // 2
    core = cutout[c - 1 : c + 2, c - 1 : c + 2]
    return max(float(np.nanmax(core)) if np.isfinite(core).any() else 1.0, 1e-9)


def _zscale(cutout: NDArray[np.floating]) -> tuple[float, float]:
    """Return the z-scale limits of a linear stretch."""
    if not np.isfinite(cutout).any():
        return 0.0, 1.0
    low, high = ZScaleInterval().get_limits(cutout)
    return float(low), float(high)
