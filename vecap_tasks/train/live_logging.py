"""Logs a training run to an MLflow server while it runs: losses, speed, memory and remaining time.

The run appears in the models' experiment as `2026-01-01 mixed-0 training` once training has taken
`mlflow.live_interval` seconds, and is updated at that interval. A retry continues the same run; a SIGKILL loses the
steps not logged yet. The run is deleted when the model itself is recorded, because the model's run has all steps. If
MLflow does not respond, one warning is logged.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from vecap_tasks.config import Config
from vecap_tasks.core.mlflow_tracking import Tracking, airflow_tags, is_server, open_tracking, tracking_uri
from vecap_tasks.core.version import Version
from vecap_tasks.errors import VecapError, format_error
from vecap_tasks.train.checkpoint import parse_run
from vecap_tasks.train.signals import Interrupted

if TYPE_CHECKING:
    from mlflow.entities import Metric

    from vecap_tasks.train.throughput import Progress

log = logging.getLogger(__name__)

CURVES = ("loss", "learning_rate", "logit_scale", "gradient_norm")
TAG = "vecap.training"  # tag of a live run; value: "<training fingerprint>/<arm>-<seed>"
_MAX_BUFFERED_STEPS = 100_000  # kept while the server does not respond
# MLflow plots metrics named system/… with its own system metrics.
_METRIC_NAMES = {
    "samples_per_second": "samples_per_second",
    "waiting": "waiting_for_data",
    "mfu": "mfu",
    "gpu_memory": "system/gpu_0_memory_usage_megabytes",
    "memory": "system/process_memory_usage_megabytes",
    "cpu": "system/process_cpu_utilization_percentage",
}
_BYTE_FIELDS = ("gpu_memory", "memory")


def speed_metrics(speed: Mapping[str, Any]) -> list[Metric]:
    """Return the fields of a `Speed` as MLflow metrics with its timestamp; bytes become megabytes."""
    from mlflow.entities import Metric

    timestamp = int(1000 * speed["time"])
    return [
        Metric(metric, speed[name] / 1e6 if name in _BYTE_FIELDS else speed[name], timestamp, speed["step"])
        for name, metric in _METRIC_NAMES.items()
        if speed[name] is not None
    ]


class LiveLogger:
    """Callable on the `Progress` of each step. Within its context, a background thread sends them to MLflow."""

    def __init__(self, config: Config, version: Version, run: str, fingerprint: str) -> None:
        self._config, self._version, self._run = config, version, run
        self._tag = f"{fingerprint[:32]}/{run}"
        self._lock = threading.Lock()
        self._pending: list[tuple[int, Progress]] = []
        self._stopped = threading.Event()
        self._status = "FINISHED"
        self._run_id: str | None = None
        self._failing = False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._config.mlflow.live_interval is not None and is_server(tracking_uri(self._config)):
            self._thread = threading.Thread(target=self._log_until_stopped, name="mlflow", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is not None:
            if kind is not None:
                self._status = "KILLED" if issubclass(kind, Interrupted | KeyboardInterrupt) else "FAILED"
            self._stopped.set()
            self._thread.join(3 * self._config.mlflow.timeout)

    def __call__(self, progress: Progress) -> None:
        if self._thread is not None:
            with self._lock:
                self._pending.append((int(1000 * time.time()), progress))

    def _log_until_stopped(self) -> None:
        while not self._stopped.wait(self._config.mlflow.live_interval):
            self._flush()
        if self._run_id is not None:
            self._flush(self._status)

    def _flush(self, status: str | None = None) -> None:
        """Send pending steps. If that fails, keep them for the next attempt."""
        with self._lock:
            pending, self._pending = self._pending, []
        try:
            with open_tracking(self._config) as tracking:
                if self._run_id is None:
                    self._run_id = self._open_run(tracking)
                if pending:
                    tracking.metrics(self._run_id, _metrics(pending))
                if status is not None:
                    tracking.client.set_terminated(self._run_id, status)
        except (VecapError, OSError) as error:
            if not self._failing:
                log.warning("%s: cannot log to MLflow, retrying: %s", self._run, format_error(error))
            self._failing = True
            with self._lock:
                self._pending = [*pending, *self._pending][-_MAX_BUFFERED_STEPS:]
        else:
            self._failing = False

    def _open_run(self, tracking: Tracking) -> str:
        """Return the id of the MLflow run: the one of an earlier attempt, or a new one."""
        experiment = tracking.experiment(self._version.dataset, "clip")
        for run in tracking.client.search_runs([experiment], f"tags.`{TAG}` = '{self._tag}'"):
            tracking.client.update_run(run.info.run_id, status="RUNNING")
            return str(run.info.run_id)
        arm, seed = parse_run(self._run)
        tags = airflow_tags() | {
            TAG: self._tag, "vecap.kind": "training", "vecap.dataset": self._version.dataset,
            "vecap.version": self._version.name, "vecap.run": self._run, "vecap.arm": arm, "vecap.seed": str(seed),
        }  # fmt: skip
        name = f"{self._version.name} {self._run} training"
        run_id = str(tracking.client.create_run(experiment, tags=tags, run_name=name).info.run_id)
        tracking.params(run_id, {"train": self._config.training.model_dump(mode="json")})
        log.info("%s: logging to MLflow run %r", self._run, name)
        return run_id


def _metrics(pending: list[tuple[int, Progress]]) -> list[Metric]:
    from mlflow.entities import Metric

    steps = [(timestamp, asdict(progress.record)) for timestamp, progress in pending]
    last_timestamp, last = pending[-1]
    return [
        *(Metric(name, step[name], timestamp, step["step"]) for timestamp, step in steps for name in CURVES),
        *speed_metrics(asdict(last.speed)),
        Metric("seconds_left", last.seconds_left, last_timestamp, last.record.step),
    ]


def delete_live_runs(tracking: Tracking, experiment: str, fingerprint: str) -> None:
    """Delete the live runs of a training; the runs of its models have all their data."""
    for run in tracking.client.search_runs([experiment], f"tags.`{TAG}` LIKE '{fingerprint[:32]}/%'"):
        tracking.delete(run)
