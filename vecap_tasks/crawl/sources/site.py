"""A web site as a source: its pages by sitemap and links, within robots.txt."""

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
from vecap_tasks.crawl.sources.link import Link, Stats, links_of
from vecap_tasks.errors import Failure, PermanentError, VecapError, failure_of

log = logging.getLogger(__name__)

MAX_BYTES = 50 << 20  # of a sitemap, unpacked; the protocol's own bound
_GZIP = b"\x1f\x8b"
# Many lists have addresses with a plain `&`. It is text within CDATA, and else where no entity follows.
_AMPERSAND = re.compile(rb"(<!\[CDATA\[.*?(?:\]\]>|\Z))|&(?!#?[A-Za-z0-9_.:-]{1,100};)", re.DOTALL)
_ROOTS = frozenset({"urlset", "sitemapindex"})
_WHOLE = "site"  # pages lead to pages, so a crawl of sites has one part
_AT_ONCE = 16  # pages in memory
_MAX_SITEMAPS = 1000  # that one sitemap leads to


@dataclass(frozen=True, slots=True)
class Sitemap:
    """What a sitemap lists, as written: pages, or, for an index, other sitemaps."""

    pages: list[str] = field(default_factory=list)
    sitemaps: list[str] = field(default_factory=list)


def parse_sitemap(body: bytes) -> Sitemap:
    """Read a sitemap, gzipped or not.

    Raises Failure: `too_large`, `bad_encoding`, `bad_xml`, or `not_a_sitemap` for XML of another kind.
    """
    if body.startswith(_GZIP):
        body = decode_body(body, "", ("gzip",), MAX_BYTES)
    if len(body) > MAX_BYTES:
        raise Failure("too_large")
    body = to_utf8(body.lstrip(), None).lstrip()
    if not body.startswith(b"<"):
        return Sitemap([line.strip() for line in body.decode().splitlines() if line.strip()])
    try:
        return _Reader().read(body)
    except expat.ExpatError as error:
        with suppress(expat.ExpatError):
            return _Reader().read(_AMPERSAND.sub(lambda match: match[1] or b"&amp;", body))
        raise Failure("bad_xml", str(error)) from error


class _Reader:
    """Reads XML in UTF-8 as a stream, so that only addresses are kept. Expat bounds what entities may grow to."""

    def __init__(self) -> None:
        self._found = Sitemap()
        self._open: list[str] = []  # local names of the elements around the place
        self._text: list[str] | None = None

    def read(self, body: bytes) -> Sitemap:
        """Return what *body* lists. Raises ExpatError."""
        parser = expat.ParserCreate("utf-8", " ")  # whatever the document declares, which expat may not know
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._data
        parser.Parse(body, True)
        return self._found

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        local = name.rpartition(" ")[2]
        if not self._open and local not in _ROOTS:
            raise Failure("not_a_sitemap", local[:20])
        # An image's or a video's `loc` stands within an element of its own.
        if local == "loc" and self._open[-1] in ("url", "sitemap"):
            self._text = []
        self._open.append(local)

    def _end(self, name: str) -> None:
        self._open.pop()
        if self._text is not None:
            address = "".join(self._text).strip()
            self._text = None
            if address:
                (self._found.pages if self._open[-1] == "url" else self._found.sitemaps).append(address)

    def _data(self, text: str) -> None:
        if self._text is not None:
            self._text.append(text)


class Site:
    """The pages of the seeds' hosts, seed by seed, then those of the sitemaps' hosts.

    The order follows from the links and lists, not from what answers first.
    """

    def __init__(self, fetch: FetchConfig, section: SiteSource, interval: str) -> None:
        self._fetch = fetch
        self._product = product_token(fetch.user_agent) if fetch.robots else None
        self._section = section
        self._seeds = {seed: _address(seed, "seeds", interval) for seed in section.seeds}
        self._sitemaps = {sitemap: _address(sitemap, "sitemaps", interval) for sitemap in section.sitemaps}

    def parts(self) -> list[str]:
        return [_WHOLE]

    def read(self, part: str, stats: Stats) -> Iterator[Link]:
        for page in self._pages(stats):
            yield from links_of(page, self._product, stats)

    def _pages(self, stats: Stats) -> Iterator[Page]:
        given = 0
        with asyncio.Runner() as runner:
            fetcher = runner.run(_open(self._fetch))
            walk = _Walk(runner, fetcher, self._section.max_depth, stats)
            try:
                for name, pages in self._starts(walk):
                    digest, size = hashlib.sha256(), 0
                    before = given
                    for page in islice(pages, self._section.max_pages - before):
                        digest.update(f"{page.url}\n{len(page.body)}\n".encode() + page.body)
                        size += len(page.body)
                        given += 1
                        yield page
                    if given > before:
                        stats.inputs.append(Input("source", name, digest.hexdigest(), size))
                    if given == self._section.max_pages:
                        break
            finally:
                runner.run(fetcher.__aexit__(None, None, None))
        if not given:
            failed = "; ".join(walk.failed[:3])
            raise VecapError(f"no seed gives a page: {failed}; change crawl.source.seeds or crawl.source.sitemaps")

    def _starts(self, walk: _Walk) -> Iterator[tuple[str, Iterator[Page]]]:
        """Give each seed and each sitemap, as written, with the pages that it leads to."""
        for seed, url in self._seeds.items():
            yield seed, walk.follow(seed, [url], None)
        for sitemap, url in self._sitemaps.items():
            pages, host = walk.listed(url, self._section.max_pages)
            yield sitemap, walk.follow(sitemap, pages, host)


@dataclass(slots=True)
class _Walk:
    """What one crawl of sites has seen. `failed` says why starts gave no page."""

    runner: asyncio.Runner
    fetcher: Fetcher
    max_depth: int
    stats: Stats
    failed: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    def follow(self, name: str, level: list[str], host: str | None) -> Iterator[Page]:
        """Give the pages at the addresses *level*, then what they link to on *host*: on a seed's own where None."""
        for depth in range(self.max_depth + 1):
            following: dict[str, None] = {}
            for start in range(0, len(level), _AT_ONCE):
                asked = [address for address in level[start : start + _AT_ONCE] if address not in self.seen]
                self.seen.update(asked)
                answers = self.runner.run(_get_all(self.fetcher, asked))
                for address, answer in zip(asked, answers, strict=True):
                    if isinstance(answer, Failure):
                        log.warning("page %s: %s", address, answer.message)
                        self.stats.counters[f"page_skipped.{answer.reason}"] += 1
                        if not depth:
                            self.failed.append(f"{address}: {answer.message}")
                        continue
                    host = host or host_of(answer.url)  # a seed may redirect to the host that it means
                    if host_of(answer.url) != host or (answer.url != address and answer.url in self.seen):
                        self.stats.counters["page_skipped.redirected"] += 1
                        continue
                    self.seen.add(answer.url)
                    page = Page(answer.url, answer.body, answer.charset, answer.robots_tags, name)
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

    def listed(self, start: str, most: int) -> tuple[list[str], str]:
        """Return the pages, *most* of them, that a sitemap lists itself or through others, and their one host.

        It is the host that the sitemap is on after redirects: no sitemap speaks for another site.
        """
        host = host_of(start)
        pages: dict[str, None] = {}
        waiting, known = deque([start]), {start}
        while waiting and len(pages) < most:
            url = waiting.popleft()
            try:
                answer = self.runner.run(self.fetcher.get(url, _as_it_is, listing=True))
                found = parse_sitemap(answer.body)
            except Exception as error:
                failure = failure_of(error, url)
                log.warning("sitemap %s: %s", url, failure.message)
                self.stats.counters[f"sitemap_skipped.{failure.reason}"] += 1
                self.failed.append(f"{url}: {failure.message}")
                continue
            if url == start:
                host = host_of(answer.url)
            pages.update(dict.fromkeys(self._on(host, found.pages, answer.url)))
            further = [other for other in self._on(host, found.sitemaps, answer.url) if other not in known]
            further = further[: _MAX_SITEMAPS - len(known)]
            waiting.extend(dict.fromkeys(further))
            known.update(further)
        if not pages:
            self.failed.append(f"{start}: it lists no page on {host}")
        return list(islice(pages, most)), host

    def _on(self, host: str, written: list[str], base: str) -> Iterator[str]:
        """Give the addresses of *written* that are on *host*; the others are counted."""
        for reference in written:
            try:
                address = absolute(reference, base)
            except Failure as failure:
                self.stats.counters[f"page_skipped.{failure.reason}"] += 1
                continue
            if host_of(address) == host:
                yield address
            else:
                self.stats.counters["page_skipped.other_host"] += 1


def _address(written: str, key: str, interval: str) -> str:
    address = expand(written).replace("{interval}", interval)
    try:
        return canonical(address)
    except Failure as failure:
        raise PermanentError(
            f"crawl.source.{key}: {address} is no http address ({failure.message}); change it"
        ) from failure


async def _open(config: FetchConfig) -> Fetcher:
    return await Fetcher(config).__aenter__()


async def _get_all(fetcher: Fetcher, urls: list[str]) -> list[Download | Failure]:
    return await asyncio.gather(*(_get(fetcher, url) for url in urls))


async def _get(fetcher: Fetcher, url: str) -> Download | Failure:
    try:
        return await fetcher.get(url, _html)
    except Exception as error:
        return failure_of(error, url)


async def _html(download: Download) -> Download:
    if download.content_type not in HTML:
        raise Failure("not_html", download.content_type)
    return download


async def _as_it_is(download: Download) -> Download:
    return download
