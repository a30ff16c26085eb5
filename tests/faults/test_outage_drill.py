"""`vecap run` of a miniature web while each service is away for a while and the disk is full: the digests are equal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.interrupt import miniature_web
from tests import services
from tests.faults.disk import fill, small_disk
from tests.installation import INTERVAL, REPOSITORY, small_config, wait_until
from tests.services import Service

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive, pytest.mark.timeout(3000)]

AWAY = 10  # seconds
ANSWERS = 5  # of the model server before it is taken away
KINDS = {
    "S3": "cannot ",
    "model": "model tiny at ",
    "MLflow": "no MLflow server answers at ",
    "disk": "No space left on device (",
}


def served(url: str, prompt: str) -> dict[str, Any]:
    return {"backend": "openai", "model": "tiny", "prompt": prompt, "server": {"urls": [url]}}


def start(config: Path, root: str, disk: Path, log: Path, web: int) -> subprocess.Popen[str]:
    """Start `vecap run` with its log in *log*; its standard output has the digests as JSON."""
    command = [sys.executable, "-m", "vecap_tasks.cli", "run", "--config", str(config), "--version", INTERVAL, "--json"]
    with log.open("w") as stream:
        return subprocess.Popen(
            [*command, "--set", f"root={root}"],
            env=os.environ | {"VECAP_HOME": str(config.parent), "VECAP_WEB_PORT": f"{web}", "TMPDIR": str(disk)},
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=stream,
            text=True,
        )


def digests(process: subprocess.Popen[str], log: Path) -> dict[str, str]:
    output, _ = process.communicate(timeout=2000)
    assert process.returncode == 0, log.read_text()
    return {stage["stage"]: stage["digest"] for stage in json.loads(output)}


def test_outages_of_every_service_do_not_change_a_run(tmp_path: Path, create_bucket: Callable[[str], str]) -> None:
    s3, mlflow, model = (make(tmp_path) for make in (services.seaweedfs, services.mlflow, services.model_server))
    log = tmp_path / "run.log"

    def wait_for(text: str) -> None:
        wait_until(lambda: text in log.read_text(), 900, f"{text} in:\n{log.read_text()}", 0.05)

    def take_away(service: Service, kind: str) -> None:
        service.kill()
        wait_for(KINDS[kind])
        time.sleep(AWAY)
        service.start()

    with small_disk(tmp_path / "disk", 128 << 20) as disk, miniature_web(tmp_path / "web") as web:
        config = small_config(tmp_path)
        values = json.loads(config.read_text())
        values["rewrite"] |= {"vlm": served(model.url, "describe"), "llm": served(model.url, "fuse")}
        values["mlflow"]["tracking_uri"] = mlflow.url
        config.write_text(json.dumps(values))
        try:
            for service in (s3, mlflow, model):
                service.start()
            for service in (s3, mlflow, model):
                service.wait_until_ready()
            bucket = create_bucket(s3.url)
            reference = tmp_path / "reference.log"
            expected = digests(start(config, f"s3://{bucket}/reference", disk, reference, web), reference)
            assert " next attempt in " not in reference.read_text()
            mlflow.kill()
            model.kill()
            answered = len(model.log.read_text().split())
            unlimited = model.command
            model.command = [*unlimited, str(ANSWERS)]
            model.start()
            model.wait_until_ready()
            model.command = unlimited
            process = start(config, f"s3://{bucket}/disturbed", disk, log, web)
            wait_for("crawl: 1 of ")
            take_away(s3, "S3")
            wait_for(f"crawl {INTERVAL}: 2 of 2 shards, ")
            ballast = fill(disk)
            wait_for(KINDS["disk"])
            time.sleep(AWAY)
            ballast.unlink()
            wait_for(KINDS["MLflow"])  # it records the report of the quality gate
            time.sleep(AWAY)
            mlflow.start()
            wait_until(lambda: len(model.log.read_text().split()) >= answered + ANSWERS, 600, "captions", 0.02)
            take_away(model, "model")
            wait_for(f"rewrite {INTERVAL}: 2 of 2 shards, ")
            take_away(mlflow, "MLflow")
            assert digests(process, log) == expected
        finally:
            for service in (s3, mlflow, model):
                service.kill()
    text = log.read_text()
    assert "Traceback" not in text
    for kind, what in {"S3": "s3://", "model": "model tiny", "MLflow": "MLflow", "disk": "space in "}.items():
        lines = [line for line in text.splitlines() if line.startswith(what) and " is available again after " in line]
        assert lines, f"{kind}: {text}"
