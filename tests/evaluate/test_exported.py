"""Exported models work with plain transformers, which produces the features used for evaluation."""

import json

import pytest
import torch
from torch.nn.functional import normalize
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

from tests.train.factories import Texts, configure, publish_version, run, write_evaluation_set
from vecap_tasks.core.models import init_digest
from vecap_tasks.core.stage import load_stage
from vecap_tasks.errors import ConfigError
from vecap_tasks.evaluate.features import Encoder
from vecap_tasks.evaluate.released import evaluate_released
from vecap_tasks.evaluate.results import read_results
from vecap_tasks.evaluate.sets import read_sets
from vecap_tasks.evaluate.stage import fetch_model


def test_a_transformers_clip_model_produces_the_same_features(home):
    config = configure(home, arms="[vecap]", epochs=1)
    write_evaluation_set(config)
    version = publish_version(config, [Texts() for _ in range(8)])
    manifest = run("train", config, version)
    folder = home / "model"
    fetch_model(load_stage("train", config, version).store, manifest, "vecap-0", folder)
    (dataset,) = read_sets(config).retrieval
    encoder = Encoder(folder, "cpu", 5)
    model = CLIPModel.from_pretrained(folder).eval()
    texts = AutoTokenizer.from_pretrained(folder)(list(dataset.captions), padding=True, return_tensors="pt")
    images = [image.load() for image in dataset.images]
    pixels = CLIPImageProcessorPil.from_pretrained(folder)(images, return_tensors="pt")
    with torch.inference_mode():
        output = model(input_ids=texts["input_ids"], pixel_values=pixels["pixel_values"])
    torch.testing.assert_close(encoder.images(dataset.images), normalize(output.image_embeds, dim=-1))
    torch.testing.assert_close(encoder.texts(dataset.captions), normalize(output.text_embeds, dim=-1))


def test_a_released_model_has_the_results_of_the_version_that_trained_it(home):
    config = configure(home, arms="[vecap]", epochs=1)
    write_evaluation_set(config)
    version = publish_version(config, [Texts() for _ in range(8)])
    fetch_model(load_stage("train", config, version).store, run("train", config, version), "vecap-0", home / "model")
    manifest = run("evaluate", config, version)
    trained = read_results(load_stage("evaluate", config, version).store, manifest)
    with pytest.raises(ConfigError, match="init_from names no model"):
        evaluate_released(config)
    pretrained = configure(home, model__init_from=home / "model")
    released = evaluate_released(pretrained)
    assert released.runs[0].figures == trained.runs[0].figures
    assert released.arms[0].intervals == trained.arms[0].intervals
    assert (released.sets, released.comparisons) == (trained.sets, ())
    before, model = load_stage("train", pretrained, version).fingerprint, init_digest(pretrained)
    processor = home / "model" / "preprocessor_config.json"
    processor.write_text(
        json.dumps(json.loads(processor.read_text()) | {"image_mean": [0.5] * 3, "image_std": [1] * 3})
    )
    assert evaluate_released(pretrained).runs[0].figures != trained.runs[0].figures, (
        "the model's statistics are ignored"
    )
    assert load_stage("train", pretrained, version).fingerprint != before
    assert init_digest(pretrained) == model, "lineages of earlier releases would report a changed model"


def test_models_with_the_same_locked_tower_encode_images_once(home, monkeypatch):
    config = configure(home, arms="[vecap]", epochs=1)
    write_evaluation_set(config)
    version = publish_version(config, [Texts() for _ in range(8)])
    fetch_model(load_stage("train", config, version).store, run("train", config, version), "vecap-0", home / "model")
    locked = configure(
        home, arms="[alttext, vecap]", epochs=1, model__vision_init_from=home / "model", model__vision_locked="true"
    )
    run("train", locked, version)
    encoded = []
    pixels = Encoder._pixels
    monkeypatch.setattr(Encoder, "_pixels", lambda self, images: encoded.extend(images) or pixels(self, images))
    stage = load_stage("evaluate", locked, version)
    with stage.store.workspace() as first, stage.store.workspace() as second, stage.store.workspace() as alone:
        stage.process("alttext-0", first)
        once = len(encoded)
        stage.process("vecap-0", second)
        assert len(encoded) == once > 0
        load_stage("evaluate", locked, version).process("vecap-0", alone)
        assert (second / "vecap-0/answers.parquet").read_bytes() == (alone / "vecap-0/answers.parquet").read_bytes()
