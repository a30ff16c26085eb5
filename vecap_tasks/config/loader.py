"""The whole configuration: its sections, environment variables, and loading from a YAML file."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, cast

import yaml
from pydantic import Field, PrivateAttr, ValidationError, field_validator

from vecap_tasks.config.crawl import CrawlConfig
from vecap_tasks.config.evaluate import EvaluateConfig
from vecap_tasks.config.problems import (
    Origin,
    describe_errors,
    read_yaml,
    read_yaml_lines,
    yaml_error,
)
from vecap_tasks.config.quality import QualityConfig
from vecap_tasks.config.rewrite import RewriteConfig
from vecap_tasks.config.section import Runtime, Section
from vecap_tasks.config.train import AssembleConfig, TrainConfig
from vecap_tasks.config.tune import TuneConfig
from vecap_tasks.errors import ConfigError, similar_file
from vecap_tasks.outages import DEFAULT_TIMEOUT, set_timeout
from vecap_tasks.redaction import install, learn, learn_value

REMOTE_SCHEMES = {"s3": "AWS", "gs": "GOOGLE", "az": "AZURE"}  # object stores, and the prefix of their variables
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^{}]*))?\}")
_VARIABLE_NAME = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)")


class TlsConfig(Section):
    """PEM files for mutual TLS with a Dask scheduler. A scheduler without TLS runs code from any client."""

    ca: str = Field(description="CA certificate that signed the scheduler's certificate.")
    cert: str = Field(description="Client certificate.")
    key: str = Field(description="Private key of the client certificate.")


class DaskConfig(Section):
    address: str | None = Field(
        None, description="Scheduler to connect to, `tcp://…` or `tls://…`. Default: start workers for the run."
    )
    tls: TlsConfig | None = Field(None, description="Certificates for a tls:// address. Default: Dask's own settings.")
    workers: int = Field(2, ge=1, description="Worker processes to start if no address is set.")
    resources: dict[str, float] = Field(
        default_factory=dict, description="Dask resources that each captioning shard requires."
    )


class MlflowConfig(Section):
    """Where runs are recorded. A relative `sqlite:///` path is relative to the configuration file."""

    tracking_uri: str = Field(
        "sqlite:///${VECAP_HOME:-.vecap}/mlflow.db", description="MLflow server or `sqlite:///` file."
    )
    ui_url: str | None = Field(
        None, description="URL of the MLflow UI. Default: tracking_uri if it is an HTTP server, otherwise no links."
    )
    timeout: float = Field(20, gt=0, description="Timeout of requests to the server, in seconds.")
    live_interval: float | None = Field(
        180,
        gt=0,
        description="Seconds between updates of a running training in a served MLflow; shorter trainings are recorded "
        "only at the end. null: record all at the end.",
    )


class RetentionConfig(Section):
    """How long superseded and unfinished versions are kept. Does not change outputs."""

    keep_last: int = Field(2, ge=1, description="Newest published revisions to keep per interval.")
    keep_days: float = Field(
        30, ge=0, description="Days to keep superseded revisions (after a newer one is published) and unfinished work."
    )


def expand(text: str) -> str:
    """Replace `${NAME}` and `${NAME:-default}` with environment values; a default may itself contain variables.

    The values that are secret are remembered (`vecap_tasks.redaction`). Raises ConfigError for a variable that is not
    set and has no default.
    """
    used: dict[str, str] = {}

    def value(match: re.Match[str]) -> str:
        name, default = match.group(1), match.group(2)
        found = os.environ.get(name)
        if found:
            used[name] = found
            return found
        if default is None:
            raise ConfigError(f"the configuration uses ${{{name}}}, which is not set; export {name}=… first")
        return default

    expanded = text
    for _ in range(text.count("${")):  # innermost first; the bound stops a value that refers to itself
        expanded = _VARIABLE.sub(value, expanded)
    if used:
        learn(text, expanded, used)
    return expanded


def expand_optional(text: str | None) -> str | None:
    """Return `expand(text)`; None if the setting is unset or expands to an empty string."""
    return (expand(text) or None) if text else None


def environment(text: str) -> tuple[tuple[str, str | None], ...]:
    """Return the variables in *text*, sorted by name, with their values in this process; None if one is not set."""
    names = sorted({match.group(1) for match in _VARIABLE_NAME.finditer(text)})
    return tuple((name, os.environ.get(name)) for name in names)


class Config(Section):
    """The configuration of a run. Created by `load_config`."""

    dataset: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_-]*$", description="Name of the dataset: lowercase letters, digits, `-` and `_`."
    )
    root: Annotated[str, Runtime] = Field(
        description="Storage for all versions: a folder, `file://`, `s3://`, `gs://` or `az://`."
    )
    crawl: CrawlConfig
    quality: QualityConfig = QualityConfig()
    rewrite: RewriteConfig | None = Field(None, description="Required to write captions.")
    assemble: AssembleConfig = AssembleConfig()
    train: TrainConfig | None = Field(None, description="Required to train models.")
    evaluate: EvaluateConfig | None = Field(None, description="Required to evaluate models.")
    tune: Annotated[TuneConfig, Runtime] = TuneConfig()
    dask: Annotated[DaskConfig, Runtime] = DaskConfig()
    mlflow: Annotated[MlflowConfig, Runtime] = MlflowConfig()
    retention: Annotated[RetentionConfig, Runtime] = RetentionConfig()
    outage_timeout: Annotated[float, Runtime] = Field(
        DEFAULT_TIMEOUT,
        ge=0,
        description="Seconds to wait for the end of an outage: object storage, MLflow or a model server does not "
        "answer, or a disk is full. Longer outages fail the task, which Airflow retries.",
    )

    _base: Path = PrivateAttr(default_factory=Path.cwd)
    _origin: Origin = PrivateAttr(default_factory=Origin)

    @field_validator("root")
    @classmethod
    def _known_store(cls, root: str) -> str:
        scheme, separator, _ = root.partition("://")
        if separator and scheme not in ("file", *REMOTE_SCHEMES):
            raise ValueError("must be a path, file://, s3://, gs:// or az://")
        return root

    def section(self, stage: str) -> Section:
        """Return the section of *stage*. Raises ConfigError if the configuration does not have it."""
        found: Section | None = getattr(self, stage)
        if found is None:
            raise ConfigError(f"the stage {stage} needs the section `{stage}`; add it to the configuration")
        return found

    @property
    def captioning(self) -> RewriteConfig:
        """The section `rewrite`. Raises ConfigError if it is missing."""
        return cast("RewriteConfig", self.section("rewrite"))

    @property
    def training(self) -> TrainConfig:
        """The section `train`. Raises ConfigError if it is missing."""
        return cast("TrainConfig", self.section("train"))

    @property
    def evaluation(self) -> EvaluateConfig:
        """The section `evaluate`. Raises ConfigError if it is missing."""
        return cast("EvaluateConfig", self.section("evaluate"))

    @property
    def base(self) -> Path:
        """The folder of the configuration file; relative paths in the configuration start from it."""
        return self._base

    def resolve(self, text: str, *, interval: str | None = None) -> str:
        """Expand `${NAME}` and `{interval}`, and make a plain path absolute, relative to `base`.

        Raises ConfigError for a variable that is not set and has no default.
        """
        expanded = expand(text)
        if interval is not None:
            expanded = expanded.replace("{interval}", interval)
        if "://" in expanded:
            return expanded
        return str((self._base / Path(expanded).expanduser()).resolve())

    def resolve_optional(self, text: str | None) -> str | None:
        """Return `resolve(text)`; None if the setting is unset or expands to an empty string."""
        return self.resolve(text) if text and expand_optional(text) else None

    def with_base(self, base: Path, origin: Origin | None = None) -> Config:
        """Return the same configuration, read from *origin*, with relative paths relative to *base*."""
        other = self.model_copy()
        other._base, other._origin = base, origin or self._origin
        return other

    def where(self, setting: str) -> str:
        """Return `FILE:LINE: SETTING` for the dotted name of a setting, such as `rewrite.vlm.model`."""
        path = tuple(int(part) if part.isdigit() else part for part in setting.split("."))
        return f"{self._origin.where(path)}: {setting}"


def load_config(path: str | Path, overrides: list[str] | None = None) -> Config:
    """Read and validate the YAML file *path*, with `key.subkey=value` *overrides* (values are YAML).

    Raises ConfigError, in one line that names the file and the key, if the configuration is invalid.
    """
    values, origin = read_settings(path, overrides or [])
    return parse_config(values, Path(path).resolve().parent, origin)


def read_settings(path: str | Path, overrides: list[str]) -> tuple[dict[str, Any], Origin]:
    """Return the settings in the YAML file *path* with *overrides*, not validated, and their lines.

    Raises ConfigError.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        hint = similar_file(file) if isinstance(error, FileNotFoundError) else ""
        raise ConfigError(
            f"cannot read the configuration {file}: {error.strerror}{hint}; give its path with --config"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the configuration {file} is not UTF-8 text; save it as UTF-8") from error
    try:
        values, lines = read_yaml_lines(text)
    except yaml.YAMLError as error:
        raise yaml_error(error, str(file)) from error
    if not isinstance(values, dict):
        raise ConfigError(f"{file} holds no configuration: expected a mapping with `dataset`, `root`, `crawl` …")
    for override in overrides:
        _apply(values, override)
    replaced = tuple(tuple(override.partition("=")[0].split(".")) for override in overrides)
    return values, Origin(str(file), lines, replaced)


def parse_config(values: dict[str, Any], base: Path, origin: Origin | None = None) -> Config:
    """Validate *values*; relative paths start from *base*. Raises ConfigError with all problems.

    Sets the process's `outages` timeout.
    """
    install()
    _learn_secrets(values)
    origin = origin or Origin()
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(*describe_errors(error, values, origin, Config).values()) from error
    set_timeout(config.outage_timeout)
    return config.with_base(base, origin)


def _learn_secrets(values: Any, key: str = "") -> None:
    """Remember the secrets of the environment that the settings *values* refer to, before anything can report them."""
    if isinstance(values, dict):
        for name, value in values.items():
            _learn_secrets(value, str(name))
    elif isinstance(values, list):
        for value in values:
            _learn_secrets(value)
    elif isinstance(values, str) and key == "api_key_env":
        learn_value(values, os.environ.get(values))
    elif isinstance(values, str) and "${" in values:
        with suppress(ConfigError):  # reported when the setting is used
            expand(values)


def _apply(values: dict[str, Any], override: str) -> None:
    key, separator, raw = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set takes key=value, such as crawl.shard_size=1000, not {override!r}")
    *parents, last = key.split(".")
    section = values
    for parent in parents:
        inner = section.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {override}: {parent} is a value, so it has no setting {last}")
        section = inner
    try:
        section[last] = read_yaml(raw)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not valid YAML") from error
