"""Natural mistakes of the first hour: each is one line that says what is wrong, where, and what to do."""

from __future__ import annotations

import json
import shlex
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import REPOSITORY
from vecap_tasks.cli.__main__ import main

DATA = REPOSITORY / "tests" / "data" / "mistakes"
GROUPS = yaml.safe_load((DATA / "mistakes.yaml").read_text(encoding="utf-8"))
RUNS = [
    pytest.param(mistake, command, id=f"{group}-{mistake['what']}-{command.split(' --')[0]}")
    for group, mistakes in GROUPS.items()
    for mistake in mistakes
    for command in mistake["run"]
]
LIST = "url,caption\nhttps://images.my-site.net/1.jpg,a red boat\nhttps://images.my-site.net/2.jpg,a blue boat\n"


def test_there_are_ten_mistakes_of_each_group() -> None:
    assert {group: len(mistakes) for group, mistakes in GROUPS.items()} == dict.fromkeys(
        ("config", "data", "cli", "services"), 10
    )


class ModelServer(BaseHTTPRequestHandler):
    """Serves the list of models, at /v1 only."""

    def do_GET(self) -> None:
        body = json.dumps({"data": [{"id": "llava-1.5"}]}).encode()
        self.send_response(200 if self.path == "/v1/models" else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def services(s3_server: str) -> Iterator[dict[str, str]]:
    """The placeholders of mistakes.yaml."""
    with socket.socket() as closed, socket.socket() as taken, HTTPServer(("127.0.0.1", 0), ModelServer) as server:
        for one in (closed, taken):
            one.bind(("127.0.0.1", 0))
        taken.listen()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {
            "{closed}": str(closed.getsockname()[1]),
            "{taken}": str(taken.getsockname()[1]),
            "{model}": f"http://127.0.0.1:{server.server_port}",
            "{s3}": s3_server,
        }
        server.shutdown()


@pytest.fixture
def folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files of config.yaml, as the working directory."""
    monkeypatch.chdir(home)
    (home / "config.yaml").write_text((DATA / "config.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    (home / "list.csv").write_text(LIST, encoding="utf-8")
    (home / "models").symlink_to(REPOSITORY / "vecap_tasks" / "demo" / "models")
    sets = {"captions.csv": "image,caption\n1.jpg,a boat\n", "labels.csv": "image,label\n1.jpg,boat\n"}
    (home / "evaluation").mkdir()
    for name, text in {**sets, "classes.txt": "boat\n", "templates.txt": "a {}\n", "1.jpg": ""}.items():
        (home / "evaluation" / name).write_text(text, encoding="utf-8")
    (home / "web" / "sites").mkdir(parents=True)
    return home


def run(command: str, capfd: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Run `vecap` with *command* in this process; return the exit code and what it prints."""
    try:
        code = main(shlex.split(command))
    except SystemExit as end:
        code = int(end.code or 0)
    return code, *capfd.readouterr()


def test_the_configuration_without_a_mistake_is_valid(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("config check --config config.yaml", capfd) == (0, "OK: config.yaml\n", "")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("kind: folder, pth: photos", ["unknown setting crawl.source.pth; did you mean crawl.source.path?"]),
        ("kind: urls, paths: [list.csv], url_column: 1.5", ["crawl.source.url_column: ", "not 1.5"]),
        ("kind: urls, paths: [list.csv], url_column: [a]", ["crawl.source.url_column: "]),
        ("kind: urls, paths: [list.csv], quotes: maybe", ["crawl.source.quotes: ", "not 'maybe'"]),
    ],
)
def test_a_setting_has_the_name_that_it_has_in_the_file(
    folder: Path, capfd: pytest.CaptureFixture[str], source: str, says: list[str]
) -> None:
    config = folder / "config.yaml"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace("kind: urls, paths: [list.csv]", source), encoding="utf-8")
    code, _, errors = run("config check --config config.yaml", capfd)
    assert (code, errors.count("\n")) == (1, 1), errors
    assert [part for part in says if part not in errors] == [], errors


@pytest.mark.parametrize(("mistake", "command"), RUNS)
def test_a_mistake_is_one_helpful_line(
    folder: Path,
    services: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    mistake: dict[str, Any],
    command: str,
) -> None:
    def fill(text: str) -> str:
        for name, value in services.items():
            text = text.replace(name, value)
        return text

    config = folder / "config.yaml"
    text = config.read_text(encoding="utf-8")
    for old, new in mistake.get("edit", {}).items():
        assert old in text
        text = text.replace(old, fill(new))
    config.write_text(text, encoding="utf-8")
    for name, content in mistake.get("files", {}).items():
        (folder / name).write_text(content, encoding="utf-8")
    for name, value in mistake.get("env", {}).items():
        monkeypatch.setenv(name, fill(value))

    code, _, errors = run(fill(command), capfd)

    assert code in (1, 2)
    assert errors.startswith("vecap: ")
    assert errors.count("\n") == 1, errors
    assert [part for part in map(fill, mistake["says"]) if part not in errors] == [], errors
    assert not list(folder.rglob("version.json"))
