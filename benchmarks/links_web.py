"""Pages that are made for the links benchmark, in the proportions of real ones, and the WARC and WAT files of them.

A page has some 100 kB: a quarter of it scripts and styles, then menus, cards with an image, a heading and a price,
running text with links, inline icons and a footer. Sizes spread as on the web, a few pages being many times as long as
the usual one. Nine of ten pages have images, about 16 on average, of which six in ten have an AltText; four in ten
are loaded late or have a `srcset`.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from selectolax.lexbor import LexborHTMLParser

_TEXT = (
    "the of and to in a is that for it on with as was his he be at by this had not are but from or have an they "
    "which one you were all her she there would their we him been has when who will no more if out so said what up "
    "its about than into them can only other time new some could these two may first then do any like my now over "
    "garden river mountain wooden chair winter dress silver bicycle kitchen market harbour café señor straße vintage "
    "leather camera portrait sunset bridge museum flower window summer festival recipe chocolate adventure engine"
)
_WORDS = _TEXT.split()
_SCRIPT = "(function(w,d,s,l,i){w[l]=w[l]||[];if(a<b&&c){d.push({'event':i,\"page\":'%s'});}})(window,document);"


@dataclass(frozen=True, slots=True)
class Page:
    url: str
    html: bytes


def pages(count: int, seed: int = 0) -> Iterator[Page]:
    """Give *count* pages, the same for the same *seed*."""
    draw = random.Random(seed)
    for number in range(count):
        site = f"https://www.shop{number % 97}.example"
        yield Page(f"{site}/section{number % 11}/article-{number}.html", _html(draw, number).encode())


def write_warc(made: Iterator[Page], path: Path) -> None:
    """Write *made* as Common Crawl does: request, response and metadata of each page, a gzip member a record."""
    with path.open("wb") as out:
        out.write(_packed("warcinfo", "", "application/warc-fields", b"format: WARC File Format 1.0\r\n"))
        for page in made:
            request = f"GET {page.url} HTTP/1.1\r\nUser-Agent: CCBot/2.0\r\nAccept-Encoding: br,gzip\r\n\r\n".encode()
            header = (
                "HTTP/1.1 200 OK\r\nDate: Sat, 18 May 2024 01:58:10 GMT\r\nServer: nginx\r\n"
                "Content-Type: text/html; charset=UTF-8\r\nX-Crawler-Content-Encoding: gzip\r\n"
                f"Cache-Control: private, max-age=0\r\nContent-Length: {len(page.html)}\r\n\r\n"
            )
            out.write(_packed("request", page.url, "application/http; msgtype=request", request))
            out.write(_packed("response", page.url, "application/http; msgtype=response", header.encode() + page.html))
            out.write(_packed("metadata", page.url, "application/warc-fields", b"fetchTimeMs: 210\r\n"))


def write_wat(made: Iterator[Page], path: Path) -> None:
    """Write what Common Crawl's WAT files say of *made*: the records of the requests, and every link of the pages."""
    with path.open("wb") as out:
        out.write(_packed("warcinfo", "", "application/warc-fields", b"format: WARC File Format 1.0\r\n"))
        for page in made:
            for payload in ({"HTTP-Request-Metadata": {"Headers": {"Host": "x"}}}, _answer(page.html)):
                body = {
                    "Container": {"Filename": "CC-MAIN-00000.warc.gz", "Compressed": True, "Offset": "80610308"},
                    "Envelope": {
                        "Payload-Metadata": payload,
                        "Format": "WARC/1.0",
                        "WARC-Header-Metadata": {"WARC-Type": "response", "WARC-Target-URI": page.url},
                    },
                }
                out.write(_packed("metadata", page.url, "application/json", json.dumps(body).encode()))


def _answer(html: bytes) -> dict[str, object]:
    tree = LexborHTMLParser(html)
    links: list[dict[str, str]] = []
    for node in tree.css("a[href], img[src], script[src]"):
        written = node.attributes
        name = "href" if node.tag == "a" else "src"
        link = {"path": f"{(node.tag or '').upper()}@/{name}", "url": written[name] or ""}
        if node.tag == "a":
            link["text"] = " ".join(node.text().split())
        if "alt" in written:
            link["alt"] = written["alt"] or ""
        links.append(link)
    metas = [{key: value or "" for key, value in node.attributes.items()} for node in tree.css("meta[name]")]
    head = {"Title": (tree.css_first("title").text()), "Metas": metas}  # every page made here has a title
    response = {"Status": "200", "Version": "HTTP/1.1", "Reason": "OK"}
    headers = {"Content-Type": "text/html; charset=UTF-8", "Server": "nginx"}
    return {
        "HTTP-Response-Metadata": {
            "Response-Message": response,
            "Headers": headers,
            "HTML-Metadata": {"Head": head, "Links": links},
        }
    }


def _packed(kind: str, url: str, content_type: str, block: bytes) -> bytes:
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Date: 2024-05-18T01:58:10Z\r\n"
        f"WARC-Record-ID: <urn:uuid:292f457d-203c-42f2-a1b5-69a4dabefd4f>\r\nWARC-Target-URI: {url}\r\n"
        "WARC-IP-Address: 192.0.2.1\r\nWARC-Payload-Digest: sha1:4RUZFQLEBLD46HZUN3VDGDW5FRMAHDDM\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(block)}\r\n\r\n"
    )
    return gzip.compress(head.encode() + block + b"\r\n\r\n", 6, mtime=0)


def _html(draw: random.Random, number: int) -> str:
    size = 1.35 * draw.lognormvariate(-0.3, 0.75)  # the mean of the distribution is near 1
    images = 0 if draw.random() < 0.1 else max(1, round(19 * draw.lognormvariate(-0.3, 0.75)))
    parts = [
        f"<!DOCTYPE html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n<title>{_words(draw, 8)}</title>",
        f'<meta name="description" content="{_words(draw, 24)}"><meta name="viewport" content="width=device-width">',
        *(f'<link rel="stylesheet" href="/assets/css/{n}.css?v={number}">' for n in range(6)),
        f"<style>{_style(draw, round(60 * size))}</style>",
        *(f"<script>{_SCRIPT % _words(draw, 3) * round(70 * size)}</script>" for _ in range(2)),
        f'<script type="application/json">{json.dumps([_words(draw, 12) for _ in range(round(60 * size))])}</script>',
        "</head>\n<body class='page-template page home'>\n<div id=page class=site><header><nav><ul>",
        *(_item(draw, n) for n in range(round(80 * size))),
        "</ul></nav></header>\n<main id=content>",
    ]
    parts += (_card(draw, number, n) for n in range(images))
    parts += (_paragraph(draw) for _ in range(round(40 * size)))
    parts += ("</main>\n<footer><div class=footer-inner><ul>", *(_item(draw, n) for n in range(round(50 * size))))
    return "\n".join((*parts, "</ul></div></footer></div></body></html>"))


def _words(draw: random.Random, count: int) -> str:
    return " ".join(draw.choices(_WORDS, k=count))


def _style(draw: random.Random, count: int) -> str:
    return "".join(
        f".{word}-{n}{{margin:0 auto;padding:{n}px;color:#3a3a3a}}"
        for n, word in enumerate(draw.choices(_WORDS, k=count))
    )


def _item(draw: random.Random, number: int) -> str:
    word = draw.choice(_WORDS)
    return (
        f'<li id="menu-item-{number}" class="menu-item menu-item-type-taxonomy menu-item-{number}">'
        f'<a href="/category/{word}/{number}/" class="menu-link" title="{word}"><span>{_words(draw, 2)}</span></a></li>'
    )


def _paragraph(draw: random.Random) -> str:
    address = f"https://www.else.example/{draw.choice(_WORDS)}?p={draw.randrange(999)}"
    link = f'<a href="{address}" rel="nofollow">{_words(draw, 3)}</a>'
    strong = f"<strong>{_words(draw, 3)}</strong>"
    return f"<p>{_words(draw, 45)} {link} {_words(draw, 30)}, {strong} &amp; {_words(draw, 12)}.</p>"


def _card(draw: random.Random, page: int, number: int) -> str:
    word = draw.choice(_WORDS)
    host = draw.choice(("", "", "https://cdn.example.net", "//static.example.org"))
    address = f"{host}/wp-content/uploads/2024/05/{word}-{page}-{number}"
    chance = draw.random()
    alt = f'alt="{_words(draw, draw.randint(2, 12))}"' if chance < 0.6 else 'alt=""' if chance < 0.8 else ""
    kind = draw.random()
    if kind < 0.2:
        source = f'src="data:image/gif;base64,R0lGODlhAQABAAAAACw=" data-src="{address}.jpg" class="lazyload"'
    elif kind < 0.4:
        sizes = ", ".join(f"{address}-{width}x{width}.jpg {width}w" for width in (300, 768, 1024))
        source = f'src="{address}.jpg" srcset="{sizes}" sizes="(max-width: 600px) 100vw, 600px"'
    else:
        source = f'src="{address}.jpg"'
    image = f"<img loading=lazy decoding=async width=300 height=200 {source} {alt} />"
    if draw.random() < 0.1:
        image = f"<figure class=wp-block-image>{image}<figcaption>{_words(draw, 9)}</figcaption></figure>"
    icon = '<svg viewBox="0 0 24 24" width="24"><path d="M12 2C6.48 2 2 6.48 2 12s4.48 10 10 10 10-4.48 10-10z"/></svg>'
    return (
        f'<div class="card product type-product post-{number}"><a class="card-link" href="/product/{word}-{number}/">'
        f'{image}</a><div class="card-body"><h3 class="card-title">{_words(draw, 5)}</h3><p>{_words(draw, 18)}</p>'
        f'<span class="price"><bdi>{draw.randrange(900)}.99</bdi></span><button type=button>{icon}</button></div></div>'
    )
