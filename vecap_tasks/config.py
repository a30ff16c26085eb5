"""One validated configuration object for every stage, read from a YAML file.

A field is either part of what is made (it changes the bytes, so it enters the fingerprint) or it only says how
and where the work is done (addresses, paths, workers). The latter are marked `Runtime` and never enter a
fingerprint: moving a dataset or adding workers does not make a new revision.

Strings that name a place may hold `${NAME}` or `${NAME:-default}`; they are kept as written, so that no manifest
records a machine's paths or a secret, and are expanded by `Config.resolve` at the moment of use.
"""

from __future__ import annotations

import os
import re
from datetime import date
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator, model_validator

from vecap_tasks.errors import ConfigError


class Runtime:
    """Marks a field that does not change the bytes a stage makes."""


class Section(BaseModel):
    """A part of the configuration: unknown names and later changes are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def identity(self) -> dict[str, Any]:
        """Return the fields that decide what is made, as plain JSON values, `Runtime` fields left out."""
        made: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            if any(mark is Runtime or isinstance(mark, Runtime) for mark in field.metadata):
                continue
            value = getattr(self, name)
            made[name] = value.identity() if isinstance(value, Section) else _plain(value)
        return made


def _plain(value: Any) -> Any:
    if isinstance(value, Section):
        return value.identity()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


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


# A product token, as robots.txt names it, and somewhere after it an address on the web or a mailbox.
_USER_AGENT = re.compile(r"[A-Za-z_-]+[ -~]*(https?://[^\s/]+\.[^\s/]|[^\s@(<]+@[^\s@]+\.[^\s@]+)[ -~]*")


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

    of: str = Field(description="The earlier version, such as 2026-01-01 or 2026-01-01-r2.")
    reasons: list[Annotated[str, Field(pattern="^[a-z0-9_]+$")]] = Field(
        default_factory=list, description="As in `error_message`, up to its colon; none: all that are not permanent."
    )

    @field_validator("of", mode="before")
    @classmethod
    def _version(cls, of: Any) -> Any:
        return of.isoformat() if isinstance(of, date) else of  # YAML takes 2026-01-01 for a date


class CrawlConfig(Section):
    source: Source
    fetch: FetchConfig = FetchConfig()
    image: ImageConfig = ImageConfig()
    duplicates: DuplicatesConfig = DuplicatesConfig()
    shard_size: int = Field(10_000, ge=1)
    retry_failed: RetryConfig | None = None


class RowRules(Section):
    """Thresholds of the rules over single rows."""

    min_side: int = Field(32, ge=1, description="Pixels of the shorter side of the image as downloaded.")
    max_aspect: float = Field(4.0, ge=1)
    min_alttext_chars: int = Field(3, ge=0)
    max_alttext_chars: int = Field(1000, ge=1)
    max_same_alttext: int = Field(100, ge=1, description="Rows that may share one AltText before it is boilerplate.")
    require_alttext: bool = Field(
        False, description="Refuse rows without a usable AltText instead of keeping the image."
    )
    refuse_near_duplicates: bool = Field(
        False, description="Refuse all but one of the rows that `crawl.duplicates` finds to be nearly the same picture."
    )
    refuse_earlier_duplicates: bool = Field(
        False, description="Refuse rows whose picture, or nearly, `crawl.duplicates` finds in an earlier version."
    )
    languages: list[Annotated[str, Field(pattern="^[a-z]{2}$")]] = Field(
        default_factory=list,
        description="ISO 639-1 codes of the languages the LLM reads, told apart by script alone; empty takes all.",
    )


class Gate(Section):
    """Expectations over the whole crawl; one that fails stops the version."""

    min_accepted_rows: int = Field(1, ge=0)
    min_download_share: float = Field(0.1, ge=0, le=1)
    min_accepted_share: float = Field(0.1, ge=0, le=1)
    max_duplicate_share: float = Field(0.9, ge=0, le=1)


class QualityConfig(Section):
    rows: RowRules = RowRules()
    gate: Gate = Gate()
    sample_rows: int = Field(2_000, ge=1, description="Rows that Great Expectations is shown.")
    memory_limit: Annotated[str, Runtime] = "1GB"


class ServerConfig(Section):
    """Where a served model answers (OpenAI's chat completions), and how hard it may be asked."""

    urls: Annotated[tuple[str, ...], Runtime] = Field(
        min_length=1, description="Base addresses, up to and with `/v1`; `${NAME}` takes an environment variable."
    )
    api_key_env: Annotated[str | None, Runtime] = Field(
        None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Name of the environment variable that holds the key, on every worker; never the key itself.",
    )
    revision: str | None = Field(
        None, description="What you know of the served weights, such as a commit; it stands in the captions' rows."
    )
    body: dict[str, Any] = Field(
        default_factory=dict, description="More fields of each request, such as `chat_template_kwargs`."
    )
    requests: Annotated[int, Runtime] = Field(64, ge=1, description="Most requests in flight at one address.")
    deadline: Annotated[float, Runtime] = Field(120.0, gt=0, description="Seconds for one answer.")
    slow: Annotated[float, Runtime] = Field(
        30.0, gt=0, description="Seconds; a server that takes longer for an answer is asked less at once."
    )
    tries: Annotated[int, Runtime] = Field(8, ge=1, description="Times that a request is sent before it is given up.")

    @field_validator("urls")
    @classmethod
    def _no_secrets(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        if any("@" in url or "?" in url for url in urls):
            raise ValueError("an address holds a user or a query; put the key in a variable, name it in api_key_env")
        return urls


class PriceConfig(Section):
    """What a model costs, in a currency of your own; only notes follow from it, never a byte of the captions."""

    per_hour: float = Field(0.0, ge=0, description="For an hour in which one worker has the model write.")
    per_million_prompt_tokens: float = Field(0.0, ge=0)
    per_million_tokens: float = Field(0.0, ge=0, description="Of tokens written.")


class ModelConfig(Section):
    """A model that writes text: a checkpoint loaded by the worker (`transformers`), or one that is served (`openai`).

    `model` is a folder, or a hub's name that lies in the local cache; of a served model the name that it is served by.
    """

    backend: Literal["transformers", "openai"] = "transformers"
    model: str
    prompt: str = Field(
        description="Name of a file in rewrite.prompts or vecap_tasks/rewrite/prompts, without its ending."
    )
    max_new_tokens: int = Field(64, ge=1)
    temperature: float = Field(0.0, ge=0, le=2, description="0 takes the likeliest token each time.")
    variants: int = Field(1, ge=1, le=64, description="Texts written of each; the first is the one that stands.")
    retry_temperature: float = Field(
        0.7, ge=0, le=2, description="A text that screening refuses is written once more at this; 0 gives it up."
    )
    batch_size: int = Field(
        32, ge=1, description="Rows per forward pass; part of the fingerprint, as rounding may follow it."
    )
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: Annotated[str, Runtime] = "auto"
    threads: Annotated[int, Runtime] = Field(1, ge=1, description="CPU threads per worker.")
    server: ServerConfig | None = Field(None, description="Of a served model.")
    price: Annotated[PriceConfig, Runtime] = PriceConfig()

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if (self.backend == "openai") != (self.server is not None):
            raise ValueError("a `server` goes with `backend: openai`, and that backend needs one; give both or neither")
        if self.variants > 1 and self.temperature == 0:
            raise ValueError("several variants at temperature 0 are one text; raise the temperature")
        return self

    def identity(self) -> dict[str, Any]:
        made = super().identity()
        for name in ("batch_size", "dtype") if self.backend == "openai" else ("server",):
            del made[name]  # decides nothing there
        return made


ScreenRule = Literal[
    "empty",
    "refusal",
    "preamble",
    "prompt_leak",
    "markup",
    "loop",
    "url",
    "private_data",
    "language",
    "too_long",
    "cut_off",
    "drops_vec",
    "invented",
]


class ScreenConfig(Section):
    """Thresholds of the rules over what the models write; `vecap_tasks.rewrite.screen` says what each rule is for."""

    off: tuple[ScreenRule, ...] = Field((), description="Rules that are not applied.")
    languages: tuple[Annotated[str, Field(pattern="^[a-z]{2}$")], ...] = Field(
        ("en",), description="ISO 639-1 codes of the languages that captions may be in; empty takes all."
    )
    max_words: int = Field(80, ge=1, description="CLIP reads 77 tokens.")
    leak_words: int = Field(6, ge=3, description="Words in a row that only the prompt can have given.")
    min_vec_kept: float = Field(0.34, ge=0, le=1, description="Share of the VeC's content words that a VeCap keeps.")
    max_new_names: int = Field(0, ge=0, description="Names and numbers of a VeCap that neither of its sources has.")
    strip_preamble: bool = Field(True, description="Keep the caption after an introduction, instead of refusing both.")


class RewriteConfig(Section):
    vlm: ModelConfig
    llm: ModelConfig
    alttext_prompt: str | None = Field(
        None, description="Prompt by which the LLM also rewrites the AltText alone, as LaCLIP does; none: it does not."
    )
    prompts: Annotated[str | None, Runtime] = Field(
        None, description="Folder of your own prompts, looked into first; a prompt's digest enters the fingerprint."
    )
    screen: ScreenConfig = ScreenConfig()
    max_alttext_chars: int = Field(512, ge=16, description="Characters of an AltText that the LLM is shown.")
    shard_size: int = Field(10_000, ge=1)


class AssembleConfig(Section):
    shard_size: int = Field(10_000, ge=1)
    licence: str = Field("unknown", description="Stated in the dataset card.")
    memory_limit: Annotated[str, Runtime] = "1GB"


Arm = Literal["alttext", "vec", "vecap", "mixed"]


class ClipConfig(Section):
    """The CLIP model and how long it is trained."""

    image_size: int = Field(224, ge=16)
    patch_size: int = Field(16, ge=1)
    vision_width: int = Field(768, ge=16)
    vision_layers: int = Field(12, ge=1)
    vision_heads: int = Field(12, ge=1)
    text_width: int = Field(512, ge=16)
    text_layers: int = Field(12, ge=1)
    text_heads: int = Field(8, ge=1)
    projection: int = Field(512, ge=8)
    context: int = Field(77, ge=8, description="Text tokens, the marks of begin and end among them.")
    tokenizer: Annotated[str, Runtime] = Field(
        description="Folder (or a hub's name) of the tokenizer; its files' digest enters the fingerprint."
    )
    lowercase: bool = True


class TrainConfig(Section):
    """How CLIP is trained: the same for every arm. The optimiser's defaults are those of the neighbouring recipe."""

    arms: list[Arm] = Field(["alttext", "vec", "vecap", "mixed"], min_length=1)
    seeds: list[Annotated[int, Field(ge=0)]] = Field([0], min_length=1)
    mixed_p: float = Field(0.5, ge=0, le=1, description="Probability of AltText in the arm `mixed`; our choice.")
    model: ClipConfig
    epochs: int = Field(32, ge=1)
    batch_size: int = Field(1024, ge=2)
    learning_rate: float = Field(5e-4, gt=0)
    weight_decay: float = Field(0.2, ge=0)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.98, ge=0, lt=1)
    warmup_steps: int = Field(2000, ge=0)
    gradient_clip: float = Field(1.0, gt=0, description="Largest norm of a step's gradient.")
    crop_scale: float = Field(
        1.0, gt=0, le=1, description="Smallest share of the image that a random crop may take; 1 never crops."
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: bfloat16 on a GPU.")
    threads: int = Field(1, ge=1, description="CPU threads of a run; part of the fingerprint, as rounding follows it.")
    checkpoint_steps: Annotated[int, Runtime] = Field(500, ge=1)
    device: Annotated[str, Runtime] = "auto"
    image_cache_bytes: Annotated[int, Runtime] = Field(
        4 << 30, ge=0, description="Decoded images are kept in memory up to this size, else decoded for each batch."
    )

    @field_validator("arms", "seeds")
    @classmethod
    def _once(cls, values: list[Any]) -> list[Any]:
        if len(set(values)) != len(values):
            raise ValueError("the same value stands twice; name each once")
        return values


class EvaluateConfig(Section):
    dataset: Annotated[str, Runtime] = Field(
        description="Folder with captions.csv, labels.csv, classes.txt, templates.txt and images; its digest "
        "enters the fingerprint."
    )
    batch_size: Annotated[int, Runtime] = Field(128, ge=1)
    device: Annotated[str, Runtime] = "auto"


class TlsConfig(Section):
    """Files in PEM by which we and a Dask scheduler know each other. Without them a scheduler runs anyone's code."""

    ca: str = Field(description="Certificate of who signed the scheduler's.")
    cert: str = Field(description="Our certificate.")
    key: str = Field(description="Its private key.")


class DaskConfig(Section):
    address: str | None = Field(
        None, description="Scheduler to connect to, `tcp://…` or `tls://…`; none starts workers for the run."
    )
    tls: TlsConfig | None = Field(None, description="For an address that begins with tls://.")
    workers: int = Field(2, ge=1, description="Worker processes to start when there is no address.")
    resources: dict[str, float] = Field(default_factory=dict, description="Asked of a worker per captioning shard.")


class MlflowConfig(Section):
    """Where runs are recorded. `sqlite:///relative.db` starts from the configuration's folder."""

    tracking_uri: str = "sqlite:///${VECAP_HOME:-.vecap}/mlflow.db"
    timeout: float = Field(20, gt=0, description="Seconds to wait for a server's answer.")


class Config(Section):
    """Everything a run needs to know. Made by `load_config`."""

    dataset: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    root: Annotated[str, Runtime]
    crawl: CrawlConfig
    quality: QualityConfig = QualityConfig()
    rewrite: RewriteConfig
    assemble: AssembleConfig = AssembleConfig()
    train: TrainConfig
    evaluate: EvaluateConfig
    dask: Annotated[DaskConfig, Runtime] = DaskConfig()
    mlflow: Annotated[MlflowConfig, Runtime] = MlflowConfig()

    _base: Path = PrivateAttr(default_factory=Path.cwd)

    @field_validator("root")
    @classmethod
    def _known_store(cls, root: str) -> str:
        scheme, separator, _ = root.partition("://")
        if separator and scheme not in ("file", "s3"):
            raise ValueError(f"stores are a folder, file:// or s3://, not {scheme}://")
        return root

    @property
    def base(self) -> Path:
        """The folder that relative paths in the configuration start from: where the file lies."""
        return self._base

    def resolve(self, text: str, *, interval: str | None = None) -> str:
        """Expand `${NAME}`, `{interval}` and, for a plain path, the folder that it is relative to.

        Raises ConfigError when a variable without a default is not set.
        """
        expanded = expand(text)
        if interval is not None:
            expanded = expanded.replace("{interval}", interval)
        if "://" in expanded:
            return expanded
        return str((self._base / Path(expanded).expanduser()).resolve())

    def with_base(self, base: Path) -> Config:
        """Return the same configuration with relative paths starting from *base*."""
        other = self.model_copy()
        other._base = base
        return other


_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^{}]*))?\}")
_VARIABLE_NAME = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)")


def expand(text: str) -> str:
    """Replace `${NAME}` and `${NAME:-default}` by the environment's values; a default may hold variables itself.

    Raises ConfigError for a variable that is not set and has no default.
    """

    def value(match: re.Match[str]) -> str:
        name, default = match.group(1), match.group(2)
        found = os.environ.get(name) or default
        if found is None:
            raise ConfigError(f"the configuration uses ${{{name}}}, which is not set; export {name}=… first")
        return found

    for _ in range(text.count("${")):  # from the inside out; what a value holds is bounded, were it to name itself
        text = _VARIABLE.sub(value, text)
    return text


def environment(text: str) -> tuple[tuple[str, str | None], ...]:
    """Return the variables that *text* names, by name, with their values here; None where one is not set."""
    names = sorted({match.group(1) for match in _VARIABLE_NAME.finditer(text)})
    return tuple((name, os.environ.get(name)) for name in names)


def load_config(path: str | Path, overrides: list[str] | None = None) -> Config:
    """Read and validate the YAML file *path*, with `key.subkey=value` *overrides* (values are YAML).

    Raises ConfigError, in one line that names the file and the key, for anything that is not usable.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot read the configuration {file}: {error.strerror}; give its path with --config"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the configuration {file} is not UTF-8 text; save it as UTF-8") from error
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{file} holds no configuration: a mapping with `dataset`, `root`, `crawl` … is expected")
    for override in overrides or []:
        _apply(values, override)
    return parse_config(values, file.resolve().parent, str(file))


def parse_config(values: dict[str, Any], base: Path, name: str = "configuration") -> Config:
    """Validate *values*; relative paths start from *base*. Raises ConfigError naming the first wrong key."""
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_first(error, name)) from error
    return config.with_base(base)


def _first(error: ValidationError, name: str) -> str:
    problems = error.errors()
    first = problems[0]
    where = ".".join(str(part) for part in first["loc"]) or "the top level"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    message = first["msg"].removeprefix("Value error, ")
    given = "" if isinstance(first["input"], dict | list) else f", not {first['input']!r}"
    if first["type"] == "missing" or first["loc"][-1:] == ("api_key_env",):  # some put the key itself there
        given = ""
    return f"{name}: {where}: {message}{given}{more}"


def _apply(values: dict[str, Any], override: str) -> None:
    key, separator, raw = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set takes key=value, such as crawl.shard_size=1000, not {override!r}")
    *parents, last = key.split(".")
    place = values
    for parent in parents:
        inner = place.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {override}: {parent} is a value, it has nothing called {last}")
        place = inner
    try:
        place[last] = yaml.safe_load(raw)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not valid YAML") from error
