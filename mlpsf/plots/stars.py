"""Plots of what is measured on the stars: sizes, profiles, residuals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from mlpsf.errors import InputError
from mlpsf.frames.frame import Frame
from mlpsf.plots._figure import (
    CHOSEN,
    OTHER,
    RESERVED,
    Display,
    legend_above,
    needed,
    new_figure,
)

if TYPE_CHECKING:
    from mlpsf.psf import PSFQuality
    from mlpsf.psf.quality.profiles import StarProfiles

__all__ = ["ProfilesDisplay", "ResidualsDisplay", "SizeMagnitudeDisplay"]


class SizeMagnitudeDisplay(Display):
    """FWHM of the sources against their magnitude, with the selection marked.

    Parameters
    ----------
    table : Table
        Star table from `mlpsf.select_stars`.

    Attributes
    ----------
    magnitude : ndarray, shape (n,)
        Magnitudes below the brightest source; NaN where the flux is not positive.
    figure_, axes_
        Set by ``plot``.

    Raises
    ------
    InputError
        If the table lacks a column.

    Examples
    --------
    >>> table = Table({"flux": [1e4, 1e3], "fwhm": [4.0, 4.1], "selected": [True, False],
    ...                "reserved": [False, False]})
    >>> SizeMagnitudeDisplay.from_stars(table).magnitude.round(2).tolist()
    [0.0, 2.5]
    """

    def __init__(self, *, table: Table) -> None:
        needed(table, "flux", "fwhm", "selected", "reserved")
        self.table = table
        flux = np.asarray(table["flux"], dtype=np.float64)
        flux = np.where(flux > 0, flux, np.nan)
        top = np.nanmax(flux) if np.isfinite(flux).any() else 1.0
        self.magnitude: NDArray[np.float64] = 2.5 * np.log10(top / flux)

    @classmethod
    def from_stars(cls, table: Table, **kwargs: Any) -> Self:
        """Create and plot the display; keyword arguments go to `plot`."""
        return cls(table=table).plot(**kwargs)

    def plot(self, *, ax: Any = None) -> Self:
        """Draw the sources.

        Parameters
        ----------
        ax : matplotlib Axes, optional

        Returns
        -------
        self
        """
        if ax is None:
            ax = new_figure(6, 4).subplots()
        t = self.table
        fwhm = np.asarray(t["fwhm"], dtype=np.float64)
        if len(fwhm) and not np.isfinite(fwhm).any():
            raise InputError(
                "No source has a FWHM to draw: give the star table that mlpsf select or psf wrote, "
                "or the frame. A PSF lists where its stars are, and no more."
            )
        selected, reserved = (np.asarray(t[c], dtype=bool) for c in ("selected", "reserved"))
        drawn = []
        for rows, style in (
            (~(selected | reserved), OTHER),
            (selected & ~reserved, CHOSEN),
            (reserved, RESERVED),
        ):
            if rows.any():
                drawn.append(
                    ax.scatter(
                        self.magnitude[rows],
                        fwhm[rows],
                        s=style.size,
                        marker=style.marker,
                        facecolors=style.colour if style.filled else "none",
                        edgecolors=style.colour,
                        linewidths=1.0,
                        label=f"{style.name} ({int(rows.sum())})",
                        rasterized=int(rows.sum()) > 1000,
                    )
                )
        if "fwhm" in t.meta and drawn:
            label = f"the frame's FWHM, {t.meta['fwhm']:.2f}"
            drawn.append(
                ax.axhline(t.meta["fwhm"], lw=0.8, ls="--", color=OTHER.colour, label=label)
            )
        ok = np.isfinite(fwhm)
        if ok.any():
            middle = float(t.meta.get("fwhm", np.median(fwhm[ok])))
            ax.set_ylim(0, min(max(np.quantile(fwhm[ok], 0.95), 1.5 * middle), 4 * middle))
        ax.set(xlabel="magnitudes below the brightest source", ylabel="FWHM (pixels)")
        if drawn:
            legend_above(ax, drawn)
        self.axes_, self.figure_ = ax, ax.figure
        return self


class ProfilesDisplay(Display):
    """Radial profile of each star on that of the PSF, and their differences.

    Parameters
    ----------
    profiles : StarProfiles
        From `mlpsf.psf.quality.profiles.star_profiles`.

    Attributes
    ----------
    figure_
    axes_ : sequence of two Axes
        Profiles above, differences below. Set by ``plot``.

    Examples
    --------
    >>> from mlpsf import build_psf, select_stars, simulate_frame
    >>> frame = simulate_frame(shape=(400, 400), n_stars=60, n_galaxies=0, fwhm=4.0, seed=2).frame
    >>> stars = select_stars(frame, n_min=3, relax=True)
    >>> display = ProfilesDisplay.from_stars(frame, stars, build_psf(frame, stars))
    >>> len(display.axes_)
    2
    """

    def __init__(self, *, profiles: StarProfiles) -> None:
        self.profiles = profiles

    @classmethod
    def from_stars(cls, frame: Frame, stars: Table, psf: Any, **kwargs: Any) -> Self:
        """Fit the PSF to the selected and reserved stars of a table, and plot them.

        Parameters
        ----------
        frame : Frame
        stars : Table
            Star table from `mlpsf.select_stars`.
        psf : PSFModel
        **kwargs
            Passed to `plot`.
        """
        from mlpsf.psf.quality.profiles import star_profiles

        needed(stars, "x", "y", "selected", "reserved")
        taken = np.asarray(stars["selected"], bool) | np.asarray(stars["reserved"], bool)
        return cls(profiles=star_profiles(frame, psf, stars[taken])).plot(**kwargs)

    def plot(self, *, axes: Any = None) -> Self:
        """Draw profiles and differences.

        Parameters
        ----------
        axes : two matplotlib Axes, optional

        Returns
        -------
        self
        """
        if axes is None:
            axes = new_figure(6, 5).subplots(2, 1, sharex=True, height_ratios=[3, 2])
        elif len(axes) != 2:
            raise InputError(f"Profiles need 2 axes. Got {len(axes)}.")
        upper, lower = axes
        p = self.profiles
        upper.semilogy(p.radii, np.maximum(p.stars.T, 1e-6), color=CHOSEN.colour, lw=0.6, alpha=0.5)
        (line,) = upper.semilogy(p.radii, np.nanmean(p.psf, axis=0), color=RESERVED.colour, lw=2)
        line.set_label("PSF")
        upper.plot([], [], color=CHOSEN.colour, lw=0.6, label=f"stars ({len(p.stars)})")
        if np.isfinite(p.noise):
            level = upper.axhline(p.noise, color=OTHER.colour, ls=":", lw=1)
            level.set_label("noise of a pixel")
        low = min(np.nanmin(p.psf) / 3, p.noise / 10 if np.isfinite(p.noise) else 1.0)
        upper.set(ylabel="of the peak", ylim=(max(low, 1e-6), 1.5))
        legend_above(upper, upper.get_legend_handles_labels()[0])
        off = 100 * (p.stars - p.psf)
        lower.plot(p.radii, off.T, color=CHOSEN.colour, lw=0.6, alpha=0.5)
        lower.axhline(0, color=RESERVED.colour, lw=1.5)
        error = 100 * np.nanmedian(p.errors, axis=0)
        lower.fill_between(p.radii, -2 * error, 2 * error, color=OTHER.colour, alpha=0.3, lw=0)
        reach = np.nanquantile(np.abs(off), 0.98) if np.isfinite(off).any() else 1.0
        reach = 1.2 * max(float(reach), float(np.nanmax(error)) * 2)
        lower.set(
            xlabel="radius (pixels)",
            ylabel="star \N{MINUS SIGN} PSF\n(% of the peak)",
            ylim=(-reach, reach),
            xlim=(0, p.radii[-1]),
        )
        lower.annotate(
            "band: twice the median noise",
            (0.99, 0.04),
            xycoords="axes fraction",
            ha="right",
            fontsize="x-small",
        )
        self.axes_, self.figure_ = axes, upper.figure
        return self


class ResidualsDisplay(Display):
    """What the PSF leaves of the stars: the stacked residual, and the light within radii.

    Parameters
    ----------
    quality : PSFQuality
        From `mlpsf.psf.psf_quality`.

    Attributes
    ----------
    figure_
    axes_ : sequence of two Axes
        Set by ``plot``.

    Examples
    --------
    >>> from mlpsf.psf import PSFModel, against_truth
    >>> true, wide = (PSFModel(np.zeros((310, 310)), alpha, 3.0) for alpha in (3.0, 3.03))
    >>> quality = against_truth(wide, true.render(15, 15, shape=(31, 31)))
    >>> ResidualsDisplay(quality=quality).plot().axes_[0].get_title()
    'residual of the truth'
    """

    def __init__(self, *, quality: PSFQuality) -> None:
        self.quality = quality

    @classmethod
    def from_stars(cls, frame: Frame, stars: Table, psf: Any, **kwargs: Any) -> Self:
        """Judge the PSF by the stars of a table, and plot; keyword arguments go to `plot`."""
        from mlpsf.psf import psf_quality

        return cls(quality=psf_quality(frame, psf, stars)).plot(**kwargs)

    def plot(self, *, axes: Any = None) -> Self:
        """Draw the stacked residual and the curves of growth.

        Parameters
        ----------
        axes : two matplotlib Axes, optional

        Returns
        -------
        self
        """
        if axes is None:
            axes = new_figure(8.4, 3.6, apart=0.06).subplots(1, 2)
        elif len(axes) != 2:
            raise InputError(f"Residuals need 2 axes. Got {len(axes)}.")
        left, right = axes
        q = self.quality
        shown = -100 * q.residual_image  # star minus PSF, as in the profiles
        c = len(shown) // 2
        used = np.abs(np.flatnonzero(shown.any(axis=0) | shown.any(axis=1)) - c)
        if len(used):  # beyond, nothing is judged
            near = slice(c - used.max(), c + used.max() + 1)
            shown = shown[near, near]
        reach = max(float(np.abs(shown).max()), 1e-6)
        half = len(shown) / 2
        mapped = left.imshow(
            shown,
            origin="lower",
            cmap="RdBu_r",
            vmin=-reach,
            vmax=reach,
            extent=(-half, half, -half, half),
        )
        bar = left.figure.colorbar(mapped, ax=left, shrink=0.85)
        bar.set_label("star \N{MINUS SIGN} PSF (% of the peak)")
        kind = "reserve" if q.reserved else "own"
        by = f"{q.n_stars} {kind} stars (median)" if q.n_stars else "the truth"
        left.set_title(f"residual of {by}", fontsize="medium")
        left.set(xlabel="x (pixels)", ylabel="y (pixels)")
        off = 100 * (q.measured_growth - q.growth)
        error = 100 * q.growth_error
        right.fill_between(q.radii, off - error, off + error, color=CHOSEN.colour, alpha=0.3, lw=0)
        right.plot(q.radii, off, color=CHOSEN.colour, label="stars, with their error")
        right.axhline(0, color=RESERVED.colour, lw=1.5, label="PSF")
        right.set(
            xlabel="radius of the aperture (pixels)",
            ylabel="light within, stars \N{MINUS SIGN} PSF (%)",
            xlim=(0, q.radii[-1]),
        )
        legend_above(right, right.get_legend_handles_labels()[0])
        self.axes_, self.figure_ = axes, left.figure
        return self
