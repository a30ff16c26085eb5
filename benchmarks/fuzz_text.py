"""Seeds of text inputs: pages, image attributes, URLs, headers, robots.txt, sitemaps, model responses, captions."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Sequence
from random import Random
from typing import Any

from benchmarks.fuzz_bytes import MAX_BYTES, NUMBERS

WORDS = (
    "a", "red", "cat", "Belvo", "tulips", "the", "on", "of", "New York", "2017", "Ü", "ß", "猫が", "Кошка", "\u202e",
    "\u200d", "e\u0301", "👩\u200d👧", "ﬁ", "İ", "\u2028", "\x85", "\ufeff", "&amp;", "<b>", "\\", "'", '"', "“", "”",
    "...", "—", "1/2", "18 V.", "www.example.com", "user@example.org", "+1 212 555 0100", "[INST]", "<|im_end|>",
    "USER:", "###", "\x00",
)  # fmt: skip
URLS = (
    "http://a.example/1.jpg", "https://b.example:8443/x/y.png?w=1&h=2#f", "//c.example/é.webp", "/d.gif", "../e f.jpg",
    "data:image/png;base64,AAAA", "javascript:void(0)", "http://[::1]/", "http://[fe80::1%25eth0]/x", "http://1.2.3/",
    "http://0x7f.1/", "http://xn--strae-oqa.example/", "http://straße.example/", "http://i❤.example/", "http://u:p@h/",
    "HTTP://EXAMPLE.EXAMPLE:80/%7e%2E%2e/a;b", "http:\\\\h.example\\x", "http:a", "http:///x", "?q", "#", "", " ",
    "http://a..b/", "http://a.example:99999/", "http://a.example:/", "ftp://a.example/x", "http://ａ.example/", "%",
    "http://[v1.x]/", "http://[::1", "http://a.example/\ud800", "http://\u00ad.example/", "http://" + "a." * 130 + "b/",
    "http://a.example/" + "%C3%A9" * 20, "http://1.1.1.1.1/", "http://4294967296/", "http://xn--a/",
    "http://-.example/",
)  # fmt: skip
LABELS = (
    "utf-8", "utf-16", "utf-16be", "utf-7", "utf-32", "iso-8859-1", "windows-1252", "gb2312", "gb18030", "big5", "sjis",
    "euc-jp", "iso-2022-jp", "iso-2022-kr", "hz-gb-2312", "koi8-r", "x-user-defined", "idna", "punycode", "undefined",
    "unicode_escape", "rot13", "zlib", "base64", "mbcs", "charmap", "x" * 300, "",
)  # fmt: skip
TAGS = (
    "html", "head", "body", "div", "p", "a", "img", "source", "picture", "figure", "figcaption", "table", "tr", "td",
    "select", "option", "template", "svg", "math", "mi", "annotation-xml", "foreignObject", "desc", "style", "script",
    "title", "textarea", "noscript", "iframe", "plaintext", "form", "button", "frameset", "base", "meta", "link",
    "font", "b", "i", "nobr", "applet", "object", "xmp", "li", "dd", "ruby", "rt", "caption", "col", "h1", "br",
    "input", "hr",
)  # fmt: skip
_ATTRIBUTES = (
    "src", "srcset", "alt", "data-src", "data-srcset", "data-original", "href", "lang", "xml:lang", "name", "content",
    "charset", "http-equiv", "sizes", "style", "class", "id", "title", "data-lazy-src", "color", "face", "encoding",
)  # fmt: skip
HTML_TOKENS = tuple(f"<{tag}>".encode() for tag in TAGS) + tuple(f"</{tag}>".encode() for tag in TAGS[:30]) + (
    b"<!--", b"-->", b"<![CDATA[", b"]]>", b"<!DOCTYPE html>", b"<?xml", b"&#0;", b"&#xD800;", b"&#99999999;", b"&amp",
    b"&notin;", b"<img src=x alt=y>", b"<a href=x>", b'<figure><img src="/x.jpg" alt="x">', b"<p lang=de>", b'"', b"'",
    b"=", b"<", b"/>", b'<meta name="robots" content="noai">', b"<meta charset=", b"<base href=",
)  # fmt: skip
SRCSET_TOKENS = (
    b",",
    b" ",
    b"1x",
    b"2x,",
    b" 800w,",
    b" 1e400x",
    b" 0w",
    b"(",
    b")",
    b"a",
    b"/x.jpg",
    b"\t",
    b", ,",
    b" 5h",
)
ROBOTS_TOKENS = (
    b"User-agent: *\n", b"User-agent: vecap\n", b"Disallow: /\n", b"Allow: /*.jpg$\n", b"Disallow: *", b"*", b"$",
    b"%2F", b"Crawl-delay: 5\n", b"Sitemap: http://a.example/s.xml\n", b"Content-Usage: train-ai=n\n",
    b"Disallow: /%zz\n", b"\r", b"Content-Signal: search=yes, ai-train=no\n", b":", b"#",
)  # fmt: skip
SITEMAP_TOKENS = (
    b"<url>", b"</url>", b"<loc>", b"</loc>", b"<urlset>", b"</urlset>", b"<sitemap>", b"</sitemap>", b"<sitemapindex>",
    b"&", b"&amp;", b"<![CDATA[", b"]]>", b"<!--", b"-->", b"<!DOCTYPE a [", b'<!ENTITY a "b">', b"&a;", b"]>",
    b"<x:loc>", b"<image:loc>", b"http://a.example/", b'<?xml version="1.0"?>',
)  # fmt: skip
HEADER_TOKENS = (
    b"\r\n", b"\r\n\r\n", b"\n", b": ", b"Content-Encoding: gzip\r\n", b"Content-Encoding: br, gzip\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Content-Length: 5\r\n", b"Location: /x\r\n", b"Content-Type: text/html\r\n",
    b"X-Robots-Tag: noai\r\n", b"Retry-After: 5\r\n", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 302 Found\r\n", b" folded",
    b"\xff", b"5\r\nhello\r\n", b"0\r\n\r\n", b"ffffffffffff\r\n",
)  # fmt: skip
JSON_TOKENS = (
    b"{", b"}", b"[", b"]", b",", b":", b'"', b'""', b"null", b"true", b"1e999", b"-0", b'"\\ud800"', b'"\\u0000"',
    b"NaN", b'{"a":', b"[[", b'"url":', b'"caption":', b"\\", b"\xef\xbb\xbf", b"9" * 400, b"1.", b"Infinity",
)  # fmt: skip
CAPTION_TOKENS = (
    *(word.encode() for word in WORDS), b"I'm sorry, but I cannot see the image. ", b"As an AI language model, ",
    b"Sure! Here is the caption: ", b"a ", b" .", b"Caption: ", b"<alttext>", b"</alttext>", b"**a**", b"__a__", b"`",
    b"{", b"[a](b) ", b"1. a 2. b ", b"@", b"A. ", b" -", b"http://", b"a.b.", b"2 2 ", b"(", b"'", b"\xe2\x80\x99",
    b"_", b"ab", b"the the ", b"555-0100 ", b"based on the ",
)  # fmt: skip
URL_TOKENS = (
    *(text.encode("utf-8", "surrogatepass") for text in URLS), b"%2e%2e/", b"/../", b"/./", b"//", b"@", b":", b"[",
    b"]", b"xn--", b".", b"%00", b"%", b"\\", b"?", b"#", b";", b"-", "。".encode(), "\u200d".encode(), "𝒳".encode(),
    "İ".encode(), b"\t", b"0x", b"1.",
)  # fmt: skip


def caption(random: Random, most: int = 24) -> str:
    """Return words, some of them unusual."""
    words = [random.choice(WORDS[:10] if random.random() < 0.8 else WORDS) for _ in range(random.randrange(most))]
    return " ".join(words)


def sentence(random: Random) -> str:
    """Return a plausible caption, sometimes with unusual words."""
    if random.random() < 0.3:
        return caption(random, random.choice((5, 24, 200)))
    noun = random.choice(("cat", "red mug", "Belvo tulip", "man in 2017", 'sign that reads "No 5"', "猫"))
    place = random.choice(("table", "field", caption(random, 4)))
    return f"A {noun} {random.choice(('on', 'beside', 'under'))} a {place}."


def url(random: Random) -> str:
    text = random.choice(URLS if random.random() < 0.6 else URLS[:5])
    return text if random.random() < 0.8 else text + random.choice(URLS)


def number(random: Random) -> str:
    return random.choice(NUMBERS).decode()


def srcset(random: Random) -> str:
    parts = []
    for _ in range(random.choice((0, 1, 2, 3, 8))):
        descriptor = random.choice(
            ("", " 2x", " 800w", " 1.5x", " 800w 600h", f" {number(random)}w", f" {number(random)}x")
        )
        parts.append(url(random) + descriptor)
    return random.choice((", ", ",", " , ")).join(parts)


def _attributes(random: Random) -> str:
    pairs = []
    for _ in range(random.choice((0, 1, 1, 2, 3, 5))):
        name = random.choice(_ATTRIBUTES)
        value = {"alt": caption, "srcset": srcset, "data-srcset": srcset, "src": url, "href": url}.get(name)
        text = value(random) if value else random.choice((*LABELS, "en", "de-DE", "robots", "noai", caption(random, 5)))
        quote = random.choice(('"', '"', "'", ""))
        pairs.append(f" {name}={quote}{text.replace(quote, '') if quote else text}{quote}")
    return "".join(pairs)


def _repetitive_page(random: Random) -> bytes:
    """Return a page that repeats patterns of tags thousands of times, as pages that parsers read in quadratic time."""
    palette = random.sample(TAGS, random.randrange(1, 7))
    parts = [random.choice(("", "<html><body>", "<table>", "<select>", "<svg>", "<p><b><i>"))]
    for _ in range(random.randrange(1, 6)):
        pattern = ""
        for _ in range(random.randrange(1, 6)):
            tag = random.choice(palette)
            attribute = random.choice(("", "", "", f" x{random.randrange(3)}=y", _attributes(random)))
            pattern += random.choice(
                (f"<{tag}{attribute}>", f"<{tag}{attribute}>", f"</{tag}>", f"<{tag}/>", "<!-- -->", "x")
            )
        parts.append(pattern * (random.choice((300, 3_000, 40_000, 150_000)) // len(pattern)))
    if random.random() < 0.2:
        parts.append(
            "<p " + " ".join(f"a{number}=b" for number in range(random.choice((100, 1_990, 2_100, 20_000)))) + ">"
        )
    return "".join(parts)[:MAX_BYTES].encode("utf-8", "replace")


def html(random: Random) -> bytes:
    """Return a page of random, often badly nested elements in a random encoding."""
    if random.random() < 0.1:
        return _repetitive_page(random)
    label = random.choice(LABELS)
    parts = [random.choice(("<!DOCTYPE html>", "", "<?xml version='1.0' encoding='sjis'?>")), "<head>"]
    parts += [
        random.choice((f'<meta charset="{label}">', "", f"<base href='{url(random)}'>", "<title>x &amp; y</title>"))
    ]
    open_tags: list[str] = []
    for _ in range(random.choice((3, 10, 30, 80))):
        tag = (
            random.choice(TAGS) if random.random() < 0.6 else random.choice(("img", "figure", "source", "picture", "a"))
        )
        if open_tags and random.random() < 0.3:
            parts.append(f"</{open_tags.pop(random.randrange(len(open_tags)))}>")
        else:
            parts.append(f"<{tag}{_attributes(random)}>")
            open_tags.append(tag)
        if random.random() < 0.4:
            parts.append(caption(random, 6))
    codec = random.choice(("utf-8", "utf-8", "utf-8", "utf-16", "gb18030", "cp1252", "iso2022_jp"))
    return "".join(parts).encode(codec, "replace")


def image_attributes(random: Random) -> bytes:
    """Return a srcset, or the attributes of an <img> as they follow `<img `."""
    text = srcset(random) if random.random() < 0.5 else _attributes(random)
    return text.encode("utf-8", "surrogatepass")


def urls(random: Random) -> bytes:
    """Return a reference and a base URL, separated by a line feed."""
    return f"{url(random)}\n{url(random)}".encode("utf-8", "surrogatepass")


def encode_body(random: Random, body: bytes) -> tuple[bytes, list[bytes]]:
    """Return *body* with random content and transfer codings, and the header lines that name them."""
    lines = []
    coding = random.choice((b"",) * 9 + (b"gzip", b"deflate", b"br", b"x-gzip", b"identity", b"gzip, gzip", b"zstd"))
    if coding == b"gzip" or random.random() < 0.1:
        body = gzip.compress(body, 1, mtime=0) + (gzip.compress(b"second", mtime=0) if random.random() < 0.3 else b"")
    elif coding == b"deflate":
        body = zlib.compress(body) if random.random() < 0.5 else zlib.compress(body)[2:-4]
    if coding:
        lines.append(b"Content-Encoding: " + coding)
    if random.random() < 0.3:
        sizes = [random.randrange(1, 200) for _ in range(3)]
        pieces, start = [], 0
        for size in (*sizes, len(body)):
            piece = body[start : start + size]
            start += size
            if piece:
                pieces.append(b"%x%s\r\n%s\r\n" % (len(piece), random.choice((b"", b";a=b", b" ")), piece))
        body = b"".join(pieces) + b"0\r\n\r\n"
        lines.append(b"Transfer-Encoding: chunked")
    return body, lines


def response(random: Random, body: bytes | None = None, kind: bytes | None = None) -> bytes:
    """Return an HTTP response with a random header."""
    body, lines = encode_body(random, html(random)[:3000] if body is None else body)
    label = random.choice(LABELS).encode()
    kind = kind or random.choice(
        (b"text/html", b"text/html; charset=" + label, b"image/png", b"", b"application/xhtml+xml")
    )
    lines.append(b"Content-Type: " + kind)
    pool = (
        b"X-Robots-Tag: noai, max-snippet: 5", b"X-Robots-Tag: vecap: noindex", b"TDM-Reservation: 1",
        b"Retry-After: 3", b"Location: " + url(random).encode("utf-8", "surrogatepass"), b"Set-Cookie: a=b",
        b"Content-Language: de", b"Content-Usage: train-ai=n", b"X: " + b"y" * random.choice((1, 100, 9000)),
        b"no colon", b" folded", b": empty",
    )  # fmt: skip
    lines += random.sample(pool, random.choice((0, 0, 1, 3)))
    if random.random() < 0.5:
        length = number(random).encode("utf-8") if random.random() < 0.1 else b"%d" % len(body)
        lines.append(b"Content-Length: " + length)
    random.shuffle(lines)
    status = random.choice(
        (b"200 OK",) * 20 + (b"302 Found", b"404 Not Found", b"503 x", b"304 x", b"200", b"1000 x", b"abc")
    )
    return b"HTTP/1.1 " + status + b"\r\n" + b"\r\n".join(lines) + b"\r\n\r\n" + body


def robots(random: Random) -> bytes:
    lines = [random.choice(ROBOTS_TOKENS) for _ in range(random.choice((2, 5, 20)))]
    lines += [
        f"Disallow: {url(random)}\n".encode("utf-8", "surrogatepass"),
        b"Disallow: /" + b"*a" * random.randrange(9),
    ]
    random.shuffle(lines)
    return b"".join(lines)


def sitemap(random: Random) -> bytes:
    """Return a sitemap, a sitemap index, or a list of URLs; plain or of one or two gzip members."""
    root, item = random.choice((("urlset", "url"), ("sitemapindex", "sitemap"), ("rss", "item")))
    space = random.choice(("", ' xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"', ' xmlns:image="x"'))
    label = random.choice(LABELS)
    items = "".join(
        f"<{item}><loc>{url(random)}</loc><image:loc>x</image:loc></{item}>" for _ in range(random.randrange(8))
    )
    text = random.choice((f'<?xml version="1.0" encoding="{label}"?>', "")) + f"<{root}{space}>{items}</{root}>"
    if random.random() < 0.15:
        text = "\n".join(url(random) for _ in range(5))
    elif random.random() < 0.1:
        entities = "".join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 10}">' for n in range(random.randrange(9)))
        text = f'<!DOCTYPE a [<!ENTITY e0 "x">{entities}]><{root}><{item}><loc>&e5;</loc></{item}></{root}>'
    body = text.encode(random.choice(("utf-8", "utf-16", "cp1252")), "replace")
    if random.random() < 0.3:
        body = gzip.compress(body, 1, mtime=0)
        body += gzip.compress(b"<a/>", mtime=0) * random.randrange(3)
    return body


def value(random: Random, depth: int = 3) -> Any:
    """Return a random JSON value."""
    match random.randrange(8 if depth else 5):
        case 0:
            return caption(random, 8)
        case 1:
            return url(random)
        case 2:
            return random.choice(
                (None, True, False, 0, -1, 2**31, 2**63, 2**64, 1e308, 1.5, float("nan"), float("inf"))
            )
        case 3:
            return random.choice(("", "\ud800", "\x00", "a" * 1000, "ab" * 16, "0123456789abcdef" * 2))
        case 4:
            return random.randrange(-1000, 1000)
        case 5:
            return [value(random, depth - 1) for _ in range(random.randrange(4))]
        case _:
            return {random.choice(KEYS): value(random, depth - 1) for _ in range(random.randrange(5))}


KEYS = (
    "url",
    "caption",
    "text",
    "uid",
    "sha256",
    "alt",
    "raw",
    "a",
    "",
    "similarity",
    "punsafe",
    "image",
    "filename",
    "x y",
)


def answer(random: Random) -> bytes:
    """Return a response of an OpenAI-compatible server: status, Content-Type, Retry-After and body, by line feeds."""
    status = random.choice((*[200] * 15, 400, 401, 404, 413, 422, 429, 500, 503, 302))
    message = {"role": "assistant", "content": random.choice((*[sentence(random)] * 9, None, "", 5, ["x"], "\ud800"))}
    usage = {"completion_tokens": random.choice((5,) * 12 + (None, -1, 2**70, "7", 1.5, [])), "prompt_tokens": 9}
    body: Any = {
        "choices": [{"message": message, "finish_reason": random.choice(("stop", "length", "content_filter", 1))}]
    }
    body["usage"] = random.choice((usage,) * 9 + (None, [], "x"))
    errors = (
        {"error": {"message": "maximum context length is 4096 tokens", "type": "BadRequestError", "code": 400}},
        {"error": "model not found"}, {"detail": [{"loc": ["body", 1], "msg": "x"}]}, {"detail": [{"loc": 5}, None]},
        {"message": "x", "code": ["y"]}, ["x"], {"error": None}, {"error": [1]}, {"error": {"message": {"a": 1}}}, "x",
        5, None,
    )  # fmt: skip
    if status != 200:
        body = random.choice(errors)
    if random.random() < 0.1:
        body = value(random)
    text = json.dumps(body, ensure_ascii=random.random() < 0.5)
    if random.random() < 0.05:
        text = "<html><body>" * random.randrange(50) + "502 Bad Gateway"
    kind = random.choice((*["application/json"] * 9, "text/html", "", "application/json; charset=utf-8"))
    retry = random.choice(("", "5", "1.5", "-1", "1e9", "Wed, 21 Oct 2015 07:28:00 GMT", "9" * 400, "x"))
    return f"{status}\n{kind}\n{retry}\n{text}".encode("utf-8", "surrogatepass")


def texts(random: Random) -> bytes:
    """Return an AltText, a VeC and a generated caption, separated by form feeds."""
    return "\f".join(random.choice((sentence, caption))(random) for _ in range(3)).encode("utf-8", "surrogatepass")


def text_lines(
    random: Random, lines: Sequence[str], codecs: Sequence[str] = ("utf-8",) * 6 + ("utf-8-sig", "utf-16", "cp1252")
) -> bytes:
    """Return *lines* in a random encoding with random line breaks."""
    text = random.choice(("\n", "\n", "\r\n", "\r")).join(lines) + random.choice(("\n", ""))
    codec = random.choice(codecs)
    return text.encode(codec, "surrogatepass" if codec.startswith("utf-8") else "replace")
