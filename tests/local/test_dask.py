"""The local Dask cluster runs code of its owner only, although other users can reach its ports."""

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
    """The scheduler and one worker of `service_definitions`, and the addresses of scheduler, nanny and worker."""

    settings: Settings
    config: Config
    addresses: tuple[str, ...]


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
        with documented_client(settings), connect(config) as client:
            client.wait_for_workers(1, timeout=60)
            worker, info = next(iter(client.scheduler_info()["workers"].items()))
        yield Cluster(settings, config, (settings.dask_address, info["nanny"], worker))


def documented_client(settings: Settings) -> dask.config.set:
    """Return Dask settings that the documentation tells command line users to export."""
    file = str(settings.dask_certificate)
    return dask.config.set({f"distributed.comm.tls.{name}": file for name in ("ca-file", "client.cert")})


def owner_security(settings: Settings) -> Security:
    file = str(settings.dask_certificate)
    return Security(require_encryption=True, tls_ca_file=file, tls_client_cert=file, tls_client_key=file)


def accepted(addresses: tuple[str, ...], security: Security, timeout: int = 1) -> list[bool]:
    """Return, for each address, whether it accepts a client with *security* within *timeout* seconds."""

    async def is_accepted(address: str) -> bool:
        try:
            comm = await open_connection(address, timeout=timeout, **security.get_connection_args("client"))
        except OSError:
            return False
        await comm.close()
        return True

    async def check_all() -> list[bool]:
        return list(await asyncio.gather(*map(is_accepted, addresses)))

    return asyncio.run(check_all())


def test_scheduler_workers_and_nannies_accept_only_their_owner(cluster: Cluster, tmp_path: Path) -> None:
    assert all(address.startswith("tls://127.0.0.1:") for address in cluster.addresses)
    assert accepted(cluster.addresses, owner_security(cluster.settings), timeout=60) == [True] * 3
    plain = tuple(address.replace("tls://", "tcp://") for address in cluster.addresses)
    assert accepted(plain, Security(require_encryption=False)) == [False] * 3
    files = Authority(tmp_path / "strangers").sign("stranger")
    stranger = Security(  # trusts our certificate, so that only the servers can reject it
        tls_ca_file=str(cluster.settings.dask_certificate), tls_client_cert=files["cert"], tls_client_key=files["key"]
    )
    assert accepted(cluster.addresses, stranger) == [False] * 3


def test_a_client_with_the_documented_settings_can_submit_work(cluster: Cluster) -> None:
    with documented_client(cluster.settings), connect(cluster.config) as client:
        assert client.submit(sum, [1, 2]).result() == 3


def test_only_the_owner_can_read_the_private_key(settings: Settings) -> None:
    file = settings.dask_certificate
    assert b"PRIVATE KEY" in file.read_bytes()
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_a_certificate_is_kept_until_it_is_about_to_expire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.from_environment(environment(tmp_path))
    file = settings.dask_certificate
    with monkeypatch.context() as patch:
        patch.setattr(supervisor, "_CERTIFICATE_LIFETIME", timedelta(days=30))
        write_certificate(settings)
    old = file.read_bytes()
    write_certificate(settings)
    renewed = file.read_bytes()
    assert renewed != old
    write_certificate(settings)
    assert file.read_bytes() == renewed
    file.write_text("corrupt")
    write_certificate(settings)
    assert b"BEGIN CERTIFICATE" in file.read_bytes()
