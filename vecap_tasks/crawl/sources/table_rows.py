"""Reads the rows of a URL list in any format, in order and in bounded memory.

An unusable row is returned with its problem, so that the counters add up to the rows of the file. A truncated file is
an error, because a part of it would be a different dataset.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from io import BufferedReader
from itertools import chain, islice

import pyarrow as pa
import pyarrow.parquet as pq

from vecap_tasks.config import UrlSource
from vecap_tasks.core.files import DigestReader, SourceFile
from vecap_tasks.core.json_reader import JsonError, parse_json
from vecap_tasks.crawl.sources.columns import Columns, Fields, Row
from vecap_tasks.crawl.sources.json_rows import json_line_rows, json_rows
from vecap_tasks.crawl.sources.link import Stats
from vecap_tasks.crawl.sources.list_file import MAX_LINE, Lines, ListFile, ListSection, decompressed
from vecap_tasks.crawl.sources.parquet_rows import parquet_rows
from vecap_tasks.errors import PermanentError, SettingError, VecapError

FORMATS = ("parquet", "csv", "tsv", "json", "jsonl", "ndjson", "txt")
_FIRST_LINES = 100  # in which JSON lines show their columns
_CODECS = {"gz": "gzip", "zst": "zstd"}

csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE))  # of the process; Python's default is 131,072


def read_rows(file: SourceFile, section: ListSection, stats: Stats) -> Iterator[Row]:
    """Yield every row of *file*, then add the file to the inputs of *stats*.

    Raises VecapError if the file is corrupt, truncated, of unknown format, or without a URL column.
    """
    if not file.size:
        raise PermanentError(f"{file.name} is empty; download the file again")
    kind, codec = _format(file.name)
    readers = {"parquet": parquet_rows, "csv": _csv, "tsv": _csv, "json": json_rows, "txt": _txt}
    read = readers.get(kind, json_line_rows)
    try:
        with file.open() as stream:
            digesting = DigestReader(stream)
            with decompressed(digesting, codec) as plain:
                yield from read(ListFile(file, kind, codec, section), plain)
            stats.inputs.append(digesting.input(file.name))
    except (OSError, EOFError, pa.ArrowException, JsonError, UnicodeDecodeError) as error:
        problem = " ".join(str(error).split()) or type(error).__name__
        raise PermanentError(f"{file.name} is corrupt or truncated: {problem}; download the file again") from error


def column_names(file: SourceFile) -> list[str]:
    """Return the names of the columns of *file*, of JSON lines those of the first object.

    Without names, or if the file cannot be read, which `read_rows` reports, the result is empty.
    """
    try:
        kind, codec = _format(file.name)
        with file.open() as stream:
            if kind == "parquet" and codec is None:
                return list(pq.read_schema(stream).names)
            with decompressed(DigestReader(stream), codec) as plain:
                lines = Lines(ListFile(file, kind, codec, UrlSource(kind="urls", paths=[file.name])), plain)
                if kind in ("csv", "tsv"):
                    cells = next(csv.reader(lines, delimiter="\t" if kind == "tsv" else ","), [])
                    return [] if any("://" in cell for cell in cells) else cells
                if kind in ("jsonl", "ndjson"):
                    return next((list(value) for value in map(_json_object, islice(lines, _FIRST_LINES)) if value), [])
    except (OSError, EOFError, ValueError, csv.Error, pa.ArrowException, VecapError):
        pass
    return []


def read_fields(file: SourceFile, section: ListSection) -> Fields:
    """Return the fields of *file*; they are empty where `column_names` is."""
    names = column_names(file)
    kind = file.name.rpartition(".")[2]
    return Fields.of(names, ListFile(file, kind, None, section.model_copy(update={"keep_columns": ()})).find(names))


def _json_object(line: str) -> dict[str, object]:
    try:
        value = parse_json(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _format(name: str) -> tuple[str, str | None]:
    """Return the format and the compression from the extension of *name*."""
    stem, _, end = name.lower().rpartition(".")
    codec = _CODECS.get(end)
    kind = stem.rpartition(".")[2] if codec else end
    if kind not in FORMATS:
        known = ", ".join(FORMATS)
        raise PermanentError(f"{name}: unsupported file extension; use one of {known}, optionally with .gz or .zst")
    return kind, codec


def _txt(file: ListFile, stream: BufferedReader) -> Iterator[Row]:
    columns = file.fixed_columns("url")
    lines = Lines(file, stream)
    for line in lines:
        yield Row(None, problem="large_row") if lines.too_long else columns.row({"url": line.strip()})


def _csv(file: ListFile, stream: BufferedReader) -> Iterator[Row]:
    lines = Lines(file, stream)
    text = _short_lines(file, lines)
    first = next(text, "")
    section = file.section
    has_header = "://" not in first or not isinstance(section, UrlSource)
    configured = section.quotes if isinstance(section, UrlSource) else None
    quotes = configured if configured is not None else has_header or file.kind == "csv"
    separator = "\t" if file.kind == "tsv" else ","
    reader = csv.reader(
        chain([first], text),
        delimiter=separator,
        skipinitialspace=has_header and f"{separator} " in first,  # `url, caption`
        quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE,
        strict=True,
    )
    too_short = False
    try:
        cells = next(reader)
        names = cells if has_header else [str(number) for number in range(len(cells))]
        columns = (
            _headerless_columns(file, section, cells)
            if isinstance(section, UrlSource) and not has_header
            else (file.columns(names))
        )
        for row in reader if has_header else chain([cells], reader):
            too_short = len(row) < len(names)
            if len(row) == len(names):
                yield columns.row(dict(zip(names, row, strict=True)))
            else:
                yield Row(None, problem="bad_row" if row else "no_url")
    except csv.Error as error:
        optional = quotes and isinstance(section, UrlSource)
        hint = "; if quotes are part of the text, set crawl.source.quotes: false" if optional else ""
        raise PermanentError(f"{file.name} is corrupt or truncated at line {lines.number}: {error}{hint}") from error
    if too_short and not lines.terminated:
        raise file.truncated(f"line {lines.number} has too few fields and no line break")


def _short_lines(file: ListFile, lines: Lines) -> Iterator[str]:
    """Yield *lines*. Raises VecapError for one that is too long, because a quoted field may end in it."""
    for line in lines:
        if lines.too_long:
            raise PermanentError(f"{file.name}: line {lines.number} is too long; use one row per line")
        yield line


def _headerless_columns(file: ListFile, section: UrlSource, cells: list[str]) -> Columns:
    """Return the columns of a headerless table from its first row: CC3M has the caption first, CC12M the URL."""
    names = [str(number) for number in range(len(cells))]
    url = section.url_column
    if url is None:
        url = next((number for number, cell in enumerate(cells) if "://" in cell[:10]), None)
    caption = section.caption_column
    if caption is None and len(cells) == 2 and str(url) in names:
        caption = names[1 - names.index(str(url))]
    if url is None or (caption is None and len(cells) > 2):
        raise SettingError(
            f"{file.name} has no header and {len(cells)} columns; set crawl.source.url_column and "
            "crawl.source.caption_column as numbers from 0",
            "crawl.source.url_column",
        )
    configured = replace(file, section=section.model_copy(update={"url_column": url, "caption_column": caption}))
    return configured.columns(names)
