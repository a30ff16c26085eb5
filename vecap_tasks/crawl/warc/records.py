"""Reads the records of WARC (0.17 to 1.1) and ARC files in one pass, and parses their HTTP responses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO

from isal.igzip_lib import IsalError

from vecap_tasks.core.manifest import Input
from vecap_tasks.crawl.http import headers
from vecap_tasks.crawl.http.content_encoding import decode_body
from vecap_tasks.crawl.http.headers import Fields, media_type, opt_out_values, split_header, status_of
from vecap_tasks.crawl.warc.gzip_reader import GzipReader
from vecap_tasks.errors import Failure, PermanentError, VecapError

_MAX_RECORD_HEADER = 1 << 20  # bytes
_WARC_LINE = re.compile(rb"WARC/\d{1,3}\.\d{1,3}[ \t]*\r?\n")
_WARC, _ARC = b"WARC/", b"filedesc:"
# URL (old writers left blanks in it), IP address, date, content type; five more fields in version 2; length. The line
# identifies a record without the file header.
_ARC_LINE = re.compile(rb"(\S.*?) \S+ \d{8,14} (\S+) (?:\S+ \S+ \S+ \d+ \S+ )?(\d+)[ \r]*\n")
_LENGTH = re.compile(r"[0-9]{1,18}")
MAX_HEADER = headers.MAX_HEADER  # bytes of a block in addition to the body


@dataclass(frozen=True, slots=True)
class Record:
    """One record. `block` is None if the record is too long or of another kind.

    The record is at `offset` with `length` bytes; both are None if it shares a gzip member with others and cannot be
    read separately. `fields` is empty for ARC records.
    """

    kind: str  # WARC-Type, lowercase; in ARC files `filedesc` for the first record, then `response`
    url: str
    content_type: str  # as written
    fields: Fields
    block: bytes | None
    offset: int | None
    length: int | None


@dataclass(slots=True)
class Records:
    """Iterates over the records of *stream*; errors name it *name*.

    Only blocks of records of *kinds* with at most *max_bytes* are kept. Raises VecapError with file, record and byte if
    the file is truncated or corrupt, after the records before that point.
    """

    stream: IO[bytes]
    name: str
    kinds: frozenset[str]
    max_bytes: int
    number: int = 0  # records read
    _bytes: GzipReader = field(init=False)
    _position: int = field(init=False, default=0)

    def __iter__(self) -> Iterator[Record]:
        try:
            self._bytes = GzipReader(self.stream)
            yield from self._all()
        except EOFError as error:
            raise PermanentError(f"{self.name} is truncated at {self._location()}; download the file again") from error
        except (IsalError, ValueError) as error:  # type: ignore[misc]  # its stub calls the class an instance
            raise PermanentError(
                f"{self.name} is corrupt or not a WARC file: {self._location()}: {error}; download the file again"
            ) from error
        except OSError as error:
            raise VecapError(f"cannot read {self.name}: {error.strerror or error}; download the file again") from error

    def input(self) -> Input:
        """Return the file as an input. Call after the iteration."""
        return Input("source", self.name, self._bytes.sha256, self._bytes.size)

    def _location(self) -> str:
        return f"record {self.number + 1}, byte {self._position}"

    def _all(self) -> Iterator[Record]:
        stream = self._bytes
        while True:
            self._position = stream.position()
            if not stream.has_more():
                break
            offset = stream.start_offset()
            first = stream.read_line(_MAX_RECORD_HEADER)
            if not first.strip():
                stream.skip_blank_lines()
                continue
            if _WARC_LINE.fullmatch(first):
                yield self._record(first, offset)
            elif arc := _ARC_LINE.fullmatch(first):
                yield self._arc_record(arc, offset)
            elif not first.endswith(b"\n") and len(first) < _MAX_RECORD_HEADER and self._may_be_record(first):
                raise EOFError
            else:
                raise ValueError("no record starts here")
            self.number += 1

    def _may_be_record(self, start: bytes) -> bool:
        """Return whether the last line of the file, *start*, may be the first one of a record."""
        return bool(self.number) or _WARC.startswith(start[: len(_WARC)]) or start.startswith(_ARC)

    def _record(self, first: bytes, offset: int | None) -> Record:
        stream = self._bytes
        fields = Fields.parse(first + stream.read_header(_MAX_RECORD_HEADER))
        written = fields.get("content-length")
        if not _LENGTH.fullmatch(written):
            raise ValueError("the record has no Content-Length")
        kind = fields.get("warc-type").lower() or "unknown"
        block = self._block(int(written), kind in self.kinds)
        end = stream.read_line(_MAX_RECORD_HEADER)
        if end.strip():
            raise ValueError("the record is longer than its Content-Length")
        if not end:
            raise EOFError  # two line breaks end each record
        # Some writers put the URL in angle brackets, as in the WARC 1.0 examples.
        url = fields.get("warc-target-uri").removeprefix("<").removesuffix(">")
        return self._new_record(kind, url, fields.get("content-type"), fields, block, offset)

    def _arc_record(self, line: re.Match[bytes], offset: int | None) -> Record:
        kind = "filedesc" if line[1].startswith(_ARC) else "response"
        block = self._block(int(line[3]), kind in self.kinds)
        url, content_type = (value.decode("utf-8", "replace") for value in line.group(1, 2))
        return self._new_record(kind, url, content_type, Fields(), block, offset)

    def _block(self, length: int, wanted: bool) -> bytes | None:
        if wanted and length <= self.max_bytes:
            return self._bytes.read(length)
        self._bytes.skip(length)
        return None

    def _new_record(
        self, kind: str, url: str, content_type: str, fields: Fields, block: bytes | None, offset: int | None
    ) -> Record:
        self._bytes.skip_blank_lines()
        end = self._bytes.end_offset() if offset is not None else None
        if offset is None or end is None:
            return Record(kind, url, content_type, fields, block, None, None)
        return Record(kind, url, content_type, fields, block, offset, end - offset)


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """The content of a record. `status` is None without an HTTP header, as in resource records, and 0 if the status
    line is invalid."""

    status: int | None
    content_type: str  # lowercase, without parameters
    charset: str | None
    robots_tags: tuple[str, ...]  # values of X-Robots-Tag, and `name: value` of the other fields with opt-outs
    codings: tuple[str, ...]  # content codings, lowercase, in the order applied
    transfer: str
    raw: bytes

    def body(self, max_bytes: int) -> bytes:
        """Return the decoded body. Raises Failure: `bad_encoding`, or `too_large` above *max_bytes*."""
        return decode_body(self.raw, self.transfer, self.codings, max_bytes)


def parse_response(record: Record) -> HttpResponse:
    """Return the response in *record*.

    Raises Failure: `too_large` if its block was not kept, `bad_response` if its header is too long.
    """
    block = record.block
    if block is None:
        raise Failure("too_large")
    if not block.startswith(b"HTTP/"):
        return HttpResponse(None, *media_type(record.content_type), (), (), "", block)
    header, start = split_header(block)
    fields = Fields.parse(header)
    return HttpResponse(
        status_of(header),
        *media_type(fields.get("content-type")),
        opt_out_values((name, value) for name, values in fields.values.items() for value in values),
        tuple(fields.items_of("content-encoding")),
        fields.get("transfer-encoding").lower(),
        block[start:],
    )
