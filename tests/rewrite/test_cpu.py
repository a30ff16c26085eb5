"""Models on CPUs: oneDNN layers match torch, and freed memory is reused."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional

from vecap_tasks.rewrite.backends.transformers import OneDnnLinear, set_up_torch

FAULTS = """
import resource, sys, torch
from vecap_tasks.rewrite.backends.transformers import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def count():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(1 << 20)
before = count()
for _ in range(100):
    torch.ones(1 << 20)
print(count() - before)
"""


@pytest.fixture
def layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(192, 576)


@torch.inference_mode()
@pytest.mark.parametrize("shape", [(192,), (1, 192), (5, 192), (2, 7, 192), (2, 3, 4, 192), (0, 192)])
def test_onednn_layer_matches_torch_for_any_input_shape(layer, shape) -> None:
    inputs = torch.randn(shape)
    expected = functional.linear(inputs, layer.weight, layer.bias)
    set_up_torch(layer)
    assert isinstance(layer, OneDnnLinear)
    torch.testing.assert_close(layer(inputs), expected)
    transposed = torch.randn(192, 9).T
    torch.testing.assert_close(layer(transposed), functional.linear(transposed, layer.weight, layer.bias))


@torch.inference_mode()
def test_layer_output_of_a_row_does_not_depend_on_the_batch(layer) -> None:
    set_up_torch(layer)
    inputs = torch.randn(640, 192)
    together = layer(inputs)
    for rows in (16, 32, 48, 64, 101, 512):
        assert torch.equal(layer(inputs[:rows].clone()), together[:rows])


def test_only_plain_float32_linear_layers_are_replaced() -> None:
    class Other(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(8, 8), Other(8, 8), nn.Linear(8, 8).bfloat16(), nn.LayerNorm(8))
    names = list(model.state_dict())
    set_up_torch(model)
    assert [type(part) for part in model] == [OneDnnLinear, Other, nn.Linear, nn.LayerNorm]
    assert list(model.state_dict()) == names
    half = torch.ones(2, 8).bfloat16()
    assert model[0].bfloat16()(half).dtype == torch.bfloat16


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_freed_memory_is_kept_despite_the_dask_trim_threshold() -> None:
    variables = os.environ | {"MALLOC_TRIM_THRESHOLD_": "65536"}
    given_back, kept = (
        int(subprocess.run([sys.executable, "-c", FAULTS, how], env=variables, check=True, capture_output=True).stdout)
        for how in ("not", "kept")
    )
    assert kept < given_back / 20
