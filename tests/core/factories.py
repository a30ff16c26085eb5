"""Versions whose stages are a file each: real manifests, nothing in them that takes time to make."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from vecap_tasks.core.manifest import FileEntry, Input, Manifest, read_manifest
from vecap_tasks.core.store import Store
from vecap_tasks.core.version import DATASET_STAGES, Version, register


def give(
    store: Store,
    interval: str,
    settings: str,
    stages: tuple[str, ...] = DATASET_STAGES,
    taken_over: dict[str, Version] | None = None,
    inputs: tuple[Input, ...] = (),
) -> Version:
    """Register the version of *interval* under *settings* and give it *stages*, some *taken_over* from others."""
    version = register(store, "demo", interval, settings, {"crawl": {"settings": settings}})
    for stage in stages:
        folder = f"{version.folder}/{stage}"
        if taken_over and stage in taken_over:
            other = read_manifest(store, f"{taken_over[stage].folder}/{stage}")
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


def flip_bit(store: Store, name: str) -> None:
    """Change one bit in the middle of the file *name*; the second time, change it back."""
    data = bytearray(store.read(name))
    data[len(data) // 2] ^= 1
    store.put(name, bytes(data))
