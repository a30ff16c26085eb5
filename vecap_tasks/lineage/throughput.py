"""How fast a model was trained, as MLflow shows it: a run's throughput, and its memory among the system metrics."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from vecap_tasks.dataset.manifest import Manifest
from vecap_tasks.dataset.store import Store

if TYPE_CHECKING:
    from mlflow.entities import Metric

# MLflow draws what begins with system/ beside its own measures of a machine.
_NAMES = {
    "samples_per_second": "samples_per_second",
    "waiting": "waiting_for_data",
    "mfu": "mfu",
    "gpu_memory": "system/gpu_0_memory_usage_megabytes",
    "memory": "system/process_memory_usage_megabytes",
    "cpu": "system/process_cpu_utilization_percentage",
}
_BYTES = ("gpu_memory", "memory")


def throughput(store: Store, train: Manifest, shard: str) -> list[Metric]:
    """Return what the run *shard* of *train* measured of itself, at the times when it did."""
    from mlflow.entities import Metric

    lines = [json.loads(line) for line in store.read(train.file(f"{shard}/throughput.jsonl")).splitlines()]
    return [
        Metric(title, line[name] / 1e6 if name in _BYTES else line[name], int(1000 * line["time"]), line["step"])
        for line in lines
        for name, title in _NAMES.items()
        if line[name] is not None
    ]
