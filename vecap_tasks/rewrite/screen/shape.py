"""The shape of a text: nothing there, the same again and again, too long, broken off."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from vecap_tasks.rewrite.screen.text import WORD, Answer, words

_LETTERS = re.compile(r"([^\W\d_])\1{7,}|([^\W_]{2,3})\2{7,}", re.IGNORECASE)
# Words that are said more than twice in songs, titles and laughter.
_CALL = """
ha hah haha he hee hey ho hoo la na nah no yes yeah da do doo cha bla blah row bye knock woof meow moo tweet beep
boop buzz honk tick tock ding dong quack oink baa choo chugga go zzz ooh oh ah whoa wow run boo xo ring sha girls
turn
"""
_CALLS = frozenset(_CALL.split())
_SMALL = frozenset(("the", "a", "an", "of", "and", "in", "on", "with", "is", "to"))
_SENTENCE = 6  # words from which on a second time is too often
_LONGEST = 40  # words that are looked for as one
_FOURS = 4  # a run of four words that comes up this often, wherever
_VARIED = 0.34  # share of different words in a long text
_LONG = 24  # words from which on that share counts

# Words that no caption ends in, for what they belong to is missing; but for these words before them: "the stuff
# dreams are made of", "something to play with".
_OPEN_ENDS: dict[str, str] = {
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
_FINE_BEFORE = {word: frozenset(before.split()) for word, before in _OPEN_ENDS.items()}
_ASKS = frozenset(("what", "how", "who", "where", "wherever", "whatever", "everything", "all", "than"))
_COMMA_END = re.compile(r"[,;:(\[{“‘&+/=–—]\s*$|(?<![\d\w])-\s*$|\s-\s*$")
_FULL_STOP = re.compile(r"[.!?…][\"”'’)\]]*\s*$")
_INCHES = re.compile(r"\d\s?\"")


def empty(answer: Answer) -> str | None:
    """No letter and no digit.

    >>> empty(Answer(" ... !"))
    'empty'
    >>> empty(Answer("7"))
    """
    return None if WORD.search(answer.text) else "empty"


def loop(answer: Answer) -> str | None:
    """The same words again and again, as greedy decoding gets caught in them; not where the AltText has them too.

    >>> loop(Answer("a 2 2 2 2"))
    'loop'
    >>> loop(Answer("a cat on a mat on a mat on a mat"))
    'loop'
    >>> loop(Answer("the band The The on stage in New York, New York"))
    >>> loop(Answer("Tora! Tora! Tora! film poster, knock knock"))
    >>> loop(Answer("Row, row, row, row your boat song book"))
    """
    said = words(answer.text)
    given = " ".join(words(answer.data))
    again = len(said) - len(set(said))
    if any(not _CALLS.issuperset(run) and " ".join(run) not in given for run in _runs(said, again)):
        return "loop"
    if any(match.group().lower() not in answer.data.lower() for match in _LETTERS.finditer(answer.text)):
        return "loop"
    fours = Counter(zip(said, said[1:], said[2:], said[3:], strict=False)) if again >= _FOURS - 1 else {}
    if any(count >= _FOURS and " ".join(run) not in given for run, count in fours.items()):
        return "loop"
    return "loop" if len(said) >= _LONG and len(set(said)) < _VARIED * len(said) else None


def _runs(said: Sequence[str], again: int) -> Iterator[Sequence[str]]:
    """Give each run of words that repeats itself too often: one word four times, a few three times, six twice.

    *again* is how many of the words have been said before.
    """
    for period in range(1, min(_LONGEST, len(said) // 2, again) + 1):
        if period * (_often(period, "the") - 1) > again:
            continue
        same = 0
        for place in range(period, len(said)):
            same = same + 1 if said[place] == said[place - period] else 0
            if same >= period * (_often(period, said[place]) - 1):
                yield said[place - same - period + 1 : place + 1]


def _often(period: int, word: str) -> int:
    """Return how many times in a row are too many."""
    if period == 1:
        return 3 if word in _SMALL else 4
    return 3 if period < _SENTENCE else 2


def too_long(answer: Answer) -> str | None:
    """More than `max_words` words, or ten times as many characters where nothing parts the words.

    >>> too_long(Answer("word " * 81))
    'too_long'
    >>> too_long(Answer("word " * 80))
    """
    limit = answer.settings.max_words
    return "too_long" if len(answer.text.split()) > limit or len(answer.text.strip()) > 10 * limit else None


def cut_off(answer: Answer) -> str | None:
    """Broken off: it ran into the token limit, or what it ends in wants something after it.

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
    if _COMMA_END.search(text):
        return "cut_off"
    if _FULL_STOP.search(text):
        return None
    if _ends_open(text) and not _ends_like_data(text, answer):
        return "cut_off"
    quotes = text.count('"')
    if quotes % 2 and not _INCHES.search(text):
        return "cut_off"
    if text.count("“") > text.count("”") + text.count('"'):
        return "cut_off"
    return "cut_off" if re.search(r"(?<![:;=8])[(\[][^)\]]*$", text) else None


def _ends_open(text: str) -> bool:
    """Whether the last word, in lower case as written, wants another after it; not in "what it is"."""
    end = text.split()[-5:]
    if not end or end[-1] not in _FINE_BEFORE:
        return False
    before = [word.strip(",.;:\"'").lower() for word in end[:-1]]
    return not (before and before[-1] in _FINE_BEFORE[end[-1]]) and _ASKS.isdisjoint(before)


def _ends_like_data(text: str, answer: Answer) -> bool:
    """Whether a source ends in the same three words: it was broken off before any model saw it, or is a title."""
    end = words(text)[-3:]
    return any(words(source)[-3:] == end for source in (answer.alttext, answer.vec) if source)
