"""The services of one machine, for real: they start, are restarted, are ended, and nothing of others is touched."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import psutil
import pytest

from tests.installation import environment, services, started_under
from vecap_tasks.errors import ConfigError
from vecap_tasks.services import airflow, control
from vecap_tasks.services.orphans import Process, end_sessions, session
from vecap_tasks.services.settings import Settings
from vecap_tasks.services.state import Phase

# Without starting anything that lasts


def test_a_taken_port_is_named_with_its_purpose_and_variable(tmp_path):
    env = environment(tmp_path)
    with socket.socket() as other:
        other.bind(("127.0.0.1", int(env["VECAP_MLFLOW_PORT"])))
        other.listen()
        done = services("up", env)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert env["VECAP_MLFLOW_PORT"] in line
    assert "MLflow" in line
    assert "VECAP_MLFLOW_PORT" in line
    assert started_under(tmp_path) == []


@pytest.mark.parametrize("value", ["http", "0", "65536", "-1", "80.5"])
def test_a_port_that_is_none_is_refused(value):
    with pytest.raises(ConfigError, match="VECAP_DASK_PORT"):
        Settings.from_environment({"VECAP_DASK_PORT": value})


def test_down_and_status_without_services(tmp_path):
    env = environment(tmp_path)
    assert services("down", env).stdout == "no services are running\n"
    done = services("status", env)
    assert (done.returncode, done.stdout) == (1, "no services are running\n")


def test_secrets_are_private_and_kept(tmp_path):
    settings = Settings.from_environment(environment(tmp_path))
    airflow.write_settings(settings)
    files = [settings.airflow_home / name for name in ("airflow.cfg", "keys.json", "passwords.json")]
    assert [file.stat().st_mode & 0o777 for file in files] == [0o600] * 3
    first = [file.read_bytes() for file in files]
    airflow.write_settings(settings)
    assert [file.read_bytes() for file in files] == first
    assert len(airflow.password(settings)) >= 16


def test_two_installations_have_keys_of_their_own(tmp_path):
    read = []
    for name in ("a", "b"):
        settings = Settings.from_environment(environment(tmp_path / name))
        airflow.write_settings(settings)
        read.append(json.loads((settings.airflow_home / "keys.json").read_text()))
    assert all(read[0][key] != read[1][key] for key in read[0])


def test_a_reused_process_number_is_not_ended():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    try:
        real = Process.of(child.pid)
        recorded = Process(child.pid, real.started - 3600)  # the number belonged to another process, an hour ago
        assert not recorded.alive()
        assert session(recorded) == []
        end_sessions([recorded], signal.SIGTERM, 0)
        assert child.poll() is None
    finally:
        child.kill()
        child.wait()


def test_a_session_is_ended_whole_though_its_leader_is_gone():
    code = "import subprocess, sys; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); p.wait()"
    with subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE) as leader:
        grandchild = int(leader.stdout.readline())
        recorded = Process.of(leader.pid)
        leader.kill()
        leader.wait()
        assert session(recorded) == [grandchild]
        end_sessions([recorded], signal.SIGTERM, 1)
    assert not psutil.pid_exists(grandchild) or psutil.Process(grandchild).status() == psutil.STATUS_ZOMBIE


# The real thing, which the end-to-end tests of Airflow share


@pytest.fixture(scope="module")
def running(installation):
    place, said = installation
    return place.env, place.settings, said


@pytest.mark.slow
@pytest.mark.services
@pytest.mark.timeout(1800)
class TestRunning:
    def test_up_prints_addresses_and_login_that_work(self, running):
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

    def test_only_localhost_is_listened_on(self, running):
        _, settings, _ = running
        own = {process.pid for process in started_under(settings.home)}
        own |= {child.pid for pid in own for child in psutil.Process(pid).children(recursive=True)}
        listening = [c for c in psutil.net_connections("inet") if c.status == psutil.CONN_LISTEN and c.pid in own]
        assert listening
        assert {connection.laddr.ip for connection in listening} == {"127.0.0.1"}

    def test_strangers_are_not_let_in(self, running):
        _, settings, _ = running
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{settings.airflow.url}/api/v2/dags")
        assert refused.value.code == 401

    def test_our_pages_are_there_for_who_logged_in(self, running):
        _, settings, _ = running
        request = urllib.request.Request(f"{settings.airflow.url}/vecap/versions")
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request)
        assert refused.value.code == 401
        request.add_header("Authorization", f"Bearer {airflow.api(settings).token}")
        with urllib.request.urlopen(request) as answer:
            assert "default-src 'none'" in answer.headers["content-security-policy"]
            assert "2026-01-01" in answer.read().decode()

    def test_up_again_changes_nothing_and_says_the_same(self, running):
        env, settings, said = running
        before = control.status(settings)
        again = services("up", env)
        assert again.returncode == 0
        assert all(line in said for line in again.stdout.splitlines()[-3:])
        after = control.status(settings)
        assert {n: s.process for n, s in before.services.items()} == {n: s.process for n, s in after.services.items()}

    def test_a_service_that_dies_comes_back(self, running):
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
