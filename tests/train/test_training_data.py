"""What batches hold: the same for any number of processes, from any step on, in memory and streamed."""

from collections import Counter

import numpy as np
import pytest
from transformers import AutoTokenizer

from tests.conftest import REPOSITORY
from tests.train.factories import Texts, configure, give_version, picture
from vecap_tasks.core.store import Store
from vecap_tasks.core.tar import TarWriter
from vecap_tasks.errors import ConfigError, CorruptError, VecapError
from vecap_tasks.train.data.epoch import Part, epoch_order, parts, quota
from vecap_tasks.train.data.loader import open_training_data
from vecap_tasks.train.data.tokenizer import load_tokenizer

SHUFFLED = {"reading__stream_above": 2_000_000}
PAD = AutoTokenizer.from_pretrained(REPOSITORY / "vecap_tasks" / "demo" / "models" / "llm").pad_token_id
STREAMED = {"reading__stream_above": 0, "reading__num_readers": 4, "reading__shuffle_buffer": 6}
SAMPLES = [
    *(Texts(variants=2) for _ in range(26)),
    *(Texts(alttext="") for _ in range(9)),
    *(Texts(vecap="") for _ in range(5)),
    Texts(alttext="", vecap=""),
]


@pytest.fixture(params=[SHUFFLED, STREAMED], ids=["shuffled", "streamed"])
def way(request):
    return request.param


def opened(config, version, arm="mixed", seed=0):
    return open_training_data(config, version, arm, seed, load_tokenizer(config))


def rows(batch):
    """The samples of a batch, each with its picture and its text without the padding."""
    texts = [tuple(token for token in ids if token != PAD) for ids in batch.ids.tolist()]
    return list(zip(batch.uids, (one.tobytes() for one in batch.pixels), texts, strict=True))


def taken(data, first=0, world=1):
    """All batches from *first* on, put together from the parts of *world* processes."""
    process_group = [data.batches(first, rank, world) for rank in range(world)]
    return [
        ((each[0].step, each[0].epoch, each[0].place), [row for batch in each for row in rows(batch)])
        for each in zip(*process_group, strict=True)
    ]


def test_batches_are_the_same_for_any_number_of_processes_and_from_any_step(home, way):
    config = configure(home, epochs=3, **way)
    version = give_version(config, SAMPLES)
    data = opened(config, version)
    assert (data.samples, data.left_out, data.batch_size, data.steps_per_epoch, data.steps) == (40, 1, 8, 5, 15)
    whole = taken(data)
    assert [place for place, _ in whole] == [(step, *divmod(step, 5)) for step in range(15)]
    assert all(len(batch) == 8 for _, batch in whole)
    for world in (2, 4):
        assert taken(data, 0, world) == whole
    for first in (1, 4, 5, 7, 13, 14):
        assert taken(opened(config, version), first) == whole[first:]
    assert taken(data, 15) == []


def test_an_epoch_has_every_sample_once_and_another_order_each_time(home, way):
    config = configure(home, epochs=3, **way)
    version = give_version(config, SAMPLES)
    batches = taken(opened(config, version))
    epochs = [[row[0] for (_, at, _), batch in batches if at == epoch for row in batch] for epoch in range(3)]
    assert all(len(set(uids)) == len(uids) == 40 for uids in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    other = taken(opened(config, version, seed=1))
    assert [row[0] for _, batch in other for row in batch][:40] != epochs[0]
    pictures = {uid: pixels for _, batch in batches for uid, pixels, _ in batch}
    assert len(set(pictures.values())) == 40
    assert all(pictures[uid] == pixels for _, batch in batches for uid, pixels, _ in batch)


def test_both_ways_show_a_sample_with_the_same_text_and_picture(home, tmp_path):
    version = give_version(configure(home), SAMPLES)
    shown = []
    for way in (SHUFFLED, STREAMED, {**SHUFFLED, "image_cache_bytes": 0}):
        batches = taken(opened(configure(home, epochs=4, **way), version))
        shown.append(Counter((epoch, *row) for (_, epoch, _), batch in batches for row in batch))
    assert shown[0] == shown[1] == shown[2]
    texts = Counter(len({text for _, uid, _, text in shown[0] if uid == f"{n:032x}"}) for n in range(26))
    assert max(texts) > 2, "AltText and several variants over four epochs"


def test_windows_mix_the_shards_of_a_lane(home):
    """With one lane and a window of a third of the set, samples move, and not only within their shard."""
    config = configure(home, reading__stream_above=0, reading__num_readers=1, reading__shuffle_buffer=14, epochs=1)
    version = give_version(config, SAMPLES)
    uids = [int(row[0], 16) for _, batch in taken(opened(config, version, "vecap")) for row in batch]
    moved = np.abs(np.diff(uids))
    assert np.median(moved) > 2
    assert np.median(moved) < 14


def test_processes_that_cannot_share_a_batch_are_one_clear_line(home, way):
    config = configure(home, **way)
    data = opened(config, give_version(config, SAMPLES))
    with pytest.raises(ConfigError, match=r"8 samples of a batch \(train.batch_size\) cannot be shared among 3"):
        data.batches(0, 0, 3)
    if way is STREAMED:
        with pytest.raises(
            ConfigError, match=r"4 lanes \(train.reading.num_readers\) cannot be shared among 8 processes"
        ):
            data.batches(0, 0, 8)


def test_lanes_are_as_many_as_share_the_batch_evenly(home):
    config = configure(home, reading__stream_above=0, reading__num_readers=7, batch_size=12)
    assert opened(config, give_version(config, SAMPLES)).lanes == 6


def test_an_image_of_our_own_that_cannot_be_read_is_damage(home, way):
    config = configure(home, arms="[vecap]", **way)
    version = give_version(config, SAMPLES)
    store = Store(config.resolve(config.root))
    name = f"{version.folder}/assemble/00001.tar"
    data = bytearray(store.read(name))
    start = data.index(b"\xff\xd8\xff")
    data[start : start + 20] = bytes(20)
    store.put(name, bytes(data))
    with pytest.raises(CorruptError, match=r"00001\.tar holds an image that cannot be read; run `vecap verify`"):
        taken(opened(config, version, "vecap"))


def test_a_table_that_says_more_than_its_tar_has_is_damage(home):
    config = configure(home, **STREAMED)
    version = give_version(config, SAMPLES)
    store = Store(config.resolve(config.root))
    place = f"{version.folder}/assemble"
    with TarWriter(home / "short.tar") as tar:
        tar.write("0", {"jpg": picture(0), "json": b'{"uid": "0", "alttext": "a", "vecap": "b"}'})
    store.upload(f"{place}/00000.tar", home / "short.tar")
    with pytest.raises(CorruptError, match=r"00000\.tar has \d+ samples less than were counted"):
        taken(opened(config, version))


def test_a_part_of_a_batch_names_the_samples_it_holds(home, way):
    config = configure(home, **way)
    data = opened(config, give_version(config, SAMPLES), "vecap")
    batch = next(data.batches(0, 1, 2))
    assert batch.pixels.shape == (4, 32, 32, 3)
    assert batch.pixels.dtype == np.uint8
    assert batch.ids.dtype == np.int32
    assert len(batch.uids) == len(batch.ids) == 4


def test_an_arm_that_is_drawn_from_variants_meets_them_all(home, way):
    config = configure(home, epochs=12, model__context=48, **way)
    version = give_version(config, [Texts(variants=2, alttext_rewritten="rewritten so") for _ in range(8)])
    shown = [row for _, batch in taken(opened(config, version, "vecap")) for row in batch]
    assert len({text for uid, _, text in shown if uid.endswith("3")}) == 3
    rewritten = {text for _, batch in taken(opened(config, version, "alttext_rewritten")) for _, _, text in batch}
    assert len(rewritten) == 1


def test_no_text_for_an_arm_is_one_clear_line(home, way):
    config = configure(home, **way)
    version = give_version(config, SAMPLES)
    with pytest.raises(VecapError, match="0 of 41 samples have a text for the arm alttext_rewritten"):
        opened(config, version, "alttext_rewritten")


@pytest.mark.parametrize(("weight", "samples", "wanted"), [(1, 7, 7), (0.1, 25, 3), (0.1, 24, 2), (2.5, 3, 8)])
def test_quota_is_the_decimal_product_rounded_half_up(weight, samples, wanted):
    assert quota(samples, weight) == wanted


def test_epochs_go_round_a_source_without_leaving_one_behind():
    assert list(parts(10, 4, 0)) == [Part(0, 0, 4)]
    assert list(parts(10, 4, 2)) == [Part(0, 8, 10), Part(1, 0, 2)]
    assert list(parts(10, 25, 1)) == [Part(2, 5, 10), Part(3, 0, 10), Part(4, 0, 10)]
    seen = Counter(n for epoch in range(5) for n in epoch_order([10, 3], [4, 3], 7, epoch).numbers.tolist())
    assert seen == {**dict.fromkeys(range(10), 2), 10: 5, 11: 5, 12: 5}
    order = epoch_order([10, 3], [25, 0], 7, 0)
    assert Counter(Counter(order.numbers.tolist()).values()) == {3: 5, 2: 5}
    assert Counter(order.passes.tolist()) == {0: 10, 1: 10, 2: 5}


def test_order_follows_seed_and_epoch():
    orders = {(seed, epoch): tuple(epoch_order([50], [50], seed, epoch).numbers) for seed in (0, 1) for epoch in (0, 1)}
    assert len(set(orders.values())) == 4
    assert all(sorted(order) == list(range(50)) for order in orders.values())
    assert tuple(epoch_order([50], [50], 0, 1).numbers) == orders[0, 1]
