"""Being told to end: SIGTERM is catch_sigterm, and answered where the run can be left."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from vecap_tasks.errors import VecapError


class Interrupted(VecapError):
    """The process was told to end, and did; the same command goes on."""


@dataclass(slots=True)
class StopRequest:
    """`asked` becomes true when the process is told to end."""

    asked: bool = False


@contextmanager
def catch_sigterm() -> Iterator[StopRequest]:
    """Hear SIGTERM within the block instead of dying of it. Only a process's main thread can."""
    ending = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield ending
        return

    def hear(number: int, frame: FrameType | None) -> None:
        ending.asked = True

    before = signal.signal(signal.SIGTERM, hear)
    try:
        yield ending
    finally:
        signal.signal(signal.SIGTERM, before)
