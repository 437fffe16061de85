"""Pictures of what was chosen and made, as Display objects in scikit-learn's manner.

A display holds what is to be shown; ``plot()`` draws it and keeps ``figure_`` and ``axes_``. None
of them touches matplotlib's global state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from astropy.table import Table
from astropy.visualization import ZScaleInterval
from numpy.typing import NDArray

from mlpsf.cutouts import extract_cutouts
from mlpsf.frame import Frame

if TYPE_CHECKING:
    from mlpsf.psf import PSFModel

__all__ = ["CutoutSheetDisplay", "PSFDisplay", "StarMapDisplay"]


def _new_figure(width: float, height: float) -> Any:
    """Make a figure that no window and no global state knows of."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


class StarMapDisplay:
    """The frame with its sources: chosen, reserved, and those that were not taken.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
    table : Table
        As `mlpsf.select_stars` returns.

    Attributes
    ----------
    figure_, axes_
        Set by ``plot``.
    """

    def __init__(self, *, image: NDArray[np.floating], table: Table) -> None:
        self.image = image
        self.table = table

    @classmethod
    def from_frame(cls, frame: Frame, table: Table, **kwargs: Any) -> Self:
        """Make and plot it; keyword arguments go to `plot`."""
        return cls(image=frame.data, table=table).plot(**kwargs)

    def plot(self, *, ax: Any = None, others: bool = True) -> Self:
        """Draw the map.

        Parameters
        ----------
        ax : matplotlib Axes, optional
        others : bool
            Whether sources that were not taken are marked too.

        Returns
        -------
        self
        """
        ny, nx = self.image.shape
        if ax is None:
            scale = 8.0 / max(nx, ny)
            ax = _new_figure(nx * scale + 1, ny * scale + 1).subplots()
        low, high = ZScaleInterval().get_limits(self.image)
        ax.imshow(self.image, origin="lower", cmap="gray", vmin=low, vmax=high)
        t = self.table
        kinds = [
            (t["selected"], "#40e060", 90, "selected"),
            (t["reserved"], "#40d0ff", 90, "reserved"),
        ]
        if others:
            kinds.insert(0, (~(t["selected"] | t["reserved"]), "#ff5040", 14, "not taken"))
        for rows, colour, size, label in kinds:
            if rows.any():
                ax.scatter(
                    t["x"][rows],
                    t["y"][rows],
                    s=size,
                    facecolors="none",
                    edgecolors=colour,
                    linewidths=1.2 if size > 20 else 0.6,
                    label=f"{label} ({int(rows.sum())})",
                )
        ax.set(xlabel="x (pixels)", ylabel="y (pixels)", xlim=(-0.5, nx - 0.5))
        ax.set_ylim(-0.5, ny - 0.5)
        ax.legend(loc="upper right", fontsize="small")
        self.axes_, self.figure_ = ax, ax.figure
        return self


class CutoutSheetDisplay:
    """A sheet of cutouts, stretched so that faint neighbours and saturated cores both show.

    Parameters
    ----------
    cutouts : ndarray, shape (n, size, size)
        Sky-subtracted.
    titles : list of str, optional
    """

    def __init__(self, *, cutouts: NDArray[np.floating], titles: list[str] | None = None) -> None:
        self.cutouts = cutouts
        self.titles = titles or [""] * len(cutouts)

    @classmethod
    def from_table(
        cls, frame: Frame, table: Table, *, half_width_fwhm: float = 5.0, **kwargs: Any
    ) -> Self:
        """Cut the selected stars of a table out of their frame and plot them, best first.

        Parameters
        ----------
        frame : Frame
        table : Table
            As `mlpsf.select_stars` returns.
        half_width_fwhm : float
            How far a cutout reaches, in FWHM of the frame.
        **kwargs
            For `plot`.
        """
        from mlpsf.detection import measure_background

        stars = table[table["selected"]]
        stars = stars[np.argsort(-stars["probability"], kind="stable")]
        size = 2 * int(np.ceil(half_width_fwhm * table.meta["fwhm"])) + 1
        sky = measure_background(frame).level
        cut = extract_cutouts(frame, stars["x"], stars["y"], size, background=sky)
        titles = [f"{s['id']}: {s['probability']:.3f}, S/N {s['snr']:.0f}" for s in stars]
        return cls(cutouts=cut.data, titles=titles).plot(**kwargs)

    def plot(self, *, figure: Any = None, columns: int = 5, softening: float = 0.005) -> Self:
        """Draw the sheet.

        Parameters
        ----------
        figure : matplotlib Figure, optional
        columns : int
        softening : float
            Fraction of the peak at which the stretch turns from linear to logarithmic.

        Returns
        -------
        self
        """
        n = max(len(self.cutouts), 1)
        rows = -(-n // columns)
        figure = figure or _new_figure(1.6 * columns, 1.75 * rows)
        axes = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
        for ax in axes:
            ax.set_axis_off()
        for ax, cutout, title in zip(axes, self.cutouts, self.titles, strict=False):
            c = len(cutout) // 2
            core = cutout[c - 1 : c + 2, c - 1 : c + 2]
            peak = np.nanmax(core) if np.isfinite(core).any() else 1.0
            shown = np.arcsinh(cutout / (max(peak, 1e-9) * softening))
            ax.imshow(
                shown, origin="lower", cmap="magma", vmin=-1.0, vmax=np.arcsinh(1 / softening)
            )
            ax.set_title(title, fontsize=6)
        self.axes_, self.figure_ = axes, figure
        return self


class PSFDisplay:
    """A PSF: its image, and its profile along both axes.

    Parameters
    ----------
    stamp : ndarray, shape (size, size)
        Image of a star at the centre.
    fwhm, ellipticity : float
    """

    def __init__(self, *, stamp: NDArray[np.floating], fwhm: float, ellipticity: float) -> None:
        self.stamp = stamp
        self.fwhm = fwhm
        self.ellipticity = ellipticity

    @classmethod
    def from_model(cls, model: PSFModel, **kwargs: Any) -> Self:
        """Make and plot it; keyword arguments go to `plot`."""
        centre = model.size // 2
        stamp = model.render(centre, centre, shape=(model.size, model.size))
        return cls(stamp=stamp, fwhm=model.fwhm, ellipticity=model.ellipticity).plot(**kwargs)

    def plot(self, *, axes: Any = None) -> Self:
        """Draw image and profile.

        Parameters
        ----------
        axes : two matplotlib Axes, optional

        Returns
        -------
        self
        """
        if axes is None:
            axes = _new_figure(7, 3.2).subplots(1, 2)
        left, right = axes
        top = self.stamp.max()
        left.imshow(np.arcsinh(self.stamp / (top * 1e-3)), origin="lower", cmap="magma")
        left.set_title(
            f"FWHM {self.fwhm:.2f} px, ellipticity {self.ellipticity:.3f}", fontsize="small"
        )
        left.set_axis_off()
        c = len(self.stamp) // 2
        u = np.arange(len(self.stamp)) - c
        radius = np.hypot(u, u[:, None]).ravel()
        right.semilogy(radius, np.maximum(self.stamp.ravel() / top, 1e-6), ".", ms=2)
        right.axvline(self.fwhm / 2, color="0.6", lw=0.8)
        right.axhline(0.5, color="0.6", lw=0.8)
        right.set(xlabel="radius (pixels)", ylabel="of the peak", ylim=(1e-5, 1.5), xlim=(0, c))
        self.axes_, self.figure_ = axes, left.figure
        return self
