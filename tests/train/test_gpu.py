"""Training on a GPU: a resumed run has the same bytes, and half precision learns like float32."""

import json

import pytest
import torch

from tests.train.factories import Texts, configure, publish_version, run
from tests.train.test_train_stage import digests, stop_after
from vecap_tasks.core.stage import load_stage
from vecap_tasks.train.stage import THROUGHPUT_FILE

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
SAMPLES = [Texts() for _ in range(24)]
HALF = {"device": "cuda", "precision": "bfloat16"}


def losses(config, version):
    run("train", config, version)
    stage = load_stage("train", config, version)
    return [json.loads(line)["loss"] for line in stage.store.read(f"{stage.folder}/vecap-0/log.jsonl").splitlines()]


def test_a_run_resumed_after_sigterm_has_the_same_bytes(home, tmp_path_factory, monkeypatch):
    config = configure(home, arms="[vecap]", epochs=8, **HALF)
    stage = load_stage("train", config, publish_version(config, SAMPLES))
    assert "received SIGTERM" in stop_after(stage, "vecap-0", 2)
    resumed = run("train", config, stage.version)
    monkeypatch.setenv("VECAP_HOME", str(tmp_path_factory.mktemp("undisturbed")))
    assert digests(run("train", config, publish_version(config, SAMPLES))) == digests(resumed)
    stage = load_stage("train", config, stage.version)
    line = json.loads(stage.store.read(f"{stage.folder}/vecap-0/{THROUGHPUT_FILE}").splitlines()[-1])
    assert line["gpu_memory"] > 0


@pytest.mark.parametrize(
    "settings", [{}, {"compile": True}, {"activation_checkpointing": True}, {"micro_batch": 3}], ids=str
)
def test_half_precision_learns_like_float32(home, tmp_path_factory, monkeypatch, settings):
    exact = configure(home, arms="[vecap]", epochs=4, device="cuda")
    expected = losses(exact, publish_version(exact, SAMPLES))
    monkeypatch.setenv("VECAP_HOME", str(tmp_path_factory.mktemp("half")))
    half = configure(home, arms="[vecap]", epochs=4, **HALF, **settings)
    result = losses(half, publish_version(half, SAMPLES))
    assert result == pytest.approx(expected, abs=0.1)
    assert result != expected
