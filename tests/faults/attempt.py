"""One attempt at a stage, with a driver and a worker, and checks of the store afterwards."""

from __future__ import annotations

import json
import re
import time
import uuid
from functools import partial
from typing import Any

from tests.faults.factories import INTERVAL
from vecap_tasks.config import Config, RetentionConfig
from vecap_tasks.core.executor import record_attempt
from vecap_tasks.core.manifest import Manifest
from vecap_tasks.core.open_version import open_version
from vecap_tasks.core.retention import plan_removals, remove
from vecap_tasks.core.stage import Stage, load_stage
from vecap_tasks.core.store import STAGING, Store
from vecap_tasks.core.verify import check_files, verify_version
from vecap_tasks.core.version import read_version
from vecap_tasks.outages import retry_when_full


def attempt(name: str, config: Config, workers: list[Stage] | None = None) -> Manifest:
    """Finish the stage *name*, commit it, and verify every file in its manifest.

    A Dask worker keeps its stage object between attempts; *workers* holds it.
    """
    version = open_version(config, Store(config.root), INTERVAL)
    driver = load_stage(name, config, version)
    workers = [] if workers is None else workers
    if not workers:
        workers.append(load_stage(name, config, version))
    (worker,) = workers
    for part in driver.pending_preparations():
        retry_when_full(partial(worker.prepare, part), worker.store.scratch)
    for shard in driver.plan():
        with record_attempt(worker, shard, uuid.uuid4().hex):
            worker.run(shard)
    manifest = driver.commit()
    assert check_files(driver.store, manifest) == []
    return manifest


def list_files(store: Store) -> set[str]:
    """Return the files of *store*, including temporary ones, with * for the parts that differ between attempts."""
    return {re.sub(f"[0-9a-f]{{32}}|(?<={STAGING}/).*", "*", file.path) for file in store.tree()}


def completed(store: Store, name: str) -> set[str]:
    """Return the receipts and the manifest of the stage *name*, after verifying the files they list."""
    found = set()
    for path in (stored.path for stored in store.tree(f"tiny/{INTERVAL}/{name}")):
        folder, _, file = path.rpartition("/")
        if file == "manifest.json":
            body: dict[str, Any] = json.loads(store.read(path))
            entries = body["content"]["files"] + body["attachments"]
        elif folder.endswith("/_shards"):
            entries = json.loads(store.read(path))["files"]
            folder = folder.removesuffix("/_shards")
        else:
            continue
        found.add(path)
        for entry in entries:
            assert store.sha256(f"{folder}/{entry['path']}") == entry["sha256"], f"{path} lists {entry['path']}"
    return found


def collect_garbage(config: Config) -> None:
    """Do what `vecap gc --delete` does months later, and check that only published files remain."""
    store = Store(config.root)
    later = time.time() + 1e7
    plan = plan_removals(store, config.dataset, RetentionConfig(), lambda names: {}, later)
    assert {removal.what for removal in plan.removals} <= {"leftover", "staging"}
    remove(store, config.dataset, plan, lambda names: {}, later)
    assert verify_version(store, read_version(store, config.dataset, INTERVAL)).corruptions == ()
    assert [path for path in list_files(store) if path.startswith(STAGING) or "/_" in path] == []
