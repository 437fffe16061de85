"""Write PSFs and star lists for other tools, by the name of the format."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astropy.table import Table
from astropy.utils.exceptions import AstropyUserWarning

from mlpsf.errors import InputError
from mlpsf.export.daophot import daophot_lists, daophot_psf
from mlpsf.export.images import galsim_psf, image_psf, trippy_psf
from mlpsf.export.ldac import ldac_catalogue
from mlpsf.export.lsst import lsst_catalogue
from mlpsf.export.photutils_models import photutils_psf
from mlpsf.export.piff_files import piff_catalogue, piff_psf
from mlpsf.export.places import Place
from mlpsf.export.psfex import psfex_psf
from mlpsf.export.tables import FORMATS, psf_rows, region_file, table_with_ucds
from mlpsf.files import check_folder, check_replaceable, whole_file
from mlpsf.frames.frame import Frame
from mlpsf.frames.io.reading import HDUSelector, read_frame

__all__ = ["PSF_FORMATS", "STAR_FORMATS", "export_psf", "export_stars", "star_companion"]


def export_psf(
    psf: Any,
    path: str | os.PathLike[str],
    to: str,
    *,
    at: Place | None = None,
    frame_shape: tuple[int, int] | None = None,
    grid: int | None = None,
    oversampling: int = 1,
    overwrite: bool = False,
    how: str = "overwrite=True",
) -> Path:
    """Write a PSF in the format of another tool, whole or not at all.

    Parameters
    ----------
    psf : PSFModel
        A PSF that varies keeps its variation in the formats that can hold one.
    path : path-like
    to : {"psfex", "photutils", "galsim", "piff", "daophot", "image", "trippy"}
        Format. ``psfex``, ``piff``, ``daophot``: a polynomial over the frame. ``photutils``: a
        grid of places (STDPSF). ``galsim``, ``image``, ``trippy``: one place.
    at : (float, float), optional
        Place of the formats of one place, 0-based pixels; by default the mean.
    frame_shape : (int, int), optional
        Rows and columns of the frame, for the formats of the whole frame. By default as far as
        the PSF knows.
    grid : int, optional
        Places along each axis, for ``photutils``.
    oversampling : int
        Pixels per pixel of the frame, for ``image``.
    overwrite : bool
        Whether to replace an existing file.
    how : str
        Option that allows replacing, for the error message.

    Returns
    -------
    Path

    Raises
    ------
    InputError
        If the format is unknown or an option is not one of the format's.
    OutputError
        If the file cannot be written, or exists.
    MissingPackageError
        If the format needs a package that is not installed.

    Warns
    -----
    AstropyUserWarning
        If the mean of a PSF that varies is written, as no place is given.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from mlpsf.psf import PSFModel
    >>> psf = PSFModel(np.zeros((210, 210)), 3.0, 3.0)
    >>> export_psf(psf, Path(tempfile.mkdtemp()) / "frame.psf", "psfex").name
    'frame.psf'
    """
    write = _door(to, PSF_FORMATS, "PSFs")
    given = {"at": at, "frame_shape": frame_shape, "grid": grid, "oversampling": oversampling}
    unused = {"at": None, "frame_shape": None, "grid": None, "oversampling": 1}
    options = {name: value for name, value in given.items() if name in write.options}
    for name, value in given.items():
        # The shape of the frame is at hand or not; who gives it does not ask for anything.
        if name not in write.options and name != "frame_shape" and value != unused[name]:
            option = "--place" if name == "at" else f"--{name}"
            raise InputError(f"The format {to!r} does not take '{name}' ({option}). Got {value!r}.")
    target = check_folder(path)
    check_replaceable(target, None, overwrite or None, how=how)
    content = write.make(psf, **options)
    if psf.varies and "at" in write.options and at is None:
        _warn_of_mean(psf, to)
    with whole_file(target) as temporary:
        temporary.write_bytes(content)
    return target


def _warn_of_mean(psf: Any, to: str) -> None:
    known = "fwhm_least" in psf.meta and "fwhm_most" in psf.meta
    extent = "{fwhm_least:.2f} to {fwhm_most:.2f} pixels, ".format(**psf.meta) if known else ""
    warnings.warn(
        f"the format {to!r} holds the PSF of one place, and this one varies over the frame: "
        f"FWHM {extent}{psf.fwhm:.2f} in the mean, which is written. For the PSF of a place give "
        "it (at, --place X Y)",
        AstropyUserWarning,
        stacklevel=3,
    )


def export_stars(
    stars: Table,
    path: str | os.PathLike[str],
    to: str,
    *,
    frame: Any = None,
    hdu: HDUSelector | None = None,
    overwrite: bool = False,
    how: str = "overwrite=True",
) -> list[Path]:
    """Write a star table in the format of another tool, whole or not at all.

    Parameters
    ----------
    stars : Table
        Star table of mlpsf. ``lsst``, ``ds9`` and ``table`` take all rows; the others those that
        make the PSF. ``photutils`` is the catalogue of ``extract_stars``: x, y, id.
    path : path-like
    to : {"ldac", "piff", "photutils", "daophot", "lsst", "ds9", "table"}
        Format. ``piff`` (a configuration) and ``daophot`` (a ``.pst`` list) write a second file
        beside the first: the catalogue (``.fits``) and the coordinates (``.coo``).
    frame : path, Frame or what `read_frame` takes, optional
        Frame of the stars; ``ldac`` and ``piff`` need it, ``piff`` as a path; ``daophot``
        takes each star's sky from it.
    hdu : int, str or (str, int), optional
        HDU of the frame.
    overwrite : bool
        Whether to replace existing files.
    how : str
        Option that allows replacing, for the error message.

    Returns
    -------
    list of Path
        The files that were written.

    Raises
    ------
    InputError
        If the format is unknown, needs a frame, or the table has no chosen star.
    OutputError
        If a file cannot be written, or exists.

    Examples
    --------
    >>> import tempfile
    >>> stars = Table({"id": [7], "x": [70.2], "y": [61.0], "flux": [1e4]})
    >>> [p.name for p in export_stars(stars, Path(tempfile.mkdtemp()) / "a.pst", "daophot")]
    ['a.pst', 'a.coo']
    """
    write = _door(to, STAR_FORMATS, "star lists")
    if write.needs_frame and frame is None:
        raise InputError(
            f"The format {to!r} takes the stars' pixels or sky from 'frame' (--frame): give it."
        )
    target = check_folder(path)
    paths = [target, *star_companion(target, to)]
    if len(set(paths)) < len(paths):
        raise InputError(
            f"The format {to!r} writes a second file beside the first, and its name would be "
            f"{target.name!r} too. Give a name that ends otherwise than in {target.suffix}."
        )
    for each in paths:
        check_replaceable(each, None, overwrite or None, how=how)
    image = None
    if frame is not None and "frame" in write.options:
        image = frame if isinstance(frame, Frame) else read_frame(frame, hdu=hdu)
    contents = write.make(stars, image, _Names(target, frame, hdu))
    with ExitStack() as stack:
        for each, content in zip(paths, contents, strict=True):
            stack.enter_context(whole_file(each)).write_bytes(content)
    return paths


def star_companion(path: Path, to: str) -> list[Path]:
    """Return the files that `export_stars` writes beside the named one."""
    ending = {"piff": ".fits", "daophot": ".coo"}.get(to)
    return [] if ending is None else [path.with_suffix(ending)]


@dataclass(frozen=True)
class _Names:
    """What a configuration names: the output, and the frame as it was given."""

    target: Path
    frame: Any
    hdu: HDUSelector | None


@dataclass(frozen=True)
class _Door:
    make: Callable[..., Any]
    options: tuple[str, ...] = ()
    needs_frame: bool = False


def _door(to: str, formats: dict[str, _Door], what: str) -> _Door:
    if to not in formats:
        raise InputError(f"The formats of {what} are {', '.join(formats)}. Got {to!r}.")
    return formats[to]


def _ldac(stars: Table, frame: Frame, names: _Names) -> list[bytes]:  # noqa: ARG001
    return [ldac_catalogue(frame, stars)]


def _piff(stars: Table, frame: Frame, names: _Names) -> list[bytes]:
    if not isinstance(names.frame, str | os.PathLike):
        raise InputError("The format 'piff' names the frame's file: give 'frame' as a path.")
    # The number of the HDU is in the frame's name, if it is not the first.
    number = frame.name.rsplit("[", 1)[1].rstrip("]") if frame.name.endswith("]") else "0"
    return list(
        piff_catalogue(
            frame,
            stars,
            image=str(Path(names.frame).resolve()),
            hdu=int(number),
            catalogue=str(names.target.with_suffix(".fits").resolve()),
            output=names.target.with_suffix(".piff").name,
        )
    )


def _photutils(stars: Table, frame: Frame | None, names: _Names) -> list[bytes]:  # noqa: ARG001
    chosen = psf_rows(stars)
    table = Table({name: chosen[name] for name in ("x", "y", "id")}, meta=dict(stars.meta))
    return [FORMATS[".fits" if names.target.suffix.lower() == ".fits" else ".ecsv"](table)]


def _daophot(stars: Table, frame: Frame | None, names: _Names) -> list[bytes]:  # noqa: ARG001
    return list(daophot_lists(stars, frame))


def _without_frame(make: Callable[[Table], bytes]) -> Callable[..., list[bytes]]:
    def made(stars: Table, frame: Frame | None, names: _Names) -> list[bytes]:  # noqa: ARG001
        return [make(stars)]

    return made


PSF_FORMATS: dict[str, _Door] = {
    "psfex": _Door(psfex_psf, ("frame_shape",)),
    "photutils": _Door(photutils_psf, ("frame_shape", "grid")),
    "galsim": _Door(galsim_psf, ("at",)),
    "piff": _Door(piff_psf, ("frame_shape",)),
    "daophot": _Door(daophot_psf, ("frame_shape",)),
    "image": _Door(image_psf, ("at", "oversampling")),
    "trippy": _Door(trippy_psf, ("at",)),
}
"""Formats of a PSF: the function that makes the file's content, and the options that it takes."""

STAR_FORMATS: dict[str, _Door] = {
    "ldac": _Door(_ldac, ("frame",), needs_frame=True),
    "piff": _Door(_piff, ("frame",), needs_frame=True),
    "photutils": _Door(_photutils),
    "daophot": _Door(_daophot, ("frame",)),
    "lsst": _Door(_without_frame(lsst_catalogue)),
    "ds9": _Door(_without_frame(region_file)),
    "table": _Door(_without_frame(table_with_ucds)),
}
"""Formats of a star list: the function that makes the files' contents, and what it needs."""
