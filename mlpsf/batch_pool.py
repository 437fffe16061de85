"""Processes that work on jobs, on this machine or on a cluster; those that die are replaced.

Nothing heavy is imported here at the top: a worker sets the number of its threads before the
libraries that read it are loaded.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import threading
import uuid
from collections import Counter, deque
from collections.abc import Generator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from mlpsf.errors import InputError, MissingPackageError, MlpsfError

if TYPE_CHECKING:
    from mlpsf.batch_inputs import Job
    from mlpsf.batch_job import Outcome

    Results: TypeAlias = Generator[tuple[Job, Outcome], None, None]

__all__ = ["MOST_DEATHS", "available_cores", "run_on_dask", "run_on_processes"]

MOST_DEATHS = 2
"""A frame that has killed so many workers is given up."""

_FALSE_STARTS = 3  # workers in a row that die before they are ready
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
_LAST_BREATH = 5.0  # seconds from the end of a worker's pipe to its own
_CONNECT = 30.0  # seconds for a scheduler to answer


def available_cores() -> int:
    """Count the cores that this process may use.

    Examples
    --------
    >>> available_cores() >= 1
    True
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_on_processes(jobs: Sequence[Job], n_workers: int) -> Results:
    """Work on jobs in processes of this machine.

    They are started afresh (``spawn``), not forked from a process that may hold threads and a
    large memory. A script that calls this needs ``if __name__ == "__main__":``.

    Parameters
    ----------
    jobs : sequence of Job
    n_workers : int

    Yields
    ------
    job, outcome : Job, Outcome
        As they are done. A job in whose hands `MOST_DEATHS` workers died has failed.

    Raises
    ------
    MlpsfError
        Workers cannot be started.
    """
    from mlpsf.batch_job import failed

    waiting = deque(jobs)
    deaths: Counter[str] = Counter()
    false_starts = 0
    workers: list[_Worker] = []
    try:
        while waiting or any(w.job for w in workers):
            busy = sum(w.job is not None for w in workers)
            while len(workers) < min(n_workers, len(waiting) + busy):
                workers.append(_Worker())
            for worker in workers:
                if worker.ready and worker.job is None and waiting:
                    worker.give(waiting.popleft())
            talking = wait([w.pipe for w in workers])
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
                    worker.job = None
                    yield job, message
    finally:
        for worker in workers:
            worker.kill()


class _Worker:
    """A process and the pipe to it."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), name="mlpsf", daemon=True)
        self.process.start()
        # Its end must be the only one left, so that its death is the pipe's.
        theirs.close()
        self.job: Job | None = None
        self.ready = False

    def give(self, job: Job) -> None:
        self.job = job
        # Had it died idle, reading will tell; that this counts as a death in the job's hands is
        # too rare to be told apart.
        with suppress(OSError):
            self.pipe.send(job)

    def reap(self) -> str:
        """Say in words how it ended, once its pipe has."""
        self.process.join(_LAST_BREATH)
        code = self.process.exitcode
        self.kill()
        if code == -signal.SIGKILL:
            return "killed (was memory short?)"
        if code is None:
            return "hung as it ended"
        return f"by signal {-code}" if code < 0 else f"with exit code {code}"

    def kill(self) -> None:
        """End it at once: it leaves no half file."""
        self.pipe.close()
        self.process.kill()
        self.process.join()
        self.process.close()


def _serve(pipe: Connection) -> None:
    """Be a worker: say that it is ready, then work on each job that comes."""
    # Ctrl-C goes to every process of a terminal; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()
    os.environ.update(_ONE_THREAD)
    from mlpsf.batch_job import run_job

    # Loaded before the first job, so that what cannot be loaded is not blamed on a frame.
    for module in ("mlpsf.pipeline", "mlpsf.psf", "mlpsf.export"):
        importlib.import_module(module)
    importlib.import_module("mlpsf.psf.trippy").load_trippy()
    pipe.send(None)
    while True:
        try:
            job = pipe.recv()
        except (EOFError, OSError):
            return
        pipe.send(run_job(job))


def _follow_parent() -> None:
    """End with the parent, however it ends: the next run must not meet workers of this one."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def run_on_dask(jobs: Sequence[Job], address: str) -> Results:
    """Work on jobs on the workers of a Dask scheduler.

    The scheduler itself gives the jobs of a worker that died to others, and gives a job up after
    ``distributed.scheduler.allowed-failures`` (3) deaths.

    Parameters
    ----------
    jobs : sequence of Job
        Their paths must be the same for all workers, which need this mlpsf.
    address : str
        ``tcp://host:port``, or a scheduler file ending in ``.json``.

    Yields
    ------
    job, outcome : Job, Outcome
        As they are done.

    Raises
    ------
    MissingPackageError
        Dask's distributed is not installed.
    InputError
        No scheduler answers.
    MlpsfError
        The scheduler went away.
    """
    try:
        distributed: Any = importlib.import_module("distributed")
    except ImportError as error:
        raise MissingPackageError(
            f"--scheduler needs Dask ({error}); try: pip install 'mlpsf[dask]'"
        ) from error
    from mlpsf.batch_job import failed, run_job

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
            run_job,
            jobs,
            key=[("mlpsf-run", run, number) for number in range(len(jobs))],
            pure=False,
            batch_size=1000,
        )
        by_key = {future.key: job for future, job in zip(futures, jobs, strict=True)}
        done = distributed.as_completed(futures, loop=client.loop)
        del futures  # what is done is let go, here and on the workers
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
                    outcome = failed(job, "too many Dask workers died of it: was memory short?")
                except Exception as error:  # mlpsf missing on a worker, say
                    reason = " ".join(str(error).split())
                    outcome = failed(job, f"{type(error).__name__}: {reason}")
                yield job, outcome
        finally:
            if by_key:
                client.cancel(list(done.futures), force=True)
