"""The version that a configuration makes of an interval: the one registered for it, or a new one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vecap_tasks.config import Config
from vecap_tasks.core.manifest import fingerprint
from vecap_tasks.core.releases import CONFIG, count_releases
from vecap_tasks.core.stage import load_stage, stage_kind
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
    """Return the fingerprints of the dataset stages that follow from what a `version.json` says of its *settings*.

    Raises KeyError and TypeError where it says less than `open_version` writes.
    """
    made: dict[str, str] = {}
    for name in DATASET_STAGES:
        identity = dict(settings[name])
        release = identity.pop("release")
        upstream = {other: made[other] for other in stage_kind(name).upstream}
        made[name] = fingerprint(name, release, settings["dataset"], version.interval, identity, upstream)
    return made


def open_version(config: Config, store: Store, name: str) -> Version:
    """Return the version that *config* makes of the interval *name*, or the revision *name* if *config* makes that.

    It is bound to the fingerprint of its last dataset stage, which covers the configuration, the models' files and
    the release's ways of working: the same always finds the same version, anything else gets a revision beside it. Rows
    that a person has released make another one, too; how many entries of the interval hold for it stands in it.
    Raises ConfigError for an interval that is not a date and for a revision that *config* does not make, VecapError for
    a revision that does not exist and for a model that cannot be read. Nothing is registered then.
    """
    interval = interval_of(name)
    revision = read_version(store, config.dataset, name) if name != interval else None
    try:
        check_interval(interval)
    except ConfigError:  # an earlier release took any name
        if not any(published(store, one) for one in list_versions(store, config.dataset, interval)):
            raise
    while True:
        releases = count_releases(store, config.dataset, interval)
        stages = {name: load_stage(name, config, Version(config.dataset, interval, 0, "")) for name in DATASET_STAGES}
        bound_to = stages[DATASET_STAGES[-1]].fingerprint
        if count_releases(store, config.dataset, interval) == releases:  # else one was entered meanwhile
            break
    if revision is not None:
        if revision.fingerprint != bound_to:
            raise ConfigError(
                f"this configuration does not make {name}: settings, models or released rows differ; give those that "
                f"made it, or name the interval {interval} for another revision"
            )
        return revision
    decisive = {name: stage.identity() | {"release": stage.revision} for name, stage in stages.items()}
    entries = {CONFIG: releases} if releases else {}
    return register(store, config.dataset, interval, bound_to, {"dataset": config.dataset, **decisive, **entries})
