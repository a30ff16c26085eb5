"""Fetches, or reads from an archive, and decodes the images of one shard; each URL once."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow as pa

from vecap_tasks.config import Config, FetchConfig, WarcSource
from vecap_tasks.core.store import open_filesystem
from vecap_tasks.crawl.http.fetcher import Download, Fetcher
from vecap_tasks.crawl.http.robots import opted_out, product_token
from vecap_tasks.crawl.image.decode import DecodedImage
from vecap_tasks.crawl.image.decode_pool import Decoders
from vecap_tasks.crawl.sources.link import ByteRange
from vecap_tasks.crawl.warc.records import MAX_HEADER, Records, parse_response
from vecap_tasks.errors import Failure, VecapError, failure_of

SUCCESS, FAILED_TO_DOWNLOAD, FAILED_TO_RESIZE = "success", "failed_to_download", "failed_to_resize"
_DECODERS = 2  # threads; what they call lets go of the interpreter while it decodes


def read_stored(config: Config, stored: ByteRange) -> bytes:
    """Return the bytes of an image: of its file, here or on S3, only they are read.

    Raises Failure: `not_stored` where the file is not what it was, `too_large` as for what is fetched, and of a
    record of a WARC file what a download would raise: `opt_out`, `bad_encoding`.
    """
    record = isinstance(config.crawl.source, WarcSource)  # else a tar's member
    if stored.length > config.crawl.fetch.max_bytes + (MAX_HEADER if record else 0):
        raise Failure("too_large")
    filesystem, path = open_filesystem(config.resolve(stored.archive))
    try:
        with filesystem.open_input_file(path) as stream:
            stream.seek(stored.offset)
            body: bytes = stream.read(stored.length)
    except OSError as error:  # its text has paths of this machine, and the ids of requests
        missing = isinstance(error, FileNotFoundError)
        raise Failure("not_stored", "there is no such file" if missing else "the file cannot be read") from error
    if len(body) < stored.length:
        raise Failure("not_stored", "the file is shorter than it was")
    return _payload(body, config.crawl.fetch) if record else body


def _payload(record: bytes, fetch: FetchConfig) -> bytes:
    """Return the body of the answer that a record, gzipped or not, holds."""
    records = Records(io.BytesIO(record), "record", frozenset({"response", "resource"}), fetch.max_bytes + MAX_HEADER)
    try:
        answer = parse_response(next(iter(records)))
    except (VecapError, StopIteration) as error:
        raise Failure("not_stored", "no record lies there any more") from error
    if fetch.robots and (rule := opted_out(answer.robots_tags, product_token(fetch.user_agent))):
        raise Failure("opt_out", rule)
    return answer.body(fetch.max_bytes)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one address. The JPEG lies in the spool, `length` bytes from `offset`."""

    status: str
    failure: Failure | None = None
    sha256: str | None = None
    original_bytes: int | None = None
    image: DecodedImage | None = None
    offset: int = 0
    length: int = 0


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """An image that rows ask for: at an address, or, where a file of the source holds it already, from there."""

    url: str
    stored: ByteRange | None = None


def image_requests(candidates: pa.Table) -> list[ImageRequest]:
    """Return what each row of *candidates* (CANDIDATES) asks for."""
    columns = (candidates[name].to_pylist() for name in ("url", "stored_in", "stored_at", "stored_bytes"))
    return [
        ImageRequest(url, None if archive is None else ByteRange(archive, offset, length))
        for url, archive, offset, length in zip(*columns, strict=True)
    ]


class Spool:
    """A file that keeps the JPEGs in the order in which they come, so that memory does not grow with the shard."""

    def __init__(self, path: Path) -> None:
        self._file: IO[bytes] = path.open("w+b")
        self._end = 0

    def close(self) -> None:
        self._file.close()

    def append(self, data: bytes) -> int:
        """Keep *data* and return its offset."""
        offset = self._end
        self._file.seek(offset)
        self._file.write(data)
        self._end += len(data)
        return offset

    def read(self, offset: int, length: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(length)


async def download_all(
    wants: Iterable[ImageRequest], config: Config, fetcher: Fetcher, spool: Spool
) -> dict[ImageRequest, Outcome]:
    """Return what became of each distinct image of *wants*; the JPEGs go to *spool*.

    Raises OSError where the spool cannot be written; what fails in a download is its outcome.
    """
    with ThreadPoolExecutor(_DECODERS, thread_name_prefix="decode") as threads:
        decoders = Decoders(config.crawl.image, threads, _DECODERS)
        try:
            async with asyncio.TaskGroup() as group:
                one = _Downloader(config, fetcher, threads, decoders, spool).get
                tasks = {want: group.create_task(one(want)) for want in dict.fromkeys(wants)}
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None  # the group holds it: a chain of the two would be a circle
    return {want: task.result() for want, task in tasks.items()}


@dataclass(frozen=True, slots=True)
class _Downloader:
    config: Config
    fetcher: Fetcher
    threads: ThreadPoolExecutor
    decoders: Decoders
    spool: Spool

    async def get(self, want: ImageRequest) -> Outcome:
        try:
            if want.stored is None:
                return await self.fetcher.get(want.url, self._fetched)
            loop = asyncio.get_running_loop()
            body = await loop.run_in_executor(self.threads, read_stored, self.config, want.stored)
        except Exception as error:
            return Outcome(FAILED_TO_DOWNLOAD, failure_of(error, want.url))
        return await self._decoded(body, want.url)

    async def _fetched(self, download: Download) -> Outcome:
        return await self._decoded(download.body, download.url)

    async def _decoded(self, body: bytes, url: str) -> Outcome:
        made = await self.decoders.decode(body, url)
        if made.failure is not None:
            return Outcome(FAILED_TO_RESIZE, made.failure, made.sha256, len(body))
        offset = self.spool.append(made.jpeg)
        return Outcome(SUCCESS, None, made.sha256, len(body), made.image, offset, len(made.jpeg))
