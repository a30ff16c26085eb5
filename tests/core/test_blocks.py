"""A file read in blocks gives its bytes, and asks for none of them twice where the reader steps back a little."""

import io
import random

import pyarrow as pa
import pytest

from vecap_tasks.train.data.samples import BlockStream

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
