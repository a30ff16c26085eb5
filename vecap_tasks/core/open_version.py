"""Finds or registers the version of an interval for a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vecap_tasks.config import Config
from vecap_tasks.core.manifest import fingerprint
from vecap_tasks.core.releases import CONFIG, count_releases
from vecap_tasks.core.stage import load_stage, stage_class
from vecap_tasks.core.store import Store
from vecap_tasks.core.version import (
    DATASET_STAGES,
    Version,
    check_interval,
    interval_of,
    list_versions,
    published,
    read_version,
    register,
)
from vecap_tasks.errors import ConfigError


def registered_fingerprints(version: Version, settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the fingerprints of the dataset stages computed from the *settings* in a `version.json`.

    Raises KeyError or TypeError if *settings* is incomplete.
    """
    result: dict[str, str] = {}
    for name in DATASET_STAGES:
        identity = dict(settings[name])
        release = identity.pop("release")
        upstream = {other: result[other] for other in stage_class(name).upstream}
        result[name] = fingerprint(name, release, settings["dataset"], version.interval, identity, upstream)
    return result


def open_version(config: Config, store: Store, name: str) -> Version:
    """Return the version of the interval *name* for *config*, or the revision *name* if it matches *config*.

    A version is identified by the fingerprint of its last dataset stage, which covers the configuration, the models'
    files and the stage revisions. A new fingerprint creates a revision. Released rows also create one; the version
    records how many release entries apply to it. Raises ConfigError for an interval that is not a date or a revision
    that does not match *config*, and VecapError for a missing revision or an unreadable model; nothing is registered
    then.
    """
    interval = interval_of(name)
    revision = read_version(store, config.dataset, name) if name != interval else None
    try:
        check_interval(interval)
    except ConfigError:  # an earlier release accepted any name
        if not any(published(store, version) for version in list_versions(store, config.dataset, interval)):
            raise
    while True:
        releases = count_releases(store, config.dataset, interval)
        stages = {name: load_stage(name, config, Version(config.dataset, interval, 0, "")) for name in DATASET_STAGES}
        last_fingerprint = stages[DATASET_STAGES[-1]].fingerprint
        if count_releases(store, config.dataset, interval) == releases:  # otherwise one was added meanwhile
            break
    if revision is not None:
        if revision.fingerprint != last_fingerprint:
            raise ConfigError(
                f"version {name} was created with different settings, models or released rows; use the same, or pass "
                f"the interval {interval} to create a revision"
            )
        return revision
    settings = {name: stage.identity() | {"release": stage.revision} for name, stage in stages.items()}
    entries = {CONFIG: releases} if releases else {}
    return register(
        store, config.dataset, interval, last_fingerprint, {"dataset": config.dataset, **settings, **entries}
    )
