"""The published dataset: webdataset samples, tables, the card, and reproducibility."""

import json
import shutil
from hashlib import md5, sha256

import pyarrow.parquet as pq
import pytest
import webdataset as wds
import yaml

from tests.core.factories import flip_bit
from tests.quality.factories import Row, configure, give_captions, give_crawl, run, stage, use_given
from vecap_tasks.assemble import stage as assemble_stage
from vecap_tasks.core.schemas import SAMPLES
from vecap_tasks.core.tar import read_members, read_samples
from vecap_tasks.errors import CorruptError, VecapError

ROWS = [
    *(Row(caption=f"  Beagle\n no. {n} \u00a0at  the fair ") for n in range(20)),
    Row(caption=None),
    Row(caption="IMG_2041.jpg"),
    Row(status="failed_to_download", error_message="http_404"),
    *(Row(caption=f"Heron {n} & <b>friends</b>") for n in range(20)),
]
NO_CAPTION, NO_VEC = f"{3:032x}", f"{4:032x}"


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A version of 43 rows in 5 crawl shards, 42 accepted, 41 with a caption, up to assemble."""
    use_given(monkeypatch)
    config = configure(tmp_path, assemble={"shard_size": 12, "license": "CC0-1.0 (drawn)"})
    give_crawl(tmp_path, ROWS)
    run("crawl", config)
    run("quality", config)
    give_captions(config, without=[NO_CAPTION], only_alttext=[NO_VEC])
    run("rewrite", config)
    return config


def tables(config, manifest):
    store = stage("assemble", config).store
    return [pq.read_table(store.path(name)) for name in manifest.files_ending(".parquet")]


def test_webdataset_samples_match_the_tables(config):
    manifest = run("assemble", config)
    store = stage("assemble", config).store
    tars = [store.path(name) for name in manifest.files_ending(".tar")]
    samples = list(wds.WebDataset(tars, shardshuffle=False))
    rows = [row for table in tables(config, manifest) for row in table.to_pylist()]
    assert [sample["__key__"] for sample in samples] == [row["key"] for row in rows]
    assert len(rows) == 41
    for sample, row in zip(samples, rows, strict=True):
        assert json.loads(sample["json"]) == row
        assert sample["txt"].decode() == row["vecap"]
        assert "." not in row["key"]
        assert all(isinstance(row[name], str) for name in ("alttext", "vec", "vecap", "alttext_rewritten"))
    assert all(table.schema.names == SAMPLES.names for table in tables(config, manifest))


def test_images_are_copied_byte_for_byte(config):
    manifest = run("assemble", config)
    crawl, assemble = stage("crawl", config), stage("assemble", config)
    crawled = {}
    for name in crawl.manifest().files_ending(".tar"):
        with crawl.store.open(name) as stream:
            crawled |= {json.loads(s.members["json"])["uid"]: s.members["jpg"] for s in read_samples(stream)}
    for name in manifest.files_ending(".tar"):
        with assemble.store.open(name) as stream:
            for sample in read_samples(stream):
                assert sample.members["jpg"] == crawled[json.loads(sample.members["json"])["uid"]]


def test_texts_match_the_arms(config):
    rows = {row["uid"]: row for table in tables(config, run("assemble", config)) for row in table.to_pylist()}
    assert rows[f"{0:032x}"]["alttext"] == "Beagle no. 0 at the fair"
    assert rows[f"{30:032x}"]["alttext"] == "Heron 7 & <b>friends</b>", "as crawled, not as cleaned"
    assert rows[f"{30:032x}"]["vecap"].startswith("Heron 7 & friends ")
    assert rows[f"{20:032x}"]["alttext"] == ""
    assert rows[f"{21:032x}"]["alttext"] == "IMG_2041.jpg", "the arm alttext trains on noise too"
    assert rows[NO_VEC]["vec"] == ""
    assert rows[NO_VEC]["vecap_from"] == "alttext"
    assert all(row["vecap"] for row in rows.values())
    assert NO_CAPTION not in rows


def test_all_accepted_variants_are_published(tmp_path, monkeypatch):
    use_given(monkeypatch)
    config = configure(tmp_path)
    give_crawl(tmp_path, [Row(caption="A beagle at the fair"), Row(caption=None), Row(caption="Herons in the reeds")])
    run("crawl", config)
    run("quality", config)
    give_captions(config, only_alttext=[f"{2:032x}"], variants=3)
    run("rewrite", config)
    manifest = run("assemble", config)
    rows = {int(row["uid"], 16): row for table in tables(config, manifest) for row in table.to_pylist()}
    names = ("alttext_rewritten", "vec_variants", "vecap_variants", "alttext_rewritten_variants")
    assert [rows[0][name] for name in names] == [
        "rewritten A beagle at the fair",
        ["a picture numbered 0", "a picture numbered 0, variant 2"],
        ["A beagle at the fair a picture numbered 0", "A beagle at the fair a picture numbered 0, variant 2"],
        ["rewritten A beagle at the fair", "rewritten A beagle at the fair, variant 2"],
    ]
    assert [rows[1][name] for name in names] == [
        "",
        ["a picture numbered 1", "a picture numbered 1, variant 2"],
        ["a picture numbered 1"],
        [],
    ], "a fallback VeCap has no other variants"
    assert rows[2]["vec_variants"] == []
    assert rows[2]["vecap_variants"] == [rows[2]["vecap"]] == ["Herons in the reeds"]
    card = stage("assemble", config).store.read(manifest.file("README.md")).decode()
    assert "rewritten by the LLM" in card
    assert "Models generated up to 2 texts per sample" in card
    assert "| AltText rewritten | `tiny-vecap` | `0123456789abcdef` | `rewrite@abc` |" in card


def test_counts_add_up(config):
    manifest = run("assemble", config)
    sizes = json.loads(stage("assemble", config).store.read(manifest.file("sizes.json")))
    assert manifest.counters == {"rows": 42, "samples": 41, "shards": 4, "left_out.no_caption": 1}
    assert sizes == {"00000.tar": 11, "00001.tar": 10, "00002.tar": 10, "00003.tar": 10}
    assert {entry.path: entry.rows for entry in manifest.files if entry.path.endswith(".tar")} == sizes


def test_samples_are_shuffled_by_the_hash_of_the_uid(config):
    rows = [row for table in tables(config, run("assemble", config)) for row in table.to_pylist()]
    orders = [md5(row["uid"].encode(), usedforsecurity=False).hexdigest() for row in rows]
    assert orders == sorted(orders)
    assert [row["uid"] for row in rows] != sorted(row["uid"] for row in rows)


def test_shard_order_and_repeated_shards_do_not_change_the_bytes(config, tmp_path, monkeypatch):
    manifest = run("assemble", config)
    same = {"shard_size": 12, "license": "CC0-1.0 (drawn)", "memory_limit": "200MB"}
    other = configure(tmp_path, root=str(tmp_path / "other"), assemble=same)
    for name in ("crawl", "quality", "rewrite"):
        run(name, other)
    again = stage("assemble", other)
    monkeypatch.setattr(assemble_stage, "_TABLES_AT_ONCE", 1)
    for shard in reversed(again.plan()):
        again.run(shard)
        stage("assemble", other).run(shard)
    assert again.commit().digest == manifest.digest
    assert stage("assemble", config).plan() == []


def test_crawl_shards_are_processed_in_groups(config, tmp_path):
    small = configure(tmp_path, root=str(tmp_path / "small"), assemble={"shard_size": 2})
    for name in ("crawl", "quality", "rewrite"):
        run(name, small)
    assemble = stage("assemble", small)
    assert assemble.plan() == ["00000", "00001", "00002", "00003", "00004"]
    manifest = run("assemble", small)
    assert manifest.counters["samples"] == 41
    assert [entry.path for entry in manifest.files if entry.path.endswith(".tar")] == [
        f"{number:05d}.tar" for number in range(manifest.counters["shards"])
    ]
    uids = [row["uid"] for table in tables(small, manifest) for row in table.to_pylist()]
    assert len(set(uids)) == 41


def test_the_card_has_valid_front_matter_and_the_counts(config):
    manifest = run("assemble", config)
    card = stage("assemble", config).store.read(manifest.file("README.md")).decode()
    _, front, body = card.split("---\n", 2)
    matter = yaml.safe_load(front)
    assert matter["license"] == "cc0-1.0"
    assert matter["size_categories"] == ["n<1K"]
    assert matter["configs"] == [{"config_name": "default", "data_files": "*.tar"}]
    for line in (
        "41 image-text samples from one crawl, with 41 distinct images, in 4 shards",
        "| found on pages | 43 |",
        "| downloaded | 42 |",
        "| left out (no caption) | 1 |",
        "| VeCap | `tiny-vecap` | `0123456789abcdef` | `vecap@abc` |",
        "--train-data '{00000..00003}.tar'",
        stage("rewrite", config).manifest().digest,
    ):
        assert line in body
    assert str(config.base) not in card


def test_the_error_without_any_caption_is_one_line(tmp_path, monkeypatch):
    use_given(monkeypatch)
    config = configure(tmp_path)
    give_crawl(tmp_path, [Row(), Row()])
    run("crawl", config)
    run("quality", config)
    give_captions(config, without=[f"{n:032x}" for n in range(2)])
    run("rewrite", config)
    with pytest.raises(VecapError, match="nothing to assemble: none of its 2 accepted rows has a caption") as error:
        stage("assemble", config).plan()
    assert "\n" not in str(error.value)


def test_a_corrupt_input_is_named_and_nothing_is_published(config):
    store, folder = stage("assemble", config).store, stage("assemble", config).version.folder
    for name in ("crawl/00000.tar", "crawl/00000.parquet", "quality/verdicts/00001.parquet", "rewrite/00001.parquet"):
        flip_bit(store, f"{folder}/{name}")
        with pytest.raises(CorruptError) as error:
            run("assemble", config)
        of = name.partition("/")[0]
        assert str(error.value) == (
            f"{folder}/{name} is corrupt: its sha256 differs from the manifest; "
            f"restore it, or delete {folder}/{of} and run `vecap {of}` again"
        )
        assert stage("assemble", config).manifest() is None
        assert stage("assemble", config).receipts() == []
        flip_bit(store, f"{folder}/{name}")
    assert run("assemble", config).counters["samples"] == 41


def test_a_changed_image_is_named_and_other_bytes_of_a_tar_are_not_read(tmp_path, monkeypatch):
    use_given(monkeypatch)
    config = configure(tmp_path)
    give_crawl(tmp_path, ROWS[:4], hashed=True)
    run("crawl", config)
    run("quality", config)
    give_captions(config)
    run("rewrite", config)
    assemble = stage("assemble", config)
    tar = f"{assemble.version.folder}/crawl/00000.tar"
    with assemble.store.open(tar) as stream:
        image, text, _ = (
            next(m for m in read_members(stream, tar) if m.kind == kind) for kind in ("jpg", "txt", "json")
        )
    data = assemble.store.read(tar)
    assemble.store.put(tar, flipped(data, image.offset + image.size // 2))
    with pytest.raises(
        CorruptError, match=rf"^{tar} is corrupt: the image of 000000000 differs from its sha256 in the"
    ):
        run("assemble", config)
    assert assemble.manifest() is None
    assemble.store.put(tar, flipped(data, text.offset))
    expected = sha256(data[image.offset : image.offset + image.size]).hexdigest()
    manifest = run("assemble", config)
    with assemble.store.open(manifest.files_ending(".tar")[0]) as stream:
        published = {json.loads(s.members["json"])["uid"]: s.members["jpg"] for s in read_samples(stream)}
    assert sha256(published[f"{0:032x}"]).hexdigest() == expected


def flipped(data, position):
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


def test_a_missing_image_is_named(tmp_path, config):
    shutil.copy(tmp_path / "given" / "crawl" / "00001.tar", tmp_path / "given" / "crawl" / "00000.tar")
    stage("crawl", config).store.remove_folder(stage("crawl", config).folder)
    run("crawl", config)
    with pytest.raises(CorruptError, match=r"00000\.tar is corrupt: it has no image 000000000"):
        run("assemble", config)


def test_the_sample_sheet_draws_any_text_literally(tmp_path, config):
    """Formulas, markup, scripts without a font and empty texts."""
    from PIL import Image

    from tests.crawl.web import image
    from vecap_tasks.assemble.card import SheetItem, write_sheet

    texts = ["$x^2", "<b>bold</b> & \\frac{", "中文 עברית", "", "a " * 400]
    items = [SheetItem(image("JPEG"), {"alttext": text, "vec": text, "vecap": text}) for text in texts]
    write_sheet(items, tmp_path / "samples.png")
    with Image.open(tmp_path / "samples.png") as sheet:
        assert sheet.format == "PNG"
        assert sheet.size == (1400, 480)
    rewritten = SheetItem(image("JPEG"), {"alttext": "", "vec": "", "vecap": "", "alttext_rewritten": "so"})
    write_sheet([rewritten], tmp_path / "taller.png")
    with Image.open(tmp_path / "taller.png") as sheet:
        assert sheet.size == (1400, 208)
    manifest = run("assemble", config)
    assert [entry.path for entry in manifest.attachments] == ["samples.png"]
