"""Semantic duplicates: images whose embeddings of a real vision tower are similar, in real tars."""

import io
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import ImageEnhance
from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessorPil, CLIPModel, LlavaForConditionalGeneration

from tests.conftest import REPOSITORY
from tests.core.factories import flip_bit
from tests.quality.factories import Row, configure, crawled, give_crawl, judge, run, stage, use_given
from vecap_tasks.config import QualityConfig
from vecap_tasks.core.executor import prepare
from vecap_tasks.demo.draw import draw
from vecap_tasks.demo.scene import sample_scene
from vecap_tasks.errors import ConfigError, VecapError
from vecap_tasks.quality import clusters, semantic
from vecap_tasks.quality.clip_model import Scorer
from vecap_tasks.quality.report import report_folder
from vecap_tasks.quality.rules import rules_sql

MODELS = REPOSITORY / "vecap_tasks" / "demo" / "models"
SIMILARITY = 0.85  # of this model: variants of a scene have at least 0.92, different scenes of these at most 0.8
SCENES = 6
SIDE = 192


@pytest.fixture(autouse=True)
def _prepared_stages(monkeypatch):
    use_given(monkeypatch)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A CLIP model with the trained vision tower of the demo's VLM, and an untrained text tower."""
    folder = tmp_path_factory.mktemp("clip")
    vlm = LlavaForConditionalGeneration.from_pretrained(MODELS / "vlm")
    tokenizer = AutoTokenizer.from_pretrained(MODELS / "llm")
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2} | ids
    text |= {"vocab_size": len(tokenizer), "max_position_embeddings": 16}
    vision = vlm.config.vision_config.to_dict()
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=vision["hidden_size"]))
    clip.vision_model.load_state_dict(vlm.model.vision_tower.state_dict())
    torch.nn.init.eye_(clip.visual_projection.weight)
    clip.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil.from_pretrained(MODELS / "vlm").save_pretrained(folder)
    return folder


def jpeg(image, quality=90):
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


@pytest.fixture(scope="module")
def images():
    """JPEGs of different scenes, then of each scene: encoded again, cropped, brightened."""
    rng = random.Random(3)
    scenes = [draw(sample_scene(rng), SIDE) for _ in range(SCENES)]
    cropped = [scene.crop((4, 4, SIDE - 4, SIDE - 4)) for scene in scenes]
    bright = [ImageEnhance.Brightness(scene).enhance(1.15) for scene in scenes]
    again = [jpeg(scene, quality=60) for scene in scenes]
    return [*map(jpeg, scenes), *again, *map(jpeg, cropped), *map(jpeg, bright)]


def section(model, similarity=SIMILARITY, **more):
    return {"clip": {"model": str(model), "batch_size": 8, "duplicate_similarity": similarity}} | more


def caption(number):
    return f"A scene that a camera saw on day {number}"


def verdicts_of(manifest, quality):
    return pq.read_table(quality.store.path(f"{manifest.location}/verdicts")).to_pylist()


def judged(folder, images, model, shard_size=10, rows=None, **more):
    """Run crawl and quality; return the stage, its manifest, the verdicts and the published duplicates."""
    rows = rows or [Row(caption(number)) for number in range(len(images))]
    give_crawl(folder, rows, shard_size, hashed=True, images=images)
    config = configure(folder, quality=section(model, **more))
    run("crawl", config)
    quality = stage("quality", config)
    quality.min_parallel_parts = 100  # workers lack the stage `GivenCrawl`
    prepare(quality)
    assert quality.preparations() == []
    manifest = run("quality", config)
    found = pq.read_table(quality.store.path(f"{manifest.location}/{semantic.FILE}")).to_pylist()
    return quality, manifest, verdicts_of(manifest, quality), found


def test_variants_of_a_scene_are_rejected_and_other_scenes_retained(tmp_path, images, model):
    quality, manifest, verdicts, found = judged(tmp_path, images, model)
    assert [row["reasons"] for row in verdicts] == [[]] * SCENES + [["semantic_duplicate"]] * 3 * SCENES
    assert manifest.counters["reason.semantic_duplicate"] == manifest.counters["refused"] == 3 * SCENES
    assert [(int(row["uid"], 16), int(row["duplicate_of"], 16)) for row in found] == [
        (number, number % SCENES) for number in range(SCENES, 4 * SCENES)
    ]
    assert all(SIMILARITY <= row["similarity"] <= 1 for row in found)
    page = quality.store.read(f"{report_folder(quality.store, quality.version)}/index.html").decode()
    assert "<td>semantic_duplicate<br><small>image similar to that of a retained row" in page
    assert manifest.entries[semantic.FILE].rows == 3 * SCENES


def test_nothing_changes_unless_it_is_configured(tmp_path, images, model):
    give_crawl(tmp_path, [Row(caption(number)) for number in range(len(images))], hashed=True, images=images)
    config = configure(tmp_path, quality={"clip": {"model": str(model)}})
    run("crawl", config)
    manifest = run("quality", config)
    assert manifest.counters["accepted"] == len(images)
    assert semantic.FILE not in manifest.entries
    assert "duplicate_similarity" not in manifest.config["clip"]
    quality = stage("quality", config)
    assert {"_embeddings", "_semantic"}.isdisjoint(quality.store.folders(quality.folder))
    assert not any("semantic" in sql for sql in rules_sql(config.quality))
    different = configure(tmp_path, quality=section(model))
    assert stage("quality", different).fingerprint != quality.fingerprint


@pytest.mark.parametrize("shard_size", [5, 24])
def test_the_verdicts_do_not_depend_on_the_number_of_shards(tmp_path, images, model, shard_size):
    expected = [[row["uid"], row["accepted"]] for row in judged(tmp_path / "a", images, model)[2]]
    found = [[row["uid"], row["accepted"]] for row in judged(tmp_path / "b", images, model, shard_size)[2]]
    assert found == expected


def test_of_similar_images_one_without_other_problems_is_retained(tmp_path, images, model):
    """Variants of the first two scenes: too small, without AltText, the same bytes with an AltText, and with one."""
    chosen = [images[number] for number in (0, SCENES, 2 * SCENES, 1, SCENES + 1, 2 * SCENES + 1)]
    rows = [
        Row(caption(0), image=0, original_width=8, original_height=8),
        Row(None, image=1),
        Row(caption(1), image=2),
        Row(None, image=3),
        Row(caption(2), image=4),
        Row(caption(3), image=3),
        Row(status="failed_to_download", error_message="http_404"),
    ]
    _, _, verdicts, found = judged(tmp_path, chosen, model, rows=rows)
    reasons = [row["reasons"] for row in verdicts]
    assert reasons[:3] == [["too_small", "semantic_duplicate"], ["semantic_duplicate"], []]
    assert reasons[3:] == [["duplicate_image"], [], ["semantic_duplicate"], ["not_downloaded"]]
    assert {int(row["uid"], 16) for row in found} == {0, 1, 4}


def test_semantic_duplicates_follow_exact_and_near_ones():
    """Row 1 has the bytes of row 0; row 2 is near row 0, row 3 is semantically similar to row 2, row 4 to row 0."""
    found = [
        {"key": f"{n:09d}", "uid": f"{n:032x}", "duplicate_of": f"{of:032x}", "kind": kind, "distance": 0}
        for n, of, kind in ((1, 0, "exact"), (2, 0, "near"), (2, 0, "semantic"), (3, 0, "semantic"), (4, 0, "semantic"))
    ]
    rows = crawled(["A heron", "A heron by the river", "A bird", "A gray bird", "A bird in the mud"])
    clip = {"model": "none", "duplicate_similarity": 0.9}
    verdicts = judge(rows, found, rows={"reject_near_duplicates": True}, clip=clip)
    similar = ["semantic_duplicate"]
    assert [row["reasons"] for row in verdicts] == [[], ["duplicate_image"], ["near_duplicate"], similar, similar]
    without = judge(rows, found, clip={"model": "none"})
    assert [row["reasons"] for row in without] == [[], ["duplicate_image"], [], [], []]


def test_an_interrupted_search_resumes_and_embeds_each_shard_once(tmp_path, images, model, monkeypatch):
    monkeypatch.setattr(semantic, "_CELL_ROWS", 8)
    expected = judged(tmp_path / "whole", images, model)
    folder = tmp_path / "parts"
    give_crawl(folder, [Row(caption(number)) for number in range(len(images))], hashed=True, images=images)
    config = configure(folder, quality=section(model))
    run("crawl", config)
    embedded, embed = [], Scorer.embed
    monkeypatch.setattr(Scorer, "embed", lambda *given: embedded.append(len(given[1])) or embed(*given))
    steps = []
    while parts := stage("quality", config).preparations():
        steps.append(parts[-1])
        stage("quality", config).prepare(parts[-1])  # a new process for each part, in reverse order
    assert sum(embedded) == len(images)
    assert steps[:4] == ["00002", "00001", "00000", "semantic-centroids"]
    assert steps[4:] == [
        *("semantic-00002-00002", "semantic-00001-00001", "semantic-00000-00000"),
        *("semantic-cell-2", "semantic-cell-1", "semantic-cell-0"),
    ]
    manifest = run("quality", config)
    assert manifest.files == expected[1].files
    assert 0 < manifest.counters["reason.semantic_duplicate"] <= 3 * SCENES


@pytest.mark.parametrize("name", ["_embeddings/00001.arrow", "_semantic/cell-0000.parquet"])
def test_a_corrupt_intermediate_file_is_named_and_made_again(tmp_path, images, model, name):
    give_crawl(tmp_path, [Row(caption(number)) for number in range(len(images))], hashed=True, images=images)
    config = configure(tmp_path, quality=section(model))
    run("crawl", config)
    quality = stage("quality", config)
    while parts := quality.preparations():
        for part in parts:
            quality.prepare(part)
        if name.startswith("_embeddings"):
            break
    flip_bit(quality.store, f"{quality.folder}/{name}")
    with pytest.raises(VecapError, match=rf"{name} is corrupt"):
        run("quality", config)
    assert run("quality", config).counters["accepted"] == SCENES


def test_images_that_cannot_be_decoded_are_not_compared(tmp_path, images, model):
    broken = [*images[:2], b"no image", b"no image, either"]
    _, manifest, verdicts, found = judged(tmp_path, broken, model)
    assert found == []
    assert [row["reasons"] for row in verdicts] == [[]] * 4
    assert manifest.entries[semantic.FILE].rows == 0


def test_a_crawl_without_images_has_no_duplicates(tmp_path, model):
    for number, rows in enumerate([[], [Row(status="failed_to_download", error_message="http_404")] * 3]):
        folder = tmp_path / str(number)
        give_crawl(folder, rows)
        config = configure(folder, quality=section(model))
        run("crawl", config)
        quality = stage("quality", config)
        assert quality.shards() == ([] if not rows else ["00000"])
        assert quality.preparations() == []


@pytest.mark.parametrize(
    ("clip", "problem"),
    [
        (
            {"model": "m", "duplicate_similarity": 1.2},
            r"quality\.clip\.duplicate_similarity: .*less than or equal to 1",
        ),
        ({"model": "m", "duplicate_similarity": 0}, r"quality\.clip\.duplicate_similarity: .*greater than 0"),
        ({"duplicate_similarity": 0.9}, r"quality\.clip\.model"),
        ({"model": "m", "duplicate_similarty": 0.9}, r"did you mean quality\.clip\.duplicate_similarity"),
    ],
)
def test_configuration_errors_are_one_line(tmp_path, clip, problem):
    with pytest.raises(ConfigError, match=problem) as exc_info:
        configure(tmp_path, quality={"clip": clip})
    assert "\n" not in str(exc_info.value)
    assert QualityConfig().clip is None


# Clusters of generated embeddings


def embeddings(count, width=32, copies=0, noise=0.05, seed=1):
    """Return EMBEDDINGS with *count* random vectors, and *copies* of the first ones with *noise*."""
    chance = np.random.default_rng(seed)
    vectors = chance.standard_normal((count, width))
    vectors = np.concatenate([vectors, vectors[:copies] + noise * chance.standard_normal((copies, width))])
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    numbers = range(len(vectors))
    rows = {"key": [f"{n:09d}" for n in numbers], "uid": [f"{n:032x}" for n in numbers]}
    rows |= {"sha256": [f"{random.Random(n).getrandbits(256):064x}" for n in numbers], "priority": [0] * len(vectors)}
    return pa.table(rows | {"embedding": [vector.tobytes() for vector in vectors]}, clusters.EMBEDDINGS), vectors


def with_vectors(table, vectors):
    return table.set_column(4, clusters.EMBEDDINGS.field("embedding"), [[vector.tobytes() for vector in vectors]])


def written(table, folder, files=3):
    """Write *table* to several files and return their paths."""
    folder.mkdir(parents=True)
    paths = []
    size = -(-len(table) // files)
    for number in range(files):
        paths.append(str(folder / f"{number}.arrow"))
        with pa.ipc.new_file(paths[-1], clusters.EMBEDDINGS) as writer:
            writer.write_table(table.slice(number * size, size), max_chunksize=100)
    return paths


def search(paths, folder, similarity=0.9):
    folder.mkdir()
    found = pa.Table.from_batches(clusters.find_duplicates(paths, similarity, folder), clusters.FOUND)
    assert list(folder.iterdir()) == []
    return found.sort_by("key").to_pylist()


def brute_force(vectors, similarity=0.9):
    """Return the duplicates by number: each image similar to a retained one before it is not retained."""
    exact = vectors.astype(np.float64)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    retained = []
    found = set()
    for number, vector in enumerate(exact):
        if retained and max(exact[retained] @ vector) >= similarity:
            found.add(number)
        else:
            retained.append(number)
    return found


def test_one_cluster_finds_all_pairs_whatever_the_blocks(tmp_path, monkeypatch):
    table, vectors = embeddings(900, copies=300)
    paths = written(table, tmp_path / "files")
    expected = brute_force(vectors)
    assert expected == set(range(900, 1200))
    found = search(paths, tmp_path / "a")
    assert {int(row["key"]) for row in found} == expected
    assert all(int(row["duplicate_of"], 16) == int(row["key"]) - 900 for row in found)
    monkeypatch.setattr(clusters, "_BLOCK", 7)
    assert search(paths, tmp_path / "b") == found


def test_an_image_similar_only_to_a_duplicate_is_retained(tmp_path):
    """The second vector is similar to both others, which are not similar to each other."""
    angles = np.arange(3) * np.arccos(0.93)
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float16)
    table = with_vectors(embeddings(3)[0], vectors)
    (found,) = search(written(table, tmp_path / "files", 1), tmp_path / "a")
    assert (found["key"], found["duplicate_of"]) == ("000000001", f"{0:032x}")
    assert found["similarity"] == pytest.approx(0.93, abs=2e-3)


def test_divided_clusters_find_nearly_all_similar_pairs_in_any_order(tmp_path, monkeypatch):
    monkeypatch.setattr(clusters, "_CLUSTER_ROWS", 100)
    monkeypatch.setattr(clusters, "_MAX_CLUSTER_ROWS", 200)
    monkeypatch.setattr(clusters, "_MAX_CHILDREN", 4)
    compared, images_of = [], clusters._images
    monkeypatch.setattr(clusters, "_images", lambda rows: compared.append(len(rows)) or images_of(rows))
    table, vectors = embeddings(1500, copies=500)
    paths = written(table, tmp_path / "files")
    found = search(paths, tmp_path / "a")
    assert sum(compared) == 2000
    assert max(compared) <= 200
    expected = brute_force(vectors)
    numbers = {int(row["key"]) for row in found}
    assert numbers <= expected
    assert len(numbers) > 0.9 * len(expected)
    assert search(written(table, tmp_path / "other", 7), tmp_path / "b") == found


def test_more_equal_embeddings_than_fit_in_memory_are_compared_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(clusters, "_CLUSTER_ROWS", 50)
    monkeypatch.setattr(clusters, "_MAX_CLUSTER_ROWS", 100)
    table, _ = embeddings(1000)
    table = with_vectors(table, np.ones((1000, 4), np.float16) / 2)
    found = search(written(table, tmp_path / "files"), tmp_path / "a")
    assert [int(row["key"]) for row in found] == list(range(1, 1000))
    assert {row["similarity"] for row in found} == {1.0}
