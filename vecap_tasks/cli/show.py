"""`vecap show`: rows of a version with their texts and verdicts, in the terminal or on a contact sheet."""

# ruff: noqa: S608 - queries consist of constants in this file; user input is bound as parameters

from __future__ import annotations

import argparse
import json
import shutil
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vecap_tasks.cli.options import Commands, add_command, configuration, named_version, print_json, printable
from vecap_tasks.core.manifest import Manifest, read_manifest
from vecap_tasks.core.store import Store
from vecap_tasks.core.version import Version, how_to_finish, list_versions
from vecap_tasks.errors import VecapError, did_you_mean

if TYPE_CHECKING:
    import duckdb

_ROWS = 10
_MAX_SHEET_ROWS = 200  # matplotlib draws at most 65,536 pixels in a direction


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = add_command(
        commands,
        "show",
        "show rows of a version: AltText, VeC, VeCap, image size, URL and verdict",
        "vecap show --config configs/demo.yaml --rejected --rule too_small --out sheet.png",
    )
    parser.add_argument(
        "--version", metavar="V", help="version to show, e.g. 2026-01-01 (default: the newest with a crawl)"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--accepted", action="store_true", help="only accepted rows")
    which.add_argument("--rejected", "--refused", action="store_true", help="only rejected rows")
    parser.add_argument(
        "--rule",
        metavar="R",
        help="only rows with this finding: a reason of the rejection, a problem of a text, or an error of the download",
    )
    parser.add_argument(
        "--search", metavar="TEXT", help="only rows with this text in AltText, VeC, VeCap, URL or kept columns"
    )
    parser.add_argument("--limit", type=int, default=_ROWS, metavar="N", help=f"rows to show (default: {_ROWS})")
    parser.add_argument("--offset", type=int, default=0, metavar="N", help="rows to skip (default: 0)")
    parser.add_argument(
        "--out", type=Path, metavar="FILE.png", help="also draw the rows, with their images, as a contact sheet"
    )
    parser.set_defaults(command=_show)


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a crawl and what the finished stages found. `caption` is the AltText as crawled.

    `kept` has the columns that `keep_columns` lists. Sizes are in pixels, of the image as downloaded. `accepted` is
    None before `quality`. A notice replaces a text with private data.
    """

    key: str
    uid: str
    url: str
    status: str
    error_message: str | None
    original_width: int | None
    original_height: int | None
    caption: str | None
    kept: dict[str, Any]
    accepted: bool | None = None
    reasons: tuple[str, ...] = ()
    alttext_problem: str | None = None
    vec: str | None = None
    vec_problem: str | None = None
    vecap: str | None = None
    vecap_from: str | None = None
    vecap_problem: str | None = None

    @property
    def verdict(self) -> str:
        """Whether the row was accepted, or why not; before `quality`, whether its image was downloaded."""
        failure = f" ({self.error_message})" if self.error_message else ""
        if self.accepted is None:
            return "downloaded" if self.status == "success" else f"{self.status}{failure}"
        return "accepted" if self.accepted else f"rejected: {', '.join(self.reasons)}{failure}"

    @property
    def size(self) -> str:
        return f"{self.original_width}x{self.original_height}" if self.original_width else "no image"

    def texts(self) -> Iterator[tuple[str, str, str]]:
        """Yield name, text and remark of the AltText and of the generated texts that exist."""
        yield "AltText", printable(self.caption or ""), self.alttext_problem or ""
        if self.vecap_from is not None:
            yield "VeC", printable(self.vec or ""), self.vec_problem or ""
            source = "" if self.vecap_from == "llm" else f"from {self.vecap_from}"
            yield "VeCap", printable(self.vecap or ""), ", ".join(filter(None, (source, self.vecap_problem)))


@dataclass(frozen=True, slots=True)
class Page:
    """Rows in key order, from index *first* of the `total` that match."""

    rows: tuple[Row, ...]
    first: int
    total: int


# The findings that `--rule` names, by view: an expression for a list of texts.
_FINDINGS = {
    "crawl": "[split_part(error_message, ':', 1)]",
    "verdicts": "list_append(reasons, alttext_problem)",
    "captions": "[vec_problem, vecap_problem]",
}
_COLUMNS = {
    "crawl": "crawl.key, crawl.uid, url, status, error_message, original_width, original_height, caption, crawl.kept",
    "verdicts": "accepted, reasons, alttext_problem",
    "captions": "vec, vec_problem, vecap, vecap_from, vecap_problem",
}


_KEPT_TEXTS = "array_to_string(json_extract_string(crawl.kept, '$.*'), ' ')"


class Rows:
    """The rows of *version*, whose crawl is committed, with what its later stages found."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, store: Store, version: Version, crawl: Manifest) -> None:
        from vecap_tasks.core.schemas import CAPTIONS, CRAWL, VERDICTS, with_kept
        from vecap_tasks.core.tables import create_view
        from vecap_tasks.quality.quarantine import find_verdicts, shard_tables

        self._connection = connection
        self._store, self._version = store, version
        rewrite, verdicts = read_manifest(store, f"{version.folder}/rewrite"), find_verdicts(store, version)
        self._views = ["crawl"]
        create_view(connection, store, "crawl", shard_tables(crawl), with_kept(CRAWL, True))
        if verdicts:
            self._views.append("verdicts")
            create_view(connection, store, "verdicts", verdicts, VERDICTS)
        if rewrite is not None:
            self._views.append("captions")
            create_view(connection, store, "captions", rewrite.files_ending(".parquet"), CAPTIONS)

    def page(self, accepted: bool | None, rule: str | None, text: str | None, first: int, count: int) -> Page:
        """Return *count* rows from index *first* that match all conditions; None matches all.

        Raises VecapError for rows by verdict before `quality`, and for a *rule* that no row has.
        """
        conditions, values = ["true"], {}
        if accepted is not None:
            if "verdicts" not in self._views:
                remedy = how_to_finish(self._store, self._version, "quality")
                raise VecapError(f"version {self._version.name} has no verdicts; {remedy}")
            conditions.append("accepted" if accepted else "NOT accepted")
        if rule is not None:
            self._check_rule(rule)
            found = " OR ".join(f"coalesce(list_contains({_FINDINGS[view]}, $rule), false)" for view in self._views)
            conditions.append(f"({found})")
            values["rule"] = rule
        if text is not None:
            texts = f"caption, url, {_KEPT_TEXTS}" + (", vec, vecap" if "captions" in self._views else "")
            conditions.append(f"contains(lower(concat_ws(' ', {texts})), lower($text))")
            values["text"] = text
        source = self._source(self._views if len(conditions) > 1 else ["crawl"])
        matching = f"FROM {source} WHERE {' AND '.join(conditions)}"
        total = self._query(f"SELECT count(*) {matching}", values)[0][0]
        keys = self._query(f"SELECT crawl.key {matching} ORDER BY 1 LIMIT {count} OFFSET {first}", values)
        columns = ", ".join(_COLUMNS[view] for view in self._views)
        rows = self._query(
            f"SELECT {columns} FROM {self._source(self._views)} WHERE crawl.key IN (SELECT unnest($keys)) ORDER BY 1",
            {"keys": [key for (key,) in keys]},
        )
        return Page(tuple(_row(columns, row) for row in rows), first, total)

    def _source(self, views: list[str]) -> str:
        first, *others = views
        return first + "".join(f" LEFT JOIN {view} ON {view}.key = crawl.key" for view in others)

    def _check_rule(self, rule: str) -> None:
        known: set[str] = set()
        for view in self._views:
            found = self._query(f"SELECT DISTINCT unnest({_FINDINGS[view]}) FROM {view}", {})
            known |= {name for (name,) in found if name}
        if rule not in known:
            names = ", ".join(sorted(known)) or "none"
            hint = did_you_mean(rule, known)
            raise VecapError(f"version {self._version.name} has no rows with {rule}{hint}; it has rows with: {names}")

    def _query(self, query: str, values: dict[str, Any]) -> list[tuple[Any, ...]]:
        return self._connection.execute(query, values or None).fetchall()


def _row(columns: str, values: tuple[Any, ...]) -> Row:
    from vecap_tasks.core.private_data import hide

    names = [name.removeprefix("crawl.") for name in columns.split(", ")]
    row = Row(**dict(zip(names, values, strict=True)))
    kept = json.loads(str(row.kept)) if row.kept else {}
    return replace(
        row,
        kept=kept,
        reasons=tuple(row.reasons or ()),
        caption=hide(row.caption),
        vec=hide(row.vec),
        vecap=hide(row.vecap),
    )


def _show(arguments: argparse.Namespace) -> int:
    from vecap_tasks.core.tables import connect

    _check_options(arguments)
    config = configuration(arguments)
    store = Store(config.resolve(config.root))
    version, crawl = _find(store, config.dataset, arguments.version)
    accepted = True if arguments.accepted else False if arguments.rejected else None
    with connect(store) as connection:
        rows = Rows(connection, store, version, crawl)
        page = rows.page(accepted, arguments.rule, arguments.search, arguments.offset, arguments.limit)
    if arguments.json:
        print_json({"version": version.name, "total": page.total, "rows": [_as_json(row) for row in page.rows]})
    else:
        _print(version, page)
    if arguments.out is not None and page.rows:
        _draw(store, crawl, page, arguments.out)
        print(f"wrote {arguments.out}", file=sys.stderr)
    return 0


def _check_options(arguments: argparse.Namespace) -> None:
    if arguments.limit < 0 or arguments.offset < 0:
        raise VecapError("--limit and --offset must be 0 or more")
    if arguments.out is None:
        return
    if arguments.out.suffix.lower() != ".png":
        raise VecapError(f"--out {arguments.out}: the contact sheet is a PNG; end the name with .png")
    if not arguments.out.parent.is_dir():
        raise VecapError(f"--out {arguments.out}: the folder {arguments.out.parent} does not exist; create it")
    if arguments.limit > _MAX_SHEET_ROWS:
        raise VecapError(f"a contact sheet has at most {_MAX_SHEET_ROWS} rows; lower --limit, and use --offset")


def _find(store: Store, dataset: str, name: str | None) -> tuple[Version, Manifest]:
    """Return the version *name*, by default the newest with a crawl, and the manifest of its crawl."""
    versions = list_versions(store, dataset)[::-1] if name is None else [named_version(store, dataset, name)]
    for version in versions:
        crawl = read_manifest(store, f"{version.folder}/crawl")
        if crawl is not None:
            return version, crawl
    if name is None:
        raise VecapError(f"dataset {dataset} has no version with a finished crawl; run `vecap run` to create one")
    raise VecapError(f"the crawl of version {name} is not finished; {how_to_finish(store, versions[0], 'crawl')}")


def _as_json(row: Row) -> dict[str, Any]:
    return {**asdict(row), "verdict": row.verdict}


def _print(version: Version, page: Page) -> None:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for row in page.rows:
        print(f"{row.key}  {row.size}  {row.verdict}")
        for name, text, remark in row.texts():
            line = f"  {name:<8} {_with_remark(text, remark)}"
            print(line if width is None else textwrap.fill(line, width, subsequent_indent=" " * 11))
        if row.kept:
            print(f"  {'kept':<8} {printable(', '.join(_kept_texts(row)))}")
        print(f"  {printable(row.url)}\n")
    shown = f"{page.first + 1:,} to {page.first + len(page.rows):,}" if page.rows else "none"
    print(f"{version.name}: {shown} of {page.total:,} rows")


def _kept_texts(row: Row) -> list[str]:
    texts = {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in row.kept.items()
    }
    return [f"{name}: {text}" for name, text in texts.items()]


def _with_remark(text: str, remark: str) -> str:
    return f"{text or '-'}  ({remark})" if remark else text or "-"


def _draw(store: Store, crawl: Manifest, page: Page, path: Path) -> None:
    from vecap_tasks.assemble.card import SHEET_TEXTS, SheetItem, draw_sheet, sheet_height
    from vecap_tasks.core.samples import read_image

    items = []
    for row in page.rows:
        texts = {name.lower(): _with_remark(text, remark) for name, text, remark in row.texts()}
        texts["verdict"] = f"{row.key}, {row.size}, {row.verdict}"
        items.append(SheetItem(read_image(store, crawl.location, row.key), texts))
    used = [text for text in SHEET_TEXTS if any(text[0] in item.texts for item in items)]
    shown = [*used, ("verdict", "Verdict", "#555555")]
    items = [replace(item, texts={name: item.texts.get(name, "") for name, *_ in shown}) for item in items]
    draw_sheet(items, shown, sheet_height(items, shown), path)
