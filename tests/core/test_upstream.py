"""A stage whose upstream files were changed publishes nothing, at any time of the change, on disk and on S3."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.core.conftest import Letters
from tests.core.factories import flip_bit
from vecap_tasks.config import Config
from vecap_tasks.core import stage as core_stage
from vecap_tasks.core.manifest import ShardOutput
from vecap_tasks.core.stage import Stage
from vecap_tasks.core.verify import read_file
from vecap_tasks.core.version import register
from vecap_tasks.errors import CorruptError

FILE = "demo/2026-01-01/crawl/c.txt"
REMEDY = "restore it, or delete demo/2026-01-01/crawl and run `vecap crawl` again"


class Words(Stage):
    """One shard per letter of the crawl, with the content that it read."""

    name: ClassVar[str] = "quality"
    upstream: ClassVar[tuple[str, ...]] = ("crawl",)

    def identity(self) -> dict[str, Any]:
        return {}

    def shards(self) -> list[str]:
        return list("abcd")

    def process(self, shard: str, work: Path) -> ShardOutput:
        read = self.store.read(self.upstream_manifest("crawl").file(f"{shard}.txt"))
        (work / f"{shard}.txt").write_bytes(read)
        return ShardOutput({f"{shard}.txt": None})


@pytest.fixture
def words(letters_config: Config, monkeypatch: pytest.MonkeyPatch) -> Words:
    """The stage, with its upstream published."""
    monkeypatch.setitem(core_stage.STAGES, "crawl", f"{Letters.__module__}:{Letters.__name__}")
    version = register(Letters(letters_config, None).store, "demo", "2026-01-01", "a", {})  # type: ignore[arg-type]
    letters = Letters(letters_config, version)
    for shard in letters.plan():
        letters.run(shard)
    letters.commit()
    return Words(letters_config, version)


def test_a_corrupt_file_is_detected_before_the_first_shard(words: Words) -> None:
    flip_bit(words.store, FILE)
    with pytest.raises(CorruptError, match="is corrupt") as error:
        words.plan()
    assert str(error.value) == f"{FILE} is corrupt: its sha256 differs from the manifest; {REMEDY}"


def test_a_file_that_becomes_corrupt_is_detected_before_the_commit(words: Words) -> None:
    """The shards run again: one of them may have read the corrupt file."""
    for shard in words.plan():
        if shard == "c":
            flip_bit(words.store, FILE)
        words.run(shard)
    with pytest.raises(CorruptError, match=r"c\.txt is corrupt"):
        words.commit()
    assert words.manifest() is None
    flip_bit(words.store, FILE)
    assert words.plan() == list("abcd")
    for shard in words.plan():
        words.run(shard)
    manifest = words.commit()
    assert words.store.read(manifest.file("c.txt")) == b"cccccccccc"


@pytest.mark.parametrize(
    ("change", "problem"), [(b"", "has 0 bytes, but the manifest records 10"), (None, "is missing")]
)
def test_large_files_are_checked_by_size_first(
    words: Words, monkeypatch: pytest.MonkeyPatch, change: bytes | None, problem: str
) -> None:
    monkeypatch.setattr("vecap_tasks.core.stage._MAX_EARLY_CHECK", 10)
    flip_bit(words.store, FILE)
    assert words.plan() == list("abcd"), "hashes are checked at the commit"
    if change is None:
        words.store.remove(FILE)
    else:
        words.store.put(FILE, change)
    with pytest.raises(CorruptError) as error:
        words.plan()
    assert str(error.value) == f"{FILE} {problem}; {REMEDY}"


def test_reused_files_are_checked_in_the_other_version(words: Words, letters_config: Config) -> None:
    revision = register(words.store, "demo", "2026-01-01", "b", {})
    second = Words(letters_config, revision)
    assert second.upstream_manifest("crawl").location == "demo/2026-01-01/crawl"
    flip_bit(words.store, FILE)
    with pytest.raises(CorruptError) as error:
        second.plan()
    assert str(error.value).startswith(f"{FILE} is corrupt")
    assert "delete demo/2026-01-01-r2/crawl and demo/2026-01-01/crawl and run" in str(error.value)


def test_a_file_is_checked_when_it_is_read(words: Words) -> None:
    manifest = words.upstream_manifest("crawl")
    assert read_file(words.store, manifest, "c.txt") == b"cccccccccc"
    flip_bit(words.store, FILE)
    with pytest.raises(CorruptError, match=rf"{FILE} is corrupt: .*; {REMEDY}"):
        read_file(words.store, manifest, "c.txt")
    words.store.remove(FILE)
    with pytest.raises(CorruptError, match=rf"^{FILE} is missing; {REMEDY}$"):
        read_file(words.store, manifest, "c.txt")


def test_each_process_checks_the_files_before_it_reads_them(words: Words, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is corrupt only while a worker reads it is found neither before nor after the work."""
    monkeypatch.setattr("vecap_tasks.core.stage._MAX_EARLY_CHECK", 10)
    assert words.plan() == list("abcd")
    flip_bit(words.store, FILE)
    with pytest.raises(CorruptError, match=r"c\.txt is corrupt"):
        Words(words.config, words.version).run("a")
    flip_bit(words.store, FILE)
    assert words.receipts() == []


def test_a_file_that_changed_after_its_receipt_is_not_committed(words: Words) -> None:
    for shard in words.plan():
        words.run(shard)
    flip_bit(words.store, f"{words.folder}/b.txt")
    with pytest.raises(CorruptError, match=r"quality/b\.txt is corrupt: .* or delete .*/_shards/b\.json and run"):
        words.commit()
    assert words.manifest() is None
    words.store.remove(f"{words.folder}/_shards/b.json")
    words.run("b")
    assert words.commit()


def test_a_changed_receipt_is_found_by_its_seal(words: Words) -> None:
    words.run("a")
    name = f"{words.folder}/_shards/a.json"
    words.store.put(name, words.store.read(name).replace(b'"bytes": 10', b'"bytes": 11'))
    with pytest.raises(CorruptError, match=rf"^{name} is corrupt: it was changed after it was written; restore it, or"):
        words.receipts()


def test_a_shard_of_another_model_is_not_committed(words: Words, monkeypatch: pytest.MonkeyPatch) -> None:
    for shard in "abc":
        words.run(shard)
    other = Words(words.config, words.version)
    monkeypatch.setattr(other, "fingerprint", "f" * 64)
    other.run("d")
    with pytest.raises(CorruptError, match=r"_shards/d\.json: the shard was made with another model or prompt"):
        words.commit()


def test_a_missing_file_discards_no_finished_work(words: Words) -> None:
    """No work can depend on a missing file, and the work may be days of training."""
    data = words.store.read(FILE)
    words.run("a")
    words.store.remove(FILE)
    with pytest.raises(CorruptError, match="is missing"):
        words.plan()
    words.store.put(FILE, data)
    assert words.plan() == list("bcd")
