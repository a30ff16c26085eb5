"""Pages fetched from web sites: from seeds, along links that stay on the seed's host, breadth first."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Iterator

from vecap_tasks.config import FetchConfig, SiteSource, expand
from vecap_tasks.crawl.address import canonical, host_of
from vecap_tasks.crawl.failure import Failure
from vecap_tasks.crawl.fetch import Download, Fetcher
from vecap_tasks.crawl.links import Link, Tally, links_of
from vecap_tasks.crawl.page import HTML, Page
from vecap_tasks.crawl.parse import Document
from vecap_tasks.crawl.robots import product_token
from vecap_tasks.dataset.manifest import Input
from vecap_tasks.errors import VecapError

log = logging.getLogger(__name__)

_WHOLE = "site"  # pages lead to pages, so a crawl of sites has one part
_AT_ONCE = 16  # pages in memory


class Site:
    """The pages of the seeds' hosts, seed by seed. The order follows from the links, not from what answers first."""

    def __init__(self, fetch: FetchConfig, section: SiteSource, interval: str) -> None:
        self._fetch = fetch
        self._product = product_token(fetch.user_agent) if fetch.robots else None
        self._section = section
        self._seeds = {seed: _seed(seed, interval) for seed in section.seeds}

    def parts(self) -> list[str]:
        return [_WHOLE]

    def read(self, part: str, tally: Tally) -> Iterator[Link]:
        for page in self._pages(tally):
            yield from links_of(page, self._product, tally)

    def _pages(self, tally: Tally) -> Iterator[Page]:
        seen: set[str] = set()
        given = 0
        failed: list[str] = []
        with asyncio.Runner() as runner:
            fetcher = runner.run(_open(self._fetch))
            try:
                for seed, url in self._seeds.items():
                    digest, size = hashlib.sha256(), 0
                    before = given
                    for page in self._follow(runner, fetcher, seed, url, seen, failed, tally):
                        digest.update(f"{page.url}\n{len(page.body)}\n".encode() + page.body)
                        size += len(page.body)
                        given += 1
                        yield page
                        if given == self._section.max_pages:
                            break
                    if given > before:
                        tally.inputs.append(Input("source", seed, digest.hexdigest(), size))
                    if given == self._section.max_pages:
                        break
            finally:
                runner.run(fetcher.__aexit__(None, None, None))
        if not given:
            raise VecapError(f"no seed gives a page: {'; '.join(failed[:3])}; change crawl.source.seeds")

    def _follow(
        self,
        runner: asyncio.Runner,
        fetcher: Fetcher,
        seed: str,
        url: str,
        seen: set[str],
        failed: list[str],
        tally: Tally,
    ) -> Iterator[Page]:
        """Give the pages that are reached from one seed."""
        host = host_of(url)
        level = [url]
        for depth in range(self._section.max_depth + 1):
            following: dict[str, None] = {}
            for start in range(0, len(level), _AT_ONCE):
                asked = [address for address in level[start : start + _AT_ONCE] if address not in seen]
                seen.update(asked)
                answers = runner.run(_get_all(fetcher, asked))
                for address, answer in zip(asked, answers, strict=True):
                    if isinstance(answer, Failure):
                        log.warning("page %s: %s", address, answer.message)
                        tally.counters[f"page_skipped.{answer.reason}"] += 1
                        if not depth:
                            failed.append(f"{address}: {answer.message}")
                        continue
                    if not depth:
                        host = host_of(answer.url)  # a seed may redirect to the host that it means
                    if host_of(answer.url) != host or (answer.url != address and answer.url in seen):
                        tally.counters["page_skipped.redirected"] += 1
                        continue
                    seen.add(answer.url)
                    page = Page(answer.url, answer.body, answer.charset, answer.robots_tags, seed)
                    if depth < self._section.max_depth:
                        for link in Document(page).links():
                            if host_of(link) == host and link not in seen:
                                following[link] = None
                    yield page
            level = list(following)


def _seed(written: str, interval: str) -> str:
    seed = expand(written).replace("{interval}", interval)
    try:
        return canonical(seed)
    except Failure as failure:
        raise VecapError(f"crawl.source.seeds: {seed} is no http address ({failure.message}); change it") from failure


async def _open(config: FetchConfig) -> Fetcher:
    return await Fetcher(config).__aenter__()


async def _get_all(fetcher: Fetcher, urls: list[str]) -> list[Download | Failure]:
    return await asyncio.gather(*(_get(fetcher, url) for url in urls))


async def _get(fetcher: Fetcher, url: str) -> Download | Failure:
    try:
        return await fetcher.get(url, _html)
    except Failure as failure:
        return failure


async def _html(download: Download) -> Download:
    if download.content_type not in HTML:
        raise Failure("not_html", download.content_type)
    return download
