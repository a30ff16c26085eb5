"""Captioning on a GPU: where one is, the texts are those of the CPU, and memory that runs out loses none of them."""

import pytest
import torch

from tests.rewrite import architectures
from tests.rewrite.test_architectures import draws, settings, shaped
from vecap_tasks.rewrite.checkpoint import find_checkpoint
from vecap_tasks.rewrite.prompt import load_prompt
from vecap_tasks.rewrite.vlm import Vlm

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")


@pytest.fixture
def load(place, tokenizer_of, image_template, tmp_path):
    def load(build, **more) -> Vlm:
        torch.manual_seed(0)
        for part in build(tokenizer_of(None), image_template):
            part.save_pretrained(tmp_path)
        checkpoint = find_checkpoint(place.config(), str(tmp_path))
        return Vlm(checkpoint, settings(tmp_path, "describe", **more), load_prompt("describe"))

    return load


@pytest.mark.parametrize("build", architectures.VLMS, ids=lambda build: build.__name__)
def test_the_texts_are_those_of_the_cpu(build, load, seen):
    asked = [(shaped(seen, number), draw) for number, draw in enumerate(draws(20))]
    there, here = load(build, device="cuda").describe(asked), load(build, device="cpu").describe(asked)
    assert sum(one.text == other.text for one, other in zip(there, here, strict=True)) >= 19  # sums round otherwise
    assert [text.prompt_tokens for text in there] == [text.prompt_tokens for text in here]


def test_memory_that_runs_out_halves_the_batch(load, seen, caplog):
    asked = [(shaped(seen, number), draw) for number, draw in enumerate(draws(600))]
    model = load(architectures.llava_next, device="cuda", batch_size=512)
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
