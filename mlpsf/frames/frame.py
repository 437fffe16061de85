"""`Frame`: one image with its mask, calibration and coordinates."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
from astropy.io import fits
from numpy.typing import ArrayLike, NDArray

from mlpsf.errors import InputError
from mlpsf.frames.background import Background, measure_background
from mlpsf.frames.geometry import pixel_scale, reaches_over
from mlpsf.pictures import png, shrunk, sky
from mlpsf.rich import card, known

if TYPE_CHECKING:
    from astropy.wcs import WCS

__all__ = ["Frame", "PointSources"]

_ROUNDED = 1e-5  # share of the saturation level: headers give six digits, and pixels seven


class PointSources(Protocol):
    """The point sources of a frame, and what is left without them."""

    @property
    def rest(self) -> NDArray[np.float32]:
        """Pixels of the frame without the light of the sources, sky included."""
        ...

    def own_light(
        self, x: NDArray[np.float64], y: NDArray[np.float64], half: int
    ) -> NDArray[np.float32]:
        """Draw the source that is at each position, alone, around the nearest pixel."""
        ...


@dataclass(frozen=True, eq=False, kw_only=True)
class Frame:
    """One image with its mask, calibration and coordinates.

    Attributes
    ----------
    data : ndarray of float32, shape (ny, nx)
        Pixels in `unit`, native byte order, C-contiguous; non-finite pixels are 0 and masked.
    mask : ndarray of bool, shape (ny, nx)
        True where a pixel is bad.
    gain : float
        Electrons per unit of the pixels; infinite if unknown, which leaves out photon noise.
    saturation : float
        In the unit of the pixels; infinite if there is no limit.
    read_noise : float
        In electrons; 0 when unknown.
    variance : ndarray of float32, shape (ny, nx), or None
        Square of the pixels' unit; it includes the photon noise of the sources.
    saturated_plane : ndarray of bool, shape (ny, nx), or None
        Pixels that the file's mask marks as saturated.
    wcs : astropy.wcs.WCS or None
        Celestial coordinates of the pixels.
    header : astropy.io.fits.Header
        Header of the image, followed by the keywords that only the primary header has.
    name : str
        Name of the file, with the number of the HDU if it is not the first: ``"lco.fits[3]"``.
    sha256 : str
        Hash of the pixels as little-endian float32, to identify the frame in outputs.
    origin : mapping of str to str
        Description of where ``gain``, ``saturation``, ``read_noise`` and ``unit`` are from.
    guessed : frozenset of str
        Those of ``gain``, ``saturation`` and ``unit`` that neither the header nor the user gave.
    unit : str
        Unit of the pixels as the header has it; empty if it has none, then counts (ADU).
    given_background : Background or None
        Sky given by the caller; see `with_background`.
    scene : PointSources or None
        Point sources that were fitted; `extract_cutouts` then shows each without the others. See
        `mlpsf.neighbours`.
    """

    data: NDArray[np.float32]
    mask: NDArray[np.bool_]
    gain: float = 1.0
    saturation: float = np.inf
    read_noise: float = 0.0
    variance: NDArray[np.float32] | None = None
    saturated_plane: NDArray[np.bool_] | None = None
    wcs: WCS | None = None
    header: fits.Header = field(default_factory=fits.Header, repr=False)
    name: str = "array"
    sha256: str = ""
    origin: Mapping[str, str] = field(default_factory=dict)
    guessed: frozenset[str] = frozenset()
    unit: str = ""
    given_background: Background | None = field(default=None, repr=False)
    scene: PointSources | None = field(default=None, repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        ny, nx = self.data.shape
        return ny, nx

    @property
    def known_gain(self) -> float:
        """Gain if it is known, infinite if it was guessed from the sky.

        A guess changes with any level that was added to the pixels or taken off. What stars are
        chosen must not.
        """
        known = "gain" not in self.guessed and self.gain > 0
        return self.gain if known else float("inf")

    @property
    def unit_name(self) -> str:
        """Unit of the pixels for messages."""
        return self.unit or "ADU"

    @property
    def good_pixels(self) -> NDArray[np.float32]:
        """The pixels, NaN where they are bad; without a copy where all are good."""
        if not self.mask.any():
            return self.data
        return np.where(self.mask, np.float32(np.nan), self.data)

    @property
    def full(self) -> float:
        """The saturation level, less what rounding of pixels and header may take from it."""
        return self.saturation * (1 - _ROUNDED)

    @cached_property
    def saturated(self) -> NDArray[np.bool_]:
        """True where a pixel is at or above saturation, or marked so in the mask plane.

        Computed when first used; later changes of `data` have no effect.
        """
        saturated: NDArray[np.bool_] = self.data >= self.full
        if self.saturated_plane is not None:
            saturated |= self.saturated_plane
        return saturated

    def cut_off(self, x: ArrayLike, y: ArrayLike, reach: float) -> NDArray[np.bool_]:
        """Return which squares around points reach over the edge of the detector.

        Parameters
        ----------
        x, y : array_like, shape (n,)
            Centres, 0-based pixels.
        reach : float
            Half of the side, in pixels, from pixel centre to pixel centre.
        """
        return reaches_over(np.rint(x), np.rint(y), reach, self.shape)

    def place(self, x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return where on the detector points of this frame are: at the points themselves.

        Cutouts laid out as a frame are elsewhere; see `mlpsf.frames.tiles`.
        """
        return np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)

    @property
    def extent(self) -> tuple[int, int]:
        """Rows and columns of the detector over which the PSF may vary."""
        return self.shape

    @cached_property
    def background(self) -> Background:
        """Level and noise of the sky: as given, or measured in meshes of 64 pixels.

        Measured when first used; later changes of `data` have no effect.
        """
        return self.given_background or measure_background(self)

    def with_background(self, level: ArrayLike, rms: ArrayLike | None = None) -> Frame:
        """Return a frame with the given sky.

        Parameters
        ----------
        level : float or array_like, shape (ny, nx)
            Sky level in the unit of the pixels; 0 if it has been subtracted.
        rms : float or array_like, shape (ny, nx), optional
            Noise of the sky in the same unit; measured by default.

        Returns
        -------
        Frame

        Raises
        ------
        InputError
            If a value is not finite, a noise is not positive, or a shape is not that of the frame.

        Examples
        --------
        >>> pixels = np.random.default_rng(1).normal(100, 5, (128, 128)).astype(np.float32)
        >>> frame = Frame(data=pixels, mask=np.zeros(pixels.shape, dtype=bool))
        >>> float(frame.with_background(100.0, 5.0).background.level[0, 0])
        100.0
        """
        level = self._plane("level", level)
        correlation = self.background.correlation if rms is None else 1.0
        rms = self._plane("rms", self.background.rms if rms is None else rms)
        if not (rms > 0).all():
            raise InputError("The 'rms' of a background must be positive everywhere.")
        return dataclasses.replace(self, given_background=Background(level, rms, correlation))

    def _plane(self, name: str, value: ArrayLike) -> NDArray[np.float32]:
        values = np.asarray(value, dtype=np.float32)
        if values.shape not in ((), self.shape) or not np.isfinite(values).all():
            raise InputError(
                f"The '{name}' of a background must be finite, one number or an array of the "
                f"frame's shape {self.shape}. Got shape {values.shape}."
            )
        return np.broadcast_to(values, self.shape).copy()

    def _repr_png_(self) -> bytes:
        small = shrunk(self.good_pixels, 400)
        return png(sky(small), "gray")

    def _repr_html_(self) -> str:
        ny, nx = self.shape
        scale = pixel_scale(self.wcs)
        rows = [
            ("size", f"{ny} rows x {nx} columns"),
            ("scale", "unknown" if scale is None else f"{scale:.4g} arcsec a pixel"),
            (
                "gain",
                f"{known(self.gain, f'e/{self.unit_name}')} ({self.origin.get('gain', 'given')})",
            ),
            (
                "saturation",
                f"{known(self.saturation, self.unit_name, 6)} "
                f"({self.origin.get('saturation', 'given')})",
            ),
            ("masked", f"{self.mask.mean():.2%}"),
        ]
        return card(self.name, rows, self._repr_png_())

    def __repr__(self) -> str:
        ny, nx = self.shape
        return (
            f"<Frame {self.name}: {ny} x {nx} pixels, gain {self.gain:.3g} e/{self.unit_name}, "
            f"saturation {self.saturation:g} {self.unit_name}>"
        )
