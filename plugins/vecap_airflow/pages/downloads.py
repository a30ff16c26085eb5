"""Tables as streams of CSV or Parquet, with bounded memory."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator
from itertools import chain

import pyarrow as pa
import pyarrow.parquet as pq

MEDIA_TYPES = {"csv": "text/csv; charset=utf-8", "parquet": "application/vnd.apache.parquet"}
_ROW_GROUP = 20_000  # rows of a row group, all of which are in memory
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
# A spreadsheet runs a cell that starts with one of these as a formula, also after spaces.
_FORMULA = re.compile(r"^\s*[=+\-@\t\r\n＝＋－＠]")


def file_name(*parts: str, suffix: str) -> str:
    """Return a file name of *parts* that is safe in a header and on every file system."""
    return "-".join(_UNSAFE.sub("_", part) for part in parts if part) + f".{suffix}"


def stream(kind: str, batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[bytes]:
    """Return *batches* with the columns of *schema* as bytes of a file of *kind*: csv or parquet.

    The first batch is read at once, so that errors occur before the response starts.
    """
    first = next(batches, None)
    found = chain([first], batches) if first is not None else iter(())
    return (_csv if kind == "csv" else _parquet)((batch.select(schema.names) for batch in found), schema)


def _csv(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[bytes]:
    """Yield CSV (RFC 4180, UTF-8). Texts that a spreadsheet would run as a formula start with an apostrophe."""
    yield _csv_rows([schema.names])
    for batch in batches:
        columns = [_cells(column) for column in batch.columns]
        yield _csv_rows(zip(*columns, strict=True))


def _csv_rows(rows: Iterable[Iterable[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _cells(column: pa.Array) -> list[object]:
    return [_cell(value) for value in column.to_pylist()]


def _cell(value: object) -> object:
    if isinstance(value, list):
        value = " ".join(map(str, value))
    if isinstance(value, str):
        return f"'{value}" if _FORMULA.match(value) else value
    return "" if value is None else value


def _parquet(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[bytes]:
    """Yield a Parquet file; each row group is yielded as it is complete."""
    sink = _Sink()
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        pending: list[pa.RecordBatch] = []
        for batch in batches:
            pending.append(batch)
            if sum(each.num_rows for each in pending) >= _ROW_GROUP:
                writer.write_table(pa.Table.from_batches(pending).cast(schema))
                pending = []
                yield sink.take()
        if pending:
            writer.write_table(pa.Table.from_batches(pending).cast(schema))
    yield sink.take()


class _Sink(io.RawIOBase):
    """A file whose written bytes are taken as they come."""

    def __init__(self) -> None:
        super().__init__()
        self._chunks: list[bytes] = []
        self._position = 0

    def writable(self) -> bool:
        return True

    def write(self, data: bytes | memoryview) -> int:  # type: ignore[override]
        chunk = bytes(data)
        self._chunks.append(chunk)
        self._position += len(chunk)
        return len(chunk)

    def tell(self) -> int:
        return self._position

    def take(self) -> bytes:
        """Return the bytes written since the last call."""
        data, self._chunks = b"".join(self._chunks), []
        return data
