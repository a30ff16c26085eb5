"""The rows of a file of addresses, in its order and in little memory, whatever its format.

A row that says nothing usable is given with its problem, so that what is counted adds up to what the file holds. A
file that is not whole is refused: half of it would be another dataset under the same name.
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
_MAX_LINE = 1 << 24  # characters; a file without line ends is no list of rows
_BATCH = 1_000  # rows


def read_rows(file: SourceFile, section: UrlSource, stats: Stats) -> Iterator[Row]:
    """Give every row of *file*, and then add the file to the inputs of *tally*.

    Raises VecapError where the file is damaged, cut short, of no known format or without a column of addresses.
    """
    if not file.size:
        raise PermanentError(f"{file.name} is empty; get the file again")
    kind, codec = _format(file.name)
    read = {"parquet": _parquet, "csv": _csv, "tsv": _csv, "json": _json, "txt": _txt}.get(kind, _json_lines)
    try:
        with file.open() as stream:
            digesting = DigestReader(stream)
            with _unpacked(digesting, codec) as plain:
                yield from read(_File(file, kind, codec, section), plain)
            stats.inputs.append(digesting.input(file.name))
    except (OSError, EOFError, pa.ArrowException, JsonError, UnicodeDecodeError) as error:
        problem = " ".join(str(error).split()) or type(error).__name__
        raise PermanentError(f"{file.name} is damaged or cut short: {problem}; get the file again") from error


@dataclass(frozen=True, slots=True)
class _File:
    """What the readers know of the file beside its bytes."""

    file: SourceFile
    kind: str
    codec: str | None
    section: UrlSource

    @property
    def name(self) -> str:
        return self.file.name

    def find(self, names: Sequence[str]) -> Columns:
        """Return which of *names* hold what, those first that the configuration names."""
        section = self.section
        return find_columns(names, section.url_column, section.caption_column, section.score_columns)

    def columns(self, names: Sequence[str]) -> Columns:
        """Return which of *names* are read. Raises VecapError where none has addresses."""
        found = self.find(names)
        if found.url is None:
            raise self.no_column("url_column", names)
        if found.caption is None and self.section.caption_column is not None:
            raise self.no_column("caption_column", names)
        if found.caption is None and len(names) > 1:
            log.warning(
                "%s: no column of captions among %s; is it crawl.source.caption_column?", self.name, ", ".join(names)
            )
        return found

    def no_column(self, setting: str, names: Sequence[str]) -> VecapError:
        said = getattr(self.section, setting)
        wanted = "of addresses" if said is None else repr(said)
        there = ", ".join(names[:20]) or "nothing"
        return PermanentError(f"{self.name} has no column {wanted}, only {there}; name it in crawl.source.{setting}")

    def cut(self, place: str) -> VecapError:
        return PermanentError(f"{self.name} is cut short: {place}; get the whole file")


def _format(name: str) -> tuple[str, str | None]:
    """Return the format and the compression that the end of *name* says."""
    stem, _, end = name.lower().rpartition(".")
    codec = _CODECS.get(end)
    kind = stem.rpartition(".")[2] if codec else end
    if kind not in FORMATS:
        known = ", ".join(FORMATS)
        raise PermanentError(
            f"{name} is no list of addresses by its ending; rename it ({known}, with .gz or .zst or not)"
        )
    return kind, codec


@contextmanager
def _unpacked(stream: DigestReader, codec: str | None) -> Iterator[IO[bytes]]:
    source = BufferedReader(stream, _BUFFER)
    yield BufferedReader(pa.CompressedInputStream(source, codec), _BUFFER) if codec else source


def _text(stream: IO[bytes]) -> TextIOWrapper:
    """Return *stream* as UTF-8 text, whatever the locale; bytes that are not UTF-8 become lone surrogates."""
    return TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")


class _Lines:
    """The lines of a text."""

    def __init__(self, file: _File, stream: IO[bytes]) -> None:
        self._text = _text(stream)
        self._file = file
        self.ended = True  # whether the last line has an end
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        while line := self._text.readline(_MAX_LINE):
            self.number += 1
            self.ended = line[-1] in "\r\n"
            if not self.ended and len(line) == _MAX_LINE:
                raise PermanentError(f"{self._file.name}: line {self.number} does not end; is it a text file?")
            yield line


def _txt(file: _File, stream: IO[bytes]) -> Iterator[Row]:
    columns = Columns("url")
    for line in _Lines(file, stream):
        yield columns.row({"url": line.strip()})


def _csv(file: _File, stream: IO[bytes]) -> Iterator[Row]:
    lines = _Lines(file, stream)
    text = iter(lines)
    first = next(text, "")
    headed = "://" not in first
    quotes = file.section.quotes if file.section.quotes is not None else headed or file.kind == "csv"
    reader = csv.reader(
        chain([first], text),
        delimiter="\t" if file.kind == "tsv" else ",",
        quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE,
        strict=True,
    )
    short = False
    try:
        cells = next(reader)
        names = cells if headed else [str(number) for number in range(len(cells))]
        columns = file.columns(names) if headed else _headless(file, cells)
        for row in reader if headed else chain([cells], reader):
            short = len(row) < len(names)
            if len(row) == len(names):
                yield columns.row(dict(zip(names, row, strict=True)))
            else:
                yield Row(None, problem="bad_row" if row else "no_url")
    except csv.Error as error:
        hint = "; if its quotes are text, set crawl.source.quotes: false" if quotes else ""
        raise PermanentError(f"{file.name} is damaged or cut short at line {lines.number}: {error}{hint}") from error
    if short and not lines.ended:
        raise file.cut(f"line {lines.number} has no end and too few fields")


def _headless(file: _File, cells: list[str]) -> Columns:
    """Return the columns of a table whose first row is *cells*: CC3M has the caption first, CC12M the address."""
    names = [str(number) for number in range(len(cells))]
    url = file.section.url_column
    if url is None:
        url = next((number for number, cell in enumerate(cells) if "://" in cell[:10]), None)
    caption = file.section.caption_column
    if caption is None and len(cells) == 2 and str(url) in names:
        caption = names[1 - names.index(str(url))]
    if url is None or (caption is None and len(cells) > 2):
        raise PermanentError(
            f"{file.name} has no header and {len(cells)} columns; give crawl.source.url_column and "
            "crawl.source.caption_column as numbers from 0"
        )
    known = replace(file, section=file.section.model_copy(update={"url_column": url, "caption_column": caption}))
    return known.columns(names)


def _json_lines(file: _File, stream: IO[bytes]) -> Iterator[Row]:
    lines = _Lines(file, stream)
    objects = _Objects(file)
    bad = False
    for line in lines:
        bad = False
        if not line.strip():
            yield Row(None, problem="no_url")
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            bad = True
            yield Row(None, problem="bad_row")
            continue
        yield objects.row(value)
    if bad and not lines.ended:
        raise file.cut(f"line {lines.number} has no end and is no JSON")
    objects.check()


def _json(file: _File, stream: IO[bytes]) -> Iterator[Row]:
    """Read an array of objects, RedCaps' `annotations`, or VeCap-300M's one object of address to caption."""
    form = _form(file)
    reader = JsonReader(_text(stream))
    match form.kind:
        case "lines":
            yield from _json_lines(file, stream)
            return
        case "array":
            yield from _array(file, reader)
        case "member":
            for name in reader.names():
                if name == form.member and reader.next() == "[":
                    yield from _array(file, reader)
                else:
                    reader.skip()
        case "pairs":
            pair = Columns("url", "caption")
            for url in reader.names():
                caption = reader.value()
                bad = caption is UNREADABLE
                yield Row(None, problem="bad_row") if bad else pair.row({"url": url, "caption": caption})
    reader.end()


def _array(file: _File, reader: JsonReader) -> Iterator[Row]:
    objects = _Objects(file)
    for value in reader.items():
        yield objects.row(value)
    objects.check()


class _Form(NamedTuple):
    """Where a JSON file has its rows; `member` is the name of the array that has them."""

    kind: Literal["lines", "array", "member", "pairs"]
    member: str = ""


def _form(file: _File) -> _Form:
    """Read as much of the file as tells its form. Raises VecapError for a document of none."""
    with file.file.open() as raw, _unpacked(DigestReader(raw), file.codec) as stream:
        reader = JsonReader(_text(stream))
        flat = False
        try:
            if reader.next() == "[":
                return _Form("array")
            for name in reader.names():
                match reader.next():
                    case "[":
                        return _Form("member", name)
                    case '"' if "://" in name:
                        return _Form("pairs")
                    case '"':
                        flat = True
                reader.skip()
            reader.end()
        except JsonError:
            return _Form("lines")  # a second document after the first; or damage, which their reader finds
    if not flat:
        raise PermanentError(
            f"{file.name} holds neither an array of objects, nor `annotations`, nor addresses with captions; "
            "write it as JSON lines"
        )
    return _Form("lines")


class _Objects:
    """Makes rows of JSON objects, whose names may differ from one to the next."""

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
        """Raise VecapError where not one row had a column of addresses."""
        if self._rows and not self._found:
            raise self._file.no_column("url_column", self._seen)


def _parquet(file: _File, stream: IO[bytes]) -> Iterator[Row]:
    """Read the columns that are wanted. A packed file is unpacked aside first: parquet is read from its end."""
    with tempfile.TemporaryFile() if file.codec else file.file.open() as seekable:
        if file.codec:
            shutil.copyfileobj(stream, seekable, _BUFFER)
        # To read ahead costs the memory of a row group, and saves S3 a request for each page.
        ahead = file.file.remote and not file.codec
        table = pq.ParquetFile(seekable, buffer_size=_BUFFER, pre_buffer=ahead)
        columns = file.columns(table.schema_arrow.names)
        for group in range(table.num_row_groups):
            for batch in table.iter_batches(_BATCH, [group], columns.names, use_threads=False):
                cells = [_cells(batch.column(name)) for name in columns.names]
                for values in zip(*cells, strict=True):
                    yield columns.row(dict(zip(columns.names, values, strict=True)))


def _cells(column: pa.Array) -> list[object]:
    """Return the values of *column*; texts that are not UTF-8 with lone surrogates."""
    try:
        values: list[object] = column.to_pylist()
    except UnicodeDecodeError:
        raw = column.cast(pa.binary()).to_pylist()
        values = [None if value is None else value.decode("utf-8", "surrogateescape") for value in raw]
    except (ValueError, OverflowError):  # a value that Python has no type for, such as a date in the year 300,000
        values = [_cell(value) for value in column]
    return values


def _cell(value: pa.Scalar) -> object:
    try:
        return value.as_py()
    except (ValueError, OverflowError):
        return None
