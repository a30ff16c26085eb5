"""Fetch and decode for the images of one shard: each address once, whatever the number of rows that name it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from vecap_tasks.config import CrawlConfig
from vecap_tasks.crawl.decode import Picture, decode
from vecap_tasks.crawl.failure import Failure
from vecap_tasks.crawl.fetch import Download, Fetcher

SUCCESS, FAILED_TO_DOWNLOAD, FAILED_TO_RESIZE = "success", "failed_to_download", "failed_to_resize"

_DECODERS = 2  # threads; Pillow lets go of the interpreter while it decodes


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one address. The JPEG lies in the spool, `length` bytes from `offset`."""

    status: str
    failure: Failure | None = None
    sha256: str | None = None
    original_bytes: int | None = None
    picture: Picture | None = None
    offset: int = 0
    length: int = 0


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


async def download_all(urls: Iterable[str], config: CrawlConfig, spool: Spool) -> dict[str, Outcome]:
    """Return what became of each distinct address of *urls*; the JPEGs go to *spool*.

    Raises OSError where the spool cannot be written; what fails in a download is its outcome.
    """
    with ThreadPoolExecutor(_DECODERS, thread_name_prefix="decode") as threads:
        async with Fetcher(config.fetch) as fetcher:
            try:
                async with asyncio.TaskGroup() as group:
                    one = _Downloader(config, fetcher, threads, spool).get
                    tasks = {url: group.create_task(one(url)) for url in dict.fromkeys(urls)}
            except ExceptionGroup as failed:
                raise failed.exceptions[0] from failed
    return {url: task.result() for url, task in tasks.items()}


@dataclass(frozen=True, slots=True)
class _Downloader:
    config: CrawlConfig
    fetcher: Fetcher
    threads: ThreadPoolExecutor
    spool: Spool

    async def get(self, url: str) -> Outcome:
        try:
            return await self.fetcher.get(url, self._decoded)
        except Failure as failure:
            return Outcome(FAILED_TO_DOWNLOAD, failure)

    async def _decoded(self, download: Download) -> Outcome:
        body = download.body
        sha256 = hashlib.sha256(body).hexdigest()
        loop = asyncio.get_running_loop()
        try:
            picture, jpeg = await loop.run_in_executor(self.threads, decode, body, self.config.image)
        except Failure as failure:
            return Outcome(FAILED_TO_RESIZE, failure, sha256, len(body))
        return Outcome(SUCCESS, None, sha256, len(body), picture, self.spool.append(jpeg), len(jpeg))
