"""Runs a stage's shards on Dask workers, with progress and cost logging."""

from __future__ import annotations

import json
import logging
import math
import os
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from vecap_tasks.config import environment, parse_config
from vecap_tasks.core.dask_cluster import connect, count_slots, wait_for_slots
from vecap_tasks.core.manifest import COST_NOTE, ShardResult
from vecap_tasks.core.stage import Stage
from vecap_tasks.core.temporary import remove_abandoned
from vecap_tasks.core.version import Version
from vecap_tasks.errors import OutageError, PermanentError, VecapError, format_error, missing_extra
from vecap_tasks.outages import retry_when_full
from vecap_tasks.progress import ProgressLines

if TYPE_CHECKING:
    from distributed import Client, Future


log = logging.getLogger(__name__)
T = TypeVar("T")
Progress = Callable[[int, int], None]  # shards done, shards in total

_MAX_COMMON_FAILURES = 5  # submit no more after this many failures with one reason and no success
_POLL_SECONDS = 5.0  # between checks of the available workers
_LOG_INTERVAL = 10.0  # seconds between progress lines
_SHARD_LOG_INTERVAL = 1.0  # seconds between lines about single shards; the others are debug messages
_NO_WORKER_TIMEOUT = 300.0  # seconds without any suitable worker
_RESULT_TIMEOUT = 60.0  # seconds to fetch a receipt; its worker may be lost before Dask notices
MAX_DEATHS = 3  # killed workers per shard without a finished batch in between
_SUFFIX = ".try"  # of the marker of a running shard


class JobProgress:
    """Logs the receipts of a job's shards, or its finished parts, and progress lines; *show* gets each line, too."""

    def __init__(
        self, stage: Stage, total: int, units: str = "shards", show: Callable[[str], None] | None = None
    ) -> None:
        self._stage = stage
        self._show = show
        self._last_shard_log = -math.inf
        self._lines = ProgressLines(total, units, stage.rates if units == "shards" else (), self._log, _LOG_INTERVAL)

    def _log(self, line: str) -> None:
        log.info("%s %s: %s", self._stage.name, self._stage.version.name, line)
        if self._show is not None:
            self._show(line)

    def add(self, result: ShardResult | None) -> None:
        """Count a finished unit, and log its receipt if it has one."""
        if result is None:
            self._lines.add({})
            return
        now = time.monotonic()
        is_logged = now - self._last_shard_log >= _SHARD_LOG_INTERVAL
        self._last_shard_log = now if is_logged else self._last_shard_log
        log.log(logging.INFO if is_logged else logging.DEBUG, "%s", self._shard_line(result))
        millionths = sum(count for name, count in result.notes.items() if name.endswith(COST_NOTE))
        self._lines.add(result.counters, millionths / 1e6)

    def _shard_line(self, result: ShardResult) -> str:
        seconds = max(result.seconds, 1e-3)
        rates = [f"{result.counters.get(name, 0) / seconds:.1f} {name}/s" for name in self._stage.rates]
        notes = [f"{count} {name}" for name, count in result.notes.items()]
        return ", ".join([f"{self._stage.name} {result.shard}: {seconds:.1f} s", *rates, *notes])

    def report(self, *, at_once: bool = False) -> None:
        """Log a progress line if the last one is old enough, or *at_once* if more is done than it says."""
        self._lines.report(at_once=at_once)


def prepare(stage: Stage, progress: Progress | None = None) -> None:
    """Run the pending preparations of *stage* in parallel, then those that depend on them, if any.

    Raises VecapError at the end if any failed. Logs progress lines unless *progress* shows it. First removes the
    temporary files that killed processes left.
    """
    remove_abandoned()
    stage.store.remove_abandoned()
    report = progress or (lambda done, total: None)
    done: set[str] = set()
    while parts := [part for part in stage.pending_preparations() if part not in done]:
        progress_log = None if progress else JobProgress(stage, len(parts), "parts prepared")
        _prepare_parts(stage, parts, report, progress_log)
        done.update(parts)


def _prepare_parts(stage: Stage, parts: Sequence[str], report: Progress, progress_log: JobProgress | None) -> None:
    if len(parts) > 1 and stage.on_workers and len(parts) >= stage.min_parallel_parts:
        with connect(stage.config) as client:
            TaskPool(client, stage, prepare_part, report, progress_log).run(parts)
        return
    for done, part in enumerate(parts, start=1):
        retry_when_full(partial(stage.prepare, part), stage.store.scratch, is_long=True)
        report(done, len(parts))
        if progress_log:
            progress_log.add(None)
            progress_log.report()


def run_shards(
    stage: Stage,
    shards: Sequence[str],
    progress: Progress | None = None,
    show: Callable[[str], None] | None = None,
) -> list[ShardResult]:
    """Run *shards* and return their receipts, in order. Raises VecapError at the end if any failed.

    Logs a progress line every few seconds. *progress* gets each finished shard, *show* each line.
    """
    report = progress or (lambda done, total: None)
    report(0, len(shards))
    if not shards:
        return []
    progress_log = JobProgress(stage, len(shards), show=show)
    if show is not None:
        progress_log.report(at_once=True)
    if stage.on_workers and len(shards) >= stage.min_parallel:
        task = partial(run_shard, run=uuid.uuid4().hex[:12])
        with connect(stage.config) as client:
            results = TaskPool(client, stage, task, report, progress_log).run(shards)
    else:
        results = []
        for done, shard in enumerate(shards, start=1):
            results.append(stage.run(shard))
            progress_log.add(results[-1])
            progress_log.report()
            report(done, len(shards))
    progress_log.report(at_once=True)
    return results


@dataclass(frozen=True, slots=True)
class Job:
    """A serializable stage. `environment` holds the variables that the configuration uses, so that every worker writes
    to the same locations."""

    config: str
    base: str
    environment: tuple[tuple[str, str | None], ...] = field(repr=False)  # Dask logs a failed task's arguments
    stage: type[Stage]
    version: Version

    @classmethod
    def from_stage(cls, stage: Stage) -> Job:
        config = stage.config.model_dump_json()
        return cls(config, str(stage.config.base), environment(config), type(stage), stage.version)


@dataclass(frozen=True, slots=True)
class Failed:
    """Returned by a worker if a task failed for a reason that the user can act on: one line, no traceback.

    `permanent` means that a retry cannot help, `outage` that the task has already waited for the end of an outage.
    """

    reason: str
    permanent: bool = False
    outage: bool = False


def run_shard(job: Job, shard: str, run: str) -> ShardResult | Failed:
    """Run one shard on a worker, as part of *run*. The worker keeps the stage and its models for the next shard.

    A shard that already has its receipt is not run again.
    """
    try:
        stage = _load_stage(job)
        found = stage.finalize(shard)
        if found is not None:
            return found
        with record_attempt(stage, shard, run):
            return stage.run(shard)
    except (VecapError, OSError, ModuleNotFoundError) as error:
        return _failed(job, error)


@contextmanager
def record_attempt(stage: Stage, shard: str, run: str) -> Iterator[None]:
    """Mark *shard* as running during the block. Only deaths in the executor's run *run* count.

    A marker that outlives its process shows that the process was killed. Dask counts worker deaths too, but blames
    every shard of the worker, and loses the count with its scheduler.

    Raises VecapError if `MAX_DEATHS` workers were killed on the shard.
    """
    folder = stage.scratch_dir(shard)
    names = stage.store.files(folder)
    finished = sum(not name.endswith(_SUFFIX) for name in names)
    prefix = f"{run}.{finished}."  # a finished batch resets the count
    if sum(name.startswith(prefix) for name in names) >= MAX_DEATHS:
        raise VecapError(
            f"Skipped: {MAX_DEATHS} workers were killed on this shard (likely out of memory); give the workers more "
            "memory, or reduce shard_size or batch_size, then run the same command again"
        )
    marker = f"{folder}/{prefix}{uuid.uuid4().hex[:8]}{_SUFFIX}"
    stage.store.put(marker, b"")
    try:
        yield
    except OutageError:
        raise  # the store may be away; the marker is removed with the shard's folder
    except BaseException:
        try:
            stage.finalize(shard)  # removes what is left here if another worker has finished the shard
            stage.store.remove(marker)
        except (OSError, VecapError) as error:  # such as a store that is gone; raise the first error
            log.warning("%s %s: cannot clean up: %s", stage.name, shard, format_error(error))
        raise
    stage.store.remove(marker)


def prepare_part(job: Job, part: str) -> Failed | None:
    """Prepare one part on a worker."""
    try:
        stage = _load_stage(job)
        retry_when_full(partial(stage.prepare, part), stage.store.scratch, is_long=True)
    except (VecapError, OSError, ModuleNotFoundError) as error:
        return _failed(job, error)
    return None


def _failed(job: Job, error: Exception) -> Failed:
    """Return *error* as a `Failed`. Raises it if it is a missing module that no extra installs."""
    if isinstance(error, ModuleNotFoundError):
        extra = missing_extra(error, job.stage.name)
        if extra is None:
            raise error
        return Failed(f"the worker {extra}", permanent=True)
    return Failed(format_error(error), isinstance(error, PermanentError), isinstance(error, OutageError))


def _load_stage(job: Job) -> Stage:
    for name, value in job.environment:
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    return _cached_stage(job)


@lru_cache(maxsize=2)
def _cached_stage(job: Job) -> Stage:
    remove_abandoned()
    stage = job.stage(parse_config(json.loads(job.config), Path(job.base)), job.version)
    stage.should_continue = _is_task_active
    return stage


def _is_task_active() -> bool:
    """Return False if the current task was cancelled: a worker thread cannot be stopped from outside."""
    from distributed import get_worker

    worker = get_worker()
    task = worker.state.tasks.get(worker.get_current_task())
    return task is not None and task.state != "cancelled"


@dataclass(slots=True)
class TaskPool(Generic[T]):
    """Runs `task` for each name; a failed one is retried once, after the others, unless it waited for an outage.

    Submits no more if as many tasks in a row as there are slots met an outage: the others would wait for it, too.
    """

    client: Client
    stage: Stage
    task: Callable[[Job, str], T | Failed]
    report: Progress
    progress_log: JobProgress | None = None
    _results: dict[str, T] = field(default_factory=dict)
    _failures: dict[str, Failed] = field(default_factory=dict)  # of the last attempt
    _waiting: deque[str] = field(default_factory=deque)
    _running: dict[Future, str] = field(default_factory=dict)
    _finished: SimpleQueue[Future] = field(default_factory=SimpleQueue)
    _slots: int = 0
    _outages: int = 0  # since the last success

    def run(self, names: Sequence[str]) -> list[T]:
        """Return the results of *names*, in order. Raises VecapError at the end if any failed."""
        dask = self.stage.config.dask
        resources = dask.resources if self.stage.runs_models else {}
        job = Job.from_stage(self.stage)
        self._waiting.extend(names)
        self._slots = wait_for_slots(self.client, resources)
        self._submit(job, self._slots, resources)
        last_poll = last_worker = time.monotonic()
        while self._running or (self._waiting and not self._should_stop()):
            try:
                self._handle(self._finished.get(timeout=_POLL_SECONDS))
                self.report(len(self._results), len(names))
            except Empty:
                pass
            now = time.monotonic()
            if now - last_poll >= _POLL_SECONDS:
                last_poll, self._slots = now, self._count_slots(resources)
                last_worker = now if self._slots else last_worker
                if now - last_worker > _NO_WORKER_TIMEOUT:
                    raise VecapError(
                        f"{self.stage.name}: the Dask cluster has had no worker for {_NO_WORKER_TIMEOUT:.0f} s; "
                        "start workers, then run the same command again to resume"
                    )
            if self.progress_log:
                self.progress_log.report()
            if not self._should_stop():
                self._submit(job, self._slots - len(self._running), resources)
        if self._failures:
            raise self._failure(len(names))
        return [self._results[name] for name in names]

    def _should_stop(self) -> bool:
        if self._outages >= max(1, self._slots):
            return True
        reasons = {failed.reason for failed in self._failures.values()}
        return not self._results and len(self._failures) >= _MAX_COMMON_FAILURES and len(reasons) == 1

    def _submit(self, job: Job, count: int, resources: dict[str, float]) -> None:
        for _ in range(min(count, len(self._waiting))):
            name = self._waiting.popleft()
            future = self.client.submit(self.task, job, name, pure=False, resources=resources)
            self._running[future] = name
            future.add_done_callback(self._finished.put)

    def _count_slots(self, resources: dict[str, float]) -> int:
        """Return how many tasks can run at once now; workers come and go."""
        try:
            return count_slots(self.client, resources)
        except (OSError, TimeoutError):
            return self._slots  # the scheduler is going away; the futures report it

    def _handle(self, future: Future) -> None:
        name = self._running.pop(future)
        outcome: Any = future.exception() if future.status == "error" else None
        if future.status == "finished":
            try:
                outcome = future.result(timeout=_RESULT_TIMEOUT)
            except TimeoutError as error:
                outcome = error  # the next attempt finds the receipt in the store
        if future.status == "cancelled":
            raise VecapError(
                f"{self.stage.name}: the connection to the Dask scheduler was lost; start the scheduler, then run the "
                "same command again to resume"
            )
        future.release()
        if isinstance(outcome, Failed | BaseException):
            failed = outcome if isinstance(outcome, Failed) else Failed(_reason(outcome))
            self._outages += failed.outage
            if name not in self._failures and not failed.permanent and not failed.outage:
                self._waiting.append(name)
            self._failures[name] = failed
            return
        self._results[name] = outcome
        self._outages = 0
        self._failures.pop(name, None)
        if self.progress_log:
            self.progress_log.add(outcome)

    def _failure(self, total: int) -> VecapError:
        by_reason: dict[str, list[str]] = {}
        for shard, failed in sorted(self._failures.items()):
            by_reason.setdefault(failed.reason, []).append(shard)
        (reason, (shard, *_)), *others = by_reason.items()
        for other_reason, names in others:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            log.error("%s: shard %s%s: %s", self.stage.name, names[0], more, other_reason)
        count = f"{len(self._failures)} of {total} shards failed; " if len(self._failures) > 1 else ""
        permanent = all(failed.permanent for failed in self._failures.values())
        outage = all(failed.outage for failed in self._failures.values())
        kind = PermanentError if permanent else OutageError if outage else VecapError
        return kind(f"{self.stage.name}: {count}shard {shard}: {reason}")


def _reason(error: BaseException) -> str:
    """Return in one line why a task has no result."""
    from distributed import KilledWorker

    if isinstance(error, KilledWorker):
        return (
            "every worker that ran it was killed (likely out of memory); "
            "give the workers more memory, or reduce shard_size or batch_size"
        )
    return f"{format_error(error)} (see the worker log for the traceback)"
