"""Starts the processes of a run by torchrun and waits for them; a node that joins others runs it as a program.

    python -m vecap_tasks.train.launch --config FILE --version 2026-01-01

on each further node, while the first one trains (`vecap train`, or the task in Airflow).

The processes are started afresh, as `python -m`, and import nothing of Airflow: within a task it is not usable.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO

from vecap_tasks.config import load_config
from vecap_tasks.core.stage import Stage, load_stage
from vecap_tasks.core.store import Store
from vecap_tasks.core.version import read_version
from vecap_tasks.errors import ConfigError, CorruptError, PermanentError, VecapError, format_error
from vecap_tasks.train.signals import Interrupted, StopRequest, catch_sigterm

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5
_RAISED = (PermanentError, ConfigError, CorruptError, Interrupted)
_KINDS: dict[str, type[VecapError]] = {kind.__name__: kind for kind in _RAISED}


def launch(stage: Stage, run: str) -> None:
    """Train *run* in processes of their own; its last state is in the store then.

    Raises VecapError with what the first process that failed said, and Interrupted on SIGTERM, which is passed on.
    """
    with tempfile.TemporaryDirectory(prefix="vecap-") as folder:
        work = Path(folder)
        (work / "config.yaml").write_text(stage.config.model_dump_json(), encoding="utf-8")
        with catch_sigterm() as ending:
            code = _follow(command(stage, run, work), ending)
        if (work / "failure.json").exists():
            said = json.loads((work / "failure.json").read_text(encoding="utf-8"))
            raise _KINDS.get(said["kind"], VecapError)(said["reason"])
        if ending.asked:
            raise Interrupted(f"{run}: told to end; the same command goes on from the last checkpoint")
        if code:
            raise VecapError(
                f"{run}: the training processes ended with {code}; what they said stands above, and the same "
                "command goes on from the last checkpoint"
            )


def command(stage: Stage, run: str, work: Path) -> list[str]:
    """Return the command that trains *run* on this node, with the files `config.yaml` and `failure.json` in *work*."""
    settings = stage.config.train.launch
    meeting = ["--standalone"]
    if settings.nodes > 1:
        meeting = [
            "--nnodes", str(settings.nodes), "--rdzv-backend", "c10d", "--rdzv-endpoint", str(settings.rendezvous),
            "--rdzv-id", f"{stage.fingerprint[:12]}-{run}",
            "--rdzv-conf", f"join_timeout={settings.rendezvous_timeout:.0f}",
        ]  # fmt: skip
    return [
        sys.executable, "-m", "torch.distributed.run", *meeting,
        "--nproc-per-node", str(settings.processes), "--max-restarts", "0",
        "--shutdown-timeout", str(settings.shutdown_timeout),
        "-m", "vecap_tasks.train.torchrun_worker",
        "--config", str(work / "config.yaml"), "--base", str(stage.config.base),
        "--version", stage.version.name, "--shard", run, "--failure", str(work / "failure.json"),
    ]  # fmt: skip


def _follow(command: list[str], ending: StopRequest) -> int:
    """Run *command*, log its lines, pass SIGTERM on, and return its exit code.

    Its standard input is open for as long as we live: the workers leave when it ends.
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
        told = False
        while True:
            try:
                code = process.wait(_LOOK_SECONDS)
                break
            except subprocess.TimeoutExpired:
                if ending.asked and not told:
                    told = True
                    process.send_signal(signal.SIGTERM)
        reader.join(_LOOK_SECONDS)
        return code


def _log_lines(stream: IO[str]) -> None:
    for line in stream:
        log.info("%s", line.rstrip())


def main(arguments: list[str] | None = None) -> int:
    """Join the first node in all runs that are to be done; return 0, or 1 after one line of what was wrong."""
    parser = argparse.ArgumentParser(prog="vecap_tasks.train.launch", description=__doc__)
    parser.add_argument("--config", required=True, metavar="FILE", help="the configuration, a YAML file")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--version", required=True, metavar="V", help="the version to train on, such as 2026-01-01")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        config = load_config(given.config, given.overrides)
        version = read_version(Store(config.resolve(config.root)), config.dataset, given.version)
        stage = load_stage("train", config, version)
        for run in stage.plan():
            launch(stage, run)
    except (VecapError, OSError) as error:
        print(f"vecap: {format_error(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
