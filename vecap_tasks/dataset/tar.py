"""Samples in webdataset tars: `<key>.jpg`, `<key>.txt`, `<key>.json`, one after the other, nothing else.

The same samples give the same bytes: the headers carry no time, owner or machine.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from vecap_tasks.errors import DamagedError

_KEY = re.compile(r"^[A-Za-z0-9_-]+$")  # webdataset takes all after the first dot for the member's kind


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample: `members` holds the bytes by kind, such as `jpg`, in the order of the tar."""

    key: str
    members: Mapping[str, bytes]


class TarWriter:
    """Writes samples, in the order given, into the new file *path*. Use it in a `with` block."""

    def __init__(self, path: Path) -> None:
        self._tar = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tar.close()

    def write(self, key: str, members: Mapping[str, bytes]) -> None:
        """Append one sample. Raises ValueError for a key that webdataset could not read back."""
        if not _KEY.match(key):
            raise ValueError(f"{key!r} cannot be a key: letters, digits, - and _ alone")
        for kind, data in members.items():
            header = tarfile.TarInfo(f"{key}.{kind}")
            header.size = len(data)
            header.mode = 0o644  # TarInfo's own defaults: no time, no owner
            self._tar.addfile(header, io.BytesIO(data))


def read_samples(stream: IO[bytes], name: str = "the tar") -> Iterator[Sample]:
    """Give the samples in order, one in memory at a time. Raises DamagedError, naming *name*, for a broken tar."""
    key: str | None = None
    members: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            for entry in tar:
                file = tar.extractfile(entry)
                if file is None:
                    continue
                found, _, kind = entry.name.partition(".")
                if key is not None and found != key:
                    yield Sample(key, members)
                    members = {}
                key = found
                members[kind] = file.read()
    except tarfile.TarError as error:
        raise DamagedError(f"{name} is cut short or damaged: {error}; restore it, or make the stage again") from error
    if key is not None:
        yield Sample(key, members)
