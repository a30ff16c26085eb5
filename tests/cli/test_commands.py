"""`vecap config`, `doctor`, `init` and `completion` through the real command line."""

from __future__ import annotations

import json
import random
import subprocess
import tarfile
from pathlib import Path

import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from tests.cli.test_mistakes import folder, run
from tests.conftest import DEMO
from tests.installation import free_ports
from vecap_tasks.config import load_config

__all__ = ["folder"]
Output = pytest.CaptureFixture[str]


def test_all_problems_are_reported_at_once_with_their_lines(folder: Path, capfd: Output) -> None:
    config = folder / "config.yaml"
    text = config.read_text(encoding="utf-8")
    for old, new in {"shard_size": "shrad_size", "epochs: 2": "epochs: two", "rewrite:": "rewite:"}.items():
        text = text.replace(old, new)
    config.write_text(text.replace("list.csv", "lst.csv").replace("dataset: evaluation", "dataset: evil"))
    code, _, errors = run("config check --config config.yaml", capfd)
    assert code == 1
    lines = errors.splitlines()
    assert [line.split(" ")[1].rstrip(":") for line in lines] == [f"config.yaml:{n}" for n in (8, 20, 10, 5, 23)]
    assert "did you mean rewrite?" in errors
    assert "Field required" not in errors
    code, shown, _ = run("config check --json --config config.yaml", capfd)
    assert code == 1
    assert json.loads(shown)["problems"] == [line.removeprefix("vecap: ") for line in lines]


def test_a_problem_of_an_override_has_no_line_of_the_file(folder: Path, capfd: Output) -> None:
    _, _, errors = run("config check --config config.yaml --set crawl.shard_size=0 --set train.epoch=1", capfd)
    assert "config.yaml: crawl.shard_size" in errors
    assert "config.yaml: unknown setting train.epoch; did you mean train.epochs?" in errors


def test_the_shown_configuration_is_the_same_configuration(home: Path, capfd: Output) -> None:
    code, shown, _ = run(f"config show --config {DEMO}", capfd)
    assert code == 0
    file = home / "shown.yaml"
    file.write_text(shown, encoding="utf-8")
    assert load_config(file).model_dump() == load_config(DEMO).model_dump()
    assert "max_crawl_delay: 30.0" in shown  # a default


def test_the_schema_accepts_the_demo_and_rejects_misspelled_settings(capfd: Output) -> None:
    _, shown, _ = run("config schema", capfd)
    schema = json.loads(shown)
    values = yaml.safe_load(DEMO.read_text(encoding="utf-8"))
    jsonschema.validate(values, schema)
    with pytest.raises(jsonschema.ValidationError, match="shrad_size"):
        jsonschema.validate(values | {"crawl": values["crawl"] | {"shrad_size": 1}}, schema)


def test_the_doctor_reports_a_line_for_each_check(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: Output) -> None:
    for name, port in zip(("AIRFLOW", "MLFLOW", "DASK", "DASK_DASHBOARD"), free_ports(4), strict=True):
        monkeypatch.setenv(f"VECAP_{name}_PORT", str(port))
    code, shown, _ = run("doctor --json --config config.yaml", capfd)
    results = {result["check"]: result for result in json.loads(shown)}
    checks = ("Python", "packages", "memory", "disk", "GPU", "Airflow", "configuration", "storage", "MLflow", "Dask")
    assert set(checks) <= results.keys()
    assert code == (1 if "failed" in {result["state"] for result in results.values()} else 0)
    assert results["configuration"]["state"] == "ok"
    (port,) = free_ports(1)
    config = folder / "config.yaml"
    config.write_text(config.read_text(encoding="utf-8").replace("sqlite:///mlflow.db", f"http://127.0.0.1:{port}"))
    code, shown, _ = run("doctor --config config.yaml", capfd)
    assert code == 1
    (failed,) = [line for line in shown.splitlines() if line.startswith("failed ")]
    assert f"MLflow         no MLflow server answers at http://127.0.0.1:{port}" in failed


def write_data(folder: Path) -> None:
    """Write three images with AltText for each kind of source."""
    images = folder / "images"
    images.mkdir()
    for number, color in enumerate(("red", "green", "blue")):
        noise = Image.frombytes("L", (8, 6), random.Random(number).randbytes(48))  # an even image is rejected as `flat`
        noise.resize((64 + number, 48)).convert("RGB").save(images / f"{number}.jpg")
        (images / f"{number}.txt").write_text(f"a {color} field", encoding="utf-8")
    with tarfile.open(folder / "00000.tar", "w") as tar:
        for file in sorted(images.iterdir()):
            tar.add(file, file.name)
    rows = [{"bytes": (images / f"{n}.jpg").read_bytes(), "path": None} for n in range(3)]
    (folder / "hf").mkdir()
    table = pa.table({"image": rows, "caption": ["a", "b", "c"]})
    pq.write_table(table, folder / "hf" / "train-00000-of-00001.parquet")
    lines = [f"{n},https://my-site.net/{n}.jpg,field {n}" for n in range(3)]
    (folder / "lists").mkdir()
    for file in (folder / "list.csv", folder / "lists" / "list.csv"):
        file.write_text("\n".join(["id,url,caption", *lines]) + "\n", encoding="utf-8")
    local = "\n".join(["image,caption", *(f"images/{n}.jpg,field {n}" for n in range(3))])
    (folder / "local.csv").write_text(f"{local}\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("folder --path images", ["3 images in 1 part, 3 with AltText", "decoded 3 images: 64x48, 65x48, 66x48"]),
        ("webdataset --path 00000.tar", ["3 images in 1 part, 3 with AltText", "decoded 3 images: 64x48"]),
        ("hf --path hf", ["3 images in 1 part, 3 with AltText", "decoded 3 images: 64x48", "columns: image, caption"]),
        ("csv --path list.csv --contact me@my-site.net", ["3 images in 1 part, 3 with AltText", "id, url, caption"]),
        ("csv --path local.csv", ["3 images in 1 part, 3 with AltText", "decoded 3 images: 64x48"]),
        ("urls --path lists --contact me@my-site.net", ["3 images in 1 part, 3 with AltText"]),
    ],
)
def test_init_writes_a_configuration_that_is_valid(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: Output, options: str, says: list[str]
) -> None:
    monkeypatch.chdir(home)
    write_data(home)
    code, shown, _ = run(f"init new --from {options}", capfd)
    assert code == 0
    assert [text for text in [*says, "crawls and filters only"] if text not in shown] == []
    assert run("config check --connect --config new/vecap.yaml", capfd)[0] == 0
    assert load_config("new/vecap.yaml").rewrite is None
    code, _, errors = run(f"init new --from {options}", capfd)
    assert (code, errors.startswith("vecap: new/vecap.yaml exists")) == (1, True)


def test_init_uses_models_only_as_told(home: Path, monkeypatch: pytest.MonkeyPatch, capfd: Output) -> None:
    monkeypatch.chdir(home)
    write_data(home)
    code, _, errors = run("init --from folder --path images --demo-models", capfd)
    assert code == 0
    assert "know only the drawn scenes" in errors
    assert run("config check --config vecap.yaml", capfd)[:2] == (0, "OK: vecap.yaml\n")
    code, _, errors = run("init --force --from folder --path images --vlm models/llava", capfd)
    assert (code, "add --llm" in errors) == (1, True)
    code, _, errors = run("init --force --from folder --path images --vlm lava --llm lama", capfd)
    assert (code, errors.count("does not exist")) == (1, 2)
    code, _, errors = run("init x --from urls --path list.csv", capfd)
    assert (code, "--contact" in errors) == (1, True)
    assert not (home / "x").exists()


@pytest.mark.exhaustive
def test_a_new_configuration_runs(home: Path, monkeypatch: pytest.MonkeyPatch, capfd: Output) -> None:
    monkeypatch.chdir(home)
    write_data(home)
    assert run("init --from folder --path images", capfd)[0] == 0
    code, shown, _ = run("run --json --config vecap.yaml --version 2026-01-01 --set dask.workers=1", capfd)
    assert code == 0
    counters = {stage["stage"]: stage["counters"] for stage in json.loads(shown)}
    assert counters["crawl"]["success"] == counters["quality"]["rows"] == 3


def test_the_completion_of_bash_knows_commands_options_and_choices(capfd: Output) -> None:
    _, script, _ = run("completion bash", capfd)
    lines = {
        "vecap ru": ["run"],
        "vecap config ''": ["check", "schema", "show"],
        "vecap init --from h": ["hf"],
        "vecap sh": ["show"],
        "vecap show --re": ["--rejected", "--refused"],
        "vecap comp": ["compare", "completion"],
        "vecap compare --": ["--config", "--json"],
        "vecap no": ["note"],
        "vecap versions --a": ["--all"],
    }
    for line, expected in lines.items():
        program = f'COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}}-1)); _vecap; echo "${{COMPREPLY[@]}}"'
        done = subprocess.run(["bash", "-c", f"{script}\n{program}"], capture_output=True, text=True, check=True)
        assert set(expected) <= set(done.stdout.split()), line
