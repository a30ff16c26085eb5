"""Captioning on a GPU gives the texts of the CPU, and recovers from out-of-memory errors."""

import pytest
import torch

from tests.rewrite import architectures
from tests.rewrite.test_architectures import resized, samplings

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.mark.parametrize("build", architectures.VLMS, ids=lambda build: build.__name__)
def test_gpu_texts_match_cpu_texts(build, vlm, image_input):
    requests = [(resized(image_input, number), sampling) for number, sampling in enumerate(samplings(20))]
    on_gpu, on_cpu = vlm(build, device="cuda").describe(requests), vlm(build, device="cpu").describe(requests)
    assert sum(left.text == right.text for left, right in zip(on_gpu, on_cpu, strict=True)) >= 19  # rounding differs
    assert [text.prompt_tokens for text in on_gpu] == [text.prompt_tokens for text in on_cpu]


def test_out_of_memory_halves_the_batch(vlm, image_input, caplog):
    requests = [(resized(image_input, number), sampling) for number, sampling in enumerate(samplings(600))]
    model = vlm(architectures.llava_next, device="cuda", batch_size=512)
    expected = model.describe(requests[:16])
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (96 << 20)) / total)
    try:
        texts = model.describe(requests)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert len(texts) == 600
    assert all(text.problem is None for text in texts)
    assert sum(left.text == right.text for left, right in zip(texts, expected, strict=False)) >= 14
    assert model.generator.rows < 512
    assert "out of memory" in caplog.text
