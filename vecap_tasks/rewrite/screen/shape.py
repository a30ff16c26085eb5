"""Rules for the shape of a text: empty, repetitive, too long or cut off."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

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

# Words that cannot end a caption, except after the listed words: "the stuff dreams are made of".
_INCOMPLETE_ENDINGS: dict[str, str] = {
    **dict.fromkeys(
        ("an", "the", "and", "or", "nor", "my", "your", "our", "their", "its", "whose", "every", "very"), ""
    ),
    **dict.fromkeys(("into", "onto", "toward", "towards", "amid", "among", "via", "beside", "between", "against"), ""),
    **dict.fromkeys(("is", "are", "was", "were", "has", "have", "featuring", "including", "because", "while"), ""),
    "a": "vitamin plan type class grade group section team hepatitis size letter series model line level option part "
    "block exhibit form side point unit zone serie liga division",
    "of": "made proud afraid aware dreamt dreamed dream dreams capable care think thought speak heard hear know known "
    "fond tired sick best hold rid sort kind worthy full consists most because inside outside front ahead course",
    "with": "play live go goes deal work mess messed love come came comes sleep begin start along friends fall hang do "
    "cook write paint playing dealing working obsessed reckoned travel hunt fish be together covered filled up",
    "at": "look looking looks looked laugh good it's you're arrive stare staring stay aim point pointed laughed best",
    "to": "listen listening live look looking belong belongs been used want wants love going need have close closed "
    "next sold known similar according up talk say back turn return dance go hold try able how what when due",
    "by": "passed swim driven stand standing passing swung goes went go pass passes close near live lived stop drop "
    "flew fly walk walking walked ride riding swing signed written designed",
    "for": "look looking wait waiting known asked ask care cared famous used paid pay hoped live fighting fight died "
    "die worth wish wished list going made meant built there searching vote voted",
    "from": "come comes came drink hear away far choose learn read made back up it out",
    "as": "known such described",
    "after": "running run runs look looking looked named morning day night and ever soon shortly long happily chasing",
    "than": "bigger more better less other rather",
    "each": "one two from us of for",
    "both": "of for from",
}
_ALLOWED_BEFORE = {word: frozenset(before.split()) for word, before in _INCOMPLETE_ENDINGS.items()}
_RELATIVE_WORDS = frozenset(("what", "how", "who", "where", "wherever", "whatever", "everything", "all", "than"))
_OPEN_PUNCTUATION = re.compile(r"[,;:(\[{“‘&+/=–—]\s*$|(?<![\d\w])-\s*$|\s-\s*$")
_FULL_STOP = re.compile(r"[.!?…][\"”'’)\]]*\s*$")
_INCHES = re.compile(r"\d\s?\"")


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
    """Reject a text that hit the token limit or whose ending is incomplete.

    >>> cut_off(Answer("A cat on a mat", ended=False))
    'cut_off'
    >>> cut_off(Answer("A cat on a mat and the"))
    'cut_off'
    >>> cut_off(Answer('A sign that reads "Keep calm and carry'))
    'cut_off'
    >>> cut_off(Answer("The stuff dreams are made of"))
    >>> cut_off(Answer('A 22" balloon, the house we live in...'))
    >>> cut_off(Answer("A poster of the band The The"))
    """
    if not answer.ended:
        return "cut_off"
    text = answer.text.rstrip()
    if _OPEN_PUNCTUATION.search(text):
        return "cut_off"
    if _FULL_STOP.search(text):
        return None
    if _ends_incomplete(text) and not _ends_like_source(text, answer):
        return "cut_off"
    quotes = text.count('"')
    if quotes % 2 and not _INCHES.search(text):
        return "cut_off"
    if text.count("“") > text.count("”") + text.count('"'):
        return "cut_off"
    return "cut_off" if re.search(r"(?<![:;=8])[(\[][^)\]]*$", text) else None


def _ends_incomplete(text: str) -> bool:
    """Return whether the last word is lower case and requires another word; False for "what it is"."""
    end = text.split()[-5:]
    if not end or end[-1] not in _ALLOWED_BEFORE:
        return False
    before = [word.strip(",.;:\"'").lower() for word in end[:-1]]
    return not (before and before[-1] in _ALLOWED_BEFORE[end[-1]]) and _RELATIVE_WORDS.isdisjoint(before)


def _ends_like_source(text: str, answer: Answer) -> bool:
    """Return whether a source ends with the same three words, so that the model did not cut the text off."""
    end = words(text)[-3:]
    return any(words(source)[-3:] == end for source in (answer.alttext, answer.vec) if source)
