"""Pretrained and locked towers, cached image features, several captions of an image, and averaged weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    CLIPImageProcessorPil,
    CLIPModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    VisionTextDualEncoderModel,
    ViTConfig,
    ViTModel,
)

from tests.train.factories import Texts, configure, publish_version, run, scene_image
from tests.train.test_mixture import OWN_VERSION, external_sample, with_mixture, write_tar
from tests.train.test_train_stage import stop_after
from vecap_tasks.config import Config
from vecap_tasks.core.manifest import Manifest
from vecap_tasks.core.preprocess import CLIP_STATISTICS, read_statistics
from vecap_tasks.core.stage import Stage, load_stage
from vecap_tasks.errors import ConfigError
from vecap_tasks.evaluate.features import Encoder
from vecap_tasks.train import trainer
from vecap_tasks.train.data.loader import open_training_data
from vecap_tasks.train.data.tokenizer import load_tokenizer
from vecap_tasks.train.distributed import ProcessGroup
from vecap_tasks.train.loss import Objective
from vecap_tasks.train.model import build_model, create_model

SAMPLES = [Texts(variants=n % 2, alttext="" if n % 5 == 0 else None) for n in range(20)]
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


@pytest.fixture
def clip(home: Path) -> Path:
    """A tiny CLIP with an image processor of its own."""
    config = configure(home)
    folder = home / "clip"
    build_model(config.training.model, load_tokenizer(config), 7).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, **HALF).save_pretrained(
        folder
    )
    return folder


@pytest.fixture
def bert(home: Path) -> Path:
    """A tiny BERT with its tokenizer, which has no BOS and EOS."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "picture", "number", "cat", "on", "grass"]
    backend = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=24, **sizes)).save_pretrained(home / "bert")
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(home / "bert")
    return home / "bert"


@pytest.fixture
def vit(home: Path) -> Path:
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    ViTModel(ViTConfig(image_size=32, patch_size=16, **sizes)).save_pretrained(home / "vit")
    return home / "vit"


def train(config: Config) -> tuple[Stage, Manifest]:
    version = publish_version(config, SAMPLES)
    return load_stage("train", config, version), run("train", config, version)


def model_of(stage: Stage, shard: str) -> Path:
    return Path(stage.store.path(f"{stage.folder}/{shard}"))


def losses(stage: Stage, shard: str) -> np.ndarray:
    lines = stage.store.read(f"{stage.folder}/{shard}/log.jsonl").splitlines()
    return np.array([json.loads(line)["loss"] for line in lines])


def test_a_locked_tower_keeps_its_weights_and_the_rest_is_trained(home: Path, clip: Path) -> None:
    settings = {"vision_init_from": str(clip), "vision_locked": True}
    config = configure(home, arms="[mixed]", crop_scale=1, **{f"model__{name}": v for name, v in settings.items()})
    stage, manifest = train(config)
    folder = model_of(stage, "mixed-0")
    trained, initial = CLIPModel.from_pretrained(folder).state_dict(), CLIPModel.from_pretrained(clip).state_dict()
    same = {name for name, value in trained.items() if torch.equal(value, initial[name])}
    assert {name for name in same if "position_ids" not in name} == {n for n in trained if n.startswith("vision_model")}
    assert read_statistics(folder).mean == (0.5, 0.5, 0.5)
    assert str(clip) in {item.name for item in manifest.inputs if item.kind == "model"}
    assert not stage.store.files(f"{stage.folder}/_features"), "removed at the commit"


def test_cached_features_train_like_the_tower_itself(home: Path, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for name in ("cached", "computed"):
        monkeypatch.setenv("VECAP_HOME", str(home / name))
        locked = {"model__vision_init_from": str(clip), "model__vision_locked": True}
        if name == "computed":
            monkeypatch.setattr(trainer, "feature_cache", lambda *arguments: None)
        found.append(losses(train(configure(home, arms="[vecap]", crop_scale=1, **locked))[0], "vecap-0"))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)


def test_interrupted_runs_with_cached_features_resume_to_the_same_bytes(
    home: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with several captions, sub-captions and an average; a changed file of features is computed again."""
    settings = {
        "arms": "[mixed]", "crop_scale": 1, "model__vision_init_from": str(clip), "model__vision_locked": True,
        "captions_per_image": 2, "sub_captions": "{kind: tokens, tokens: 3, probability: 0.5}", "ema_decay": 0.9,
    }  # fmt: skip
    config = configure(home, **settings)
    version = publish_version(config, SAMPLES)
    stage = load_stage("train", config, version)
    stop_after(stage, "mixed-0", 1)
    files = [
        Path(stage.store.path(f"{stage.folder}/_features/{n}")) for n in stage.store.files(f"{stage.folder}/_features")
    ]
    assert len(files) == 2, "one for each shard"
    body = bytearray(files[0].read_bytes())
    body[len(body) // 2] ^= 1  # among the features
    files[0].write_bytes(body)
    resumed = run("train", config, version)
    monkeypatch.setenv("VECAP_HOME", str(tmp_path / "undisturbed"))
    assert train(configure(home, **settings))[1].digest == resumed.digest


def test_images_that_cannot_be_decoded_are_replaced_in_other_sources(home: Path, clip: Path) -> None:
    """A shard with one such image, and one with nothing else; the same samples as without cached features."""
    images = {n: scene_image(n)[: 400 if n in (2, 10, 11, 12) else None] for n in (*range(6), 10, 11, 12)}
    samples = [external_sample(f"{n:09d}", f"picture {n}", image) for n, image in images.items()]
    write_tar(home / "theirs" / "0.tar", samples[:6])
    write_tar(home / "theirs" / "1.tar", samples[6:])
    source = {"kind": "tars", "paths": [f"{home}/theirs/*.tar"], "arm": "alttext"}
    locked = {"model__vision_init_from": str(clip), "model__vision_locked": True, "crop_scale": 1, "arms": "[alttext]"}
    plain = configure(home)
    version = publish_version(plain, [Texts() for _ in range(8)])
    used = []
    config = with_mixture(home, OWN_VERSION, source, **locked)
    for name in ("cached", "decoded"):
        tokenizer = load_tokenizer(config)
        model = create_model(config, tokenizer, 0)
        checkpoints = load_stage("train", config, version).checkpoints("alttext-0")
        group = ProcessGroup(torch.device("cpu"))
        features = trainer.feature_cache(model, config.training, CLIP_STATISTICS, group, checkpoints)
        data = open_training_data(config, version, "alttext", 0, tokenizer, features if name == "cached" else None)
        batches = list(data.batches(0))
        assert batches[0].images.ndim == (2 if name == "cached" else 4)
        used.append([batch.uids for batch in batches])
    assert used[0] == used[1]


def test_towers_of_other_models_become_a_dual_encoder(home: Path, vit: Path, bert: Path, tmp_path: Path) -> None:
    settings = {
        "arms": "[vecap]", "crop_scale": 0.5, "model__vision_init_from": str(vit), "model__text_init_from": str(bert),
        "model__tokenizer": str(bert), "model__text_locked": True,
    }  # fmt: skip
    stage, _ = train(configure(home, **settings))
    folder = model_of(stage, "vecap-0")
    model = AutoModel.from_pretrained(folder)
    assert isinstance(model, VisionTextDualEncoderModel)
    initial = BertModel.from_pretrained(bert).state_dict()
    assert all(torch.equal(value, initial[name]) for name, value in model.text_model.state_dict().items())
    assert not torch.equal(model.vision_model.state_dict()["layernorm.weight"], torch.ones(24))
    encoder = Encoder(folder, "cpu", 4)
    texts = encoder.texts(["a red cat on grass", "a cat"])
    ids = load_tokenizer(configure(home, **settings))(["a cat"], return_tensors="pt")
    assert ids["input_ids"].tolist() == [[2, 4, 8, 3]], "CLS and SEP, as BERT was trained"
    with torch.no_grad():
        alone = torch.nn.functional.normalize(model.eval().get_text_features(**ids).pooler_output, dim=-1)
    torch.testing.assert_close(texts[1:], alone)


def test_the_tower_of_a_vision_language_model(home: Path, clip: Path) -> None:
    found = CLIPModel.from_pretrained(clip)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    language = {"model_type": "llama", "vocab_size": 9, **sizes}
    vision = found.config.vision_config
    llava = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=language, image_token_index=8))
    llava.model.vision_tower.load_state_dict(found.vision_model.state_dict())
    llava.save_pretrained(home / "llava")
    config = configure(home, arms="[vec]", model__vision_init_from=str(home / "llava"), model__vision_locked=True)
    stage, _ = train(config)
    trained = CLIPModel.from_pretrained(model_of(stage, "vec-0"))
    for name, value in found.vision_model.state_dict().items():
        assert torch.equal(trained.vision_model.state_dict()[name], value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model__vision_init_from": "{clip}", "model__image_size": 64}, "has image_size 32, the configuration 64"),
        ({"model__vision_init_from": "{bert}"}, "vision_init_from: .*bert has no image_size"),
        ({"model__text_init_from": "{vit}"}, "text_init_from: .*vit has no text tower \\(ViTModel\\)"),
        (
            {"model__text_init_from": "{bert}", "model__context": 30, "model__tokenizer": "{bert}"},
            "lower train.model.co",
        ),
        ({"model__text_init_from": "{bert}"}, "has 11 tokens, train.model.tokenizer"),
        ({"model__vision_locked": True}, "vision_locked needs a pretrained tower"),
        ({"model__init_from": "{clip}", "model__vision_init_from": "{vit}"}, "init_from already has both towers"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_tower_that_does_not_fit_is_one_clear_line(
    home: Path, clip: Path, vit: Path, bert: Path, settings: dict[str, object], message: str
) -> None:
    folders = {"clip": clip, "vit": vit, "bert": bert}
    given = {name: v.format(**folders) if isinstance(v, str) else v for name, v in settings.items()}
    with pytest.raises(ConfigError, match=message) as raised:
        train(configure(home, **given))
    assert "\n" not in str(raised.value)


def test_the_average_weighs_each_step_with_its_decay(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for number, settings in enumerate(({}, {"ema_decay": 0.75})):
        monkeypatch.setenv("VECAP_HOME", str(home / str(number)))
        config = configure(home, arms="[vec]", epochs=1, batch_size=20, **settings)
        stage, _ = train(config)
        assert len(losses(stage, "vec-0")) == 1
        found.append(CLIPModel.from_pretrained(model_of(stage, "vec-0")).state_dict())
    initial = build_model(config.training.model, load_tokenizer(config), 0).state_dict()
    for name, value in found[1].items():
        torch.testing.assert_close(value, 0.75 * initial[name] + 0.25 * found[0][name])


@pytest.mark.parametrize("kind", ["contrastive", "sigmoid"])
def test_the_loss_of_several_captions_is_their_mean(kind: Literal["contrastive", "sigmoid"]) -> None:
    torch.manual_seed(0)
    images, texts = torch.randn(6, 8), torch.randn(6, 3, 8)
    objective = Objective(kind, torch.nn.Parameter(torch.tensor(2.0)), ProcessGroup(torch.device("cpu")))
    alone = [objective(images, texts[:, [number]]) for number in range(3)]
    torch.testing.assert_close(objective(images, texts), torch.stack(alone).mean())
    assert len({float(loss.detach()) for loss in alone}) == 3


def test_a_run_with_two_captions_uses_both_texts_of_each_image(home: Path) -> None:
    config = configure(home, arms="[mixed]", captions_per_image=2)
    version = publish_version(config, [Texts(alttext="old", vecap="new") for _ in range(20)])
    tokenizer = load_tokenizer(config)
    batch = next(open_training_data(config, version, "mixed", 0, tokenizer).batches(0))
    old, new = tokenizer(["old", "new"], padding="max_length", max_length=batch.ids.shape[2])["input_ids"]
    assert {str(captions) for captions in batch.ids.tolist()} == {str([old, new]), str([new, old])}
