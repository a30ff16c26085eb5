"""Dataset versions: one per crawl interval, and a revision beside it for every other configuration.

A version is the folder `{dataset}/{name}` with a `version.json` that binds it to a fingerprint. The first version of
an interval bears the interval's name, later ones end in `-r2`, `-r3` … A version is published when its `assemble`
stage has a manifest; until then readers do not see it.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import Any

from vecap_tasks.config import Config
from vecap_tasks.dataset.manifest import Manifest, read_manifest
from vecap_tasks.dataset.store import Store
from vecap_tasks.errors import DamagedError, VecapError

DATASET_STAGES = ("crawl", "quality", "rewrite", "assemble")
_FILE = "version.json"
_INTERVAL = re.compile(r"^[A-Za-z0-9](?:[A-Za-z0-9_.+:]|-(?!r\d+$))*$")
_NAME = re.compile(r"^(?P<interval>.+?)(?:-r(?P<revision>\d+))?$")


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a dataset. `revision` counts from 1."""

    dataset: str
    interval: str
    revision: int
    fingerprint: str

    @property
    def name(self) -> str:
        return self.interval if self.revision == 1 else f"{self.interval}-r{self.revision}"

    @property
    def folder(self) -> str:
        return f"{self.dataset}/{self.name}"


def dataset_identity(config: Config) -> dict[str, Any]:
    """Return what decides the content of a version: the configuration of its stages."""
    return {"dataset": config.dataset} | {stage: getattr(config, stage).identity() for stage in DATASET_STAGES}


def interval_of(name: str) -> str:
    """Return the interval of a version's *name*: `2026-01-01` for `2026-01-01-r2`. Raises VecapError."""
    match = _NAME.match(name)
    interval = match.group("interval") if match else ""
    if not _INTERVAL.match(interval):
        raise VecapError(f"{name!r} cannot name a version; use letters, digits and -_.+:, such as 2026-01-01")
    return interval


def register(store: Store, dataset: str, interval: str, fingerprint: str, config: dict[str, Any]) -> Version:
    """Return the version of *interval* that is bound to *fingerprint*, registering the next revision if it is new.

    Of two processes that register at once, one wins and the other finds it or takes the next number.
    """
    while True:
        taken = list_versions(store, dataset, interval)
        for version in taken:
            if version.fingerprint == fingerprint:
                return version
        version = Version(dataset, interval, max((v.revision for v in taken), default=0) + 1, fingerprint)
        body = asdict(version) | {"config": config}
        data = json.dumps(body, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"
        if store.create(f"{version.folder}/{_FILE}", data):
            return version


def read_version(store: Store, dataset: str, name: str) -> Version:
    """Return the registered version *name*. Raises VecapError where there is none."""
    try:
        body = json.loads(store.read(f"{dataset}/{name}/{_FILE}"))
        version = Version(body["dataset"], body["interval"], body["revision"], body["fingerprint"])
    except FileNotFoundError as error:
        known = ", ".join(version.name for version in list_versions(store, dataset)) or "none"
        raise VecapError(f"dataset {dataset} has no version {name}; there are: {known}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{dataset}/{name}/{_FILE} is damaged: {error}; restore it") from error
    if version.name != name:
        raise DamagedError(f"{dataset}/{name}/{_FILE} belongs to version {version.name}; restore it")
    return version


def read_config(store: Store, version: Version) -> dict[str, Any]:
    """Return the configuration that *version* is bound to: what decides its content. Raises DamagedError."""
    try:
        config: dict[str, Any] = json.loads(store.read(f"{version.folder}/{_FILE}"))["config"]
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{version.folder}/{_FILE} is damaged: {error}; restore it") from error
    return config


def list_versions(store: Store, dataset: str, interval: str | None = None) -> list[Version]:
    """Return the registered versions, by interval and revision, published or not."""
    names = [name for name in store.folders(dataset) if store.exists(f"{dataset}/{name}/{_FILE}")]
    versions = [read_version(store, dataset, name) for name in names]
    kept = [version for version in versions if interval in (None, version.interval)]
    return sorted(kept, key=lambda version: (version.interval, version.revision))


def published(store: Store, version: Version) -> Manifest | None:
    """Return the manifest that publishes *version*, or None while it is being made."""
    return read_manifest(store, f"{version.folder}/assemble")
