"""Reads the rows of a URL list in any format, in order and in bounded memory.

An unusable row is returned with its problem, so that the counters add up to the rows of the file. A truncated file is
an error, because a part of it would be a different dataset.
"""

from __future__ import annotations

import csv
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BufferedReader, TextIOWrapper
from itertools import chain
from typing import IO, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from vecap_tasks.config import UrlSource
from vecap_tasks.core.files import DigestReader, SourceFile
from vecap_tasks.core.json_reader import UNREADABLE, JsonError, JsonReader
from vecap_tasks.crawl.sources.columns import Columns, Row, find_columns
from vecap_tasks.crawl.sources.link import Stats
from vecap_tasks.errors import PermanentError, VecapError

log = logging.getLogger(__name__)

FORMATS = ("parquet", "csv", "tsv", "json", "jsonl", "ndjson", "txt")
_CODECS = {"gz": "gzip", "zst": "zstd"}
_BUFFER = 1 << 20
_MAX_LINE = 1 << 24  # characters
_BATCH = 1_000  # rows


def read_rows(file: SourceFile, section: UrlSource, stats: Stats) -> Iterator[Row]:
    """Yield every row of *file*, then add the file to the inputs of *stats*.

    Raises VecapError if the file is corrupt, truncated, of unknown format, or without a URL column.
    """
    if not file.size:
        raise PermanentError(f"{file.name} is empty; download the file again")
    kind, codec = _format(file.name)
    read = {"parquet": _parquet, "csv": _csv, "tsv": _csv, "json": _json, "txt": _txt}.get(kind, _json_lines)
    try:
        with file.open() as stream:
            digesting = DigestReader(stream)
            with _decompressed(digesting, codec) as plain:
                yield from read(_File(file, kind, codec, section), plain)
            stats.inputs.append(digesting.input(file.name))
    except (OSError, EOFError, pa.ArrowException, JsonError, UnicodeDecodeError) as error:
        problem = " ".join(str(error).split()) or type(error).__name__
        raise PermanentError(f"{file.name} is corrupt or truncated: {problem}; download the file again") from error


@dataclass(frozen=True, slots=True)
class _File:
    """A file with its format, compression and settings."""

    file: SourceFile
    kind: str
    codec: str | None
    section: UrlSource

    @property
    def name(self) -> str:
        return self.file.name

    def find(self, names: Sequence[str]) -> Columns:
        """Return the columns among *names*; configured columns take precedence."""
        section = self.section
        return find_columns(names, section.url_column, section.caption_column, section.score_columns)

    def columns(self, names: Sequence[str]) -> Columns:
        """Return the columns to read among *names*. Raises VecapError without a URL column."""
        found = self.find(names)
        if found.url is None:
            raise self.no_column("url_column", names)
        if found.caption is None and self.section.caption_column is not None:
            raise self.no_column("caption_column", names)
        if found.caption is None and len(names) > 1:
            log.warning("%s: no caption column among %s; set crawl.source.caption_column", self.name, ", ".join(names))
        return found

    def no_column(self, setting: str, names: Sequence[str]) -> VecapError:
        configured = getattr(self.section, setting)
        missing = "URL column" if configured is None else f"column {configured!r}"
        present = ", ".join(names[:20]) or "none"
        return PermanentError(f"{self.name} has no {missing} (columns: {present}); set crawl.source.{setting}")

    def truncated(self, position: str) -> VecapError:
        return PermanentError(f"{self.name} is truncated: {position}; download the file again")


def _format(name: str) -> tuple[str, str | None]:
    """Return the format and the compression from the extension of *name*."""
    stem, _, end = name.lower().rpartition(".")
    codec = _CODECS.get(end)
    kind = stem.rpartition(".")[2] if codec else end
    if kind not in FORMATS:
        known = ", ".join(FORMATS)
        raise PermanentError(f"{name}: unsupported file extension; use one of {known}, optionally with .gz or .zst")
    return kind, codec


@contextmanager
def _decompressed(stream: DigestReader, codec: str | None) -> Iterator[IO[bytes]]:
    source = BufferedReader(stream, _BUFFER)
    yield BufferedReader(pa.CompressedInputStream(source, codec), _BUFFER) if codec else source


def _text(stream: IO[bytes]) -> TextIOWrapper:
    """Return *stream* as UTF-8 text in any locale; invalid bytes become lone surrogates."""
    return TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")


class _Lines:
    """The lines of a text file."""

    def __init__(self, file: _File, stream: IO[bytes]) -> None:
        self._text = _text(stream)
        self._file = file
        self.terminated = True  # whether the last line ends with a line break
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        while line := self._text.readline(_MAX_LINE):
            self.number += 1
            self.terminated = line[-1] in "\r\n"
            if not self.terminated and len(line) == _MAX_LINE:
                raise PermanentError(
                    f"{self._file.name}: line {self.number} is too long; use a text file with one row per line"
                )
            yield line


def _txt(file: _File, stream: IO[bytes]) -> Iterator[Row]:
    columns = Columns("url")
    for line in _Lines(file, stream):
        yield columns.row({"url": line.strip()})


def _csv(file: _File, stream: IO[bytes]) -> Iterator[Row]:
    lines = _Lines(file, stream)
    text = iter(lines)
    first = next(text, "")
    has_header = "://" not in first
    quotes = file.section.quotes if file.section.quotes is not None else has_header or file.kind == "csv"
    reader = csv.reader(
        chain([first], text),
        delimiter="\t" if file.kind == "tsv" else ",",
        quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE,
        strict=True,
    )
    too_short = False
    try:
        cells = next(reader)
        names = cells if has_header else [str(number) for number in range(len(cells))]
        columns = file.columns(names) if has_header else _headerless_columns(file, cells)
        for row in reader if has_header else chain([cells], reader):
            too_short = len(row) < len(names)
            if len(row) == len(names):
                yield columns.row(dict(zip(names, row, strict=True)))
            else:
                yield Row(None, problem="bad_row" if row else "no_url")
    except csv.Error as error:
        hint = "; if quotes are part of the text, set crawl.source.quotes: false" if quotes else ""
        raise PermanentError(f"{file.name} is corrupt or truncated at line {lines.number}: {error}{hint}") from error
    if too_short and not lines.terminated:
        raise file.truncated(f"line {lines.number} has too few fields and no line break")


def _headerless_columns(file: _File, cells: list[str]) -> Columns:
    """Return the columns of a headerless table from its first row: CC3M has the caption first, CC12M the URL."""
    names = [str(number) for number in range(len(cells))]
    url = file.section.url_column
    if url is None:
        url = next((number for number, cell in enumerate(cells) if "://" in cell[:10]), None)
    caption = file.section.caption_column
    if caption is None and len(cells) == 2 and str(url) in names:
        caption = names[1 - names.index(str(url))]
    if url is None or (caption is None and len(cells) > 2):
        raise PermanentError(
            f"{file.name} has no header and {len(cells)} columns; set crawl.source.url_column and "
            "crawl.source.caption_column as numbers from 0"
        )
    configured = replace(file, section=file.section.model_copy(update={"url_column": url, "caption_column": caption}))
    return configured.columns(names)


def _json_lines(file: _File, stream: IO[bytes]) -> Iterator[Row]:
    lines = _Lines(file, stream)
    objects = _Objects(file)
    invalid = False
    for line in lines:
        invalid = False
        if not line.strip():
            yield Row(None, problem="no_url")
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            invalid = True
            yield Row(None, problem="bad_row")
            continue
        yield objects.row(value)
    if invalid and not lines.terminated:
        raise file.truncated(f"line {lines.number} is invalid JSON without a line break")
    objects.check()


def _json(file: _File, stream: IO[bytes]) -> Iterator[Row]:
    """Yield the rows of an array of objects, of RedCaps' `annotations`, or of VeCap-300M's object of URL to caption."""
    layout = _detect_layout(file)
    reader = JsonReader(_text(stream))
    match layout.kind:
        case "lines":
            yield from _json_lines(file, stream)
            return
        case "array":
            yield from _array(file, reader)
        case "member":
            for name in reader.names():
                if name == layout.member and reader.next() == "[":
                    yield from _array(file, reader)
                else:
                    reader.skip()
        case "pairs":
            pair = Columns("url", "caption")
            for url in reader.names():
                caption = reader.value()
                invalid = caption is UNREADABLE
                yield Row(None, problem="bad_row") if invalid else pair.row({"url": url, "caption": caption})
    reader.end()


def _array(file: _File, reader: JsonReader) -> Iterator[Row]:
    objects = _Objects(file)
    for value in reader.items():
        yield objects.row(value)
    objects.check()


class _Layout(NamedTuple):
    """The layout of a JSON file; `member` is the name of the array with the rows."""

    kind: Literal["lines", "array", "member", "pairs"]
    member: str = ""


def _detect_layout(file: _File) -> _Layout:
    """Return the layout, reading as little as possible. Raises VecapError if it is unknown."""
    with file.file.open() as raw, _decompressed(DigestReader(raw), file.codec) as stream:
        reader = JsonReader(_text(stream))
        flat = False
        try:
            if reader.next() == "[":
                return _Layout("array")
            for name in reader.names():
                match reader.next():
                    case "[":
                        return _Layout("member", name)
                    case '"' if "://" in name:
                        return _Layout("pairs")
                    case '"':
                        flat = True
                reader.skip()
            reader.end()
        except JsonError:
            return _Layout("lines")  # several documents, or a corrupt file, which the lines reader reports
    if not flat:
        raise PermanentError(
            f"{file.name} has an unknown JSON layout: expected an array of objects, `annotations`, or an object of URL "
            "to caption; convert it to JSON lines"
        )
    return _Layout("lines")


class _Objects:
    """Converts JSON objects to rows; their names may differ."""

    def __init__(self, file: _File) -> None:
        self._file = file
        self._known: dict[tuple[str, ...], Columns] = {}
        self._seen: tuple[str, ...] = ()
        self._rows = 0
        self._found = False

    def row(self, value: object) -> Row:
        self._rows += 1
        if not isinstance(value, Mapping):
            return Row(None, problem="bad_row")
        names = tuple(value)
        if names not in self._known:
            if len(self._known) > _BATCH:
                self._known.clear()
            self._known[names] = self._file.find(names)
            self._seen = self._seen or names
        columns = self._known[names]
        self._found |= columns.url is not None
        return columns.row(value)

    def check(self) -> None:
        """Raise VecapError if no row had a URL column."""
        if self._rows and not self._found:
            raise self._file.no_column("url_column", self._seen)


def _parquet(file: _File, stream: IO[bytes]) -> Iterator[Row]:
    """Yield the rows of a parquet file. A compressed file is decompressed to disk, because parquet needs seeking."""
    with tempfile.TemporaryFile() if file.codec else file.file.open() as seekable:
        if file.codec:
            shutil.copyfileobj(stream, seekable, _BUFFER)
        # Pre-buffering takes the memory of a row group and avoids an S3 request per page.
        pre_buffer = file.file.remote and not file.codec
        table = pq.ParquetFile(seekable, buffer_size=_BUFFER, pre_buffer=pre_buffer)
        columns = file.columns(table.schema_arrow.names)
        for group in range(table.num_row_groups):
            for batch in table.iter_batches(_BATCH, [group], columns.names, use_threads=False):
                cells = [_cells(batch.column(name)) for name in columns.names]
                for values in zip(*cells, strict=True):
                    yield columns.row(dict(zip(columns.names, values, strict=True)))


def _cells(column: pa.Array) -> list[object]:
    """Return the values of *column*; invalid UTF-8 becomes lone surrogates."""
    try:
        values: list[object] = column.to_pylist()
    except UnicodeDecodeError:
        raw = column.cast(pa.binary()).to_pylist()
        values = [None if value is None else value.decode("utf-8", "surrogateescape") for value in raw]
    except (ValueError, OverflowError):  # values without a Python type, such as a date in the year 300,000
        values = [_cell(value) for value in column]
    return values


def _cell(value: pa.Scalar) -> object:
    try:
        return value.as_py()
    except (ValueError, OverflowError):
        return None
