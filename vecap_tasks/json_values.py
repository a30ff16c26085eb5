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
_SPACE = re.compile(r"[ \t\n\r]*+")
_BRACKETS = re.compile(r'"(?:[^"\\]++|\\.)*+("|\\?\Z)|[\[{]|([\]}])', re.DOTALL)
_PLAIN = re.compile(r"[^ \t\n\r,:\[\]{}\"]*+")
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
            end = _SPACE.match(self._block, self._at)
            self._at = end.end() if end else self._at
            if self._at < len(self._block):
                return self._block[self._at]
            if not self._more():
                return ""

    def value(self) -> Any:
        """Read one value; UNREADABLE for one that Python refuses: bad syntax, too deep, a number too long."""
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
        self._expect("[")
        if self._take("]"):
            return
        while True:
            yield self.value()
            if self._take("]"):
                return
            self._expect(",")

    def names(self) -> Iterator[str]:
        """Read an object; give its names. Before the next one, the caller reads the value of each."""
        self._expect("{")
        if self._take("}"):
            return
        while True:
            name = self.value() if self.next() == '"' else None
            if not isinstance(name, str):
                raise JsonError("an object has no name where one is expected")
            self._expect(":")
            yield name
            if self._take("}"):
                return
            self._expect(",")

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

    def _take(self, wanted: str) -> bool:
        found = self.next() == wanted
        self._at += found
        return found

    def _expect(self, wanted: str) -> None:
        if not self._take(wanted):
            raise JsonError(f"the document is cut short or damaged: {self.next() or 'its end'} instead of {wanted}")

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
