"""Screening rejects bad captions and keeps good ones, including unusual ones."""

import doctest
import importlib
import pkgutil
import shutil
import time
import typing
from importlib.resources import files

import pytest

from benchmarks.screening import PARTS, languages, pooled, read_examples, score
from tests.conftest import DEMO
from vecap_tasks.config import ScreenConfig, ScreenRule, load_config
from vecap_tasks.core.word_lists import lists_digest
from vecap_tasks.errors import ConfigError
from vecap_tasks.rewrite import screen
from vecap_tasks.rewrite.prompt import load_prompt
from vecap_tasks.rewrite.screen import RULES, Answer, Screened, screen_alttext, screen_vec, screen_vecap
from vecap_tasks.rewrite.screen.concepts import meaning_of
from vecap_tasks.rewrite.screen.identification import MODEL

PROMPT = load_prompt("fuse-vicuna").text
MODULES = tuple(module.name for module in pkgutil.iter_modules(screen.__path__))


@pytest.mark.parametrize("module", MODULES)
def test_rule_docstrings_are_correct(module: str) -> None:
    results = doctest.testmod(importlib.import_module(f"vecap_tasks.rewrite.screen.{module}"))
    assert results.failed == 0


def test_rule_docstrings_show_rejected_and_kept_texts() -> None:
    for name, rule in RULES.items():
        examples = doctest.DocTestFinder().find(rule)[0].examples
        assert any(example.want for example in examples), name
        assert any(not example.want and name in example.source for example in examples), name


def test_all_rules_but_private_data_can_be_disabled() -> None:
    assert typing.get_args(ScreenRule) == tuple(rule for rule in RULES if rule != "private_data")
    with pytest.raises(ConfigError) as exc_info:
        load_config(DEMO, ["rewrite.screen.disabled_rules=[url, private_data]"])
    assert str(exc_info.value) == (
        f"{DEMO}: rewrite.screen.disabled_rules: private_data cannot be disabled, because texts with private data are "
        "never published; remove it"
    )


@pytest.mark.parametrize("part", PARTS)
def test_rules_reach_their_precision_and_recall(part: str) -> None:
    """Other languages than English have 10 to 32 sealed examples per rule, so that one error is 3 to 10 %."""
    scores = [item for language in languages(part) for item in score(language, read_examples(part, language))]
    for item in [*pooled(scores), *(item for item in scores if item.language == "en")]:
        assert item.precision >= 0.95, (item.language, item.rule, item.wrong)
        assert item.recall >= 0.9, (item.language, item.rule, item.missed)
    for item in scores:
        assert item.precision >= 0.85 or len(item.wrong) == 1, (item.language, item.rule, item.wrong)
        assert item.recall >= 0.85 or len(item.missed) == 1, (item.language, item.rule, item.missed)


def test_the_examples_are_distinct() -> None:
    for part in PARTS:
        for language in languages(part):
            examples = read_examples(part, language)
            assert len({(example.rule, example.answer) for example in examples}) == len(examples), language


def test_english_examples_cover_every_rule() -> None:
    examples = read_examples("tuned", "en")
    for rule in RULES:
        assert any(example.rule == rule and example.verdict == "keep" for example in examples), rule
        assert any(example.rule == rule and example.verdict != "keep" for example in examples), rule


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("A kitten curled up on the couch", True),  # a hyponym, a synonym and a replaced verb
        ("Cats on sofas", True),
        ("A puppy asleep on a sofa", True),  # no rule detects a wrong animal
        ("A truck in the rain", False),
        ("Sale", False),
    ],
)
def test_concepts_match_synonyms(text: str, kept: bool) -> None:
    problem = screen_vecap(text, True, PROMPT, "", "a small cat sleeping on a sofa").problem
    assert problem == (None if kept else "drops_vec")


def test_a_short_caption_of_a_long_vec_is_kept() -> None:
    vec = (
        "The image features a child sitting at a table with a cake in front of her. There are six lit candles on the "
        "cake, balloons are tied to the chair, and several people in paper hats stand around a pile of presents."
    )
    assert screen_vecap("A child blows out candles on a cake as guests watch", True, PROMPT, "", vec).problem is None
    assert screen_vecap("A child in a room", True, PROMPT, "", vec).problem == "drops_vec"


def test_a_text_at_the_token_limit_is_cut_off_unless_an_earlier_rule_applies() -> None:
    assert screen_vec("a cat on a mat", False, PROMPT).problem == "cut_off"
    assert screen_vec("a 2 2 2 2 2 2", False, PROMPT).problem == "loop"


@pytest.mark.parametrize(
    ("alttext", "problem"),
    [
        ("A view of the", None),  # AltTexts are often fragments
        ("Beagle, Tess, 2019", None),
        ("Beagle, call 212-555-0142", "private_data"),
        ("Beagle, see www.dogs.example/beagle", "url"),
        ("I'm sorry, but I can't describe this image.", "refusal"),
        ("Ein roter Hund vor dem Schloß", "language"),
    ],
)
def test_an_alttext_that_becomes_the_caption_is_screened(alttext: str, problem: str | None) -> None:
    assert screen_alttext(alttext).problem == problem
    is_private = problem == "private_data"
    disabled = ScreenConfig(disabled_rules=typing.get_args(ScreenRule))
    assert screen_alttext(alttext, disabled).problem == (problem if is_private else None)


def test_a_text_without_its_preamble_is_screened() -> None:
    assert screen_vec("Caption: a cat on a mat", True, PROMPT) == Screened("a cat on a mat", "preamble_stripped")
    assert screen_vec("Caption: a cat on a", True, PROMPT) == Screened(None, "cut_off")
    assert screen_vec("Caption: a 2 2 2 2", True, PROMPT) == Screened(None, "loop")
    strict = ScreenConfig(strip_preamble=False)
    assert screen_vec("Caption: a cat on a mat", True, PROMPT, strict) == Screened(None, "preamble")


def test_prompt_words_that_the_sources_contain_are_not_a_leak() -> None:
    phrase = "Leave out file names, prices, shop talk"
    assert phrase in PROMPT
    assert screen_vecap(f"{phrase}, a poster with a cat", True, PROMPT, f"{phrase} poster", "a cat").problem is None
    assert screen_vecap(f"{phrase}, a poster with a cat", True, PROMPT, "a poster", "a cat").problem == "prompt_leak"
    assert screen_vecap(f"{phrase}, a poster with a cat", True, "Merge.", "a poster", "a cat").problem is None


def test_without_a_vec_the_caption_is_compared_with_the_alttext() -> None:
    assert screen_vecap("A Belvo tulip in bloom", True, PROMPT, "Belvo tulip", "").problem is None
    assert screen_vecap("A tulip from Holland in bloom", True, PROMPT, "Belvo tulip", "").problem == "invented"


@pytest.mark.parametrize(
    ("settings", "text", "problem"),
    [
        ({"max_words": 3}, "a cat on a mat", "too_long"),
        ({"leak_words": 3}, "a cat, keep every object of the description", "prompt_leak"),
        ({"min_vec_kept": 1.0}, "a cat", "drops_vec"),
        ({"min_vec_kept": 0.0}, "nothing of it", None),
        ({"max_new_names": 1}, "a cat on a mat in Rome", None),
        ({"languages": ("de",)}, "the cat and the dog are on the mat with a toy", "language"),
        ({"languages": ("ru",)}, "a cat on a mat", "language"),
        ({"languages": ("de", "en")}, "Ein Hund und eine Katze liegen auf der cat mat", None),
        ({"languages": ()}, "cat 猫坐在垫子上猫坐在垫子上 mat", None),
        ({"disabled_rules": ("url",)}, "a cat on a mat, www.example.com", None),
        ({"disabled_rules": ("preamble",)}, "Caption: a cat on a mat", None),
    ],
)
def test_thresholds_are_configurable(settings, text: str, problem: str | None) -> None:
    prompt = "Keep every object of the description."
    result = screen_vecap(text, True, prompt, "a cat", "cat mat", ScreenConfig(**settings))
    assert result == Screened(None if problem else text, problem)


def test_screening_settings_are_part_of_the_identity() -> None:
    values = ScreenConfig().model_dump(mode="json")
    values["off"] = values.pop("disabled_rules")
    assert screen.identity(ScreenConfig()) == screen.rules_identity() | {"language_model": MODEL} | values
    for without in (ScreenConfig(languages=()), ScreenConfig(disabled_rules=("language",))):
        assert "language_model" not in screen.identity(without)
    assert screen.identity(ScreenConfig(max_words=60)) != screen.identity(ScreenConfig())


def test_a_changed_list_changes_the_identity(tmp_path, monkeypatch) -> None:
    copies = {screen.DATA: "screening_lists", screen.PRIVATE_DATA: "private_lists"}
    for package, name in copies.items():
        shutil.copytree(str(files(package).joinpath("data")), tmp_path / name / "data")
        (tmp_path / name / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    before = screen.rules_identity()
    monkeypatch.setattr(screen, "DATA", "screening_lists")
    monkeypatch.setattr(screen, "PRIVATE_DATA", "private_lists")
    assert screen.rules_identity() == before
    for name in ("private_lists/data/private/en.txt", "screening_lists/data/talk/de.txt"):
        digest = lists_digest.__wrapped__(*copies.values())
        with (tmp_path / name).open("a") as file:
            file.write("# a comment\n")
        assert lists_digest.__wrapped__(*copies.values()) == digest
        with (tmp_path / name).open("a") as file:
            file.write("new: word\n")
        assert lists_digest.__wrapped__(*copies.values()) != digest


def test_rules_accept_unusual_texts_without_errors() -> None:
    odd = ["", " ", "'", '"', "“", "(", "@", "+", "0" * 5000, "a" * 5000, "\u202e", "é" * 3000, '"' * 999, "a " * 3000]
    for text in (*odd, "<" * 3000, "[" * 3000, "here is a " * 800, "+1 " * 900, "a.b." * 900 + "com", "a@" * 2000):
        for rule in RULES.values():
            rule(Answer(text, True, PROMPT, text, text))


@pytest.mark.parametrize(
    "piece", ["New York", "ha ", "é", "I cannot see the image. ", "(", "a-", "based on the ", "1 "]
)
def test_a_very_long_text_is_too_long_in_bounded_time(piece: str) -> None:
    started = time.process_time()
    for text in (piece * (4_000_000 // len(piece)), (piece * 4_000)[:4_000]):
        disabled = ScreenConfig(disabled_rules=("too_long",))
        for result in (screen_vec(text, True, PROMPT, disabled), screen_vecap(text, True, PROMPT, text[:900], "a cat")):
            assert result.text is None or len(text) == 4_000
    assert time.process_time() - started < 3
    assert screen_vec("x" * 4_001, True, PROMPT, disabled) == Screened(None, "too_long")


def test_a_long_word_of_an_alttext_takes_little_time_and_memory() -> None:
    alttext = "A sign " + "2017harbor" * 30_000  # without max_alttext_chars
    started = time.process_time()
    assert screen_vecap("A sign", True, PROMPT, alttext, "a sign").text == "A sign"
    assert time.process_time() - started < 3
    assert meaning_of("harbor" * 20) == meaning_of("zzzz")
