"""A training process that torchrun starts. It does not import Airflow.

    torchrun --nproc-per-node 8 -m vecap_tasks.train.torchrun_worker --config FILE --version 2026-01-01 --shard mixed-0

The command writes the final state to the store. `vecap train` then exports and publishes the model.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import threading
from contextlib import nullcontext
from pathlib import Path

from vecap_tasks.config import Config, load_config
from vecap_tasks.core.store import Store
from vecap_tasks.core.version import read_version
from vecap_tasks.errors import VecapError, format_error


def main(arguments: list[str] | None = None) -> int:
    """Train one run. Return the exit code: 0, or 1 after printing the error and writing it to the `--failure` file."""
    parser = argparse.ArgumentParser(prog="vecap_tasks.train.torchrun_worker", description=__doc__)
    parser.add_argument("--config", required=True, metavar="FILE", help="configuration file (YAML)")
    parser.add_argument("--base", metavar="DIR", help="base of relative paths (default: folder of the file)")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--version", required=True, metavar="V", help="version to train on, e.g. 2026-01-01")
    parser.add_argument("--shard", required=True, metavar="RUN", help="arm and seed, e.g. mixed-0")
    parser.add_argument("--failure", metavar="FILE", help="file to write the error to, for the parent process")
    options = parser.parse_args(arguments)
    is_first = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(level=logging.INFO if is_first else logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        config = load_config(options.config, options.overrides)
        if options.base:
            config = config.with_base(Path(options.base))
        if options.failure:
            threading.Thread(target=_stop_with_stdin, daemon=True).start()
        _train(config, options.version, options.shard)
    except (VecapError, OSError) as error:
        if options.failure:
            _write_failure(Path(options.failure), error)
        print(f"vecap: {format_error(error)}", file=sys.stderr, flush=True)
        return 1
    return 0


def _train(config: Config, name: str, run: str) -> None:
    from vecap_tasks.train.distributed import join_process_group
    from vecap_tasks.train.stage import Train
    from vecap_tasks.train.trainer import train

    stage = Train(config, read_version(Store(config.resolve(config.root)), config.dataset, name))
    checkpoints = stage.checkpoints(run)
    settings = config.training
    timeout = settings.launch.rendezvous_timeout + config.outage_timeout  # rank 0 may wait to save a checkpoint
    with join_process_group(settings.device, timeout) as process_group:
        with stage.live_logger(run) if process_group.rank == 0 else nullcontext() as live_logger:
            state = train(config, stage.version, run, process_group, checkpoints, [live_logger] if live_logger else [])
        if process_group.rank == 0:
            checkpoints.save(state)
        process_group.barrier()


def _stop_with_stdin() -> None:
    """Send SIGTERM to this process when standard input closes, i.e. when the parent process exits."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _write_failure(file: Path, error: BaseException) -> None:
    """Write the error, unless another rank already has: later failures follow from the first."""
    try:
        with file.open("x", encoding="utf-8") as stream:
            json.dump({"kind": type(error).__name__, "reason": format_error(error)}, stream)
    except FileExistsError:
        pass


if __name__ == "__main__":
    sys.exit(main())
