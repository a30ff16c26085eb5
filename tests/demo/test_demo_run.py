"""The demo driver: generation of the web, failure messages, sample selection."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vecap_tasks.core.manifest import FileEntry, Manifest
from vecap_tasks.core.schemas import SAMPLES
from vecap_tasks.core.store import Store
from vecap_tasks.errors import ConfigError
from vecap_tasks.local.dag_progress import DagRun, TaskState, failure_reason, last_error
from vecap_tasks.local.demo import Web, images, make_web, read_samples
from vecap_tasks.local.settings import Settings


def task_log(path: Path, *entries: dict[str, object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def test_a_failure_names_the_task_its_last_error_and_the_log(tmp_path):
    run = DagRun("vecap_dataset", "manual__2026-01-01T00:00:00+00:00")
    folder = tmp_path / "dag_id=vecap_dataset" / f"run_id={run.run}" / "task_id=crawl.run" / "map_index=1"
    log = task_log(
        folder / "attempt=4.log",
        {"level": "error", "event": "Task failed", "error_detail": [{"exc_value": "an earlier one"}]},
        {"level": "info", "event": "trying"},
        {"level": "error", "event": "Task failed", "error_detail": [{"exc_value": "no space\nleft"}]},
        {"level": "info", "event": "done"},
    )
    tasks = [
        TaskState("crawl.commit", -1, "upstream_failed", 0),
        TaskState("crawl.run", 0, "success", 1),
        TaskState("crawl.run", 1, "failed", 4),
    ]
    message = failure_reason(run, tasks, tmp_path)
    assert message == f"vecap_dataset: task crawl.run[1] failed: no space left (log: {log})"


def test_the_last_error_is_found_in_a_truncated_log_and_a_missing_log_is_reported(tmp_path):
    assert last_error(tmp_path / "none.log") == "no log found"
    truncated = task_log(tmp_path / "truncated.log", {"level": "error", "event": "killed"})
    truncated.write_text(truncated.read_text() + '{"level": "err')
    assert last_error(truncated) == "killed"


def test_the_web_is_generated_once_and_again_after_an_interruption(tmp_path, capsys):
    settings = Settings.from_environment({"VECAP_HOME": str(tmp_path)})
    web = Web(images=8, evaluation_images=4)
    make_web(settings, web)
    ledger = tmp_path / "web" / "truth" / "2026-01-01.jsonl"
    first = ledger.read_bytes()
    ledger.write_bytes(b"")  # a second generation would overwrite this
    make_web(settings, web)
    assert ledger.read_bytes() == b""
    (tmp_path / "web" / "demo.json").unlink()
    make_web(settings, web)
    assert ledger.read_bytes() == first
    make_web(settings, Web(images=9, evaluation_images=4))
    assert len(ledger.read_text().splitlines()) == 9
    assert "already generated" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["many", "0", "-3", "1.5"])
def test_an_invalid_number_of_images_is_rejected(text, monkeypatch):
    monkeypatch.setenv("VECAP_DEMO_IMAGES", text)
    with pytest.raises(ConfigError, match="VECAP_DEMO_IMAGES"):
        images()


def test_samples_that_use_most_of_both_inputs_come_first(tmp_path):
    store = Store(str(tmp_path / "store"))
    rows = [
        ("a", "", "a red car", "a red car", "vec"),
        ("b", "Belvo coupe", "a red car", "the Belvo coupe is a red car", "llm"),
        ("c", "red car", "a red car", "a red car", "llm"),
        ("d", "Belvo coupe", "", "Belvo coupe", "alttext"),
    ]
    names = ("uid", "alttext", "vec", "vecap", "vecap_from")
    blank = {"key": "000000000", "url": "http://x.example/", "sha256": "0" * 64, "width": 1, "height": 1}
    blank |= {"alttext_rewritten": "", "vec_variants": [], "vecap_variants": []}
    table = pa.Table.from_pylist([blank | dict(zip(names, row, strict=True)) for row in rows], SAMPLES)
    local = tmp_path / "00000.parquet"
    pq.write_table(table, local)
    size = local.stat().st_size
    store.upload("demo/2026-01-01/assemble/00000.parquet", local)
    manifest = Manifest(
        dataset="demo",
        interval="2026-01-01",
        stage="assemble",
        fingerprint="",
        config={},
        inputs=(),
        files=(FileEntry("00000.parquet", size, 4, ""),),
        counters={},
        location="demo/2026-01-01/assemble",
    )
    assert [sample.uid for sample in read_samples(store, manifest)] == ["b", "c", "a", "d"]
