"""Parquet files that depend on their rows alone: the same rows in the same order give the same bytes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:  # the processes that fetch write with the former, and are spared DuckDB's megabytes
    import duckdb

ROW_GROUP = 100_000
_TABLE_ROW_GROUP = 122_880  # of DuckDB's own tables


def write_rows(batches: Iterable[pa.RecordBatch], schema: pa.Schema, path: Path) -> int:
    """Write *batches*, whatever their sizes, to the new file *path* in row groups of `ROW_GROUP`; return the rows.

    Columns are taken by name and cast to *schema*. Raises pyarrow.ArrowInvalid where they do not fit, such as a null
    in a column that has none.
    """
    rows = 0
    with pq.ParquetWriter(path, schema, compression="zstd", store_schema=False) as writer:
        waiting: list[pa.Table] = []
        held = 0
        for batch in batches:
            waiting.append(_fit(batch, schema))
            held += batch.num_rows
            while held >= ROW_GROUP:
                table = pa.concat_tables(waiting)
                writer.write_table(table.slice(0, ROW_GROUP).combine_chunks(), row_group_size=ROW_GROUP)
                waiting, held = [table.slice(ROW_GROUP)], held - ROW_GROUP
                rows += ROW_GROUP
        if held:
            writer.write_table(pa.concat_tables(waiting).combine_chunks(), row_group_size=ROW_GROUP)
    return rows + held


def write_sorted(connection: duckdb.DuckDBPyConnection, query: str, order: str, path: Path) -> int:
    """Have DuckDB write the rows of *query*, by the columns of *order*, to the new file *path*; return the rows.

    No row passes through Python. The bytes depend on the rows alone, whatever the threads and the memory, as long as
    *order* leaves no two rows alike: the rows go into a table first, which is kept in groups of one size, and one
    thread copies it. Straight out of a sort, ten million rows came in row groups of changing sizes.
    """
    threads, ordered = connection.execute(
        "SELECT current_setting('threads'), current_setting('preserve_insertion_order')"
    ).fetchall()[0]
    connection.execute("SET preserve_insertion_order = true")
    connection.execute(f"CREATE OR REPLACE TEMP TABLE to_be_written AS {query} ORDER BY {order}")
    connection.execute("SET threads = 1")
    written = connection.execute(
        f"COPY to_be_written TO $1 (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {_TABLE_ROW_GROUP})", [str(path)]
    ).fetchall()[0][0]
    connection.execute("DROP TABLE to_be_written")
    connection.execute(f"SET threads = {threads}; SET preserve_insertion_order = {ordered}")
    return int(written)


def _fit(batch: pa.RecordBatch, schema: pa.Schema) -> pa.Table:
    columns = []
    for field in schema:
        column = batch.column(field.name)
        if not field.nullable and column.null_count:
            raise pa.ArrowInvalid(f"the column {field.name} has {column.null_count} nulls, and must have none")
        columns.append(column.cast(field.type))
    return pa.Table.from_arrays(columns, schema=schema)
