"""`vecap quarantine`: list rejected rows and their reasons, and release rows."""

from __future__ import annotations

import argparse
import getpass
from dataclasses import asdict
from typing import Any

from vecap_tasks.cli.options import (
    Commands,
    add_command,
    configuration,
    named_version,
    print_json,
    print_table,
    printable,
)
from vecap_tasks.core.store import Store
from vecap_tasks.core.version import Version
from vecap_tasks.errors import VecapError

_ACTIONS = ("list", "release", "withdraw", "releases")
_ROWS = 20  # default number of rows with --reason


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = add_command(
        commands,
        "quarantine",
        "list the rejected rows of a version by reason, or release rows; the next run publishes a revision with them",
        'vecap quarantine release --config configs/demo.yaml --version 2026-01-01 --reason flat --note "line art"',
    )
    parser.add_argument(
        "action", nargs="?", choices=_ACTIONS, default="list", help="default: list; releases lists recorded releases"
    )
    parser.add_argument("--version", required=True, metavar="V", help="version to inspect, e.g. 2026-01-01")
    parser.add_argument(
        "--reason",
        metavar="R",
        help="list: rows rejected for this reason; release: waive it for all rows",
    )
    parser.add_argument(
        "--uid", action="append", default=[], metavar="UID", help="row to release for all its reasons (repeatable)"
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help=f"rows to show (default: {_ROWS} with --reason, otherwise 0)"
    )
    parser.add_argument("--offset", type=int, default=0, metavar="N", help="rows to skip (default: 0)")
    parser.add_argument(
        "--dry-run", action="store_true", help="release: print how many rows it would add, and record nothing"
    )
    parser.add_argument("--force", action="store_true", help="release: record a release that adds no rows")
    parser.add_argument("--note", default="", help="why the rows are released; required for a release")
    parser.add_argument("--by", default="", metavar="NAME", help="who decided (default: the current user)")
    parser.set_defaults(command=_quarantine)


def _quarantine(arguments: argparse.Namespace) -> int:
    config = configuration(arguments)
    store = Store(config.resolve(config.root))
    version = named_version(store, config.dataset, arguments.version)
    if (arguments.dry_run or arguments.force) and arguments.action != "release":
        raise VecapError("--dry-run and --force are options of release")
    if arguments.action == "list":
        return _list(store, version, arguments)
    if arguments.action == "releases":
        return _releases(store, version, arguments)
    return _decide(store, version, arguments)


def _list(store: Store, version: Version, arguments: argparse.Namespace) -> int:
    from vecap_tasks.quality.quarantine import Page, index_rejected, list_rows

    if (arguments.limit is not None and arguments.limit < 0) or arguments.offset < 0:
        raise VecapError("--limit and --offset must be 0 or more")
    limit = (_ROWS if arguments.reason else 0) if arguments.limit is None else arguments.limit
    index = index_rejected(store, version)
    reasons = index.reasons
    page = list_rows(store, version, arguments.reason, limit, arguments.offset, index) if limit else Page(0, ())
    if arguments.json:
        rows = [asdict(row) for row in page.rows]
        print_json({"reasons": [asdict(reason) for reason in reasons], "total": page.total, "rows": rows})
        return 0
    if not reasons:
        print(f"{version.name} has no rejected rows")
        return 0
    header = ("reason", "rows", "only reason", "", "description")
    print_table(header, [
        (reason.reason, f"{reason.rows:,}", f"{reason.only_reason:,}",
         "" if reason.releasable else "final", reason.description)
        for reason in reasons
    ])  # fmt: skip
    if limit:
        why = f" rejected for {arguments.reason}" if arguments.reason else ""
        print(f"\n{len(page.rows):,} of {page.total:,} rows{why}")
    for row in page.rows:
        size = f"{row.original_width}x{row.original_height}" if row.original_width else row.error_message or ""
        texts = [printable(text) for text in (row.url, row.caption or "(no AltText)")]
        print("\n  ".join([f"{row.uid}  {', '.join(row.reasons)}  {size}", *texts]))
    return 0


def _releases(store: Store, version: Version, arguments: argparse.Namespace) -> int:
    from vecap_tasks.core.releases import read_releases

    entries = read_releases(store, version.dataset, version.interval)
    if arguments.json:
        print_json([asdict(entry) for entry in entries])
        return 0
    if not entries:
        print(f"no releases for {version.interval}")
    for entry in entries:
        what = f"reason {entry.reason}" if entry.reason else f"{len(entry.uids):,} rows"
        print(f"{entry.at}  {entry.action:<8}  {what}  by {entry.by}: {entry.note}")
    return 0


def _decide(store: Store, version: Version, arguments: argparse.Namespace) -> int:
    from vecap_tasks.quality.quarantine import preview_release, release, withdraw

    what = {"uids": arguments.uid, "reason": arguments.reason}
    by = arguments.by or getpass.getuser()
    found: dict[str, Any] = {"entry": None}
    if arguments.action == "release":
        preview = preview_release(store, version, **what)
        found["preview"] = asdict(preview)
        if not arguments.json and (preview.added or arguments.dry_run or arguments.force):
            print(preview)
        if not arguments.dry_run:
            found["entry"] = release(store, version, **what, note=arguments.note, by=by, force=arguments.force)
    else:
        found["entry"] = withdraw(store, version, **what, note=arguments.note, by=by)
    if arguments.json:
        print_json(found)
    elif found["entry"]:
        command = f"vecap run --version {version.interval}"
        print(f"recorded {found['entry']}; run `{command}` to publish a new revision with the change")
    return 0
