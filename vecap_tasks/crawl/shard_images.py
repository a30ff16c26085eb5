"""Downloads or reads from an archive the images of one shard and decodes them; each URL once."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import pyarrow as pa

from vecap_tasks.config import Config, FetchConfig, FolderSource, HfSource, UrlSource, WarcSource
from vecap_tasks.core.store import open_filesystem
from vecap_tasks.crawl.http.fetcher import Download, Fetcher
from vecap_tasks.crawl.http.robots import opted_out, product_token
from vecap_tasks.crawl.image.decode_pool import DecodePool
from vecap_tasks.crawl.image.decoded import DecodedImage
from vecap_tasks.crawl.sources.hf import HfImages
from vecap_tasks.crawl.sources.link import ByteRange, digest_url, is_digest_url
from vecap_tasks.crawl.sources.local_files import LocalFolders
from vecap_tasks.crawl.warc.records import MAX_HEADER, Records, parse_response
from vecap_tasks.errors import Failure, VecapError, failure_of
from vecap_tasks.redaction import reveal

SUCCESS, FAILED_TO_DOWNLOAD, FAILED_TO_RESIZE = "success", "failed_to_download", "failed_to_resize"
_DECODE_THREADS = 2  # each waits for a child process that decodes
_STORED_IMAGES = 64  # of source files in memory at a time, read and not yet decoded: a few batches for each thread


def read_archived(config: Config, stored: ByteRange) -> bytes:
    """Return the bytes of an image in a source file, local or on S3. Reads only that byte range.

    Raises Failure: `not_stored` if the file has changed, `too_large` above `max_bytes`, and for a WARC record the
    reasons of a download: `opt_out`, `bad_encoding`.
    """
    record = isinstance(config.crawl.source, WarcSource)  # else a tar's member
    if stored.length > config.crawl.fetch.max_bytes + (MAX_HEADER if record else 0):
        raise Failure("too_large")
    filesystem, path = open_filesystem(config.resolve(stored.archive))
    try:
        with filesystem.open_input_file(path) as stream:
            stream.seek(stored.offset)
            body: bytes = stream.read(stored.length)
    except OSError as error:  # its text contains local paths and request ids
        missing = isinstance(error, FileNotFoundError)
        raise Failure("not_stored", "there is no such file" if missing else "the file cannot be read") from error
    if len(body) < stored.length:
        raise Failure("not_stored", "the file is shorter than it was")
    return _response_body(body, config.crawl.fetch) if record else body


def image_reader(config: Config, interval: str) -> Callable[[ByteRange], bytes]:
    """Return the function that reads the images in the source's files. It raises Failure as `read_archived` does."""
    section = config.crawl.source
    if isinstance(section, HfSource):
        return HfImages(config, section, interval).read
    if isinstance(section, FolderSource | UrlSource):
        return LocalFolders(config, section.allow_folders, interval).read
    return partial(read_archived, config)


def _response_body(record: bytes, fetch: FetchConfig) -> bytes:
    """Return the body of the HTTP response in *record*, gzipped or plain."""
    records = Records(io.BytesIO(record), "record", frozenset({"response", "resource"}), fetch.max_bytes + MAX_HEADER)
    try:
        response = parse_response(next(iter(records)))
    except (VecapError, StopIteration) as error:
        raise Failure("not_stored", "no record lies there any more") from error
    if fetch.robots and (rule := opted_out(response.robots_tags, product_token(fetch.user_agent))):
        raise Failure("opt_out", rule)
    return response.body(fetch.max_bytes)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result for one URL. The JPEG is in the spool, `length` bytes from `offset`."""

    status: str
    failure: Failure | None = None
    sha256: str | None = None
    original_bytes: int | None = None
    image: DecodedImage | None = None
    offset: int = 0
    length: int = 0


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """An image to get: from its URL, or from a source file if `stored` is set."""

    url: str
    stored: ByteRange | None = None


def image_requests(candidates: pa.Table) -> list[ImageRequest]:
    """Return the image request of each row of *candidates* (CANDIDATES)."""
    columns = (candidates[name].to_pylist() for name in ("url", "stored_in", "stored_at", "stored_bytes"))
    return [
        ImageRequest(url, None if archive is None else ByteRange(archive, offset, length))
        for url, archive, offset, length in zip(*columns, strict=True)
    ]


class Spool:
    """A temporary file of JPEGs, so that memory is independent of the shard size."""

    def __init__(self, path: Path) -> None:
        self._file: IO[bytes] = path.open("w+b")
        self._end = 0

    def close(self) -> None:
        self._file.close()

    def append(self, data: bytes) -> int:
        """Append *data* and return its offset."""
        offset = self._end
        self._file.seek(offset)
        self._file.write(data)
        self._end += len(data)
        return offset

    def read(self, offset: int, length: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(length)


async def download_all(
    requests: Iterable[ImageRequest],
    config: Config,
    fetcher: Fetcher,
    spool: Spool,
    read: Callable[[ByteRange], bytes],
) -> dict[ImageRequest, Outcome]:
    """Return the outcome of each distinct request; append the JPEGs to *spool*. *read* reads images in source files.

    A failed download is an outcome. Raises OSError if the spool cannot be written.
    """
    with ThreadPoolExecutor(_DECODE_THREADS, thread_name_prefix="decode") as threads:
        decoders = DecodePool(config.crawl.image, config.crawl.limits, threads, _DECODE_THREADS)
        try:
            async with asyncio.TaskGroup() as group:
                download = _Downloader(fetcher, threads, decoders, spool, read, asyncio.Semaphore(_STORED_IMAGES)).get
                tasks = {request: group.create_task(download(request)) for request in dict.fromkeys(requests)}
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None  # the group contains it; chaining would create a cycle
    return {request: task.result() for request, task in tasks.items()}


@dataclass(frozen=True, slots=True)
class _Downloader:
    fetcher: Fetcher
    threads: ThreadPoolExecutor
    decoders: DecodePool
    spool: Spool
    read: Callable[[ByteRange], bytes]
    stored_images: asyncio.Semaphore

    async def get(self, request: ImageRequest) -> Outcome:
        if request.stored is not None:
            async with self.stored_images:
                return await self._get_stored(request.url, request.stored)
        try:
            return await self.fetcher.get(reveal(request.url), self._on_download)
        except Exception as error:
            return Outcome(FAILED_TO_DOWNLOAD, failure_of(error, request.url))

    async def _get_stored(self, url: str, stored: ByteRange) -> Outcome:
        try:
            body = await asyncio.get_running_loop().run_in_executor(self.threads, self._read_stored, url, stored)
        except Exception as error:
            return Outcome(FAILED_TO_DOWNLOAD, failure_of(error, url))
        return await self._decode(body, url)

    def _read_stored(self, url: str, stored: ByteRange) -> bytes:
        body = self.read(stored)
        if is_digest_url(url) and digest_url(hashlib.sha256(body).digest()) != url:
            raise Failure("not_stored", "the image is another than it was")
        return body

    async def _on_download(self, download: Download) -> Outcome:
        return await self._decode(download.body, download.url)

    async def _decode(self, body: bytes, url: str) -> Outcome:
        result = await self.decoders.decode(body, url)
        if result.failure is not None:
            return Outcome(FAILED_TO_RESIZE, result.failure, result.sha256, len(body))
        offset = self.spool.append(result.jpeg)
        return Outcome(SUCCESS, None, result.sha256, len(body), result.image, offset, len(result.jpeg))
