"""WAT files as a source: JSON metadata that Common Crawl's ia-web-commons extracts from WARC records.

A record has the page's URL, title, metas and links; `IMG@/src` links are images. It has no figcaption, language,
`srcset` or lazy-loading URL, so the pages themselves (`kind: warc`) give more and better links.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from vecap_tasks.config import Config, WatSource
from vecap_tasks.core.files import find_files
from vecap_tasks.crawl.http.robots import opted_out, product_token
from vecap_tasks.crawl.http.url import absolute, canonical
from vecap_tasks.crawl.sources.link import Link, Stats
from vecap_tasks.crawl.warc.records import Record, Records
from vecap_tasks.errors import Failure, PermanentError, failure_of

_KINDS = frozenset({"metadata"})
_IMAGE = "IMG@/src"
_MAX_RECORD = 1 << 24  # bytes; Common Crawl's longest records have a few million, and 16 MiB take 400 MB as objects


class WatFiles:
    """The images of the pages in WAT files, in record order. A part is a file."""

    def __init__(self, config: Config, section: WatSource, interval: str) -> None:
        self._product = product_token(config.crawl.fetch.user_agent) if config.crawl.fetch.robots else None
        self._files = find_files(config, section.paths, kind="WAT", setting="crawl.source.paths", interval=interval)

    def parts(self) -> list[str]:
        return list(self._files)

    def read(self, part: str, stats: Stats) -> Iterator[Link]:
        linked = 0
        with self._files[part].open() as stream:
            records = Records(stream, part, _KINDS, _MAX_RECORD)
            for record in records:
                if record.kind not in _KINDS:
                    continue
                try:
                    page = _page(record, part)
                    if page is not None:
                        linked += page.links is not None
                        yield from page.images(self._product, stats)
                except Exception as error:
                    stats.counters[f"page_skipped.{failure_of(error, f'{part}: {record.url}').reason}"] += 1
            stats.inputs.append(records.input())
        if not linked:
            raise PermanentError(
                f"{part} contains no links: none of its {records.number} records describes a page with links; "
                "use the WAT file of a WARC file with responses"
            )


@dataclass(frozen=True, slots=True)
class _WatPage:
    """The metadata of a page in a WAT record."""

    url: str
    source: str
    html: dict[str, Any]  # HTML-Metadata
    headers: dict[str, Any]

    @property
    def links(self) -> list[Any] | None:
        links = self.html.get("Links")
        return links if isinstance(links, list) else None

    def images(self, product: str | None, stats: Stats) -> list[Link]:
        """Return the images, none if the page opts out. Counters change only on success."""
        head = _object(self.html, "Head")
        base = self._base(head)
        images = [link for link in self.links or () if isinstance(link, dict) and link.get("path") == _IMAGE]
        found: list[Link] = []
        skipped: Counter[str] = Counter()
        title = " ".join(_text(head, "Title").split()) or None
        for link in images:
            try:
                url = absolute(_text(link, "url"), base)
            except Failure as failure:
                skipped[f"skipped.{failure.reason}"] += 1
                continue
            alttext = link.get("alt")
            alttext = alttext if isinstance(alttext, str) else None
            found.append(Link(url, alttext, self.url, title, None, None, self.source))
        if product is not None and opted_out(self._rules(head), product):
            skipped["skipped.page_opt_out"] = len(found)
            found = []
        stats.counters.update({"pages": 1, "images": len(images), **skipped})
        return found

    def _base(self, head: dict[str, Any]) -> str:
        try:
            return absolute(head["Base"], self.url) if isinstance(head.get("Base"), str) else self.url
        except Failure:
            return self.url

    def _rules(self, head: dict[str, Any]) -> Iterator[str]:
        """Yield the values of robots <meta> elements and headers, and `tdm-reservation: …` for those of that name."""
        metas = head.get("Metas")
        rules = [
            (_text(meta, "name").strip().lower(), _text(meta, "content"))
            for meta in (metas if isinstance(metas, list) else ())
            if isinstance(meta, dict)
        ]
        for name, value in self.headers.items():
            values = value if isinstance(value, list) else [value]
            rules += ((name.lower(), item) for item in values if isinstance(item, str))
        for name, text in rules:
            if name in ("robots", "x-robots-tag"):
                yield text
            elif name == "tdm-reservation":
                yield f"{name}: {text}"


def _page(record: Record, source: str) -> _WatPage | None:
    """Return the page that *record* describes, None if it does not describe a response.

    Raises Failure with the reason if the response is not a page.
    """
    try:
        body = orjson.loads(record.block or b"")
        envelope = body["Envelope"]
        payload = envelope["Payload-Metadata"]
        if "HTTP-Response-Metadata" not in payload:
            return None
        response = payload["HTTP-Response-Metadata"]
        status = _text(_object(response, "Response-Message"), "Status") or "200"
        url = _text(_object(envelope, "WARC-Header-Metadata"), "WARC-Target-URI") or record.url
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise Failure("bad_json") from error
    if status != "200":
        raise Failure(f"http_{status}")
    html = _object(response, "HTML-Metadata")
    if not html:
        raise Failure("not_html")
    return _WatPage(canonical(url), source, html, _object(response, "Headers"))


def _object(parent: dict[str, Any], name: str) -> dict[str, Any]:
    value = parent.get(name)
    return value if isinstance(value, dict) else {}


def _text(parent: dict[str, Any], name: str) -> str:
    value = parent.get(name)
    return value if isinstance(value, str) else ""
