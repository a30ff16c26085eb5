"""`vecap config check`, `schema` and `show`, and the checks of the paths, models and services that settings name."""

from __future__ import annotations

import argparse
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from vecap_tasks.cli.options import Commands, add_command, configuration, print_json
from vecap_tasks.config import (
    Config,
    ModelConfig,
    Section,
    describe_errors,
    expand,
    expand_optional,
    parse_config,
    read_settings,
)
from vecap_tasks.core.object_storage import is_remote, open_bucket
from vecap_tasks.core.open_version import check_root, find_problems, section_checks, select_stages
from vecap_tasks.core.stage import STAGES, Check, load_stage
from vecap_tasks.core.version import Version, check_interval, interval_of
from vecap_tasks.errors import ConfigError, OutageError, did_you_mean, format_problems
from vecap_tasks.outages import set_timeout
from vecap_tasks.redaction import redact

_TIMEOUT = 5.0  # seconds to reach a service
_SCHEMA = "https://json-schema.org/draft/2020-12/schema"


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    summary = "check and show a configuration, or print the schema of all settings"
    example = "vecap config check --config configs/demo.yaml"
    parser = commands.add_parser("config", help=summary, description=summary, epilog=f"example: {example}")
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    check = add_command(verbs, "check", "report all problems of a configuration, with their lines", example)
    check.add_argument("--version", metavar="V", help="interval to check source files for, if paths have {interval}")
    check.add_argument(
        "--connect", action="store_true", help="also contact the storage, the model servers, Dask and MLflow"
    )
    check.set_defaults(command=_check)

    schema = add_command(
        verbs,
        "schema",
        "print the JSON schema of a configuration, for editors",
        "vecap config schema > vecap.schema.json",
        configured=False,
    )
    schema.set_defaults(command=_schema)

    show = add_command(
        verbs, "show", "print all settings in effect, defaults included", "vecap config show --config FILE"
    )
    show.set_defaults(command=_show)


def _check(arguments: argparse.Namespace) -> int:
    if arguments.version is not None:
        check_interval(interval_of(arguments.version))
    problems: list[str] = []
    config: Config | None
    try:
        config = configuration(arguments)
    except ConfigError as error:
        problems = format_problems(error)
        config = _without_invalid(error, arguments)
    if config is not None:
        # A section may only be missing because it is invalid.
        problems += config_problems(config, arguments.version, contact=arguments.connect, sections=not problems)
    if arguments.json:
        print_json({"valid": not problems, "problems": problems})
        return 1 if problems else 0
    if problems:
        raise ConfigError(*problems)
    print(f"OK: {arguments.config}")
    return 0


def _without_invalid(error: ConfigError, arguments: argparse.Namespace) -> Config | None:
    """Return the configuration without its invalid settings, to check the others; None if it needs them."""
    if not isinstance(error.__cause__, ValidationError):
        return None
    values, origin = read_settings(arguments.config, arguments.overrides)
    for *parents, last in describe_errors(error.__cause__, values, origin, Config):
        section: Any = values
        with suppress(KeyError, IndexError, TypeError):
            for parent in parents:
                section = section[parent]
            del section[last]
    try:
        return parse_config(values, Path(arguments.config).resolve().parent, origin)
    except ConfigError:
        return None


def _schema(arguments: argparse.Namespace) -> int:
    print_json({"$schema": _SCHEMA, **Config.model_json_schema(), "title": "VeCap configuration"})
    return 0


def _show(arguments: argparse.Namespace) -> int:
    import yaml

    config = configuration(arguments)
    settings = config.model_dump(mode="json")
    if arguments.json:
        print_json(settings)
    else:
        print(f"# Relative paths start from {config.base}")
        print(redact(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=120)), end="")
    return 0


def config_problems(
    config: Config, version: str | None = None, *, contact: bool = False, sections: bool = True
) -> list[str]:
    """Return the problems of the variables, files and models that the settings name, each in one line.

    With *contact* also those of the services, with *sections* also missing sections of stages that come before others.
    Source files whose path contains `{interval}` need a *version*.
    """
    checks: list[Check] = [("root", partial(check_root, config))]
    root = {"root": tempfile.gettempdir()} if find_problems(config, checks) else {}
    readable = config.model_copy(update=root)  # files and models can be checked without the store
    if sections:
        checks += section_checks(config, select_stages(config, None, None)[-1])
    for section in ("root", *STAGES, "dask", "mlflow"):
        checks += _variables(section, getattr(config, section))
    interval = interval_of(version) if version else ""
    for name in STAGES:
        undated = name == "crawl" and not interval and "{interval}" in config.crawl.source.model_dump_json()
        if getattr(config, name) is not None and not undated:
            checks += load_stage(name, readable, Version(config.dataset, interval, 0, "")).checks()
    return find_problems(config, checks + (_service_checks(config) if contact else []))


def _variables(setting: str, value: Any) -> Iterator[Check]:
    """Yield a check for each text in *value* that contains a variable."""
    if isinstance(value, Section):
        value = dict(value)
    if isinstance(value, dict | list | tuple):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _variables(f"{setting}.{name}", inner)
    elif isinstance(value, str) and "${" in value:
        yield setting, partial(expand, value)


def _service_checks(config: Config) -> list[Check]:
    """Return a check for each service that the settings name: storage, model servers, Dask and MLflow."""
    checks: list[Check] = [("root", partial(check_storage, config))]
    models = {} if config.rewrite is None else {"vlm": config.rewrite.vlm, "llm": config.rewrite.llm}
    for role, model in models.items():
        if model.server is not None:
            checks.append((f"rewrite.{role}.server.urls", partial(_check_urls, model)))
            checks.append((f"rewrite.{role}.model", partial(_check_served_name, model)))
    checks += [("dask.address", partial(check_dask, config)), ("mlflow.tracking_uri", partial(check_mlflow, config))]
    return checks


def check_storage(config: Config) -> None:
    """Raise VecapError if `root` is on object storage and its bucket cannot be listed."""
    root = config.resolve(config.root)
    if not is_remote(root):
        return
    scheme, _, path = root.partition("://")
    bucket = path.partition("/")[0]
    set_timeout(0)  # a check does not wait
    try:
        open_bucket(scheme, bucket).probe()
    except (OSError, OutageError) as error:
        endpoint = os.environ.get("AWS_ENDPOINT_URL") if scheme == "s3" else None
        where = f"AWS_ENDPOINT_URL={endpoint}" if endpoint else "the variables of its service"
        reason = str(error).partition("; run the same command")[0]
        raise ConfigError(f"{reason}; check the bucket {bucket} and {where}") from error


def check_dask(config: Config) -> None:
    """Raise ConfigError if nothing listens at `dask.address`."""
    address = expand_optional(config.dask.address)
    if address is None:
        return
    parts = urlsplit(address)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 8786), timeout=_TIMEOUT).close()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"no Dask scheduler answers at {address}: {reason}; start it, or remove dask.address for local workers"
        ) from error


def check_mlflow(config: Config) -> None:
    """Raise VecapError if `mlflow.tracking_uri` is a server that does not answer."""
    from vecap_tasks.core.mlflow_database import check_server
    from vecap_tasks.core.mlflow_tracking import is_server, tracking_uri

    uri = tracking_uri(config)
    if is_server(uri):
        check_server(uri, _TIMEOUT)


def served_models(model: ModelConfig, url: str) -> list[str] | str:
    """Return the names of the models that the server at *url* lists, or the error."""
    from vecap_tasks.rewrite.backends.openai_client import Client

    if model.server is None:
        return "no server is configured"
    server = model.server.model_copy(update={"urls": (url,), "deadline": _TIMEOUT})
    (found,) = Client(model, server).models()
    return str(found["error"]) if "error" in found else [str(listed.get("id")) for listed in found["models"]]


def _check_urls(model: ModelConfig) -> None:
    for url in model.server.urls if model.server else ():
        base = expand(url).rstrip("/")
        found = served_models(model, base)
        if isinstance(found, str):
            complete = f"{base}/v1"
            if not base.endswith("/v1") and not isinstance(served_models(model, complete), str):
                raise ConfigError(f"{base} lists no models: {found}; did you mean {complete}?")
            raise ConfigError(f"{base} lists no models: {found}; start the server, or correct the URL")


def _check_served_name(model: ModelConfig) -> None:
    for url in model.server.urls if model.server else ():
        names = served_models(model, expand(url).rstrip("/"))
        if isinstance(names, list) and model.model not in names:
            listed = did_you_mean(model.model, names) or f"; it serves {', '.join(names) or 'none'}"
            raise ConfigError(f"{url} does not serve {model.model}{listed}")
