"""What the stages of a version took: time, throughput, tokens, cost and size, from the summaries of their manifests."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from vecap_tasks.core.manifest import COST_NOTE
from vecap_tasks.core.stage_records import StageSummary

_MODELS = {"vlm": "VLM (VeC)", "llm": "LLM (VeCap)"}
_REUSED = {"vlm": "reused_vec", "llm": "reused_vecap"}
# The counter of the rows that a stage processes, and their name.
_ROWS = {
    "crawl": ("candidates", "rows"),
    "quality": ("rows", "rows"),
    "rewrite": ("rows", "rows"),
    "assemble": ("samples", "samples"),
    "train": ("runs", "models"),
    "evaluate": ("models", "models"),
}


@dataclass(frozen=True, slots=True)
class StagePerformance:
    """A committed stage. Times are in seconds; `elapsed` is from the first start to the commit, None if not recorded.

    `rate` is `rows` per second of `elapsed`, or of `summary.seconds`, the time of all workers, if `per_worker`; None
    for models.
    `reused_from` is the version whose files the stage has, "" if they are its own.
    """

    stage: str
    summary: StageSummary
    rows: int
    unit: str
    elapsed: float | None
    rate: float | None
    per_worker: bool
    cost: float | None
    reused_from: str


@dataclass(frozen=True, slots=True)
class ModelPerformance:
    """The captions that a model generated for a version: tokens, captions and tokens per second and worker, and cost.

    `reused` counts captions of earlier versions. `cost` is in the currency of the `price` settings, None without one.
    """

    title: str
    captions: int
    reused: int
    prompt_tokens: int
    tokens: int
    captions_per_second: float | None
    tokens_per_second: float | None
    cost: float | None


def stage_performance(stage: str, folder: str, summary: StageSummary) -> StagePerformance:
    """Return the performance of *stage* in *folder*."""
    counter, unit = _ROWS[stage]
    rows = summary.counters.get(counter, 0)
    elapsed = elapsed_seconds(summary)
    seconds = elapsed if elapsed is not None else summary.seconds
    rate = _rate(rows, seconds) if unit != "models" else None
    owner = summary.location.split("/")[1] if summary.location != folder else ""
    unit = unit.removesuffix("s") if rows == 1 else unit
    return StagePerformance(stage, summary, rows, unit, elapsed, rate, elapsed is None, cost_of(summary), owner)


def elapsed_seconds(summary: StageSummary) -> float | None:
    """Return the seconds from the first start of the stage to its commit, at least 1; None if not recorded."""
    if not summary.started or not summary.created:
        return None
    started, created = map(datetime.fromisoformat, (summary.started, summary.created))
    return max((created - started).total_seconds(), 1.0)


def model_performance(summary: StageSummary) -> list[ModelPerformance]:
    """Return the performance of the captioning models from the summary of the stage rewrite."""
    notes = summary.notes
    found = []
    for role, title in _MODELS.items():
        captions, reused = notes.get(f"{role}_captions", 0), notes.get(_REUSED[role], 0)
        tokens, seconds = notes.get(f"{role}_tokens", 0), notes.get(f"{role}_milliseconds", 0) / 1e3
        cost = notes.get(f"{role}{COST_NOTE}")
        if captions or reused:
            found.append(
                ModelPerformance(
                    title, captions, reused, notes.get(f"{role}_prompt_tokens", 0), tokens, _rate(captions, seconds),
                    _rate(tokens, seconds), None if cost is None else cost / 1e6,
                )
            )  # fmt: skip
    return found


def cost_of(summary: StageSummary) -> float | None:
    """Return the cost of a stage in the currency of the `price` settings, None if none is set."""
    costs = [count for name, count in summary.notes.items() if name.endswith(COST_NOTE)]
    return sum(costs) / 1e6 if costs else None


def total_cost(summaries: Iterable[StageSummary]) -> float | None:
    """Return the sum of the costs of stages, None if none has one."""
    costs = [cost for summary in summaries if (cost := cost_of(summary)) is not None]
    return sum(costs) if costs else None


def _rate(count: int, seconds: float) -> float | None:
    return count / seconds if count and seconds > 0 else None
