"""Processing of many frames on all cores or a cluster, with one summary of the night.

The result of each frame is stored in a small file, which is written when its products are complete.
A run that was interrupted at any time and is started again reads these files and does only what is
missing.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import importlib.util
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from mlpsf.batch.inputs import Job, Settings, find_frames, night_files, plan_jobs
from mlpsf.batch.job import Outcome, Row, failed, is_row
from mlpsf.batch.pool import TIME_LIMIT, available_cores, run_on_dask, run_on_processes
from mlpsf.errors import InputError, OutputError, printable
from mlpsf.files import (
    check_folder,
    file_hash,
    product_kind,
    temporary_prefix,
    unwritable,
    whole_file,
)
from mlpsf.version import __version__

if TYPE_CHECKING:
    from astropy.table import Table

    from mlpsf.batch.pool import Results

__all__ = ["Night", "Settings", "run_frames", "summarise"]

_FORMAT = 6
_LONGEST = 2**22  # bytes of a row's file
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL, errno.EBADF)


class Night(NamedTuple):
    """Result of a run.

    Attributes
    ----------
    table : Table
        The summary, one row per frame.
    n_kept : int
        Number of rows from earlier runs.
    files : tuple of Path
        Files of the summary.
    """

    table: Table
    n_kept: int
    files: tuple[Path, ...]


def run_frames(
    frames: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    settings: Settings | None = None,
    hdu: Sequence[str | int] | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    retry_failed: bool = False,
    time_limit: float = TIME_LIMIT,
    overwrite: bool = False,
    progress: bool = False,
) -> Night:
    """Choose the stars and build the PSF of every frame of a night.

    Frames that were processed by an earlier run with the same settings are skipped.

    Parameters
    ----------
    frames : sequence of path-like
        Paths, globs, ``@LIST`` files: see `mlpsf.batch.inputs.find_frames`.
    out : path-like
        Output folder, created if needed. It holds ``NAME_stars.ecsv`` and ``NAME_psf.fits`` of
        each frame, ``NAME_report.html`` if the settings ask for it, the summary ``night.ecsv``,
        with pyarrow ``night.parquet``, and the page ``night.html``. The folder ``rows`` in it holds
        the information for later runs.
    settings : Settings, optional
    hdu : sequence of str or int, optional
        Images of each file: see `mlpsf.batch.inputs.plan_jobs`. Default: the first image.
    workers : int, optional
        Number of processes on this machine, each with one thread. Default: number of cores.
    scheduler : str, optional
        Address or scheduler file of a Dask scheduler, whose workers are used instead.
    retry_failed : bool
        Whether to retry frames that failed because of their content. Frames that failed for lack
        of space, memory, time or permission, or whose file was away, are always tried again.
    time_limit : float
        Seconds after which the worker of a frame is killed and replaced; ``math.inf`` for no
        limit. For Dask, see `mlpsf.batch.pool.run_on_dask`.
    overwrite : bool
        Whether to replace files in the folder that were not made by a run, or were made from
        another frame.
    progress : bool
        Whether to show a progress bar on stderr, if that is a terminal.

    Returns
    -------
    Night

    Raises
    ------
    InputError
        A parameter is invalid, there are no frames, or no scheduler answers.
    OutputError
        The folder cannot be written to or is full, another run uses it, or a file in it must not
        be replaced.
    MissingPackageError
        Dask is requested but not installed.
    MlpsfError
        Workers cannot be started, or the connection to the scheduler was lost.
    KeyboardInterrupt
        Raised by Ctrl-C; its text gives the number of finished frames. Workers on this machine
        are stopped. Dask workers finish their current job first.

    Examples
    --------
    With worker processes, this must be under ``if __name__ == "__main__":``.

    >>> import tempfile
    >>> from mlpsf import simulate_frame
    >>> folder = Path(tempfile.mkdtemp())
    >>> sim = simulate_frame(shape=(300, 300), n_stars=30, n_galaxies=0, fwhm=3.0, seed=2)
    >>> sim.write(folder / "a.fits")
    >>> settings = Settings(n_max=3, n_min=3, relax=True)
    >>> night = run_frames([folder / "*.fits"], folder / "out", settings=settings, workers=1)
    >>> night.table["name", "n_chosen", "error"].as_array().tolist()
    [('a', 3, '')]
    >>> run_frames([folder / "a.fits"], folder / "out", settings=settings).n_kept
    1
    """
    if workers is not None and workers < 1:
        raise InputError(f"The 'workers' parameter must be 1 or more. Got {workers}.")
    if workers is not None and scheduler is not None:
        raise InputError("Give workers of this machine or a scheduler, not both.")
    if not time_limit > 0:
        raise InputError(f"The 'time_limit' parameter must be over 0. Got {time_limit}.")
    settings = settings or Settings()
    settings.check()
    jobs = plan_jobs(find_frames(frames), out, settings, hdu)
    rows_folder = Path(out) / "rows"
    if not overwrite:
        _check_own(jobs, rows_folder)
    try:
        rows_folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(rows_folder, error, "make the folder") from error
    with _locked(rows_folder):
        _sweep(jobs)
        rows = {job.key: row for job in jobs if (row := _kept(job, retry_failed)) is not None}
        missing = [job for job in jobs if job.key not in rows]
        n_kept = len(rows)
        if scheduler is not None and missing:
            results = run_on_dask(missing, scheduler, time_limit)
        else:
            n_workers = min(workers or available_cores(), max(len(missing), 1))
            results = run_on_processes(missing, n_workers, time_limit)
        try:
            _collect(results, rows, len(jobs), progress)
        finally:
            _sweep(jobs)
        table = summarise([rows[job.key] for job in jobs])
        table.meta["settings"] = asdict(settings)
        files = (*_write_summary(table, Path(out)), _write_page(table, jobs, Path(out)))
    return Night(table, n_kept, files)


def _collect(results: Results, rows: dict[str, Row], total: int, progress: bool) -> None:
    """Store each outcome as it arrives, and show the progress."""
    from tqdm import tqdm

    n_failed = sum(row["error"] != "" for row in rows.values())
    bar = tqdm(total=total, initial=len(rows), unit="frame", disable=None if progress else True)
    try:
        with closing(results), bar:  # no workers are left if this ends early
            for job, outcome in results:
                if not is_row(outcome["row"]):
                    outcome = failed(job, "the worker has another version of mlpsf")
                _keep(job, outcome)
                rows[job.key] = outcome["row"]
                n_failed += outcome["row"]["error"] != ""
                bar.set_postfix_str(f"{n_failed} failed" if n_failed else "", refresh=False)
                bar.update()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"{len(rows) - n_failed} of {total} frames done"
            + (f", {n_failed} failed" if n_failed else "")
        ) from None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock a folder for this run; the system releases the lock however the run ends."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(
                f"Another run is at work in {folder.parent}. Wait for it, or give another folder."
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:  # some network file systems have no locks
                raise
        yield
    finally:
        os.close(handle)


def _sweep(jobs: Sequence[Job]) -> None:
    """Remove what processes left that were killed while they wrote files of this run.

    Another command may be at work in the folder.
    """
    folder = Path(jobs[0].out)
    mine = {p for job in jobs for p in (job.stars, job.psf, job.report, _row_path(job))}
    begin = {temporary_prefix(path) for path in (*mine, *night_files(folder))}
    length = len(temporary_prefix(folder))
    for place in (folder, folder / "rows"):
        for left in place.glob(".mlpsf-*"):
            if place != folder or left.name[:length] in begin:  # only runs write rows
                with suppress(OSError):
                    left.unlink()


def _check_own(jobs: Sequence[Job], rows_folder: Path) -> None:
    """Raise `OutputError` if a run would replace files of others, or of another frame."""
    folder = rows_folder.parent
    summary, parquet, page = night_files(folder)
    others = {}
    for path in (summary, parquet, page):
        if path.exists() and not path.is_file():
            check_folder(path)  # says what it is
    # An empty file is nobody's: a power cut leaves names without contents.
    if _holds(summary) and "# - {mlpsf_version: " not in summary.read_text(errors="replace"):
        others[summary] = "mlpsf did not make it"
    elif _holds(parquet) and not _holds(summary) and b"mlpsf_version" not in parquet.read_bytes():
        others[parquet] = "mlpsf did not make it"
    if _holds(page) and product_kind(page) != "report":
        others[page] = "mlpsf did not make it"
    for job in jobs:
        mine: set[str] = set()
        with suppress(*_UNREADABLE):
            # One of an earlier version, without a checksum, tells whose the products are, too.
            kept = _load_row(job)
            kept = _read_row(job) if "sha256" in kept else kept
            mine, made_of = set(kept["products"]), kept["row"]["frame"]
            if made_of != job.path:
                others[job.stars] = f"it was made of {made_of}"
        for path, kind in ((job.stars, "stars"), (job.psf, "psf"), (job.report, "report")):
            # A product that a row names may be damaged. Open only others: a night has thousands.
            if path.name not in mine and _holds(path) and product_kind(path) != kind:
                others[path] = "mlpsf did not make it"
    if others:
        path, what = next(iter(others.items()))
        raise OutputError(
            f"{path} exists, and {what}. Give --out another folder; --overwrite replaces it."
        )


def _holds(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _row_path(job: Job) -> Path:
    return Path(job.out, "rows", f"{job.name}.json")


def _keep(job: Job, outcome: Outcome) -> None:
    content = {"format": _FORMAT, "key": job.key, **outcome}
    with whole_file(_row_path(job)) as temporary:
        temporary.write_text(json.dumps({**content, "sha256": _check(content)}, indent=1))


def _check(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _kept(job: Job, retry_failed: bool) -> Row | None:
    """Return the row of a job from an earlier run, if the job need not be run again."""
    try:
        kept = _read_row(job)
        if kept["format"] != _FORMAT or kept["key"] != job.key or kept["again"]:
            return None
        row: Row = kept["row"]
        if retry_failed and row["error"]:
            return None
        if not is_row(row):
            return None
        names = (job.stars.name, job.psf.name, job.report.name)
        for name, sha in kept["products"].items():
            if name not in names or file_hash(Path(job.out, name)) != sha:
                return None
    except _UNREADABLE:
        return None
    return row


def _load_row(job: Job) -> dict[str, Any]:
    path = _row_path(job)
    if not path.is_file() or path.stat().st_size > _LONGEST:
        raise ValueError("no file, or too long for a row")
    kept: dict[str, Any] = json.loads(path.read_text())
    return kept


def _read_row(job: Job) -> dict[str, Any]:
    """Read what an earlier run kept of a job; raise if it is damaged, or of another job."""
    kept = _load_row(job)
    if kept.pop("sha256") != _check(kept) or kept["row"]["name"] != job.name:
        raise ValueError("not what was written of this job")
    return kept


def summarise(rows: Sequence[Row]) -> Table:
    """Make the summary table from rows.

    Parameters
    ----------
    rows : sequence of Row

    Returns
    -------
    Table
        Columns: ``frame`` (path), ``hdu`` (-1: unknown), ``name`` (of its files), ``done``
        (whether it succeeded), ``fwhm`` (pixels; of the PSF, or of the frame if the PSF failed),
        ``ellipticity`` (1 - b/a), ``n_found``, ``n_chosen``, ``quality`` and ``judged_by`` (see
        `mlpsf.batch.job.judge_psf`), ``verdict`` on the frame, ``psf_order`` (of the polynomial
        by which the PSF varies),
        ``fwhm_variation`` and ``shape_variation`` (rms over the frame of the PSF's relative FWHM
        and of its ellipticity), ``variation_angle`` (where the FWHM grows, degrees from +x towards
        +y; all three unknown of a PSF that does not vary), ``seconds``, ``error`` (empty: none),
        ``warnings``. Unknown numbers are NaN, or -1 for integers.

    Examples
    --------
    >>> from mlpsf.batch.job import failed
    >>> job = Job(path="a.fits", hdu=None, name="a", out=".", key="", settings=Settings())
    >>> summarise([failed(job, "no memory")["row"]])["hdu", "error"].as_array().tolist()
    [(-1, 'no memory')]
    """
    from astropy.table import Table

    kinds: dict[str, Any] = dict.fromkeys(("hdu", "n_found", "n_chosen", "psf_order"), int)
    numbers = ("fwhm", "ellipticity", "quality", "seconds")
    variation = ("fwhm_variation", "shape_variation", "variation_angle")
    kinds |= dict.fromkeys((*numbers, *variation), float)
    unknown = {int: -1, float: float("nan"), str: ""}
    table = Table(meta={"mlpsf_version": __version__})
    for name in Row.__annotations__:
        kind = kinds.get(name, str)
        values = [cast("dict[str, Any]", row)[name] for row in rows]
        values = [kind(unknown[kind] if value is None else value) for value in values]
        # No table can hold a name whose bytes are not UTF-8.
        table[name] = values if kind is not str else list(map(printable, values))
    # ECSV reads an empty string back as masked, so ``error`` cannot be used as a filter.
    table.add_column([row["error"] == "" for row in rows], name="done", index=3)
    table["fwhm"].unit, table["seconds"].unit = "pix", "s"
    table["variation_angle"].unit = "deg"
    return table


def _write_page(table: Table, jobs: Sequence[Job], folder: Path) -> Path:
    """Write the page of the night, with the small pictures that the rows hold."""
    from mlpsf.report.night import MOST_PICTURED, outstanding, write_night

    notes = outstanding(table)
    first = sorted(range(len(jobs)), key=lambda k: (bool(table["done"][k]), -len(notes[k]), k))
    pictures: dict[int, list[str]] = {}
    for k in first[:MOST_PICTURED]:
        with suppress(*_UNREADABLE):
            pictures[k] = [str(p) for p in _read_row(jobs[k])["pictures"]]
    pages = [job.report.name if job.settings.report else None for job in jobs]
    pages = [page if page and (folder / page).exists() else None for page in pages]
    return write_night(night_files(folder)[2], table, pages=pages, pictures=pictures)


def _write_summary(table: Table, folder: Path) -> tuple[Path, ...]:
    from mlpsf.export import write_stars

    path, parquet, _ = night_files(folder)
    files = [write_stars(table, path, overwrite=True)]
    if importlib.util.find_spec("pyarrow") is None:
        # A file of an earlier run would be out of date.
        parquet.unlink(missing_ok=True)
        return tuple(files)
    with whole_file(parquet) as temporary:
        table.write(temporary, format="parquet", overwrite=True)
    return (*files, parquet)
