"""The demo models, loaded by the code that also loads LLaVA and Vicuna."""

import random
from itertools import islice
from pathlib import Path

import pytest

from tools.demo_models.captions import PROMPTS
from tools.demo_models.fusion_pairs import Pair, held_out_pairs, known_name
from tools.demo_models.llm import FUSE_PROMPT
from tools.demo_models.measure import as_crawled, held_out
from vecap_tasks.config import Config, load_config
from vecap_tasks.core.models import find_checkpoint
from vecap_tasks.rewrite.accepted_rows import ImageInput, Row
from vecap_tasks.rewrite.backends.sampling_params import GREEDY
from vecap_tasks.rewrite.llm import Llm
from vecap_tasks.rewrite.prompt import load_prompt
from vecap_tasks.rewrite.screen import screen_vec, screen_vecap
from vecap_tasks.rewrite.vlm import Vlm

CONFIG = Path(__file__).parents[2] / "configs" / "demo.yaml"


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(CONFIG)


@pytest.fixture(scope="module")
def vlm(config: Config) -> Vlm:
    settings = config.rewrite.vlm
    return Vlm(find_checkpoint(config, settings.model), settings, load_prompt(settings.prompt))


@pytest.fixture(scope="module")
def llm(config: Config) -> Llm:
    settings = config.rewrite.llm
    limit = config.rewrite.max_alttext_chars
    return Llm(find_checkpoint(config, settings.model), settings, load_prompt(settings.prompt), limit)


@pytest.fixture(scope="module")
def images() -> list[ImageInput]:
    drawn = [as_crawled(scene) for scene in held_out(70, 5)]
    return [ImageInput(Row(str(number), "", str(number), None, ""), image) for number, image in enumerate(drawn)]


@pytest.fixture(scope="module")
def pairs() -> list[tuple[str, str]]:
    def texts(pair: Pair) -> tuple[str, str]:
        return pair.alttext, pair.vec

    return list(dict.fromkeys(map(texts, islice(held_out_pairs(random.Random(3), known_name), 150))))


def test_demo_prompts_are_the_training_prompts(config: Config) -> None:
    assert load_prompt(config.rewrite.vlm.prompt).text in PROMPTS
    assert load_prompt(config.rewrite.llm.prompt).text == FUSE_PROMPT


def test_an_image_gets_the_same_vec_alone_and_in_a_batch(vlm: Vlm, images: list[ImageInput]) -> None:
    together = vlm.describe((image, GREEDY) for image in images)
    for number in (0, 31, 63, 64, 69):
        assert vlm.describe([(images[number], GREEDY)]) == [together[number]]


def test_a_pair_gets_the_same_vecap_alone_and_in_a_batch(llm: Llm, pairs: list[tuple[str, str]]) -> None:
    together = llm.fuse([(pair, GREEDY) for pair in pairs])
    for number in range(0, len(pairs), 30):
        assert llm.fuse([(pairs[number], GREEDY)]) == [together[number]]


def test_demo_captions_pass_screening(
    vlm: Vlm, llm: Llm, images: list[ImageInput], pairs: list[tuple[str, str]]
) -> None:
    question = load_prompt("describe").text
    for text in vlm.describe((image, GREEDY) for image in images):
        assert screen_vec(text.text, text.ended, question).problem is None
    problems = [
        screen_vecap(text.text, text.ended, FUSE_PROMPT, *pair).problem
        for pair, text in zip(pairs, llm.fuse([(pair, GREEDY) for pair in pairs]), strict=True)
    ]
    assert len(problems) == len(pairs)
    assert sum(problem is None for problem in problems) >= 0.97 * len(pairs)
