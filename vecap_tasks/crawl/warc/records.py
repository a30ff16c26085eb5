"""Records of WARC (1.0, 1.1) and ARC files in one pass, and the HTTP responses in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO

from isal.igzip_lib import IsalError

from vecap_tasks.core.manifest import Input
from vecap_tasks.crawl.http.content_encoding import decode_body
from vecap_tasks.crawl.warc.gzip_reader import GzipReader
from vecap_tasks.errors import Failure, PermanentError, VecapError

_FOLD = re.compile(r"\r?\n[ \t]+")
_END = re.compile(rb"\r?\n\r?\n")
_MAX_RECORD_HEADER = 1 << 20  # bytes
_WARC, _ARC = b"WARC/1.", b"filedesc:"
# Address (old writers left blanks in it), IP address, date, content type; the second version has five fields more;
# length. So a record is known by its own line, and can be read without the file's head.
_ARC_LINE = re.compile(rb"(\S.*?) \S+ \d{8,14} (\S+) (?:\S+ \S+ \S+ \d+ \S+ )?(\d+)[ \r]*\n")
MAX_HEADER = 1 << 16  # bytes that a record's block may have beyond the body that is wanted
_TDM = "tdm-reservation"  # of the W3C's TDM Reservation Protocol
_STATUS = re.compile(rb"HTTP/\S*[ \t]+(\d{3})")
_CHARSET = re.compile(r"""charset\s*=\s*["']?\s*([^\s"';,]+)""", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Fields:
    """Values by the names in lower case, in the order written."""

    values: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def parse(cls, header: bytes) -> Fields:
        """Read the lines after the first, which is no field; a line without a colon says nothing."""
        text = header.decode("utf-8", "replace")
        if "\n " in text or "\n\t" in text:
            text = _FOLD.sub(" ", text)
        values: dict[str, list[str]] = {}
        for line in text.split("\n")[1:]:
            name, colon, value = line.partition(":")
            if colon:
                values.setdefault(name.strip().lower(), []).append(value.strip())
        return cls(values)

    def get(self, name: str) -> str:
        """Return the first value of the field *name*, given in lower case; "" where there is none."""
        values = self.values.get(name)
        return values[0] if values else ""

    def all(self, name: str) -> tuple[str, ...]:
        return tuple(self.values.get(name, ()))


def split(block: bytes) -> tuple[bytes, int]:
    """Return the header of an HTTP message, and where its body begins."""
    end = _END.search(block)
    return (block[: end.start()], end.end()) if end else (block, len(block))


@dataclass(frozen=True, slots=True)
class Record:
    """One record. `block` is None where the record was longer than asked for, or of a kind that was not.

    The record takes `length` bytes from `offset` of the file; both are None where it cannot be read by itself, as
    it shares a gzip member with others. `fields` is empty for a record of an ARC file.
    """

    kind: str  # WARC-Type in lower case; of an ARC file `filedesc` for the first, else `response`
    url: str
    content_type: str  # as written
    fields: Fields
    block: bytes | None
    offset: int | None
    length: int | None


@dataclass(slots=True)
class Records:
    """Iterates over the records of *stream*, which errors call *name*.

    Blocks of records of *kinds* are kept, if they have no more than *most* bytes. Raises VecapError, which names file,
    record and byte, where the file is cut short or damaged: at the place, after what stands before it was given.
    """

    stream: IO[bytes]
    name: str
    kinds: frozenset[str]
    most: int
    number: int = 0  # of the record at hand, from 1
    _bytes: GzipReader = field(init=False)
    _near: int = field(init=False, default=0)

    def __iter__(self) -> Iterator[Record]:
        try:
            self._bytes = GzipReader(self.stream)
            yield from self._all()
        except EOFError as error:
            raise PermanentError(f"{self.name} is cut short at {self._place()}; get the whole file") from error
        except (IsalError, ValueError) as error:  # type: ignore[misc]  # its stub calls the class an instance
            raise PermanentError(
                f"{self.name} is damaged or no WARC file: {self._place()}: {error}; get the file again"
            ) from error
        except OSError as error:
            raise VecapError(f"{self.name} cannot be read: {error.strerror or error}; get the file again") from error

    def input(self) -> Input:
        """Return what was read, the iteration having come to its end."""
        return Input("source", self.name, self._bytes.sha256, self._bytes.size)

    def _place(self) -> str:
        return f"record {self.number + 1}, byte {self._near}"

    def _all(self) -> Iterator[Record]:
        stream = self._bytes
        while True:
            self._near = stream.near()
            if not stream.more():
                break
            offset = stream.begins()
            first = stream.line(_MAX_RECORD_HEADER)
            if not first.strip():
                continue
            if first.startswith(_WARC):
                yield self._record(first, offset)
            elif arc := _ARC_LINE.fullmatch(first):
                yield self._arc_record(arc, offset)
            elif not first.endswith(b"\n") and (self.number or _WARC.startswith(first) or first.startswith(_ARC)):
                raise EOFError
            else:
                raise ValueError("no record begins here")
            self.number += 1

    def _record(self, first: bytes, offset: int | None) -> Record:
        stream = self._bytes
        fields = Fields.parse(first + stream.header(_MAX_RECORD_HEADER))
        written = fields.get("content-length")
        if not (written.isascii() and written.isdecimal()):
            raise ValueError("the record has no Content-Length")
        kind = fields.get("warc-type").lower() or "unknown"
        block = self._block(int(written), kind in self.kinds)
        end = stream.line(_MAX_RECORD_HEADER)
        if end.strip():
            raise ValueError("the record is longer than its Content-Length")
        if not end:
            raise EOFError  # the two line ends that close each record
        # WARC 1.0 shows the address in angle brackets, and some writers do so.
        url = fields.get("warc-target-uri").removeprefix("<").removesuffix(">")
        return self._made(kind, url, fields.get("content-type"), fields, block, offset)

    def _arc_record(self, line: re.Match[bytes], offset: int | None) -> Record:
        kind = "filedesc" if line[1].startswith(_ARC) else "response"
        block = self._block(int(line[3]), kind in self.kinds)
        url, content_type = (value.decode("utf-8", "replace") for value in line.group(1, 2))
        return self._made(kind, url, content_type, Fields(), block, offset)

    def _block(self, length: int, wanted: bool) -> bytes | None:
        if wanted and length <= self.most:
            return self._bytes.take(length)
        self._bytes.skip(length)
        return None

    def _made(
        self, kind: str, url: str, content_type: str, fields: Fields, block: bytes | None, offset: int | None
    ) -> Record:
        self._bytes.blank_lines()
        end = self._bytes.ended() if offset is not None else None
        if offset is None or end is None:
            return Record(kind, url, content_type, fields, block, None, None)
        return Record(kind, url, content_type, fields, block, offset, end - offset)


@dataclass(frozen=True, slots=True)
class HttpResponse:
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
        return decode_body(self.raw, self.transfer, self.codings, most)


def parse_response(record: Record) -> HttpResponse:
    """Return the answer in *record*. Raises Failure `too_large` where the record's block was not kept."""
    block = record.block
    if block is None:
        raise Failure("too_large")
    if not block.startswith(b"HTTP/"):
        return HttpResponse(None, *_kind(record.content_type), (), (), "", block)
    header, start = split(block)
    fields = Fields.parse(header)
    written = (name.strip().lower() for name in fields.get("content-encoding").split(","))
    return HttpResponse(
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
