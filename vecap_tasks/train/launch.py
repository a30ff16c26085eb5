"""Starts the processes of a run with torchrun and waits for them.

On each additional node, run this module while the first node trains (`vecap train`, or the Airflow task):

    python -m vecap_tasks.train.launch --config FILE --version 2026-01-01

The processes do not import Airflow, because Airflow cannot be used in subprocesses of a task.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

from vecap_tasks.config import load_config
from vecap_tasks.core.stage import Stage, load_stage
from vecap_tasks.core.store import Store
from vecap_tasks.core.temporary import temporary_folder
from vecap_tasks.core.version import read_version
from vecap_tasks.errors import ConfigError, CorruptError, OutageError, PermanentError, VecapError, format_error
from vecap_tasks.train.signals import Interrupted, StopRequest, catch_sigterm

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
_ERROR_TYPES: dict[str, type[VecapError]] = {
    kind.__name__: kind for kind in (PermanentError, ConfigError, CorruptError, Interrupted, OutageError)
}


def launch(stage: Stage, run: str) -> None:
    """Train *run* in new processes, which leave its final state in the store.

    Raises the error of the first process that failed, and Interrupted on SIGTERM, which is forwarded.
    """
    with temporary_folder() as work:
        (work / "config.yaml").write_text(stage.config.model_dump_json(), encoding="utf-8")
        with catch_sigterm() as stop_request:
            exit_code = _run_command(command(stage, run, work), stop_request)
        if (work / "failure.json").exists():
            failure = json.loads((work / "failure.json").read_text(encoding="utf-8"))
            raise _ERROR_TYPES.get(failure["kind"], VecapError)(failure["reason"])
        if stop_request.requested:
            raise Interrupted(f"{run}: received SIGTERM; run the same command again to resume from the last checkpoint")
        if exit_code:
            raise VecapError(
                f"{run}: the training processes failed with exit code {exit_code}; see their output above, then run "
                "the same command again to resume from the last checkpoint"
            )


def command(stage: Stage, run: str, work: Path) -> list[str]:
    """Return the command that trains *run* on this node. It reads `config.yaml` and writes `failure.json` in *work*."""
    settings = stage.config.training.launch
    rendezvous = ["--standalone"]
    if settings.nodes > 1:
        rendezvous = [
            "--nnodes", str(settings.nodes), "--rdzv-backend", "c10d", "--rdzv-endpoint", str(settings.rendezvous),
            "--rdzv-id", f"{stage.fingerprint[:12]}-{run}",
            "--rdzv-conf", f"join_timeout={settings.rendezvous_timeout:.0f}",
        ]  # fmt: skip
    return [
        sys.executable, "-m", "torch.distributed.run", *rendezvous,
        "--nproc-per-node", str(settings.processes), "--max-restarts", "0",
        "--shutdown-timeout", str(settings.shutdown_timeout),
        "-m", "vecap_tasks.train.torchrun_worker",
        "--config", str(work / "config.yaml"), "--base", str(stage.config.base),
        "--version", stage.version.name, "--shard", run, "--failure", str(work / "failure.json"),
    ]  # fmt: skip


def _run_command(command: list[str], stop_request: StopRequest) -> int:
    """Run *command*, log its output, forward SIGTERM, and return its exit code.

    The command's standard input stays open while this process runs; workers exit when it closes.
    """
    log.info("starting %s", " ".join(command))
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    ) as process:
        reader = threading.Thread(target=_log_lines, args=(process.stdout,), daemon=True)
        reader.start()
        forwarded = False
        while True:
            try:
                exit_code = process.wait(_POLL_SECONDS)
                break
            except subprocess.TimeoutExpired:
                if stop_request.requested and not forwarded:
                    forwarded = True
                    process.send_signal(signal.SIGTERM)
        reader.join(_POLL_SECONDS)
        return exit_code


def _log_lines(stream: IO[str]) -> None:
    for line in stream:
        log.info("%s", line.rstrip())


def main(arguments: list[str] | None = None) -> int:
    """Join the first node in all unfinished runs. Return the exit code: 0, or 1 after printing the error."""
    parser = argparse.ArgumentParser(prog="vecap_tasks.train.launch", description=__doc__)
    parser.add_argument("--config", required=True, metavar="FILE", help="configuration file (YAML)")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--version", required=True, metavar="V", help="version to train on, e.g. 2026-01-01")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        config = load_config(options.config, options.overrides)
        version = read_version(Store(config.resolve(config.root)), config.dataset, options.version)
        stage = load_stage("train", config, version)
        for run in stage.plan():
            launch(stage, run)
    except (VecapError, OSError) as error:
        print(f"vecap: {format_error(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
