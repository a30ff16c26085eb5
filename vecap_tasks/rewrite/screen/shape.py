"""Rules for the shape of a text: empty, repetitive, too long or cut off."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from vecap_tasks.rewrite.screen.fragment import incomplete_beginning, incomplete_ending
from vecap_tasks.rewrite.screen.text import WORD, Answer, words

_SPACELESS = "\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"  # scripts without spaces between words
_LETTER = rf"[^\W_{_SPACELESS}]"
_REPEATED_LETTERS = re.compile(  # in a word: "aaaaaaaa", "househousehousehousehouse"
    rf"((?!\d){_LETTER})\1{{7,}}|({_LETTER}{{2,3}})\2{{7,}}|({_LETTER}{{4,5}})\3{{4,}}|({_LETTER}{{6,20}})\4{{2,}}"
)
_MIN_REPEATED_LETTERS = 8
_REPEATED_SYMBOLS = re.compile(r"([^\w\s.])(?:\s?\1){11,}|([._])(?:\s?\2){15,}")
_SPACELESS_CHARACTER = re.compile(f"[{_SPACELESS}]")
_QUOTED = re.compile(r"[\"“„«][^\"”“»]*[\"”“»]")
_NUMBER_GROUPS = re.compile(r"(?<=\d)[,.'’](?=\d{3})")
# Words that songs, titles and laughter repeat.
_CHANT_LIST = """
ha hah haha he hee hey ho hoo la na nah no yes yeah da do doo cha bla blah row bye knock woof meow moo tweet beep
boop buzz honk tick tock ding dong quack oink baa choo chugga go zzz ooh oh ah whoa wow run boo xo ring sha girls
turn
"""
_CHANTS = frozenset(_CHANT_LIST.split())
_STOP_WORDS = frozenset(("the", "a", "an", "of", "and", "in", "on", "with", "is", "to"))
_LONG_PERIOD = 6  # words; a phrase this long must not repeat at all
_MAX_PERIOD = 40  # words or characters
_MAX_4GRAM_COUNT = 4  # occurrences of a 4-gram, adjacent or not
_MIN_DISTINCT_SHARES = ((24, 0.34), (18, 0.27))  # words of a long text, and the share of them that is distinct
_MAX_CHANTS = 10  # words of laughter or song in a row
_MIN_CHARACTERS = 5  # of a script without spaces

_OPEN_PUNCTUATION = re.compile(
    r"[,;:，、；：(（\[{‘„「『《〈【&+=–—]\s*$|^[^/]*/\s*$|[“\"]$(?<=\s.)|(?<![\d\w])-\s*$|\s-\s*$"
)
_ELLIPSIS = re.compile(r"\b(?:to|of|with|for|by|at|from) ?(?:\.\.\.|…)$")
_CLOSING_PUNCTUATION = re.compile(r"[.] \w|[,;，、；)\]}）」』》〉】。](?![-'])|-[a-zà-öø-ÿğış]")
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
    >>> loop(Answer("雪山、雪山、雪山、雪山、雪山、雪山"))
    'loop'
    >>> loop(Answer("Row, row, row, row your boat song book"))
    """
    text, data = answer.text, answer.data.lower()
    tokens = words(_NUMBER_GROUPS.sub("", text))
    source = " ".join(words(answer.data))
    repeats = len(tokens) - len(set(tokens))
    for run, period in _repeated_runs(tokens, repeats, _word_repeats):
        if not (
            _is_chant(run) or " ".join(run) in source or (period >= _LONG_PERIOD and _is_quoted(run, period, text))
        ):
            return "loop"
    long_words = (word for word in tokens if len(word) >= _MIN_REPEATED_LETTERS)
    if any(match.group() not in data for word in long_words for match in _REPEATED_LETTERS.finditer(word)):
        return "loop"
    if any(match.group().lower() not in data for match in _REPEATED_SYMBOLS.finditer(text)):
        return "loop"
    if not text.isascii() and _repeats_characters(text, data):
        return "loop"
    fours = (
        Counter(zip(tokens, tokens[1:], tokens[2:], tokens[3:], strict=False))
        if repeats >= _MAX_4GRAM_COUNT - 1
        else {}
    )
    if any(count >= _MAX_4GRAM_COUNT and " ".join(run) not in source for run, count in fours.items()):
        return "loop"
    count = len(tokens)
    return "loop" if any(count >= n and count - repeats < share * count for n, share in _MIN_DISTINCT_SHARES) else None


def _is_chant(run: Sequence[str]) -> bool:
    return _CHANTS.issuperset(run) and len(run) <= _MAX_CHANTS


def _is_quoted(run: Sequence[str], period: int, text: str) -> bool:
    """Return whether *run* repeats its words only once, inside a quotation, such as lines on a blackboard."""
    return len(run) < 3 * period and any(" ".join(run) in " ".join(words(part)) for part in _QUOTED.findall(text))


def _repeats_characters(text: str, data: str) -> bool:
    """Return whether a text in a script without spaces repeats a sequence of characters too often."""
    if len(_SPACELESS_CHARACTER.findall(text)) < _MIN_CHARACTERS:
        return False
    characters = [letter for letter in text if letter.isalnum()]
    source = "".join(letter for letter in data if letter.isalnum())
    repeats = len(characters) - len(set(characters))
    runs = ("".join(run) for run, _ in _repeated_runs(characters, repeats, _character_repeats))
    return any(not run.isdigit() and run.lower() not in source for run in runs)


def _repeated_runs(
    tokens: Sequence[str], repeats: int, limit: Callable[[int, str], int]
) -> Iterator[tuple[Sequence[str], int]]:
    """Yield each run that repeats too often, and its period.

    A run is as long as possible. *repeats* is the number of tokens that occurred before. *limit* returns for a period
    and a token how many tokens in a row, equal to those one period before, are too many.
    """
    for period in range(1, min(_MAX_PERIOD, len(tokens) // 2 + 1, repeats) + 1):
        if limit(period, "the") > repeats:
            continue
        same = 0
        for index in range(period, len(tokens) + 1):
            if index < len(tokens) and tokens[index] == tokens[index - period]:
                same += 1
            else:
                if same and same >= limit(period, tokens[index - 1]):
                    yield tokens[index - same - period : index], period
                same = 0


def _word_repeats(period: int, word: str) -> int:
    """Allow one word three times, two or three words twice, four or five words 2.5 times, longer phrases once."""
    if period == 1:
        return 2 if word in _STOP_WORDS else 3
    return 2 * period if period < 4 else (8 * period + 4) // 5 if period < _LONG_PERIOD else period


def _character_repeats(period: int, _: str) -> int:
    """Allow one character nine times, two four times, three to five three times, 6 to 11 about 2.4 times."""
    if period < 3:
        return (9, 8)[period - 1]
    return 3 * period if period < 6 else (7 * period + 4) // 5 if period < 12 else period


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
    if (
        _OPEN_PUNCTUATION.search(text)
        or _ELLIPSIS.search(text)
        or _CLOSING_PUNCTUATION.match(text)
        or incomplete_beginning(answer)
    ):
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
    elif text.count("“") > text.count("”") + quotes or (quotes % 2 and not _INCHES.search(text)):
        return True
    if not text.isascii() and any(text.count(pair[0]) > text.count(pair[1]) for pair in _PAIRS):
        return True
    return re.search(r"(?<![:;=8])[(\[][^)\]]*$", text) is not None
