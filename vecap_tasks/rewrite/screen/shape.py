"""Rules for the shape of a text: empty, repetitive, too long or cut off."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from vecap_tasks.rewrite.screen.fragment import incomplete_beginning, incomplete_ending
from vecap_tasks.rewrite.screen.text import WORD, Answer, words

_LETTERS = re.compile(r"([^\W\d_])\1{7,}|([^\W_]{2,3})\2{7,}", re.IGNORECASE)
# Words that songs, titles and laughter repeat.
_CHANT_LIST = """
ha hah haha he hee hey ho hoo la na nah no yes yeah da do doo cha bla blah row bye knock woof meow moo tweet beep
boop buzz honk tick tock ding dong quack oink baa choo chugga go zzz ooh oh ah whoa wow run boo xo ring sha girls
turn
"""
_CHANTS = frozenset(_CHANT_LIST.split())
_STOP_WORDS = frozenset(("the", "a", "an", "of", "and", "in", "on", "with", "is", "to"))
_LONG_PERIOD = 6  # words; a phrase this long must not repeat at all
_MAX_PERIOD = 40  # words
_MAX_4GRAM_COUNT = 4  # occurrences of a 4-gram, adjacent or not
_MIN_DISTINCT_SHARE = 0.34  # distinct words in a long text
_MIN_LONG_WORDS = 24  # words of a long text

_OPEN_PUNCTUATION = re.compile(r"[,;:，、；：(（\[{‘«„「『《〈【&+/=–—]\s*$|[“\"]$(?<=\s.)|(?<![\d\w])-\s*$|\s-\s*$")
_CLOSING_PUNCTUATION = re.compile(r"[,;，、；)\]}）」』》〉】。](?![-'])|-[a-zà-öø-ÿğış]")
_FULL_STOP = re.compile(r"[.!?…。！？．](?:[\"”“»’)\]）」』]|\s»)*\s*$")
_INCHES = re.compile(r"\d\s?\"")
_PAIRS = ("「」", "『』", "《》", "【】", "（）", "〈〉", "«»")

def empty(answer: Answer) -> str | None:
    """Reject a text without letters and digits.

    >>> empty(Answer(" ... !"))
    'empty'
    >>> empty(Answer("7"))
    """
    return None if WORD.search(answer.text) else "empty"


def loop(answer: Answer) -> str | None:
    """Reject repetition as in greedy decoding, unless the AltText repeats the same words.

    >>> loop(Answer("a 2 2 2 2"))
    'loop'
    >>> loop(Answer("a cat on a mat on a mat on a mat"))
    'loop'
    >>> loop(Answer("the band The The on stage in New York, New York"))
    >>> loop(Answer("Tora! Tora! Tora! film poster, knock knock"))
    >>> loop(Answer("Row, row, row, row your boat song book"))
    """
    tokens = words(answer.text)
    source = " ".join(words(answer.data))
    repeats = len(tokens) - len(set(tokens))
    if any(not _CHANTS.issuperset(run) and " ".join(run) not in source for run in _repeated_runs(tokens, repeats)):
        return "loop"
    data = answer.data.lower()
    if any(letters not in data for letters in {match.group().lower() for match in _LETTERS.finditer(answer.text)}):
        return "loop"
    fours = (
        Counter(zip(tokens, tokens[1:], tokens[2:], tokens[3:], strict=False))
        if repeats >= _MAX_4GRAM_COUNT - 1
        else {}
    )
    if any(count >= _MAX_4GRAM_COUNT and " ".join(run) not in source for run, count in fours.items()):
        return "loop"
    return "loop" if len(tokens) >= _MIN_LONG_WORDS and len(set(tokens)) < _MIN_DISTINCT_SHARE * len(tokens) else None


def _repeated_runs(tokens: Sequence[str], repeats: int) -> Iterator[Sequence[str]]:
    """Yield each run that repeats too often: one word four times, two to five words three times, longer runs twice.

    A run is as long as possible. *repeats* is the number of words that occurred before.
    """
    for period in range(1, min(_MAX_PERIOD, len(tokens) // 2, repeats) + 1):
        if period * (_max_repeats(period, "the") - 1) > repeats:
            continue
        same = 0
        for index in range(period, len(tokens) + 1):
            if index < len(tokens) and tokens[index] == tokens[index - period]:
                same += 1
            else:
                if same and same >= period * (_max_repeats(period, tokens[index - 1]) - 1):
                    yield tokens[index - same - period : index]
                same = 0


def _max_repeats(period: int, word: str) -> int:
    """Return the number of consecutive occurrences that is too many."""
    if period == 1:
        return 3 if word in _STOP_WORDS else 4
    return 3 if period < _LONG_PERIOD else 2


def too_long(answer: Answer) -> str | None:
    """Reject more than `max_words` words, or 10 * `max_words` characters for scripts without spaces.

    >>> too_long(Answer("word " * 81))
    'too_long'
    >>> too_long(Answer("word " * 80))
    """
    limit = answer.settings.max_words
    return "too_long" if len(answer.text.split()) > limit or len(answer.text.strip()) > 10 * limit else None


def cut_off(answer: Answer) -> str | None:
    """Reject a text that hit the token limit, stops in the middle of a phrase or begins in mid-sentence.

    >>> cut_off(Answer("A cat on a mat", ended=False))
    'cut_off'
    >>> cut_off(Answer("A cat on a mat and the"))
    'cut_off'
    >>> cut_off(Answer('A sign that reads "Keep calm and carry'))
    'cut_off'
    >>> cut_off(Answer("and is parked next to a house."))
    'cut_off'
    >>> cut_off(Answer("The stuff dreams are made of"))
    >>> cut_off(Answer('A 22" balloon, the house we live in...'))
    >>> cut_off(Answer("A poster of the band The The"))
    """
    if not answer.ended:
        return "cut_off"
    text = answer.text.strip()
    if _OPEN_PUNCTUATION.search(text) or _CLOSING_PUNCTUATION.match(text) or incomplete_beginning(answer):
        return "cut_off"
    if _FULL_STOP.search(text):
        return None
    return "cut_off" if incomplete_ending(answer) or _has_open_quote(text) else None


def _has_open_quote(text: str) -> bool:
    """Return whether a quotation or a parenthesis is not closed; an inch mark and an emoticon are neither."""
    quotes = text.count('"')
    if "„" in text:  # „German“, „Polish”, „mixed"
        if text.count("„") > text.count("“") + text.count("”") + quotes:
            return True
    elif text.count("“") > text.count("”") + quotes:
        return True
    elif quotes % 2 and not _INCHES.search(text):
        return True
    if not text.isascii() and any(text.count(left) > text.count(right) for left, right in _PAIRS):
        return True
    return re.search(r"(?<![:;=8])[(\[][^)\]]*$", text) is not None
