"""Pages from WARC files (1.0 and 1.1, gzipped or not). A file that is not whole is refused before a page is taken.

Half of a file would be another dataset under the same name, and nobody would see it.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import IO

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from vecap_tasks.config import Config, WarcSource
from vecap_tasks.crawl.address import canonical
from vecap_tasks.crawl.failure import Failure
from vecap_tasks.crawl.links import Link, Tally, links_of
from vecap_tasks.crawl.page import HTML, Page
from vecap_tasks.crawl.robots import product_token
from vecap_tasks.crawl.sources.coding import undo
from vecap_tasks.crawl.sources.files import find_files
from vecap_tasks.dataset.manifest import Input
from vecap_tasks.errors import VecapError

_GZIP = b"\x1f\x8b"
_MAX_HEADER = 1 << 20
_LENGTH = re.compile(rb"^content-length:\s*(\d+)\s*$", re.IGNORECASE | re.MULTILINE)
_TYPE = re.compile(rb"^warc-type:\s*(\S+)", re.IGNORECASE | re.MULTILINE)
_PAGES = WarcRecordType.response | WarcRecordType.resource


class WarcFiles:
    """The HTML pages of the response and resource records, in the order of the records. A part is a file."""

    def __init__(self, config: Config, section: WarcSource, interval: str) -> None:
        self._max_bytes = config.crawl.fetch.max_bytes  # as for pages that are fetched
        self._product = product_token(config.crawl.fetch.user_agent) if config.crawl.fetch.robots else None
        files = find_files(config, section.paths, interval, "WARC")
        self._files = {name: file.path for name, file in files.items()}

    def parts(self) -> list[str]:
        return list(self._files)

    def read(self, part: str, tally: Tally) -> Iterator[Link]:
        for page in self.pages(part, tally):
            yield from links_of(page, self._product, tally)

    def pages(self, part: str, tally: Tally) -> Iterator[Page]:
        """Give the pages of the file *part*."""
        path = self._files[part]
        kinds = _check(path, part)
        with path.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        tally.inputs.append(Input("source", part, sha256, path.stat().st_size))
        if not kinds["response"] and not kinds["resource"]:
            held = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "nothing"
            raise VecapError(
                f"{part} holds no pages ({held}); WAT and WET files have none, give the WARC file with the responses"
            )
        yield from self._read(path, part, tally)

    def _read(self, path: Path, name: str, tally: Tally) -> Iterator[Page]:
        with path.open("rb") as stream:
            try:
                for record in ArchiveIterator(stream, record_types=_PAGES, strict_mode=False):
                    try:
                        page = self._page(record, name)
                    except Failure as failure:
                        tally.counters[f"page_skipped.{failure.reason}"] += 1
                        continue
                    yield page
            except OSError as error:
                raise VecapError(f"{name} cannot be read: {error}; get the file again") from error

    def _page(self, record: WarcRecord, name: str) -> Page:
        """Return the page of a record. Raises Failure saying why it holds none."""
        http = record.http_headers if record.is_http else None
        headers = record.headers if http is None else http
        kind = (headers.get("Content-Type") or "").partition(";")[0].strip().lower()
        if http is not None and http.status_code != HTTPStatus.OK:
            raise Failure(f"http_{http.status_code}")
        if kind not in HTML:
            raise Failure("not_html")
        # WARC 1.0 shows the address in angle brackets, and some writers do so.
        url = canonical((record.headers.get("WARC-Target-URI") or "").strip().removeprefix("<").removesuffix(">"))
        body = record.reader.read()
        if http is None:
            return Page(url, undo(body, "", (), self._max_bytes), None, (), name)
        codings = [part.strip().lower() for part in (http.get("Content-Encoding") or "").split(",")]
        body = undo(body, (http.get("Transfer-Encoding") or "").lower(), codings, self._max_bytes)
        return Page(url, body, record.http_charset, tuple(http.get_multiple("X-Robots-Tag")), name)


def _check(path: Path, name: str) -> Counter[str]:
    """Walk the records of the whole file and count them by type. Raises VecapError where it is not whole."""
    with path.open("rb") as raw:
        packed = raw.read(2) == _GZIP
        raw.seek(0)
        stream: IO[bytes] = gzip.GzipFile(fileobj=raw) if packed else raw  # type: ignore[assignment]
        walk = _Walk(stream)
        unpacked = " of the unpacked file" if packed else ""
        try:
            walk.to_the_end()
        except EOFError as error:
            raise VecapError(
                f"{name} is cut short at record {walk.records + 1}, byte {walk.start}{unpacked}; get the whole file"
            ) from error
        except (zlib.error, gzip.BadGzipFile, ValueError) as error:
            raise VecapError(
                f"{name} is damaged or no WARC file: record {walk.records + 1}, byte {walk.start}{unpacked}: {error}; "
                f"get the file again"
            ) from error
        except OSError as error:
            raise VecapError(f"{name} cannot be read: {error.strerror}") from error
    return walk.kinds


class _Walk:
    """Steps over the records of an uncompressed stream by their lengths."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.records = 0  # whole ones
        self.start = 0  # offset of the record at hand
        self.kinds: Counter[str] = Counter()

    def to_the_end(self) -> None:
        """Raises EOFError where a record is cut, ValueError where none begins."""
        offset = 0
        while line := self._stream.readline(_MAX_HEADER):
            if line.strip():
                self.start = offset
                offset += self._record(line)
                self.records += 1
            else:
                offset += len(line)

    def _record(self, first: bytes) -> int:
        if not first.startswith(b"WARC/1."):
            if b"WARC/1.".startswith(first):
                raise EOFError
            raise ValueError("no record begins here")
        header = bytearray(first)
        while line := self._stream.readline(_MAX_HEADER):
            header += line
            if line in (b"\r\n", b"\n"):
                break
            if len(header) > _MAX_HEADER:
                raise ValueError("the record's header does not end")
        else:
            raise EOFError
        length = _LENGTH.search(bytes(header).replace(b"\r\n", b"\n"))
        if length is None:
            raise ValueError("the record has no Content-Length")
        kind = _TYPE.search(bytes(header))
        self.kinds[kind[1].decode("ascii", "replace").lower() if kind else "unknown"] += 1
        left = int(length[1])
        while left:
            block = self._stream.read(min(left, 1 << 20))
            if not block:
                raise EOFError
            left -= len(block)
        end = self._stream.readline(_MAX_HEADER)
        if end.strip():
            raise ValueError("the record is longer than its Content-Length")
        if not end:
            raise EOFError  # the two line ends that close each record
        return len(header) + int(length[1]) + len(end)
