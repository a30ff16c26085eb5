"""The readers under test, one function per kind of input. Each feeds an input to the functions that the stages call."""

from __future__ import annotations

import asyncio
import atexit
import copy
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from benchmarks.fuzz_files import IMAGES
from vecap_tasks.config import Config, FetchConfig, UrlSource, WarcSource, WatSource, WebdatasetSource, load_config
from vecap_tasks.crawl.candidates import Source, extract
from vecap_tasks.crawl.html.parser import HTML, Document, Page, parse_srcset
from vecap_tasks.crawl.http.fetcher import Download, Fetcher
from vecap_tasks.crawl.http.robots import opted_out, parse_robots, parse_tdmrep
from vecap_tasks.crawl.http.url import absolute, canonical, host_of
from vecap_tasks.crawl.image.decode import decode
from vecap_tasks.crawl.shard_images import read_archived
from vecap_tasks.crawl.sources.link import Link, Stats, extract_links
from vecap_tasks.crawl.sources.site import parse_sitemap
from vecap_tasks.crawl.sources.url_list import UrlFiles
from vecap_tasks.crawl.sources.warc import WarcFiles
from vecap_tasks.crawl.sources.wat import WatFiles
from vecap_tasks.crawl.sources.webdataset import WebdatasetFiles
from vecap_tasks.errors import Failure, VecapError, failure_of, retry_after_seconds

_DEMO = Path(__file__).resolve().parents[1] / "configs" / "demo.yaml"
_INTERVAL = "2026-01-01"
_PRODUCT = "vecap"
_MAX_ARCHIVED = 3  # images of one archive to read again


class PropertyError(Exception):
    """A result violates a property that holds for every input."""


@dataclass(slots=True)
class Outcome:
    """The result for one input: accepted rows, and refusals by reason. `unexpected` counts as a refusal of its row."""

    rows: int = 0
    refused: Counter[str] = field(default_factory=Counter)

    def item(self, read: Callable[[], Any]) -> Any:
        """Return the result of *read*, None if it fails with a reason, as in the stages: any error costs one item."""
        try:
            return self.whole(read)
        except Exception as error:
            failure = failure_of(error, "the input")  # raises what ends a stage
            self.refused[failure.reason] += 1
        return None

    def whole(self, read: Callable[[], Any]) -> Any:
        """Return the result of *read*, None if it refuses the input. Any other error ends a stage."""
        try:
            return read()
        except VecapError as error:
            self.refused[f"file.{type(error).__name__}"] += 1
            _check_message(str(error))
        except Failure as failure:
            self.refused[failure.reason] += 1
        return None


def _check_message(message: str) -> None:
    if not message.strip() or len(message) > 20_000:
        raise PropertyError(f"an error message has {len(message)} characters")


_folders: list[Path] = []


def use_folder(folder: Path) -> None:
    """Write the files that readers open to *folder*."""
    _folders[:] = [folder]


@lru_cache(maxsize=1)
def _folder() -> Path:
    """Return the folder for files, with the images of the evaluation sets."""
    if not _folders:
        temporary = tempfile.TemporaryDirectory(prefix="vecap-fuzz-")
        atexit.register(temporary.cleanup)
        use_folder(Path(temporary.name))
    (folder,) = _folders
    (folder / "images").mkdir()
    for name in IMAGES:
        Image.new("RGB", (4, 4)).save(folder / "images" / name)
    return folder


def _write(name: str, data: bytes) -> Path:
    path = _folder() / name
    path.write_bytes(data)
    return path


@lru_cache(maxsize=8)
def _config(kind: str, path: str) -> Config:
    values = copy.deepcopy(_demo())
    values["crawl"]["source"] = {"kind": kind, "paths": [path]}
    values["crawl"]["fetch"] = FetchConfig().model_dump()
    return Config.model_validate(values).with_base(_folder())


def warm_up() -> None:
    """Load what the readers import or read only once, so that children need not."""
    import vecap_tasks.evaluate.sets
    import vecap_tasks.rewrite.backends.openai_errors
    import vecap_tasks.rewrite.screen
    import vecap_tasks.train.data.samples  # noqa: F401

    pa.array([0])  # imports pandas
    _demo()
    _cached_prompts()


@lru_cache(maxsize=1)
def _demo() -> dict[str, Any]:
    return load_config(_DEMO).model_dump()


def _extract(source: Source, part: str, outcome: Outcome) -> list[Any]:
    """Write the links of *part* as the crawl stage does, count rows and skips in *outcome*, and return the links."""
    recorded = _Recorded(source)
    outcome.whole(lambda: extract(recorded, part, _folder() / "links.parquet"))
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

    def __init__(self, body: bytes, charset: str | None = None) -> None:
        self._page = Page("http://page.example/a/b?c=d", body, charset, (), "seed")

    def parts(self) -> list[str]:
        return ["page"]

    def read(self, part: str, stats: Stats) -> Iterator[Link]:
        yield from extract_links(self._page, _PRODUCT, stats)
        with suppress(Failure):
            Document(self._page).links()


def html(data: bytes) -> Outcome:
    outcome = Outcome()
    _extract(_OnePage(data), "page", outcome)
    return outcome


def image_attributes(data: bytes) -> Outcome:
    outcome = Outcome()
    text = data.decode("utf-8", "replace")
    for candidate in outcome.whole(lambda: parse_srcset(text)) or ():
        outcome.rows += bool(candidate.url)
    escaped = text.replace('"', "&quot;")
    page = f'<img srcset="{escaped}" src=x><img {text}><picture><source srcset="{escaped}"><img alt=y></picture>'
    _extract(_OnePage(page.encode("utf-8", "replace"), "utf-8"), "page", outcome)
    return outcome


def url(data: bytes) -> Outcome:
    outcome = Outcome()
    reference, _, base = (
        data.decode("utf-8", "surrogatepass" if b"\xed" in data else "replace").partition("\n")
        if (_decodes(data))
        else data.decode("utf-8", "replace").partition("\n")
    )
    root = outcome.whole(lambda: canonical(base)) or "http://page.example/a/b"
    for text in (reference, base):
        found = outcome.whole(lambda text=text: absolute(text, root))
        if found is not None:
            outcome.rows += 1
            host_of(found)
            if canonical(found) != found or absolute(found, root) != found or not found.isascii():
                raise PropertyError(f"{found!r} is not canonical: {canonical(found)!r}")
    return outcome


def _decodes(data: bytes) -> bool:
    try:
        data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


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
            page = Page(download.url, download.body, download.charset, download.robots_tags, "seed")
            outcome.item(lambda: extract_links(page, _PRODUCT, Stats()))
    return outcome


def warc(data: bytes) -> Outcome:
    path = _write("input.warc", data)
    outcome = Outcome()
    config = _config("warc", str(path))
    section = config.crawl.source
    assert isinstance(section, WarcSource)
    source = outcome.whole(lambda: WarcFiles(config, section, _INTERVAL))
    for part in source.parts() if source else ():
        _read_archived(config, _extract(source, part, outcome), outcome)
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
    path = _write("input.wat", data)
    outcome = Outcome()
    config = _config("wat", str(path))
    section = config.crawl.source
    assert isinstance(section, WatSource)
    source = outcome.whole(lambda: WatFiles(config, section, _INTERVAL))
    for part in source.parts() if source else ():
        _extract(source, part, outcome)
    return outcome


def _url_list(extension: str) -> Callable[[bytes], Outcome]:
    def read(data: bytes) -> Outcome:
        path = _write(f"input.{extension}", data)
        outcome = Outcome()
        config = _config("urls", str(path))
        section = config.crawl.source
        assert isinstance(section, UrlSource)
        source = outcome.whole(lambda: UrlFiles(config, section, _INTERVAL))
        for part in source.parts() if source else ():
            _extract(source, part, outcome)
        return outcome

    return read


def tar(data: bytes) -> Outcome:
    """Read a tar as a source of the crawl, as a source of a mixture, and as evaluation sets."""
    from vecap_tasks.config import CaptionTars, ClassTars
    from vecap_tasks.evaluate.sets.classes import read_caption_tars, read_class_tars
    from vecap_tasks.train.data.samples import ReadStats, parse_samples

    path = _write("input.tar", data)
    outcome = Outcome()
    config = _config("webdataset", str(path))
    section = config.crawl.source
    assert isinstance(section, WebdatasetSource)
    source = outcome.whole(lambda: WebdatasetFiles(config, section, _INTERVAL))
    for part in source.parts() if source else ():
        _read_archived(config, _extract(source, part, outcome), outcome)
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
    for scaling in ("fast", "fine"):
        config = ImageConfig(size=32, scaling=scaling)
        decoded = outcome.item(lambda config=config: decode(data, config))
        if decoded is not None:
            outcome.rows += 1
            json.dumps(decoded[0].exif).encode()
            pa.array([decoded[0].exif, decoded[0].phash])
    outcome.whole(ImageFile("a", _write("input.img", data)).load)
    return outcome


def evaluation(data: bytes) -> Outcome:
    from vecap_tasks.config import CaptionTable, ClassTable, KarpathySet, TokenSet
    from vecap_tasks.evaluate.sets import captions, classes

    kind, _, body = data.partition(b"\n")
    name = kind.decode("latin-1")
    path = _write("input.json" if name.endswith("json") else "input.txt", body)
    images = _folder() / "images"
    common = {"name": "a", "path": "x", "images": "x"}
    table = CaptionTable(kind="csv", **common)
    readers: dict[str, tuple[Callable[[], Any], ...]] = {
        "captions.csv": (
            lambda: captions.read_caption_table(table, path, images),
            lambda: captions.read_caption_table(table.model_copy(update={"quotes": False}), path, images),
        ),
        "labels.csv": (
            lambda: classes.read_class_table(
                ClassTable(kind="csv", classes="x", templates="x", **common), path, images, ("cat", "dog"), ("a {}",)
            ),
        ),
        "tokens.txt": (lambda: captions.read_tokens(TokenSet(kind="tokens", **common), path, images, None),),
        "karpathy.json": (lambda: captions.read_karpathy(KarpathySet(kind="karpathy", **common), path, images),),
        "names.txt": (lambda: classes.read_names(path, None),),
        "names.json": (lambda: classes.read_names(path, None), lambda: classes.read_names(path, "en")),
        "templates.txt": (lambda: classes.read_templates(path, None),),
    }
    outcome = Outcome()
    for read in readers.get(name, readers["captions.csv"]):
        found = outcome.whole(read)
        if found is not None:
            outcome.rows += len(getattr(found, "images", found))
            json.dumps(
                getattr(found, "captions", found if isinstance(found, tuple) else ()), ensure_ascii=False
            ).encode()
    return outcome


def answer(data: bytes) -> Outcome:
    """Parse a server's response as text and as an error, screen the text, and store it as a caption."""
    from vecap_tasks.rewrite.backends.openai_errors import InvalidResponse, Response, ServerError, classify
    from vecap_tasks.rewrite.backends.sampling_params import flat
    from vecap_tasks.rewrite.screen import screen_vec

    outcome = Outcome()
    status, kind, retry, text = (data.decode("utf-8", "replace").split("\n", 3) + [""] * 4)[:4]
    wait = retry_after_seconds(retry)
    reply = Response(
        int(status) if status.isascii() and status.isdecimal() and len(status) < 4 else 200, kind, wait, text
    )
    error: ServerError = reply.error
    classify(error)
    pa.array([str(error)])
    try:
        generated = reply.completion()
    except InvalidResponse:
        outcome.refused["invalid_response"] += 1
        return outcome
    if generated.problem:
        outcome.refused[generated.problem] += 1
        return outcome
    json.dumps(flat(generated), ensure_ascii=False).encode()
    pa.array([generated.tokens], pa.int32())
    screened = screen_vec(generated.text, generated.ended, "Describe the image.")
    pa.array([screened.text, generated.text])
    outcome.rows += screened.text is not None
    outcome.refused.update([screened.problem] if screened.problem else [])
    return outcome


_TOKENS = ("<s>", "</s>", "<|im_end|>", "▁<img>")
_LIMIT = 1000  # characters of an AltText in a prompt


def _prompts() -> list[Any]:
    from vecap_tasks.rewrite.prompt import load_prompt

    return [load_prompt(name) for name in ("fuse", "fuse-vicuna", "rewrite")]


_cached_prompts = lru_cache(maxsize=1)(_prompts)


def prompt(data: bytes) -> Outcome:
    """Clean an AltText and a VeC, and fill the prompts."""
    from vecap_tasks.rewrite.prompt import clean

    outcome = Outcome()
    alttext, _, vec = _text(data).partition("\f")
    cleaned, described = clean(alttext, _TOKENS, _LIMIT), clean(vec, (), _LIMIT)
    for text in (cleaned, described):
        if len(text) > _LIMIT or "\n" in text or clean(text, _TOKENS, _LIMIT // 2) is None:
            raise PropertyError("the cleaned text is too long or has line breaks")
    for item in _cached_prompts():
        filled = item.fill(alttext=cleaned, vec=described)
        filled.encode()
        if "<alttext>" in item.text and filled.count("</alttext>") != item.text.count("</alttext>"):
            raise PropertyError("the data closes its delimiter")
        outcome.rows += 1
    return outcome


def screening(data: bytes) -> Outcome:
    """Screen a generated text as VeC and as VeCap, with its AltText and VeC as the stage passes them."""
    from vecap_tasks.rewrite.screen import screen_vec, screen_vecap

    outcome = Outcome()
    alttext, vec, text, *_ = (_text(data).split("\f") + [""] * 3)[:4]
    text = " ".join(text.split())
    for screened in (
        screen_vec(text, True, "Describe."),
        screen_vecap(text, True, "Fuse.", alttext, " ".join(vec.split())),
    ):
        outcome.rows += screened.text is not None
        outcome.refused.update([screened.problem] if screened.problem else [])
    return outcome


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass") if _decodes(data) else data.decode("utf-8", "replace")


csv, tsv, parquet, json_list, json_lines, text_list = map(_url_list, ("csv", "tsv", "parquet", "json", "jsonl", "txt"))
