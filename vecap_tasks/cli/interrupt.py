"""Ctrl-C: prints one line, kills the processes that the command started, and exits with 130.

The stages can be killed at any time, so nothing is unwound: an exception during an import, in a library's
callback or of Dask's event loop would print tracebacks, be swallowed, or leave processes. A thread waits for the
signal, which all other threads block, so that it works while the main thread is in native code. Child processes
inherit the blocked signal: a terminal sends it to them, too, and only this process ends them.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress

_LINE = b"vecap: Interrupted; run the same command again to resume\n"
_CODE = 130
_PR_SET_CHILD_SUBREAPER = 36
_ROUNDS, _PAUSE = 1000, 0.005  # of kills; the pause in seconds
_interrupted = threading.Event()
_first = threading.Lock()


def install() -> None:
    """Handle Ctrl-C in this process from now on, unless it is ignored, as in a background job of a shell."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    signal.signal(signal.SIGINT, lambda *_: _exit())  # a library may unblock the signal in a thread
    threading.Thread(target=_wait, name="interrupt", daemon=True).start()
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # orphans become children of this process


def wait_if_interrupted() -> None:
    """Wait for the end of the process if Ctrl-C was pressed. Otherwise return."""
    if _interrupted.is_set():
        threading.Event().wait()


def _wait() -> None:
    signal.sigwait({signal.SIGINT})
    _exit()


def _exit() -> None:
    if not _first.acquire(blocking=False):  # a second Ctrl-C while the first is handled
        os._exit(_CODE)
    _interrupted.set()
    threading.Thread(target=_wait, daemon=True).start()
    try:
        errors, silent = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        for descriptor in (1, 2):  # other threads may draw a progress bar, or report that their processes died
            os.dup2(silent, descriptor)
        # A progress bar hides the cursor.
        os.write(errors, b"\r\x1b[K\x1b[?25h" + _LINE if os.isatty(errors) else _LINE)
        _kill_descendants()
        if (temporary := sys.modules.get("vecap_tasks.core.temporary")) is not None:
            temporary.remove_own()
    finally:
        os._exit(_CODE)


def _kill_descendants() -> None:
    """Kill all descendants of this process, also those that are started meanwhile or lose their parent."""
    _forbid_children()
    absent = 0
    for _ in range(_ROUNDS):
        found = _descendants()
        absent = 0 if found else absent + 1
        if absent == 2:  # a thread may have been about to start one
            return
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_PAUSE)


def _forbid_children() -> None:
    """Have other threads wait forever when they start a process; Dask replaces workers that die."""

    def wait(*_: object) -> None:
        threading.Event().wait()

    for module, name in (("os", "fork"), ("_posixsubprocess", "fork_exec"), ("subprocess", "_fork_exec")):
        if module in sys.modules:
            setattr(sys.modules[module], name, wait)


def _descendants() -> list[int]:
    """Return the descendants of this process that are running, parents first."""
    if not os.path.isdir("/proc/self"):  # noqa: PTH112 - pathlib may not be imported yet
        import psutil

        return [process.pid for process in psutil.Process().children(recursive=True)]
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as stream:  # noqa: PTH123
                fields = stream.read().rpartition(b")")[2].split()
        except OSError:
            continue
        state, parent, threads = fields[0], int(fields[1]), int(fields[17])
        # The first thread of a process is a zombie while others still exit and hold its locks.
        running = state not in b"ZX" or threads > 1
        children.setdefault(parent, []).append(int(name) if running else -int(name))
    found, queue = [], [os.getpid()]
    while queue:
        for child in children.get(queue.pop(0), ()):
            queue.append(abs(child))
            if child > 0:
                found.append(child)
    return found
