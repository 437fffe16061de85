"""Read and write PSF files in TRIPPy's format, with the provenance of the PSF."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from mlpsf.errors import InputError, ModelFileError, OutputError, PSFError
from mlpsf.files import check_replaceable, whole_file
from mlpsf.psf.trippy.tables import Shape

__all__ = ["read_psf", "write_psf"]

FloatArray = NDArray[np.float64]
Model = TypeVar("Model")

_MOTION = ("RATE", "ANGLE", "DT", "PIXSCALE")

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
    "selector": ("SELECTOR", "what chose the stars"),
    "model_name": ("MODEL", "network that chose them"),
    "model_sha256": ("MODELSHA", "SHA-256 of its file"),
    "threshold": ("THRESH", "least probability of a chosen star"),
    "snr_min": ("SNRMIN", "least S/N of a chosen star"),
    "n_max": ("NMAX", "most stars to be chosen"),
    "relaxed": ("RELAXED", "whether the threshold was given up"),
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
    shape: Shape,
    flux_per_amplitude: float,
    overwrite: bool | None,
) -> None:
    """Write a PSF file; :meth:`mlpsf.psf.PSFModel.save` describes its content.

    Parameters
    ----------
    path : path-like
        Used without change.
    lookup_table, alpha, beta, rep_fact, stars, meta, motion
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
                value = value.encode("ascii", "backslashreplace").decode()
            # A comment that does not fit next to its value is truncated, with a warning.
            header[keyword] = (value, comment if len(str(value)) < 25 else "")
    empty = [fits.ImageHDU(np.array([[-1], [-1]])) for _ in range(2)]
    # Write to a stream, because astropy compresses files with names that end in .gz.
    with whole_file(path) as temporary, temporary.open("wb") as stream:
        fits.HDUList([primary, *empty]).writeto(stream)


def read_psf(path: str | os.PathLike[str], make: Callable[..., Model]) -> Model:
    """Read a file of :func:`write_psf`, or a TRIPPy file of either version.

    Parameters
    ----------
    path : path-like
    make : callable
        Takes `lookup_table`, `alpha`, `beta`, `rep_fact`, `stars`, `meta` and `motion`.

    Returns
    -------
    object
        Result of `make`.

    Raises
    ------
    ModelFileError
        If the file does not exist, or `make` does not accept its content.
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
        motion = tuple(header.get(name) for name in _MOTION)
        return make(
            lookup_table=np.asarray(table, dtype=np.float64),
            alpha=alpha,
            beta=beta,
            rep_fact=rep,
            stars=np.column_stack([stars - 1.0, flux]),
            meta={name: header[key] for name, (key, _) in _CARDS.items() if key in header},
            motion=motion if all(isinstance(v, int | float) for v in motion) else None,
        )
    except (KeyError, TypeError, ValueError, InputError, PSFError) as error:
        raise ModelFileError(f"{path} is no TRIPPy PSF: {error}") from error
