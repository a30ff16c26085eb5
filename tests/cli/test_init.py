"""`vecap init` with data and names that are easy to get wrong, and the GPU that it and `vecap doctor` find."""

from __future__ import annotations

import sys
from io import StringIO
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.test_mistakes import run
from vecap_tasks.cli import doctor
from vecap_tasks.config import Config, load_config

LIST = "url,caption\nhttps://images.my-site.net/1.jpg,a red boat\n"
CONTACT = "--contact me@my-site.net"
Output = pytest.CaptureFixture[str]


@pytest.fixture
def folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, as the working directory."""
    monkeypatch.chdir(home)
    return home


def init(options: str, capfd: Output, file: str = "new/vecap.yaml") -> Config:
    """Run `vecap init`, check what it writes, and return it."""
    code, _, errors = run(f"init {options}", capfd)
    assert (code, errors) == (0, "")
    assert run(f"config check --config {file}", capfd) == (0, f"OK: {file}\n", "")
    return load_config(file)


@pytest.mark.parametrize("name", ["2024", "yes", "null", "1e3"])
def test_every_name_of_a_folder_is_the_name_of_a_dataset(folder: Path, capfd: Output, name: str) -> None:
    (folder / "list.csv").write_text(LIST, encoding="utf-8")
    config = init(f"{name} --from urls --path list.csv {CONTACT}", capfd, f"{name}/vecap.yaml")
    assert config.dataset == name
    assert config.crawl.fetch.user_agent == f"vecap-{name}/1.0 (me@my-site.net)"


@pytest.mark.parametrize("path", ["photos/captions.csv", "photos"])
def test_a_table_of_file_names_is_a_folder_with_captions(folder: Path, capfd: Output, path: str) -> None:
    (folder / "photos").mkdir()
    Image.new("RGB", (64, 48), "red").save(folder / "photos" / "000.jpg")
    (folder / "photos" / "captions.csv").write_text("file,description,sku\n000.jpg,A red garden,S0\n", encoding="utf-8")
    source = init(f"new --from csv --path {path}", capfd).crawl.source.model_dump(exclude_unset=True)
    assert source == {"kind": "folder", "path": str(folder / "photos"), "captions": "captions.csv"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("bom.jsonl", '\ufeff{"url": "https://a.net/1.jpg", "caption": "x"}\n'),
        ("blank.jsonl", '\n{"url": "https://a.net/1.jpg", "caption": "x"}\n'),
        ("bad.jsonl", '{"url": \n{"url": "https://a.net/1.jpg", "caption": "x"}\n'),
        ("break.csv", 'url,"caption\nroot: /elsewhere"\nhttps://a.net/1.jpg,x\n'),
        ("separator.csv", "url,caption\u2028root: /elsewhere\u0085\nhttps://a.net/1.jpg,x\n"),
    ],
)
def test_the_first_line_of_a_table_cannot_break_the_configuration(
    folder: Path, capfd: Output, name: str, text: str
) -> None:
    (folder / name).write_text(text, encoding="utf-8")
    config = init(f"new --from csv --path {name} {CONTACT}", capfd)
    assert config.root == "versions"
    assert 'keep_columns: ["url", "caption' in (folder / "new" / "vecap.yaml").read_text(encoding="utf-8")


def test_a_damaged_header_is_one_line(folder: Path, capfd: Output) -> None:
    (folder / "list.csv").write_text('url,"caption\n', encoding="utf-8")
    code, _, errors = run(f"init new --from csv --path list.csv {CONTACT}", capfd)
    assert (code, errors.count("\n")) == (1, 1)
    assert "list.csv is corrupt or truncated" in errors


def test_the_store_is_not_where_a_pattern_searches(folder: Path, capfd: Output) -> None:
    (folder / "data" / "lists").mkdir(parents=True)
    (folder / "data" / "lists" / "1.csv").write_text(LIST, encoding="utf-8")
    config = init(f"data --from csv {CONTACT}", capfd, "data/vecap.yaml")
    assert config.crawl.source.model_dump()["paths"] == ["./**/*.csv"]
    assert config.resolve(config.root) == str(folder / "data-versions")
    assert init(f"new --from csv --path data {CONTACT}", capfd).root == "versions"


def test_the_end_of_the_input_is_an_empty_answer(folder: Path, capfd: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "list.csv").write_text(LIST, encoding="utf-8")
    terminal = StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    assert init(f"new --from csv --path list.csv {CONTACT}", capfd).rewrite is None


def test_a_driver_without_a_usable_gpu(folder: Path, capfd: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "list.csv").write_text(LIST, encoding="utf-8")
    (folder / "nvidia-smi").write_text("#!/bin/sh\nexec sleep 30\n", encoding="utf-8")
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    models = Path(doctor.__file__).parents[1] / "demo" / "models"
    config = init(f"new --from csv --path list.csv {CONTACT} --vlm {models}/vlm --llm {models}/llm", capfd)
    assert config.captioning.vlm.device == "cpu"
    monkeypatch.setattr(doctor, "_TIMEOUT", 0.1)
    _, shown, _ = run("doctor", capfd)
    assert "warning  GPU            " in shown
    assert "nvidia-smi does not answer" in shown
