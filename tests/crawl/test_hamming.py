"""Pairs of similar hashes: all of them, each once, whatever fits into memory."""

import numpy as np
import pytest

from vecap_tasks.crawl.hamming import PAIRS, Group, Part, fields_of, find_pairs


def make_hashes(seed):
    """Return distinct hashes in clusters; with some seeds they share many bits."""
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 1 << 64, 120, dtype=np.uint64)
    base = (base, base >> np.uint64(30), base & np.uint64(0xF0F0F0F000003))[seed % 3]
    values = base[rng.integers(0, len(base), 900)]
    for _ in range(6):
        chosen = rng.random(len(values)) < 0.6
        bits = rng.integers(0, 64 if seed % 2 else 20, np.count_nonzero(chosen)).astype(np.uint64)
        values[chosen] ^= np.uint64(1) << bits
    values = np.unique(values)
    rng.shuffle(values)
    return values


def search(current, earlier, distance, max_rows, work):
    part = Part(Group(), lambda: np.array_split(current, 3), lambda: [earlier], len(current) + len(earlier))
    found = []
    for batch in find_pairs(part, distance, max_rows, work):
        assert batch.schema.equals(PAIRS)
        found += list(zip(*(column.to_pylist() for column in batch.columns), strict=True))
    assert not list(work.iterdir())
    return [(*((one, two) if old else sorted((one, two))), bits, old) for one, two, bits, old in found]


def brute_force(current, earlier, distance):
    pairs = set()
    for position, value in enumerate(current.tolist()):
        for other in current[:position].tolist():
            pairs.add((*sorted((value, other)), (value ^ other).bit_count(), False))
        pairs.update((value, other, (value ^ other).bit_count(), True) for other in earlier.tolist())
    return sorted(pair for pair in pairs if pair[2] <= distance)


@pytest.mark.parametrize("seed", range(4))
def test_each_pair_is_found_once(tmp_path, seed):
    hashes = make_hashes(seed)
    current, earlier = hashes[:500], np.concatenate([hashes[400:], hashes[450:480]])  # those of versions may repeat
    found = brute_force(current, earlier, 3)
    for distance in range(4):
        expected = [pair for pair in found if pair[2] <= distance]
        assert len(expected) > 50
        for max_rows in (10_000, 300):
            assert sorted(search(current, earlier, distance, max_rows, tmp_path)) == expected


def test_hashes_that_share_all_values_of_a_field_fit_into_memory(tmp_path):
    """Files are divided by other bits until they are small enough."""
    rng = np.random.default_rng(1)
    hashes = np.unique(rng.integers(0, 1 << 48, 20_000, dtype=np.uint64))
    near = hashes[:40] ^ np.uint64(1 << 47 | 1)
    found = search(np.concatenate([hashes, near]), near[:0], 3, 4_000, tmp_path)
    pairs = {(one, two) for one, two, *_ in found}
    assert pairs >= {tuple(sorted(pair)) for pair in zip(hashes[:40].tolist(), near.tolist(), strict=True)}


def test_hashes_of_earlier_versions_are_not_compared_with_each_other(tmp_path):
    hashes = np.arange(16, dtype=np.uint64)
    assert search(hashes[:0], hashes, 3, 100, tmp_path) == []
    assert len(search(hashes[:1], hashes, 0, 100, tmp_path)) == 1


@pytest.mark.parametrize("distance", range(4))
def test_fields_cover_the_free_bits(distance):
    hashes = make_hashes(1)
    for used in range(64):
        fields = fields_of(used, distance)
        assert [field.start for field in fields] == [used, *(f.start + f.width for f in fields[:-1])]
        assert fields[-1].start + fields[-1].width == 64
        for field in fields:
            moved = field.to_front(hashes)
            assert (field.put_back(moved) == hashes).all()
            assert (np.bitwise_count(moved) == np.bitwise_count(hashes)).all()
            assert (moved >> np.uint64(64 - used) == hashes >> np.uint64(64 - used)).all() or not used
