"""`vecap init`: inspects data and writes a short, commented configuration for it that runs."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import sys
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from vecap_tasks.cli.config import config_problems, served_models
from vecap_tasks.cli.inspection import Findings, find_local_folder, find_table_of_files, format_names, inspect
from vecap_tasks.cli.options import Commands, add_command, print_json, printable, source_warnings
from vecap_tasks.config import (
    Config,
    FolderSource,
    HfSource,
    ModelConfig,
    Origin,
    Section,
    ServerConfig,
    UrlSource,
    WarcSource,
    WebdatasetSource,
    parse_config,
    read_yaml,
)
from vecap_tasks.core.models import HUB_NAME
from vecap_tasks.core.object_storage import is_remote
from vecap_tasks.errors import ConfigError, VecapError, did_you_mean, similar_file

_FILE = "vecap.yaml"
_DEMO_MODELS = Path(__file__).parents[1] / "demo" / "models"
_TABLES = (".csv", ".tsv", ".parquet", ".jsonl")
_ENDINGS = {
    "csv": _TABLES,
    "urls": (*_TABLES, ".json", ".txt", ".csv.gz", ".tsv.gz", ".jsonl.gz"),
    "warc": (".warc.gz", ".warc", ".arc.gz"),
    "webdataset": (".tar",),
}
_KINDS = ("folder", *_ENDINGS, "hf")
_SOURCES: dict[str, type[Section]] = {
    "folder": FolderSource, "urls": UrlSource, "warc": WarcSource, "webdataset": WebdatasetSource, "hf": HfSource
}  # fmt: skip
# The option for a setting of `crawl.source`.
_OPTIONS = {
    "path": "--path",
    "paths": "--path",
    "captions": "--captions",
    "split": "--split",
    "image_column": "--image-column",
    "url_column": "--image-column",
    "caption_column": "--caption-column",
    "keep_columns": "--keep",
}
_FILE_NAME = "file_name"  # which a folder keeps by default
_MAX_NAMES = 8  # of columns in a message
_NO_MODEL = "No captioning model: the configuration crawls and filters only. Add models with --vlm and --llm."
_DEMO_WARNING = "the demo's models know only the drawn scenes of the demo; their captions of other images are wrong"
# Prompts for models of these types; others get the first prompt.
_PROMPTS = {"vlm": ("describe", {"llava": "describe-llava"}), "llm": ("fuse", {"vicuna": "fuse-vicuna"})}


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    init = add_command(
        commands,
        "init",
        "inspect your data and write a configuration for it that runs",
        "vecap init photos --from folder --path /data/photos --vlm /models/llava --llm http://localhost:8000/v1",
        configured=False,
    )
    init.add_argument("folder", nargs="?", default=".", metavar="DIR", help=f"folder of the new {_FILE} (default: .)")
    init.add_argument("--from", dest="kind", choices=_KINDS, required=True, help="kind of your data")
    init.add_argument("--path", metavar="PATH", help="your data: folder, file or glob (default: DIR)")
    init.add_argument(
        "--captions", metavar="TABLE", help="folder: table of file names and captions, relative to --path"
    )
    init.add_argument("--split", metavar="NAME", help="hf: split to read (default: train, or the only split)")
    init.add_argument("--image-column", metavar="NAME", help="column with the images, file names or URLs")
    init.add_argument("--caption-column", metavar="NAME", help="column with the AltText")
    init.add_argument(
        "--keep",
        metavar="NAME,…",
        help="columns to copy into all tables; of a folder, file_name is kept, too. Of webdataset tars, fields of the "
        ".json, and __key__",
    )
    for role, what in (("vlm", "describes images"), ("llm", "fuses descriptions and AltText")):
        init.add_argument(
            f"--{role}",
            metavar="PATH|URL",
            help=f"model that {what}: a folder, or the URL of an OpenAI-compatible server, with #NAME if it serves "
            "several models",
        )
    init.add_argument("--demo-models", action="store_true", help="use the demo's models, which know only drawn scenes")
    init.add_argument(
        "--contact", metavar="EMAIL|URL", help="how web sites reach you; required for images that are downloaded"
    )
    init.add_argument("--force", action="store_true", help=f"replace an existing {_FILE}")
    init.set_defaults(command=_init)


def _init(arguments: argparse.Namespace) -> int:
    folder = Path(arguments.folder).expanduser()
    file = folder / _FILE
    with source_warnings() as warnings:
        try:
            return _write(arguments, folder, file, warnings)
        except VecapError as error:
            raise ConfigError(*(_with_options(str(problem), arguments, file) for problem in error.args)) from error


def _write(arguments: argparse.Namespace, folder: Path, file: Path, warnings: list[str]) -> int:
    if file.exists() and not arguments.force:
        raise ConfigError(f"{file} exists; choose another folder, or replace it with --force")
    base = folder.resolve()
    models = _models(arguments, base)
    source = _source(arguments, base)

    def read(findings: Findings) -> Config:
        text = _text(base, source, arguments.contact, models, findings)
        return parse_config(read_yaml(text), base, Origin(str(file)))

    if arguments.kind == "csv" and (table := find_table_of_files(read(Findings()))):
        source = {"kind": "folder", "path": _relative(table.parent, base), "captions": table.name}
        source |= _column_settings(arguments, "folder")
    elif source["kind"] == "urls" and (local := find_local_folder(read(Findings()))):
        source["allow_folders"] = [_relative(local, base)]
    elif source["kind"] in ("urls", "warc") and not arguments.contact:
        raise ConfigError("images are downloaded, and web sites must be able to reach you; give --contact EMAIL or URL")
    found = inspect(read(Findings()))
    config = read(found)
    text = _text(base, source, arguments.contact, models, found)
    if problems := config_problems(config):
        raise ConfigError(*problems)
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    if arguments.demo_models:
        warnings = [_DEMO_WARNING, *warnings]
    for warning in (*warnings, *_unknown_columns(source, found)):
        print(f"warning: {printable(_with_options(warning, arguments, file))}", file=sys.stderr)
    lost = [] if "keep_columns" in source else _lost_columns(source, found)
    if arguments.json:
        print_json(
            {"config": str(file), "findings": list(found.lines()), "captions": bool(models), "columns_not_kept": lost}
        )
        return 0
    print("\n".join(found.lines()))
    if not models:
        print(_NO_MODEL)
    today = datetime.now(UTC).date().isoformat()
    print(f"wrote {file}; next: vecap run --config {shlex.quote(str(file))} --version {today}")
    if lost:
        more = f" and {len(lost) - _MAX_NAMES} more" if len(lost) > _MAX_NAMES else ""
        names = format_names(lost[:_MAX_NAMES])
        print(f"columns that are not kept: {names}{more}; to keep them, uncomment keep_columns in {file}")
    return 0


def _with_options(problem: str, arguments: argparse.Namespace, file: Path) -> str:
    """Return *problem* with options of this command in place of the settings of *file*, which may not exist."""
    text = problem.removeprefix(f"{file}: ")
    text = re.sub(r"\bcrawl\.source\.(\w+)", lambda match: _OPTIONS.get(match[1], match[0]), text)
    text = re.sub(r"`kind: (\w+)`|\bkind: (\w+)", lambda match: f"--from {match[1] or match[2]}", text)
    for role in _PROMPTS:
        text = re.sub(rf"\brewrite\.{role}(\.\w+)+", f"--{role}", text)
        if given := getattr(arguments, role):  # a relative path in the configuration starts from its folder
            text = text.replace(str(file.parent.resolve() / given), given)
    return text.removesuffix(" in the configuration")


def _unknown_columns(source: dict[str, Any], found: Findings) -> list[str]:
    """Return a warning for each name in `keep_columns` that the inspected files next to images do not have.

    Tables without a column are an error.
    """
    kept = source.get("keep_columns", ()) if source["kind"] in ("folder", "webdataset") else ()
    return [
        f"--keep: the first rows have no {name} (columns: {format_names(found.columns) or 'none'})"
        f"{did_you_mean(name, found.columns)}"
        for name in kept
        if name != _FILE_NAME and name not in [column.strip() for column in found.columns]
    ]


def _lost_columns(source: dict[str, Any], found: Findings) -> list[str]:
    """Return the columns that only `keep_columns` would keep."""
    return [name for name in found.others if source["kind"] != "folder" or name != _FILE_NAME]


def _models(arguments: argparse.Namespace, base: Path) -> dict[str, str]:
    """Return the YAML of the two models by role; empty without models. On a terminal, asks for missing ones."""
    if arguments.demo_models:
        if arguments.vlm or arguments.llm:
            raise ConfigError("--demo-models replaces --vlm and --llm; give one or the other")
        return {role: f"{{model: {json.dumps(str(_DEMO_MODELS / role))}, prompt: {_PROMPTS[role][0]}}}"
                for role in _PROMPTS}  # fmt: skip
    given = {role: getattr(arguments, role) for role in _PROMPTS}
    if sys.stdin.isatty() and not arguments.json:
        for role, value in given.items():
            if value is None and (role == "vlm" or given["vlm"]):
                try:
                    asked = input(f"{role.upper()}: folder or server URL (empty: no captions): ").strip()
                except EOFError:  # Ctrl-D
                    asked = ""
                given[role] = asked or None
    if not any(given.values()):
        return {}
    missing = [f"--{role}" for role, value in given.items() if value is None]
    if missing:
        raise ConfigError(f"captions need two models; add {missing[0]} (one server can serve both)")
    found: dict[str, str] = {}
    problems: list[Any] = []
    for role, value in given.items():
        try:
            found[role] = _model(role, str(value), base)
        except ConfigError as error:
            problems += error.args
    if problems:
        raise ConfigError(*problems)
    return found


def _model(role: str, value: str, base: Path) -> str:
    """Return the YAML of a model: a folder, or a server that lists the model. Raises ConfigError."""
    url, _, name = value.partition("#")
    if url.startswith(("http://", "https://")):
        name = _served(role, url.rstrip("/"), name)
        server = f"server: {{urls: [{json.dumps(url.rstrip('/'))}]}}"
        return f"{{backend: openai, model: {json.dumps(name)}, prompt: {_prompt(role, name)}, {server}}}"
    path = Path(value).expanduser()
    is_named = HUB_NAME.fullmatch(value) or "${" in value  # in the Hub cache, or by a variable
    if not path.is_dir() and (path.exists() or not is_named):
        problem = "is not a folder" if path.exists() else f"does not exist{similar_file(path)}"
        raise ConfigError(f"--{role}: {value} {problem}; give the folder of a model, or the URL of a server")
    where = json.dumps(_relative(path.resolve(), base) if path.is_dir() else value)
    device = "cuda, dtype: bfloat16" if shutil.which("nvidia-smi") and _has_cuda() else "cpu"
    return f"{{model: {where}, prompt: {_prompt(role, path.name)}, device: {device}}}"


def _has_cuda() -> bool:
    """Return whether torch is installed and can use a GPU of this machine."""
    try:
        torch = import_module("torch")  # of the extra `captioning`, which this command does not need
    except ModuleNotFoundError:
        return False
    return bool(torch.cuda.is_available())


def _served(role: str, url: str, name: str) -> str:
    settings = ModelConfig(
        backend="openai", model=name or "any", prompt=_PROMPTS[role][0], server=ServerConfig(urls=(url,))
    )
    names = served_models(settings, url)
    if isinstance(names, str):
        raise ConfigError(f"--{role}: {url} lists no models: {names}; start the server, or correct the URL (…/v1)")
    if name and name not in names:
        raise ConfigError(f"--{role}: {url} does not serve {name}{did_you_mean(name, names)}")
    if not name and len(names) != 1:
        raise ConfigError(f"--{role}: {url} serves {', '.join(names) or 'no model'}; name one: {url}#NAME")
    return name or names[0]


def _prompt(role: str, name: str) -> str:
    default, others = _PROMPTS[role]
    return next((prompt for part, prompt in others.items() if part in name.lower()), default)


def _source(arguments: argparse.Namespace, base: Path) -> dict[str, Any]:
    """Return `crawl.source` for `--path` and the columns. Raises ConfigError if there is no such data."""
    given = arguments.path or arguments.folder
    kind = "urls" if arguments.kind == "csv" else arguments.kind
    columns = _column_settings(arguments, kind)
    path = Path(given).expanduser()
    if kind in ("folder", "hf"):
        if not path.is_dir():
            what = "is not a folder" if path.exists() else f"does not exist{similar_file(path)}"
            remedy = "for a table, use --from csv" if path.suffix in _TABLES else "name the folder of your data"
            raise ConfigError(f"--path: {given} {what}; {remedy}")
        return {"kind": kind, "path": _relative(path.resolve(), base), **columns}
    if is_remote(given) or not path.is_dir():
        return {"kind": kind, "paths": [given if is_remote(given) else _relative(path.absolute(), base)], **columns}
    folder, endings = path.resolve(), _ENDINGS[arguments.kind]
    for pattern in ("*", "**/*"):
        for ending in endings:
            if next(folder.glob(f"{pattern}{ending}"), None):
                return {"kind": kind, "paths": [f"{_relative(folder, base)}/{pattern}{ending}"], **columns}
    raise ConfigError(f"{folder} has no {', '.join(endings)} files; give another --path, or another kind with --from")


def _column_settings(arguments: argparse.Namespace, kind: str) -> dict[str, Any]:
    """Return the settings of a source of *kind* that the options for tables and columns give. Raises ConfigError."""
    keep = [name.strip() for name in (arguments.keep or "").split(",") if name.strip()]
    if keep and kind == "folder" and _FILE_NAME not in keep:
        keep.append(_FILE_NAME)
    given = {
        "captions": arguments.captions,
        "split": arguments.split,
        "url_column" if kind == "urls" else "image_column": arguments.image_column,
        "caption_column": arguments.caption_column,
        "keep_columns": keep,
    }
    settings = {name: value for name, value in given.items() if value}
    for name in settings:
        if name not in _SOURCES[kind].model_fields:
            raise ConfigError(f"{_OPTIONS[name]} cannot be used with --from {arguments.kind}; remove it")
    return settings


def _relative(path: Path, base: Path) -> str:
    return os.path.relpath(path, base) if path.is_relative_to(base) else str(path)


def _root(source: dict[str, Any], base: Path) -> str:
    """Return `root`. If a pattern would find the files of `versions`, return a folder next to the data."""
    top, recursive, _ = next(iter(source.get("paths", ())), "").partition("**")
    data = (base / top).resolve()
    if recursive and base.is_relative_to(data):
        return os.path.relpath(data.parent / f"{data.name}-versions", base)
    return "versions"


def _text(base: Path, source: dict[str, Any], contact: str | None, models: dict[str, str], found: Findings) -> str:
    """Return the configuration as commented YAML."""
    dataset = re.sub(r"[^a-z0-9_-]+", "-", base.name.lower()).strip("-_") or "images"
    where = "\n    ".join(f"{key}: {value if key == 'kind' else json.dumps(value)}" for key, value in source.items())
    summary = "\n    # ".join(found.lines())
    keep = ""
    if "keep_columns" not in source and (lost := _lost_columns(source, found)):
        names = json.dumps([*lost, _FILE_NAME] if source["kind"] == "folder" else lost)
        keep = f"\n    # keep_columns: {names}   # uncomment to copy columns into all tables"
    agent = json.dumps(f"vecap-{dataset}/1.0 ({contact})")
    fetch = f"\n  fetch:\n    user_agent: {agent}   # web sites see it" if contact else ""
    captions = (
        "rewrite:\n" + "\n".join(f"  {role}: {model}" for role, model in models.items())
        if models
        else "# A run ends after `quality`. For captions, add `rewrite` with two models (docs/captioning.md)."
    )
    return f"""# Written by `vecap init`. Paths start from the folder of this file.
# Run it:         vecap run --config {_FILE}
# All settings:   vecap config show --config {_FILE}, docs/reference/settings.md
dataset: {json.dumps(dataset)}
root: {json.dumps(_root(source, base))}   # all versions; a folder, or s3://bucket/prefix

crawl:
  source:
    # {summary}
    {where}{keep}{fetch}
  image: {{size: 256}}   # shorter side of the stored images in pixels

quality:
  rows: {{min_side: 32, require_alttext: false}}   # images without AltText get a caption, too

{captions}

mlflow: {{tracking_uri: "sqlite:///mlflow.db"}}   # reports of all runs; or the URL of an MLflow server
"""
