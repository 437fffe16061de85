"""The PSF model: draw, subtract, trail and store it, anywhere on the frame."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlpsf.errors import InputError
from mlpsf.psf.drawing import Light, add_stars
from mlpsf.psf.storage import read_psf, write_psf
from mlpsf.psf.table import PSFTable
from mlpsf.psf.terms import warn_of_extrapolation
from mlpsf.psf.trippy.inputs import as_numbers, check_place, read_motion
from mlpsf.psf.trippy.tables import centre_on_pixel, wrapped

__all__ = ["PSFModel"]

FloatArray = NDArray[np.float64]


class PSFModel(PSFTable):
    """A point spread function: a Moffat profile and a lookup table of corrections.

    Where the PSF varies, these and all properties are of its mean over the frame; :meth:`at` gives
    the PSF of a place, and all that draws stars draws each with the PSF of its own. The model is
    immutable and its arrays are read-only. Coordinates are 0-based: the centre of the first pixel
    is (0, 0).

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
    terms : PSFTerms or None
        How the lookup table changes over the frame; None if it does not.

    Examples
    --------
    >>> psf = PSFModel(np.zeros((210, 210)), 3.0, 3.0)
    >>> psf
    <PSFModel 21 x 21 pixels, FWHM 3.18, ellipticity 0.00, 0 stars>
    >>> float(psf.render(20.0, 20.0, 500.0, shape=(41, 41)).sum().round(6))
    500.0
    """

    def at(self, x: float, y: float) -> PSFModel:
        """Return the PSF of a place on the frame, which has TRIPPy's object of its own.

        Parameters
        ----------
        x, y : float
            0-based pixels. A PSF that does not vary is the same everywhere.

        Returns
        -------
        PSFModel
            It does not vary; ``meta`` has the place as at_x and at_y.

        Raises
        ------
        InputError
            If the place is not finite, or off the frame of a PSF that varies.

        Warns
        -----
        AstropyUserWarning
            If the place is far from the stars: the PSF is extrapolated, and held near them.

        Examples
        --------
        >>> psf = PSFModel(np.zeros((210, 210)), 3.0, 3.0)
        >>> psf.at(100.0, 30.5).fwhm == psf.fwhm
        True
        """
        frame = () if self.terms is None else (self.terms.frame_shape, self.terms.first)
        place = check_place((x, y), *(frame or (None,)))
        meta = {**self.meta, "at_x": place[0], "at_y": place[1]}
        table = self.lookup_table
        if self.terms is not None:
            warn_of_extrapolation(self.terms, self.stars, *place, stacklevel=3)
            table = table + self.terms.change(*place)
        return replace(self, lookup_table=table, meta=meta, terms=None)

    def fwhm_at(self, x: ArrayLike, y: ArrayLike) -> FloatArray:
        """Return the FWHM in pixels at places on the frame, as an array of their shape."""
        return self._figure("fwhm", x, y)

    def ellipticity_at(self, x: ArrayLike, y: ArrayLike) -> FloatArray:
        """Return the ellipticity, 1 - b/a, at places on the frame, as an array of their shape."""
        return self._figure("ellipticity", x, y)

    def _figure(self, name: str, x: ArrayLike, y: ArrayLike) -> FloatArray:
        xs, ys = np.broadcast_arrays(x, y)
        if not self.varies:
            return np.full(xs.shape, getattr(self, name))
        places = zip(xs.ravel(), ys.ravel(), strict=True)
        return np.array([getattr(self.at(*place), name) for place in places]).reshape(xs.shape)

    @cached_property
    def _light(self) -> Light:
        table, oversampling, unit = self._grid
        changes = [] if self.terms is None else list(self.terms.tables)
        rep = self.rep_fact
        return Light.of(
            table,
            [
                centre_on_pixel(wrapped(change, rep), rep)[0] / (unit * oversampling**2)
                for change in changes
            ],
            oversampling,
        )

    def _draw(
        self, dx: FloatArray, dy: FloatArray, size: int, x: ArrayLike, y: ArrayLike
    ) -> FloatArray:
        """Draw stars at (dx, dy) in stamps with the PSF of the places (x, y)."""
        if self.terms is None:
            return self._light.stamps(dx, dy, size)
        if self.motion is None:
            return self._light.stamps(dx, dy, size, self.terms.amounts(x, y))
        # A trail is drawn by TRIPPy, one place after the other.
        places = np.broadcast_arrays(dx, dy, x, y)
        out = np.empty((len(dx), size, size))
        for stamp, (a, b, px, py) in zip(out, np.stack(places, axis=1), strict=True):
            table = self.lookup_table + self.terms.change(px, py)
            here = replace(self, lookup_table=table, terms=None)
            stamp[:] = here._light.stamps(np.array([a]), np.array([b]), size)[0]
        return out

    def stamps(
        self,
        x_offset: ArrayLike,
        y_offset: ArrayLike,
        size: int,
        at: tuple[ArrayLike, ArrayLike] | None = None,
    ) -> FloatArray:
        """Draw stars of flux 1, each in its own stamp.

        Parameters
        ----------
        x_offset, y_offset : float or (n,) arrays
            Offset of the star from the centre of the stamp's middle pixel, in pixels.
        size : int
            Side of a stamp in pixels, odd.
        at : (x, y), optional
            Place of each star on the frame, where the PSF varies. By default the mean PSF.

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
        half = size // 2
        if at is None:
            dx, dy = as_numbers(x_offset=x_offset, y_offset=y_offset)
            return self._light.stamps(dx + half, dy + half, size)
        dx, dy, x, y = as_numbers(x_offset=x_offset, y_offset=y_offset, x=at[0], y=at[1])
        return self._draw(dx + half, dy + half, size, x, y)

    def render(
        self,
        x: ArrayLike,
        y: ArrayLike,
        flux: ArrayLike = 1.0,
        shape: tuple[int, int] | None = None,
        at: tuple[ArrayLike, ArrayLike] | None = None,
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
        at : (x, y), optional
            Place of each star on the frame, where the PSF varies. By default its centre; to be
            given where the image is a part of the frame.

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
        >>> PSFModel(np.zeros((210, 210)), 3.0, 3.0).render([5], [8], [9.0], shape=(40, 60)).shape
        (40, 60)
        """
        px, py = (x, y) if at is None else at
        scalar = all(np.ndim(v) == 0 for v in (x, y, flux, px, py))
        xs, ys, fluxes, px, py = as_numbers(x=x, y=y, flux=flux, at_x=px, at_y=py)
        if shape is None:
            out = self.stamps(xs - np.floor(xs + 0.5), ys - np.floor(ys + 0.5), self.size, (px, py))
            out *= fluxes[:, None, None]
            return out[0] if scalar else out
        image = np.zeros(shape)
        add_stars(image, self._draw, xs, ys, fluxes, self.size, (px, py))
        return image

    def image(
        self,
        x: float | None = None,
        y: float | None = None,
        *,
        size: int | None = None,
        oversampling: int = 1,
    ) -> FloatArray:
        """Draw the PSF of a place in the middle of an image, at any sampling.

        Parameters
        ----------
        x, y : float, optional
            Place on the frame, where the PSF varies. By default the mean PSF.
        size : int, optional
            Side in pixels of the frame, odd. By default that of the PSF.
        oversampling : int
            Cells per pixel of the frame along each axis. Each cell is the light that falls on it.

        Returns
        -------
        (n, n) array
            n is `size` times `oversampling`, one more if that is even. It is the light of a star
            of flux 1 in the PSF's box.

        Raises
        ------
        InputError
            If a number is out of range, or the place is off the frame.

        Examples
        --------
        >>> PSFModel(np.zeros((210, 210)), 3.0, 3.0).image(oversampling=4, size=11).shape
        (45, 45)
        """
        size = self.size if size is None else size
        if size < 1 or size % 2 == 0:
            raise InputError(f"size must be a positive odd number of pixels; got {size}")
        if oversampling < 1 or oversampling != int(oversampling):
            raise InputError(f"oversampling must be a whole number from 1 on; got {oversampling}")
        if (x is None) != (y is None):
            raise InputError("a place needs both x and y")
        here = self if x is None or y is None else self.at(x, y)
        cells = size * int(oversampling) | 1
        middle = np.array([cells // 2], dtype=np.float64)
        light = here._light.finer(int(oversampling))
        return np.asarray(light.stamps(middle, middle, cells)[0])

    def subtract(
        self,
        image: ArrayLike,
        x: ArrayLike,
        y: ArrayLike,
        flux: ArrayLike,
        at: tuple[ArrayLike, ArrayLike] | None = None,
    ) -> FloatArray:
        """Subtract stars from an image.

        Parameters
        ----------
        image : (ny, nx) array
            Any number type and byte order; not changed.
        x, y, flux : float or (n,) arrays
            Centres, 0-based, and fluxes in the unit of the image.
        at : (x, y), optional
            As for :meth:`render`.

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
        return out - self.render(x, y, flux, (out.shape[0], out.shape[1]), at)

    def trail(
        self,
        rate: Any,
        angle: Any,
        exposure: Any,
        pixel_scale: Any,
        at: tuple[float, float] | None = None,
    ) -> PSFModel:
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
        at : (float, float), optional
            Place of the target on the frame. By default the trailed PSF varies as this one does.

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
        if at is not None:
            return self.at(*at).trail(rate, angle, exposure, pixel_scale)
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

        The file has three HDUs: the lookup table and two empty tables of aperture corrections; two
        more hold the variation of a PSF that varies. TRIPPy reads the mean. It has all of TRIPPy's
        cards (star positions are 1-based), plus FSTARn and the provenance. The first 1000 stars are
        listed. The name is not changed, but TRIPPy opens only names that end in ``.fits``.

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

        Files of TRIPPy, and earlier ones of mlpsf, hold a PSF that does not vary.

        Raises
        ------
        ModelFileError
            If the file does not exist, is damaged or contains no PSF.

        Examples
        --------
        See :meth:`save`.
        """
        return read_psf(path, cls, cls.check)
