"""The job of a DAG run: configuration and versions, passed between tasks, and the run's parameters."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from airflow.sdk import Asset, Param
from airflow.sdk.configuration import conf
from airflow.sdk.log import mask_secret

from vecap_tasks import redaction
from vecap_tasks.config import Config, Origin, load_config, parse_config
from vecap_tasks.errors import ConfigError

REPOSITORY = Path(__file__).resolve().parents[2]
DEFAULT_CONFIG = os.environ.get("VECAP_CONFIG") or str(REPOSITORY / "configs" / "demo.yaml")

# The part of `check_interval` that a form can validate.
# Airflow's URL and its path, both without a final slash, and VeCap's pages inside Airflow's UI, relative to the former.
AIRFLOW = conf.get("api", "base_url", fallback="").rstrip("/")
AIRFLOW_PATH = urlsplit(AIRFLOW).path
PAGES = f"plugin/vecap{AIRFLOW_PATH}/vecap"

_INTERVAL = "[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}(:[0-9]{2}(:[0-9]{2})?)?)?"
INTERVAL_PATTERN = f"^{_INTERVAL}$"
VERSION_PATTERN = f"^{_INTERVAL}(-r[0-9]+)?$"
# Airflow shows fields without a section in an open section, all others in closed ones.
MORE_SETTINGS = "More settings"

# The partition key is the version's name; `extra` of an event has version, digest, rows, page, mlflow_run, config and
# overrides.
DATASET_VERSION = Asset(
    name="vecap_dataset_version",
    uri="vecap://dataset/version",
    extra={"what": "a published version of a VeCap dataset", "page": f"{AIRFLOW}/{PAGES}/versions"},
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
    def read(cls, config: str, overrides: Sequence[str] | None, versions: Sequence[str] = ()) -> Job:
        """Read the configuration file; paths are relative to the repository. Raises ConfigError."""
        loaded = load_config(REPOSITORY / config, list(overrides or ()))
        return cls(config, list(overrides or ()), loaded.model_dump(mode="json"), list(versions))

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


def config_param(section: str | None = None) -> Param:
    """Return the parameter for the configuration file, in *section* of the form."""
    return Param(
        DEFAULT_CONFIG,
        type="string",
        minLength=1,
        title="Configuration",
        description="Path of the YAML configuration file, absolute or relative to the repository.",
        section=section,
    )


def overrides_param() -> Param:
    """Return the parameter for settings that override the configuration file."""
    return Param(
        [],
        type=["null", "array"],
        items={"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_.]*=.*$"},
        title="Overrides",
        description="Settings that replace those of the configuration, one key=value per line, such as "
        "rewrite.vlm.batch_size=16. Changing a setting of the data creates a revision.",
    )


def groups_param(default: int) -> Param:
    """Return the parameter for the number of mapped tasks per stage."""
    return Param(
        default,
        type="integer",
        minimum=1,
        maximum=1000,
        title="Tasks per stage",
        description="Maximum number of parallel tasks per stage, from 1 to 1000. More tasks show finer progress; each "
        "takes 1–2 seconds to start.",
        section=MORE_SETTINGS,
    )


def version_param(description: str) -> Param:
    """Return the parameter for a published version; *description* is the help text of the field."""
    return Param(None, type=["null", "string"], pattern=VERSION_PATTERN, title="Version", description=description)


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
