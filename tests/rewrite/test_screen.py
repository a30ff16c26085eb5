"""Screening speaks up for what is wrong and keeps quiet about good captions, however odd."""

import pytest

from vecap_tasks.rewrite.screen import content_words, screen_vec, screen_vecap

PROMPT = "Fuse the alt text and the description into one caption. Keep the names of the alt text."

BAD = [
    ("", "empty"),
    (" ... !", "empty"),
    ("I'm sorry, but I cannot see the image.", "refusal"),
    ("I am sorry, I can not help with that", "refusal"),
    ("I cannot describe people in images", "refusal"),
    ("Sorry, I am unable to view it", "refusal"),
    ("As an AI language model, I do not have eyes", "refusal"),
    ("Unfortunately, there is no image", "refusal"),
    ("Sure! A cat on a mat", "preamble"),
    ("Here is a concise caption: a cat on a mat", "preamble"),
    ("Here's the fused description of the two: a cat", "preamble"),
    ("Caption: a cat on a mat", "preamble"),
    ("a 2 2 2 2", "loop"),
    ("a cat on a mat on a mat on a mat", "loop"),
    ("<b>a cat</b> on a mat", "markup"),
    ("a cat [on a mat](http://a.example)", "markup"),
    ("a cat\x07 on a mat", "markup"),
    ("a cat &amp; a mat", "markup"),
    ("a cat <|end|> on", "markup"),
    ("the cat that keep the names of the alt text", "prompt_leak"),
    ("a cat that fuse the alt text and the description into", "prompt_leak"),
    ("Alt text: cat on a mat", "prompt_leak"),
    (" ".join(f"word{number}" for number in range(81)), "too_long"),
]

GOOD = [
    "two red tulips left of a blue mug on grass",
    "I ♥ NY mug beside a laptop",
    "A sign that says: I am sorry",
    "Here is where the river bends",
    "Here are two cats",
    "Surely the oldest oak of England",
    "Absolutely Fabulous poster on a wall",
    "Certainly not a dog",
    "New York, New York hotel at night",
    "Tora! Tora! Tora! film poster",
    "one two, one two, buckle my shoe",
    "1 1 1 on the dice",
    "AT&T tower; a < b on the board",
    "Ein roter Hund vor dem Schloß",
    "富士山 at dawn",
    "a page with a description in small print",
    "Aileen, an AI researcher, at her desk",
]


@pytest.mark.parametrize(("text", "problem"), BAD)
def test_what_is_wrong_is_named(text: str, problem: str) -> None:
    assert screen_vec(text, True, PROMPT) == problem
    assert screen_vecap(text, True, PROMPT, "", "a cat on a mat") == problem


@pytest.mark.parametrize("text", GOOD)
def test_a_good_caption_passes(text: str) -> None:
    assert screen_vec(text, True, PROMPT) is None
    assert screen_vecap(text, True, PROMPT, "anything", text) is None


def test_a_text_without_its_end_is_cut_off() -> None:
    assert screen_vec("a cat on a", False, PROMPT) == "cut_off"
    assert screen_vec("a 2 2 2 2 2 2", False, PROMPT) == "loop"


def test_words_of_the_prompt_that_the_data_has_too_are_no_leak() -> None:
    alttext = "Keep the names of the alt text, a poster"
    assert screen_vecap(f"{alttext} with a cat", True, PROMPT, alttext, "a cat") is None
    assert screen_vecap("Keep the names of the alt text", True, PROMPT, "a poster", "names text") == "prompt_leak"


def test_a_fusion_that_loses_what_is_seen_is_refused() -> None:
    vec = "two red tulips left of a blue mug on grass"
    assert screen_vecap("Two red Belvo tulips left of a blue mug on grass", True, PROMPT, "Belvo tulips", vec) is None
    assert screen_vecap("Buy Belvo tulips now", True, PROMPT, "Belvo tulips", vec) == "drops_vec"


def test_content_words_know_plurals_and_leave_out_the_rest() -> None:
    assert content_words("The two foxes' dishes and a glass, beside the mug's handle") == {
        "two",
        "fox",
        "dish",
        "glass",
        "mug",
        "handle",
    }
