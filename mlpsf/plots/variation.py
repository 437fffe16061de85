"""How the PSF changes over the frame."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from astropy.table import Table
from numpy.typing import ArrayLike

from mlpsf.errors import InputError
from mlpsf.plots._figure import (
    Display,
    as_numbers,
    new_figure,
)

if TYPE_CHECKING:
    from mlpsf.psf import PSFModel

__all__ = ["VariationDisplay"]


class VariationDisplay(Display):
    """FWHM and ellipticity of the PSF over the frame, with those of its stars.

    Parameters
    ----------
    x, y : array_like, shape (k,) and (m,)
        Columns and rows of the map, in pixels.
    fwhm : array_like, shape (m, k)
        In pixels.
    e1, e2 : array_like, shape (m, k)
        Distortion.
    frame_shape : (int, int)
        Rows and columns of the frame.
    stars : Table, optional
        Stars with ``x`` and ``y``; with ``fwhm``, too, they are drawn in the colours of the map.
    reach : array_like, shape (m, k), optional
        How uncertain the PSF is there, over what one star by itself tells: above 1 the place is
        hatched, for the PSF is extrapolated.

    Attributes
    ----------
    figure_
    axes_ : sequence of two Axes
        FWHM on the left, ellipticity on the right. Set by ``plot``.

    Raises
    ------
    InputError
        If the shapes do not fit.

    Examples
    --------
    >>> from mlpsf import PSFModel
    >>> psf = PSFModel(np.zeros((210, 210)), 3.0, 3.0)
    >>> VariationDisplay.from_model(psf, (300, 400)).fwhm.shape
    (6, 6)
    """

    def __init__(
        self,
        *,
        x: ArrayLike,
        y: ArrayLike,
        fwhm: ArrayLike,
        e1: ArrayLike,
        e2: ArrayLike,
        frame_shape: tuple[int, int],
        stars: Table | None = None,
        reach: ArrayLike | None = None,
    ) -> None:
        self.x, self.y = (np.asarray(v, dtype=np.float64) for v in (x, y))
        self.fwhm, self.e1, self.e2 = (
            as_numbers(name, v, 2) for name, v in (("fwhm", fwhm), ("e1", e1), ("e2", e2))
        )
        shape = (len(self.y), len(self.x))
        self.reach = np.zeros(shape) if reach is None else as_numbers("reach", reach, 2)
        if any(v.shape != shape for v in (self.fwhm, self.e1, self.e2, self.reach)):
            raise InputError(f"The maps must have the shape of y and x, {shape}.")
        self.frame_shape = frame_shape
        self.stars = stars

    @classmethod
    def from_model(
        cls,
        psf: PSFModel,
        frame_shape: tuple[int, int],
        stars: Table | None = None,
        *,
        grid: int = 6,
        **kwargs: Any,
    ) -> Self:
        """Measure a PSF at places all over a frame, and plot them.

        Parameters
        ----------
        psf : PSFModel
        frame_shape : (int, int)
            Rows and columns of the frame.
        stars : Table, optional
            Star table; its selected stars are drawn, or all without such a column. By default
            those that the PSF lists.
        grid : int
            Places along each axis.
        **kwargs
            Passed to `plot`.
        """
        ny, nx = frame_shape
        x, y = np.linspace(0, nx - 1, grid), np.linspace(0, ny - 1, grid)
        at_x, at_y = (v.ravel() for v in np.meshgrid(x, y))
        places = zip(at_x, at_y, strict=True)
        here = [psf] * len(at_x)
        reach = np.zeros(len(at_x))
        if psf.varies:
            with warnings.catch_warnings():  # the plot shows it
                warnings.filterwarnings("ignore", r"the PSF at .* is extrapolated")
                here = [psf.at(*place) for place in places]
            if psf.terms is not None and len(psf.stars):
                known = psf.stars[:, :2]
                reach[:] = [
                    psf.terms.reach(px, py, known) for px, py in zip(at_x, at_y, strict=True)
                ]
        fwhm, e1, e2 = np.array([(p.fwhm, p.e1, p.e2) for p in here]).T
        if stars is None and len(psf.stars):
            stars = Table({"x": psf.stars[:, 0], "y": psf.stars[:, 1]})
        elif stars is not None and "selected" in stars.colnames:
            stars = stars[np.asarray(stars["selected"], dtype=bool)]
        shape = (grid, grid)
        return cls(
            x=x,
            y=y,
            fwhm=fwhm.reshape(shape),
            e1=e1.reshape(shape),
            e2=e2.reshape(shape),
            frame_shape=frame_shape,
            stars=stars,
            reach=reach.reshape(shape),
        ).plot(**kwargs)

    def plot(self, *, axes: Any = None) -> Self:
        """Draw both maps.

        Parameters
        ----------
        axes : two matplotlib Axes, optional

        Returns
        -------
        self
        """
        ny, nx = self.frame_shape
        if axes is None:
            tall = 3.4 * min(max(ny / nx, 0.5), 2.0) + 0.9
            axes = new_figure(8.4, tall, apart=0.06).subplots(1, 2)
        elif len(axes) != 2:
            raise InputError(f"The variation needs 2 axes. Got {len(axes)}.")
        left, right = axes
        low, high = float(np.nanmin(self.fwhm)), float(np.nanmax(self.fwhm))
        least = 0.01 * low  # or rounding would look like a variation
        if high - low < 2 * least:
            middle = (low + high) / 2
            low, high = middle - least, middle + least
        # The map's outer places lie on the frame's border, in the middle of their cells.
        step_x, step_y = (np.ptp(v) / max(len(v) - 1, 1) / 2 for v in (self.x, self.y))
        extent = (
            self.x.min() - step_x,
            self.x.max() + step_x,
            self.y.min() - step_y,
            self.y.max() + step_y,
        )
        mapped = left.imshow(
            self.fwhm,
            origin="lower",
            extent=extent,
            cmap="viridis",
            vmin=low,
            vmax=high,
            interpolation="bilinear",
        )
        told = ["FWHM"]
        if self.reach.max() > 1 and min(self.reach.shape) > 1:
            far = left.contourf(
                self.x, self.y, self.reach, levels=[1, np.inf], colors="none", hatches=["///"]
            )
            far.set(edgecolor="white", linewidth=0)
            told.append("hatched: far from the stars")
        if self.stars is not None and len(self.stars):
            s = self.stars
            measured = "fwhm" in s.colnames
            left.scatter(
                s["x"],
                s["y"],
                c=np.asarray(s["fwhm"], dtype=np.float64) if measured else "none",
                cmap="viridis" if measured else None,
                vmin=low if measured else None,
                vmax=high if measured else None,
                s=28,
                edgecolors="white",
                linewidths=0.8,
            )
            told.insert(1, "dots: the stars")
        left.set(xlim=(-0.5, nx - 0.5), ylim=(-0.5, ny - 0.5), aspect="equal")
        left.figure.colorbar(mapped, ax=left, shrink=0.85, label="FWHM (pixels)")
        left.set_title("; ".join(told), fontsize="small")
        # 1 - b/a along the long axis, from the distortion.
        length = np.minimum(np.hypot(self.e1, self.e2), 0.999)
        ellipticity = 1 - np.sqrt((1 - length) / (1 + length))
        angle = np.arctan2(self.e2, self.e1) / 2
        at_x, at_y = np.meshgrid(self.x, self.y)
        bars = right.quiver(
            at_x,
            at_y,
            ellipticity * np.cos(angle),
            ellipticity * np.sin(angle),
            pivot="mid",
            headwidth=0,
            headlength=0,
            headaxislength=0,
            color="#0072b2",
            angles="xy",
            scale_units="width",
            scale=max(float(ellipticity.max()), 0.01) * 12,
            width=0.006,
        )
        unit = float(f"{max(float(ellipticity.max()), 0.005):.1g}")
        right.quiverkey(bars, 0.85, 1.06, unit, f"1 \N{MINUS SIGN} b/a = {unit:g}", labelpos="W")
        right.set(xlim=(-0.04 * nx, 1.04 * nx), ylim=(-0.04 * ny, 1.04 * ny), aspect="equal")
        for ax in axes:
            ax.set(xlabel="x (pixels)", ylabel="y (pixels)")
        right.set_title("ellipticity", fontsize="small", loc="left")
        self.axes_, self.figure_ = axes, left.figure
        return self
