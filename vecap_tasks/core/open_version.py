"""Opens a run: selects and checks its stages, then finds or registers the version of its interval."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from vecap_tasks.config import Config
from vecap_tasks.core.manifest import fingerprint, read_manifest
from vecap_tasks.core.object_storage import is_remote
from vecap_tasks.core.releases import CONFIG, count_releases
from vecap_tasks.core.stage import STAGES, Check, Stage, load_stage, stage_class
from vecap_tasks.core.store import Store
from vecap_tasks.core.version import (
    DATASET_STAGES,
    UNCAPTIONED_STAGES,
    Version,
    check_interval,
    interval_of,
    list_versions,
    published,
    read_version,
    register,
)
from vecap_tasks.errors import ConfigError, PermanentError, VecapError, format_problems


def select_stages(config: Config, first: str | None, last: str | None) -> tuple[str, ...]:
    """Return the stages from *first* to *last*.

    By default, *first* is `crawl`, and *last* is the last stage whose section the configuration has. Raises ConfigError
    if no stage is selected.
    """
    names = list(STAGES)
    if last is None:
        configured = [name for name in ("rewrite", "train", "evaluate") if getattr(config, name) is not None]
        last = {"rewrite": "assemble"}.get(configured[-1], configured[-1]) if configured else "quality"
        last = max(last, first or last, key=names.index)  # `--from train` without `train` names the missing section
    first = first or names[0]
    selected = names[names.index(first) : names.index(last) + 1]
    if not selected:
        raise ConfigError(f"no stage to run: {first} comes after {last}; the order is {', '.join(names)}")
    return tuple(selected)


def check_stages(config: Config, store: Store, name: str, stages: Sequence[str]) -> None:
    """Check the sections, paths, models and limits of *stages* for the interval or version *name*.

    Finished stages are not checked, because they do not run again. Raises ConfigError with all problems, or VecapError
    if a retry can solve all of them, such as an outage of the storage, or for a missing revision.
    """
    version = Version(config.dataset, interval_of(name), 0, "")
    if name != version.interval:
        read_version(store, config.dataset, name)
    if not list_versions(store, config.dataset, version.interval):
        check_interval(version.interval)  # an earlier release accepted any name
    checks = section_checks(config, stages[-1])
    missing = [stage for stage, _ in checks]
    for stage in (load_stage(name, config, version) for name in stages if name not in missing):
        if not _is_finished(stage, store):
            checks += stage.checks()
    run_checks(config, checks)


def section_checks(config: Config, last: str) -> list[Check]:
    """Return a check for each missing section of the stages up to *last*, because a fingerprint covers all of them."""
    names = list(STAGES)
    missing = [stage for stage in names[: names.index(last) + 1] if getattr(config, stage) is None]
    return [(stage, partial(config.section, stage)) for stage in missing]


def run_checks(config: Config, checks: Iterable[Check]) -> None:
    """Make all *checks*; raise ConfigError with the problems, each in one line with the line of its setting.

    Raises VecapError instead if a retry can solve all of them.
    """
    found: dict[str, str] = {}  # one variable or folder can be the cause of several
    temporary = True
    for setting, check in checks:
        try:
            check()
        except (VecapError, OSError, ModuleNotFoundError) as error:
            temporary &= not isinstance(error, PermanentError | ModuleNotFoundError)
            setting = getattr(error, "setting", "") or setting  # the one to change, if the check knows it
            for problem in format_problems(error):
                found.setdefault(problem, f"{config.where(setting)}: {problem.removeprefix(f'{setting}: ')}")
    if found:
        raise (VecapError if temporary else ConfigError)(*found.values())


def find_problems(config: Config, checks: Iterable[Check]) -> list[str]:
    """Return the problems that *checks* find, in the words of `run_checks`."""
    try:
        run_checks(config, checks)
    except VecapError as error:
        return list(error.args)
    return []


def open_store(config: Config) -> Store:
    """Return the store at `root`. Raises ConfigError if it cannot be a folder that this process writes to."""
    run_checks(config, [("root", partial(check_root, config))])
    return Store(config.resolve(config.root))


def check_root(config: Config) -> None:
    """Raise ConfigError if the local folder `root` cannot be created or written to."""
    root = config.resolve(config.root)
    if is_remote(root):
        return
    folder = Path(root.removeprefix("file://"))
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir():
        raise ConfigError(f"{existing} is not a folder; choose a folder for all versions")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(f"cannot write to {existing}; change its permissions, or choose another folder")


def _is_finished(stage: Stage, store: Store) -> bool:
    """Return whether a version of the interval has the stage's output with the same fingerprint."""
    for version in list_versions(store, stage.version.dataset, stage.version.interval):
        try:
            # The fingerprint of a training can depend on the version.
            own = load_stage(stage.name, stage.config, version) if stage.keyed else stage
            expected = own.fingerprint
        except VecapError:  # a check reports it
            continue
        manifest = read_manifest(store, own.folder if stage.keyed else f"{version.folder}/{stage.name}")
        if manifest is not None and manifest.fingerprint == expected:
            return True
    return False


def registered_fingerprints(version: Version, settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the fingerprints of the dataset stages computed from the *settings* in a `version.json`.

    Raises KeyError or TypeError if *settings* is incomplete.
    """
    result: dict[str, str] = {}
    for name in DATASET_STAGES if "rewrite" in settings else UNCAPTIONED_STAGES:
        identity = dict(settings[name])
        release = identity.pop("release")
        upstream = {other: result[other] for other in stage_class(name).upstream}
        result[name] = fingerprint(name, release, settings["dataset"], version.interval, identity, upstream)
    return result


def open_version(config: Config, store: Store, name: str) -> Version:
    """Return the version of the interval *name* for *config*, or the revision *name* if it matches *config*.

    A version is identified by the fingerprint of its last dataset stage (quality, without a section `rewrite`), which
    covers the configuration, the models' files and the stage revisions. A new fingerprint creates a revision. Released
    rows also create one; the version records how many release entries apply to it. Raises ConfigError for an interval
    that is not a date or a revision that does not match *config*, and VecapError for a missing revision or an
    unreadable model; nothing is registered then.
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
        names = UNCAPTIONED_STAGES if config.rewrite is None else DATASET_STAGES
        stages = {name: load_stage(name, config, Version(config.dataset, interval, 0, "")) for name in names}
        last_fingerprint = stages[names[-1]].fingerprint
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
