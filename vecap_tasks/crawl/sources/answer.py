"""The answer of a web server as an archive keeps it: its header, and its body with the codings undone."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vecap_tasks.crawl.failure import Failure
from vecap_tasks.crawl.sources.coding import undo
from vecap_tasks.crawl.sources.fields import Fields, split
from vecap_tasks.crawl.sources.records import Record

MAX_HEADER = 1 << 16  # bytes that a record's block may have beyond the body that is wanted

_TDM = "tdm-reservation"  # of the W3C's TDM Reservation Protocol
_STATUS = re.compile(rb"HTTP/\S*[ \t]+(\d{3})")
_CHARSET = re.compile(r"""charset\s*=\s*["']?\s*([^\s"';,]+)""", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a record holds. `status` is None where no HTTP header was kept, as in resource records, and 0
    where its status line cannot be read."""

    status: int | None
    content_type: str  # in lower case, without parameters
    charset: str | None
    robots_tags: tuple[str, ...]  # values of X-Robots-Tag, and `tdm-reservation: …` for the header of that name
    codings: tuple[str, ...]  # of the content, in lower case, in the order applied
    transfer: str
    raw: bytes

    def body(self, most: int) -> bytes:
        """Return the body. Raises Failure: `bad_encoding`, or `too_large` where it has more than *most* bytes."""
        return undo(self.raw, self.transfer, self.codings, most)


def answer_of(record: Record) -> Answer:
    """Return the answer in *record*. Raises Failure `too_large` where the record's block was not kept."""
    block = record.block
    if block is None:
        raise Failure("too_large")
    if not block.startswith(b"HTTP/"):
        return Answer(None, *_kind(record.content_type), (), (), "", block)
    header, start = split(block)
    fields = Fields.parse(header)
    written = (name.strip().lower() for name in fields.get("content-encoding").split(","))
    return Answer(
        _status(header),
        *_kind(fields.get("content-type")),
        (*fields.all("x-robots-tag"), *(f"{_TDM}: {value}" for value in fields.all(_TDM))),
        tuple(name for name in written if name),
        fields.get("transfer-encoding").lower(),
        block[start:],
    )


def _status(header: bytes) -> int:
    """Return the number in the status line, 0 where there is none."""
    status = _STATUS.match(header)
    return int(status[1]) if status else 0


def _kind(content_type: str) -> tuple[str, str | None]:
    """Return the type alone, and the charset."""
    kind, _, parameters = content_type.partition(";")
    charset = _CHARSET.search(parameters) if parameters else None
    return kind.strip().lower(), charset[1] if charset else None
