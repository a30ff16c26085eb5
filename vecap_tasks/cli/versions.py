"""`vecap versions`, `note`, `diff`, `compare`, `verify`, `lineage` and `gc`: commands for versions and models."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from vecap_tasks.cli.options import Commands, add_command, configuration, named_version, print_json, print_table
from vecap_tasks.core.store import Store
from vecap_tasks.core.version import list_versions, write_note

if TYPE_CHECKING:
    from vecap_tasks.core.diff import Listing
    from vecap_tasks.core.verify import Verification
    from vecap_tasks.progress import Meter

_EXIT_UNCHECKED = 3  # argparse exits with 2


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    versions = add_command(
        commands, "versions", "list the dataset's versions", "vecap versions --config configs/demo.yaml"
    )
    versions.add_argument("--all", action="store_true", help="include unfinished versions")
    versions.set_defaults(command=_versions)

    note = add_command(
        commands,
        "note",
        "write a note about a version, which `vecap versions` shows",
        'vecap note --config configs/demo.yaml --version 2026-01-01 "baseline of the paper"',
    )
    note.add_argument("--version", required=True, metavar="V", help="version, e.g. 2026-01-01")
    note.add_argument("text", metavar="TEXT", help='the note; it replaces an earlier one, "" removes it')
    note.set_defaults(command=_note)

    diff = add_command(
        commands,
        "diff",
        "show what changed between two versions",
        "vecap diff --config configs/demo.yaml 2026-01-01 2026-01-02",
    )
    diff.add_argument("a", metavar="A", help="earlier version")
    diff.add_argument("b", metavar="B", help="later version")
    diff.set_defaults(command=_diff)

    compare = add_command(
        commands,
        "compare",
        "compare two trained models: paired differences of all metrics, with intervals",
        "vecap compare --config configs/demo.yaml 2026-01-01/mixed-0 2026-01-01/alttext-0",
    )
    for name in ("first", "second"):
        compare.add_argument(
            name,
            metavar="MODEL",
            help="RUN or VERSION/RUN, e.g. mixed-0; models:/NAME@ALIAS or models:/NAME/VERSION in the MLflow registry; "
            "or an MLflow model or run ID",
        )
    compare.set_defaults(command=_compare)

    verify = add_command(
        commands,
        "verify",
        "verify every file of one version, or of all, against the manifests",
        "vecap verify --config configs/demo.yaml --version 2026-01-01",
    )
    which = verify.add_mutually_exclusive_group(required=True)
    which.add_argument("--version", metavar="V")
    which.add_argument("--all", action="store_true", help="every version of the dataset")
    verify.set_defaults(command=_verify)

    lineage = add_command(
        commands,
        "lineage",
        "trace a model or version to its source files and verify checksums",
        "vecap lineage --config configs/demo.yaml 2026-01-01",
    )
    lineage.add_argument(
        "name",
        metavar="MODEL|VERSION",
        help="a version, VERSION/ARM-SEED, models:/NAME@ALIAS in the MLflow registry, or an MLflow model or run ID",
    )
    lineage.add_argument(
        "--strict",
        action="store_true",
        help="exit with 3 if something could not be verified",
    )
    lineage.set_defaults(command=_lineage)
    _add_gc(commands)


def _versions(arguments: argparse.Namespace) -> int:
    from vecap_tasks.core.diff import list_entry
    from vecap_tasks.core.manifest import map_concurrently

    config = configuration(arguments)
    store = Store(config.resolve(config.root))
    versions = list_versions(store, config.dataset)
    preceding = [None, *versions]

    def entry(number: int) -> Listing:
        version, previous = versions[number], preceding[number]
        same_interval = previous is not None and previous.interval == version.interval
        return list_entry(store, version, previous if same_interval else None)

    found = map_concurrently(entry, range(len(versions)))
    if arguments.json:
        print_json([_as_json(item) for item in found])
        return 0
    shown = [item for item in found if arguments.all or item.state != "unfinished"]
    hidden = f"{len(found) - len(shown)} unfinished; --all shows them"
    if not shown:
        unfinished = f" ({hidden})" if found else ""
        print(f"dataset {config.dataset} has no published version{unfinished}; run `vecap run` to create one")
        return 0
    columns = {name: [cells[name] for cells in map(_cells, shown)] for name in _cells(shown[0])}
    used = {name: cells for name, cells in columns.items() if name not in _OPTIONAL or any(cells)}
    print_table(tuple(used), list(zip(*used.values(), strict=True)), right=("size", "time", "cost"))
    if len(shown) < len(found):
        print(hidden)
    return 0


_OPTIONAL = ("tokens", "cost", "note")  # columns that are left out if they are empty
_MAX_CHANGES = 3  # settings in a note


def _cells(item: Listing) -> dict[str, str]:
    """Return a row of the table, by column."""
    from vecap_tasks.progress import format_seconds

    summary, tokens = item.summary, item.prompt_tokens + item.tokens
    warnings = [f"{summary.warnings} warning{'s' if summary.warnings > 1 else ''}"] if summary.warnings else []
    changes = [str(change) for change in item.changes[:_MAX_CHANGES]]
    more = [f"and {len(item.changes) - _MAX_CHANGES} more settings"] if len(item.changes) > _MAX_CHANGES else []
    notes = [*([item.note] if item.note else []), *([item.error] if item.error else []), *warnings, *changes, *more]
    counts = ("crawled", "accepted", "captioned", "assembled")
    return {
        "version": summary.version,
        "created": (item.created or "")[:16].replace("T", " "),
        "state": item.state,
        **{name: f"{getattr(summary, name):,}" for name in counts},
        "size": _format_size(item.bytes),
        "time": format_seconds(item.seconds),
        "tokens": f"{tokens:,}" if tokens else "",
        "cost": "" if item.cost is None else f"{item.cost:,.4f}",
        "trained": "yes" if item.trained else "no",
        "digest": (summary.digest or "")[:12],
        "note": "; ".join(notes),
    }


def _format_size(size: float) -> str:
    units = ("B", "kB", "MB", "GB", "TB")
    power = next((n for n, _ in enumerate(units) if size < 1000 ** (n + 1)), len(units) - 1)
    return f"{size / 1000**power:,.{1 if power else 0}f} {units[power]}"


def _as_json(item: Listing) -> dict[str, Any]:
    values = asdict(item)
    return {**values.pop("summary"), **values}


def _note(arguments: argparse.Namespace) -> int:
    config = configuration(arguments)
    store = Store(config.resolve(config.root))
    version, text = named_version(store, config.dataset, arguments.version), " ".join(arguments.text.split())
    write_note(store, version, text)
    if arguments.json:
        print_json({"version": version.name, "note": text})
    else:
        print(f"{version.name}: {text or 'note removed'}")
    return 0


def _diff(arguments: argparse.Namespace) -> int:
    from vecap_tasks.core.diff import diff, format_diff

    config = configuration(arguments)
    store = Store(config.resolve(config.root))
    names = (arguments.a, arguments.b)
    versions = [named_version(store, config.dataset, name, *names) for name in names]
    found = diff(store, versions[0], versions[1])
    if arguments.json:
        print_json(asdict(found))
    else:
        print(format_diff(found))
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from vecap_tasks.lineage.compare import compare

    found = compare(configuration(arguments), arguments.first, arguments.second)
    if arguments.json:
        print_json(asdict(found))
        return 0
    share = f"{100 * found.confidence:g} % interval"
    rows = [
        (
            metric.title,
            *(f"{100 * value:.1f}" for value in (metric.first, metric.second)),
            f"{100 * metric.difference.difference:+.1f}",
            f"{100 * metric.difference.low:+.1f} to {100 * metric.difference.high:+.1f}",
            f"{metric.difference.p:.3f}",
            "*" if metric.difference.is_significant else "",
            f"{metric.images:,}",
            f"{metric.queries:,}",
        )
        for metric in found.metrics
    ]
    print(f"A  {found.first}\nB  {found.second}\n")
    header = ("metric", "A", "B", "A - B", share, "p", "", "images", "queries")
    print_table(header, rows, right=header[1:])
    print(
        f"\nPercent; A - B in percentage points, by paired bootstrap over the images, {found.rounds:,} rounds. An "
        "interval with * excludes 0.\nTwo runs do not show how much the seed matters. p is two-sided and not corrected "
        "for the number of metrics."
    )
    for warning in found.warnings:
        print(f"vecap: {warning}", file=sys.stderr)
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from vecap_tasks.core.verify import verify_version
    from vecap_tasks.lineage.verify_journal import verify_journal
    from vecap_tasks.progress import meter

    config = configuration(arguments)
    store = Store(config.resolve(config.root))
    if arguments.all:
        versions = list_versions(store, config.dataset)
    else:
        versions = [named_version(store, config.dataset, arguments.version)]
    reports = {}
    target = "--all" if arguments.all else arguments.version
    with verify_journal(store, ("verify", config.dataset, target)) as journal:
        for version in versions:
            with meter(version.name) as shown:
                report = verify_version(store, version, partial(_report_bytes, shown), journal.check)
            reports[version.name] = report
            if not arguments.json:
                _print_verification(version.name if arguments.all else "", report)
    if journal.skipped:
        print(f"vecap: resumed: {journal.skipped:,} files were verified before and not read again", file=sys.stderr)
    if arguments.json:
        print_json({name: asdict(item) for name, item in reports.items()} if arguments.all else asdict(report))
    elif not versions:
        print(f"dataset {config.dataset} has no versions; run `vecap run` to create one")
    return 1 if any(item.corruptions for item in reports.values()) else 0


def _print_verification(name: str, report: Verification) -> None:
    for corruption in report.corruptions:
        print(f"{corruption.path}: {corruption.problem}")
    prefix = f"{name}: " if name else ""
    size, count = f"{report.files:,} files, {_megabytes(report.bytes)}", len(report.corruptions)
    if not count and not report.files:
        print(f"{prefix}nothing to verify: no stage is finished", flush=True)
        return
    outcome = f"CORRUPT: {count} problems in {size}" if count else f"OK: {size} verified"
    print(f"{prefix}{outcome}", flush=True)


def _report_bytes(shown: Meter, done: int, total: int) -> None:
    if shown.is_bar:
        shown.update(round(done / 1e6), round(total / 1e6), "MB")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _lineage(arguments: argparse.Namespace) -> int:
    from vecap_tasks.lineage.verify_journal import verify_journal
    from vecap_tasks.lineage.walk import format_tree, walk
    from vecap_tasks.progress import meter

    config = configuration(arguments)
    store = Store(config.resolve(config.root))
    if arguments.name in [version.name for version in list_versions(store, config.dataset)]:
        named_version(store, config.dataset, arguments.name)
    command = ("lineage", config.dataset, arguments.name)
    with verify_journal(store, command) as journal, meter("lineage") as shown:
        shown.wait("verifying")
        tree = walk(config, arguments.name, check_file=journal.check)
    if arguments.json:
        print_json(tree.as_json())
    else:
        print(format_tree(tree))
    if not tree.verified:
        return 1
    return _EXIT_UNCHECKED if arguments.strict and not tree.complete else 0


def _add_gc(commands: Commands[argparse.ArgumentParser]) -> None:
    gc = add_command(
        commands,
        "gc",
        "list superseded revisions, unfinished versions and temporary files; --delete deletes them",
        "vecap gc --config configs/demo.yaml --keep-last 1 --keep-days 7",
    )
    gc.add_argument("--keep-last", type=int, default=None, metavar="N", help="newest revisions to keep per interval")
    gc.add_argument(
        "--keep-days", type=float, default=None, metavar="D", help="days to keep other revisions and unfinished work"
    )
    gc.add_argument("--delete", action="store_true", help="delete what is listed; without it, gc changes nothing")
    gc.set_defaults(command=_gc)


def _gc(arguments: argparse.Namespace) -> int:
    from vecap_tasks.core.retention import plan_removals, remove
    from vecap_tasks.lineage.mlflow_lookup import needed_by_mlflow

    for name in ("keep_last", "keep_days"):
        value = getattr(arguments, name)
        if value is not None:
            arguments.overrides.append(f"retention.{name}={value}")
    config = configuration(arguments)
    store = Store(config.resolve(config.root))
    external_uses, now = partial(needed_by_mlflow, config), time.time()
    plan = plan_removals(store, config.dataset, config.retention, external_uses, now)
    if arguments.delete:
        plan = remove(store, config.dataset, plan, external_uses, now)
    if arguments.json:
        print_json({"deleted": arguments.delete, "bytes": plan.bytes, **_plain(plan)})
        return 0
    for removal in plan.removals:
        print(f"{removal.what:<10} {removal.path}  {removal.files:,} files, {removal.bytes:,} bytes: {removal.why}")
    for kept in plan.kept:
        print(f"kept       {config.dataset}/{kept.version}: {kept.why}")
    files = sum(removal.files for removal in plan.removals)
    outcome = "deleted" if arguments.delete else "can be deleted; run with --delete to delete them"
    total = f"{_megabytes(plan.bytes)} in {files:,} files {outcome}"
    print(total if plan.removals else "nothing to delete under this policy")
    return 0


def _plain(plan: Any) -> dict[str, Any]:
    removals = [
        {name: value for name, value in asdict(removal).items() if name != "version"} for removal in plan.removals
    ]
    return {"removals": removals, "kept": [asdict(kept) for kept in plan.kept]}
