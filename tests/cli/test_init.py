"""`vecap init` with data and names that are easy to get wrong, and the GPU that it and `vecap doctor` find."""

from __future__ import annotations

import logging
import sys
import tarfile
from collections.abc import Mapping
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.cli.test_mistakes import run
from vecap_tasks.cli import doctor
from vecap_tasks.cli.options import LogHandler
from vecap_tasks.config import Config, load_config

LIST = "url,caption\nhttps://images.my-site.net/1.jpg,a red boat\n"
CONTACT = "--contact me@my-site.net"
Output = pytest.CaptureFixture[str]


@pytest.fixture
def folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, as the working directory."""
    monkeypatch.chdir(home)
    return home


def init(options: str, capfd: Output, file: str = "new/vecap.yaml", *, has_warning: bool = False) -> Config:
    """Run `vecap init`, check what it writes, and return it."""
    code, _, errors = run(f"init {options}", capfd)
    assert code == 0, errors
    assert [line for line in errors.splitlines() if not (has_warning and line.startswith("warning: "))] == []
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
    config = init(f"new --from csv --path {name} {CONTACT}", capfd, has_warning=name in ("break.csv", "separator.csv"))
    assert config.root == "versions"
    comments = [
        line for line in (folder / "new" / "vecap.yaml").read_text(encoding="utf-8").splitlines() if "#" in line
    ]
    assert [line for line in comments if line.strip().startswith("# columns: url, ")]


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


TABLE = "pic,beschreibung,sku\n000.jpg,A red garden,S0\n"


def write_photo(folder: Path, files: Mapping[str, str]) -> Path:
    """Write a folder `photos` with one image and *files*."""
    photos = folder / "photos"
    photos.mkdir()
    Image.new("RGB", (64, 48), "red").save(photos / "000.jpg")
    for name, text in files.items():
        (photos / name).write_text(text, encoding="utf-8")
    return photos


def write_source(folder: Path, kind: str) -> str:
    """Write one image with the columns AltText and `sku`; return the options of `vecap init` for it."""
    if kind == "sidecars":
        write_photo(folder, {"000.json": '{"caption": "A red garden", "sku": "S0"}'})
        return "--from folder --path photos"
    photos = write_photo(folder, {"list.csv": "file,caption,sku\n000.jpg,A red garden,S0\n"})
    if kind == "webdataset":
        (photos / "000.json").write_text('{"caption": "A red garden", "sku": "S0"}', encoding="utf-8")
        with tarfile.open(folder / "0.tar", "w") as tar:
            for name in ("000.jpg", "000.json"):
                tar.add(photos / name, name)
        return "--from webdataset --path 0.tar"
    if kind in ("save_to_disk", "parquet"):
        image = {"bytes": (photos / "000.jpg").read_bytes(), "path": "000.jpg"}
        table = pa.table({"image": [image], "text": ["A red garden"], "sku": ["S0"]})
        (folder / "hf").mkdir()
        if kind == "parquet":
            pq.write_table(table, folder / "hf" / "train.parquet")
        else:
            with pa.OSFile(str(folder / "hf" / "0.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as out:
                out.write_table(table)
            (folder / "hf" / "state.json").write_text('{"_data_files": [{"filename": "0.arrow"}]}', encoding="utf-8")
        return "--from hf --path hf"
    if kind == "urls":
        (folder / "list.jsonl").write_text(
            '{"url": "https://a.net/1.jpg", "text": "x", "sku": "S0"}\n', encoding="utf-8"
        )
        return f"--from urls --path list.jsonl {CONTACT}"
    return f"--from {kind} --path photos"


KINDS = ["folder", "csv", "sidecars", "save_to_disk", "parquet", "webdataset", "urls"]


@pytest.mark.parametrize("kind", KINDS)
def test_columns_that_would_be_lost_are_named_and_can_be_kept(folder: Path, capfd: Output, kind: str) -> None:
    options = write_source(folder, kind)
    code, shown, errors = run(f"init new {options}", capfd)
    assert (code, errors) == (0, "")
    (columns,) = [line for line in shown.splitlines() if line.startswith("columns: ")]
    assert "sku" in columns.removeprefix("columns: ").split(", ")
    today = datetime.now(UTC).date().isoformat()
    assert f"wrote new/vecap.yaml; next: vecap run --config new/vecap.yaml --version {today}" in shown.splitlines()
    own = ["__key__"] if kind == "webdataset" else []
    lost = ", ".join([*own, "sku"])
    assert shown.splitlines()[-1] == (
        f"columns that are not kept: {lost}; to keep them, uncomment keep_columns in new/vecap.yaml"
    )
    file = folder / "new" / "vecap.yaml"
    kept = (*own, "sku", *(["file_name"] if kind in ("folder", "csv", "sidecars") else []))
    file.write_text(file.read_text(encoding="utf-8").replace("# keep_columns", "keep_columns"), encoding="utf-8")
    assert load_config(file).crawl.source.kept_columns == kept
    assert run("config check --config new/vecap.yaml", capfd)[0] == 0

    code, shown, errors = run(f"init other {options} --keep {','.join([*own, 'sku'])}", capfd)
    assert (code, errors) == (0, "")
    assert "not kept" not in shown
    assert load_config("other/vecap.yaml").crawl.source.kept_columns == kept


@pytest.mark.parametrize("kind", ["folder", "csv"])
def test_columns_with_own_names_are_options(folder: Path, capfd: Output, kind: str) -> None:
    write_photo(folder, {"list.csv": TABLE})
    code, _, errors = run(f"init new --from {kind} --path photos", capfd)
    assert (code, errors.count("\n")) == (1, 1)
    assert "(columns: pic, beschreibung, sku); set --image-column" in errors
    code, _, errors = run(f"init new --from {kind} --path photos --image-column pic", capfd)
    assert code == 0
    assert errors.startswith("warning: ")
    assert errors.endswith("no caption column among pic, beschreibung, sku; set --caption-column\n")
    assert errors.count("\n") == 1
    options = f"--from {kind} --path photos --image-column pic --caption-column beschreibung --keep sku"
    source = init(f"more {options}", capfd, "more/vecap.yaml").crawl.source.model_dump()
    image = source["image_column"] if kind == "folder" else source["url_column"]
    assert (image, source["caption_column"], source["keep_columns"][0]) == ("pic", "beschreibung", "sku")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--from folder --path fotos --demo-models", "--path: fotos does not exist (did you mean photos?); name the"),
        (
            "--from folder --path photos/list.csv",
            "--path: photos/list.csv is not a folder; for a table, use --from csv",
        ),
        ("--from csv --path lst.csv", "--path"),
        (
            "--from folder --path photos --vlm models/x --llm models/x",
            "--vlm: model models/x: folder models/x does not",
        ),
        (
            "--from folder --path photos --vlm MODEL --llm MODEL",
            "--vlm: MODEL does not exist; give the folder of a model",
        ),
        ("--from folder --path photos --vlm photos --llm photos", "--vlm: model "),
        (
            "--from folder --path photos --image-column picture",
            "'picture' (columns: file, caption, sku); set --image-c",
        ),
        ("--from folder --path photos --keep skuu", "'skuu' (columns: file, caption, sku); set --keep"),
        ("--from folder --path photos --captions no.csv", "no.csv does not exist; correct --captions"),
        ("--from hf --path photos --split test", "--path"),
        ("--from warc --path photos --keep sku", "--keep cannot be used with --from warc"),
        ("--from folder --path photos --split test", "--split cannot be used with --from folder"),
    ],
)
def test_an_error_names_options_not_settings(folder: Path, capfd: Output, options: str, says: str) -> None:
    write_photo(folder, {"list.csv": "file,caption,sku\n000.jpg,A red garden,S0\n"})
    code, _, errors = run(f"init new {options}", capfd)
    assert (code, errors.count("\n")) == (1, 2 if "--vlm MODEL" in options else 1), errors
    assert says in errors
    assert not [word for word in ("vecap.yaml", "crawl.source", "rewrite.", "/new/") if word in errors], errors
    assert not (folder / "new").exists()


def test_fields_that_only_later_files_may_have_are_a_warning(folder: Path, capfd: Output) -> None:
    options = write_source(folder, "sidecars")
    code, _, errors = run(f"init new {options} --keep skuu", capfd)
    assert (code, errors.count("\n")) == (0, 1)
    assert errors.startswith("warning: --keep: the first rows have no skuu (columns: caption, sku)")
    assert "did you mean sku?" in errors


@pytest.mark.parametrize(
    ("setting", "line"), [("keep_columns: [skuu]", 6), ("caption_column: text", 6), ("image_column: image", 6)]
)
@pytest.mark.parametrize("kind", ["folder", "hf"])
def test_a_column_that_does_not_exist_is_reported_at_its_setting(
    folder: Path, capfd: Output, setting: str, line: int, kind: str
) -> None:
    photos = write_photo(folder, {"metadata.csv": "file_name,caption,sku\n000.jpg,A red garden,S0\n"})
    name = setting.partition(":")[0]
    (folder / "own.yaml").write_text(
        f"dataset: own\nroot: store\ncrawl:\n  source:\n    kind: {kind}\n    {setting}\n    path: {photos}\n",
        encoding="utf-8",
    )
    code, _, errors = run("config check --config own.yaml", capfd)
    assert (code, errors.count("\n")) == (1, 1)
    assert errors.startswith(f"vecap: own.yaml:{line}: crawl.source.{name}: ")


def test_a_warning_about_a_source_is_written_once(capfd: Output) -> None:
    handler, logger = LogHandler(), logging.getLogger("vecap_tasks.crawl.sources.list_file")
    logger.addHandler(handler)
    try:
        for number in (1, 1, 2):
            logger.warning("list.csv: no caption column among %d", number)
    finally:
        logger.removeHandler(handler)
    assert capfd.readouterr().err.splitlines() == [
        "warning: list.csv: no caption column among 1",
        "warning: list.csv: no caption column among 2",
    ]
