"""Several processes, started by torchrun, give the results of a single process."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import takewhile

import pytest

from tests.conftest import REPOSITORY
from tests.train.factories import Texts, configure, publish_version, run
from tests.train.test_train_stage import stop_after
from vecap_tasks.core.stage import load_stage

SAMPLES = [Texts() for _ in range(20)]


def environment():
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}


def losses(stage, shard):
    return [json.loads(line)["loss"] for line in stage.store.read(f"{stage.folder}/{shard}/log.jsonl").splitlines()]


def test_two_ranks_with_micro_batches_have_the_loss_and_gradients_of_one_batch(home):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    completed = subprocess.run(
        [*torchrun, "-m", "tests.train.two_ranks", str(home)],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert completed.returncode == 0, completed.stderr
    differences = json.loads(completed.stdout.splitlines()[-1])
    assert len(differences) == 8
    for name, (loss, gradient) in differences.items():
        assert loss < 1e-5, name
        assert gradient < 1e-5, name


def test_two_processes_can_resume_a_run_of_one_process(home, tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    config = configure(home, arms="[mixed]", epochs=3, micro_batch=3)
    stage = load_stage("train", config, publish_version(config, SAMPLES))
    stop_after(stage, "mixed-0", 1)
    two_processes = configure(home, arms="[mixed]", epochs=3, launch="{processes: 2}", micro_batch=3)
    resumed = load_stage("train", two_processes, stage.version)
    assert resumed.checkpoints("mixed-0").steps() == [4]
    manifest = run("train", two_processes, stage.version)
    assert manifest.counters["steps"] == 7
    assert not resumed.checkpoints("mixed-0").steps()
    result = losses(resumed, "mixed-0")
    monkeypatch.setenv("VECAP_HOME", str(tmp_path_factory.mktemp("undisturbed")))
    uninterrupted = load_stage("train", config, publish_version(config, SAMPLES))
    uninterrupted.run("mixed-0")
    assert result == pytest.approx(losses(uninterrupted, "mixed-0"), abs=1e-5)
    assert len(result) == 7


LAUNCH = """
import json, logging, sys
from pathlib import Path
from vecap_tasks.config import parse_config
from vecap_tasks.core.store import Store
from vecap_tasks.core.version import read_version
from vecap_tasks.errors import VecapError
from vecap_tasks.core.stage import load_stage
logging.basicConfig(level=logging.INFO, format="%(message)s")
config = parse_config(json.loads(sys.argv[1]), Path(sys.argv[2]))
store = Store(config.resolve(config.root))
try:
    load_stage("train", config, read_version(store, config.dataset, "2026-01-01")).run("vecap-0")
except VecapError as error:
    sys.exit(str(error))
"""


@pytest.mark.exhaustive
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_workers_save_a_checkpoint_and_exit_when_their_parent_is_stopped(home, number):
    """The parent forwards SIGTERM; workers notice a SIGKILL of the parent."""
    settings = {"epochs": 40_000, "checkpoint_steps": 1_000_000}  # no regular checkpoint
    config = configure(home, arms="[vecap]", launch="{processes: 2, shutdown_timeout: 60}", **settings)
    stage = load_stage("train", config, publish_version(config, SAMPLES))
    command = [sys.executable, "-c", LAUNCH, config.model_dump_json(), str(config.base)]
    with subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        lines = list(takewhile(lambda line: "  step " not in line, process.stderr))
        assert process.poll() is None, "".join(lines)
        process.send_signal(number)
        output = process.stderr.read()
    if number == signal.SIGTERM:
        assert "vecap-0: received SIGTERM, saved a checkpoint after step" in output
        assert process.returncode == 1
    deadline = time.monotonic() + 240
    while running(stage.config.resolve("${VECAP_HOME}")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not running(stage.config.resolve("${VECAP_HOME}"))
    steps = stage.checkpoints("vecap-0").steps()
    assert len(steps) == 1
    time.sleep(0.5)
    assert stage.checkpoints("vecap-0").steps() == steps


def running(home: str) -> list[str]:
    """Return the process ids of workers with VECAP_HOME=*home*."""
    import psutil

    pids = []
    for process in psutil.process_iter():
        try:
            if "vecap_tasks.train.torchrun_worker" in process.cmdline() and process.environ().get("VECAP_HOME") == home:
                pids.append(str(process.pid))
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return pids
