"""Models of the Auto classes of transformers generate captions, and a text does not depend on its batch."""

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

PICKED = (0, 3, 7, 16, 18)


def samplings(count: int) -> list[Sampling]:
    """Return greedy and random samplings."""
    return [GREEDY if number % 3 == 0 else Sampling(0, 1.0, 1000 + number) for number in range(count)]


def resized(image_input: Callable[[int], ImageInput], number: int) -> ImageInput:
    """Return an image in one of five sizes, which take different numbers of tokens in some models."""
    width = 40 + 37 * (number % 5)
    image = image_input(number).image
    assert image is not None
    return ImageInput(Row(str(number), "", str(number), None, ""), image.resize((width, 200 - width)))


def settings(folder: Path, prompt: str, **more) -> ModelConfig:
    return ModelConfig(**{"model": str(folder), "prompt": prompt, "max_new_tokens": 8, "batch_size": 16} | more)


@pytest.mark.parametrize("build", architectures.VLMS, ids=lambda build: build.__name__)
def test_the_text_of_a_vlm_does_not_depend_on_the_batch(build, vlm, image_input) -> None:
    model = vlm(build)
    requests = [(resized(image_input, number), sampling) for number, sampling in enumerate(samplings(20))]
    together = model.describe(requests)
    assert all(text.problem is None and text.tokens >= 1 and text.prompt_tokens > 100 for text in together)
    assert len({text.text for text in together}) > 5
    assert [model.describe([requests[number]])[0] for number in PICKED] == [together[number] for number in PICKED]


@pytest.mark.parametrize("build", architectures.LLMS, ids=lambda build: build.__name__)
def test_the_text_of_an_llm_does_not_depend_on_the_batch(build, sandbox, tokenizer_of, tmp_path) -> None:
    tokenizer = tokenizer_of(None)
    torch.manual_seed(0)
    build(tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    checkpoint = find_checkpoint(sandbox.config(), str(tmp_path))
    llm = Llm(checkpoint, settings(tmp_path, "fuse"), load_prompt("fuse"), 512)
    pairs = [(f"Name {number} " * (number % 7 + 1), "two red tulips " * (number % 3 + 1)) for number in range(20)]
    requests = list(zip(pairs, samplings(20), strict=True))
    together = llm.fuse(requests)
    assert len({text.text for text in together}) > 5
    assert [llm.fuse([requests[number]])[0] for number in PICKED] == [together[number] for number in PICKED]


def test_a_model_runs_in_bfloat16_with_sdpa(vlm, image_input) -> None:
    model = vlm(architectures.llava_next, dtype="bfloat16")
    texts = model.describe([(resized(image_input, number), GREEDY) for number in range(5)])
    assert all(text.tokens >= 1 for text in texts)
    loaded = model.generator.model
    assert loaded.dtype == torch.bfloat16
    assert {part._attn_implementation for part in (loaded.config.text_config, loaded.config.vision_config)} == {"sdpa"}


class SmallDevice:
    """A model that runs out of memory above *rows* rows. Simulated, because tests have no GPU to fill."""

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
def test_a_batch_too_large_for_memory_is_halved_and_no_text_is_lost(build, vlm, image_input, caplog) -> None:
    model = vlm(build, batch_size=32)
    requests = [(resized(image_input, number), sampling) for number, sampling in enumerate(samplings(40))]
    expected = model.describe(requests)
    model.generator.model = device = SmallDevice(model.generator.model, 5)
    assert model.describe(requests) == expected
    assert max(size for size in device.sizes if size <= 5) == 4
    assert sum(size > 5 for size in device.sizes) <= 4  # a batch size that does not fit is not retried
    assert "continuing with 4" in caplog.text


def test_a_row_too_large_for_memory_is_an_error(vlm, image_input) -> None:
    model = vlm(architectures.blip2)
    model.generator.model = SmallDevice(model.generator.model, 0)
    with pytest.raises(VecapError, match=r"too little memory for one row of .*; use a smaller model") as exc_info:
        model.describe([(resized(image_input, number), GREEDY) for number in range(3)])
    assert "\n" not in str(exc_info.value)


def test_samples_follow_the_distribution_of_the_scores() -> None:
    from vecap_tasks.rewrite.backends.transformers import GumbelSampler

    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    rows = 20_000
    for temperature in (1.0, 0.5):
        process = GumbelSampler([Sampling(0, temperature, seed) for seed in range(rows)], torch.device("cpu"))
        for _ in range(2):  # steps
            samples = process(torch.zeros((rows, 1), dtype=torch.int64), probabilities.log().repeat(rows, 1)).argmax(1)
            expected = torch.softmax(probabilities.log() / temperature, 0)
            assert torch.allclose(samples.bincount(minlength=4) / rows, expected, atol=0.015)


def test_samples_depend_only_on_seed_and_step() -> None:
    from vecap_tasks.rewrite.backends.transformers import GumbelSampler

    scores = torch.zeros((3, 1000))
    process = GumbelSampler([Sampling(0, 1.0, 7), Sampling(0, 1.0, 8), Sampling(0, 1.0, 7)], torch.device("cpu"))
    first, second = process(None, scores), process(None, scores)
    assert torch.equal(first[0], first[2])
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], second[0])
    assert torch.isfinite(first).all()
    single = GumbelSampler([Sampling(0, 1.0, 7)], torch.device("cpu"))
    assert torch.equal(single(None, scores[:1])[0], first[0])
