"""The job of a DAG run: configuration and versions, passed between tasks, and the run's parameters."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from airflow.sdk import Asset, Param
from airflow.sdk.log import mask_secret

from vecap_tasks import redaction
from vecap_tasks.config import Config, Origin, load_config, parse_config
from vecap_tasks.errors import ConfigError

REPOSITORY = Path(__file__).resolve().parents[2]
DEFAULT_CONFIG = os.environ.get("VECAP_CONFIG") or str(REPOSITORY / "configs" / "demo.yaml")

# The part of `check_interval` that a form can validate.
INTERVAL_PATTERN = "^[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}(:[0-9]{2}(:[0-9]{2})?)?)?$"

# The partition key is the version's name; `extra` has version, digest, rows, mlflow_run, config and overrides.
DATASET_VERSION = Asset(
    name="vecap_dataset_version",
    uri="vecap://dataset/version",
    extra={"what": "a published version of a VeCap dataset"},
)


@dataclass(frozen=True, slots=True)
class Job:
    """The versions of a run, and the configuration at its start. All fields are JSON values for XCom.

    `settings` is the complete configuration, so that edits to the file do not affect a running job; `config` and
    `overrides` are its source.
    """

    config: str
    overrides: list[str]
    settings: dict[str, Any]
    versions: list[str]

    @classmethod
    def read(cls, config: str, overrides: Sequence[str], versions: Sequence[str] = ()) -> Job:
        """Read the configuration file; paths are relative to the repository. Raises ConfigError."""
        loaded = load_config(REPOSITORY / config, list(overrides))
        return cls(config, list(overrides), loaded.model_dump(mode="json"), list(versions))

    def load(self) -> Config:
        """Return the configuration. Raises ConfigError for settings of an incompatible release."""
        file = REPOSITORY / self.config
        config = parse_config(self.settings, file.resolve().parent, Origin(str(file)))
        for secret in redaction.values():
            mask_secret(secret)  # in tracebacks of other libraries, which Airflow formats itself
        return config

    def with_versions(self, *versions: str) -> Job:
        return replace(self, versions=list(versions))

    def to_xcom(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_xcom(cls, body: dict[str, Any]) -> Job:
        return cls(str(body["config"]), list(body["overrides"]), dict(body["settings"]), list(body["versions"]))


def schedule_from() -> datetime | None:
    """Return the start date of scheduled runs from `VECAP_SCHEDULE_FROM` (ISO format), or None."""
    text = os.environ.get("VECAP_SCHEDULE_FROM")
    return datetime.fromisoformat(text) if text else None


def config_param() -> Param:
    return Param(
        DEFAULT_CONFIG,
        type="string",
        title="Configuration",
        description="Path of the YAML configuration, absolute or relative to the repository.",
        section="What to run",
    )


def overrides_param() -> Param:
    return Param(
        [],
        type="array",
        items={"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_.]*=.*$"},
        title="Overrides",
        description="Config overrides, one `key=value` per line, such as `rewrite.vlm.batch_size=16`. Changing data "
        "settings creates a new revision.",
        section="What to run",
    )


def groups_param(default: int) -> Param:
    return Param(
        default,
        type="integer",
        minimum=1,
        maximum=1000,
        title="Tasks per stage",
        description="Maximum number of mapped tasks per stage. More tasks show finer progress; each takes 1–2 seconds "
        "to start.",
        section="How to run",
    )


def interval_of_run(partition_key: str | None, param: str | None) -> str:
    """Return the interval of a run: its partition key or the parameter. Raises ConfigError for none or a conflict."""
    if partition_key and param and partition_key != param:
        raise ConfigError(f"partition key {partition_key} conflicts with the parameter interval={param}; set only one")
    interval = partition_key or param
    if not interval:
        raise ConfigError("no interval: trigger the run with a partition key or an interval, such as 2026-01-01")
    return interval


def split(items: Sequence[str], groups: int) -> list[list[str]]:
    """Split *items* into at most *groups* contiguous groups whose lengths differ by at most one."""
    count = min(groups, len(items))
    bounds = [len(items) * index // count for index in range(count + 1)] if count else []
    return [list(items[start:end]) for start, end in pairwise(bounds)]
