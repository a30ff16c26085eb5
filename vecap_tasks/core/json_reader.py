"""JSON with limits, and a streaming reader that has one value in memory at a time.

Python's own parser reads the values. C parsers such as ijson's crash the process at a number of 5,000 digits, and stop
at the first invalid value; this reader skips it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final, TextIO

UNREADABLE: Final = object()  # marks a value with a known end that Python cannot represent, or beyond the limits
MAX_DEPTH = 200  # nested arrays and objects; Python's own limit depends on the caller
MAX_DIGITS = 4_000  # of an integer; Python's own limit depends on the environment

_BLOCK = 1 << 18  # characters
_MAX_VALUE = 1 << 24  # characters
_BLANK = frozenset((*" \t\n\r", ""))
_SPACE = re.compile(r"[ \t\n\r]*+")
_BETWEEN = re.compile(r"[ \t\n\r]*+([,:\]}]?)[ \t\n\r]*+")
_NAME = re.compile(r'"([^"\\\x00-\x1f]*+)"[ \t\n\r]*+:[ \t\n\r]*+')  # the common case: without escapes
_BRACKETS = re.compile(r'"(?:[^"\\]++|\\.)*+("|\\?\Z)|[\[{]|([\]}])', re.DOTALL)
_PLAIN = re.compile(r'[^ \t\n\r,:\[\]{}"]*+')
_FOLLOWS = frozenset((*" \t\n\r,:]}", ""))  # characters that may follow a value


_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_OPENING, _CLOSING = frozenset("[{"), frozenset("]}")
_OTHER = re.compile(r"[^\[\]{}]++")


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"an integer of {len(digits):,} digits")
    return int(digits)


_DECODER = json.JSONDecoder(parse_int=_integer)


def parse_json(data: str | bytes) -> Any:
    """Return the value of a JSON document with at most `MAX_DEPTH` levels; *data* may have a byte order mark.

    Raises ValueError if it is invalid or beyond the limits.
    """
    text = data.decode(json.detect_encoding(data), "surrogatepass") if isinstance(data, bytes) else data
    text = text.removeprefix("\ufeff")
    if is_deep(text):
        raise ValueError(f"more than {MAX_DEPTH} levels of arrays and objects")
    try:
        return _DECODER.decode(text)
    except RecursionError as error:
        raise ValueError("too many levels of arrays and objects") from error


def is_deep(text: str) -> bool:
    """Return whether arrays and objects in *text*, which is JSON, are nested more than `MAX_DEPTH` levels deep."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return False
    depth = 0
    for bracket in _OTHER.sub("", _STRING.sub("", text)):
        depth += 1 if bracket in _OPENING else -1
        if depth > MAX_DEPTH:
            return True
    return False


class JsonError(ValueError):
    """The document is truncated or corrupt, and the reader cannot continue."""


class JsonReader:
    """Reads the document in *text* sequentially.

    Every method raises JsonError if the document ends early or has unexpected content.
    """

    def __init__(self, text: TextIO) -> None:
        self._text = text
        self._parse = _DECODER.raw_decode
        self._block = ""
        self._at = 0

    def next(self) -> str:
        """Return the next non-blank character without consuming it; "" at the end."""
        while True:
            blank = _SPACE.match(self._block, self._at)
            self._at = blank.end() if blank else self._at
            if self._at < len(self._block):
                return self._block[self._at]
            if not self._more():
                return ""

    def value(self) -> Any:
        """Read one value; UNREADABLE for one that Python rejects: invalid syntax, too deep, number too long."""
        if self._block[self._at : self._at + 1] in _BLANK:
            self.next()
        while True:
            try:
                value, end = self._parse(self._block, self._at)
                if self._block[end : end + 1] not in _FOLLOWS:
                    value, end = UNREADABLE, self._end()  # such as `1.` or `007`
                elif isinstance(value, list | dict) and is_deep(self._block[self._at : end]):
                    value = UNREADABLE
            except (ValueError, RecursionError):
                value, end = UNREADABLE, self._end()
            # A number at the end of the block may continue in the next one.
            if (end and end < len(self._block)) or not self._more():
                break
        if not end:
            raise JsonError("the document is truncated or corrupt")
        self._at = end
        return value

    def items(self) -> Iterator[Any]:
        """Read an array, and yield its values."""
        more = self._open("[", "]")
        while more:
            yield self.value()
            more = self._between(",]") == ","

    def names(self) -> Iterator[str]:
        """Read an object, and yield its names. The caller reads each value before it takes the next name."""
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
        """Skip a value; a possibly long array is skipped item by item."""
        if self.next() == "[":
            for _ in self.items():
                pass
        else:
            self.value()

    def end(self) -> None:
        """Check that the document ends here."""
        if self.next():
            raise JsonError("something follows the end of the document")

    def _open(self, bracket: str, closing: str) -> bool:
        """Read the opening bracket, and the closing one if it follows; return whether there are values."""
        if self.next() != bracket:
            raise JsonError(f"{self.next() or 'the end of the document'} instead of {bracket}")
        self._at += 1
        empty = self.next() == closing
        self._at += empty
        return not empty

    def _between(self, wanted: str) -> str:
        """Read the separator after a value and surrounding blanks; return it, one of *wanted*."""
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
        """Return where the current value ends, counting brackets only; 0 if it does not end in the block."""
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
        """Append the next block to the unread rest of the current one; return False at the end."""
        block = self._text.read(max(_BLOCK, len(self._block) - self._at))  # doubling keeps the total time linear
        self._block, self._at = self._block[self._at :] + block, 0
        if len(self._block) > 2 * _MAX_VALUE:
            raise JsonError(f"a value has more than {_MAX_VALUE:,} characters")
        return bool(block)
