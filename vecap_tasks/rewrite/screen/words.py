"""Words as screening compares them: in lower case, without inflection, and those that say nothing left out."""

from __future__ import annotations

import re
from functools import lru_cache

WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_CLITIC = re.compile(r"['’](?:s|re|ve|ll|d|m)?$")


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words that say nothing of a picture on their own.
FUNCTION = _set("""
    a an the and or but nor of in on at to by for from with without within is are was were be been being am it its this
    that these those there here some any all both each every other another one ones as into onto over under near next
    beside besides behind above below left right front top bottom back side sides middle center centre background
    foreground around across along against between among through while which who whose whom what when where how why not
    no than then so very too also just his her their our your my he she they we you i him them us me has have had
    having do does did can could may might will would should up down out off about after before during like such
    image images picture pictures photo photos photograph photographs shows showing show depicts depicting depicted
    features featuring scene view shot close closeup taken seen visible several many few various multiple lot set
""")
# Words of opinion, of a shop, and of talk about a picture: none of what is seen in it.
_PLAIN_WORDS = _set("""
    appear appears appearing positioned placed located situated captured captures capturing displayed displaying
    displays overall atmosphere ambiance setting moment creating creates adding adds giving gives providing sense
    touch feel beautiful wonderful nice great lovely amazing perfect stunning cozy inviting best good special day time
    year way thing things something someone everything part area space object objects item items element elements
    environment overview appearance addition main prominent prominently clearly likely possibly
    most more less including include includes together different other own own new full well first one
    buy sale shop free shipping available price order discount deal offer online download now save here
    view showcase showcasing showcases standing out clear made look looks looking occasion enjoying enjoy
""")
# What a name may stand for: "a man in a hat" is still there in "Jack White in a hat", a car in "a red Fiat 500".
NAMEABLE = _set("""
    man men woman women person people boy girl guy lady gentleman male female player singer actor actress child kid baby
    couple group team band model athlete artist musician performer character
    car truck vehicle motorcycle bicycle boat ship plane phone smartphone laptop watch camera building house hotel
    church bridge tower castle city town street road place book poster album cover logo text word words letter letters
    sign stadium arena beach river lake mountain island museum school shop store restaurant garden station
    airport movie film magazine newspaper game painting drawing statue toy bag shoe bottle device machine dog cat
    bird horse fish flower plant tree food dish cake drink
""")
_IRREGULAR = {
    **{"men": "man", "women": "woman", "children": "child", "people": "person", "persons": "person", "feet": "foot"},
    **{"teeth": "tooth", "mice": "mouse", "geese": "goose", "leaves": "leaf", "wolves": "wolf", "knives": "knife"},
    **{"shelves": "shelf", "loaves": "loaf", "wives": "wife", "calves": "calf", "halves": "half", "lives": "life"},
    **{"sat": "sit", "stood": "stand", "worn": "wear", "wore": "wear", "held": "hold", "ridden": "rid", "rode": "rid"},
    **{"ran": "run", "grey": "gray", "colour": "color", "colours": "color", "coloured": "color", "colourful": "color"},
    **{
        "colorful": "color",
        "couples": "couple",
        "kids": "kid",
        "tv": "television",
        "bike": "bicycle",
        "wooden": "wood",
    },
    **{
        "bikes": "bicycle",
        "airplane": "plane",
        "aeroplane": "plane",
        "airplanes": "plane",
        "cellphone": "phone",
        "ad": "advertisement",
        "ads": "advertisement",
    },
}
NUMBER_WORDS = {
    **{"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10},
    **{"eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16, "seventeen": 17},
    **{"eighteen": 18, "nineteen": 19, "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60},
    **{"seventy": 70, "eighty": 80, "ninety": 90, "hundred": 100, "thousand": 1000, "dozen": 12, "pair": 2},
    **{"couple": 2, "first": 1, "second": 2, "third": 3, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7},
    **{"eighth": 8, "ninth": 9, "tenth": 10, "double": 2, "triple": 3, "twin": 2, "single": 1, "half": 2},
    **{"i": 1, "ii": 2, "iii": 3, "iv": 4, "v": 5, "vi": 6, "vii": 7, "viii": 8, "ix": 9, "x": 10, "xi": 11},
}


@lru_cache(maxsize=1024)  # every rule asks for the same few texts
def words(text: str) -> tuple[str, ...]:
    """Return the words in lower case; a hyphen parts two, an apostrophe does not."""
    return tuple(word.lower() for word in WORD.findall(text))


@lru_cache(maxsize=1024)
def plain_words(text: str) -> frozenset[str]:
    """Return the words in lower case, parted at apostrophes too, as a first look at a text wants them."""
    return frozenset(part for word in words(text) for part in word.replace("’", "'").split("'"))


def content_words(text: str) -> frozenset[str]:
    """Return the stems of the words that name something.

    >>> sorted(content_words("The two foxes' dishes and a glass, standing beside the mug"))
    ['dish', 'fox', 'glass', 'mug', 'stand', 'two']
    """
    return frozenset(stem(word) for word in words(text) if word not in FUNCTION)


@lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """Return the lower-case *word* without the ending of a plural, a possessive or a verb; not always a word itself.

    >>> [stem(word) for word in ("cities", "wearing", "sitting", "parked", "rides", "men's", "glass", "ring")]
    ['city', 'wear', 'sit', 'park', 'rid', 'man', 'glass', 'ring']
    """
    word = _CLITIC.sub("", word)
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) > 4 and word.endswith("ies"):
        word = word[:-3] + "y"
    elif len(word) > 4 and word.endswith(("ches", "shes", "sses", "xes", "zes")):
        word = word[:-2]
    elif len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    elif len(word) > 5 and word.endswith("ing"):
        word = _single(word[:-3])
    elif len(word) > 4 and word.endswith("ed"):
        word = _single(word[:-2])
    word = word.removesuffix("e") if len(word) > 3 else word
    return _IRREGULAR.get(word, word)


def _single(word: str) -> str:
    """Undo the doubling of a last consonant: "sitt" of sitting."""
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "lsz" else word


PLAIN = frozenset(stem(word) for word in _PLAIN_WORDS)
