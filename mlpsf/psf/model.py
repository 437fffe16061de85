"""The PSF as a value: build it from stars, draw it, subtract it, trail it, store it."""

from __future__ import annotations

import io
import os
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from astropy import units
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import label

from mlpsf import __version__
from mlpsf.errors import InputError, ModelFileError, OutputError, PSFError
from mlpsf.psf import trippy as border
from mlpsf.psf.moments import (
    Shape,
    centre_on_pixel,
    cumulative,
    measure_shape,
    pixel_integrals,
    profile,
)

__all__ = ["PSFModel", "build_psf"]

FloatArray = NDArray[np.float64]

#: What of `meta` goes into the file, and under which keyword and comment.
_CARDS = {
    "mlpsf_version": ("MLPSFVER", "version of mlpsf that made this PSF"),
    "frame": ("FRAME", "name of the frame"),
    "frame_sha256": ("FRAMESHA", "SHA-256 of the frame's file"),
    "background": ("BACKGND", "how the background was taken off"),
    "refinements": ("NREFINE", "corrections of the lookup table"),
    "n_left_out": ("NLEFTOUT", "stars given but not used"),
}


@dataclass(frozen=True, eq=False, repr=False)
class PSFModel:
    """A point spread function: a Moffat profile and the lookup table of what it lacks.

    A value: nothing changes it, and its arrays are read-only. Coordinates are 0-based, the centre
    of the first pixel is (0, 0).

    Parameters
    ----------
    lookup_table : (size * rep_fact, size * rep_fact) array
        As TRIPPy holds it.
    alpha, beta : float
        Of the Moffat profile; alpha in pixels.
    rep_fact : {3, 5, 10}
        Sub-pixels to a pixel.
    stars : (n, 3) array
        x, y and flux of the stars it was made from.
    meta : mapping
        What it was made with.
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
        # The live TRIPPy object and the caches are made again where they are wanted.
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
        """Pixels along each side of the box, odd."""
        return int(self.lookup_table.shape[0]) // self.rep_fact

    @cached_property
    def trippy(self) -> Any:
        """The live ``trippy.psf.modelPSF``, ready for plant, remove, line, LSfitter, psfStore.

        What is done to it does not change this model. Its ``plant`` and ``remove`` want the
        0-based centre plus 0.5, for round and for trailed sources, and an amplitude: flux
        divided by `flux_per_amplitude`.
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
        """Normalised light, sub-pixels to a pixel, and the flux of amplitude 1."""
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
        """Light in each sub-pixel, sum 1, the star at the middle; read-only.

        `rep_fact` sub-pixels to a pixel if that is even, else twice as many. A pixel's
        light is the sum of the sub-pixels in it.
        """
        return self._grid[0]

    @property
    def flux_per_amplitude(self) -> float:
        """Flux in the box of a source of TRIPPy's amplitude m = 1: ``fullpsf.sum()``."""
        return self._grid[2]

    @cached_property
    def shape(self) -> Shape:
        """Size and shape of a star's image, pixel included."""
        return measure_shape(*self._grid[:2])

    @property
    def fwhm(self) -> float:
        """Full width at half maximum of a star's image, pixel included; pixels."""
        return self.shape.fwhm

    @property
    def ellipticity(self) -> float:
        """1 - b/a."""
        return self.shape.ellipticity

    @property
    def position_angle(self) -> float:
        """Of the long axis, degrees from +x towards +y."""
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
        """Draw stars of flux 1, each in a stamp of its own.

        Parameters
        ----------
        x_offset, y_offset : float or (n,) arrays
            Of the star from the centre of the stamp's middle pixel, pixels.
        size : int
            Pixels along each side of a stamp, odd.

        Returns
        -------
        (n, size, size) array

        Raises
        ------
        InputError
            When `size` is even, or an offset is not finite.

        Examples
        --------
        >>> PSFModel(np.zeros((210, 210)), 3.0, 3.0).stamps([0.0, 0.3], [0.0, -0.2], 15).shape
        (2, 15, 15)
        """
        if size < 1 or size % 2 == 0:
            raise InputError(f"a stamp's size must be a positive odd number; got {size}")
        dx, dy = _numbers(x_offset=x_offset, y_offset=y_offset)
        return pixel_integrals(self._total, self._grid[1], dx + size // 2, dy + size // 2, size)

    def render(
        self,
        x: ArrayLike,
        y: ArrayLike,
        flux: ArrayLike = 1.0,
        shape: tuple[int, int] | None = None,
    ) -> FloatArray:
        """Draw stars at exact places: nothing is rounded to a sub-pixel, as TRIPPy's plant does.

        Parameters
        ----------
        x, y : float or (n,) arrays
            Centres, 0-based.
        flux : float or (n,) array
            In the box of the PSF.
        shape : (ny, nx), optional
            Of the image that all stars are summed in; those partly or wholly off it are clipped.

        Returns
        -------
        array
            (ny, nx). Without `shape`, a (size, size) stamp whose middle pixel is the one nearest
            to (x, y); for arrays of stars one stamp each, (n, size, size).

        Raises
        ------
        InputError
            When a number is not finite or the shapes disagree.

        Examples
        --------
        >>> psf = PSFModel(np.zeros((210, 210)), 3.0, 3.0)
        >>> psf.render([5.0, 30.25], [8.0, 20.5], [100.0, 50.0], shape=(40, 60)).shape
        (40, 60)
        """
        scalar = all(np.ndim(v) == 0 for v in (x, y, flux))
        xs, ys, fluxes = _numbers(x=x, y=y, flux=flux)
        if shape is None:
            out = self.stamps(xs - np.floor(xs + 0.5), ys - np.floor(ys + 0.5), self.size)
            out *= fluxes[:, None, None]
            return out[0] if scalar else out
        ny, nx = shape
        image = np.zeros((ny, nx))
        # A box at any phase touches one pixel more than its size.
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
        """Take stars off an image.

        Parameters
        ----------
        image : (ny, nx) array
            Any number type and byte order; is not changed.
        x, y, flux : float or (n,) arrays
            Centres, 0-based, and fluxes in the image's unit.

        Returns
        -------
        (ny, nx) array
            New, float64.

        Raises
        ------
        InputError
            When the image is not two-dimensional or a number is not finite.

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
        """Make the PSF of a target that moves while the shutter is open.

        The place of a trailed source is the middle of its trail.

        Parameters
        ----------
        rate : float or Quantity
            arcsec / hour.
        angle : float or Quantity
            Degrees from +x towards +y.
        exposure : float or Quantity
            Seconds.
        pixel_scale : float or Quantity
            arcsec, or arcsec / pixel.

        Returns
        -------
        PSFModel
            Its `trippy` has longPSF, longpsf, rate, angle, dt (hours) and pixScale set, for
            ``plant(..., useLinePSF=True)``.

        Raises
        ------
        InputError
            When a unit does not fit, a number is out of range, or the trail exceeds the box.

        Examples
        --------
        >>> psf = PSFModel(np.zeros((310, 310)), 3.0, 3.0)
        >>> psf.trail(rate=30.0, angle=90.0, exposure=600.0, pixel_scale=0.5)
        <trailed PSFModel 31 x 31 pixels, FWHM 6.10, ellipticity 0.58, 0 stars>
        """
        hourly = _quantity("rate", rate, units.arcsec / units.hour)
        degrees = _quantity("angle", angle, units.deg)
        hours = _quantity("exposure", exposure, units.s) / 3600.0
        scale = _quantity("pixel_scale", pixel_scale, units.arcsec, units.arcsec / units.pix)
        if hourly < 0 or hours < 0 or scale <= 0:
            raise InputError(
                "rate and exposure must not be negative and pixel_scale must be positive; "
                f"got {rate}, {exposure}, {pixel_scale}"
            )
        still = replace(self, motion=None)
        length = hourly * hours / scale
        reach = max(abs(np.cos(np.deg2rad(degrees))), abs(np.sin(np.deg2rad(degrees)))) * length
        if reach + 2 * still.fwhm > self.size:
            raise InputError(
                f"a trail of {length:.1f} pixels does not fit a PSF of {self.size} pixels; build "
                f"the PSF with size={int(np.ceil(reach + 4 * still.fwhm)) | 1} or more"
            )
        return replace(self, motion=(hourly, degrees, hours, scale))

    def save(self, path: str | os.PathLike[str], overwrite: bool = True) -> None:
        """Write the file that TRIPPy's ``psfStore(psfV2=True)`` writes, and what made it.

        Three HDUs: the lookup table and two empty tables of aperture corrections. The cards of
        TRIPPy are all there (star positions count from 1); FSTARn and the provenance are added.
        The first 1000 stars are listed. The name is taken as it is; TRIPPy itself opens only
        names that end in ``.fits``.

        Raises
        ------
        OutputError
            When the folder does not exist or cannot be written, or the file exists and
            `overwrite` is False. Nothing is then left behind.

        Examples
        --------
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     PSFModel(np.zeros((210, 210)), 3.0, 3.0).save(folder + "/psf.fits")
        ...     PSFModel.load(folder + "/psf.fits").size
        21
        """
        primary = fits.PrimaryHDU(np.array(self.lookup_table))
        header = primary.header
        header["REPFACT"] = self.rep_fact
        unit = self.flux_per_amplitude
        for i, (x, y, flux) in enumerate(self.stars[:1000]):
            header[f"XSTAR{i}"] = (x + 1.0, "PSF Star x value.")
            header[f"YSTAR{i}"] = (y + 1.0, "PSF Star y value.")
            header[f"FSTAR{i}"] = (flux, "PSF star flux")
        header["ALPHA"], header["BETA"] = self.alpha, self.beta
        header["A"] = self.stars[-1, 2] / unit if len(self.stars) else 1.0
        motion = self.motion or (None,) * 4
        header.update(zip(("RATE", "ANGLE", "DT", "PIXSCALE"), motion, strict=True))
        header["NSTARS"] = (len(self.stars), "stars this PSF was made from")
        header["FWHM"] = (self.fwhm, "of a star's image, pixels")
        header["ELLIP"] = (self.ellipticity, "1 - b/a")
        header["POSANG"] = (self.position_angle, "of the long axis, degrees from +x to +y")
        header["FLUXAMP"] = (unit, "flux of TRIPPy's amplitude 1")
        for name, (keyword, comment) in _CARDS.items():
            if self.meta.get(name) is not None:
                value = self.meta[name]
                if isinstance(value, str):  # headers hold printable ASCII only
                    value = value.encode("ascii", "backslashreplace").decode()
                # A comment that does not fit beside its value is cut, with a warning.
                header[keyword] = (value, comment if len(str(value)) < 25 else "")
        empty = [fits.ImageHDU(np.array([[-1], [-1]])) for _ in range(2)]
        buffer = io.BytesIO()
        fits.HDUList([primary, *empty]).writeto(buffer)
        _write_whole(Path(path), buffer.getvalue(), overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PSFModel:
        """Read a PSF: a file of :meth:`save`, or TRIPPy's own of either version.

        Raises
        ------
        ModelFileError
            When there is no such file, or no PSF in it.

        Examples
        --------
        See :meth:`save`.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", fits.verify.VerifyWarning)
                with fits.open(path, memmap=False) as hdus:
                    if len(hdus) not in (3, 6):
                        raise ModelFileError(
                            f"{path} has {len(hdus)} HDUs; a TRIPPy PSF has 3 (V2) or 6 (V1)"
                        )
                    header = hdus[0].header
                    table = hdus[1 if len(hdus) == 6 else 0].data
        except OSError as error:
            raise ModelFileError(f"cannot read a PSF from {path}: {error}") from error
        try:
            rep, alpha, beta = (header[name] for name in ("REPFACT", "ALPHA", "BETA"))
            n = len(header["XSTAR*"])
            stars = np.array(
                [[header[f"{v}STAR{i}"] for v in "XY"] for i in range(n)], dtype=np.float64
            ).reshape(-1, 2)
            flux = np.array([header.get(f"FSTAR{i}", np.nan) for i in range(n)], dtype=np.float64)
            motion = tuple(header.get(name) for name in ("RATE", "ANGLE", "DT", "PIXSCALE"))
            moving = all(isinstance(v, int | float) for v in motion)
            return cls(
                np.asarray(table, dtype=np.float64),
                alpha,
                beta,
                rep,
                stars=np.column_stack([stars - 1.0, flux]),
                meta={name: header[key] for name, (key, _) in _CARDS.items() if key in header},
                motion=(motion[0], motion[1], motion[2], motion[3]) if moving else None,
            )
        except (KeyError, TypeError, ValueError, InputError, PSFError) as error:
            raise ModelFileError(f"{path} is no TRIPPy PSF: {error}") from error


def _numbers(**values: ArrayLike) -> list[FloatArray]:
    """Broadcast coordinates or fluxes to 1-D float64 and check that all are finite."""
    try:
        arrays = [
            np.atleast_1d(np.asarray(v, dtype=np.float64))
            for v in np.broadcast_arrays(*values.values())
        ]
    except ValueError as error:
        shapes = ", ".join(f"{name} {np.shape(v)}" for name, v in values.items())
        raise InputError(f"these must be numbers, of shapes that go together: {shapes}") from error
    for name, array in zip(values, arrays, strict=True):
        if array.ndim > 1:
            raise InputError(f"{name} must be a number or 1-D; got shape {array.shape}")
        bad = np.flatnonzero(~np.isfinite(array))
        if bad.size:
            raise InputError(f"{name} must be finite; {bad.size} are not, the first at {bad[0]}")
    return arrays


def _quantity(name: str, value: Any, *accepted: units.UnitBase) -> float:
    """Read a number in the first of the units, or a Quantity in any of them."""
    for unit in accepted:
        try:
            number = float(units.Quantity(value, unit).to_value(unit))
        except (units.UnitConversionError, TypeError, ValueError):
            continue
        if np.isfinite(number):
            return number
    raise InputError(f"{name} must be one finite number or Quantity in {accepted[0]}; got {value}")


def _write_whole(path: Path, content: bytes, overwrite: bool) -> None:
    """Write a file under a temporary name beside it, then rename."""
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists; say overwrite=True to replace it")
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(prefix=".mlpsf-", dir=path.parent)
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise OutputError(f"cannot write {path}: {error}; does its folder exist?") from error


@dataclass
class _Stars:
    """Stars in hand while a PSF is made, and why others no longer are."""

    x: FloatArray
    y: FloatArray
    left_out: dict[str, int] = field(default_factory=dict)

    def keep(self, good: NDArray[np.bool_], reason: str) -> None:
        if not good.all():
            self.left_out[reason] = self.left_out.get(reason, 0) + int((~good).sum())
        self.x, self.y = self.x[good], self.y[good]
        if not good.any():
            why = ", ".join(f"{n} {text}" for text, n in self.left_out.items())
            raise PSFError(f"no star is left to make a PSF from: {why}")


def _read_frame(frame: Any) -> tuple[FloatArray, NDArray[np.bool_], dict[str, Any]]:
    meta = {}
    if hasattr(frame, "sha256"):
        pixels, mask = frame.data, np.asarray(frame.mask, dtype=bool)
        meta = {"frame": frame.name, "frame_sha256": frame.sha256}
    else:
        pixels, mask = np.ma.getdata(frame), np.ma.getmaskarray(frame)
    pixels = np.array(pixels, dtype=np.float64)
    if pixels.ndim != 2 or mask.shape != pixels.shape:
        raise InputError(f"a frame is a 2-D image with a mask of its shape; got {pixels.shape}")
    mask = mask | ~np.isfinite(pixels)
    pixels[~np.isfinite(pixels)] = 0.0
    return pixels, mask, meta


def _read_stars(stars: Any, shape: tuple[int, ...]) -> _Stars:
    columns = getattr(stars, "colnames", None)
    if columns is None:
        places = np.asarray(stars, dtype=np.float64)
        if places.ndim != 2 or places.shape[1] != 2:
            raise InputError(f"stars must be a table or an (n, 2) array; got {places.shape}")
    else:
        if not {"x", "y"} <= set(columns):
            raise InputError(f"the star table needs columns x and y; it has {', '.join(columns)}")
        places = np.column_stack([np.ma.filled(stars[c], np.nan) for c in "xy"]).astype(float)
        use = np.ones(len(places), dtype=bool)
        if "selected" in columns:
            use &= np.asarray(stars["selected"], dtype=bool)
        if "reserved" in columns:
            use &= ~np.asarray(stars["reserved"], dtype=bool)
        if len(places) and not use.any():
            raise PSFError(f"none of the {len(places)} stars of the table is selected")
        places = places[use]
    if len(places) == 0:
        raise PSFError("no star to make a PSF from: the list is empty")
    bad = np.flatnonzero(~np.isfinite(places).all(axis=1))
    if bad.size:
        raise InputError(f"{bad.size} star positions are not finite; the first is number {bad[0]}")
    ny, nx = shape
    off = np.flatnonzero(((places < -0.5) | (places >= (nx - 0.5, ny - 0.5))).any(axis=1))
    if off.size:
        x, y = places[off[0]]
        raise InputError(
            f"{off.size} of {len(places)} stars are off the frame of {nx} x {ny} pixels; the first "
            f"is at x {x:.1f}, y {y:.1f}. Are x and y swapped, or from another frame?"
        )
    return _Stars(places[:, 0].copy(), places[:, 1].copy())


def _background(pixels: FloatArray, mask: NDArray[np.bool_], background: Any) -> Any:
    """Return what to take off the frame, and how that was found."""
    if isinstance(background, str):
        if background != "mesh":
            raise InputError(f"background must be 'mesh', a number or an array; got {background!r}")
        import sep

        return sep.Background(pixels, mask=mask, bw=64, bh=64).back(), "sep mesh of 64 pixels"
    level = np.asarray(background, dtype=np.float64)
    if level.shape not in ((), pixels.shape) or not np.isfinite(level).all():
        raise InputError(
            f"background must be finite, one number or an array of the frame's shape "
            f"{pixels.shape}; got shape {level.shape}"
        )
    return level, "given" if level.ndim else f"given, {float(level):g}"


def _cut(
    pixels: NDArray[Any], stars: _Stars, half: int
) -> tuple[NDArray[Any], FloatArray, FloatArray]:
    """Cut (n, 2 half + 1, 2 half + 1) around the stars, zero or True off the frame."""
    fill = pixels.dtype.type(pixels.dtype == bool)
    padded = np.pad(pixels, half, constant_values=fill)
    column, row = (np.floor(v + 0.5).astype(int) for v in (stars.x, stars.y))
    span = 2 * half + 1
    cutouts = np.array(
        [padded[j : j + span, i : i + span] for i, j in zip(column, row, strict=True)]
    )
    return cutouts, stars.x - column + half, stars.y - row + half


def _guess_fwhm(cutouts: FloatArray) -> float:
    """Median width of the connected pixels above half of each star's peak."""
    centre = cutouts.shape[1] // 2
    core = slice(centre - 2, centre + 3)
    areas = []
    for image in cutouts:
        peak = image[core, core].max()
        if peak > 0:
            labels = label(image > peak / 2)[0]
            at = np.unravel_index(image[core, core].argmax(), (5, 5))
            areas.append((labels == labels[core, core][at]).sum())
    if not areas:
        raise PSFError(
            "no star has light above the background; are x and y 0-based, and is the background "
            "right?"
        )
    return float(2 * np.sqrt(np.median(areas) / np.pi))


def _fill_masked(
    cutouts: FloatArray, bad: NDArray[np.bool_], x: FloatArray, y: FloatArray, fit: Any
) -> tuple[float, float]:
    """Give masked pixels the light of a Moffat star, in place; return its alpha and beta.

    The profile is that of the stars without masked pixels. Where all have some, these are first
    filled from the pixel opposite.
    """
    clean: NDArray[np.bool_] = np.asarray(~bad.any(axis=(1, 2)))
    if not clean.any():
        opposite = np.where(bad, 0.0, cutouts)[:, ::-1, ::-1]
        cutouts[bad] = opposite[bad]
        clean[:] = True
    alphas, betas, _ = fit(cutouts[clean], x[clean], y[clean])
    if not np.isfinite(alphas).any():
        raise PSFError(
            f"TRIPPy can fit a Moffat profile to none of {clean.sum()} stars; are x and y 0-based, "
            "and the stars unsaturated?"
        )
    alpha, beta = float(np.nanmedian(alphas)), float(np.nanmedian(betas))
    some = bad.any(axis=(1, 2))
    if some.any():
        side = cutouts.shape[1]
        light = profile(alpha, beta, np.zeros(((side + 2) * 10,) * 2), 10)
        table = centre_on_pixel(light, 10)[0]
        moffat = pixel_integrals(cumulative(table), 10, x[some], y[some], side)
        image, hole = cutouts[some], bad[some]
        seen = np.where(hole, 0.0, moffat)
        scale = (seen * image).sum(axis=(1, 2)) / (seen * seen).sum(axis=(1, 2))
        cutouts[some] = np.where(hole, scale[:, None, None] * moffat, image)
    return alpha, beta


def _refine(
    psf: PSFModel, cutouts: FloatArray, bad: NDArray[np.bool_], x: FloatArray, y: FloatArray
) -> PSFModel:
    """Add to the lookup table what it leaves of the stars, spread as TRIPPy spreads them.

    TRIPPy repeats each pixel over its sub-pixels, which blurs and rounds the table by a pixel;
    what the blurred table misses is in the residuals (van Cittert's iteration). Brighter stars
    weigh more, pixels three standard deviations from the stars' median and masked ones nothing.
    """
    rep, box, side = psf.rep_fact, psf.size // 2, cutouts.shape[1]
    middle = side // 2
    models = psf.stamps(x - middle, y - middle, side)
    offset = np.arange(side) - middle
    near = offset[:, None] ** 2 + offset**2 <= min(2 * psf.fwhm, box) ** 2
    use = near & ~bad
    flux = (cutouts * models * use).sum(axis=(1, 2)) / (models**2 * use).sum(axis=(1, 2))
    scale = np.maximum(flux, 1e-300) / psf.flux_per_amplitude
    residuals = (cutouts - flux[:, None, None] * models) / scale[:, None, None]
    residuals[bad] = np.nan
    span = psf.size * rep
    spread = np.empty((x.size, span, span), dtype=np.float32)
    for i, residual in enumerate(residuals):
        fine = np.repeat(np.repeat(residual / rep**2, rep, axis=0), rep, axis=1)
        column, row = (round((v[i] + 0.5) * rep) - rep * box for v in (x, y))
        spread[i] = fine[row : row + span, column : column + span]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # sub-pixels that no star has
        far = np.abs(spread - np.nanmedian(spread, axis=0)) > 3 * np.nanstd(spread, axis=0)
    lost = far | np.isnan(spread)
    weight = np.where(lost, 0.0, np.maximum(flux, 0.0)[:, None, None].astype(np.float32))
    total = weight.sum(axis=0)
    change = (weight * np.where(lost, 0.0, spread)).sum(axis=0) / np.where(total > 0, total, 1.0)
    stars = np.column_stack([psf.stars[:, :2], flux])
    return replace(psf, lookup_table=psf.lookup_table + change, stars=stars)


def build_psf(
    frame: Any,
    stars: Any,
    *,
    size: int | None = None,
    rep_fact: int = 10,
    background: str | float | FloatArray = "mesh",
    refinements: int | None = None,
) -> PSFModel:
    """Build a PSF from stars of a frame, with TRIPPy.

    A Moffat profile is fitted to each star and its medians are kept; TRIPPy's lookup table then
    holds what the profile lacks, and is corrected `refinements` times for its own blur.

    Parameters
    ----------
    frame : Frame or (ny, nx) array
        Masked and non-finite pixels are not used.
    stars : Table or (n, 2) array
        Columns x and y, 0-based; rows that are not `selected`, or are `reserved`, are left out
        where the table has those columns.
    size : int, optional
        Of the PSF, odd, pixels. The odd number from 9 FWHM up, but 31 at least and 101 at most.
    rep_fact : {3, 5, 10}
        Sub-pixels to a pixel.
    background : 'mesh', float or (ny, nx) array
        To take off the frame: a mesh of 64 pixels measured with sep, or what is given (0 when
        it is off already). TRIPPy's own estimate at each star is not used.
    refinements : int, optional
        By default 1, and 2 below a FWHM of 2.5 pixels. The first takes the ellipticity error at
        FWHM 3 from 0.010 to 0.002; more of them gain noise.

    Returns
    -------
    PSFModel

    Warns
    -----
    AstropyUserWarning
        When stars are left out: too near the edge, masked at the core or over half of the box,
        or without light above the background. How many of each is said.

    Raises
    ------
    InputError
        When a parameter is wrong, or a star's place is not finite or off the frame.
    PSFError
        When no star is given or left.

    Examples
    --------
    >>> from mlpsf.psf.moments import pixel_integrals
    >>> truth = PSFModel(np.zeros((310, 310)), 3.0, 3.0)
    >>> image = truth.render([30.2, 80.7], [40.0, 41.4], [1e5, 2e5], shape=(80, 120))
    >>> psf = build_psf(image, [[30.2, 40.0], [80.7, 41.4]], background=0.0)
    >>> psf
    <PSFModel 31 x 31 pixels, FWHM 3.18, ellipticity 0.00, 2 stars>
    """
    if size is not None and (size < 5 or size % 2 == 0):
        raise InputError(f"size must be an odd number of pixels, 5 or more; got {size}")
    if rep_fact not in border.REP_FACTS:
        raise InputError(f"rep_fact must be one of {border.REP_FACTS}; got {rep_fact}")
    if refinements is not None and refinements < 0:
        raise InputError(f"refinements must be 0 or more; got {refinements}")
    pixels, mask, meta = _read_frame(frame)
    hand = _read_stars(stars, pixels.shape)
    sky, how = _background(pixels, mask, background)
    pixels = np.where(mask, 0.0, pixels - sky)
    fwhm = _guess_fwhm(_cut(pixels, hand, 25)[0])
    if size is None:
        size = int(np.clip(np.ceil(9 * fwhm), 31, 101)) | 1
    half = size // 2 + 3
    margin = size // 2 + 2
    ny, nx = pixels.shape
    column, row = (np.floor(v + 0.5) for v in (hand.x, hand.y))
    inside = (column >= margin) & (column < nx - margin) & (row >= margin) & (row < ny - margin)
    hand.keep(inside, f"within {margin} pixels of the edge of the frame")
    bad, x, y = _cut(mask, hand, half)
    offset = np.arange(2 * half + 1)
    square = (offset - x[:, None])[:, None, :] ** 2 + (offset - y[:, None])[:, :, None] ** 2
    core = (bad & (square < max(fwhm, 1.5) ** 2)).any(axis=(1, 2))
    hand.keep(~core & (bad.mean(axis=(1, 2)) < 0.5), "masked at the core or over half of the box")
    cutouts, x, y = _cut(pixels, hand, half)
    bad = _cut(mask, hand, half)[0]
    # A pixel off the frame lies in the spare rim of a cutout only.

    def fit(images: FloatArray, xs: FloatArray, ys: FloatArray) -> Any:
        # The wider the star, the coarser the sub-pixels that its profile needs.
        coarse = 10 if fwhm < 3 else 5 if fwhm < 6 else 3
        radius = min(size // 2, max(8, round(3 * fwhm)))
        return border.fit_moffat(images, xs, ys, radius=radius, rep_fact=coarse)

    alpha, beta = _fill_masked(cutouts, bad, x, y, fit)
    table, amplitude = border.build_table(
        cutouts, x, y, alpha=alpha, beta=beta, size=size, rep_fact=rep_fact
    )
    good = amplitude > 0
    hand.keep(good, "without light above the background")
    if hand.left_out:
        given = len(hand.x) + sum(hand.left_out.values())
        why = "; ".join(f"{n} {text}" for text, n in hand.left_out.items())
        warnings.warn(
            f"{given - len(hand.x)} of {given} stars are not in the PSF: {why}",
            AstropyUserWarning,
            stacklevel=2,
        )
    meta |= {
        "mlpsf_version": __version__,
        "background": how,
        "n_left_out": sum(hand.left_out.values()),
    }
    psf = PSFModel(table, alpha, beta, rep_fact, meta=meta)
    flux = amplitude[good] * psf.flux_per_amplitude
    psf = replace(psf, stars=np.column_stack([hand.x, hand.y, flux]))
    if refinements is None:
        refinements = 2 if psf.fwhm < 2.5 else 1
    for _ in range(refinements):
        psf = _refine(psf, cutouts[good], bad[good], x[good], y[good])
    return replace(psf, meta={**psf.meta, "refinements": refinements})
