"""Plots of a PSF and of the differences between PSFs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlpsf.errors import InputError
from mlpsf.plots._figure import (
    CHOSEN,
    OTHER,
    Display,
    as_numbers,
    check_softening,
    new_figure,
)

if TYPE_CHECKING:
    from mlpsf.psf import PSFModel

__all__ = ["PSFComparisonDisplay", "PSFDisplay"]

Kind = Literal["stamp", "lookup_table"]


class PSFDisplay(Display):
    """A PSF: its image and its profile along both axes.

    Parameters
    ----------
    stamp : ndarray, shape (size, size)
        Image of a star at the centre.
    fwhm, ellipticity : float
        FWHM in pixels; 1 - b/a.
    mean : bool
        Whether this is the mean of a PSF that varies over the frame.

    Attributes
    ----------
    figure_
    axes_ : sequence of two Axes
        Set by ``plot``.

    Raises
    ------
    InputError
        If the stamp is not a square image, contains NaN, or has nothing above 0.

    Examples
    --------
    >>> from mlpsf import PSFModel
    >>> display = PSFDisplay.from_model(PSFModel(np.zeros((210, 210)), 3.0, 3.0))
    >>> display.stamp.shape
    (21, 21)
    """

    def __init__(
        self, *, stamp: ArrayLike, fwhm: float, ellipticity: float, mean: bool = False
    ) -> None:
        self.stamp = as_numbers("A stamp", stamp, 2, square=True)
        if self.stamp.max() <= 0:
            raise InputError("A stamp must hold light. Got nothing above 0.")
        self.fwhm = fwhm
        self.ellipticity = ellipticity
        self.mean = mean

    @classmethod
    def from_model(cls, model: PSFModel, **kwargs: Any) -> Self:
        """Create and plot the display; keyword arguments go to `plot`."""
        centre = model.size // 2
        stamp = model.render(centre, centre, shape=(model.size, model.size))
        return cls(
            stamp=stamp, fwhm=model.fwhm, ellipticity=model.ellipticity, mean=model.varies
        ).plot(**kwargs)

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
            axes = new_figure(7.4, 3.4, apart=0.06).subplots(1, 2)
        left, right = axes
        top = self.stamp.max()
        half = len(self.stamp) / 2
        left.imshow(
            np.arcsinh(self.stamp / (top * 1e-3)),
            origin="lower",
            cmap="magma",
            extent=(-half, half, -half, half),
        )
        left.set(xlabel="x (pixels)", ylabel="y (pixels)")
        left.set_title(
            f"FWHM {self.fwhm:.2f} pixels, ellipticity {self.ellipticity:.3f}"
            + ("\nmean of a PSF that varies over the frame" if self.mean else ""),
            fontsize="small",
        )
        c = len(self.stamp) // 2
        u = np.arange(len(self.stamp)) - c
        radius = np.hypot(u, u[:, None]).ravel()
        share = np.maximum(self.stamp.ravel() / top, 1e-6)
        right.semilogy(radius, share, ".", ms=3, color=CHOSEN.colour)
        right.axvline(self.fwhm / 2, color=OTHER.colour, lw=0.8)
        right.axhline(0.5, color=OTHER.colour, lw=0.8)
        right.annotate(
            "half the FWHM, half the peak",
            (self.fwhm / 2, 0.5),
            xytext=(6, 3),
            textcoords="offset points",
            fontsize="x-small",
        )
        right.set(xlabel="radius (pixels)", ylabel="share of the peak")
        right.set(xlim=(-0.02 * c, c), ylim=(1e-5, 2))
        self.axes_, self.figure_ = axes, left.figure
        return self


class PSFComparisonDisplay(Display):
    """Two or more PSFs side by side in the same stretch, and their differences from the first.

    Parameters
    ----------
    images : mapping of str to ndarray, shape (size, size)
        Images by name, all of the same size, with the star at the centre.
    kind : {"stamp", "lookup_table"}
        Kind of the images: a star, or the lookup table of corrections to the Moffat profile.

    Attributes
    ----------
    figure_
    axes_ : ndarray, shape (2, n)
        Images above, differences below; below the first image, all profiles. Set by ``plot``.

    Raises
    ------
    InputError
        If there are fewer than two images, they are not square or differ in size, one contains
        NaN, the first stamp has nothing above 0, or the kind is unknown.

    Examples
    --------
    >>> from mlpsf import PSFModel
    >>> table = np.zeros((210, 210))
    >>> display = PSFComparisonDisplay.from_models(
    ...     {"narrow": PSFModel(table, 3.0, 3.0), "wide": PSFModel(table, 3.3, 3.0)})
    >>> bool(display.differences["wide"][10, 10] < 0)  # the wide one's peak is lower
    True
    """

    def __init__(
        self,
        *,
        images: Mapping[str, ArrayLike],
        kind: Kind = "stamp",
    ) -> None:
        _check_kind(kind)
        self.images = {
            name: as_numbers(f"Image {name!r}", image, 2, square=True)
            for name, image in images.items()
        }
        shapes = {name: image.shape for name, image in self.images.items()}
        if len(images) < 2 or len(set(shapes.values())) > 1:
            raise InputError(f"A comparison needs two or more images of one size. Got {shapes}.")
        self.kind = kind
        if self.top <= 0:
            raise InputError("The first stamp must hold light. Got nothing above 0.")

    @property
    def top(self) -> float:
        """Unit of the plots: the first stamp's peak, or the amplitude of the Moffat profile."""
        return float(next(iter(self.images.values())).max()) if self.kind == "stamp" else 1.0

    @property
    def differences(self) -> dict[str, NDArray[np.float64]]:
        """Difference of each other image from the first, over `top`."""
        (_, first), *others = self.images.items()
        return {name: (image - first) / self.top for name, image in others}

    @classmethod
    def from_models(
        cls,
        models: Mapping[str, PSFModel],
        *,
        kind: Kind = "stamp",
        **kwargs: Any,
    ) -> Self:
        """Draw a star with each model, or take its lookup table, and plot them.

        Parameters
        ----------
        models : mapping of str to PSFModel
            Two or more models by name. The others are compared to the first, in the smallest box.
        kind : {"stamp", "lookup_table"}
            ``"stamp"``: stars of equal flux, in pixels. ``"lookup_table"``: TRIPPy's tables, in
            sub-pixels, as in the ML-PSF study. Tables differ because the PSFs differ, and because
            their Moffat profiles do.
        **kwargs
            Passed to `plot`.

        Raises
        ------
        InputError
            If there are fewer than two models, the kind is unknown, or lookup tables differ in
            ``rep_fact``.
        """
        _check_kind(kind)
        if len(models) < 2:
            raise InputError(f"A comparison needs two or more PSFs. Got {len(models)}.")
        size = min(model.size for model in models.values())
        if kind == "stamp":
            images = {name: model.stamps(0.0, 0.0, size)[0] for name, model in models.items()}
            return cls(images=images, kind=kind).plot(**kwargs)
        rep = {name: model.rep_fact for name, model in models.items()}
        if len(set(rep.values())) > 1:
            raise InputError(f"Lookup tables must have one rep_fact. Got {rep}.")
        images = {}
        for name, model in models.items():
            edge = (model.size - size) // 2 * model.rep_fact
            side = size * model.rep_fact
            images[name] = model.lookup_table[edge : edge + side, edge : edge + side]
        return cls(images=images, kind=kind).plot(**kwargs)

    def plot(self, *, axes: Any = None, softening: float = 1e-3) -> Self:
        """Draw the images, differences and profiles.

        Parameters
        ----------
        axes : ndarray of matplotlib Axes, shape (2, n), optional
        softening : float
            Fraction of the peak at which the stretch of stamps changes from linear to logarithmic.
            Lookup tables have a linear stretch, symmetric about 0.

        Returns
        -------
        self

        Raises
        ------
        InputError
            If the number of axes is wrong, or `softening` is not positive.
        """
        check_softening(softening)
        n = len(self.images)
        axes = new_figure(2.9 * n, 5.6).subplots(2, n) if axes is None else np.asarray(axes)
        if axes.shape != (2, n):
            raise InputError(f"{n} PSFs need axes of shape (2, {n}). Got {axes.shape}.")
        figure = axes[0, 0].figure
        stamp = self.kind == "stamp"
        largest = max(float(np.abs(image).max()) for image in self.images.values()) or 1.0
        for ax, (name, image) in zip(axes[0], self.images.items(), strict=True):
            shown, low, high = image, -largest, largest
            if stamp:
                shown = np.arcsinh(image / (largest * softening))
                low, high = -1.0, float(np.arcsinh(1 / softening))
            mapped = ax.imshow(
                shown, origin="lower", cmap="magma" if stamp else "RdBu_r", vmin=low, vmax=high
            )
            ax.set_title(name, fontsize="small")
            ax.set_axis_off()
        if not stamp:
            bar = figure.colorbar(mapped, ax=axes[0].tolist(), shrink=0.8)
            bar.set_label("of the profile's amplitude", fontsize="small")
        reach = max(float(np.abs(image).max()) for image in self.differences.values()) or 1.0
        first = next(iter(self.images))
        for ax, (name, image) in zip(axes[1, 1:], self.differences.items(), strict=True):
            mapped = ax.imshow(image, origin="lower", cmap="RdBu_r", vmin=-reach, vmax=reach)
            ax.set_title(f"{name} \N{MINUS SIGN} {first}", fontsize="small")
            ax.set_axis_off()
        bar = figure.colorbar(mapped, ax=axes[1, 1:].tolist(), shrink=0.8)
        bar.set_label("of the peak" if stamp else "of the amplitude", fontsize="small")
        self._plot_profiles(axes[1, 0])
        self.axes_, self.figure_ = axes, figure
        return self

    def _plot_profiles(self, ax: Any) -> None:
        """Draw the radial profile of each image."""
        for name, image in self.images.items():
            radius, mean = _radial_mean(image / self.top)
            ax.plot(radius, mean, lw=1.3, label=name)
        unit = "pixels" if self.kind == "stamp" else "sub-pixels"
        ax.set(xlabel=f"radius ({unit})", xlim=(0, radius[-1]))
        if self.kind == "stamp":
            ax.set_yscale("log")
            ax.set_ylim(1e-5, 1.5)
        ax.set_ylabel("mean at radius", fontsize="small")
        ax.legend(fontsize="x-small")


def _check_kind(kind: str) -> None:
    if kind not in ("stamp", "lookup_table"):
        raise InputError(f'kind must be "stamp" or "lookup_table". Got {kind!r}.')


def _radial_mean(image: NDArray[np.floating]) -> tuple[NDArray[np.int_], NDArray[np.float64]]:
    """Return the mean of an image in rings of one pixel around its centre, out to its edge."""
    c = len(image) // 2
    u = np.arange(len(image)) - c
    ring = np.rint(np.hypot(u, u[:, None])).astype(int)
    inside = ring <= c
    total = np.bincount(ring[inside], image[inside])
    return np.arange(c + 1), total / np.bincount(ring[inside])
