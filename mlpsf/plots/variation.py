"""How the PSF changes over the frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from astropy.table import Table
from numpy.typing import ArrayLike

from mlpsf.errors import InputError
from mlpsf.plots._figure import as_numbers, new_figure

if TYPE_CHECKING:
    from mlpsf.psf import PSFModel

__all__ = ["VariationDisplay"]


class VariationDisplay:
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
        Stars with ``x``, ``y`` and ``fwhm``, drawn in the colours of the map.

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
    ) -> None:
        self.x, self.y = (np.asarray(v, dtype=np.float64) for v in (x, y))
        self.fwhm, self.e1, self.e2 = (
            as_numbers(name, v, 2) for name, v in (("fwhm", fwhm), ("e1", e1), ("e2", e2))
        )
        shape = (len(self.y), len(self.x))
        if any(v.shape != shape for v in (self.fwhm, self.e1, self.e2)):
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
            Star table; its selected stars are drawn, or all without such a column.
        grid : int
            Places along each axis.
        **kwargs
            Passed to `plot`.
        """
        ny, nx = frame_shape
        x, y = np.linspace(0, nx - 1, grid), np.linspace(0, ny - 1, grid)
        at_x, at_y = (v.ravel() for v in np.meshgrid(x, y))
        places = zip(at_x, at_y, strict=True)
        here = [psf.at(*place) for place in places] if psf.varies else [psf] * len(at_x)
        fwhm, e1, e2 = np.array([(p.fwhm, p.e1, p.e2) for p in here]).T
        if stars is not None and "selected" in stars.colnames:
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
            axes = new_figure(8, tall).subplots(1, 2)
        elif len(axes) != 2:
            raise InputError(f"The variation needs 2 axes. Got {len(axes)}.")
        left, right = axes
        low, high = float(np.nanmin(self.fwhm)), float(np.nanmax(self.fwhm))
        least = 0.01 * low  # or rounding would look like a variation
        if high - low < 2 * least:
            middle = (low + high) / 2
            low, high = middle - least, middle + least
        extent = (-0.5, nx - 0.5, -0.5, ny - 0.5)
        mapped = left.imshow(
            self.fwhm,
            origin="lower",
            extent=extent,
            cmap="viridis",
            vmin=low,
            vmax=high,
            interpolation="bilinear",
        )
        if self.stars is not None and {"x", "y", "fwhm"} <= set(self.stars.colnames):
            s = self.stars
            left.scatter(
                s["x"],
                s["y"],
                c=np.asarray(s["fwhm"], dtype=np.float64),
                cmap="viridis",
                vmin=low,
                vmax=high,
                s=28,
                edgecolors="white",
                linewidths=0.8,
            )
        left.figure.colorbar(mapped, ax=left, shrink=0.85, label="FWHM (pixels)")
        left.set_title("FWHM; dots: the stars", fontsize="medium")
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
        right.set_title("ellipticity", fontsize="medium", loc="left")
        self.axes_, self.figure_ = axes, left.figure
        return self
