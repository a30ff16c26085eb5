"""Finds private data in a text: email addresses, telephone numbers, and numbers of accounts and documents.

Crawled AltTexts and generated texts use this one definition. A telephone number is found by its shape, or by a word
before it such as "Tel." in any language of `data/private`. Shapes are those of numbering plans as people write them.
Plans cannot replace them: models and shops also write numbers that no plan contains.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from functools import cache
from html import unescape
from importlib.resources import files
from urllib.parse import unquote

from vecap_tasks.core.word_lists import read_table

HIDDEN = "(hidden: contains private data)"
DATA = "vecap_tasks.core"
_MIN_DIGITS = 5  # of the shortest local number after a telephone word
_MIN_PHONE_DIGITS = 7
_MAX_BETWEEN = 3
_MIN_CODE = 6  # characters of the number of a document
_MIN_DIGIT_WORDS = 3  # in a number that is spelled out
_CONTEXT = 48  # characters read before a number

# Default_Ignorable_Code_Point of DerivedCoreProperties.txt, Unicode 17.0: characters without a visible glyph.
_DEFAULT_IGNORABLE = (
    *((0xAD, 0xAD), (0x34F, 0x34F), (0x61C, 0x61C), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F)),
    *((0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0x3164, 0x3164), (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF)),
    *((0xFFA0, 0xFFA0), (0xFFF0, 0xFFF8), (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A), (0xE0000, 0xE0FFF)),
)
IGNORABLE = frozenset(code for first, last in _DEFAULT_IGNORABLE for code in range(first, last + 1))

# Characters that are written for ASCII digits, hyphens and dots, and invisible ones.
_HYPHENS, _DOTS, _SLASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\u30fc", "•·∙⋅・", "\u2044\u2215"
_FOLD = str.maketrans(
    dict.fromkeys(_HYPHENS, "-")
    | dict.fromkeys(_DOTS, ".")
    | dict.fromkeys(IGNORABLE, "")
    | dict.fromkeys(_SLASHES, "/")
)
_RANGES = "".join(f"{chr(first)}-{chr(last)}" for first, last in _DEFAULT_IGNORABLE)
# Characters other than digits that `fold` changes, in the syntax of RE2.
FOLDED = f"[{_RANGES}{_HYPHENS}{_DOTS}{_SLASHES}\uff01-\uff5e\u00a0\u2000-\u200a\u202f\u3000]"
_IS_FOLDED = re.compile(rf"{FOLDED}|(?![0-9])\d")

_CJK = "\u2e80-\ud7ff"
_BESIDE_CJK = re.compile(f"(?<=[{_CJK}])(?=[0-9+(a-zA-Z])|(?<=[0-9)])(?=[{_CJK}])")
_DIGIT = re.compile("[0-9]")
_TAG = re.compile("<[/!]?[a-z-][^<>]*>", re.IGNORECASE)
_BRACKETS = frozenset("[({<")
_IMAGE = "png|jpe?g|gif|webp|svg|avif|bmp|tiff?|ico|heic|pdf"
_NAME = r"(?<![\w.+-])[\w.+-]+"
_EMAIL = re.compile(
    rf"{_NAME} ?[\[({{<]?@[\])}}>]? ?(?!\d+x\.)(?:[\w-]+\.)+(?!(?:{_IMAGE})\b)[^\W\d_]{{2,}}", re.IGNORECASE
)
# A URL, and the ids in it: short numbers in the path, others after a word that does not call, long ones in the query.
_LINK = re.compile(
    r"(?<![\w.-])(?:[a-z][a-z0-9+-]{1,20}://|(?:mailto|tel|sms|callto):|www\."
    r"|(?:[a-z0-9-]{1,63}\.){1,8}(?:com|org|net|edu|gov|info|biz|dev|app|example)/)\S+",
    re.IGNORECASE,
)
_LINK_IDS = re.compile(r"(?<![a-z.])([a-z.]+)[/-](\d+(?:/\d+)*)(?=[/?#.&]|$)|(?<==)\d{14,}(?![\d-])", re.IGNORECASE)
_CALLS = frozenset(("call", "callto", "dial", "sms", "tel", "wa.me", "whatsapp"))
_MIN_LINK_DIGITS = 9  # of a telephone number without separators in a path
_TLD = "(?:com|org|net|edu|gov|info|biz|dev|app|example|[a-z]{2})"


def fold(text: str) -> str:
    """Return *text* with ASCII digits, hyphens and dots, and without invisible characters."""
    if not _IS_FOLDED.search(text):
        return text
    text = unicodedata.normalize("NFKC", text.translate(_FOLD)).translate(_FOLD)
    return "".join(str(unicodedata.digit(c)) if not c.isascii() and c.isdecimal() else c for c in text)


@cache
def _tables() -> dict[str, dict[str, str]]:
    """Return the tables of words by language."""
    names = sorted(file.name for file in files(DATA).joinpath("data", "private").iterdir())
    return {name: read_table(DATA, f"private/{name}") for name in (file.removesuffix(".txt") for file in names)}


def _phrases(key: str) -> dict[str, tuple[str, ...]]:
    """Return the phrases of *key* in lower case, by language."""
    return {
        language: tuple(phrase for item in table[key].split(",") if (phrase := item.strip().lower()))
        for language, table in _tables().items()
        if key in table
    }


class _Endings:
    """Phrases that a text can end with. Phrases of letters need a word boundary, those in Chinese or kana do not."""

    def __init__(self, key: str) -> None:
        self.phrases = sorted({phrase for phrases in _phrases(key).values() for phrase in phrases})
        self._by_end: dict[str, list[str]] = {}
        for phrase in sorted(self.phrases, key=len, reverse=True):
            self._by_end.setdefault(phrase[-2:], []).append(phrase)

    def find(self, text: str) -> str | None:
        """Return the longest phrase that *text*, in lower case, ends with."""
        for phrase in self._by_end.get(text[-2:], []) + self._by_end.get(text[-1:], []):
            if text.endswith(phrase):
                before = text[-len(phrase) - 1 : -len(phrase)]
                if not phrase[0].isalnum() or _unspaced(phrase[0]) or not (before.isalnum() or before in ("'", "’")):
                    return phrase
        return None


def _unspaced(character: str) -> bool:
    return "\u2e80" <= character <= "\ud7ff" or "\u0e00" <= character <= "\u0e7f"


_PHONE_WORDS, _BETWEEN, _OFFER, _REFERENCE, _DOCUMENT = (
    _Endings(key) for key in ("phone", "between", "offer", "reference", "document")
)


def _alternatives(phrases: Iterable[str]) -> str:
    return "|".join(re.escape(phrase) for phrase in sorted(phrases, key=lambda phrase: (-len(phrase), phrase)))


def _spelled_email() -> str:
    """Return a pattern of `name at domain dot com`, with brackets or the words of one language. Linear."""
    at, dot = _phrases("at"), _phrases("dot")
    name, label = r"(?<![a-z0-9_.+-])[a-z0-9_.+-]+", "[a-z0-9-]+"
    dots = _dot(_all(dot))
    patterns = [
        rf"{name} ?[\[({{<] ?(?:a|@|{_alternatives(_all(at))}) ?[\])}}>] ?{label}(?:{dots}{label})*{dots}[a-z]{{2,}}"
    ]
    for language in sorted(at.keys() & dot.keys()):
        gap = r"\s*" if _unspaced(at[language][0][0]) else r"\s+"
        step = rf"{gap}(?:{_alternatives(dot[language])}){gap}"
        sign = rf"{gap}(?:{_alternatives(at[language])}){gap}(?!(?:the|an?|this|that) )"
        patterns.append(rf"{name}{sign}{label}(?:{step}{label})*{step}{_TLD}(?![a-z0-9])")
    return "|".join(patterns)


def _all(phrases: dict[str, tuple[str, ...]]) -> set[str]:
    return {phrase for words in phrases.values() for phrase in words}


def _dot(words: set[str]) -> str:
    return rf"(?: ?\. ?| ?[\[({{<] ?(?:{_alternatives({*words, '.'})}) ?[\])}}>] ?| (?:{_alternatives(words)}) )"


_SPELLED_EMAIL = re.compile(_spelled_email(), re.IGNORECASE)
_DIGIT_WORDS = frozenset(_all(_phrases("digit")))
_DOT_WORDS = frozenset(_all(_phrases("dot")))
_UNSPACED_AT = tuple(sorted(word for word in _all(_phrases("at")) if _unspaced(word[0])))

_OPEN, _CLOSE = r"[\[({<（［｛＜]", r"[\])}>）］｝＞]"
# Every text with private data and without entities matches this RE2 pattern: a cheap first check in SQL.
HINT = (
    rf"(?i)[@﹫]|%40|{FOLDED}|{_OPEN} ?(?:a|\.|{_alternatives(_all(_phrases('at')) | _DOT_WORDS)}) ?{_CLOSE}"
    rf"|\s(?:{_alternatives(_DOT_WORDS)})\s|{_alternatives(_UNSPACED_AT)}"
    rf"|(?:(?:{_alternatives(_DIGIT_WORDS)}|\p{{Nd}}{{1,4}})[\s,.-]+){{3}}|(?:\p{{Nd}}\P{{Nd}}*){{5}}"
)

# Boundaries of a number: no part of a longer number, a price, a decimal, a code or an amount with a unit.
_START = r"(?<![\w.,$€£¥₹#/+:-])(?<!\d )(?<![\d$€£¥₹] )"
_UNIT = (
    r" ?(?:[€$£¥₹%°]|(?:mm|cm|km|m|kg|g|mg|t|px|pixels?|ml|l|v|w|kw|hz|mhz|mah|dpi|rpm|[gmt]b|usd|eur|pln|zł|kr|people"
    r"|views|miles|votes)\b)"
)
_END = rf"(?![\w%°€$£¥₹]|[.,:/-]\d| \d|{_UNIT})"
_NO_YEAR = r"(?!(?:19|20)\d\d(?!\d))"
_SHAPES = (
    # +49 30 23125 014; 00 44 113 496 0371
    r"(?<![\w.,+-])\+[1-9]\d{0,2}[ .\-/()]{0,3}(?:\d[ .\-/()]{0,2}){6,12}\d(?![\d%°])",
    rf"{_START}00 ?[1-9]\d{{0,2}}[ .\-/()]{{1,3}}(?:\d[ .\-/()]{{0,2}}){{7,11}}\d(?![\d%°])",
    # North America: (212) 555-0142; 212-555-0142; 970/555-0153; 1 (800) 555 0199
    rf"{_START}(?:1[ .-]?)?\([2-9]\d\d\)[ .-]?\d{{3}}[ .-]?\d{{4}}{_END}",
    rf"{_START}(?:1[ .-])?[2-9]\d\d(?:([.-])\d{{3}}\1|[ /]\d{{3}}-)\d{{4}}{_END}",
    rf"{_START}(?:1[ ])?[2-9]\d\d \d{{3}} {_NO_YEAR}\d{{4}}{_END}",
    # North America without an area code, in the range for fiction
    rf"{_START}555(?:[.-]| {_NO_YEAR})\d{{4}}{_END}",
    # a trunk zero: 020 7946 0958; 01 23 45 67 89; (08) 5550 3321; 030/1234567; 0 (212) 123 45 67; 06 1 123 4567
    rf"{_START}\(?0[1-9]\d{{0,3}}\)?[ ./-]{{1,3}}\d{{2,8}}(?:[ .-]\d{{1,5}}){{0,4}}{_END}",
    rf"{_START}0 ?\([1-9]\d{{1,3}}\)[ -]?\d{{2,4}}(?:[ -]\d{{2,4}}){{1,3}}{_END}",
    rf"{_START}06 \d{{1,2}} \d{{3}} \d{{3,4}}{_END}",
    # Russia: 8 (495) 123-45-67
    rf"{_START}8[ -]?\(?[3-9]\d\d\)?[ -]\d{{3}}[ -]\d\d[ -]\d\d{_END}",
    # an area code in parentheses: (11) 95555-0134
    rf"{_START}\((?!(?:19|20)\d\d\))[1-9]\d{{1,3}}\)[ -]?\d{{3,5}}[ -]\d{{3,4}}{_END}",
    # India: 98765 43210; China: 138 5550 0147; Australia: 1300 555 012
    rf"{_START}0?[6-9]\d{{4}}[ -]\d{{5}}{_END}",
    rf"{_START}1[3-9]\d([ -])\d{{4}}\2\d{{4}}{_END}",
    r"(?<=[一-鿿] )1[3-9]\d{9}(?!\d)",
    rf"{_START}1[38]00 \d{{3}} \d{{3}}{_END}",
    # Spain: 612 34 56 78; Spain, Poland: 91 555 01 23; Portugal: 21 555 0146; Mexico, Argentina: 55 5550 1382
    rf"{_START}[6-9]\d\d([ .-])\d\d\3\d\d\3\d\d{_END}",
    rf"{_START}[1-9]\d([ -])\d{{3}}\4\d\d\4\d\d{_END}",
    rf"{_START}[2-9]\d \d{{3}} {_NO_YEAR}\d{{4}}{_END}",
    rf"{_START}[1-9]\d {_NO_YEAR}\d{{4}}[ -]{_NO_YEAR}\d{{4}}{_END}",
)
_SHAPE = re.compile("|".join(_SHAPES), re.IGNORECASE)
# Not of a numbering plan: pairs of digits other than five, a code such as 021-064-118, +1 000 000
_NO_PHONE = re.compile(
    r"\d\d(?: \d\d)+|0\d\d([ .-])\d{3}\1\d{3}|\+\d{1,3}(?:[ .]000)+|[\d. ]*\d\.\d{5,}|(?:19|20)\d\d .*"
)
_FIVE_PAIRS = re.compile(r"0\d(?: \d\d){4}")

_RUN = re.compile(rf"(?<![\w.,])\+?\(?\d[\d .\-/()]{{3,34}}(?<=\d)(?! ?\d|{_UNIT})", re.IGNORECASE)
_LOCAL = re.compile(r"\d{1,3}-\d{4}|\d\d-\d\d-\d\d|\d{3}-\d{3}")
_DATE = re.compile(
    r"(?:19|20)\d\d[-/. ](?:0?[1-9]|1[0-2])[-/. ][0-3]?\d(?!\d).*"
    r"|[0-3]?\d[-/. ][0-3]?\d[-/. ]{1,2}(?:19|20)\d\d(?!\d).*|(?:19|20)\d\d ?[-/ ] ?(?:19|20)\d\d"
)
_THOUSANDS = re.compile(r"\d{1,3}(?:[ .]\d{3})+")
_SPELLED_NUMBER = re.compile(
    rf"(?<!\w)(?:(?:{_alternatives(_DIGIT_WORDS)}|\d{{1,4}})[\s,.-]+){{3,14}}(?:{_alternatives(_DIGIT_WORDS)}|\d{{1,4}})(?!\w)",
    re.IGNORECASE,
)

_SOCIAL_SECURITY = re.compile(rf"{_START}(?!000|666|9)\d{{3}}-\d\d-\d{{4}}(?![\w-])")
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2} ?(?:[A-Z0-9]{4} ?){2,7}[A-Z0-9]{1,4}(?![A-Za-z0-9])")
_CARD = re.compile(r"(?<![\w.,-])[3-6]\d{3}([ -]?)\d{4}\1\d{4}\1\d{4}(?![\w-])")
_CODE = re.compile(r"(?<!\w)(?=(?:[A-Z -]*\d){4})[A-Z0-9]{2,12}(?:[ -][A-Z0-9]{2,6}){0,3}(?!\w)")


def has_private_data(text: str) -> bool:
    """Return whether *text* contains an email address, telephone number, or number of an account or document.

    HTML tags, entities and the percent-encoding of URLs do not hide it, nor does white space.

    >>> [has_private_data(text) for text in ("jane(at)studio.example", "Tel.: 01/5550123", "212-555-0142")]
    [True, True, True]
    >>> [has_private_data(text) for text in ("https://a.example/call/+49-171-1234567", "mailto:jane%40studio.example")]
    [True, True]
    >>> [has_private_data(text) for text in ("logo@2x.png", "ISBN 978-0-340-82975-2", "12.05.2019 - 14.05.2019")]
    [False, False, False]
    """
    text = " ".join((unescape(text) if "&" in text else text).split()).replace("%40", "@")
    return _is_private(text) or ("<" in text and _is_private(_TAG.sub("", text)))


def _is_private(text: str) -> bool:
    if not text.isascii():
        text = _BESIDE_CJK.sub(" ", fold(text))
    if "/" in text or ":" in text:
        text = _LINK.sub(_plain_link, text)
    if "@" in text and _EMAIL.search(text):
        return True
    words = text.lower().split()
    if _may_spell_email(text, words) and _SPELLED_EMAIL.search(text):
        return True
    digits = len(_DIGIT.findall(text))
    if digits >= _MIN_DIGITS:
        if digits >= _MIN_PHONE_DIGITS and (_has_phone_shape(text) or _has_account(text)):
            return True
        if any(_is_announced(text, run) for run in _RUN.finditer(text)) or _has_document(text):
            return True
    return sum(word.strip(",.-") in _DIGIT_WORDS for word in words) >= _MIN_DIGIT_WORDS and _has_spelled_number(text)


def _plain_link(link: re.Match[str]) -> str:
    """Return a URL without percent-encoding and without the ids in its path."""
    return _LINK_IDS.sub(_without_ids, fold(unquote(link.group())))


def _without_ids(path: re.Match[str]) -> str:
    word, ids = path.groups(default="")
    return path.group() if len(ids) >= _MIN_LINK_DIGITS and (ids[0] == "0" or word.lower() in _CALLS) else word


def _may_spell_email(text: str, words: list[str]) -> bool:
    return (
        not _BRACKETS.isdisjoint(text)
        or not _DOT_WORDS.isdisjoint(words)
        or (not text.isascii() and any(word in text for word in _UNSPACED_AT))
    )


def hide(text: str | None) -> str | None:
    """Return *text*, or a notice instead of a text with private data. For pages and reports that show texts."""
    return HIDDEN if text is not None and has_private_data(text) else text


@cache
def rules_digest() -> str:
    """Return a digest of all patterns and phrases, 16 hex digits."""
    patterns = (
        *(_TAG, _LINK, _LINK_IDS, _EMAIL, _SPELLED_EMAIL, _SHAPE, _NO_PHONE, _FIVE_PAIRS, _RUN, _LOCAL, _DATE),
        *(_THOUSANDS, _SPELLED_NUMBER, _SOCIAL_SECURITY, _IBAN, _CARD, _CODE),
    )
    endings = (_PHONE_WORDS, _BETWEEN, _OFFER, _REFERENCE, _DOCUMENT)
    parts = [
        *(item.pattern for item in patterns),
        *(phrase for item in endings for phrase in item.phrases),
        *sorted(_CALLS),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _has_phone_shape(text: str) -> bool:
    for match in _SHAPE.finditer(text):
        number = match.group()
        if _DATE.fullmatch(number) or (_NO_PHONE.fullmatch(number) and not _FIVE_PAIRS.fullmatch(number)):
            continue
        minimum = _MIN_PHONE_DIGITS if number.startswith("555") else 9
        if not minimum <= len(_DIGIT.findall(number)) <= 15:
            continue
        if number.startswith("+") or _REFERENCE.find(_before(text, match.start())) is None:
            return True
    return False


def _before(text: str, end: int) -> str:
    """Return up to 48 characters of *text* before *end*, in lower case, without trailing punctuation."""
    return text[max(0, end - _CONTEXT) : end].lower().rstrip(' \t\n.,:;#!?"“”„«»|*(-=/')


def _follows(text: str, end: int, phrases: _Endings) -> bool:
    """Return whether one of *phrases*, and up to three words of `between`, come directly before *end*."""
    tail = _before(text, end)
    for _ in range(_MAX_BETWEEN + 1):
        if phrases.find(tail) is not None:
            return True
        word = _BETWEEN.find(tail)
        if word is None:
            return False
        tail = _before(tail, len(tail) - len(word))
    return False


def _is_announced(text: str, run: re.Match[str]) -> bool:
    """Return whether *run* of digits and separators follows a telephone word, or an offer that invites calls."""
    number = run.group()
    digits = len(_DIGIT.findall(number))
    if _DATE.fullmatch(number) or not (digits >= _MIN_PHONE_DIGITS or _LOCAL.fullmatch(number)):
        return False
    if digits <= 15 and _follows(text, run.start(), _PHONE_WORDS):
        return True
    separated = not number.isdecimal() and not _THOUSANDS.fullmatch(number)
    return separated and _MIN_PHONE_DIGITS <= digits <= 13 and _follows(text, run.start(), _OFFER)


def _has_account(text: str) -> bool:
    """Return whether *text* has a valid IBAN or card number, or a US social security number."""
    for match in _IBAN.finditer(text):
        code = match.group().replace(" ", "")
        if int("".join(str(int(character, 36)) for character in code[4:] + code[:4])) % 97 == 1:
            return True
    for match in _CARD.finditer(text):
        if _is_luhn(re.sub(r"\D", "", match.group())):
            return True
    number = _SOCIAL_SECURITY.search(text)
    return number is not None and _REFERENCE.find(_before(text, number.start())) is None


def _is_luhn(digits: str) -> bool:
    values = (int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits)))
    total = sum(value - 9 if value > 9 else value for value in values)
    return total % 10 == 0


def _has_document(text: str) -> bool:
    """Return whether a code with four or more digits follows the name of a document within the same phrase."""
    lowered = text.lower()
    for phrase in _DOCUMENT.phrases:
        start = lowered.find(phrase)
        if start < 0:
            continue
        match = _CODE.search(text, start + len(phrase), start + len(phrase) + _CONTEXT)
        if match and sum(map(str.isalnum, match.group())) >= _MIN_CODE and not _DATE.fullmatch(match.group()):
            return True
    return False


def _has_spelled_number(text: str) -> bool:
    """Return whether a telephone word comes before a number of which some digits are written as words."""
    return any(_follows(text, match.start(), _PHONE_WORDS) for match in _SPELLED_NUMBER.finditer(text))
