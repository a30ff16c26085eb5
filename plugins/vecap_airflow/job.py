"""What a DAG run is to work on, as its tasks hand it to each other, and how a run's parameters say it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from airflow.sdk import Asset, Param

from vecap_tasks.config import Config, load_config, parse_config
from vecap_tasks.errors import ConfigError

REPOSITORY = Path(__file__).resolve().parents[2]
DEFAULT_CONFIG = os.environ.get("VECAP_CONFIG") or str(REPOSITORY / "configs" / "demo.yaml")

# Of what `check_interval` accepts, as far as a form can tell.
INTERVAL_PATTERN = "^[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}(:[0-9]{2}(:[0-9]{2})?)?)?$"

# Its partition key is the version's name; `extra` holds version, digest, rows, mlflow_run, config and
# overrides.
DATASET_VERSION = Asset(
    name="vecap_dataset_version",
    uri="vecap://dataset/version",
    extra={"what": "a published version of a VeCap dataset"},
)


@dataclass(frozen=True, slots=True)
class Job:
    """What a run works on: the versions, under the configuration as it was when the run started.

    `settings` is the configuration itself, so that a file that is edited meanwhile does not change a run halfway;
    `config` and `overrides` say where it came from. Plain values, as XCom keeps JSON.
    """

    config: str
    overrides: list[str]
    settings: dict[str, Any]
    versions: list[str]

    @classmethod
    def read(cls, config: str, overrides: Sequence[str], versions: Sequence[str] = ()) -> Job:
        """Read the configuration file; a relative path starts from the repository. Raises ConfigError."""
        loaded = load_config(REPOSITORY / config, list(overrides))
        return cls(config, list(overrides), loaded.model_dump(mode="json"), list(versions))

    def load(self) -> Config:
        """Return the configuration. Raises ConfigError where this release cannot read what an earlier one kept."""
        file = REPOSITORY / self.config
        return parse_config(self.settings, file.resolve().parent, str(file))

    def with_versions(self, *versions: str) -> Job:
        return replace(self, versions=list(versions))

    def to_xcom(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_xcom(cls, body: dict[str, Any]) -> Job:
        return cls(str(body["config"]), list(body["overrides"]), dict(body["settings"]), list(body["versions"]))


def schedule_from() -> datetime | None:
    """Return the time before which the clock makes no runs: `VECAP_SCHEDULE_FROM` in ISO format, None without it."""
    text = os.environ.get("VECAP_SCHEDULE_FROM")
    return datetime.fromisoformat(text) if text else None


def config_param() -> Param:
    return Param(
        DEFAULT_CONFIG,
        type="string",
        title="Configuration",
        description="The YAML file that says where the crawl is and what is made of it. A relative path starts from "
        "the repository.",
        section="What to run",
    )


def overrides_param() -> Param:
    return Param(
        [],
        type="array",
        items={"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_.]*=.*$"},
        title="Overrides",
        description="Settings to change, one `key=value` a line, such as `rewrite.vlm.batch_size=16`. A change of "
        "what is made gives a new revision beside the version that is there.",
        section="What to run",
    )


def groups_param(default: int) -> Param:
    return Param(
        default,
        type="integer",
        minimum=1,
        maximum=1000,
        title="Tasks per stage",
        description="The shards of a stage are shared out over at most so many mapped tasks. More show finer "
        "progress; each costs a second or two to start.",
        section="How to run",
    )


def interval_of_run(partition_key: str | None, given: str | None) -> str:
    """Return the interval that a run is for: its partition, else the parameter. Raises ConfigError for neither."""
    if partition_key and given and partition_key != given:
        raise ConfigError(f"the run's partition is {partition_key}, its parameter interval {given}; give one of them")
    interval = partition_key or given
    if not interval:
        raise ConfigError("the run has no partition key and no interval; trigger it again with one, such as 2026-01-01")
    return interval


def split(items: Sequence[str], groups: int) -> list[list[str]]:
    """Share *items* out over at most *groups* runs of neighbors whose lengths differ by one at most."""
    count = min(groups, len(items))
    bounds = [len(items) * index // count for index in range(count + 1)] if count else []
    return [list(items[start:end]) for start, end in pairwise(bounds)]
