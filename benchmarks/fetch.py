"""Our fetcher alone, in one process: gets the photographs of `benchmarks.server`, hashes them and keeps them in a file.

python -m benchmarks.fetch PORT IMAGES AT_ONCE FILE
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from pathlib import Path

from vecap_tasks.config import FetchConfig
from vecap_tasks.crawl.http.fetcher import Download, Fetcher


async def fetch_all(urls: list[str], config: FetchConfig, path: Path) -> int:
    """Download *urls* one after the other into the file *path*; return how many different ones there were."""
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
    """Fetch as the command line says."""
    port, images, at_once, file = sys.argv[1:]
    config = FetchConfig(
        user_agent="vecap-benchmark/1.0 (+https://example.org/benchmark)",
        allow_networks=["127.0.0.0/8"],
        connections=int(at_once),
        connections_per_host=int(at_once),
    )
    urls = [f"http://127.0.0.1:{port}/i/{number}.jpg" for number in range(int(images))]
    print(asyncio.run(fetch_all(urls, config, Path(file))))


if __name__ == "__main__":
    main()
