"""The static key-value cache gives the same keys, values and texts as the dynamic cache of transformers."""

import pytest
import torch
from transformers import LlamaConfig, MistralConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from tests.rewrite import architectures
from tests.rewrite.test_architectures import resized, samplings
from vecap_tasks.rewrite.backends.transformers import StaticCacheLayer, static_cache


@pytest.mark.parametrize("capacity", [40, 30, 17, 4])
def test_a_static_layer_matches_a_dynamic_one_beyond_its_capacity(capacity):
    torch.manual_seed(0)
    dynamic, static = DynamicLayer(), StaticCacheLayer(capacity)
    for tokens in (17, 1, 1, 1, 5, 1):
        keys, values = torch.randn(3, 2, tokens, 8), torch.randn(3, 2, tokens, 6)
        expected, actual = dynamic.update(keys, values), static.update(keys, values)
        assert torch.equal(actual[0], expected[0])
        assert torch.equal(actual[1], expected[1])
        assert static.get_seq_length() == dynamic.get_seq_length()
        assert static.get_mask_sizes(1) == dynamic.get_mask_sizes(1)


def test_tensors_are_not_copied_within_the_capacity():
    layer = StaticCacheLayer(8)
    keys, _ = layer.update(torch.randn(1, 1, 5, 4), torch.randn(1, 1, 5, 4))
    after, _ = layer.update(torch.randn(1, 1, 1, 4), torch.randn(1, 1, 1, 4))
    assert after.data_ptr() == keys.data_ptr()


def test_sliding_window_layers_are_unchanged():
    windows = MistralConfig(num_hidden_layers=2, sliding_window=16)
    assert [type(layer) for layer in static_cache(windows, 8).layers] == [DynamicSlidingWindowLayer] * 2
    assert [type(layer) for layer in static_cache(LlamaConfig(num_hidden_layers=2), 8).layers] == [StaticCacheLayer] * 2


@pytest.mark.parametrize("build", architectures.VLMS, ids=lambda build: build.__name__)
def test_texts_match_those_of_the_dynamic_cache(build, vlm, image_input, monkeypatch):
    model = vlm(build)
    requests = [(resized(image_input, number), sampling) for number, sampling in enumerate(samplings(20))]
    actual = model.describe(requests)
    monkeypatch.setattr(model.generator, "_uses_static_cache", False)
    assert model.describe(requests) == actual
