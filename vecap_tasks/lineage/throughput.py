"""How fast a model was trained, as MLflow shows it: a run's throughput, and its memory among the system metrics."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from vecap_tasks.dataset.manifest import Manifest
from vecap_tasks.dataset.store import Store
from vecap_tasks.train.watch import speed_metrics

if TYPE_CHECKING:
    from mlflow.entities import Metric


def throughput(store: Store, train: Manifest, shard: str) -> list[Metric]:
    """Return what the run *shard* of *train* measured of itself, at the times when it did."""
    lines = store.read(train.file(f"{shard}/throughput.jsonl")).splitlines()
    return [metric for line in lines for metric in speed_metrics(json.loads(line))]
