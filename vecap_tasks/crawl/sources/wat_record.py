"""Parses one record of a WAT file, in a child process. Imports little."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from vecap_tasks.crawl.http.headers import opt_out_values
from vecap_tasks.crawl.http.robots import TDM, opted_out
from vecap_tasks.crawl.http.url import absolute, canonical
from vecap_tasks.errors import Failure

READ_RECORD = "vecap_tasks.crawl.sources.wat_record:read_record"
_IMAGE = "IMG@/src"


class WatContent(NamedTuple):
    """The images of a page: URLs and AltTexts. `linked` states whether the record has a list of links."""

    url: str
    title: str | None
    images: list[tuple[str, str | None]]
    counters: dict[str, int]
    linked: bool


@dataclass(frozen=True, slots=True)
class _WatPage:
    """The metadata of a page in a WAT record."""

    url: str
    html: dict[str, Any]  # HTML-Metadata
    headers: dict[str, Any]

    @property
    def links(self) -> list[Any] | None:
        links = self.html.get("Links")
        return links if isinstance(links, list) else None

    def content(self, product: str | None) -> WatContent:
        """Return the images, none if the page opts out."""
        head = _object(self.html, "Head")
        base = self._base(head)
        images = [link for link in self.links or () if isinstance(link, dict) and link.get("path") == _IMAGE]
        found: list[tuple[str, str | None]] = []
        skipped: Counter[str] = Counter()
        title = " ".join(_text(head, "Title").split()) or None
        for link in images:
            try:
                url = absolute(_text(link, "url"), base)
            except Failure as failure:
                skipped[f"skipped.{failure.reason}"] += 1
                continue
            alttext = link.get("alt")
            found.append((url, alttext if isinstance(alttext, str) else None))
        if product is not None and opted_out(self._rules(head), product):
            skipped["skipped.page_opt_out"] = len(found)
            found = []
        counters = {"pages": 1, "images": len(images), **skipped}
        return WatContent(self.url, title, found, counters, self.links is not None)

    def _base(self, head: dict[str, Any]) -> str:
        try:
            return absolute(head["Base"], self.url) if isinstance(head.get("Base"), str) else self.url
        except Failure:
            return self.url

    def _rules(self, head: dict[str, Any]) -> Iterator[str]:
        """Yield the values that `opted_out` checks, of <meta> elements and of header fields."""
        metas = head.get("Metas")
        named = [
            (_text(meta, "name").strip().lower(), _text(meta, "content"))
            for meta in (metas if isinstance(metas, list) else ())
            if isinstance(meta, dict)
        ]
        yield from (text for name, text in named if name in ("robots", "x-robots-tag"))
        yield from (f"{name}: {text}" for name, text in named if name == TDM)
        yield from opt_out_values(
            (name, item)
            for name, value in self.headers.items()
            for item in (value if isinstance(value, list) else [value])
            if isinstance(item, str)
        )


def read_record(block: bytes, record_url: str, product: str | None) -> WatContent | None:
    """Return the images of the page that a metadata record describes, None if it does not describe a response.

    *product* is our name in robots.txt; None ignores opt-outs. Raises Failure with the reason if the response is not a
    page.
    """
    page = _page(block, record_url)
    return None if page is None else page.content(product)


def _page(block: bytes, record_url: str) -> _WatPage | None:
    """Return the page that a record describes, None if it does not describe a response.

    Raises Failure with the reason if the response is not a page.
    """
    try:
        body = orjson.loads(block)
        envelope = body["Envelope"]
        payload = envelope["Payload-Metadata"]
        if "HTTP-Response-Metadata" not in payload:
            return None
        response = payload["HTTP-Response-Metadata"]
        status = _text(_object(response, "Response-Message"), "Status") or "200"
        url = _text(_object(envelope, "WARC-Header-Metadata"), "WARC-Target-URI") or record_url
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise Failure("bad_json") from error
    if status != "200":
        raise Failure(f"http_{status}")
    html = _object(response, "HTML-Metadata")
    if not html:
        raise Failure("not_html")
    return _WatPage(canonical(url), html, _object(response, "Headers"))


def _object(parent: dict[str, Any], name: str) -> dict[str, Any]:
    value = parent.get(name)
    return value if isinstance(value, dict) else {}


def _text(parent: dict[str, Any], name: str) -> str:
    value = parent.get(name)
    return value if isinstance(value, str) else ""
