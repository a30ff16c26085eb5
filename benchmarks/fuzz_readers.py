"""The readers under test, one function per kind of input. Each feeds an input to the functions that the stages call."""

from __future__ import annotations

import asyncio
import copy
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any
from zlib import crc32

import pyarrow as pa

from benchmarks.fuzz_outcome import Outcome, PropertyError, text_of, work_folder, write_input
from vecap_tasks.config import (
    Config,
    FetchConfig,
    LimitsConfig,
    UrlSource,
    WarcSource,
    WatSource,
    WebdatasetSource,
    load_config,
)
from vecap_tasks.core.isolation import pool
from vecap_tasks.core.isolation.child import Limits, Task
from vecap_tasks.core.isolation.messages import Item
from vecap_tasks.crawl.candidates import Source, extract
from vecap_tasks.crawl.html.extract import EXTRACT, ExtractArguments
from vecap_tasks.crawl.html.image_urls import parse_srcset
from vecap_tasks.crawl.html.parser import HTML
from vecap_tasks.crawl.http.fetcher import Download, Fetcher
from vecap_tasks.crawl.http.robots import opted_out, parse_robots
from vecap_tasks.crawl.http.robots_cache import parse_tdmrep
from vecap_tasks.crawl.http.url import absolute, canonical, host_of
from vecap_tasks.crawl.image.decode import decode
from vecap_tasks.crawl.shard_images import read_archived
from vecap_tasks.crawl.sources.link import Link, Stats, links_of
from vecap_tasks.crawl.sources.sitemap import parse_sitemap
from vecap_tasks.crawl.sources.url_list import UrlFiles
from vecap_tasks.crawl.sources.warc import WarcFiles
from vecap_tasks.crawl.sources.wat import WatFiles
from vecap_tasks.crawl.sources.webdataset import WebdatasetFiles
from vecap_tasks.errors import failure_of

_DEMO = Path(__file__).resolve().parents[1] / "configs" / "demo.yaml"
_INTERVAL = "2026-01-01"
_PRODUCT = "vecap"
_PAGE = "http://page.example/a/b?c=d"
_MAX_ARCHIVED = 3  # images of one archive to read again


def _run_inline(task: Task, items: Sequence[Item]) -> list[Any]:
    """Run *items* as `pool.run` does, but in this process."""
    module, _, name = task.function.partition(":")
    function = getattr(import_module(module), name)
    results: list[Any] = []
    for item in items:
        try:
            results.append(function(item.body, *item.arguments, *task.common))
        except Exception as error:
            results.append(failure_of(error, item.name))
    return results


@contextmanager
def inline_pool() -> Iterator[None]:
    """Parse in this process, which is a child already, so that errors and hangs are seen directly."""
    original = pool.run
    pool.run = _run_inline
    try:
        yield
    finally:
        pool.run = original


@lru_cache(maxsize=8)
def _config(kind: str, path: str) -> Config:
    values = copy.deepcopy(demo_settings())
    values["crawl"]["source"] = {"kind": kind, "paths": [path]}
    values["crawl"]["fetch"] = FetchConfig().model_dump()
    return Config.model_validate(values).with_base(work_folder())


@lru_cache(maxsize=1)
def demo_settings() -> dict[str, Any]:
    return load_config(_DEMO).model_dump()


def _extract(source: Source, part: str, outcome: Outcome, data: bytes) -> list[Any]:
    """Read the links of *part*, count rows and skips in *outcome*, and return the links.

    For a quarter of the inputs *data*, the links are also written to a table, as in the crawl stage.
    """
    recorded = _Recorded(source)
    if crc32(data) % 4:
        outcome.whole(lambda: deque(recorded.read(part, Stats()), 0))
    else:
        outcome.whole(lambda: extract(recorded, part, work_folder() / "links.parquet"))
    outcome.rows += len(recorded.items)
    for name, count in recorded.stats.counters.items():
        _, skipped, reason = name.partition("skipped.")
        if skipped:
            outcome.refused[reason] += count
    return recorded.items


class _Recorded:
    """A source that remembers its links and statistics."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.items: list[Any] = []
        self.stats = Stats()

    def parts(self) -> list[str]:
        return self._source.parts()

    def read(self, part: str, stats: Stats) -> Iterator[Any]:
        self.stats = stats
        for item in self._source.read(part, stats):
            self.items.append(item)
            yield item


class _OnePage:
    """A source of one page."""

    def __init__(self, body: bytes, charset: str | None = None, tags: tuple[str, ...] = ()) -> None:
        self._body = body
        self._arguments = ExtractArguments(_PAGE, charset, tags)

    def parts(self) -> list[str]:
        return ["page"]

    def read(self, part: str, stats: Stats) -> Iterator[Link]:
        task = Task(EXTRACT, (_PRODUCT, FetchConfig().max_bytes, True), Limits.of(LimitsConfig()))
        (content,) = pool.run(task, [Item(_PAGE, self._body, self._arguments)])
        yield from links_of(content, _PAGE, part, stats)


def html(data: bytes) -> Outcome:
    outcome = Outcome()
    _extract(_OnePage(data), "page", outcome, data)
    return outcome


def image_attributes(data: bytes) -> Outcome:
    outcome = Outcome()
    text = data.decode("utf-8", "replace")
    for candidate in outcome.whole(lambda: parse_srcset(text)) or ():
        outcome.rows += bool(candidate.url)
    escaped = text.replace('"', "&quot;")
    page = f'<img srcset="{escaped}" src=x><img {text}><picture><source srcset="{escaped}"><img alt=y></picture>'
    _extract(_OnePage(page.encode("utf-8", "replace"), "utf-8"), "page", outcome, data)
    return outcome


def url(data: bytes) -> Outcome:
    outcome = Outcome()
    reference, _, base = text_of(data).partition("\n")
    root = outcome.whole(lambda: canonical(base)) or "http://page.example/a/b"
    for text in (reference, base):
        found = outcome.whole(lambda text=text: absolute(text, root))
        if found is not None:
            outcome.rows += 1
            host_of(found)
            if canonical(found) != found or absolute(found, root) != found or not found.isascii():
                raise PropertyError(f"{found!r} is not canonical: {canonical(found)!r}")
    return outcome


def robots(data: bytes) -> Outcome:
    outcome = Outcome()
    parsed = outcome.whole(lambda: parse_robots(data, _PRODUCT))
    tdm = outcome.whole(lambda: parse_tdmrep(data))
    for rules in (parsed, tdm):
        for address in ("http://h.example/", "http://h.example/a/b.jpg?x=%2F", "http://h.example/" + "a" * 7000):
            if rules is not None:
                outcome.rows += bool(outcome.item(lambda rules=rules, address=address: rules.allows(address)))
    text = data.decode("latin-1")
    outcome.whole(lambda: opted_out(text.splitlines()[:50], _PRODUCT))
    return outcome


def sitemap(data: bytes) -> Outcome:
    outcome = Outcome()
    found = outcome.item(lambda: parse_sitemap(data))
    for reference in [] if found is None else [*found.pages, *found.sitemaps]:
        outcome.rows += (
            outcome.whole(lambda reference=reference: absolute(reference, "http://h.example/s.xml")) is not None
        )
    return outcome


class _Server:
    """A server on localhost that answers each request with `body`, and a fetcher that sends all hosts to it."""

    def __init__(self) -> None:
        self.body = b""
        self.runner = asyncio.Runner()
        self.fetcher = self.runner.run(self._start())

    async def _start(self) -> Fetcher:
        server = await asyncio.start_server(self._reply, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        self._server = server
        config = FetchConfig(
            connect_to={"*": f"127.0.0.1:{port}"}, allow_networks=["127.0.0.0/8"], retries=0, deadline=5, robots=True,
            tdmrep=False, host_failures=10**9, connections_per_host=1,
        )  # fmt: skip
        return await Fetcher(config).__aenter__()

    async def _reply(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            request = await reader.readuntil(b"\r\n\r\n")
            policy = b"robots.txt" in request.split(b"\r\n", 1)[0]
            writer.write(b"HTTP/1.1 404 x\r\nContent-Length: 0\r\n\r\n" if policy else self.body)
            await writer.drain()
        writer.close()

    def get(self, kind: str) -> Download:
        return self.runner.run(self.fetcher.get("http://h.example/a", _identity))


async def _identity(download: Download) -> Download:
    return download


_server = lru_cache(maxsize=1)(_Server)


def http(data: bytes) -> Outcome:
    outcome = Outcome()
    server = _server()
    server.body = data
    download = outcome.item(lambda: server.get("page"))
    if download is not None:
        outcome.rows += 1
        if download.content_type in HTML:
            _extract(_OnePage(download.body, download.charset, download.robots_tags), "page", outcome, data)
    return outcome


def warc(data: bytes) -> Outcome:
    path = write_input("input.warc", data)
    outcome = Outcome()
    config = _config("warc", str(path))
    section = config.crawl.source
    assert isinstance(section, WarcSource)
    source = outcome.whole(lambda: WarcFiles(config, section, _INTERVAL))
    for part in source.parts() if source else ():
        _read_archived(config, _extract(source, part, outcome, data), outcome)
    return outcome


def _read_archived(config: Config, items: list[Any], outcome: Outcome) -> None:
    from vecap_tasks.crawl.sources.link import ByteRange

    for item in items[:_MAX_ARCHIVED]:
        stored = getattr(item, "stored", None)
        if not isinstance(item, Link) and item.offset is not None:
            stored = ByteRange(item.archive, item.offset, item.length)
        if stored is not None:
            outcome.item(lambda stored=stored: read_archived(config, stored))


def wat(data: bytes) -> Outcome:
    path = write_input("input.wat", data)
    outcome = Outcome()
    config = _config("wat", str(path))
    section = config.crawl.source
    assert isinstance(section, WatSource)
    source = outcome.whole(lambda: WatFiles(config, section, _INTERVAL))
    for part in source.parts() if source else ():
        _extract(source, part, outcome, data)
    return outcome


def _url_list(extension: str) -> Callable[[bytes], Outcome]:
    def read(data: bytes) -> Outcome:
        path = write_input(f"input.{extension}", data)
        outcome = Outcome()
        config = _config("urls", str(path))
        section = config.crawl.source
        assert isinstance(section, UrlSource)
        source = outcome.whole(lambda: UrlFiles(config, section, _INTERVAL))
        for part in source.parts() if source else ():
            _extract(source, part, outcome, data)
        return outcome

    return read


def tar(data: bytes) -> Outcome:
    """Read a tar as a source of the crawl, as a source of a mixture, and as evaluation sets."""
    from vecap_tasks.config import CaptionTars, ClassTars
    from vecap_tasks.evaluate.sets.classes import read_caption_tars, read_class_tars
    from vecap_tasks.train.data.samples import ReadStats, parse_samples

    path = write_input("input.tar", data)
    outcome = Outcome()
    config = _config("webdataset", str(path))
    section = config.crawl.source
    assert isinstance(section, WebdatasetSource)
    source = outcome.whole(lambda: WebdatasetFiles(config, section, _INTERVAL))
    for part in source.parts() if source else ():
        _read_archived(config, _extract(source, part, outcome, data), outcome)
    stats = ReadStats()
    fields = {"alttext": ("txt", "json.caption", "json.a.b")}
    with path.open("rb") as stream:
        outcome.whole(lambda: list(parse_samples(stream, "input.tar", fields, stats, own=False)))  # type: ignore[arg-type]
    outcome.refused.update(stats.skipped)
    for key in (None, "caption"):
        captioned = CaptionTars(kind="webdataset", name="a", paths=["x"], caption_key=key)
        found = outcome.whole(lambda captioned=captioned: read_caption_tars(captioned, [path]))
        for image in found.images[:_MAX_ARCHIVED] if found else ():
            outcome.whole(image.load)
    classified = ClassTars(kind="webdataset", name="a", paths=["x"], classes="x", templates="x")
    outcome.whole(lambda: read_class_tars(classified, [path], ("cat", "dog"), ("a {}",)))
    return outcome


def image(data: bytes) -> Outcome:
    """Decode an image as in a crawl, and as the image of an evaluation set."""
    from vecap_tasks.config import ImageConfig
    from vecap_tasks.evaluate.sets.types import ImageFile

    outcome = Outcome()
    config = ImageConfig(size=32, scaling="fast" if crc32(data) % 2 else "fine")
    decoded = outcome.item(lambda: decode(data, config))
    if decoded is not None:
        outcome.rows += 1
        json.dumps(decoded[0].exif).encode()
        pa.array([decoded[0].exif, decoded[0].phash])
    outcome.whole(ImageFile("a", write_input("input.img", data)).load)
    return outcome


csv, tsv, parquet, json_list, json_lines, text_list = map(_url_list, ("csv", "tsv", "parquet", "json", "jsonl", "txt"))
