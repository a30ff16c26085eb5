"""Reads the rows of parquet files."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from io import BufferedReader

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from vecap_tasks.crawl.sources.columns import Row
from vecap_tasks.crawl.sources.list_file import BUFFER, ListFile
from vecap_tasks.errors import PermanentError, SettingError

_BATCH = 64  # rows; a dictionary of 250 KB can stand for the values of 10,000 rows
_BATCH_BYTES = 64 << 20
# With a buffer, pyarrow allocates the size that a page claims, up to 2 GB. Without one, it reads whole columns of row
# groups.
_MAX_UNBUFFERED = 1 << 20  # bytes of a file
_NO_TEXT = object()  # a value that Python cannot represent, such as a date in the year 300,000


def parquet_rows(file: ListFile, stream: BufferedReader) -> Iterator[Row]:
    """Yield the rows of a parquet file. A compressed file is decompressed to disk, because parquet needs seeking."""
    with tempfile.TemporaryFile() if file.codec else file.file.open() as seekable:
        if file.codec:
            shutil.copyfileobj(stream, seekable, BUFFER)
        seekable.seek(0)
        if seekable.read(4) != b"PAR1":
            raise PermanentError(
                f"{file.name} is not a Parquet file; name it by its format, such as .csv, or download it again"
            )
        # Pre-buffering takes the memory of a row group and avoids an S3 request per page.
        pre_buffer = file.file.remote and not file.codec
        footer = pq.read_metadata(seekable)
        columns = file.columns(footer.schema.to_arrow_schema().names)
        _check_type(file, footer.schema.to_arrow_schema(), columns.url)
        buffer = BUFFER if seekable.seek(0, os.SEEK_END) > _MAX_UNBUFFERED else 0
        seekable.seek(0)
        table = pq.ParquetFile(seekable, metadata=footer, buffer_size=buffer, pre_buffer=pre_buffer)
        for group in range(table.num_row_groups):
            # Not the sizes of single columns: pyarrow aborts the process if their metadata are malformed.
            rows, size = footer.row_group(group).num_rows, footer.row_group(group).total_byte_size
            batch_rows = max(1, min(_BATCH, _BATCH_BYTES * rows // max(1, size)))
            for batch in table.iter_batches(batch_rows, [group], columns.names, use_threads=False):
                cells = [cells_of(batch.column(name)) for name in columns.names]
                for values in zip(*cells, strict=True):
                    yield columns.row(dict(zip(columns.names, values, strict=True)))


def _check_type(file: ListFile, schema: pa.Schema, name: str | None) -> None:
    """Raise PermanentError if the URL column *name* cannot have text."""
    kind = schema.field(name).type
    while pt.is_list(kind) or pt.is_large_list(kind) or pt.is_dictionary(kind):
        kind = kind.value_type
    if pt.is_nested(kind) or pt.is_temporal(kind) or pt.is_boolean(kind):
        shown = f"{name} has {kind}"[:200]
        what = "URLs" if file.image_setting == "url_column" else "file names"
        setting = f"crawl.source.{file.image_setting}"
        raise SettingError(f"{file.name}: column {shown}, not {what}; set {setting}", setting)


def cells_of(column: pa.Array) -> list[object]:
    """Return the values of *column*; invalid UTF-8 becomes lone surrogates."""
    if pt.is_dictionary(column.type):
        return cells_of(column.dictionary_decode())
    if pt.is_list(column.type) or pt.is_large_list(column.type):
        items = iter(cells_of(column.flatten()))
        return [None if n is None else [next(items) for _ in range(n)] for n in column.value_lengths().to_pylist()]
    try:
        found: list[object] = column.to_pylist()
    except UnicodeDecodeError:
        raw = column.cast(pa.binary()).to_pylist()
        found = [None if value is None else value.decode("utf-8", "surrogateescape") for value in raw]
    except (ValueError, OverflowError, KeyError):  # KeyError: an unknown time zone
        found = [_cell(value) for value in column]
    return found


def _cell(value: pa.Scalar) -> object:
    try:
        return value.as_py()
    except (ValueError, OverflowError, KeyError):  # KeyError: an unknown time zone
        return _NO_TEXT
