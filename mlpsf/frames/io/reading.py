"""Read frames.

`read_frame` reads a FITS file of any common kind, or an image in memory, and returns a `Frame`. Its
pixels are native float32, bad pixels are masked, and gain and saturation are numbers with a note
of where each is from.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import sys
import warnings
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning
from numpy.typing import ArrayLike, NDArray

from mlpsf.errors import FrameError, InputError
from mlpsf.frames.calibration import Found, find_gain, find_read_noise, find_saturation
from mlpsf.frames.estimation import SkyNoise, measure_sky_noise
from mlpsf.frames.frame import Frame
from mlpsf.frames.io.fitsio import (
    HDUSelector,
    Image,
    celestial,
    find_hdu,
    image_of_hdus,
    image_shape,
    join_headers,
    list_images,
    open_fits,
    quiet,
    read_pixels,
    squeeze,
)
from mlpsf.frames.io.hdus import sky_images
from mlpsf.frames.io.planes import as_variance
from mlpsf.frames.tiles import MISSING
from mlpsf.frames.units import pixel_unit
from mlpsf.rich import known

__all__ = ["FrameSource", "HDUSelector", "check_positive", "list_images", "read_frame"]


class NDDataLike(Protocol):
    """Attributes used of an `astropy.nddata.NDData`, such as a ``CCDData``."""

    data: Any
    mask: Any
    uncertainty: Any
    wcs: Any
    unit: Any
    meta: Any


FrameSource: TypeAlias = (
    str
    | Path
    | Frame
    | NDDataLike
    | fits.PrimaryHDU
    | fits.ImageHDU
    | fits.CompImageHDU
    | fits.HDUList
    | ArrayLike
)
"""Sources that `read_frame` accepts."""


def _image_of_nddata(source: NDDataLike) -> Image:
    header = source.meta if isinstance(source.meta, fits.Header) else fits.Header()
    if not isinstance(source.meta, fits.Header):
        for key, value in source.meta.items():
            # Skip meta entries that a FITS card cannot hold.
            with quiet(), contextlib.suppress(ValueError, TypeError, AttributeError):
                header[key] = value
    from astropy.wcs import WCS

    variance = None
    if source.uncertainty is not None:
        from astropy.nddata import VarianceUncertainty

        with contextlib.suppress(TypeError, AttributeError, NotImplementedError):
            variance = source.uncertainty.represent_as(VarianceUncertainty).array
    return Image(
        data=source.data,
        name=str(header.get("FILENAME", "array")),
        headers=(header,),
        wcs=celestial(source.wcs if isinstance(source.wcs, WCS) else header),
        mask=source.mask,
        variance=variance,
        unit=None if source.unit is None else str(source.unit),
    )


def _image_of_file(
    hdus: fits.HDUList, hdu: HDUSelector | None, called: str, name: str, path: Path | None
) -> Image:
    number = find_hdu(hdus, hdu, called)
    image = image_of_hdus(hdus, number, name, path)
    if hdu is not None:
        return image
    return dataclasses.replace(image, first_of=len({number, *sky_images(hdus)}))


def _image_of_object(source: Any, hdu: HDUSelector | None) -> Image:
    """Load the image from a source in memory."""
    if isinstance(source, fits.HDUList):
        name, file = "HDU list", source.filename()  # which may be a stream's
        beside = Path(file) if isinstance(file, str) else None
        return _image_of_file(source, hdu, f"the {name}", name, beside)
    if hdu is not None:
        raise InputError(
            f"The 'hdu' parameter is for files and HDU lists. Got {hdu!r} with a "
            f"{type(source).__name__}: leave it out."
        )
    # If the source is an NDData, its module is already imported; otherwise it is not needed.
    nddata = sys.modules.get("astropy.nddata")
    if nddata is not None and isinstance(source, nddata.NDData):
        return _image_of_nddata(source)
    if hasattr(source, "header") and hasattr(source, "data"):
        name = source.name or type(source).__name__
        if image_shape(source) is None:
            raise FrameError(
                f"The HDU {name} holds no 2-D image. Got {type(source).__name__} of shape "
                f"{getattr(source, 'shape', None)}."
            )
        return image_of_hdus(fits.HDUList([source]), 0, name)
    if not isinstance(source, np.ndarray):
        source = squeeze(source, "the frame")
    mask = np.ma.getmaskarray(source) if isinstance(source, np.ma.MaskedArray) else None
    unit = getattr(source, "unit", None)  # of a Quantity, or a masked one
    if unit is not None:
        mask = getattr(source, "mask", None)
        source = getattr(source, "unmasked", source).value
    data = np.ma.getdata(source)
    return Image(data=data, name="array", mask=mask, unit=None if unit is None else str(unit))


def _companion(value: Any, parameter: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Read a mask or a variance; raise unless it has the shape of the image."""
    if isinstance(value, (str, Path)):
        with open_fits(value) as hdus:
            name = Path(value).name
            value = np.array(read_pixels(hdus[find_hdu(hdus, None, name)], name))
    array = squeeze(value, f"The '{parameter}' parameter")
    if array.shape != shape:
        raise InputError(
            f"The '{parameter}' parameter has shape {array.shape}. Expected that of the image, "
            f"{shape}."
        )
    return array


def _bad(mask: NDArray[Any]) -> NDArray[np.bool_]:
    """Return where a mask is nonzero; NaN counts as nonzero."""
    bad: NDArray[np.bool_] = mask != 0
    return bad


def _with_variance(
    variance: Any, mask: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Make a variance finite, and mask pixels with an invalid variance."""
    array = _companion(variance, "variance", mask.shape)
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.array(array, dtype=np.float32, order="C")
        bad = ~(np.isfinite(values) & (values >= 0))
    values[bad] = 0
    return values, mask | bad


_MEANT = {"gain": "gain", "saturation": "saturation level of these pixels"}
_LIMIT = 1e30  # of numbers that are multiplied with pixels in single precision


def check_positive(value: float | None, parameter: str, *, infinite: bool = False) -> float | None:
    """Return a gain or a saturation level as a number; raise `InputError` if it cannot be one."""
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not (1 / _LIMIT <= number <= _LIMIT or (infinite and number == np.inf)):
        raise InputError(
            f"The '{parameter}' parameter (--{parameter}) must be a positive number from "
            f"{1 / _LIMIT:g} to {_LIMIT:g}{', or inf for none' if infinite else ''}. Got {value!r} "
            "instead. Leave it out to take it from the header or the pixels."
        )
    return number


def _overridden(
    frame: Frame, mask: Any, variance: Any, gain: float | None, saturation: float | None
) -> Frame:
    """Return a frame with the values given by the user; masks are combined."""
    changes: dict[str, Any] = {}
    origin = dict(frame.origin)
    for key, value in (("gain", gain), ("saturation", saturation)):
        if value is not None:
            changes[key] = value
            origin[key] = "given"
            changes["origin"] = origin
            changes["guessed"] = changes.get("guessed", frame.guessed) - {key}
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
    """Raise unless some pixels are good and they differ."""
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
        (masked or not; also an `astropy.units.Quantity`), an `astropy.nddata.NDData` such as
        ``CCDData``, an astropy HDU or list of them, or a frame. A frame is changed only by the
        other parameters. The mask and variance HDUs of LSST and HSC exposures are recognised, and
        HDUs named ERR, VAR, WHT, WEIGHT or IVAR, or such files beside the image, as
        ``image.weight.fits``.
    hdu : int, str or (str, int), optional
        HDU of a file: its number, its name, or its name and version (also as ``"SCI,2"``). By
        default the first one with a 2-D image.
    mask : array or path, shape (ny, nx), optional
        Nonzero where a pixel is bad; added to the source's masks, NaN and what is beyond 1e29.
    variance : array or path, shape (ny, nx), optional
        Square of the pixels' unit, with the photon noise of the sources in it. Pixels where it is
        negative or not finite are masked.
    gain : float, optional
        Electrons per unit of the pixels, instead of the value from the header or the pixels.
    saturation : float, optional
        In the unit of the pixels, instead of the value from the header or the pixels; infinite for
        no limit.

    Returns
    -------
    Frame

    Warns
    -----
    AstropyUserWarning
        If the file holds more images and `hdu` is not given, if the header's gain or saturation
        level is nonsense, or if float32 cannot hold the pixels' noise.

    Raises
    ------
    FrameNotFoundError
        If the file does not exist.
    FrameError
        If the source has no usable 2-D image: not FITS, truncated, no such HDU, wrong number of
        dimensions, no good pixel, or all pixels equal.
    InputError
        If the mask or variance differs in shape from the image, or gain or saturation is not
        positive.

    See Also
    --------
    list_images : List the images in a file.
    mlpsf.frames.calibration : How gain and saturation are found.

    Examples
    --------
    >>> import numpy as np
    >>> from mlpsf.frames.io.reading import read_frame
    >>> image = np.random.default_rng(1).poisson(800.0, (128, 128)) / 2
    >>> frame = read_frame(image)
    >>> frame.shape, round(frame.gain)
    ((128, 128), 2)
    >>> frame.origin["gain"]
    'photon noise of the sky, taking the bias as 0'
    """
    gain = check_positive(gain, "gain")
    saturation = check_positive(saturation, "saturation", infinite=True)
    if isinstance(source, Frame):
        if hdu is not None:
            raise InputError(f"The 'hdu' parameter is for files. Got {hdu!r} with a Frame.")
        return _overridden(source, mask, variance, gain, saturation)

    if isinstance(source, (str, Path)):
        with open_fits(source) as hdus, quiet():  # outside, for it warns of damage
            path = Path(source)
            image = _image_of_file(hdus, hdu, path.name, path.name, path)
    else:
        with quiet():
            image = _image_of_object(source, hdu)
    if image.first_of > 1:
        warnings.warn(
            f"{image.name} is the first of {image.first_of} images in the file: hdu (--hdu) takes "
            "another, and mlpsf run --hdu all takes every one",
            AstropyUserWarning,
            stacklevel=2,
        )
    raw = squeeze(image.data, image.name)
    with np.errstate(over="ignore", invalid="ignore"):
        data = np.array(raw, dtype=np.float32, order="C")
    bad = ~(np.abs(data) < MISSING)  # NaN too
    data[bad] = 0
    for extra in (image.mask, mask):
        if extra is not None:
            bad |= _bad(_companion(extra, "mask", data.shape))
    _check_pixels(data, bad, image.name)
    _warn_of_lost_digits(raw, bad, image.name)
    noise = measure_sky_noise(data, bad)
    variance_plane, weights = None, False
    for values in (_noise_of(image, noise), image.variance, variance):
        if values is not None:
            variance_plane, bad = _with_variance(values, bad)
            weights = values is not variance and image.noise_plane is not None
            weights = weights and image.noise_plane[1] == "weight"  # type: ignore[index]
    _check_pixels(data, bad, image.name)

    read_noise, read_noise_origin = find_read_noise(image.headers)
    unit = pixel_unit(image.headers, image.unit)
    found_gain = Found(gain or 0.0, "given", guessed=False)
    if gain is None:
        found_gain = find_gain(
            data,
            bad,
            image.headers,
            noise,
            read_noise=read_noise,
            variance=None if weights else variance_plane,
            unit=image.unit,
        )
    if weights and variance_plane is not None and noise is not None and not found_gain.guessed:
        # Weights hold the noise of the sky alone.
        variance_plane += np.maximum(data - np.float32(noise.sky), 0) / found_gain.value
    found_saturation = Found(saturation or 0.0, "given", guessed=False)
    if saturation is None:
        found_saturation = find_saturation(
            data, bad, image.headers, noise, gain=found_gain.value, dtype=raw.dtype, unit=image.unit
        )
    found = {"gain": found_gain, "saturation": found_saturation}
    for key, value in found.items():
        if value.nonsense:
            warnings.warn(
                f"{image.name}: {value.nonsense} is no {_MEANT[key]}, and is not used. {key} "
                f"(--{key}) gives one; now it "
                f"is {known(value.value)} ({value.origin})",
                AstropyUserWarning,
                stacklevel=2,
            )
    guessed = {key for key, value in found.items() if value.guessed}
    return Frame(
        data=data,
        mask=bad,
        gain=found_gain.value,
        saturation=found_saturation.value,
        read_noise=read_noise,
        variance=variance_plane,
        saturated_plane=image.saturated_plane,
        wcs=image.wcs,
        header=join_headers(image.headers),
        name=image.name,
        sha256=hashlib.sha256(data.astype("<f4", copy=False).data).hexdigest(),
        origin={
            **{key: value.origin for key, value in found.items()},
            "read_noise": read_noise_origin,
            "unit": "header BUNIT" if unit.text else "unknown, taken as counts",
            **({} if image.noise_plane is None else {"variance": image.noise_plane[2]}),
        },
        guessed=frozenset(guessed if unit.text else guessed | {"unit"}),
        unit=unit.text,
    )


def _warn_of_lost_digits(raw: NDArray[Any], bad: NDArray[np.bool_], name: str) -> None:
    """Warn if the noise of the pixels is less than the steps of float32 at their level."""
    if raw.dtype.itemsize < 4 or (raw.dtype.kind == "f" and raw.dtype.itemsize == 4):
        return
    part = slice(None, None, max(len(raw) // 64, 1))
    rows = np.where(bad[part], np.nan, raw[part].astype(np.float64))
    level = np.nanmedian(np.abs(rows)) if np.isfinite(rows).any() else 0.0
    step = float(np.spacing(np.float32(level)))
    apart = np.abs(np.diff(rows, axis=1))
    if not (np.isfinite(apart).any() and step > 0):
        return
    noise = 1.0484 * float(np.nanmedian(apart))  # of a difference of two Gaussian values
    if 0 < noise < 4 * step:
        warnings.warn(
            f"{name}: the noise, {noise:.3g}, is hardly more than the steps of {step:.3g} in which "
            f"float32 holds pixels of {level:.3g}. Subtract a constant first, and give gain and "
            "saturation of what is left",
            AstropyUserWarning,
            stacklevel=3,
        )


def _noise_of(image: Image, noise: SkyNoise | None) -> NDArray[np.float32] | None:
    """Return the variance by the plane of the noise in the image's file, or beside it."""
    if image.noise_plane is None:
        return None
    plane, kind, name = image.noise_plane
    sky = None if noise is None else noise.variance
    return as_variance(squeeze(plane, name), kind, sky)
