"""The child side: a fork server, and the children that it forks.

The server is a new process with one thread, so that forking it is safe, unlike a process with threads. It imports the
modules that its children need once. It ends when its parent closes the connection or dies; its children then end too.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import logging
import os
import signal
import socket
import sys
import traceback
from contextlib import suppress
from logging.handlers import QueueHandler
from pathlib import Path
from typing import Any

from vecap_tasks.core.isolation.messages import Request, SharedMemory, receive, receive_bytes, send
from vecap_tasks.errors import failure_of

OUT_OF_MEMORY = 77  # exit code of a child after a MemoryError
_PR_SET_PDEATHSIG = 1
_GC_THRESHOLD = 100_000  # objects; parsers create many objects and few cycles


def main(descriptor: int) -> None:
    """Fork and end children as the parent requests on the socket *descriptor*."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C also reaches this process; its parent ends it
    control = socket.socket(fileno=descriptor)
    children: set[int] = set()
    with suppress(EOFError, OSError):  # the parent is gone
        while True:
            command, argument = receive(control)
            if command == "fork":
                reply = _fork(control, argument)
                if isinstance(reply, int):
                    children.add(reply)
            else:
                reply = _end(argument)
                children.remove(argument)
            send(control, reply)
    for child in children:
        _end(child)  # their CPU time then counts in that of this process
    os._exit(0)


def _fork(control: socket.socket, modules: tuple[str, ...]) -> int | Exception:
    """Fork a child with *modules*. Return its process id, or the error of an import or a fork."""
    _, descriptors, _, _ = socket.recv_fds(control, 1, 2)
    server = os.getpid()
    try:
        for module in modules:
            importlib.import_module(module)
        pid = os.fork()
    except Exception as error:
        return error
    else:
        if pid == 0:
            _run_child(server, control, *descriptors)
        return pid
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _end(pid: int) -> int:
    """Kill the child *pid* unless it has exited, and return its exit code, negative for a signal."""
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _run_child(server: int, control: socket.socket, connection: int, memory: int) -> None:
    code = 1
    try:
        _die_with(server)
        with suppress(OSError):  # if memory runs out, the kernel kills this process instead of its parent
            Path("/proc/self/oom_score_adj").write_text("1000")
        gc.freeze()
        gc.set_threshold(_GC_THRESHOLD)
        control.close()
        _serve(socket.socket(fileno=os.dup(connection)), SharedMemory(memory))
    except (EOFError, OSError):  # the parent is gone
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when process *parent* dies."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


def _serve(connection: socket.socket, shared: SharedMemory) -> None:
    """Process batches. Raises EOFError or OSError when the parent is gone."""
    logs = _Logs()
    root = logging.getLogger()
    root.handlers = [logs]
    while True:
        request: Request = receive(connection)
        if root.level != request.log_level:
            root.setLevel(request.log_level)  # takes time for each logger
        response = _call_all(request, connection, shared)
        shared.send(connection, (*response, logs.take()))


def _call_all(request: Request, connection: socket.socket, shared: SharedMemory) -> tuple[Exception | None, list[Any]]:
    """Return an error that no item caused, else None, and the result or Failure of each item."""
    module, _, name = request.function.partition(":")
    function = getattr(importlib.import_module(module), name)
    results: list[Any] = []
    fault: Exception | None = None
    for index, (item, arguments, size, offset) in enumerate(request.calls):
        body = receive_bytes(connection, size) if offset is None else shared.read(offset, size)
        shared.start(index)
        if fault is not None:
            continue
        try:
            results.append(function(body, *arguments, *request.common))
        except MemoryError:
            os._exit(OUT_OF_MEMORY)
        except Exception as error:
            try:
                results.append(failure_of(error, item))
            except Exception as raised:
                fault = raised
    shared.start(len(request.calls))
    return fault, results


class _Logs(QueueHandler):
    """Collects log records for the parent."""

    def __init__(self) -> None:
        super().__init__(None)  # type: ignore[arg-type]  # `enqueue` replaces the queue
        self._records: list[logging.LogRecord] = []

    def enqueue(self, record: logging.LogRecord) -> None:
        self._records.append(record)

    def take(self) -> list[logging.LogRecord]:
        records, self._records = self._records, []
        return records
