"""Refuses pages that no parser reads in linear time, before they are parsed.

Parsers of the HTML standard take time proportional to tags times depth, to copies of formatting elements, and to the
square of an element's attributes; lexbor also to the square of a list's options. Real pages stay far below the limits.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import accumulate
from operator import sub

from vecap_tasks.errors import Failure

MAX_DEPTH = 512  # open elements; as in Chromium
MAX_WORK = 50_000_000  # sum of the depth over all tags, about 2 s
MAX_COPIES = 1_000_000  # formatting elements that the parser reopens in later blocks
MAX_ATTRIBUTES = 2_000  # of one element
MAX_OPTIONS = 1_000  # more are dropped, because no image is inside
_MIN_TAGS = 2_048  # pages with fewer tags parse in less than a second at any depth
_BLOCK = 2 * MAX_ATTRIBUTES  # bytes that an element with too many attributes exceeds
_MAX_RISE = 256  # the tags of most pages balance better than this, which takes little time to see
_MAX_EQUAL = 3  # equal formatting elements that are reopened: the "Noah's Ark clause"
_START = re.compile(rb"</?[\w:-]+(?=[\s/>])")  # not `a<b&&c` in scripts
_TAG = re.compile(rb"<(?:(!--)|(/?)([a-zA-Z][^\s/><]*+)[^<>]*+>?)")
_TAG_NAME = re.compile(rb"<[a-zA-Z][^\s/>]*+")
_ATTRIBUTE = re.compile(rb"""[\s/]*+[^\s/>][^\s/>=]*+(?:\s*+=\s*+(?:"[^"]*+"|'[^']*+'|[^\s>]*+))?+""")
_ROOTS = frozenset((b"<html", b"<body"))
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


class _Deltas(dict[bytes, int]):
    """The change of the depth by the start of a tag, 0 for elements that often have no end tag."""

    def __missing__(self, tag: bytes) -> int:
        name = tag.lstrip(b"</").lower()
        delta = 0 if name in _UNBALANCED or not name[:1].isalpha() else -1 if tag[1:2] == b"/" else 1
        if len(self) < 10_000 and len(tag) < 100:
            self[tag] = delta
        return delta


_DELTAS = _Deltas()


def check(body: bytes) -> bytes:
    """Return the UTF-8 page *body*, without options if it has more than MAX_OPTIONS.

    Raises Failure: `too_deep` if elements are nested deeper than MAX_DEPTH, or too deep for the number of tags;
    `too_many_attributes`.
    """
    _check_attributes(body)
    if body.count(b"<") <= _MIN_TAGS:
        return body
    starts = _START.findall(body)
    heights = list(accumulate(map(_DELTAS.__getitem__, starts), initial=0))
    spread = max(heights) - min(heights)
    if spread > _MAX_RISE or spread * len(heights) > MAX_WORK:
        rises = list(map(sub, heights, accumulate(heights, min)))
        if max(rises) > _MAX_RISE or sum(rises) > MAX_WORK:
            _check_depth(body)
    distinct = set(starts)
    if sum(starts.count(start) for start in distinct if start.lower() in _ROOTS) > len(_ROOTS):
        count = 0  # the parser merges their attributes
        for tag in _ROOT.finditer(body):
            count = _count_attributes(body, tag.start(), count)
    options = sum(starts.count(start) for start in distinct if start.lower() == b"<option")
    return _OPTION.sub(b"", body) if options > MAX_OPTIONS else body


def _check_attributes(body: bytes) -> None:
    """Count the attributes of tags that cover a whole block: a block without `<` or without `>`."""
    for position in range(0, len(body) - _BLOCK, _BLOCK):
        for mark in (b"<", b">"):
            if body.find(mark, position, position + _BLOCK) < 0:
                before = body.rfind(mark, 0, position)
                _count_attributes(body, before if mark == b"<" else body.find(b"<", before + 1))


def _count_attributes(body: bytes, position: int, count: int = 0) -> int:
    """Return *count* plus the number of attributes of the tag at *position*. Raises Failure if there are too many."""
    match = _TAG_NAME.match(body, max(0, position))
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
