"""Whatever transformers loads by its Auto classes captions, and a row's text never depends on its batch."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.rewrite import architectures
from vecap_tasks.config import ModelConfig
from vecap_tasks.core.models import find_checkpoint
from vecap_tasks.errors import VecapError
from vecap_tasks.rewrite.accepted_rows import ImageInput, Row
from vecap_tasks.rewrite.backends.sampling_params import GREEDY, Sampling
from vecap_tasks.rewrite.llm import Llm
from vecap_tasks.rewrite.prompt import load_prompt

SOME = (0, 3, 7, 16, 18)


def samplings(count: int) -> list[Sampling]:
    """Greedy ones and sampled ones by turns."""
    return [GREEDY if number % 3 == 0 else Sampling(0, 1.0, 1000 + number) for number in range(count)]


def shaped(seen: Callable[[int], ImageInput], number: int) -> ImageInput:
    """A picture of one of five shapes, by which some models take more tokens of it than of others."""
    width = 40 + 37 * (number % 5)
    image = seen(number).image
    assert image is not None
    return ImageInput(Row(str(number), "", str(number), None, ""), image.resize((width, 200 - width)))


def settings(folder: Path, prompt: str, **more) -> ModelConfig:
    return ModelConfig(**{"model": str(folder), "prompt": prompt, "max_new_tokens": 8, "batch_size": 16} | more)


@pytest.mark.parametrize("build", architectures.VLMS, ids=lambda build: build.__name__)
def test_a_vlm_describes_each_picture_as_it_would_alone(build, vlm, seen) -> None:
    model = vlm(build)
    asked = [(shaped(seen, number), sampling) for number, sampling in enumerate(samplings(20))]
    together = model.describe(asked)
    assert all(text.problem is None and text.tokens >= 1 and text.prompt_tokens > 100 for text in together)
    assert len({text.text for text in together}) > 5
    assert [model.describe([asked[number]])[0] for number in SOME] == [together[number] for number in SOME]


@pytest.mark.parametrize("build", architectures.LLMS, ids=lambda build: build.__name__)
def test_an_llm_without_a_chat_template_fuses_each_pair_as_it_would_alone(build, place, tokenizer_of, tmp_path) -> None:
    words = tokenizer_of(None)
    torch.manual_seed(0)
    build(words).save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    checkpoint = find_checkpoint(place.config(), str(tmp_path))
    llm = Llm(checkpoint, settings(tmp_path, "fuse"), load_prompt("fuse"), 512)
    pairs = [(f"Name {number} " * (number % 7 + 1), "two red tulips " * (number % 3 + 1)) for number in range(20)]
    asked = list(zip(pairs, samplings(20), strict=True))
    together = llm.fuse(asked)
    assert len({text.text for text in together}) > 5
    assert [llm.fuse([asked[number]])[0] for number in SOME] == [together[number] for number in SOME]


def test_a_model_works_in_bfloat16_and_attends_by_sdpa(vlm, seen) -> None:
    model = vlm(architectures.llava_next, dtype="bfloat16")
    texts = model.describe([(shaped(seen, number), GREEDY) for number in range(5)])
    assert all(text.tokens >= 1 for text in texts)
    loaded = model.generator.model
    assert loaded.dtype == torch.bfloat16
    assert {part._attn_implementation for part in (loaded.config.text_config, loaded.config.vision_config)} == {"sdpa"}


class Small:
    """A model on a device of few rows. The one fault that is simulated: no GPU is at hand to be filled."""

    def __init__(self, model, rows: int) -> None:
        self._model, self._rows = model, rows
        self.sizes: list[int] = []

    def __getattr__(self, name: str):
        return getattr(self._model, name)

    def generate(self, **inputs):
        self.sizes.append(len(inputs["input_ids"]))
        if self.sizes[-1] > self._rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self._model.generate(**inputs)


@pytest.mark.parametrize("build", [architectures.qwen2_vl, architectures.blip2], ids=lambda build: build.__name__)
def test_a_batch_that_memory_does_not_hold_is_halved_and_no_text_is_lost(build, vlm, seen, caplog) -> None:
    model = vlm(build, batch_size=32)
    asked = [(shaped(seen, number), sampling) for number, sampling in enumerate(samplings(40))]
    wanted = model.describe(asked)
    model.generator.model = small = Small(model.generator.model, 5)
    assert model.describe(asked) == wanted
    assert max(size for size in small.sizes if size <= 5) == 4
    assert sum(size > 5 for size in small.sizes) <= 4  # what did not fit once is not tried again
    assert "going on with 4" in caplog.text


def test_a_row_that_memory_does_not_hold_is_told(vlm, seen) -> None:
    model = vlm(architectures.blip2)
    model.generator.model = Small(model.generator.model, 0)
    with pytest.raises(VecapError, match=r"too little memory for one row of .*; take a smaller model") as told:
        model.describe([(shaped(seen, number), GREEDY) for number in range(3)])
    assert "\n" not in str(told.value)


def test_what_is_drawn_has_the_shares_that_the_scores_give_it() -> None:
    from vecap_tasks.rewrite.backends.gumbel_sampler import GumbelSampler

    shares = torch.tensor([0.5, 0.3, 0.15, 0.05])
    rows = 20_000
    for temperature in (1.0, 0.5):
        process = GumbelSampler([Sampling(0, temperature, seed) for seed in range(rows)], torch.device("cpu"))
        for _ in range(2):  # steps
            drawn = process(torch.zeros((rows, 1), dtype=torch.int64), shares.log().repeat(rows, 1)).argmax(1)
            wanted = torch.softmax(shares.log() / temperature, 0)
            assert torch.allclose(drawn.bincount(minlength=4) / rows, wanted, atol=0.015)


def test_draws_differ_by_seed_and_step_and_by_nothing_else() -> None:
    from vecap_tasks.rewrite.backends.gumbel_sampler import GumbelSampler

    scores = torch.zeros((3, 1000))
    process = GumbelSampler([Sampling(0, 1.0, 7), Sampling(0, 1.0, 8), Sampling(0, 1.0, 7)], torch.device("cpu"))
    first, second = process(None, scores), process(None, scores)
    assert torch.equal(first[0], first[2])
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], second[0])
    assert torch.isfinite(first).all()
    alone = GumbelSampler([Sampling(0, 1.0, 7)], torch.device("cpu"))
    assert torch.equal(alone(None, scores[:1])[0], first[0])
