"""Captioned rows of a version, by page and filter, and single images from its tar shards."""

# ruff: noqa: S608 - queries consist of constants in this file; user input is bound as parameters

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import PurePosixPath
from threading import Lock
from typing import IO, Any, NamedTuple

from vecap_tasks.core.manifest import Manifest, read_manifest
from vecap_tasks.core.private_data import hide
from vecap_tasks.core.schemas import CAPTIONS, CRAWL
from vecap_tasks.core.store import Store
from vecap_tasks.core.tables import create_view, open_connection
from vecap_tasks.core.tar import parse_header
from vecap_tasks.core.version import Version
from vecap_tasks.errors import CorruptError, VecapError

_BLOCK = tarfile.BLOCKSIZE
_WINDOW = 128 * _BLOCK  # bytes per read during the search for a header
_HOST = "split_part(split_part(url, '/', 3), ':', 1)"  # of a canonical URL
_MAX_FACET_VALUES = 25


def read_image(store: Store, crawl: Manifest, key: str) -> bytes | None:
    """Return the JPEG of the row *key* of the crawl stage, None if it has no image.

    Raises CorruptError if it differs from the row's `jpeg_sha256`, which the tar has next to it.
    """
    for name in crawl.files_ending(".tar"):
        shard = PurePosixPath(name).stem
        if key.startswith(shard) and key.isdecimal():
            with store.open(name) as stream:
                jpeg, row = (find_member(stream, key, kind) for kind in ("jpg", "json"))
            try:
                sha256 = None if row is None else json.loads(row).get("jpeg_sha256")
            except ValueError as error:
                raise CorruptError(f"{name} is corrupt: {key}.json: {error}; run `vecap verify`") from error
            if jpeg is not None and sha256 not in (None, hashlib.sha256(jpeg).hexdigest()):
                raise CorruptError(f"{name} is corrupt: the image of {key} differs from its sha256; run `vecap verify`")
            return jpeg
    return None


def find_member(stream: IO[bytes], key: str, kind: str) -> bytes | None:
    """Return the bytes of `key.kind` in a tar with ascending keys, as `core.tar` writes it; None if it is missing.

    *stream* is seekable. A binary search reads a few blocks about a dozen times.
    """
    low, high = 0, stream.seek(0, 2)
    while high - low > _WINDOW:
        middle = (low + high) // 2 // _BLOCK * _BLOCK
        found = _next_header(stream, middle, high)
        if found is None or _order(_key(found[1])) >= _order(key):
            high = middle
        else:
            low = _after(*found)
    # The member, if present, starts between `low` and the end of the first member at or after `high`.
    position = low
    while (found := _next_header(stream, position, position + _BLOCK)) is not None:
        offset, header = found
        if _order(_key(header)) > _order(key):
            return None
        if header.name == f"{key}.{kind}":
            stream.seek(offset + _BLOCK)
            return stream.read(header.size)
        position = _after(offset, header)
    return None


class _Header(NamedTuple):
    name: str
    size: int


def _next_header(stream: IO[bytes], start: int, end: int) -> tuple[int, _Header] | None:
    """Return the first header in [start, end), with its offset. The checksum distinguishes it from image data."""
    for window in range(start, end, _WINDOW):
        stream.seek(window)
        data = stream.read(min(_WINDOW, end - window))
        for position in range(0, len(data) - _BLOCK + 1, _BLOCK):
            if data[position + 257 : position + 262] != b"ustar":
                continue
            parsed = parse_header(data[position : position + _BLOCK])
            if parsed is not None:
                return window + position, _Header(*parsed[1:])
    return None


def _after(offset: int, header: _Header) -> int:
    return offset + _BLOCK + -(-header.size // _BLOCK) * _BLOCK


def _key(header: _Header) -> str:
    return header.name.partition(".")[0]


def _order(key: str) -> tuple[int, str]:
    return len(key), key


@dataclass(frozen=True, slots=True)
class Filter:
    """Which rows to show; "" matches all. `reason` is a column and its value, such as `vecap_problem=loop`."""

    reason: str = ""
    host: str = ""
    language: str = ""
    text: str = ""
    uid: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One captioned row. `caption` is the AltText as crawled, `alttext` the cleaned one; texts may be None.

    A notice replaces a text with private data.
    """

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
    """Rows from index *first*, of the `total` that match the filter."""

    rows: tuple[Row, ...]
    first: int
    total: int


@dataclass(frozen=True, slots=True)
class Count:
    """The number of rows with a value."""

    value: str
    rows: int


def _hidden(row: Row) -> Row:
    return replace(row, caption=hide(row.caption), alttext=hide(row.alttext), vec=hide(row.vec), vecap=hide(row.vecap))


class Samples:
    """The captioned rows of *version*. Raises VecapError if it has none. Thread-safe."""

    REASONS = ("vecap_from", "vec_problem", "vecap_problem")

    def __init__(self, store: Store, version: Version) -> None:
        crawl, rewrite = (read_manifest(store, f"{version.folder}/{stage}") for stage in ("crawl", "rewrite"))
        if crawl is None or rewrite is None:
            raise VecapError(f"version {version.name} has no captions; run `vecap rewrite` first")
        self.crawl: Manifest = crawl
        self._lock = Lock()
        self._connection = open_connection(store)
        shards = [name for name in crawl.files_ending(".parquet") if name.rsplit("/", 1)[1][0].isdecimal()]
        create_view(self._connection, store, "crawl", shards, CRAWL)
        create_view(self._connection, store, "captions", rewrite.files_ending(".parquet"), CAPTIONS)

    def page(self, filters: Filter, first: int, count: int) -> Page:
        """Return *count* rows from index *first*, sorted by key."""
        source, condition, values = self._conditions(filters)
        ((total, keys),) = self._query(
            f"WITH found AS MATERIALIZED (SELECT key FROM {source} WHERE {condition}) "
            "SELECT (SELECT count(*) FROM found), (SELECT list(key) FROM "
            f"(SELECT key FROM found ORDER BY key LIMIT {count} OFFSET {first}))",
            values,
        )
        columns = ", ".join(field.name for field in fields(Row))
        rows = self._query(
            f"SELECT {columns} FROM captions JOIN (SELECT key, url, page_url, language, caption FROM crawl "
            "WHERE key IN (SELECT unnest($keys))) USING (key) WHERE key IN (SELECT unnest($keys)) ORDER BY key",
            {"keys": keys or []},
        )
        return Page(tuple(_hidden(Row(*row)) for row in rows), first, total)

    def row(self, uid: str) -> Row | None:
        """Return the row of the sample *uid*, None if the version has none."""
        found = self.page(Filter(uid=uid), 0, 1).rows
        return found[0] if found else None

    @cached_property
    def reasons(self) -> dict[str, tuple[Count, ...]]:
        """The values of each of the columns `REASONS`, the most frequent first."""
        return {name: self._counts(name, "captions") for name in self.REASONS}

    @cached_property
    def hosts(self) -> tuple[Count, ...]:
        """The most frequent image hosts."""
        return self._counts(_HOST, "captions JOIN crawl USING (key)")

    @cached_property
    def languages(self) -> tuple[Count, ...]:
        """The most frequent declared languages."""
        return self._counts("language", "captions JOIN crawl USING (key)")

    def _counts(self, value: str, source: str) -> tuple[Count, ...]:
        rows = self._query(
            f"SELECT {value} AS value, count(*) AS n FROM {source} WHERE value IS NOT NULL AND value != '' "
            f"GROUP BY value ORDER BY n DESC, value LIMIT {_MAX_FACET_VALUES}",
            {},
        )
        return tuple(Count(*row) for row in rows)

    def _conditions(self, filters: Filter) -> tuple[str, str, dict[str, str]]:
        conditions, values, source = ["true"], {}, "captions"
        if filters.reason:
            column, _, value = filters.reason.partition("=")
            if column not in self.REASONS:
                raise VecapError(
                    f"invalid reason {filters.reason!r}; use column=value with one of {', '.join(self.REASONS)}"
                )
            conditions.append(f"{column} = $reason")
            values["reason"] = value
        if filters.text:
            conditions.append("contains(lower(concat_ws(' ', alttext, vec, vecap)), lower($text))")
            values["text"] = filters.text
        if filters.uid:
            conditions.append("captions.uid = $uid")
            values["uid"] = filters.uid
        if filters.host:
            conditions.append(f"contains(url, $host) AND {_HOST} = $host")  # the cheap test first
            values["host"] = filters.host.lower()
        if filters.language:
            conditions.append("language = $language")
            values["language"] = filters.language
        if filters.host or filters.language:
            source = "captions JOIN (SELECT key, url, language FROM crawl) USING (key)"
        return source, " AND ".join(conditions), values

    def _query(self, query: str, values: Mapping[str, str | list[str]]) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._connection.execute(query, values or None).fetchall()
