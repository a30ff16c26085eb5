"""A shard reads the crawl shards of its own rows."""

import random

import pytest

from tests.core.factories import flip_bit
from vecap_tasks.errors import CorruptError
from vecap_tasks.rewrite.accepted_rows import Span, plan_spans
from vecap_tasks.rewrite.stage import Rewrite


def test_spans_of_known_counts() -> None:
    assert plan_spans({}, 3) == []
    assert plan_spans({"a": 0, "b": 0}, 3) == []
    assert plan_spans({"a": 7}, 3) == [Span(("a",), 0), Span(("a",), 3), Span(("a",), 6)]
    assert plan_spans({"a": 2, "b": 0, "c": 2, "d": 2}, 3) == [Span(("a", "c"), 0), Span(("c", "d"), 1)]


@pytest.mark.parametrize("seed", range(20))
def test_spans_cover_all_rows_in_order(seed: int) -> None:
    chance = random.Random(seed)
    accepted = {f"{n:05d}": chance.choice((0, 0, 1, 2, 5, 9, 30)) for n in range(chance.randrange(40))}
    size = chance.randrange(1, 12)
    rows = [(shard, row) for shard, count in accepted.items() for row in range(count)]
    covered = []
    for span in plan_spans(accepted, size):
        own = [row for row in rows if row[0] in span.shards]
        selected = own[span.offset : span.offset + size]
        assert {shard for shard, _ in selected} == set(span.shards), "a crawl shard is read in vain"
        covered += selected
    assert covered == rows


def test_a_shard_does_not_read_other_crawl_shards(sandbox, crawl_row) -> None:
    config = sandbox.config(shard_size=4)
    rows = [crawl_row(f"A Belvo {n} tulip", accepted=n % 2 == 0, image=n) for n in range(24)]
    version = sandbox.write_crawl(config, rows, shard_size=6)  # three accepted rows in each
    stage = Rewrite(config, version)
    expected = [f"{n // 6:05d}{n % 6:04d}" for n in range(0, 24, 2)]
    assert stage.shards() == ["00000", "00001", "00002"]
    read = {}
    for number, shard in enumerate(stage.shards()):
        with stage.store.workspace() as work:
            read[shard] = [row.key for row in stage.read_rows(shard, work)]
        assert read[shard] == expected[4 * number : 4 * number + 4]
    for name in ("crawl/00003.parquet", "quality/verdicts/00003.parquet"):
        flip_bit(stage.store, f"{version.folder}/{name}")
        again = Rewrite(config, version)
        for shard in ("00000", "00001"):
            with stage.store.workspace() as work:
                assert [row.key for row in again.read_rows(shard, work)] == read[shard]
        with stage.store.workspace() as work, pytest.raises(CorruptError, match=rf"{name} is corrupt"):
            again.read_rows("00002", work)
        flip_bit(stage.store, f"{version.folder}/{name}")
