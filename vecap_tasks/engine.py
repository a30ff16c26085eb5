"""Spreads a stage's shards over Dask workers: an existing cluster by address, or processes started for the run.

The scheduler holds a few tasks a worker, whatever the size of the job. A shard that fails does not stop the others:
what is done stays done, and the first failure is raised at the end.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vecap_tasks.config import Config, environment, expand, parse_config
from vecap_tasks.dataset.stage import ShardResult, Stage
from vecap_tasks.dataset.version import Version
from vecap_tasks.errors import VecapError, one_line
from vecap_tasks.stages import load_stage

if TYPE_CHECKING:
    from distributed import Client, Future

log = logging.getLogger(__name__)
T = TypeVar("T")
Progress = Callable[[int, int], None]  # shards done, shards in all

_LOG_LEVEL = "DASK_LOGGING__DISTRIBUTED"
_SPAWN = "distributed.nanny.pre-spawn-environ"
_AHEAD = 2  # tasks a worker holds beyond the one that it runs
_PATIENCE_SECONDS = 30  # for a scheduler to answer, and for a worker to join it
_GIVE_UP = 5  # shards that fail for the same reason, none being done: the fault is not theirs, no more are begun


def prepare(stage: Stage, progress: Progress | None = None) -> None:
    """Do what the shards of *stage* follow from, its parts side by side. Raises VecapError after the last one."""
    parts = stage.unprepared()
    report = progress or (lambda done, total: None)
    if len(parts) > 1 and stage.on_workers:
        with connect(stage.config) as client:
            _spread(client, stage, parts, report, prepare_part)
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
    if stage.on_workers:
        with connect(stage.config) as client:
            return _spread(client, stage, shards, report, run_shard)
    results = []
    for done, shard in enumerate(shards, start=1):
        results.append(stage.run(shard))
        _log_rates(stage, results[-1])
        report(done, len(shards))
    return results


@dataclass(frozen=True, slots=True)
class Job:
    """A stage as it travels to a worker. `environment` has the values of the variables that the configuration names,
    so that a worker started elsewhere writes to the same places."""

    config: str
    base: str
    environment: tuple[tuple[str, str | None], ...]
    stage: str
    version: Version

    @classmethod
    def of(cls, stage: Stage) -> Job:
        config = stage.config.model_dump_json()
        return cls(config, str(stage.config.base), environment(config), stage.name, stage.version)


@dataclass(frozen=True, slots=True)
class Failed:
    """What a worker answers where a task failed for a reason that a person can act on: a line, and no traceback."""

    reason: str


def run_shard(job: Job, shard: str) -> ShardResult | Failed:
    """Do one shard on a worker. The stage, with the models it loaded, stays for the worker's next shard."""
    try:
        return _stage_here(job).run(shard)
    except (VecapError, OSError) as error:
        return Failed(one_line(error))


def prepare_part(job: Job, part: str) -> Failed | None:
    """Prepare one part on a worker."""
    try:
        _stage_here(job).prepare(part)
    except (VecapError, OSError) as error:
        return Failed(one_line(error))
    return None


def _stage_here(job: Job) -> Stage:
    for name, value in job.environment:
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    return _stage(job)


@lru_cache(maxsize=2)
def _stage(job: Job) -> Stage:
    return load_stage(job.stage, parse_config(json.loads(job.config), Path(job.base)), job.version)


def _spread(
    client: Client, stage: Stage, shards: Sequence[str], report: Progress, task: Callable[[Job, str], T | Failed]
) -> list[T]:
    """Do *task* for each of *shards*; one that fails is tried once more, after the others."""
    from distributed import as_completed

    resources = stage.config.dask.resources if stage.name == "rewrite" else {}
    slots = _slots(client, resources)
    job = Job.of(stage)
    waiting = deque(shards)
    running: dict[Future, str] = {}

    def submit(count: int) -> list[Future]:
        names = [waiting.popleft() for _ in range(min(count, len(waiting)))]
        begun = {client.submit(task, job, name, pure=False, resources=resources): name for name in names}
        running.update(begun)
        return list(begun)

    results: dict[str, T] = {}
    failures: dict[str, str] = {}  # of the last try
    first = submit(slots * (1 + _AHEAD))
    completed = as_completed(first, loop=client.loop, with_results=True, raise_errors=False)
    for future, outcome in completed:
        shard = running.pop(future)
        if future.status == "cancelled":
            raise VecapError(
                f"{stage.name}: the Dask scheduler was lost; start it, then run the same command again: "
                "it does only what is missing"
            )
        if future.status == "finished" and not isinstance(outcome, Failed):
            results[shard] = outcome
            failures.pop(shard, None)
            if isinstance(outcome, ShardResult):
                _log_rates(stage, outcome)
        else:
            if shard not in failures and not _killed(outcome):
                waiting.append(shard)
            failures[shard] = outcome.reason if isinstance(outcome, Failed) else _reason(outcome)
        future.release()
        report(len(results), len(shards))
        if results or len(failures) < _GIVE_UP or len(set(failures.values())) > 1:
            completed.update(submit(1))
    if failures:
        by_reason: dict[str, list[str]] = {}
        for shard, reason in sorted(failures.items()):
            by_reason.setdefault(reason, []).append(shard)
        (reason, (shard, *_)), *others = by_reason.items()
        for other, names in others:
            also = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            log.error("%s: shard %s%s: %s", stage.name, names[0], also, other)
        count = f"{len(failures)} of {len(shards)} shards failed; " if len(failures) > 1 else ""
        raise VecapError(f"{stage.name}: {count}shard {shard}: {reason}")
    return [results[shard] for shard in shards]


def _reason(outcome: Any) -> str:
    """Say in one line why a task has no result; *outcome* is what `as_completed` gave with it."""
    if _killed(outcome):
        return (
            "every worker that tried it was killed, perhaps for want of memory; "
            "give the workers more, or make shard_size or batch_size smaller"
        )
    return f"{one_line(_raised(outcome))} (the worker's log has the place)"


def _killed(outcome: Any) -> bool:
    from distributed import KilledWorker

    return isinstance(_raised(outcome), KilledWorker)


def _raised(outcome: Any) -> BaseException:
    error: BaseException = outcome[1] if isinstance(outcome, tuple) else outcome
    return error


def _log_rates(stage: Stage, result: ShardResult) -> None:
    seconds = max(result.seconds, 1e-3)
    rates = [f"{result.counters.get(name, 0) / seconds:.1f} {name}/s" for name in stage.rates]
    notes = [f"{count} {name}" for name, count in result.notes.items()]
    log.info("%s", ", ".join([f"{stage.name} {result.shard}: {seconds:.1f} s", *rates, *notes]))


def _slots(client: Client, resources: Mapping[str, float]) -> int:
    """Return how many tasks run at once, workers being there that have the *resources*. Raises VecapError if none."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        able = [w for w in workers if all(w.get("resources", {}).get(name, 0) >= n for name, n in resources.items())]
        if able:
            return sum(int(worker["nthreads"]) for worker in able)
        if time.monotonic() > deadline:
            need = f" with {dict(resources)}" if resources else ""
            raise VecapError(f"the Dask cluster has no worker{need}; start one, or change dask.resources")
        time.sleep(0.5)


@contextmanager
def connect(config: Config) -> Iterator[Client]:
    """Give a client of the configured cluster, or of worker processes that end with the block.

    Raises VecapError when nothing answers at the address.
    """
    import dask.config
    from distributed import Client, LocalCluster

    if not log.isEnabledFor(logging.DEBUG):
        logging.getLogger("distributed").setLevel(logging.WARNING)  # it tells of every connection otherwise
    address = config.dask.address and expand(config.dask.address)
    if address:
        try:
            client = Client(address, timeout=_PATIENCE_SECONDS, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise VecapError(f"no Dask scheduler answers at {address}; start it, or change dask.address") from error
        with client:
            yield client
        return
    logging.getLogger("distributed.nanny").setLevel(logging.ERROR)  # workers that are slow to end are no news
    # Dask has malloc give every freed buffer back to the system, which then fills a new one with zeros for each image:
    # some 1 ms of CPU per photograph that is decoded.
    variables = dict(dask.config.get(_SPAWN))
    variables.pop("MALLOC_TRIM_THRESHOLD_", None)
    with _quiet_children(), dask.config.set({_SPAWN: variables}):
        cluster = LocalCluster(
            n_workers=config.dask.workers,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address=None,
            resources=config.dask.resources or None,
            # A shard bounds its own memory; Dask would pause a worker at 80 % of its share, and wait for ever.
            memory_limit=0,
        )
    with cluster, Client(cluster, set_as_default=False) as client:
        yield client


@contextmanager
def _quiet_children() -> Iterator[None]:
    """Let processes that are started here ignore Ctrl-C, which reaches them too: who started them ends them.

    They also keep to themselves that their scheduler has ended, which Dask tells as if it were a fault.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    configured = _LOG_LEVEL in os.environ
    os.environ.setdefault(_LOG_LEVEL, "error")
    usual = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
        if not configured:
            del os.environ[_LOG_LEVEL]
