"""The services of one machine while they run: addresses, logins, restarts."""

from __future__ import annotations

import os
import signal
import time
import urllib.error
import urllib.request

import psutil
import pytest

from tests.installation import services, started_under
from vecap_tasks.local import airflow, control
from vecap_tasks.local.state import Phase

pytestmark = [pytest.mark.slow, pytest.mark.services, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def running(installation):
    place, said = installation
    return place.env, place.settings, said


def test_up_prints_addresses_and_login_that_work(running):
    _, settings, said = running
    assert airflow.password(settings) in said
    for port in (settings.airflow, settings.mlflow, settings.dashboard):
        assert port.url in said
    api = airflow.api(settings)
    assert {pool["name"] for pool in api.get("/api/v2/pools")["pools"]} == {"default_pool", "captioning", "gpu"}
    health = api.get("/api/v2/monitor/health")
    assert all(health[part]["status"] == "healthy" for part in ("metadatabase", "scheduler", "dag_processor"))
    with urllib.request.urlopen(f"{settings.mlflow.url}/health") as answer:
        assert answer.status == 200


def test_only_localhost_is_listened_on(running):
    _, settings, _ = running
    own = {process.pid for process in started_under(settings.home)}
    own |= {child.pid for pid in own for child in psutil.Process(pid).children(recursive=True)}
    listening = [c for c in psutil.net_connections("inet") if c.status == psutil.CONN_LISTEN and c.pid in own]
    assert listening
    assert {connection.laddr.ip for connection in listening} == {"127.0.0.1"}


def test_strangers_are_not_let_in(running):
    _, settings, _ = running
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{settings.airflow.url}/api/v2/dags")
    assert refused.value.code == 401


def test_our_pages_are_there_for_who_logged_in(running):
    _, settings, _ = running
    request = urllib.request.Request(f"{settings.airflow.url}/vecap/versions")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)
    assert refused.value.code == 401
    request.add_header("Authorization", f"Bearer {airflow.api(settings).token}")
    with urllib.request.urlopen(request) as answer:
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "2026-01-01" in answer.read().decode()


def test_up_again_changes_nothing_and_says_the_same(running):
    env, settings, said = running
    before = control.status(settings)
    again = services("up", env)
    assert again.returncode == 0
    assert all(line in said for line in again.stdout.splitlines()[-3:])
    after = control.status(settings)
    assert {n: s.process for n, s in before.services.items()} == {n: s.process for n, s in after.services.items()}


def test_a_service_that_dies_comes_back(running):
    _, settings, _ = running
    before = control.status(settings).services["web"]
    process = before.process
    os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        web = control.status(settings).services["web"]
        if web.process != process and web.phase is Phase.READY:
            break
        time.sleep(0.2)
    assert web.phase is Phase.READY
    assert web.starts == before.starts + 1
