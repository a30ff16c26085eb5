"""Reads a JSON document of any size value by value, in the memory of one value.

Python's own parser reads the values. A parser in C such as ijson's ends the process at a number of 5,000 digits, and
one bad value is the end of the document; here it costs itself only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final, TextIO

UNREADABLE: Final = object()  # stands for a value that has an end, but is no JSON that Python can hold

_BLOCK = 1 << 18  # characters
_MOST = 1 << 24  # characters of one value
_BLANK = frozenset((*" \t\n\r", ""))
_SPACE = re.compile(r"[ \t\n\r]*+")
_BETWEEN = re.compile(r"[ \t\n\r]*+([,:\]}]?)[ \t\n\r]*+")
_NAME = re.compile(r'"([^"\\\x00-\x1f]*+)"[ \t\n\r]*+:[ \t\n\r]*+')  # as nearly all are: without escapes
_BRACKETS = re.compile(r'"(?:[^"\\]++|\\.)*+("|\\?\Z)|[\[{]|([\]}])', re.DOTALL)
_PLAIN = re.compile(r'[^ \t\n\r,:\[\]{}"]*+')
_FOLLOWS = frozenset((*" \t\n\r,:]}", ""))  # what may come after a value


class JsonError(ValueError):
    """A document is cut short or damaged, so that what follows cannot be found."""


class JsonReader:
    """Reads the document in *text*, from its start to its end.

    Every method raises JsonError where the document ends too early, or has something else in that place.
    """

    def __init__(self, text: TextIO) -> None:
        self._text = text
        self._parse = json.JSONDecoder().raw_decode
        self._block = ""
        self._at = 0

    def next(self) -> str:
        """Return the first character of what comes next, which is not read yet; "" at the end."""
        while True:
            blank = _SPACE.match(self._block, self._at)
            self._at = blank.end() if blank else self._at
            if self._at < len(self._block):
                return self._block[self._at]
            if not self._more():
                return ""

    def value(self) -> Any:
        """Read one value; UNREADABLE for one that Python refuses: bad syntax, too deep, a number too long."""
        if self._block[self._at : self._at + 1] in _BLANK:
            self.next()
        while True:
            try:
                value, end = self._parse(self._block, self._at)
                if self._block[end : end + 1] not in _FOLLOWS:
                    value, end = UNREADABLE, self._end()  # such as `1.` or `007`
            except (ValueError, RecursionError):
                value, end = UNREADABLE, self._end()
            # A number that ends with the block may go on in the next.
            if (end and end < len(self._block)) or not self._more():
                break
        if not end:
            raise JsonError("the document is cut short or damaged")
        self._at = end
        return value

    def items(self) -> Iterator[Any]:
        """Read an array; give its values."""
        more = self._open("[", "]")
        while more:
            yield self.value()
            more = self._between(",]") == ","

    def names(self) -> Iterator[str]:
        """Read an object; give its names. Before the next one, the caller reads the value of each."""
        more = self._open("{", "}")
        while more:
            name = _NAME.match(self._block, self._at)
            if name and name.end() < len(self._block):
                self._at = name.end()
                yield name[1]
            else:
                yield self._name()
            more = self._between(",}") == ","

    def skip(self) -> None:
        """Pass over a value: an array, which may be long, item by item."""
        if self.next() == "[":
            for _ in self.items():
                pass
        else:
            self.value()

    def end(self) -> None:
        """Check that nothing follows."""
        if self.next():
            raise JsonError("something follows the end of the document")

    def _open(self, bracket: str, closing: str) -> bool:
        """Read the opening bracket, and the closing one where it follows; say whether it does not."""
        if self.next() != bracket:
            raise JsonError(f"{self.next() or 'the end of the document'} instead of {bracket}")
        self._at += 1
        empty = self.next() == closing
        self._at += empty
        return not empty

    def _between(self, wanted: str) -> str:
        """Read and return the one of *wanted* that stands between two values, and the blanks around it."""
        while True:
            found = _BETWEEN.match(self._block, self._at)
            if found is None or found.end() < len(self._block) or not self._more():
                break
        if found is None or found[1] not in wanted or not found[1]:
            raise JsonError(f"{self.next() or 'the end of the document'} instead of {' or '.join(wanted)}")
        self._at = found.end()
        return found[1]

    def _name(self) -> str:
        name = self.value() if self.next() == '"' else None
        if not isinstance(name, str):
            raise JsonError("an object lacks a name")
        self._between(":")
        return name

    def _end(self) -> int:
        """Return where the value at hand ends, by its brackets alone; 0 where it does not end in the block."""
        if self._block[self._at : self._at + 1] not in ("[", "{", '"'):
            plain = _PLAIN.match(self._block, self._at)
            return plain.end() if plain and plain.end() > self._at else 0
        depth = 0
        for piece in _BRACKETS.finditer(self._block, self._at):
            if piece[1] is not None:
                if piece[1] != '"':
                    return 0
            else:
                depth += -1 if piece[2] else 1
            if depth <= 0:
                return piece.end()
        return 0

    def _more(self) -> bool:
        """Read the next block behind what is not used up; False at the end."""
        block = self._text.read(max(_BLOCK, len(self._block) - self._at))  # twice as much, so that the time is linear
        self._block, self._at = self._block[self._at :] + block, 0
        if len(self._block) > 2 * _MOST:
            raise JsonError(f"a value has more than {_MOST:,} characters")
        return bool(block)
