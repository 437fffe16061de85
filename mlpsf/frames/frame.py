"""`Frame`: the pixels of one image and what is known about them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import ArrayLike, NDArray

from mlpsf.errors import InputError
from mlpsf.frames.background import Background, measure_background

__all__ = ["Frame"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Frame:
    """One image with its mask, calibration and coordinates.

    Attributes
    ----------
    data : ndarray of float32, shape (ny, nx)
        Pixels in ADU, native byte order, C-contiguous; one that was not finite is 0 and masked.
    mask : ndarray of bool, shape (ny, nx)
        True where a pixel is bad.
    gain : float
        Electrons per ADU.
    saturation : float
        In ADU; infinite when nothing limits it.
    read_noise : float
        In electrons; 0 when unknown.
    variance : ndarray of float32, shape (ny, nx), or None
        In ADU².
    saturated_plane : ndarray of bool, shape (ny, nx), or None
        Pixels that the file's own mask calls saturated.
    wcs : astropy.wcs.WCS or None
        Celestial coordinates of the pixels.
    header : astropy.io.fits.Header
        The image's header, followed by what only the primary header has.
    name : str
        Name of the file, with the HDU's number where it is not the first: ``"lco.fits[3]"``.
    sha256 : str
        Hash of the pixels as little-endian float32, to tell frames apart in outputs.
    origin : mapping of str to str
        In words, where ``gain``, ``saturation`` and ``read_noise`` are from.
    given_background : Background or None
        A sky of the caller's own, see `with_background`.
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
    given_background: Background | None = field(default=None, repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        ny, nx = self.data.shape
        return ny, nx

    @cached_property
    def saturated(self) -> NDArray[np.bool_]:
        """True where a pixel is at or above saturation, or its mask plane says so.

        Found when first asked for: what is done to `data` later does not change it.
        """
        saturated: NDArray[np.bool_] = self.data >= self.saturation
        if self.saturated_plane is not None:
            saturated |= self.saturated_plane
        return saturated

    @cached_property
    def background(self) -> Background:
        """Level and noise of the sky: as given, or measured in meshes of 64 pixels.

        Measured when first used, and kept: what is done to `data` later does not change it.
        """
        return self.given_background or measure_background(self)

    def with_background(self, level: ArrayLike, rms: ArrayLike | None = None) -> Frame:
        """Return a frame with a sky of the caller's own.

        Parameters
        ----------
        level : float or array_like, shape (ny, nx)
            Of the sky, in ADU; 0 where it has been subtracted.
        rms : float or array_like, shape (ny, nx), optional
            Noise of the sky in ADU; measured unless given.

        Returns
        -------
        Frame

        Raises
        ------
        InputError
            A value is not finite, a noise not positive, or a shape not that of the frame.

        Examples
        --------
        >>> pixels = np.random.default_rng(1).normal(100, 5, (128, 128)).astype(np.float32)
        >>> frame = Frame(data=pixels, mask=np.zeros(pixels.shape, dtype=bool))
        >>> float(frame.with_background(100.0, 5.0).background.level[0, 0])
        100.0
        """
        level = self._plane("level", level)
        rms = self._plane("rms", self.background.rms if rms is None else rms)
        if not (rms > 0).all():
            raise InputError("The 'rms' of a background must be positive everywhere.")
        return dataclasses.replace(self, given_background=Background(level, rms))

    def _plane(self, name: str, value: ArrayLike) -> NDArray[np.float32]:
        values = np.asarray(value, dtype=np.float32)
        if values.shape not in ((), self.shape) or not np.isfinite(values).all():
            raise InputError(
                f"The '{name}' of a background must be finite, one number or an array of the "
                f"frame's shape {self.shape}. Got shape {values.shape}."
            )
        return np.broadcast_to(values, self.shape).copy()

    def __repr__(self) -> str:
        ny, nx = self.shape
        return (
            f"<Frame {self.name}: {ny} x {nx} pixels, gain {self.gain:.3g} e/ADU, "
            f"saturation {self.saturation:g} ADU>"
        )
