"""The learning rate schedule, weight decay and contrastive loss."""

import pytest
import torch
from torch.nn import functional

from tests.train.factories import configure
from vecap_tasks.train.data.tokenizer import load_tokenizer
from vecap_tasks.train.loss import contrastive_loss
from vecap_tasks.train.model import build_model
from vecap_tasks.train.trainer import build_optimizer, learning_rate


def test_the_learning_rate_warms_up_and_decays_to_zero(home):
    config = configure(home, warmup_steps=10, learning_rate=0.5).train
    rates = [learning_rate(step, 110, config) for step in range(110)]
    assert rates[0] == pytest.approx(0.05)
    assert max(rates) == rates[9] == rates[10] == 0.5
    assert rates[60] == pytest.approx(0.25)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.001
    assert learning_rate(0, 4, config) > 0, "a warmup longer than the run"


def test_only_matrices_have_weight_decay(home):
    config = configure(home)
    model = build_model(config.train.model, load_tokenizer(config), 0)
    decayed, undecayed = build_optimizer(model, config.train).param_groups
    assert decayed["weight_decay"] == config.train.weight_decay
    assert undecayed["weight_decay"] == 0
    ids = {id(parameter) for parameter in undecayed["params"]}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in ids}
    assert "logit_scale" in names
    assert all(
        name.endswith(".bias") or "norm" in name or "class_embedding" in name for name in names - {"logit_scale"}
    )
    assert len(decayed["params"]) + len(undecayed["params"]) == len(list(model.parameters()))


def test_the_contrastive_loss_is_symmetric_cross_entropy():
    generator = torch.Generator().manual_seed(0)
    images, texts = torch.randn(5, 7, generator=generator), torch.randn(5, 7, generator=generator)
    scale = torch.tensor(1.3)
    logits = scale.exp() * functional.cosine_similarity(images[:, None], texts[None, :], dim=-1)
    expected = -(logits.log_softmax(1).diag().mean() + logits.log_softmax(0).diag().mean()) / 2
    torch.testing.assert_close(contrastive_loss(images, texts, scale), expected)
    torch.testing.assert_close(contrastive_loss(texts, images, scale), expected)
