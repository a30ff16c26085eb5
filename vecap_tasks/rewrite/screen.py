"""Screening: what is wrong with a text that a model wrote. Each rule answers None or the name of a problem.

The rules are few and meant to be right when they speak: a good caption that is refused costs what a bad one costs.
They are this project's own choice. `REVISION` goes up when an answer changes; captions screened by another
revision are not reused.
"""

from __future__ import annotations

import re
from collections.abc import Callable

REVISION = 1

MAX_WORDS = 80  # CLIP reads 77 tokens
MIN_KEPT = 0.5  # share of the VeC's content words that a VeCap must hold
_LEAK_WORDS = 6  # words in a row that only the prompt can have given

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_REFUSAL = re.compile(
    r"^\W*(?:i['’]?m|i am|we['’]?re) (?:really |very |so )?sorry\b"
    r"|^\W*(?:sorry|unfortunately), (?:but )?(?:i|we|there|as)\b"
    r"|^\W*i (?:apologi[sz]e|can['’]?t|cannot|can not|do not|don['’]?t|am (?:not able|unable)|won['’]?t)\b"
    r"|\bas an? (?:ai|artificial intelligence|(?:large )?language model)\b"
    r"|\bi(?:['’]m| am) (?:just )?an? (?:ai|(?:large )?language model)\b",
    re.IGNORECASE,
)
_PREAMBLE = re.compile(
    r"^\W*(?:sure|certainly|of course|absolutely)\b\s*[!,.:]"
    r"|^\W*here(?:['’]s| is| are) (?:\w+ ){0,6}(?:captions?|descriptions?|sentences?|versions?|texts?|rewrites?)\b"
    r"|^\W*(?:the )?(?:\w+ )?(?:caption|description|answer|output)(?: is)?:",
    re.IGNORECASE,
)
_LABEL = re.compile(r"\b(?:alt[- ]?text|description|caption):|\b(?:the|this|an|your) alt text\b", re.IGNORECASE)
_MARKUP = re.compile(
    r"</?[a-z][^<>]*>|<\|.*?\|>|\[/?INST\]|```|!?\[[^\]]*\]\([^)]*\)|https?://|\*\*|^\s*#+ |&[a-z]+;"
    r"|[\x00-\x08\x0b-\x1f\x7f\ufffd]",
    re.IGNORECASE,
)
_LOOP = re.compile(r"(?<!\S)(\S+)(?:\s+\1){3,}(?!\S)|(?<!\S)(\S+(?:\s+\S+){1,7}?)(?:\s+\2){2,}(?!\S)", re.IGNORECASE)
# Words that say nothing of a picture on their own.
_FUNCTION = """
a an the and or of in on at to by for from with without is are was were be being it its this that these those there some
one as into over under near next beside behind above below left right front top there's which while
image picture photo photograph shows showing depicts scene background foreground
"""
_FUNCTION_WORDS = frozenset(_FUNCTION.split())

Rule = Callable[[str], str | None]


def empty(text: str) -> str | None:
    return None if _WORD.search(text) else "empty"


def refusal(text: str) -> str | None:
    return "refusal" if _REFUSAL.search(text) else None


def preamble(text: str) -> str | None:
    return "preamble" if _PREAMBLE.search(text) else None


def markup(text: str) -> str | None:
    return "markup" if _MARKUP.search(text) else None


def loop(text: str) -> str | None:
    """A word four times in a row, or two to eight words three times: "a 2 2 2 2"."""
    return "loop" if _LOOP.search(text) else None


def too_long(text: str) -> str | None:
    return "too_long" if len(text.split()) > MAX_WORDS else None


RULES: tuple[Rule, ...] = (empty, refusal, preamble, markup, loop, too_long)


def prompt_leak(text: str, prompt: str, data: str) -> str | None:
    """The text repeats six words in a row of *prompt* that *data* has not, or labels its parts as the prompt does."""
    if _LABEL.search(text) and not _LABEL.search(data):
        return "prompt_leak"
    leaked = _runs(text) & _runs(prompt)
    return "prompt_leak" if leaked - _runs(data) else None


def drops_vec(text: str, vec: str) -> str | None:
    """Fewer than half of the VeC's content words are left."""
    wanted = content_words(vec)
    if not wanted:
        return None
    return "drops_vec" if len(wanted & content_words(text)) < MIN_KEPT * len(wanted) else None


def screen_vec(text: str, ended: bool, prompt: str) -> str | None:
    """Return the first problem of a VeC, or None. *ended* is False where the model ran into its token limit."""
    return _first(text, ended) or prompt_leak(text, prompt, "")


def screen_vecap(text: str, ended: bool, prompt: str, alttext: str, vec: str) -> str | None:
    """Return the first problem of a VeCap, or None. *prompt* is without the data."""
    return _first(text, ended) or prompt_leak(text, prompt, f"{alttext}\n{vec}") or drops_vec(text, vec)


def content_words(text: str) -> frozenset[str]:
    """Return the words that name something, in lower case and without a plural's ending."""
    words = (word.lower().removesuffix("'s").removesuffix("’s") for word in _WORD.findall(text))
    return frozenset(_stem(word) for word in words if word not in _FUNCTION_WORDS)


def _stem(word: str) -> str:
    if len(word) > 4 and word.endswith(("ches", "shes", "sses", "xes")):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _first(text: str, ended: bool) -> str | None:
    for rule in RULES:
        problem = rule(text)
        if problem is not None:
            return problem
    return None if ended else "cut_off"


def _runs(text: str) -> frozenset[tuple[str, ...]]:
    words = [word.lower() for word in _WORD.findall(text)]
    return frozenset(tuple(words[place : place + _LEAK_WORDS]) for place in range(len(words) - _LEAK_WORDS + 1))
