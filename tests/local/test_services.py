"""Local services without starting them: port checks, secrets, and safe termination of processes."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import psutil
import pytest

from tests.installation import environment, services, started_under
from vecap_tasks.errors import ConfigError
from vecap_tasks.local import airflow
from vecap_tasks.local.process_tree import Process, session_pids, terminate_sessions
from vecap_tasks.local.settings import Settings


def test_a_port_in_use_is_reported_with_its_purpose_and_variable(tmp_path):
    env = environment(tmp_path)
    with socket.socket() as other:
        other.bind(("127.0.0.1", int(env["VECAP_MLFLOW_PORT"])))
        other.listen()
        result = services("up", env)
    assert result.returncode == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert env["VECAP_MLFLOW_PORT"] in line
    assert "MLflow" in line
    assert "VECAP_MLFLOW_PORT" in line
    assert started_under(tmp_path) == []


@pytest.mark.parametrize("value", ["http", "0", "65536", "-1", "80.5"])
def test_an_invalid_port_is_rejected(value):
    with pytest.raises(ConfigError, match="VECAP_DASK_PORT"):
        Settings.from_environment({"VECAP_DASK_PORT": value})


def test_down_and_status_without_services(tmp_path):
    env = environment(tmp_path)
    assert services("down", env).stdout == "No services are running\n"
    result = services("status", env)
    assert (result.returncode, result.stdout) == (1, "No services are running\n")


def test_secrets_are_private_and_persistent(tmp_path):
    settings = Settings.from_environment(environment(tmp_path))
    airflow.write_settings(settings)
    files = [settings.airflow_home / name for name in ("airflow.cfg", "keys.json", "passwords.json")]
    assert [file.stat().st_mode & 0o777 for file in files] == [0o600] * 3
    first = [file.read_bytes() for file in files]
    airflow.write_settings(settings)
    assert [file.read_bytes() for file in files] == first
    assert len(airflow.password(settings)) >= 16


def test_each_installation_has_its_own_keys(tmp_path):
    keys = []
    for name in ("a", "b"):
        settings = Settings.from_environment(environment(tmp_path / name))
        airflow.write_settings(settings)
        keys.append(json.loads((settings.airflow_home / "keys.json").read_text()))
    assert all(keys[0][key] != keys[1][key] for key in keys[0])


def test_a_process_with_a_reused_id_is_not_terminated():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    try:
        real = Process.of(child.pid)
        recorded = Process(child.pid, real.started - 3600)  # an hour ago, the id belonged to another process
        assert not recorded.alive()
        assert session_pids(recorded) == []
        terminate_sessions([recorded], signal.SIGTERM, 0)
        assert child.poll() is None
    finally:
        child.kill()
        child.wait()


def test_a_session_is_terminated_even_after_its_leader_has_exited():
    code = "import subprocess, sys; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); p.wait()"
    with subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE) as leader:
        grandchild = int(leader.stdout.readline())
        recorded = Process.of(leader.pid)
        leader.kill()
        leader.wait()
        assert session_pids(recorded) == [grandchild]
        terminate_sessions([recorded], signal.SIGTERM, 1)
    assert not psutil.pid_exists(grandchild) or psutil.Process(grandchild).status() == psutil.STATUS_ZOMBIE


def test_a_request_that_a_busy_airflow_answers_with_an_error_is_repeated(monkeypatch):
    monkeypatch.setattr(airflow, "_REPETITION_PAUSE", 0)
    statuses = []

    class Busy(BaseHTTPRequestHandler):
        def do_GET(self):
            status = statuses.pop(0)
            self.send_response(status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Busy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        api = airflow.Api(f"http://127.0.0.1:{server.server_port}", "token")
        statuses += [500, 503, 200]
        assert api.get("/") == {}
        for failing, left in (([404, 200], [200]), ([500] * 5, [500])):
            statuses[:] = failing
            with pytest.raises(airflow.ApiError, match=f"HTTP {failing[0]}"):
                api.get("/")
            assert statuses == left
        server.shutdown()
