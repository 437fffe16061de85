"""Read and write PSF files in TRIPPy's format, with the provenance of the PSF.

The first three HDUs are TRIPPy's: the lookup table of the mean, and two empty tables. A PSF that
varies has two more, which TRIPPy does not look at: CHANGES, a cube of changes of the lookup table
in whole steps, compressed, and WEIGHTS, how much of each there is (see `mlpsf.psf.terms`).
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning
from numpy.typing import NDArray

from mlpsf.errors import InputError, ModelFileError, OutputError, PSFError, printable
from mlpsf.files import check_replaceable, input_file, whole_file
from mlpsf.frames.io.fits_sizes import check_fits
from mlpsf.psf.terms import PSFTerms
from mlpsf.psf.trippy.tables import Shape

__all__ = ["read_psf", "write_psf"]

FloatArray = NDArray[np.float64]
Model = TypeVar("Model")

_MOTION = ("RATE", "ANGLE", "DT", "PIXSCALE")

_STEPS = 1e6  # of the largest change: an error of less than 1e-7 of the peak of the PSF
_CHECK = "PSFSHA"

#: Entries of `meta` that are written to the file, with their keywords and comments.
_CARDS = {
    "mlpsf_version": ("MLPSFVER", "version of mlpsf that made this PSF"),
    "frame": ("FRAME", "name of the frame"),
    "frame_sha256": ("FRAMESHA", "SHA-256 of the frame's pixels"),
    "background": ("BACKGND", "how the background was taken off"),
    "method": ("METHOD", "how the lookup table was made"),
    "refinements": ("NREFINE", "most fits of the PSF after the first"),
    "at_x": ("ATX", "place that it is for, 0-based pixels"),
    "at_y": ("ATY", "place that it is for, 0-based pixels"),
    "order": ("ATORDER", "order of the polynomial over the frame"),
    "order_reason": ("ORDERWHY", "why this order"),
    "fwhm_least": ("VARFWLO", "least FWHM over the frame, pixels"),
    "fwhm_most": ("VARFWHI", "largest FWHM over the frame, pixels"),
    "fwhm_variation": ("VARFWHM", "rms of the FWHM over the frame, relative"),
    "shape_variation": ("VARELL", "rms of the ellipticity over the frame"),
    "variation_angle": ("VARANGLE", "where the FWHM grows, degrees from +x to +y"),
    "selector": ("SELECTOR", "what chose the stars"),
    "model_name": ("MODEL", "network that chose them"),
    "model_sha256": ("MODELSHA", "SHA-256 of its file"),
    "threshold": ("THRESH", "least probability of a chosen star"),
    "snr_min": ("SNRMIN", "least S/N of a chosen star"),
    "n_max": ("NMAX", "most stars to be chosen"),
    "relaxed": ("RELAXED", "whether the threshold was given up"),
    "n_subtracted": ("NSUBTR", "stars that were subtracted around the others"),
    "trippy_version": ("TRIPPYV", "version of TRIPPy"),
    "n_left_out": ("NLEFTOUT", "stars given but not used"),
}


def write_psf(
    path: str | os.PathLike[str],
    *,
    lookup_table: FloatArray,
    alpha: float,
    beta: float,
    rep_fact: int,
    stars: FloatArray,
    meta: Mapping[str, Any],
    motion: tuple[float, float, float, float] | None,
    terms: PSFTerms | None,
    shape: Shape,
    flux_per_amplitude: float,
    overwrite: bool | None,
) -> None:
    """Write a PSF file; :meth:`mlpsf.psf.PSFModel.save` describes its content.

    Parameters
    ----------
    path : path-like
        Used without change.
    lookup_table, alpha, beta, rep_fact, stars, meta, motion, terms
        Parameters of :class:`mlpsf.psf.PSFModel`.
    shape : Shape
        Size and shape of a star's image.
    flux_per_amplitude : float
        Flux for TRIPPy's amplitude 1.
    overwrite : bool or None
        Whether to replace an existing file; if None, only a PSF of mlpsf.

    Raises
    ------
    OutputError
        If the file cannot be written, or exists and must not be replaced.
    """
    path = Path(path)
    check_replaceable(path, "psf", overwrite)
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {path}; does its folder exist?")
    primary = fits.PrimaryHDU(np.array(lookup_table))
    header = primary.header
    header["REPFACT"] = rep_fact
    for i, (x, y, flux) in enumerate(stars[:1000]):
        header[f"XSTAR{i}"] = (x + 1.0, "PSF Star x value.")
        header[f"YSTAR{i}"] = (y + 1.0, "PSF Star y value.")
        if np.isfinite(flux):  # TRIPPy's files have no fluxes
            header[f"FSTAR{i}"] = (flux, "PSF star flux")
    header["ALPHA"], header["BETA"] = alpha, beta
    amplitude = stars[-1, 2] / flux_per_amplitude if len(stars) else 1.0
    header["A"] = amplitude if np.isfinite(amplitude) else 1.0
    # For TRIPPy only an empty string means a PSF without motion.
    header.update(zip(_MOTION, motion or ("",) * 4, strict=True))
    header["NSTARS"] = (len(stars), "stars this PSF was made from")
    header["FWHM"] = (shape.fwhm, "of a star's image, pixels")
    header["ELLIP"] = (shape.ellipticity, "1 - b/a")
    header["POSANG"] = (shape.position_angle, "of the long axis, degrees from +x to +y")
    header["FLUXAMP"] = (flux_per_amplitude, "flux of TRIPPy's amplitude 1")
    for name, (keyword, comment) in _CARDS.items():
        if meta.get(name) is not None:
            value = meta[name]
            if isinstance(value, str):  # headers can hold only printable ASCII
                value = printable(value).replace("\n", "\\n")
                value = value.encode("ascii", "backslashreplace").decode()
            # A comment that does not fit next to its value is truncated, with a warning.
            header[keyword] = (value, comment if len(str(value)) < 25 else "")
    hdus = [primary, *(fits.ImageHDU(np.array([[-1], [-1]])) for _ in range(2))]
    numbers = [np.array(lookup_table), np.array([alpha, beta, rep_fact])]
    if terms is not None:
        hdus += _terms_to_hdus(terms)
        numbers += [hdus[-2].data, hdus[-1].data, *_cards_of(terms)]
    header[_CHECK] = _digest(*numbers)
    # Write to a stream, because astropy compresses files with names that end in .gz.
    with whole_file(path) as temporary, temporary.open("wb") as stream:
        for hdu in hdus:
            if not isinstance(hdu, fits.CompImageHDU):  # its numbers are in the digest
                hdu.add_checksum(when="of this HDU")  # not of this second: files stay the same
        fits.HDUList(hdus).writeto(stream)


def _digest(*numbers: NDArray[Any]) -> str:
    """Return the SHA-256 of arrays, whatever their byte order in a file."""
    sha = hashlib.sha256()
    for array in numbers:
        kind = "<i4" if array.dtype.kind == "i" else "<f8"
        sha.update(np.ascontiguousarray(array, dtype=kind).tobytes())
    return sha.hexdigest()


def _terms_to_hdus(terms: PSFTerms) -> list[Any]:
    tables = np.asarray(terms.tables, dtype=np.float64)
    step = float(np.abs(tables).max()) / _STEPS or 1.0
    changes = fits.CompImageHDU(
        np.rint(tables / step).astype(np.int32), name="CHANGES", compression_type="RICE_1"
    )
    ny, nx = terms.frame_shape
    changes.header["STEP"] = (step, "change of the lookup table for 1")
    changes.header["FRAMENX"] = (nx, "columns of the frame")
    changes.header["FRAMENY"] = (ny, "rows of the frame")
    if any(terms.first):
        changes.header["FRAMEX0"] = (terms.first[0], "x of its first pixel, 0-based")
        changes.header["FRAMEY0"] = (terms.first[1], "y of its first pixel, 0-based")
    for k, (low, high) in enumerate([] if terms.limits is None else terms.limits.T):
        changes.header[f"LOW{k}"] = (low, "least of this change, where the PSF is held")
        changes.header[f"HIGH{k}"] = (high, "most of it")
    return [changes, fits.ImageHDU(np.array(terms.weights), name="WEIGHTS")]


def _terms_from_hdus(hdus: fits.HDUList) -> tuple[PSFTerms, list[NDArray[Any]]]:
    """Return the terms of a file, and the numbers that its checksum is of."""
    header, steps = hdus["CHANGES"].header, np.asarray(hdus["CHANGES"].data)
    weights = np.asarray(hdus["WEIGHTS"].data, dtype=np.float64)
    shape = (int(header["FRAMENY"]), int(header["FRAMENX"]))
    first = (int(header.get("FRAMEX0", 0)), int(header.get("FRAMEY0", 0)))
    limits = None
    if "LOW0" in header:
        limits = np.array([[header[f"{v}{k}"] for k in range(len(steps))] for v in ("LOW", "HIGH")])
    terms = PSFTerms(steps * np.float64(header["STEP"]), weights, shape, first, limits)
    return terms, [steps, weights, *_cards_of(terms)]


def _cards_of(terms: PSFTerms) -> list[NDArray[Any]]:
    """Return what the cards hold, for the checksum; files of before have no limits."""
    return [_frame(terms), *([] if terms.limits is None else [terms.limits])]


def _frame(terms: PSFTerms) -> NDArray[Any]:
    """Return where the frame is, for the checksum; files of before have frames from 0 only."""
    return np.array([*terms.frame_shape, *(terms.first if any(terms.first) else ())])


def read_psf(
    path: str | os.PathLike[str], make: Callable[..., Model], check: Callable[[Model], Any]
) -> Model:
    """Read a file of :func:`write_psf`, or a TRIPPy file of either version.

    Parameters
    ----------
    path : path-like
    make : callable
        Takes `lookup_table`, `alpha`, `beta`, `rep_fact`, `stars`, `meta`, `motion` and `terms`.
    check : callable
        Raises an error of mlpsf if what `make` returned is no PSF.

    Returns
    -------
    object
        Result of `make`.

    Raises
    ------
    ModelFileError
        If the file does not exist, is damaged, or `make` does not accept its content.
    """
    path = input_file(path, ModelFileError, "a PSF file")
    content = check_fits(path, ModelFileError)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fits.verify.VerifyWarning)
            # A flipped bit would be another PSF. TRIPPy's own files have no checksums.
            warnings.filterwarnings("error", "(Checksum|Datasum) verification failed")
            stream = content.open("rb") if isinstance(content, Path) else content
            with stream as file, fits.open(file, checksum=True) as hdus:
                varies = len(hdus) == 5 and {"CHANGES", "WEIGHTS"} <= {h.name for h in hdus}
                if len(hdus) not in (3, 6) and not varies:
                    raise ModelFileError(
                        f"{path} has {len(hdus)} HDUs; a TRIPPy PSF has 3 (V2) or 6 (V1), and 5 if "
                        "it varies"
                    )
                header = hdus[0].header
                table = hdus[1 if len(hdus) == 6 else 0].data
                terms, numbers = _terms_from_hdus(hdus) if varies else (None, [])
    except ModelFileError:
        raise
    except AstropyUserWarning as error:  # that of a checksum, made an error above
        raise ModelFileError(
            f"{path} is not what was written ({str(error).strip()}): it is damaged, "
            "or a header was changed and its CHECKSUM left. For a change that was "
            "meant, `fitscheck --write` makes it anew."
        ) from error
    except Exception as error:  # a damaged file can make astropy raise anything
        raise ModelFileError(f"cannot read a PSF from {path}: {error}") from error
    try:
        rep, alpha, beta = (header[name] for name in ("REPFACT", "ALPHA", "BETA"))
        table = np.asarray(table, dtype=np.float64)
        numbers = [table, np.array([alpha, beta, rep], dtype=np.float64), *numbers]
        if header.get(_CHECK, "") not in ("", _digest(*numbers)):
            raise ModelFileError(f"{path} is damaged: its numbers are not those that were written")
        n = len(header["XSTAR*"])
        stars = np.array(
            [[header[f"{v}STAR{i}"] for v in "XY"] for i in range(n)], dtype=np.float64
        ).reshape(-1, 2)
        flux = np.array([header.get(f"FSTAR{i}", np.nan) for i in range(n)], dtype=np.float64)
        motion = tuple(header.get(name) for name in _MOTION)
        psf = make(
            lookup_table=table,
            alpha=alpha,
            beta=beta,
            rep_fact=rep,
            stars=np.column_stack([stars - 1.0, flux]),
            meta={name: header[key] for name, (key, _) in _CARDS.items() if key in header},
            motion=motion if all(isinstance(v, int | float) for v in motion) else None,
            terms=terms,
        )
        check(psf)
    except (
        KeyError, TypeError, ValueError, ArithmeticError, fits.VerifyError, InputError, PSFError,
    ) as error:  # fmt: skip
        raise ModelFileError(f"{path} is no TRIPPy PSF: {error}") from error
    return psf
