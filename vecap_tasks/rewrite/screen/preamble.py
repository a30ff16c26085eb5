"""Rules for assistant talk: refusals, preambles such as "Sure! Here is …", and leaks of the prompt."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from vecap_tasks.rewrite.screen.talk import (
    begins,
    can_begin_with_head,
    is_empty_answer,
    is_head,
    is_opening,
    masked,
    matches,
    talks_of,
)
from vecap_tasks.rewrite.screen.text import QUOTED_CHARACTER, Answer, without_quotes, words

_MAX_HEAD_CHARS = 220
_SEPARATOR = re.compile(
    rf"[:：】\]→]|\*\*(?=\s)|[—–]+|-(?<=\s-)-?(?=\s)|{QUOTED_CHARACTER}(?<=[\s!.。！]{QUOTED_CHARACTER}){QUOTED_CHARACTER}*[.!。]?\Z"
)
_FIRST_SENTENCE = re.compile(r"[^.!。！]*[.!。！]+\s*")
_EXCLAMATION = re.compile(r"\s*!+\s*")
_MARKS = " *_#"  # of Markdown


def without_preamble(answer: Answer) -> str | None:
    """Return the caption after a preamble with a clear end, or None if there is no such preamble.

    Also removes quotation marks around the whole caption.

    >>> without_preamble(Answer("Sure! Here is the rewritten sentence: A cat on a mat."))
    'A cat on a mat.'
    >>> without_preamble(Answer('Caption: "A cat on a mat."'))
    'A cat on a mat.'
    >>> without_preamble(Answer("【Caption】 A cat on a mat."))
    'A cat on a mat.'
    >>> without_preamble(Answer("Here are two cats: a red one and a white one"))
    >>> without_preamble(Answer("Sure Thing album cover"))
    """
    end = _preamble_end(answer)
    return without_quotes(answer.text[end:].strip(_MARKS)).strip(_MARKS) or None if end else None


def _preamble_end(answer: Answer) -> int:
    """Return the index after a preamble that ends with a colon, a dash, an opening quotation mark or an assent."""
    if not can_begin_with_head(answer):
        return 0
    text = masked(answer.text)
    for separator in _SEPARATOR.finditer(text, 0, _MAX_HEAD_CHARS):
        head = text[: separator.start()]
        if is_head(head, answer):
            quoted = separator.group().startswith(QUOTED_CHARACTER)
            return 0 if answer.quotes(head) else separator.start() if quoted else separator.end()
    first = _FIRST_SENTENCE.match(text)
    if first is None or answer.quotes(first.group()) or answer.text[first.end() : first.end() + 1].islower():
        return 0
    return first.end() if is_opening(first.group(), talks_of(answer.settings.languages), ("assent",)) else 0


def preamble(answer: Answer) -> str | None:
    """Reject a text that still has a preamble: one without a clear end, or one that is the whole text.

    The phrases are in the section `preamble` of `data/talk`.

    >>> preamble(Answer("Here is a caption that combines both texts about a cat."))
    'preamble'
    >>> preamble(Answer("Caption:"))
    'preamble'
    >>> preamble(Answer("Here are two cats"))
    >>> preamble(Answer("Here is where the river bends"))
    >>> preamble(Answer("Certainly not a dog"))
    >>> preamble(Answer("No problem! sign on a bus"))
    """
    found = matches(answer, "preamble", "closing")
    if any(begins(match, answer) and not _continues(match, answer) for match in found):
        return "preamble"
    if not can_begin_with_head(answer):
        return None
    if _preamble_end(answer):
        return "preamble"
    text = masked(answer.text)
    alone = len(text) <= _MAX_HEAD_CHARS and is_head(text, answer, alone=True)
    return "preamble" if alone and not answer.quotes(text) else None


def _continues(match: re.Match[str], answer: Answer) -> bool:
    """Return whether the text goes on with a small letter after a phrase with an exclamation mark."""
    exclamation = _EXCLAMATION.match(answer.text, match.end())
    return exclamation is not None and answer.text[exclamation.end() :][:1].islower()


def prompt_leak(answer: Answer) -> str | None:
    """Reject `leak_words` consecutive words that only the prompt contains, or talk about sources, task or answer.

    >>> prompt_leak(Answer("A cat on a mat, as mentioned in the first sentence."))
    'prompt_leak'
    >>> prompt_leak(Answer("The image, based on the description provided, shows a cat."))
    'prompt_leak'
    >>> prompt_leak(Answer("A cat put in the names of the text", prompt="Then put in the names of the text"))
    'prompt_leak'
    >>> prompt_leak(Answer("A meme of a cat; the caption reads 'Monday'"))
    >>> prompt_leak(Answer("The first sentence of Moby Dick printed on a mug"))
    >>> prompt_leak(Answer("a page with a description in small print"))
    """
    if any(matches(answer, "leak", "closing")):
        return "prompt_leak"
    length = answer.settings.leak_words
    if not _has_run(words(answer.text), _prompt_words(answer.prompt), length):
        return None
    leaked = _ngrams(answer.text, length) & _prompt_ngrams(answer.prompt, length)
    return "prompt_leak" if leaked and leaked - _ngrams(answer.data, length) else None


def _has_run(tokens: Iterable[str], known: frozenset[str], length: int) -> bool:
    """Return whether *length* consecutive *tokens* are *known*, without which no n-gram of them is."""
    run = 0
    for token in tokens:
        run = run + 1 if token in known else 0
        if run >= length:
            return True
    return False


@lru_cache(maxsize=16)
def _prompt_words(prompt: str) -> frozenset[str]:
    return frozenset(words(prompt))


@lru_cache(maxsize=16)
def _prompt_ngrams(prompt: str, length: int) -> frozenset[tuple[str, ...]]:
    return _ngrams(prompt, length)


def _ngrams(text: str, length: int) -> frozenset[tuple[str, ...]]:
    tokens = words(text)
    return frozenset(tokens[index : index + length] for index in range(len(tokens) - length + 1))


def refusal(answer: Answer) -> str | None:
    """Reject refusals, empty answers, requests for the image, and self-descriptions of an assistant.

    The phrases are in the section `refusal` of `data/talk`. Quoted text and text of the sources do not count.

    >>> refusal(Answer("I'm sorry, but I cannot see the image."))
    'refusal'
    >>> refusal(Answer("As an AI language model, I don't have eyes."))
    'refusal'
    >>> refusal(Answer("There is no image provided."))
    'refusal'
    >>> refusal(Answer("null"))
    'refusal'
    >>> refusal(Answer("A white shirt that reads Sorry I'm late, I didn't want to come"))
    >>> refusal(Answer("Sorry I'm late, I didn't want to come t-shirt in black"))
    >>> refusal(Answer("I can't keep calm, I'm a teacher mug on a desk"))
    >>> refusal(Answer("As an AI researcher, Jane Roe speaks on a stage"))
    """
    return "refusal" if is_empty_answer(answer) or any(matches(answer, "refusal")) else None
