"""`vecap export` from the command line, and `--push-to-hub` with a stand-in for the Hugging Face Hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.export.conftest import SAMPLES
from tests.export.hub_server import Hub, run_hub
from tests.export.test_interruptions import contents
from tests.installation import REPOSITORY
from vecap_tasks import redaction
from vecap_tasks.cli.__main__ import main
from vecap_tasks.config import Config

TOKEN = "hf_c4naryZq8secret"
Vecap = Callable[..., tuple[int, str, str]]


@pytest.fixture(params=[False, True], ids=["lfs", "regular"])
def hub(request: pytest.FixtureRequest) -> Iterator[Hub]:
    with run_hub(TOKEN, regular=request.param) as server:
        yield server


@pytest.fixture
def vecap(shared: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Vecap:
    """A function that runs `vecap export` against a hub and returns the exit code and what it printed."""
    for name in ("_values", "_labels"):
        monkeypatch.setattr(redaction, name, {})
    monkeypatch.setattr(redaction, "_pattern", None)

    def run(hub: Hub, *options: str, out: str = "out", token: str = TOKEN) -> tuple[int, str, str]:
        monkeypatch.setenv("HF_TOKEN", token)
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        # Xet is a storage protocol of its own; without it, the library uploads as with Git LFS.
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", not hub.regular)
        config = str(shared.base / "config.yaml")
        command = ["export", "--config", config, "--version", "2026-01-01", "--out", str(tmp_path / out)]
        code = main([*command, *(() if "--format" in options else ("--format", "parquet")), *options])
        shown, errors = capfd.readouterr()
        assert TOKEN not in shown + errors
        return code, shown, errors

    return run


def test_an_export_is_pushed_once_and_the_next_one_replaces_it(vecap: Vecap, hub: Hub, tmp_path: Path) -> None:
    code, shown, errors = vecap(hub, "--push-to-hub", "me/photos")
    assert code == 0, errors
    assert shown.splitlines()[0] == f"exported {SAMPLES} of 42 accepted rows; left out 1: 1 no_caption"
    assert shown.splitlines()[-1] == f"pushed to {hub.url}/datasets/me/photos"
    attributes = {".gitattributes": hub.repositories["me/photos"][".gitattributes"]}
    assert hub.repositories["me/photos"] == contents(tmp_path / "out") | attributes
    assert hub.private == {"me/photos": True}
    assert hub.commits == ["Export of given 2026-01-01"] * 2
    code, shown, errors = vecap(hub, "--push-to-hub", "me/photos")
    assert (code, len(hub.commits)) == (0, 2), errors
    assert "already complete" in shown
    code, _, errors = vecap(hub, "--push-to-hub", "me/photos", "--format", "webdataset", out="tars")
    assert code == 0, errors
    assert hub.repositories["me/photos"] == contents(tmp_path / "tars") | attributes


@pytest.mark.slow
def test_the_library_datasets_loads_a_pushed_export(vecap: Vecap, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    program = """if True:
        import datasets
        data = datasets.load_dataset("me/photos", split="train")
        print(len(data), data[0]["image"].size, data[0]["text"] == data[0]["vecap"])"""
    with run_hub(TOKEN, regular=True) as hub:
        assert vecap(hub, "--push-to-hub", "me/photos")[0] == 0
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "reader"), "HF_TOKEN": TOKEN}
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.stdout == f"{SAMPLES} (64, 48) True\n", done.stderr


@pytest.mark.slow
def test_without_the_option_no_hub_is_contacted(shared: Config, tmp_path: Path) -> None:
    with run_hub(TOKEN) as hub:
        environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "hf")}
        command = ["export", "--config", str(shared.base / "config.yaml"), "--version", "2026-01-01"]
        command += ["--format", "hf", "--out", str(tmp_path / "out")]
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "vecap_tasks.cli.__main__", *command],
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert hub.requests == []
    assert "vecap_tasks.export.exporter" in done.stderr
    assert "huggingface_hub" not in done.stderr


def test_an_interrupted_push_continues(vecap: Vecap) -> None:
    with run_hub(TOKEN) as hub:
        hub.fail_puts = 1
        code, _, errors = vecap(hub, "--push-to-hub", "me/photos")
        assert code == 1
        (line,) = [line for line in errors.splitlines() if line.startswith("vecap: ")]
        assert line.startswith(f"vecap: cannot push to {hub.url}/datasets/me/photos: HTTP 403: storage quota exceeded;")
        assert "README.md" not in hub.repositories["me/photos"]
        uploaded = len(hub.objects)
        hub.requests.clear()
        assert vecap(hub, "--push-to-hub", "me/photos")[0] == 0
        assert sum(request.startswith("PUT ") for request in hub.requests) == 6 - uploaded
        assert "README.md" in hub.repositories["me/photos"]


@pytest.mark.parametrize(
    ("options", "token", "says"),
    [
        (["--push-to-hub", "me/photos"], "", "--push-to-hub needs a token: set HF_TOKEN to one with write access"),
        (["--push-to-hub", "photos"], TOKEN, "--push-to-hub: photos is not a repository; write OWNER/NAME"),
        (["--push-to-hub", "a/b/c"], TOKEN, "--push-to-hub: a/b/c is not a repository; write OWNER/NAME"),
        (["--push-to-hub", "me/photos", "--format", "hf"], TOKEN, "--push-to-hub: the Hub does not show the format hf"),
        (
            ["--push-to-hub", "me/photos", "--out", "s3://b/c"],
            TOKEN,
            "--push-to-hub needs a local folder, not s3://b/c",
        ),
    ],
)
def test_a_mistake_is_reported_before_the_export(
    vecap: Vecap, hub: Hub, tmp_path: Path, options: list[str], token: str, says: str
) -> None:
    code, _, errors = vecap(hub, *options, token=token)
    (line,) = errors.splitlines()
    assert (code, says in line) == (1, True), line
    assert not (tmp_path / "out").exists()
    assert hub.requests == []


def test_a_refused_token_is_one_line(vecap: Vecap, hub: Hub) -> None:
    code, shown, errors = vecap(hub, "--push-to-hub", "me/photos", token="hf_another1secret")
    (line,) = [line for line in errors.splitlines() if line.startswith("vecap: ")]
    assert (code, "HTTP 401: Invalid user token.; check HF_TOKEN" in line) == (1, True), line
    assert "hf_another1secret" not in shown + errors
    assert hub.repositories == {}


def test_a_hub_that_does_not_answer_is_one_line(vecap: Vecap, monkeypatch: pytest.MonkeyPatch) -> None:
    with run_hub(TOKEN) as hub:
        pass
    code, _, errors = vecap(hub, "--push-to-hub", "me/photos")
    (line,) = [line for line in errors.splitlines() if line.startswith("vecap: ")]
    assert (code, "Connection refused; check HF_TOKEN" in line) == (1, True), line


def test_a_repository_with_other_files_is_not_changed(vecap: Vecap, hub: Hub) -> None:
    hub.repositories["me/photos"] = {".gitattributes": b"", "train.csv": b"mine"}
    code, _, errors = vecap(hub, "--push-to-hub", "me/photos")
    assert code == 1
    assert "has other files, such as train.csv; push to another repository" in errors
    assert hub.repositories["me/photos"] == {".gitattributes": b"", "train.csv": b"mine"}


def test_the_counts_are_printed_as_json(vecap: Vecap, hub: Hub) -> None:
    code, printed, _ = vecap(hub, "--format", "hf", "--text", "vec", "--json")
    shown = json.loads(printed)
    assert code == 0
    assert shown["exported"] + sum(shown["left_out"].values()) == shown["rows"]
    assert (shown["format"], shown["text"], shown["hub"]) == ("hf", "vec", None)
