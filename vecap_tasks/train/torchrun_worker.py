"""One of the processes that torchrun starts to train a run together. It knows nothing of Airflow.

    torchrun --nproc-per-node 8 -m vecap_tasks.train.torchrun_worker --config FILE --version 2026-01-01 --shard mixed-0

leaves the trained state in the store, from which `vecap train` exports and publishes the model.
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
    """Train, and return 0; or 1 after one line of what was wrong, which also goes to the file `--failure`."""
    parser = argparse.ArgumentParser(prog="vecap_tasks.train.torchrun_worker", description=__doc__)
    parser.add_argument("--config", required=True, metavar="FILE", help="the configuration, a YAML file")
    parser.add_argument("--base", metavar="DIR", help="where its relative paths start from (the file's folder)")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--version", required=True, metavar="V", help="the version to train on, such as 2026-01-01")
    parser.add_argument("--shard", required=True, metavar="RUN", help="an arm and a seed, such as mixed-0")
    parser.add_argument("--failure", metavar="FILE", help="where to tell who started us what was wrong")
    given = parser.parse_args(arguments)
    first = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(level=logging.INFO if first else logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        config = load_config(given.config, given.overrides)
        if given.base:
            config = config.with_base(Path(given.base))
        if given.failure:
            threading.Thread(target=_leave_with_input, daemon=True).start()
        _train(config, given.version, given.shard)
    except (VecapError, OSError) as error:
        if given.failure:
            _tell(Path(given.failure), error)
        print(f"vecap: {format_error(error)}", file=sys.stderr, flush=True)
        return 1
    return 0


def _train(config: Config, name: str, run: str) -> None:
    from vecap_tasks.train.distributed import join_process_group
    from vecap_tasks.train.stage import Train
    from vecap_tasks.train.trainer import train

    stage = Train(config, read_version(Store(config.resolve(config.root)), config.dataset, name))
    checkpoints = stage.checkpoints(run)
    with join_process_group(config.train.device, config.train.launch.rendezvous_timeout) as ranks:
        with stage.live_logger(run) if ranks.rank == 0 else nullcontext() as live_logger:
            state = train(config, stage.version, run, ranks, checkpoints, [live_logger] if live_logger else [])
        if ranks.rank == 0:
            checkpoints.save(state)
        ranks.wait()


def _leave_with_input() -> None:
    """Tell this process to end when who started it is gone: standard input ends then."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _tell(file: Path, error: BaseException) -> None:
    """Write what was wrong, unless another rank has: the others fail of the first one's failure."""
    try:
        with file.open("x", encoding="utf-8") as stream:
            json.dump({"kind": type(error).__name__, "reason": format_error(error)}, stream)
    except FileExistsError:
        pass


if __name__ == "__main__":
    sys.exit(main())
