"""Inputs of a run: paths, globs, lists and mosaics are expanded to jobs, one per image."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mlpsf.errors import FrameError, InputError
from mlpsf.frames.io.packing import ENDINGS
from mlpsf.selection.choice import N_MIN
from mlpsf.version import __version__

__all__ = [
    "Job",
    "Settings",
    "find_frames",
    "night_files",
    "plan_jobs",
    "stamp_of",
    "state_of",
]

_LONGEST_NAME = 200  # bytes, of 255: products add their kind


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings for all frames of a night: the parameters of `mlpsf.select_stars`.

    Parameters
    ----------
    selector : {"cnn", "residual"}
        Ignored when a model is given.
    model : str, optional
        A ``.keras`` file written by `mlpsf.PSFStarSelector.save`.
    catalogue : str, optional
        File of the sources to judge on all frames; see `mlpsf.frames.io.catalogue.read_catalogue`.
    threshold, n_max, n_min, reserve, relax, snr_min, second_look
        As in `mlpsf.select_stars`.
    gain : float, optional
        Electrons per ADU.
    saturation : float, optional
        Saturation level in ADU.
    mask : str, optional
        File of an image with the shape of all frames, not 0 where a pixel is bad.
    report : bool
        Whether to write also a page of each frame; see `mlpsf.report`.

    Examples
    --------
    >>> Settings(n_max=40).threshold is None
    True
    """

    selector: str = "cnn"
    model: str | None = None
    catalogue: str | None = None
    threshold: float | None = None
    n_max: int = 25
    n_min: int = N_MIN
    reserve: float = 0.0
    relax: bool = False
    snr_min: float = 50.0
    second_look: bool = True
    gain: float | None = None
    saturation: float | None = None
    mask: str | None = None
    report: bool = False

    def check(self) -> None:
        """Raise errors that would affect every frame; the model is loaded as a test.

        Raises
        ------
        InputError, FrameError, CatalogueError, ModelFileError
            A parameter is out of range, or a file does not exist or is of another kind.
        """
        from mlpsf.frames.io.reading import check_positive
        from mlpsf.selection.choice import Rules
        from mlpsf.selection.eligibility import check_snr_min

        check_positive(self.gain, "gain")
        check_positive(self.saturation, "saturation", infinite=True)
        check_snr_min(self.snr_min)
        Rules(
            threshold=self.threshold or 0.0,
            n_max=self.n_max,
            n_min=self.n_min,
            reserve=self.reserve,
        )
        if self.selector not in ("cnn", "residual"):
            raise InputError(f"A selector is 'cnn' or 'residual'. Got {self.selector!r}.")
        for path in (self.catalogue, self.mask):
            if path is not None and not Path(path).is_file():
                raise InputError(f"There is no file {path!r}.")
        if self.model is not None:
            from mlpsf.selectors.loading import load_judge

            load_judge(self.model)

    def fingerprint(self) -> str:
        """Return a hash of all that affects results: settings, their files, version of mlpsf."""
        from mlpsf.selectors.storage import file_hash, pretrained_path

        parts = {
            **asdict(self),
            "version": __version__,
            "model": file_hash(self.model or pretrained_path()),
            "catalogue": self.catalogue and file_hash(self.catalogue),
            "mask": self.mask and file_hash(self.mask),
        }
        return _hash(parts)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One image to process.

    Attributes
    ----------
    path : str
        Absolute path of the file.
    hdu : int, str or None
        None for the first image of the file; a name if the file has no HDU of that name.
    name : str
        Stem of the names of the output files.
    out : str
        Absolute path of the output folder.
    key : str
        Hash that changes when the file or the settings change.
    settings : Settings
    version : str
        Version of mlpsf that planned the job.
    state : tuple of int, optional
        Size and time of the file as the job was planned; see `stamp_of`.
    """

    path: str
    hdu: int | str | None
    name: str
    out: str
    key: str
    settings: Settings
    version: str = __version__
    state: tuple[int, ...] | None = None

    @property
    def stars(self) -> Path:
        """Path of the star table."""
        return Path(self.out, f"{self.name}_stars.ecsv")

    @property
    def psf(self) -> Path:
        """Path of the PSF."""
        return Path(self.out, f"{self.name}_psf.fits")

    @property
    def report(self) -> Path:
        """Path of the report, if one is asked for."""
        return Path(self.out, f"{self.name}_report.html")


def night_files(folder: Path) -> tuple[Path, ...]:
    """Return the paths of a night's summary: table, the same for pyarrow, and page."""
    return tuple(folder / f"night.{ending}" for ending in ("ecsv", "parquet", "html"))


def find_frames(frames: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Expand globs and list files to paths.

    Parameters
    ----------
    frames : sequence of path-like
        Paths; globs, with ``**`` for folders at any depth; or ``@LIST``, text files with one of
        these per line, where ``#`` starts a comment. Relative paths start at the current folder.

    Returns
    -------
    list of Path
        Absolute paths in the given order, each once; matches of a glob are sorted. A path without
        wildcards is included even if the file does not exist.

    Raises
    ------
    InputError
        A glob matches nothing, a list cannot be read, a path is a folder, or there are no frames.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("b.fits", "a.fits"):
    ...     (folder / name).touch()
    >>> [path.name for path in find_frames([folder / "*.fits"])]
    ['a.fits', 'b.fits']
    """
    found: dict[Path, None] = {}
    for entry in (os.fspath(frame) for frame in frames):
        for pattern in _lines(entry[1:]) if entry.startswith("@") else [entry]:
            plain = Path(pattern).expanduser()
            if plain.is_dir():
                raise InputError(f"{pattern} is a folder. Give its frames: {pattern}/*.fits.")
            # The name of a file may contain brackets.
            if plain.exists() or not glob.has_magic(pattern):
                found[Path(os.path.abspath(plain))] = None  # noqa: PTH100 - keeps the names of links
                continue
            matches = sorted(glob.glob(str(plain), recursive=True))  # noqa: PTH207 - the pattern may be absolute
            if not matches:
                raise InputError(f"No file matches {pattern!r}.")
            found |= dict.fromkeys(Path(os.path.abspath(m)) for m in matches)  # noqa: PTH100
    if not found:
        raise InputError("There is no frame to work on: the list is empty.")
    return list(found)


def _lines(name: str) -> list[str]:
    try:
        text = Path(name).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The list {name!r} cannot be read: {error}.") from error
    lines = (line.split("#", 1)[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


def plan_jobs(
    paths: Sequence[Path],
    out: str | os.PathLike[str],
    settings: Settings,
    hdu: Sequence[str | int] | None = None,
) -> list[Job]:
    """Create a job for every image of the files.

    Parameters
    ----------
    paths : sequence of Path
        Absolute paths, as returned by `find_frames`.
    out : path-like
        Output folder.
    settings : Settings
    hdu : sequence of str or int, optional
        Images of each file: numbers; names such as ``"SCI"`` or ``"SCI,2"``, with the wildcards
        ``*`` and ``?``; or ``"all"`` for all images except those that describe another one
        (`mlpsf.frames.io.hdus.AUXILIARY`). Default: the first image.

    Returns
    -------
    list of Job
        Jobs in the order of the paths. A file that cannot be read, or does not have such an
        image, also gives a job, which will report the reason.

    Raises
    ------
    InputError
        A frame is in the output folder, where the next run would take a PSF for a frame; or an
        output would replace the model, catalogue or mask.
    """
    folder = Path(os.path.abspath(out))  # noqa: PTH100
    inside = next((p for p in paths if p.parent == folder), None)
    if inside is not None:
        raise InputError(
            f"The frame {inside.name} lies in the folder of the output, {folder}. Give --out a "
            "folder of its own: PSFs are FITS files too, and would be taken for frames."
        )
    images = [(path, number) for path in paths for number in _images(path, hdu)]
    stems = [
        _stem(path) + ("" if number is None else "_" + re.sub(r"\W+", "_", str(number)))
        for path, number in images
    ]
    shared = Counter(stems)
    fingerprint = settings.fingerprint()
    # Workers of a cluster start in other folders.
    files = {name: getattr(settings, name) for name in ("model", "catalogue", "mask")}
    settings = replace(
        settings,
        **{name: os.path.abspath(file) for name, file in files.items() if file},  # noqa: PTH100
    )
    jobs = []
    for (path, number), stem in zip(images, stems, strict=True):
        # Frames of the same name in different folders are distinguished by a hash of the path.
        unlike = _hash([str(path), number])[:8]
        name = f"{stem}-{unlike}" if shared[stem] > 1 else stem
        if len(os.fsencode(name)) > _LONGEST_NAME:
            # No file system holds the names of its files.
            name = f"{os.fsencode(stem)[:_LONGEST_NAME].decode(errors='ignore')}-{unlike}"
        stamp = stamp_of(path)
        key = _hash([str(path), number, stamp, fingerprint])
        job = Job(
            path=str(path),
            hdu=number,
            name=name,
            out=str(folder),
            key=key,
            settings=settings,
            state=stamp,
        )
        jobs.append(job)
    given = {Path(file).resolve() for file in files.values() if file}
    products = (p for job in jobs for p in (job.stars, job.psf, job.report))
    lost = next((p for p in (*products, *night_files(folder)) if p.resolve() in given), None)
    if lost is not None:
        raise InputError(
            f"This run would replace {lost}, which it needs. Give --out another folder."
        )
    return jobs


def _stem(path: Path) -> str:
    name = path.name
    while name.lower().endswith(ENDINGS) and len(name.rpartition(".")[0]) > 0:
        name = name.rpartition(".")[0]
    return name


def _images(path: Path, wanted: Sequence[str | int] | None) -> list[int | str | None]:
    """Return the numbers of the requested HDUs of a file; None for its first image.

    A missing HDU is returned as it was given. Its job reports the error and the run goes on.
    """
    if not wanted:
        return [None]
    from mlpsf.frames.io.fitsio import images_in, open_fits, quiet
    from mlpsf.frames.io.hdus import sky_images

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damage, which each job of the file tells
        try:
            with open_fits(path) as hdus, quiet():
                there, of_the_sky = images_in(hdus), sky_images(hdus)
        except FrameError:
            return [None]
    labels = {number: label.upper() for number, label, _ in there}
    chosen: list[int | str | None] = []
    for each in map(str, wanted):
        text = each.strip().upper()
        if text.isdigit():
            taken: list[Any] = [int(text)]
        elif text == "ALL":
            taken = [*of_the_sky]
        else:
            taken = [
                n
                for n, label in labels.items()
                if fnmatchcase(label, text) or fnmatchcase(label.split(",")[0], text)
            ]
            # As elsewhere, a plain name means the first HDU of that name.
            taken = taken if glob.has_magic(text) else taken[:1]
        if not taken:
            taken = [None if text == "ALL" else each]
        chosen += [n for n in taken if n not in chosen]
    return chosen


def stamp_of(path: Path) -> tuple[int, ...] | None:
    """Return size and time of a file; to read and hash it would take as long as the job."""
    state = state_of(path)
    return state and state[:2]


def state_of(path: Path) -> tuple[int, ...] | None:
    """Return size, time, time of the last change of any kind and number of a file.

    The first two are those of its content, on every machine. The others tell, on one machine, a
    file that was away for a time, or was another, and is the same again.
    """
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
