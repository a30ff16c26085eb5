"""Options, output and progress display shared by the commands."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from vecap_tasks.config import Config, load_config
from vecap_tasks.redaction import redact

Commands = argparse._SubParsersAction  # argparse has no public name for the return type of add_subparsers


def add_command(
    commands: Commands[argparse.ArgumentParser], name: str, summary: str, example: str, *, configured: bool = True
) -> argparse.ArgumentParser:
    """Add the command *name*, with its example in `--help` and the common options."""
    parser = commands.add_parser(name, help=summary, description=summary, epilog=f"example: {example}")
    if configured:
        parser.add_argument("--config", required=True, metavar="FILE", help="configuration file (YAML)")
        parser.add_argument(
            "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="override one setting"
        )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--verbose", action="store_true", help="log debug messages and tracebacks")
    return parser


def configuration(arguments: argparse.Namespace) -> Config:
    """Return the configuration from `--config` and `--set`. Raises ConfigError."""
    return load_config(arguments.config, arguments.overrides)


def print_json(value: Any) -> None:
    """Print *value* as one JSON document on standard output."""
    print(redact(json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True)))


def print_table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print aligned columns, numbers right-aligned."""
    widths = [max(len(cell) for cell in column) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        cells = []
        for cell, width in zip(row, widths, strict=True):
            number = cell.replace(",", "").replace(".", "").isdigit() and len(cell) < 16
            cells.append(cell.rjust(width) if number else cell.ljust(width))
        print(redact("  ".join(cells).rstrip()))


_LOG_INTERVAL = 5.0  # seconds


@contextmanager
def progress(what: str, unit: str = "shards") -> Iterator[Callable[[int, int], None]]:
    """Yield a function that takes (done, total) and shows progress on standard error."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            TextColumn("{task.description:<10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return

    shown = time.monotonic()

    def line(done: int, total: int) -> None:
        nonlocal shown
        if total and (done == total or time.monotonic() - shown >= _LOG_INTERVAL):
            shown = time.monotonic()
            print(f"{what}: {done} of {total} {unit}", file=sys.stderr, flush=True)

    yield line
