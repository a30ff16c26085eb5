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
from vecap_tasks.config import Config

TOKEN = "hf_c4naryZq8secret"
Vecap = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(params=[False, True], ids=["lfs", "regular"])
def hub(request: pytest.FixtureRequest) -> Iterator[Hub]:
    with run_hub(TOKEN, regular=request.param) as server:
        yield server


@pytest.fixture
def vecap(config: Config, tmp_path: Path) -> Vecap:
    """A function that runs `vecap export` in a process of its own, against the hub, with a token or without."""

    def run(
        hub: Hub,
        out: str,
        push: str | None = None,
        token: str | None = TOKEN,
        form: str = "parquet",
        text: str = "vecap",
    ) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HOME": str(tmp_path)}
        environment |= {"HF_TOKEN": token} if token else {}
        # Xet is a storage protocol of its own; without it, the library uploads as with Git LFS.
        environment |= {} if hub.regular else {"HF_HUB_DISABLE_XET": "1"}
        command = ["export", "--config", str(config.base / "config.yaml"), "--version", "2026-01-01"]
        command += ["--format", form, "--text", text, "--out", str(tmp_path / out)]
        command += ["--push-to-hub", push] if push else []
        done = subprocess.run(
            [sys.executable, "-m", "vecap_tasks.cli.__main__", *command],
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert TOKEN not in done.stdout + done.stderr
        return done

    return run


def test_an_export_is_pushed_once_and_the_next_version_replaces_it(vecap: Vecap, hub: Hub, tmp_path: Path) -> None:
    done = vecap(hub, "out", "me/photos")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == f"exported {SAMPLES} of 42 accepted rows; left out 1: 1 no_caption"
    assert done.stdout.splitlines()[-1] == f"pushed to {hub.url}/datasets/me/photos"
    attributes = {".gitattributes": hub.repositories["me/photos"][".gitattributes"]}
    assert hub.repositories["me/photos"] == contents(tmp_path / "out") | attributes
    assert hub.private == {"me/photos": True}
    assert hub.commits == ["Export of given 2026-01-01"] * 2
    again = vecap(hub, "out", "me/photos")
    assert (again.returncode, len(hub.commits)) == (0, 2), again.stderr
    assert "already complete" in again.stdout
    replaced = vecap(hub, "tars", "me/photos", form="webdataset")
    assert replaced.returncode == 0, replaced.stderr
    assert hub.repositories["me/photos"] == contents(tmp_path / "tars") | attributes


def test_the_library_datasets_loads_a_pushed_export(vecap: Vecap, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    program = """if True:
        import datasets
        data = datasets.load_dataset("me/photos", split="train")
        print(len(data), data[0]["image"].size, data[0]["text"] == data[0]["vecap"])"""
    with run_hub(TOKEN, regular=True) as hub:
        assert vecap(hub, "out", "me/photos").returncode == 0
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "reader"), "HF_TOKEN": TOKEN}
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.stdout == f"{SAMPLES} (64, 48) True\n", done.stderr


def test_without_the_option_no_hub_is_contacted(vecap: Vecap, hub: Hub) -> None:
    assert vecap(hub, "out").returncode == 0
    assert hub.requests == []


def test_an_interrupted_push_continues(vecap: Vecap) -> None:
    with run_hub(TOKEN) as hub:
        hub.fail_puts = 1
        done = vecap(hub, "out", "me/photos")
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()[-1:]
        assert line.startswith(f"vecap: cannot push to {hub.url}/datasets/me/photos: ")
        assert "403" in line
        assert "README.md" not in hub.repositories["me/photos"]
        uploaded = len(hub.objects)
        hub.requests.clear()
        assert vecap(hub, "out", "me/photos").returncode == 0
        assert sum(request.startswith("PUT ") for request in hub.requests) == 6 - uploaded
        assert "README.md" in hub.repositories["me/photos"]


@pytest.mark.parametrize(
    ("push", "token", "form", "says"),
    [
        ("me/photos", None, "parquet", "--push-to-hub needs a token: set HF_TOKEN to one with write access"),
        ("photos", TOKEN, "parquet", "--push-to-hub: photos is not a repository; write OWNER/NAME"),
        ("a/b/c", TOKEN, "parquet", "--push-to-hub: a/b/c is not a repository; write OWNER/NAME"),
        ("me/photos", TOKEN, "hf", "--push-to-hub: the Hub does not show the format hf"),
    ],
)
def test_a_mistake_is_reported_before_the_export(
    vecap: Vecap, hub: Hub, tmp_path: Path, push: str, token: str | None, form: str, says: str
) -> None:
    done = vecap(hub, "out", push, token, form)
    (line,) = done.stderr.splitlines()
    assert (done.returncode, says in line) == (1, True), line
    assert not (tmp_path / "out").exists()
    assert hub.requests == []


def test_a_refused_token_is_one_line(vecap: Vecap, hub: Hub) -> None:
    done = vecap(hub, "out", "me/photos", "hf_another1secret")
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("vecap: ")]
    assert "Invalid user token" in line
    assert "check HF_TOKEN" in line
    assert "hf_another1secret" not in done.stdout + done.stderr
    assert hub.repositories == {}


def test_a_repository_with_other_files_is_not_changed(vecap: Vecap, hub: Hub) -> None:
    hub.repositories["me/photos"] = {".gitattributes": b"", "train.csv": b"mine"}
    done = vecap(hub, "out", "me/photos")
    assert done.returncode == 1
    assert "has other files, such as train.csv; push to another repository" in done.stderr
    assert hub.repositories["me/photos"] == {".gitattributes": b"", "train.csv": b"mine"}


def test_the_counts_are_printed_as_json(vecap: Vecap, config: Config, capfd: pytest.CaptureFixture[str]) -> None:
    from vecap_tasks.cli.__main__ import main

    command = ["export", "--config", str(config.base / "config.yaml"), "--version", "2026-01-01", "--json"]
    assert main([*command, "--format", "hf", "--text", "vec", "--out", str(config.base / "out")]) == 0
    shown = json.loads(capfd.readouterr().out)
    assert shown["exported"] + sum(shown["left_out"].values()) == shown["rows"]
    assert (shown["format"], shown["text"], shown["hub"]) == ("hf", "vec", None)
