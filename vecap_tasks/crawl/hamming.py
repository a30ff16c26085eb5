"""Finds all pairs of 64-bit hashes that differ in a few bits: exactly, each pair once, in bounded memory.

Hashes that differ in at most d bits are equal in one of d + 1 fields of bits. For each field, hashes with the same
value form a group; a large group is divided again by fields of its other bits, so that popular values do not make
quadratic work. More hashes than fit into memory are first distributed over files by the value of the field. A pair
counts only in the first of the fields, at each level, in which it is equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

PAIRS = pa.schema(
    [
        pa.field("hash", pa.uint64(), nullable=False),  # of this version
        pa.field("other", pa.uint64(), nullable=False),
        pa.field("distance", pa.int32(), nullable=False),
        pa.field("is_earlier", pa.bool_(), nullable=False),  # `other` is of an earlier version, not of this one
    ]
)
_BITS = 64
_MAX_GROUP = 64  # hashes; larger groups are divided
_MAX_CANDIDATES = 1 << 19  # pairs to compare at a time
_BLOCK = 1 << 19  # hashes to distribute at a time
_FILTER_BITS = 24
_MIX = np.uint64(0x9E3779B97F4A7C15)
_ONES = (1 << _BITS) - 1
_EMPTY = np.empty(0, np.uint64)
BYTES_PER_HASH = 160  # memory of a search, at most

Blocks = Callable[[], Iterable[np.ndarray]]  # returns uint64 arrays of any length


@dataclass(frozen=True, slots=True)
class Field:
    """`width` bits of a hash that begin at bit `start`, counted from the most significant one.

    The first `used` bits are those that all hashes of a group share already.
    """

    used: int
    start: int
    width: int

    @property
    def shared(self) -> int:
        """The number of first bits that a group shares after `to_front`."""
        return self.used + self.width

    def to_front(self, hashes: np.ndarray) -> np.ndarray:
        """Return *hashes* with this field moved to bit `used`. All distances stay the same."""
        return self._exchange(hashes, self.start - self.used, self.width)

    def put_back(self, hashes: np.ndarray) -> np.ndarray:
        """Reverse `to_front`."""
        return self._exchange(hashes, self.width, self.start - self.used)

    def _exchange(self, hashes: np.ndarray, first: int, second: int) -> np.ndarray:
        """Exchange the *first* bits from bit `used` with the *second* bits that follow them."""
        if not first or not second:
            return hashes.copy()
        left, right = _mask(self.used, first), _mask(self.used + first, second)
        kept = hashes & np.uint64(_ONES ^ int(left) ^ int(right))
        moved: np.ndarray = kept | (hashes & left) >> np.uint64(second) | (hashes & right) << np.uint64(first)
        return moved


def fields_of(used: int, distance: int) -> list[Field]:
    """Return *distance* + 1 fields of the bits after the first *used*, without empty ones."""
    free = _BITS - used
    ends = [used + free * number // (distance + 1) for number in range(distance + 2)]
    return [Field(used, start, end - start) for start, end in pairwise(ends) if end > start]


@dataclass(frozen=True, slots=True)
class Group:
    """Hashes that share their first `used` bits after `path` has moved fields.

    Only pairs that differ in each of the masks `differ` count.
    """

    used: int = 0
    differ: tuple[int, ...] = ()
    path: tuple[Field, ...] = ()

    def divide(self, distance: int) -> Iterator[Group]:
        """Yield the group of each field; their hashes are those of this group after `path[-1].to_front`."""
        before: list[int] = []
        for field in fields_of(self.used, distance):
            masks = field.to_front(np.array([*self.differ, *before], np.uint64)).tolist()
            yield Group(field.shared, tuple(masks), (*self.path, field))
            before.append(int(_mask(field.start, field.width)))

    def originals(self, hashes: np.ndarray) -> np.ndarray:
        for field in reversed(self.path):
            hashes = field.put_back(hashes)
        return hashes


def _mask(start: int, width: int) -> np.uint64:
    return np.uint64(((1 << width) - 1) << (_BITS - start - width))


@dataclass(frozen=True, slots=True)
class Part:
    """Hashes of this version and of earlier ones in which pairs can be found without the other parts.

    Hashes of this version are distinct; those of earlier versions may repeat. They are in the order of bits after the
    group's `path`.
    """

    group: Group
    current: Blocks
    earlier: Blocks
    rows: int
    remove: Callable[[], None] = lambda: None


def find_pairs(part: Part, distance: int, max_rows: int, work: Path) -> Iterator[pa.RecordBatch]:
    """Yield the pairs (PAIRS) within *distance* bits in *part*, with at most *max_rows* hashes in memory.

    At least one hash of a pair is of this version. Files are in *work*, a folder.
    """
    if part.rows <= max_rows or part.group.used == _BITS:
        current, earlier = np.concatenate([_EMPTY, *part.current()]), np.concatenate([_EMPTY, *part.earlier()])
        part.remove()
        if len(current):
            yield from _search(current, np.unique(earlier), part.group, distance)
        return
    for group in part.group.divide(distance):
        for smaller in distribute(part, group, parts_for(part.rows, max_rows), work):
            yield from find_pairs(smaller, distance, max_rows, work)
    part.remove()


def parts_for(rows: int, max_rows: int) -> int:
    """Return into how many parts, a power of two, to distribute *rows* hashes: half of *max_rows* each, or less."""
    return 1 << min(9, (max(1, -(-2 * rows // max_rows)) - 1).bit_length())


def distribute(part: Part, group: Group, count: int, work: Path) -> Iterator[Part]:
    """Yield the hashes of *part* in *count* parts: files in *work* by the bits that *group* shares.

    A part's files are removed before the next part is yielded.
    """
    name = "-".join(f"{field.start}.{field.width}" for field in group.path)
    folder = work / f"fields-{name}"
    folder.mkdir()
    rows = np.zeros(count, np.int64)
    for kind, blocks in (("current", part.current), ("earlier", part.earlier)):
        with ExitStack() as stack:
            files = [stack.enter_context((folder / f"{kind}-{number}").open("wb")) for number in range(count)]
            for block in _small(blocks()):
                moved = group.path[-1].to_front(block)
                numbers = _bucket(moved, group.used, count)
                order = np.argsort(numbers, kind="stable")
                bounds = np.searchsorted(numbers[order], np.arange(count + 1))
                moved = moved[order]
                for number in np.flatnonzero(np.diff(bounds)).tolist():
                    moved[bounds[number] : bounds[number + 1]].tofile(files[number])
                rows += np.diff(bounds)
    for number in range(count):
        current, earlier = folder / f"current-{number}", folder / f"earlier-{number}"

        def remove(paths: tuple[Path, ...] = (current, earlier)) -> None:
            for path in paths:
                path.unlink(missing_ok=True)

        yield Part(group, _reader(current), _reader(earlier), int(rows[number]), remove)
        remove()
    folder.rmdir()


def _small(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    for block in blocks:
        for start in range(0, len(block), _BLOCK):
            yield block[start : start + _BLOCK]


def _reader(path: Path) -> Blocks:
    def read() -> Iterator[np.ndarray]:
        with path.open("rb") as stream:
            while len(block := np.fromfile(stream, np.uint64, _BLOCK)):
                yield block

    return read


def _bucket(hashes: np.ndarray, used: int, count: int) -> np.ndarray:
    """Return uint16: a number below *count*, a power of two, from the first *used* bits of each hash."""
    if count == 1:
        return np.zeros(len(hashes), np.uint16)
    mixed = (hashes >> np.uint64(_BITS - used)) * _MIX
    return (mixed >> np.uint64(_BITS + 1 - count.bit_length())).astype(np.uint16)


def _search(current: np.ndarray, earlier: np.ndarray, group: Group, distance: int) -> Iterator[pa.RecordBatch]:
    """Yield the pairs in *group*, all of whose hashes are in memory."""
    parts = [group] if group.path and group.used == _BITS else list(group.divide(distance))
    for part in parts:
        move = part.path[-1].to_front if part is not group else np.copy
        here, there = move(current), move(earlier)
        here.sort()
        there = _matching(there, here, part.used)
        there.sort()
        yield from _pairs(here, there, part, distance)


def _matching(hashes: np.ndarray, wanted: np.ndarray, used: int) -> np.ndarray:
    """Return those of *hashes* whose first *used* bits may be those of one of *wanted*: fewer are faster to sort."""
    if len(hashes) < max(len(wanted), 1 << _FILTER_BITS - 4):
        return hashes
    shift, high = np.uint64(_BITS - used), np.uint64(_BITS - _FILTER_BITS)
    known = np.zeros(1 << _FILTER_BITS, bool)
    known[((wanted >> shift) * _MIX) >> high] = True
    return np.concatenate([_EMPTY, *(block[known[((block >> shift) * _MIX) >> high]] for block in _small([hashes]))])


def _pairs(here: np.ndarray, there: np.ndarray, group: Group, distance: int) -> Iterator[pa.RecordBatch]:
    """Yield the pairs among hashes with the same first bits; *here* and *there*, of earlier versions, are sorted."""
    keys = here >> np.uint64(_BITS - group.used)
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    ends = np.append(starts[1:], len(here))
    values = keys[starts]
    del keys
    if len(there):
        others = there >> np.uint64(_BITS - group.used)
        lows, highs = np.searchsorted(others, values, "left"), np.searchsorted(others, values, "right")
        del others
    else:
        lows = highs = np.zeros(len(starts), np.int64)
    del values
    sizes = ends - starts + highs - lows
    large = sizes > _MAX_GROUP
    small = np.flatnonzero(~large & (sizes > 1))
    del sizes
    yield from _compare(here, there, (starts[small], ends[small], lows[small], highs[small]), group, distance)
    if large.any():
        inner = here[_ranges(starts[large], ends[large])]
        outer = there[_ranges(lows[large], highs[large])]
        del starts, ends, lows, highs, small, large, here, there
        yield from _search(inner, outer, group, distance)


def _ranges(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return the numbers from each start up to its end, one range after the other."""
    counts = ends - starts
    offsets = np.repeat(starts - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts)
    return offsets + np.arange(len(offsets))


def _compare(
    here: np.ndarray, there: np.ndarray, bounds: tuple[np.ndarray, ...], group: Group, distance: int
) -> Iterator[pa.RecordBatch]:
    """Yield the pairs in small groups: rows from start to end of *here*, and from low to high of *there*."""
    starts, ends, lows, highs = bounds
    counts = ends - starts
    rows = _ranges(starts, ends)
    for others, firsts, lasts in (
        (here, rows + 1, np.repeat(ends, counts)),
        (there, np.repeat(lows, counts), np.repeat(highs, counts)),
    ):
        many = np.cumsum(lasts - firsts)
        if not len(many) or not many[-1]:
            continue
        steps = np.searchsorted(many, np.arange(0, many[-1], _MAX_CANDIDATES), "right")
        for begin, end in zip(steps, [*steps[1:], len(many)], strict=True):
            chosen = slice(begin, end)
            left = here[np.repeat(rows[chosen], lasts[chosen] - firsts[chosen])]
            right = others[_ranges(firsts[chosen], lasts[chosen])]
            bits = left ^ right
            near = np.bitwise_count(bits) <= distance
            for mask in group.differ:
                near &= (bits & np.uint64(mask)) != 0
            if near.any():
                yield _batch(group.originals(left[near]), group.originals(right[near]), others is there)


def _batch(hashes: np.ndarray, others: np.ndarray, is_earlier: bool) -> pa.RecordBatch:
    distances = np.bitwise_count(hashes ^ others).astype(np.int32)
    columns = [hashes, others, distances, np.full(len(hashes), is_earlier)]
    return pa.RecordBatch.from_arrays([pa.array(column) for column in columns], schema=PAIRS)
