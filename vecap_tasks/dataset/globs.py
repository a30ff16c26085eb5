"""Globs that a configuration writes: which part of one is a path, and which is a pattern."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress

import pyarrow.fs as pafs

from vecap_tasks.dataset.store import open_filesystem

_MAGIC = re.compile(r"[*?\[]")


def split_glob(written: str, resolve: Callable[[str], str]) -> tuple[str, str]:
    """Split *written* into a path and the glob below it, "" for a plain path.

    A file or folder that exists under a name with `*`, `?` or `[` in it is taken literally. *resolve* makes a written
    path one that `open_filesystem` takes.
    """
    end = 0
    while magic := _MAGIC.search(written, end):
        end = written.find("/", magic.start()) + 1 or len(written)
        if not _exists(resolve(written[:end])):
            start = written.rfind("/", 0, magic.start()) + 1
            return written[:start], written[start:]
    return written, ""


def _exists(place: str) -> bool:
    with suppress(OSError):  # the caller lists the folder and reports the error
        filesystem, path = open_filesystem(place)
        return bool(filesystem.get_file_info(path).type != pafs.FileType.NotFound)
    return False
