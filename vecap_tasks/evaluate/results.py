"""`results.json`: metrics of all models and arms, with intervals and comparisons."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vecap_tasks.config import BootstrapConfig
from vecap_tasks.core.manifest import Manifest
from vecap_tasks.core.store import Store
from vecap_tasks.core.verify import read_file
from vecap_tasks.errors import CorruptError
from vecap_tasks.evaluate.bootstrap import Rounds, arm_rounds, difference, interval, resample
from vecap_tasks.evaluate.metrics import Answers, chances_of, figures_of, metrics_of

if TYPE_CHECKING:
    from vecap_tasks.evaluate.sets import EvaluationSets

FILE = "results.json"
# Metrics in charts and comparisons.
MAIN = ("image_to_text_1", "text_to_image_1", "zero_shot_top1", "choice_accuracy", "pair_group", "probe_top1")


_LENGTHS = ((0, 8), (9, 16), (17, 32), (33, 64), (65, None))  # words of a caption


@dataclass(frozen=True, slots=True)
class SetSize:
    """The size of an evaluation set: `task` is a field of `EvaluationSets`; unused counts are 0.

    Of choices, `classes` is the number of groups; of linear_probe, `images` are the tested ones.
    """

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
class LengthRecall:
    """T2I R@1 of an arm over the captions of a set with *low* to *high* words (None: no limit), over its seeds."""

    set: str
    arm: str
    low: int
    high: int | None
    captions: int
    mean: float
    interval: list[float]


@dataclass(frozen=True, slots=True)
class Results:
    """All arms in the configuration's order, all models, comparisons of all pairs, and chance levels by key.

    `lengths` has the recall by caption length of sets whose captions differ in length.
    """

    sets: tuple[SetSize, ...]
    titles: dict[str, str]
    arms: tuple[ArmFigures, ...]
    runs: tuple[RunFigures, ...]
    comparisons: tuple[Comparison, ...]
    chance: dict[str, float]
    confidence: float
    rounds: int
    lengths: tuple[LengthRecall, ...] = ()

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
            body["lengths"] = tuple(LengthRecall(**one) for one in body.get("lengths", ()))
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


def summarize_sets(
    runs: Mapping[tuple[str, int], Sequence[Answers]],
    sets: EvaluationSets,
    digests: Sequence[str],
    settings: BootstrapConfig,
) -> Results:
    """Return the results of the models *runs* (by arm and seed) on all *sets*, whose *digests* are in their order."""
    captions = {dataset.name: dataset.captions for dataset in sets.retrieval}
    return summarize(runs, _sizes(sets, digests), chances_of(sets), captions, settings)


def _sizes(sets: EvaluationSets, digests: Sequence[str]) -> list[SetSize]:
    remaining = iter(digests)
    sizes = [SetSize(s.name, "retrieval", len(s.images), len(s.captions), 0, next(remaining)) for s in sets.retrieval]
    sizes += [SetSize(s.name, "zero_shot", len(s.images), 0, len(s.classes), next(remaining)) for s in sets.zero_shot]
    sizes += [
        SetSize(s.name, "choices", len(s.images), len(s.captions), len(s.groups), next(remaining)) for s in sets.choices
    ]
    return sizes + [
        SetSize(s.name, "linear_probe", len(s.images) - s.train, 0, len(s.classes), next(remaining))
        for s in sets.linear_probe
    ]


def summarize(
    runs: Mapping[tuple[str, int], Sequence[Answers]],
    sets: Sequence[SetSize],
    chance: dict[str, float],
    captions: Mapping[str, Sequence[str]],
    settings: BootstrapConfig,
) -> Results:
    """Return the results of the models *runs*, by (arm, seed) in order; *captions* are those of each retrieval set."""
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
        lengths=tuple(_by_length(runs, by_arm, captions, settings)),
    )


def _by_length(
    runs: Mapping[tuple[str, int], Sequence[Answers]],
    by_arm: Mapping[str, Sequence[int]],
    captions: Mapping[str, Sequence[str]],
    settings: BootstrapConfig,
) -> Iterator[LengthRecall]:
    """Yield T2I R@1 by caption length, for sets with captions in at least two ranges of `_LENGTHS`."""
    for name, texts in captions.items():
        words = np.array([len(text.split()) for text in texts])
        ranges = [(low, high, words >= low) for low, high in _LENGTHS]
        ranges = [(low, high, long & (words <= high) if high else long) for low, high, long in ranges]
        ranges = [(low, high, rows) for low, high, rows in ranges if rows.any()]
        if len(ranges) < 2:
            continue
        for low, high, rows in ranges:
            kept = [
                [replace(task, image=_renumbered(task.image[rows]), hits=task.hits[rows])]
                for answers in runs.values()
                for task in answers
                if (task.set, task.task) == (name, "text_to_image")
            ]
            metric = metrics_of([(name, "text_to_image")])[0].key
            rounds = arm_rounds(resample(kept, settings)[metric], list(by_arm.values()), settings)
            recalls = [float(answers.hits[:, 0].mean()) for [answers] in kept]
            for index, (arm, columns) in enumerate(by_arm.items()):
                mean = statistics.fmean(recalls[column] for column in columns)
                bounds = interval(rounds[:, index], settings.confidence)
                yield LengthRecall(name, arm, low, high, int(rows.sum()), mean, [bounds.low, bounds.high])


def _renumbered(images: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return *images* numbered from 0 without gaps, so that each resample has queries."""
    return np.unique(images, return_inverse=True)[1].astype(np.int32)


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
