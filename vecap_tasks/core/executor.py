"""Spreads a stage's shards over Dask workers, with progress and cost."""

from __future__ import annotations

import json
import logging
import os
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from vecap_tasks.config import environment, parse_config
from vecap_tasks.core.dask_cluster import connect, slots, wait_for_slots
from vecap_tasks.core.manifest import ShardResult
from vecap_tasks.core.stage import Stage
from vecap_tasks.core.version import Version
from vecap_tasks.core.worker_deaths import record_attempt
from vecap_tasks.errors import PermanentError, VecapError, format_error, missing_extra

if TYPE_CHECKING:
    from distributed import Client, Future


log = logging.getLogger(__name__)
T = TypeVar("T")
Progress = Callable[[int, int], None]  # shards done, shards in all

_GIVE_UP = 5  # shards that fail for the same reason, none being done: the fault is not theirs, no more are begun
_LOOK_SECONDS = 5.0  # between looks at which workers there are
_SAY_SECONDS = 10.0  # between lines about the whole job
_ALONE_SECONDS = 300.0  # without any worker that could go on
_RESULT_SECONDS = 60.0  # to fetch a receipt: the worker that has it may be lost, and nobody know it yet
_COST = "_cost_millionths"  # how notes of a cost end


class JobProgress:
    """Adds up the receipts of a job's shards as they come in. *rates* are the counters that count per second."""

    def __init__(self, rates: Sequence[str], total: int) -> None:
        self._rates = rates
        self._total = total
        self._done = 0
        self._counters: Counter[str] = Counter()
        self._millionths = 0
        self._begun = time.monotonic()

    def add(self, result: ShardResult) -> None:
        self._done += 1
        self._counters.update({name: result.counters.get(name, 0) for name in self._rates})
        self._millionths += sum(count for name, count in result.notes.items() if name.endswith(_COST))

    def line(self) -> str:
        """Say it in a line: wall clock since the job began, the work of all its workers together."""
        seconds = max(time.monotonic() - self._begun, 1e-3)
        said = [f"{self._done} of {self._total} shards"]
        said += [f"{self._counters[name] / seconds:.1f} {name}/s" for name in self._rates]
        if 0 < self._done < self._total:
            said.append(f"{_clock(seconds * (self._total - self._done) / self._done)} left")
        if self._millionths:
            cost = self._millionths / 1e6
            said.append(f"cost {cost:.4f} so far, {cost * self._total / self._done:.4f} in all")
        return ", ".join(said)


def _clock(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def prepare(stage: Stage, progress: Progress | None = None) -> None:
    """Do what the shards of *stage* follow from, its parts side by side. Raises VecapError after the last one."""
    parts = stage.pending_preparations()
    report = progress or (lambda done, total: None)
    if len(parts) > 1 and stage.on_workers:
        with connect(stage.config) as client:
            TaskPool(client, stage, prepare_part, report).run(parts)
        return
    for done, part in enumerate(parts, start=1):
        stage.prepare(part)
        report(done, len(parts))


def run_shards(stage: Stage, shards: Sequence[str], progress: Progress | None = None) -> list[ShardResult]:
    """Run *shards* and return their receipts, in order. Raises VecapError after the last one if any failed."""
    report = progress or (lambda done, total: None)
    report(0, len(shards))
    if not shards:
        return []
    progress_log = JobProgress(stage.rates, len(shards))
    if stage.on_workers:
        task = partial(run_shard, run=uuid.uuid4().hex[:12])
        with connect(stage.config) as client:
            results = TaskPool(client, stage, task, report, progress_log).run(shards)
    else:
        results = []
        for done, shard in enumerate(shards, start=1):
            results.append(stage.run(shard))
            _log_rates(stage, results[-1])
            progress_log.add(results[-1])
            report(done, len(shards))
    log.info("%s: %s", stage.name, progress_log.line())
    return results


@dataclass(frozen=True, slots=True)
class Job:
    """A stage as it travels to a worker. `environment` has the values of the variables that the configuration names,
    so that a worker started elsewhere writes to the same places."""

    config: str
    base: str
    environment: tuple[tuple[str, str | None], ...]
    stage: type[Stage]
    version: Version

    @classmethod
    def of(cls, stage: Stage) -> Job:
        config = stage.config.model_dump_json()
        return cls(config, str(stage.config.base), environment(config), type(stage), stage.version)


@dataclass(frozen=True, slots=True)
class Failed:
    """What a worker answers where a task failed for a reason that a person can act on: a line, and no traceback.

    `permanent` says that a retry cannot help.
    """

    reason: str
    permanent: bool = False


def run_shard(job: Job, shard: str, run: str) -> ShardResult | Failed:
    """Do one shard on a worker, for the *run* that asked. The stage, with its models, stays for the next shard.

    A shard that has its receipt by now, whoever was lost after writing it, is not done again.
    """
    try:
        stage = _stage_here(job)
        found = stage.finalize(shard)
        if found is not None:
            return found
        with record_attempt(stage, shard, run):
            return stage.run(shard)
    except (VecapError, OSError, ModuleNotFoundError) as error:
        return _failed(job, error)


def prepare_part(job: Job, part: str) -> Failed | None:
    """Prepare one part on a worker."""
    try:
        _stage_here(job).prepare(part)
    except (VecapError, OSError, ModuleNotFoundError) as error:
        return _failed(job, error)
    return None


def _failed(job: Job, error: Exception) -> Failed:
    """Return what a person can do about *error*. Raises it where its module belongs to no extra of ours."""
    if isinstance(error, ModuleNotFoundError):
        needed = missing_extra(error, job.stage.name)
        if needed is None:
            raise error
        return Failed(f"the worker {needed}", permanent=True)
    return Failed(format_error(error), isinstance(error, PermanentError))


def _stage_here(job: Job) -> Stage:
    for name, value in job.environment:
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    return _stage(job)


@lru_cache(maxsize=2)
def _stage(job: Job) -> Stage:
    stage = job.stage(parse_config(json.loads(job.config), Path(job.base)), job.version)
    stage.is_wanted = _task_is_wanted
    return stage


def _task_is_wanted() -> bool:
    """Say whether somebody still waits for the task that runs here: a worker cannot end a thread from outside."""
    from distributed import get_worker

    worker = get_worker()
    task = worker.state.tasks.get(worker.get_current_task())
    return task is not None and task.state != "cancelled"


@dataclass(slots=True)
class TaskPool(Generic[T]):
    """Does `task` for each of some names; one that fails is tried once more, after the others."""

    client: Client
    stage: Stage
    task: Callable[[Job, str], T | Failed]
    report: Progress
    progress_log: JobProgress | None = None
    _results: dict[str, T] = field(default_factory=dict)
    _failures: dict[str, Failed] = field(default_factory=dict)  # of the last try
    _waiting: deque[str] = field(default_factory=deque)
    _running: dict[Future, str] = field(default_factory=dict)
    _ended: SimpleQueue[Future] = field(default_factory=SimpleQueue)

    def run(self, names: Sequence[str]) -> list[T]:
        """Return what came of *names*, in order. Raises VecapError after the last one if any failed."""
        dask = self.stage.config.dask
        resources = dask.resources if self.stage.runs_models else {}
        job = Job.of(self.stage)
        self._waiting.extend(names)
        room = wait_for_slots(self.client, resources)
        self._submit(job, room, resources)
        said = looked = able = time.monotonic()
        while self._running or (self._waiting and not self._hopeless()):
            try:
                self._take(self._ended.get(timeout=_LOOK_SECONDS))
                self.report(len(self._results), len(names))
            except Empty:
                pass
            now = time.monotonic()
            if now - looked >= _LOOK_SECONDS:
                looked, room = now, self._room(resources, room)
                able = now if room else able
                if now - able > _ALONE_SECONDS:
                    raise VecapError(
                        f"{self.stage.name}: the Dask cluster has had no worker for {_ALONE_SECONDS:.0f} s; "
                        "start some, then run the same command again: it does only what is missing"
                    )
            if self.progress_log and now - said >= _SAY_SECONDS:
                said = now
                log.info("%s: %s", self.stage.name, self.progress_log.line())
            if not self._hopeless():
                self._submit(job, room - len(self._running), resources)
        if self._failures:
            raise self._failure(len(names))
        return [self._results[name] for name in names]

    def _hopeless(self) -> bool:
        reasons = {failed.reason for failed in self._failures.values()}
        return not self._results and len(self._failures) >= _GIVE_UP and len(reasons) == 1

    def _submit(self, job: Job, count: int, resources: dict[str, float]) -> None:
        for _ in range(min(count, len(self._waiting))):
            name = self._waiting.popleft()
            future = self.client.submit(self.task, job, name, pure=False, resources=resources)
            self._running[future] = name
            future.add_done_callback(self._ended.put)

    def _room(self, resources: dict[str, float], before: int) -> int:
        """Return how many tasks run at once by now; workers come and go."""
        try:
            return slots(self.client, resources)
        except (OSError, TimeoutError):
            return before  # the scheduler is being lost: the futures will say so

    def _take(self, future: Future) -> None:
        name = self._running.pop(future)
        outcome: Any = future.exception() if future.status == "error" else None
        if future.status == "finished":
            try:
                outcome = future.result(timeout=_RESULT_SECONDS)
            except TimeoutError as error:
                outcome = error  # the next try finds the receipt in the store
        if future.status == "cancelled":
            raise VecapError(
                f"{self.stage.name}: the Dask scheduler was lost; start it, then run the same command again: "
                "it does only what is missing"
            )
        future.release()
        if isinstance(outcome, Failed | BaseException):
            failed = outcome if isinstance(outcome, Failed) else Failed(_reason(outcome))
            if name not in self._failures and not failed.permanent:
                self._waiting.append(name)
            self._failures[name] = failed
            return
        self._results[name] = outcome
        self._failures.pop(name, None)
        if isinstance(outcome, ShardResult):
            _log_rates(self.stage, outcome)
            if self.progress_log:
                self.progress_log.add(outcome)

    def _failure(self, total: int) -> VecapError:
        by_reason: dict[str, list[str]] = {}
        for shard, failed in sorted(self._failures.items()):
            by_reason.setdefault(failed.reason, []).append(shard)
        (reason, (shard, *_)), *others = by_reason.items()
        for other, names in others:
            also = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            log.error("%s: shard %s%s: %s", self.stage.name, names[0], also, other)
        count = f"{len(self._failures)} of {total} shards failed; " if len(self._failures) > 1 else ""
        permanent = all(failed.permanent for failed in self._failures.values())
        kind = PermanentError if permanent else VecapError
        return kind(f"{self.stage.name}: {count}shard {shard}: {reason}")


def _reason(error: BaseException) -> str:
    """Say in one line why a task has no result."""
    from distributed import KilledWorker

    if isinstance(error, KilledWorker):
        return (
            "every worker that tried it was killed, perhaps for want of memory; "
            "give the workers more, or make shard_size or batch_size smaller"
        )
    return f"{format_error(error)} (the worker's log has the place)"


def _log_rates(stage: Stage, result: ShardResult) -> None:
    seconds = max(result.seconds, 1e-3)
    rates = [f"{result.counters.get(name, 0) / seconds:.1f} {name}/s" for name in stage.rates]
    notes = [f"{count} {name}" for name, count in result.notes.items()]
    log.info("%s", ", ".join([f"{stage.name} {result.shard}: {seconds:.1f} s", *rates, *notes]))
