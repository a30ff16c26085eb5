"""The miniature web: one crawl per day, as files to serve and as a WARC of the day's pages.

    sites/<host>/<path>         image and page files, served by `serve.py`; `_headers` adds HTTP headers
    warc/<day>.warc.gz          the day's pages as HTTP responses (WARC 1.1, one gzip member per record)
    truth/<day>.jsonl           one `Truth` per `<img>`: content of the image and expected result of a crawl

The ledger in truth/ is for tests and reports; no stage reads it. A day depends only on the seed, the date, the number
of images and the share of descriptive AltText, not on days written before. On a bad day, as after a site migration,
all image URLs lead to error pages or to nothing.
"""

import base64
import dataclasses
import datetime as dt
import gzip
import hashlib
import itertools
import json
import multiprocessing
import random
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from vecap_tasks.demo.alttext import CATEGORY_WEIGHTS, AltText, category_weights, write_alttext
from vecap_tasks.demo.markup import CHARSETS, JAPANESE_CHARSETS, Page, Reference, write_page
from vecap_tasks.demo.names import choose_name, slug
from vecap_tasks.demo.pictures import Defect, Encoding, render, sample_encoding
from vecap_tasks.demo.scene import Scene, describe, sample_scene

HOSTS = (
    "marlow-kennels.example", "castlow-motors.example", "orric-gardens.example", "port-thornellen.example",
    "shop.talwick.example", "www.brenmere-museum.example", "kesford-travels.example", "verdale-archive.example",
    "blog.yarness.example", "harcombe-outfitters.example", "news.dunworth.example", "zanbury-photo.example",
)  # fmt: skip
CDN = "cdn.talwick.example"
OPT_OUT_HOST = "studio-larley.example"
OPT_OUT_HEADERS = {"X-Robots-Tag": "unavailable_after: 25 Jun 2030 15:00:00 PST, noai, noimageai"}
NO_ROBOTS_FILE_HOST = "blog.yarness.example"
JAPANESE_HOST = "zanbury-photo.example"

CARRIED_SHARE = 0.25
_OPT_OUT_SHARE = 0.02
# Fate of a new image -> weight in per mille. `Truth.expect` follows from it.
_FATES: dict[str, int] = {
    "plain": 800, "exact_duplicate": 50, "near_duplicate": 40, "truncated": 20, "html": 15, "empty": 5,
    "tiny": 25, "banner": 10, "not_found": 25, "robots": 10,
}  # fmt: skip
_EXPECT: dict[str, str] = {
    "plain": "keep", "exact_duplicate": "duplicate", "near_duplicate": "keep", "truncated": "damaged",
    "html": "not_an_image", "empty": "not_an_image", "tiny": "too_small", "banner": "bad_aspect",
    "not_found": "not_found", "robots": "robots", "opt_out": "opt_out", "huge": "too_large",
}  # fmt: skip
_DEFECTS: tuple[Defect, ...] = ("truncated", "html", "empty", "tiny", "banner", "huge")
_CHUNK_SIZE = 16
_OUTAGE = "moved"  # folder of the image URLs of a bad day


@dataclass(frozen=True, slots=True)
class Item:
    """An image of the web: URL, scene, file encoding, and AltText."""

    url: str
    scene: Scene
    encoding: Encoding
    alttext: AltText
    fate: str
    same_as: str | None = None


@dataclass(frozen=True, slots=True)
class Truth:
    """A line of the ledger: an `<img>` on a page, and the facts about it.

    `expect` is `keep`, or the reason why a crawl or its quality rules should reject the image: `duplicate` (one of it
    and `same_as` is kept), `not_found`, `not_an_image`, `damaged`, `too_small`, `bad_aspect`, `too_large`, `robots`,
    `opt_out`. It does not depend on the AltText, whose category is a key of `alttext.CATEGORY_WEIGHTS`.
    """

    url: str
    page: str
    alttext: str | None
    category: str
    names: tuple[str, ...]
    caption: str
    fate: str
    same_as: str | None
    expect: str
    carried: bool


@dataclass(frozen=True, slots=True)
class DayLedger:
    """Result of `generate_day`: files, counts, and the number of references by `expect` and by category."""

    day: dt.date
    warc: Path
    truth: Path
    pages: int
    references: int
    expected: dict[str, int]
    categories: dict[str, int]


def generate_day(
    out: Path,
    day: dt.date,
    seed: int,
    images: int,
    processes: int = 2,
    *,
    bad: bool = False,
    described: float | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> DayLedger:
    """Write the miniature web's crawl of `day` with `images` image references under `out`.

    A quarter of them are images of the previous day, at the same URLs; on a *bad* day all downloads fail. *described*
    (0 to 1) replaces the share of descriptive AltText in `alttext.CATEGORY_WEIGHTS`. *report* takes the number of
    images that are written, and of all. Raises ValueError for fewer than one image.
    """
    if images < 1:
        raise ValueError(f"A crawl needs at least one image, not {images}")
    carried = _new_items(seed, day - dt.timedelta(days=1), images, described)[: round(images * CARRIED_SHARE)]
    new = _new_items(seed, day, images, described)[: images - len(carried)]
    if bad:
        carried, new = ([_unreachable(item, number) for number, item in enumerate(part)] for part in (carried, new))
    rng = _rng(seed, day, "pages")
    old = {item.url for item in carried}
    pages: list[Page] = []
    truth: list[Truth] = []
    for page, items in _pages(day, [*new, *carried], rng):
        pages.append(page)
        truth += [_truth(item, page.url, item.url in old) for item in items]
    _write_files(out, [*new, *carried], pages, processes, report)
    warc, ledger = out / "warc" / f"{day}.warc.gz", out / "truth" / f"{day}.jsonl"
    _write(warc, b"".join(_warc_records(pages, day)))
    lines = (json.dumps(dataclasses.asdict(line), ensure_ascii=False) + "\n" for line in truth)
    _write(ledger, "".join(lines).encode())
    expected = Counter(line.expect for line in truth)
    categories = Counter(line.category for line in truth)
    return DayLedger(
        day, warc, ledger, len(pages), len(truth), dict(sorted(expected.items())), dict(sorted(categories.items()))
    )


def _rng(seed: int, day: dt.date, purpose: str) -> random.Random:
    return random.Random(f"{seed} {day} {purpose}")


def _new_items(seed: int, day: dt.date, images: int, described: float | None) -> list[Item]:
    """Return the images first seen on `day`; a shorter list is a prefix of a longer one."""
    rng = _rng(seed, day, "images")
    weights: Mapping[str, float] = CATEGORY_WEIGHTS if described is None else category_weights(described)
    items: list[Item] = []
    for number in range(images):
        original = rng.choice(items) if items else None
        fate = rng.choices(list(_FATES), list(_FATES.values()))[0]
        # Two huge images per day, outside the part of the list that the next day carries over.
        if images >= 20 and number in (images // 2, images // 2 + 1):
            fate = "huge"
        items.append(_item(rng, day, number, fate, original, weights))
    return items


def _item(
    rng: random.Random, day: dt.date, number: int, fate: str, original: Item | None, weights: Mapping[str, float]
) -> Item:
    scene, encoding, same_as = sample_scene(rng, "crawl"), sample_encoding(rng), None
    if fate in ("exact_duplicate", "near_duplicate"):
        if original is None or original.fate != "plain":
            fate = "plain"
        else:
            scene, same_as = original.scene, original.url
            encoding = original.encoding if fate == "exact_duplicate" else _different_encoding(original.encoding, rng)
    if fate == "truncated":
        encoding = Encoding("JPEG", 256, 90)
    if fate == "huge":
        encoding = Encoding(rng.choice(("PNG", "GIF")), 1, 90)
    host = OPT_OUT_HOST if fate == "plain" and rng.random() < _OPT_OUT_SHARE else rng.choice((*HOSTS, CDN))
    if host == OPT_OUT_HOST:
        fate = "opt_out"
    name = slug(choose_name(scene.groups[0].kind, rng).text)
    folder = "members" if fate == "robots" else rng.choice(("img", "images", "media/pictures", f"uploads/{day:%Y/%m}"))
    spaced = " café" if rng.random() < 0.02 else ""
    path = quote(f"/{folder}/{name}{spaced}-{day:%m%d}{number}.{encoding.suffix}")
    query = f"?v={rng.randint(1, 9)}&w={encoding.side}" if rng.random() < 0.06 else ""
    alttext = write_alttext(scene, rng, weights=weights)
    return Item(f"http://{host}{path}{query}", scene, encoding, alttext, fate, same_as)


def _unreachable(item: Item, number: int) -> Item:
    """Return the item at a URL that returns an error page (even *number*) or nothing (odd)."""
    parts = urlsplit(item.url)
    url = f"{parts.scheme}://{parts.netloc}/{_OUTAGE}{parts.path}"
    return dataclasses.replace(item, url=url, fate=("html", "not_found")[number % 2], same_as=None)


def _different_encoding(encoding: Encoding, rng: random.Random) -> Encoding:
    while True:
        other = sample_encoding(rng)
        if other != encoding:
            return other


def _pages(day: dt.date, items: Sequence[Item], rng: random.Random) -> Iterator[tuple[Page, list[Item]]]:
    """Shuffle the items and split them into pages of three to nine images on random hosts."""
    remaining = list(items)
    rng.shuffle(remaining)
    number = 0
    while remaining:
        size = rng.randint(3, 9)
        shown, remaining = remaining[:size], remaining[size:]
        host = rng.choice(HOSTS)
        url = f"http://{host}/{day:%Y/%m/%d}/page-{number}.html"
        links = [f"http://{host}/{day:%Y/%m/%d}/page-{rng.randrange(number)}.html"] if number else []
        charset = rng.choice(JAPANESE_CHARSETS if host == JAPANESE_HOST else CHARSETS)
        title = f"{host.split('.')[-2].replace('-', ' ').title()}, {day:%d.%m.%Y}"
        references = [Reference(item.url, item.alttext.text) for item in shown]
        yield write_page(url, title, references, links, charset, rng), shown
        number += 1


def _truth(item: Item, page: str, carried: bool) -> Truth:
    names = tuple(name.text for name in item.alttext.names)
    return Truth(
        item.url, page, item.alttext.text, item.alttext.category, names, describe(item.scene), item.fate,
        item.same_as, _EXPECT[item.fate], carried,
    )  # fmt: skip


def file_of(out: Path, url: str) -> Path:
    """Return the path of a URL's content. The query is not part of the file name."""
    parts = urlsplit(url)
    return out / "sites" / parts.netloc / unquote(parts.path).lstrip("/")


def _write_files(
    out: Path, items: Sequence[Item], pages: Sequence[Page], processes: int, report: Callable[[int, int], None]
) -> None:
    for host in (*HOSTS, CDN, OPT_OUT_HOST):
        if host != NO_ROBOTS_FILE_HOST:
            _write(out / "sites" / host / "robots.txt", b"User-agent: *\nDisallow: /members/\n")
    _write(out / "sites" / OPT_OUT_HOST / "_headers", json.dumps(OPT_OUT_HEADERS).encode())
    for page in pages:
        _write(file_of(out, page.url), page.body)
    existing = [item for item in items if item.fate != "not_found"]
    # Forked: a spawned child would import everything again, and fails inside an Airflow task.
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        contents = pool.imap(_content, existing, _CHUNK_SIZE)
        for done, (item, content) in enumerate(zip(existing, contents, strict=True), start=1):
            _write(file_of(out, item.url), content)
            report(done, len(existing))


def _content(item: Item) -> bytes:
    defect: Defect = next((name for name in _DEFECTS if name == item.fate), "none")
    return render(item.scene, item.encoding, defect)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _warc_records(pages: Iterable[Page], day: dt.date) -> Iterator[bytes]:
    """Yield gzipped WARC 1.1 records: a warcinfo, and one response per page, one second apart from midnight."""
    clock = dt.datetime.combine(day, dt.time(), dt.UTC)
    info = b"software: vecap demo\r\nformat: WARC File Format 1.1\r\n"
    yield _record("warcinfo", f"warc {day}", clock, "application/warc-fields", info, ())
    for second, page in enumerate(pages, start=1):
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {page.content_type}\r\nContent-Length: {len(page.body)}\r\n\r\n"
        headers = (("WARC-Target-URI", page.url), ("WARC-Payload-Digest", _digest(page.body)))
        block = head.encode("ascii") + page.body
        when = clock + dt.timedelta(seconds=second)
        yield _record("response", f"{day} {page.url}", when, "application/http;msgtype=response", block, headers)


def _record(
    kind: str, name: str, when: dt.datetime, content_type: str, block: bytes, headers: Sequence[tuple[str, str]]
) -> bytes:
    lines = itertools.chain(
        (
            ("WARC-Type", kind),
            ("WARC-Record-ID", f"<urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, name)}>"),
            ("WARC-Date", f"{when:%Y-%m-%dT%H:%M:%SZ}"),
        ),
        headers,
        (
            ("WARC-Block-Digest", _digest(block)),
            ("Content-Type", content_type),
            ("Content-Length", str(len(block))),
        ),
    )
    head = "WARC/1.1\r\n" + "".join(f"{field}: {value}\r\n" for field, value in lines) + "\r\n"
    return gzip.compress(head.encode() + block + b"\r\n\r\n", mtime=0)


def _digest(content: bytes) -> str:
    return "sha1:" + base64.b32encode(hashlib.sha1(content, usedforsecurity=False).digest()).decode()
