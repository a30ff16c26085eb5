"""Where images and their AltText come from. A source has parts, which are read side by side, each in its own order.

Another kind of source is a file here, a section in the configuration and a line in `open_source`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from vecap_tasks.config import Config, UrlSource, WarcSource, WatSource, WebdatasetSource
from vecap_tasks.crawl.links import Held, Link, Tally


class Source(Protocol):
    """A source of links. Whatever the process, the same part gives the same links."""

    def parts(self) -> list[str]:
        """Return the names of all parts, in order, as the manifest calls them: no paths of this machine.

        Raises VecapError where the source names nothing that exists.
        """

    def read(self, part: str, tally: Tally) -> Iterator[Link | Held]:
        """Give every link of *part*, and the images that it holds; *tally* is complete when they are at their end.

        Raises VecapError where the part cannot be read to its end.
        """


def open_source(config: Config, interval: str) -> Source:
    """Return the source of the crawl of *interval*."""
    from vecap_tasks.crawl.sources.site import Site
    from vecap_tasks.crawl.sources.urls import UrlFiles
    from vecap_tasks.crawl.sources.warc import WarcFiles
    from vecap_tasks.crawl.sources.wat import WatFiles
    from vecap_tasks.crawl.sources.webdataset import WebdatasetFiles

    section = config.crawl.source
    if isinstance(section, WarcSource):
        return WarcFiles(config, section, interval)
    if isinstance(section, WatSource):
        return WatFiles(config, section, interval)
    if isinstance(section, UrlSource):
        return UrlFiles(config, section, interval)
    if isinstance(section, WebdatasetSource):
        return WebdatasetFiles(config, section, interval)
    return Site(config.crawl.fetch, section, interval)
