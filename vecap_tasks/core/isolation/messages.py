"""Messages between a process and its children, and the progress of a child in shared memory."""

from __future__ import annotations

import mmap
import pickle
import socket
import struct
import time
from typing import Any, NamedTuple

BETWEEN = -1  # index of the current item before the first one starts
_SIZE = struct.Struct("<Q")
_PROGRESS = struct.Struct("<qd")  # index of the current item, CPU seconds of the process at its start
_NO_START = float("inf")
PROGRESS_BYTES = mmap.PAGESIZE


class Item(NamedTuple):
    """Arguments of one call: `function(body, *arguments, *common)`. Log lines call it `name`, such as its URL."""

    name: str
    body: bytes
    arguments: tuple[Any, ...] = ()


class Request(NamedTuple):
    """A batch of calls; the bodies follow the message. `calls` are names, arguments and sizes of the bodies."""

    function: str
    common: tuple[Any, ...]
    calls: list[tuple[str, tuple[Any, ...], int]]
    log_level: int


def send(connection: socket.socket, value: Any) -> None:
    data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    connection.sendall(_SIZE.pack(len(data)) + data)


def receive(connection: socket.socket) -> Any:
    """Return the next message. Raises EOFError or OSError if the other process is gone."""
    (size,) = _SIZE.unpack(receive_bytes(connection, _SIZE.size))
    return pickle.loads(receive_bytes(connection, size))  # noqa: S301 - from a process of ours


def receive_bytes(connection: socket.socket, size: int) -> bytes:
    """Return exactly *size* bytes. Raises EOFError or OSError if the other process is gone."""
    data = connection.recv(size, socket.MSG_WAITALL)
    while len(data) < size:  # interrupted by a signal
        more = connection.recv(size - len(data), socket.MSG_WAITALL)
        if not more:
            raise EOFError
        data += more
    return data


class Progress:
    """The item that a child processes, in memory that both processes share."""

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, PROGRESS_BYTES)

    def reset(self) -> None:
        _PROGRESS.pack_into(self._memory, 0, BETWEEN, _NO_START)

    def start(self, index: int) -> None:
        """Record in the child that item *index* starts now."""
        _PROGRESS.pack_into(self._memory, 0, index, time.process_time())

    def read(self) -> tuple[int, float]:
        """Return the index of the current item and the CPU seconds of the child at its start (before it: infinity)."""
        index, start = _PROGRESS.unpack_from(self._memory)
        return index, start
