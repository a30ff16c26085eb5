"""Functions that the tests of isolation run in child processes."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import time
from pathlib import Path

from vecap_tasks.errors import Failure

log = logging.getLogger("vecap_tasks.isolated")


def act(body: bytes, number: int, *_: object) -> tuple[int, str]:
    """Do what *body* says."""
    match body.partition(b" ")[0]:
        case b"fail":
            raise Failure("bad", "detail", temporary=True, retry_after=3.0)
        case b"error":
            raise KeyError("x")
        case b"disk":
            raise OSError(28, "No space left on device")
        case b"memory_error":
            raise MemoryError
        case b"log":
            log.warning("warning %d", number)
        case b"crash":
            ctypes.string_at(0)
        case b"abort":
            os.abort()
        case b"exit":
            os._exit(3)
        case b"kill_once":
            mark = Path(body.partition(b" ")[2].decode())
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        case b"loop":
            while True:
                pass
        case b"allocate":
            held = []
            while True:
                held.append(b"x" * (8 << 20))
                time.sleep(0.02)
        case b"sleep":
            time.sleep(600)
        case b"server":
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)
    return number, body.decode()


def pid(body: bytes) -> int:
    return os.getpid()


def use_cpu(body: bytes, seconds: float) -> float:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    return seconds
