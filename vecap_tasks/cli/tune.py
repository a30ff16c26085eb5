"""`vecap tune`: compares captions and shares of AltText by small trainings on one version."""

from __future__ import annotations

import argparse
import json
import sys

from vecap_tasks.cli.options import Commands, add_command, configuration, named_version, print_json, print_table
from vecap_tasks.cli.run import run_stage
from vecap_tasks.config import Config, TuneConfig, load_config


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = add_command(
        commands,
        "tune",
        "compare captions and shares of AltText by small trainings, and recommend a mix",
        "vecap tune --config configs/demo.yaml --version 2026-01-01 --budget 0.05",
    )
    parser.add_argument("--version", required=True, metavar="V", help="published version to train on, e.g. 2026-01-01")
    parser.add_argument(
        "--budget", type=float, metavar="HOURS", help="hours of one device for all trainings (default: tune.budget)"
    )
    parser.set_defaults(command=_tune)


def tuning_config(file: str, given: list[str], settings: TuneConfig, epochs: int | None = None) -> Config:
    """Return the configuration *file* with the overrides *given*, and with those of the tuning."""
    from vecap_tasks.tune.plan import overrides

    return load_config(file, [*given, *overrides(settings, epochs)])


def _tune(arguments: argparse.Namespace) -> int:
    from vecap_tasks.core.open_version import check_stages, open_store
    from vecap_tasks.lineage.tuning import record_tuning
    from vecap_tasks.tune.plan import planned_epochs
    from vecap_tasks.tune.report import read_tuning, recommendation, rows

    if arguments.budget is not None:
        arguments.overrides.append(f"tune.budget={arguments.budget}")
    settings = configuration(arguments).tune
    config = tuning_config(arguments.config, arguments.overrides, settings)
    store = open_store(config)
    version = named_version(store, config.dataset, arguments.version)
    check_stages(config, store, version.name, ("train", "evaluate"))
    epochs = planned_epochs(config, settings, version)
    config = tuning_config(arguments.config, arguments.overrides, settings, epochs)
    for stage in ("train", "evaluate"):
        run_stage(stage, config, version)
    tuning = read_tuning(config, settings, version)
    record_tuning(config, settings, version, tuning)
    if arguments.json:
        print_json(json.loads(tuning.to_json()))
        return 0
    head, *body = rows(tuning)
    print_table(tuple(head), [tuple(row) for row in body], right=head[1:])
    print(f"\n{recommendation(tuning)}", file=sys.stdout)
    return 0
