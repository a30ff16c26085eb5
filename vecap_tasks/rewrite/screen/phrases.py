"""Phrases as linear regular expressions, with the words that every match has.

    word word     words in this order; between them at most three characters that are not letters
    stem*  *end   words with this start or end
    a ... b       up to 60 characters between, in the same sentence; 30 in a language without spaces
    (a | b)       one of them
    {name}        one of the group `name`
    word?         an optional word, (group)? or {name}?
    !(a | b)      not followed by one of them
    ^  $          start of a clause, with words of the group `lead` before; end of a sentence
    >             start of a sentence, but not of the first one
    a & b         both in one sentence, in any order; `& !(...)`: and not this

In Chinese, Japanese, and Korean, words can be parts of words, and `a b` has at most a space or comma between.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

_TOKEN = re.compile(r"\s+|\.\.\.|\{[a-z_]+\}|[()|^$?!>&]|\*?(?:(?!\.\.\.)[^\s(){}|^$?*!>&])+\*?")
_GAP = r"[^.!?…。！？]{0,60}?"
_GAP_UNSPACED = r"[^.!?…。！？]{0,30}?"
_BETWEEN_UNSPACED = r"[ ,，、]?"
_BEFORE_CLAUSE = r"(?:\A|(?<=[.!?:;,…。！？：；，、(（\[\-–—]))[^\w￼]{0,4}"
_AFTER_SENTENCE = r"(?<=[.!?;。！？；)）(（\[【])[^\w￼]{0,4}"
_END = r"(?=[^\w.!?…。！？￼]*(?:[.!?…。！？]|\Z))"
_SENTENCE_START = r"(?:\A|(?<=[.!?…。！？]))"
_IN_SENTENCE = r"[^.!?…。！？]{0,160}?"
_SENTENCE = r"[^.!?…。！？]{1,400}"
_BETWEEN = r"[^\w.!?…。！？]{1,3}"
_BETWEEN_PUNCTUATION = r"[^\w.!?…。！？]{0,3}"
_MIN_STEM = 2  # characters of a word start that is a key
_MAX_GRAM = 3  # characters of a key in a language without spaces
_BUILT_IN = {"number": r"\d+", "word": r"\w++"}


@dataclass(frozen=True, eq=False)
class Phrase:
    """A phrase as an expression. A match has, for each of `keys`, one of these words.

    `stem*` is any word with this start. In a language without spaces, the keys are two or three characters.
    """

    expression: str
    keys: tuple[frozenset[str], ...]

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """The compiled expression; most phrases are never compiled, because no text has their keys."""
        return re.compile(self.expression)


def read_phrase(source: str, groups: Mapping[str, str], spaced: bool = True) -> Phrase:
    """Read a phrase in lower case; *spaced* is whether spaces separate the words of the language.

    Raises ValueError for a phrase that is invalid or requires no word.

    >>> phrase = read_phrase("{picture} ... not? (loaded | shown)", {"picture": "image* | photo*"})
    >>> bool(phrase.pattern.search("the images could be loaded")), sorted(map(sorted, phrase.keys))
    (True, [['image*', 'photo*'], ['loaded', 'shown']])
    >>> bool(read_phrase("cannot & image* & !(my)", {}).pattern.search("the image is one that i cannot see"))
    True
    """
    parser = _Parser(source, groups, spaced)
    pattern, keys = parser.conjunction()
    if parser.tokens:
        raise ValueError(f"The phrase {source!r} has an unexpected {parser.tokens[0]!r}; check its parentheses.")
    if not keys:
        raise ValueError(f"The phrase {source!r} requires no word; add one.")
    return Phrase(pattern, tuple(keys))


class _Parser:
    """Recursive descent over the tokens of a phrase."""

    def __init__(self, source: str, groups: Mapping[str, str], spaced: bool) -> None:
        self.source, self.tokens = source, _TOKEN.findall(source)
        self.groups, self.spaced = groups, spaced
        if "".join(self.tokens) != source:
            raise ValueError(f"The phrase {source!r} has an invalid character; the syntax is in screen/phrases.py.")

    def conjunction(self) -> tuple[str, list[frozenset[str]]]:
        """Return the expression of `a & b` and its required keys; it matches the sentence."""
        pattern, keys = self.alternatives()
        if self.tokens[:1] != ["&"]:
            return pattern, keys
        parts = [f"(?={_IN_SENTENCE}{pattern})"]
        while self.tokens[:1] == ["&"]:
            self.tokens.pop(0)
            self._skip_space()
            if self.tokens[:1] == ["!"]:
                self.tokens.pop(0)
                parts.append(f"(?!{_IN_SENTENCE}{self._part(self.tokens.pop(0))[0]})")
                self._skip_space()
            else:
                pattern, required = self.alternatives()
                parts.append(f"(?={_IN_SENTENCE}{pattern})")
                keys = keys + required
        return f"{_SENTENCE_START}{''.join(parts)}{_SENTENCE}", keys

    def _skip_space(self) -> None:
        if self.tokens and self.tokens[0].isspace():
            self.tokens.pop(0)

    def alternatives(self) -> tuple[str, list[frozenset[str]]]:
        """Return the expression of `a | b` and its required keys."""
        found = [self._sequence()]
        while self.tokens[:1] == ["|"]:
            self.tokens.pop(0)
            found.append(self._sequence())
        if len(found) == 1:
            return found[0]
        keys = [min(required, key=len) for _, required in found if required]
        return f"(?:{'|'.join(dict.fromkeys(pattern for pattern, _ in found))})", (
            [frozenset[str]().union(*keys)] if len(keys) == len(found) else []
        )

    def _sequence(self) -> tuple[str, list[frozenset[str]]]:
        pattern, keys = "", list[frozenset[str]]()
        joined, space = True, False  # whether the next part follows directly, and whether a space was read
        while self.tokens and self.tokens[0] not in "|)&":
            symbol = self.tokens.pop(0)
            if symbol.isspace():
                space = True
                continue
            between = self._between(symbol) if space and not joined else ""
            space = False
            if symbol in ("...", "^", ">"):
                gap = _GAP if self.spaced else _GAP_UNSPACED
                pattern += {"...": gap, ">": _AFTER_SENTENCE}.get(symbol) or self._clause_start()
                joined = True
                continue
            if symbol == "$":
                pattern += _END
                continue
            if symbol == "!":
                pattern += f"(?!{between}{self._part(self.tokens.pop(0))[0]})"
                continue
            part, required = self._part(symbol)
            if self.tokens[:1] == ["?"]:
                self.tokens.pop(0)
                follows = bool(self.tokens) and self.tokens[0].isspace() and joined
                after = self._between(symbol) if follows else ""
                pattern += f"(?:{between}{part}{after})?"
                continue
            pattern += between + part
            keys += required
            joined = False
        return pattern, keys

    def _between(self, symbol: str) -> str:
        """Return the expression between words; none has to be beside a punctuation mark."""
        if not self.spaced:
            return _BETWEEN_UNSPACED
        return _BETWEEN if symbol[0] in "({*" or symbol[0].isalnum() else _BETWEEN_PUNCTUATION

    def _part(self, symbol: str) -> tuple[str, list[frozenset[str]]]:
        if symbol == "(":
            found = self.alternatives()
            if not self.tokens or self.tokens.pop(0) != ")":
                raise ValueError(f"The phrase {self.source!r} has a parenthesis without its end; add `)`.")
            return found
        if symbol.startswith("{"):
            return self._group(symbol[1:-1])
        return self._word(symbol)

    def _group(self, name: str) -> tuple[str, list[frozenset[str]]]:
        if name in _BUILT_IN:
            return _BUILT_IN[name], []
        if name not in self.groups:
            raise ValueError(f"The group {{{name}}} is not defined; define it before the first section.")
        return _Parser(self.groups[name].strip(), self.groups, self.spaced).alternatives()

    def _word(self, symbol: str) -> tuple[str, list[frozenset[str]]]:
        word = symbol.strip("*").strip("'").lower()
        pattern = re.escape(word).replace(":", "[:：]")
        if not self.spaced:
            return pattern, [frozenset({word[:_MAX_GRAM]})] if word[0].isalnum() else []
        start, end = symbol.startswith("*"), symbol.endswith("*")
        before = r"\b\w{0,20}" if start else r"\b" if word[0].isalnum() else ""
        after = r"\w*+" if end else r"\b" if word[-1].isalnum() else ""
        first = re.split(r"[\W_]", word)[0]
        is_stem = end and first == word
        usable = not start and word[:1].isalnum() and len(first) >= (_MIN_STEM if is_stem else 1)
        return before + pattern + after, [frozenset({f"{first}*" if is_stem else first})] if usable else []

    def _clause_start(self) -> str:
        if "lead" not in self.groups:
            return _BEFORE_CLAUSE
        lead, _ = _Parser(self.groups["lead"].strip(), self.groups, self.spaced).alternatives()
        between = r"[^\w￼]{1,4}" if self.spaced else r"[^\w￼]{0,4}"
        return f"{_BEFORE_CLAUSE}(?:{lead}{between}){{0,4}}"
