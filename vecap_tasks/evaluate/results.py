"""`results.json`: every model, every arm over its seeds, intervals, and the arms compared."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from vecap_tasks.config import BootstrapConfig
from vecap_tasks.dataset.manifest import Manifest
from vecap_tasks.dataset.store import Store
from vecap_tasks.errors import DamagedError

if TYPE_CHECKING:
    from vecap_tasks.evaluate.answers import Answers

FILE = "results.json"


@dataclass(frozen=True, slots=True)
class SetSize:
    """A set as it was read: `task` is retrieval or zero_shot; captions and classes are 0 where there are none."""

    name: str
    task: str
    images: int
    captions: int
    classes: int
    digest: str


@dataclass(frozen=True, slots=True)
class RunFigures:
    """The figures of one trained model by their keys, in 0 to 1; `intervals` are [low, high] over drawn images."""

    arm: str
    seed: int
    figures: dict[str, float]
    intervals: dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class ArmFigures:
    """The figures of an arm over its seeds. `deviation` is the sample standard deviation, None for one seed;
    `intervals` are [low, high] over drawn images and seeds."""

    arm: str
    seeds: int
    mean: dict[str, float]
    deviation: dict[str, float | None]
    intervals: dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """How much *arm* is above *other* in *metric*, by paired bootstrap; `p` is two-sided."""

    arm: str
    other: str
    metric: str
    difference: float
    low: float
    high: float
    p: float


@dataclass(frozen=True, slots=True)
class Results:
    """Every arm in the configuration's order, every model, all pairs of arms, and chance. `titles` are by key."""

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
        """Read what `to_json` wrote. Raises DamagedError naming *where* it lies."""
        try:
            body: dict[str, Any] = json.loads(data)
            body["sets"] = tuple(SetSize(**one) for one in body["sets"])
            body["arms"] = tuple(ArmFigures(**arm) for arm in body["arms"])
            body["runs"] = tuple(RunFigures(**run) for run in body["runs"])
            body["comparisons"] = tuple(Comparison(**one) for one in body["comparisons"])
            return cls(**body)
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedError(f"{where} is not a table of results: {error}; run `vecap verify`") from error

    def of_set(self, name: str) -> list[str]:
        """Return the keys of the metrics of the set *name*, in their order."""
        return [key for key in self.titles if key.rpartition(".")[0] == name]


def summarise(
    runs: Mapping[tuple[str, int], Sequence[Answers]],
    sets: Sequence[SetSize],
    chance: dict[str, float],
    settings: BootstrapConfig,
) -> Results:
    """Return the results of the models *runs*, by arm and seed, in their order."""
    from vecap_tasks.evaluate.bootstrap import arm_rounds, interval, resample
    from vecap_tasks.evaluate.metrics import figures_of, metrics_of

    rounds = resample(list(runs.values()), settings)
    figures = [figures_of(answers) for answers in runs.values()]
    titles = {one.key: one.title for one in metrics_of((a.set, a.task) for a in next(iter(runs.values())))}
    models = [
        RunFigures(arm, seed, figures[place], {key: _ends(interval(rounds[key][:, place], settings.confidence))
                                               for key in titles})
        for place, (arm, seed) in enumerate(runs)
    ]  # fmt: skip
    by_arm: dict[str, list[int]] = {}
    for place, (arm, _) in enumerate(runs):
        by_arm.setdefault(arm, []).append(place)
    of_arms = {key: arm_rounds(rounds[key], list(by_arm.values()), settings) for key in titles}
    arms = []
    for place, (arm, columns) in enumerate(by_arm.items()):
        values = {key: [figures[column][key] for column in columns] for key in titles}
        arms.append(
            ArmFigures(
                arm,
                len(columns),
                {key: statistics.fmean(found) for key, found in values.items()},
                {key: statistics.stdev(found) if len(found) > 1 else None for key, found in values.items()},
                {key: _ends(interval(of_arms[key][:, place], settings.confidence)) for key in titles},
            )
        )
    return Results(
        tuple(sets), titles, tuple(arms), tuple(models), _compare(arms, of_arms, settings), chance,
        settings.confidence, settings.rounds,
    )  # fmt: skip


def _compare(
    arms: Sequence[ArmFigures], rounds: Mapping[str, Any], settings: BootstrapConfig
) -> tuple[Comparison, ...]:
    from vecap_tasks.evaluate.bootstrap import difference

    made = []
    for (left, one), (right, other) in combinations(enumerate(arms), 2):
        for key, values in rounds.items():
            observed = one.mean[key] - other.mean[key]
            found = difference(observed, values[:, left] - values[:, right], settings.confidence)
            made.append(Comparison(one.arm, other.arm, key, *(found.difference, found.low, found.high, found.p)))
    return tuple(made)


def _ends(found: Any) -> list[float]:
    return [found.low, found.high]


def read_results(store: Store, manifest: Manifest) -> Results:
    """Return the results that the stage `evaluate` published. Raises DamagedError."""
    name = manifest.file(FILE)
    return Results.from_json(store.read(name), name)
