"""A file read in blocks returns its bytes, and a small step back reads no block twice."""

import hashlib
import io
import random

import pyarrow as pa
import pytest

from vecap_tasks.core.files import BlockStream, DigestReader

DATA = random.Random(0).randbytes(10_007)


class RecordingFile:
    """A pyarrow file that records its reads."""

    def __init__(self):
        self.file = pa.BufferReader(DATA)
        self.reads = []

    def size(self):
        return self.file.size()

    def read_at(self, size, offset):
        self.reads.append((offset, size))
        return self.file.read_at(size, offset)

    def close(self):
        self.file.close()


@pytest.mark.parametrize("seed", range(5))
def test_reads_and_seeks_match_those_of_a_file(seed):
    rng = random.Random(seed)
    plain = io.BytesIO(DATA)
    with BlockStream(RecordingFile(), block=1000) as stream:
        for _ in range(200):
            to, size = rng.randrange(len(DATA) + 50), rng.choice([-1, 0, 1, 100, 999, 2500])
            whence = rng.choice([io.SEEK_SET, io.SEEK_CUR, io.SEEK_END])
            offset = to if whence == io.SEEK_SET else rng.randrange(-50, 50)
            assert stream.seek(max(offset, -plain.tell()) if whence == io.SEEK_CUR else offset, whence) == plain.seek(
                max(offset, -plain.tell()) if whence == io.SEEK_CUR else offset, whence
            )
            assert stream.read(size) == plain.read(size)
            assert stream.tell() == plain.tell()


def test_a_small_step_back_reads_nothing_again():
    file = RecordingFile()
    with BlockStream(file, block=1000) as stream:
        for start in range(0, len(DATA) - 400, 100):
            stream.seek(start + 300)
            stream.read(100)
            stream.seek(start)
            assert stream.read(300) == DATA[start : start + 300]
    assert file.reads == [(offset, 1000) for offset in range(0, 10_000, 1000)]


def test_blocks_read_in_order_are_hashed_once():
    """Skipped bytes are hashed too; a step back beyond the cached blocks raises an error."""
    reader = DigestReader(io.BytesIO(DATA))
    stream = BlockStream(reader, block=1000)
    stream.seek(4_321)
    assert stream.read(2_000) == DATA[4_321:6_321]
    stream.seek(4_900)
    assert stream.read(50) == DATA[4_900:4_950]
    stream.seek(100)
    with pytest.raises(OSError, match="byte 0 was already read"):
        stream.read(10)
    item = reader.input("x")
    assert (item.digest, item.bytes) == (hashlib.sha256(DATA).hexdigest(), len(DATA))


def test_a_truncated_file_ends_at_its_last_byte():
    class Truncated(RecordingFile):
        def size(self):
            return len(DATA) + 3_000

    with BlockStream(Truncated(), block=1000) as stream:
        stream.seek(9_000)
        assert stream.read() == DATA[9_000:]
