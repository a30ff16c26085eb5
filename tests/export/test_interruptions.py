"""An export is whole or absent: after a kill at any write, a corrupt input, or in a folder with other files."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.core.factories import flip_bit
from tests.export.conftest import SAMPLES, origin_of, write_config
from tests.export.test_export import export
from tests.faults.writes import observe_writes, run_forked
from tests.quality.factories import INTERVAL
from vecap_tasks.config import Config, load_config
from vecap_tasks.core.manifest import digest
from vecap_tasks.core.store import Store
from vecap_tasks.core.verify import RecordedFile
from vecap_tasks.core.version import read_version, register
from vecap_tasks.errors import CorruptError, VecapError
from vecap_tasks.export.exporter import Exporter
from vecap_tasks.export.records import CrawlTables


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_kill_at_any_write_leaves_no_export_and_the_next_attempt_resumes(shared: Config, tmp_path: Path) -> None:
    export(shared, tmp_path / "undisturbed", "hf")
    out, log = tmp_path / "out", tmp_path / "log"
    killed: set[str] = set()
    while True:

        def attempt(answer: int) -> None:
            def kill_at_a_new_point(reached: str) -> None:
                if reached not in killed:
                    os.write(answer, reached.encode())
                    os.kill(os.getpid(), signal.SIGKILL)

            with observe_writes(kill_at_a_new_point):
                export(shared, out, "hf")

        code, point = run_forked(attempt, log)
        if code == 0:
            break
        assert code == -signal.SIGKILL, log.read_text()
        assert not out.exists(), f"killed at {point}"
        killed.add(point)
    assert contents(out) == contents(tmp_path / "undisturbed")
    assert not out.with_name("out.unfinished").exists()
    shards = sum(point.startswith("upload ") for point in killed)
    assert shards == 2 * 6, "before and after each of the six shards"
    assert any(point.startswith("put export.json") for point in killed)


def test_a_resumed_export_keeps_the_finished_shards(shared: Config, tmp_path: Path) -> None:
    partial = tmp_path / "out.unfinished"

    def stop(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Exporter(shared, INTERVAL, "webdataset", "vecap", str(tmp_path / "out")).run(stop)
    before = {path.name: path.stat().st_mtime_ns for path in partial.glob("*.tar")}
    assert len(before) == 4
    (partial / "00001.tar").write_bytes(b"changed")
    export(shared, tmp_path / "out")
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")}
    assert {name for name in before if after[name] != before[name]} == {"00001.tar"}
    export(shared, tmp_path / "undisturbed")
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


def test_a_complete_export_is_not_written_again(shared: Config, tmp_path: Path) -> None:
    first = export(shared, tmp_path / "out")
    (tmp_path / "out" / "README.md").write_text("my own card", encoding="utf-8")
    again = export(shared, tmp_path / "out")
    assert (first.existed, again.existed) == (False, True)
    assert (again.exported, again.left_out, again.bytes) == (first.exported, first.left_out, first.bytes)
    assert (tmp_path / "out" / "README.md").read_text(encoding="utf-8") == "my own card"


def test_an_empty_folder_is_used(shared: Config, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "out")
    export(shared, tmp_path / "link")
    assert (tmp_path / "out" / "export.json").exists()


@pytest.mark.parametrize(
    ("existing", "says"),
    [
        ({"out/notes.txt": "mine"}, "/out is not empty; choose another folder, or delete it"),
        ({"out/export.json": '["mine"]'}, "/out is not empty"),
        ({"out": "mine"}, "/out is a file; choose a folder"),
        ({"out.unfinished/notes.txt": "mine"}, "/out.unfinished is not empty"),
    ],
)
def test_other_files_are_not_touched(shared: Config, tmp_path: Path, existing: dict[str, str], says: str) -> None:
    for name, text in existing.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(VecapError, match=says):
        export(shared, tmp_path / "out")
    assert contents(tmp_path) == {name: text.encode() for name, text in existing.items()}


def test_another_export_is_not_replaced(shared: Config, tmp_path: Path) -> None:
    export(shared, tmp_path / "out", "parquet")
    before = contents(tmp_path)
    with pytest.raises(VecapError, match="/out has another export \\(given, 2026-01-01, parquet, vecap\\)"):
        export(shared, tmp_path / "out", "webdataset")
    (tmp_path / "out").rename(tmp_path / "out.unfinished")
    with pytest.raises(VecapError, match=r"out\.unfinished has another export"):
        export(shared, tmp_path / "out", "webdataset")
    assert contents(tmp_path / "out.unfinished") == {name.removeprefix("out/"): data for name, data in before.items()}


@pytest.mark.parametrize("out", ["store", "store/given", "store/../store/new/export"])
def test_the_store_is_not_a_place_for_an_export(config: Config, tmp_path: Path, out: str) -> None:
    with pytest.raises(VecapError, match="is inside the store"):
        export(config, tmp_path / out)


def test_a_folder_that_cannot_be_created_is_reported(shared: Config, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(VecapError, match=r"cannot create .*/file/out: .*/file is not a folder; choose another folder"):
        export(shared, tmp_path / "file" / "out")
    with pytest.raises(VecapError, match="/proc is a mount point"):
        export(shared, "/proc")
    with pytest.raises(VecapError, match="/ is a mount point"):
        export(shared, "/")


@pytest.mark.parametrize(
    "name", ["assemble/00000.tar", "assemble/00001.tar", "assemble/00000.parquet", "crawl/00000.parquet"]
)
def test_a_corrupt_input_is_found_and_nothing_is_published(config: Config, tmp_path: Path, name: str) -> None:
    store = Store(config.resolve(config.root))
    flip_bit(store, f"given/{INTERVAL}/{name}")
    with pytest.raises(CorruptError, match=f"given/{INTERVAL}/{name} is corrupt"):
        export(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    flip_bit(store, f"given/{INTERVAL}/{name}")
    assert export(config, tmp_path / "out").exported == SAMPLES


def test_a_missing_input_is_named(config: Config, tmp_path: Path) -> None:
    Store(config.resolve(config.root)).remove(f"given/{INTERVAL}/assemble/00000.tar")
    with pytest.raises(CorruptError, match=r"assemble/00000\.tar is missing; restore it"):
        export(config, tmp_path / "out")


@pytest.mark.parametrize(
    ("stage", "says"),
    [
        ("crawl", "stage crawl is not finished; run `vecap crawl --version 2026-01-01` first"),
        ("assemble", "stage assemble is not finished; run `vecap assemble --version 2026-01-01` first"),
    ],
)
def test_the_missing_stage_is_named(config: Config, tmp_path: Path, stage: str, says: str) -> None:
    Store(config.resolve(config.root)).remove(f"given/{INTERVAL}/{stage}/manifest.json")
    with pytest.raises(VecapError, match=says):
        export(config, tmp_path / "out")


def test_a_version_without_captions_is_reported(config: Config, tmp_path: Path) -> None:
    store = Store(config.resolve(config.root))
    source = f"given/{INTERVAL}"
    register(store, "given", "2026-01-02", "other", {})
    for stage in ("crawl", "quality"):
        store.copy(f"{source}/{stage}/manifest.json", f"given/2026-01-02/{stage}/manifest.json")
    with pytest.raises(VecapError, match="stage rewrite is not finished; add the section `rewrite`"):
        Exporter(config, "2026-01-02", "parquet", "vecap", str(tmp_path / "out"))


def test_stages_of_different_runs_are_reported(config: Config, tmp_path: Path) -> None:
    store = Store(config.resolve(config.root))
    name = f"given/{INTERVAL}/quality/manifest.json"
    body = json.loads(store.read(name))
    body["content"]["counters"]["rows"] = 7
    body.pop("seal")
    body["digest"] = digest(body["content"])
    store.put(name, json.dumps(body | {"seal": digest(body)}).encode())
    with pytest.raises(CorruptError, match="was created from a different quality stage"):
        export(config, tmp_path / "out")


def test_no_sample_has_the_text(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vecap_tasks.export.records.Layout.record", lambda *_: None)
    with pytest.raises(VecapError, match="no sample of version 2026-01-01 has the text vec; choose another"):
        export(config, tmp_path / "out", text="vec")
    assert not (tmp_path / "out").exists()


def on_s3(config: Config, bucket: str, folder: Path) -> Config:
    """Return the configuration of a copy of the store in *bucket*."""
    local, remote = Store(config.resolve(config.root)), Store(f"s3://{bucket}/some/prefix")
    for file in local.tree():
        remote.put(file.path, local.read(file.path))
    folder.mkdir()
    return load_config(write_config(folder), [f"root={remote.root}"])


def test_from_s3_to_s3_the_bytes_are_the_same(shared: Config, s3_bucket: str, tmp_path: Path) -> None:
    remote = on_s3(shared, s3_bucket, tmp_path / "remote")
    export(shared, tmp_path / "local", "parquet")
    out = f"s3://{s3_bucket}/exports/new"

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Exporter(remote, INTERVAL, "parquet", "vecap", out).run(stop)
    store = Store(out)
    assert not store.exists("export.json")
    with pytest.raises(VecapError, match="another unfinished export"):
        export(remote, out, "webdataset")
    assert not export(remote, out, "parquet").existed
    assert {file.path: store.read(file.path) for file in store.tree()} == contents(tmp_path / "local")
    assert export(remote, out, "parquet").existed
    with pytest.raises(VecapError, match="has another export"):
        export(remote, out, "webdataset")
    export(remote, tmp_path / "copy", "parquet")
    assert contents(tmp_path / "copy") == contents(tmp_path / "local")
    with pytest.raises(VecapError, match="is inside the store"):
        export(remote, f"s3://{s3_bucket}/some/prefix/given")


def crawl_tables(config: Config) -> list[RecordedFile]:
    store = Store(config.resolve(config.root))
    folder = f"given/{INTERVAL}/crawl"
    names = [name for name in store.files(folder) if name.startswith("0") and name.endswith(".parquet")]
    return [
        RecordedFile(store, f"{folder}/{name}", store.size(f"{folder}/{name}"), store.sha256(f"{folder}/{name}"), "")
        for name in names
    ]


def test_rows_of_the_crawl_are_found_in_any_order(shared: Config) -> None:
    tables = CrawlTables(crawl_tables(shared))
    assert len(tables.files) == 5
    for wanted, first, last in (
        ({2, 25}, 0, 2),  # a group of the tables 0 to 2
        ({12, 21}, 0, 2),
        ({31, 42}, 3, 4),  # a later group
        ({35}, 3, 4),
        ({1}, 3, 4),  # an earlier one again
        ({22, 41}, 3, 4),
    ):
        found: dict[str, Any] = tables.find({f"{index:032x}" for index in wanted})
        assert {int(uid, 16): row["page_url"] for uid, row in found.items()} == {
            index: origin_of(index)["page_url"] for index in wanted
        }
        assert (tables.first, tables.last) == (first, last)
    with pytest.raises(CorruptError, match="no table of the crawl has the row"):
        tables.find({f"{99:032x}"})


def test_a_version_that_does_not_exist_is_reported(shared: Config, tmp_path: Path) -> None:
    store = Store(shared.resolve(shared.root))
    assert read_version(store, "given", INTERVAL).name == INTERVAL
    with pytest.raises(VecapError, match="dataset given has no version 2026-02-02; its versions are: 2026-01-01"):
        Exporter(shared, "2026-02-02", "parquet", "vecap", str(tmp_path / "out"))
