"""Worker processes on this machine or on a cluster; workers that die are replaced.

No heavy imports at module level: a worker must set its number of threads before the libraries that
read it are loaded.
"""

from __future__ import annotations

import ctypes
import importlib
import math
import multiprocessing
import os
import signal
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from mlpsf.errors import InputError, MissingPackageError, MlpsfError

if TYPE_CHECKING:
    from mlpsf.batch.inputs import Job
    from mlpsf.batch.job import Outcome

    Results: TypeAlias = Generator[tuple[Job, Outcome], None, None]

__all__ = ["MOST_DEATHS", "TIME_LIMIT", "available_cores", "run_on_dask", "run_on_processes"]

MOST_DEATHS = 2
"""Number of workers that may die on a frame before it counts as failed."""

TIME_LIMIT = 3600.0
"""Time limit per frame in seconds; some hundred times the usual duration."""

_FALSE_STARTS = 3  # successive workers that die before they are ready
_ONE_THREAD = dict.fromkeys(
    (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
        "NUMEXPR_NUM_THREADS",
        "TF_NUM_INTRAOP_THREADS",
        "TF_NUM_INTEROP_THREADS",
    ),
    "1",
)
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # options of glibc's mallopt
_LAST_BREATH = 5.0  # seconds for a worker to end, after its pipe closed or it was killed
_LONGEST_WAIT = 3600.0  # seconds; the system needs a finite waiting time
_DASK_DEATHS = "too many Dask workers died of it: was memory short, or the time limit?"
_CONNECT = 30.0  # seconds for a scheduler to answer


def available_cores() -> int:
    """Return the number of cores that this process may use.

    Examples
    --------
    >>> available_cores() >= 1
    True
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_on_processes(
    jobs: Sequence[Job], n_workers: int, time_limit: float = TIME_LIMIT
) -> Results:
    """Run jobs in processes on this machine.

    Processes are started with ``spawn``, not forked from a process that may have threads and a
    large memory. A script that calls this needs ``if __name__ == "__main__":``.

    Parameters
    ----------
    jobs : sequence of Job
    n_workers : int
    time_limit : float
        Seconds per job. The worker of a job that takes longer is killed and replaced.

    Yields
    ------
    job, outcome : Job, Outcome
        In order of completion. A job fails if `MOST_DEATHS` workers died on it, or if it took
        longer than the time limit.

    Raises
    ------
    MlpsfError
        Workers cannot be started.
    """
    from mlpsf.batch.job import failed

    waiting = deque(jobs)
    deaths: Counter[str] = Counter()
    false_starts = 0
    workers: list[_Worker] = []
    try:
        while waiting or any(w.job for w in workers):
            busy = sum(w.job is not None for w in workers)
            while len(workers) < min(n_workers, len(waiting) + busy):
                with _interrupted_later():
                    workers.append(_Worker())
            for worker in workers:
                if worker.ready and worker.job is None and waiting:
                    worker.give(waiting.popleft(), time_limit)
            left = min(w.deadline for w in workers) - time.monotonic()
            talking = wait([w.pipe for w in workers], min(max(left, 0.0), _LONGEST_WAIT))
            for worker in [w for w in workers if w.pipe in talking]:
                job = worker.job
                try:
                    message = worker.pipe.recv()
                except (EOFError, OSError):
                    workers.remove(worker)
                    reason = worker.reap()
                    false_starts += not worker.ready
                    if false_starts >= _FALSE_STARTS:
                        raise MlpsfError(
                            f"Worker processes die before they can work ({reason}). Is memory "
                            "short? In a script, is the call under if __name__ == '__main__'?"
                        ) from None
                    if job is None:
                        continue
                    deaths[job.key] += 1
                    if deaths[job.key] < MOST_DEATHS:
                        waiting.appendleft(job)
                        continue
                    yield (
                        job,
                        failed(job, f"{MOST_DEATHS} workers died of it, the last {reason}"),
                    )
                    continue
                if not worker.ready:
                    worker.ready, false_starts = True, 0
                elif job is not None:
                    worker.job, worker.deadline = None, math.inf
                    yield job, message
            now = time.monotonic()
            for worker in [w for w in workers if w.deadline <= now and not w.pipe.poll()]:
                workers.remove(worker)
                worker.kill()
                if worker.job is not None:
                    yield worker.job, failed(worker.job, f"took longer than {time_limit:g} s")
    finally:
        for worker in workers:
            worker.kill()


@contextmanager
def _interrupted_later() -> Iterator[None]:
    """Delay Ctrl-C to the end of the block; processes started in the block ignore it.

    A terminal sends Ctrl-C to every process, but only the parent handles it. A half-started worker
    would end with a traceback.
    """
    came: list[int] = []
    # Only the main thread may set a handler, and handlers run only there.
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT) if main else None
    if before is not None:
        signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    resource_tracker.ensure_running()  # a later start would undo the next line
    heard = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, heard)
        if before is not None:
            signal.signal(signal.SIGINT, before)
    if came:
        signal.raise_signal(signal.SIGINT)


class _Worker:
    """A worker process and the pipe to it."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), name="mlpsf", daemon=True)
        self.process.start()
        # Only the worker may hold this end, so that the pipe closes when the worker dies.
        theirs.close()
        self.job: Job | None = None
        self.deadline = math.inf
        self.ready = False

    def give(self, job: Job, time_limit: float) -> None:
        self.job, self.deadline = job, time.monotonic() + time_limit
        # If the worker died while idle, reading the pipe shows it. This rare death is counted
        # against the job.
        with suppress(OSError):
            self.pipe.send(job)

    def reap(self) -> str:
        """Return as text how the worker ended, after its pipe has closed."""
        self.process.join(_LAST_BREATH)
        code = self.process.exitcode
        self.kill()
        if code == -signal.SIGKILL:
            return "killed (was memory short?)"
        if code is None:
            return "hung as it ended"
        return f"by signal {-code}" if code < 0 else f"with exit code {code}"

    def kill(self) -> None:
        """Kill the worker at once; this leaves no partial file."""
        self.pipe.close()
        self.process.kill()
        self.process.join(_LAST_BREATH)
        if self.process.exitcode is not None:  # otherwise it waits for a disk; the run goes on
            self.process.close()


def _serve(pipe: Connection) -> None:
    """Run a worker: report that it is ready, then process each job received."""
    threading.Thread(target=_follow_parent, daemon=True).start()
    os.environ.update(_ONE_THREAD)
    _keep_memory()
    from mlpsf.batch.job import run_job

    # Loaded before the first job, so that import errors are not attributed to a frame.
    for module in ("pipeline", "psf.build", "export", "report.night"):
        importlib.import_module(f"mlpsf.{module}")
    importlib.import_module("onnxruntime")
    answer: Outcome | None = None  # that it is ready, then of each job
    while True:
        try:
            # The parent may end between a job and its answer: that is no error here.
            pipe.send(answer)
            job = pipe.recv()
        except (EOFError, OSError):
            return
        answer = run_job(job)


def _keep_memory() -> None:
    """Let the C library keep the memory of a frame for the next one.

    Otherwise the system takes back each array of a frame's size, and hands it out again page by
    page: a tenth of the time. So a worker keeps about what its largest frame took. Only glibc has
    this; musl and macOS do without, and Dask's workers, which are the user's own processes.
    """
    with suppress(AttributeError, OSError, TypeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, 2**29)


def _follow_parent() -> None:
    """End when the parent ends, so that no worker of this run meets the next run."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def run_on_dask(jobs: Sequence[Job], address: str, time_limit: float = TIME_LIMIT) -> Results:
    """Run jobs on the workers of a Dask scheduler.

    The scheduler itself reassigns the jobs of a worker that died. A job fails after
    ``distributed.scheduler.allowed-failures`` (3) deaths.

    Parameters
    ----------
    jobs : sequence of Job
        Jobs. Their paths must be valid on all workers, which need the same version of mlpsf.
    address : str
        Address ``tcp://host:port``, or a scheduler file ending in ``.json``.
    time_limit : float
        Seconds per job. A worker whose job takes longer logs where it was and ends, and its nanny
        restarts it. A worker without a nanny goes on. A job that always takes too long ends as
        many workers as one that kills them.

    Yields
    ------
    job, outcome : Job, Outcome
        In order of completion.

    Raises
    ------
    MissingPackageError
        Dask's distributed is not installed.
    InputError
        No scheduler answers.
    MlpsfError
        The connection to the scheduler was lost.
    """
    try:
        distributed: Any = importlib.import_module("distributed")
    except ImportError as error:
        raise MissingPackageError(
            f"--scheduler needs Dask ({error}); try: pip install 'mlpsf[dask]'"
        ) from error
    from mlpsf.batch.job import failed

    file = address.endswith(".json")
    if file and not Path(address).is_file():
        raise InputError(f"There is no scheduler file {address!r}.")
    where = {"scheduler_file": address} if file else {"address": address}
    try:
        client = distributed.Client(**where, timeout=_CONNECT, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"No Dask scheduler answers at {address!r}: {error}.") from error
    with client:
        run = uuid.uuid4().hex
        futures = client.map(
            _run_in_time,
            jobs,
            time_limit=time_limit,
            key=[("mlpsf-run", run, number) for number in range(len(jobs))],
            pure=False,
            batch_size=1000,
        )
        by_key = {future.key: job for future, job in zip(futures, jobs, strict=True)}
        done = distributed.as_completed(futures, loop=client.loop)
        del futures  # releases finished results, here and on the workers
        try:
            for future in done:
                job = by_key.pop(future.key)
                try:
                    outcome = future.result()
                except distributed.CancelledError:
                    raise MlpsfError(
                        f"The Dask scheduler at {address} went away. Start again when it is back: "
                        "frames that are done are kept."
                    ) from None
                except distributed.scheduler.KilledWorker:
                    outcome = failed(job, _DASK_DEATHS)
                except Exception as error:  # for example, mlpsf is missing on a worker
                    reason = " ".join(str(error).split())
                    outcome = failed(job, f"{type(error).__name__}: {reason}")
                yield job, outcome
        finally:
            if by_key:
                client.cancel(list(done.futures), force=True)


def _run_in_time(job: Job, time_limit: float) -> Outcome:
    """Run a job on a Dask worker."""
    from mlpsf.batch.job import run_job

    worker = importlib.import_module("distributed").get_worker()
    # Without a nanny, the worker would not be restarted, and may be the user's own process.
    return run_job(job, time_limit if worker.nanny else math.inf)
