"""The miniature web over HTTP: a server in its own process, queried like a crawler and like a browser."""

import datetime as dt
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from vecap_tasks.demo.serve import serve
from vecap_tasks.demo.web import HOSTS, NO_ROBOTS_FILE_HOST, OPT_OUT_HOST, file_of, generate_day
from vecap_tasks.errors import VecapError


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def web(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("web")
    generate_day(out, dt.date(2026, 1, 1), seed=3, images=60)
    return out


@pytest.fixture(scope="module")
def port(web) -> Iterator[int]:
    number = free_port()
    command = [sys.executable, "-m", "vecap_tasks.demo.serve", "--out", str(web), "--port", str(number)]
    # Restore SIGINT: background shells make their children ignore it.
    restore_sigint = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    server = subprocess.Popen(command, env={**os.environ, "PYTHONUNBUFFERED": "1"}, preexec_fn=restore_sigint)
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", number), timeout=1).close()
            break
        except ConnectionRefusedError:
            assert server.poll() is None
            time.sleep(0.1)
    yield number
    server.send_signal(signal.SIGINT)
    assert server.wait(10) == 0


def get(port: int, host: str, path: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers={"Host": host})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, {key.lower(): value for key, value in response.getheaders()}, body


def test_every_file_is_served_under_its_host(web, port):
    types = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp", "gif": "image/gif", "html": "text/html"}
    files = [path for path in (web / "sites").rglob("*.*") if path.suffix[1:] in types]
    assert len(files) > 50
    for file in files:
        host, _, path = file.relative_to(web / "sites").as_posix().partition("/")
        status, headers, body = get(port, host, "/" + path.replace(" ", "%20").replace("é", "%C3%A9"))
        assert (status, body) == (200, file.read_bytes()), file
        assert headers["content-type"] == types[file.suffix[1:]]


def test_queries_are_ignored_and_missing_files_return_404(web, port):
    page = next((web / "sites" / HOSTS[0]).rglob("*.html"))
    path = "/" + page.relative_to(web / "sites" / HOSTS[0]).as_posix()
    assert get(port, HOSTS[0], path + "?v=3&w=1")[0] == 200
    assert get(port, f"{HOSTS[0]}:80", path)[0] == 200
    assert get(port, HOSTS[0], "/nothing.jpg")[0] == 404
    assert get(port, "unknown.example", "/nothing.jpg")[0] == 404


def test_robots_txt_and_headers(port):
    assert b"Disallow: /members/" in get(port, HOSTS[0], "/robots.txt")[2]
    assert get(port, NO_ROBOTS_FILE_HOST, "/robots.txt")[0] == 404
    assert "noai" in get(port, OPT_OUT_HOST, "/robots.txt")[1]["x-robots-tag"]
    assert get(port, OPT_OUT_HOST, "/_headers")[0] == 404


def test_a_browser_can_list_sites_and_pages(web, port):
    status, _, body = get(port, f"localhost:{port}", "/")
    assert status == 200
    assert f'href="/{HOSTS[0]}/"'.encode() in body
    assert b"page-" in get(port, f"localhost:{port}", f"/{HOSTS[0]}/")[2]
    page = next((web / "sites" / HOSTS[0]).rglob("*.html"))
    path = "/" + page.relative_to(web / "sites").as_posix()
    assert get(port, f"localhost:{port}", path)[2] == page.read_bytes()


@pytest.mark.parametrize(
    "path", ["/../truth/2026-01-01.jsonl", "/%2e%2e/%2e%2e/truth/2026-01-01.jsonl", "/..%2f_headers"]
)
def test_nothing_outside_the_sites_is_served(port, path):
    for host in (HOSTS[0], OPT_OUT_HOST, "localhost", ".."):
        assert get(port, host, path)[0] == 404


def test_a_port_in_use_and_a_missing_web_are_reported_in_one_line(web, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(VecapError, match=r"Port \d+ on 127\.0\.0\.1 is in use; .*another with --port"):
            serve(web, "127.0.0.1", taken.getsockname()[1])
    with pytest.raises(VecapError, match="No miniature web"):
        serve(tmp_path, "127.0.0.1", free_port())


def test_file_of_ignores_the_query(tmp_path):
    url = "http://a.example/img/caf%C3%A9.jpg?v=1"
    assert file_of(tmp_path, url) == tmp_path / "sites/a.example/img/café.jpg"
    assert urlsplit(url).query == "v=1"


def test_requests_to_sites_are_counted_but_not_queries_of_the_counter(port):
    def count() -> int:
        return json.loads(get(port, "localhost", "/_requests")[2])["requests"]

    before = count()
    assert count() == before
    get(port, HOSTS[0], "/robots.txt")
    get(port, HOSTS[0], "/nothing.jpg")
    get(port, "localhost", f"/{HOSTS[0]}/robots.txt")
    assert count() == before + 3
