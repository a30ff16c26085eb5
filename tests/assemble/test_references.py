"""Revisions that change only texts refer to the image shards of the earlier version, and are read like any other."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import vecap_tasks
from tests.core.factories import flip_bit
from tests.quality import factories
from tests.quality.factories import (
    INTERVAL,
    Given,
    GivenRewrite,
    Row,
    configure,
    give_captions,
    give_crawl,
    use_given,
)
from vecap_tasks.config import Config, RetentionConfig
from vecap_tasks.core import stage as core_stage
from vecap_tasks.core.manifest import Manifest, ShardOutput
from vecap_tasks.core.open_version import open_version
from vecap_tasks.core.retention import plan_removals
from vecap_tasks.core.samples import training_shards
from vecap_tasks.core.schemas import SAMPLES, VERDICTS
from vecap_tasks.core.stage import load_stage
from vecap_tasks.core.store import Store
from vecap_tasks.core.tar import Sample, read_samples
from vecap_tasks.core.verify import verify_version
from vecap_tasks.core.version import DATASET_STAGES, Deletion, Version, changed_settings, published, tombstone
from vecap_tasks.errors import CorruptError, PermanentError, VecapError
from vecap_tasks.export.exporter import Exporter
from vecap_tasks.lineage.walk import walk
from vecap_tasks.train.data.mixture_builder import training_files, training_sources
from vecap_tasks.train.data.samples import read_samples as read_train_samples


class GivenVerdicts(Given):
    """Accepts every row of the given crawl."""

    name = "quality"
    upstream = ("crawl",)

    def process(self, shard: str, work: Path) -> ShardOutput:
        (work / "verdicts").mkdir()
        files: dict[str, int | None] = {}
        for path in sorted((self.config.base / "given" / "crawl").glob("0*.parquet")):
            columns = ("key", "uid", "sha256", "caption")
            rows = [
                {"key": key, "uid": uid, "sha256": sha256, "alttext": caption, "accepted": True, "reasons": []}
                for key, uid, sha256, caption in zip(
                    *pq.read_table(path).select(columns).to_pydict().values(), strict=True
                )
            ]
            name = f"verdicts/{path.name}"
            pq.write_table(pa.Table.from_pylist(rows, VERDICTS), work / name)
            files[name] = len(rows)
        return ShardOutput(files, {"accepted": len(ROWS)})


ROWS = [Row(caption=f"Beagle no. {number} at the fair") for number in range(150)]
LATE, LOST = f"{3:032x}", f"{7:032x}"  # uids: without a caption first, and last
STREAMED = {"stream_above": 0, "num_readers": 2, "shuffle_buffer": 6}


def noise(number: int, side: int = 32) -> bytes:
    """Return a JPEG of *side* pixels with as many bytes as a photograph of that size."""
    pixels = np.frombuffer(np.random.default_rng(number).bytes(side * side * 3), np.uint8).reshape(side, side, 3)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def settings(folder: Path, reading: Any = None, **assemble: Any) -> Config:
    tokenizer = str(Path(vecap_tasks.__file__).parent / "demo" / "models" / "llm")
    model = {"tokenizer": tokenizer, "image_size": 32, "context": 24}
    train = {"model": model, "batch_size": 8, "epochs": 1, "reading": reading or {}}
    return configure(folder, assemble={"shard_size": 12} | assemble, train=train)


def publish(config: Config, stages: tuple[str, ...] = DATASET_STAGES, *, backwards: bool = False) -> Version:
    """Run *stages* of the version of *config* and return it; *backwards*: shards in reverse order, each twice."""
    version = open_version(config, Store(config.root), INTERVAL)
    for name in stages:
        stage = load_stage(name, config, version)
        for shard in reversed(stage.plan()) if backwards else stage.plan():
            stage.run(shard)
            if backwards:
                load_stage(name, config, version).run(shard)
        stage.commit()
    return version


Captions = Callable[[int, str], None]


@pytest.fixture
def captions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Captions:
    """A function that gives captions in the wording *number*, which identifies them, but none for a uid."""

    def give(number: int, without: str) -> None:
        monkeypatch.setattr(GivenRewrite, "identity", lambda _: {"wording": number})
        shutil.rmtree(tmp_path / "given" / "rewrite", ignore_errors=True)
        give_captions(settings(tmp_path), without=[without])
        for path in (tmp_path / "given" / "rewrite").glob("*.parquet"):
            rows = pq.read_table(path).to_pylist()
            for row in rows:
                row["vecap"] = row["vecap"] and f"{row['vecap']}, wording {number}"
            pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(path)), path)

    return give


@pytest.fixture
def first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, captions: Captions, request: pytest.FixtureRequest
) -> tuple[Config, Version]:
    """The configuration and the first version, without a caption for `LATE`. The parameter is the side of images."""
    use_given(monkeypatch)
    side = getattr(request, "param", 32)
    monkeypatch.setattr(factories, "picture", lambda number: noise(number, side))
    monkeypatch.setitem(core_stage.STAGES, "quality", f"{__name__}:GivenVerdicts")
    config = settings(tmp_path)
    give_crawl(tmp_path, ROWS, shard_size=40, hashed=True)
    for name in ("crawl", "quality"):
        factories.run(name, config)
    captions(1, LATE)
    return config, publish(config)


def manifest_of(config: Config, version: Version) -> Manifest:
    found = published(Store(config.root), version)
    assert found is not None
    return found


def samples_of(tar: Path) -> list[Sample]:
    with tar.open("rb") as stream:
        return list(read_samples(stream))


def read(config: Config, version: Version) -> Iterator[tuple[dict[str, Any], bytes]]:
    for shard in training_shards(Store(config.root), manifest_of(config, version)):
        rows = shard.read_table().to_pylist()
        yield from zip(rows, shard.images([row["key"] for row in rows]), strict=True)


@pytest.mark.parametrize("first", [384], indirect=True)
def test_a_recaption_writes_at_most_two_percent_of_the_image_bytes(
    first: tuple[Config, Version], captions: Captions
) -> None:
    config, base = first
    captions(2, LATE)
    version = publish(config)
    assert version.name == f"{INTERVAL}-r2"
    original, manifest = manifest_of(config, base), manifest_of(config, version)
    tars = [entry for entry in original.files if entry.path.endswith(".tar")]
    files = Store(config.root).tree(f"{version.folder}/assemble")
    written = sum(file.bytes for file in files if not file.path.endswith("samples.png"))  # of eight samples, always
    assert written <= 0.02 * sum(entry.bytes for entry in tars)
    assert not manifest.files_ending(".tar")
    assert manifest.config["images"] == {"version": INTERVAL, "digest": original.digest}
    assert manifest.counters == {
        "rows": 150, "samples": 149, "shards": 13, "left_out.no_caption": 1, "referenced_images": 149,
    }  # fmt: skip
    before, after = list(read(config, base)), list(read(config, version))
    assert [jpeg for _, jpeg in after] == [jpeg for _, jpeg in before]
    for (old, _), (new, _) in zip(before, after, strict=True):
        assert list(new) == [*SAMPLES.names, "image_tar"]
        assert new["image_tar"] == f"given/{INTERVAL}/assemble/{new['key'][:5]}.tar"
        assert new["vecap"] == old["vecap"].replace("wording 1", "wording 2") != old["vecap"]
        texts = ("vecap", "vecap_variants", "image_tar")
        assert {k: v for k, v in new.items() if k not in texts} == {k: v for k, v in old.items() if k not in texts}
    card = Store(config.root).read(manifest.file("README.md")).decode()
    assert f"149 images are in tars of version {INTERVAL}" in card
    assert "data_files: '*.parquet'" in card
    changes = changed_settings(Store(config.root), base, version)
    assert [change.key for change in changes] == ["rewrite.wording"], "where the images are is not a setting"
    # Each configuration finds its version again.
    assert open_version(config, Store(config.root), INTERVAL) == version
    captions(1, LATE)
    assert open_version(config, Store(config.root), INTERVAL) == base


def test_new_samples_get_tars_and_order_and_repetition_do_not_change_the_bytes(
    first: tuple[Config, Version], captions: Captions, tmp_path: Path
) -> None:
    config, base = first
    captions(2, LOST)
    manifest = manifest_of(config, publish(config))
    assert {e.path: e.rows for e in manifest.files if e.path.endswith(".tar")} == {"00013.tar": 1}
    assert manifest.counters["referenced_images"] == 148
    before = {row["uid"]: jpeg for row, jpeg in read(config, base)}
    version = open_version(config, Store(config.root), INTERVAL)
    after = {row["uid"]: jpeg for row, jpeg in read(config, version)}
    assert after.keys() - before.keys() == {LATE}
    assert before.keys() - after.keys() == {LOST}
    assert after[LATE] == noise(3)
    assert all(after[uid] == before[uid] for uid in before.keys() & after.keys())
    (tar,) = manifest.files_ending(".tar")
    (sample,) = samples_of(Path(Store(config.root).path(tar)))
    assert json.loads(sample.members["json"])["image_tar"] == tar
    other = config.model_copy(update={"root": str(tmp_path / "other")}).with_base(tmp_path)
    captions(1, LATE)
    publish(other)
    captions(2, LOST)
    assert manifest_of(other, publish(other, backwards=True)).digest == manifest.digest


def train_samples(
    config: Config, version: Version, arm: str
) -> Iterator[tuple[str, tuple[tuple[str, ...], ...], bytes]]:
    """Yield uid, texts and image of the samples of *version*, as training reads them."""
    for source in training_sources(config, version, arm):
        for shard in source.shards:
            with shard.open() as stream:
                for sample in read_train_samples(stream, shard, source):
                    yield sample.uid, sample.texts, shard.read(sample.offset, sample.size)


@pytest.fixture
def copied(first: tuple[Config, Version], captions: Captions, tmp_path: Path) -> tuple[Version, Version]:
    """A recaption, and the same with copied images."""
    config, _ = first
    captions(2, LOST)
    return publish(config), publish(settings(tmp_path, copy_images=True))


def test_training_reads_the_same_samples_as_from_copies(copied: tuple[Version, Version], tmp_path: Path) -> None:
    referring, copy = copied
    config = settings(tmp_path)
    store = Store(config.root)
    assert (referring.name, copy.name) == (f"{INTERVAL}-r2", f"{INTERVAL}-r3")
    assert "images" not in manifest_of(config, copy).config
    assert len(manifest_of(config, copy).files_ending(".tar")) == 13
    assert open_version(config, store, INTERVAL) == referring
    assert open_version(settings(tmp_path, copy_images=True), store, INTERVAL) == copy
    streamed = settings(tmp_path, reading=STREAMED)
    for arm in ("alttext", "vecap", "mixed"):
        one, two = (sorted(train_samples(config, version, arm)) for version in copied)
        assert one == two
        assert len(one) == 149
        (source,) = training_sources(streamed, referring, arm)
        assert sum(shard.usable or 0 for shard in source.shards) == 149
    files = {file.name for file in training_files(config, referring)}
    assert {f"given/{INTERVAL}/assemble/00000.tar", f"given/{INTERVAL}-r2/assemble/00000.parquet"} <= files
    tar = store.path(f"given/{INTERVAL}/assemble/00000.tar")
    shutil.copy(store.path(f"given/{INTERVAL}/assemble/00001.tar"), tar)
    with pytest.raises(CorruptError, match=r"2026-01-01/assemble/00000.tar is corrupt"):
        list(train_samples(config, referring, "vecap"))


@pytest.mark.parametrize("reading", [{}, STREAMED], ids=["shuffled", "streamed"])
def test_batches_of_the_same_rows_are_those_of_copies(
    first: tuple[Config, Version], captions: Captions, tmp_path: Path, reading: dict[str, int]
) -> None:
    from vecap_tasks.train.data.loader import open_training_data
    from vecap_tasks.train.data.tokenizer import load_tokenizer

    config, _ = first
    captions(2, LATE)
    versions = publish(config), publish(settings(tmp_path, copy_images=True))
    config = settings(tmp_path, reading=reading)
    tokenizer = load_tokenizer(config)
    one, two = (list(open_training_data(config, version, "mixed", 0, tokenizer).batches(0)) for version in versions)
    assert len(one) == len(two) == 18
    for left, right in zip(one, two, strict=True):
        assert left.uids == right.uids
        assert np.array_equal(left.images, right.images)
        assert np.array_equal(left.ids, right.ids)


def test_an_export_has_its_own_images(first: tuple[Config, Version], captions: Captions, tmp_path: Path) -> None:
    config, base = first
    captions(2, LOST)
    version = publish(config)
    out = tmp_path / "out"
    result = Exporter(config, version.name, "webdataset", "vecap", str(out)).run(lambda done, total: None)
    assert result.exported == 149
    samples = [sample for tar in sorted(out.glob("*.tar")) for sample in samples_of(tar)]
    images = {row["uid"]: jpeg for row, jpeg in read(config, base)} | {LATE: noise(3)}
    assert len(samples) == 149
    for sample in samples:
        assert sample.members["jpg"] == images[json.loads(sample.members["json"])["uid"]]
        assert sample.members["txt"].decode().endswith("wording 2")


def test_the_base_is_verified_kept_and_missed(first: tuple[Config, Version], captions: Captions) -> None:
    config, base = first
    captions(2, LATE)
    version = publish(config)
    store = Store(config.root)
    tar = f"{base.folder}/assemble/00004.tar"
    assert verify_version(store, version).corruptions == ()
    tree = walk(config, version.name)
    (images,) = (node for node in tree.walk() if node.kind == "images")
    assert (images.name, images.files) == (f"{base.folder}/assemble", 13)
    assert tree.verified
    assert any(node.kind == "images" for node in walk(config, version.name, check=False).walk())
    flip_bit(store, tar)
    assert [problem.path for problem in verify_version(store, version).corruptions] == [tar]
    assert not walk(config, version.name).verified
    with pytest.raises(CorruptError, match=rf"{tar} is corrupt"):
        list(read(config, version))
    flip_bit(store, tar)
    # Other inputs of the revision belong to the first version too, so only the reason shows what the images do.
    kept = plan_removals(store, config.dataset, RetentionConfig(keep_last=1, keep_days=0), lambda _: {}, 4e9).kept
    assert [(item.version, item.why) for item in kept] == [(INTERVAL, f"it contains the images of {version.name}")]
    store.remove_folder(f"{base.folder}/assemble")
    with pytest.raises(CorruptError) as error:
        training_shards(store, manifest_of(config, version))
    assert str(error.value) == (
        f"{base.folder}/assemble has images of {version.folder}/assemble and is missing; restore it, or run the "
        "interval again to create a revision"
    )
    assert [problem.path for problem in verify_version(store, version).corruptions] == [
        f"{version.folder}/assemble/manifest.json"
    ]
    again = publish(config)
    assert again.name == f"{INTERVAL}-r3"
    assert len(manifest_of(config, again).files_ending(".tar")) == 13


def test_a_base_that_is_deleted_during_the_run_is_an_error(first: tuple[Config, Version], captions: Captions) -> None:
    config, base = first
    captions(2, LATE)
    version = publish(config, DATASET_STAGES[:3])
    stage = load_stage("assemble", config, version)
    for shard in stage.plan():
        stage.run(shard)
    store = Store(config.root)
    tombstone(store, base, Deletion("2026-02-01T00:00:00+00:00", "test", None))
    with pytest.raises(VecapError, match=f"version {INTERVAL} was deleted during the run"):
        stage.commit()
    assert published(store, version) is None
    store.remove_folder(f"{base.folder}/assemble")
    with pytest.raises(PermanentError, match=f"uses the images of version {INTERVAL}, which is missing or changed"):
        load_stage("assemble", config, version).plan()


def test_other_verdicts_or_shard_sizes_copy_the_images(
    first: tuple[Config, Version], captions: Captions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _ = first
    larger = settings(tmp_path, shard_size=20)
    assert load_stage("assemble", larger, Version(config.dataset, INTERVAL, 0, "")).identity().keys() == {
        "shard_size", "license",
    }  # fmt: skip
    captions(2, LATE)
    assert "images" in load_stage("assemble", config, Version(config.dataset, INTERVAL, 0, "")).identity()
    monkeypatch.setattr(GivenVerdicts, "identity", lambda _: {"min_side": 65})
    assert "images" not in load_stage("assemble", config, Version(config.dataset, INTERVAL, 0, "")).identity()
