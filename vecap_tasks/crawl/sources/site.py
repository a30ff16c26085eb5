"""Web sites as a source: pages found through sitemaps and links, subject to robots.txt."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from vecap_tasks.config import FetchConfig, LimitsConfig, SiteSource, expand
from vecap_tasks.core.isolation import pool
from vecap_tasks.core.isolation.child import Limits, Task
from vecap_tasks.core.isolation.messages import Item
from vecap_tasks.core.manifest import Input
from vecap_tasks.crawl.html.extract import EXTRACT, ExtractArguments, PageContent
from vecap_tasks.crawl.html.parser import HTML
from vecap_tasks.crawl.http.fetcher import Download, Fetcher
from vecap_tasks.crawl.http.robots import product_token
from vecap_tasks.crawl.http.url import absolute, canonical, host_of
from vecap_tasks.crawl.sources.link import Link, Stats, links_of
from vecap_tasks.crawl.sources.sitemap import PARSE_SITEMAP, Sitemap
from vecap_tasks.errors import Failure, PermanentError, VecapError, failure_of

log = logging.getLogger(__name__)

_PART = "site"  # a site crawl has one part, because pages link to pages
_CONCURRENT_PAGES = 16  # pages in memory
_MAX_SITEMAPS = 1000  # per configured sitemap


class Site:
    """The pages of the hosts of the seeds, seed by seed, then of the hosts of the sitemaps.

    The order depends on links and sitemaps, not on response times.
    """

    def __init__(self, fetch: FetchConfig, limits: LimitsConfig, section: SiteSource, interval: str) -> None:
        self._fetch = fetch
        self._limits = Limits.of(limits)
        self._extract = (product_token(fetch.user_agent) if fetch.robots else None, fetch.max_bytes)
        self._section = section
        self._seeds = {seed: _configured_url(seed, "seeds", interval) for seed in section.seeds}
        self._sitemaps = {sitemap: _configured_url(sitemap, "sitemaps", interval) for sitemap in section.sitemaps}

    def parts(self) -> list[str]:
        return [_PART]

    def read(self, part: str, stats: Stats) -> Iterator[Link]:
        for page in self._pages(stats):
            yield from links_of(page.content, page.url, page.source, stats)

    def _pages(self, stats: Stats) -> Iterator[_Page]:
        yielded = 0
        with asyncio.Runner() as runner:
            fetcher = runner.run(_open_fetcher(self._fetch))
            walk = _SiteWalk(runner, fetcher, self._section.max_depth, self._extract, self._limits, stats)
            try:
                for name, pages in self._starts(walk):
                    digest, size = hashlib.sha256(), 0
                    previous = yielded
                    for page in islice(pages, self._section.max_pages - previous):
                        digest.update(f"{page.url}\n{len(page.body)}\n".encode() + page.body)
                        size += len(page.body)
                        yielded += 1
                        yield page
                    if yielded > previous:
                        stats.inputs.append(Input("source", name, digest.hexdigest(), size))
                    if yielded == self._section.max_pages:
                        break
            finally:
                runner.run(fetcher.__aexit__(None, None, None))
        if not yielded:
            failed = "; ".join(walk.failed[:3])
            raise VecapError(
                f"no seed or sitemap leads to a page: {failed}; change crawl.source.seeds or crawl.source.sitemaps"
            )

    def _starts(self, walk: _SiteWalk) -> Iterator[tuple[str, Iterator[_Page]]]:
        """Yield each seed and sitemap, as written, with the pages it leads to."""
        for seed, url in self._seeds.items():
            yield seed, walk.follow(seed, [url], None)
        for sitemap, url in self._sitemaps.items():
            pages, host = walk.sitemap_pages(url, self._section.max_pages)
            yield sitemap, walk.follow(sitemap, pages, host)


@dataclass(frozen=True, slots=True)
class _Page:
    """A downloaded page. `url` is the URL after redirects, `source` the seed or sitemap that led to it."""

    url: str
    body: bytes
    content: PageContent | Failure
    source: str


@dataclass(slots=True)
class _SiteWalk:
    """State of one site crawl. `failed` lists seeds and sitemaps without pages, with reasons."""

    runner: asyncio.Runner
    fetcher: Fetcher
    max_depth: int
    extract: tuple[str | None, int]  # common arguments of the function: our name in robots.txt, maximum bytes
    limits: Limits
    stats: Stats
    failed: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    def follow(self, name: str, level: list[str], host: str | None) -> Iterator[_Page]:
        """Yield the pages at the URLs *level*, then the pages they link to on *host* (None: the host of the seed)."""
        for depth in range(self.max_depth + 1):
            following: dict[str, None] = {}
            for start in range(0, len(level), _CONCURRENT_PAGES):
                urls = [url for url in level[start : start + _CONCURRENT_PAGES] if url not in self.seen]
                self.seen.update(urls)
                responses = self.runner.run(_get_all(self.fetcher, urls))
                contents = self._contents(responses, links=depth < self.max_depth)
                for url, response, content in zip(urls, responses, contents, strict=True):
                    if isinstance(response, Failure):
                        log.warning("page %s: %s", url, response.message)
                        self.stats.counters[f"page_skipped.{response.reason}"] += 1
                        if not depth:
                            self.failed.append(f"{url}: {response.message}")
                        continue
                    host = host or host_of(response.url)  # a seed may redirect to another host
                    if host_of(response.url) != host or (response.url != url and response.url in self.seen):
                        self.stats.counters["page_skipped.redirected"] += 1
                        continue
                    self.seen.add(response.url)
                    if depth < self.max_depth:
                        if isinstance(content, Failure):
                            self.stats.counters[f"page_skipped.{content.reason}"] += 1
                            continue
                        for link in content.links:
                            if host_of(link) == host and link not in self.seen:
                                following[link] = None
                    yield _Page(response.url, response.body, content, name)
            level = list(following)

    def _contents(self, responses: list[Download | Failure], *, links: bool) -> list[PageContent | Failure]:
        """Return the content of each page, or its Failure, with links to other pages if *links* is set."""
        task = Task(EXTRACT, (*self.extract, links), self.limits)
        pages = [response for response in responses if isinstance(response, Download)]
        arguments = [ExtractArguments(page.url, page.charset, page.robots_tags) for page in pages]
        items = [Item(page.url, page.body, each) for page, each in zip(pages, arguments, strict=True)]
        contents = iter(pool.run(task, items))
        return [response if isinstance(response, Failure) else next(contents) for response in responses]

    def _sitemap(self, body: bytes, url: str) -> Sitemap:
        """Return the content of a sitemap. Raises Failure."""
        (found,) = pool.run(Task(PARSE_SITEMAP, (), self.limits), [Item(url, body)])
        if isinstance(found, Failure):
            raise found
        sitemap: Sitemap = found
        return sitemap

    def sitemap_pages(self, start: str, limit: int) -> tuple[list[str], str]:
        """Return up to *limit* pages listed in a sitemap, directly or through an index, and their host.

        Only pages on the host of the sitemap, after redirects, count.
        """
        host = host_of(start)
        pages: dict[str, None] = {}
        queue, known = deque([start]), {start}
        while queue and len(pages) < limit:
            url = queue.popleft()
            try:
                response = self.runner.run(self.fetcher.get(url, _identity, listing=True))
                found = self._sitemap(response.body, url)
            except Exception as error:
                failure = failure_of(error, url)
                log.warning("sitemap %s: %s", url, failure.message)
                self.stats.counters[f"sitemap_skipped.{failure.reason}"] += 1
                self.failed.append(f"{url}: {failure.message}")
                continue
            if found.fault is not None:
                log.warning("sitemap %s: %s; only the URLs before that are used", url, found.fault.message)
                self.stats.counters[f"sitemap_truncated.{found.fault.reason}"] += 1
            if url == start:
                host = host_of(response.url)
            for page in self._on_host(host, found.pages, response.url):
                pages[page] = None
                if len(pages) == limit:
                    break
            unknown = [url for url in self._on_host(host, found.sitemaps, response.url) if url not in known]
            unknown = unknown[: _MAX_SITEMAPS - len(known)]
            queue.extend(dict.fromkeys(unknown))
            known.update(unknown)
        if not pages:
            self.failed.append(f"{start}: lists no page on {host}")
        return list(pages), host

    def _on_host(self, host: str, written: list[str], base: str) -> Iterator[str]:
        """Yield the URLs of *written* that are on *host*; count the others."""
        for reference in written:
            try:
                url = absolute(reference, base)
            except Failure as failure:
                self.stats.counters[f"page_skipped.{failure.reason}"] += 1
                continue
            if host_of(url) == host:
                yield url
            else:
                self.stats.counters["page_skipped.other_host"] += 1


def _configured_url(written: str, key: str, interval: str) -> str:
    url = expand(written).replace("{interval}", interval)
    try:
        return canonical(url)
    except Failure as failure:
        raise PermanentError(
            f"crawl.source.{key}: {url} is not an HTTP URL ({failure.message}); change it"
        ) from failure


async def _open_fetcher(config: FetchConfig) -> Fetcher:
    return await Fetcher(config).__aenter__()


async def _get_all(fetcher: Fetcher, urls: list[str]) -> list[Download | Failure]:
    return await asyncio.gather(*(_get(fetcher, url) for url in urls))


async def _get(fetcher: Fetcher, url: str) -> Download | Failure:
    try:
        return await fetcher.get(url, _require_html)
    except Exception as error:
        return failure_of(error, url)


async def _require_html(download: Download) -> Download:
    if download.content_type not in HTML:
        raise Failure("not_html", download.content_type)
    return download


async def _identity(download: Download) -> Download:
    return download
