"""Runs our fetcher without the rest of the crawl, in one process: downloads the photographs of `benchmarks.server`.

python -m benchmarks.fetch PORT IMAGES CONCURRENCY FILE
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from pathlib import Path

from vecap_tasks.config import FetchConfig
from vecap_tasks.crawl.http.fetcher import Download, Fetcher


async def fetch_all(urls: list[str], config: FetchConfig, path: Path) -> int:
    """Download *urls* concurrently and append the bodies to the file *path*; return the number of distinct bodies."""
    hashes: set[str] = set()
    with path.open("wb") as file:

        async def keep(download: Download) -> None:
            hashes.add(hashlib.sha256(download.body).hexdigest())
            file.write(download.body)

        async with Fetcher(config) as fetcher, asyncio.TaskGroup() as group:
            for url in urls:
                group.create_task(fetcher.get(url, keep))
    return len(hashes)


def main() -> None:
    """Fetch with the arguments of the command line."""
    port, images, concurrency, file = sys.argv[1:]
    config = FetchConfig(
        user_agent="vecap-benchmark/1.0 (+https://example.org/benchmark)",
        allow_networks=["127.0.0.0/8"],
        connections=int(concurrency),
        connections_per_host=int(concurrency),
    )
    urls = [f"http://127.0.0.1:{port}/i/{number}.jpg" for number in range(int(images))]
    print(asyncio.run(fetch_all(urls, config, Path(file))))


if __name__ == "__main__":
    main()
