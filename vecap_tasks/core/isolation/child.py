"""The parent side: the connection to the fork server, and one child with its limits."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vecap_tasks.config import LimitsConfig
from vecap_tasks.core.isolation.messages import BUFFER_BYTES, SHARED_BYTES, Item, Request, SharedMemory, receive, send
from vecap_tasks.core.isolation.server import OUT_OF_MEMORY
from vecap_tasks.errors import VecapError

_BUFFER = 1 << 20  # bytes of the socket; the kernel may allow less
_PAGE = os.sysconf("SC_PAGE_SIZE")
_CLOSE_SECONDS = 5.0
_PROCESS_CLOCK = 2  # CPUCLOCK_SCHED of Linux
_STATM_BYTES = 200  # seven numbers
_STALL_SECONDS = 120.0  # of a child that waits without using CPU time, such as in a deadlock of a C library
_CODE = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from {0} import main; main(int(sys.argv[2]))"
# One thread per child: the children run in parallel.
_THREADS = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one item: CPU seconds, and bytes by which the resident memory of the child may grow."""

    cpu_seconds: float
    memory: int

    @classmethod
    def of(cls, config: LimitsConfig) -> Limits:
        return cls(config.cpu_seconds, config.memory)


@dataclass(frozen=True, slots=True)
class Task:
    """A function for items: `module:name`, the last arguments of each call, and the limits."""

    function: str
    common: tuple[Any, ...]
    limits: Limits

    @property
    def module(self) -> str:
        return self.function.partition(":")[0]


class ForkServer:
    """A process that forks children. Raises VecapError from any method if it has died."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._control, remote = socket.socketpair()
        with remote:
            code = _CODE.format("vecap_tasks.core.isolation.server")
            self._process = subprocess.Popen(
                [sys.executable, "-c", code, json.dumps(sys.path), str(remote.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[remote.fileno()],
                env=os.environ | _THREADS,
            )

    def fork(self, module: str, connection: int, memory: int) -> int:
        """Fork a child that has imported *module*, and return its process id. Raises the error of the import."""
        with self._lock:
            self._send("fork", (module,))
            with suppress(OSError):  # `_receive` reports it
                socket.send_fds(self._control, [b"f"], [connection, memory])
            reply = self._receive()
        if isinstance(reply, Exception):
            raise reply
        pid: int = reply
        return pid

    def end(self, pid: int) -> int:
        """Kill the child *pid* unless it has exited, and return its exit code, negative for a signal."""
        with self._lock:
            self._send("end", pid)
            code: int = self._receive()
            return code

    def alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        """End the server and its children."""
        self._control.close()
        try:
            self._process.wait(_CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _send(self, command: str, argument: Any) -> None:
        with suppress(OSError):
            send(self._control, (command, argument))

    def _receive(self) -> Any:
        try:
            return receive(self._control)
        except (EOFError, OSError) as error:
            raise VecapError("the process that starts decoders was killed; run the same command again") from error


class ChildLost(Exception):
    """A child was killed or crashed. *index* is the item it processed, None if it processed none."""

    def __init__(self, reason: str, detail: str, index: int | None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail
        self.index = index


class Child:
    """A child for functions of one module. It processes one batch at a time, for one thread."""

    def __init__(self, server: ForkServer, module: str) -> None:
        self.module = module
        self._server = server
        self._connection, remote = socket.socketpair()
        memory = os.memfd_create("isolation")
        try:
            for end in (self._connection, remote):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
            os.truncate(memory, SHARED_BYTES)
            self._shared = SharedMemory(memory)
            self._shared.reset_progress()
            self.pid = server.fork(module, remote.fileno(), memory)
            self._statm = open(f"/proc/{self.pid}/statm", "rb", buffering=0)  # noqa: PTH123, SIM115 - kept open
        except BaseException:
            self._connection.close()
            raise
        finally:
            remote.close()
            os.close(memory)
        self._lock = threading.Lock()  # while `_running`, the process id is that of the child
        self._running = True
        self._limits: Limits | None = None  # during a batch
        self._excess: tuple[str, str] | None = None  # the limit for which it was killed
        self._initial_memory = self._memory_before = 0  # resident bytes before the first and the last batch
        self._last_cpu, self._last_progress = -1.0, 0.0

    def run(self, task: Task, items: Sequence[Item]) -> tuple[Exception | None, list[Any], list[logging.LogRecord]]:
        """Return an error that no item caused, else None; the result or Failure of each item; and log records.

        Raises ChildLost if the child dies or exceeds a limit; it is then ended.
        """
        offsets = self._place(items)
        calls = [(item.name, item.arguments, len(item.body), at) for item, at in zip(items, offsets, strict=True)]
        level = logging.getLogger("vecap_tasks").getEffectiveLevel()
        self._shared.reset_progress()
        try:
            self._memory_before, self._last_progress = self._resident(), time.monotonic()
            self._initial_memory = self._initial_memory or self._memory_before
            self._limits = task.limits
            send(self._connection, Request(task.function, task.common, calls, level))
            for item, offset in zip(items, offsets, strict=True):
                if offset is None:
                    self._connection.sendall(item.body)
            fault, results, records = self._shared.receive(self._connection)
        except (EOFError, OSError) as error:
            index, _ = self._shared.progress()
            raise ChildLost(*self._reason(self.end()), index if 0 <= index < len(items) else None) from error
        finally:
            self._limits = None
        return fault, results, records

    def _place(self, items: Sequence[Item]) -> list[int | None]:
        """Write the bodies that fit into the buffer. Return the offset of each, None if it does not fit."""
        offsets: list[int | None] = []
        end = 0
        for item in items:
            fits = end + len(item.body) <= BUFFER_BYTES
            offsets.append(end if fits else None)
            if fits:
                self._shared.write(end, item.body)
                end += len(item.body)
        return offsets

    def check(self) -> None:
        """Kill the child if its current item exceeds a limit. Called by another thread during `run`."""
        limits = self._limits
        if limits is None:
            return
        _, start = self._shared.progress()
        with self._lock:
            if not self._running:
                return
            try:
                cpu, resident = self._cpu_seconds(), self._resident()
            except OSError:  # it has died
                return
            now = time.monotonic()
            if cpu > self._last_cpu or not self._sleeps():
                self._last_cpu, self._last_progress = cpu, now
            if cpu - start > limits.cpu_seconds:
                self._excess = "cpu_limit", f"{limits.cpu_seconds:g} s"
            elif resident - self._memory_before > limits.memory:
                self._excess = "memory_limit", f"{limits.memory >> 20} MiB"
            elif now - self._last_progress > _STALL_SECONDS:
                self._excess = "stalled", f"{_STALL_SECONDS:g} s"
            else:
                return
            os.kill(self.pid, signal.SIGKILL)

    @property
    def retained(self) -> int:
        """Bytes by which the resident memory had grown before the last batch."""
        return self._memory_before - self._initial_memory

    def end(self) -> int:
        """End the child and return its exit code, negative for a signal."""
        with self._lock:
            self._running = False
        self._connection.close()
        self._statm.close()
        try:
            return self._server.end(self.pid)
        except VecapError:  # its server, and therefore the child, was killed
            return -signal.SIGKILL

    def _reason(self, code: int) -> tuple[str, str]:
        if self._excess is not None:
            return self._excess
        if code == OUT_OF_MEMORY:
            return "memory_limit", ""
        return "crashed", signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def _resident(self) -> int:
        """Return the resident memory in bytes. Raises OSError if the child has died."""
        return int(os.pread(self._statm.fileno(), _STATM_BYTES, 0).split()[1]) * _PAGE

    def _cpu_seconds(self) -> float:
        """Return the CPU time. Raises OSError if the child has died."""
        return time.clock_gettime(~self.pid << 3 | _PROCESS_CLOCK)  # as clock_getcpuclockid(3); /proc takes longer

    def _sleeps(self) -> bool:
        """Return whether the child waits, and is not stopped or ready to run. Raises OSError if it has died."""
        fields = Path(f"/proc/{self.pid}/stat").read_bytes().rpartition(b")")[2].split()
        return fields[0] == b"S"
