"""`vecap gc`: what may go by the retention policy; deleted only when that is asked for."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from functools import partial
from typing import Any

from vecap_tasks.commands.options import Commands, add_command, configuration, print_json
from vecap_tasks.dataset.store import Store


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    gc = add_command(
        commands,
        "gc",
        "list superseded revisions, unfinished versions and leftovers, and delete them where --delete is given",
        "vecap gc --config configs/demo.yaml --keep-last 1 --keep-days 7",
    )
    gc.add_argument("--keep-last", type=int, default=None, metavar="N", help="newest revisions of an interval to keep")
    gc.add_argument(
        "--keep-days", type=float, default=None, metavar="D", help="days to keep the others, and failed work"
    )
    gc.add_argument("--delete", action="store_true", help="delete what is listed; without it nothing is changed")
    gc.set_defaults(command=_gc)


def _gc(arguments: argparse.Namespace) -> int:
    from vecap_tasks.dataset.retention import plan_removals, remove
    from vecap_tasks.lineage.usage import needed_by_mlflow

    for name in ("keep_last", "keep_days"):
        value = getattr(arguments, name)
        if value is not None:
            arguments.overrides.append(f"retention.{name}={value}")
    config = configuration(arguments)
    store = Store(config.resolve(config.root))
    elsewhere, now = partial(needed_by_mlflow, config), time.time()
    plan = plan_removals(store, config.dataset, config.retention, elsewhere, now)
    if arguments.delete:
        plan = remove(store, config.dataset, plan, elsewhere, now)
    if arguments.json:
        print_json({"deleted": arguments.delete, "bytes": plan.bytes, **_plain(plan)})
        return 0
    for removal in plan.removals:
        print(f"{removal.what:<10} {removal.path}  {removal.files:,} files, {removal.bytes:,} bytes: {removal.why}")
    for kept in plan.kept:
        print(f"kept       {config.dataset}/{kept.version}: {kept.why}")
    files = sum(removal.files for removal in plan.removals)
    done = "deleted" if arguments.delete else "may go; nothing was changed, --delete deletes them"
    print(f"{plan.bytes:,} bytes in {files:,} files {done}" if plan.removals else "nothing may go by this policy")
    return 0


def _plain(plan: Any) -> dict[str, Any]:
    removals = [
        {name: value for name, value in asdict(removal).items() if name != "version"} for removal in plan.removals
    ]
    return {"removals": removals, "kept": [asdict(kept) for kept in plan.kept]}
