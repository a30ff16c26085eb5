"""The store behaves the same on a file system and on S3."""

from __future__ import annotations

import builtins
import errno
import io
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.faults.disk import full_disk
from vecap_tasks.core.store import STAGING, Store
from vecap_tasks.core.tables import connect
from vecap_tasks.errors import VecapError


@pytest.fixture(params=["file", "s3_server", "seaweedfs_server"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The root of an empty store, on a file system and on two S3 servers."""
    if request.param == "file":
        return str(tmp_path / "store")
    bucket = request.getfixturevalue("create_bucket")(request.getfixturevalue(request.param))
    return f"s3://{bucket}/some/prefix"


def test_a_file_is_written_read_and_replaced(store: Store) -> None:
    store.put("d/v/a.txt", b"one")
    store.put("d/v/a.txt", b"two")
    assert store.read("d/v/a.txt") == b"two"
    assert store.size("d/v/a.txt") == 3
    assert store.files("d/v") == ["a.txt"]
    assert store.folders("d") == ["v"]


def test_the_staging_folder_is_hidden(store: Store) -> None:
    store.put("d/a.txt", b"one")
    with store.workspace():
        assert store.folders("") == ["d"]


def test_missing_files_and_folders_are_reported(store: Store) -> None:
    assert not store.exists("no/such.txt")
    assert store.files("no") == []
    with pytest.raises(FileNotFoundError):
        store.read("no/such.txt")
    with pytest.raises(FileNotFoundError):
        store.size("no/such.txt")


def test_one_of_sixteen_concurrent_creates_wins(store: Store) -> None:
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda racer: store.create("d/v/version.json", f"racer {racer}".encode()), range(16)))
    assert sum(won) == 1
    assert store.read("d/v/version.json") == f"racer {won.index(True)}".encode()


def test_upload_publishes_a_complete_file(store: Store) -> None:
    with store.workspace() as work:
        (work / "x.bin").write_bytes(b"x" * 3_000_000)
        store.upload("d/x.bin", work / "x.bin")
    assert store.size("d/x.bin") == 3_000_000
    with store.local("d/x.bin") as path:
        assert path.read_bytes() == b"x" * 3_000_000


@pytest.mark.parametrize(
    "write",
    [
        lambda store: store.put("d/x.bin", b"x" * 5_000),
        lambda store: store.create("d/x.bin", b"x" * 5_000),
        lambda store: store.copy("d/large.bin", "d/x.bin"),
    ],
    ids=["put", "create", "copy"],
)
def test_a_write_to_a_full_disk_leaves_nothing(tmp_path: Path, write: Callable[[Store], object]) -> None:
    store = Store(str(tmp_path))
    store.put("d/large.bin", b"x" * 5_000)
    with pytest.raises(OSError, match="File too large"), full_disk(1_000):
        write(store)
    assert [file.path for file in store.tree()] == ["d/large.bin"]
    assert list((tmp_path / STAGING).iterdir()) == []


def test_an_upload_to_s3_that_stops_halfway_publishes_nothing(
    s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, source, opened = Store(f"s3://{s3_bucket}"), tmp_path / "x.bin", io.open
    source.write_bytes(b"x" * 20_000_000)

    class Failing(io.BufferedReader):
        """Fails after half of its length, like a file on a failing disk."""

        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            if self.tell() > 10_000_000:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return data

    def open_failing(file: Any, *arguments: Any, **named: Any) -> Any:
        return Failing(io.FileIO(file)) if str(file) == str(source) else opened(file, *arguments, **named)

    for module in (io, builtins):
        monkeypatch.setattr(module, "open", open_failing)
    with pytest.raises(OSError, match="Input/output error"):
        store.upload("d/x.bin", source)
    assert not store.exists("d/x.bin")


def test_duckdb_reads_and_globs_the_store(store: Store) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with store.workspace() as work:
        for number in range(3):
            pq.write_table(pa.table({"n": [number]}), work / "n.parquet")
            store.upload(f"d/{number}.parquet", work / "n.parquet")
    with connect(store) as connection:
        query = f"SELECT sum(n) FROM read_parquet('{store.query_path('d/*.parquet')}')"
        assert connection.execute(query).fetchall() == [(3,)]


@pytest.mark.parametrize("name", ["/etc/passwd", "../outside", "d/../../outside"])
def test_names_must_be_inside_the_store(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="outside the store"):
        Store(str(tmp_path)).put(name, b"")


def test_a_root_that_is_not_writable_is_a_one_line_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(VecapError, match="cannot write to"):
        Store(str(tmp_path / "file")).put("a", b"")


def test_a_folder_is_removed_with_its_contents(store: Store) -> None:
    store.remove_folder("d/gone")
    assert store.folders("d") == []
    for name in ("d/gone/a.txt", "d/gone/deep/b.txt", "d/stays/c.txt"):
        store.put(name, b"one")
    store.remove_folder("d/gone")
    assert [file.path for file in store.tree("d")] == ["d/stays/c.txt"]
    deadline = time.monotonic() + 60  # SeaweedFS deletes empty folders later
    while store.folders("d") != ["stays"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert store.files("d") == []
    assert not store.exists("d/gone/deep/b.txt")


def test_a_folder_is_removed_while_other_runs_add_and_remove_files(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    done = threading.Event()

    def write(number: int) -> None:
        while not done.is_set():
            store.put(f"d/gone/{number}/{time.monotonic_ns()}.txt", b"one")

    def remove(_: int) -> None:
        for _ in range(100):
            store.remove_folder("d/gone")

    with ThreadPoolExecutor(4) as pool:
        writers = [pool.submit(write, number) for number in range(2)]
        list(pool.map(remove, range(2)))
        done.set()
    for writer in writers:
        writer.result()
    store.remove_folder("d/gone")
    assert store.folders("d") == []


def test_an_s3_error_is_an_os_error_that_names_the_file(s3_bucket: str) -> None:
    with pytest.raises(FileNotFoundError):
        Store(f"s3://{s3_bucket}").read("nothing")
    with pytest.raises(OSError, match=r"cannot read s3://no-such-bucket/x: .*NoSuchBucket"):
        Store("s3://no-such-bucket").read("x")
    for write in (Store.create, Store.put):
        with pytest.raises(OSError, match=r"cannot write s3://no-such-bucket/x: .*NoSuchBucket"):
            write(Store("s3://no-such-bucket"), "x", b"")


def test_a_put_to_s3_that_fails_halfway_publishes_nothing(s3_bucket: str) -> None:
    """The body is not bytes, so the write fails after it starts."""
    store = Store(f"s3://{s3_bucket}")
    with pytest.raises((OSError, ValueError)):
        store.put("d/x.json", 5)  # type: ignore[arg-type]
    assert not store.exists("d/x.json")


def _write_file(store: Store, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"one")
    store.upload("d/v/a.txt", tmp_path / "source")


@pytest.mark.parametrize(
    "write",
    [
        lambda store, _: store.put("d/v/a.txt", b"one"),
        lambda store, _: store.create("d/v/a.txt", b"one"),
        lambda store, _: store.copy("source", "d/v/a.txt"),
        _write_file,
    ],
    ids=["put", "create", "copy", "upload"],
)
def test_a_power_failure_leaves_a_complete_file_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Store, Path], object]
) -> None:
    """Its bytes are synced before its name, and its name and new folders before the call returns."""
    store = Store(str(tmp_path / "store"))
    store.put("source", b"one")
    done: list[tuple[str, str]] = []
    sync, link, replace = os.fsync, os.link, os.replace

    def log(what: str, path: object) -> None:
        name = str(path).removeprefix(str(tmp_path))
        done.append((what, "temporary" if "/.staging/" in name else name))

    monkeypatch.setattr(
        os, "fsync", lambda number: (log("sync", Path(f"/proc/self/fd/{number}").readlink()), sync(number))
    )
    monkeypatch.setattr(os, "replace", lambda a, b: (log("name", b), replace(a, b)))
    monkeypatch.setattr(os, "link", lambda a, b: (log("name", b), link(a, b)))
    write(store, tmp_path)
    assert store.read("d/v/a.txt") == b"one"
    named = done.index(("name", "/store/d/v/a.txt"))
    assert ("sync", "temporary") in done[:named]
    assert ("sync", "/store/d/v") in done[named:]
    assert {("sync", "/store"), ("sync", "/store/d")} <= set(done)


@pytest.mark.parametrize(
    ("root", "variables", "kind"),
    [
        ("s3://bucket/a", {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}, "S3Store"),
        ("gs://bucket/a", {"GOOGLE_SKIP_SIGNATURE": "true"}, "GCSStore"),
        ("az://box/a", {"AZURE_STORAGE_ACCOUNT_NAME": "a", "AZURE_STORAGE_ACCOUNT_KEY": "Yg=="}, "AzureStore"),
    ],
)
def test_the_scheme_of_the_root_selects_the_service(
    root: str, variables: dict[str, str], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    store = Store(root)
    bucket, key = store._object("d/x.txt")
    assert (type(bucket._store).__name__, key) == (kind, "a/d/x.txt")
    assert store.query_path("d/x.txt") == f"{root}/d/x.txt"


def test_missing_credentials_are_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(VecapError, match=r"^cannot find credentials for s3://bucket: .*AWS_SKIP_SIGNATURE=true"):
        Store("s3://bucket").read("x")
    (tmp_path / "credentials").write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    assert Store("s3://bucket")._object("x")[0].url("x") == "s3://bucket/x"
