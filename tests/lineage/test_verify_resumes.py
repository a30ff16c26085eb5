"""`vecap verify` and `vecap lineage` resume an interrupted verification without reading intact files again."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.train.factories import Texts, configure, publish_version
from vecap_tasks.cli.__main__ import main
from vecap_tasks.core.store import Store
from vecap_tasks.core.verify import verify_version
from vecap_tasks.lineage.verify_journal import verify_journal
from vecap_tasks.lineage.walk import walk

COMMAND = ("verify", "demo", "2026-01-01")


class Interrupted(Exception):
    pass


@pytest.fixture
def config(home, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    return configure(home, arms="[vecap]", epochs=1)


@pytest.fixture
def version(config):
    return publish_version(config, [Texts() for _ in range(16)])


@pytest.fixture
def store(config):
    return Store(config.resolve(config.root))


def verify(store, version, stop_after=None):
    """Return the problems and the number of files that were not read; stop after *stop_after* files."""
    left = [stop_after]

    def report(done, total):
        if left[0] is not None:
            left[0] -= 1
            if left[0] == 0:
                raise Interrupted

    with verify_journal(store, COMMAND) as journal:
        found = verify_version(store, version, report, journal.check)
    return [item.path for item in found.corruptions], journal.skipped


def verified() -> str:
    """Return the first file in the journal of an interrupted verification."""
    (journal,) = (Path(os.environ["XDG_CACHE_HOME"]) / "vecap" / "verify").iterdir()
    name: str = json.loads(journal.read_text().splitlines()[0])[0]
    return name


def change(path: Path, *, keep_time: bool) -> None:
    """Flip a bit of *path*; with *keep_time* its time of the last write stays."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    times = (before.st_atime_ns, before.st_mtime_ns + (0 if keep_time else 1_000_000_000))
    os.utime(path, ns=times)


def test_an_interrupted_verification_reads_intact_files_once(store, version):
    with pytest.raises(Interrupted):
        verify(store, version, stop_after=6)
    name = verified()
    change(Path(store.path(name)), keep_time=True)  # cannot be seen without reading it
    problems, skipped = verify(store, version)
    assert problems == []
    assert skipped >= 6
    problems, skipped = verify(store, version)  # a finished verification is not resumed
    assert problems == [name]
    assert skipped == 0


def test_a_file_that_was_written_since_is_read_again(store, version):
    with pytest.raises(Interrupted):
        verify(store, version, stop_after=6)
    name = verified()
    change(Path(store.path(name)), keep_time=False)
    assert verify(store, version)[0] == [name]


def test_a_corrupt_or_old_journal_is_not_used(store, version, home):
    with pytest.raises(Interrupted):
        verify(store, version, stop_after=6)
    (journal,) = (home / "cache" / "vecap" / "verify").iterdir()
    complete = journal.read_text()
    journal.write_text(complete + '["demo/2026-01-01/cra')  # the process was killed while it wrote
    assert verify(store, version)[1] >= 6
    journal.write_bytes(b"\xff\x00")
    assert verify(store, version) == ([], 0)
    journal.write_text(complete)
    os.utime(journal, (0, 0))
    assert verify(store, version) == ([], 0)


def test_lineage_resumes(config, store, version):
    def read(*, fail: bool) -> int:
        with verify_journal(store, ("lineage", "demo", "2026-01-01")) as journal:
            assert walk(config, "2026-01-01", check_file=journal.check).verified
            if fail:
                raise Interrupted
        return journal.skipped

    with pytest.raises(Interrupted):
        read(fail=True)
    assert read(fail=False) > 6
    assert read(fail=False) == 0


def test_the_command_says_that_it_resumed(config, store, version, tmp_path, capsys):
    path = tmp_path / "config.yaml"
    path.write_text(config.model_dump_json())
    with pytest.raises(Interrupted):
        verify(store, version, stop_after=6)
    assert main(["verify", "--config", str(path), "--version", "2026-01-01"]) == 0
    printed = capsys.readouterr()
    assert "OK: " in printed.out
    assert "files were verified before and not read again" in printed.err
