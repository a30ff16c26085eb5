"""Generated pages for the links benchmark, with the proportions of real ones, as WARC and WAT files.

A page has about 100 kB: a quarter is scripts and styles, the rest menus, cards with an image, a heading and a price,
text with links, inline icons and a footer. Sizes are long-tailed, as on the web. Nine of ten pages have images, 16 on
average; 60 % of images have an AltText, and 40 % are lazy-loaded or have a `srcset`.
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
    """Yield *count* pages; the same *seed* gives the same pages."""
    rng = random.Random(seed)
    for number in range(count):
        site = f"https://www.shop{number % 97}.example"
        yield Page(f"{site}/section{number % 11}/article-{number}.html", _html(rng, number).encode())


def write_warc(pages: Iterator[Page], path: Path) -> None:
    """Write the pages like Common Crawl: request, response and metadata of each page, one gzip member per record."""
    with path.open("wb") as out:
        out.write(_record("warcinfo", "", "application/warc-fields", b"format: WARC File Format 1.0\r\n"))
        for page in pages:
            request = f"GET {page.url} HTTP/1.1\r\nUser-Agent: CCBot/2.0\r\nAccept-Encoding: br,gzip\r\n\r\n".encode()
            header = (
                "HTTP/1.1 200 OK\r\nDate: Sat, 18 May 2024 01:58:10 GMT\r\nServer: nginx\r\n"
                "Content-Type: text/html; charset=UTF-8\r\nX-Crawler-Content-Encoding: gzip\r\n"
                f"Cache-Control: private, max-age=0\r\nContent-Length: {len(page.html)}\r\n\r\n"
            )
            out.write(_record("request", page.url, "application/http; msgtype=request", request))
            out.write(_record("response", page.url, "application/http; msgtype=response", header.encode() + page.html))
            out.write(_record("metadata", page.url, "application/warc-fields", b"fetchTimeMs: 210\r\n"))


def write_wat(pages: Iterator[Page], path: Path) -> None:
    """Write WAT records of the pages like Common Crawl: request records, and every link of the pages."""
    with path.open("wb") as out:
        out.write(_record("warcinfo", "", "application/warc-fields", b"format: WARC File Format 1.0\r\n"))
        for page in pages:
            for payload in ({"HTTP-Request-Metadata": {"Headers": {"Host": "x"}}}, _response_metadata(page.html)):
                body = {
                    "Container": {"Filename": "CC-MAIN-00000.warc.gz", "Compressed": True, "Offset": "80610308"},
                    "Envelope": {
                        "Payload-Metadata": payload,
                        "Format": "WARC/1.0",
                        "WARC-Header-Metadata": {"WARC-Type": "response", "WARC-Target-URI": page.url},
                    },
                }
                out.write(_record("metadata", page.url, "application/json", json.dumps(body).encode()))


def _response_metadata(html: bytes) -> dict[str, object]:
    tree = LexborHTMLParser(html)
    links: list[dict[str, str]] = []
    for node in tree.css("a[href], img[src], script[src]"):
        attributes = node.attributes
        name = "href" if node.tag == "a" else "src"
        link = {"path": f"{(node.tag or '').upper()}@/{name}", "url": attributes[name] or ""}
        if node.tag == "a":
            link["text"] = " ".join(node.text().split())
        if "alt" in attributes:
            link["alt"] = attributes["alt"] or ""
        links.append(link)
    metas = [{key: value or "" for key, value in node.attributes.items()} for node in tree.css("meta[name]")]
    head = {"Title": (tree.css_first("title").text()), "Metas": metas}  # every generated page has a title
    response = {"Status": "200", "Version": "HTTP/1.1", "Reason": "OK"}
    headers = {"Content-Type": "text/html; charset=UTF-8", "Server": "nginx"}
    return {
        "HTTP-Response-Metadata": {
            "Response-Message": response,
            "Headers": headers,
            "HTML-Metadata": {"Head": head, "Links": links},
        }
    }


def _record(kind: str, url: str, content_type: str, block: bytes) -> bytes:
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Date: 2024-05-18T01:58:10Z\r\n"
        f"WARC-Record-ID: <urn:uuid:292f457d-203c-42f2-a1b5-69a4dabefd4f>\r\nWARC-Target-URI: {url}\r\n"
        "WARC-IP-Address: 192.0.2.1\r\nWARC-Payload-Digest: sha1:4RUZFQLEBLD46HZUN3VDGDW5FRMAHDDM\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(block)}\r\n\r\n"
    )
    return gzip.compress(head.encode() + block + b"\r\n\r\n", 6, mtime=0)


def _html(rng: random.Random, number: int) -> str:
    size = 1.35 * rng.lognormvariate(-0.3, 0.75)  # the mean of the distribution is near 1
    images = 0 if rng.random() < 0.1 else max(1, round(19 * rng.lognormvariate(-0.3, 0.75)))
    parts = [
        f"<!DOCTYPE html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n<title>{_words(rng, 8)}</title>",
        f'<meta name="description" content="{_words(rng, 24)}"><meta name="viewport" content="width=device-width">',
        *(f'<link rel="stylesheet" href="/assets/css/{n}.css?v={number}">' for n in range(6)),
        f"<style>{_style(rng, round(60 * size))}</style>",
        *(f"<script>{_SCRIPT % _words(rng, 3) * round(70 * size)}</script>" for _ in range(2)),
        f'<script type="application/json">{json.dumps([_words(rng, 12) for _ in range(round(60 * size))])}</script>',
        "</head>\n<body class='page-template page home'>\n<div id=page class=site><header><nav><ul>",
        *(_item(rng, n) for n in range(round(80 * size))),
        "</ul></nav></header>\n<main id=content>",
    ]
    parts += (_card(rng, number, n) for n in range(images))
    parts += (_paragraph(rng) for _ in range(round(40 * size)))
    parts += ("</main>\n<footer><div class=footer-inner><ul>", *(_item(rng, n) for n in range(round(50 * size))))
    return "\n".join((*parts, "</ul></div></footer></div></body></html>"))


def _words(rng: random.Random, count: int) -> str:
    return " ".join(rng.choices(_WORDS, k=count))


def _style(rng: random.Random, count: int) -> str:
    return "".join(
        f".{word}-{n}{{margin:0 auto;padding:{n}px;color:#3a3a3a}}"
        for n, word in enumerate(rng.choices(_WORDS, k=count))
    )


def _item(rng: random.Random, number: int) -> str:
    word = rng.choice(_WORDS)
    return (
        f'<li id="menu-item-{number}" class="menu-item menu-item-type-taxonomy menu-item-{number}">'
        f'<a href="/category/{word}/{number}/" class="menu-link" title="{word}"><span>{_words(rng, 2)}</span></a></li>'
    )


def _paragraph(rng: random.Random) -> str:
    url = f"https://www.else.example/{rng.choice(_WORDS)}?p={rng.randrange(999)}"
    link = f'<a href="{url}" rel="nofollow">{_words(rng, 3)}</a>'
    strong = f"<strong>{_words(rng, 3)}</strong>"
    return f"<p>{_words(rng, 45)} {link} {_words(rng, 30)}, {strong} &amp; {_words(rng, 12)}.</p>"


def _card(rng: random.Random, page: int, number: int) -> str:
    word = rng.choice(_WORDS)
    host = rng.choice(("", "", "https://cdn.example.net", "//static.example.org"))
    url = f"{host}/wp-content/uploads/2024/05/{word}-{page}-{number}"
    chance = rng.random()
    alt = f'alt="{_words(rng, rng.randint(2, 12))}"' if chance < 0.6 else 'alt=""' if chance < 0.8 else ""
    kind = rng.random()
    if kind < 0.2:
        source = f'src="data:image/gif;base64,R0lGODlhAQABAAAAACw=" data-src="{url}.jpg" class="lazyload"'
    elif kind < 0.4:
        sizes = ", ".join(f"{url}-{width}x{width}.jpg {width}w" for width in (300, 768, 1024))
        source = f'src="{url}.jpg" srcset="{sizes}" sizes="(max-width: 600px) 100vw, 600px"'
    else:
        source = f'src="{url}.jpg"'
    image = f"<img loading=lazy decoding=async width=300 height=200 {source} {alt} />"
    if rng.random() < 0.1:
        image = f"<figure class=wp-block-image>{image}<figcaption>{_words(rng, 9)}</figcaption></figure>"
    icon = '<svg viewBox="0 0 24 24" width="24"><path d="M12 2C6.48 2 2 6.48 2 12s4.48 10 10 10 10-4.48 10-10z"/></svg>'
    return (
        f'<div class="card product type-product post-{number}"><a class="card-link" href="/product/{word}-{number}/">'
        f'{image}</a><div class="card-body"><h3 class="card-title">{_words(rng, 5)}</h3><p>{_words(rng, 18)}</p>'
        f'<span class="price"><bdi>{rng.randrange(900)}.99</bdi></span><button type=button>{icon}</button></div></div>'
    )
