"""Captioned rows of a version, by page and filter, single images from its tar shards, and its training shards."""

# ruff: noqa: S608 - queries consist of constants in this file; user input is bound as parameters

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import PurePosixPath
from threading import Lock
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from vecap_tasks.core.manifest import Manifest, read_manifest
from vecap_tasks.core.private_data import hide
from vecap_tasks.core.schemas import CAPTIONS, CRAWL
from vecap_tasks.core.store import Store
from vecap_tasks.core.tables import connect, create_view, files_at, open_connection, scan
from vecap_tasks.core.tar import parse_header
from vecap_tasks.core.verify import RecordedFile, recorded_files, referenced_tars
from vecap_tasks.core.version import Version, how_to_finish
from vecap_tasks.errors import CorruptError, VecapError

_BLOCK = tarfile.BLOCKSIZE
_WINDOW = 128 * _BLOCK  # bytes per read during the search for a header
_HOST = "split_part(split_part(url, '/', 3), ':', 1)"  # of a canonical URL
_MAX_FACET_VALUES = 25
# No filter lists for larger versions: counting reads all rows, in 2 ms per file.
_MAX_COUNTED_ROWS, _MAX_COUNTED_FILES = 5_000_000, 1_000
_MIN_SHARD_DIGITS = 5
_DOWNLOAD_MEMORY = "256MB"


def find_shard(store: Store, crawl: str, key: str, suffix: str) -> str | None:
    """Return the store name of the shard with the row *key* in the folder *crawl*, None if there is none.

    The names of all shards of a crawl have the same length, so that no manifest is needed.
    """
    lengths = range(_MIN_SHARD_DIGITS, len(key)) if key.isascii() and key.isdecimal() else ()
    names = (f"{crawl}/{key[:length]}{suffix}" for length in lengths)
    return next((name for name in names if store.exists(name)), None)


def crawl_tables(store: Store, crawl: str, keys: Sequence[str]) -> list[str]:
    """Return the tables in the folder *crawl* that have the rows *keys*, as names in the store.

    Raises CorruptError if the first is missing.
    """
    if not keys:
        return []
    first = find_shard(store, crawl, keys[0], ".parquet")
    if first is None:
        raise CorruptError(f"{crawl} has no table of the row {keys[0]}; run `vecap verify`")
    length = len(PurePosixPath(first).stem)
    return [f"{crawl}/{shard}.parquet" for shard in sorted({key[:length] for key in keys})]


def read_image(store: Store, crawl: str, key: str) -> bytes | None:
    """Return the JPEG of the row *key* in the folder *crawl* of a stage, None if it has no image.

    Raises CorruptError if it differs from the row's `jpeg_sha256`, which the tar has next to it.
    """
    name = find_shard(store, crawl, key, ".tar")
    if name is None:
        return None
    with store.open(name) as stream:
        jpeg, row = (find_member(stream, key, kind) for kind in ("jpg", "json"))
    try:
        sha256 = None if row is None else json.loads(row).get("jpeg_sha256")
    except ValueError as error:
        raise CorruptError(f"{name} is corrupt: {key}.json: {error}; run `vecap verify`") from error
    if jpeg is not None and sha256 not in (None, hashlib.sha256(jpeg).hexdigest()):
        raise CorruptError(f"{name} is corrupt: the image of {key} differs from its sha256; run `vecap verify`")
    return jpeg


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
class TrainingShard:
    """A shard of `assemble`: its table (SAMPLES) and the tar with its images, in the same order. If `referenced`, the
    tar is an earlier version's, with other texts and possibly more samples."""

    table: RecordedFile
    tar: RecordedFile
    referenced: bool

    def read_table(self) -> pa.Table:
        """Return the table. Raises CorruptError."""
        return pq.read_table(pa.BufferReader(self.table.read()))

    def images(self, keys: Sequence[str]) -> Iterator[bytes]:
        """Yield the JPEG of each of *keys*, in the order of the table. Raises CorruptError."""
        for key, (found, jpeg) in zip(keys, self.tar.images(dict.fromkeys(keys)), strict=True):
            if found != key:
                raise CorruptError(f"{self.tar.name} has {found} in place of {key}; run `vecap verify`")
            yield jpeg


def training_shards(store: Store, manifest: Manifest, remedy: str = "restore it") -> list[TrainingShard]:
    """Return the shards of *manifest*, one of `assemble`, by number. *remedy* is what to do if a file of it differs.

    Raises CorruptError if it refers to the images of an earlier version that is missing or changed.
    """
    files = {file.name: file for file in recorded_files(store, manifest, remedy=remedy)}
    shared = {PurePosixPath(tar.name).name: tar for tar in referenced_tars(store, manifest)}
    shards = []
    for table in sorted(manifest.files_ending(".parquet"), key=lambda name: int(PurePosixPath(name).stem)):
        tar = PurePosixPath(table).with_suffix(".tar")
        own = files.get(str(tar))
        shards.append(TrainingShard(files[table], own or shared[tar.name], own is None))
    return shards


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


ROW_SCHEMA = pa.schema([pa.field(field.name, pa.string()) for field in fields(Row)])
_COLUMNS = ", ".join(ROW_SCHEMA.names)
_CRAWLED = "key, url, page_url, language, caption"  # columns of Row in the crawl's tables
_TEXTS = ("caption", "alttext", "vec", "vecap")


def _hidden(row: Row) -> Row:
    return replace(row, caption=hide(row.caption), alttext=hide(row.alttext), vec=hide(row.vec), vecap=hide(row.vecap))


def hide_columns(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """Return *table* with a notice instead of each text with private data in the columns *names*."""
    for name in names:
        texts = pa.array([hide(text) for text in table[name].to_pylist()], pa.string())
        table = table.set_column(table.schema.get_field_index(name), name, texts)
    return table


class Samples:
    """The captioned rows of *version*. Raises VecapError if it has none. Thread-safe."""

    REASONS = ("vecap_from", "vec_problem", "vecap_problem")

    def __init__(self, store: Store, version: Version) -> None:
        crawl, rewrite = (read_manifest(store, f"{version.folder}/{stage}") for stage in ("crawl", "rewrite"))
        if crawl is None or rewrite is None:
            raise VecapError(f"version {version.name} has no captions; {how_to_finish(store, version, 'rewrite')}")
        self._store = store
        self._crawl = crawl.location
        self._files = [
            (f"{rewrite.location}/{entry.path}", entry.rows or 0)
            for entry in rewrite.files
            if entry.path.endswith(".parquet")
        ]
        self._lock = Lock()
        self._connection = open_connection(store)
        shards = [name for name in crawl.files_ending(".parquet") if name.rsplit("/", 1)[1][0].isdecimal()]
        create_view(self._connection, store, "crawl", shards, CRAWL)
        create_view(self._connection, store, "captions", [name for name, _ in self._files], CAPTIONS)

    @property
    def total(self) -> int:
        """The number of rows."""
        return sum(rows for _, rows in self._files)

    def page(self, filters: Filter, first: int, count: int) -> Page:
        """Return *count* rows from index *first*, sorted by key. Without filters, only their shards are read."""
        captions = "captions"
        if filters == Filter():
            total, (files, skipped) = self.total, files_at(self._files, first, count)
            captions = self._scan(files)
            query = f"SELECT key FROM {captions} ORDER BY key LIMIT {count} OFFSET {skipped}"
            keys = [key for (key,) in self._query(query, {})] if files else []
        else:
            source, condition, values = self._conditions(filters)
            ((total, found),) = self._query(
                f"WITH found AS MATERIALIZED (SELECT key FROM {source} WHERE {condition}) "
                "SELECT (SELECT count(*) FROM found), (SELECT list(key) FROM "
                f"(SELECT key FROM found ORDER BY key LIMIT {count} OFFSET {first}))",
                values,
            )
            keys = found or []
        if not keys:
            return Page((), first, total)
        crawl = self._scan(crawl_tables(self._store, self._crawl, keys))
        rows = self._query(
            f"SELECT {_COLUMNS} FROM {captions} AS captions JOIN (SELECT {_CRAWLED} FROM {crawl} "
            "WHERE key IN (SELECT unnest($keys))) USING (key) WHERE key IN (SELECT unnest($keys)) ORDER BY key",
            {"keys": keys},
        )
        return Page(tuple(_hidden(Row(*row)) for row in rows), first, total)

    def batches(self, filters: Filter) -> Iterator[pa.RecordBatch]:
        """Yield all rows that match, by shard in key order, with the fields of `Row`. Holds one shard in memory."""
        source, condition, values = self._conditions(filters)
        with connect(self._store, _DOWNLOAD_MEMORY, threads=1) as connection:
            for name, _ in self._files:
                captions = self._scan([name])
                bounds = connection.execute(f"SELECT min(key), max(key) FROM {captions}").fetchall()[0]
                tables = self._tables_between(*bounds) if bounds[0] is not None else []
                if not tables:
                    continue
                query = (
                    f"WITH captions AS (SELECT * FROM {captions}), "
                    f"crawl AS (SELECT {_CRAWLED} FROM {self._scan(tables)}) "
                    f"SELECT {_COLUMNS} FROM captions JOIN crawl USING (key) "
                    f"WHERE key IN (SELECT key FROM {source} WHERE {condition}) ORDER BY key"
                )
                table = connection.sql(query, params=values or None).to_arrow_table()
                yield from hide_columns(table, _TEXTS).to_batches()

    def _tables_between(self, first: str, last: str) -> list[str]:
        """Return the crawl tables with the keys from *first* to *last* that exist."""
        low, high = (PurePosixPath(crawl_tables(self._store, self._crawl, [key])[0]).stem for key in (first, last))
        names = (f"{self._crawl}/{number:0{len(low)}d}.parquet" for number in range(int(low), int(high) + 1))
        return [name for name in names if self._store.exists(name)]

    def _scan(self, names: Sequence[str]) -> str:
        return scan([self._store.query_path(name) for name in names])

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
        if self.total > _MAX_COUNTED_ROWS or len(self._files) > _MAX_COUNTED_FILES:
            return ()
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
