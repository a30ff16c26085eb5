"""Ctrl-C ends a command with one line and exit code 130. `python -m benchmarks.interrupt` tries many moments."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from functools import partial
from pathlib import Path

import pytest

from benchmarks import interrupt
from tests.installation import REPOSITORY

# A command that is in native code, ignores exceptions, and has children: one ignores signals, one starts others.
BUSY = """
import hashlib, subprocess
from vecap_tasks.cli import interrupt
interrupt.install()
shell = "trap '' INT TERM HUP; (setsid sleep 600 &); sleep 600"
children = [subprocess.Popen(["sh", "-c", shell]), subprocess.Popen(["sleep", "600"])]
print("ready", flush=True)
while True:
    try:
        hashlib.pbkdf2_hmac("sha256", b"", b"", 10**8)
    except BaseException:
        pass
"""


def start(*command: str, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, *command],
        env=os.environ | environment,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # background shells ignore it
    )


def test_children_end_even_if_they_ignore_signals(tmp_path: Path) -> None:
    home = tmp_path / uuid.uuid4().hex
    process = start("-c", BUSY, VECAP_INTERRUPT_DRILL=home.name)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    time.sleep(0.3)
    place = interrupt.Place(home, home, 0)
    assert len(place.processes()) >= 4
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors.decode()) == (130, f"{interrupt.LINE}\n")
    assert place.processes() == []


@pytest.mark.parametrize("moment", [0.0, 0.05, 0.2])
def test_ctrl_c_during_imports(moment: float, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    environment = {"TMPDIR": str(tmp_path / "tmp"), "VECAP_HOME": str(tmp_path)}
    process = start("-m", "vecap_tasks.cli", "run", "--config", "configs/demo.yaml", **environment)
    while not interrupt.handles_interrupts(process.pid):
        time.sleep(0.001)
    time.sleep(moment)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors.decode()) == (130, f"{interrupt.LINE}\n")
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_background_job_of_a_shell_ignores_ctrl_c() -> None:
    code = "from vecap_tasks.cli import interrupt; interrupt.install(); import os; os.kill(os.getpid(), 2); print('on')"
    ignore = partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
    ended = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, preexec_fn=ignore)
    assert (ended.returncode, ended.stdout) == (0, b"on\n")


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
def test_fifty_moments() -> None:
    assert interrupt.main([]) == 0
