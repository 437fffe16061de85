"""The PSF model: draw, subtract, trail and store it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlpsf.errors import InputError, PSFError
from mlpsf.psf.storage import read_psf, write_psf
from mlpsf.psf.trippy import border as border
from mlpsf.psf.trippy.inputs import as_numbers, read_motion
from mlpsf.psf.trippy.tables import (
    Shape,
    centre_on_pixel,
    cumulative,
    measure_shape,
    pixel_integrals,
    profile,
)

__all__ = ["PSFModel"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class PSFModel:
    """A point spread function: a Moffat profile and a lookup table of corrections.

    The model is immutable and its arrays are read-only. Coordinates are 0-based: the centre of the
    first pixel is (0, 0).

    Parameters
    ----------
    lookup_table : (size * rep_fact, size * rep_fact) array
        Table of corrections, as in TRIPPy.
    alpha, beta : float
        Parameters of the Moffat profile; alpha in pixels.
    rep_fact : {3, 5, 10}
        Sub-pixels per pixel.
    stars : (n, 3) array
        x, y and flux of the stars it was built from.
    meta : mapping
        How it was built.
    motion : (float, float, float, float) or None
        Rate (arcsec / h), angle (degrees), exposure (h) and pixel scale (arcsec) of a trail.

    Examples
    --------
    >>> psf = PSFModel(np.zeros((210, 210)), 3.0, 3.0)
    >>> psf
    <PSFModel 21 x 21 pixels, FWHM 3.18, ellipticity 0.00, 0 stars>
    >>> float(psf.render(20.0, 20.0, 500.0, shape=(41, 41)).sum().round(6))
    500.0
    """

    lookup_table: FloatArray
    alpha: float
    beta: float
    rep_fact: int = 10
    stars: FloatArray = field(default_factory=lambda: np.zeros((0, 3)))
    meta: Mapping[str, Any] = field(default_factory=dict)
    motion: tuple[float, float, float, float] | None = None

    def __post_init__(self) -> None:
        table = np.array(self.lookup_table, dtype=np.float64)
        stars = np.array(self.stars, dtype=np.float64).reshape(-1, 3)
        rep = int(self.rep_fact)
        if rep not in border.REP_FACTS:
            raise InputError(f"rep_fact must be one of {border.REP_FACTS}; got {self.rep_fact}")
        side = table.shape[0] if table.ndim == 2 else 0
        if table.shape != (side, side) or side % rep or not (side // rep) % 2 or side < 3 * rep:
            raise InputError(
                f"a lookup table is square, an odd number of pixels times rep_fact {rep}; "
                f"got shape {table.shape}"
            )
        if not np.isfinite(table).all():
            raise PSFError("the lookup table holds values that are not finite")
        if not (0 < self.alpha < np.inf and 1 < self.beta < np.inf):
            raise InputError(
                "a Moffat profile needs alpha > 0 and beta > 1; "
                f"got alpha {self.alpha}, beta {self.beta}"
            )
        for array in (table, stars):
            array.setflags(write=False)
        for name, value in (
            ("lookup_table", table),
            ("stars", stars),
            ("alpha", float(self.alpha)),
            ("beta", float(self.beta)),
            ("rep_fact", rep),
            ("meta", MappingProxyType(dict(self.meta))),
        ):
            object.__setattr__(self, name, value)

    def __getstate__(self) -> dict[str, Any]:
        # The TRIPPy object and the caches are recreated when needed.
        state = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**state, "meta": dict(self.meta)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)
        self.__post_init__()

    def __repr__(self) -> str:
        kind = "trailed " if self.motion else ""
        return (
            f"<{kind}PSFModel {self.size} x {self.size} pixels, FWHM {self.fwhm:.2f}, "
            f"ellipticity {self.ellipticity:.2f}, {len(self.stars)} stars>"
        )

    @property
    def size(self) -> int:
        """Side of the box in pixels, odd."""
        return int(self.lookup_table.shape[0]) // self.rep_fact

    @cached_property
    def trippy(self) -> Any:
        """A ``trippy.psf.modelPSF``, ready for plant, remove, line, LSfitter, psfStore.

        Changing it does not change this model. Its ``plant`` and ``remove`` take the 0-based centre
        plus 0.5, for round and for trailed sources, and an amplitude: the flux divided by
        `flux_per_amplitude`.
        """
        psf = border.new_psf(self.size, self.alpha, self.beta, self.rep_fact, self.lookup_table)
        for x, y, flux in self.stars:
            psf.psfStars.append([x + 1.0, y + 1.0, flux / psf.fullpsf.sum()])
        psf.A = psf.psfStars[-1][2] if psf.psfStars else 1.0
        if self.motion is not None:
            psf.line(*self.motion[:3], pixScale=self.motion[3])
        return psf

    @cached_property
    def _grid(self) -> tuple[FloatArray, int, float]:
        """Normalised light, sub-pixels per pixel, and the flux of amplitude 1."""
        if self.motion is None:
            light = profile(self.alpha, self.beta, self.lookup_table, self.rep_fact)
        else:
            light = self.trippy.trailed
        table, oversampling = centre_on_pixel(light, self.rep_fact)
        unit = float(table.sum())
        if not unit > 0:
            raise PSFError(f"the PSF's light sums to {unit:g} over its box; it must be positive")
        table = table / unit
        table.setflags(write=False)
        return table, oversampling, unit / oversampling**2

    @property
    def oversampled(self) -> FloatArray:
        """Light in each sub-pixel, with a sum of 1 and the star at the centre; read-only.

        There are `rep_fact` sub-pixels per pixel if that is even, else twice as many. The light of
        a pixel is the sum of its sub-pixels.
        """
        return self._grid[0]

    @property
    def flux_per_amplitude(self) -> float:
        """Flux in the box of a source with TRIPPy's amplitude m = 1: ``fullpsf.sum()``."""
        return self._grid[2]

    @cached_property
    def shape(self) -> Shape:
        """Size and shape of a star's image, pixel included."""
        return measure_shape(*self._grid[:2])

    @property
    def fwhm(self) -> float:
        """Full width at half maximum of a star's image in pixels, pixel included."""
        return self.shape.fwhm

    @property
    def ellipticity(self) -> float:
        """Ellipticity, 1 - b/a."""
        return self.shape.ellipticity

    @property
    def position_angle(self) -> float:
        """Position angle of the long axis in degrees from +x towards +y."""
        return self.shape.position_angle

    @property
    def e1(self) -> float:
        """Distortion along x, (Mxx - Myy) / (Mxx + Myy)."""
        return self.shape.e1

    @property
    def e2(self) -> float:
        """Distortion along the diagonal, 2 Mxy / (Mxx + Myy)."""
        return self.shape.e2

    @cached_property
    def _total(self) -> FloatArray:
        return cumulative(self.oversampled)

    def stamps(self, x_offset: ArrayLike, y_offset: ArrayLike, size: int) -> FloatArray:
        """Draw stars of flux 1, each in its own stamp.

        Parameters
        ----------
        x_offset, y_offset : float or (n,) arrays
            Offset of the star from the centre of the stamp's middle pixel, in pixels.
        size : int
            Side of a stamp in pixels, odd.

        Returns
        -------
        (n, size, size) array

        Raises
        ------
        InputError
            If `size` is even, or an offset is not finite.

        Examples
        --------
        >>> PSFModel(np.zeros((210, 210)), 3.0, 3.0).stamps([0.0, 0.3], [0.0, -0.2], 15).shape
        (2, 15, 15)
        """
        if size < 1 or size % 2 == 0:
            raise InputError(f"a stamp's size must be a positive odd number; got {size}")
        dx, dy = as_numbers(x_offset=x_offset, y_offset=y_offset)
        return pixel_integrals(self._total, self._grid[1], dx + size // 2, dy + size // 2, size)

    def render(
        self,
        x: ArrayLike,
        y: ArrayLike,
        flux: ArrayLike = 1.0,
        shape: tuple[int, int] | None = None,
    ) -> FloatArray:
        """Draw stars at exact positions. TRIPPy's plant rounds them to a sub-pixel.

        Parameters
        ----------
        x, y : float or (n,) arrays
            Centres, 0-based.
        flux : float or (n,) array
            Flux in the box of the PSF.
        shape : (ny, nx), optional
            Shape of the image to which all stars are added; stars are clipped at its edge.

        Returns
        -------
        array
            (ny, nx). Without `shape`, a (size, size) stamp whose middle pixel is the one nearest
            to (x, y); for arrays of stars, one stamp per star, (n, size, size).

        Raises
        ------
        InputError
            If a number is not finite or the shapes do not match.

        Examples
        --------
        >>> psf = PSFModel(np.zeros((210, 210)), 3.0, 3.0)
        >>> psf.render([5.0, 30.25], [8.0, 20.5], [100.0, 50.0], shape=(40, 60)).shape
        (40, 60)
        """
        scalar = all(np.ndim(v) == 0 for v in (x, y, flux))
        xs, ys, fluxes = as_numbers(x=x, y=y, flux=flux)
        if shape is None:
            out = self.stamps(xs - np.floor(xs + 0.5), ys - np.floor(ys + 0.5), self.size)
            out *= fluxes[:, None, None]
            return out[0] if scalar else out
        ny, nx = shape
        image = np.zeros((ny, nx))
        # A box at a fractional position overlaps one pixel more than its size.
        half, side = self.size // 2, self.size + 1
        near = (xs > -side) & (xs < nx + side) & (ys > -side) & (ys < ny + side)
        xs, ys, fluxes = xs[near], ys[near], fluxes[near]
        x0, y0 = (np.floor(v - half).astype(int) for v in (xs, ys))
        for start in range(0, xs.size, 1000):
            part = slice(start, start + 1000)
            drawn = pixel_integrals(
                self._total, self._grid[1], xs[part] - x0[part], ys[part] - y0[part], side
            )
            for stamp, f, i, j in zip(drawn, fluxes[part], x0[part], y0[part], strict=True):
                a, b, c, d = max(j, 0), min(j + side, ny), max(i, 0), min(i + side, nx)
                if a < b and c < d:
                    image[a:b, c:d] += f * stamp[a - j : b - j, c - i : d - i]
        return image

    def subtract(self, image: ArrayLike, x: ArrayLike, y: ArrayLike, flux: ArrayLike) -> FloatArray:
        """Subtract stars from an image.

        Parameters
        ----------
        image : (ny, nx) array
            Any number type and byte order; not changed.
        x, y, flux : float or (n,) arrays
            Centres, 0-based, and fluxes in the unit of the image.

        Returns
        -------
        (ny, nx) array
            New array of float64.

        Raises
        ------
        InputError
            If the image is not two-dimensional or a number is not finite.

        Examples
        --------
        >>> psf = PSFModel(np.zeros((210, 210)), 3.0, 3.0)
        >>> star = psf.render(20.3, 19.8, 900.0, shape=(40, 40))
        >>> bool(abs(psf.subtract(star, 20.3, 19.8, 900.0)).max() < 1e-9)
        True
        """
        out = np.array(image, dtype=np.float64)
        if out.ndim != 2:
            raise InputError(f"an image has two dimensions; got shape {out.shape}")
        return out - self.render(x, y, flux, (out.shape[0], out.shape[1]))

    def trail(self, rate: Any, angle: Any, exposure: Any, pixel_scale: Any) -> PSFModel:
        """Return the PSF of a target that moves during the exposure.

        The position of a trailed source is the middle of its trail.

        Parameters
        ----------
        rate : float or Quantity
            In arcsec / hour.
        angle : float or Quantity
            In degrees from +x towards +y.
        exposure : float or Quantity
            In seconds.
        pixel_scale : float or Quantity
            In arcsec, or arcsec / pixel.

        Returns
        -------
        PSFModel
            Its `trippy` object has longPSF, longpsf, rate, angle, dt (hours) and pixScale set, for
            ``plant(..., useLinePSF=True)``.

        Raises
        ------
        InputError
            If a unit does not match, a number is out of range, or the trail exceeds the box.

        Examples
        --------
        >>> psf = PSFModel(np.zeros((310, 310)), 3.0, 3.0)
        >>> psf.trail(rate=30.0, angle=90.0, exposure=600.0, pixel_scale=0.5)
        <trailed PSFModel 31 x 31 pixels, FWHM 6.10, ellipticity 0.58, 0 stars>
        """
        motion = read_motion(rate, angle, exposure, pixel_scale)
        hourly, degrees, hours, scale = motion
        still = replace(self, motion=None)
        length = hourly * hours / scale
        reach = max(abs(np.cos(np.deg2rad(degrees))), abs(np.sin(np.deg2rad(degrees)))) * length
        if reach + 2 * still.fwhm > self.size:
            raise InputError(
                f"a trail of {length:.1f} pixels does not fit a PSF of {self.size} pixels; build "
                f"the PSF with size={int(np.ceil(reach + 4 * still.fwhm)) | 1} or more"
            )
        return replace(self, motion=motion)

    def save(self, path: str | os.PathLike[str], overwrite: bool | None = None) -> None:
        """Write the PSF in the format of TRIPPy's ``psfStore(psfV2=True)``, with its provenance.

        The file has three HDUs: the lookup table and two empty tables of aperture corrections. It
        has all of TRIPPy's cards (star positions are 1-based), plus FSTARn and the provenance. The
        first 1000 stars are listed. The name is not changed, but TRIPPy opens only names that end
        in ``.fits``.

        Parameters
        ----------
        path : path-like
        overwrite : bool, optional
            Whether to replace an existing file. By default only a PSF of mlpsf is replaced.

        Raises
        ------
        OutputError
            If the folder does not exist or is not writable, or the file exists and must not be
            replaced. No partial file is left.

        Examples
        --------
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     PSFModel(np.zeros((210, 210)), 3.0, 3.0).save(folder + "/psf.fits")
        ...     PSFModel.load(folder + "/psf.fits").size
        21
        """
        write_psf(
            path,
            **self.__getstate__(),
            shape=self.shape,
            flux_per_amplitude=self.flux_per_amplitude,
            overwrite=overwrite,
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PSFModel:
        """Read a PSF from a file of :meth:`save`, or from a TRIPPy file of either version.

        Raises
        ------
        ModelFileError
            If the file does not exist or contains no PSF.

        Examples
        --------
        See :meth:`save`.
        """
        return read_psf(path, cls)
