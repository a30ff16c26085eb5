"""The miniature web: one crawl a day of pages with images, as files to serve and as a WARC of the day's pages.

    sites/<host>/<path>         image and page files, as `serve.py` gives them out; `_headers` adds HTTP headers
    warc/<day>.warc.gz          the day's pages as HTTP responses (WARC 1.1, one gzip member a record)
    truth/<day>.jsonl           one `Truth` an `<img>`: what the picture shows and what a crawler should make of it

The ledger under truth/ is for tests and reports; no stage reads it. A day is a function of the seed, the date, the
number of images and the share of AltText that describes, whatever days were written before. On a bad day every page
names its images at addresses that lead nowhere, as after a site's move: to error pages, or to nothing.
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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from vecap_tasks.demo.alttext import SHARES, AltText, shares, write_alttext
from vecap_tasks.demo.markup import CHARSETS, JAPANESE_CHARSETS, Page, Reference, write_page
from vecap_tasks.demo.names import choose_name, slug
from vecap_tasks.demo.pictures import Damage, Encoding, render, sample_encoding
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
# What becomes of a new image, by weight in per mille; `Truth.expect` follows from it.
_FATES: dict[str, int] = {
    "plain": 800, "exact_duplicate": 50, "near_duplicate": 40, "truncated": 20, "html": 15, "empty": 5,
    "tiny": 25, "banner": 10, "not_found": 25, "robots": 10,
}  # fmt: skip
_EXPECT: dict[str, str] = {
    "plain": "keep", "exact_duplicate": "duplicate", "near_duplicate": "keep", "truncated": "damaged",
    "html": "not_an_image", "empty": "not_an_image", "tiny": "too_small", "banner": "bad_aspect",
    "not_found": "not_found", "robots": "robots", "opt_out": "opt_out", "huge": "too_large",
}  # fmt: skip
_DAMAGES: tuple[Damage, ...] = ("truncated", "html", "empty", "tiny", "banner", "huge")
_DRAWN_AT_ONCE = 16
_OUTAGE = "moved"  # folder of the addresses of a bad day, which no other day has


@dataclass(frozen=True, slots=True)
class Item:
    """An image of the web: its address, what it shows, how its file is made, and the AltText that pages give it."""

    url: str
    scene: Scene
    encoding: Encoding
    alttext: AltText
    fate: str
    same_as: str | None = None


@dataclass(frozen=True, slots=True)
class Truth:
    """A line of the ledger: an `<img>` on a page, and what is true of it.

    `expect` is `keep`, or why a crawl or its quality rules should refuse the image: `duplicate` (one of it and
    `same_as` is kept), `not_found`, `not_an_image`, `damaged`, `too_small`, `bad_aspect`, `too_large`, `robots`,
    `opt_out`. It says nothing of the AltText, whose category (a key of `alttext.SHARES`) stands beside it.
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
    """What `generate_day` wrote: pages, `<img>` references, and the references counted by what should happen."""

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
) -> DayLedger:
    """Write the miniature web's crawl of `day` with `images` image references under `out`.

    A quarter of them are images of the day before, at the same addresses; on a *bad* day none can be had. *described*
    is the share of AltText that describes its picture, in 0 to 1, instead of that in `alttext.SHARES`. Raises
    ValueError for fewer than one image.
    """
    if images < 1:
        raise ValueError(f"a crawl has at least one image, not {images}")
    carried = _new_items(seed, day - dt.timedelta(days=1), images, described)[: round(images * CARRIED_SHARE)]
    new = _new_items(seed, day, images, described)[: images - len(carried)]
    if bad:
        carried, new = ([_broken(item, number) for number, item in enumerate(part)] for part in (carried, new))
    rng = _rng(seed, day, "pages")
    old = {item.url for item in carried}
    pages: list[Page] = []
    truth: list[Truth] = []
    for page, items in _pages(day, [*new, *carried], rng):
        pages.append(page)
        truth += [_truth(item, page.url, item.url in old) for item in items]
    _write_files(out, [*new, *carried], pages, processes)
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
    """The images that are first seen on `day`; a shorter list is the beginning of a longer one."""
    rng = _rng(seed, day, "images")
    weights: Mapping[str, float] = SHARES if described is None else shares(described)
    items: list[Item] = []
    for number in range(images):
        original = rng.choice(items) if items else None
        fate = rng.choices(list(_FATES), list(_FATES.values()))[0]
        # Two huge images a day, past the part of the list that the next day carries on.
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
            encoding = original.encoding if fate == "exact_duplicate" else _encoded_again(original.encoding, rng)
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


def _broken(item: Item, number: int) -> Item:
    """The item at an address that answers with an error page, or with nothing, in turn."""
    parts = urlsplit(item.url)
    url = f"{parts.scheme}://{parts.netloc}/{_OUTAGE}{parts.path}"
    return dataclasses.replace(item, url=url, fate=("html", "not_found")[number % 2], same_as=None)


def _encoded_again(encoding: Encoding, rng: random.Random) -> Encoding:
    while True:
        other = sample_encoding(rng)
        if other != encoding:
            return other


def _pages(day: dt.date, items: Sequence[Item], rng: random.Random) -> Iterator[tuple[Page, list[Item]]]:
    """Cut the items, shuffled, into pages of three to nine images on random hosts."""
    waiting = list(items)
    rng.shuffle(waiting)
    number = 0
    while waiting:
        size = rng.randint(3, 9)
        shown, waiting = waiting[:size], waiting[size:]
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
    """Where the content of an address lies: its query is not part of the file's name."""
    parts = urlsplit(url)
    return out / "sites" / parts.netloc / unquote(parts.path).lstrip("/")


def _write_files(out: Path, items: Sequence[Item], pages: Sequence[Page], processes: int) -> None:
    for host in (*HOSTS, CDN, OPT_OUT_HOST):
        if host != NO_ROBOTS_FILE_HOST:
            _write(out / "sites" / host / "robots.txt", b"User-agent: *\nDisallow: /members/\n")
    _write(out / "sites" / OPT_OUT_HOST / "_headers", json.dumps(OPT_OUT_HEADERS).encode())
    for page in pages:
        _write(file_of(out, page.url), page.body)
    found = [item for item in items if item.fate != "not_found"]
    # Forked, because a spawned child would import everything again, and dies inside an Airflow task.
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        for item, content in zip(found, pool.imap(_content, found, _DRAWN_AT_ONCE), strict=True):
            _write(file_of(out, item.url), content)


def _content(item: Item) -> bytes:
    damage: Damage = next((one for one in _DAMAGES if one == item.fate), "none")
    return render(item.scene, item.encoding, damage)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _warc_records(pages: Iterable[Page], day: dt.date) -> Iterator[bytes]:
    """WARC 1.1 records, each a gzip member: a warcinfo and one response a page, a second apart from midnight."""
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
