"""Running local services: URLs, logins, restarts."""

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
    place, output = installation
    return place.env, place.settings, output


def test_up_prints_working_urls_and_login(running):
    _, settings, output = running
    assert airflow.password(settings) in output
    for port in (settings.airflow, settings.mlflow, settings.dashboard):
        assert port.url in output
    api = airflow.api(settings)
    assert {pool["name"] for pool in api.get("/api/v2/pools")["pools"]} == {"default_pool", "captioning", "gpu"}
    health = api.get("/api/v2/monitor/health")
    assert all(health[part]["status"] == "healthy" for part in ("metadatabase", "scheduler", "dag_processor"))
    with urllib.request.urlopen(f"{settings.mlflow.url}/health") as response:
        assert response.status == 200


def test_services_listen_only_on_localhost(running):
    _, settings, _ = running
    own = {process.pid for process in started_under(settings.home)}
    own |= {child.pid for pid in own for child in psutil.Process(pid).children(recursive=True)}
    listening = [c for c in psutil.net_connections("inet") if c.status == psutil.CONN_LISTEN and c.pid in own]
    assert listening
    assert {connection.laddr.ip for connection in listening} == {"127.0.0.1"}


def test_requests_without_login_are_rejected(running):
    _, settings, _ = running
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(f"{settings.airflow.url}/api/v2/dags")
    assert error.value.code == 401


def test_vecap_pages_require_a_login(running):
    _, settings, _ = running
    request = urllib.request.Request(f"{settings.airflow.url}/vecap/versions")
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request)
    assert error.value.code == 401
    request.add_header("Authorization", f"Bearer {airflow.api(settings).token}")
    with urllib.request.urlopen(request) as response:
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert "2026-01-01" in response.read().decode()


def test_up_with_running_services_changes_nothing_and_prints_the_same(running):
    env, settings, output = running
    before = control.status(settings)
    result = services("up", env)
    assert result.returncode == 0
    assert all(line in output for line in result.stdout.splitlines()[-3:])
    after = control.status(settings)
    assert {n: s.process for n, s in before.services.items()} == {n: s.process for n, s in after.services.items()}


def test_a_killed_service_is_restarted(running):
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
