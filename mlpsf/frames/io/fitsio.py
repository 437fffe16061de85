"""Open FITS files, list their HDUs and read their images.

The pixels are interpreted in `mlpsf.frames.io.reading`. Malformed but readable files are read
without a warning; unreadable ones raise a `FrameError` that says why.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from mlpsf.errors import FrameError, FrameNotFoundError, InputError, MlpsfError
from mlpsf.files import input_file
from mlpsf.frames.io.fits_sizes import check_fits, check_tiles, warn_of_loss
from mlpsf.frames.io.hdus import IMAGE_HDUS, image_shape, planes_behind
from mlpsf.frames.io.packing import H_COMPRESS
from mlpsf.frames.io.planes import beside as noise_beside
from mlpsf.frames.io.planes import mask_bits, named_mask, named_planes

if TYPE_CHECKING:
    from astropy.wcs import WCS

__all__ = [
    "HDUSelector",
    "Image",
    "celestial",
    "find_hdu",
    "image_of_hdus",
    "image_shape",
    "images_in",
    "join_headers",
    "list_images",
    "open_fits",
    "quiet",
    "read_pixels",
    "squeeze",
]

HDUSelector: TypeAlias = int | str | tuple[str, int]
"""Number of an HDU, its name, or its name and version (also as ``"SCI,2"``)."""

BAD_PLANES = ("BAD", "SAT", "CR", "NO_DATA", "EDGE", "INTRP", "SUSPECT", "UNMASKEDNAN")
"""Planes of an LSST or HSC mask that mark bad pixels; others, such as DETECTED, do not."""

# A damaged file can make astropy, its decompressors and numpy raise anything.
_READ_ERRORS = (Exception,)
_QUIET = threading.RLock()


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image as read from its source, before it becomes a frame."""

    data: Any
    name: str
    headers: tuple[fits.Header, ...] = ()
    wcs: WCS | None = None
    mask: Any = None
    variance: Any = None
    saturated_plane: NDArray[np.bool_] | None = None
    unit: str | None = None
    noise_plane: tuple[Any, str, str] | None = None
    """Pixels of a plane of the noise, what it holds (see `planes.ENDINGS`), and its name."""
    first_of: int = 1
    """How many images of the sky the source holds, where the first was taken unasked."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence astropy's warnings about malformed cards and coordinates in usable frames."""
    logger = logging.getLogger("astropy")
    with _QUIET:  # warning filters are global: only one thread at a time may change them
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            logger.setLevel(level)


@contextlib.contextmanager
def open_fits(path: str | Path) -> Iterator[fits.HDUList]:
    """Open a FITS file, memory-mapped if possible."""
    path = input_file(path, FrameError, "a FITS file", missing=FrameNotFoundError)
    with quiet():
        try:
            hdus = fits.open(check_fits(path, FrameError))
            for hdu in hdus:  # reads all headers
                _name_readably(hdu)
            if any(getattr(hdu, "compression_type", "") == H_COMPRESS for hdu in hdus):
                check_tiles(path, FrameError)
        except PermissionError as error:
            raise FrameError(f"{str(path)!r} may not be read by this user: {error}.") from error
        except MlpsfError:
            raise
        except _READ_ERRORS as error:
            said = str(error).partition(" If this is really")[0]  # an option of astropy's
            raise FrameError(
                f"{str(path)!r} is no readable FITS file ({said}). Expected a plain, .gz or .fz "
                f"FITS file, got {path.stat().st_size} bytes of something else. Check that the "
                "download is complete."
            ) from error
    with hdus:
        warn_of_loss(path, stacklevel=3)
        yield hdus


def _name_readably(hdu: Any) -> None:
    """Delete an HDU's name and version where they cannot be read: whoever asks would fail."""
    for key in ("EXTNAME", "EXTVER"):
        try:
            hdu.header.get(key)
        except fits.VerifyError:
            del hdu.header[key]


def _label(hdu: Any) -> str:
    return f"{hdu.name.strip()},{hdu.ver}"


def _describe(hdus: fits.HDUList) -> str:
    """Describe the HDUs of a file for an error message."""
    parts = []
    for number, hdu in enumerate(hdus):
        size = " x ".join(map(str, getattr(hdu, "shape", None) or ())) or "no pixels"
        kind = size if isinstance(hdu, IMAGE_HDUS) else "a table"
        parts.append(f"{number} ({_label(hdu)}: {kind})")
    return "; ".join(parts)


def find_hdu(hdus: fits.HDUList, selector: HDUSelector | None, name: str) -> int:
    """Return the number of the selected HDU, by default the first one with a 2-D image."""
    if selector is None:
        for number, hdu in enumerate(hdus):
            if image_shape(hdu) is not None:
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
    if image_shape(hdus[found]) is None:
        raise FrameError(
            f"HDU {selector!r} of {name} holds no 2-D image. The file has the HDUs "
            f"{_describe(hdus)}. Give the number or name of one with a 2-D image."
        )
    return found


def _match_hdu(hdus: fits.HDUList, selector: HDUSelector) -> int | None:
    """Return the HDU with this number or name, ignoring case and trailing spaces."""
    version: int | None = None
    if isinstance(selector, str):
        text, _, tail = selector.partition(",")
        if tail.strip().isdecimal():
            version = int(tail)
        selector = int(text) if text.strip().isdecimal() else text
    elif isinstance(selector, tuple) and len(selector) == 2:
        selector, version = selector[0], _whole(selector[1])
    if not isinstance(selector, str):
        number = _whole(selector)
        return number % len(hdus) if -len(hdus) <= number < len(hdus) else None
    for number, hdu in enumerate(hdus):
        same_name = hdu.name.strip().upper() == selector.strip().upper()
        if same_name and version in (None, hdu.ver):
            return number
    return None


def _whole(value: Any) -> int:
    """Return the number of an HDU, or its version."""
    try:
        return index(value)
    except TypeError as error:
        raise InputError(
            f"An HDU is a number, a name or (name, version). Got {value!r}."
        ) from error


def read_pixels(hdu: Any, name: str) -> Any:
    """Read the pixels of an HDU."""
    try:
        with quiet():
            data = hdu.data
    except _READ_ERRORS as error:
        raise FrameError(
            f"The pixels of {name} cannot be read ({error}). The header promises {hdu.shape}, the "
            "file is cut short or damaged. Copy or download it again."
        ) from error
    if data is None:
        raise FrameError(f"{name} holds no pixels. Expected a 2-D image.")
    return data


def _plane(hdu: Any, name: str) -> NDArray[np.int64]:
    """Read a bit mask; where BLANK made a value NaN, all bits are set."""
    data = squeeze(read_pixels(hdu, name), name)
    if data.dtype.kind == "f":
        data = np.where(np.isfinite(data), data, 2.0**31 - 1)
    return data.astype(np.int64)


def _noise_plane(
    hdus: fits.HDUList, number: int, name: str, path: Path | None
) -> tuple[Any, str, str] | None:
    """Read the plane of the noise that an image's file holds, or one beside it, if any."""
    for n, kind in named_planes(hdus, number):
        return read_pixels(hdus[n], f"the {kind} of {name}"), kind, hdus[n].name
    for beside, kind in noise_beside(path) if path else ():
        # A file that is unreadable or of another image only looked like its weights.
        with contextlib.suppress(FrameError), open_fits(beside) as others:
            n = find_hdu(others, None, beside.name)
            if image_shape(others[n]) == image_shape(hdus[number]):
                return np.array(read_pixels(others[n], beside.name)), kind, beside.name
    return None


def image_of_hdus(hdus: fits.HDUList, number: int, name: str, path: Path | None = None) -> Image:
    """Read an image HDU and the mask and variance HDUs that follow it in LSST and HSC files.

    Without the `path` of its file, none of those beside it is read.
    """
    hdu = hdus[number]
    if number:
        name = f"{name}[{number}]"
    headers = tuple(_repaired(h) for h in ([hdu] if number == 0 else [hdu, hdus[0]]))
    mask = variance = saturated = noise_plane = None
    following = [hdus[n] for n in planes_behind(hdus, number)]
    if following:
        header = _repaired(following[0])
        plane = _plane(following[0], f"the mask of {name}")

        def bits(*names: str) -> int:
            found = (header.get(f"MP_{plane_name}") for plane_name in names)
            return sum({1 << int(bit) for bit in found if isinstance(bit, int) and 0 <= bit < 62})

        mask = (plane & bits(*BAD_PLANES)) != 0
        saturated = (plane & bits("SAT")) != 0
        if len(following) > 1 and following[1].header["BITPIX"] < 0:
            variance = read_pixels(following[1], f"the variance of {name}")
    else:
        noise_plane = _noise_plane(hdus, number, name, path)
        if (n := named_mask(hdus, number)) is not None:
            bad, full = mask_bits(hdus[n].name.strip().upper(), headers[-1])
            plane = _plane(hdus[n], f"the mask of {name}")
            mask = (plane & (bad | full)) != 0
            saturated = (plane & full) != 0 if full else None
    return Image(
        data=_linear(read_pixels(hdu, name), headers[0]),
        name=name,
        headers=headers,
        wcs=celestial(headers[0]),
        mask=mask,
        variance=variance,
        saturated_plane=saturated,
        noise_plane=noise_plane,
    )


def _linear(data: Any, header: fits.Header) -> Any:
    """Return pixels that Pan-STARRS stores as asinh (Waters et al. 2020, ApJS 251, 4)."""
    with contextlib.suppress(KeyError, ValueError, TypeError, fits.VerifyError):
        zero, soft = float(header["BOFFSET"]), float(header["BSOFTEN"])
        return zero + 2 * soft * np.sinh(np.asarray(data, dtype=np.float64) * np.log(10) / 2.5)
    return data


def _repaired(hdu: Any) -> fits.Header:
    """Copy a header; malformed cards are repaired where astropy can, and left out where not."""
    with quiet():
        with contextlib.suppress(*_READ_ERRORS):
            hdu.verify("silentfix+ignore")
        header: fits.Header = hdu.header.copy()
        for number in reversed(range(len(header))):
            try:
                header[number]
            except _READ_ERRORS:  # whoever asks for it, here or later, would fail
                del header[number]
    return header


def join_headers(headers: tuple[fits.Header, ...]) -> fits.Header:
    """Join the image header with the keywords that only the primary header has."""
    if not headers:
        return fits.Header()
    header = headers[0].copy()
    for other in headers[1:]:
        with quiet(), contextlib.suppress(*_READ_ERRORS):
            header.extend(other, unique=True)
    return header


def celestial(source: fits.Header | WCS | None) -> WCS | None:
    """Return the celestial part of a valid WCS; None otherwise."""
    if source is None or (isinstance(source, fits.Header) and not _may_have_axes(source)):
        return None
    from astropy.wcs import WCS  # takes a tenth of a second

    with quiet():
        try:
            wcs = source if isinstance(source, WCS) else WCS(source)
            if not wcs.has_celestial:
                return None
            wcs = wcs.celestial
            usable = np.all(np.isfinite(wcs.all_pix2world([[0.0, 0.0]], 0)))
        except Exception:  # wcslib has many error classes; all mean "no coordinates"
            return None
    return wcs if usable else None


def _may_have_axes(header: fits.Header) -> bool:
    """Return whether a header names the kinds of its axes; without them they are no coordinates.

    What reads them takes memory for the square of their number, and of a distortion's order.
    """
    if not 0 < sum(key.startswith("CTYPE") for key in header) <= _MOST_AXES:
        return False
    for key in header:
        if key.startswith("WCSAXES") or key in _ORDERS:
            try:
                if not abs(float(header[key])) <= _MOST_AXES:
                    return False
            except _READ_ERRORS:
                return False
    return True


_ORDERS = ("A_ORDER", "B_ORDER", "AP_ORDER", "BP_ORDER")
"""Of SIP (Shupe et al. 2005), which has 9 at most."""

_MOST_AXES = 99


def squeeze(data: Any, name: str) -> NDArray[Any]:
    """Drop leading axes of length one; raise unless the result is 2-D and real."""
    try:
        array = np.asarray(data)
    except (TypeError, ValueError) as error:
        raise FrameError(
            f"{name} is no array of numbers ({error}). Expected a 2-D image."
        ) from error
    shape = array.shape
    while array.ndim > 2 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 2 or array.size == 0:
        raise FrameError(
            f"{name} has shape {shape}. Expected a 2-D image with pixels in it; pass one plane of "
            "a cube."
        )
    if array.dtype.kind not in "biuf":
        kind = "complex" if array.dtype.kind == "c" else str(array.dtype)
        raise FrameError(f"{name} has pixels of type {kind}. Expected real numbers.")
    return array


def list_images(path: str | Path) -> list[tuple[int, str, tuple[int, int]]]:
    """List the 2-D images of a FITS file without reading their pixels.

    Parameters
    ----------
    path : str or pathlib.Path

    Returns
    -------
    list of (int, str, (int, int))
        Number, ``"NAME,VERSION"`` and image shape of each HDU with a 2-D image.

    Raises
    ------
    FrameNotFoundError
        If the file does not exist.
    FrameError
        If it is not a FITS file.

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
    with open_fits(path) as hdus, quiet():
        return images_in(hdus)


def images_in(hdus: fits.HDUList) -> list[tuple[int, str, tuple[int, int]]]:
    """List the 2-D images of an open file, as `list_images` does."""
    return [
        (number, _label(hdu), shape)
        for number, hdu in enumerate(hdus)
        if (shape := image_shape(hdu)) is not None
    ]
