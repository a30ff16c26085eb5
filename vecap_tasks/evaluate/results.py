"""`results.json`: every model, every arm over its seeds, intervals, and the arms compared."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from vecap_tasks.dataset.manifest import Manifest
from vecap_tasks.dataset.store import Store
from vecap_tasks.errors import DamagedError

FILE = "results.json"
MAIN = ("image_to_text_1", "text_to_image_1", "zero_shot_top1")  # what charts and comparisons show of each set


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

    @property
    def main(self) -> list[str]:
        """The keys of recall@1 both ways and top-1 of all sets, in their order."""
        return [key for key in self.titles if key.rpartition(".")[2] in MAIN]

    def title(self, key: str) -> str:
        """Return what the metric *key* is called where several sets are shown together."""
        return f"{key.rpartition('.')[0]} {self.titles[key]}".lstrip()

    def of_set(self, name: str) -> list[str]:
        """Return the keys of the metrics of the set *name*, in their order."""
        return [key for key in self.titles if key.rpartition(".")[0] == name]


def read_results(store: Store, manifest: Manifest) -> Results:
    """Return the results that the stage `evaluate` published. Raises DamagedError."""
    name = manifest.file(FILE)
    return Results.from_json(store.read(name), name)
