"""Half-precision norms and embeddings: close to exact values, with float32 weights and gradients."""

import copy
import json

import pytest
import torch
from torch import nn

from tests.train.factories import Texts, configure, publish_version, run
from vecap_tasks.core.stage import load_stage
from vecap_tasks.errors import VecapError
from vecap_tasks.train import trainer
from vecap_tasks.train.data.tokenizer import load_tokenizer
from vecap_tasks.train.mixed_precision import keep_half_precision
from vecap_tasks.train.model import build_model

EPSILON = 2**-8  # relative precision of bfloat16


@pytest.fixture
def layers():
    torch.manual_seed(0)
    exact = nn.Sequential(nn.Embedding(50, 64), nn.LayerNorm(64, eps=1e-5), nn.LayerNorm(64, eps=1e-5))
    for norm in exact[1:]:
        nn.init.normal_(norm.weight, 1.0, 0.3)
        nn.init.normal_(norm.bias)
    half = copy.deepcopy(exact)
    keep_half_precision(half)
    return exact, half


def test_norms_return_half_precision_close_to_the_exact_values(layers):
    exact, half = layers
    ids = torch.randint(0, 50, (8, 9))
    expected = exact.double()(ids)
    with torch.autocast("cpu", torch.bfloat16):
        result = half(ids)
        assert half[0](ids).dtype == torch.bfloat16
    assert result.dtype == torch.bfloat16
    assert (result.double() - expected).abs().max() < 4 * EPSILON * expected.abs().max()
    expected.sin().sum().backward()
    result.float().sin().sum().backward()
    for parameter, exact_parameter in zip(half.parameters(), exact.parameters(), strict=True):
        assert parameter.grad.dtype == torch.float32
        assert (parameter.grad.double() - exact_parameter.grad).norm() < 0.05 * exact_parameter.grad.norm()


def test_without_autocast_nothing_changes(layers):
    exact, half = layers
    ids = torch.randint(0, 50, (8, 9))
    assert torch.equal(half(ids), exact(ids))
    assert half.state_dict().keys() == exact.state_dict().keys()


def test_the_residual_stream_of_both_towers_is_bfloat16(home):
    config = configure(home)
    model = build_model(config.train.model, load_tokenizer(config), 0)
    keep_half_precision(model)
    dtypes = []
    for layer in (*model.vision_model.encoder.layers, *model.text_model.encoder.layers):
        layer.register_forward_hook(lambda layer, inputs, output: dtypes.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        model.vision_model(pixel_values=torch.randn(2, 3, 32, 32))
        model.text_model(input_ids=torch.full((2, 5), 7))
    assert set(dtypes) == {torch.bfloat16}


def test_training_in_bfloat16_has_losses_close_to_float32(home):
    version = publish_version(configure(home), [Texts() for _ in range(16)])
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


def test_out_of_memory_is_one_clear_line(home, monkeypatch):
    """The out-of-memory error of a GPU is simulated."""

    def out_of_memory(*args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(trainer, "forward_backward", out_of_memory)
    config = configure(home, arms="[vecap]")
    version = publish_version(config, [Texts() for _ in range(16)])
    with pytest.raises(VecapError, match="vecap-0: cpu is out of memory with 8 samples at once"):
        run("train", config, version)


def test_a_nondeterministic_operation_is_one_clear_line_and_torch_settings_are_restored(home, monkeypatch):
    def nondeterministic(*args):
        return torch.zeros(3).put_(torch.tensor([1]), torch.tensor([1.0]))

    monkeypatch.setattr(trainer, "forward_backward", nondeterministic)
    config = configure(home, arms="[vecap]")
    version = publish_version(config, [Texts() for _ in range(16)])
    with pytest.raises(VecapError, match=r"train.deterministic: RuntimeError: put_ .* set it to false"):
        run("train", config, version)
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory
