"""The estimate of a training's memory: a lower bound that is close to what autograd keeps."""

import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from vecap_tasks.config import TrainConfig
from vecap_tasks.errors import ConfigError
from vecap_tasks.train.memory import check_memory, estimate
from vecap_tasks.train.model_forward import Towers


def training(model=None, **settings):
    return TrainConfig(model={"tokenizer": "x"} | (model or {}), **settings)


def test_the_estimate_is_close_below_what_autograd_keeps():
    sizes = {"image_size": 112, "context": 32}
    sizes |= {"vision_width": 256, "vision_layers": 3, "text_width": 128, "text_layers": 2}
    towers = ("vision", "text")
    vision, text = (
        {"hidden_size": sizes[f"{tower}_width"], "intermediate_size": 4 * sizes[f"{tower}_width"], "hidden_act": "gelu"}
        | {"num_hidden_layers": sizes[f"{tower}_layers"], "num_attention_heads": 4}
        for tower in towers
    )
    text |= {"vocab_size": 100, "max_position_embeddings": 32, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision | {"image_size": 112, "patch_size": 16}))
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        features = Towers(model.train())(torch.zeros(2, 3, 112, 112), torch.ones(2, 1, 32, dtype=torch.int64))
    measured = sum(size for size, _ in kept.values())
    two, one = (estimate(training(sizes, batch_size=2, micro_batch=n))[0] for n in (2, 1))
    assert 0.85 * measured <= 2 * (two - one) <= measured
    assert len(features) == 2


def test_a_training_that_cannot_fit_is_rejected_in_one_line(monkeypatch):
    monkeypatch.setattr("distributed.system.MEMORY_LIMIT", 24 << 30)
    message = r"needs at least 141\.5 GiB, and this machine has 24\.0 GiB: 1,024 samples at once"
    with pytest.raises(ConfigError, match=message) as error:
        check_memory(training())
    assert "\n" not in str(error.value)
    assert "train.micro_batch" in str(error.value)
    check_memory(training(micro_batch=64))
    check_memory(training(activation_checkpointing=True))
    check_memory(training(launch={"processes": 1, "nodes": 16, "rendezvous": "h:1"}))
    with pytest.raises(ConfigError, match="1,024 samples"):
        check_memory(training({"size": "B/32"}, batch_size=8192, launch={"processes": 8}))
