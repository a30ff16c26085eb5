"""`vecap mixture create`, `list`, `show`, `verify`: training data mixtures."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vecap_tasks.cli.options import Commands, add_command, configuration, print_json, print_table
from vecap_tasks.config import Config, read_yaml
from vecap_tasks.core.store import Store
from vecap_tasks.errors import ConfigError
from vecap_tasks.train.data.mixture import Mixture, RecordedTars, mixture_names, read_mixture, source_weights


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    summary = "record and inspect mixtures: training data by source and weight"
    parser = commands.add_parser(
        "mixture",
        help=summary,
        description=summary,
        epilog="example: vecap mixture create --config FILE --recipe mixture.yaml",
    )
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    create = add_command(
        verbs,
        "create",
        "record the mixture in train.mixture or in a recipe; reads third-party tars once",
        "vecap mixture create --config FILE --recipe mixture.yaml --version 2026-01-01",
    )
    create.add_argument("--recipe", metavar="FILE", help="YAML file with `name` and `sources`; replaces train.mixture")
    create.add_argument("--version", metavar="V", help="value of {version} in the recipe")
    create.set_defaults(command=_create)

    listed = add_command(verbs, "list", "list the recorded mixtures", "vecap mixture list --config FILE")
    listed.set_defaults(command=_list)

    show = add_command(verbs, "show", "show the sources of a mixture", "vecap mixture show --config FILE vecap-dfn")
    show.add_argument("name", metavar="NAME")
    show.set_defaults(command=_show)

    verify = add_command(
        verbs,
        "verify",
        "re-read third-party tars and compare them, and the digests of versions, with the record",
        "vecap mixture verify --config FILE vecap-dfn",
    )
    verify.add_argument("name", metavar="NAME")
    verify.set_defaults(command=_verify)


def _create(arguments: argparse.Namespace) -> int:
    from vecap_tasks.train.data.mixture_builder import make_mixture

    if arguments.recipe is not None:
        arguments.overrides.append(f"train.mixture={json.dumps(_recipe(arguments.recipe))}")
    config = configuration(arguments)
    recipe = config.training.mixture
    if recipe is None or isinstance(recipe, str):
        raise ConfigError("no recipe to record; define train.mixture, or pass a file with --recipe")
    _print(config, make_mixture(config, recipe, arguments.version), machine=arguments.json)
    return 0


def _recipe(file: str) -> Any:
    import yaml

    try:
        return read_yaml(Path(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the recipe {file}: {' '.join(str(error).split())}") from error


def _list(arguments: argparse.Namespace) -> int:
    config = configuration(arguments)
    store = Store(config.resolve(config.root))
    found = [read_mixture(store, config.dataset, name) for name in mixture_names(store, config.dataset)]
    if arguments.json:
        print_json([json.loads(mixture.to_json()) for mixture in found])
    elif not found:
        print(f"dataset {config.dataset} has no mixture; record one with `vecap mixture create`")
    else:
        rows: list[tuple[str, ...]] = [
            (m.name, f"{len(m.sources)}", f"{sum(source.samples for source in m.sources):,}", m.digest[:12])
            for m in found
        ]
        print_table(("mixture", "sources", "samples", "digest"), rows)
    return 0


def _show(arguments: argparse.Namespace) -> int:
    config = configuration(arguments)
    store = Store(config.resolve(config.root))
    _print(config, read_mixture(store, config.dataset, arguments.name), machine=arguments.json)
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from vecap_tasks.train.data.mixture_builder import check_mixture

    config = configuration(arguments)
    mixture = read_mixture(Store(config.resolve(config.root)), config.dataset, arguments.name)
    corruptions = check_mixture(config, mixture)
    if arguments.json:
        print_json([asdict(corruption) for corruption in corruptions])
    else:
        for corruption in corruptions:
            print(f"{corruption.path}: {corruption.problem}")
        sources = f"{len(mixture.sources)} sources"
        print(f"CORRUPT: {len(corruptions)} problems in {sources}" if corruptions else f"OK: {sources} verified")
    return 1 if corruptions else 0


def _print(config: Config, mixture: Mixture, *, machine: bool) -> None:
    from vecap_tasks.train.data.epoch import quota

    if machine:
        print_json(json.loads(mixture.to_json()))
        return
    print(f"{mixture.name}  {mixture.digest}")
    rows: list[tuple[str, ...]] = []
    for source in mixture.sources:
        weights = source_weights(source)
        texts = ", ".join(f"{text} {weight:g}" for text, weight in weights.items())
        shown = texts or source.arm or "from run"
        counts = (f"{source.samples:,}", f"{source.weight:g}", f"{quota(source.samples, source.weight):,}")
        rows.append((source.kind, source.name, *counts, shown, source.digest[:12]))
    print_table(("kind", "source", "samples", "weight", "per epoch", "texts", "digest"), rows)
    for source in mixture.sources:
        if isinstance(source, RecordedTars) and source.skipped:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(source.skipped.items()))
            print(f"skipped in {source.name}: {reasons}")
