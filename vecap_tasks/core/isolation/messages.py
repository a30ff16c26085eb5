"""Messages between a process and its children, through sockets and shared memory."""

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
_PROGRESS_BYTES = mmap.PAGESIZE
BUFFER_BYTES = 4 << 20
SHARED_BYTES = _PROGRESS_BYTES + BUFFER_BYTES


class Item(NamedTuple):
    """Arguments of one call: `function(body, *arguments, *common)`. Log lines call it `name`, such as its URL."""

    name: str
    body: bytes
    arguments: tuple[Any, ...] = ()


class Request(NamedTuple):
    """A batch of calls: name, arguments, and size of the body and its offset in the buffer.

    Without an offset, the body follows the message on the socket.
    """

    function: str
    common: tuple[Any, ...]
    calls: list[tuple[str, tuple[Any, ...], int, int | None]]
    log_level: int


def send(connection: socket.socket, value: Any) -> None:
    data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    connection.sendall(_SIZE.pack(len(data)) + data)  # one call wakes the receiver once


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


class SharedMemory:
    """Memory of a parent and a child: the progress of the child, and a buffer for one message at a time.

    Bodies and results pass through the buffer if they fit, because a socket wakes both processes for each body.
    """

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, SHARED_BYTES)

    def reset_progress(self) -> None:
        _PROGRESS.pack_into(self._memory, 0, BETWEEN, _NO_START)

    def start(self, index: int) -> None:
        """Record in the child that item *index* starts now."""
        _PROGRESS.pack_into(self._memory, 0, index, time.process_time())

    def progress(self) -> tuple[int, float]:
        """Return the index of the current item and the CPU seconds of the child at its start (before it: infinity)."""
        index, start = _PROGRESS.unpack_from(self._memory)
        return index, start

    def write(self, offset: int, data: bytes) -> None:
        start = _PROGRESS_BYTES + offset
        self._memory[start : start + len(data)] = data

    def read(self, offset: int, size: int) -> bytes:
        start = _PROGRESS_BYTES + offset
        return self._memory[start : start + size]

    def send(self, connection: socket.socket, value: Any) -> None:
        """Send a message through the buffer, or through *connection* if it is larger."""
        data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
        fits = len(data) <= BUFFER_BYTES
        if fits:
            self.write(0, data)
        connection.sendall(_SIZE.pack(len(data)))
        if not fits:
            connection.sendall(data)

    def receive(self, connection: socket.socket) -> Any:
        """Return the next message of `send`. Raises EOFError or OSError if the other process is gone."""
        (size,) = _SIZE.unpack(receive_bytes(connection, _SIZE.size))
        if size > BUFFER_BYTES:
            return pickle.loads(receive_bytes(connection, size))  # noqa: S301 - from a process of ours
        with memoryview(self._memory) as memory, memory[_PROGRESS_BYTES : _PROGRESS_BYTES + size] as data:
            return pickle.loads(data)  # noqa: S301 - from a process of ours
