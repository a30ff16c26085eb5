"""How a whole job goes: what is done, how fast, how long it will still take, and what it has cost."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from vecap_tasks.dataset.stage import ShardResult

_COST = "_cost_millionths"  # how notes of a cost end


class Pace:
    """Adds up the receipts of a job's shards as they come in. *rates* are the counters that count per second."""

    def __init__(self, rates: Sequence[str], total: int) -> None:
        self._rates = rates
        self._total = total
        self._done = 0
        self._counters: Counter[str] = Counter()
        self._millionths = 0
        self._begun = time.monotonic()

    def add(self, result: ShardResult) -> None:
        self._done += 1
        self._counters.update({name: result.counters.get(name, 0) for name in self._rates})
        self._millionths += sum(count for name, count in result.notes.items() if name.endswith(_COST))

    def line(self) -> str:
        """Say it in a line: wall clock since the job began, the work of all its workers together."""
        seconds = max(time.monotonic() - self._begun, 1e-3)
        said = [f"{self._done} of {self._total} shards"]
        said += [f"{self._counters[name] / seconds:.1f} {name}/s" for name in self._rates]
        if 0 < self._done < self._total:
            said.append(f"{_clock(seconds * (self._total - self._done) / self._done)} left")
        if self._millionths:
            cost = self._millionths / 1e6
            said.append(f"cost {cost:.4f} so far, {cost * self._total / self._done:.4f} in all")
        return ", ".join(said)


def _clock(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
