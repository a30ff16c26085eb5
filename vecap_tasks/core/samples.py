"""Captioned rows of a version, by page and filter, and single images out of its tar shards."""

# ruff: noqa: S608 - the queries are put together from this file's own text; what people type is bound

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import PurePosixPath
from threading import Lock
from typing import IO, Any

from vecap_tasks.core.manifest import Manifest, read_manifest
from vecap_tasks.core.schemas import CAPTIONS, CRAWL
from vecap_tasks.core.store import Store
from vecap_tasks.core.tables import create_view, open_connection
from vecap_tasks.core.version import Version
from vecap_tasks.errors import VecapError

_BLOCK = tarfile.BLOCKSIZE
_WINDOW = 128 * _BLOCK  # read at once while a header is looked for
_HOST = "split_part(split_part(url, '/', 3), ':', 1)"  # of a canonical address
_MAX_FACET_VALUES = 25


def read_image(store: Store, crawl: Manifest, key: str) -> bytes | None:
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


@dataclass(frozen=True, slots=True)
class Filter:
    """What rows to show; "" is any. `reason` is a column's name and its value, such as `vecap_problem=loop`."""

    reason: str = ""
    host: str = ""
    language: str = ""
    text: str = ""
    uid: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One captioned row. `caption` is the AltText as crawled, `alttext` the cleaned one; texts may be None."""

    key: str
    uid: str
    url: str
    page_url: str | None
    language: str | None
    caption: str | None
    alttext: str | None
    vec: str | None
    vec_problem: str | None
    vec_model: str
    vec_revision: str
    vec_prompt: str
    vecap: str | None
    vecap_from: str
    vecap_problem: str | None
    vecap_model: str
    vecap_revision: str
    vecap_prompt: str


@dataclass(frozen=True, slots=True)
class Page:
    """Rows *first* … of the `total` that the filter lets through."""

    rows: tuple[Row, ...]
    first: int
    total: int


@dataclass(frozen=True, slots=True)
class Count:
    """How many rows have a value."""

    value: str
    rows: int


class Samples:
    """The captioned rows of *version*. Raises VecapError where it has none yet. Used by several threads."""

    REASONS = ("vecap_from", "vec_problem", "vecap_problem")

    def __init__(self, store: Store, version: Version) -> None:
        crawl, rewrite = (read_manifest(store, f"{version.folder}/{stage}") for stage in ("crawl", "rewrite"))
        if crawl is None or rewrite is None:
            raise VecapError(f"version {version.name} has no captions yet; its rewrite is still to be done")
        self.crawl: Manifest = crawl
        self._lock = Lock()
        self._connection = open_connection(store)
        shards = [name for name in crawl.files_ending(".parquet") if name.rsplit("/", 1)[1][0].isdecimal()]
        create_view(self._connection, store, "crawl", shards, CRAWL)
        create_view(self._connection, store, "captions", rewrite.files_ending(".parquet"), CAPTIONS)

    def page(self, wanted: Filter, first: int, count: int) -> Page:
        """Return *count* rows from number *first* on, in the order of their keys."""
        source, condition, values = self._conditions(wanted)
        ((total, keys),) = self._ask(
            f"WITH found AS MATERIALIZED (SELECT key FROM {source} WHERE {condition}) "
            "SELECT (SELECT count(*) FROM found), (SELECT list(key) FROM "
            f"(SELECT key FROM found ORDER BY key LIMIT {count} OFFSET {first}))",
            values,
        )
        columns = ", ".join(field.name for field in fields(Row))
        rows = self._ask(
            f"SELECT {columns} FROM captions JOIN (SELECT key, url, page_url, language, caption FROM crawl "
            "WHERE key IN (SELECT unnest($keys))) USING (key) WHERE key IN (SELECT unnest($keys)) ORDER BY key",
            {"keys": keys or []},
        )
        return Page(tuple(Row(*row) for row in rows), first, total)

    def row(self, uid: str) -> Row | None:
        """Return the row of the sample *uid*, None where the version has none."""
        found = self.page(Filter(uid=uid), 0, 1).rows
        return found[0] if found else None

    @cached_property
    def reasons(self) -> dict[str, tuple[Count, ...]]:
        """How the texts came about: the values of each of `REASONS`, the most frequent first."""
        return {name: self._counts(name, "captions") for name in self.REASONS}

    @cached_property
    def hosts(self) -> tuple[Count, ...]:
        """The hosts of most images."""
        return self._counts(_HOST, "captions JOIN crawl USING (key)")

    @cached_property
    def languages(self) -> tuple[Count, ...]:
        """The languages that pages declare most."""
        return self._counts("language", "captions JOIN crawl USING (key)")

    def _counts(self, value: str, source: str) -> tuple[Count, ...]:
        rows = self._ask(
            f"SELECT {value} AS value, count(*) AS n FROM {source} WHERE value IS NOT NULL AND value != '' "
            f"GROUP BY value ORDER BY n DESC, value LIMIT {_MAX_FACET_VALUES}",
            {},
        )
        return tuple(Count(*row) for row in rows)

    def _conditions(self, wanted: Filter) -> tuple[str, str, dict[str, str]]:
        conditions, values, source = ["true"], {}, "captions"
        if wanted.reason:
            column, _, value = wanted.reason.partition("=")
            if column not in self.REASONS:
                raise VecapError(
                    f"{wanted.reason!r} is no reason; it is one of {', '.join(self.REASONS)}, = and its value"
                )
            conditions.append(f"{column} = $reason")
            values["reason"] = value
        if wanted.text:
            conditions.append("contains(lower(concat_ws(' ', alttext, vec, vecap)), lower($text))")
            values["text"] = wanted.text
        if wanted.uid:
            conditions.append("captions.uid = $uid")
            values["uid"] = wanted.uid
        if wanted.host:
            conditions.append(f"contains(url, $host) AND {_HOST} = $host")  # the former spares most rows
            values["host"] = wanted.host.lower()
        if wanted.language:
            conditions.append("language = $language")
            values["language"] = wanted.language
        if wanted.host or wanted.language:
            source = "captions JOIN (SELECT key, url, language FROM crawl) USING (key)"
        return source, " AND ".join(conditions), values

    def _ask(self, query: str, values: Mapping[str, str | list[str]]) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._connection.execute(query, values or None).fetchall()
