"""Reports of the benchmarks: measures of our side and the other tool, medians of alternating rounds."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from scipy.stats import t

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Measure:
    """One row of a report. `theirs` is None without a counterpart; `limit` is the best possible value or the target."""

    name: str
    unit: str
    ours: float
    theirs: float | None = None
    limit: float | None = None
    conditions: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours over theirs."""
        return self.ours / self.theirs if self.theirs else None


def alternate(rounds: int, ours: Callable[[], T], theirs: Callable[[], T]) -> tuple[list[T], list[T]]:
    """Run both sides *rounds* times, alternating which goes first, so that machine drift affects both equally."""
    results: tuple[list[T], list[T]] = ([], [])
    for number in range(rounds):
        for side in (0, 1) if number % 2 == 0 else (1, 0):
            results[side].append((ours, theirs)[side]())
    return results


def median(values: Iterable[float]) -> float:
    return float(statistics.median(values))


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Return the geometric mean of the ratios of paired rounds, with its 95 % interval (t) if there are three or more.

    >>> paired_ratio([1.0, 1.1, 1.2], [1.0, 1.0, 1.0])
    'paired ratio 1.097 [0.875, 1.376]'
    """
    logs = [math.log(our / their) for our, their in zip(ours, theirs, strict=True)]
    mean = statistics.fmean(logs)
    if len(logs) < 3:
        return f"paired ratio {math.exp(mean):.3f}"
    half = float(t.ppf(0.975, len(logs) - 1)) * statistics.stdev(logs) / math.sqrt(len(logs))
    return f"paired ratio {math.exp(mean):.3f} [{math.exp(mean - half):.3f}, {math.exp(mean + half):.3f}]"


def machine() -> str:
    """Return a description of the machine: cores available to this process, and architecture."""
    return f"{len(os.sched_getaffinity(0))} cores, {platform.machine()}, Python {platform.python_version()}"


def report(measures: Sequence[Measure], file: Path | None = None) -> None:
    """Print *measures* as a table, and write them to *file* as a JSON list."""
    width = max((len(measure.name) for measure in measures), default=4)
    print(f"{'':<{width}}  {'unit':<10} {'ours':>10} {'theirs':>10} {'ratio':>7} {'limit':>10}  conditions")
    for m in measures:
        numbers = f"{_short(m.ours):>10} {_short(m.theirs):>10} {_short(m.ratio):>7} {_short(m.limit):>10}"
        print(f"{m.name:<{width}}  {m.unit:<10} {numbers}  {m.conditions}")
    if file is not None:
        file.write_text(json.dumps([asdict(m) | {"ratio": m.ratio} for m in measures], indent=1) + "\n", "utf-8")


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
