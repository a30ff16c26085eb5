"""Norms and embeddings in half precision: near the exact values, float32 weights and gradients, and plain elsewhere."""

import copy
import json

import pytest
import torch
from torch import nn

from tests.train.factories import Texts, configure, give_version, run
from vecap_tasks.core.stage import load_stage
from vecap_tasks.errors import VecapError
from vecap_tasks.train import trainer
from vecap_tasks.train.data.tokenizer import load_tokenizer
from vecap_tasks.train.mixed_precision import keep_half_precision
from vecap_tasks.train.model import build_model

STEP = 2**-8  # of bfloat16, relative


@pytest.fixture
def layers():
    torch.manual_seed(0)
    exact = nn.Sequential(nn.Embedding(50, 64), nn.LayerNorm(64, eps=1e-5), nn.LayerNorm(64, eps=1e-5))
    for part in exact[1:]:
        nn.init.normal_(part.weight, 1.0, 0.3)
        nn.init.normal_(part.bias)
    half = copy.deepcopy(exact)
    keep_half_precision(half)
    return exact, half


def test_norms_give_half_precision_near_the_exact_values(layers):
    exact, half = layers
    ids = torch.randint(0, 50, (8, 9))
    wanted = exact.double()(ids)
    with torch.autocast("cpu", torch.bfloat16):
        made = half(ids)
        assert half[0](ids).dtype == torch.bfloat16
    assert made.dtype == torch.bfloat16
    assert (made.double() - wanted).abs().max() < 4 * STEP * wanted.abs().max()
    wanted.sin().sum().backward()
    made.float().sin().sum().backward()
    for one, other in zip(half.parameters(), exact.parameters(), strict=True):
        assert one.grad.dtype == torch.float32
        assert (one.grad.double() - other.grad).norm() < 0.05 * other.grad.norm()


def test_without_autocast_nothing_changes(layers):
    exact, half = layers
    ids = torch.randint(0, 50, (8, 9))
    assert torch.equal(half(ids), exact(ids))
    assert half.state_dict().keys() == exact.state_dict().keys()


def test_the_residual_stream_of_both_towers_is_half(home):
    config = configure(home)
    model = build_model(config.train.model, load_tokenizer(config), 0)
    keep_half_precision(model)
    seen = []
    for layer in (*model.vision_model.encoder.layers, *model.text_model.encoder.layers):
        layer.register_forward_hook(lambda layer, given, made: seen.append(made.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        model.vision_model(pixel_values=torch.randn(2, 3, 32, 32))
        model.text_model(input_ids=torch.full((2, 5), 7))
    assert set(seen) == {torch.bfloat16}


def test_it_trains_in_bfloat16_to_float32_weights(home):
    """On a CPU, which has no other half precision that is worth it; the losses are near those of float32."""
    version = give_version(configure(home), [Texts() for _ in range(16)])
    finals = []
    for precision in ("float32", "bfloat16"):
        config = configure(home, arms="[vecap]", epochs=3, precision=precision)
        manifest = run("train", config, version)
        assert manifest.counters["steps"] == 6
        finals.append(_final_loss(config, version))
    assert finals[0] == pytest.approx(finals[1], abs=0.1)
    assert finals[0] != finals[1]


def _final_loss(config, version):
    stage = load_stage("train", config, version)
    return json.loads(stage.store.read(f"{stage.folder}/vecap-0/training.json"))["final_loss"]


def test_memory_that_runs_out_is_one_clear_line(home, monkeypatch):
    """The one fault that is simulated: the memory of a GPU."""

    def full(*given):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(trainer, "add_gradients", full)
    config = configure(home, arms="[vecap]")
    version = give_version(config, [Texts() for _ in range(16)])
    with pytest.raises(VecapError, match="vecap-0: cpu has too little memory for 8 samples at once"):
        run("train", config, version)


def test_what_has_no_deterministic_way_is_one_clear_line_and_leaves_torch_as_it_was(home, monkeypatch):
    def put(*given):
        return torch.zeros(3).put_(torch.tensor([1]), torch.tensor([1.0]))

    monkeypatch.setattr(trainer, "add_gradients", put)
    config = configure(home, arms="[vecap]")
    version = give_version(config, [Texts() for _ in range(16)])
    with pytest.raises(VecapError, match=r"train.deterministic: RuntimeError: put_ .* set it to false"):
        run("train", config, version)
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory
