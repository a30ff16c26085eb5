"""Follows a DAG run through Airflow's REST API: a progress bar per stage on a terminal, plain lines otherwise."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vecap_tasks.config import Config
from vecap_tasks.core.manifest import RECEIPTS
from vecap_tasks.core.stage import Stage, load_stage
from vecap_tasks.core.store import Store
from vecap_tasks.core.version import read_version
from vecap_tasks.errors import VecapError
from vecap_tasks.local.airflow import Api
from vecap_tasks.progress import show_bars, shows_bars

_POLL_SECONDS = 1.0
_LINE_INTERVAL = 5.0
_FINAL_STATES = ("success", "failed")
_MAX_FAILED_POLLS = 30  # in a row


class RunFailed(VecapError):
    """A DAG run failed. The message contains the task, its last error and the path of its log."""


@dataclass(frozen=True, slots=True)
class DagRun:
    """One run of a DAG."""

    dag: str
    run: str

    @property
    def path(self) -> str:
        return f"/api/v2/dags/{self.dag}/dagRuns/{quote(self.run, safe='')}"


@dataclass(frozen=True, slots=True)
class TaskState:
    """One task instance. `map_index` is -1 if the task is not mapped."""

    task: str
    map_index: int
    state: str | None
    attempts: int


class StageProgress:
    """Progress of one stage of a run. `total` is None until the stage is planned."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.begin: float | None = None
        self.seconds: float | None = None
        self.total: int | None = None
        self.planned = 0
        self.done = 0
        self._stage: Stage | None = None
        self._initial_receipts = 0

    def update(self, api: Api, run: DagRun, tasks: Sequence[TaskState], config: Config) -> None:
        """Update from the stage's task states and the receipts of its shards."""
        own = {task.task.removeprefix(f"{self.name}."): task for task in tasks if task.task.startswith(f"{self.name}.")}
        states = {name: task.state for name, task in own.items()}
        if self.begin is None and any(states.values()):
            self.begin = time.monotonic()
        if self.total is None and states.get("plan") == "success":
            self._read_plan(api, run, config)
        if self._stage is not None and self.total is not None and self.planned:
            receipts = len(self._stage.store.files(f"{self._stage.folder}/{RECEIPTS}"))
            self.done = min(self.planned, receipts - self._initial_receipts)
        if self.begin is not None and self.seconds is None and states.get("commit") == "success":
            self.done = self.planned
            self.seconds = time.monotonic() - self.begin

    def _read_plan(self, api: Api, run: DagRun, config: Config) -> None:
        entry = api.get(f"{run.path}/taskInstances/{self.name}.plan/xcomEntries/return_value")
        groups = entry["value"] if isinstance(entry["value"], list) else json.loads(entry["value"])
        shards = [shard for group in groups for shard in group]
        self.planned = self.total = len(shards)
        if shards:
            version, _, _ = shards[0].partition("/")
            store = Store(config.resolve(config.root))
            self._stage = load_stage(self.name, config, read_version(store, config.dataset, version))
            names = {shard.partition("/")[2] for shard in shards}
            receipts = {name.removesuffix(".json") for name in store.files(f"{self._stage.folder}/{RECEIPTS}")}
            self._initial_receipts = len(receipts - names)


def follow(api: Api, run: DagRun, stages: Sequence[str], config: Config, logs: Path) -> None:
    """Show the run's progress until it ends.

    Raises RunFailed if the run failed and VecapError if Airflow stops responding.
    """
    progress = [StageProgress(name) for name in stages]
    failed_polls = 0
    with _display(progress) as show:
        while True:
            try:
                state = api.get(run.path)["state"]
                tasks = _tasks(api, run)
                for stage in progress:
                    stage.update(api, run, tasks, config)
                failed_polls = 0
            except VecapError:
                failed_polls += 1
                if failed_polls > _MAX_FAILED_POLLS:
                    raise
                time.sleep(_POLL_SECONDS)
                continue
            show(tasks)
            if state in _FINAL_STATES:
                break
            time.sleep(_POLL_SECONDS)
    if state == "failed":
        raise RunFailed(failure_reason(run, tasks, logs))


def _tasks(api: Api, run: DagRun) -> list[TaskState]:
    instances: list[dict[str, Any]] = []
    while True:
        page = api.get(f"{run.path}/taskInstances?limit=100&offset={len(instances)}")
        instances += page["task_instances"]
        if len(instances) >= page["total_entries"] or not page["task_instances"]:
            return [TaskState(t["task_id"], t["map_index"], t["state"], t["try_number"]) for t in instances]


def failure_reason(run: DagRun, tasks: Sequence[TaskState], logs: Path) -> str:
    """Return in one line why *run* failed. *logs* is Airflow's folder of task logs."""
    failed = [task for task in tasks if task.state == "failed"]
    if not failed:
        return f"{run.dag} {run.run} failed without a failed task; see {logs}"
    task = failed[0]
    name = task.task if task.map_index < 0 else f"{task.task}[{task.map_index}]"
    folder = logs / f"dag_id={run.dag}" / f"run_id={run.run}" / f"task_id={task.task}"
    if task.map_index >= 0:
        folder /= f"map_index={task.map_index}"
    log = folder / f"attempt={task.attempts}.log"
    return f"{run.dag}: task {name} failed: {last_error(log)} (log: {log})"


def last_error(log: Path) -> str:
    """Return the last error in a task's log (JSON lines), in one line."""
    message = "no error in its log"
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "no log found"
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.get("level") in ("error", "critical"):
            details = entry.get("error_detail") or [{}]
            message = str(details[0].get("exc_value") or entry.get("event") or message)
    return " ".join(message.split())[:500]


ProgressView = Callable[[Sequence[TaskState]], None]


@contextmanager
def _display(stages: Sequence[StageProgress]) -> Iterator[ProgressView]:
    if not shows_bars(sys.stdout):
        yield _lines(stages)
        return
    with show_bars(sys.stdout) as bars:
        by_stage = [(stage, bars.add(stage.name)) for stage in stages]

        def show(tasks: Sequence[TaskState]) -> None:
            for stage, bar in by_stage:
                if stage.seconds is not None:
                    count = stage.total or 1  # a stage that was already complete shows a full bar: one of one
                    bar.update(count, count, "shards")
                    bar.finish()
                elif stage.begin is not None:
                    bar.update(stage.done, stage.total or None, "shards" if stage.total else "planning")

        yield show


def _lines(stages: Sequence[StageProgress]) -> ProgressView:
    printed: set[tuple[str, str]] = set()
    last: dict[str, tuple[float, int]] = {}

    def print_once(stage: StageProgress, event: str, line: str) -> None:
        if (stage.name, event) not in printed:
            printed.add((stage.name, event))
            print(line, flush=True)

    def show(tasks: Sequence[TaskState]) -> None:
        for stage in stages:
            now = time.monotonic()
            if stage.begin is None:
                continue
            print_once(stage, "begin", f"{stage.name}: started")
            if stage.seconds is not None:
                work = f"{stage.total} shards" if stage.total else "already complete"
                print_once(stage, "end", f"{stage.name}: done in {stage.seconds:.0f} s, {work}")
                continue
            when, done = last.get(stage.name, (0.0, -1))
            if stage.total and stage.done != done and now - when >= _LINE_INTERVAL:
                last[stage.name] = (now, stage.done)
                print(f"{stage.name}: {stage.done} of {stage.total} shards", flush=True)
            for task in tasks:
                if task.task.startswith(f"{stage.name}.") and task.state in ("up_for_retry", "failed"):
                    name = f"{task.task}[{task.map_index}]"
                    print_once(
                        stage, f"{name} {task.state} {task.attempts}", f"{name}: {task.state} (attempt {task.attempts})"
                    )

    return show
