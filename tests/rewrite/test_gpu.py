"""Captioning on a GPU: where one is, the texts are those of the CPU, and memory that runs out loses none of them."""

import pytest
import torch

from tests.rewrite import architectures
from tests.rewrite.test_architectures import samplings, shaped

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")


@pytest.mark.parametrize("build", architectures.VLMS, ids=lambda build: build.__name__)
def test_the_texts_are_those_of_the_cpu(build, vlm, seen):
    asked = [(shaped(seen, number), sampling) for number, sampling in enumerate(samplings(20))]
    there, here = vlm(build, device="cuda").describe(asked), vlm(build, device="cpu").describe(asked)
    assert sum(one.text == other.text for one, other in zip(there, here, strict=True)) >= 19  # sums round otherwise
    assert [text.prompt_tokens for text in there] == [text.prompt_tokens for text in here]


def test_memory_that_runs_out_halves_the_batch(vlm, seen, caplog):
    asked = [(shaped(seen, number), sampling) for number, sampling in enumerate(samplings(600))]
    model = vlm(architectures.llava_next, device="cuda", batch_size=512)
    wanted = model.describe(asked[:16])
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (96 << 20)) / total)
    try:
        written = model.describe(asked)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert len(written) == 600
    assert all(text.problem is None for text in written)
    assert sum(one.text == other.text for one, other in zip(written, wanted, strict=False)) >= 14
    assert model.generator.rows < 512
    assert "out of memory" in caplog.text
