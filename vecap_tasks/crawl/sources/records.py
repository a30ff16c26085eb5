"""The records of a WARC file (1.0 and 1.1) or of an ARC file, gzipped or not, in one pass over its bytes.

FastWARC would step from record to record too, but it ends in silence where a file is cut short, and half of a file
would be another dataset under the same name. It knows no ARC files either.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO

from isal.igzip_lib import IsalError

from vecap_tasks.crawl.sources.fields import Fields
from vecap_tasks.crawl.sources.unpack import Unpacked
from vecap_tasks.dataset.manifest import Input
from vecap_tasks.errors import VecapError

_MAX_HEADER = 1 << 20
_WARC, _ARC = b"WARC/1.", b"filedesc:"
# Address (old writers left blanks in it), IP address, date, content type; the second version has five fields more;
# length. So a record is known by its own line, and can be read without the file's head.
_ARC_LINE = re.compile(rb"(\S.*?) \S+ \d{8,14} (\S+) (?:\S+ \S+ \S+ \d+ \S+ )?(\d+)[ \r]*\n")


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
    _bytes: Unpacked = field(init=False)
    _near: int = field(init=False, default=0)

    def __iter__(self) -> Iterator[Record]:
        try:
            self._bytes = Unpacked(self.stream)
            yield from self._all()
        except EOFError as error:
            raise VecapError(f"{self.name} is cut short at {self._place()}; get the whole file") from error
        except (IsalError, ValueError) as error:  # type: ignore[misc]  # its stub calls the class an instance
            raise VecapError(
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
            first = stream.line(_MAX_HEADER)
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
        fields = Fields.parse(first + stream.header(_MAX_HEADER))
        written = fields.get("content-length")
        if not (written.isascii() and written.isdecimal()):
            raise ValueError("the record has no Content-Length")
        kind = fields.get("warc-type").lower() or "unknown"
        block = self._block(int(written), kind in self.kinds)
        end = stream.line(_MAX_HEADER)
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
