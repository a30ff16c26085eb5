"""The model that a run begins with: by the name of its size, by numbers, or from a folder."""

import json

import pytest
import torch
from transformers import CLIPModel

from tests.faults.disk import full_disk
from tests.train.factories import Texts, configure, give_version, run
from vecap_tasks.config import ClipConfig
from vecap_tasks.core.preprocess import image_processor
from vecap_tasks.core.stage import RECEIPTS, load_stage
from vecap_tasks.errors import ConfigError, VecapError
from vecap_tasks.train.data.tokenizer import load_tokenizer
from vecap_tasks.train.model import build_model, create_model, export
from vecap_tasks.train.throughput import training_flops

SAMPLES = [Texts() for _ in range(20)]


def test_sizes_by_name_are_the_published_models():
    """Parameters with CLIP's 49,408 tokens, as open_clip counts them (in millions)."""
    published = {"B/32": 151.28, "B/16": 149.62, "L/14": 427.62, "H/14": 986.11}
    for name, millions in published.items():
        config = ClipConfig(size=name, tokenizer="none", vision_layers=1)  # the size goes before
        tokenizer = Vocabulary()
        with torch.device("meta"):
            model = build_model(config, tokenizer, 0)
        assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 2) == millions


class Vocabulary:
    """As much of OpenAI's tokenizer as a model is made from."""

    bos_token_id, eos_token_id, pad_token_id = 49406, 49407, 49407

    def __len__(self):
        return 49408


def test_a_size_by_name_has_the_fingerprint_of_its_numbers():
    numbers = ClipConfig(tokenizer="none", patch_size=32)
    assert ClipConfig(tokenizer="none", size="B/32").identity() == numbers.identity()


def test_operations_of_a_sample_are_those_that_torch_counts(home):
    from torch.utils.flop_counter import FlopCounterMode

    config = configure(home)
    model = build_model(config.train.model, load_tokenizer(config), 0).train()
    model.set_attn_implementation("eager")  # the counter sees matrix products alone
    with FlopCounterMode(display=False) as counted:
        images = model.get_image_features(pixel_values=torch.randn(2, 3, 32, 32)).pooler_output
        texts = model.get_text_features(input_ids=torch.randint(5, 300, (2, 24))).pooler_output
        (images.sum() + texts.sum()).backward()
    no_gradient_of_pixels = 2 * 4 * (3 * 16 * 16) * 32
    assert training_flops(model.config, 24) - no_gradient_of_pixels == counted.get_total_flops() / 2


@pytest.fixture
def start(home, tmp_path):
    """A folder as a release has it: configuration and weights."""
    config = configure(home)
    model = build_model(config.train.model, load_tokenizer(config), 7)
    model.save_pretrained(tmp_path / "start")
    return tmp_path / "start"


def change(folder, **text):
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= text
    (folder / "config.json").write_text(json.dumps(config))


def test_a_run_starts_from_a_folder_and_names_it(home, start):
    config = configure(home, arms="[vecap]", model__start=start, learning_rate=1e-12)
    version = give_version(config, SAMPLES)
    manifest = run("train", config, version)
    stage = load_stage("train", config, version)
    trained = CLIPModel.from_pretrained(stage.store.path(f"{stage.folder}/vecap-0"))
    for name, given in CLIPModel.from_pretrained(start).state_dict().items():
        torch.testing.assert_close(trained.state_dict()[name], given, rtol=0, atol=1e-6)
    [named] = [item for item in manifest.inputs if item.name == str(start)]
    before = stage.fingerprint
    change(start, attention_dropout=0.1)
    assert load_stage("train", config, version).fingerprint != before
    assert named.kind == "model"


@pytest.mark.parametrize("end", [2, None], ids=["largest id", "end"])
def test_a_start_reads_texts_where_it_did(home, start, end):
    """A release whose configuration has the end 2 is read at the largest id, as transformers does, and stays so."""
    config = configure(home, model__start=start)
    tokenizer = load_tokenizer(config)
    if end is not None:
        change(start, eos_token_id=end)
    ids = tokenizer(["a red cat"], return_tensors="pt")["input_ids"]
    released = CLIPModel.from_pretrained(start).eval().get_text_features(input_ids=ids).pooler_output
    opened = create_model(config, tokenizer, 0).eval().get_text_features(input_ids=ids).pooler_output
    torch.testing.assert_close(opened, released)


def test_a_start_that_does_not_fit_is_one_clear_line(home, start, tmp_path):
    tokenizer = load_tokenizer(configure(home))
    for settings, said in (
        ({"model__start": tmp_path}, "has no config.json"),
        ({"model__vision_layers": 2}, "has vision_layers 1, the configuration 2; set train.model.vision_layers"),
        ({"model__context": 30}, "reads 24 tokens; lower train.model.context"),
    ):
        config = configure(home, **({"model__start": start} | settings))
        with pytest.raises(ConfigError, match=said):
            create_model(config, tokenizer, 0)
    other = tokenizer.eos_token_id + 1
    change(start, eos_token_id=other)
    with pytest.raises(ConfigError, match=f"reads a text at the token {other}, the tokenizer ends it with"):
        create_model(configure(home, model__start=start), tokenizer, 0)
    (start / "model.safetensors").write_bytes(b"half")
    with pytest.raises(ConfigError, match="cannot be loaded as a CLIPModel"):
        create_model(configure(home, model__start=start), tokenizer, 0)


def test_the_sigmoid_loss_trains_and_keeps_its_bias(home):
    config = configure(home, arms="[vecap]", loss="sigmoid", epochs=60, learning_rate=0.003)
    version = give_version(config, SAMPLES)
    manifest = run("train", config, version)
    read = load_stage("train", config, version).store.read
    losses = [json.loads(line)["loss"] for line in read(manifest.file("vecap-0/log.jsonl")).splitlines()]
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    assert json.loads(read(manifest.file("vecap-0/training.json")))["logit_bias"] != -10


@pytest.mark.parametrize("settings", [{}, {"micro_batch": 3}, {"precision": "bfloat16"}], ids=str)
def test_activations_that_are_computed_again_change_no_byte(home, settings):
    version = give_version(configure(home), SAMPLES)
    made = []
    for recompute in (False, True):
        stage = load_stage(
            "train", configure(home, arms="[vecap]", activation_checkpointing=recompute, **settings), version
        )
        stage.store.remove_folder(f"{stage.folder}/{RECEIPTS}")  # they share a fingerprint: it would be done already
        made.append(stage.run("vecap-0").files)
    assert "vecap-0/model.safetensors" in {entry.path for entry in made[0]}
    assert made[0] == made[1]


def test_a_batch_that_goes_through_in_parts_has_the_same_losses(home):
    made = []
    version = give_version(configure(home), SAMPLES)
    for settings in ({}, {"micro_batch": 3}):
        stage = load_stage("train", configure(home, arms="[vecap]", **settings), version)
        steps = []
        stage.report = lambda progress, steps=steps: steps.append(progress.record.loss)
        stage.run("vecap-0")
        made.append(steps)
    assert len(made[0]) == 5
    assert made[1] == pytest.approx(made[0], abs=1e-5)


def test_a_model_that_finds_the_disk_full_is_reported(home, tmp_path):
    config = configure(home)
    tokenizer = load_tokenizer(config)
    model = create_model(config, tokenizer, 0)
    with (
        pytest.raises(VecapError, match=r"the model cannot be written to .*see whether the disk is full"),
        full_disk(9_000),
    ):
        export(model, tokenizer, image_processor(32), tmp_path)
