"""Batches: independent of the number of processes, the first step, and whether data is shuffled or streamed."""

from collections import Counter

import numpy as np
import pytest
from transformers import AutoTokenizer

from tests.conftest import REPOSITORY
from tests.data.images.picture import png
from tests.train.factories import Texts, configure, publish_version, scene_image
from vecap_tasks.core.store import Store
from vecap_tasks.core.tar import TarWriter
from vecap_tasks.errors import ConfigError, CorruptError, VecapError
from vecap_tasks.train.data.epoch import PassSlice, epoch_order, pass_slices, quota
from vecap_tasks.train.data.images import Decoder
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
def reading(request):
    return request.param


def open_data(config, version, arm="mixed", seed=0):
    return open_training_data(config, version, arm, seed, load_tokenizer(config))


def rows(batch):
    """Return (uid, image bytes, token ids without padding) of the samples of a batch."""
    texts = [tuple(token for token in ids if token != PAD) for [ids] in batch.ids.tolist()]
    return list(zip(batch.uids, (pixels.tobytes() for pixels in batch.images), texts, strict=True))


def read_batches(data, first=0, world_size=1):
    """Return ((step, epoch, index), rows) of all global batches from step *first* on."""
    ranks = [data.batches(first, rank, world_size) for rank in range(world_size)]
    return [
        ((parts[0].step, parts[0].epoch, parts[0].index), [row for part in parts for row in rows(part)])
        for parts in zip(*ranks, strict=True)
    ]


def test_batches_do_not_depend_on_the_number_of_processes_or_the_first_step(home, reading):
    config = configure(home, epochs=3, **reading)
    version = publish_version(config, SAMPLES)
    data = open_data(config, version)
    assert (data.samples, data.left_out, data.batch_size, data.steps_per_epoch, data.steps) == (40, 1, 8, 5, 15)
    expected = read_batches(data)
    assert [position for position, _ in expected] == [(step, *divmod(step, 5)) for step in range(15)]
    assert all(len(batch) == 8 for _, batch in expected)
    for world_size in (2, 4):
        assert read_batches(data, 0, world_size) == expected
    for first in (1, 4, 5, 7, 13, 14):
        assert read_batches(open_data(config, version), first) == expected[first:]
    assert read_batches(data, 15) == []


def test_an_epoch_has_every_sample_once_in_a_new_order(home, reading):
    config = configure(home, epochs=3, **reading)
    version = publish_version(config, SAMPLES)
    batches = read_batches(open_data(config, version))
    epochs = [[row[0] for (_, number, _), batch in batches if number == epoch for row in batch] for epoch in range(3)]
    assert all(len(set(uids)) == len(uids) == 40 for uids in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    other = read_batches(open_data(config, version, seed=1))
    assert [row[0] for _, batch in other for row in batch][:40] != epochs[0]
    images = {uid: pixels for _, batch in batches for uid, pixels, _ in batch}
    assert len(set(images.values())) == 40
    assert all(images[uid] == pixels for _, batch in batches for uid, pixels, _ in batch)


def test_shuffled_and_streamed_samples_have_the_same_text_and_image(home, tmp_path):
    version = publish_version(configure(home), SAMPLES)
    counts = []
    for reading in (SHUFFLED, STREAMED, {**SHUFFLED, "image_cache_bytes": 0}):
        batches = read_batches(open_data(configure(home, epochs=4, **reading), version))
        counts.append(Counter((epoch, *row) for (_, epoch, _), batch in batches for row in batch))
    assert counts[0] == counts[1] == counts[2]
    texts = Counter(len({text for _, uid, _, text in counts[0] if uid == f"{n:032x}"}) for n in range(26))
    assert max(texts) > 2, "AltText and several variants over four epochs"


def test_the_shuffle_buffer_mixes_the_shards_of_a_reader(home):
    """With one reader and a buffer of a third of the data, samples move across shards."""
    config = configure(home, reading__stream_above=0, reading__num_readers=1, reading__shuffle_buffer=14, epochs=1)
    version = publish_version(config, SAMPLES)
    uids = [int(row[0], 16) for _, batch in read_batches(open_data(config, version, "vecap")) for row in batch]
    distances = np.abs(np.diff(uids))
    assert np.median(distances) > 2
    assert np.median(distances) < 14


def test_a_batch_that_does_not_divide_among_processes_is_one_clear_line(home, reading):
    config = configure(home, **reading)
    data = open_data(config, publish_version(config, SAMPLES))
    with pytest.raises(ConfigError, match=r"8 samples per batch \(train.batch_size\) cannot be split evenly among 3"):
        data.batches(0, 0, 3)
    if reading is STREAMED:
        with pytest.raises(
            ConfigError, match=r"4 readers \(train.reading.num_readers\) cannot be split evenly among 8 processes"
        ):
            data.batches(0, 0, 8)


def test_the_number_of_readers_divides_the_batch_size(home):
    config = configure(home, reading__stream_above=0, reading__num_readers=7, batch_size=12)
    assert open_data(config, publish_version(config, SAMPLES)).num_readers == 6


def test_a_changed_image_of_a_published_version_is_corruption(home, reading):
    config = configure(home, arms="[vecap]", **reading)
    version = publish_version(config, SAMPLES)
    store = Store(config.resolve(config.root))
    name = f"{version.folder}/assemble/00001.tar"
    data = bytearray(store.read(name))
    start = data.index(b"\xff\xd8\xff")
    data[start : start + 20] = bytes(20)
    store.put(name, bytes(data))
    with pytest.raises(CorruptError, match=r"00001\.tar is corrupt: its sha256 differs from the manifest"):
        read_batches(open_data(config, version, "vecap"))


def test_a_tar_with_fewer_samples_than_its_table_is_corruption(home):
    config = configure(home, **STREAMED)
    version = publish_version(config, SAMPLES)
    store = Store(config.resolve(config.root))
    folder = f"{version.folder}/assemble"
    with TarWriter(home / "short.tar") as tar:
        tar.write("0", {"jpg": scene_image(0), "json": b'{"uid": "0", "alttext": "a", "vecap": "b"}'})
    store.upload(f"{folder}/00000.tar", home / "short.tar")
    with pytest.raises(CorruptError, match=r"00000\.tar is corrupt: its sha256 differs from the manifest"):
        read_batches(open_data(config, version))


def test_each_rank_gets_its_share_of_a_batch(home, reading):
    config = configure(home, **reading)
    data = open_data(config, publish_version(config, SAMPLES), "vecap")
    batch = next(data.batches(0, 1, 2))
    assert batch.images.shape == (4, 32, 32, 3)
    assert batch.images.dtype == np.uint8
    assert batch.ids.dtype == np.int32
    assert len(batch.uids) == len(batch.ids) == 4


def test_all_variants_of_a_text_are_used(home, reading):
    config = configure(home, epochs=12, model__context=48, **reading)
    version = publish_version(config, [Texts(variants=2, alttext_rewritten="rewritten so") for _ in range(8)])
    vecap = [row for _, batch in read_batches(open_data(config, version, "vecap")) for row in batch]
    assert len({text for uid, _, text in vecap if uid.endswith("3")}) == 3
    rewritten = {
        text for _, batch in read_batches(open_data(config, version, "alttext_rewritten")) for _, _, text in batch
    }
    assert len(rewritten) == 1


def test_an_arm_without_texts_is_one_clear_line(home, reading):
    config = configure(home, **reading)
    version = publish_version(config, SAMPLES)
    with pytest.raises(VecapError, match="0 of 41 samples have a text for the arm alttext_rewritten"):
        open_data(config, version, "alttext_rewritten")


@pytest.mark.parametrize(("weight", "samples", "expected"), [(1, 7, 7), (0.1, 25, 3), (0.1, 24, 2), (2.5, 3, 8)])
def test_the_quota_is_the_decimal_product_rounded_half_up(weight, samples, expected):
    assert quota(samples, weight) == expected


def test_sample_counts_of_a_source_differ_by_at_most_one():
    assert list(pass_slices(10, 4, 0)) == [PassSlice(0, 0, 4)]
    assert list(pass_slices(10, 4, 2)) == [PassSlice(0, 8, 10), PassSlice(1, 0, 2)]
    assert list(pass_slices(10, 25, 1)) == [PassSlice(2, 5, 10), PassSlice(3, 0, 10), PassSlice(4, 0, 10)]
    counts = Counter(n for epoch in range(5) for n in epoch_order([10, 3], [4, 3], 7, epoch).numbers.tolist())
    assert counts == {**dict.fromkeys(range(10), 2), 10: 5, 11: 5, 12: 5}
    order = epoch_order([10, 3], [25, 0], 7, 0)
    assert Counter(Counter(order.numbers.tolist()).values()) == {3: 5, 2: 5}
    assert Counter(order.passes.tolist()) == {0: 10, 1: 10, 2: 5}


def test_the_order_depends_only_on_seed_and_epoch():
    orders = {(seed, epoch): tuple(epoch_order([50], [50], seed, epoch).numbers) for seed in (0, 1) for epoch in (0, 1)}
    assert len(set(orders.values())) == 4
    assert all(sorted(order) == list(range(50)) for order in orders.values())
    assert tuple(epoch_order([50], [50], 0, 1).numbers) == orders[0, 1]


def test_a_png_without_its_palette_is_not_black():
    """As Pillow alone reads it; a mixture then takes the next sample."""
    rows = b"\0\1\1\1\1" * 4
    assert Decoder(4, "default")(png((4, 4), 8, 3, rows)) is None
    assert Decoder(4, "default")(png((4, 4), 8, 0, rows)) is not None
