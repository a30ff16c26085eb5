"""Processes that must not outlive, or be taken for, others: identity that survives reused numbers, and the end.

A service runs in a session of its own. Whatever it starts stays in that session, so a session is ended whole even
when its first process is gone; a process number is believed only together with the time at which it started.
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

_SAME_START = 2.0  # seconds by which a clock that is set may move a start time
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


@dataclass(frozen=True, slots=True)
class Process:
    """A process that we started: its number and when it started (seconds since the epoch)."""

    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> Process:
        """Raises psutil.NoSuchProcess."""
        return cls(pid, psutil.Process(pid).create_time())

    def alive(self) -> bool:
        """Say whether this very process runs (one that ended and was not yet waited for does not)."""
        try:
            found = psutil.Process(self.pid)
            same = abs(found.create_time() - self.started) < _SAME_START
            return bool(same and found.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False


def die_with_parent(parent: int, number: signal.Signals = signal.SIGTERM) -> None:
    """Ask the kernel to end this process when its parent, process *parent*, dies by any means (Linux alone)."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
        if os.getppid() != parent:  # it died before we asked
            os.kill(os.getpid(), number)


def session(leader: Process) -> list[int]:
    """Return the processes of the session that *leader* opened; none where its number now names something else."""
    if not leader.alive() and psutil.pid_exists(leader.pid) and not _zombie(leader.pid):
        return []
    found = []
    for process in psutil.process_iter():
        try:
            same = os.getsid(process.pid) == leader.pid and process.status() != psutil.STATUS_ZOMBIE
            if same and process.create_time() >= leader.started - _SAME_START:
                found.append(process.pid)
        except (ProcessLookupError, PermissionError, psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def _zombie(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to those of *pids* that still run."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def end_sessions(leaders: Iterable[Process], gentle: signal.Signals, seconds: float) -> None:
    """End the sessions of *leaders*: the leaders gently, and after *seconds* whatever is left by SIGKILL."""
    all_leaders = list(leaders)
    send((leader.pid for leader in all_leaders if leader.alive()), gentle)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        reap()
        if not any(leader.alive() for leader in all_leaders):
            break
        time.sleep(0.1)
    for _ in range(5):  # a process may fork between the listing and its end
        left = [pid for leader in all_leaders for pid in session(leader)]
        if not left:
            return
        send(left, signal.SIGKILL)
        reap()
        time.sleep(0.1)


def reap() -> None:
    """Collect children that have ended, so that they do not count as running."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
