"""What the stage crawl needs to know: sources, fetching, images, duplicates, rows to try again."""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from vecap_tasks.config.section import Runtime, Section

# A product token, as robots.txt names it, and somewhere after it an address on the web or a mailbox.
_USER_AGENT = re.compile(r"[A-Za-z_-]+[ -~]*(https?://[^\s/]+\.[^\s/]|[^\s@(<]+@[^\s@]+\.[^\s@]+)[ -~]*")


class WarcSource(Section):
    """Pages from WARC and ARC files; the images they name are read from the same files, or fetched."""

    kind: Literal["warc"]
    paths: list[str] = Field(min_length=1, description="Files or globs; `{interval}` is the version's interval.")
    stored_images: bool = Field(
        True, description="Take an image from the files where one of them holds it; false fetches every image."
    )


class WatSource(Section):
    """Links and AltText that Common Crawl has read out of pages (WAT files); the images are fetched."""

    kind: Literal["wat"]
    paths: list[str] = Field(min_length=1, description="Files or globs; `{interval}` is the version's interval.")


class SiteSource(Section):
    """Pages fetched from web sites: seeds, and what they link to on the same host, and pages that sitemaps list."""

    kind: Literal["site"]
    seeds: list[str] = Field(default_factory=list, description="Addresses of the first pages.")
    sitemaps: list[str] = Field(
        default_factory=list, description="Addresses of sitemaps or sitemap indexes; pages on their own host count."
    )
    max_pages: int = Field(1000, ge=1)
    max_depth: int = Field(2, ge=0, description="Links to follow from a seed; 0 reads the seeds alone.")

    @model_validator(mode="after")
    def _begins(self) -> SiteSource:
        if not self.seeds and not self.sitemaps:
            raise ValueError("a site needs seeds or sitemaps; give the address of one")
        return self


class UrlSource(Section):
    """Lists of image addresses with their captions; the images are fetched. The columns are found by their names."""

    kind: Literal["urls"]
    paths: list[str] = Field(
        min_length=1,
        description="parquet, csv, tsv, json, jsonl or txt, also .gz and .zst: files or globs, here or on s3://; "
        "`{interval}` is the version's interval.",
    )
    url_column: str | int | None = Field(
        None, description="Column of the addresses, where its name does not tell; a number, from 0, without a header."
    )
    caption_column: str | int | None = Field(None, description="Column of the AltText, in the same way.")
    score_columns: list[str] | None = Field(
        None, description="Columns of numbers to keep in `scores`; none named: those of LAION and DataComp."
    )
    quotes: bool | None = Field(
        None, description="Fields of csv and tsv may stand in quotes; not said: yes, but for tsv without a header."
    )


class WebdatasetSource(Section):
    """Images with their captions in webdataset tars, as img2dataset writes them; nothing is fetched."""

    kind: Literal["webdataset"]
    paths: list[str] = Field(
        min_length=1, description="Tars or globs, here or on s3://; `{interval}` is the version's interval."
    )


Source = Annotated[WarcSource | WatSource | SiteSource | UrlSource | WebdatasetSource, Field(discriminator="kind")]


class FetchConfig(Section):
    """How images and pages are fetched over HTTP."""

    user_agent: str = "vecap/0.1 (+https://example.org/vecap-bot; bot@example.org)"
    deadline: float = Field(30.0, gt=0, description="Seconds of wall clock for one download, retries included.")
    max_bytes: int = Field(50_000_000, gt=0)
    retries: int = Field(2, ge=0)
    robots: bool = Field(
        True, description="Obey robots.txt (RFC 9309), X-Robots-Tag, TDM-Reservation, and the <meta> of both."
    )
    tdmrep: bool = Field(True, description="Read /.well-known/tdmrep.json once per host and obey it.")
    host_failures: int = Field(
        5,
        ge=1,
        description="Downloads without an answer, over a deadline's time, for which a host is left alone for a while.",
    )
    allow_networks: list[str] = Field(
        default_factory=list, description="Networks (CIDR) that may be reached although they are not public."
    )
    connections: Annotated[int, Runtime] = Field(64, ge=1)
    connections_per_host: Annotated[int, Runtime] = Field(8, ge=1)
    host_delay: Annotated[float, Runtime] = Field(0.0, ge=0, description="Seconds between two requests to one host.")
    max_crawl_delay: Annotated[float, Runtime] = Field(
        30.0, ge=0, description="Crawl-delay of a robots.txt is kept up to so many seconds."
    )
    dns_ttl: Annotated[float, Runtime] = Field(300.0, ge=1, description="Seconds for which an address is remembered.")
    connect_to: Annotated[dict[str, str], Runtime] = Field(
        default_factory=dict, description="Host pattern to `address:port`, as curl's --connect-to."
    )

    @field_validator("user_agent")
    @classmethod
    def _honest(cls, agent: str) -> str:
        if not _USER_AGENT.fullmatch(agent):
            raise ValueError(
                "say who crawls, and where to complain: a name, then an http address or a mail address, such as "
                "my-crawler/1.0 (+https://example.org/crawler)"
            )
        return agent

    @field_validator("allow_networks")
    @classmethod
    def _networks(cls, networks: list[str]) -> list[str]:
        for network in networks:
            ip_network(network, strict=False)  # its ValueError says what is wrong
        return networks


class ImageConfig(Section):
    """How a downloaded image is decoded and stored."""

    size: int = Field(256, ge=16, description="Shorter side in pixels; smaller images are not enlarged.")
    quality: int = Field(95, ge=1, le=100, description="JPEG quality.")
    scaling: Literal["fast", "fine"] = Field(
        "fast", description="fast: libjpeg scales JPEGs while it decodes; fine: a filter does, and keeps more of them."
    )
    max_pixels: int = Field(
        89_000_000,
        ge=1,
        le=178_000_000,
        description="Read from the header before a byte is decoded. Above the default Pillow warns, and above the "
        "most that can be set it refuses; its limit is the whole process's and is left as it is.",
    )


class DuplicatesConfig(Section):
    """What is looked for besides images of the same bytes; what becomes of it is `quality.rows`'."""

    near_distance: int | None = Field(
        3, ge=0, le=3, description="Bits of 64 that the perceptual hashes of near duplicates differ in; null: off."
    )
    earlier: bool = Field(False, description="Look in the versions of other intervals that are published, too.")


class RetryConfig(Section):
    """Failed rows of an earlier version of the interval to try again; all else of its crawl is taken over."""

    version: str = Field(description="The earlier version, such as 2026-01-01 or 2026-01-01-r2.")
    reasons: list[Annotated[str, Field(pattern="^[a-z0-9_]+$")]] = Field(
        default_factory=list, description="As in `error_message`, up to its colon; none: all that are not permanent."
    )


class CrawlConfig(Section):
    source: Source
    fetch: FetchConfig = FetchConfig()
    image: ImageConfig = ImageConfig()
    duplicates: DuplicatesConfig = DuplicatesConfig()
    shard_size: int = Field(10_000, ge=1)
    retry_failed: RetryConfig | None = None
