"""Planning of training shards, and the tar and table writers."""

import io
import tarfile
from hashlib import sha256

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecap_tasks.assemble.card import _size
from vecap_tasks.assemble.shards import MIN_MIXED_SHARDS, Source, plan_groups
from vecap_tasks.core import tables
from vecap_tasks.core.tables import write_rows
from vecap_tasks.core.tar import TarWriter, read_samples
from vecap_tasks.errors import CorruptError


@given(st.lists(st.integers(0, 40), max_size=30), st.integers(1, 15))
def test_every_sample_is_in_one_shard_and_no_shard_is_too_large(counts, shard_size):
    sources = [Source(f"{n}.parquet", f"{n}.tar", count) for n, count in enumerate(counts)]
    groups = plan_groups(sources, shard_size)
    assert [source for group in groups for source in group.sources] == [s for s in sources if s.samples]
    next_shard = 0
    for group in groups:
        assert group.first == next_shard
        next_shard += len(group.sizes)
        assert sum(group.sizes) == sum(source.samples for source in group.sources)
        assert max(group.sizes) <= shard_size
        assert max(group.sizes) - min(group.sizes) <= 1
    assert all(sum(group.sizes) >= MIN_MIXED_SHARDS * shard_size for group in groups[:-1])


MEMBERS = {"jpg": b"\xff\xd8" * 400, "txt": "Größe".encode(), "json": b"{}"}


def _tar(path, keys=("000000000", "000000001")):
    with TarWriter(path) as tar:
        for key in keys:
            tar.write(key, MEMBERS)
    return path.read_bytes()


def test_a_tar_has_no_time_and_no_owner(tmp_path):
    data = _tar(tmp_path / "a.tar")
    assert data == _tar(tmp_path / "b.tar")
    with tarfile.open(tmp_path / "a.tar") as tar:
        entries = tar.getmembers()
    assert [entry.name for entry in entries][:4] == [
        "000000000.jpg",
        "000000000.txt",
        "000000000.json",
        "000000001.jpg",
    ]
    assert {(e.mtime, e.uid, e.gid, e.uname, e.gname, e.mode) for e in entries} == {(0, 0, 0, "", "", 0o644)}


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 7_000, 20_000])
def test_a_tar_matches_the_standard_library(tmp_path, size):
    members = {"jpg": bytes(range(256)) * 100, "txt": b"", "json": b"x" * size}
    with TarWriter(tmp_path / "a.tar") as tar:
        tar.write("00000-a_b", members)
    with tarfile.open(tmp_path / "b.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for kind, data in members.items():
            entry = tarfile.TarInfo(f"00000-a_b.{kind}")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_a_name_too_long_for_a_header_is_rejected(tmp_path):
    with TarWriter(tmp_path / "a.tar") as tar, pytest.raises(ValueError, match="too long for a tar"):
        tar.write("k" * 97, MEMBERS)


def test_samples_round_trip(tmp_path):
    stream = io.BytesIO(_tar(tmp_path / "a.tar"))
    assert [(sample.key, dict(sample.members)) for sample in read_samples(stream)] == [
        ("000000000", MEMBERS),
        ("000000001", MEMBERS),
    ]


@pytest.mark.parametrize("key", ["a.b", "", "a/b", "ä"])
def test_a_key_that_webdataset_cannot_read_is_rejected(tmp_path, key):
    with TarWriter(tmp_path / "a.tar") as tar, pytest.raises(ValueError, match="invalid key"):
        tar.write(key, MEMBERS)


@pytest.mark.parametrize("cut", [0, 100, 700, 1_500])
def test_a_truncated_tar_is_corrupt(tmp_path, cut):
    data = _tar(tmp_path / "a.tar")[:cut]
    with pytest.raises(CorruptError, match=r"00007\.tar is truncated after byte"):
        list(read_samples(io.BytesIO(data), "00007.tar"))


SCHEMA = pa.schema([pa.field("key", pa.string(), nullable=False), pa.field("n", pa.int32())])


def _batches(rows, size):
    table = pa.table({"n": pa.array(range(rows), pa.int64()), "key": [f"{n:06d}" for n in range(rows)]})
    return table.to_batches(max_chunksize=size)


def test_table_bytes_depend_only_on_the_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "ROW_GROUP", 100)
    digests = set()
    for size in (1, 7, 100, 1000):
        path = tmp_path / f"{size}.parquet"
        assert write_rows(_batches(730, size), SCHEMA, path) == 730
        digests.add(sha256(path.read_bytes()).hexdigest())
    assert len(digests) == 1
    assert pq.read_metadata(path).num_row_groups == 8
    assert pq.read_table(path).schema.equals(SCHEMA)
    assert pq.read_table(path)["n"].to_pylist() == list(range(730))


def test_a_null_in_a_required_column_is_an_error(tmp_path):
    batch = pa.record_batch({"key": ["a", None], "n": [1, 2]})
    with pytest.raises(pa.ArrowInvalid, match="the column key has 1 nulls"):
        write_rows([batch], SCHEMA, tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("samples", "name"),
    [
        (1, "n<1K"), (999, "n<1K"), (1_000, "1K<n<10K"), (25_000, "10K<n<100K"), (999_999, "100K<n<1M"),
        (3_000_000, "1M<n<10M"), (12_000_000_000, "10B<n<100B"), (10**12 - 1, "100B<n<1T"), (10**12, "n>1T"),
    ],
)  # fmt: skip
def test_size_categories_are_those_of_hugging_face(samples, name):
    assert _size(samples) == name
