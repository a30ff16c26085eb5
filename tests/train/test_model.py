"""The initial model of a run: by named size, by explicit sizes, or from a folder."""

import json

import pytest
import torch
from transformers import CLIPModel

from tests.faults.disk import full_disk
from tests.train.factories import Texts, configure, publish_version, run
from vecap_tasks.config import ClipConfig
from vecap_tasks.core.preprocess import image_processor
from vecap_tasks.core.stage import RECEIPTS, load_stage
from vecap_tasks.errors import ConfigError, VecapError
from vecap_tasks.train.data.tokenizer import load_tokenizer
from vecap_tasks.train.model import build_model, create_model, export
from vecap_tasks.train.throughput import training_flops

SAMPLES = [Texts() for _ in range(20)]


def test_named_sizes_have_the_parameter_counts_of_the_published_models():
    """Parameters in millions with CLIP's 49,408 tokens, as open_clip counts them."""
    published = {"B/32": 151.28, "B/16": 149.62, "L/14": 427.62, "H/14": 986.11}
    for name, millions in published.items():
        config = ClipConfig(size=name, tokenizer="none", vision_layers=1)  # size overrides it
        tokenizer = Vocabulary()
        with torch.device("meta"):
            model = build_model(config, tokenizer, 0)
        assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 2) == millions


class Vocabulary:
    """The part of OpenAI's tokenizer that `build_model` needs."""

    bos_token_id, eos_token_id, pad_token_id = 49406, 49407, 49407

    def __len__(self):
        return 49408


def test_a_named_size_has_the_fingerprint_of_its_explicit_sizes():
    explicit = ClipConfig(tokenizer="none", patch_size=32)
    assert ClipConfig(tokenizer="none", size="B/32").identity() == explicit.identity()


def test_training_flops_equal_the_count_of_torch(home):
    from torch.utils.flop_counter import FlopCounterMode

    config = configure(home)
    model = build_model(config.train.model, load_tokenizer(config), 0).train()
    model.set_attn_implementation("eager")  # the counter counts only matrix products
    with FlopCounterMode(display=False) as counter:
        images = model.get_image_features(pixel_values=torch.randn(2, 3, 32, 32)).pooler_output
        texts = model.get_text_features(input_ids=torch.randint(5, 300, (2, 24))).pooler_output
        (images.sum() + texts.sum()).backward()
    pixel_gradient_flops = 2 * 4 * (3 * 16 * 16) * 32  # not computed
    assert training_flops(model.config, 24) - pixel_gradient_flops == counter.get_total_flops() / 2


@pytest.fixture
def pretrained(home, tmp_path):
    """A folder with a pretrained model: configuration and weights."""
    config = configure(home)
    model = build_model(config.train.model, load_tokenizer(config), 7)
    model.save_pretrained(tmp_path / "start")
    return tmp_path / "start"


def change_text_config(folder, **text):
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= text
    (folder / "config.json").write_text(json.dumps(config))


def test_a_run_initialized_from_a_folder_records_it_as_an_input(home, pretrained):
    config = configure(home, arms="[vecap]", model__init_from=pretrained, learning_rate=1e-12)
    version = publish_version(config, SAMPLES)
    manifest = run("train", config, version)
    stage = load_stage("train", config, version)
    trained = CLIPModel.from_pretrained(stage.store.path(f"{stage.folder}/vecap-0"))
    for name, initial in CLIPModel.from_pretrained(pretrained).state_dict().items():
        torch.testing.assert_close(trained.state_dict()[name], initial, rtol=0, atol=1e-6)
    [recorded] = [item for item in manifest.inputs if item.name == str(pretrained)]
    fingerprint = stage.fingerprint
    change_text_config(pretrained, attention_dropout=0.1)
    assert load_stage("train", config, version).fingerprint != fingerprint
    assert recorded.kind == "model"


@pytest.mark.parametrize("eos_id", [2, None], ids=["legacy", "tokenizer"])
def test_a_pretrained_model_keeps_its_pooling_position(home, pretrained, eos_id):
    """With the legacy EOS id 2, transformers pools at the largest token id."""
    config = configure(home, model__init_from=pretrained)
    tokenizer = load_tokenizer(config)
    if eos_id is not None:
        change_text_config(pretrained, eos_token_id=eos_id)
    ids = tokenizer(["a red cat"], return_tensors="pt")["input_ids"]
    expected = CLIPModel.from_pretrained(pretrained).eval().get_text_features(input_ids=ids).pooler_output
    result = create_model(config, tokenizer, 0).eval().get_text_features(input_ids=ids).pooler_output
    torch.testing.assert_close(result, expected)


def test_a_pretrained_model_that_does_not_match_is_one_clear_line(home, pretrained, tmp_path):
    tokenizer = load_tokenizer(configure(home))
    for settings, message in (
        ({"model__init_from": tmp_path}, r"config\.json"),
        ({"model__vision_layers": 2}, "has vision_layers 1, the configuration 2; set train.model.vision_layers to 1"),
        ({"model__context": 30}, "has a context length of 24 tokens; lower train.model.context"),
    ):
        config = configure(home, **({"model__init_from": pretrained} | settings))
        with pytest.raises(ConfigError, match=message):
            create_model(config, tokenizer, 0)
    other = tokenizer.eos_token_id + 1
    change_text_config(pretrained, eos_token_id=other)
    with pytest.raises(ConfigError, match=f"has EOS id {other}, the tokenizer"):
        create_model(configure(home, model__init_from=pretrained), tokenizer, 0)
    (pretrained / "model.safetensors").write_bytes(b"half")
    with pytest.raises(ConfigError, match=r"cannot load .* as a CLIPModel"):
        create_model(configure(home, model__init_from=pretrained), tokenizer, 0)


def test_the_sigmoid_loss_trains_and_exports_its_bias(home):
    config = configure(home, arms="[vecap]", loss="sigmoid", epochs=60, learning_rate=0.003)
    version = publish_version(config, SAMPLES)
    manifest = run("train", config, version)
    read = load_stage("train", config, version).store.read
    losses = [json.loads(line)["loss"] for line in read(manifest.file("vecap-0/log.jsonl")).splitlines()]
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    assert json.loads(read(manifest.file("vecap-0/training.json")))["logit_bias"] != -10


@pytest.mark.parametrize("settings", [{}, {"micro_batch": 3}, {"precision": "bfloat16"}], ids=str)
def test_activation_checkpointing_does_not_change_the_files(home, settings):
    version = publish_version(configure(home), SAMPLES)
    files = []
    for enabled in (False, True):
        config = configure(home, arms="[vecap]", activation_checkpointing=enabled, **settings)
        stage = load_stage("train", config, version)
        stage.store.remove_folder(f"{stage.folder}/{RECEIPTS}")  # both have the same fingerprint
        files.append(stage.run("vecap-0").files)
    assert "vecap-0/model.safetensors" in {entry.path for entry in files[0]}
    assert files[0] == files[1]


def test_micro_batches_do_not_change_the_losses(home):
    losses = []
    version = publish_version(configure(home), SAMPLES)
    for settings in ({}, {"micro_batch": 3}):
        stage = load_stage("train", configure(home, arms="[vecap]", **settings), version)
        steps = []
        stage.report = lambda progress, steps=steps: steps.append(progress.record.loss)
        stage.run("vecap-0")
        losses.append(steps)
    assert len(losses[0]) == 5
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)


def test_a_full_disk_at_export_is_one_clear_line(home, tmp_path):
    config = configure(home)
    tokenizer = load_tokenizer(config)
    model = create_model(config, tokenizer, 0)
    with (
        pytest.raises(VecapError, match=r"cannot write the model to .*check free disk space"),
        full_disk(9_000),
    ):
        export(model, tokenizer, image_processor(32), tmp_path)
