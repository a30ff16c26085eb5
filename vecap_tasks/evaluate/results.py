"""`results.json`: metrics of all models and arms, with intervals and comparisons."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from vecap_tasks.config import BootstrapConfig
from vecap_tasks.core.manifest import Manifest
from vecap_tasks.core.store import Store
from vecap_tasks.core.verify import read_file
from vecap_tasks.errors import CorruptError
from vecap_tasks.evaluate.bootstrap import Rounds, arm_rounds, difference, interval, resample
from vecap_tasks.evaluate.metrics import Answers, figures_of, metrics_of

FILE = "results.json"
MAIN = ("image_to_text_1", "text_to_image_1", "zero_shot_top1")  # metrics in charts and comparisons


@dataclass(frozen=True, slots=True)
class SetSize:
    """The size of an evaluation set: `task` is retrieval or zero_shot; unused counts are 0."""

    name: str
    task: str
    images: int
    captions: int
    classes: int
    digest: str


@dataclass(frozen=True, slots=True)
class RunFigures:
    """The metrics of one trained model by key, from 0 to 1; `intervals` are [low, high] over images."""

    arm: str
    seed: int
    figures: dict[str, float]
    intervals: dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class ArmFigures:
    """The metrics of an arm over its seeds. `deviation` is the sample standard deviation, None for one seed;
    `intervals` are [low, high] over images and seeds."""

    arm: str
    seeds: int
    mean: dict[str, float]
    deviation: dict[str, float | None]
    intervals: dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The difference *arm* − *other* in *metric*, by paired bootstrap; `p` is two-sided."""

    arm: str
    other: str
    metric: str
    difference: float
    low: float
    high: float
    p: float


@dataclass(frozen=True, slots=True)
class Results:
    """All arms in the configuration's order, all models, comparisons of all pairs, and chance levels by key."""

    sets: tuple[SetSize, ...]
    titles: dict[str, str]
    arms: tuple[ArmFigures, ...]
    runs: tuple[RunFigures, ...]
    comparisons: tuple[Comparison, ...]
    chance: dict[str, float]
    confidence: float
    rounds: int

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, data: bytes, where: str) -> Results:
        """Parse the output of `to_json`. Raises CorruptError naming *where*."""
        try:
            body: dict[str, Any] = json.loads(data)
            body["sets"] = tuple(SetSize(**one) for one in body["sets"])
            body["arms"] = tuple(ArmFigures(**arm) for arm in body["arms"])
            body["runs"] = tuple(RunFigures(**run) for run in body["runs"])
            body["comparisons"] = tuple(Comparison(**one) for one in body["comparisons"])
            return cls(**body)
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptError(f"{where} is corrupt: {error}; run `vecap verify`") from error

    @property
    def main(self) -> list[str]:
        """The keys of the metrics `MAIN` of all sets, in order."""
        return [key for key in self.titles if key.rpartition(".")[2] in MAIN]

    def title(self, key: str) -> str:
        """Return the title of the metric *key* with the name of its set."""
        return f"{key.rpartition('.')[0]} {self.titles[key]}".lstrip()

    def of_set(self, name: str) -> list[str]:
        """Return the keys of the metrics of the set *name*, in order."""
        return [key for key in self.titles if key.rpartition(".")[0] == name]


def read_results(store: Store, manifest: Manifest) -> Results:
    """Return the results of the stage `evaluate`. Raises CorruptError."""
    name = manifest.file(FILE)
    return Results.from_json(read_file(store, manifest, FILE), name)


def summarize(
    runs: Mapping[tuple[str, int], Sequence[Answers]],
    sets: Sequence[SetSize],
    chance: dict[str, float],
    settings: BootstrapConfig,
) -> Results:
    """Return the results of the models *runs*, by (arm, seed) in order."""
    rounds = resample(list(runs.values()), settings)
    figures = [figures_of(answers) for answers in runs.values()]
    titles = {metric.key: metric.title for metric in metrics_of((a.set, a.task) for a in next(iter(runs.values())))}
    models = [
        RunFigures(arm, seed, figures[column], _intervals(rounds, column, settings))
        for column, (arm, seed) in enumerate(runs)
    ]
    by_arm: dict[str, list[int]] = {}
    for column, (arm, _) in enumerate(runs):
        by_arm.setdefault(arm, []).append(column)
    rounds_of_arms = {key: arm_rounds(values, list(by_arm.values()), settings) for key, values in rounds.items()}
    arms = []
    for index, (arm, columns) in enumerate(by_arm.items()):
        values = {key: [figures[column][key] for column in columns] for key in titles}
        mean = {key: statistics.fmean(seeds) for key, seeds in values.items()}
        deviation = {key: statistics.stdev(seeds) if len(seeds) > 1 else None for key, seeds in values.items()}
        arms.append(ArmFigures(arm, len(columns), mean, deviation, _intervals(rounds_of_arms, index, settings)))
    return Results(
        sets=tuple(sets),
        titles=titles,
        arms=tuple(arms),
        runs=tuple(models),
        comparisons=_compare(arms, rounds_of_arms, settings),
        chance=chance,
        confidence=settings.confidence,
        rounds=settings.rounds,
    )


def _intervals(rounds: Mapping[str, Rounds], column: int, settings: BootstrapConfig) -> dict[str, list[float]]:
    intervals = {key: interval(values[:, column], settings.confidence) for key, values in rounds.items()}
    return {key: [bounds.low, bounds.high] for key, bounds in intervals.items()}


def _compare(
    arms: Sequence[ArmFigures], rounds: Mapping[str, Rounds], settings: BootstrapConfig
) -> tuple[Comparison, ...]:
    comparisons = []
    for (i, left), (j, right) in combinations(enumerate(arms), 2):
        for key, values in rounds.items():
            observed = left.mean[key] - right.mean[key]
            found = difference(observed, values[:, i] - values[:, j], settings.confidence)
            comparisons.append(Comparison(left.arm, right.arm, key, found.difference, found.low, found.high, found.p))
    return tuple(comparisons)
