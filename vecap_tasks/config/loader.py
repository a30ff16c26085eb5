"""The whole configuration: its sections, environment variables, and how it is read from a YAML file."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, PrivateAttr, ValidationError, field_validator

from vecap_tasks.config.crawl import CrawlConfig
from vecap_tasks.config.evaluate import EvaluateConfig
from vecap_tasks.config.quality import QualityConfig
from vecap_tasks.config.rewrite import RewriteConfig
from vecap_tasks.config.section import Runtime, Section
from vecap_tasks.config.train import AssembleConfig, TrainConfig
from vecap_tasks.errors import ConfigError

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^{}]*))?\}")
_VARIABLE_NAME = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)")
_TIMESTAMP = "tag:yaml.org,2002:timestamp"
_NOT_JSON = {_TIMESTAMP, *(f"tag:yaml.org,2002:{name}" for name in ("binary", "omap", "pairs", "set"))}


class TlsConfig(Section):
    """Files in PEM by which we and a Dask scheduler know each other. Without them a scheduler runs anyone's code."""

    ca: str = Field(description="Certificate of who signed the scheduler's.")
    cert: str = Field(description="Our certificate.")
    key: str = Field(description="Its private key.")


class DaskConfig(Section):
    address: str | None = Field(
        None, description="Scheduler to connect to, `tcp://…` or `tls://…`; none starts workers for the run."
    )
    tls: TlsConfig | None = Field(
        None, description="For an address that begins with tls://; none: Dask's own settings."
    )
    workers: int = Field(2, ge=1, description="Worker processes to start when there is no address.")
    resources: dict[str, float] = Field(default_factory=dict, description="Asked of a worker per captioning shard.")


class MlflowConfig(Section):
    """Where runs are recorded. `sqlite:///relative.db` starts from the configuration's folder."""

    tracking_uri: str = "sqlite:///${VECAP_HOME:-.vecap}/mlflow.db"
    ui_url: str | None = Field(
        None, description="URL of MLflow's UI in a browser; none or empty: the tracking_uri, if that is a server."
    )
    timeout: float = Field(20, gt=0, description="Seconds to wait for a server's answer.")
    live_interval: float | None = Field(
        180,
        gt=0,
        description="A training that takes longer than so many seconds stands in a served MLflow while it goes on, and "
        "is brought up to date as often; none: when it is recorded.",
    )


class RetentionConfig(Section):
    """How much of what was superseded or never finished is kept; nothing here changes what is made."""

    keep_last: int = Field(2, ge=1, description="Newest published revisions of an interval that stay.")
    keep_days: float = Field(
        30, ge=0, description="Days for which the others stay after a newer one was published, and unfinished work."
    )


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


def expand_optional(text: str | None) -> str | None:
    """Return `expand(text)`; None for a setting that is unset, or whose variables are all empty."""
    return (expand(text) or None) if text else None


def environment(text: str) -> tuple[tuple[str, str | None], ...]:
    """Return the variables that *text* names, by name, with their values here; None where one is not set."""
    names = sorted({match.group(1) for match in _VARIABLE_NAME.finditer(text)})
    return tuple((name, os.environ.get(name)) for name in names)


class _Loader(yaml.SafeLoader):
    """Makes JSON values alone: a date such as 2026-01-01 names a version and stays text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag != _TIMESTAMP]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.yaml_constructors = {
    tag: construct for tag, construct in yaml.SafeLoader.yaml_constructors.items() if tag not in _NOT_JSON
}


def read_yaml(text: str) -> Any:
    """Return what the YAML *text* holds, as JSON values; dates stay text. Raises yaml.YAMLError."""
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    except ValueError as error:  # such as a tag `!!int` before a word
        raise yaml.YAMLError(str(error)) from error
    finally:
        loader.dispose()


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
    retention: Annotated[RetentionConfig, Runtime] = RetentionConfig()

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

    def resolve_optional(self, text: str | None) -> str | None:
        """Return `resolve(text)`; None for a setting that is unset, or whose variables are all empty."""
        return self.resolve(text) if text and expand_optional(text) else None

    def with_base(self, base: Path) -> Config:
        """Return the same configuration with relative paths starting from *base*."""
        other = self.model_copy()
        other._base = base
        return other


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
        values = read_yaml(text)
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
        place[last] = read_yaml(raw)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not valid YAML") from error
