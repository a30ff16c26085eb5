"""Process identity and termination: detects reused process ids, ends whole sessions.

Each service runs in its own session. Its child processes stay in that session, so that the session can be terminated
even after its leader is gone. A process id counts only together with the start time of the process.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass

import psutil

_START_TOLERANCE = 2.0  # seconds that a clock change may shift a start time
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


@dataclass(frozen=True, slots=True)
class Process:
    """A process that we started: its id and start time (seconds since the epoch)."""

    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> Process:
        """Raises psutil.NoSuchProcess."""
        return cls(pid, psutil.Process(pid).create_time())

    def alive(self) -> bool:
        """Return whether this process is running. A zombie is not running."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < _START_TOLERANCE
            return bool(same and process.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False


def die_with_parent(parent: int, number: signal.Signals = signal.SIGTERM) -> None:
    """Have the kernel send signal *number* to this process when its parent, process *parent*, dies (Linux only)."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
        if os.getppid() != parent:  # the parent died before prctl
            os.kill(os.getpid(), number)


def session_pids(leader: Process) -> list[int]:
    """Return the process ids of the session of *leader*; none if its id now belongs to another process."""
    if not leader.alive() and psutil.pid_exists(leader.pid) and not _zombie(leader.pid):
        return []
    pids = []
    for process in psutil.process_iter():
        try:
            same = os.getsid(process.pid) == leader.pid and process.status() != psutil.STATUS_ZOMBIE
            if same and process.create_time() >= leader.started - _START_TOLERANCE:
                pids.append(process.pid)
        except (ProcessLookupError, PermissionError, psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return pids


def _zombie(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def send_signal(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to those of *pids* that are still running."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def terminate_sessions(leaders: Iterable[Process], stop: signal.Signals, timeout: float) -> None:
    """Send *stop* to the session leaders, then SIGKILL to whatever remains after *timeout* seconds."""
    all_leaders = list(leaders)
    send_signal((leader.pid for leader in all_leaders if leader.alive()), stop)
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        reap()
        if not any(leader.alive() for leader in all_leaders):
            break
        time.sleep(0.1)
    for _ in range(5):  # a process may fork between the listing and the kill
        remaining = [pid for leader in all_leaders for pid in session_pids(leader)]
        if not remaining:
            return
        send_signal(remaining, signal.SIGKILL)
        reap()
        time.sleep(0.1)


def reap() -> None:
    """Reap exited child processes, so that they do not count as running."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
