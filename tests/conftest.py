"""Fixtures shared by all tests: a separate configuration in an empty folder, and local servers."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tests.installation import DEMO, REPOSITORY, small_config
from tests.services import mlflow, running, seaweedfs
from vecap_tasks import outages
from vecap_tasks.config import Config, load_config

pytest_plugins = ["tests.browser"]

# The tests of this folder share the fixture `installation`.
_INSTALLATION = "tests/end_to_end/airflow_services/"


@pytest.fixture(autouse=True)
def _no_outage_timeout() -> Iterator[None]:
    """Let outages fail at once, until a test reads a configuration, which sets the timeout."""
    outages.set_timeout(0)
    yield
    outages.set_timeout(0)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty VECAP_HOME, with no service in the environment."""
    monkeypatch.setenv("VECAP_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("VECAP_DASK_ADDRESS", "VECAP_MLFLOW_URI", "VECAP_WEB_PORT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def demo_config(home: Path) -> Config:
    """The demo configuration, with its files in an empty folder."""
    return load_config(DEMO)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the demo configuration and a small training."""
    return small_config(tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder shared by all processes of this test run."""
    base = tmp_path_factory.getbasetemp()
    return base if worker_id == "master" else base.parent


def build_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """Return *folder*, filled by *build* in the first process that calls it, while the others wait."""
    built = folder.with_name(f"{folder.name}.built")
    with FileLock(f"{folder}.lock"):
        if not built.exists():
            folder.mkdir()
            build(folder)
            built.touch()
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real input that is not part of the project; tests that need it are skipped if it is missing."""
    folder = Path(os.environ.get("VECAP_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real input in {folder}; set VECAP_SHARED_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """A local S3 server with conditional writes."""
    from moto.server import ThreadedMotoServer

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    yield f"http://127.0.0.1:{port}"
    server.stop()


@pytest.fixture(scope="session")
def seaweedfs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A local S3 server: the one of the deployment."""
    with running(seaweedfs(tmp_path_factory.mktemp("seaweedfs"))) as service:
        yield service.url


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real local MLflow server."""
    with running(mlflow(tmp_path_factory.mktemp("mlflow"))) as service:
        yield service.url


@pytest.fixture
def create_bucket(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """A function that creates an empty bucket on a server, and sets the environment variables to access it."""
    import boto3

    def create(server: str) -> str:
        for name, value in {
            "AWS_ENDPOINT_URL": server,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        bucket = f"vecap-{uuid.uuid4().hex}"
        boto3.client("s3").create_bucket(Bucket=bucket)
        return bucket

    return create


@pytest.fixture
def s3_bucket(s3_server: str, create_bucket: Callable[[str], str]) -> str:
    """An empty bucket, with the environment variables to access it."""
    return create_bucket(s3_server)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run slow tests last, and tests of the installation first, because one process needs most of the time for them."""

    def order(item: pytest.Item) -> tuple[bool, bool]:
        return not item.location[0].startswith(_INSTALLATION), "slow" in item.keywords

    items.sort(key=order)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Run each file in one process, and all files of the installation in one: their fixtures are expensive."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "installation" if file.startswith(_INSTALLATION) else file

    return ByFile(config, log)
