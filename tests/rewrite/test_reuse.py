"""Captions are reused by later versions and by versions that are rewritten at the same time."""

import hashlib
import io
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.core.factories import flip_bit, record_again, recorded
from tests.old_versions import MODELS, VERSIONS, unpack
from vecap_tasks.config import load_config
from vecap_tasks.core.intermediate import read_index
from vecap_tasks.core.manifest import read_manifest
from vecap_tasks.core.store import Store
from vecap_tasks.core.tables import connect
from vecap_tasks.core.tar import TarWriter, read_samples
from vecap_tasks.core.version import Version
from vecap_tasks.crawl.stage import Crawl
from vecap_tasks.errors import CorruptError
from vecap_tasks.quality.stage import Quality
from vecap_tasks.rewrite import prompt, reuse
from vecap_tasks.rewrite.accepted_rows import Row
from vecap_tasks.rewrite.backends.sampling_params import Sampling, sampling_of
from vecap_tasks.rewrite.batches import text_key
from vecap_tasks.rewrite.reuse import Captions, find_texts, finished_captions, locate_captions, located_files
from vecap_tasks.rewrite.stage import Rewrite

TEXTS = ("vec", "vec_variants", "vec_attempts", "vecap", "vecap_variants", "vecap_attempts", "jpeg_sha256")


def sha256(data: str | bytes) -> str:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def read(stage: Rewrite, name: str) -> list[dict[str, Any]]:
    return pq.read_table(stage.store.path(name)).to_pylist()


def captions(stage: Rewrite) -> list[dict[str, Any]]:
    manifest = stage.manifest()
    assert manifest is not None
    return [row for name in manifest.files_ending(".parquet") for row in read(stage, name)]


def stored_images(stage: Rewrite, version: str) -> dict[str, bytes]:
    """Return the stored images of a crawl by key."""
    manifest = read_manifest(stage.store, f"{stage.version.dataset}/{version}/crawl")
    assert manifest is not None
    found = {}
    for name in manifest.files_ending(".tar"):
        with stage.store.open(name) as stream:
            found |= {sample.key: sample.members["jpg"] for sample in read_samples(stream, name, ("jpg",))}
    return found


def notes(stage: Rewrite) -> dict[str, int]:
    """Return the sum of the notes of all finished shards."""
    total: dict[str, int] = {}
    for receipt in stage.receipts():
        for name, count in receipt.notes.items():
            total[name] = total.get(name, 0) + count
    return total


def finish(stage: Rewrite) -> dict[str, int]:
    for shard in stage.plan():
        stage.run(shard)
    return notes(stage)


@pytest.fixture
def days(sandbox, crawl_row):
    """Crawls of three days with 20 images each, 15 of them also in the previous crawl."""
    config = sandbox.config(vlm=sandbox.config().rewrite.vlm.model_dump() | {"retry_temperature": 0})
    crawls = [[crawl_row(f"A Belvo {n} tulip", image=n) for n in range(5 * day, 5 * day + 20)] for day in range(3)]
    versions = [sandbox.write_crawl(config, rows, f"2026-01-0{day}") for day, rows in enumerate(crawls, start=1)]
    return [Rewrite(config, version) for version in versions]


def test_only_new_images_of_the_next_crawl_are_captioned(days) -> None:
    captioned = []
    for stage in days:
        captioned.append(finish(stage)["vlm_captions"])
        stage.commit()
    assert captioned == [20, 5, 5]


def test_unfinished_versions_reuse_captions_of_each_other(days) -> None:
    captioned = [finish(stage)["vlm_captions"] for stage in days]
    assert captioned == [20, 5, 5]
    assert [stage.manifest() for stage in days] == [None] * 3


def test_a_shard_reads_only_files_with_its_images(tmp_path, monkeypatch) -> None:
    """By the hash of the download or of the stored image; files of earlier releases have only the first."""
    store = Store(str(tmp_path))
    columns = [("sha256",), ("sha256",), ("sha256", "jpeg_sha256"), ("sha256", "jpeg_sha256")]
    for number, names in enumerate(columns):
        table = {name: [sha256(f"{name} {number} {row}") for row in range(4)] for name in names}
        pq.write_table(pa.table(table), tmp_path / f"{number}.parquet")
    files = [recorded(store, f"{number}.parquet") for number in range(4)]
    accepted = {"a": ["sha256 0 0", "sha256 1 1"], "b": ["sha256 2 0"], "c": ["new"]}
    verdicts, tables = {}, {}
    for shard, texts in accepted.items():
        verdict = {"key": texts, "sha256": [*map(sha256, texts)], "accepted": [text != "sha256 1 1" for text in texts]}
        pq.write_table(pa.table(verdict), tmp_path / f"verdicts-{shard}.parquet")
        stored = pa.array([sha256("jpeg_sha256 3 3")] * len(texts)) if shard == "b" else pa.nulls(len(texts))
        pq.write_table(pa.table({"jpeg_sha256": stored.cast(pa.string())}), tmp_path / f"crawl-{shard}.parquet")
        verdicts[shard] = recorded(store, f"verdicts-{shard}.parquet")
        tables[shard] = recorded(store, f"crawl-{shard}.parquet")
    monkeypatch.setattr(reuse, "_FILES_AT_ONCE", 3)
    locate_captions(store, "index", files, verdicts, tables, tmp_path)
    index = read_index(store, "index")
    assert index is not None
    assert located_files(index, "a") == files[:1]  # the row of 1.parquet is rejected
    assert located_files(index, "b") == files[2:]
    assert located_files(index, "c") == []
    assert located_files(index, "ba") == [files[0], *files[2:]]
    locate_captions(store, "none", (), verdicts, tables, tmp_path)
    none = read_index(store, "none")
    assert none is not None
    assert located_files(none, "abc") == []
    flip_bit(store, "index/b.json")
    with pytest.raises(CorruptError, match=r"index/b\.json is corrupt"):
        located_files(index, "b")
    flip_bit(store, "crawl-a.parquet")
    with pytest.raises(CorruptError, match=r"^crawl-a\.parquet is corrupt"):
        locate_captions(store, "again", files, verdicts, tables, tmp_path)


def test_a_caption_file_that_is_not_readable_is_named(tmp_path) -> None:
    store = Store(str(tmp_path))
    pq.write_table(pa.table({"sha256": ["a"], "accepted": [True]}), tmp_path / "verdicts.parquet")
    pq.write_table(pa.table({"sha256": ["a"]}), tmp_path / "captions.parquet")
    verdicts, captions = recorded(store, "verdicts.parquet"), recorded(store, "captions.parquet")
    (tmp_path / "captions.parquet").write_bytes(b"PAR1, but no table")
    with pytest.raises(CorruptError, match=r"^captions\.parquet has 18 bytes"):
        locate_captions(store, "index", [captions], {"a": verdicts}, {}, tmp_path)
    assert read_index(store, "index") is None


def test_a_million_captions_are_searched_in_bounded_memory(tmp_path) -> None:
    store = Store(str(tmp_path))
    with connect(store) as connection:
        connection.execute(
            f"COPY (SELECT sha256(range::VARCHAR) AS sha256, true AS accepted FROM range(1000000)) "
            f"TO '{tmp_path}/captions.parquet'"
        )
    file = recorded(store, "captions.parquet")
    locate_captions(store, "index", [file], {"00000": file}, {}, tmp_path, memory_limit="250MB")
    index = read_index(store, "index")
    assert index is not None
    assert located_files(index, ["00000"]) == [file]


def test_captions_of_versions_that_came_later_are_found_by_the_next_plan(sandbox, crawl_row) -> None:
    """An attempt that failed does not fix the captions that are reused."""
    config = sandbox.config()
    rows = [crawl_row(f"A Belvo {n} tulip", image=n) for n in range(4)]
    first, second = (Rewrite(config, sandbox.write_crawl(config, rows, f"2026-01-0{day}")) for day in (1, 2))
    assert first.plan() == ["00000"]
    assert finish(second)["vlm_captions"] >= 4
    again = Rewrite(config, first.version)
    assert finish(again)["reused_vec"] == 4
    assert "vlm_captions" not in notes(again)


def test_captions_of_a_version_that_was_deleted_meanwhile_are_not_needed(sandbox, crawl_row) -> None:
    config = sandbox.config()
    rows = [crawl_row(f"A Belvo {n} tulip", image=n) for n in range(4)]
    first, second, third = (Rewrite(config, sandbox.write_crawl(config, rows, f"2026-01-0{day}")) for day in (1, 2, 3))
    for stage in (first, second):
        finish(stage)
    assert third.plan() == ["00000"]
    for stage in (first, second):
        third.store.remove_folder(stage.version.folder)
        again = Rewrite(config, third.version)
        assert again.plan() == ["00000"]
        assert len(located_files(again._located, ["00000"])) == (1 if stage is first else 0)
    assert finish(again)["vlm_captions"] >= 4


# What decides whether a caption is reused

PICTURE = (np.random.default_rng(7).random((40, 60, 3)) * 255).astype(np.uint8).repeat(5, 0).repeat(5, 1)


def image_file(kind: str, picture: np.ndarray = PICTURE) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, kind)
    return stream.getvalue()


def sampled(sandbox, **changes: Any) -> dict[str, Any]:
    """Return model settings whose texts depend on seeds."""
    more = {"temperature": 0.9, "num_captions": 2} | changes
    return {
        role: model.model_dump() | more
        for role in ("vlm", "llm")
        for model in [getattr(sandbox.config().rewrite, role)]
    }


def tables(stage: Rewrite) -> list[tuple[str, str]]:
    manifest = stage.manifest()
    assert manifest is not None
    return [(entry.path, entry.sha256) for entry in manifest.files]


def spent(stage: Rewrite) -> dict[str, int]:
    """Run the stage and return its nonzero notes."""
    found = finish(stage)
    stage.commit()
    return {name: count for name, count in found.items() if count}


def test_revisions_of_the_code_do_not_enter_the_cache(sandbox, crawl_row, monkeypatch) -> None:
    config = sandbox.config(alttext_prompt="rewrite")
    rows = [*(crawl_row(f"A Belvo {n} tulip", image=n) for n in range(6)), crawl_row("A name", image=None)]
    first = Rewrite(config, sandbox.write_crawl(config, rows, "2026-01-01"))
    assert spent(first)["vlm_captions"] >= 6
    for stage in (Crawl, Quality, Rewrite):
        monkeypatch.setattr(stage, "revision", stage.revision + 1)
    second = Rewrite(config, sandbox.write_crawl(config, rows, "2026-01-02"))
    assert second.fingerprint != first.fingerprint
    reused = spent(second)
    fused = sum(bool(row["vecap_tokens"]) for row in captions(first))
    assert fused > 0
    assert reused == {"reused_vec": 7, "reused_vecap": fused, "reused_alttext_rewritten": 7}
    assert tables(second) == tables(first)


@pytest.mark.parametrize(
    ("change", "is_reused"),
    [({"max_pixels": 1_000_000}, True), ({"size": 300}, True), ({"size": 100}, False), ({"quality": 60}, False)],
)
def test_settings_of_the_crawl_matter_if_they_change_the_stored_image(sandbox, crawl_row, change, is_reused) -> None:
    """The image is 300 by 200 pixels; it is not enlarged."""
    rows = [crawl_row("A Belvo tulip", download=image_file("PNG"))]
    before = sandbox.config(image={"size": 256}, alttext_prompt="rewrite")
    after = sandbox.config(image={"size": 256} | change, alttext_prompt="rewrite")
    first, second = (
        Rewrite(config, sandbox.write_crawl(config, rows, f"2026-01-0{day}"))
        for day, config in enumerate((before, after), start=1)
    )
    assert spent(first)["vlm_captions"] >= 1
    assert second.fingerprint != first.fingerprint
    found = spent(second)
    assert found.get("reused_vec", 0) == is_reused
    assert ("vlm_captions" in found) == (not is_reused)
    assert found["reused_alttext_rewritten"] == 1  # its input is the AltText only
    assert (captions(first)[0]["jpeg_sha256"] == captions(second)[0]["jpeg_sha256"]) == is_reused
    assert {row["sha256"] for stage in (first, second) for row in captions(stage)} == {sha256(image_file("PNG"))}


def test_downloads_with_the_same_stored_image_share_a_caption(sandbox, crawl_row) -> None:
    """Within a version and between versions; the caption is the one that either gets alone, seeds included."""
    png, bmp = (crawl_row("A Belvo tulip", download=image_file(kind)) for kind in ("PNG", "BMP"))
    config = sandbox.config(**sampled(sandbox))
    first = Rewrite(config, sandbox.write_crawl(config, [png, bmp], "2026-01-01"))
    assert 2 <= spent(first)["vlm_captions"] <= 4  # two variants, at most once again
    one, other = captions(first)
    assert one["sha256"] != other["sha256"]
    assert [one[name] for name in TEXTS] == [other[name] for name in TEXTS]
    sandbox.folder = sandbox.folder / "apart"
    alone = Rewrite(config, sandbox.write_crawl(config, [bmp], "2026-01-01"))
    assert spent(alone)["vlm_captions"] >= 2
    later = Rewrite(config, sandbox.write_crawl(config, [png], "2026-01-02"))
    assert set(spent(later)) <= {"reused_vec", "reused_vecap"}
    for stage in (alone, later):
        assert [captions(stage)[0][name] for name in TEXTS] == [one[name] for name in TEXTS]
    assert any(attempt["seed"] for attempt in one["vec_attempts"])


@pytest.mark.parametrize(
    ("role", "change"),
    [
        *((role, change) for role in ("vlm", "llm") for change in ({"temperature": 0.8}, {"num_captions": 3})),
        *((role, {"retry_temperature": 0.5}) for role in ("vlm", "llm")),
        *((role, {"max_new_tokens": 11}) for role in ("vlm", "llm")),
        ("vlm", {"prompt": "describe-llava"}),
        ("llm", {"prompt": "fuse-vicuna"}),
    ],
)
def test_texts_of_another_sampling_or_prompt_are_not_reused(sandbox, crawl_row, role: str, change) -> None:
    rows = [crawl_row(f"A Belvo {n} tulip", image=n) for n in range(3)]
    models = sampled(sandbox)
    config = sandbox.config(**models, screen={"disabled_rules": ["drops_vec", "invented", "cut_off"]})
    spent(Rewrite(config, sandbox.write_crawl(config, rows, "2026-01-01")))
    other = models | {role: models[role] | change}
    config = sandbox.config(**other, screen={"disabled_rules": ["drops_vec", "invented", "cut_off"]})
    found = spent(Rewrite(config, sandbox.write_crawl(config, rows, "2026-01-02")))
    if role == "vlm":
        assert found["vlm_captions"] >= 6
        assert "reused_vec" not in found
    else:
        assert found["reused_vec"] == 3
        assert "vlm_captions" not in found
        assert found["llm_captions"] >= 2
        assert "reused_vecap" not in found
    assert "rescreened" not in found


@pytest.mark.parametrize(("name", "again"), [("VLM_REQUEST", "vlm_captions"), ("LLM_REQUEST", "llm_captions")])
def test_texts_of_other_requests_are_not_reused(sandbox, crawl_row, monkeypatch, name: str, again: str) -> None:
    """A change of the code that changes requests is a part of the prompt, for the texts of these requests only."""
    rows = [crawl_row(f"A Belvo {n} tulip", image=n) for n in range(3)]
    config = sandbox.config()
    first = Rewrite(config, sandbox.write_crawl(config, rows, "2026-01-01"))
    assert {"vlm_captions", "llm_captions"} <= set(spent(first))
    monkeypatch.setattr(prompt, name, 2)
    second = Rewrite(config, sandbox.write_crawl(config, rows, "2026-01-02"))
    side, other = ("vec", "vecap") if name == "VLM_REQUEST" else ("vecap", "vec")
    found = spent(second)
    assert {role for role in ("vlm_captions", "llm_captions") if role in found} == {again}
    assert found[f"reused_{other}"] > 0
    assert captions(first)[0][f"{side}_prompt"] != captions(second)[0][f"{side}_prompt"]
    assert captions(first)[0][f"{other}_prompt"] == captions(second)[0][f"{other}_prompt"]


# Captions of release 0.1.0

OLD_ATTEMPT = ("variant", "temperature", "seed", "tokens", "problem")


def as_old(stage: Rewrite, *, screening: dict[str, Any] | None = None) -> None:
    """Change the captions of *stage* to the format of 0.1.0, with its parameters and its seeds."""
    manifest = stage.manifest()
    assert manifest is not None
    for name in manifest.files_ending(".parquet"):
        rows = pq.read_table(stage.store.path(name)).to_pylist()
        for row in rows:
            for side, subject in (("vec", row["sha256"]), ("vecap", f"{row['alttext']}\n{row['vec']}")):
                parameters = json.loads(row[f"{side}_parameters"]) | {"stage": 3}
                parameters |= {"image": {"size": 256, "revision": 3}} if side == "vec" else {}
                parameters |= {} if screening is None else {"screening": screening}
                row[f"{side}_parameters"] = json.dumps(parameters, sort_keys=True, separators=(",", ":"))
                counts = Counter[int]()
                for attempt in row[f"{side}_attempts"] or ():
                    number = counts[attempt["variant"]]
                    counts[attempt["variant"]] += 1
                    digest = stage._prompts["vlm" if side == "vec" else "llm"].digest
                    sampling = sampling_of(subject, digest, attempt["variant"], number, attempt["temperature"])
                    attempt["seed"] = sampling.seed
                row[f"{side}_attempts"] = [
                    {name: attempt[name] for name in OLD_ATTEMPT} for attempt in row[f"{side}_attempts"] or ()
                ]
            del row["jpeg_sha256"]
        pq.write_table(pa.Table.from_pylist(rows), stage.store.path(name))
    record_again(stage.store, manifest)


@pytest.fixture
def old(sandbox, crawl_row):
    """A version in the format of 0.1.0 with sampled texts, and a stage of the next version with the same images."""
    config = sandbox.config(**sampled(sandbox, retry_temperature=0))
    rows = [crawl_row("A Belvo tulip", download=image_file("PNG", PICTURE[:, shift:])) for shift in range(0, 50, 5)]
    first = Rewrite(config, sandbox.write_crawl(config, rows, "2026-01-01", 4, hashed=False))
    assert spent(first)["vlm_captions"] == 20
    second = Rewrite(config, sandbox.write_crawl(config, rows, "2026-01-02"))
    return first, second


def test_captions_of_0_1_0_are_reused_if_the_stored_image_is_the_same(old) -> None:
    first, second = old
    as_old(first)
    before = [row for name in first.manifest().files_ending(".parquet") for row in read(first, name)]
    found = spent(second)
    pairs = {(row["alttext"], row["vec"]) for row in before if row["vecap_attempts"]}
    assert found == {"reused_vec": 10, "reused_vecap": len(pairs)}
    after = captions(second)
    assert [row["jpeg_sha256"] for row in after] == [
        sha256(jpeg) for jpeg in stored_images(second, "2026-01-02").values()
    ]
    for name in ("vec", "vecap", "vec_variants"):
        assert [row[name] for row in after] == [row[name] for row in before]
    seeds = [[attempt["seed"] for attempt in row["vec_attempts"]] for row in after]
    assert seeds == [[attempt["seed"] for attempt in row["vec_attempts"]] for row in before]
    assert "image" not in json.loads(after[0]["vec_parameters"])


def test_answers_of_0_1_0_are_screened_again_with_the_seeds_that_gave_them(old) -> None:
    """Sampled texts are found by their number, because 0.1.0 derived seeds from the download."""
    first, second = old
    as_old(first, screening={"revision": 3})
    before = [row for name in first.manifest().files_ending(".parquet") for row in read(first, name)]
    accepted = sum(attempt["problem"] is None for row in before for attempt in row["vec_attempts"])
    found = spent(second)
    assert accepted > 5
    assert found["vlm_captions"] == 20 - accepted
    assert "reused_vec" not in found
    for row, other in zip(before, captions(second), strict=True):
        for attempt, screened in zip(row["vec_attempts"], other["vec_attempts"], strict=True):
            assert attempt["problem"] is not None or attempt["seed"] == screened["seed"]
    third = Rewrite(second.config, second.version)
    assert third.plan() == []


def test_captions_of_0_1_0_are_not_reused_if_the_stored_image_differs(old) -> None:
    """As with an image that 0.1.0 rotated by its XMP."""
    first, second = old
    as_old(first)
    folder = f"{first.store.root}/tiny/2026-01-01/crawl"
    images = stored_images(first, "2026-01-01")
    with TarWriter(Path(f"{folder}/00001.tar")) as tar:
        for key, data in images.items():
            if key.startswith("00001"):
                other = image_file("JPEG") if key == "000010001" else data
                tar.write(key, {"jpg": other, "txt": b"", "json": b"{}"})
    manifest = read_manifest(first.store, "tiny/2026-01-01/crawl")
    assert manifest is not None
    record_again(first.store, manifest)
    found = spent(second)
    assert (found["reused_vec"], found["vlm_captions"]) == (9, 2)


def test_a_crawl_of_0_1_0_that_is_corrupt_or_missing(old, caplog) -> None:
    first, second = old
    as_old(first)
    flip_bit(first.store, "tiny/2026-01-01/crawl/00000.tar")
    with pytest.raises(
        CorruptError, match=r"00000\.tar is corrupt.*; restore it, or delete tiny/2026-01-01/rewrite to"
    ):
        finish(second)
    first.store.remove_folder("tiny/2026-01-01/crawl")
    found = spent(Rewrite(second.config, second.version))
    assert found["vlm_captions"] == 20
    assert "the crawl of 2026-01-01 is missing" in caplog.text


def test_captions_without_the_hash_of_the_image_take_it_from_their_crawl(sandbox, crawl_row) -> None:
    """As written between the releases 0.1.0 and 0.2.0."""
    config = sandbox.config()
    rows = [crawl_row("A Belvo tulip", download=image_file("PNG", PICTURE[:, shift:])) for shift in range(0, 50, 5)]
    first, second = (Rewrite(config, sandbox.write_crawl(config, rows, f"2026-01-0{day}")) for day in (1, 2))
    spent(first)
    as_old(first)
    (Path(first.store.root) / "tiny/2026-01-01/crawl/00000.tar").unlink()  # it is not read
    found = spent(second)
    assert found["reused_vec"] == 10
    assert "vlm_captions" not in found


def test_a_crawl_of_0_1_0_can_be_captioned(sandbox, crawl_row) -> None:
    config = sandbox.config()
    rows = [crawl_row("A Belvo tulip", image=n) for n in range(12)]
    first, second = (
        Rewrite(config, sandbox.write_crawl(config, rows, f"2026-01-0{day}", hashed=day == 1)) for day in (1, 2)
    )
    spent(first)
    assert spent(second)["reused_vec"] == 12
    assert tables(second) == tables(first)


def test_texts_of_an_llm_that_0_1_0_cleaned_in_another_way_are_not_reused(sandbox, crawl_row) -> None:
    config = sandbox.config(screen={"disabled_rules": ["drops_vec", "invented", "cut_off"]})
    alttexts = ["A Belvo tulip | Garden & more: #1", "A <b>Belvo</b> tulip", "A tulip &lt;b&gt;", "Belvo [IMG] tulip"]
    rows = [crawl_row(text, image=1) for text in alttexts]
    first, second = (Rewrite(config, sandbox.write_crawl(config, rows, f"2026-01-0{day}")) for day in (1, 2))
    assert spent(first)["llm_captions"] >= 4
    as_old(first)
    found = spent(second)
    assert (found["reused_vec"], found["reused_vecap"]) == (1, 1)
    assert found["llm_captions"] >= 3


@pytest.mark.parametrize("change", ["device=cpu", "device=cuda", "threads=4"])
def test_captions_of_an_earlier_release_are_reused_on_any_device(home, monkeypatch, tmp_path, change) -> None:
    monkeypatch.setenv("VECAP_MODELS", str(MODELS))
    config = load_config(unpack(home), [f"rewrite.{role}.{change}" for role in ("vlm", "llm")])
    stage = Rewrite(config, Version(config.dataset, "2026-01-03", 1, ""))
    files = [file.name for file in finished_captions(stage.store, stage.version)]
    images = {name: stored_images(stage, name) for name in VERSIONS if not name.endswith("-r2")}  # with its own crawl
    records = [line | {"version": name.split("/")[1]} for name in files for line in read(stage, name)]
    for line in records:
        line["jpeg_sha256"] = sha256(images[line["version"].removesuffix("-r2")][line["key"]])
    assert len({line["version"] for line in records}) == len(VERSIONS)
    assert len({line["jpeg_sha256"] for line in records}) > 30
    rows = [Row(line["key"], "", line["sha256"], line["alttext"], "", line["jpeg_sha256"]) for line in records]
    found = find_texts(stage.store, files, rows, stage._provenances, tmp_path)  # 0.1.0 screened with other rules
    assert found.captions == Captions()
    tokens = config.rewrite.llm.max_new_tokens
    fused = [line for line in records if f'"max_new_tokens":{tokens}' in (line["vecap_parameters"] or "")]
    described = accepted("vlm", "vec", {line["jpeg_sha256"]: line for line in records})
    expected = described | accepted("llm", "vecap", {f"{line['alttext']}\n{line['vec']}": line for line in fused})
    assert {key: answer.text for key, answer in found.answers.items()} == expected

    changed = [replace(row, jpeg_sha256=sha256(row.key)) for row in rows]  # the same downloads, stored in another way
    found = find_texts(stage.store, files, changed, stage._provenances, tmp_path)
    assert {key: answer.text for key, answer in found.answers.items()} == {
        key: text for key, text in expected.items() if key not in described
    }


def accepted(role: str, prefix: str, lines: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Return the accepted texts of *lines*, by subject, with the keys of stored texts."""
    return {
        text_key(role, subject, Sampling(attempt["variant"], attempt["temperature"], attempt["seed"])): text
        for subject, line in lines.items()
        for attempt in line[f"{prefix}_attempts"]
        if attempt["problem"] is None and (text := line[f"{prefix}_variants"][attempt["variant"]])
    }
