"""Names of a text, and whether the sources of a caption state them: in other spellings, languages or abbreviations."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache

from vecap_tasks.core.word_lists import read_table, read_words
from vecap_tasks.rewrite.screen.concepts import is_listed, is_noun
from vecap_tasks.rewrite.screen.numbers import states_number
from vecap_tasks.rewrite.screen.text import DATA, FUNCTION, NUMBER_WORDS, WORD, stem, words

SPELLED_OUT = {short: frozenset(line.split()) for short, line in read_table(DATA, "spelled_out").items()}
EVERYDAY = read_words(DATA, "everyday")
NAME_PARTS = read_words(DATA, "name_parts")
GIVEN_NAMES = read_words(DATA, "given_names")
BRANDS = read_words(DATA, "brands")
KNOWN_NAMES = GIVEN_NAMES | BRANDS | read_words(DATA, "places")
_IMPLIED = {name: frozenset(line.split()) for name, line in read_table(DATA, "implied").items()}
_EPONYMS = {name: frozenset(line.split()) for name, line in read_table(DATA, "eponyms").items()}
_MONTHS = ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november")
_MONTH_NUMBERS = {name: number for number, name in enumerate((*_MONTHS, "december"), start=1)}
_NONE: frozenset[str] = frozenset()
_SMALL_WORDS = FUNCTION | frozenset(
    word for line in read_table(DATA, "sentence_words").values() for word in line.split()
)

_MAPS = frozenset({"map", "maps", "globe", "atlas"})

_MAX_CAPITALIZED = 0.7  # share of capitalized words above which capitals do not mark names
_MIN_PREFIX = 4  # length of a common prefix that makes two words match: Italy, Italian
_MIN_COMPOUND = 7  # length of a word that can start with a name: Rheintal
_MIN_SIMILARITY = 0.75  # of two spellings of a name
_MAX_CODE = 4  # letters of a code such as USA or ATL
_STARTS_AFTER = ".!?:\"“'‘(…"  # characters before the first word of a sentence or quotation
_ABBREVIATION = re.compile(
    r"(?:(?<!\d)(?<!\d )\b[A-Z]|\b(?:St|Mt|Dr|Mr|Mrs|Ms|Prof|Gov|Lt|Col|Gen|Sgt|Capt|Rev|vs|No|Jr|Sr|Ft))\.$"
)
_SHORTENED = re.compile(r"\b([A-Za-z][a-z]{2,5})\.(?=,? \w)")
_PARTS = re.compile(r"[A-ZÀ-Þ]?[a-zß-ÿ]+|[A-ZÀ-Þ]+(?![a-zß-ÿ])")
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_LATIN = re.compile(r"[A-Za-zÀ-ɏ]")
_OTHER_LETTER = re.compile(r"[^\W\d_A-Za-zÀ-ɏ]")
_CYRILLIC = dict(zip("абвгдезийклмнопрстуфхцыэіїґ", "abvgdeziiklmnoprstufhcyeiig", strict=True))
_TRANSLITERATION = str.maketrans(
    _CYRILLIC
    | {"ß": "ss", "ł": "l", "ø": "o", "æ": "ae", "œ": "oe", "ı": "i", "đ": "d", "ð": "d", "þ": "th"}
    | {"ё": "yo", "ж": "zh", "ч": "ch", "ш": "sh", "щ": "sch", "ю": "yu", "я": "ya", "є": "ye", "ь": "", "ъ": ""}
)


def _groups() -> tuple[dict[str, frozenset[str]], dict[str, frozenset[str]], frozenset[str]]:
    """Return the English words that a word, and a code in capitals, can stand for, and all words for countries."""
    countries: set[str] = set()
    by_word: dict[str, frozenset[str]] = {}
    by_code: dict[str, frozenset[str]] = {}
    for codes, line in read_table(DATA, "countries").items():
        country = frozenset(line.split())
        countries |= country - NAME_PARTS
        for code in codes.lower().split():
            by_code[code] = by_code.get(code, _NONE) | country
        for name in country - NAME_PARTS:
            by_word[name] = by_word.get(name, _NONE) | country
        implied = next((_IMPLIED[name] for name in line.split() if name in _IMPLIED), None)
        if implied:
            _IMPLIED.update(dict.fromkeys(country - NAME_PARTS, implied))
    for english, line in read_table(DATA, "exonyms").items():
        group = frozenset((english, *line.split()))
        for name in group:
            by_word[name] = by_word.get(name, _NONE) | group
    return by_word, by_code, frozenset(countries)


_BY_WORD, _BY_CODE, _COUNTRIES = _groups()
_LONG_FORMS = {
    word: SPELLED_OUT.get(word, _NONE) | _BY_WORD.get(word, _NONE) for word in SPELLED_OUT.keys() | _BY_WORD.keys()
}
REGIONS = _COUNTRIES | read_words(DATA, "regions")


@dataclass(frozen=True, slots=True)
class Name:
    """A capitalized word of a text, the words before and after it, and where it starts."""

    text: str
    previous: str
    following: str
    start: int


@dataclass(frozen=True, slots=True)
class _Sources:
    """What the sources state: words, and forms derived from them."""

    text: str
    words: frozenset[str]
    stems: frozenset[str]
    joined: str  # letters and digits without anything between: find-my-past, FindMyPast
    expanded: frozenset[str]  # what short forms, codes and names in other languages stand for
    stated: frozenset[str]  # words and expanded words
    is_map: bool  # whether names of places can be read on a map
    shortened: frozenset[str]  # words that a period shortens: Miss.
    codes: frozenset[str]  # short words in capitals: USA, ATL
    initials: tuple[str, str]  # of the consecutive words: all, and without function words
    other_script: bool  # whether names cannot be compared, because most of the AltText is in another script


def is_known(name: Name, alttext: str, data: str, text: str) -> bool:
    """Return whether the sources state *name*, or it is not the name of something.

    *name* is a word of *text*; *data* are the sources, of which the AltText is one.
    """
    lower, following = name.text.lower(), name.following
    if lower in EVERYDAY or lower in FUNCTION or lower in NUMBER_WORDS or lower in NAME_PARTS:
        return True
    if following.lower() in _EPONYMS.get(lower, _NONE) or lower in _EPONYMS.get(name.previous.lower(), _NONE):
        return True
    if lower in words(data):
        return True
    sources = _sources(alttext, data)
    if sources.other_script or _is_stated(lower, sources):
        return True
    if lower in _MONTH_NUMBERS and states_number(_MONTH_NUMBERS[lower], data):
        return True
    if following.lower() in NUMBER_WORDS or following.isdigit():
        number = NUMBER_WORDS.get(following.lower(), following)
        if re.search(rf"\b{re.escape(lower[0])}\w?[- ]?{number}\b", data, re.IGNORECASE):
            return True  # I-95: Interstate 95; PS4: PlayStation 4
    parts = [part.lower() for part in _PARTS.findall(name.text) if part]
    if len(parts) > 1 and all(part in EVERYDAY or part in FUNCTION or _is_stated(part, sources) for part in parts):
        return True
    return _abbreviates(name.text, sources, text)


@lru_cache(maxsize=64)
def _sources(alttext: str, data: str) -> _Sources:
    raw = WORD.findall(data)
    parts = [part for word in raw for part in _PARTS.findall(word)]
    known = frozenset(words(data)) | {part.lower() for part in parts}
    folded = frozenset(plain(word) for word in known if not word.isascii())
    expanded: set[str] = set()
    for word in _LONG_FORMS.keys() & (known | folded):
        if len(word) > 3 or word not in _SMALL_WORDS or not word.isascii():
            expanded |= _LONG_FORMS[word]
    for word in known | folded:
        if len(word) >= _MIN_COMPOUND and not is_noun(word):  # Rheintal
            for end in range(_MIN_PREFIX, len(word) - 1):
                expanded.update(_BY_WORD.get(word[:end], _NONE))
    codes = frozenset(word.lower() for word in (*raw, *parts) if word.isupper() and 1 < len(word) <= _MAX_CODE)
    for code in codes:
        expanded.update(SPELLED_OUT.get(code, _NONE), _BY_CODE.get(code, _NONE))
    if _UNSPACED.search(data):
        for word, names in _BY_WORD.items():
            if _UNSPACED.match(word) and word in data:
                expanded.update(names)
    row = words(data)
    return _Sources(
        text=data,
        words=known | folded,
        stems=frozenset(stem(word) for word in known | folded),
        joined="".join(character for character in plain(data.lower()) if character.isalnum()),
        expanded=frozenset(expanded),
        stated=known | folded | expanded,
        is_map=not _MAPS.isdisjoint(known),
        codes=codes,
        shortened=frozenset(short.lower() for short in _SHORTENED.findall(alttext)),
        initials=("".join(w[0] for w in row), "".join(w[0] for w in row if w not in FUNCTION)),
        other_script=len(_OTHER_LETTER.findall(alttext)) > len(_LATIN.findall(alttext)),
    )


def plain(word: str) -> str:
    """Return *word* (lower case) without accents, and in Latin letters: ß as ss, Cyrillic transliterated."""
    if word.isascii():
        return word
    latin = word.translate(_TRANSLITERATION)
    return "".join(c for c in unicodedata.normalize("NFKD", latin) if not unicodedata.combining(c))


def _is_stated(lower: str, sources: _Sources) -> bool:
    folded = plain(lower)
    if lower in sources.words or folded in sources.words or lower in sources.expanded or folded in sources.expanded:
        return True
    if stem(lower) in sources.stems or stem(folded) in sources.stems:
        return True
    if lower.endswith("s") and (lower[:-1] in sources.words or lower[:-1] in EVERYDAY):
        return True  # TVs
    if lower.partition("'")[0] in sources.words:
        return True  # Ege'de
    if len(lower) >= _MIN_PREFIX and re.sub(r"\W", "", folded) in sources.joined:
        return True
    short = SPELLED_OUT.get(lower, _NONE)
    if not short.isdisjoint(sources.words) or not _IMPLIED.get(lower, short).isdisjoint(sources.stated):
        return True
    if any(lower.startswith(short) for short in sources.shortened):
        return True  # Miss. River
    if sources.is_map and lower in _BY_WORD:
        return True
    if any(_fits_code(folded, code) for code in sources.codes):
        return True
    return any(is_similar(folded, word) for word in sources.words if len(word) > 2 and word not in FUNCTION)


def _fits_code(lower: str, code: str) -> bool:
    """Return whether a code of three or four letters has letters of the name in sequence: ATL, Atlanta."""
    if len(code) < 3 or lower[0] != code[0] or len(lower) <= len(code):
        return False
    position = 0
    for letter in code:
        position = lower.find(letter, position) + 1
        if not position:
            return False
    return True


def is_similar(lower: str, word: str) -> bool:
    """Return whether two words have most of their beginning or spelling in common, or one abbreviates the other."""
    common = next((n for n, (a, b) in enumerate(zip(lower, word, strict=False)) if a != b), min(len(lower), len(word)))
    if common >= _MIN_PREFIX and 2 * common >= max(len(lower), len(word)):
        return True
    if common == len(word) and common > 2 and not is_listed(stem(word)):
        return True  # Dict, Dictionary
    if common == 0 or len(lower) < _MIN_PREFIX or abs(len(lower) - len(word)) > 3:
        return False
    matcher = SequenceMatcher(None, lower, word)
    return matcher.quick_ratio() >= _MIN_SIMILARITY and matcher.ratio() >= _MIN_SIMILARITY


def _abbreviates(name: str, sources: _Sources, text: str) -> bool:
    """Return whether *name* abbreviates consecutive source words, or is one of the words of a source abbreviation."""
    if name.isupper():
        return 1 < len(name) < 7 and any(name.lower() in row for row in sources.initials)
    capitals = [_bare(word) for word in WORD.findall(text) if word[0].isupper()]
    for short in (word for word in WORD.findall(sources.text) if word.isupper() and 1 < len(word) < 7):
        for start in range(len(capitals) - len(short) + 1):
            row = capitals[start : start + len(short)]
            if name in row and "".join(word[0] for word in row) == short:
                return True
    return False


def _bare(word: str) -> str:
    return word.removesuffix("'s").removesuffix("’s")


def names(text: str, known_only: bool = False) -> Iterator[Name]:
    """Yield the capitalized words that do not start a sentence or quotation.

    A word that starts a sentence counts if it is a name everywhere, such as Sydney. With *known_only*, for
    languages that capitalize nouns, no other words count.
    """
    row = WORD.findall(text)
    capitalized = [word for word in row if not word.islower()]
    if not capitalized or (
        len(capitalized) == 1 and text.startswith(capitalized[0]) and _bare(capitalized[0]).lower() not in KNOWN_NAMES
    ):
        return
    found = list(WORD.finditer(text))
    cased = [word for word in row if len(word) > 3]
    if not cased:
        return
    upper = sum(not word.islower() for word in cased) - (not row[0].islower())  # the first word always is
    if not known_only and len(cased) > 3 and upper > _MAX_CAPITALIZED * len(cased):
        return
    for index, match in enumerate(found):
        if row[index].islower():
            continue
        bare = _bare(row[index])
        if bare == bare.lower() or len(bare) < 2 or bare[0].isdigit():
            continue
        if known_only and bare.lower() not in KNOWN_NAMES:
            continue
        previous = row[index - 1] if index else ""
        following = row[index + 1] if index + 1 < len(row) else ""
        if _starts_sentence(text, match.start()) and not _is_name_anywhere(bare.lower(), following):
            continue
        if text[match.start() - 1] == "-" and index:
            bare = f"{_bare(previous)}-{bare}"
        yield Name(bare, previous, following, match.start())


def _is_name_anywhere(lower: str, following: str) -> bool:
    """Return whether a word is a name at the start of a sentence too: Sydney; Fenway in Fenway Park."""
    if lower in KNOWN_NAMES:
        return True
    part = _bare(following)
    if not part[:1].isupper() or part.lower() not in NAME_PARTS or lower in NAME_PARTS:
        return False
    return not (lower in FUNCTION or lower in EVERYDAY or lower in _EPONYMS or is_noun(lower) or is_noun(stem(lower)))


def _starts_sentence(text: str, start: int) -> bool:
    before = text[:start].rstrip()
    return not before or (before[-1] in _STARTS_AFTER and not _ABBREVIATION.search(before[-8:]))
