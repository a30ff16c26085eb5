"""Header fields of HTTP responses and WARC records, as lenient as browsers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from vecap_tasks.crawl.http.robots import OPT_OUT_FIELDS
from vecap_tasks.errors import Failure

MAX_HEADER = 1 << 18  # bytes of a response's header; the limit of Chromium
HEADER_END = re.compile(rb"\r?\n\r?\n")
_FOLDED_LINE = re.compile(r"\r?\n[ \t]+")
# Chromium: up to four bytes may come first, the version may be missing, and the reason is ignored.
_STATUS_LINE = re.compile(rb".{0,4}?HTTP(?:/(\d{1,3})(?:\.(\d{1,3}))?)?[ \t]+(\d{3})(?!\d)", re.DOTALL | re.IGNORECASE)
_CHARSET = re.compile(r"""charset\s*=\s*["']?\s*([^\s"';,]+)""", re.IGNORECASE)
_CONNECTION_OPTIONS = frozenset({"close", "keep-alive"})
_LENGTH = re.compile(r"[0-9]{1,18}")
# The fields that the crawler reads; the others are not passed to aiohttp.
_FIELDS = ("content-type", "content-encoding", "location", "retry-after", *OPT_OUT_FIELDS)


@dataclass(frozen=True, slots=True)
class Fields:
    """Header values by lowercase name, in order."""

    values: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def parse(cls, header: bytes, errors: str = "replace") -> Fields:
        """Parse all lines after the first; lines without a colon are ignored. *errors* is for bytes outside UTF-8."""
        text = header.decode("utf-8", errors)
        if "\n " in text or "\n\t" in text:
            text = _FOLDED_LINE.sub(" ", text)
        values: dict[str, list[str]] = {}
        for line in text.split("\n")[1:]:
            name, colon, value = line.partition(":")
            if colon:
                values.setdefault(name.strip().lower(), []).append(value.strip())
        return cls(values)

    def get(self, name: str) -> str:
        """Return the first value of the field *name* (lowercase), "" if missing."""
        values = self.values.get(name)
        return values[0] if values else ""

    def all(self, name: str) -> tuple[str, ...]:
        return tuple(self.values.get(name, ()))

    def items_of(self, name: str) -> list[str]:
        """Return the items of a field whose values are lists separated by commas, lowercase."""
        values = self.values.get(name)
        if values is None:
            return []
        return [item for item in (item.strip().lower() for item in ",".join(values).split(",")) if item]


def split_header(block: bytes) -> tuple[bytes, int]:
    """Return the header of an HTTP message and the offset of its body.

    Raises Failure `bad_response` if the header exceeds `MAX_HEADER`.
    """
    end = HEADER_END.search(block, 0, MAX_HEADER)
    if end is None and len(block) > MAX_HEADER:
        raise Failure("bad_response", f"the header exceeds {MAX_HEADER:,} bytes")
    return (block[: end.start()], end.end()) if end else (block, len(block))


def status_of(header: bytes) -> int:
    """Return the status code, 0 if the status line is invalid."""
    status = _STATUS_LINE.match(header)
    return int(status[3]) if status else 0


def may_be_http(start: bytes) -> bool:
    """Return whether a response that begins with *start* may have a status line."""
    return len(start) < 8 or b"http" in start[:8].lower()


def media_type(content_type: str) -> tuple[str, str | None]:
    """Return the media type, lowercase, and the charset of a Content-Type."""
    kind, _, parameters = content_type[:1000].partition(";")
    charset = _CHARSET.search(parameters) if parameters else None
    return kind.strip().lower(), charset[1] if charset else None


def opt_out_values(fields: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Return the values that `opted_out` checks: those of X-Robots-Tag, then `name: value` of the other fields.

    *fields* are names, in any case, and values.
    """
    found: dict[str, list[str]] = {name: [] for name in OPT_OUT_FIELDS}
    for name, value in fields:
        if (lowered := name.lower()) in found:
            found[lowered].append(value)
    first, *others = OPT_OUT_FIELDS
    return (*found[first], *(f"{name}: {value}" for name in others for value in found[name]))


def normalize_header(header: bytes) -> bytes:
    """Return *header*, without its blank line, in a form that a strict parser accepts, with its blank line.

    Like browsers, it ignores lines that are not fields, such as messages of PHP, and invalid or repeated lengths.
    Raises Failure `bad_response` if the status line is invalid, or if lengths differ.
    """
    status = _STATUS_LINE.match(header)
    if status is None:
        raise Failure("bad_response", "no status line")
    version = (int(status[1] or 1), int(status[2] or 0))
    fields = Fields.parse(header, "surrogateescape")
    lines = [f"HTTP/1.{int(version >= (1, 1))} {int(status[3])} -"]
    lengths = {length for length in fields.items_of("content-length") if _LENGTH.fullmatch(length)}
    if fields.items_of("transfer-encoding")[-1:] == ["chunked"] and version >= (1, 1):
        lines.append("Transfer-Encoding: chunked")
    elif len({int(length) for length in lengths}) > 1:
        raise Failure("bad_response", "several lengths")
    elif lengths:
        lines.append(f"Content-Length: {lengths.pop()}")
    lines += (f"Connection: {option}" for option in fields.items_of("connection") if option in _CONNECTION_OPTIONS)
    for name in _FIELDS:
        if name in fields.values:
            lines += (f"{name}: {value}" for value in fields.all(name) if "\0" not in value and "\r" not in value)
    return "\r\n".join((*lines, "", "")).encode("utf-8", "surrogateescape")
