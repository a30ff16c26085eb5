"""`vecap init`: inspects data and writes a short, commented configuration for it that runs."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

from vecap_tasks.cli.config import config_problems, served_models
from vecap_tasks.cli.options import Commands, add_command, print_json
from vecap_tasks.config import Config, ModelConfig, Origin, ServerConfig, parse_config, read_yaml
from vecap_tasks.core.object_storage import is_remote
from vecap_tasks.errors import ConfigError, VecapError, did_you_mean

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
_ROWS = 2000  # to read
_IMAGES = 3  # to decode
_NO_MODEL = "No captioning model: the configuration crawls and filters only. Add models with --vlm and --llm."
_DEMO_WARNING = (
    "warning: the demo's models know only the drawn scenes of the demo; their captions of other images are wrong"
)
# Prompts for models of these types; others get the first prompt.
_PROMPTS = {"vlm": ("describe", {"llava": "describe-llava"}), "llm": ("fuse", {"vicuna": "fuse-vicuna"})}


@dataclass(slots=True)
class _Findings:
    """What the inspected rows contain. `columns` are those of the first table."""

    parts: int = 0
    rows: int = 0
    complete: bool = True  # all rows were read
    captioned: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    decoded: list[str] = field(default_factory=list)  # sizes
    undecoded: Counter[str] = field(default_factory=Counter)
    columns: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """Yield a summary."""
        more = "" if self.complete else " (the first ones)"
        parts = f"{self.parts:,} parts" if self.parts != 1 else "1 part"
        yield f"{self.rows:,} images{more} in {parts}, {self.captioned:,} with AltText"
        if self.columns:
            # A name with a line break would end the comment in the configuration.
            names = (name if name.isprintable() else json.dumps(name) for name in self.columns)
            yield f"columns: {', '.join(names)}"
        for reason, count in self.skipped.most_common():
            yield f"{count:,} rows are not usable: {reason}"
        if self.decoded:
            yield f"decoded {len(self.decoded)} images: {', '.join(self.decoded)} pixels"
        for reason, count in self.undecoded.items():
            yield f"{count} images cannot be decoded: {reason}"


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
    if file.exists() and not arguments.force:
        raise ConfigError(f"{file} exists; choose another folder, or replace it with --force")
    base = folder.resolve()
    models = _models(arguments, base)
    source = _source(arguments, base)

    def read(findings: _Findings) -> Config:
        text = _text(base, source, arguments.contact, models, findings)
        return parse_config(read_yaml(text), base, Origin(str(file)))

    if arguments.kind == "csv" and (table := _table_of_files(read(_Findings()))):
        source = {"kind": "folder", "path": _relative(table.parent, base), "captions": table.name}
    elif source["kind"] == "urls" and (local := _folder_of_local_rows(read(_Findings()))):
        source["allow_folders"] = [_relative(local, base)]
    elif source["kind"] in ("urls", "warc") and not arguments.contact:
        raise ConfigError("images are downloaded, and web sites must be able to reach you; give --contact EMAIL or URL")
    found = _inspect(read(_Findings()))
    config = read(found)
    text = _text(base, source, arguments.contact, models, found)
    if problems := config_problems(config):
        raise ConfigError(*problems)
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    if arguments.json:
        print_json({"config": str(file), "findings": list(found.lines()), "captions": bool(models)})
        return 0
    print("\n".join(found.lines()))
    if not models:
        print(_NO_MODEL)
    print(f"wrote {file}; next: vecap run --config {file}")
    return 0


def _models(arguments: argparse.Namespace, base: Path) -> dict[str, str]:
    """Return the YAML of the two models by role; empty without models. On a terminal, asks for missing ones."""
    if arguments.demo_models:
        if arguments.vlm or arguments.llm:
            raise ConfigError("--demo-models replaces --vlm and --llm; give one or the other")
        print(_DEMO_WARNING, file=sys.stderr)
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
    return {role: _model(role, value, base) for role, value in given.items()}


def _model(role: str, value: str, base: Path) -> str:
    """Return the YAML of a model: a folder, or a server that lists the model. Raises ConfigError."""
    url, _, name = value.partition("#")
    if url.startswith(("http://", "https://")):
        name = _served(role, url.rstrip("/"), name)
        server = f"server: {{urls: [{json.dumps(url.rstrip('/'))}]}}"
        return f"{{backend: openai, model: {json.dumps(name)}, prompt: {_prompt(role, name)}, {server}}}"
    path = Path(value).expanduser()
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
    """Return `crawl.source` for `--path`. Raises ConfigError if there is no such data."""
    given = arguments.path or arguments.folder
    kind = "urls" if arguments.kind == "csv" else arguments.kind
    if arguments.kind in ("folder", "hf"):
        path = Path(given).expanduser().resolve()
        return {"kind": arguments.kind, "path": _relative(path, base)}
    if is_remote(given) or not Path(given).expanduser().is_dir():
        path = Path(given).expanduser()
        return {"kind": kind, "paths": [given if is_remote(given) else _relative(path.absolute(), base)]}
    folder, endings = Path(given).expanduser().resolve(), _ENDINGS[arguments.kind]
    for pattern in ("*", "**/*"):
        for ending in endings:
            if next(folder.glob(f"{pattern}{ending}"), None):
                return {"kind": kind, "paths": [f"{_relative(folder, base)}/{pattern}{ending}"]}
    raise ConfigError(f"{folder} has no {', '.join(endings)} files; give another --path, or another kind with --from")


def _table_of_files(config: Config) -> Path | None:
    """Return the only table of a URL list if it has a column with file names and none with URLs."""
    from vecap_tasks.config import UrlSource
    from vecap_tasks.core.files import find_files
    from vecap_tasks.crawl.sources.columns import FILES, find_columns
    from vecap_tasks.crawl.sources.table_rows import column_names

    section = config.crawl.source
    if not isinstance(section, UrlSource):
        return None
    files = [*find_files(config, section.paths, kind="URL", setting="--path").values()]
    if len(files) != 1 or files[0].remote:
        return None
    names = column_names(files[0])
    has_files = find_columns(names).url is None and find_columns(names, image_names=FILES).url is not None
    return Path(files[0].location) if has_files else None


def _folder_of_local_rows(config: Config) -> Path | None:
    """Return the folder of the first URL list if its first row names a local file."""
    from vecap_tasks.config import UrlSource
    from vecap_tasks.core.files import find_files
    from vecap_tasks.crawl.sources.link import Stats
    from vecap_tasks.crawl.sources.local_files import is_local
    from vecap_tasks.crawl.sources.table_rows import read_rows

    section = config.crawl.source
    if not isinstance(section, UrlSource):
        return None
    file = next(iter(find_files(config, section.paths, kind="URL", setting="--path").values()))
    first = next((row.url for row in read_rows(file, section, Stats()) if row.url), None)
    return Path(file.location).parent if first is not None and not file.remote and is_local(first) else None


def _relative(path: Path, base: Path) -> str:
    return os.path.relpath(path, base) if path.is_relative_to(base) else str(path)


def _inspect(config: Config) -> _Findings:
    """Read the first rows, and decode the first images that are in the source's files. Raises VecapError."""
    from vecap_tasks.core.files import SourceFile
    from vecap_tasks.crawl.candidates import open_source
    from vecap_tasks.crawl.image.decode import decode
    from vecap_tasks.crawl.shard_images import image_reader
    from vecap_tasks.crawl.sources.link import ArchivedImage, ByteRange, Link, Stats
    from vecap_tasks.crawl.sources.table_rows import column_names
    from vecap_tasks.errors import Failure

    interval = datetime.now(UTC).date().isoformat()
    source, stats, found = open_source(config, interval), Stats(), _Findings()
    parts = source.parts()
    found.parts = len(parts)
    path = Path(config.resolve(parts[0]))
    found.columns = column_names(SourceFile(parts[0], str(path), 0)) if path.is_file() else []
    read = image_reader(config, interval)
    rows = (row for part in parts for row in source.read(part, stats))
    for row in islice(rows, _ROWS):
        stored = row.stored if isinstance(row, Link) else None
        if isinstance(row, Link):
            found.rows += 1
            found.captioned += bool(row.alttext and row.alttext.strip())
        elif isinstance(row, ArchivedImage) and row.offset is not None and row.length is not None:
            stored = ByteRange(row.archive, row.offset, row.length)
        if stored is not None and len(found.decoded) + found.undecoded.total() < _IMAGES:
            try:
                image, _ = decode(read(stored), config.crawl.image)
                found.decoded.append(f"{image.original_width}x{image.original_height}")
            except Failure as failure:
                found.undecoded[failure.reason] += 1
    found.complete = next(rows, None) is None
    skipped = {key.partition(".")[2]: count for key, count in stats.counters.items() if key.startswith("skipped.")}
    found.skipped = Counter(skipped)
    if not found.rows:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in skipped.items()) or "no rows"
        raise VecapError(f"{parts[0]} has no usable image ({reasons}); check --path and --from")
    return found


def _root(source: dict[str, Any], base: Path) -> str:
    """Return `root`. If a pattern would find the files of `versions`, return a folder next to the data."""
    top, recursive, _ = next(iter(source.get("paths", ())), "").partition("**")
    data = (base / top).resolve()
    if recursive and base.is_relative_to(data):
        return os.path.relpath(data.parent / f"{data.name}-versions", base)
    return "versions"


def _text(base: Path, source: dict[str, Any], contact: str | None, models: dict[str, str], found: _Findings) -> str:
    """Return the configuration as commented YAML."""
    dataset = re.sub(r"[^a-z0-9_-]+", "-", base.name.lower()).strip("-_") or "images"
    where = "\n    ".join(f"{key}: {value if key == 'kind' else json.dumps(value)}" for key, value in source.items())
    summary = "\n    # ".join(found.lines())
    keep = (
        f"\n    # keep_columns: {json.dumps(found.columns)}   # copy columns into all tables" if found.columns else ""
    )
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
