"""Sorted tables from DuckDB have the same bytes for any row order, number of threads and memory limit."""

import hashlib

import duckdb
import pyarrow.parquet as pq
import pytest

from vecap_tasks.core.tables import write_sorted

ROWS = 400_000


def written(path, order, threads, memory):
    with duckdb.connect() as connection:
        connection.execute(f"SET memory_limit = '{memory}'; SET temp_directory = '{path.parent / 'spill'}'")
        connection.execute(f"SET threads = {threads}; SET preserve_insertion_order = false")
        query = f"""
            SELECT printf('%09d', i) AS key, md5(i::VARCHAR) AS uid, CASE WHEN i % 3 > 0 THEN ['a', 'b'] END AS reasons
            FROM (SELECT i FROM range({ROWS}) AS made(i) ORDER BY {order})"""
        assert write_sorted(connection, query, "key, uid", path) == ROWS
        settings = "SELECT current_setting('threads'), current_setting('preserve_insertion_order')"
        assert connection.execute(settings).fetchall() == [(threads, False)]
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("order", "threads", "memory"), [("hash(i)", 1, "1GB"), ("i DESC", 2, "150MB"), ("i", 4, "1GB")]
)
def test_the_same_rows_produce_the_same_bytes(tmp_path, order, threads, memory):
    first = written(tmp_path / "first.parquet", "i", 1, "1GB")
    assert written(tmp_path / "second.parquet", order, threads, memory) == first
    file = pq.ParquetFile(tmp_path / "second.parquet")
    assert [file.metadata.row_group(n).num_rows for n in range(4)] == [122_880] * 3 + [ROWS - 3 * 122_880]
    keys = file.read(columns=["key"])["key"].to_pylist()
    assert keys == sorted(keys)
