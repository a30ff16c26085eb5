"""The demo's driver: what it draws once, how it tells a failure, which samples it shows."""

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
    said = failure_reason(run, tasks, tmp_path)
    assert said == f"vecap_dataset: the task crawl.run[1] failed: no space left (log: {log})"


def test_a_log_that_is_missing_or_cut_off_is_no_obstacle(tmp_path):
    assert last_error(tmp_path / "none.log") == "it has no log"
    cut = task_log(tmp_path / "cut.log", {"level": "error", "event": "killed"})
    cut.write_text(cut.read_text() + '{"level": "err')
    assert last_error(cut) == "killed"


def test_the_web_is_drawn_once_and_again_when_it_was_not_finished(tmp_path, capsys):
    settings = Settings.from_environment({"VECAP_HOME": str(tmp_path)})
    web = Web(images=8, evaluation_images=4)
    make_web(settings, web)
    ledger = tmp_path / "web" / "truth" / "2026-01-01.jsonl"
    first = ledger.read_bytes()
    ledger.write_bytes(b"")  # a second drawing would be seen by this
    make_web(settings, web)
    assert ledger.read_bytes() == b""
    (tmp_path / "web" / "demo.json").unlink()
    make_web(settings, web)
    assert ledger.read_bytes() == first
    make_web(settings, Web(images=9, evaluation_images=4))
    assert len(ledger.read_text().splitlines()) == 9
    assert "is there already" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["many", "0", "-3", "1.5"])
def test_a_number_of_images_that_is_none_is_refused(text, monkeypatch):
    monkeypatch.setenv("VECAP_DEMO_IMAGES", text)
    with pytest.raises(ConfigError, match="VECAP_DEMO_IMAGES"):
        images()


def test_samples_shown_first_took_most_from_both_sides(tmp_path):
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
