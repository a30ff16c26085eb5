"""`vecap run` and one command per stage: run the pipeline without Airflow."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from vecap_tasks.cli.options import Commands, add_command, configuration, print_json
from vecap_tasks.config import Config
from vecap_tasks.core.manifest import Manifest
from vecap_tasks.core.open_version import check_stages, open_store, open_version, select_stages
from vecap_tasks.core.stage import STAGES, Stage, load_stage
from vecap_tasks.core.store import Store
from vecap_tasks.core.version import Version, interval_of, version_status
from vecap_tasks.errors import ConfigError, GateFailed, format_error

if TYPE_CHECKING:
    from vecap_tasks.progress import Meter
    from vecap_tasks.train.throughput import Progress

_SUMMARIES = {
    "crawl": "find AltText and images in the sources, download and decode the images",
    "quality": "apply the row rules and the quality gate",
    "rewrite": "write VeC with the VLM, and VeCap with the LLM from AltText and VeC",
    "assemble": "write the training shards and the dataset card, and publish the version",
    "train": "train one CLIP model per arm and seed",
    "evaluate": "evaluate the trained models on retrieval and zero-shot classification",
}


# Modules that this process imports for a stage. Checked first, before hours of work.
_IMPORTS = {
    "quality": ("great_expectations", "mlflow"),
    "assemble": ("matplotlib", "mlflow"),
    "train": ("torch",),
    "evaluate": ("torch", "mlflow"),
}


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    run = add_command(
        commands,
        "run",
        "run one interval through all stages that the configuration has settings for",
        "vecap run --config configs/demo.yaml --version 2026-01-01 --until quality",
    )
    today = datetime.now(UTC).date().isoformat()
    run.add_argument(
        "--version", default=today, metavar="V", help="interval to process, e.g. 2026-01-01 (default: today)"
    )
    run.add_argument(
        "--from", dest="first", choices=STAGES, metavar="STAGE", help="first stage to run (default: crawl)"
    )
    run.add_argument(
        "--until",
        dest="last",
        choices=STAGES,
        metavar="STAGE",
        help="last stage to run (default: the last one that the configuration has settings for)",
    )
    _add_retry(run)
    run.set_defaults(command=_run, released=False)
    for name, summary in _SUMMARIES.items():
        example = f"vecap {name} --config configs/demo.yaml --version 2026-01-01"
        stage = add_command(commands, name, summary, example)
        which = stage.add_mutually_exclusive_group(required=True) if name == "evaluate" else stage
        which.add_argument(
            "--version", required=name != "evaluate", metavar="V", help="version to process, e.g. 2026-01-01"
        )
        if name == "evaluate":
            which.add_argument(
                "--released", action="store_true", help="evaluate the model of train.model.init_from; stores nothing"
            )
        _add_retry(stage)
        stage.set_defaults(command=_run, first=name, last=name, released=False)


def _add_retry(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--retry-failed",
        nargs="?",
        const="",
        metavar="REASON,…",
        help="create or resume a revision that retries the version's failed downloads and reuses everything else; "
        "retry these reasons (e.g. http_503,timeout), or by default all temporary ones",
    )


@dataclass(frozen=True, slots=True)
class _StageOutcome:
    """What one stage did in this call, and its manifest."""

    manifest: Manifest
    shards: int
    seconds: float


def _check_imports(stages: tuple[str, ...]) -> None:
    """Raise ModuleNotFoundError for the first missing module of *stages*."""
    for stage in stages:
        for module in _IMPORTS.get(stage, ()):
            if find_spec(module) is None:
                raise ModuleNotFoundError(f"No module named {module!r}", name=module)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.released:
        return _evaluate_released(arguments)
    name = arguments.version
    if arguments.retry_failed is not None:
        retry = {"version": name, "reasons": [reason for reason in arguments.retry_failed.split(",") if reason]}
        arguments.overrides.append(f"crawl.retry_failed={json.dumps(retry)}")
        name = interval_of(name)  # the retry is another revision of the interval
    config = configuration(arguments)
    stages = select_stages(config, arguments.first, arguments.last)
    _check_imports(stages)
    store = open_store(config)
    check_stages(config, store, name, stages)
    if config.crawl.retry_failed is not None:
        from vecap_tasks.crawl.previous_crawl import open_previous

        open_previous(store, config, interval_of(name))  # fails before a revision is registered
    version = open_version(config, store, name)
    if not arguments.json:
        print(version_status(store, version), flush=True)
    outcomes = {}
    for stage in stages:
        try:
            outcomes[stage] = run_stage(stage, config, version)
        except GateFailed as error:
            _record_rejection(config, version, error)
            raise
        if not arguments.json:
            _print_outcome(version, stage, outcomes[stage])
        _record(stage, config, version)
    if arguments.json:
        print_json([_as_json(version, name, outcome) for name, outcome in outcomes.items()])
    elif config.rewrite is None and arguments.subcommand == "run" and arguments.last is None:
        print("no captions: the configuration has no section `rewrite`; add it and run again", file=sys.stderr)
    else:
        _print_published(arguments, version, outcomes)
        if "evaluate" in outcomes:
            _print_results(store, outcomes["evaluate"].manifest)
    return 0


def run_stage(name: str, config: Config, version: Version) -> _StageOutcome:
    from vecap_tasks.core.executor import prepare, run_shards
    from vecap_tasks.core.stage_records import recorded_failure
    from vecap_tasks.progress import meter

    start = time.monotonic()
    stage = load_stage(name, config, version)
    with recorded_failure(stage.store, stage.folder), meter(name) as shown:
        shown.wait("planning")
        prepare(stage, partial(shown.update, unit="parts"))
        shards = stage.plan()
        if shards:
            run_shards(stage, shards, _report_of(stage, shown) if shown.is_bar else None)  # it logs lines itself
        shown.wait("committing")
        manifest = stage.commit()
    return _StageOutcome(manifest, len(shards), time.monotonic() - start)


def _report_of(stage: Stage, shown: Meter) -> Callable[[int, int], None]:
    """Return the function that shows the finished shards of *stage*, or the steps of its trainings."""
    from vecap_tasks.train.stage import Train

    if not isinstance(stage, Train):
        return shown.update
    finished, total, has_steps = 0, 0, False

    def report_runs(done: int, runs: int) -> None:
        nonlocal finished, total
        finished, total = done, runs
        if not has_steps:  # torchrun's processes log their steps
            shown.update(done, runs, "runs")

    def report_step(progress: Progress) -> None:
        nonlocal has_steps
        has_steps = True
        done = finished * progress.steps + progress.record.step
        shown.update(done, total * progress.steps, "steps", f", {progress.run}")

    stage.report = report_step
    return report_runs


def _record(name: str, config: Config, version: Version) -> None:
    from vecap_tasks import lineage

    if name == "quality":
        lineage.try_record_gate(config, version)
    elif name == "assemble":
        lineage.record_version(config, version)
    elif name == "evaluate":
        lineage.record_clip(config, version)
        if config.evaluation.champion.approval:
            decision = lineage.decide_champion(config, version)
            hint = "; approval required: trigger the DAG vecap_clip" if decision.moves else ""
            print(f"{decision}{hint}", file=sys.stderr)
        else:
            print(lineage.move_champion(config, version), file=sys.stderr)


def _record_rejection(config: Config, version: Version, error: GateFailed) -> None:
    from vecap_tasks import lineage

    lineage.try_record_gate(config, version, format_error(error))


def _print_outcome(version: Version, name: str, outcome: _StageOutcome) -> None:
    counters = "  ".join(f"{key} {count:,}" for key, count in outcome.manifest.counters.items() if "." not in key)
    work = f"{outcome.shards} shards in {outcome.seconds:.1f} s" if outcome.shards else "nothing to do"
    print(f"{name:<9} {version.name}  {outcome.manifest.digest[:12]}  {work}  {counters}", flush=True)


def _as_json(version: Version, name: str, outcome: _StageOutcome) -> dict[str, Any]:
    return {
        "stage": name,
        "version": version.name,
        "digest": outcome.manifest.digest,
        "shards_run": outcome.shards,
        "seconds": round(outcome.seconds, 3),
        "counters": outcome.manifest.counters,
    }


def _print_published(arguments: argparse.Namespace, version: Version, outcomes: Mapping[str, _StageOutcome]) -> None:
    """Print that *version* is published and, unless models were trained, the commands that use it."""
    if "assemble" not in outcomes:
        return
    samples = outcomes["assemble"].manifest.counters["samples"]
    options = f"--config {shlex.quote(arguments.config)} --version {version.name}"
    use = f"; next: vecap show {options}, vecap export {options} --format FORMAT --out DIR"
    print(f"published {version.name}: {samples:,} samples{'' if 'train' in outcomes else use}", file=sys.stderr)


def _print_results(store: Store, manifest: Manifest) -> None:
    from vecap_tasks.evaluate.report import format_table, read_results

    print()
    print(format_table(read_results(store, manifest)))


def _evaluate_released(arguments: argparse.Namespace) -> int:
    from vecap_tasks.evaluate.released import evaluate_released
    from vecap_tasks.evaluate.report import format_table

    if arguments.retry_failed is not None:
        raise ConfigError("--retry-failed needs a version, which --released does not have; remove one of them")
    results = evaluate_released(configuration(arguments))
    print(results.to_json() if arguments.json else format_table(results), end="" if arguments.json else "\n")
    return 0
