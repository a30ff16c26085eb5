"""Several processes, real ones started by torchrun, do what one does."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import takewhile

import pytest

from tests.conftest import REPOSITORY
from tests.train.factories import Texts, configure, give_version, run
from tests.train.test_train_stage import stopped_after
from vecap_tasks.core.stage import load_stage

SAMPLES = [Texts() for _ in range(20)]


def environment():
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}


def losses(stage, shard):
    return [json.loads(line)["loss"] for line in stage.store.read(f"{stage.folder}/{shard}/log.jsonl").splitlines()]


def test_two_ranks_and_parts_have_the_loss_and_the_gradients_of_one_batch(home):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, "-m", "tests.train.two_ranks", str(home)],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == 8
    for name, (loss, gradient) in found.items():
        assert loss < 1e-5, name
        assert gradient < 1e-5, name


def test_a_run_of_one_process_is_taken_up_by_two(home, tmp_path_factory, monkeypatch):
    """Through the stage: stopped after some steps on one process, it ends on two, in parts, as if undisturbed."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    config = configure(home, arms="[mixed]", epochs=3, micro_batch=3)
    stage = load_stage("train", config, give_version(config, SAMPLES))
    stopped_after(stage, "mixed-0", 1)
    several = configure(home, arms="[mixed]", epochs=3, launch="{processes: 2}", micro_batch=3)
    resumed = load_stage("train", several, stage.version)
    assert resumed.checkpoints("mixed-0").steps() == [4]
    manifest = run("train", several, stage.version)
    assert manifest.counters["steps"] == 7
    assert not resumed.checkpoints("mixed-0").steps()
    made = losses(resumed, "mixed-0")
    monkeypatch.setenv("VECAP_HOME", str(tmp_path_factory.mktemp("undisturbed")))
    undisturbed = load_stage("train", config, give_version(config, SAMPLES))
    undisturbed.run("mixed-0")
    assert made == pytest.approx(losses(undisturbed, "mixed-0"), abs=1e-5)
    assert len(made) == 7


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
def test_processes_leave_with_who_started_them(home, number):
    """SIGTERM is passed on; a SIGKILL is noticed. Both ways they save first, and nothing stays running."""
    settings = {"epochs": 40_000, "checkpoint_steps": 1_000_000}  # so that none is saved because it is due
    config = configure(home, arms="[vecap]", launch="{processes: 2, shutdown_timeout: 60}", **settings)
    stage = load_stage("train", config, give_version(config, SAMPLES))
    command = [sys.executable, "-c", LAUNCH, config.model_dump_json(), str(config.base)]
    with subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        before = list(takewhile(lambda line: "  step " not in line, process.stderr))
        assert process.poll() is None, "".join(before)
        process.send_signal(number)
        said = process.stderr.read()
    if number == signal.SIGTERM:
        assert "vecap-0: told to end, and saved after step" in said
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
    """Return the workers that have *home* in their environment."""
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            if "vecap_tasks.train.torchrun_worker" in process.cmdline() and process.environ().get("VECAP_HOME") == home:
                found.append(str(process.pid))
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found
