"""A manifest records a stage's output, and detects changes to itself."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace

import pytest

from tests.core.factories import flip_bit
from vecap_tasks.core.manifest import FileEntry, Input, Manifest, digest, read_manifest
from vecap_tasks.core.store import Store
from vecap_tasks.errors import CorruptError

MANIFEST = Manifest(
    dataset="demo",
    interval="2026-01-01",
    stage="crawl",
    fingerprint="f" * 64,
    config={"shard_size": 10},
    inputs=(Input("source", "a.warc.gz", "0" * 64, 12),),
    files=(FileEntry("00000.tar", 10, 2, "a" * 64),),
    counters={"success": 2, "candidates": 3},
    location="demo/2026-01-01/crawl",
    provenance={"created": "2026-01-01T00:00:00+00:00"},
)


def test_a_manifest_survives_a_round_trip() -> None:
    again = Manifest.from_json(MANIFEST.to_json(), "here")
    assert again.content == MANIFEST.content
    assert again.digest == MANIFEST.digest
    assert again.to_json() == MANIFEST.to_json()


def test_a_manifest_is_parsed_once_unless_it_changes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []
    parse = Manifest.from_json

    def count(data: bytes, where: str) -> Manifest:
        parsed.append(where)
        return parse(data, where)

    monkeypatch.setattr(Manifest, "from_json", count)
    folder = f"demo/2026-01-01/{uuid.uuid4().hex}"
    store.put(f"{folder}/manifest.json", MANIFEST.to_json())
    first, again = read_manifest(store, folder), read_manifest(store, folder)
    assert first is again
    assert first == MANIFEST
    assert parsed == [f"{folder}/manifest.json"]
    store.put(f"{folder}/manifest.json", replace(MANIFEST, counters={"success": 3}).to_json())
    changed = read_manifest(store, folder)
    assert changed is not None
    assert changed.counters == {"success": 3}
    flip_bit(store, f"{folder}/manifest.json")
    for _ in range(2):
        with pytest.raises(CorruptError, match="manifest"):
            read_manifest(store, folder)


def test_a_file_is_found_by_its_path() -> None:
    assert MANIFEST.file("00000.tar") == "demo/2026-01-01/crawl/00000.tar"
    with pytest.raises(KeyError):
        MANIFEST.file("00001.tar")


def test_time_and_location_are_not_in_the_digest() -> None:
    moved = replace(MANIFEST, provenance={"created": "later"}, location="demo/2026-01-01-r2/crawl")
    assert moved.digest == MANIFEST.digest
    assert replace(MANIFEST, counters={"success": 3}).digest != MANIFEST.digest


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body["content"]["counters"].update(success=3),
        lambda body: body["provenance"].update(created="2020"),
        lambda body: body.update(location="elsewhere"),
        lambda body: body.pop("attachments"),
        lambda body: body.pop("seal"),
    ],
)
def test_any_change_is_detected(change) -> None:
    body = json.loads(MANIFEST.to_json())
    change(body)
    with pytest.raises(CorruptError, match="here"):
        Manifest.from_json(json.dumps(body).encode(), "here")


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"null", b"\xff\xfe"])
def test_an_unreadable_manifest_is_named(data: bytes) -> None:
    with pytest.raises(CorruptError, match=r"demo/x/manifest\.json"):
        Manifest.from_json(data, "demo/x/manifest.json")


def test_digests_do_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": [1, 2]}) != digest({"a": [2, 1]})


def test_only_listed_files_have_a_path() -> None:
    assert MANIFEST.file("00000.tar") == "demo/2026-01-01/crawl/00000.tar"
    with pytest.raises(KeyError):
        MANIFEST.file("00001.tar")
