"""Temporary folders of killed processes, and of running ones."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from tests.installation import REPOSITORY
from vecap_tasks.core.store import STAGING, Store
from vecap_tasks.core.temporary import list_folder, remove_abandoned, temporary_folder

HOLD = """
import os, sys, time
from pathlib import Path
from vecap_tasks.core.store import Store
from vecap_tasks.core.temporary import temporary_folder
with temporary_folder() as folder, Store(sys.argv[1]).workspace() as work:
    for each in (folder, work):
        (each / "file").write_bytes(bytes(1000))
    print("ready", flush=True)
    time.sleep(600)
"""

# Exits as after Ctrl-C while another thread removes a folder with many files.
EXIT_DURING_REMOVAL = """
import os, threading, time
from vecap_tasks.core.temporary import remove_own, temporary_folder

created, leave = threading.Event(), threading.Event()

def work():
    with temporary_folder() as folder:
        for number in range(20_000):
            (folder / str(number)).touch()
        created.set()
        leave.wait()

threading.Thread(target=work).start()
created.wait()
leave.set()
time.sleep(0.02)
remove_own()
os._exit(0)
"""


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def test_folders_of_killed_processes_are_removed_and_those_in_use_are_not(tmp_path: Path, scratch: Path) -> None:
    store = Store(str(tmp_path / "store"))
    staging = tmp_path / "store" / STAGING
    (scratch / "vecap-other").mkdir()  # of another installation
    command = [sys.executable, "-c", HOLD, store.root]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    with temporary_folder() as own:
        assert remove_abandoned() == 0
        store.remove_abandoned()
        assert (len(list(scratch.iterdir())), len(list(staging.iterdir()))) == (3, 1)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert remove_abandoned() == 1
        store.remove_abandoned()
        assert own.is_dir()
    assert [path.name for path in scratch.iterdir()] == ["vecap-other"]
    assert list(staging.iterdir()) == []


def test_a_folder_whose_process_died_before_the_lock_existed_is_removed(scratch: Path) -> None:
    with temporary_folder() as folder:
        name = folder.parent.name
    (scratch / name).mkdir()
    assert remove_abandoned() == 1


def test_a_forked_process_leaves_the_folders_of_its_parent(scratch: Path) -> None:
    with temporary_folder() as folder:
        child = os.fork()
        if child == 0:
            with temporary_folder():
                pass
            os._exit(0)
        os.waitpid(child, 0)
        assert remove_abandoned() == 0
        assert folder.is_dir()
    assert list(scratch.iterdir()) == []


def test_an_exit_while_a_thread_removes_its_folder_leaves_nothing(scratch: Path) -> None:
    subprocess.run([sys.executable, "-c", EXIT_DURING_REMOVAL], cwd=REPOSITORY, check=True)
    assert list(scratch.iterdir()) == []


def test_a_folder_is_listed_while_others_create_and_delete_it(tmp_path):
    folder, stopped = tmp_path / "folder", threading.Event()

    def create_and_delete():
        while not stopped.is_set():
            (folder / "sub").mkdir(parents=True)
            shutil.rmtree(folder)

    thread = threading.Thread(target=create_and_delete)
    thread.start()
    try:
        sizes = {len(list_folder(str(folder), recursive=number % 2 == 0)) for number in range(20_000)}
    finally:
        stopped.set()
        thread.join()
    assert sizes <= {0, 1}
