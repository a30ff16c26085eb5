"""Where pages come from. A source gives its pages in an order of its own and then says what it read.

Another kind of source is a file here, a section in the configuration and a line in `open_source`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Protocol

from vecap_tasks.config import Config, WarcSource
from vecap_tasks.crawl.page import Page
from vecap_tasks.crawl.sources.site import Site
from vecap_tasks.crawl.sources.warc import WarcFiles
from vecap_tasks.dataset.manifest import Input


class Source(Protocol):
    """`skipped` and `inputs` are complete when `pages` has come to its end."""

    skipped: Counter[str]

    def pages(self) -> Iterator[Page]:
        """Give every page once. Raises VecapError where the source cannot be read to its end."""

    def inputs(self) -> list[Input]:
        """Return what was read, with digests."""


def open_source(config: Config, interval: str) -> Source:
    """Return the source of the crawl of *interval*. Raises VecapError where it names nothing that exists."""
    section = config.crawl.source
    if isinstance(section, WarcSource):
        return WarcFiles(config, section, interval)
    return Site(config.crawl.fetch, section, interval)
