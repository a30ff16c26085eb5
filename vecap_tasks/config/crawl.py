"""Settings of the crawl stage: sources, downloads, images, duplicates, retries of failed rows."""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from vecap_tasks.config.section import Runtime, Section

# A product token, as in robots.txt, followed by a URL or an email address.
_USER_AGENT = re.compile(r"[A-Za-z_-]+[ -~]*(https?://[^\s/]+\.[^\s/]|[^\s@(<]+@[^\s@]+\.[^\s@]+)[ -~]*")
_CONTACT_HOST = re.compile(r"(?:https?://|@)([^\s/:;,()<>]+)")
_NEW_SETTINGS = ("keep_columns", "allow_folders")
_Kept = Annotated[
    tuple[str, ...],
    Field(
        description="Columns, JSON fields, `__key__` of webdataset, or `file_name` of folders to keep: as JSON in the "
        "column `kept` of all tables and of training samples."
    ),
]
_RESERVED = re.compile(r"(?:.*\.)?(?:example\.(?:com|net|org|edu)|example|test|invalid|localhost)\.?", re.IGNORECASE)


def _check_folder(folder: str) -> str:
    if not folder.removeprefix("file://").strip():
        raise ValueError("name a folder; `.` is the folder of the configuration")
    return folder


_LocalFolder = Annotated[str, AfterValidator(_check_folder)]


class _Source(Section):
    def identity(self) -> dict[str, Any]:
        """Leave out the settings of `_NEW_SETTINGS` that are not used, so that earlier versions keep their names."""
        return {name: value for name, value in super().identity().items() if value or name not in _NEW_SETTINGS}

    @property
    def kept_columns(self) -> tuple[str, ...]:
        """The columns that the tables keep as JSON in `kept`."""
        return tuple(getattr(self, "keep_columns", None) or ())


class WarcSource(_Source):
    """Pages from WARC and ARC files; their images are read from the same files or downloaded."""

    kind: Literal["warc"]
    paths: list[str] = Field(min_length=1, description="Files or globs; `{interval}` is the version's interval.")
    stored_images: bool = Field(
        True, description="Read images from the source files if they contain them; false downloads every image."
    )


class WatSource(_Source):
    """Links and AltText from Common Crawl's WAT files; the images are downloaded."""

    kind: Literal["wat"]
    paths: list[str] = Field(min_length=1, description="Files or globs; `{interval}` is the version's interval.")


class SiteSource(_Source):
    """Pages downloaded from web sites: seeds, pages they link to on the same host, and pages in sitemaps."""

    kind: Literal["site"]
    seeds: list[str] = Field(default_factory=list, description="URLs of the first pages.")
    sitemaps: list[str] = Field(
        default_factory=list,
        description="URLs of sitemaps or sitemap indexes; only pages on their own host are crawled.",
    )
    max_pages: int = Field(1000, ge=1, description="Maximum pages to read.")
    max_depth: int = Field(2, ge=0, description="Links to follow from a seed; 0 reads only the seeds.")

    @model_validator(mode="after")
    def _require_start(self) -> SiteSource:
        if not self.seeds and not self.sitemaps:
            raise ValueError("a site needs seeds or sitemaps; add the URL of one")
        return self


class UrlSource(_Source):
    """Lists of image URLs with captions; the images are downloaded. Columns are detected by name."""

    kind: Literal["urls"]
    paths: list[str] = Field(
        min_length=1,
        description="parquet, csv, tsv, json, jsonl or txt, also .gz and .zst: files or globs, local or on s3://, "
        "gs:// or az://; `{interval}` is the version's interval.",
    )
    url_column: str | int | None = Field(
        None, description="URL column, if not detected by name; without a header, its index from 0."
    )
    caption_column: str | int | None = Field(None, description="AltText column, in the same format.")
    score_columns: list[str] | None = Field(
        None, description="Numeric columns to keep in `scores`; default: those of LAION and DataComp."
    )
    quotes: bool | None = Field(
        None, description="Whether csv and tsv fields may be quoted; default: true, except headerless tsv."
    )
    keep_columns: _Kept = ()
    allow_folders: list[_LocalFolder] = Field(
        default_factory=list,
        description="Folders from which rows may name local files, as paths relative to the list or `file://` URLs. "
        "Default: none. Links and `..` cannot leave them.",
    )


class WebdatasetSource(_Source):
    """Images with captions in webdataset tars, as img2dataset writes them; nothing is downloaded."""

    kind: Literal["webdataset"]
    paths: list[str] = Field(
        min_length=1,
        description="Tars or globs, local or on s3://, gs:// or az://; `{interval}` is the version's interval.",
    )
    keep_columns: _Kept = ()


class _LocalSource(_Source):
    path: _LocalFolder = Field(
        description="Folder on this machine and all workers; `{interval}` is the version's interval."
    )
    image_column: str | None = Field(None, description="Column with the images, if not detected by name.")
    caption_column: str | None = Field(None, description="Column with the AltText, if not detected by name.")
    keep_columns: _Kept = ()

    @property
    def allow_folders(self) -> list[str]:
        """The folders from which files are read."""
        return [self.path]


class FolderSource(_LocalSource):
    """Images in a folder and its subfolders, with captions from one table or from files next to the images.

    `photo.jpg` has its AltText in `photo.txt`, or in `photo.json` with other fields. Nothing is downloaded.
    """

    kind: Literal["folder"]
    captions: str | None = Field(
        None,
        description="Table with file names and captions (parquet, csv, tsv, json, jsonl), relative to `path`. "
        "Default: the only parquet, csv, tsv or jsonl file directly in the folder; without one, .txt and .json files.",
    )
    keep_columns: _Kept = ("file_name",)


class HfSource(_LocalSource):
    """A Hugging Face dataset on disk: written by `save_to_disk`, parquet files, or an imagefolder with metadata."""

    kind: Literal["hf"]
    split: str | None = Field(None, description="Split to read. Default: `train`, or the only split.")


Source = Annotated[
    WarcSource | WatSource | SiteSource | UrlSource | WebdatasetSource | FolderSource | HfSource,
    Field(discriminator="kind"),
]


class FetchConfig(Section):
    """HTTP downloads of images and pages."""

    user_agent: str = Field(
        "vecap/0.1 (+https://example.org/vecap-bot; bot@example.org)",
        description="User-Agent header. Its first word is the product token in robots.txt; include your contact. The "
        "default has none, so it is refused outside `allow_networks`.",
    )
    deadline: float = Field(30.0, gt=0, description="Seconds for one download, including retries.")
    max_bytes: int = Field(50_000_000, gt=0, description="Maximum body size in bytes; larger bodies fail.")
    retries: int = Field(2, ge=0, description="Retries after a temporary failure.")
    robots: bool = Field(
        True,
        description="Obey robots.txt (RFC 9309), X-Robots-Tag, TDM-Reservation, the <meta> of both, Content-Usage, and "
        "Content-Signal.",
    )
    tdmrep: bool = Field(True, description="Read /.well-known/tdmrep.json once per host and obey it.")
    host_failures: int = Field(
        5,
        ge=1,
        description="Downloads without a response, over at least one deadline, after which a host is suspended.",
    )
    allow_networks: list[str] = Field(
        default_factory=list, description="Non-public networks (CIDR) to which connections are allowed."
    )
    connections: Annotated[int, Runtime] = Field(64, ge=1, description="Maximum connections per process.")
    connections_per_host: Annotated[int, Runtime] = Field(8, ge=1, description="Maximum connections per host.")
    host_delay: Annotated[float, Runtime] = Field(0.0, ge=0, description="Seconds between two requests to one host.")
    max_crawl_delay: Annotated[float, Runtime] = Field(
        30.0, ge=0, description="Maximum Crawl-delay of robots.txt that is honored, in seconds."
    )
    dns_ttl: Annotated[float, Runtime] = Field(300.0, ge=1, description="Seconds for which a DNS result is cached.")
    connect_to: Annotated[dict[str, str], Runtime] = Field(
        default_factory=dict, description="Host pattern to `address:port`, as curl's --connect-to."
    )

    @field_validator("user_agent")
    @classmethod
    def _check_user_agent(cls, agent: str) -> str:
        if not _USER_AGENT.fullmatch(agent):
            raise ValueError(
                "give a name and a contact URL or email address, such as my-crawler/1.0 (+https://example.org/crawler)"
            )
        return agent

    @property
    def has_contact(self) -> bool:
        """Whether a contact in `user_agent` can be real: not at example.org or another reserved name (RFC 2606)."""
        return any(not _RESERVED.fullmatch(host) for host in _CONTACT_HOST.findall(self.user_agent))

    @field_validator("allow_networks")
    @classmethod
    def _check_networks(cls, networks: list[str]) -> list[str]:
        for network in networks:
            ip_network(network, strict=False)  # raises ValueError with the cause
        return networks


class ImageConfig(Section):
    """Decoding and storage of images."""

    size: int = Field(256, ge=16, description="Shorter side in pixels; smaller images are not enlarged.")
    quality: int = Field(95, ge=1, le=100, description="JPEG quality.")
    scaling: Literal["fast", "fine"] = Field(
        "fast",
        description="fast: libjpeg scales JPEGs during decoding; fine: a filter scales them, with higher fidelity.",
    )
    max_pixels: int = Field(
        89_000_000,
        ge=1,
        le=178_000_000,
        description="Maximum pixels, checked in the header before decoding. Pillow warns above the default and rejects "
        "images above the maximum setting.",
    )


class LimitsConfig(Section):
    """Limits of one page, record, sitemap or image. They stop hostile files that no other limit stops.

    Parsers and decoders run in child processes. What exceeds a limit, or crashes a child, twice fails alone with the
    reason `cpu_limit`, `memory_limit`, `stalled` or `crashed`.
    """

    cpu_seconds: float = Field(10.0, gt=0, description="Maximum CPU time in seconds.")
    memory: int = Field(
        512 << 20,
        ge=128 << 20,
        description="Maximum growth of memory in bytes; for an image at least 32 bytes for each pixel of `max_pixels`.",
    )


class DuplicatesConfig(Section):
    """Search for duplicates in addition to exact ones; `quality.rows` decides what happens to them."""

    near_distance: int | None = Field(
        3,
        ge=0,
        le=3,
        description="Maximum differing bits (of 64) between perceptual hashes of near duplicates; null: off.",
    )
    earlier: bool = Field(False, description="Also search published versions of other intervals.")


class RetryConfig(Section):
    """Retry failed rows of an earlier version of the interval; all other rows of its crawl are reused."""

    version: str = Field(description="The earlier version, such as 2026-01-01 or 2026-01-01-r2.")
    reasons: list[Annotated[str, Field(pattern="^[a-z0-9_]+$")]] = Field(
        default_factory=list,
        description="Reasons as in `error_message`, up to the colon; default: all reasons that are not permanent.",
    )


class CrawlConfig(Section):
    source: Source
    fetch: FetchConfig = FetchConfig()
    image: ImageConfig = ImageConfig()
    limits: Annotated[LimitsConfig, Runtime] = LimitsConfig()
    duplicates: DuplicatesConfig = DuplicatesConfig()
    shard_size: int = Field(10_000, ge=1, description="Rows per shard.")
    memory_limit: Annotated[str, Runtime] = Field(
        "1GB", description="Memory limit of the search for duplicates; the rest spills to the work folder."
    )
    retry_failed: RetryConfig | None = Field(None, description="Retry the failed downloads of an earlier version.")
