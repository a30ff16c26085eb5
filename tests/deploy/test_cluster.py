"""A crawl of the miniature web through the whole deployment gives the same bytes although workers are killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from tests.conftest import DEMO, REPOSITORY
from tests.deploy.cluster import Cluster, missing_programs, read_secrets
from tests.installation import IMAGES, INTERVAL, SMALL
from vecap_tasks.errors import VecapError
from vecap_tasks.local.airflow import Api

pytestmark = [pytest.mark.slow, pytest.mark.services, pytest.mark.cluster, pytest.mark.timeout(1200)]

KILLED = ("dask-worker", "airflow-worker", "airflow-training-worker")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    missing = missing_programs()
    if missing:
        pytest.skip(f"a cluster needs {', '.join(missing)}; see docs/deploy.md")
    # Not in pytest's folder: as root, PostgreSQL runs as another user, which cannot enter that folder.
    with tempfile.TemporaryDirectory(prefix="vecap-") as name:
        folder = Path(name) / "cluster"
        folder.mkdir()
        variables = {"DEMO_IMAGES": str(IMAGES), "AIRFLOW_PAUSED_AT_CREATION": "false", "VECAP_TAG": "test"}
        cluster = Cluster(folder, read_secrets(folder) | variables, ("demo",))
        try:
            cluster.up(300)
            yield cluster
        finally:
            cluster.down()


@pytest.fixture(scope="module")
def api(cluster: Cluster) -> Api:
    return login(cluster, "admin")


def login(cluster: Cluster, user: str) -> Api:
    password = cluster.variables[f"AIRFLOW_{user.upper()}_PASSWORD"]
    return Api.login(f"http://{cluster.address('airflow-api')}:8080", user, password)


def bucket(cluster: Cluster, user: str = "vecap") -> Any:
    return boto3.client(
        "s3",
        endpoint_url=f"http://{cluster.address('s3')}:8333",
        aws_access_key_id=user,
        aws_secret_access_key=cluster.variables[f"S3_{user.upper()}_SECRET"],
        region_name="us-east-1",
    )


def objects(client: Any, name: str, prefix: str = "") -> list[str]:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=name, Prefix=prefix)
    return [item["Key"] for page in pages for item in page.get("Contents", [])]


def wait_for(description: str, poll: Any, seconds: float = 600) -> Any:
    deadline = time.monotonic() + seconds
    while not (result := poll()):
        assert time.monotonic() < deadline, f"timed out waiting for {description}"
        time.sleep(0.2)
    return result


def run_of(api: Api, dag: str) -> dict[str, Any] | None:
    """Return the DAG's run of the interval; None if there is none yet or the server is too busy to respond."""
    try:
        runs = api.get(f"/api/v2/dags/{dag}/dagRuns?limit=100")["dag_runs"]
    except VecapError:
        return None
    return next((run for run in runs if run["partition_key"] == INTERVAL), None)


def final_state(run: dict[str, Any] | None) -> str | None:
    """Return the state of a finished run, else None."""
    return run["state"] if run is not None and run["state"] in ("success", "failed") else None


@pytest.fixture(scope="module")
def finished(cluster: Cluster, api: Api) -> Cluster:
    """The cluster after one run of each DAG, with a worker of each kind killed during its work."""
    client = bucket(cluster)
    folder = f"store/demo/{INTERVAL}"
    body = {"logical_date": None, "partition_key": INTERVAL, "conf": {"overrides": list(SMALL)}}
    api.post("/api/v2/dags/vecap_dataset/dagRuns", body)
    wait_for("a shard of the crawl", lambda: objects(client, "vecap", f"{folder}/crawl/_shards/"))
    cluster.kill("airflow-worker")
    wait_for("a shard of captions", lambda: objects(client, "vecap", f"{folder}/rewrite/_shards/"))
    cluster.kill("dask-worker")
    wait_for("a model", lambda: objects(client, "vecap", f"{folder}/train/"))
    cluster.kill("airflow-training-worker")
    for dag in ("vecap_dataset", "vecap_clip"):
        state = wait_for(f"the end of {dag}", lambda dag=dag: final_state(run_of(api, dag)))
        assert state == "success"
    assert set(KILLED) <= set(cluster.restarts)
    return cluster


def digests(read: Any, names: list[str]) -> dict[str, str]:
    """Return the digest of each manifest among *names*, by its folder relative to the interval's."""
    manifests = [name for name in names if name.endswith("manifest.json")]
    return {name.split(f"{INTERVAL}/", 1)[1].rpartition("/")[0]: json.loads(read(name))["digest"] for name in manifests}


def test_the_digests_equal_those_of_a_single_machine(finished: Cluster, tmp_path: Path) -> None:
    client = bucket(finished)
    actual = digests(lambda key: client.get_object(Bucket="vecap", Key=key)["Body"].read(), objects(client, "vecap"))
    (tmp_path / "web").symlink_to(finished.folder / "volumes" / "home" / "web")
    sets = [word for override in SMALL for word in ("--set", override)]
    result = subprocess.run(
        [sys.executable, "-m", "vecap_tasks.cli", "run", "--config", str(DEMO), "--version", INTERVAL, *sets],
        env={name: value for name, value in os.environ.items() if not name.startswith(("VECAP_", "AWS_", "MLFLOW_"))}
        | {"VECAP_HOME": str(tmp_path), "VECAP_WEB_ADDRESS": f"{finished.address('web')}:8765", "OMP_NUM_THREADS": "1"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    files = [str(path) for path in sorted((tmp_path / "store").rglob("manifest.json"))]
    assert actual == digests(lambda name: Path(name).read_bytes(), files)
    assert {name.partition("/")[0] for name in actual} == {
        "crawl",
        "quality",
        "rewrite",
        "assemble",
        "train",
        "evaluate",
    }


def test_the_manifest_records_the_code_version_of_the_image(finished: Cluster) -> None:
    client = bucket(finished)
    manifest = client.get_object(Bucket="vecap", Key=f"store/demo/{INTERVAL}/assemble/manifest.json")["Body"].read()
    assert json.loads(manifest)["provenance"]["code"] == "the cluster's test"


def test_task_logs_are_in_s3_and_models_in_mlflow(finished: Cluster) -> None:
    assert [name for name in objects(bucket(finished, "airflow"), "airflow", "logs/") if "vecap_clip" in name]
    assert [name for name in objects(bucket(finished, "mlflow"), "mlflow") if name.endswith("model.safetensors")]


def test_verify_and_lineage_succeed_on_a_worker(finished: Cluster) -> None:
    for words in (("verify", "--version", INTERVAL), ("lineage", INTERVAL)):
        result = finished.run(
            "airflow-worker", "vecap", words[0], "--config", "/opt/vecap/configs/demo.yaml", *words[1:]
        )
        assert result.returncode == 0, result.stderr + result.stdout


def test_no_secret_leaks_into_files_logs_or_databases(finished: Cluster) -> None:
    secrets = {
        name: value.encode()
        for name, value in finished.variables.items()
        if name.endswith(("PASSWORD", "SECRET", "_KEY", "SECRET_KEY"))
    }
    assert len(secrets) >= 15
    keys = [
        (finished.folder / "secrets" / "tls" / f"{name}.key").read_bytes() for name in ("ca", "scheduler", "client")
    ]
    secrets |= {f"key {number}": key.splitlines()[1] for number, key in enumerate(keys)}
    texts = {str(path.relative_to(finished.folder)): path.read_bytes() for path in finished.folder.glob("logs/*")}
    texts |= {str(path): path.read_bytes() for path in (finished.folder / "volumes/home").rglob("*") if path.is_file()}
    for user in ("vecap", "mlflow", "airflow"):
        client = bucket(finished, user)
        for key in objects(client, user):
            texts[f"s3://{user}/{key}"] = client.get_object(Bucket=user, Key=key)["Body"].read()
    for database in ("mlflow", "airflow"):
        texts[f"database {database}"] = finished.dump(database)
    assert len(texts) > 50
    leaks = [(name, location) for location, text in texts.items() for name, value in secrets.items() if value in text]
    assert leaks == []


def test_airflow_roles_limit_access(finished: Cluster) -> None:
    viewer = login(finished, "viewer")
    assert viewer.get("/api/v2/dags/vecap_dataset/dagRuns")["total_entries"] >= 1
    for api, body in ((viewer, {"logical_date": None, "partition_key": "2030-01-01"}),):
        with pytest.raises(VecapError, match="403"):
            api.post("/api/v2/dags/vecap_dataset/dagRuns", body)
    with pytest.raises(VecapError, match="401"):
        Api.login(f"http://{finished.address('airflow-api')}:8080", "admin", "admin")


def test_mlflow_requires_a_login(finished: Cluster) -> None:
    page = f"http://{finished.address('mlflow')}:5000/api/2.0/mlflow/experiments/search?max_results=5"
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(page)


def test_each_identity_can_access_only_its_own_bucket(finished: Cluster) -> None:
    for user, other in (("vecap", "mlflow"), ("mlflow", "vecap"), ("airflow", "vecap")):
        with pytest.raises(ClientError, match="AccessDenied"):
            bucket(finished, user).put_object(Bucket=other, Key="intruder", Body=b"")
        with pytest.raises(ClientError, match="AccessDenied"):
            bucket(finished, user).list_objects_v2(Bucket=other)


def test_dask_rejects_clients_without_a_valid_certificate(finished: Cluster, tmp_path: Path) -> None:
    from distributed import Client
    from distributed.security import Security

    address = f"{finished.address('dask-scheduler')}:8786"
    with pytest.raises((OSError, TimeoutError)):
        Client(f"tcp://{address}", timeout=5)
    stranger = tmp_path / "stranger"
    read_secrets(stranger)
    tls = stranger / "secrets" / "tls"
    files = {"tls_ca_file": "ca.pem", "tls_client_cert": "client.pem", "tls_client_key": "client.key"}
    security = Security(require_encryption=True, **{name: str(tls / file) for name, file in files.items()})
    with pytest.raises((OSError, TimeoutError)):
        Client(f"tls://{address}", timeout=5, security=security)
