"""A file read in blocks gives its bytes, and asks for none of them twice where the reader steps back a little."""

import hashlib
import io
import random

import pyarrow as pa
import pytest

from vecap_tasks.core.files import BlockStream, DigestReader

DATA = random.Random(0).randbytes(10_007)


class Counted:
    """A pyarrow file that notes what was asked of it."""

    def __init__(self):
        self.file = pa.BufferReader(DATA)
        self.asked = []

    def size(self):
        return self.file.size()

    def read_at(self, size, offset):
        self.asked.append((offset, size))
        return self.file.read_at(size, offset)

    def close(self):
        self.file.close()


@pytest.mark.parametrize("seed", range(5))
def test_reads_and_seeks_are_those_of_a_file(seed):
    drawn = random.Random(seed)
    plain = io.BytesIO(DATA)
    with BlockStream(Counted(), block=1000) as stream:
        for _ in range(200):
            to, size = drawn.randrange(len(DATA) + 50), drawn.choice([-1, 0, 1, 100, 999, 2500])
            whence = drawn.choice([io.SEEK_SET, io.SEEK_CUR, io.SEEK_END])
            offset = to if whence == io.SEEK_SET else drawn.randrange(-50, 50)
            assert stream.seek(max(offset, -plain.tell()) if whence == io.SEEK_CUR else offset, whence) == plain.seek(
                max(offset, -plain.tell()) if whence == io.SEEK_CUR else offset, whence
            )
            assert stream.read(size) == plain.read(size)
            assert stream.tell() == plain.tell()


def test_a_step_back_asks_for_nothing_again():
    counted = Counted()
    with BlockStream(counted, block=1000) as stream:
        for start in range(0, len(DATA) - 400, 100):
            stream.seek(start + 300)
            stream.read(100)
            stream.seek(start)
            assert stream.read(300) == DATA[start : start + 300]
    assert counted.asked == [(offset, 1000) for offset in range(0, 10_000, 1000)]


def test_blocks_taken_in_order_are_digested_once():
    """What is skipped passes too; a step back beyond the kept blocks is refused, not answered with other bytes."""
    digesting = DigestReader(io.BytesIO(DATA))
    stream = BlockStream(digesting, block=1000)
    stream.seek(4_321)
    assert stream.read(2_000) == DATA[4_321:6_321]
    stream.seek(4_900)
    assert stream.read(50) == DATA[4_900:4_950]
    stream.seek(100)
    with pytest.raises(OSError, match="byte 0 was read already"):
        stream.read(10)
    item = digesting.input("x")
    assert (item.digest, item.bytes) == (hashlib.sha256(DATA).hexdigest(), len(DATA))


def test_a_file_that_became_shorter_ends_where_it_ends():
    class Shorter(Counted):
        def size(self):
            return len(DATA) + 3_000

    with BlockStream(Shorter(), block=1000) as stream:
        stream.seek(9_000)
        assert stream.read() == DATA[9_000:]
