"""Refuses pages that no parser reads in linear time, before they are parsed.

Parsers of the HTML standard take time proportional to tags times depth, to copies of formatting elements, and to the
square of an element's attributes; lexbor also to the square of a list's options. Real pages stay far below the limits.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

import numpy as np
import numpy.typing as npt

from vecap_tasks.errors import Failure

MAX_DEPTH = 512  # open elements; as in Chromium
MAX_WORK = 50_000_000  # sum of the depth over all tags, about 2 s
MAX_COPIES = 1_000_000  # formatting elements that the parser reopens in later blocks
MAX_ATTRIBUTES = 2_000  # of one element
MAX_OPTIONS = 1_000  # more are dropped, because no image is inside
_MIN_TAGS = 2_048  # pages with fewer tags parse in 1.5 s at any depth, and most pages have fewer
_BLOCK = 2 * MAX_ATTRIBUTES  # bytes that an element with too many attributes exceeds
_MAX_RISE = 256  # the tags of most pages balance better than this, which takes little time to see
_MAX_EQUAL = 3  # equal formatting elements that are reopened: the "Noah's Ark clause"
_TAG = re.compile(rb"<(?:(!--)|(/?)([a-zA-Z][^\s/><]*+)[^<>]*+>?)")
_TAG_NAME = re.compile(rb"<[a-zA-Z][\w:-]*+(?=[\s/])")
_ATTRIBUTE = re.compile(rb"""[\s/]*+[^\s/>][^\s/>=]*+(?:\s*+=\s*+(?:"[^"]*+"|'[^']*+'|[^\s>]*+))?+""")
_ROOT = re.compile(rb"<(?:html|body)(?=[\s/>])", re.IGNORECASE)
_OPTION = re.compile(rb"</?option(?=[\s/>])[^<>]*+>?", re.IGNORECASE)
# Elements without content, and elements that add a constant to the depth.
_IGNORED = frozenset(
    b"area base basefont bgsound br col embed frame hr image img input keygen link meta param source track wbr "
    b"html head body tr tbody thead tfoot colgroup".split()
)
_RAW = {
    name: re.compile(rb"</%s(?=[\s/>])" % name, re.IGNORECASE)
    for name in b"script style textarea title xmp iframe noembed noframes plaintext".split()
}
_FORMATTING = frozenset(b"b big code em font i s small strike strong tt u".split())
_AT_MOST_ONE = frozenset(b"a nobr button option".split())  # a start tag closes the open one
_ITEMS = {b"li": (b"li",), b"dd": (b"dd", b"dt"), b"dt": (b"dd", b"dt")}
_P_CLOSERS = frozenset(
    b"address article aside blockquote center dd details dialog dir div dl dt fieldset figcaption figure footer form "
    b"h1 h2 h3 h4 h5 h6 header hgroup li listing main menu nav ol p pre search section summary table ul".split()
)
_BLOCKS = (_P_CLOSERS | {b"button", b"html"}) - {b"address", b"div", b"p"}  # enclose the items of a list
_CELLS = frozenset(b"td th caption".split())
_SCOPES = _CELLS | frozenset(b"table object applet marquee template select".split())  # end tags outside do not apply
_UNBALANCED = _IGNORED | _AT_MOST_ONE | _CELLS | frozenset(b"p li dd dt".split())  # often without end tags


# Classes of the bytes after `<`: letters, the end of a name, digits and hyphens, and bytes that no name contains.
_END, _OTHER, _INVALID = 0, 27, 28
_CLASSES = 29


@cache
def _tables() -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int8]]:
    """Return the class of each byte, and the change of the depth by the classes of the first three bytes of a name.

    The change is 0 for elements that often have no end tag.
    """
    classes = np.full(256, _INVALID, np.int32)
    classes[list(b" \t\n\r\f/>")] = _END
    classes[list(b"0123456789:-_")] = _OTHER
    for letter in range(1, 27):
        classes[[64 + letter, 96 + letter]] = letter
    deltas = np.zeros((_CLASSES, _CLASSES, _CLASSES), np.int8)
    deltas[1:27, :_INVALID, :_INVALID] = deltas[1:27, _END] = 1
    for name in _UNBALANCED - {b"head"}:  # has the start of `header`
        first, second, third = [*classes[list(name)], _END, _END][:3]
        deltas[first, second, slice(None) if second == _END else third] = 0
    return classes, deltas.ravel()


def check(body: bytes) -> bytes:
    """Return the UTF-8 page *body*, without options if it has more than MAX_OPTIONS.

    Raises Failure: `too_deep` if elements are nested deeper than MAX_DEPTH, or too deep for the number of tags;
    `too_many_attributes`.
    """
    _check_attributes(body)
    tags = np.flatnonzero(np.frombuffer(body, np.uint8) == ord("<"))  # `bytes.count` takes five times as long
    if len(tags) <= _MIN_TAGS:
        return body
    may_be_deep, roots, options = _measure(body, tags)
    if may_be_deep:
        _check_depth(body)
    if roots > 2:
        count = 0  # the parser merges their attributes
        for tag in _ROOT.finditer(body):
            count = _count_attributes(body, tag.start(), count)
    return _OPTION.sub(b"", body) if options > MAX_OPTIONS else body


def _measure(body: bytes, tags: npt.NDArray[np.int64]) -> tuple[bool, int, int]:
    """Return whether the page may be deep, and about how many <html>, <body> and <option> it has. *tags* are offsets.

    A page may be deep if its tags rise by more than _MAX_RISE above an earlier point, or if the sum is too large. This
    takes a tenth of the time that parsing takes.
    """
    data = np.frombuffer(body + b"    ", np.uint8)
    classes, deltas = _tables()
    ends = data[tags + 1] == ord("/")
    first = tags + 1 + ends
    names = (classes[data[first]] * _CLASSES + classes[data[first + 1]]) * _CLASSES + classes[data[first + 2]]
    heights = np.cumsum(np.where(ends, -deltas[names], deltas[names]), dtype=np.int64)
    rises = heights - np.minimum(np.minimum.accumulate(heights), 0)
    starts = names[~ends]
    html, page_body, option = (int(np.count_nonzero(starts == _key(name))) for name in (b"htm", b"bod", b"opt"))
    return bool(rises.max() > _MAX_RISE or rises.sum() > MAX_WORK), html + page_body, option


@cache
def _key(name: bytes) -> int:
    first, second, third = _tables()[0][list(name)]
    return int((first * _CLASSES + second) * _CLASSES + third)


def _check_attributes(body: bytes) -> None:
    """Count the attributes of tags that cover a whole block: a block without `<` or without `>`."""
    last = -1
    for position in range(0, len(body) - _BLOCK, _BLOCK):
        for mark in (b"<", b">"):
            if body.find(mark, position, position + _BLOCK) < 0:
                before = body.rfind(mark, 0, position)
                tag = before if mark == b"<" else body.find(b"<", before + 1)
                if tag > last:
                    _count_attributes(body, tag)
                    last = tag


def _count_attributes(body: bytes, position: int, count: int = 0) -> int:
    """Return *count* plus the number of attributes of the tag at *position*. Raises Failure if there are too many."""
    match = _TAG_NAME.match(body, position)
    while match and (match := _ATTRIBUTE.match(body, match.end())):
        count += 1
        if count > MAX_ATTRIBUTES:
            raise Failure("too_many_attributes")
    return count


def _check_depth(body: bytes) -> None:
    tree = _OpenElements()
    position = work = copies = 0
    while match := _TAG.search(body, position):
        position = match.end()
        if match[1]:
            position = body.find(b"-->", match.start() + 2) + 1
            if not position:
                return
            continue
        name = match[3].lower()
        if match[2]:
            tree.end(name)
            continue
        if name in _RAW:
            end = _RAW[name].search(body, position)
            if not end:
                return
            position = end.end()
            continue
        tree.start(name, match[0])
        work += tree.depth
        copies += tree.closed
        if tree.depth + tree.closed > MAX_DEPTH or work > MAX_WORK or copies > MAX_COPIES:
            raise Failure("too_deep")


class _Scope:
    """Open elements inside a table, a cell or similar elements: name and tag of each."""

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.elements: list[tuple[bytes, bytes]] = []
        self.counts: Counter[bytes] = Counter()
        self.closed: dict[bytes, Counter[bytes]] = {}  # formatting elements closed by others: tags by name


class _OpenElements:
    """The stack of open elements, estimated from tags without a tree.

    `depth` is its size; `closed` is the number of formatting elements that the parser reopens in the next block.
    """

    def __init__(self) -> None:
        self._scopes = [_Scope(b"html")]
        self.depth = 2
        self.closed = 0

    def start(self, name: bytes, tag: bytes) -> None:
        scope = self._scopes[-1]
        if name in _P_CLOSERS and scope.counts[b"p"]:
            self._close(scope, (b"p",))
        if name in _CELLS:
            if scope.name in _CELLS:
                self._close_scopes(1)
            if self._scopes[-1].name == b"table":
                self._open_scope(name)
        elif name in _SCOPES:
            if name == scope.name and name in (b"table", b"select"):
                self._close_scopes(1)
            self._open_scope(name)
        elif not (
            name in _IGNORED
            or (name in _AT_MOST_ONE and scope.counts[name])
            or (tag.endswith(b"/>") and (scope.counts[b"svg"] or scope.counts[b"math"]))
        ):
            if name in _ITEMS:
                self._close_item(scope, _ITEMS[name])
            scope.elements.append((name, tag))
            scope.counts[name] += 1
            self.depth += 1

    def end(self, name: bytes) -> None:
        scope = self._scopes[-1]
        if name in _SCOPES:
            for number, outer in enumerate(reversed(self._scopes[1:]), 1):
                if outer.name == name:
                    self._close_scopes(number)
                    break
                if outer.name == b"template" or (name in _CELLS and outer.name == b"table"):
                    break
        elif not scope.counts[name]:
            if closed := scope.closed.get(name):
                self.closed -= closed.popitem()[1]
        elif name in _FORMATTING:
            index = max(number for number, (other, _) in enumerate(scope.elements) if other == name)
            del scope.elements[index]
            scope.counts[name] -= 1
            self.depth -= 1
        else:
            self._close(scope, (name,))

    def _open_scope(self, name: bytes) -> None:
        self._scopes.append(_Scope(name))
        self.depth += 1

    def _close_scopes(self, count: int) -> None:
        for scope in self._scopes[-count:]:
            self.depth -= 1 + len(scope.elements)
            self.closed -= sum(tags.total() for tags in scope.closed.values())
        del self._scopes[-count:]

    def _close(self, scope: _Scope, names: tuple[bytes, ...]) -> None:
        """Close the elements up to the last one of *names*."""
        name = b""
        while name not in names:
            name, tag = scope.elements.pop()
            scope.counts[name] -= 1
            self.depth -= 1
            if name in _FORMATTING and name not in names:
                tags = scope.closed.setdefault(name, Counter())
                if tags[tag] < _MAX_EQUAL:
                    tags[tag] += 1
                    self.closed += 1

    def _close_item(self, scope: _Scope, names: tuple[bytes, ...]) -> None:
        for name, _ in reversed(scope.elements):
            if name in names:
                self._close(scope, names)
                return
            if name in _BLOCKS:
                return
