"""The memory of what a model has read: the same keys and values as transformers' own, and so the same texts."""

import pytest
import torch
from transformers import LlamaConfig, MistralConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from tests.rewrite import architectures
from tests.rewrite.test_architectures import samplings, shaped
from vecap_tasks.rewrite.backends.transformers import StaticCacheLayer, static_cache


@pytest.mark.parametrize("room", [40, 30, 17, 4])
def test_a_layer_gives_what_the_usual_one_gives_also_beyond_its_room(capacity):
    torch.manual_seed(0)
    usual, roomy = DynamicLayer(), StaticCacheLayer(capacity)
    for tokens in (17, 1, 1, 1, 5, 1):
        keys, values = torch.randn(3, 2, tokens, 8), torch.randn(3, 2, tokens, 6)
        wanted, made = usual.update(keys, values), roomy.update(keys, values)
        assert torch.equal(made[0], wanted[0])
        assert torch.equal(made[1], wanted[1])
        assert roomy.get_seq_length() == usual.get_seq_length()
        assert roomy.get_mask_sizes(1) == usual.get_mask_sizes(1)


def test_within_the_room_nothing_is_moved():
    layer = StaticCacheLayer(8)
    keys, _ = layer.update(torch.randn(1, 1, 5, 4), torch.randn(1, 1, 5, 4))
    after, _ = layer.update(torch.randn(1, 1, 1, 4), torch.randn(1, 1, 1, 4))
    assert after.data_ptr() == keys.data_ptr()


def test_sliding_windows_stay_as_transformers_has_them():
    windows = MistralConfig(num_hidden_layers=2, sliding_window=16)
    assert [type(layer) for layer in static_cache(windows, 8).layers] == [DynamicSlidingWindowLayer] * 2
    assert [type(layer) for layer in static_cache(LlamaConfig(num_hidden_layers=2), 8).layers] == [StaticCacheLayer] * 2


@pytest.mark.parametrize("build", architectures.VLMS, ids=lambda build: build.__name__)
def test_texts_are_those_of_the_usual_cache(build, vlm, seen, monkeypatch):
    model = vlm(build)
    asked = [(shaped(seen, number), sampling) for number, sampling in enumerate(samplings(20))]
    made = model.describe(asked)
    monkeypatch.setattr(model.generator, "_uses_static_cache", False)
    assert model.describe(asked) == made
