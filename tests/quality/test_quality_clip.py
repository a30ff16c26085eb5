"""CLIP similarity scores from a real CLIP model with random weights, over real tars."""

import io
import json
import shutil
from dataclasses import asdict

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessorPil, CLIPModel

from tests.conftest import REPOSITORY
from tests.quality.factories import INTERVAL, Row, configure, give_crawl, picture, use_given
from vecap_tasks.core.schemas import SCORES
from vecap_tasks.core.stage import load_stage
from vecap_tasks.core.version import Version
from vecap_tasks.errors import ConfigError, VecapError
from vecap_tasks.quality.clip_model import Scorer

TEXTS = ["A beagle in the snow", "A heron by the river", "A castle on a hill", "Two boats"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A CLIP model with about 100,000 random weights, and the demo's tokenizer."""
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = AutoTokenizer.from_pretrained(REPOSITORY / "vecap_tasks/demo/models/llm")
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text = tower | ids | {"vocab_size": len(tokenizer), "max_position_embeddings": 16}
    vision = tower | {"image_size": 32, "patch_size": 8}
    torch.manual_seed(1)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _prepared_stages(monkeypatch):
    use_given(monkeypatch)


def pairs(count):
    images = [Image.open(io.BytesIO(picture(number * 40))).convert("RGB") for number in range(count)]
    return [(image, TEXTS[number % len(TEXTS)]) for number, image in enumerate(images)]


def test_a_score_is_the_models_cosine_and_independent_of_the_batch(model):
    scorer = Scorer(model, batch_size=8, device="cpu", threads=1)

    def score(*given):
        images, texts = zip(*given, strict=True)
        return scorer.score(scorer.embed(images), texts)

    batched = score(*pairs(6))
    assert batched == [score(pair)[0] for pair in pairs(6)]
    assert len(set(batched)) > 1
    clip, tokenizer = CLIPModel.from_pretrained(model).eval(), AutoTokenizer.from_pretrained(model)
    image, text = pairs(2)[1]
    with torch.inference_mode():
        logits = clip(
            pixel_values=CLIPImageProcessorPil.from_pretrained(model)(image, return_tensors="pt")["pixel_values"],
            input_ids=tokenizer(text, padding="max_length", max_length=16, return_tensors="pt")["input_ids"],
        ).logits_per_image
        assert batched[1] == pytest.approx((logits / clip.logit_scale.exp()).item(), abs=1e-4)


def test_unusable_devices_and_models_are_reported(model, tmp_path):
    with pytest.raises(ConfigError, match=r"quality\.clip\.device: device 'cuda:99' is not available"):
        Scorer(model, 8, "cuda:99", 1)
    shutil.copy(model / "model.safetensors", tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(VecapError, match="cannot be loaded as a CLIPModel"):
        Scorer(tmp_path, 8, "cpu", 1)


def scored(config, interval=INTERVAL):
    """Run crawl and quality of *interval*; return the stage, its manifest, and its scores in key order."""
    version = Version(config.dataset, interval, 1, "")
    for name in ("crawl", "quality"):
        stage = load_stage(name, config, version)
        for part in stage.pending_preparations():
            stage.prepare(part)
        for shard in stage.plan():
            stage.run(shard)
        manifest = stage.commit()
    table = pq.read_table(stage.store.path(f"{manifest.location}/scores"))
    assert table.schema.names == SCORES.names
    return stage, manifest, table.to_pylist()


def section(model, **more):
    return {"clip": {"model": str(model), "batch_size": 4} | more}


def test_rows_below_the_threshold_are_rejected_and_scores_are_stored(tmp_path, model):
    rows = [*(Row(caption=text) for text in TEXTS * 3), Row(caption="IMG_1234.jpg"), Row(caption=None)]
    rows += [Row(status="failed_to_download", error_message="http_404"), Row(caption="A red door", image=0)]
    give_crawl(tmp_path, rows)
    stage, manifest, scores = scored(configure(tmp_path, quality=section(model, top_fraction=0.5)))
    assert stage.on_workers
    assert len(scores) == 14  # rows with image and text
    assert [item.kind for item in manifest.inputs] == ["stage", "model"]
    usable = sorted(line["similarity"] for line in scores if line["key"] != "000010002")
    below = [line["key"] for line in scores if line["similarity"] < usable[6] and line["key"] != "000010002"]
    verdicts = pq.read_table(stage.store.path(f"{manifest.location}/verdicts")).to_pylist()
    assert below
    assert [row["key"] for row in verdicts if "score:clip_similarity" in row["reasons"]] == below
    assert manifest.counters["reason.score:clip_similarity"] == len(below)


def test_scores_of_other_versions_are_reused(tmp_path, model, monkeypatch, caplog):
    give_crawl(tmp_path, [Row(caption=text) for text in TEXTS])
    config = configure(tmp_path, quality=section(model))
    _, _, first = scored(config)
    store = load_stage("quality", config, Version("given", INTERVAL, 1, "")).store
    bound = asdict(Version("given", INTERVAL, 1, "")) | {"config": {}}
    store.put(f"given/{INTERVAL}/version.json", json.dumps(bound).encode())
    for name in ("embed", "score"):
        monkeypatch.setattr(Scorer, name, lambda *_: pytest.fail("a pair was scored again"))
    with caplog.at_level("INFO"):
        _, _, second = scored(config, "2026-01-02")
    assert second == first
    assert "shard 00000: 4 CLIP scores, 4 reused from other versions" in caplog.text


def test_the_models_files_and_thresholds_are_part_of_the_fingerprint(tmp_path, model):
    def fingerprint(**more):
        config = configure(tmp_path, quality=section(more.pop("model", model), **more))
        return load_stage("quality", config, Version("given", INTERVAL, 1, "")).fingerprint

    other = tmp_path / "other"
    shutil.copytree(model, other)
    assert fingerprint() != load_stage("quality", configure(tmp_path), Version("given", INTERVAL, 1, "")).fingerprint
    for change in ({"min_similarity": 0.1}, {"device": "cuda"}, {"threads": 2}, {"batch_size": 8}):
        assert fingerprint(**change) != fingerprint()
    before = fingerprint(model=other)
    with (other / "config.json").open("a") as stream:
        stream.write("\n")
    assert fingerprint(model=other) != before
    with pytest.raises(VecapError, match="does not exist"):
        fingerprint(model=tmp_path / "nowhere")
