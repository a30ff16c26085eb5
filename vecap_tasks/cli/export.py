"""`vecap export`: write a published version as a self-contained dataset, and publish it on the Hugging Face Hub."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from functools import partial

from vecap_tasks.cli.options import Commands, add_command, configuration, named_version, print_json
from vecap_tasks.core.object_storage import is_remote
from vecap_tasks.core.store import Store
from vecap_tasks.errors import ConfigError

_FORMATS = ("webdataset", "parquet", "hf")
_TEXTS = ("vecap", "alttext", "vec", "all")


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    export = add_command(
        commands,
        "export",
        "write a published version as a dataset that open_clip, Hugging Face datasets, pandas or DuckDB load",
        "vecap export --config configs/demo.yaml --version 2026-01-01 --format parquet --out demo-parquet",
    )
    export.add_argument("--version", required=True, metavar="V", help="published version, e.g. 2026-01-01")
    export.add_argument(
        "--format",
        required=True,
        choices=_FORMATS,
        metavar="FORMAT",
        help="webdataset: tars for open_clip and webdataset; parquet: Parquet with images; hf: a dataset for "
        "datasets.load_from_disk",
    )
    export.add_argument(
        "--out", required=True, metavar="DIR", help="new or empty folder, or a URL on s3://, gs:// or az://"
    )
    export.add_argument(
        "--text",
        choices=_TEXTS,
        default="vecap",
        metavar="TEXT",
        help="text of a sample (.txt, column text): vecap, alttext or vec; samples without it are left out. "
        "all: a list of the three. All texts are columns in addition (default: vecap)",
    )
    export.add_argument(
        "--push-to-hub",
        metavar="OWNER/NAME",
        help="then upload DIR to this dataset repository of the Hugging Face Hub, with the token in HF_TOKEN",
    )
    export.set_defaults(command=_export)


def _export(arguments: argparse.Namespace) -> int:
    from vecap_tasks.export.exporter import Exporter
    from vecap_tasks.progress import meter

    start = time.monotonic()
    repository = None
    if arguments.push_to_hub is not None:
        _check_push(arguments)
        from vecap_tasks.export.hub import Repository

        repository = Repository(arguments.push_to_hub)
    config = configuration(arguments)
    exporter = Exporter(config, arguments.version, arguments.format, arguments.text, arguments.out)
    named_version(Store(config.resolve(config.root)), config.dataset, arguments.version)  # it names a newer one
    with meter("export") as shown:
        result = exporter.run(partial(shown.update, unit="shards"))
    if not arguments.json:
        print(f"exported {result.counts}", flush=True)
        seconds = "already complete" if result.existed else f"{time.monotonic() - start:.1f} s"
        size = f"{result.bytes / 1e6:,.1f} MB"
        print(f"{result.location}: {arguments.format}, {result.shards:,} shards, {size}, {seconds}", flush=True)
    if repository is not None and exporter.target.path is not None:
        repository.push(exporter.target.path, f"Export of {config.dataset} {arguments.version}")
        if not arguments.json:
            print(f"pushed to {repository.url}")
    if arguments.json:
        url = None if repository is None else repository.url
        print_json(asdict(result) | {"format": arguments.format, "text": arguments.text, "hub": url})
    return 0


def _check_push(arguments: argparse.Namespace) -> None:
    if arguments.format == "hf":
        raise ConfigError("--push-to-hub: the Hub does not show the format hf; use --format parquet or webdataset")
    if is_remote(arguments.out):
        raise ConfigError(f"--push-to-hub needs a local folder, not {arguments.out}; change --out")
