"""Handles SIGTERM by setting a flag, so that a run can stop after a checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from vecap_tasks.errors import VecapError


class Interrupted(VecapError):
    """The process stopped on SIGTERM. Running the same command again resumes."""


@dataclass(slots=True)
class StopRequest:
    """`requested` becomes true when the process receives SIGTERM."""

    requested: bool = False


@contextmanager
def catch_sigterm() -> Iterator[StopRequest]:
    """Set the yielded flag on SIGTERM within the block instead of exiting. Works only in the main thread."""
    stop_request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop_request
        return

    def handle(number: int, frame: FrameType | None) -> None:
        stop_request.requested = True

    previous = signal.signal(signal.SIGTERM, handle)
    try:
        yield stop_request
    finally:
        signal.signal(signal.SIGTERM, previous)
