"""A frame: the pixels of one image and what is known about them.

`read_frame` takes a FITS file of any common kind, or an image that is already in memory, and gives
a `Frame`, in which the pixels are native float32, bad ones are masked, and gain and saturation are
numbers together with a note of where each is from.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import warnings
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from astropy.io import fits
from astropy.nddata import NDData, VarianceUncertainty
from astropy.wcs import WCS
from numpy.typing import ArrayLike, NDArray

from mlpsf.calibration import find_gain, find_read_noise, find_saturation, measure_sky_noise
from mlpsf.errors import FrameError, FrameNotFoundError, InputError

__all__ = ["Frame", "FrameSource", "HDUSelector", "list_images", "read_frame"]

HDUSelector: TypeAlias = int | str | tuple[str, int]
"""Number of an HDU, its name, or its name and version, also as ``"SCI,2"``."""

BAD_PLANES = ("BAD", "SAT", "CR", "NO_DATA", "EDGE", "INTRP", "SUSPECT", "UNMASKEDNAN")
"""Planes of an LSST or HSC mask that make a pixel bad; the others, DETECTED say, only describe."""

# What astropy and gzip raise for a damaged file, by kind of damage.
_READ_ERRORS = (OSError, EOFError, TypeError, ValueError, KeyError, IndexError, zlib.error)
_IMAGE_HDUS = (fits.PrimaryHDU, fits.ImageHDU, fits.CompImageHDU)


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

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        ny, nx = self.data.shape
        return ny, nx

    @property
    def saturated(self) -> NDArray[np.bool_]:
        """True where a pixel is at or above saturation, or its mask plane says so."""
        saturated: NDArray[np.bool_] = self.data >= self.saturation
        return saturated if self.saturated_plane is None else saturated | self.saturated_plane

    def __repr__(self) -> str:
        ny, nx = self.shape
        return (
            f"<Frame {self.name}: {ny} x {nx} pixels, gain {self.gain:.3g} e/ADU, "
            f"saturation {self.saturation:g} ADU>"
        )


FrameSource: TypeAlias = (
    str
    | Path
    | Frame
    | NDData
    | fits.PrimaryHDU
    | fits.ImageHDU
    | fits.CompImageHDU
    | fits.HDUList
    | ArrayLike
)
"""What `read_frame` takes."""


@dataclass(frozen=True, kw_only=True)
class _Image:
    """An image as it lies in its source, before it becomes a frame."""

    data: Any
    name: str
    headers: tuple[fits.Header, ...] = ()
    wcs: WCS | None = None
    mask: Any = None
    variance: Any = None
    saturated_plane: NDArray[np.bool_] | None = None
    unit: str | None = None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence astropy about malformed cards and coordinates: such frames are common and usable."""
    logger = logging.getLogger("astropy")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[fits.HDUList]:
    """Open a FITS file, mapped into memory where it can be."""
    path = Path(path).expanduser()
    if not path.exists():
        raise FrameNotFoundError(
            f"There is no file {str(path)!r}. Check the path; a relative one starts at "
            f"{str(Path.cwd())!r}."
        )
    if path.is_dir():
        raise FrameError(f"{str(path)!r} is a folder. Expected a FITS file: give one of its files.")
    with _quiet():
        try:
            hdus = fits.open(path)
        except PermissionError as error:
            raise FrameError(f"{str(path)!r} may not be read by this user: {error}.") from error
        except _READ_ERRORS as error:
            raise FrameError(
                f"{str(path)!r} is no readable FITS file ({error}). Expected a plain, .gz or .fz "
                f"FITS file, got {path.stat().st_size} bytes of something else. Check that the "
                "download is complete."
            ) from error
        with hdus:
            yield hdus


def _image_shape(hdu: Any) -> tuple[int, int] | None:
    """Shape of the 2-D image in an HDU, seen without reading it; None when it holds none."""
    if not isinstance(hdu, _IMAGE_HDUS):
        return None
    shape = tuple(hdu.shape or ())
    while len(shape) > 2 and shape[0] == 1:
        shape = shape[1:]
    return (shape[0], shape[1]) if len(shape) == 2 and min(shape) > 0 else None


def _label(hdu: Any) -> str:
    return f"{hdu.name.strip()},{hdu.ver}"


def _describe(hdus: fits.HDUList) -> str:
    """List the HDUs of a file in words, for an error message."""
    parts = []
    for number, hdu in enumerate(hdus):
        size = " x ".join(map(str, getattr(hdu, "shape", None) or ())) or "no pixels"
        kind = size if isinstance(hdu, _IMAGE_HDUS) else "a table"
        parts.append(f"{number} ({_label(hdu)}: {kind})")
    return "; ".join(parts)


def _find_hdu(hdus: fits.HDUList, selector: HDUSelector | None, name: str) -> int:
    """Find the number of the HDU that was asked for, or of the first one with a 2-D image."""
    if selector is None:
        for number, hdu in enumerate(hdus):
            if _image_shape(hdu) is not None:
                return number
        raise FrameError(
            f"{name} holds no 2-D image. It has the HDUs {_describe(hdus)}. "
            "Of a cube, pass one plane as an array."
        )
    found = _match_hdu(hdus, selector)
    if found is None:
        raise FrameError(
            f"{name} has no HDU {selector!r}. It has the HDUs {_describe(hdus)}. "
            "Give a number, a name or (name, version) of these."
        )
    if _image_shape(hdus[found]) is None:
        raise FrameError(
            f"HDU {selector!r} of {name} holds no 2-D image. The file has the HDUs "
            f"{_describe(hdus)}. Give the number or name of one with a 2-D image."
        )
    return found


def _match_hdu(hdus: fits.HDUList, selector: HDUSelector) -> int | None:
    """Find the HDU with this number or name, whatever its case and trailing spaces."""
    version: int | None = None
    if isinstance(selector, str):
        text, _, tail = selector.partition(",")
        if tail.strip().isdigit():
            version = int(tail)
        selector = int(text) if text.strip().isdigit() else text
    elif isinstance(selector, tuple):
        selector, version = selector[0], int(selector[1])
    if not isinstance(selector, str):
        number = int(selector)
        return number % len(hdus) if -len(hdus) <= number < len(hdus) else None
    for number, hdu in enumerate(hdus):
        same_name = hdu.name.strip().upper() == selector.strip().upper()
        if same_name and version in (None, hdu.ver):
            return number
    return None


def _pixels(hdu: Any, name: str) -> Any:
    """Read the pixels of an HDU."""
    try:
        with _quiet():
            data = hdu.data
    except (*_READ_ERRORS, RuntimeError) as error:
        raise FrameError(
            f"The pixels of {name} cannot be read ({error}). The header promises {hdu.shape}, the "
            "file is cut short or damaged. Copy or download it again."
        ) from error
    if data is None:
        raise FrameError(f"{name} holds no pixels. Expected a 2-D image.")
    return data


def _plane(hdu: Any, name: str) -> NDArray[np.int64]:
    """Read a bit mask; where the file's BLANK made NaN of a value, every bit is set."""
    data = _squeeze(_pixels(hdu, name), name)
    if data.dtype.kind == "f":
        data = np.where(np.isfinite(data), data, 2.0**31 - 1)
    return data.astype(np.int64)


def _image_of_hdus(hdus: fits.HDUList, number: int, name: str) -> _Image:
    """Gather an image HDU, and the mask and variance HDUs that LSST and HSC put behind it."""
    hdu = hdus[number]
    if number:
        name = f"{name}[{number}]"
    headers = tuple(_repaired(h) for h in ([hdu] if number == 0 else [hdu, hdus[0]]))
    mask = variance = saturated = None
    following = [h for h in hdus[number + 1 : number + 3] if _image_shape(h) == _image_shape(hdu)]
    if following and any(key.startswith("MP_") for key in following[0].header):
        header = following[0].header
        plane = _plane(following[0], f"the mask of {name}")

        def bits(*names: str) -> int:
            found = (header.get(f"MP_{plane_name}") for plane_name in names)
            return sum({1 << int(bit) for bit in found if isinstance(bit, int) and 0 <= bit < 62})

        mask = (plane & bits(*BAD_PLANES)) != 0
        saturated = (plane & bits("SAT")) != 0
        if len(following) > 1 and following[1].header["BITPIX"] < 0:
            variance = _pixels(following[1], f"the variance of {name}")
    return _Image(
        data=_pixels(hdu, name),
        name=name,
        headers=headers,
        wcs=_celestial(headers[0]),
        mask=mask,
        variance=variance,
        saturated_plane=saturated,
    )


def _repaired(hdu: Any) -> fits.Header:
    """Copy a header, with its malformed cards put right where astropy can."""
    with _quiet():
        with contextlib.suppress(*_READ_ERRORS, fits.VerifyError, AttributeError):
            hdu.verify("silentfix+ignore")
        header: fits.Header = hdu.header.copy()
    return header


def _joined(headers: tuple[fits.Header, ...]) -> fits.Header:
    """Join the image's header with what only the primary header has."""
    if not headers:
        return fits.Header()
    header = headers[0].copy()
    for other in headers[1:]:
        with _quiet(), contextlib.suppress(*_READ_ERRORS, fits.VerifyError):
            header.extend(other, unique=True)
    return header


def _celestial(source: fits.Header | WCS | None) -> WCS | None:
    """Give the celestial part of coordinates that work; None for any others."""
    if source is None:
        return None
    with _quiet():
        try:
            wcs = source if isinstance(source, WCS) else WCS(source)
            if not wcs.has_celestial:
                return None
            wcs = wcs.celestial
            usable = np.all(np.isfinite(wcs.all_pix2world([[0.0, 0.0]], 0)))
        except Exception:  # wcslib has a class for each of its troubles; all mean "no coordinates"
            return None
    return wcs if usable else None


def _image_of_nddata(source: NDData) -> _Image:
    header = source.meta if isinstance(source.meta, fits.Header) else fits.Header()
    if not isinstance(source.meta, fits.Header):
        for key, value in source.meta.items():
            # A meta entry that no FITS card can hold is no keyword of ours.
            with _quiet(), contextlib.suppress(ValueError, TypeError, AttributeError):
                header[key] = value
    variance = None
    if source.uncertainty is not None:
        with contextlib.suppress(TypeError, AttributeError, NotImplementedError):
            variance = source.uncertainty.represent_as(VarianceUncertainty).array
    return _Image(
        data=source.data,
        name=str(header.get("FILENAME", "array")),
        headers=(header,),
        wcs=_celestial(source.wcs if isinstance(source.wcs, WCS) else header),
        mask=source.mask,
        variance=variance,
        unit=None if source.unit is None else str(source.unit),
    )


def _load(source: Any, hdu: HDUSelector | None) -> _Image:
    """Fetch the image from wherever it is."""
    if isinstance(source, (str, Path)):
        with _opened(source) as hdus:
            name = Path(source).name
            return _image_of_hdus(hdus, _find_hdu(hdus, hdu, name), name)
    if isinstance(source, fits.HDUList):
        return _image_of_hdus(source, _find_hdu(source, hdu, "the HDU list"), "HDU list")
    if hdu is not None:
        raise InputError(
            f"The 'hdu' parameter is for files and HDU lists. Got {hdu!r} with a "
            f"{type(source).__name__}: leave it out."
        )
    if isinstance(source, NDData):
        return _image_of_nddata(source)
    if hasattr(source, "header") and hasattr(source, "data"):
        name = source.name or type(source).__name__
        if _image_shape(source) is None:
            raise FrameError(
                f"The HDU {name} holds no 2-D image. Got {type(source).__name__} of shape "
                f"{getattr(source, 'shape', None)}."
            )
        return _image_of_hdus(fits.HDUList([source]), 0, name)
    mask = np.ma.getmaskarray(source) if isinstance(source, np.ma.MaskedArray) else None
    return _Image(data=np.ma.getdata(source), name="array", mask=mask)


def _squeeze(data: Any, name: str) -> NDArray[Any]:
    """Drop leading axes of length one and insist on a 2-D array of real numbers."""
    array = np.asarray(data)
    shape = array.shape
    while array.ndim > 2 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 2 or array.size == 0:
        raise FrameError(
            f"{name} has shape {shape}. Expected a 2-D image with pixels in it; pass one plane of "
            "a cube."
        )
    if array.dtype.kind not in "biuf":
        raise FrameError(f"{name} has pixels of type {array.dtype}. Expected real numbers.")
    return array


def _companion(value: Any, parameter: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Read a mask or a variance and insist on the shape of the image."""
    if isinstance(value, (str, Path)):
        with _opened(value) as hdus:
            name = Path(value).name
            value = np.array(_pixels(hdus[_find_hdu(hdus, None, name)], name))
    array = _squeeze(value, f"The '{parameter}' parameter")
    if array.shape != shape:
        raise InputError(
            f"The '{parameter}' parameter has shape {array.shape}. Expected that of the image, "
            f"{shape}."
        )
    return array


def _bad(mask: NDArray[Any]) -> NDArray[np.bool_]:
    """Say where a mask is set; NaN, which compares unequal to 0, is set too."""
    bad: NDArray[np.bool_] = mask != 0
    return bad


def _with_variance(
    variance: Any, mask: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Make a variance finite, and mask the pixels where it was not a variance."""
    array = _companion(variance, "variance", mask.shape)
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.array(array, dtype=np.float32, order="C")
        bad = ~(np.isfinite(values) & (values >= 0))
    values[bad] = 0
    return values, mask | bad


def _positive(value: float | None, parameter: str, *, infinite: bool = False) -> float | None:
    if value is None:
        return None
    number = float(value)
    if not number > 0 or (np.isinf(number) and not infinite):
        raise InputError(
            f"The '{parameter}' parameter must be a positive number. Got {value!r} instead. "
            "Leave it out to take it from the header or the pixels."
        )
    return number


def _overridden(
    frame: Frame, mask: Any, variance: Any, gain: float | None, saturation: float | None
) -> Frame:
    """Give a frame with what the user knows better; the mask adds to the frame's own."""
    changes: dict[str, Any] = {}
    origin = dict(frame.origin)
    for key, value in (("gain", gain), ("saturation", saturation)):
        if value is not None:
            changes[key] = value
            origin[key] = "given"
            changes["origin"] = origin
    if mask is not None:
        changes["mask"] = frame.mask | _bad(_companion(mask, "mask", frame.shape))
    if variance is not None:
        changes["variance"], changes["mask"] = _with_variance(
            variance, changes.get("mask", frame.mask)
        )
    if "mask" in changes:
        _check_pixels(frame.data, changes["mask"], frame.name)
    return dataclasses.replace(frame, **changes) if changes else frame


def _check_pixels(data: NDArray[np.float32], mask: NDArray[np.bool_], name: str) -> None:
    """Insist that some pixels are good and that they differ."""
    good = data[~mask] if mask.any() else data
    if good.size == 0:
        raise FrameError(
            f"All {data.size} pixels of {name} are NaN, infinite or masked. Expected an image with "
            "good pixels: check the mask, where nonzero means bad."
        )
    if good.min() == good.max():
        raise FrameError(
            f"All good pixels of {name} have the value {good.flat[0]:g}. Expected an image of the "
            "sky: check that this is the right file and HDU."
        )


def read_frame(
    source: FrameSource,
    hdu: HDUSelector | None = None,
    mask: ArrayLike | str | Path | None = None,
    variance: ArrayLike | str | Path | None = None,
    gain: float | None = None,
    saturation: float | None = None,
) -> Frame:
    """Read an image and find out its gain and saturation level.

    Parameters
    ----------
    source : path, array, NDData, HDU, HDUList or Frame
        A FITS file (plain, multi-extension, ``.gz`` or tile-compressed ``.fz``), a 2-D array
        (masked or not), an `astropy.nddata.NDData` such as ``CCDData``, an astropy HDU or list of
        them, or a frame, which comes back as it is but for what the other parameters change. The
        mask and variance HDUs of LSST and HSC exposures are recognised.
    hdu : int, str or (str, int), optional
        The HDU of a file: its number, its name, or its name and version, also as ``"SCI,2"``. By
        default the first with a 2-D image.
    mask : array or path, shape (ny, nx), optional
        Nonzero where a pixel is bad; added to the masks in the source.
    variance : array or path, shape (ny, nx), optional
        In ADU². Pixels where it is negative or not finite are masked.
    gain : float, optional
        Electrons per ADU, instead of the header's or the measured one.
    saturation : float, optional
        In ADU, instead of the header's or the measured one; infinite for none.

    Returns
    -------
    Frame

    Raises
    ------
    FrameNotFoundError
        If there is no such file.
    FrameError
        If the source holds no usable 2-D image: not FITS, cut short, no such HDU, wrong number of
        dimensions, no good pixel, or all pixels alike.
    InputError
        If the mask or variance has another shape than the image, or gain or saturation is not
        positive.

    See Also
    --------
    list_images : What there is to choose from in a file.
    mlpsf.calibration : How gain and saturation are found.

    Examples
    --------
    >>> import numpy as np
    >>> from mlpsf.frame import read_frame
    >>> image = np.random.default_rng(1).poisson(800.0, (128, 128)) / 2
    >>> frame = read_frame(image)
    >>> frame.shape, round(frame.gain)
    ((128, 128), 2)
    >>> frame.origin["gain"]
    'photon noise of the sky, taking the bias as 0'
    """
    gain = _positive(gain, "gain")
    saturation = _positive(saturation, "saturation", infinite=True)
    if isinstance(source, Frame):
        if hdu is not None:
            raise InputError(f"The 'hdu' parameter is for files. Got {hdu!r} with a Frame.")
        return _overridden(source, mask, variance, gain, saturation)

    with _quiet():
        image = _load(source, hdu)
    raw = _squeeze(image.data, image.name)
    with np.errstate(over="ignore", invalid="ignore"):
        data = np.array(raw, dtype=np.float32, order="C")
    bad = ~np.isfinite(data)
    if bad.any():
        data[bad] = 0
    for extra in (image.mask, mask):
        if extra is not None:
            bad |= _bad(_companion(extra, "mask", data.shape))
    variance_plane = None
    for values in (image.variance, variance):
        if values is not None:
            variance_plane, bad = _with_variance(values, bad)
    _check_pixels(data, bad, image.name)

    noise = measure_sky_noise(data, bad)
    read_noise, read_noise_origin = find_read_noise(image.headers)
    gain_origin = saturation_origin = "given"
    if gain is None:
        gain, gain_origin = find_gain(
            data,
            bad,
            image.headers,
            noise,
            read_noise=read_noise,
            variance=variance_plane,
            unit=image.unit,
        )
    if saturation is None:
        saturation, saturation_origin = find_saturation(
            data, bad, image.headers, noise, gain=gain, dtype=raw.dtype
        )
    return Frame(
        data=data,
        mask=bad,
        gain=gain,
        saturation=saturation,
        read_noise=read_noise,
        variance=variance_plane,
        saturated_plane=image.saturated_plane,
        wcs=image.wcs,
        header=_joined(image.headers),
        name=image.name,
        sha256=hashlib.sha256(data.astype("<f4", copy=False).data).hexdigest(),
        origin={
            "gain": gain_origin,
            "saturation": saturation_origin,
            "read_noise": read_noise_origin,
        },
    )


def list_images(path: str | Path) -> list[tuple[int, str, tuple[int, int]]]:
    """List the 2-D images of a FITS file, without reading their pixels.

    Parameters
    ----------
    path : str or pathlib.Path

    Returns
    -------
    list of (int, str, (int, int))
        Number of each HDU that holds one, its ``"NAME,VERSION"``, and the image's rows and columns.

    Raises
    ------
    FrameNotFoundError
        If there is no such file.
    FrameError
        If it is no FITS file.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from astropy.io import fits
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     chip = fits.ImageHDU(np.zeros((4, 5)), name="SCI", ver=2)
    ...     fits.HDUList([fits.PrimaryHDU(), chip]).writeto(f"{folder}/two.fits")
    ...     list_images(f"{folder}/two.fits")
    [(1, 'SCI,2', (4, 5))]
    """
    with _opened(path) as hdus, _quiet():
        return [
            (number, _label(hdu), shape)
            for number, hdu in enumerate(hdus)
            if (shape := _image_shape(hdu)) is not None
        ]
