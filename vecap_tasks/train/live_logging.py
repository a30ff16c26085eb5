"""A training run as a served MLflow shows it while it goes on: its losses, its speed, its memory, the time left.

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
TAG = "vecap.training"  # of such a run: the fingerprint of the training, a stroke, the arm and seed
_MOST = 100_000  # steps that are kept for a server that does not answer
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


def speed_metrics(speed: Mapping[str, Any]) -> list[Metric]:
    """Return a `Speed`, as its fields, in MLflow's names and at its own time."""
    from mlflow.entities import Metric

    return [
        Metric(title, speed[name] / 1e6 if name in _BYTES else speed[name], int(1000 * speed["time"]), speed["step"])
        for name, title in _NAMES.items()
        if speed[name] is not None
    ]


class LiveLogger:
    """Takes each step's `Progress` and tells MLflow of them, on a thread of its own, for as long as it is entered."""

    def __init__(self, config: Config, version: Version, run: str, fingerprint: str) -> None:
        self._config, self._version, self._run = config, version, run
        self._tag = f"{fingerprint[:32]}/{run}"
        self._lock = threading.Lock()
        self._told: list[tuple[int, Progress]] = []
        self._over = threading.Event()
        self._status = "FINISHED"
        self._run_id: str | None = None
        self._lost = False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._config.mlflow.live_interval is not None and is_server(tracking_uri(self._config)):
            self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is not None:
            if kind is not None:
                self._status = "KILLED" if issubclass(kind, Interrupted | KeyboardInterrupt) else "FAILED"
            self._over.set()
            self._thread.join(3 * self._config.mlflow.timeout)

    def __call__(self, progress: Progress) -> None:
        if self._thread is not None:
            with self._lock:
                self._told.append((int(1000 * time.time()), progress))

    def _work(self) -> None:
        while not self._over.wait(self._config.mlflow.live_interval):
            self._tell()
        if self._run_id is not None:
            self._tell(self._status)

    def _tell(self, status: str | None = None) -> None:
        """Send what is new; keep it for the next time where that fails."""
        with self._lock:
            told, self._told = self._told, []
        try:
            with open_tracking(self._config) as tracking:
                if self._run_id is None:
                    self._run_id = self._open(tracking)
                if told:
                    tracking.metrics(self._run_id, _metrics(told))
                if status is not None:
                    tracking.client.set_terminated(self._run_id, status)
        except (VecapError, OSError) as error:
            if not self._lost:
                log.warning("%s: not to be watched in MLflow for now: %s", self._run, format_error(error))
            self._lost = True
            with self._lock:
                self._told = [*told, *self._told][-_MOST:]
        else:
            self._lost = False

    def _open(self, tracking: Tracking) -> str:
        """Return the id of the run, which an earlier try of this training may have begun."""
        experiment = tracking.experiment(self._version.dataset, "clip")
        for found in tracking.client.search_runs([experiment], f"tags.`{TAG}` = '{self._tag}'"):
            tracking.client.update_run(found.info.run_id, status="RUNNING")
            return str(found.info.run_id)
        arm, seed = parse_run(self._run)
        tags = airflow_tags() | {
            TAG: self._tag, "vecap.kind": "training", "vecap.dataset": self._version.dataset,
            "vecap.version": self._version.name, "vecap.run": self._run, "vecap.arm": arm, "vecap.seed": str(seed),
        }  # fmt: skip
        name = f"{self._version.name} {self._run} training"
        run_id = str(tracking.client.create_run(experiment, tags=tags, run_name=name).info.run_id)
        tracking.params(run_id, {"train": self._config.train.model_dump(mode="json")})
        log.info("%s: MLflow shows it as %r", self._run, name)
        return run_id


def _metrics(told: list[tuple[int, Progress]]) -> list[Metric]:
    from mlflow.entities import Metric

    steps = [(when, asdict(progress.record)) for when, progress in told]
    last = told[-1][1]
    return [
        *(Metric(name, step[name], when, step["step"]) for when, step in steps for name in CURVES),
        *speed_metrics(asdict(last.speed)),
        Metric("seconds_left", last.seconds_left, told[-1][0], last.record.step),
    ]


def end_live_runs(tracking: Tracking, experiment: str, fingerprint: str) -> None:
    """Delete the runs of a training that was watched; those of its models have all that stood in them."""
    for run in tracking.client.search_runs([experiment], f"tags.`{TAG}` LIKE '{fingerprint[:32]}/%'"):
        tracking.client.delete_run(run.info.run_id)
