"""Processing of one frame: its star table, its PSF and its row of the summary."""

from __future__ import annotations

import errno
import faulthandler
import math
import re
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, TypedDict

from threadpoolctl import threadpool_limits

from mlpsf.batch.inputs import Job, stamp_of, state_of
from mlpsf.errors import InputError, MlpsfError, OutputError, TooFewStarsError, printable
from mlpsf.files import file_hash, unwritable
from mlpsf.version import __version__

if TYPE_CHECKING:
    from astropy.table import Table

    from mlpsf.frames.frame import Frame
    from mlpsf.psf import PSFModel

__all__ = ["Outcome", "Row", "failed", "is_row", "judge_psf", "run_job"]

# A Dask worker may run several jobs in threads. But warnings and thread limits apply to the whole
# process, and TRIPPy was written for one thread.
_ALONE = threading.Lock()
# fmt: off
_PASSING = {getattr(errno, name, None) for name in (
    "EACCES", "EPERM", "EIO", "ESTALE", "ETIMEDOUT", "EAGAIN", "EBUSY", "ENOENT", "ENODEV", "ENXIO",
    "ENOTCONN", "EHOSTDOWN", "EREMOTEIO", "ENOSPC", "EDQUOT", "ENOMEM", "EMFILE", "ENFILE",
)}
# fmt: on
"""Errors of the system that may be over when the next run comes."""
_EVER = 1e9  # seconds; the system needs a finite waiting time


class Row(TypedDict):
    """A row of the summary; None where a value is unknown."""

    frame: str
    hdu: int | None
    name: str
    fwhm: float | None
    ellipticity: float | None
    n_found: int | None
    n_chosen: int | None
    quality: float | None
    judged_by: str
    verdict: str
    psf_order: int | None
    fwhm_variation: float | None
    shape_variation: float | None
    variation_angle: float | None
    seconds: float
    error: str
    warnings: str


_KINDS: dict[str, Any] = {
    "str": str,
    "float": (int, float),
    "int | None": (int, NoneType),
    "float | None": (int, float, NoneType),
}


def is_row(row: Any) -> bool:
    """Return whether values are those of a row: all there, each of its type."""
    kinds = {key: _KINDS[kind] for key, kind in _annotations(Row).items()}
    return (
        isinstance(row, dict)
        and {key: isinstance(value, kinds[key]) for key, value in row.items() if key in kinds}
        == dict.fromkeys(kinds, True)
        and set(row) == set(kinds)
    )


def _annotations(kind: Any) -> dict[str, str]:
    return {
        key: getattr(value, "__forward_arg__", value) for key, value in kind.__annotations__.items()
    }


class Outcome(TypedDict):
    """Result of a job.

    Its row, whether to try it again, SHA-256 of its files by name, and small pictures of frame and
    PSF for the page of the night.
    """

    row: Row
    again: bool
    products: dict[str, str]
    pictures: list[str]


def run_job(job: Job, time_limit: float = math.inf) -> Outcome:
    """Choose the stars of one frame, build its PSF, and write both.

    Errors of the frame are not raised but reported in the row. Files of an earlier run with other
    settings are removed once the frame is read; they stay where it cannot be.

    Parameters
    ----------
    job : Job
    time_limit : float
        Seconds after which this process is ended; for workers that are replaced automatically.

    Returns
    -------
    Outcome
        ``again`` is True if the frame may succeed next time, for example after lack of space or
        memory, or if its file was touched since the job was planned.

    Examples
    --------
    >>> import tempfile
    >>> from mlpsf.batch.inputs import Settings
    >>> job = Job(path="none.fits", hdu=None, name="none", out=tempfile.mkdtemp(), key="",
    ...           settings=Settings())
    >>> run_job(job)["row"]["error"][:28]
    "There is no file 'none.fits'"
    """
    row = _empty_row(job)
    again = False
    pictures: list[str] = []
    with (
        _ALONE,
        _ended_after(time_limit),
        threadpool_limits(1),
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        # What libraries tell those who write code is nothing of the frame.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        start, before = time.perf_counter(), state_of(Path(job.path))
        try:
            _work(job, row, pictures, caught)
        except MlpsfError as error:
            row["error"] = _line(error)
            again = isinstance(error, OutputError) or _of_system(error)
        except Exception as error:  # an error of one frame must not end the run
            row["error"] = f"{type(error).__name__}: {_line(error)}"
            again = True
        row["seconds"] = round(time.perf_counter() - start, 3)
    said = [_line(w.message) for w in caught]
    # What it was read of may not be what its key is of: the next run sees the old file again.
    stamp = before and before[:2]
    if job.state not in (None, stamp) or state_of(Path(job.path)) != before:
        again = True
        said.append("the file was changed, moved or away as it was read: the next run reads it")
    row["warnings"] = " | ".join(dict.fromkeys(said))
    products = {p.name: file_hash(p) for p in _files(job) if p.is_file()}
    return {"row": row, "again": again, "products": products, "pictures": pictures}


def _of_system(error: BaseException | None) -> bool:
    """Return whether an error came of one of the system: no permission, a disk that is away."""
    while error is not None and getattr(error, "errno", None) is None:
        error = error.__cause__ or error.__context__
    return isinstance(error, OSError) and error.errno in _PASSING


def _files(job: Job) -> tuple[Path, ...]:
    return (job.stars, job.psf, job.report)


@contextmanager
def _ended_after(seconds: float) -> Iterator[None]:
    """End the process if the block takes longer, even in compiled code that holds the GIL."""
    if math.isinf(seconds):
        yield
        return
    # The original stderr, since a scheduler may have replaced it by a log without a file.
    stream = sys.__stderr__ or 2
    with suppress(RuntimeError, OSError, ValueError):
        faulthandler.dump_traceback_later(min(seconds, _EVER), exit=True, file=stream)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def failed(job: Job, reason: str) -> Outcome:
    """Return the outcome of a job whose worker died; the next run tries it again."""
    row = _empty_row(job)
    row["error"] = reason
    return {"row": row, "again": True, "products": {}, "pictures": []}


def _empty_row(job: Job) -> Row:
    return {
        "frame": job.path,
        "hdu": job.hdu if isinstance(job.hdu, int) else None,
        "name": job.name,
        "fwhm": None,
        "ellipticity": None,
        "n_found": None,
        "n_chosen": None,
        "quality": None,
        "judged_by": "",
        "verdict": "",
        "psf_order": None,
        "fwhm_variation": None,
        "shape_variation": None,
        "variation_angle": None,
        "seconds": 0.0,
        "error": "",
        "warnings": "",
    }


def _line(message: Any) -> str:
    return printable(" ".join(str(message).split()))


def _work(job: Job, row: Row, pictures: list[str], caught: list[Any]) -> None:
    """Process a job and fill its row and pictures as far as possible.

    Warnings are `caught` by the caller; the report says them.
    """
    if job.version != __version__:
        raise InputError(
            f"the worker has mlpsf {__version__}, the run was started with {job.version}: "
            "install the same on both"
        )
    from mlpsf.export import write_stars
    from mlpsf.frames.io.reading import read_frame
    from mlpsf.pipeline import select_stars
    from mlpsf.psf import build_psf
    from mlpsf.report.night import thumbnails

    settings = job.settings
    frame = read_frame(
        job.path,
        hdu=job.hdu,
        mask=settings.mask,
        gain=settings.gain,
        saturation=settings.saturation,
    )
    # Not before: what was made of a frame is not lost with the disk that the frame is on.
    try:
        for path in _files(job):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(path, error, "replace") from error
    pictures[:] = thumbnails(frame)
    if job.hdu is None:
        number = re.search(r"\[(\d+)\]$", frame.name)
        row["hdu"] = int(number[1]) if number else 0
    try:
        stars = select_stars(
            frame,
            selector=_selector(settings.selector, settings.model),
            catalogue=settings.catalogue,
            threshold=settings.threshold,
            n_max=settings.n_max,
            n_min=settings.n_min,
            reserve=settings.reserve,
            relax=settings.relax,
            snr_min=settings.snr_min,
            second_look=settings.second_look,
        )
    except TooFewStarsError as error:
        if error.table is not None:
            _fill(row, error.table)
            write_stars(error.table, job.stars)
            if settings.report:
                _report(job, frame, error.table, None, caught, error=str(error))
        raise
    _fill(row, stars)
    write_stars(stars, job.stars)
    psf = build_psf(frame, stars)
    psf.save(job.psf)
    pictures += thumbnails(psf=psf)
    if settings.report:
        _report(job, frame, stars, psf, caught)
    row["fwhm"], row["ellipticity"] = round(psf.fwhm, 4), round(psf.ellipticity, 4)
    row["psf_order"] = psf.order
    for name, digits in (("fwhm_variation", 5), ("shape_variation", 5), ("variation_angle", 1)):
        if name in psf.meta:
            row[name] = round(psf.meta[name], digits)  # type: ignore[literal-required]
    quality, row["judged_by"] = judge_psf(frame, stars, psf)
    row["quality"] = None if quality is None else round(quality, 5)


def _report(
    job: Job,
    frame: Frame,
    stars: Table,
    psf: PSFModel | None,
    caught: list[Any],
    error: str = "",
) -> None:
    from mlpsf.report import write_report
    from mlpsf.report.advice import reading_words

    given = {name: getattr(job.settings, name) for name in ("gain", "saturation", "mask")}
    words = reading_words(job.path, hdu=job.hdu, **given)
    said = [_line(one.message) for one in caught]
    write_report(job.report, frame, stars, psf, words=words, warnings=said, error=error)


def _selector(name: str, model: str | None) -> Any:
    return name if model is None else _model(model, stamp_of(Path(model)) or ())


@lru_cache(maxsize=1)
def _model(path: str, stamp: tuple[int, ...]) -> Any:  # noqa: ARG001 - tells files apart
    """Read a model once for all frames."""
    from mlpsf.selectors.loading import load_judge

    return load_judge(path)


def _fill(row: Row, stars: Table) -> None:
    row["fwhm"] = round(float(stars.meta["fwhm"]), 4)
    row["ellipticity"] = round(float(stars.meta["ellipticity"]), 4)
    row["verdict"] = str(stars.meta.get("verdict", ""))
    row["n_found"] = len(stars)
    row["n_chosen"] = int(stars["selected"].sum())


def judge_psf(frame: Frame, stars: Table, psf: PSFModel) -> tuple[float | None, str]:
    """Return how much of the stars' light a PSF leaves, beyond the noise.

    The PSF, fitted in flux, is subtracted from each sky-subtracted star. The mean square of the
    residual within 1.5 FWHM, minus that of the noise, is divided by the mean square of the
    fitted star.

    Parameters
    ----------
    frame : Frame
    stars : Table
        Star table from `mlpsf.select_stars`. The PSF is judged by the reserve stars, which were
        not used to build it. With fewer than 3 reserve stars, it is judged by the stars it was
        built from, which makes it seem better.
    psf : PSFModel

    Returns
    -------
    quality : float or None
        Square root of the median over stars; 0: what it leaves is noise. None if no star can
        be judged.
    judged_by : {"reserved", "chosen", ""}

    Examples
    --------
    >>> from mlpsf import build_psf, select_stars, simulate_frame
    >>> frame = simulate_frame(shape=(400, 400), n_stars=60, n_galaxies=0, fwhm=4.0, seed=2).frame
    >>> stars = select_stars(frame, selector="residual", threshold=0.0, n_min=1, n_max=5)
    >>> quality, by = judge_psf(frame, stars, build_psf(frame, stars))
    >>> by, quality < 0.1
    ('chosen', True)
    """
    import numpy as np

    from mlpsf.frames.cutouts import extract_cutouts
    from mlpsf.neighbours.subtract import as_judged
    from mlpsf.selection.choice import FEWEST_RESERVED
    from mlpsf.stacks.values import sky_and_noise

    reserved = np.asarray(stars["reserved"], dtype=bool)
    by = "reserved" if reserved.sum() >= FEWEST_RESERVED else "chosen"
    judges = stars[reserved if by == "reserved" else np.asarray(stars["selected"], dtype=bool)]
    if len(judges) == 0:
        return None, ""
    frame = as_judged(frame, stars)
    cut = extract_cutouts(frame, judges["x"], judges["y"], psf.size)
    use = ~cut.near_edge
    data = cut.data[use].astype(np.float64)
    if len(data) == 0:
        return None, ""
    dx = np.asarray(judges["x"])[use] - cut.x0[use]
    dy = np.asarray(judges["y"])[use] - cut.y0[use]
    sky, noise = (v.astype(np.float64)[:, None, None] for v in sky_and_noise(data))
    light = psf.stamps(dx, dy, psf.size, at=(judges["x"][use], judges["y"][use]))
    offset = np.arange(psf.size) - psf.size // 2
    near = offset**2 + offset[:, None] ** 2 < (1.5 * psf.fwhm) ** 2
    seen = near & np.isfinite(data)
    star = np.where(seen, data - sky, 0.0)
    light = np.where(seen, light, 0.0)
    total = (light**2).sum(axis=(1, 2))
    flux = (star * light).sum(axis=(1, 2)) / np.where(total > 0, total, np.nan)
    model = flux[:, None, None] * light
    variance = np.where(seen, noise**2 + np.maximum(model, 0.0) / frame.gain, 0.0)
    excess = ((star - model) ** 2 - variance).sum(axis=(1, 2)) / (model**2).sum(axis=(1, 2))
    excess = excess[np.isfinite(excess)]
    if excess.size == 0:
        return None, ""
    return float(np.sqrt(max(np.median(excess), 0.0))), by
