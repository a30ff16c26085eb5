"""`vecap versions`, `diff`, `verify`, `lineage` and `gc`: list, compare, verify, trace and delete versions."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from functools import partial
from typing import Any

from vecap_tasks.cli.options import Commands, add_command, configuration, print_json, print_table
from vecap_tasks.core.store import Store
from vecap_tasks.core.version import list_versions, read_version

_EXIT_UNCHECKED = 3  # argparse exits with 2


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    versions = add_command(
        commands, "versions", "list the dataset's versions", "vecap versions --config configs/demo.yaml"
    )
    versions.add_argument("--all", action="store_true", help="include unfinished versions")
    versions.set_defaults(command=_versions)

    diff = add_command(
        commands,
        "diff",
        "show what changed between two versions",
        "vecap diff --config configs/demo.yaml 2026-01-01 2026-01-02",
    )
    diff.add_argument("a", metavar="A", help="earlier version")
    diff.add_argument("b", metavar="B", help="later version")
    diff.set_defaults(command=_diff)

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
    from vecap_tasks.core.diff import summarize

    config = configuration(arguments)
    store = Store(config.resolve(config.root))
    found = [summarize(store, version) for version in list_versions(store, config.dataset)]
    if arguments.json:
        print_json([asdict(summary) for summary in found])
        return 0
    shown = [summary for summary in found if arguments.all or summary.digest is not None]
    if not shown:
        unfinished = f" ({len(found)} unfinished; --all shows them)" if found else ""
        print(f"dataset {config.dataset} has no published version{unfinished}; run `vecap run` to create one")
        return 0
    print_table(
        ("version", "crawled", "downloaded", "accepted", "captioned", "assembled", "warnings", "digest"),
        [
            (
                s.version,
                *(f"{n:,}" for n in (s.crawled, s.downloaded, s.accepted, s.captioned, s.assembled, s.warnings)),
                s.digest[:12] if s.digest is not None else "unfinished",
            )
            for s in shown
        ],
    )
    return 0


def _diff(arguments: argparse.Namespace) -> int:
    from vecap_tasks.core.diff import diff, format_diff

    config = configuration(arguments)
    store = Store(config.resolve(config.root))
    versions = [read_version(store, config.dataset, name) for name in (arguments.a, arguments.b)]
    found = diff(store, versions[0], versions[1])
    if arguments.json:
        print_json(asdict(found))
    else:
        print(format_diff(found))
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from vecap_tasks.core.verify import verify_version

    config = configuration(arguments)
    store = Store(config.resolve(config.root))
    if arguments.all:
        versions = list_versions(store, config.dataset)
    else:
        versions = [read_version(store, config.dataset, arguments.version)]
    reports = {}
    for version in versions:
        reports[version.name] = report = verify_version(store, version)
        if not arguments.json:
            for corruption in report.corruptions:
                print(f"{corruption.path}: {corruption.problem}")
            prefix = f"{version.name}: " if arguments.all else ""
            size = f"{report.files:,} files, {_megabytes(report.bytes)}"
            count = len(report.corruptions)
            print(
                f"{prefix}CORRUPT: {count} problems in {size}" if count else f"{prefix}OK: {size} verified", flush=True
            )
    if arguments.json:
        print_json({name: asdict(item) for name, item in reports.items()} if arguments.all else asdict(report))
    elif not versions:
        print(f"dataset {config.dataset} has no versions; run `vecap run` to create one")
    return 1 if any(item.corruptions for item in reports.values()) else 0


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _lineage(arguments: argparse.Namespace) -> int:
    from vecap_tasks.lineage.walk import format_tree, walk

    tree = walk(configuration(arguments), arguments.name)
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
