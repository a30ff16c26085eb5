"""The models trained on a version, and their results with intervals."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean
from typing import TYPE_CHECKING

from vecap_airflow.pages.performance import StagePerformance, stage_performance
from vecap_airflow.pages.status import Status, stage_status
from vecap_tasks.core.stage_records import StageSummary, read_summary
from vecap_tasks.core.store import Store
from vecap_tasks.core.version import Version
from vecap_tasks.errors import CorruptError

if TYPE_CHECKING:
    from vecap_tasks.evaluate.results import Results

_MAX_TRAININGS = 5  # newest first
_MAX_RUNS = 24  # of a training, whose throughput is read
_RESULTS = "results.json"


@dataclass(frozen=True, slots=True)
class Figure:
    """A metric of an arm in percent, with the bounds of its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Arm:
    """The models of an arm: their runs (arm-seed), main metrics by title, and mean throughput in samples per second."""

    name: str
    runs: tuple[str, ...]
    figures: dict[str, Figure]
    samples_per_second: float | None


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference of two arms by metric title, in percentage points; significant if the interval excludes 0."""

    title: str
    figures: dict[str, Figure]


@dataclass(frozen=True, slots=True)
class Training:
    """A training of a version: `id` identifies its settings, `status` and `evaluation` say how far it is.

    `evaluation` is None if it is evaluated or not trained yet. `arms` have figures if it is evaluated. `metrics` are
    the titles of the main metrics, `chance` their chance levels, and `confidence` that of the intervals, in percent.
    `stages` are its committed stages.
    """

    id: str
    status: Status
    evaluation: Status | None
    arms: tuple[Arm, ...]
    differences: tuple[Difference, ...]
    metrics: tuple[str, ...]
    chance: dict[str, float]
    confidence: float
    stages: tuple[StagePerformance, ...]


def read_trainings(store: Store, version: Version, now: float) -> list[Training]:
    """Return the trainings of *version*, the newest first. Raises CorruptError."""
    trained = _folders(store, version, "train")
    evaluated = {folder: read_summary(store, folder) for folder in _folders(store, version, "evaluate")}
    by_training: dict[str, tuple[str, StageSummary]] = {}
    for folder, summary in evaluated.items():
        for item in summary.inputs if summary is not None else ():
            if item.kind == "stage" and item.name == "train":
                newest = by_training.get(item.digest)
                if summary is not None and (newest is None or newest[1].created < summary.created):
                    by_training[item.digest] = folder, summary
    unfinished = [folder for folder, summary in evaluated.items() if summary is None]
    found = []
    for folder in trained:
        summary = read_summary(store, folder)
        evaluation = by_training.get(summary.digest) if summary is not None else None
        pending = unfinished if summary is not None and evaluation is None else []
        found.append((summary.created if summary else "~", _training(store, folder, summary, evaluation, pending, now)))
    return [training for _, training in sorted(found, key=lambda pair: pair[0], reverse=True)[:_MAX_TRAININGS]]


def newest_results(store: Store, version: Version) -> Results | None:
    """Return the newest results of models trained on *version*, None if there are none. Raises CorruptError."""
    folders = _folders(store, version, "evaluate")
    summaries = [(folder, summary) for folder in folders if (summary := read_summary(store, folder)) is not None]
    if not summaries:
        return None
    _, newest = max(summaries, key=lambda pair: pair[1].created)
    return _read_results(store, newest.location, newest.digest)


def _folders(store: Store, version: Version, stage: str) -> list[str]:
    return [f"{version.folder}/{stage}/{name}" for name in store.folders(f"{version.folder}/{stage}")]


def _training(
    store: Store,
    folder: str,
    summary: StageSummary | None,
    evaluation: tuple[str, StageSummary] | None,
    unfinished: Iterable[str],
    now: float,
) -> Training:
    status = Status("published") if summary is not None else stage_status(store, folder, "train", now)
    pending = [stage_status(store, other, "evaluate", now) for other in unfinished]
    stages = [] if summary is None else [stage_performance("train", folder, summary)]
    results = None
    if evaluation is not None:
        stages.append(stage_performance("evaluate", *evaluation))
        results = _read_results(store, evaluation[1].location, evaluation[1].digest)
    names = _run_names(store, folder)[:_MAX_RUNS]
    speeds = {name: _read_speed(store, folder, name, summary.digest) for name in names} if summary is not None else {}
    return Training(
        id=folder.rpartition("/")[2],
        status=status,
        evaluation=next(iter(pending), None),
        arms=_arms(results, names, speeds),
        differences=_differences(results) if results else (),
        metrics=tuple(results.title(key) for key in results.main) if results else (),
        chance={results.title(key): 100 * results.chance[key] for key in results.main if key in results.chance}
        if results
        else {},
        confidence=100 * results.confidence if results else 0.0,
        stages=tuple(stages),
    )


def _run_names(store: Store, folder: str) -> list[str]:
    return [name for name in store.folders(folder) if not name.startswith("_")]


def _arms(results: Results | None, names: list[str], speeds: dict[str, float | None]) -> tuple[Arm, ...]:
    by_arm: dict[str, list[str]] = {}
    for name in names:
        by_arm.setdefault(name.rpartition("-")[0], []).append(name)
    figures = {
        arm.arm: {
            results.title(key): Figure(100 * arm.mean[key], *(100 * bound for bound in arm.intervals[key]))
            for key in results.main
        }
        for arm in (results.arms if results else ())
        if results is not None
    }
    order = [*figures, *(arm for arm in by_arm if arm not in figures)]
    found = []
    for arm in order:
        runs = by_arm.get(arm, [])
        known = [speed for name in runs if (speed := speeds.get(name)) is not None]
        found.append(Arm(arm, tuple(runs), figures.get(arm, {}), fmean(known) if known else None))
    return tuple(found)


def _differences(results: Results) -> tuple[Difference, ...]:
    pairs: dict[tuple[str, str], dict[str, Figure]] = {}
    for found in results.comparisons:
        if found.metric in results.main:
            figures = pairs.setdefault((found.arm, found.other), {})
            figures[results.title(found.metric)] = Figure(100 * found.difference, 100 * found.low, 100 * found.high)
    return tuple(Difference(f"{arm} − {other}", figures) for (arm, other), figures in pairs.items())


@lru_cache(maxsize=256)
def _read_results(store: Store, folder: str, digest: str) -> Results:  # digest is part of the cache key
    from vecap_tasks.evaluate.results import Results

    name = f"{folder}/{_RESULTS}"
    try:
        return Results.from_json(store.read(name), name)
    except FileNotFoundError as error:
        raise CorruptError(f"{name} is missing; restore it") from error


@lru_cache(maxsize=1_024)
def _read_speed(store: Store, folder: str, run: str, digest: str) -> float | None:
    """Return the mean throughput of a run in samples per second, None if it was not recorded."""
    try:
        lines = store.read(f"{folder}/{run}/throughput.jsonl").splitlines()
        return fmean(float(json.loads(line)["samples_per_second"]) for line in lines) if lines else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
