"""The Dask cluster of one machine runs the code of its owner only, though every user reaches its ports."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import dask.config
import pytest
from distributed import Security
from distributed.comm import connect as open_connection

from tests.installation import DEMO, environment
from tests.rewrite.certificates import Authority
from vecap_tasks.config import Config, load_config
from vecap_tasks.core.dask_cluster import connect
from vecap_tasks.local import supervisor
from vecap_tasks.local.definitions import service_definitions
from vecap_tasks.local.settings import Settings
from vecap_tasks.local.supervisor import write_certificate


@dataclass(frozen=True, slots=True)
class Cluster:
    """The scheduler and a worker of `service_definitions`, and the addresses that they and the nanny listen on."""

    settings: Settings
    config: Config
    listening: tuple[str, ...]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = Settings.from_environment(environment(tmp_path_factory.mktemp("home")))
    settings.folder.mkdir()
    write_certificate(settings)
    return settings


@pytest.fixture(scope="module")
def cluster(settings: Settings) -> Iterator[Cluster]:
    commands = {service.name: service.command for service in service_definitions(settings, migrate=False)}
    config = load_config(DEMO, [f"dask.address={settings.dask_address}"])
    with ExitStack() as stack:
        for command in (commands["dask-scheduler"], (*commands["dask-workers"], "--nworkers", "1")):
            process = subprocess.Popen(command, env=settings.environment(), stderr=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.terminate)
        with documented(settings), connect(config) as client:
            client.wait_for_workers(1, timeout=60)
            worker, found = next(iter(client.scheduler_info()["workers"].items()))
        yield Cluster(settings, config, (settings.dask_address, found["nanny"], worker))


def documented(settings: Settings) -> dask.config.set:
    """Set what the documentation has a user of the command line export."""
    file = str(settings.dask_certificate)
    return dask.config.set({f"distributed.comm.tls.{name}": file for name in ("ca-file", "client.cert")})


def ours(settings: Settings) -> Security:
    file = str(settings.dask_certificate)
    return Security(require_encryption=True, tls_ca_file=file, tls_client_cert=file, tls_client_key=file)


def accepted(addresses: tuple[str, ...], security: Security, timeout: int = 1) -> list[bool]:
    """Return for each address whether what listens there accepts a client that shows *security* within *timeout*."""

    async def one(address: str) -> bool:
        try:
            comm = await open_connection(address, timeout=timeout, **security.get_connection_args("client"))
        except OSError:
            return False
        await comm.close()
        return True

    async def every() -> list[bool]:
        return list(await asyncio.gather(*map(one, addresses)))

    return asyncio.run(every())


def test_scheduler_workers_and_nannies_speak_with_their_owner_only(cluster: Cluster, tmp_path: Path) -> None:
    assert all(address.startswith("tls://127.0.0.1:") for address in cluster.listening)
    assert accepted(cluster.listening, ours(cluster.settings), timeout=60) == [True] * 3
    plain = tuple(address.replace("tls://", "tcp://") for address in cluster.listening)
    assert accepted(plain, Security(require_encryption=False)) == [False] * 3
    files = Authority(tmp_path / "strangers").sign("stranger")
    stranger = Security(  # who would believe us, so that a refusal is theirs
        tls_ca_file=str(cluster.settings.dask_certificate), tls_client_cert=files["cert"], tls_client_key=files["key"]
    )
    assert accepted(cluster.listening, stranger) == [False] * 3


def test_work_is_done_for_a_client_with_the_documented_settings(cluster: Cluster) -> None:
    with documented(cluster.settings), connect(cluster.config) as client:
        assert client.submit(sum, [1, 2]).result() == 3


def test_the_private_key_is_for_the_owner_only(settings: Settings) -> None:
    file = settings.dask_certificate
    assert b"PRIVATE KEY" in file.read_bytes()
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_a_certificate_is_kept_until_it_nears_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.from_environment(environment(tmp_path))
    file = settings.dask_certificate
    with monkeypatch.context() as patch:
        patch.setattr(supervisor, "_VALID", timedelta(days=30))
        write_certificate(settings)
    old = file.read_bytes()
    write_certificate(settings)
    renewed = file.read_bytes()
    assert renewed != old
    write_certificate(settings)
    assert file.read_bytes() == renewed
    file.write_text("damaged")
    write_certificate(settings)
    assert b"BEGIN CERTIFICATE" in file.read_bytes()
