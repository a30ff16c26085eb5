"""Full disks: a limit on the files of this process, and a real small file system."""

from __future__ import annotations

import resource
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


@contextmanager
def full_disk(max_size: int) -> Iterator[None]:
    """Make every write beyond *max_size* bytes of a file fail in the block, in any library."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """Mount a file system of *size* bytes in *folder*. Skips the test if this user cannot mount one."""
    folder.mkdir(exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Fill the file system with a file, and return it."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as stream:
        for size in (1 << 16, 1 << 12):
            with suppress(OSError):
                while True:
                    stream.write(bytes(size))
    return ballast


@contextmanager
def full_for(disk: Path, seconds: float) -> Iterator[None]:
    """Fill the file system *disk*, and free it after *seconds*, while the block runs."""
    timer = threading.Timer(seconds, fill(disk).unlink)
    timer.start()
    try:
        yield
    finally:
        timer.join()
