"""One image out of a shard, found by bisection: a shard is a tar in the order of its keys. No index is needed."""

from __future__ import annotations

import tarfile
from pathlib import PurePosixPath
from typing import IO

from vecap_tasks.dataset.manifest import Manifest
from vecap_tasks.dataset.store import Store

_BLOCK = tarfile.BLOCKSIZE
_WINDOW = 128 * _BLOCK  # read at once while a header is looked for


def read_picture(store: Store, crawl: Manifest, key: str) -> bytes | None:
    """Return the JPEG of the row *key* of the stage crawl, None where the crawl has no such image."""
    for name in crawl.files_ending(".tar"):
        shard = PurePosixPath(name).stem
        if key.startswith(shard) and key.isdecimal():
            with store.open(name) as stream:
                return find_member(stream, key, "jpg")
    return None


def find_member(stream: IO[bytes], key: str, kind: str) -> bytes | None:
    """Return the bytes of `key.kind` in a tar whose keys ascend, as `dataset.tar` writes them; None where it is not.

    *stream* is seekable. It is read some dozen times, a few blocks each.
    """
    low, high = 0, stream.seek(0, 2)
    while high - low > _WINDOW:
        middle = (low + high) // 2 // _BLOCK * _BLOCK
        found = _next_header(stream, middle, high)
        if found is None or _order(_key(found[1])) >= _order(key):
            high = middle
        else:
            low = _after(*found)
    # The member, if it is there, begins between `low` and the end of the first one from `high` on.
    place = low
    while (found := _next_header(stream, place, place + _BLOCK)) is not None:
        offset, header = found
        if _order(_key(header)) > _order(key):
            return None
        if header.name == f"{key}.{kind}":
            stream.seek(offset + _BLOCK)
            return stream.read(header.size)
        place = _after(offset, header)
    return None


def _next_header(stream: IO[bytes], start: int, end: int) -> tuple[int, tarfile.TarInfo] | None:
    """Return the first header that begins in [start, end), with its offset. Its checksum tells it from an image."""
    for window in range(start, end, _WINDOW):
        stream.seek(window)
        data = stream.read(min(_WINDOW, end - window))
        for place in range(0, len(data) - _BLOCK + 1, _BLOCK):
            if data[place + 257 : place + 262] != b"ustar":
                continue
            try:
                return window + place, tarfile.TarInfo.frombuf(data[place : place + _BLOCK], "utf-8", "strict")
            except tarfile.HeaderError:
                continue
    return None


def _after(offset: int, header: tarfile.TarInfo) -> int:
    return offset + _BLOCK + -(-header.size // _BLOCK) * _BLOCK


def _key(header: tarfile.TarInfo) -> str:
    return header.name.partition(".")[0]


def _order(key: str) -> tuple[int, str]:
    return len(key), key
