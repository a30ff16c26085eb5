"""The crawl files of a version as a list that MLflow's UI shows: what the crawl read, and what it wrote."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from vecap_tasks.dataset.manifest import Input, Manifest

NAME = "crawl_files.md"
TABLE = "crawl_files.csv"
_SHOWN = 1000  # rows of a table that a browser still shows at once; the other file has all


def write_crawl_files(folder: Path, crawl: Manifest, links: Sequence[str]) -> None:
    """Write the list for people (`NAME`) and for machines (`TABLE`) into *folder*.

    *links* are Markdown links, shown at its end.
    """
    rows = [("read", item.kind, item.name, item.bytes, item.digest) for item in crawl.inputs]
    rows += [("written", "file", f"{crawl.location}/{entry.path}", entry.bytes, entry.sha256) for entry in crawl.files]
    with (folder / TABLE).open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("step", "kind", "name", "bytes", "sha256"), *rows])
    read = [(_shown(item), _bytes(item.bytes), f"`{item.digest}`") for item in crawl.inputs]
    written = [(_code(entry.path), _bytes(entry.bytes), f"`{entry.sha256}`") for entry in crawl.files]
    text = f"""# Crawl files of {crawl.dataset}, {crawl.interval}

## What the crawl read

Names are as the configuration has them: no path of the machine that read them. The sha256 is of the bytes that were
read; that of an earlier version is of its crawl's manifest.

{_table(read)}
## What the crawl wrote

In `{crawl.location}` of the store: images and AltText, and a row for everything that was found, with what became of it.

{_table(written)}
{"".join(f"- {link}{chr(10)}" for link in links)}"""
    (folder / NAME).write_text(text, encoding="utf-8")


def _shown(item: Input) -> str:
    return _code(item.name) if item.kind == "source" else f"{item.kind} {_code(item.name)}"


def _table(rows: list[tuple[str, str, str]]) -> str:
    lines = "".join(f"| {' | '.join(row)} |\n" for row in rows[:_SHOWN])
    more = f"\n… and {len(rows) - _SHOWN:,} more, in `{TABLE}`\n" if len(rows) > _SHOWN else ""
    return f"| file | bytes | sha256 |\n| --- | ---: | --- |\n{lines}{more}" if rows else "Nothing.\n"


def _bytes(size: int | None) -> str:
    return "" if size is None else f"{size:,}"


def _code(name: str) -> str:
    return "`" + name.replace("`", "'").replace("|", "¦").replace("\n", " ") + "`"
