"""The files of a source: by name or glob, under the names that a manifest gives them, which hold no path."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from vecap_tasks.config import Config
from vecap_tasks.errors import VecapError

_MAGIC = re.compile(r"[*?\[]")


def find_files(config: Config, patterns: Sequence[str], interval: str, kind: str) -> dict[str, Path]:
    """Return the files by name, in the order of the patterns and by name within one; each file once.

    *kind* is how an error calls them. Raises VecapError for a pattern that finds nothing.
    """
    files: dict[str, Path] = {}
    for pattern in patterns:
        written = pattern.replace("{interval}", interval)
        magic = _MAGIC.search(written)
        folder = written[: written.rfind("/", 0, magic.start()) + 1] if magic else ""
        place = config.resolve(folder or "." if magic else written).removeprefix("file://")
        if "://" in place:
            raise VecapError(f"crawl.source.paths: {written} is not on this machine; copy it here first")
        if magic:
            tail = written.removeprefix(folder)
            found = sorted(path for path in Path(place).glob(tail) if path.is_file())
            named = [(folder + path.relative_to(place).as_posix(), path) for path in found]
        else:
            named = [(written, Path(place))] if Path(place).is_file() else []
        if not named:
            where = f"{place}/{tail}" if magic else place
            raise VecapError(f"there is no {kind} file {where}; put it there, or change crawl.source.paths")
        taken = {path.resolve() for path in files.values()}
        files.update((name, path) for name, path in named if path.resolve() not in taken)
    return files
