"""The paper's tables in miniature: CLIP trained on each text, on each share of AltText, and on curated data.

    python -m benchmarks.arms [--part NAME …] [--sizes N …] [--seeds N] [--json FILE] [--tables FILE]

Parts, each a table and a plot with 95 % intervals over images and seeds:

    locked     the arms at each size, with the locked image tower of the demo
    scratch    the arms at each size, with random weights
    shares     the share of AltText in the texts from 0 to 1, at the largest size
    lengths    the first tokens of VeCap instead of all, at the largest size
    curated    the curated part alone, VeCap alone, and both, at the largest size

A size is the number of images in the crawl. Every model trains for the same number of steps, so that only the data
differs, and all share the evaluation sets. Files are in `.vecap/benchmarks/arms`; an interrupted benchmark resumes.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.arms_runs import REPOSITORY, Outcome, prepare, run, trainings
from benchmarks.report import Measure, machine
from vecap_tasks.evaluate.results import ArmFigures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PARTS = {
    "locked": "Arms with the locked image tower",
    "scratch": "Arms from scratch",
    "shares": "Share of AltText in the texts",
    "lengths": "First tokens of VeCap",
    "curated": "Curated data, VeCap, and both",
}
# Metric -> column of the tables.
SHOWN = {
    "image_to_text_1": "Captions I2T R@1",
    "text_to_image_1": "Captions T2I R@1",
    "names.text_to_image_1": "Names T2I R@1",
    "zero_shot_top1": "Kinds",
    "varieties.zero_shot_top1": "Varieties",
}
_PLOTTED = ("text_to_image_1", "names.text_to_image_1", "zero_shot_top1", "varieties.zero_shot_top1")


def rows(outcomes: Sequence[Outcome]) -> list[tuple[Outcome, str, ArmFigures]]:
    """Return each arm of all outcomes with its label."""
    return [(outcome, outcome.training.labels[arm.arm], arm) for outcome in outcomes for arm in outcome.results.arms]


def table(outcomes: Sequence[Outcome]) -> str:
    """Return a Markdown table: one row per arm and size, in percent."""
    lines = [
        "| Images | Samples | Texts | " + " | ".join(SHOWN.values()) + " |",
        "| ---: | ---: | --- |" + " ---: |" * len(SHOWN),
    ]
    for outcome, label, arm in rows(outcomes):
        cells = [f"{_percent(arm.mean[key])} ({_ends(arm.intervals[key])})" for key in SHOWN]
        lines.append(f"| {outcome.images:,} | {outcome.samples:,} | {label} | " + " | ".join(cells) + " |")
    chance = [_percent(outcomes[0].results.chance[key]) for key in SHOWN]
    lines.append("| | | chance | " + " | ".join(chance) + " |")
    return "\n".join(lines) + "\n"


def differences(outcomes: Sequence[Outcome]) -> str:
    """Return a Markdown table of the paired differences at the largest size; empty without arms to compare."""
    last = outcomes[-1].results
    known = {(found.arm, found.other, found.metric): found for found in last.comparisons}
    lines = ["| Difference | " + " | ".join(SHOWN.values()) + " |", "| --- |" + " ---: |" * len(SHOWN)]
    for arm, other in dict.fromkeys((found.arm, found.other) for found in last.comparisons):
        found = [known[arm, other, key] for key in SHOWN]
        # The later arm minus the earlier one.
        cells = [f"{-100 * one.difference:+.1f} ({-100 * one.high:+.1f} to {-100 * one.low:+.1f})" for one in found]
        lines.append(f"| {other} − {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n" if last.comparisons else ""


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _ends(interval: Sequence[float]) -> str:
    return f"{_percent(interval[0])} to {_percent(interval[1])}"


def plot(part: str, outcomes: Sequence[Outcome], path: Path) -> None:
    """Plot the metrics as PNG with intervals: over the samples for arms at several sizes, else over the labels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, key in zip(figure.subplots(1, len(_PLOTTED)), _PLOTTED, strict=True):
        if part in ("locked", "scratch"):
            _plot_sizes(axes, outcomes, key)
        else:
            found = rows(outcomes)
            below, above = _errors([arm for _, _, arm in found], key)
            style = "o-" if part != "curated" else "o"
            x = range(len(found))
            axes.errorbar(x, _means([arm for _, _, arm in found], key), [below, above], fmt=style, capsize=2)
            axes.set_xticks(list(x), [label for _, label, _ in found], rotation=45 if len(found) > 5 else 0)
        axes.axhline(100 * outcomes[0].results.chance[key], color="black", linestyle="dotted", linewidth=1)
        axes.set_ylim(bottom=0)
        axes.set_title(SHOWN[key])
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("percent (dotted: chance)")
    if part in ("locked", "scratch"):
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    figure.supxlabel({"shares": "share of AltText", "lengths": "VeCap", "curated": "data"}.get(part, "samples"))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", metadata={"Software": None})


def _plot_sizes(axes: Axes, outcomes: Sequence[Outcome], key: str) -> None:
    """Plot one line per arm; points are shifted horizontally, so that the intervals do not overlap."""
    labels = list(outcomes[0].training.labels)
    for position, label in enumerate(labels):
        arms = [next(arm for arm in outcome.results.arms if arm.arm == label) for outcome in outcomes]
        x = [outcome.samples * 1.03 ** (position - len(labels) / 2) for outcome in outcomes]
        axes.errorbar(x, _means(arms, key), list(_errors(arms, key)), fmt="o-", markersize=4, capsize=2, label=label)
    axes.set_xscale("log")
    axes.set_xticks([outcome.samples for outcome in outcomes], [f"{outcome.samples:,}" for outcome in outcomes])
    axes.minorticks_off()


def _means(arms: Sequence[ArmFigures], key: str) -> list[float]:
    return [100 * arm.mean[key] for arm in arms]


def _errors(arms: Sequence[ArmFigures], key: str) -> tuple[list[float], list[float]]:
    """Return how far each interval reaches below and above the mean."""
    below = [max(0.0, 100 * (arm.mean[key] - arm.intervals[key][0])) for arm in arms]
    above = [max(0.0, 100 * (arm.intervals[key][1] - arm.mean[key])) for arm in arms]
    return below, above


def measures(part: str, outcomes: Sequence[Outcome], conditions: str) -> list[Measure]:
    """Return the results in percent, compared with chance."""
    return [
        Measure(
            f"{part} {outcome.images} {label} {title}", "%", 100 * arm.mean[key],
            100 * outcome.results.chance[key], None,
            f"{outcome.samples} samples; 95 %: {_ends(arm.intervals[key])}; theirs: chance; {conditions}",
        )
        for outcome, label, arm in rows(outcomes)
        for key, title in SHOWN.items()
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append", help="run only this part; repeatable")
    parser.add_argument("--sizes", type=int, nargs="+", default=[300, 1000, 3000], help="images (default %(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="seeds per arm (default %(default)s)")
    parser.add_argument("--steps", type=int, default=200, help="training steps (default %(default)s)")
    parser.add_argument("--scratch-steps", type=int, default=600, help="those from scratch (default %(default)s)")
    parser.add_argument("--plots", type=Path, default=REPOSITORY / "docs" / "images", help="folder of the plots")
    parser.add_argument("--tables", type=Path, help="write the tables to this file as well")
    parser.add_argument("--json", type=Path, help="write the measures to this file")
    arguments = parser.parse_args()
    folder = Path(os.environ.get("VECAP_HOME") or REPOSITORY / ".vecap").resolve() / "benchmarks" / "arms"
    sizes = sorted(arguments.sizes)
    texts, found = [], []
    for part in arguments.part or PARTS:
        begin = time.monotonic()
        steps = arguments.scratch_steps if part == "scratch" else arguments.steps
        conditions = f"{arguments.seeds} seeds, {steps} steps, {machine()}"
        outcomes = []
        for images in sizes if part in ("locked", "scratch") else sizes[-1:]:
            prepare(folder / str(images), images)
            outcomes += [
                run(folder / str(images), images, training, arguments.seeds, steps) for training in trainings(part)
            ]
        text = f"## {PARTS[part]}\n\n{table(outcomes)}"
        if part in ("locked", "scratch"):
            text += f"\nAt {sizes[-1]:,} images, paired:\n\n{differences(outcomes)}"
        print(f"\n{text}\n{conditions}; {time.monotonic() - begin:.0f} s", flush=True)
        plot(part, outcomes, arguments.plots / f"arms-{part}.png")
        texts.append(text)
        found += measures(part, outcomes, conditions)
    if arguments.tables:
        arguments.tables.write_text("\n".join(texts), "utf-8")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) | {"ratio": row.ratio} for row in found], indent=1), "utf-8")


if __name__ == "__main__":
    main()
