"""HTML pages of the miniature web, in the variants of markup that real pages use for images.

A parser that decodes the page, resolves `<base>` and reads lazy-loading attributes and `srcset` finds the URL and the
AltText of each `Reference`.
"""

import html
import random
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

# A page's charset and where it is declared: in the HTTP header, in a <meta>, or not at all.
CHARSETS = (
    ("utf-8", "header"),
    ("utf-8", "meta"),
    ("iso-8859-1", "header"),
    ("windows-1252", "meta"),
    ("utf-8", "none"),
)
JAPANESE_CHARSETS = (("shift_jis", "meta"), ("euc-jp", "header"), ("utf-8", "header"))
_PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
_FORMS = ("plain", "plain", "plain", "figure", "lazy", "lazy_noscript", "srcset", "picture", "upper", "linked")
_FILLER = (
    "We are open every day but Tuesday.",
    "The archive grows by a few pictures a week.",
    "More about this can be found further down.",
    "Visitors are welcome by appointment.",
    "All prices include tax.",
    "Nothing on this page is advice.",
)


@dataclass(frozen=True, slots=True)
class Reference:
    """An `<img>` on a page: the absolute URL of the image and its AltText, or None without `alt`."""

    url: str
    alttext: str | None


@dataclass(frozen=True, slots=True)
class Page:
    """An HTTP response: URL, `Content-Type` and body."""

    url: str
    content_type: str
    body: bytes


def write_page(
    url: str,
    title: str,
    references: Sequence[Reference],
    links: Sequence[str],
    charset: tuple[str, str],
    rng: random.Random,
) -> Page:
    """Write the page at `url` with its images in random markup and `links` to other pages."""
    encoding, declared_in = charset
    meta = f'<meta charset="{encoding}">' if declared_in == "meta" else ""
    base = _base(references) if rng.random() < 0.15 else None
    body = [f"<h1>{html.escape(title)}</h1>"]
    for reference in references:
        body.append(_image(_src(reference.url, url, base, rng), reference, rng))
        if rng.random() < 0.6:
            body.append(f"<p>{rng.choice(_FILLER)}</p>")
    body += [f'<a href="{html.escape(link)}">Next page</a>' for link in links]
    text = (
        f"<!doctype html>\n<html><head>{meta}<title>{html.escape(title)}</title>"
        + (f'<base href="{base}">' if base else "")
        + "</head><body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )
    content_type = f"text/html; charset={encoding}" if declared_in == "header" else "text/html"
    return Page(url, content_type, text.encode(encoding, errors="xmlcharrefreplace"))


def _base(references: Sequence[Reference]) -> str:
    parts = urlsplit(references[0].url)
    return f"{parts.scheme}://{parts.netloc}/"


def _src(image: str, page: str, base: str | None, rng: random.Random) -> str:
    """Return the image URL as written on the page: absolute, scheme-relative, root-relative, or relative."""
    parts = urlsplit(image)
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    if base is not None:
        return path.lstrip("/") if image.startswith(base) else image
    if parts.netloc != urlsplit(page).netloc:
        return f"//{parts.netloc}{path}" if rng.random() < 0.2 else image
    return rng.choice((image, path, "../" * (urlsplit(page).path.count("/") - 1) + path.lstrip("/")))


def _image(url: str, reference: Reference, rng: random.Random) -> str:
    src = html.escape(url)
    alt = "" if reference.alttext is None else f' alt="{html.escape(reference.alttext)}"'
    small = src + ("&amp;" if "?" in src else "?") + "thumb=1"
    match rng.choice(_FORMS):
        case "figure":
            caption = html.escape(rng.choice(_FILLER))
            return f'<figure><img src="{src}"{alt} loading="lazy"><figcaption>{caption}</figcaption></figure>'
        case "lazy":
            return f'<img class="lazyload" data-src="{src}" src="{_PIXEL}"{alt}>'
        case "lazy_noscript":
            return f'<img data-src="{src}" src="{_PIXEL}"{alt}><noscript><img src="{src}"{alt}></noscript>'
        case "srcset":
            return f'<img src="{src}" srcset="{small} 128w, {src} 640w" sizes="50vw"{alt}>'
        case "picture":
            return f'<picture><source srcset="{src}" media="(min-width: 1px)"><img src="{src}"{alt}></picture>'
        case "upper":
            return f"<IMG SRC='{src}'{alt.replace(' alt=', ' ALT=')} BORDER=0>"
        case "linked":
            return f'<a href="#top"><img{alt} width=200 src="{src}"></a>'
        case _:
            return f'<img src="{src}"{alt}>'
