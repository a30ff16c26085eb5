"""Versions with one small file per stage and real manifests."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime

from vecap_tasks.core.manifest import FileEntry, Input, Manifest, read_manifest
from vecap_tasks.core.store import Store
from vecap_tasks.core.verify import RecordedFile
from vecap_tasks.core.version import DATASET_STAGES, Version, register


def create_version(
    store: Store,
    interval: str,
    settings: str,
    stages: tuple[str, ...] = DATASET_STAGES,
    reused: dict[str, Version] | None = None,
    inputs: tuple[Input, ...] = (),
    *,
    captions: bool = True,
) -> Version:
    """Register the version of *interval* for *settings* and create *stages*, some *reused* from other versions.

    Without *captions*, the configuration has no section `rewrite`.
    """
    config = {"crawl": {"settings": settings}, **({"rewrite": {}} if captions else {})}
    version = register(store, "demo", interval, settings, config)
    for stage in stages:
        folder = f"{version.folder}/{stage}"
        if reused and stage in reused:
            other = read_manifest(store, f"{reused[stage].folder}/{stage}")
            assert other is not None
            assert store.create(f"{folder}/manifest.json", other.to_json())
            continue
        data = f"{interval} {settings} {stage}".encode()
        store.put(f"{folder}/00000.parquet", data)
        store.put(f"{folder}/_shards/00000.json", b"{}")
        last = stage == "assemble"
        manifest = Manifest(
            dataset="demo",
            interval=interval,
            stage=stage,
            fingerprint=settings if last else f"{settings} {stage}",
            config={},
            inputs=inputs if stage == "crawl" else (),
            files=(FileEntry("00000.parquet", len(data), 1, hashlib.sha256(data).hexdigest()),),
            counters={},
            location=folder,
            provenance={"created": datetime.now(UTC).isoformat(timespec="seconds")},
        )
        assert store.create(f"{folder}/manifest.json", manifest.to_json())
    return version


def record_again(store: Store, manifest: Manifest) -> None:
    """Replace the manifest of a stage whose files a test has changed, as if the stage had written them."""
    files = [
        replace(entry, bytes=store.size(manifest.file(entry.path)), sha256=store.sha256(manifest.file(entry.path)))
        for entry in manifest.files
    ]
    store.put(f"{manifest.location}/manifest.json", replace(manifest, files=tuple(files)).to_json())


def flip_bit(store: Store, name: str) -> None:
    """Flip one bit in the middle of the file *name*; a second call restores it."""
    data = bytearray(store.read(name))
    data[len(data) // 2] ^= 1
    store.put(name, bytes(data))


def recorded(store: Store, name: str) -> RecordedFile:
    """Return the file *name* with a record of its present content."""
    return RecordedFile(store, name, store.size(name), store.sha256(name), "restore it")
