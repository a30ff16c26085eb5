"""The results of all arms: mean and standard deviation over seeds, as JSON, a table and a plot."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vecap_tasks.dataset.manifest import Manifest
from vecap_tasks.dataset.store import Store
from vecap_tasks.errors import DamagedError

if TYPE_CHECKING:
    from vecap_tasks.evaluate.measure import Figures

RESULTS = "results.json"
METRICS: dict[str, str] = {
    "image_to_text_1": "I2T R@1",
    "image_to_text_5": "I2T R@5",
    "image_to_text_10": "I2T R@10",
    "text_to_image_1": "T2I R@1",
    "text_to_image_5": "T2I R@5",
    "text_to_image_10": "T2I R@10",
    "zero_shot_top1": "zero-shot",
}


@dataclass(frozen=True, slots=True)
class RunFigures:
    """The figures of one trained model, by the names of `METRICS`, in 0 to 1."""

    arm: str
    seed: int
    figures: dict[str, float]


@dataclass(frozen=True, slots=True)
class ArmFigures:
    """The figures of an arm over its seeds. `deviation` is the sample standard deviation, None for one seed."""

    arm: str
    seeds: int
    mean: dict[str, float]
    deviation: dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Results:
    """What `results.json` says: every arm in the configuration's order, every run, and chance."""

    images: int
    captions: int
    labels: int
    classes: int
    arms: tuple[ArmFigures, ...]
    runs: tuple[RunFigures, ...]
    chance: dict[str, float]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, data: bytes, where: str) -> Results:
        """Read what `to_json` wrote. Raises DamagedError naming *where* it lies."""
        try:
            body: dict[str, Any] = json.loads(data)
            body["arms"] = tuple(ArmFigures(**arm) for arm in body["arms"])
            body["runs"] = tuple(RunFigures(**run) for run in body["runs"])
            return cls(**body)
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedError(f"{where} is not a table of results: {error}; run `vecap verify`") from error


def summarise(runs: Iterable[RunFigures]) -> tuple[ArmFigures, ...]:
    """Return mean and deviation of every arm, in the order in which the arms first appear."""
    by_arm: dict[str, list[RunFigures]] = {}
    for run in runs:
        by_arm.setdefault(run.arm, []).append(run)
    made = []
    for arm, of_arm in by_arm.items():
        values = {name: [run.figures[name] for run in of_arm] for name in METRICS}
        mean = {name: statistics.fmean(found) for name, found in values.items()}
        deviation = {name: statistics.stdev(found) if len(found) > 1 else None for name, found in values.items()}
        made.append(ArmFigures(arm, len(of_arm), mean, deviation))
    return tuple(made)


def by_name(figures: Figures) -> dict[str, float]:
    """Return *figures* by the names of `METRICS`."""
    return {field.name: getattr(figures, field.name) for field in fields(figures)}


def read_results(store: Store, manifest: Manifest) -> Results:
    """Return the results that the stage `evaluate` published. Raises DamagedError."""
    name = manifest.file(RESULTS)
    return Results.from_json(store.read(name), name)


def format_table(results: Results) -> str:
    """Return the table of arms for a terminal: percent, mean ± deviation over the seeds."""
    rows = [["arm", *METRICS.values()], *_rows(results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in pairs).rstrip()
        for pairs in ([*enumerate(zip(row, widths, strict=True))] for row in rows)
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join([*lines, "", _caption(results)])


def format_markdown(results: Results) -> str:
    """Return the same table as Markdown."""
    head = ["arm", *METRICS.values()]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in _rows(results)]
    return "\n".join(["# Arms", "", _caption(results), "", *lines]) + "\n"


def plot_arms(results: Results, path: Path) -> None:
    """Write a bar chart of the arms, recall@1 both ways and zero-shot top-1, as PNG; no time or version enters it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = ("image_to_text_1", "text_to_image_1", "zero_shot_top1")
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    width = 0.8 / max(1, len(results.arms))
    for place, arm in enumerate(results.arms):
        axes.bar(
            [group + (place - (len(results.arms) - 1) / 2) * width for group in range(len(shown))],
            [100 * arm.mean[name] for name in shown],
            width,
            yerr=[100 * (arm.deviation[name] or 0.0) for name in shown],
            capsize=3,
            label=arm.arm,
        )
    for group, name in enumerate(shown):
        level = 100 * results.chance[name]
        axes.hlines(level, group - 0.45, group + 0.45, colors="black", linestyles="dotted", linewidth=1)
    axes.set_xticks(range(len(shown)), [METRICS[name] for name in shown])
    axes.set_ylabel("percent (dotted: chance)")
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(title="arm", frameon=False)
    figure.savefig(path, format="png", metadata={"Software": None})


def _rows(results: Results) -> list[list[str]]:
    rows = [[arm.arm, *(_cell(arm.mean[name], arm.deviation[name]) for name in METRICS)] for arm in results.arms]
    return [*rows, ["chance", *(f"{100 * results.chance[name]:.1f}" for name in METRICS)]]


def _cell(mean: float, deviation: float | None) -> str:
    return f"{100 * mean:.1f}" if deviation is None else f"{100 * mean:.1f} ± {100 * deviation:.1f}"


def _caption(results: Results) -> str:
    seeds = sorted({arm.seeds for arm in results.arms})
    count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    spread = f"mean ± standard deviation over {count} seeds" if seeds[-1] > 1 else "one seed"
    return (
        f"Percent, {spread}. {results.captions:,} captions and {results.labels:,} labels of "
        f"{results.images:,} images, {results.classes} classes."
    )
