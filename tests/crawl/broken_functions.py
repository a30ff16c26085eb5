"""The functions of the crawl's child processes, with faults for marked input. Tests pass them by name."""

from __future__ import annotations

import os
from typing import Any
from unittest.mock import patch

from vecap_tasks.crawl.html import extract as page
from vecap_tasks.crawl.html import image_urls
from vecap_tasks.crawl.image import decode as images
from vecap_tasks.crawl.sources import sitemap, wat_record

MODULE = __name__


def fault(body: bytes) -> None:
    """Fail as *body* says."""
    if b"KEY_ERROR" in body:
        raise KeyError("mark")
    if b"DISK_FULL" in body:
        raise OSError(28, "No space left on device")
    if b"CRASH" in body:
        os.abort()
    while b"LOOP" in body:
        pass


def extract(body: bytes, *arguments: Any) -> Any:
    fault(body)
    return page.extract(body, *arguments)


def extract_without_image(body: bytes, *arguments: Any) -> Any:
    """Fail for one image of the page."""
    with patch.object(image_urls, "fast_path", _broken(image_urls.fast_path)):
        return page.extract(body, *arguments)


def decode_and_hash(body: bytes, *arguments: Any) -> Any:
    fault(body)
    return images.decode_and_hash(body, *arguments)


def parse_sitemap(body: bytes) -> Any:
    fault(body)
    return sitemap.parse_sitemap(body)


def read_record(body: bytes, *arguments: Any) -> Any:
    fault(body)
    with patch.object(wat_record, "absolute", _broken(wat_record.absolute)):
        return wat_record.read_record(body, *arguments)


def _broken(function: Any) -> Any:
    def call(url: str, *context: Any) -> Any:
        if "/bad" in url:
            raise KeyError("mark")
        return function(url, *context)

    return call
