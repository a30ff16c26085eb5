"""Web sites as a source: pages found through sitemaps and links, subject to robots.txt."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from xml.parsers import expat

from vecap_tasks.config import FetchConfig, SiteSource, expand
from vecap_tasks.core.manifest import Input
from vecap_tasks.crawl.html.charset import to_utf8
from vecap_tasks.crawl.html.parser import HTML, Document, Page
from vecap_tasks.crawl.http.content_encoding import decode_body
from vecap_tasks.crawl.http.fetcher import Download, Fetcher
from vecap_tasks.crawl.http.robots import product_token
from vecap_tasks.crawl.http.url import absolute, canonical, host_of
from vecap_tasks.crawl.sources.link import Link, Stats, extract_links
from vecap_tasks.errors import Failure, PermanentError, VecapError, failure_of

log = logging.getLogger(__name__)

MAX_BYTES = 50 << 20  # of an uncompressed sitemap; the limit of the protocol
_GZIP = b"\x1f\x8b"
# Many sitemaps contain URLs with an unescaped `&`, which is text in CDATA and wherever no entity follows.
_AMPERSAND = re.compile(rb"(<!\[CDATA\[.*?(?:\]\]>|\Z))|&(?!#?[A-Za-z0-9_.:-]{1,100};)", re.DOTALL)
_ROOTS = frozenset({"urlset", "sitemapindex"})
_PART = "site"  # a site crawl has one part, because pages link to pages
_CONCURRENT_PAGES = 16  # pages in memory
_MAX_SITEMAPS = 1000  # per configured sitemap


@dataclass(frozen=True, slots=True)
class Sitemap:
    """The URLs in a sitemap, as written: pages, or sitemaps for an index."""

    pages: list[str] = field(default_factory=list)
    sitemaps: list[str] = field(default_factory=list)


def parse_sitemap(body: bytes) -> Sitemap:
    """Return the content of a sitemap, gzipped or plain.

    Raises Failure: `too_large`, `bad_encoding`, `bad_xml`, or `not_a_sitemap` for other XML.
    """
    if body.startswith(_GZIP):
        body = decode_body(body, "", ("gzip",), MAX_BYTES)
    if len(body) > MAX_BYTES:
        raise Failure("too_large")
    body = to_utf8(body.lstrip(), None).lstrip()
    if not body.startswith(b"<"):
        return Sitemap([line.strip() for line in body.decode().splitlines() if line.strip()])
    try:
        return _SitemapReader().read(body)
    except expat.ExpatError as error:
        with suppress(expat.ExpatError):
            return _SitemapReader().read(_AMPERSAND.sub(lambda match: match[1] or b"&amp;", body))
        raise Failure("bad_xml", str(error)) from error


class _SitemapReader:
    """Streaming reader for UTF-8 XML that keeps only URLs. Expat limits entity expansion."""

    def __init__(self) -> None:
        self._found = Sitemap()
        self._open_elements: list[str] = []  # local names of the open elements
        self._text: list[str] | None = None

    def read(self, body: bytes) -> Sitemap:
        """Return the content of *body*. Raises ExpatError."""
        parser = expat.ParserCreate("utf-8", " ")  # overrides the declared encoding
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._data
        parser.Parse(body, True)
        return self._found

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        local = name.rpartition(" ")[2]
        if not self._open_elements and local not in _ROOTS:
            raise Failure("not_a_sitemap", local[:20])
        # The `loc` of an image or a video is inside its own element.
        if local == "loc" and self._open_elements[-1] in ("url", "sitemap"):
            self._text = []
        self._open_elements.append(local)

    def _end(self, name: str) -> None:
        self._open_elements.pop()
        if self._text is not None:
            url = "".join(self._text).strip()
            self._text = None
            if url:
                (self._found.pages if self._open_elements[-1] == "url" else self._found.sitemaps).append(url)

    def _data(self, text: str) -> None:
        if self._text is not None:
            self._text.append(text)


class Site:
    """The pages of the hosts of the seeds, seed by seed, then of the hosts of the sitemaps.

    The order depends on links and sitemaps, not on response times.
    """

    def __init__(self, fetch: FetchConfig, section: SiteSource, interval: str) -> None:
        self._fetch = fetch
        self._product = product_token(fetch.user_agent) if fetch.robots else None
        self._section = section
        self._seeds = {seed: _configured_url(seed, "seeds", interval) for seed in section.seeds}
        self._sitemaps = {sitemap: _configured_url(sitemap, "sitemaps", interval) for sitemap in section.sitemaps}

    def parts(self) -> list[str]:
        return [_PART]

    def read(self, part: str, stats: Stats) -> Iterator[Link]:
        for page in self._pages(stats):
            yield from extract_links(page, self._product, stats)

    def _pages(self, stats: Stats) -> Iterator[Page]:
        yielded = 0
        with asyncio.Runner() as runner:
            fetcher = runner.run(_open_fetcher(self._fetch))
            walk = _SiteWalk(runner, fetcher, self._section.max_depth, stats)
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

    def _starts(self, walk: _SiteWalk) -> Iterator[tuple[str, Iterator[Page]]]:
        """Yield each seed and sitemap, as written, with the pages it leads to."""
        for seed, url in self._seeds.items():
            yield seed, walk.follow(seed, [url], None)
        for sitemap, url in self._sitemaps.items():
            pages, host = walk.sitemap_pages(url, self._section.max_pages)
            yield sitemap, walk.follow(sitemap, pages, host)


@dataclass(slots=True)
class _SiteWalk:
    """State of one site crawl. `failed` lists seeds and sitemaps without pages, with reasons."""

    runner: asyncio.Runner
    fetcher: Fetcher
    max_depth: int
    stats: Stats
    failed: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    def follow(self, name: str, level: list[str], host: str | None) -> Iterator[Page]:
        """Yield the pages at the URLs *level*, then the pages they link to on *host* (None: the host of the seed)."""
        for depth in range(self.max_depth + 1):
            following: dict[str, None] = {}
            for start in range(0, len(level), _CONCURRENT_PAGES):
                urls = [url for url in level[start : start + _CONCURRENT_PAGES] if url not in self.seen]
                self.seen.update(urls)
                responses = self.runner.run(_get_all(self.fetcher, urls))
                for url, response in zip(urls, responses, strict=True):
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
                    page = Page(response.url, response.body, response.charset, response.robots_tags, name)
                    if depth < self.max_depth:
                        try:
                            links = Document(page).links()
                        except Exception as error:
                            self.stats.counters[f"page_skipped.{failure_of(error, page.url).reason}"] += 1
                            continue
                        for link in links:
                            if host_of(link) == host and link not in self.seen:
                                following[link] = None
                    yield page
            level = list(following)

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
                found = parse_sitemap(response.body)
            except Exception as error:
                failure = failure_of(error, url)
                log.warning("sitemap %s: %s", url, failure.message)
                self.stats.counters[f"sitemap_skipped.{failure.reason}"] += 1
                self.failed.append(f"{url}: {failure.message}")
                continue
            if url == start:
                host = host_of(response.url)
            pages.update(dict.fromkeys(self._on_host(host, found.pages, response.url)))
            unknown = [url for url in self._on_host(host, found.sitemaps, response.url) if url not in known]
            unknown = unknown[: _MAX_SITEMAPS - len(known)]
            queue.extend(dict.fromkeys(unknown))
            known.update(unknown)
        if not pages:
            self.failed.append(f"{start}: lists no page on {host}")
        return list(islice(pages, limit)), host

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
